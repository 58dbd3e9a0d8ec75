"""The loop: the world changes its mind, labels tell, an alarm rings, and a better model answers."""

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millrace.messages import Cause
from millrace.registry.records import RunOutcome
from tests import samples
from tests.integration.pipeline.twin import Twin, twin

M = samples.MODEL
HOUR = timedelta(hours=1)
BATCH = 100


@pytest.fixture
def cloud() -> Iterator[Twin]:
    with twin() as made:
        yield made


def predicted(cloud: Twin, rows: list[samples.Row], out: pytest.CaptureFixture[str]) -> list[str]:
    """Asks for predictions, and delivers what they leave on the log; their ids."""
    out.readouterr()
    ids = []
    for start in range(0, len(rows), BATCH):
        asked = samples.request_rows(rows[start : start + BATCH])
        status, answer = cloud.ask(M, asked)
        assert status == 200, answer
        ids.append(answer["prediction_id"])
    lines = [line for line in out.readouterr().out.splitlines() if '"capture":' in line]
    assert len(lines) == len(ids)
    content = {
        "messageType": "DATA_MESSAGE",
        "logGroup": "predict",
        "logStream": "one",
        "logEvents": [{"id": str(n), "timestamp": 1, "message": x} for n, x in enumerate(lines)],
    }
    packed = base64.b64encode(gzip.compress(json.dumps(content).encode())).decode()
    cloud.deliver("capture", {"awslogs": {"data": packed}})
    return ids


def labelled(cloud: Twin, ids: list[str], labels: list[bool]) -> None:
    """Tells what really happened."""
    told: list[dict[str, Any]] = [
        {"prediction_id": ids[n // BATCH], "row": n % BATCH, "label": label}
        for n, label in enumerate(labels)
    ]
    for start in range(0, len(told), 500):
        answer = cloud.api(
            "POST", f"/v1/models/{M}/feedback", {"labels": told[start : start + 500]}
        )
        assert answer["statusCode"] == 200, answer["body"]


def look(cloud: Twin, hours: int = 1) -> Any:
    """The monitor looks, so many hours from now."""
    now = datetime.now(UTC).replace(minute=10, second=0, microsecond=0) + hours * HOUR
    return cloud.deliver("monitor", {"model": M, "now": now.isoformat()})


def test_labels_that_say_otherwise_start_one_training_and_a_better_model_answers(
    cloud: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.apply(
        samples.spec(
            monitor={"persistence": 1},
            retrain={"on_drift": True, "cooldown": "1s", "min_new_rows": 300},
        )
    )
    cloud.train(M, "first.csv", samples.csv_file(samples.rows(300)))
    # moto copies every label at every transaction, so there are no more than tell the tale.
    world = samples.rows(600, seed=5)
    truth = [row["left"] == "true" for row in world]

    ids = predicted(cloud, world, capsys)
    labelled(cloud, ids, [not label for label in truth])
    look(cloud)
    look(cloud)
    look(cloud, 2)

    drift = [run for run in cloud.registry.list_runs(M).items if run.cause is Cause.DRIFT]
    assert len(drift) == 1, [run.cause for run in drift]
    [run] = drift
    assert cloud.follow(run.run_id).states[-1] == "Promoted"
    ended = cloud.registry.get_run(run.run_id)
    assert ended.outcome is RunOutcome.PROMOTED
    dataset = cloud.registry.get_dataset(M, ended.dataset_version)
    assert dataset.labelled is not None
    assert (dataset.labelled.rows, dataset.rows.accepted) == (600, 900)
    alarms = json.loads(cloud.api("GET", f"/v1/models/{M}/alarms")["body"])["items"]
    assert run.run_id in {alarm["run_id"] for alarm in alarms}
    [created] = [
        entry
        for entry in cloud.registry.audit(M).items
        if (entry.action, entry.subject) == ("run_created", run.run_id)
    ]
    assert (created.actor, created.reason[:14]) == ("monitor", "drift episode ")


def test_inputs_that_drift_while_the_model_stays_right_start_no_training(
    cloud: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.apply(
        samples.spec(
            monitor={"persistence": 1},
            retrain={"on_drift": True, "cooldown": "1s", "min_new_rows": 100},
        )
    )
    cloud.train(M, "first.csv", samples.csv_file(samples.rows(600)))
    world = [{**row, "noise": str(float(row["noise"]) + 40)} for row in samples.rows(600, seed=5)]

    predicted(cloud, world, capsys)
    look(cloud)

    report = json.loads(cloud.api("GET", f"/v1/models/{M}/monitor")["body"])["report"]
    moved = {
        finding["subject"]
        for finding in report["findings"]
        if finding["kind"] == "feature_drift" and finding["verdict"] != "ok"
    }
    assert moved == {"noise"}
    assert [run.cause for run in cloud.registry.list_runs(M).items] == [Cause.UPLOAD]
