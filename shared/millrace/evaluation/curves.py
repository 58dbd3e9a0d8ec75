"""What a report draws: curves, calibration, counts. Descriptive only; nothing here decides."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.evaluation.document import (
    Calibration,
    CalibrationBin,
    ClassScores,
    Confusion,
    Curves,
    Density,
    Histogram,
    OperatingPoint,
    Points,
)
from millrace.evaluation.metrics import Floats, Outcome
from millrace.spec import Task

MAX_POINTS: Final = 160
BINS: Final = 10
MAX_CLASSES: Final = 15
"""Classes drawn one by one; the rarest beyond are drawn as one."""
OTHERS: Final = "(all others)"


def _thin(across: Floats, up: Floats) -> Points:
    """At most `MAX_POINTS` of a curve's points, evenly spaced along it, ends included."""
    if len(across) > MAX_POINTS:
        steps = np.hypot(np.diff(across), np.diff(up))
        along = np.concatenate(([0.0], np.cumsum(steps)))
        wanted = np.linspace(0, along[-1], MAX_POINTS)
        keep = np.unique(np.searchsorted(along, wanted).clip(0, len(across) - 1))
        across, up = across[keep], up[keep]
    return tuple((round(float(a), 5), round(float(u), 5)) for a, u in zip(across, up, strict=True))


def curves(outcome: Outcome) -> Curves:
    """ROC and precision-recall curves; one point per distinct score before thinning."""
    order = np.argsort(-outcome.scores, kind="stable")
    ranked = outcome.scores[order]
    ends = np.flatnonzero(np.concatenate((ranked[1:] != ranked[:-1], [True])))
    positive = (outcome.truth[order] == 1).astype(np.float64)
    found = np.cumsum(positive)[ends]
    selected = ends + 1.0
    positives, rows = float(positive.sum()), float(outcome.rows)
    recall = found / positives
    false_alarms = (selected - found) / (rows - positives)
    precision = found / selected
    return Curves(
        roc=_thin(np.concatenate(([0.0], false_alarms)), np.concatenate(([0.0], recall))),
        precision_recall=_thin(
            np.concatenate(([0.0], recall)), np.concatenate((precision[:1], precision))
        ),
        prevalence=positives / rows,
    )


def wilson(hits: float, rows: float) -> tuple[float, float]:
    """95 % interval of a share: Wilson, J. Am. Stat. Assoc. 22 (1927)."""
    z = 1.96
    share, square = hits / rows, z * z
    centre = (share + square / (2 * rows)) / (1 + square / rows)
    half = z / (1 + square / rows) * np.sqrt(share * (1 - share) / rows + square / (4 * rows**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def calibration(outcome: Outcome) -> Calibration:
    """Predicted against observed, in ten bins.

    Binary: the positive class's probability. Multiclass: the top class's probability against how
    often it is right (Guo et al., ICML 2017). Regression: tenths of the predictions.
    """
    if outcome.task is Task.REGRESSION:
        return _calibration_of_values(outcome)
    if outcome.task is Task.BINARY:
        predicted, right = outcome.scores, outcome.truth == 1
    else:
        predicted, right = outcome.output.max(axis=1), outcome.labels == outcome.truth
    place = np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(place, minlength=BINS)
    total = np.bincount(place, weights=predicted, minlength=BINS)
    hits = np.bincount(place, weights=right.astype(np.float64), minlength=BINS)
    bins = []
    for index in np.flatnonzero(rows):
        low, high = wilson(hits[index], rows[index])
        bins.append(
            CalibrationBin(
                low=index / BINS,
                high=(index + 1) / BINS,
                rows=int(rows[index]),
                predicted=float(total[index] / rows[index]),
                observed=float(hits[index] / rows[index]),
                observed_low=low,
                observed_high=high,
            )
        )
    return Calibration(bins=tuple(bins), error=_calibration_error(bins, outcome.rows))


def _calibration_of_values(outcome: Outcome) -> Calibration:
    order = np.argsort(outcome.output, kind="stable")
    bins = []
    for part in np.array_split(order, min(BINS, outcome.rows)):
        predicted, actual = outcome.output[part], outcome.truth[part]
        low, high = np.quantile(actual, [0.1, 0.9])
        bins.append(
            CalibrationBin(
                low=float(predicted[0]),
                high=float(predicted[-1]),
                rows=len(part),
                predicted=float(predicted.mean()),
                observed=float(actual.mean()),
                observed_low=float(low),
                observed_high=float(high),
            )
        )
    return Calibration(bins=tuple(bins), error=_calibration_error(bins, outcome.rows))


def _calibration_error(bins: list[CalibrationBin], rows: int) -> float:
    return sum(abs(b.predicted - b.observed) * b.rows for b in bins) / rows


def score_histogram(outcome: Outcome, classes: tuple[str, ...]) -> Histogram:
    """How the answers are spread: by true class for binary, by right and wrong for multiclass."""
    if outcome.task is Task.REGRESSION:
        low, high = _middle(np.concatenate([outcome.output, outcome.truth]))
        edges = np.linspace(low, high, 31)
        series = {"actual": outcome.truth, "predicted": outcome.output}
    else:
        edges = np.linspace(0, 1, 26)
        if outcome.task is Task.BINARY:
            series = {classes[code]: outcome.scores[outcome.truth == code] for code in (0, 1)}
        else:
            top, right = outcome.output.max(axis=1), outcome.labels == outcome.truth
            series = {"right": top[right], "wrong": top[~right]}
    return Histogram(edges=_edges(edges), series={k: _counts(v, edges) for k, v in series.items()})


def residual_histogram(candidate: Outcome, champion: Outcome | None) -> Histogram:
    """Predicted minus actual; the outermost bins hold everything beyond."""
    residuals = {"candidate": candidate.output - candidate.truth}
    if champion is not None:
        residuals["champion"] = champion.output - champion.truth
    low, high = _middle(np.concatenate(list(residuals.values())))
    reach = max(abs(low), abs(high))
    edges = np.linspace(-reach, reach, 42)
    return Histogram(
        edges=_edges(edges), series={k: _counts(v, edges) for k, v in residuals.items()}
    )


def density(outcome: Outcome) -> Density:
    """Predicted by actual values as counts in a grid: shows the cloud without showing a row."""
    low, high = _middle(np.concatenate([outcome.output, outcome.truth]))
    edges = np.linspace(low, high, 33)
    counts, _, _ = np.histogram2d(outcome.truth, outcome.output, bins=(edges, edges))
    return Density(
        edges=_edges(edges),
        counts=tuple(tuple(int(c) for c in row) for row in counts),
        outside=outcome.rows - int(counts.sum()),
    )


def _middle(values: Floats) -> tuple[float, float]:
    low, high = (float(v) for v in np.quantile(values, [0.005, 0.995]))
    if low == high:
        margin = abs(low) * 0.01 or 0.5
        return low - margin, high + margin
    return low, high


def _edges(edges: npt.NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(f"{e:.6g}") for e in edges)


def _counts(values: Floats, edges: Floats) -> tuple[int, ...]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return tuple(int(c) for c in counts)


def confusion(outcome: Outcome, classes: tuple[str, ...]) -> Confusion:
    """Counts of true by predicted class; the rarest of many classes together."""
    size = outcome.output.shape[1]
    names = [*classes, *("(unknown class)" for _ in range(size - len(classes)))]
    cells = np.bincount(outcome.truth * size + outcome.labels, minlength=size * size)
    counts: npt.NDArray[np.int64] = cells.reshape(size, size).astype(np.int64)
    if size > MAX_CLASSES:
        shown = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[: MAX_CLASSES - 1])
        group = np.full(size, MAX_CLASSES - 1)
        group[shown] = np.arange(MAX_CLASSES - 1)
        merged = np.zeros((MAX_CLASSES, MAX_CLASSES), dtype=np.int64)
        np.add.at(merged, (group[:, None], group[None, :]), counts)
        counts, names = merged, [*(names[i] for i in shown), OTHERS]
    return Confusion(
        labels=tuple(names), counts=tuple(tuple(int(c) for c in row) for row in counts.tolist())
    )


def class_scores(outcome: Outcome, classes: tuple[str, ...]) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of each class, the most frequent first, fifty at most."""
    size = outcome.output.shape[1]
    truth, labels = outcome.truth, outcome.labels
    actual = np.bincount(truth, minlength=size)
    predicted = np.bincount(labels, minlength=size)
    hits = np.bincount(truth[truth == labels], minlength=size)

    def share(of: int, whole: int) -> float | None:
        return of / whole if whole else None

    return tuple(
        ClassScores(
            label=classes[code],
            rows=int(actual[code]),
            precision=share(int(hits[code]), int(predicted[code])),
            recall=share(int(hits[code]), int(actual[code])),
            f1=share(2 * int(hits[code]), int(actual[code] + predicted[code])),
        )
        for code in np.argsort(-actual[: len(classes)], kind="stable")[:50]
    )


def operating_points(outcome: Outcome) -> tuple[OperatingPoint, ...]:
    """Precision, recall and more at thresholds of 0.1 to 0.9."""
    positive = outcome.truth == 1
    points = []
    for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        selected = outcome.scores >= threshold
        hits, chosen = int((selected & positive).sum()), int(selected.sum())
        points.append(
            OperatingPoint(
                threshold=threshold,
                selected=chosen / outcome.rows,
                precision=hits / chosen if chosen else None,
                recall=hits / int(positive.sum()),
                f1=2 * hits / (chosen + int(positive.sum())),
                accuracy=float((selected == positive).mean()),
            )
        )
    return tuple(points)
