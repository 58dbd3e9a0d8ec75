"""Statistics of drift: against SciPy, and the bounds of what counts per bin lose."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from millrace.monitoring.drift import (
    chi2,
    counted,
    jensen_shannon,
    ks,
    ks_binned,
    merged,
    psi,
    psi_by_chance,
    share_difference,
    wasserstein,
    wasserstein_binned,
)

EXACT = 1e-12
type Array = npt.NDArray[np.float64]

tables = st.integers(2, 40).flatmap(
    lambda bins: st.tuples(
        *(
            st.lists(st.integers(0, 5_000), min_size=bins, max_size=bins).filter(any)
            for _ in range(2)
        )
    )
)
samples = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=200)


def normal(rows: int, *, shift: float = 0.0, seed: int = 0) -> Array:
    """A sample."""
    return np.random.default_rng(seed).normal(shift, 1, rows)


@given(tables)
def test_psi_is_both_divergences_of_kullback_and_leibler(table: Any) -> None:
    reference, window = (np.array(row) + 1 for row in table)
    p, q = reference / reference.sum(), window / window.sum()

    assert psi(reference, window).value == pytest.approx(
        scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p), rel=1e-9, abs=EXACT
    )


@given(tables)
def test_chi_squared_is_scipys_contingency_test(table: Any) -> None:
    reference, window = map(np.array, table)
    seen = reference + window > 0

    ours = chi2(reference, window)

    if seen.sum() < 2:
        assert (ours.value, ours.p_value) == (0.0, 1.0)
        return
    theirs = scipy.stats.chi2_contingency([reference[seen], window[seen]], correction=False)
    assert ours.value == pytest.approx(theirs.statistic, rel=EXACT, abs=EXACT)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=EXACT)
    assert ours.parameters["df"] == theirs.dof


@given(tables, st.sampled_from([2.0, math.e, 10.0]))
def test_jensen_shannon_is_scipys_in_every_base(table: Any, base: float) -> None:
    reference, window = map(np.array, table)

    ours = jensen_shannon(reference, window, base=base)

    theirs = scipy.spatial.distance.jensenshannon(reference, window, base)
    # The squares: near zero, a root makes much of what rounding leaves.
    assert ours.value**2 == pytest.approx(theirs**2, abs=EXACT)
    assert ours.parameters["base"] == base


@given(samples, samples)
def test_kolmogorov_smirnov_and_wasserstein_are_scipys(one: list[float], two: list[float]) -> None:
    a, b = np.array(one), np.array(two)

    greatest = scipy.stats.ks_2samp(a, b, method="asymp").statistic
    assert ks(a, b).value == pytest.approx(greatest, abs=EXACT)
    assert wasserstein(a, b).value == pytest.approx(
        scipy.stats.wasserstein_distance(a, b), rel=EXACT, abs=1e-11
    )


def test_kolmogorov_smirnovs_p_value_is_that_of_the_limit() -> None:
    a, b = normal(3_000), normal(1_777, shift=0.05, seed=1)

    found = ks(a, b)

    root = math.sqrt(3_000 * 1_777 / 4_777)
    assert found.p_value == pytest.approx(
        scipy.stats.kstwobign.sf(root * found.value), rel=EXACT, abs=EXACT
    )
    exact = scipy.stats.ks_2samp(a, b, method="exact").pvalue
    assert exact < found.p_value < 1.2 * exact  # Careful, and not by much.


@given(samples, samples, st.integers(2, 12))
def test_what_counts_lose_is_within_the_stated_bounds(
    one: list[float], two: list[float], bins: int
) -> None:
    a, b = np.array(one), np.array(two)
    both = np.concatenate((a, b))
    edges = np.unique(np.quantile(both, np.linspace(0, 1, bins + 1)))
    if len(edges) < 2:
        return
    reference, window = counted(a, edges), counted(b, edges)

    of_bins, of_samples = ks_binned(reference, window), ks(a, b)
    assert of_bins.bound is not None
    assert of_bins.value - EXACT <= of_samples.value <= of_bins.value + of_bins.bound + EXACT

    area, true_area = wasserstein_binned(reference, window, edges), wasserstein(a, b)
    assert area.bound is not None
    assert abs(area.value - true_area.value) <= area.bound + 1e-9


@given(tables)
def test_merging_bins_never_raises_a_divergence(table: Any) -> None:
    reference, window = (np.array(row) + 1 for row in table)
    one, two = merged(reference, window, ordered=True, least=50)

    assert psi(one, two).value <= psi(reference, window).value + 1e-9
    assert jensen_shannon(one, two).value <= jensen_shannon(reference, window).value + 1e-9


@given(tables, st.booleans())
def test_merging_loses_no_row_and_leaves_no_sparse_bin(table: Any, ordered: bool) -> None:
    reference, window = map(np.array, table)

    one, two = merged(reference, window, ordered=ordered)

    assert (one.sum(), two.sum()) == (reference.sum(), window.sum())
    if len(one) > 1:
        expected = (one + two) * min(one.sum(), two.sum()) / (one.sum() + two.sum())
        assert expected.min() >= 5.0 - EXACT


def test_the_distance_of_equally_spread_counts_is_the_area_between_two_lines() -> None:
    edges = np.array([0.0, 1.0, 2.0])

    assert wasserstein_binned(np.array([1, 1]), np.array([1, 1]), edges).value == 0.0
    # Uniform on [0, 1] and uniform on [1, 2] are one apart.
    assert wasserstein_binned(np.array([9, 0]), np.array([0, 4]), edges).value == 1.0
    # A scale divides it, bound included.
    scaled = wasserstein_binned(np.array([9, 0]), np.array([0, 4]), edges, scale=4.0)
    assert (scaled.value, scaled.bound, scaled.parameters["scale"]) == (0.25, 0.25, 4.0)


def test_the_difference_of_two_shares_is_tested_exactly_where_counts_are_small() -> None:
    few = share_difference(2, 200, 0, 10_000)
    many = share_difference(300, 1_000, 2_000, 10_000)

    assert few.parameters["test"] == "fisher"
    assert few.p_value == pytest.approx(scipy.stats.fisher_exact([[2, 198], [0, 10_000]])[1])
    assert many.parameters["test"] == "chi2"
    assert many.value == pytest.approx(0.1)
    assert many.p_value == pytest.approx(
        scipy.stats.chi2_contingency([[300, 700], [2_000, 8_000]], correction=False).pvalue
    )


def test_samples_are_counted_as_a_profile_counts_them() -> None:
    edges = np.array([0.0, 1.0, 2.0, 4.0])

    assert counted(np.array([-5.0, 0.0, 0.5, 1.0, 2.0, 4.0, 9.0]), edges).tolist() == [3, 1, 3]
    assert counted(np.array([3.0, 3.0]), np.array([3.0])).tolist() == [2]


def test_an_empty_bin_needs_smoothing_or_a_floor() -> None:
    reference, window = np.array([50, 50]), np.array([100, 0])

    assert psi(reference, window).value == math.inf
    smoothed = psi(reference, window, smoothing=0.5)
    floored = psi(reference, window, floor=0.0001)
    assert smoothed.value < floored.value < math.inf
    assert smoothed.parameters == {"bins": 2, "smoothing": 0.5}
    assert floored.parameters["floor"] == 0.0001


def test_psi_of_nothing_but_chance_has_the_mean_that_is_stated() -> None:
    draw = np.random.default_rng(3)
    shares = np.full(10, 0.1)
    n, m = 400, 1_000

    values = [
        psi(draw.multinomial(m, shares), draw.multinomial(n, shares), smoothing=0.5).value
        for _ in range(4_000)
    ]

    assert np.mean(values) == pytest.approx(psi_by_chance(10, m, n), rel=0.05)
