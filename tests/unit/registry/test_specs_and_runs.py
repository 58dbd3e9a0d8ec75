"""Specs, runs and dataset versions."""

from typing import Any

import pytest

from millrace import layout
from millrace.errors import ConflictError, NotFoundError
from millrace.messages import TrialResult
from millrace.registry.records import RunOutcome, RunStatus
from millrace.registry.registry import Registry
from millrace.spec import Algorithm
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


@pytest.fixture
def registry(table: FakeTable) -> Registry:
    return Registry(table, clock=FakeClock(), ids=counting_ids())


def regression() -> Any:
    return cases.spec(
        task="regression",
        data={
            "columns": [
                {"name": "age", "type": "number"},
                {"name": "left", "type": "number", "role": "target"},
            ]
        },
    )


def test_first_spec_makes_the_model(registry: Registry) -> None:
    spec = cases.spec(owner="ann", description="who leaves")

    applied = registry.apply_spec(spec, key="k", actor="ann")

    model = registry.get_model(M)
    assert (applied.version, applied.digest, applied.created_by) == (1, spec.digest, "ann")
    assert (model.spec_version, model.owner, model.description) == (1, "ann", "who leaves")
    assert model.champion_version is None
    assert model.latest_version == 0


def test_same_spec_again_writes_nothing(registry: Registry, table: FakeTable) -> None:
    first = registry.apply_spec(cases.spec(), key="k", actor="ann")
    before = table.items()

    again = registry.apply_spec(cases.spec(), key="k", actor="bob")

    assert again == first
    assert table.items() == before


def test_changed_spec_is_a_new_version_and_the_old_one_stays(registry: Registry) -> None:
    registry.apply_spec(cases.spec(), key="k1", actor="ann")
    registry.apply_spec(cases.spec(description="new"), key="k2", actor="bob")
    registry.apply_spec(cases.spec(), key="k1", actor="bob")

    assert [s.key for s in registry.list_specs(M).items] == ["k1", "k2", "k1"]
    assert registry.get_spec(M).version == 3
    assert registry.get_spec(M, 2).created_by == "bob"
    assert registry.get_model(M).spec_key == "k1"
    with pytest.raises(NotFoundError, match="no spec version 4"):
        registry.get_spec(M, 4)


def test_spec_keeps_the_champion(registry: Registry) -> None:
    cases.champion(registry, 1)

    registry.apply_spec(cases.spec(description="new"), key="k", actor="ann")

    assert registry.get_model(M).champion_version == 1
    assert registry.get_serving(M).version == 1


def test_task_changes_only_before_the_first_version(registry: Registry) -> None:
    registry.apply_spec(cases.spec(), key="k", actor="ann")
    registry.apply_spec(regression(), key="k", actor="ann")
    registry.apply_spec(cases.spec(), key="k", actor="ann")
    cases.champion(registry, 1)

    with pytest.raises(ConflictError, match="has versions of task binary"):
        registry.apply_spec(regression(), key="k", actor="ann")


def test_run_is_recorded_once(registry: Registry) -> None:
    cases.apply(registry, cases.spec())
    run = cases.run(1, cases.spec())

    assert registry.create_run(run) is True
    assert registry.create_run(run.model_copy(update={"reason": "other"})) is False

    assert registry.get_run(run.run_id) == run
    assert registry.start_run(run.run_id) is True
    assert registry.start_run(run.run_id) is False
    assert registry.get_run(run.run_id).status is RunStatus.RUNNING


def test_run_of_an_unknown_model_is_refused(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="no model 'churn'"):
        registry.create_run(cases.run(1, cases.spec()))


def test_unknown_runs_are_not_found(registry: Registry) -> None:
    for call in (
        lambda: registry.get_run("nothing"),
        lambda: registry.start_run("nothing"),
        lambda: registry.finish_run("nothing", RunOutcome.FAILED),
        lambda: registry.log("nothing", params={"a": "b"}),
    ):
        with pytest.raises(NotFoundError, match="no run 'nothing'"):
            call()


def test_closed_run_keeps_its_outcome(registry: Registry) -> None:
    cases.apply(registry, cases.spec())
    run = cases.run(1, cases.spec())
    registry.create_run(run)

    assert registry.finish_run(run.run_id, RunOutcome.FAILED, error="X", reason="y" * 9000) is True
    assert registry.finish_run(run.run_id, RunOutcome.PROMOTED) is False
    assert registry.start_run(run.run_id) is False

    closed = registry.get_run(run.run_id)
    assert (closed.status, closed.outcome, closed.error) == (
        RunStatus.FAILED,
        RunOutcome.FAILED,
        "X",
    )
    assert closed.ended_at is not None
    assert len(closed.reason) == 2000


def test_params_are_written_once_and_metrics_the_latest(registry: Registry) -> None:
    cases.apply(registry, cases.spec())
    run_id = cases.run(1, cases.spec()).run_id
    registry.create_run(cases.run(1, cases.spec()))

    registry.log(run_id, params={"a": "1"}, metrics={"m": 0.5, "n": float("nan")}, tags={"t": "x"})
    registry.log(run_id, params={"a": "1"}, metrics={"m": 0.6})
    with pytest.raises(ConflictError, match="param a was logged with another value"):
        registry.log(run_id, params={"a": "2"})

    run = registry.get_run(run_id)
    assert run.params == {"a": "1"}
    assert run.metrics["m"] == 0.6
    assert run.metrics["n"] != run.metrics["n"]
    assert run.tags == {"t": "x"}


def test_hundreds_of_params_fit(registry: Registry) -> None:
    cases.apply(registry, cases.spec())
    run_id = cases.run(1, cases.spec()).run_id
    registry.create_run(cases.run(1, cases.spec()))

    registry.log(run_id, params={f"p{n}": "v" * 6000 for n in range(250)})

    assert len(registry.get_run(run_id).params) == 250


def test_trial_is_recorded_once_unless_it_failed(registry: Registry) -> None:
    cases.apply(registry, cases.spec())
    run_id = cases.run(1, cases.spec()).run_id
    registry.create_run(cases.run(1, cases.spec()))
    failed = TrialResult(
        trial_id=1,
        algorithm=Algorithm.LINEAR,
        params={"max_features": 1.0},
        metric="roc_auc",
        status="failed",
        error="TrainingError",
    )
    done = failed.model_copy(update={"status": "finished", "score": 0.7, "error": ""})

    assert registry.record_trial(run_id, failed) is True
    assert registry.record_trial(run_id, done) is True
    assert registry.record_trial(run_id, failed) is False

    (trial,) = registry.get_run(run_id).trials
    assert (trial.status, trial.score) == ("finished", 0.7)
    assert isinstance(trial.params["max_features"], float)


def test_version_is_registered_once_per_run(registry: Registry) -> None:
    task = cases.candidate(registry, 1)

    again = registry.register_version(task, cases.ingested("d1"), cases.fitted(task.run_id))

    assert again.version == 1
    assert registry.get_model(M).latest_version == 1


def test_closed_run_registers_nothing(registry: Registry) -> None:
    cases.apply(registry, cases.spec())
    run = cases.run(1, cases.spec())
    registry.create_run(run)
    registry.finish_run(run.run_id, RunOutcome.FAILED)

    with pytest.raises(ConflictError, match="is closed: failed"):
        registry.register_version(
            cases.training_input(run), cases.ingested(), cases.fitted(run.run_id)
        )
    with pytest.raises(ConflictError, match="is closed: failed"):
        registry.record_dataset(cases.training_input(run), cases.ingested(), train_on_upload=True)


def test_latest_dataset_is_the_last_accepted_upload(registry: Registry) -> None:
    cases.apply(registry, cases.spec())
    with pytest.raises(NotFoundError, match=f"upload a file to {layout.INCOMING}churn/"):
        registry.latest_dataset(M)

    cases.candidate(registry, 1)
    cases.candidate(registry, 2)

    assert registry.latest_dataset(M).dataset_version == "d2"
    assert registry.latest_dataset(M).source == cases.source(2)
    with pytest.raises(NotFoundError, match="no dataset version 'd9'"):
        registry.get_dataset(M, "d9")
