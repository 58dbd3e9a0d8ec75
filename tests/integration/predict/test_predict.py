"""The predict function: real events in, real models behind, real S3 and DynamoDB calls on moto."""

import asyncio
import base64
import gzip
import json
import math
from typing import Any
from uuid import UUID

import boto3
import numpy as np
import pytest

from functions.predict import handler as predict
from millrace.aws.wire import Wire
from millrace.http import service
from millrace.http.prediction_models import Predictions
from millrace.observability import SERVICE
from millrace.serving.capture import of_line
from millrace.serving.store import LoadedModel
from millrace.spec import Task
from tests.fakes.gateway import Caller, problem
from tests.fakes.onnx_models import stored
from tests.integration.predict.conftest import ROW, Serving


def probability(row: dict[str, Any], bias: float) -> float:
    """What the small model answers, worked out by hand."""
    plan = {"basic": -1.0, "premium": 1.0}.get(row["plan"], 0.0)
    logit = 0.01 * row["age"] + 0.1 * (row["tenure"] or 0) + 0.5 * row["active"] + plan + bias
    return 1 / (1 + math.exp(-logit))


# ── Answers ─────────────────────────────────────────────────────────────────────────────────────


def test_rows_are_answered_by_the_champion(serving: Serving) -> None:
    serving.crown(1)
    rows = [ROW, {**ROW, "plan": None, "tenure": None}, {**ROW, "plan": "premium", "active": False}]

    reply = serving.predict({"rows": rows})

    assert reply.status == 200, reply.body
    answer = Predictions.model_validate(reply.json)
    assert (answer.model, answer.version) == ("churn", 1)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-millrace-model-version"] == "1"
    assert reply.headers["x-millrace-prediction-id"] == answer.prediction_id
    assert str(UUID(answer.prediction_id)) == answer.prediction_id
    for row, given in zip(rows, reply.json["predictions"], strict=True):
        assert given["probabilities"]["1"] == pytest.approx(probability(row, 1.0), abs=1e-6)
        assert given["label"] == int(probability(row, 1.0) > 0.5)


def test_columns_are_answered_like_rows(serving: Serving) -> None:
    serving.crown(1)

    by_row = serving.predict({"rows": [ROW, ROW]}).json
    by_column = serving.predict({"columns": {n: [v, v] for n, v in ROW.items()}}).json

    assert by_row["predictions"] == by_column["predictions"]
    assert by_row["prediction_id"] != by_column["prediction_id"]


def test_a_regression_is_answered_with_values(serving: Serving) -> None:
    serving.crown(1, stored("run-r", name="price", task=Task.REGRESSION, bias=10.0))

    reply = serving.predict({"rows": [ROW]}, name="price")

    Predictions.model_validate(reply.json)
    assert reply.json["predictions"] == [{"value": pytest.approx(10 + 0.41 + 0.35 + 0.5 - 1)}]


def test_values_outside_the_contract_are_answered_with_warnings(serving: Serving) -> None:
    serving.crown(1)

    reply = serving.predict({"rows": [{**ROW, "age": 7, "plan": "gold"}]})

    assert reply.status == 200
    assert [w["field"] for w in reply.json["warnings"]] == ["age", "plan"]


def test_a_base64_body_is_read(serving: Serving) -> None:
    serving.crown(1)
    body = base64.b64encode(json.dumps({"rows": [ROW]}).encode())

    reply = serving.predict(body, base64_encoded=True)

    assert reply.status == 200


def test_a_gzipped_body_is_read(serving: Serving) -> None:
    serving.crown(1)
    body = base64.b64encode(gzip.compress(json.dumps({"rows": [ROW]}).encode()))

    reply = serving.predict(body, base64_encoded=True, headers={"Content-Encoding": "gzip"})

    assert reply.status == 200


def test_a_body_that_the_gateway_decompressed_is_read(serving: Serving) -> None:
    serving.crown(1)

    reply = serving.predict({"rows": [ROW]}, headers={"Content-Encoding": "gzip"})

    assert reply.status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json; charset=utf-8",
        "application/x-www-form-urlencoded",
        "application/vnd.millrace+json",
    ],
)
def test_what_clients_call_json_is_read(serving: Serving, content_type: str | None) -> None:
    serving.crown(1)
    headers = {"content-type": content_type} if content_type else {}

    assert serving.predict(json.dumps({"rows": [ROW]}), headers=headers).status == 200


def test_a_thousand_rows_are_one_answer(serving: Serving) -> None:
    serving.crown(1)

    reply = serving.predict({"rows": [{**ROW, "tenure": float(i)} for i in range(1_000)]})

    given = [p["probabilities"]["1"] for p in reply.json["predictions"]]
    expected = [probability({**ROW, "tenure": i}, 1.0) for i in range(1_000)]
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_csv_is_answered_in_csv(serving: Serving) -> None:
    serving.crown(1)
    body = "age,plan,tenure,active,city\r\n41,basic,3.5,true,Graz\r\n41,,,no,Graz\r\n"

    reply = serving.predict(body, headers={"Content-Type": "text/csv", "Accept": "text/csv"})

    assert reply.status == 200, reply.body
    header, first, _, last = reply.body.split("\r\n")
    assert (header, last) == ("label,probability_0,probability_1", "")
    assert float(first.split(",")[2]) == pytest.approx(probability(ROW, 1.0), abs=1e-6)
    assert reply.headers["x-millrace-model-version"] == "1"


def test_only_what_the_query_asks_for_is_told(serving: Serving) -> None:
    serving.crown(1)

    reply = serving.call(
        "POST", "/v1/models/churn/predict?outputs=labels&form=columns", {"rows": [ROW]}
    )

    assert reply.json["columns"] == {"label": [1]}


def test_an_option_given_twice_is_refused(serving: Serving) -> None:
    serving.crown(1)

    reply = serving.call(
        "POST", "/v1/models/churn/predict?form=rows", {"rows": [ROW], "form": "columns"}
    )

    assert [e.field for e in problem(reply, 422, "invalid_request").errors] == ["form"]


def test_a_named_version_answers_on_its_own_route(serving: Serving) -> None:
    serving.crown(1)
    serving.crown(2)

    def asked(version: str) -> Any:
        return serving.call("POST", f"/v1/models/churn/versions/{version}/predict", {"rows": [ROW]})

    assert asked("1").json["version"] == 1
    assert serving.predict({"rows": [ROW]}).json["version"] == 2
    for absent in ("7", "0", "one", "1.0"):
        problem(asked(absent), 404, "not_found")


# ── Which version answers ───────────────────────────────────────────────────────────────────────


def test_a_promotion_and_a_rollback_show_within_the_refresh_interval(serving: Serving) -> None:
    def version() -> int:
        return int(serving.predict({"rows": [ROW]}).json["version"])

    serving.crown(1)
    assert version() == 1
    serving.crown(2)
    assert version() == 1
    serving.now += 30
    assert version() == 2

    serving.stack.registry.rollback("churn", actor="ada", reason="complaints")
    serving.now += 29.9
    assert version() == 2
    serving.now += 0.1
    assert version() == 1


def test_a_flipped_bit_leaves_the_last_good_version_answering(
    serving: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.crown(1)
    serving.predict({"rows": [ROW]})
    bad = serving.crown(2)
    damaged = bytearray(bad.onnx)
    damaged[len(damaged) // 2] ^= 1
    serving.put(bad.model_key, bytes(damaged))
    serving.now += 30
    capsys.readouterr()

    assert serving.predict({"rows": [ROW]}).json["version"] == 1

    emitted = [m for m in metrics_in(capsys.readouterr().out) if "ModelLoadFailures" in m]
    assert [m["ModelLoadFailures"] for m in emitted] == [[1.0]]
    assert (emitted[0]["service"], emitted[0]["model"]) == (SERVICE, "churn")
    assert ["service"] in emitted[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"]
    serving.put(bad.model_key, bad.onnx)
    serving.now += 30
    assert serving.predict({"rows": [ROW]}).json["version"] == 2


def test_a_flipped_bit_in_the_only_version_is_refused_without_the_inside(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = serving.crown(1)
    serving.put(bad.signature_key, bad.signature_body.replace(b"18", b"19"))

    told = problem(serving.predict({"rows": [ROW]}), 500, "digest_mismatch")

    assert "sha256" not in told.detail
    assert "s3://" not in told.detail


def test_the_warm_path_touches_neither_the_registry_nor_s3(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.crown(1)
    serving.predict({"rows": [ROW]})

    def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("the warm path called AWS")

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", touched)

    assert all(serving.predict({"rows": [ROW]}).status == 200 for _ in range(3))


# ── Failures around it ──────────────────────────────────────────────────────────────────────────


def test_a_registry_that_cannot_be_reached_is_worth_another_try(serving: Serving) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("https://inside.example does not answer")

    serving.crown(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Wire, "_exchange", unreachable)
        reply = serving.predict({"rows": [ROW]})

    told = problem(reply, 503, "service_unavailable")
    assert int(reply.headers["retry-after"]) > 0
    assert "inside.example" not in told.detail
    assert serving.predict({"rows": [ROW]}).status == 200


def test_a_table_that_is_gone_is_no_missing_model(serving: Serving) -> None:
    serving.crown(1)
    boto3.client("dynamodb").delete_table(TableName="registry-table")

    reply = serving.predict({"rows": [ROW]})

    assert reply.status >= 500, reply.body
    assert "registry-table" not in reply.body


def test_a_crash_says_nothing_of_the_inside(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise ZeroDivisionError("secret of the inside")

    serving.crown(1)
    monkeypatch.setattr(LoadedModel, "run", crash)

    told = problem(serving.predict({"rows": [ROW]}), 500, "internal")

    assert "secret" not in told.model_dump_json()
    assert "ZeroDivision" not in told.model_dump_json()


# ── Telemetry ───────────────────────────────────────────────────────────────────────────────────


def metrics_in(output: str) -> list[dict[str, Any]]:
    """The embedded metrics among lines of output."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [line for line in lines if "_aws" in line]


def test_one_line_tells_each_request_with_its_metrics(
    serving: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.crown(1)
    serving.predict({"rows": [ROW]})
    capsys.readouterr()

    answer = serving.predict({"rows": [ROW, {**ROW, "age": 7}]}).json

    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["message"], told["level"]) == ("predicted", "INFO")
    assert (told["service"], told["model"], told["version"]) == (SERVICE, "churn", 1)
    assert told["prediction_id"] == answer["prediction_id"]
    assert told["correlation_id"] == "req-1"
    assert (told["Predictions"], told["row_count"]) == (2, 2)
    assert told["PredictionLatency"] > 0
    assert told["warnings"] == {"age": 1}
    [directive] = told["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["service"], ["service", "model"]]
    assert {m["Name"]: m["Unit"] for m in directive["Metrics"]} == {
        "Predictions": "Count",
        "PredictionLatency": "Milliseconds",
        "CapturedRequests": "Count",
    }
    assert told["CapturedRequests"] == 1


def test_what_was_asked_and_answered_is_captured_without_private_columns(
    serving: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.crown(1)

    answer = serving.predict({"rows": [ROW, {**ROW, "plan": None, "tenure": None}]}).json

    (line,) = [m for m in metrics_in(capsys.readouterr().out) if "capture" in m]
    kept = of_line(line)
    assert kept.inputs == {
        "age": [41, 41],
        "tenure": [3.5, None],
        "active": [1, 1],
        "plan": ["basic", ""],
    }
    probabilities = [list(p["probabilities"].values()) for p in answer["predictions"]]
    np.testing.assert_allclose(kept.outputs["probabilities"], probabilities)
    assert kept.prediction_id == answer["prediction_id"]


def test_a_refusal_is_counted_without_names_that_callers_invent(
    serving: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.predict({"rows": [ROW]}, name="invented-name")

    output = capsys.readouterr().out
    (emitted,) = metrics_in(output)
    assert emitted["PredictionsRefused"] == 1
    assert emitted["error"] == "NotFoundError"
    assert emitted["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service"]]
    assert "invented-name" not in output


class BrokenJournal:
    """A journal that cannot be written."""

    def answered(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("telemetry is down")

    refused = answered


def test_a_prediction_never_fails_because_its_journal_does(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.crown(1)
    monkeypatch.setattr(service, "PredictionLog", BrokenJournal)

    assert serving.predict({"rows": [ROW]}).status == 200
    assert serving.predict({"rows": []}).status == 422


def test_no_value_reaches_the_log(serving: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    serving.crown(1)
    canary = "canary-4711"

    refused = serving.predict({"rows": [{n: [canary] for n in ROW}]})
    answered = serving.predict({"rows": [{**ROW, "city": canary}]})

    captured = capsys.readouterr()
    assert (refused.status, answered.status) == (422, 200)
    assert canary not in captured.out + captured.err + refused.body + answered.body


# ── The handler itself ──────────────────────────────────────────────────────────────────────────


def test_requests_survive_somebody_else_s_event_loop(serving: Serving) -> None:
    serving.crown(1)

    async def nothing() -> None:
        return None

    statuses = []
    for _ in range(3):
        asyncio.run(nothing())
        statuses.append(serving.predict({"rows": [ROW]}).status)

    assert statuses == [200, 200, 200]


def test_two_apps_in_one_process_do_not_disturb_each_other(serving: Serving) -> None:
    serving.crown(1)
    other = predict.build(predict.PredictSettings.from_environment())

    for call in (serving.call, Caller(other), serving.call, Caller(other)):
        assert call("POST", "/v1/models/churn/predict", {"rows": [ROW]}).status == 200
