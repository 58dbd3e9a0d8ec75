"""What a deployment tells of itself: metrics that count what happened, logs that carry the ids."""

import json
import time
from functools import partial
from typing import Any

import pytest

from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Client, Sample, Until
from tests.e2e.measured import counted, total

pytestmark = pytest.mark.needs("upload-events", "state-machine")

HOURS_3 = 3 * 3600


@pytest.mark.needs("embedded-metrics")
def test_what_a_training_did_is_counted_for_stack_and_model(
    client: Client, target: Target, trained: dict[str, Any], patiently: Until
) -> None:
    happened = {
        "UploadsReceived": 1,
        "RowsAccepted": trained["rows"]["accepted"],
        "TrialsFinished": len(trained["trials"]),
        "GatesPassed": 1,
        "Promotions": 1,
    }

    # Other tests train this model again; each name counts at least what the first training did.
    for name, least in happened.items():
        of_model = patiently(partial(counted, client, name, target.stack, trained["model"]))
        assert of_model >= least, name
        assert counted(client, name, target.stack) >= of_model, name


@pytest.mark.needs("embedded-metrics", "rest-api")
def test_each_predicted_row_is_counted(
    client: Client,
    api: ApiClient,
    target: Target,
    trained: dict[str, Any],
    cancer: Sample,
    patiently: Until,
) -> None:
    model = trained["model"]
    before = counted(client, "Predictions", target.stack, model)

    for rows in (1, 4):
        body = {"rows": [cancer.feature_row(index) for index in range(rows)]}
        api.post(f"/v1/models/{model}/predict", body)

    patiently(lambda: counted(client, "Predictions", target.stack, model) >= before + 5)
    assert counted(client, "PredictionLatency", target.stack, model) > 0
    assert counted(client, "ModelLoads", target.stack, model) >= 1


@pytest.mark.needs("service-metrics")
def test_services_measure_themselves(
    client: Client, target: Target, trained: dict[str, Any], patiently: Until
) -> None:
    outputs = target.outputs.raw
    measures = {
        ("AWS/Lambda", "Invocations"): {"FunctionName": outputs["TriggerFunctionName"]},
        ("AWS/States", "ExecutionsSucceeded"): {
            "StateMachineArn": outputs["TrainingStateMachineArn"]
        },
        ("AWS/ApiGateway", "Count"): {"ApiName": target.stack, "Stage": "live"},
    }

    for (namespace, name), dimensions in measures.items():
        assert patiently(partial(total, client, namespace, name, dimensions))


@pytest.mark.needs("logs")
def test_one_correlation_id_joins_upload_states_and_registry(
    client: Client, api: ApiClient, target: Target, trained: dict[str, Any], patiently: Until
) -> None:
    version = api.get(f"/v1/models/{trained['model']}/versions/{trained['model_version']}")
    correlation_id = trained["correlation_id"]

    for function in ("trigger", "ingest", "train", "evaluate", "registry"):
        lines = patiently(partial(_lines, client, target, function, correlation_id))
        bound = [line for line in lines if line.get("correlation_id") == correlation_id]
        assert {line["run_id"] for line in bound if line.get("run_id")} == {trained["run_id"]}
        assert {line["model"] for line in bound if line.get("model")} == {trained["model"]}
        assert all(line["function_request_id"] for line in bound)
    assert version["correlation_id"] == correlation_id


@pytest.mark.needs("logs", "rest-api")
def test_an_answer_is_found_in_the_log_by_its_prediction_id(
    client: Client,
    api: ApiClient,
    target: Target,
    trained: dict[str, Any],
    cancer: Sample,
    patiently: Until,
) -> None:
    row = cancer.feature_row(0)

    answer = api.post(f"/v1/models/{trained['model']}/predict", {"rows": [row]})

    [line] = patiently(lambda: _lines(client, target, "predict", answer["prediction_id"]))
    assert (line["model"], line["version"]) == (trained["model"], answer["version"])
    assert line["row_count"] == 1
    captured = line.pop("capture")
    assert captured["inputs"]["mean_radius"] == [row["mean_radius"]]
    assert repr(row["mean_radius"]) not in json.dumps(line)


def _lines(client: Client, target: Target, function: str, wanted: str) -> list[dict[str, Any]]:
    """The JSON lines of a function's log that hold a text."""
    pages = (
        client("logs")
        .get_paginator("filter_log_events")
        .paginate(
            logGroupName=f"/aws/lambda/{target.stack}-{function}",
            startTime=int((time.time() - HOURS_3) * 1000),
        )
    )
    messages = (event["message"] for page in pages for event in page["events"])
    return [json.loads(m) for m in messages if wanted in m and m.lstrip().startswith("{")]
