"""Trials: folds that do not leak, scores that repeat, failures that say why, and the choice."""

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from millrace.datasets.table import Table
from millrace.errors import NoViableTrialError, TrainingError
from millrace.learning.candidates import build_estimator
from millrace.learning.folds import make_folds
from millrace.learning.search import choose, plan, run_trial
from millrace.messages import Plan, Trial, TrialResult
from millrace.spec import Algorithm, ModelSpec, Role, Task
from tests.unit.learning.tables import bundled, make_table

DATA = ("breast_cancer", "iris", "wine", "diabetes")
SOUND = {"breast_cancer": 0.97, "iris": 0.85, "wine": 0.9, "diabetes": -66.0}
"""Scores (negative errors) that the defaults must reach on the real data."""


def run(spec: ModelSpec, table: Table, trial: Trial, **kwargs: Any) -> TrialResult:
    return run_trial(
        spec, table, trial, metric=spec.training_metric, folds=spec.train.folds, **kwargs
    )


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("name", DATA)
def test_default_trial_learns_real_data(name: str, algorithm: Algorithm) -> None:
    spec, table = bundled(name, sections={"train": {"candidates": [algorithm], "trials": 1}})
    (trial,) = plan(spec, table.schema).trials

    result = run(spec, table, trial)

    assert result.status == "finished"
    assert len(result.fold_scores) == 3
    assert result.score == pytest.approx(np.mean(result.fold_scores))
    assert result.score_std == pytest.approx(np.std(result.fold_scores))
    better = result.score if name != "diabetes" else -(result.score or 0)
    assert better is not None
    assert better >= SOUND[name]


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes"])
def test_same_trial_gives_the_same_scores_whatever_the_threads(
    name: str, algorithm: Algorithm
) -> None:
    spec, table = bundled(name, sections={"train": {"candidates": [algorithm], "trials": 2}})
    trial = plan(spec, table.schema).trials[1]

    scores = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            scores.append(run(spec, table, trial).fold_scores)

    assert scores[0] == scores[1]


def test_score_agrees_with_scikit_learns_cross_validation() -> None:
    spec, table = make_table(
        Task.REGRESSION,
        np.random.default_rng(0).normal(size=(300, 4)),
        np.random.default_rng(1).normal(size=300),
        sections={"train": {"candidates": ["linear"], "metric": "r2"}},
    )
    trial = plan(spec, table.schema).trials[0]
    reference = make_pipeline(
        StandardScaler(),
        build_estimator(
            Algorithm.LINEAR, spec.task, trial.params, seed=0, rows=300, width=4, classes=0
        ),
    )

    result = run(spec, table, trial)

    expected = cross_val_score(
        reference,
        table.features()[0],
        table.target,
        cv=make_folds(spec, table, 3),
        scoring="r2",
    )
    assert result.fold_scores == pytest.approx(expected, abs=1e-6)


def test_folds_partition_the_rows_and_keep_the_classes() -> None:
    spec, table = bundled("wine")

    folds = make_folds(spec, table, 4)

    assert sorted(np.concatenate([judge for _, judge in folds])) == list(range(table.rows))
    for learn, judge in folds:
        assert not np.intersect1d(learn, judge).size
        for code in range(3):
            share = (table.target[judge] == code).sum() / (table.target == code).sum()
            assert share == pytest.approx(1 / 4, abs=0.02)


def test_class_rarer_than_folds_is_no_obstacle() -> None:
    target = np.array([0, 1] * 30 + [2])
    spec, table = make_table(Task.MULTICLASS, np.random.default_rng(0).normal(size=(61, 3)), target)

    results = [run(spec, table, trial) for trial in plan(spec, table.schema).trials]

    assert all(r.score is not None for r in results)


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS, Task.REGRESSION])
def test_groups_stay_whole(task: Task) -> None:
    random = np.random.default_rng(0)
    groups = random.integers(0, 25, 400).astype(np.float64)
    target = (
        random.normal(size=400)
        if task is Task.REGRESSION
        else random.integers(0, 3, 400) % (2 if task is Task.BINARY else 3)
    )
    spec, table = make_table(
        task,
        random.normal(size=(400, 2)),
        target,
        extra={"household": (Role.GROUP, groups)},
        sections={"split": {"strategy": "group"}},
    )

    folds = make_folds(spec, table, 5)

    assert sorted(np.concatenate([judge for _, judge in folds])) == list(range(400))
    for learn, judge in folds:
        assert not np.intersect1d(groups[learn], groups[judge]).size


def test_time_folds_never_look_ahead() -> None:
    random = np.random.default_rng(0)
    times = random.integers(0, 40, 300).astype(np.float64)
    spec, table = make_table(
        Task.BINARY,
        random.normal(size=(300, 2)),
        random.integers(0, 2, 300),
        extra={"day": (Role.TIME, times)},
        sections={"split": {"strategy": "time"}},
    )

    folds = make_folds(spec, table, 3)

    assert len(folds) == 3
    for learn, judge in folds:
        assert times[learn].max() < times[judge].min()


def test_time_strategy_needs_the_stored_column() -> None:
    spec, table = make_table(
        Task.BINARY,
        np.zeros((40, 1)),
        np.arange(40) % 2,
        extra={"day": (Role.TIME, np.arange(40.0))},
        sections={"split": {"strategy": "time"}},
    )
    without = Table(table.schema, {k: v for k, v in table.arrays.items() if k != "day"}, table.row)

    with pytest.raises(TrainingError, match="needs column 'day'"):
        make_folds(spec, without, 3)


@pytest.mark.parametrize(
    ("role", "values", "message"),
    [
        (Role.GROUP, np.zeros(40), "3 folds need 3 groups, the train split has 1"),
        (Role.TIME, np.zeros(40), "more distinct moments"),
    ],
    ids=("one_group", "one_moment"),
)
def test_too_few_groups_or_moments_say_so(role: Role, values: Any, message: str) -> None:
    spec, table = make_table(
        Task.BINARY,
        np.zeros((40, 1)),
        np.arange(40) % 2,
        extra={"key": (role, values)},
        sections={"split": {"strategy": str(role)}},
    )

    with pytest.raises(TrainingError, match=message):
        make_folds(spec, table, 3)


def test_too_few_rows_for_the_folds_say_so() -> None:
    spec, table = make_table(Task.BINARY, np.zeros((5, 1)), np.arange(5) % 2)

    with pytest.raises(TrainingError, match="3 folds need 6 rows, the train split has 5"):
        make_folds(spec, table, 3)


def test_undefined_score_fails_the_trial_with_its_fold() -> None:
    times = np.arange(60.0)
    target = (times < 10).astype(int)
    spec, table = make_table(
        Task.BINARY,
        np.random.default_rng(0).normal(size=(60, 2)),
        target,
        extra={"day": (Role.TIME, times)},
        sections={"split": {"strategy": "time"}},
    )
    trial = plan(spec, table.schema).trials[0]

    with pytest.raises(TrainingError, match=r"trial 0 \(linear\), fold 1 of 3: roc_auc is undef"):
        run(spec, table, trial)


def test_fold_with_one_class_to_learn_from_fails_the_trial() -> None:
    times = np.arange(60.0)
    spec, table = make_table(
        Task.BINARY,
        np.zeros((60, 1)),
        (times > 40).astype(int),
        extra={"day": (Role.TIME, times)},
        sections={"split": {"strategy": "time"}},
    )

    with pytest.raises(TrainingError, match="hold 1 of 2 classes"):
        run(spec, table, plan(spec, table.schema).trials[0])


def test_unusable_params_fail_the_trial() -> None:
    spec, table = bundled("iris")
    trial = plan(spec, table.schema).trials[1]
    broken = trial.model_copy(update={"params": trial.params | {"max_leaf_nodes": -3}})

    with pytest.raises(TrainingError, match=r"trial 1 \(random_forest\).*max_leaf_nodes"):
        run(spec, table, broken)


def test_trial_ends_with_an_error_before_the_time_is_up() -> None:
    spec, table = bundled("breast_cancer", sections={"train": {"folds": 10}})
    trial = plan(spec, table.schema).trials[1]

    with pytest.raises(TrainingError, match="give the train function more memory or time"):
        run(spec, table, trial, remaining=lambda: 3.2)


def test_fold_that_cannot_finish_is_not_begun() -> None:
    spec, table = bundled("breast_cancer")
    left = iter((1000.0, 1000.0, 3.001))

    with pytest.raises(TrainingError, match="fold 2 of 3: the next step needs about"):
        run(spec, table, plan(spec, table.schema).trials[1], remaining=lambda: next(left))


def test_plenty_of_time_changes_nothing() -> None:
    spec, table = bundled("iris")
    trial = plan(spec, table.schema).trials[0]

    bounded = run(spec, table, trial, remaining=lambda: 900.0)

    assert bounded.fold_scores == run(spec, table, trial).fold_scores


def result(trial_id: int, algorithm: Algorithm, score: float | None, **kwargs: Any) -> TrialResult:
    return TrialResult(
        trial_id=trial_id, algorithm=algorithm, params={}, metric="m", score=score, **kwargs
    )


def plan_of(results: list[TrialResult], *, higher: bool) -> Plan:
    return Plan(
        metric="m",
        higher_is_better=higher,
        folds=3,
        trials=tuple(
            Trial(trial_id=r.trial_id, algorithm=r.algorithm, params={}, seed=r.trial_id)
            for r in results
        ),
    )


@pytest.mark.parametrize(
    ("higher", "winner"), [(True, 2), (False, 1)], ids=("higher_is_better", "lower_is_better")
)
def test_best_score_wins(higher: bool, winner: int) -> None:
    results = [
        result(0, Algorithm.LINEAR, 0.5),
        result(1, Algorithm.RANDOM_FOREST, 0.4),
        result(2, Algorithm.HIST_GRADIENT_BOOSTING, 0.6),
    ]

    trial, best = choose(plan_of(results, higher=higher), results)

    assert trial.trial_id == best.trial_id == winner


def test_tie_goes_to_the_simpler_algorithm_then_to_the_earlier_trial() -> None:
    results = [
        result(0, Algorithm.HIST_GRADIENT_BOOSTING, 0.9),
        result(1, Algorithm.RANDOM_FOREST, 0.9),
        result(3, Algorithm.LINEAR, 0.9),
        result(2, Algorithm.LINEAR, 0.9),
    ]

    assert choose(plan_of(results, higher=True), results)[0].trial_id == 2


def test_failed_and_undefined_trials_never_win() -> None:
    results = [
        result(0, Algorithm.LINEAR, None, status="failed", error="TrainingError"),
        result(1, Algorithm.LINEAR, float("nan")),
        result(2, Algorithm.LINEAR, 0.1),
    ]

    assert choose(plan_of(results, higher=True), results)[0].trial_id == 2


def test_no_finished_trial_is_an_error_with_the_causes() -> None:
    results = [result(0, Algorithm.LINEAR, None, status="failed", error="TrainingError")]

    with pytest.raises(NoViableTrialError, match="none of 1 trials gave a score: TrainingError"):
        choose(plan_of(results, higher=True), results)


def test_result_of_no_planned_trial_is_an_error() -> None:
    results = [result(0, Algorithm.LINEAR, 0.5)]

    with pytest.raises(TrainingError, match="trial 7 finished and is not in the plan"):
        choose(plan_of(results, higher=True), [result(7, Algorithm.LINEAR, 0.9)])
