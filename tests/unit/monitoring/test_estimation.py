"""Performance without labels: calibration, confidence-based estimates, models of the loss."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from millrace.evaluation.metrics import Outcome, compute
from millrace.evaluation.reference import describe
from millrace.monitoring.estimation import (
    MIN_SKILL,
    calibrated,
    estimate,
    estimate_loss,
    fit_calibration,
)
from millrace.spec import Task, metrics_for
from tests.unit.monitoring.judged import captured, judged

type Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def shifted(rows: int, seed: int, by: float) -> tuple[Floats, Floats, Floats]:
    """Chances, scores that exaggerate them, and labels drawn by the chances."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(by, 1.5, rows)
    chance = 1 / (1 + np.exp(-logit))
    return chance, 1 / (1 + np.exp(-2 * logit)), (rng.random(rows) < chance).astype(np.int64)


def test_isotonic_map_is_scikit_learns_at_the_scores_where_no_scores_are_pooled() -> None:
    rng = np.random.default_rng(1)
    scores = np.repeat(np.linspace(0.02, 0.98, 60), 50)
    hits = rng.random(len(scores)) < scores**2

    fitted = fit_calibration(scores, hits)

    oracle = IsotonicRegression(out_of_bounds="clip").fit(scores, hits.astype(float))
    assert fitted.method == "isotonic"
    output = np.column_stack([1 - scores, scores])
    assert calibrated((fitted,), output)[:, 1] == pytest.approx(oracle.predict(scores), abs=1e-8)


@given(st.integers(0, 10_000), st.integers(2, 400))
@settings(max_examples=40, deadline=None)
def test_calibrated_scores_are_probabilities_in_the_order_of_the_scores(
    seed: int, rows: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random(rows), 2)

    fitted = fit_calibration(scores, rng.random(rows) < scores**3)

    told = calibrated((fitted,), np.column_stack([1 - scores, scores]))
    assert ((told >= 0) & (told <= 1)).all()
    assert told.sum(axis=1) == pytest.approx(1)
    assert (np.diff(told[np.argsort(scores, kind="stable"), 1]) >= -1e-12).all()


def test_scores_that_are_calibrated_already_stay_where_they_are() -> None:
    chance, _, labels = shifted(4_000, 2, 0.0)

    told = calibrated(
        (fit_calibration(chance, labels == 1),), np.column_stack([1 - chance, chance])
    )

    assert np.abs(told[:, 1] - chance).mean() < 0.04


def test_few_scores_that_are_calibrated_are_kept() -> None:
    kept = 0
    for seed in range(20):
        chance, _, labels = shifted(60, seed, 0.0)
        kept += fit_calibration(chance, labels == 1).method == "identity"

    assert kept >= 15


def test_estimates_are_those_of_the_published_method() -> None:
    """NannyML's formulas: expected confusion for labels, expected curve for the area under it."""
    chance, scores, _ = shifted(1_000, 12, 0.5)
    output = np.column_stack([1 - scores, scores])

    found = estimate(
        Task.BINARY, np.column_stack([1 - chance, chance]), output, ("roc_auc", "f1", "accuracy")
    )

    says = scores > 0.5
    hits, misses, alarms = chance[says].sum(), chance[~says].sum(), (1 - chance[says]).sum()
    area = roc_auc_score(
        np.repeat([1, 0], 1_000),
        np.tile(scores, 2),
        sample_weight=np.concatenate((chance, 1 - chance)),
    )
    assert found["accuracy"] == pytest.approx(np.where(says, chance, 1 - chance).mean(), abs=1e-12)
    assert found["f1"] == pytest.approx(2 * hits / (2 * hits + alarms + misses), abs=1e-12)
    assert found["roc_auc"] == pytest.approx(area, abs=1e-12)


def test_estimate_follows_the_real_metrics_when_the_inputs_move() -> None:
    _, scores, labels = shifted(20_000, 3, 0.0)
    maps = (fit_calibration(scores, labels == 1),)

    _, moved, truth = shifted(20_000, 4, 1.5)

    output = np.column_stack([1 - moved, moved])
    names = metrics_for(Task.BINARY)
    found = estimate(Task.BINARY, calibrated(maps, output), output, names)
    real = {name: compute(name, Outcome(Task.BINARY, truth, output)) for name in names}
    stale = {
        name: compute(name, Outcome(Task.BINARY, labels, np.column_stack([1 - scores, scores])))
        for name in names
    }
    for name in names:
        assert found[name] == pytest.approx(real[name], abs=0.03)
    assert abs(found["accuracy"] - real["accuracy"]) < abs(stale["accuracy"] - real["accuracy"])


def test_estimate_of_certain_rows_is_the_metric_itself() -> None:
    rng = np.random.default_rng(5)
    output = rng.dirichlet(np.ones(3), 500)
    truth = rng.integers(0, 3, 500)

    found = estimate(Task.MULTICLASS, np.eye(3)[truth], output, metrics_for(Task.MULTICLASS))

    real = Outcome(Task.MULTICLASS, truth, output)
    for name, value in found.items():
        assert value == pytest.approx(compute(name, real), abs=1e-12)


def test_estimate_is_blind_to_concept_change() -> None:
    """What the caveat says: the same scores, and labels that no longer follow them."""
    _, scores, labels = shifted(5_000, 6, 0.0)
    output = np.column_stack([1 - scores, scores])
    maps = (fit_calibration(scores, labels == 1),)
    turned = Outcome(Task.BINARY, 1 - labels, output)

    found = estimate(Task.BINARY, calibrated(maps, output), output, ("roc_auc",))

    assert compute("roc_auc", turned) < 0.3
    assert found["roc_auc"] > 0.7


def houses(rows: int, seed: int, share_noisy: float) -> dict[str, Any]:
    """Rows of a quiet and of a noisy kind."""
    rng = np.random.default_rng(seed)
    noisy = rng.random(rows) < share_noisy
    area = rng.uniform(50, 200, rows)
    truth = 3 * area + rng.normal(0, np.where(noisy, 40, 5), rows)
    return {
        "columns": {"area": area, "kind": np.where(noisy, "old", "new").astype(object)},
        "truth": truth,
        "output": 3 * area,
    }


def test_error_of_a_regression_is_estimated_where_the_inputs_tell_of_it() -> None:
    before, now = houses(4_000, 7, 0.2), houses(4_000, 8, 0.7)
    baseline = describe(judged(Task.REGRESSION, **before))

    found = {
        loss.loss: estimate_loss(loss, baseline, captured(now["columns"]), now["output"])
        for loss in baseline.losses
    }

    error = now["output"] - now["truth"]
    assert found["absolute"] == pytest.approx(np.abs(error).mean(), rel=0.05)
    assert found["squared"] == pytest.approx(np.sqrt((error**2).mean()), rel=0.1)
    assert all(loss.skill > MIN_SKILL for loss in baseline.losses)
    assert baseline.losses_refused.startswith("r2 is not estimated")


def test_error_that_the_inputs_do_not_tell_of_is_refused_with_the_reason() -> None:
    rng = np.random.default_rng(9)
    area = rng.uniform(50, 200, 2_000)
    truth = 3 * area + rng.normal(0, 10, 2_000)

    baseline = describe(judged(Task.REGRESSION, {"area": area}, truth, 3 * area))

    assert baseline.losses == ()
    assert "mae and rmse not estimated" in baseline.losses_refused
