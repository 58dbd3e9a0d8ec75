"""Every condition of every change earns its place: without it, some race ends in a false record.

Each case runs one race in which a rival is done between a change's reads and its commit. With its
conditions the record stays true. With none it must not. And with a single one of them, all others
taken away, it stays true again: so each alone is enough, and whoever removes one from the code makes
the case of that one fail. The last tests hold the cases to be
complete: each line of the registry's code that makes a conditional write is mutated, and noticed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from millrace.aws.dynamodb import PK, Write
from millrace.messages import TrainingInput, TrialResult
from millrace.registry import items
from millrace.registry.experiments import MetricPoint
from millrace.registry.records import Batch, BatchOutcome, RunOutcome, RunStatus
from millrace.spec import Algorithm
from tests.fakes import approval_races, cases, rollout_races
from tests.fakes.clock import FakeClock
from tests.fakes.races import (
    SPEC,
    Births,
    M,
    Place,
    Race,
    Scene,
    StoppedClock,
    Weakened,
    conditional_writes,
    name_of,
    note_births,
)
from tests.fakes.soundness import check_model


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
            task, 1, cases.evaluated(task.run_id, passed=False), automatic=False
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


def two_at_the_head(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    race.run(
        lambda: race.registry.create_run(cases.run(1, SPEC)),
        lambda: race.registry.create_run(cases.run(2, SPEC)),
        late=True,
    )


def promotions_of_one_moment(race: Race) -> None:
    for number in (1, 2, 3):
        race.judged(number, champion=1 if number > 1 else None)
        if number == 1:
            race.registry.promote(M, 1, actor="pipeline", expected_champion=None)
    race.run(
        lambda: race.registry.promote(M, 2, actor="pipeline", expected_champion=1),
        lambda: race.registry.promote(M, 3, actor="pipeline", expected_champion=1),
        late=True,
    )


def promotion_and_abort(race: Race) -> None:
    task, version = race.judged(1)
    race.run(
        lambda: race.registry.promote(
            M, version, actor="pipeline", expected_champion=None, finishing_run=task.run_id
        ),
        lambda: race.registry.finish_run(task.run_id, RunOutcome.FAILED),
    )
    assert race.registry.get_run(task.run_id).outcome is RunOutcome.FAILED


def dataset_and_abort(race: Race) -> None:
    task = race.scheduled(1)
    race.run(
        lambda: race.registry.record_dataset(task, cases.ingested(), train_on_upload=True),
        lambda: race.registry.finish_run(task.run_id, RunOutcome.FAILED),
    )
    assert race.registry.get_run(task.run_id).status is RunStatus.FAILED


def same_input_twice(race: Race) -> None:
    task = race.scheduled(1)

    def record() -> object:
        return race.registry.record_dataset(task, cases.ingested(), train_on_upload=True)

    race.run(record, record)


def dataset_of_a_model_that_went(race: Race) -> None:
    task = race.scheduled(1)
    race.run(
        lambda: race.registry.record_dataset(task, cases.ingested(), train_on_upload=True),
        lambda: race.take_away(items.model_key(M)),
    )
    assert race.table.get(items.model_key(M)) is None, "half a model was made"


def dataset_that_went(race: Race) -> None:
    first, second = race.scheduled(1), race.scheduled(2)
    race.registry.record_dataset(first, cases.ingested(), train_on_upload=False)
    race.run(
        lambda: race.registry.record_dataset(second, cases.ingested(), train_on_upload=False),
        lambda: race.take_away(items.dataset_key(M, "d1")),
    )
    stored = race.table.get(items.dataset_key(M, "d1"))
    named = race.item(items.run_key(second.run_id)).get("dataset_version")
    assert stored is not None or named is None, "a run names a dataset version that is not there"


def run_of_a_model_that_went(race: Race) -> None:
    cases.apply(race.registry, SPEC)
    run = cases.run(1, SPEC)
    race.run(lambda: race.registry.create_run(run), lambda: race.take_away(items.model_key(M)))
    assert race.table.get(items.run_key(run.run_id)) is None, "a run of no model was made"


def spec_and_promotion(race: Race) -> None:
    race.judged(1)
    race.run(
        lambda: cases.apply(race.registry, cases.spec(monitor={"capture_rate": 0.25})),
        lambda: race.registry.promote(M, 1, actor="pipeline", expected_champion=None),
    )
    assert race.registry.get_serving(M).capture_rate == 0.25


def promotion_and_spec(race: Race) -> None:
    race.judged(1)
    race.run(
        lambda: race.registry.promote(M, 1, actor="pipeline", expected_champion=None),
        lambda: cases.apply(race.registry, cases.spec(monitor={"capture_rate": 0.25})),
    )
    assert race.registry.get_serving(M).capture_rate == 0.25


def spec_and_a_serving_item_that_went(race: Race) -> None:
    cases.champion(race.registry, 1, SPEC)
    race.run(
        lambda: cases.apply(race.registry, cases.spec(description="a")),
        lambda: race.take_away(items.serving_key(M)),
    )
    half = race.item(items.serving_key(M))
    assert not half or "version" in half, "half a serving item was made"


def log_on_a_run_that_went(race: Race) -> None:
    task = race.scheduled(1)
    race.run(
        lambda: race.registry.log(task.run_id, tags={"a": "1"}),
        lambda: race.take_away(items.run_key(task.run_id)),
        late=True,
    )
    orphans = [i for i in race.table.items() if i[PK] == items.run_pk(task.run_id)]
    assert orphans == []


def param_logged_by_two(race: Race) -> None:
    task = race.scheduled(1)
    race.run(
        lambda: race.registry.log(task.run_id, params={"a": "2"}),
        lambda: race.registry.log(task.run_id, params={"a": "1"}),
        late=True,
    )
    assert race.registry.get_run(task.run_id).params == {"a": "1"}


def later_point_first(race: Race) -> None:
    task = race.scheduled(1)

    def log(step: int) -> None:
        point = MetricPoint(key="auc", value=step / 10, timestamp=1, step=step)
        race.registry.log_batch(task.run_id, metrics=[point])

    race.run(lambda: log(1), lambda: log(2), late=True)
    assert race.registry.get_run(task.run_id).metrics == {"auc": 0.2}
    assert len(race.registry.metric_history(task.run_id, "auc").items) == 2


def alias_set_by_two(race: Race) -> None:
    for number in (1, 2, 3):
        race.judged(number)
    race.run(
        lambda: race.registry.set_alias(M, "old", 1, actor="ann"),
        lambda: race.registry.set_alias(M, "old", 2, actor="bob"),
    )
    told = [e for e in race.registry.audit(M).items[::-1] if e.action == "alias_set"]
    assert [e.before for e in told] == ["", *(e.after for e in told[:-1])]


JOB = "churn-batch-" + "0" * 24


def _job(race: Race, **changes: Any) -> Batch:
    return Batch.model_validate(
        {
            "batch_id": JOB,
            "model": M,
            "correlation_id": "event-1",
            "source": cases.source(),
            "version": 1,
            "spec_version": 1,
            "spec_digest": SPEC.digest,
            "created_at": FakeClock().now,
            "status": RunStatus.SCHEDULED,
            **changes,
        }
    )


def _told_of_job(race: Race, action: str) -> int:
    return sum(e.action == action for e in race.registry.audit(M).items)


def same_job_twice(race: Race) -> None:
    cases.champion(race.registry, 1, SPEC)
    race.run(lambda: race.batches.create(_job(race)), lambda: race.batches.create(_job(race)))
    assert _told_of_job(race, "batch_created") == 1


def job_and_promotion(race: Race) -> None:
    cases.champion(race.registry, 1, SPEC)
    race.judged(2)
    race.run(
        lambda: race.batches.create(_job(race)),
        lambda: race.registry.promote(M, 2, actor="ann", reason="why", force=True),
        late=True,
    )
    assert not [i for i in race.table.items() if i[PK] == f"BATCH#{JOB}"]


def job_of_a_model_that_went(race: Race) -> None:
    cases.champion(race.registry, 1, SPEC)
    race.run(lambda: race.batches.create(_job(race)), lambda: race.take_away(items.model_key(M)))
    assert race.table.get(items.batch_key(JOB)) is None, "a batch job of no model was made"


def job_ended_twice(race: Race) -> None:
    cases.champion(race.registry, 1, SPEC)
    race.batches.create(_job(race))
    race.run(
        lambda: race.batches.finish(JOB, 1, BatchOutcome.REFUSED),
        lambda: race.batches.finish(JOB, 1, BatchOutcome.SCORED),
    )
    assert race.batches.get(JOB).outcome is BatchOutcome.SCORED


def job_resumed_twice(race: Race) -> None:
    cases.champion(race.registry, 1, SPEC)
    race.batches.create(_job(race))
    race.batches.finish(JOB, 1, BatchOutcome.FAILED)

    def resume() -> object:
        return race.batches.resume(JOB, actor="ann", execution_arn=str)

    race.run(resume, resume)
    assert _told_of_job(race, "batch_resumed") == 1


def job_started_late(race: Race) -> None:
    cases.champion(race.registry, 1, SPEC)
    race.batches.create(_job(race))
    race.run(
        lambda: race.batches.start(JOB, 1),
        lambda: race.batches.finish(JOB, 1, BatchOutcome.FAILED),
        late=True,
    )
    assert race.batches.get(JOB).status is RunStatus.FAILED


CROWN = ("alias", "serving", "model")
SCENES: list[tuple[Scene, str, tuple[str, ...]]] = [
    (two_promotions, "crown", CROWN),
    (promotions_of_one_moment, "crown", (*CROWN, "old champion", "live", "audit", "ledger head")),
    (promotion_and_rejection, "crown", ("version",)),
    (promotion_and_abort, "crown", ("run",)),
    (promotion_and_spec, "crown", ("model",)),
    (two_registrations, "register", ("version", "model")),
    (same_registration_twice, "register", ("run", "model", "version", "logged model", "output")),
    (two_endings, "close", ("run",)),
    (late_start, "update", ("run",)),
    (two_specs, "apply", ("model", "spec")),
    (two_first_specs, "apply", ("model", "spec", "experiment", "experiment name")),
    (task_change_and_registration, "apply", ("model",)),
    (spec_and_promotion, "apply", ("model",)),
    (spec_and_a_serving_item_that_went, "apply", ("serving",)),
    (same_run_twice, "create", ("run",)),
    (run_of_a_model_that_went, "create", ("model",)),
    (two_at_the_head, "create", ("audit", "ledger head")),
    (same_dataset_twice, "record dataset", ("dataset",)),
    (same_input_twice, "record dataset", ("dataset", "input")),
    (dataset_and_abort, "record dataset", ("run",)),
    (dataset_of_a_model_that_went, "record dataset", ("model",)),
    (dataset_that_went, "record dataset", ("dataset",)),
    (evaluation_after_abort, "record evaluation", ("run",)),
    (evaluation_after_force, "record evaluation", ("version",)),
    (failed_trial_reported_late, "record trial", ("trial",)),
    (params_logged_twice, "log", ("param",)),
    (param_logged_by_two, "log", ("param",)),
    (later_point_first, "log", ("metric",)),
    (log_on_a_run_that_went, "log", ("run",)),
    (alias_set_by_two, "set", ("alias",)),
    (same_job_twice, "create batch", ("batch",)),
    (job_and_promotion, "create batch", ("serving",)),
    (job_of_a_model_that_went, "create batch", ("model",)),
    (job_ended_twice, "close batch", ("batch",)),
    (job_resumed_twice, "resume batch", ("batch",)),
    (job_started_late, "update batch", ("batch",)),
    *approval_races.SCENES,
    *rollout_races.SCENES,
]
NAMES = [scene.__name__ for scene, _, _ in SCENES]
SINGLES = [
    pytest.param(scene, guard, id=f"{scene.__name__}-{guard}".replace(" ", "_"))
    for scene, _, guards in SCENES
    for guard in guards
]

THE_CHAIN = {"audit", "ledger head"}
"""Of every change alike: one pair of scenes stands for all, as `Ledger.append` writes them all."""


def play(
    scene: Scene, kept: Sequence[str] | None, without: Callable[[Write], bool] = lambda _: False
) -> Weakened:
    table = Weakened(kept, without)
    clock = StoppedClock() if scene.__name__.endswith("_of_one_moment") else FakeClock()
    scene(Race.over(table, clock))
    # What went behind the registry's back leaves no sound record: such a scene judges by itself.
    if not scene.__name__.endswith("_went"):
        check_model(table.items(), M)
    return table


@pytest.mark.parametrize("scene", [s for s, _, _ in SCENES], ids=NAMES)
def test_race_is_harmless_with_its_conditions(scene: Scene) -> None:
    play(scene, None)


@pytest.mark.parametrize("scene", [s for s, _, _ in SCENES], ids=NAMES)
def test_race_does_harm_without_any_condition(scene: Scene) -> None:
    with pytest.raises(AssertionError):
        play(scene, ())


@pytest.mark.parametrize(("scene", "guard"), SINGLES)
def test_race_is_harmless_with_a_single_condition_that_sees_it(scene: Scene, guard: str) -> None:
    play(scene, (guard,))


def test_every_condition_of_every_change_has_a_race() -> None:
    guarded = {(kind, guard) for _, kind, guards in SCENES for guard in guards}
    seen = {pair for scene, _, _ in SCENES for pair in play(scene, None).seen}

    assert {(kind, name) for kind, name in seen if name not in THE_CHAIN} - guarded == set()
    assert {guard for _, guard in guarded} >= THE_CHAIN
    assert guarded <= seen


@pytest.fixture(scope="module")
def births() -> Iterator[Births]:
    """Where each write is made."""
    with pytest.MonkeyPatch.context() as patch:
        yield note_births(patch)


@pytest.fixture(scope="module")
def races(births: Births) -> dict[Place, list[tuple[Scene, str]]]:
    """The races, and the guard in each, that need the condition of a place in the code."""
    found: dict[Place, list[tuple[Scene, str]]] = {}
    for scene, kind, guards in SCENES:
        for told, write in play(scene, None).conditional:
            needing = found.setdefault(births[id(write)][1], [])
            if told == kind and name_of(write) in guards:
                needing.append((scene, name_of(write)))
    return found


@pytest.mark.parametrize("place", conditional_writes(), ids=lambda p: f"{p[0]}-{p[1]}")
def test_code_without_any_one_of_its_conditions_fails_a_race(
    place: Place, births: Births, races: dict[Place, list[tuple[Scene, str]]]
) -> None:
    """The mutation check: the write is made as it is, and its condition does not count."""

    def is_mutated(write: Write) -> bool:
        return births[id(write)][1] == place

    def notices(scene: Scene, guard: str) -> bool:
        try:
            play(scene, (guard,), is_mutated)
        except AssertionError:
            return True
        return False

    assert place in races, "no race makes this write"
    assert any(notices(scene, guard) for scene, guard in races[place])
