"""When other monitors alarm by default, on sorted samples: each rule with its source.

The rules are written out here so that hundreds of model-months can be simulated; `test_drift` holds them
to the real Evidently and NannyML on samples, in the oracles' environment.

- *Evidently* 0.7.23: with more than 1,000 rows of reference, a numeric column has drifted when its
  Wasserstein distance, in standard deviations of the reference, is 0.1 or more
  (`evidently.legacy.calculations.stattests.registry._get_default_stattest` and
  `wasserstein_distance_norm`; documented at https://docs.evidentlyai.com/metrics/explainer_drift). The whole
  data set has drifted when half of its columns have (`drift_share=0.5`).
- *NannyML* 0.13.1: a column alerts when its Jensen-Shannon distance (base 2, Doane's bins of the
  reference) exceeds the mean plus three standard deviations of the distances of the reference's own
  chunks (`nannyml.drift.univariate.calculator.DEFAULT_THRESHOLDS`, `nannyml.thresholds`).
- *SageMaker Model Monitor*: a numeric column violates ``baseline_drift_check`` when its L-infinity distance
  exceeds ``comparison_threshold`` 0.1. ``Simple`` takes the greatest difference of the distribution
  functions, ``Robust`` less 1.8 √((n + m) / (n m))
  (https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-byoc-constraints.html names the values;
  the formula is `com.amazon.deequ.analyzers.Distance`, which its container is built on).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from millrace.monitoring.drift import jensen_shannon

type Floats = npt.NDArray[np.float64]
"""Samples are [features, rows], sorted along the rows."""

THRESHOLD: Final = 0.1
DEVIATIONS: Final = 3.0
DRIFT_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Reference:
    """What the rules learn of the reference.

    Attributes:
        ordered: Its samples, sorted.
        stds: Of each feature.
        edges: Doane's, of each feature.
        shares: Of each bin.
        chunk_mean: Mean Jensen-Shannon distance of the reference's chunks.
        chunk_std: Its standard deviation.
    """

    ordered: Floats
    stds: Floats
    edges: tuple[Floats, ...]
    shares: tuple[Floats, ...]
    chunk_mean: Floats
    chunk_std: Floats


def learn(reference: Floats, rows: int) -> Reference:
    """Learns a reference.

    Args:
        reference: [features, rows], in the order of its arrival.
        rows: Of a window: NannyML's chunks of the reference are as large.
    """
    edges = tuple(np.histogram_bin_edges(row, bins="doane") for row in reference)
    shares = tuple(
        np.histogram(row, bins=e)[0] / len(row) for row, e in zip(reference, edges, strict=True)
    )
    chunks = [
        np.sort(reference[:, begin : begin + rows], axis=1)
        for begin in range(0, reference.shape[1] - rows + 1, rows)
    ]
    distances = np.array([_distances(chunk, edges, shares) for chunk in chunks])
    return Reference(
        ordered=np.sort(reference, axis=1),
        stds=reference.std(axis=1),
        edges=edges,
        shares=shares,
        chunk_mean=distances.mean(axis=0),
        chunk_std=distances.std(axis=0),
    )


def _distances(
    ordered: Floats, edges: tuple[Floats, ...], shares: tuple[Floats, ...]
) -> list[float]:
    distances = []
    for row, bins, expected in zip(ordered, edges, shares, strict=True):
        places = np.searchsorted(row, bins)
        places[-1] = np.searchsorted(row, bins[-1], side="right")
        counts = np.diff(places) / len(row)
        left = 1 - counts.sum()
        # Beyond the edges is a bin of its own, as NannyML has it.
        both = np.append(expected, 0.0), np.append(counts, max(0.0, left))
        distances.append(jensen_shannon(*both).value)
    return distances


def wasserstein_in_deviations(reference: Reference, ordered: Floats) -> Floats:
    """Evidently's score; the reference's rows must be a multiple of the window's."""
    features, rows = ordered.shape
    split = reference.ordered.reshape(features, rows, -1)
    distances: Floats = np.abs(split - ordered[:, :, None]).mean(axis=(1, 2)) / reference.stds
    return distances


def jensen_shannon_in_deviations(reference: Reference, ordered: Floats) -> Floats:
    """NannyML's score, as standard deviations beyond the mean of the reference's chunks."""
    distances = np.array(_distances(ordered, reference.edges, reference.shares))
    return (distances - reference.chunk_mean) / reference.chunk_std


def greatest_difference(reference: Reference, ordered: Floats) -> Floats:
    """SageMaker's simple score."""
    rows = ordered.shape[1]
    greatest = np.empty(len(ordered))
    steps = np.arange(rows + 1) / rows
    for i, row in enumerate(ordered):
        below = (
            np.searchsorted(reference.ordered[i], row, side="right") / reference.ordered.shape[1]
        )
        greatest[i] = max((steps[1:] - below).max(), (below - steps[:-1]).max())
    return greatest


def robust(differences: Floats, rows: int, reference_rows: int) -> Floats:
    """SageMaker's robust score."""
    correction = 1.8 * np.sqrt((rows + reference_rows) / (rows * reference_rows))
    return np.maximum(0.0, differences - correction)
