"""What the report draws equals what scikit-learn computes, and stays small."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from millrace.evaluation import curves
from millrace.evaluation.metrics import Outcome
from millrace.spec import Task
from tests.unit.evaluation import cases


def test_roc_points_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    outcome = cases.binary_outcome(rng.integers(0, 2, 60), rng.integers(0, 10, 60) / 10)

    points = np.array(curves.curves(outcome).roc)

    across, up, _ = sk.roc_curve(outcome.truth, outcome.scores, drop_intermediate=False)
    assert points == pytest.approx(np.column_stack([across, up]), abs=1e-5)


def test_precision_recall_points_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    outcome = cases.binary_outcome(rng.integers(0, 2, 60), rng.integers(0, 10, 60) / 10)

    points = curves.curves(outcome).precision_recall

    precision, recall, _ = sk.precision_recall_curve(outcome.truth, outcome.scores)
    found = {(round(float(r), 5), round(float(p), 5)) for p, r in zip(precision, recall)}  # noqa: B905
    assert set(points[1:]) <= found


def test_curves_of_many_rows_are_thinned_and_keep_their_ends() -> None:
    found = curves.curves(cases.random_binary(20_000, 1))

    assert len(found.roc) <= curves.MAX_POINTS
    assert found.roc[0] == (0, 0)
    assert found.roc[-1] == (1, 1)
    area = np.trapezoid([y for _, y in found.roc], [x for x, _ in found.roc])
    truth = cases.random_binary(20_000, 1)
    assert area == pytest.approx(sk.roc_auc_score(truth.truth, truth.scores), abs=2e-3)


def test_calibration_is_scikit_learns() -> None:
    outcome = cases.random_binary(500, 2)

    found = curves.calibration(outcome)

    observed, predicted = calibration_curve(outcome.truth, outcome.scores, n_bins=10)
    assert [b.observed for b in found.bins] == pytest.approx(observed)
    assert [b.predicted for b in found.bins] == pytest.approx(predicted)
    assert sum(b.rows for b in found.bins) == 500


@given(hits=st.integers(0, 50), misses=st.integers(0, 50))
def test_wilson_interval_holds_the_share(hits: int, misses: int) -> None:
    rows = hits + misses
    if rows:
        low, high = curves.wilson(hits, rows)
        assert 0 <= low <= hits / rows + 1e-12
        assert hits / rows - 1e-12 <= high <= 1


def test_confusion_is_scikit_learns() -> None:
    outcome = cases.random_binary(300, 2)

    found = curves.confusion(outcome, ("no", "yes"))

    expected = sk.confusion_matrix(outcome.truth, outcome.labels)
    assert np.array_equal(np.array(found.counts), expected)


def many_classes(size: int, rows: int) -> Outcome:
    rng = np.random.default_rng(1)
    truth = np.minimum(rng.geometric(0.2, rows) - 1, size - 1)
    return Outcome(Task.MULTICLASS, truth, rng.dirichlet(np.ones(size), rows))


def test_the_rarest_of_many_classes_are_drawn_together() -> None:
    outcome = many_classes(30, 2_000)
    names = tuple(f"c{i}" for i in range(30))

    found = curves.confusion(outcome, names)

    assert len(found.labels) == curves.MAX_CLASSES
    assert found.labels[-1] == curves.OTHERS
    assert sum(map(sum, found.counts)) == 2_000


def test_class_scores_are_scikit_learns() -> None:
    outcome = many_classes(4, 400)

    found = curves.class_scores(outcome, ("a", "b", "c", "d"))

    precision, recall, f1, rows = sk.precision_recall_fscore_support(outcome.truth, outcome.labels)
    by_label = {c.label: c for c in found}
    for i, label in enumerate("abcd"):
        scores = by_label[label]
        assert (scores.precision, scores.recall, scores.f1, scores.rows) == pytest.approx(
            (precision[i], recall[i], f1[i], rows[i])
        )


@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32)),
        min_size=2,
        max_size=80,
    )
)
def test_regression_drawings_count_every_row(pairs: list[tuple[float, float]]) -> None:
    truth, output = (np.array(v, dtype=np.float64) for v in zip(*pairs, strict=True))
    outcome = Outcome(Task.REGRESSION, truth, output)

    residuals = curves.residual_histogram(outcome, None)
    grid = curves.density(outcome)
    spread = curves.score_histogram(outcome, ())

    assert sum(residuals.series["candidate"]) == len(pairs)
    assert sum(map(sum, grid.counts)) + grid.outside == len(pairs)
    assert {sum(c) for c in spread.series.values()} == {len(pairs)}
    assert sum(b.rows for b in curves.calibration(outcome).bins) == len(pairs)


def test_residuals_of_a_perfect_model_can_be_drawn() -> None:
    outcome = Outcome(Task.REGRESSION, np.arange(5.0), np.arange(5.0))

    assert sum(curves.residual_histogram(outcome, outcome).series["champion"]) == 5


def test_operating_points_are_scikit_learns() -> None:
    outcome = cases.random_binary(400, 2)

    points = curves.operating_points(outcome)

    assert [p.threshold for p in points] == pytest.approx(np.arange(0.1, 0.95, 0.1))
    for point in points:
        labels = outcome.scores >= point.threshold
        assert point.precision == pytest.approx(sk.precision_score(outcome.truth, labels))
        assert point.recall == pytest.approx(sk.recall_score(outcome.truth, labels))
        assert point.f1 == pytest.approx(sk.f1_score(outcome.truth, labels))
        assert point.accuracy == pytest.approx(sk.accuracy_score(outcome.truth, labels))


def test_a_threshold_nobody_reaches_has_no_precision() -> None:
    points = curves.operating_points(cases.binary_outcome([1, 0], [0.3, 0.2]))

    assert points[-1].precision is None
    assert points[-1].selected == 0
