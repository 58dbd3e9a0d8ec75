"""Batch jobs: recorded once, moved along their states, resumed, and never overwritten by the past."""

from typing import Any

import pytest

from millrace.errors import ConflictError, InvalidTransitionError, NotFoundError
from millrace.messages import FinishResult, RowCounts, SplitResult
from millrace.registry.batch_recorder import BatchRecorder
from millrace.registry.batches import Batches
from millrace.registry.records import Batch, BatchOutcome, RunStatus
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

ID = "churn-batch-" + "0" * 24
SCORED = FinishResult(
    outcome="scored",
    rows=RowCounts(read=10, accepted=9, quarantined=1),
    predictions_key="results/churn/x/predictions.csv",
)


class Told:
    """A notifier that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def notify(self, notice: Any) -> None:
        """See `Notifier.notify`."""
        self.events.append(notice.event)


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


@pytest.fixture
def registry(table: FakeTable) -> Registry:
    return Registry(table, clock=FakeClock(), ids=counting_ids())


@pytest.fixture
def batches(table: FakeTable, registry: Registry) -> Batches:
    cases.champion(registry, 1)
    return Batches(table, registry, clock=FakeClock(), ids=counting_ids("batch"))


def job(**changes: Any) -> Batch:
    return Batch(
        **{
            "batch_id": ID,
            "model": cases.MODEL,
            "correlation_id": "event-1",
            "source": cases.source(),
            "version": 1,
            "spec_version": 1,
            "spec_digest": cases.spec().digest,
            "created_at": "2026-11-01T10:00:00Z",
            "status": RunStatus.SCHEDULED,
            **changes,
        }
    )


def arn(attempt: int) -> str:
    return f"execution-{attempt}"


def failed(batches: Batches) -> None:
    batches.create(job())
    batches.start(ID, 1)
    assert batches.finish(ID, 1, BatchOutcome.FAILED, reason="a chunk", error="ArtifactError")


def test_a_job_is_recorded_once(batches: Batches, registry: Registry) -> None:
    assert batches.create(job())

    assert not batches.create(job(correlation_id="event-2"))
    assert batches.get(ID).correlation_id == "event-1"
    [entry] = [e for e in registry.audit(cases.MODEL, limit=50).items if e.subject == ID]
    assert (entry.action, entry.after) == ("batch_created", "SCHEDULED")


def test_a_job_is_pinned_to_the_champion_of_its_record(
    batches: Batches, registry: Registry
) -> None:
    cases.champion(registry, 2)

    with pytest.raises(ConflictError, match="churn@2 is champion now"):
        batches.create(job(version=1))
    with pytest.raises(NotFoundError):
        batches.get(ID)
    assert batches.create(job(version=2))


def test_a_job_of_no_model_is_not_recorded(batches: Batches) -> None:
    with pytest.raises(NotFoundError):
        batches.create(job(model="nobody"))


def test_a_job_goes_through_its_states_and_keeps_its_outcome(
    batches: Batches, registry: Registry
) -> None:
    batches.create(job())
    split = SplitResult(outcome="accepted", rows=SCORED.rows, chunks=(0, 1))

    assert batches.start(ID, 1)
    assert not batches.start(ID, 1)
    assert batches.record_split(ID, 1, split)
    assert batches.finish(ID, 1, BatchOutcome.SCORED, result=SCORED)

    found = batches.get(ID)
    assert (found.status, found.outcome) == (RunStatus.FINISHED, BatchOutcome.SCORED)
    assert (found.chunks, found.predictions_key) == (2, SCORED.predictions_key)
    assert not batches.finish(ID, 1, BatchOutcome.FAILED, error="Late")
    assert not batches.record_split(ID, 1, split)
    assert batches.get(ID) == found
    actions = [e.action for e in registry.audit(cases.MODEL, limit=50).items if e.subject == ID]
    assert actions == ["batch_finished", "batch_created"]
    assert [b.batch_id for b in batches.list(cases.MODEL).items] == [ID]


def test_only_a_failed_job_is_resumed_and_its_past_says_nothing_more(batches: Batches) -> None:
    failed(batches)

    resumed = batches.resume(ID, actor="ann", execution_arn=arn)

    assert (resumed.status, resumed.attempt) == (RunStatus.SCHEDULED, 2)
    assert (resumed.outcome, resumed.error, resumed.execution_arn) == (None, "", "execution-2")
    assert not batches.finish(ID, 1, BatchOutcome.FAILED, error="Late")
    assert not batches.finish(ID, 1, BatchOutcome.SCORED, result=SCORED)
    assert not batches.start(ID, 1)
    with pytest.raises(InvalidTransitionError, match="it is scheduled"):
        batches.resume(ID, actor="ann", execution_arn=arn)
    assert batches.finish(ID, 2, BatchOutcome.SCORED, result=SCORED)


def test_a_redriven_execution_may_still_end_well(batches: Batches) -> None:
    failed(batches)

    assert batches.finish(ID, 1, BatchOutcome.SCORED, result=SCORED)

    assert batches.get(ID).outcome is BatchOutcome.SCORED


@pytest.mark.parametrize(
    ("execution", "closed"),
    [(ID, False), (f"{ID}-2", True), (f"{ID}-3", False), ("churn-batch-unknown", False)],
    ids=["first attempt", "this attempt", "a later one", "no job"],
)
def test_an_execution_that_ended_badly_closes_its_own_attempt_alone(
    batches: Batches, execution: str, closed: bool
) -> None:
    failed(batches)
    batches.resume(ID, actor="ann", execution_arn=arn)
    told = Told()
    recorder = BatchRecorder(batches=batches, notifier=told)

    answer = recorder.execution_ended_badly(
        execution=execution, status="ABORTED", error="", cause="by hand"
    )

    assert answer is closed
    assert told.events == (["batch_failed"] if closed else [])
    expected = RunStatus.FAILED if closed else RunStatus.SCHEDULED
    assert batches.get(ID).status is expected
