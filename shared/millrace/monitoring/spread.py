"""How far chance alone moves a metric: bootstrap deviations and intervals, within a bounded time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from millrace.evaluation.bootstrap import MIN_DEFINED, resamples
from millrace.evaluation.metrics import Outcome, compute, prepare

GROUP_ROWS: Final = 2_000
"""Rows of a group that its deviation is drawn from; it shrinks with the root of the rows."""
GROUP_RESAMPLES: Final = 100
_SEED: Final = 7

type Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and where it lies with the baseline's confidence; None where that is not known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric's value, its interval, and the standard deviation that chance gives it.

    Attributes:
        interval: Value and interval.
        deviation: Infinite where too few resamples have a value.
    """

    interval: Interval
    deviation: float

    @classmethod
    def of_draws(cls, value: float, draws: Floats, confidence: float) -> "Spread":
        """Of the values on resamples; the interval is the percentile interval."""
        known = draws[~np.isnan(draws)]
        if len(known) < MIN_DEFINED * len(draws) or len(known) < 2:
            return cls(Interval(value), inf)
        tail = (1 - confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail])
        return cls(Interval(value, float(low), float(high)), float(known.std(ddof=1)))

    @classmethod
    def of_deviation(cls, value: float, deviation: float, confidence: float) -> "Spread":
        """With the normal distribution's interval."""
        half = reach(confidence) * deviation
        return cls(Interval(value, value - half, value + half), deviation)


def reach(confidence: float) -> float:
    """How many standard deviations an interval of the normal distribution reaches to either side."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def draw_each(
    names: Sequence[str], outcome: Outcome, weightings: Callable[[], Iterator[Floats]]
) -> dict[str, Floats]:
    """Metrics under many weightings of the rows.

    Args:
        names: The metrics.
        outcome: The rows.
        weightings: Gives weights [k, rows], some at a time.
    """
    prepared = {name: prepare(name, outcome) for name in names}
    parts: dict[str, list[Floats]] = {name: [] for name in names}
    for weights in weightings():
        for name, metric in prepared.items():
            parts[name].append(metric(weights))
    return {name: np.concatenate(found) for name, found in parts.items()}


def spreads(
    names: Sequence[str], outcome: Outcome, count: int, confidence: float
) -> dict[str, Spread]:
    """Metrics with their bootstrap intervals; one without a value on these rows is left out."""
    values = {name: compute(name, outcome) for name in names}
    known = [name for name, value in values.items() if not np.isnan(value)]
    draws = draw_each(known, outcome, lambda: resamples(outcome.rows, count, _SEED))
    return {name: Spread.of_draws(values[name], draws[name], confidence) for name in known}


def group_spread(metric: str, part: Outcome, confidence: float) -> Spread | None:
    """A metric of a group of rows; None where it has no value.

    The deviation is that of an even part of large groups, scaled to all of their rows.
    """
    value = compute(metric, part)
    if np.isnan(value):
        return None
    some = part
    if part.rows > GROUP_ROWS:
        some = part.take(np.linspace(0, part.rows - 1, GROUP_ROWS).astype(np.int64))
    found = spreads((metric,), some, GROUP_RESAMPLES, confidence).get(metric)
    if found is None or found.deviation == inf:
        return Spread(Interval(value), inf)
    if some is part:
        return found
    return Spread.of_deviation(value, found.deviation * sqrt(some.rows / part.rows), confidence)
