"""Whatever fails, whoever is faster and however often it is repeated, the record stays true."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings

from millrace.errors import ConcurrentWriteError, FinalError, RetryableError
from millrace.registry.changes import Backoff
from millrace.registry.records import BatchOutcome, RunOutcome
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.crashes import Killed
from tests.fakes.faults import Fault, FaultyTable
from tests.fakes.registry_machine import (
    IMPATIENT,
    Deed,
    Hands,
    RegistryMachine,
    ask,
    candidate,
    create,
    create_job,
    decide,
    eight_writers,
    end_rollout,
    evaluate,
    expire,
    log_metric,
    looked,
    move_job,
    move_rollout,
    promote_by_hand,
    queue_rollout,
    record_dataset,
    register,
    rollback,
    rollout_id_of,
    set_alias,
    start_rollout,
    task_of,
    whole_training,
)
from tests.fakes.soundness import check_model
from tests.fakes.table import FakeTable

M = cases.MODEL
SPEC = cases.spec()

# The exhaustive form, 500 examples of 30 steps, is a bench: tests/bench/test_registry_proof.py.
RegistryMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20)
TestRegistryMachine = RegistryMachine.TestCase


@pytest.fixture
def items() -> FakeTable:
    return FakeTable()


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.REPEATED, Fault.UNSENT, Fault.CONFLICT])
@pytest.mark.parametrize("at", range(8))
def test_a_fault_at_any_transaction_changes_nothing_of_the_end(
    items: FakeTable, fault: Fault, at: int
) -> None:
    table = FaultyTable(items)
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    cases.apply(registry, SPEC)

    hands = Hands(table, FakeClock(), counting_ids("again"))
    hands.registry = registry

    def insist(deed: Deed) -> None:
        try:
            deed(hands)
        except RetryableError:
            deed(hands)

    table.plan(*[None] * at, fault)
    for deed in whole_training(1):
        insist(deed)

    check_model(items.items(), M)
    assert registry.get_serving(M).version == 1
    assert registry.get_run(task_of(1).run_id).outcome is RunOutcome.PROMOTED
    assert sorted(e.action for e in registry.audit(M).items) == [
        "dataset_recorded",
        "promoted",
        "run_created",
        "run_finished",
        "spec_applied",
        "version_registered",
        "version_validated",
    ]


def test_rollback_whose_answer_was_lost_goes_back_once(items: FakeTable) -> None:
    table = FaultyTable(items)
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    for number in (1, 2, 3):
        cases.champion(registry, number)

    table.plan(Fault.REPEATED)
    promotion = registry.rollback(M, actor="ann", reason="worse")

    assert (promotion.version, promotion.previous) == (2, 3)
    assert registry.get_serving(M).version == 2
    check_model(items.items(), M)


@pytest.mark.parametrize("seed", range(5))
def test_eight_writers_at_once(items: FakeTable, seed: int) -> None:
    eight_writers(items, seed)


def test_races_lost_without_end_are_given_back_as_retryable(items: FakeTable) -> None:
    table = FaultyTable(items)
    waits: list[float] = []
    patient = Backoff(clock=lambda: sum(waits), wait=waits.append, draw=lambda _, most: most)
    registry = Registry(table, clock=FakeClock(), ids=counting_ids(), backoff=patient)
    task = cases.candidate(registry, 1)
    table.transactions = 0
    table.plan(*[Fault.CONFLICT] * 100)

    with pytest.raises(ConcurrentWriteError, match="lost 25 races in a row"):
        registry.promote(M, 1, actor="ann", reason="why", force=True)

    assert table.transactions == 25
    assert waits[:7] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.4]
    assert sum(waits) <= patient.deadline
    assert registry.champion(task.model) is None


JUDGED: list[Deed] = [
    deed
    for number in (1, 2)
    for deed in (
        create(number),
        record_dataset(number),
        register(number),
        evaluate(number, passed=True, automatic=True),
    )
]
FIRST = promote_by_hand(1, None, force=False)
SECOND = promote_by_hand(2, 1, force=True)
LATER = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)


def first_look(hands: Hands) -> None:
    """A look as the machine asks for it: by its number, so that none is taken twice."""
    rollout = hands.rollouts.get(rollout_id_of(1))
    if rollout.checks < 1:
        hands.rollouts.record_look(rollout, looked(rollout), "{}")


UNDER_WAY = [*JUDGED, FIRST, start_rollout(1, 2)]
THIRD = candidate(3)
CHANGES: dict[str, tuple[list[Deed], Deed]] = {
    "apply a spec": ([], lambda h: cases.apply(h.registry, cases.spec(description="new"))),
    "create a run": ([], create(1)),
    "start a run": ([create(1)], lambda h: h.registry.start_run(task_of(1).run_id)),
    "record a dataset version": ([create(1)], record_dataset(1)),
    "log": ([create(1)], log_metric(1, 0)),
    "register a version": (JUDGED[:2], register(1)),
    "judge a version": (JUDGED[:3], evaluate(1, passed=True, automatic=False)),
    "reject a version": (JUDGED[:3], evaluate(1, passed=False, automatic=True)),
    "fail a run": (
        [create(1)],
        lambda h: h.registry.finish_run(task_of(1).run_id, RunOutcome.FAILED),
    ),
    "promote": (JUDGED, FIRST),
    "promote and end the run": (JUDGED[:4], whole_training(1)[-1]),
    "promote over a champion": ([*JUDGED, FIRST], SECOND),
    "roll back": ([*JUDGED, FIRST, SECOND], rollback(None, 2, force=False)),
    "set an alias": (JUDGED, set_alias(1)),
    "delete an alias": ([*JUDGED, set_alias(1)], set_alias(None)),
    "create a batch job": ([*JUDGED, FIRST], create_job(1)),
    "end a batch job": ([*JUDGED, FIRST, create_job(1)], move_job(1, BatchOutcome.FAILED)),
    "resume a batch job": (
        [*JUDGED, FIRST, create_job(1), move_job(1, BatchOutcome.FAILED)],
        move_job(1, None),
    ),
    "start a rollout": ([*JUDGED, FIRST], start_rollout(1, 2)),
    "abort a rollout": ([*JUDGED, FIRST, start_rollout(1, 2)], end_rollout(1, "abort")),
    "roll a rollout back": ([*JUDGED, FIRST, start_rollout(1, 2)], end_rollout(1, "roll back")),
    "start the rollout of a training": ([*JUDGED, FIRST], start_rollout(1, 2, of_training=True)),
    "queue a rollout": ([*UNDER_WAY, *THIRD], queue_rollout(2, 3)),
    "replace a rollout": ([*UNDER_WAY, *THIRD], start_rollout(2, 3, IMPATIENT)),
    "begin a rollout that waited": (
        [*UNDER_WAY, *THIRD, queue_rollout(2, 3), end_rollout(1, "abort")],
        move_rollout("begin", waiting=True),
    ),
    "begin a rollout that is of no use": (
        [*UNDER_WAY, *THIRD, queue_rollout(2, 3), promote_by_hand(3, 1, force=True)],
        move_rollout("begin", waiting=True),
    ),
    "abort a rollout that waits": (
        [*UNDER_WAY, *THIRD, queue_rollout(2, 3)],
        move_rollout("abort", waiting=True),
    ),
    "promote at a rollout's end": (UNDER_WAY, end_rollout(1, "finish")),
    "promote by hand past a rollout": ([*UNDER_WAY, *THIRD], promote_by_hand(3, 1, force=True)),
    "look at a rollout": (UNDER_WAY, first_look),
    **{
        f"{how} a rollout": ([*UNDER_WAY, *before], move_rollout(how))
        for how, before in {
            "hold": [],
            "ask": [],
            "stall": [],
            "pause": [],
            "resume": [move_rollout("pause")],
        }.items()
    },
    "ask for approval": (JUDGED, ask(1)),
    "ask again after another evaluation": (
        [*JUDGED, ask(2), FIRST, decide(2, "approve"), evaluate(2, passed=True, automatic=False)],
        ask(2),
    ),
    "approve": ([*JUDGED, ask(1)], decide(1, "approve")),
    "reject": ([*JUDGED, ask(1)], decide(1, "reject")),
    "let a request expire": ([*JUDGED, ask(1)], expire(1)),
    "replace a request": ([*JUDGED, ask(2), FIRST], decide(2, "approve")),
    "answer a request by promoting": ([*JUDGED, ask(1)], FIRST),
}
MOVING = {
    *("at", "started_at", "ended_at", "created_at", "updated_at", "timestamp", "requested_at"),
    *("hash", "previous_hash", "entry_id", "change_id", "GSI1SK", "SK", "point", "began_at"),
    *("request_id", "deadline"),
}
"""What a repetition may say differently: times, ids, and what is made of them."""


def _told(table: FakeTable) -> list[Any]:
    def steady(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: steady(v)
                for k, v in value.items()
                if k not in MOVING and not k.endswith(("_at", "_until"))
            }
        return [steady(v) for v in value] if isinstance(value, list) else value

    return sorted((steady(i) for i in table.items()), key=repr)


def _prepared(before: list[Deed]) -> FakeTable:
    items = FakeTable()
    hands = Hands(items, FakeClock(), counting_ids())
    cases.apply(hands.registry, SPEC)
    for deed in before:
        deed(hands)
    return items


def _played(
    prepared: FakeTable, change: Deed, at: int | None, fault: Fault
) -> tuple[FakeTable, FaultyTable]:
    """A change that is killed at one of its calls and repeated."""
    items = prepared.copy()
    table = FaultyTable(items)
    clock, ids = FakeClock(LATER), counting_ids("then")
    table.plan_calls({} if at is None else {at: fault})
    try:
        change(Hands(table, clock, ids))
    except (Killed, RetryableError):
        try:
            change(Hands(table, clock, ids))
        except FinalError:
            # What was committed is there, and whoever repeats it may be told so: that it did not
            # happen a second time is what is looked at.
            return items, table
    return items, table


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(
    "fault", [Fault.KILLED_BEFORE, Fault.KILLED_AFTER, Fault.LOST_ANSWER, Fault.THROTTLED]
)
def test_every_call_of_every_change_may_be_the_last(name: str, fault: Fault) -> None:
    before, change = CHANGES[name]
    prepared = _prepared(before)
    expected, table = _played(prepared, change, None, fault)
    # To a call that only reads, the end of the process is all that can happen.
    killed = fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER)
    calls = range(table.calls) if killed else table.writes

    assert calls
    for at in calls:
        items, _ = _played(prepared, change, at, fault)
        check_model(items.items(), M)
        assert _told(items) == _told(expected), f"call {at} of {table.calls}"
