"""From a file in S3 to an answer over HTTP, on the deployed template."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from millrace_cli.client import ApiClient
from millrace_cli.follow import STATE_WORDS
from millrace_cli.target import DEFAULT_STACK, Target
from millrace_cli.training import upload_file
from tests.e2e.conftest import Follow, Sample, Upload, sample_of, spec_document

Client = Callable[[str], Any]


@pytest.fixture(scope="module")
def client(target: Target) -> Iterator[Client]:
    """boto3 clients of the deployment's cloud by service, closed at the end."""
    with ExitStack() as stack:
        yield cache(
            lambda service: stack.enter_context(
                closing(target.session.client(service, endpoint_url=target.endpoint_url))
            )
        )


def test_an_upload_becomes_a_champion_that_answers(
    api: ApiClient, trained: dict[str, Any], cancer: Sample
) -> None:
    version = api.get("/v1/models/tumor/versions/champion")

    answer = api.post("/v1/models/tumor/predict", {"rows": [cancer.feature_row(0)]})

    assert trained["rows"] == {"read": 400, "accepted": 400, "quarantined": 0}
    assert [s["name"] for s in trained["steps"] if s["name"] in STATE_WORDS] == [
        "Ingest",
        "RecordDataset",
        "Plan",
        "Search",
        "Fit",
        "Register",
        "Evaluate",
        "RecordEvaluation",
        "Promote",
    ]
    assert len(trained["trials"]) == 3
    assert version["status"] == "champion"
    assert version["metrics"]["roc_auc"]["low"] <= version["metrics"]["roc_auc"]["value"]
    assert all(gate["passed"] for gate in version["gates"])
    assert answer["version"] == version["version"] == trained["model_version"]
    probabilities = answer["predictions"][0]["probabilities"]
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert answer["predictions"][0]["label"] == int(max(probabilities, key=probabilities.get))
    assert answer["prediction_id"]


def test_one_correlation_id_joins_upload_states_and_registry(
    client: Client, api: ApiClient, trained: dict[str, Any]
) -> None:
    version = api.get(f"/v1/models/tumor/versions/{trained['model_version']}")
    logs = client("logs")
    groups = [
        g["logGroupName"]
        for g in logs.describe_log_groups()["logGroups"]
        if g["logGroupName"].startswith("/aws/lambda/")
    ]

    functions_seen = {
        group
        for group in groups
        for event in logs.filter_log_events(logGroupName=group)["events"]
        if trained["correlation_id"] in event["message"] and event["message"].startswith("{")
    }

    assert version["correlation_id"] == trained["correlation_id"]
    for function in ("trigger", "ingest", "train", "evaluate", "registry"):
        assert any(function in group.lower() for group in functions_seen), (function, groups)


def test_business_metrics_reach_cloudwatch(client: Client, trained: dict[str, Any]) -> None:
    found = {
        (m["MetricName"], tuple(sorted((d["Name"], d["Value"]) for d in m["Dimensions"])))
        for m in client("cloudwatch").list_metrics(Namespace="Millrace")["Metrics"]
    }

    for name in ("UploadsReceived", "RowsAccepted", "TrialsFinished", "GatesPassed", "Promotions"):
        assert (name, (("service", DEFAULT_STACK),)) in found
        assert (name, (("model", "tumor"), ("service", DEFAULT_STACK))) in found


def test_the_report_is_linked_and_opens(
    api: ApiClient, target: Target, trained: dict[str, Any]
) -> None:
    version = api.get("/v1/models/tumor/versions/champion")

    report = target.s3.get_object(Bucket=target.outputs.artifact_bucket, Key=version["report_key"])[
        "Body"
    ].read()

    assert version["report_url"]
    assert b"<svg" in report
    assert b"roc_auc" in report
    assert b"http://" not in report.replace(b"http://www.w3.org", b"")


def test_the_same_rows_again_train_nothing(
    api: ApiClient, upload: Upload, trained: dict[str, Any], cancer: Sample, tmp_path: Path
) -> None:
    shuffled = Sample(cancer.header, list(reversed(cancer.rows[:400])))

    again = upload("tumor", shuffled.write(tmp_path / "again.csv"))

    assert again["outcome"] == "unchanged"
    assert again["dataset_version"] == trained["dataset_version"]
    assert trained["run_id"] in again["reason"]
    assert again["model_version"] is None


def test_an_event_delivered_twice_starts_one_run(
    client: Client, api: ApiClient, target: Target, trained: dict[str, Any]
) -> None:
    before = api.get("/v1/models/tumor/runs")["items"]
    source = trained["source"]
    event = {
        "version": "0",
        "id": "00000000-0000-4000-8000-000000000000",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": "000000000000",
        "time": "2026-11-01T00:00:00Z",
        "region": "us-east-1",
        "resources": [f"arn:aws:s3:::{source['bucket']}"],
        "detail": {
            "version": "0",
            "bucket": {"name": source["bucket"]},
            "object": {
                "key": source["key"],
                "size": source["size"],
                "etag": source["etag"],
                "version-id": source["version_id"],
                "sequencer": "0",
            },
            "request-id": "A",
            "requester": "000000000000",
            "source-ip-address": "127.0.0.1",
            "reason": "PutObject",
        },
    }

    answer = client("lambda").invoke(
        FunctionName=target.outputs.raw["TriggerFunctionName"], Payload=json.dumps(event).encode()
    )

    assert "FunctionError" not in answer
    assert trained["run_id"] in answer["Payload"].read().decode()
    assert len(api.get("/v1/models/tumor/runs")["items"]) == len(before)


def test_a_second_file_is_judged_against_the_champion_on_the_same_rows(
    api: ApiClient, upload: Upload, trained: dict[str, Any], cancer: Sample, tmp_path: Path
) -> None:
    run = upload("tumor", cancer.write(tmp_path / "all.csv"))
    version = api.get(f"/v1/models/tumor/versions/{run['model_version']}")

    assert run["outcome"] in ("promoted", "gates_failed")
    assert version["compared_with"] == trained["model_version"]
    assert any(gate["gate"] == "against_champion" for gate in version["gates"])


def test_a_rollback_shows_in_answers_within_the_refresh_interval(
    api: ApiClient, upload: Upload, cancer: Sample, tmp_path: Path
) -> None:
    document = spec_document(
        "tumor-roll",
        cancer,
        evaluate={"against_champion": {"min_improvement": -1.0}},
    )
    api.put("/v1/specs/tumor-roll", document)
    assert upload("tumor-roll", cancer.write(tmp_path / "a.csv", stop=300))["outcome"] == "promoted"
    assert upload("tumor-roll", cancer.write(tmp_path / "b.csv"))["outcome"] == "promoted"
    row = cancer.feature_row(0)
    assert _answering(api, row, 2)

    answer = api.post(
        "/v1/models/tumor-roll/aliases/champion", {"action": "rollback", "reason": "a test"}
    )

    assert (answer["version"], answer["previous"]) == (1, 2)
    assert _answering(api, row, 1)
    actions = [e["action"] for e in api.get("/v1/models/tumor-roll/audit")["items"]]
    assert actions[0] == "rolled_back"


def _answering(api: ApiClient, row: dict[str, float], version: int) -> bool:
    """Whether the given version answers before the refresh interval (and slack) is over."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if api.post("/v1/models/tumor-roll/predict", {"rows": [row]})["version"] == version:
            return True
        time.sleep(0.5)
    return False


@pytest.mark.parametrize(
    ("table", "task"), [("wine", "multiclass"), ("diabetes", "regression")], ids=str
)
def test_other_tasks_train_and_answer(
    api: ApiClient, upload: Upload, tmp_path: Path, table: str, task: str
) -> None:
    sample = sample_of(table, 6)
    api.put(f"/v1/specs/{table}", spec_document(table, sample, task))

    run = upload(table, sample.write(tmp_path / f"{table}.csv"))
    answer = api.post(
        f"/v1/models/{table}/predict",
        {"columns": {k: [v, v] for k, v in sample.feature_row(0).items()}},
    )

    assert run["outcome"] == "promoted", run
    assert len(answer["predictions"]) == 2
    assert answer["predictions"][0] == answer["predictions"][1]


def test_a_gate_that_fails_keeps_the_model_from_going_live(
    api: ApiClient, upload: Upload, cancer: Sample, tmp_path: Path
) -> None:
    document = spec_document(
        "tumor-strict", cancer, evaluate={"metrics": [{"metric": "roc_auc", "min": 0.99999}]}
    )
    api.put("/v1/specs/tumor-strict", document)

    run = upload("tumor-strict", cancer.write(tmp_path / "all.csv", stop=300))

    assert run["outcome"] == "gates_failed"
    assert "roc_auc" in run["reason"]
    assert api.get("/v1/models/tumor-strict")["champion_version"] is None
    assert api.get("/v1/models/tumor-strict/versions/1")["status"] == "rejected"


def test_manual_approval_waits_for_a_person(
    api: ApiClient, upload: Upload, cancer: Sample, tmp_path: Path
) -> None:
    api.put(
        "/v1/specs/tumor-manual", spec_document("tumor-manual", cancer, approve={"mode": "manual"})
    )

    run = upload("tumor-manual", cancer.write(tmp_path / "all.csv", stop=300))
    promoted = api.post(
        "/v1/models/tumor-manual/aliases/champion",
        {"action": "promote", "version": 1, "reason": "reviewed"},
    )

    assert run["outcome"] == "awaiting_approval"
    assert promoted["version"] == 1
    assert api.get("/v1/models/tumor-manual")["champion_version"] == 1


def test_a_retraining_trains_the_same_rows_again_and_reproduces_the_metrics(
    api: ApiClient, follow: Follow, trained: dict[str, Any]
) -> None:
    latest = api.get("/v1/models/tumor/versions")["items"][0]

    answer = api.post("/v1/models/tumor/retrain", {"reason": "a test"})
    run = follow(answer["run_id"])

    again = api.get(f"/v1/models/tumor/versions/{run['model_version']}")
    same = api.get("/v1/models/tumor/versions")["items"]
    twin = next(
        v
        for v in same
        if v["dataset_version"] == again["dataset_version"] and v["version"] != again["version"]
    )
    assert run["cause"] == "retrain"
    assert again["version"] > latest["version"]
    assert again["metrics"] == twin["metrics"]


def test_an_aborted_execution_is_recorded_as_failed(
    client: Client, api: ApiClient, target: Target, follow: Follow, cancer: Sample, tmp_path: Path
) -> None:
    api.put("/v1/specs/tumor-abort", spec_document("tumor-abort", cancer))
    path = cancer.write(tmp_path / "all.csv")
    _, run_id, _ = upload_file(target, "tumor-abort", path, path.name)
    machine = target.outputs.raw["TrainingStateMachineArn"]
    execution = f"{machine.replace(':stateMachine:', ':execution:')}:{run_id}"
    states = client("stepfunctions")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        listed = states.list_executions(stateMachineArn=machine)["executions"]
        if any(e["name"] == run_id for e in listed):
            break
        time.sleep(0.2)

    states.stop_execution(executionArn=execution, error="Operator", cause="a test")
    run = follow(run_id)

    assert run["status"] == "FAILED"
    assert run["outcome"] == "failed"
    assert "ABORTED" in run["error"] or "Operator" in run["error"]
