"""Sequential tests: never above their level however often one looks, and they find what is there."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.rollout.sequential import (
    EFFECTS,
    Counts,
    Evidence,
    log_mean,
    nearest,
)

shares = st.floats(0.01, 0.9)


def _binomial(draw: random.Random, trials: int, share: float) -> int:
    return sum(draw.random() < share for _ in range(trials))


def _crossings(
    *, champion: float, challenger: float, margin: float, level: float, runs: int
) -> float:
    draw = random.Random(7)
    crossed = 0
    for _ in range(runs):
        evidence, a, b = Evidence(), [0, 0], [0, 0]
        for _ in range(30):
            a = [a[0] + 60, a[1] + _binomial(draw, 60, champion)]
            b = [b[0] + 20, b[1] + _binomial(draw, 20, challenger)]
            evidence = evidence.compared(Counts(*a), Counts(*b), margin)
            if evidence.log >= math.log(1 / level):
                crossed += 1
                break
    return crossed / runs


def test_equal_versions_cross_less_often_than_the_level_although_looked_at_thirty_times() -> None:
    level = 0.2
    # Four standard errors above the level would be chance once in thirty thousand runs.
    bound = level + 4 * math.sqrt(level * (1 - level) / 300)

    for margin, challenger in ((0.0, 0.3), (0.05, 0.35)):
        rate = _crossings(champion=0.3, challenger=challenger, margin=margin, level=level, runs=300)
        assert rate <= bound


def test_a_worse_version_is_found() -> None:
    assert _crossings(champion=0.05, challenger=0.4, margin=0.05, level=0.01, runs=60) > 0.95


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    shares,
    st.floats(0.001, 0.4),
    st.sampled_from(EFFECTS),
)
def test_the_expected_factor_is_at_most_one_under_every_hypothesis(
    n_a: int, n_b: int, a: float, margin: float, effect: float
) -> None:
    b = min(a + margin + effect, 0.999)
    if b <= a + margin:
        return
    null = nearest(n_a, n_b, a, b, margin)

    for at in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9):
        for below in (0.0, 0.5, 1.0):
            theta_a, theta_b = at, min(1.0, at + margin) * below
            expected_a = theta_a * a / null + (1 - theta_a) * (1 - a) / (1 - null)
            shifted = null + margin
            expected_b = theta_b * b / shifted + (1 - theta_b) * (1 - b) / (1 - shifted)
            log = n_a * math.log(expected_a) + n_b * math.log(expected_b)
            assert log <= 1e-6


@given(st.integers(1, 500), st.integers(1, 500), shares, shares)
def test_without_a_margin_the_nearest_point_is_the_weighted_mean(
    n_a: int, n_b: int, a: float, b: float
) -> None:
    assert nearest(n_a, n_b, a, b, 0.0) == pytest.approx((n_a * a + n_b * b) / (n_a + n_b))


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20))
def test_the_mean_lies_between_the_least_and_the_greatest(logs: list[float]) -> None:
    assert min(logs) - 1e-9 <= log_mean(logs) <= max(logs) + 1e-9


def test_a_look_without_news_changes_nothing() -> None:
    first = Evidence().compared(Counts(100, 5), Counts(10, 1), 0.01)
    second = first.compared(Counts(200, 9), Counts(20, 9), 0.01)

    assert second.compared(Counts(200, 9), Counts(20, 9), 0.01) == second
    assert second.log > 0


def test_one_sided_traffic_waits_for_the_other_side() -> None:
    first = Evidence().compared(Counts(100, 5), Counts(10, 1), 0.01)
    waiting = first.compared(Counts(200, 9), Counts(10, 1), 0.01)

    assert waiting == first
    assert waiting.compared(Counts(200, 9), Counts(20, 9), 0.01).champion == Counts(200, 9)


def test_the_first_block_only_teaches_the_champions_share() -> None:
    assert Evidence().compared(Counts(100, 5), Counts(100, 100), 0.01).log == 0.0


def test_a_total_that_was_corrected_downwards_waits() -> None:
    first = Evidence().compared(Counts(100, 5), Counts(10, 1), 0.0)

    assert first.compared(Counts(200, 4), Counts(20, 9), 0.0) == first


def test_a_bound_is_crossed_by_more_and_never_by_less() -> None:
    assert Evidence().bounded(Counts(200, 120), 0.2).log > math.log(1_000)
    assert Evidence().bounded(Counts(2_000, 200), 0.2).log < 0
