"""By the calendar: the deployed rule ticks, and what is due is trained, on labelled predictions too."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace.aws.dynamodb import DynamoTable
from millrace.aws.s3 import S3ObjectStore
from millrace.monitoring.captures import captured
from millrace.monitoring.labelbook import LabelBook
from millrace.serving.identity import predicted_at
from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Client, Follow, Named, Sample, Until, Upload, spec_document

# Disposable, since the rule looks at every model of the stack.
pytestmark = pytest.mark.needs("upload-events", "state-machine", "rest-api", "logs", "disposable")

UPLOADED, LABELLED = 300, 60
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def calendar_rule(client: Client, target: Target) -> dict[str, Any]:
    """The deployment's rule, as EventBridge describes it."""
    found = target.cloudformation.describe_stack_resource(
        StackName=target.stack, LogicalResourceId="CalendarRule"
    )
    name = found["StackResourceDetail"]["PhysicalResourceId"]
    return dict(client("events").describe_rule(Name=name))


@contextmanager
def hurried(client: Client, rule: dict[str, Any]) -> Iterator[None]:
    """The rule ticks each minute meanwhile."""

    def schedule(expression: str) -> None:
        client("events").put_rule(
            Name=rule["Name"],
            Description=rule["Description"],
            State=rule["State"],
            ScheduleExpression=expression,
        )

    schedule("rate(1 minute)")
    try:
        yield
    finally:
        schedule(rule["ScheduleExpression"])


@pytest.mark.needs("schedules")
def test_what_is_due_is_trained_when_the_rule_ticks(
    api: ApiClient,
    client: Client,
    calendar_rule: dict[str, Any],
    follow: Follow,
    patiently: Until,
    upload: Upload,
    named: Named,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    model = named("calendar")
    retrain = {"on_upload": False, "on_schedule": "daily", "monthly_budget": 100}
    api.put(
        f"/v1/specs/{model}", spec_document(model, cancer, train={"trials": 1}, retrain=retrain)
    )
    run = upload(model, cancer.write(tmp_path / "all.csv", stop=UPLOADED))
    assert run["outcome"] == "stored", run

    with hurried(client, calendar_rule):
        [run_id] = patiently(lambda: _scheduled(api, model), seconds=150)
    run = follow(run_id)

    assert (run["outcome"], run["requested_by"]) == ("promoted", "calendar"), run
    assert run["rows"]["accepted"] == UPLOADED
    assert api.get(f"/v1/models/{model}")["champion_version"] == 1


def test_labelled_predictions_come_in_with_the_next_slot(
    api: ApiClient,
    client: Client,
    target: Target,
    calendar_rule: dict[str, Any],
    follow: Follow,
    patiently: Until,
    upload: Upload,
    named: Named,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    model = named("labelled")
    retrain = {"on_schedule": "daily"}
    api.put(
        f"/v1/specs/{model}", spec_document(model, cancer, train={"trials": 1}, retrain=retrain)
    )
    run = upload(model, cancer.write(tmp_path / "all.csv", stop=UPLOADED))
    assert run["outcome"] == "promoted", run
    _label(api, client, target, patiently, model, cancer)
    slot = datetime.fromisoformat(run["started_at"])

    ticks = [_tick(client, target, calendar_rule, slot + days * DAY) for days in (0, 1, 1)]

    mine = [one for tick in ticks for one in tick if one["model"] == model]
    assert [one["status"] for one in mine] == ["ignored", "started", "duplicate"]
    run = follow(mine[1]["run_id"])
    assert run["outcome"] in ("promoted", "gates_failed"), run
    assert run["rows"]["accepted"] == UPLOADED + LABELLED


def _scheduled(api: ApiClient, model: str) -> list[str]:
    """The runs that the calendar began."""
    runs = api.get(f"/v1/models/{model}/runs")["items"]
    return [run["run_id"] for run in runs if run["cause"] == "schedule"]


def _label(
    api: ApiClient, client: Client, target: Target, patiently: Until, model: str, sample: Sample
) -> None:
    """Predicts rows that the model never saw, and says what came to be true."""
    indices = range(UPLOADED, UPLOADED + LABELLED)
    rows = [sample.feature_row(i) for i in indices]
    made = api.post(f"/v1/models/{model}/predict", {"rows": rows})["prediction_id"]
    labels = [
        {"prediction_id": made, "row": row, "label": int(sample.rows[i][-1])}
        for row, i in enumerate(indices)
    ]
    assert api.post(f"/v1/models/{model}/feedback", {"labels": labels})["accepted"] == LABELLED
    since, until = predicted_at(made), predicted_at(made) + timedelta(milliseconds=1)
    store = S3ObjectStore(target.s3)
    book = LabelBook(DynamoTable(client("dynamodb"), target.outputs.raw["TableName"]), DAY)
    patiently(
        lambda: list(captured(store, target.outputs.data_bucket, model, since, until)), seconds=60
    )
    patiently(lambda: len(list(book.of_span(model, since, until))) == LABELLED or None, seconds=60)


def _tick(
    client: Client, target: Target, rule: dict[str, Any], moment: datetime
) -> list[dict[str, Any]]:
    """What a tick of the rule at some moment admits."""
    event = {
        "version": "0",
        "id": f"tick-{moment:%Y-%m-%d}",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": rule["Arn"].split(":")[4],
        "time": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "region": rule["Arn"].split(":")[3],
        "resources": [rule["Arn"]],
        "detail": {},
    }
    made = client("lambda").invoke(
        FunctionName=target.outputs.raw["TriggerFunctionName"], Payload=json.dumps(event).encode()
    )
    answer = json.loads(made["Payload"].read())
    assert "FunctionError" not in made, answer
    admissions: list[dict[str, Any]] = answer["admissions"]
    return admissions
