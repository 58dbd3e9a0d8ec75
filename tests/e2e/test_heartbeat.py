"""The heartbeat, invoked where it runs: through the API's door, and without a trace in what is counted."""

import json
import time
from typing import Any

import pytest

from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Client, Sample, Until
from tests.e2e.measured import counted

pytestmark = pytest.mark.needs("rest-api", "upload-events", "state-machine", "logs")


def test_a_heartbeat_asks_the_champion_through_the_api_and_is_no_traffic(
    api: ApiClient,
    client: Client,
    target: Target,
    trained: dict[str, Any],
    cancer: Sample,
    patiently: Until,
) -> None:
    function = target.outputs.raw.get("HeartbeatFunctionName")
    if function is None:
        pytest.skip(f"stack {target.stack} was deployed without HeartbeatMinutes")
    model, began = trained["model"], int(time.time() * 1000)
    champion = api.get(f"/v1/models/{model}")["champion_version"]

    beats = [_beat(client, function, model) for _ in range(2)]
    asked = api.post(f"/v1/models/{model}/predict", {"rows": [cancer.feature_row(0)]})

    assert [(beat["version"], beat["reason"]) for beat in beats] == [(champion, "")] * 2
    assert all(0 < beat["milliseconds"] < 10_000 for beat in beats)

    def told() -> list[str]:
        """Predictions of the model that predict's log tells of, once it tells of the client's."""
        found = client("logs").filter_log_events(
            logGroupName=f"/aws/lambda/{target.stack}-predict", startTime=began
        )
        texts = [event["message"] for event in found["events"]]
        said = [json.loads(text) for text in texts if text.lstrip().startswith("{")]
        ids = [
            line["prediction_id"]
            for line in said
            if line.get("model") == model and "prediction_id" in line
        ]
        return ids if asked["prediction_id"] in ids else []

    assert patiently(told) == [asked["prediction_id"]]
    patiently(lambda: counted(client, "HeartbeatSuccess", target.stack) >= 1)


def _beat(client: Client, function: str, model: str) -> dict[str, Any]:
    """What one look found of a model."""
    made = client("lambda").invoke(FunctionName=function, Payload=b"{}")
    answer = json.loads(made["Payload"].read())
    assert "FunctionError" not in made, answer
    [beat] = [one for one in answer["beats"] if one["model"] == model]
    return dict(beat)
