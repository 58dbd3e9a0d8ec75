"""From real predictions to a report and an alarm: captured, counted, judged, told."""

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from millrace import layout
from millrace.aws.dynamodb import DynamoTable
from millrace.monitoring.binning import begin_of
from millrace.monitoring.hours import read_window
from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Client, Named, Sample, Until, Upload, spec_document
from tests.e2e.mailbox import Mailbox

pytestmark = pytest.mark.needs("upload-events", "state-machine", "rest-api", "logs", "notices")

ROWS = 250
DAY = timedelta(days=1)


def test_drift_of_real_predictions_is_reported_and_told(
    api: ApiClient,
    client: Client,
    target: Target,
    mailbox: Mailbox,
    patiently: Until,
    upload: Upload,
    named: Named,
    cancer: Sample,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    name = named("monitored")
    monitor = {"window": "24h", "persistence": 1}
    api.put(f"/v1/specs/{name}", spec_document(name, cancer, train={"trials": 1}, monitor=monitor))
    run = upload(name, cancer.write(tmp_path_factory.mktemp("data") / "all.csv", stop=300))
    assert run["outcome"] == "promoted", run
    rows = [cancer.feature_row(i % len(cancer.rows)) for i in range(ROWS)]
    drifted = [{**row, cancer.header[0]: 4 * row[cancer.header[0]]} for row in rows]
    table = DynamoTable(client("dynamodb"), target.outputs.raw["TableName"])
    hour = begin_of(datetime.now(UTC))

    def counted(rows: int) -> bool:
        since, until = hour - DAY / 24, hour + 2 * DAY / 24
        return read_window(table, name, 1, since, until).rows == rows

    # Two deliveries of the log, so that there is something to put together.
    for part, rows_so_far in ((drifted[:200], 200), (drifted[200:], ROWS)):
        api.post(f"/v1/models/{name}/predict", {"rows": part})
        assert patiently(partial(counted, rows_so_far), seconds=60)
    answer = invoke(client, target, {"model": name, "now": (hour + 1.1 * DAY).isoformat()})

    [window] = answer["outcomes"][0]["windows"]
    assert (window["rows"], window["version"], window["state"]) == (ROWS, 1, "alarm")
    key = layout.latest_monitor_report_key(name, "json")
    body = client("s3").get_object(Bucket=target.outputs.raw["ArtifactBucketName"], Key=key)
    report = json.loads(body["Body"].read())
    assert report["traffic"]["rows"] == ROWS
    assert report["traffic"]["lost"] == 0
    found = {f["subject"] for f in report["findings"] if f["verdict"] == "alarm"}
    assert cancer.header[0] in found
    assert api.get(f"/v1/models/{name}/monitor")["report"] == report
    notice = patiently(lambda: mailbox.find(lambda m: m.get("model") == name and "alarm" in str(m)))
    assert name in json.dumps(notice)
    again = invoke(client, target, {"model": name, "now": (hour + 1.2 * DAY).isoformat()})
    assert again["outcomes"][0]["windows"] == []
    tidied = invoke(client, target, {"model": name, "now": (hour + DAY / 9.5).isoformat()})
    assert tidied["outcomes"][0]["compacted"] in (0, 2)


def invoke(client: Client, target: Target, event: dict[str, Any]) -> dict[str, Any]:
    """Runs the monitor."""
    made = client("lambda").invoke(
        FunctionName=target.outputs.raw["MonitorFunctionName"], Payload=json.dumps(event).encode()
    )
    answer: dict[str, Any] = json.loads(made["Payload"].read())
    assert "FunctionError" not in made, answer
    return answer
