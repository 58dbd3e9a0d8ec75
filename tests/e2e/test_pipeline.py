"""From a file in S3 to an answer over HTTP, on the deployed template."""

import json
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from millrace_cli.client import ApiClient
from millrace_cli.follow import STATE_WORDS
from millrace_cli.target import Target
from millrace_cli.training import upload_file
from tests.e2e.conftest import (
    Client,
    Follow,
    Named,
    Sample,
    Until,
    Upload,
    sample_of,
    spec_document,
)
from tests.e2e.events import uploaded
from tests.e2e.measured import counted

pytestmark = pytest.mark.needs("upload-events", "state-machine", "transactions", "rest-api")


def test_an_upload_becomes_a_champion_that_answers(
    api: ApiClient, trained: dict[str, Any], cancer: Sample
) -> None:
    model = trained["model"]
    version = api.get(f"/v1/models/{model}/versions/champion")

    answer = api.post(f"/v1/models/{model}/predict", {"rows": [cancer.feature_row(0)]})

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


def test_the_report_is_linked_and_opens(
    api: ApiClient, target: Target, trained: dict[str, Any]
) -> None:
    version = api.get(f"/v1/models/{trained['model']}/versions/champion")

    report = target.s3.get_object(Bucket=target.outputs.artifact_bucket, Key=version["report_key"])[
        "Body"
    ].read()

    assert version["report_url"]
    assert b"<svg" in report
    assert b"roc_auc" in report
    assert b"http://" not in report.replace(b"http://www.w3.org", b"")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_same_rows_again_train_nothing(
    upload: Upload, trained: dict[str, Any], cancer: Sample, tmp_path: Path, kind: str
) -> None:
    shuffled = Sample(cancer.header, list(reversed(cancer.rows[:400])))
    path = shuffled.write(tmp_path / "again.csv")
    if kind != "csv":
        table, path = path, tmp_path / f"again.{kind}"
        written = "json" if kind == "jsonl" else kind
        with duckdb.connect() as connection:
            connection.execute(f"COPY (FROM '{table}') TO '{path}' (FORMAT {written})")

    again = upload(trained["model"], path)

    assert again["outcome"] == "unchanged"
    assert again["dataset_version"] == trained["dataset_version"]
    assert trained["run_id"] in again["reason"]
    assert again["model_version"] is None


def test_an_event_that_comes_again_later_starts_nothing(
    client: Client, api: ApiClient, target: Target, trained: dict[str, Any]
) -> None:
    runs = f"/v1/models/{trained['model']}/runs"
    before = api.get(runs)["items"]

    answer = client("lambda").invoke(
        FunctionName=target.outputs.raw["TriggerFunctionName"],
        Payload=json.dumps(uploaded(trained["source"])).encode(),
    )

    assert "FunctionError" not in answer
    assert trained["run_id"] in answer["Payload"].read().decode()
    assert len(api.get(runs)["items"]) == len(before)


@pytest.mark.needs("execution-events", "embedded-metrics")
def test_an_event_that_comes_many_times_at_once_starts_one_execution(
    client: Client,
    api: ApiClient,
    target: Target,
    named: Named,
    follow: Follow,
    patiently: Until,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    model, copies = named("again"), 4
    api.put(f"/v1/specs/{model}", spec_document(model, cancer))
    path = cancer.write(tmp_path / "all.csv", stop=300)
    where, run_id, version_id = upload_file(target, model, path, path.name)
    bucket, key = where.split("/", 1)
    event = uploaded({"bucket": bucket, "key": key, "version_id": version_id})

    for _ in range(copies):
        client("lambda").invoke(
            FunctionName=target.outputs.raw["TriggerFunctionName"],
            InvocationType="Event",
            Payload=json.dumps(event).encode(),
        )
    run = follow(run_id)

    # S3's own event and the copies, in whatever order: one started it, the others were turned away.
    patiently(
        lambda: counted(client, "UploadsDuplicate", target.stack, model) >= copies, seconds=60
    )
    assert counted(client, "UploadsReceived", target.stack, model) == 1
    assert run["outcome"] == "promoted", run
    assert [r["run_id"] for r in api.get(f"/v1/models/{model}/runs")["items"]] == [run_id]
    executions = client("stepfunctions").list_executions(
        stateMachineArn=target.outputs.raw["TrainingStateMachineArn"]
    )["executions"]
    assert [e["name"] for e in executions].count(run_id) == 1


def test_a_second_file_is_judged_against_the_champion_on_the_same_rows(
    api: ApiClient, upload: Upload, trained: dict[str, Any], cancer: Sample, tmp_path: Path
) -> None:
    run = upload(trained["model"], cancer.write(tmp_path / "all.csv"))
    version = api.get(f"/v1/models/{trained['model']}/versions/{run['model_version']}")

    assert run["outcome"] in ("promoted", "gates_failed")
    assert version["compared_with"] == trained["model_version"]
    assert any(gate["gate"] == "against_champion" for gate in version["gates"])


def test_a_rollback_shows_in_answers_within_the_refresh_interval(
    client: Client,
    api: ApiClient,
    target: Target,
    upload: Upload,
    named: Named,
    patiently: Until,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    model = named("roll")
    document = spec_document(
        model, cancer, evaluate={"against_champion": {"min_improvement": -1.0}}
    )
    api.put(f"/v1/specs/{model}", document)
    assert upload(model, cancer.write(tmp_path / "a.csv", stop=300))["outcome"] == "promoted"
    assert upload(model, cancer.write(tmp_path / "b.csv"))["outcome"] == "promoted"
    function = client("lambda").get_function_configuration(
        FunctionName=target.outputs.raw["PredictFunctionName"]
    )
    refresh = float(function["Environment"]["Variables"]["MILLRACE_REFRESH_SECONDS"])

    ids: dict[int, str] = {}

    def answering() -> int:
        answer = api.post(f"/v1/models/{model}/predict", {"rows": [cancer.feature_row(0)]})
        ids[answer["version"]] = answer["prediction_id"]
        return int(answer["version"])

    patiently(lambda: answering() == 2)
    answer = api.post(
        f"/v1/models/{model}/aliases/champion", {"action": "rollback", "reason": "a test"}
    )
    written = time.monotonic()
    patiently(lambda: answering() == 1, seconds=refresh + 15)
    # Once the interval is over no environment answers with the former version, whichever is asked.
    settled: list[int] = []
    while len(settled) < 5:
        asked = time.monotonic()
        version = answering()
        if asked - written > refresh:
            settled.append(version)
        time.sleep(0.2)

    assert (answer["version"], answer["previous"]) == (1, 2)
    assert settled == [1] * 5
    actions = [e["action"] for e in api.get(f"/v1/models/{model}/audit")["items"]]
    assert actions[0] == "rolled_back"
    _expect_the_record_to_tell(api, model, ids)


def _expect_the_record_to_tell(api: ApiClient, model: str, ids: dict[int, str]) -> None:
    """What was live when, how the two versions differ, whence they are, and which one answered."""
    path = f"/v1/models/{model}"
    periods = api.get(f"{path}/history")["items"]
    assert [p["version"] for p in periods] == [1, 2, 1]
    assert [p["decision"]["action"] for p in periods] == ["rolled_back", "promoted", "promoted"]
    assert api.get(f"{path}/history", at=periods[1]["from"])["items"] == [periods[1]]

    found = api.get(f"{path}/compare", **{"from": 1, "to": 2})
    assert found["paired"], found["measured"]
    assert found["missing"] == []
    assert found["dataset"]["after"]["rows"]["accepted"] > 300
    assert found["environment"]["same"]

    kinds = [n["kind"] for n in api.get(f"{path}/lineage", version=2)["nodes"]]
    assert {"upload", "dataset", "spec", "run", "version", "reign", "requests"} <= set(kinds)
    assert api.get_text(f"{path}/lineage", version="2", format="svg").startswith("<svg")

    for version, prediction_id in ids.items():
        answered = api.get(f"{path}/predictions/{prediction_id}")
        assert (answered["role"], answered["version"]) == ("champion", version)
        assert answered["sha256"] == api.get(f"{path}/versions/{version}")["sha256"]
        assert answered["decision"]["sequence"] in {p["sequence"] for p in periods}


@pytest.mark.parametrize(
    ("table", "task"), [("wine", "multiclass"), ("diabetes", "regression")], ids=str
)
def test_other_tasks_train_and_answer(
    api: ApiClient, upload: Upload, named: Named, tmp_path: Path, table: str, task: str
) -> None:
    sample, model = sample_of(table, 6), named(table)
    api.put(f"/v1/specs/{model}", spec_document(model, sample, task))

    run = upload(model, sample.write(tmp_path / f"{table}.csv"))
    answer = api.post(
        f"/v1/models/{model}/predict",
        {"columns": {k: [v, v] for k, v in sample.feature_row(0).items()}},
    )

    assert run["outcome"] == "promoted", run
    assert len(answer["predictions"]) == 2
    assert answer["predictions"][0] == answer["predictions"][1]


def test_a_gate_that_fails_keeps_the_model_from_going_live(
    api: ApiClient, upload: Upload, named: Named, cancer: Sample, tmp_path: Path
) -> None:
    model = named("strict")
    document = spec_document(
        model, cancer, evaluate={"metrics": [{"metric": "roc_auc", "min": 0.99999}]}
    )
    api.put(f"/v1/specs/{model}", document)

    run = upload(model, cancer.write(tmp_path / "all.csv", stop=300))

    assert run["outcome"] == "gates_failed"
    assert "roc_auc" in run["reason"]
    assert api.get(f"/v1/models/{model}")["champion_version"] is None
    assert api.get(f"/v1/models/{model}/versions/1")["status"] == "rejected"


def test_manual_approval_waits_for_a_person(
    api: ApiClient, upload: Upload, named: Named, cancer: Sample, tmp_path: Path
) -> None:
    model = named("manual")
    api.put(f"/v1/specs/{model}", spec_document(model, cancer, approve={"mode": "manual"}))

    run = upload(model, cancer.write(tmp_path / "all.csv", stop=300))
    promoted = api.post(
        f"/v1/models/{model}/aliases/champion",
        {"action": "promote", "version": 1, "reason": "reviewed"},
    )

    assert (run["outcome"], run["awaiting_approval"]) == (None, True)
    assert promoted["version"] == 1
    assert api.get(f"/v1/models/{model}")["champion_version"] == 1


def test_a_retraining_trains_the_same_rows_again_and_reproduces_the_metrics(
    api: ApiClient, follow: Follow, trained: dict[str, Any]
) -> None:
    versions = f"/v1/models/{trained['model']}/versions"
    latest = api.get(versions)["items"][0]

    answer = api.post(f"/v1/models/{trained['model']}/retrain", {"reason": "a test"})
    run = follow(answer["run_id"])

    again = api.get(f"{versions}/{run['model_version']}")
    same = api.get(versions)["items"]
    twin = next(
        v
        for v in same
        if v["dataset_version"] == again["dataset_version"] and v["version"] != again["version"]
    )
    assert run["cause"] == "retrain"
    assert again["version"] > latest["version"]
    assert again["metrics"] == twin["metrics"]


@pytest.mark.needs("execution-events")
def test_an_aborted_execution_is_recorded_as_failed(
    client: Client,
    api: ApiClient,
    target: Target,
    named: Named,
    follow: Follow,
    patiently: Until,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    model = named("abort")
    api.put(f"/v1/specs/{model}", spec_document(model, cancer))
    path = cancer.write(tmp_path / "all.csv")
    _, run_id, _ = upload_file(target, model, path, path.name)
    machine = target.outputs.raw["TrainingStateMachineArn"]
    execution = f"{machine.replace(':stateMachine:', ':execution:')}:{run_id}"
    states = client("stepfunctions")
    patiently(
        lambda: any(
            e["name"] == run_id
            for e in states.list_executions(stateMachineArn=machine)["executions"]
        ),
        seconds=60,
        pause=0.1,
    )

    states.stop_execution(executionArn=execution, error="Operator", cause="a test")
    run = follow(run_id)

    assert run["status"] == "FAILED"
    assert run["outcome"] == "failed"
    assert "ABORTED" in run["error"] or "Operator" in run["error"]
