"""Whatever fails, whoever is faster and however often it is repeated, the record stays true."""

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from millrace.errors import ConcurrentWriteError, FinalError, RetryableError
from millrace.messages import ChampionRef, TrainingInput
from millrace.registry.champions import ANY_CHAMPION
from millrace.registry.changes import Backoff
from millrace.registry.records import RunOutcome
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.faults import Fault, FaultyTable
from tests.fakes.soundness import check_model
from tests.fakes.table import FakeTable

M = cases.MODEL
SPEC = cases.spec()
type Deed = Callable[[Registry], Any]

faults = st.sampled_from([*Fault, None])
numbers = st.integers(1, 6)
champions = st.sampled_from([ANY_CHAMPION, None, 1, 2, 3])


def create(number: int) -> Deed:
    return lambda r: r.create_run(cases.run(number, SPEC))


def task_of(number: int) -> TrainingInput:
    return cases.training_input(cases.run(number, SPEC), force=True)


def record_dataset(number: int) -> Deed:
    return lambda r: r.record_dataset(
        task_of(number), cases.ingested(f"d{number % 3}"), train_on_upload=True
    )


def register(number: int) -> Deed:
    task = task_of(number)
    return lambda r: r.register_version(
        task, cases.ingested(f"d{number % 3}"), cases.fitted(task.run_id)
    )


def evaluate(number: int, passed: bool, automatic: bool) -> Deed:
    def deed(registry: Registry) -> None:
        run = registry.get_run(task_of(number).run_id)
        if run.model_version is None:
            return
        now: ChampionRef | None = registry.champion_ref(M)
        if now is not None and now.version == run.model_version:
            return
        registry.record_evaluation(
            task_of(number),
            run.model_version,
            cases.evaluated(run.run_id, passed=passed, champion=now.version if now else None),
            automatic=automatic,
        )

    return deed


def promote_by_pipeline(number: int) -> Deed:
    def deed(registry: Registry) -> None:
        run = registry.get_run(task_of(number).run_id)
        if run.model_version is None:
            return
        version = registry.get_version(M, run.model_version)
        if version.verdict != "passed":
            return
        registry.promote(
            M,
            version.version,
            actor="pipeline",
            expected_champion=version.compared_with,
            finishing_run=run.run_id,
        )

    return deed


def promote_by_hand(version: int, expected: Any, force: bool) -> Deed:
    return lambda r: r.promote(
        M, version, actor="ann", reason="why", expected_champion=expected, force=force
    )


def rollback(to: int | None, expected: Any, force: bool) -> Deed:
    return lambda r: r.rollback(
        M, to=to, actor="ann", reason="why", expected_champion=expected, force=force
    )


def abort(number: int) -> Deed:
    return lambda r: r.finish_run(task_of(number).run_id, RunOutcome.FAILED, error="Aborted")


deeds: st.SearchStrategy[Deed] = st.one_of(
    st.builds(create, numbers),
    st.builds(record_dataset, numbers),
    st.builds(register, numbers),
    st.builds(evaluate, numbers, st.booleans(), st.booleans()),
    st.builds(promote_by_pipeline, numbers),
    st.builds(promote_by_hand, numbers, champions, st.booleans()),
    st.builds(rollback, st.none() | numbers, champions, st.booleans()),
    st.builds(abort, numbers),
)


def whole_training(number: int) -> list[Deed]:
    return [
        create(number),
        record_dataset(number),
        register(number),
        evaluate(number, passed=True, automatic=True),
        promote_by_pipeline(number),
    ]


class RegistryMachine(RuleBasedStateMachine):
    """Writers that interleave at every commit, over a table that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.items = FakeTable()
        self.table = FaultyTable(self.items)
        clock, ids = FakeClock(), counting_ids()
        self.registry = Registry(self.table, clock=clock, ids=ids)
        self.rival = Registry(self.items, clock=clock, ids=ids)
        self.outcomes: dict[str, str] = {}

    @initialize()
    def begin(self) -> None:
        cases.apply(self.registry, SPEC)

    @rule(deed=deeds, plan=st.lists(faults, max_size=3))
    def do(self, deed: Deed, plan: list[Fault | None]) -> None:
        self._insist(deed, *plan)

    @rule(number=numbers, plan=st.lists(faults, max_size=3))
    def train(self, number: int, plan: list[Fault | None]) -> None:
        for deed in whole_training(number):
            self._insist(deed, *plan)

    @rule(deed=deeds, rival=deeds)
    def race(self, deed: Deed, rival: Deed) -> None:
        """The rival does all of its work between the deed's reads and its commit."""
        self._insist(deed, lambda: self._try(rival, self.rival))

    @rule(number=numbers, rival=deeds, at=st.integers(0, 4))
    def race_a_training(self, number: int, rival: Deed, at: int) -> None:
        for step, deed in enumerate(whole_training(number)):
            self._insist(deed, *([lambda: self._try(rival, self.rival)] if step == at else []))

    @invariant()
    def the_record_is_true(self) -> None:
        # The rival's entries are written within another's change, whose time was taken before.
        check_model(self.items.items(), M)

    @invariant()
    def outcomes_stay(self) -> None:
        for item in self.items.items():
            if "outcome" in item and item["PK"].startswith("RUN#"):
                assert self.outcomes.setdefault(item["PK"], item["outcome"]) == item["outcome"]

    def _insist(self, deed: Deed, *plan: Any) -> None:
        """Does it as Step Functions does: a retryable error is followed by another try."""
        self.table.plan(*plan)
        for _ in range(len(plan) + 1):
            try:
                deed(self.registry)
                break
            except RetryableError:
                continue
            except FinalError:
                break
        self.table.plan()

    def _try(self, deed: Deed, registry: Registry) -> None:
        try:
            deed(registry)
        except FinalError:
            return


RegistryMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
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

    def insist(deed: Deed) -> None:
        try:
            deed(registry)
        except RetryableError:
            deed(registry)

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


@pytest.mark.parametrize("seed", range(20))
def test_eight_writers_at_once(items: FakeTable, seed: int) -> None:
    ids = counting_ids()
    cases.apply(Registry(items, clock=FakeClock(), ids=ids), SPEC)
    together = threading.Barrier(8)
    unexpected: list[BaseException] = []

    def write(writer: int) -> None:
        choices = random.Random(seed * 100 + writer)
        registry = Registry(items, clock=FakeClock(), ids=ids)
        together.wait()
        for round_ in range(3):
            for deed in [
                *whole_training(writer * 3 + round_ + 1),
                promote_by_hand(choices.randint(1, 9), ANY_CHAMPION, force=True),
                rollback(None, ANY_CHAMPION, force=False),
            ]:
                for _ in range(5):
                    try:
                        deed(registry)
                        break
                    except RetryableError:
                        continue
                    except FinalError:
                        break
                    except BaseException as exc:
                        unexpected.append(exc)
                        raise

    threads = [threading.Thread(target=write, args=(w,)) for w in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert unexpected == []
    assert not any(t.is_alive() for t in threads)
    check_model(items.items(), M)
    assert any(i["SK"] == "SERVING" for i in items.items())


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
