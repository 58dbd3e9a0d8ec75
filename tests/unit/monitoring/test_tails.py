"""Tails of distributions against SciPy's."""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from millrace.monitoring.tails import (
    adjusted,
    chi2_tail,
    fisher_tail,
    kolmogorov_tail,
    normal_tail,
    stepped_down,
)

EXACT = 1e-12


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 10, 19, 20, 49, 50, 99, 199, 500, 1_000])
def test_the_tail_of_chi_squared_is_scipys(df: int) -> None:
    points = np.concatenate((np.geomspace(1e-6, 1e5, 200), df * np.linspace(0.5, 2, 50)))

    ours = np.array([chi2_tail(float(x), df) for x in points])

    theirs = scipy.stats.chi2.sf(points, df)
    assert np.abs(ours - theirs).max() < EXACT
    counted = theirs > 1e-290  # Of what is next to nothing, the order of size is right as well.
    assert np.abs(ours / np.where(counted, theirs, 1) - 1)[counted].max() < 2e-12


def test_the_tail_of_kolmogorovs_distribution_is_scipys() -> None:
    points = np.geomspace(1e-3, 15, 2_000)

    ours = np.array([kolmogorov_tail(float(x)) for x in points])

    theirs = scipy.special.kolmogorov(points)
    assert np.abs(ours - theirs).max() < EXACT
    counted = theirs > 1e-290
    assert np.abs(ours / np.where(counted, theirs, 1) - 1)[counted].max() < EXACT


def test_the_normal_tail_is_scipys() -> None:
    points = np.linspace(-8, 30, 500)

    ours = np.array([normal_tail(float(z)) for z in points])

    assert ours == pytest.approx(scipy.stats.norm.sf(points), rel=EXACT)


@given(
    rows=st.integers(1, 3_000),
    reference_rows=st.integers(1, 30_000),
    share=st.floats(0, 1),
    reference_share=st.floats(0, 1),
)
def test_fishers_test_is_scipys(
    rows: int, reference_rows: int, share: float, reference_share: float
) -> None:
    hits, reference_hits = round(share**3 * rows), round(reference_share**3 * reference_rows)

    ours = fisher_tail(hits, rows, reference_hits, reference_rows)

    table = [[hits, rows - hits], [reference_hits, reference_rows - reference_hits]]
    assert ours == pytest.approx(scipy.stats.fisher_exact(table)[1], rel=1e-10, abs=EXACT)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_correction_for_many_tests_is_scipys(p_values: list[float]) -> None:
    assert adjusted(p_values) == pytest.approx(
        scipy.stats.false_discovery_control(p_values), abs=EXACT
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_stepping_down_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    tests = range(len(p_values))
    among = [set(some) for size in tests for some in combinations(tests, size + 1)]

    ours = stepped_down(p_values)

    # A hypothesis falls when every intersection that it is part of does (Marcus, Peritz and Gabriel 1976).
    closed = [
        min(1.0, max(len(some) * min(p_values[i] for i in some) for some in among if one in some))
        for one in tests
    ]
    assert ours == pytest.approx(closed, abs=EXACT)
    assert (ours <= np.minimum(1.0, len(p_values) * np.array(p_values)) + EXACT).all()


def test_nothing_is_as_likely_as_nothing() -> None:
    assert chi2_tail(0.0, 5) == kolmogorov_tail(0.0) == 1.0
    assert fisher_tail(0, 500, 0, 10_000) == 1.0
    assert normal_tail(math.inf) == 0.0
    assert chi2_tail(1e9, 19) == 0.0
