"""Bootstrap percentile intervals, alone and paired.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16. A resample draws
as many rows as there are, with replacement; its counts are the row weights of `metrics.prepare`.
The paired bootstrap gives both models the same resamples: what is common to both, such as a hard
draw of rows, cancels in the difference.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from millrace.evaluation.document import Measured
from millrace.evaluation.metrics import Codes, Floats, Weighted
from millrace.spec import HIGHER_IS_BETTER

CHUNK_CELLS: Final = 1_000_000
"""Counts held at a time (8 MB), however many rows and resamples there are."""

MIN_DEFINED: Final = 0.5
"""Share of resamples on which a metric must have a value for an interval to be given."""


@dataclass(frozen=True, slots=True)
class Draws:
    """A metric's value on every resample; NaN where it has none (one class was drawn)."""

    values: Floats

    @property
    def skipped(self) -> int:
        """Resamples without a value."""
        return int(np.isnan(self.values).sum())

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """The percentile interval, or None when too few resamples have a value."""
        defined = self.values[~np.isnan(self.values)]
        if len(defined) < MIN_DEFINED * len(self.values):
            return None
        tail = (1 - confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return float(low), float(high)


def resamples(rows: int, count: int, seed: int, clusters: Codes | None = None) -> Iterator[Floats]:
    """Row counts of the resamples, some at a time, [k, rows]; the same for the same arguments.

    Args:
        rows: How many rows there are.
        count: How many resamples.
        seed: Names the resamples.
        clusters: Code of each row's cluster, from 0; whole clusters are drawn then (Davison and
            Hinkley, Bootstrap Methods, 1997, section 3.8), as rows of one entity tell less than as
            many independent ones.
    """
    rng = np.random.default_rng(seed)
    units = rows if clusters is None else int(clusters.max(initial=-1)) + 1
    step = max(1, CHUNK_CELLS // max(rows, 1))
    for start in range(0, count, step):
        counts = np.stack(
            [
                np.bincount(rng.integers(0, units, units), minlength=units).astype(np.float64)
                for _ in range(min(step, count - start))
            ]
        )
        yield counts if clusters is None else counts[:, clusters]


def draw[K](
    prepared: Mapping[K, Weighted],
    rows: int,
    count: int,
    seed: int,
    clusters: Codes | None = None,
) -> dict[K, Draws]:
    """Evaluates prepared metrics, of one model or several, on the same resamples.

    Args:
        prepared: What to evaluate; all over the same rows.
        rows: How many rows they are over.
        count: How many resamples.
        seed: Names the resamples.
        clusters: See `resamples`.
    """
    parts: dict[K, list[Floats]] = {key: [] for key in prepared}
    for weights in resamples(rows, count, seed, clusters):
        for key, metric in prepared.items():
            parts[key].append(metric(weights))
    return {key: Draws(np.concatenate(values)) for key, values in parts.items()}


def measured(value: float, draws: Draws, confidence: float) -> Measured:
    """A metric's value on the rows themselves with its interval."""
    low, high = draws.interval(confidence) or (None, None)
    return Measured(
        value=value, low=low, high=high, resamples=len(draws.values), skipped=draws.skipped
    )


def paired_difference(metric: str, candidate: Draws, champion: Draws) -> Draws:
    """Candidate minus champion on each resample, signed so that positive is better."""
    difference = candidate.values - champion.values
    return Draws(difference if HIGHER_IS_BETTER[metric] else -difference)
