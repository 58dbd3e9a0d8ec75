"""The registry function, task by task as the state machine calls it."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from functions.registry import handler as registry_function
from millrace.aws.clients import client
from millrace.errors import (
    ChampionChangedError,
    ConflictError,
    DigestMismatchError,
    InvalidEventError,
)
from millrace.messages import Registration, TrainingInput, TrialResult
from millrace.registry.approvals import Approvals, open_approvals
from millrace.registry.records import RunOutcome, RunStatus, VersionStatus
from millrace.spec import Algorithm, ModelSpec
from tests.fakes import cases, cloud
from tests.fakes.crashes import Crash, Killed, When

Perform = Callable[..., dict[str, Any]]
M = cases.MODEL


def begin(
    stack: cloud.Cloud, number: int = 1, spec: ModelSpec | None = None, *, force: bool = False
) -> TrainingInput:
    """A run as the trigger leaves it."""
    used = spec or cases.spec()
    stack.apply(used)
    run = cases.run(number, used)
    stack.registry.create_run(run)
    return cases.training_input(run, force=force)


def train(perform: Perform, task: TrainingInput, dataset: str = "d1") -> dict[str, Any]:
    """Everything up to the evaluation; gives the registration."""
    ingest = cases.ingested(dataset)
    perform("record_dataset", task, ingest=ingest)
    return perform("register", task, ingest=ingest, fit=cases.fitted(task.run_id))


def judge(
    perform: Perform, task: TrainingInput, registration: dict[str, Any], *, passed: bool = True
) -> dict[str, Any]:
    """Records an evaluation against the champion of the registration."""
    against = registration["champion"]
    evaluation = cases.evaluated(
        task.run_id, passed=passed, champion=against and against["version"]
    )
    verdict = perform("record_evaluation", task, registration=registration, evaluation=evaluation)
    return {"verdict": verdict, "evaluation": evaluation}


def crown(perform: Perform, task: TrainingInput, dataset: str = "d1") -> dict[str, Any]:
    """A whole training."""
    registration = train(perform, task, dataset)
    judged = judge(perform, task, registration)
    return perform("promote", task, registration=registration, evaluation=judged["evaluation"])


def test_a_training_from_dataset_to_champion(stack: cloud.Cloud, perform: Perform) -> None:
    task = begin(stack)

    decision = perform("record_dataset", task, ingest=cases.ingested())
    for number in (1, 2):
        trial = TrialResult(
            trial_id=number,
            algorithm=Algorithm.LINEAR,
            params={"C": 1.0},
            metric="roc_auc",
            score=0.7,
            score_std=0.1,
        )
        assert perform("record_trial", task, trial=trial) == {}
    registration = perform("register", task, ingest=cases.ingested(), fit=cases.fitted(task.run_id))
    judged = judge(perform, task, registration)
    promotion = perform("promote", task, registration=registration, evaluation=judged["evaluation"])

    assert decision == {
        "decision": "train",
        "new_version": True,
        "trained_by_run": "",
        "reason": "",
    }
    assert registration == {
        "version": 1,
        "champion": None,
        "kms_signature": "",
        "kms_key_id": "",
    }
    assert judged["verdict"]["decision"] == "promote"
    assert promotion == {
        "version": 1,
        "previous": None,
        "strategy": "all-at-once",
    }
    run = stack.registry.get_run(task.run_id)
    assert (run.status, run.outcome, run.model_version) == (
        RunStatus.FINISHED,
        RunOutcome.PROMOTED,
        1,
    )
    assert run.params["algorithm"] == "linear"
    assert run.metrics["test_roc_auc"] == 0.81
    assert [t.trial_id for t in run.trials] == [1, 2]
    assert run.trials[0].params == {"C": 1.0}
    assert run.rows is not None
    assert run.rows.quarantined == 10
    version = stack.registry.get_version(M, 1)
    assert version.correlation_id == "event-1"
    assert isinstance(version.params["C"], float)
    assert version.metrics["roc_auc"].high == 0.86
    assert stack.events_told() == ["promoted"]
    assert {e.correlation_id for e in stack.registry.audit(M).items} == {"", "event-1"}


def test_refused_upload_closes_its_run(stack: cloud.Cloud, perform: Perform) -> None:
    task = begin(stack)

    perform("record_refusal", task, ingest=cases.refused())
    perform("record_refusal", task, ingest=cases.refused())

    run = stack.registry.get_run(task.run_id)
    assert (run.status, run.outcome) == (RunStatus.FINISHED, RunOutcome.REFUSED)
    assert (run.reason, run.error) == ("the file is empty", "empty_file")
    assert set(stack.events_told()) == {"refused"}


def test_same_rows_are_trained_once(stack: cloud.Cloud, perform: Perform) -> None:
    first = begin(stack, 1)
    crown(perform, first)
    again = begin(stack, 2)

    decision = perform("record_dataset", again, ingest=cases.ingested("d1"))

    assert decision["decision"] == "unchanged"
    assert decision["new_version"] is False
    assert decision["trained_by_run"] == first.run_id
    assert "churn@1 (promoted)" in decision["reason"]
    run = stack.registry.get_run(again.run_id)
    assert (run.status, run.outcome) == (RunStatus.FINISHED, RunOutcome.UNCHANGED)
    assert perform("record_dataset", again, ingest=cases.ingested("d1")) == decision


def test_forced_retraining_trains_the_same_rows_again(stack: cloud.Cloud, perform: Perform) -> None:
    crown(perform, begin(stack, 1))

    decision = perform("record_dataset", begin(stack, 2, force=True), ingest=cases.ingested("d1"))

    assert decision["decision"] == "train"


def test_new_spec_trains_the_same_rows_again(stack: cloud.Cloud, perform: Perform) -> None:
    crown(perform, begin(stack, 1))

    changed = cases.spec(description="changed")
    decision = perform("record_dataset", begin(stack, 2, changed), ingest=cases.ingested("d1"))

    assert decision["decision"] == "train"


def test_upload_is_only_stored_when_the_spec_says_so(stack: cloud.Cloud, perform: Perform) -> None:
    task = begin(stack, spec=cases.spec(retrain={"on_upload": False}))

    decision = perform("record_dataset", task, ingest=cases.ingested())

    assert decision["decision"] == "stored"
    assert stack.registry.get_run(task.run_id).outcome is RunOutcome.STORED
    assert stack.registry.latest_dataset(M).dataset_version == "d1"
    assert stack.events_told() == ["stored"]


def test_failed_gates_reject_the_version_and_close_the_run(
    stack: cloud.Cloud, perform: Perform
) -> None:
    task = begin(stack)
    registration = train(perform, task)

    judged = judge(perform, task, registration, passed=False)
    again = judge(perform, task, registration, passed=False)

    assert judged["verdict"]["decision"] == "reject"
    assert again["verdict"] == judged["verdict"]
    assert stack.registry.get_version(M, 1).status is VersionStatus.REJECTED
    assert stack.registry.get_run(task.run_id).outcome is RunOutcome.GATES_FAILED
    assert stack.registry.get_dataset(M, "d1").trained
    assert stack.registry.champion(M) is None


def _waiting(stack: cloud.Cloud, perform: Perform, **approve: Any) -> tuple[TrainingInput, Any]:
    """A run whose version waits for a person, and the fields its machine carries on."""
    task = begin(stack, spec=cases.spec(approve={"mode": "manual", **approve}))
    registration = train(perform, task)
    judged = judge(perform, task, registration)
    assert judged["verdict"]["decision"] == "await_approval"
    fields = {"registration": registration, "evaluation": judged["evaluation"]}
    registry_function.handler(
        {
            "action": "request_approval",
            "task_token": "token-1",
            "input": task.model_dump(mode="json") | fields,
        },
        cloud.LambdaContext(),
    )
    return task, fields


def test_manual_approval_asks_a_person_and_leaves_the_run_open(
    stack: cloud.Cloud, perform: Perform
) -> None:
    task, _ = _waiting(stack, perform, timeout="12h", four_eyes=True)

    run = stack.registry.get_run(task.run_id)
    asked = approvals().get(M, 1)
    assert (run.outcome, run.awaiting_approval) == (None, True)
    assert stack.registry.get_version(M, 1).status is VersionStatus.VALIDATED
    assert asked.deadline - asked.requested_at == timedelta(hours=12)
    assert asked.barred == {"ann": "applied the spec churn/1"}
    assert asked.task_token == "token-1"
    assert asked.evidence["metrics"]["roc_auc"]["value"] == 0.81


def test_what_a_machine_is_told_is_what_the_registry_says(
    stack: cloud.Cloud, perform: Perform
) -> None:
    task, fields = _waiting(stack, perform)

    woken = perform("settle_approval", task, **fields)
    approvals().decide(M, 1, "approve", actor="ada", reason="reviewed")
    settled = perform("settle_approval", task, **fields)
    promotion = perform("promote", task, **fields)

    assert woken["decision"] == "pending"
    assert settled == {"decision": "approved", "reason": "reviewed"}
    assert promotion == {
        "version": 1,
        "previous": None,
        "strategy": "all-at-once",
    }
    promoted = next(e for e in stack.registry.audit(M).items if e.action == "promoted")
    assert (promoted.actor, promoted.reason) == ("ada", "reviewed")
    run = stack.registry.get_run(task.run_id)
    assert (run.outcome, run.awaiting_approval) == (RunOutcome.PROMOTED, False)


def test_rejection_closes_the_run_with_its_reason(stack: cloud.Cloud, perform: Perform) -> None:
    task, fields = _waiting(stack, perform)
    approvals().decide(M, 1, "reject", actor="ada", reason="worse in the north")

    first = perform("settle_approval", task, **fields)
    again = perform("settle_approval", task, **fields)

    run = stack.registry.get_run(task.run_id)
    assert first == again == {"decision": "rejected", "reason": "worse in the north"}
    assert (run.outcome, run.reason) == (RunOutcome.REJECTED, "worse in the north")
    assert stack.events_told() == [], "the events function tells of this"


def test_expiry_closes_the_run_and_says_so(stack: cloud.Cloud, perform: Perform) -> None:
    task, fields = _waiting(stack, perform)

    first = perform("expire_approval", task, **fields)
    again = perform("expire_approval", task, **fields)

    run = stack.registry.get_run(task.run_id)
    assert first == again
    assert first["decision"] == "expired"
    assert run.outcome is RunOutcome.EXPIRED
    assert run.reason.startswith("nobody answered the request of ")
    assert stack.events_told() == [], "the events function tells of this"


def test_machine_that_asks_after_a_promotion_by_hand_finds_it(
    stack: cloud.Cloud, perform: Perform
) -> None:
    task = begin(stack, spec=cases.spec(approve={"mode": "manual"}))
    registration = train(perform, task)
    judged = judge(perform, task, registration)
    fields = {"registration": registration, "evaluation": judged["evaluation"]}
    stack.registry.promote(M, 1, actor="ada", reason="looks right")

    settled = perform("settle_approval", task, **fields)
    promotion = perform("promote", task, **fields)

    assert settled["decision"] == "approved"
    assert promotion["version"] == 1
    assert stack.registry.get_run(task.run_id).outcome is RunOutcome.PROMOTED


def test_champion_that_changed_is_compared_with_anew(stack: cloud.Cloud, perform: Perform) -> None:
    slow, fast = begin(stack, 1), begin(stack, 2)
    registration = train(perform, slow, "d1")
    judged = judge(perform, slow, registration)
    crown(perform, fast, "d2")

    with pytest.raises(ChampionChangedError):
        perform("promote", slow, registration=registration, evaluation=judged["evaluation"])
    fresh = perform("read_champion", slow, registration=Registration.model_validate(registration))
    judged = judge(perform, slow, fresh)
    promotion = perform("promote", slow, registration=fresh, evaluation=judged["evaluation"])

    assert fresh["champion"]["version"] == 2
    assert promotion == {
        "version": 1,
        "previous": 2,
        "strategy": "all-at-once",
    }
    assert stack.registry.get_version(M, 1).compared_with == 2


def test_candidate_that_loses_to_the_new_champion_is_rejected(
    stack: cloud.Cloud, perform: Perform
) -> None:
    slow, fast = begin(stack, 1), begin(stack, 2)
    registration = train(perform, slow, "d1")
    judge(perform, slow, registration)
    crown(perform, fast, "d2")

    fresh = perform("read_champion", slow, registration=Registration.model_validate(registration))
    judged = judge(perform, slow, fresh, passed=False)

    assert judged["verdict"]["decision"] == "reject"
    assert stack.registry.get_version(M, 1).status is VersionStatus.REJECTED
    assert stack.registry.get_serving(M).version == 2


def test_failure_closes_an_open_run_once(
    stack: cloud.Cloud, perform: Perform, capsys: pytest.CaptureFixture[str]
) -> None:
    task = begin(stack)
    failure = {"Error": "NoViableTrialError", "Cause": '{"errorMessage": "every trial failed"}'}

    perform("record_failure", task, failure=failure)
    perform("record_failure", task, failure=failure)

    run = stack.registry.get_run(task.run_id)
    assert (run.status, run.outcome, run.error) == (
        RunStatus.FAILED,
        RunOutcome.FAILED,
        "NoViableTrialError",
    )
    assert stack.events_told() == ["failed"]
    assert stack.notices()[0]["correlation_id"] == "event-1"
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (emitted,) = [line for line in lines if "RunsFailed" in line]
    assert emitted["RunsFailed"] == [1.0]
    # The alarm asks for the metric by service alone.
    assert ["service"] in emitted["_aws"]["CloudWatchMetrics"][0]["Dimensions"]


def approvals() -> Approvals:
    return open_approvals(client("dynamodb"), cloud.TABLE)


def ended(run_id: str, status: str = "ABORTED", **detail: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "event-9",
        "detail-type": "Step Functions Execution Status Change",
        "source": "aws.states",
        "account": "123456789012",
        "time": "2026-11-01T12:00:00Z",
        "region": "us-east-1",
        "resources": [],
        "detail": {"name": run_id, "status": status, "input": None, **detail},
    }


def handle(event: dict[str, Any]) -> dict[str, Any]:
    return registry_function.handler(event, cloud.LambdaContext())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        # The two that `States.ALL` does not catch, and what ends a machine from outside.
        ("FAILED", "States.Runtime"),
        ("FAILED", "States.DataLimitExceeded"),
        ("TIMED_OUT", "States.Timeout"),
        ("ABORTED", "Stopped"),
    ],
)
def test_execution_that_could_not_close_its_run_is_closed_from_outside(
    stack: cloud.Cloud, status: str, error: str
) -> None:
    task = begin(stack)

    first = handle(ended(task.run_id, status, error=error, cause="no such path"))
    again = handle(ended(task.run_id, status))

    run = stack.registry.get_run(task.run_id)
    assert (first["closed"], again["closed"]) == (True, False)
    assert (run.outcome, run.error) == (RunOutcome.FAILED, error)
    assert "no such path" in run.reason
    assert stack.events_told() == ["failed"]


def test_late_failure_never_overwrites_an_outcome(stack: cloud.Cloud, perform: Perform) -> None:
    task = begin(stack)
    crown(perform, task)

    closed = handle(ended(task.run_id, "FAILED"))["closed"]
    perform("record_failure", task, failure={"Error": "X", "Cause": ""})

    assert closed is False
    assert stack.registry.get_run(task.run_id).outcome is RunOutcome.PROMOTED
    assert stack.events_told() == ["promoted"]


def test_failure_of_an_execution_nobody_recorded_is_only_logged(stack: cloud.Cloud) -> None:
    assert handle(ended("by-hand"))["closed"] is False


def test_aborted_run_goes_no_further(stack: cloud.Cloud, perform: Perform) -> None:
    task = begin(stack)
    registration = train(perform, task)
    judged = judge(perform, task, registration)
    handle(ended(task.run_id))

    with pytest.raises(ConflictError, match="is closed: failed"):
        perform("promote", task, registration=registration, evaluation=judged["evaluation"])

    assert stack.registry.champion(M) is None


def test_changed_spec_document_is_not_used(stack: cloud.Cloud, perform: Perform) -> None:
    task = begin(stack)
    client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=task.spec_key, Body=b"{}")

    with pytest.raises(DigestMismatchError):
        perform("record_dataset", task, ingest=cases.ingested())


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"action": "explode", "input": {}},
        {"action": "promote", "input": {"run_id": "x"}},
        {"action": "promote", "input": "no mapping"},
        {"detail-type": "Something Else", "source": "aws.ec2"},
    ],
)
def test_event_that_is_no_task_is_refused(stack: cloud.Cloud, event: dict[str, Any]) -> None:
    with pytest.raises(InvalidEventError):
        handle(event)


def test_notice_that_cannot_be_sent_stops_nothing(stack: cloud.Cloud, perform: Perform) -> None:
    task = begin(stack)
    client("sns").delete_topic(TopicArn=stack.topic_arn)

    perform("record_refusal", task, ingest=cases.refused())

    assert stack.registry.get_run(task.run_id).outcome is RunOutcome.REFUSED


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write_a_repeated_task_gives_the_same_end(
    stack: cloud.Cloud, perform: Perform, when: When, pytestconfig: pytest.Config
) -> None:
    """Every third write call; all of them with ``--crashes``."""
    first = begin(stack, 1)
    counter = Crash()
    counter.install()
    crown(perform, first, "d1")
    writes = len(counter.calls)
    assert writes > 5

    step = 1 if pytestconfig.getoption("--crashes") else 3
    for version, number in enumerate(range(0, writes, step), start=2):
        crash = Crash(at=number, when=when)
        task = begin(stack, version)
        crash.install()
        _with_retries(perform, task, f"d{version}", crash)

        _assert_sound(stack)
        run = stack.registry.get_run(task.run_id)
        assert run.outcome is RunOutcome.PROMOTED
        assert run.model_version == version
        assert stack.registry.get_serving(M).run_id == task.run_id
        assert crash.armed is False


def _with_retries(perform: Perform, task: TrainingInput, dataset: str, crash: Crash) -> None:
    """A training whose every task is repeated when it is killed."""

    def insist(*args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return perform(*args, **kwargs)
        except Killed:
            return perform(*args, **kwargs)

    crown(insist, task, dataset)


def _assert_sound(stack: cloud.Cloud) -> None:
    """One champion, told alike everywhere; audit entries agree with the changes."""
    registry = stack.registry
    model = registry.get_model(M)
    versions = registry.list_versions(M, limit=200).items
    champions = [v.version for v in versions if v.status is VersionStatus.CHAMPION]
    audit = registry.audit(M, limit=200).items
    assert champions == [model.champion_version]
    assert registry.get_serving(M).version == champions[0]
    assert registry.get_version(M, "champion").version == champions[0]
    assert sorted(v.version for v in versions) == list(range(1, model.latest_version + 1))
    for action in ("version_registered", "promoted"):
        subjects = [e.subject for e in audit if e.action == action]
        assert len(subjects) == len(set(subjects))
