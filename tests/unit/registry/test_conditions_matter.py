"""Every condition of every change earns its place: without it, some race ends in a false record.

Each case takes one condition away and runs one race in which a rival is done between the change's
reads and its commit. With the condition the record stays true; without it, it must not.
"""

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from millrace.aws.dynamodb import Check, Item, Key, Update, Write
from millrace.errors import FinalError, RetryableError
from millrace.messages import TrainingInput, TrialResult
from millrace.registry.ledger import HEAD
from millrace.registry.records import RunOutcome, RunStatus
from millrace.registry.registry import Registry
from millrace.spec import Algorithm
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.soundness import check_model
from tests.fakes.table import FakeTable

M = cases.MODEL
SPEC = cases.spec()


class Weakened(FakeTable):
    """Forgets the conditions of the named writes, and lets a rival in after a change's reads.

    A change reads the head of the ledger last: the rival comes before that, or, where nothing is
    entered in the ledger, before the commit. The ledger is forgotten with the rest.
    """

    def __init__(self, forgotten: Sequence[str]) -> None:
        super().__init__()
        self._forgotten = frozenset(forgotten)
        self.rival: Callable[[], object] | None = None
        self.late = False

    def get(self, key: Key) -> Item | None:
        if key.sk == HEAD and not self.late:
            self._let_in()
        return super().get(key)

    def transact(self, writes: Sequence[Write], what: str) -> None:
        if self.late:
            self._let_in()
        super().transact([self._weaken(w) for w in writes], what)

    def _let_in(self) -> None:
        rival, self.rival = self.rival, None
        if rival is not None:
            rival()

    def _weaken(self, write: Write) -> Write:
        if write.name not in self._forgotten:
            return write
        if isinstance(write, Update):
            return dataclasses.replace(write, when={}, exists=False)
        if isinstance(write, Check):
            return Update(write.name, write.key, {}, exists=False)
        return dataclasses.replace(write, when={})


@dataclasses.dataclass
class Race:
    """A table, its registry, and what a rival sees."""

    table: Weakened
    registry: Registry

    def run(
        self, change: Callable[[], object], rival: Callable[[], object], *, late: bool = False
    ) -> None:
        """The rival is done between the change's reads and its commit."""
        self.table.rival, self.table.late = rival, late
        try:
            change()
        except (FinalError, RetryableError):
            return

    def judged(self, number: int, champion: int | None = None) -> tuple[TrainingInput, int]:
        """A version that passed its gates."""
        task = cases.candidate(self.registry, number, SPEC)
        version = self.registry.get_run(task.run_id).model_version or 0
        self.registry.record_evaluation(
            task, version, cases.evaluated(task.run_id, champion=champion), automatic=True
        )
        return task, version


type Scene = Callable[[Race], None]


def two_promotions(race: Race) -> None:
    race.judged(1)
    race.judged(2)
    race.run(
        lambda: race.registry.promote(M, 1, actor="pipeline", expected_champion=None),
        lambda: race.registry.promote(M, 2, actor="pipeline", expected_champion=None),
    )


def promotion_and_rejection(race: Race) -> None:
    task, version = race.judged(1)
    race.run(
        lambda: race.registry.promote(M, version, actor="pipeline", expected_champion=None),
        lambda: race.registry.record_evaluation(
            task,
            version,
            cases.evaluated(task.run_id, passed=False, champion=9),
            automatic=True,
        ),
    )


def two_registrations(race: Race) -> None:
    tasks = []
    for number in (1, 2):
        cases.apply(race.registry, SPEC)
        run = cases.run(number, SPEC)
        race.registry.create_run(run)
        tasks.append(cases.training_input(run))
        race.registry.log(run.run_id, params={"warm": "up"})
    first, second = tasks

    def register(task: TrainingInput) -> object:
        return race.registry.register_version(task, cases.ingested(), cases.fitted(task.run_id))

    race.run(lambda: register(first), lambda: register(second))


def same_registration_twice(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    run = cases.run(1, SPEC)
    race.registry.create_run(run)
    task = cases.training_input(run)

    def register() -> object:
        return race.registry.register_version(task, cases.ingested(), cases.fitted(task.run_id))

    race.run(register, register)


def two_endings(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    run = cases.run(1, SPEC)
    race.registry.create_run(run)
    race.run(
        lambda: race.registry.finish_run(run.run_id, RunOutcome.FAILED),
        lambda: race.registry.finish_run(run.run_id, RunOutcome.REFUSED),
    )
    assert race.registry.get_run(run.run_id).outcome is RunOutcome.REFUSED


def late_start(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    run = cases.run(1, SPEC)
    race.registry.create_run(run)
    race.run(
        lambda: race.registry.start_run(run.run_id),
        lambda: race.registry.finish_run(run.run_id, RunOutcome.FAILED),
        late=True,
    )
    assert race.registry.get_run(run.run_id).status is RunStatus.FAILED


def two_specs(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    race.run(
        lambda: cases.apply(race.registry, cases.spec(description="a")),
        lambda: cases.apply(race.registry, cases.spec(description="b")),
    )
    applied = [e for e in race.registry.audit(M).items if e.action == "spec_applied"]
    assert len(applied) == race.registry.get_model(M).spec_version == 3


def two_first_specs(race: Race) -> None:
    race.run(
        lambda: cases.apply(race.registry, cases.spec(description="a")),
        lambda: cases.apply(race.registry, cases.spec(description="b")),
    )
    assert race.registry.get_model(M).spec_version == 2


def task_change_and_registration(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    run = cases.run(1, SPEC)
    race.registry.create_run(run)
    task = cases.training_input(run)
    other = cases.spec(
        task="regression",
        data={
            "columns": [
                {"name": "age", "type": "number"},
                {"name": "left", "type": "number", "role": "target"},
            ]
        },
    )
    race.run(
        lambda: cases.apply(race.registry, other),
        lambda: race.registry.register_version(task, cases.ingested(), cases.fitted(task.run_id)),
    )
    assert race.registry.get_model(M).task == "binary"


def same_run_twice(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    run = cases.run(1, SPEC)

    def rival() -> None:
        race.registry.create_run(run)
        race.registry.finish_run(run.run_id, RunOutcome.FAILED)

    race.run(lambda: race.registry.create_run(run), rival)
    assert race.registry.get_run(run.run_id).outcome is RunOutcome.FAILED


def same_dataset_twice(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    tasks = []
    for number in (1, 2):
        run = cases.run(number, SPEC)
        race.registry.create_run(run)
        tasks.append(cases.training_input(run))
    first, second = tasks

    def record(task: TrainingInput) -> object:
        return race.registry.record_dataset(task, cases.ingested(), train_on_upload=True)

    race.run(lambda: record(first), lambda: record(second))
    assert race.registry.get_dataset(M, "d1").created_by_run == second.run_id


def evaluation_after_abort(race: Race) -> None:
    task = cases.candidate(race.registry, 1, SPEC)

    def abort() -> None:
        race.registry.finish_run(task.run_id, RunOutcome.FAILED)

    race.run(
        lambda: race.registry.record_evaluation(
            task, 1, cases.evaluated(task.run_id), automatic=False
        ),
        abort,
    )
    assert race.registry.get_run(task.run_id).outcome is RunOutcome.FAILED


def evaluation_after_force(race: Race) -> None:
    task = cases.candidate(race.registry, 1, SPEC)

    def force() -> None:
        race.registry.promote(M, 1, actor="ann", reason="now", force=True)

    race.run(
        lambda: race.registry.record_evaluation(
            task, 1, cases.evaluated(task.run_id, passed=False), automatic=True
        ),
        force,
    )


def failed_trial_reported_late(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    run = cases.run(1, SPEC)
    race.registry.create_run(run)
    done = TrialResult(
        trial_id=1, algorithm=Algorithm.LINEAR, params={}, metric="roc_auc", score=0.7
    )
    race.registry.record_trial(run.run_id, done)
    race.registry.record_trial(run.run_id, done.model_copy(update={"status": "failed"}))
    assert race.registry.get_run(run.run_id).trials[0].status == "finished"


def params_logged_twice(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    run = cases.run(1, SPEC)
    race.registry.create_run(run)
    race.registry.log(run.run_id, params={"a": "1"})
    race.run(lambda: race.registry.log(run.run_id, params={"a": "2"}), lambda: None)
    assert race.registry.get_run(run.run_id).params == {"a": "1"}


# Conditions that assume the same fact guard each other: alias, serving item and model name one
# champion. They are forgotten together, and singly where nothing else would hold.
CHAMPION = ("alias", "serving", "model", "old champion")


def two_at_the_head(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    race.run(
        lambda: race.registry.create_run(cases.run(1, SPEC)),
        lambda: race.registry.create_run(cases.run(2, SPEC)),
        late=True,
    )


SCENES: list[tuple[Scene, tuple[str, ...]]] = [
    (two_promotions, CHAMPION),
    (promotion_and_rejection, ("version",)),
    (two_registrations, ("version", "model")),
    (same_registration_twice, ("run", "model", "version")),
    (two_endings, ("run",)),
    (late_start, ("run",)),
    (two_specs, ("model", "spec")),
    (two_first_specs, ("model", "spec")),
    (task_change_and_registration, ("model",)),
    (same_run_twice, ("run",)),
    (same_dataset_twice, ("dataset",)),
    (evaluation_after_abort, ("run",)),
    (evaluation_after_force, ("version",)),
    (failed_trial_reported_late, ("trial",)),
    (params_logged_twice, ("param a",)),
    (two_at_the_head, ("audit", "ledger head")),
]
NAMES = [scene.__name__ for scene, _ in SCENES]


def play(scene: Scene, forgotten: Sequence[str]) -> None:
    table = Weakened(forgotten)
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    scene(Race(table, registry))
    check_model(table.items(), M)


@pytest.mark.parametrize(("scene", "forgotten"), SCENES, ids=NAMES)
def test_race_is_harmless_with_its_conditions(scene: Scene, forgotten: tuple[str, ...]) -> None:
    play(scene, ())


@pytest.mark.parametrize(("scene", "forgotten"), SCENES, ids=NAMES)
def test_race_does_harm_without_its_conditions(scene: Scene, forgotten: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):
        play(scene, forgotten)
