"""Multivariate drift: what no feature shows alone."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
from sklearn.decomposition import PCA

from millrace.monitoring.baseline import EncodedColumn, PrincipalComponents
from millrace.monitoring.encoding import reconstruction_errors
from millrace.monitoring.multivariate import reconstruction

NAMES = ("a", "b", "c")


def together(rows: int, draw: np.random.Generator, correlation: float = 0.95) -> Any:
    """Three standard normal features, the first two of which go together."""
    covariance = np.array([[1, correlation, 0], [correlation, 1, 0], [0, 0, 1]])
    return draw.multivariate_normal(np.zeros(3), covariance, rows)


def components_of(rows: Any) -> tuple[PrincipalComponents, PCA]:
    """Two principal components, as a baseline keeps them, and scikit-learn's own."""
    means, scales = rows.mean(axis=0), rows.std(axis=0)
    fitted = PCA(n_components=2).fit((rows - means) / scales)
    made = PrincipalComponents(
        columns=tuple(
            EncodedColumn(feature=name, category=None, mean=float(mean), scale=float(scale))
            for name, mean, scale in zip(NAMES, means, scales, strict=True)
        ),
        components=tuple(tuple(map(float, axis)) for axis in fitted.components_),
        explained=float(fitted.explained_variance_ratio_.sum()),
        rows=len(rows),
        error_mean=0.0,
        error_std=0.0,
    )
    errors = errors_of(made, rows)
    return (
        made.model_copy(
            update={"error_mean": float(errors.mean()), "error_std": float(errors.std(ddof=1))}
        ),
        fitted,
    )


def errors_of(components: PrincipalComponents, rows: Any) -> Any:
    """Of rows as they were captured, column by column."""
    return reconstruction_errors(
        components, {name: rows[:, i].tolist() for i, name in enumerate(NAMES)}
    )


def test_reconstruction_errors_are_scikit_learns() -> None:
    rows = together(500, np.random.default_rng(1))
    components, fitted = components_of(rows)
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)

    ours = errors_of(components, rows)

    rebuilt = fitted.inverse_transform(fitted.transform(standard))
    assert np.abs(ours - np.linalg.norm(standard - rebuilt, axis=1)).max() < 1e-12


def test_features_that_stop_going_together_are_found_though_each_looks_as_ever() -> None:
    draw = np.random.default_rng(2)
    baseline, _ = components_of(together(10_000, draw))
    same, apart = together(2_000, draw), together(2_000, draw, correlation=0.5)

    calm, moved = (
        reconstruction(
            errors_of(baseline, rows),
            mean=baseline.error_mean,
            std=baseline.error_std,
            rows=baseline.rows,
        )
        for rows in (same, apart)
    )

    assert (calm.p_value or 0) > 0.001
    assert abs(float(calm.parameters["effect"])) < 0.1
    assert (moved.p_value or 0) < 1e-30
    assert float(moved.parameters["effect"]) > 1
    for i in range(3):  # No feature tells it.
        assert scipy.stats.ks_2samp(same[:, i], apart[:, i]).pvalue > 0.001


def test_the_test_is_welchs() -> None:
    draw = np.random.default_rng(3)
    reference, errors = draw.gamma(2, 1, 5_000), draw.gamma(2, 1.1, 800)

    found = reconstruction(
        errors, mean=float(reference.mean()), std=float(reference.std(ddof=1)), rows=5_000
    )

    welch = scipy.stats.ttest_ind(errors, reference, equal_var=False)
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(welch.statistic)), rel=1e-9)


def test_rows_that_are_all_alike_are_compared_too() -> None:
    alike = np.ones(300)

    assert reconstruction(alike, mean=1.0, std=0.0, rows=900).p_value == 1.0
    assert reconstruction(alike, mean=2.0, std=0.0, rows=900).p_value == 0.0
