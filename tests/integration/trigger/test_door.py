"""Every cause of a training comes in once, whatever happens on the way."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from functions.trigger import handler as trigger
from millrace import layout
from millrace.aws.clients import client
from millrace.errors import ConcurrentWriteError, InvalidEventError, NotFoundError
from millrace.messages import TrainingInput
from millrace.registry.records import RunOutcome, RunStatus
from tests.fakes import cases, cloud
from tests.fakes.crashes import Crash, Killed, When

Deliver = Callable[..., dict[str, Any]]
Created = Callable[..., dict[str, Any]]


def retrain(token: str = "t1", model: str = "churn") -> dict[str, Any]:  # noqa: S107
    return {
        "source": "millrace.api",
        "detail-type": "Retrain Requested",
        "detail": {"model": model, "token": token, "reason": "drift", "requested_by": "ann"},
    }


def with_dataset(stack: cloud.Cloud, spec: Any) -> None:
    run = cases.run(7, spec)
    stack.registry.create_run(run)
    stack.registry.record_dataset(
        cases.training_input(run), cases.ingested("d7"), train_on_upload=True
    )


def test_upload_starts_one_execution_named_after_its_run(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created
) -> None:
    spec = cases.spec()
    stack.apply(spec)

    answer = deliver(object_created("incoming/churn/müller+sohn 1.csv"))

    run_id = layout.run_id_for_upload(
        "churn", cases.DATA_BUCKET, "incoming/churn/müller+sohn 1.csv", "ver1"
    )
    assert answer["status"] == "started"
    assert (answer["run_id"], answer["started"]) == (run_id, True)
    assert stack.executions() == [run_id]
    run = stack.registry.get_run(run_id)
    assert run.status is RunStatus.RUNNING
    assert run.source.key == "incoming/churn/müller+sohn 1.csv"
    execution = client("stepfunctions").describe_execution(executionArn=run.execution_arn)
    payload = TrainingInput.model_validate(json.loads(execution["input"]))
    assert payload.correlation_id == "event-1"
    assert (payload.spec_key, payload.spec_digest) == (
        layout.spec_key("churn", spec.digest),
        spec.digest,
    )
    assert payload.force is False


def test_same_event_twice_is_one_execution(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created
) -> None:
    stack.apply(cases.spec())

    first = deliver(object_created())
    again = deliver(object_created())
    other_id = deliver(object_created(event_id="event-2"))

    assert (first["status"], again["status"], other_id["status"]) == (
        "started",
        "duplicate",
        "duplicate",
    )
    assert again["run_id"] == first["run_id"]
    assert again["started"] is False
    assert len(stack.executions()) == 1


def test_conditions_hold_without_the_idempotency_record(
    stack: cloud.Cloud,
    deliver: Deliver,
    object_created: Created,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack.apply(cases.spec())
    first = deliver(object_created())
    table = client("dynamodb")
    for item in table.scan(TableName=cloud.TABLE)["Items"]:
        if item["PK"]["S"].startswith("IDEMPOTENCY"):
            table.delete_item(TableName=cloud.TABLE, Key={"PK": item["PK"], "SK": item["SK"]})

    again = deliver(object_created(event_id="event-2"))

    assert (again["status"], again["run_id"]) == ("duplicate", first["run_id"])
    assert len(stack.executions()) == 1


def test_idempotency_record_expires_by_the_tables_ttl(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created
) -> None:
    stack.apply(cases.spec())

    deliver(object_created())

    items = client("dynamodb").scan(TableName=cloud.TABLE)["Items"]
    (record,) = [i for i in items if i["PK"]["S"] == trigger.IDEMPOTENCY_PK]
    assert int(record["expires_at"]["N"]) > 0


def test_same_key_uploaded_again_is_another_run(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created
) -> None:
    stack.apply(cases.spec())

    deliver(object_created(version="ver1"))
    deliver(object_created(version="ver2"))

    assert len(stack.executions()) == 2


def test_a_delivery_in_progress_is_retried_later(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created
) -> None:
    stack.apply(cases.spec())
    crash = Crash(at=1, when="after")
    crash.install()
    with pytest.raises(Killed):
        deliver(object_created())

    with pytest.raises(ConcurrentWriteError, match="being admitted right now"):
        deliver(object_created())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("cause", ["upload", "retrain"])
def test_killed_at_any_write_the_next_delivery_finishes_the_work(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created, when: When, cause: str
) -> None:
    spec = cases.spec()
    stack.apply(spec)
    with_dataset(stack, spec)
    counted = Crash()
    counted.install()

    def event(number: int) -> dict[str, Any]:
        if cause == "upload":
            return object_created(f"incoming/churn/{number}.csv", version=f"v{number}")
        return retrain(f"token-{number}")

    deliver(event(0))
    calls = len(counted.calls)
    assert counted.calls == [
        "PutItem",
        "TransactWriteItems",
        "StartExecution",
        "TransactWriteItems",
        "UpdateItem",
    ]

    for number in range(calls):
        crash = Crash(at=number, when=when)
        crash.install()
        before = len(stack.executions())
        with pytest.raises(Killed):
            # No time left: what it leaves in progress is taken up at once.
            deliver(event(number + 1), remaining_ms=0)
        answer = deliver(event(number + 1))

        assert len(stack.executions()) == before + 1, (number, when)
        run = stack.registry.get_run(answer["run_id"])
        assert run.status is RunStatus.RUNNING
        assert run.run_id in stack.executions()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("incoming/nobody/file.csv", "no model 'nobody'"),
        ("incoming/file.csv", "incoming/<model>/<file>"),
        ("incoming/No Model/file.csv", "is no model name"),
        ("elsewhere/churn/file.csv", "incoming/<model>/<file>"),
    ],
)
def test_upload_that_leads_nowhere_is_told_and_is_no_error(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created, key: str, reason: str
) -> None:
    stack.apply(cases.spec())

    answer = deliver(object_created(key))

    assert answer["status"] == "unroutable"
    assert reason in answer["reason"]
    assert stack.executions() == []
    assert stack.events_told() == ["upload_unroutable"]


def test_unsupported_file_of_a_known_model_is_a_refused_run(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created
) -> None:
    stack.apply(cases.spec())

    answer = deliver(object_created("incoming/churn/table.xlsx"))
    deliver(object_created("incoming/churn/table.xlsx"))

    run = stack.registry.get_run(answer["run_id"])
    assert answer["status"] == "unroutable"
    assert (run.status, run.outcome) == (RunStatus.FINISHED, RunOutcome.REFUSED)
    assert "ends in none of .csv" in run.reason
    assert stack.executions() == []
    assert stack.events_told() == ["upload_unroutable"]


def test_folder_marker_is_ignored(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created
) -> None:
    stack.apply(cases.spec())

    assert deliver(object_created("incoming/churn/", size=0))["status"] == "ignored"

    assert stack.registry.list_runs("churn").items == ()
    assert stack.events_told() == []


def test_object_without_version_is_told_apart_by_its_etag(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created
) -> None:
    stack.apply(cases.spec())

    first = deliver(object_created(version=None))
    again = deliver(object_created(version=None))

    assert (first["status"], again["status"]) == ("started", "duplicate")


def test_retraining_uses_the_latest_upload_and_is_forced(
    stack: cloud.Cloud, deliver: Deliver
) -> None:
    spec = cases.spec()
    stack.apply(spec)
    with_dataset(stack, spec)

    answer = deliver(retrain())
    again = deliver(retrain())

    assert answer["started"] is True
    assert (again["run_id"], again["started"]) == (answer["run_id"], False)
    run = stack.registry.get_run(answer["run_id"])
    assert run.source == cases.source(7)
    assert (run.requested_by, run.reason) == ("ann", "drift")
    execution = client("stepfunctions").describe_execution(executionArn=run.execution_arn)
    assert json.loads(execution["input"])["force"] is True


def test_retraining_without_data_says_what_to_do(stack: cloud.Cloud, deliver: Deliver) -> None:
    stack.apply(cases.spec())

    with pytest.raises(NotFoundError, match=r"no dataset version yet.*upload a file"):
        deliver(retrain())
    with pytest.raises(NotFoundError, match="no model 'nobody'"):
        deliver(retrain(model="nobody"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"detail-type": "Object Deleted"}, "detail-type"),
        ({"detail": {}}, "bucket"),
        ({"source": "made.up"}, "source"),
        ({"Records": [], "detail-type": None}, "event"),
    ],
    ids=["other type", "no detail", "other source", "s3 notification"],
)
def test_event_that_is_not_ours_is_refused_by_field(
    stack: cloud.Cloud,
    deliver: Deliver,
    object_created: Created,
    change: dict[str, Any],
    named: str,
) -> None:
    with pytest.raises(InvalidEventError, match="expected an S3 'Object Created'") as refused:
        deliver(object_created() | change)

    assert any(named in p.field or named in p.message for p in refused.value.problems)


def test_event_of_another_bucket_is_refused(
    stack: cloud.Cloud, deliver: Deliver, object_created: Created
) -> None:
    with pytest.raises(InvalidEventError, match="expected 'data-bucket', got 'other'"):
        deliver(object_created(bucket="other"))


def test_drift_starts_a_training_with_the_labels_since_the_upload_once_for_an_episode(
    stack: cloud.Cloud, deliver: Deliver
) -> None:
    spec = cases.spec()
    stack.apply(spec)
    with_dataset(stack, spec)
    event = retrain("episode-1")
    event["source"] = "millrace.monitor"
    event["detail"] |= {"cause": "drift", "labelled": True}

    answer = deliver(event)
    again = deliver(event)

    assert (answer["status"], again["status"]) == ("started", "duplicate")
    run = stack.registry.get_run(answer["run_id"])
    assert (run.cause, run.reason, run.requested_by) == ("drift", "drift", "ann")
    dataset = stack.registry.latest_dataset("churn")
    assert run.labelled is not None
    assert (run.labelled.base_version, run.labelled.previous_key) == ("d7", "")
    assert (run.labelled.since, run.labelled.until) == (dataset.created_at, run.started_at)
    execution = client("stepfunctions").describe_execution(executionArn=run.execution_arn)
    payload = TrainingInput.model_validate(json.loads(execution["input"]))
    assert payload.labelled == run.labelled
    assert not payload.force
