"""Every metric gives scikit-learn's value, with ties, weights and rare classes."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from millrace.evaluation.metrics import Outcome, compute, improvement, prepare
from millrace.spec import HIGHER_IS_BETTER, Task, metrics_for

BINARY: dict[str, Callable[..., float]] = {
    "roc_auc": lambda o, w: sk.roc_auc_score(o.truth, o.scores, sample_weight=w),
    "average_precision": lambda o, w: sk.average_precision_score(
        o.truth, o.scores, sample_weight=w
    ),
    "accuracy": lambda o, w: sk.accuracy_score(o.truth, o.labels, sample_weight=w),
    "balanced_accuracy": lambda o, w: sk.balanced_accuracy_score(
        o.truth, o.labels, sample_weight=w
    ),
    "f1": lambda o, w: sk.f1_score(o.truth, o.labels, sample_weight=w, zero_division=0),
    "log_loss": lambda o, w: sk.log_loss(
        o.truth,
        np.clip(o.output, 2**-23, 1 - 2**-23),
        sample_weight=w,
        labels=np.arange(o.output.shape[1]),
    ),
    "brier": lambda o, w: sk.brier_score_loss(o.truth, o.scores, sample_weight=w),
}
MULTICLASS: dict[str, Callable[..., float]] = {
    **{name: BINARY[name] for name in ("accuracy", "balanced_accuracy", "log_loss")},
    "f1_macro": lambda o, w: sk.f1_score(
        o.truth, o.labels, average="macro", sample_weight=w, zero_division=0
    ),
}
EXACT = 1e-12
REGRESSION: dict[str, Callable[..., float]] = {
    "rmse": lambda o, w: sk.root_mean_squared_error(o.truth, o.output, sample_weight=w),
    "mae": lambda o, w: sk.mean_absolute_error(o.truth, o.output, sample_weight=w),
    "r2": lambda o, w: sk.r2_score(o.truth, o.output, sample_weight=w),
}


def reference(names: dict[str, Callable[..., float]], name: str, o: Outcome, w: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are only predicted
        return float(names[name](o, w))


@st.composite
def binary_outcomes(draw: st.DrawFn) -> tuple[Outcome, np.ndarray]:
    rows = draw(st.integers(2, 40))
    steps = draw(st.sampled_from([2, 4, 10, 1000]))  # few steps make many ties
    scores = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, steps))) / steps
    truth = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 1)))
    truth[:2] = (0, 1)
    weights = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 4))).astype(float)
    weights[:2] += 1
    return Outcome(Task.BINARY, truth, np.column_stack([1 - scores, scores])), weights


@st.composite
def multiclass_outcomes(draw: st.DrawFn) -> tuple[Outcome, np.ndarray]:
    rows, classes = draw(st.integers(2, 40)), draw(st.integers(3, 6))
    raw = draw(hnp.arrays(np.int64, (rows, classes), elements=st.integers(0, 5))) + 1e-3
    truth = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    truth[:2] = (0, 2)
    weights = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 4))).astype(float)
    weights[:2] += 1
    return Outcome(Task.MULTICLASS, truth, raw / raw.sum(axis=1, keepdims=True)), weights


@st.composite
def regression_outcomes(draw: st.DrawFn) -> tuple[Outcome, np.ndarray]:
    rows = draw(st.integers(3, 40))
    values = st.floats(-1e4, 1e4, allow_nan=False, width=32)
    truth = draw(hnp.arrays(np.float64, rows, elements=values))
    truth[:2] = (0.0, 100.0)
    predictions = draw(hnp.arrays(np.float64, rows, elements=values))
    weights = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 4))).astype(float)
    weights[:2] += 1
    return Outcome(Task.REGRESSION, truth, predictions), weights


def present(outcome: Outcome, weights: np.ndarray) -> Outcome:
    """The rows of weight above zero: scikit-learn counts the classes of rows that weigh nothing."""
    return outcome.take(weights > 0)


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=150)
@given(case=binary_outcomes())
def test_binary_metric_equals_scikit_learn(name: str, case: tuple[Outcome, np.ndarray]) -> None:
    outcome, weights = case

    plain = compute(name, outcome)
    weighted = compute(name, outcome, weights)

    assert plain == pytest.approx(reference(BINARY, name, outcome, None), abs=EXACT)
    expected = reference(BINARY, name, present(outcome, weights), weights[weights > 0])
    assert weighted == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("name", MULTICLASS)
@settings(max_examples=150)
@given(case=multiclass_outcomes())
def test_multiclass_metric_equals_scikit_learn(name: str, case: tuple[Outcome, np.ndarray]) -> None:
    outcome, weights = case

    plain = compute(name, outcome)
    weighted = compute(name, outcome, weights)

    assert plain == pytest.approx(reference(MULTICLASS, name, outcome, None), abs=EXACT)
    expected = reference(MULTICLASS, name, present(outcome, weights), weights[weights > 0])
    assert weighted == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("name", REGRESSION)
@settings(max_examples=150)
@given(case=regression_outcomes())
def test_regression_metric_equals_scikit_learn(name: str, case: tuple[Outcome, np.ndarray]) -> None:
    outcome, weights = case

    plain = compute(name, outcome)
    weighted = compute(name, outcome, weights)

    assert plain == pytest.approx(reference(REGRESSION, name, outcome, None), rel=1e-9, abs=1e-9)
    expected = reference(REGRESSION, name, outcome, weights)
    assert weighted == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(case=binary_outcomes(), name=st.sampled_from(metrics_for(Task.BINARY)))
def test_weight_of_n_is_a_row_n_times(case: tuple[Outcome, np.ndarray], name: str) -> None:
    outcome, weights = case
    repeated = outcome.take(np.repeat(np.arange(outcome.rows), weights.astype(int)))

    assert compute(name, outcome, weights) == pytest.approx(compute(name, repeated), abs=1e-9)


@given(case=binary_outcomes())
def test_roc_auc_of_reversed_scores_is_the_complement(case: tuple[Outcome, np.ndarray]) -> None:
    outcome, weights = case
    reverse = Outcome(Task.BINARY, outcome.truth, outcome.output[:, ::-1])

    total = compute("roc_auc", outcome, weights) + compute("roc_auc", reverse, weights)

    assert total == pytest.approx(1.0)


@pytest.mark.parametrize("task", list(Task))
def test_every_metric_of_a_task_is_known(task: Task) -> None:
    tested = {Task.BINARY: BINARY, Task.MULTICLASS: MULTICLASS, Task.REGRESSION: REGRESSION}[task]

    assert set(tested) == set(metrics_for(task))
    assert set(tested) <= set(HIGHER_IS_BETTER)


@pytest.mark.parametrize(
    ("name", "truth", "defined"),
    [
        ("roc_auc", 0, False),
        ("roc_auc", 1, False),
        ("average_precision", 0, False),
        ("average_precision", 1, True),
        ("balanced_accuracy", 0, False),
        ("f1", 0, False),
        ("f1", 1, True),
        ("accuracy", 0, True),
        ("log_loss", 1, True),
        ("brier", 1, True),
    ],
)
def test_one_class_gives_nan_where_a_metric_needs_two(name: str, truth: int, defined: bool) -> None:
    output = np.array([[0.3, 0.7], [0.8, 0.2], [0.5, 0.5]])
    outcome = Outcome(Task.BINARY, np.full(3, truth), output)

    assert np.isnan(compute(name, outcome)) != defined


def test_r2_of_a_constant_truth_is_nan() -> None:
    outcome = Outcome(Task.REGRESSION, np.full(5, 0.1), np.arange(5.0))

    assert np.isnan(compute("r2", outcome))


def test_many_weightings_at_once_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 20, 300) / 20
    outcome = Outcome(Task.BINARY, rng.integers(0, 2, 300), np.column_stack([1 - scores, scores]))
    weights = rng.integers(0, 3, (7, 300)).astype(float)

    for name in metrics_for(Task.BINARY):
        together = prepare(name, outcome)(weights)
        alone = [compute(name, outcome, row) for row in weights]
        assert together == pytest.approx(alone)


@pytest.mark.parametrize(("name", "expected"), [("roc_auc", 0.1), ("log_loss", -0.1)])
def test_improvement_is_positive_when_better(name: str, expected: float) -> None:
    assert improvement(name, 0.5, 0.4) == pytest.approx(expected)
