"""Metrics with row weights, many weightings at a time.

A bootstrap resample is a row weighting (how often each row was drawn), so a metric is prepared
once per model (`prepare` sorts scores, groups labels) and then evaluated for a whole matrix of
weightings, in time linear in the rows. Plain NumPy: scikit-learn does not fit in this artifact;
the tests hold every metric to scikit-learn's value.

A metric that has no value for a weighting is NaN there: see each function's docstring. Every metric
and its direction are named in `millrace.spec.HIGHER_IS_BETTER`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.spec import HIGHER_IS_BETTER, Task

type Floats = npt.NDArray[np.float64]
type Codes = npt.NDArray[np.int64]
type Weighted = Callable[[Floats], Floats]
"""Weightings [k, rows] (no negative ones) to the metric's values [k]."""

PROBABILITY_FLOOR: Final = float(np.finfo(np.float32).eps)
"""Probabilities are clipped to [floor, 1 - floor] before a logarithm: models answer in float32."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model said about rows whose truth is known.

    Attributes:
        task: What was predicted.
        truth: int64 class codes [rows], or float64 values [rows] for regression.
        output: Probabilities [rows, classes], or predictions [rows] for regression.
    """

    task: Task
    truth: npt.NDArray[Any]
    output: Floats

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.truth)

    @property
    def labels(self) -> Codes:
        """The predicted class: the most probable, the first of equals."""
        return self.output.argmax(axis=1).astype(np.int64)

    @property
    def scores(self) -> Floats:
        """Probability of the second class, the positive one of a binary task."""
        return self.output[:, 1]

    def take(self, rows: npt.NDArray[Any]) -> "Outcome":
        """The outcome on some rows, given by position or mask."""
        return Outcome(self.task, self.truth[rows], self.output[rows])


def compute(name: str, outcome: Outcome, weights: Floats | None = None) -> float:
    """One metric, NaN where it has no value.

    Args:
        name: A metric of the outcome's task.
        outcome: Truth and prediction.
        weights: Row weights; 1 by default.
    """
    if outcome.rows == 0:
        return float("nan")
    whole = np.ones((1, outcome.rows)) if weights is None else weights.reshape(1, -1)
    return float(prepare(name, outcome)(whole)[0])


def prepare(name: str, outcome: Outcome) -> Weighted:
    """A metric made ready for many weightings of the same rows."""
    return _METRICS[name](outcome)


def improvement(name: str, candidate: float, champion: float) -> float:
    """How much better the candidate is: positive is better whatever the metric's direction."""
    return candidate - champion if HIGHER_IS_BETTER[name] else champion - candidate


def _ratio(numerator: Floats, denominator: Floats, empty: float = np.nan) -> Floats:
    filled = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), empty)
    np.divide(numerator, denominator, out=filled, where=denominator > 0)
    return filled


def _mean(values: Floats) -> Weighted:
    def weighted(weights: Floats) -> Floats:
        return _ratio(weights @ values, weights.sum(axis=1))

    return weighted


# ── Ranking metrics ─────────────────────────────────────────────────────────────────────────────


def _tied_sums(outcome: Outcome, *, descending: bool) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Positive and negative weight per distinct score, in the order of the scores."""
    key = -outcome.scores if descending else outcome.scores
    order = np.argsort(key, kind="stable")
    ranked = key[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    positive = (outcome.truth[order] == 1).astype(np.float64)

    def sums(weights: Floats) -> tuple[Floats, Floats]:
        ordered = weights[:, order]
        of_positives = ordered * positive
        if len(starts) < len(order):
            ordered = np.add.reduceat(ordered, starts, axis=1)
            of_positives = np.add.reduceat(of_positives, starts, axis=1)
        return of_positives, ordered - of_positives

    return sums


def roc_auc(outcome: Outcome) -> Weighted:
    """Probability that a positive outranks a negative, ties counting half.

    The Mann-Whitney form of the area under the ROC curve: Hanley and McNeil, Radiology 143 (1982).
    NaN without both classes.
    """
    sums = _tied_sums(outcome, descending=False)

    def weighted(weights: Floats) -> Floats:
        positives, negatives = sums(weights)
        outranked = np.cumsum(negatives, axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return _ratio(np.einsum("ij,ij->i", positives, outranked), pairs)

    return weighted


def average_precision(outcome: Outcome) -> Weighted:
    """Precision averaged over the steps of recall: sum of (R_k - R_{k-1}) P_k.

    Thresholds are the distinct scores, without interpolation: Davis and Goadrich, ICML 2006, show
    why a trapezoid flatters. NaN without a positive.
    """
    sums = _tied_sums(outcome, descending=True)

    def weighted(weights: Floats) -> Floats:
        positives, negatives = sums(weights)
        found = np.cumsum(positives, axis=1)
        selected = found + np.cumsum(negatives, axis=1)
        precision = _ratio(found, selected, empty=0.0)
        return _ratio(np.einsum("ij,ij->i", positives, precision), found[:, -1])

    return weighted


# ── Label metrics ───────────────────────────────────────────────────────────────────────────────


def _sum_by(codes: Codes, classes: int, rows: npt.NDArray[np.bool_] | None = None) -> Weighted:
    """Weight per class [k, classes], over all rows or those of a mask."""
    among = np.arange(len(codes)) if rows is None else np.flatnonzero(rows)
    order = among[np.argsort(codes[among], kind="stable")]
    present, starts = np.unique(codes[order], return_index=True)

    def sums(weights: Floats) -> Floats:
        whole = np.zeros((len(weights), classes))
        if len(present):
            whole[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
        return whole

    return sums


def _class_sums(outcome: Outcome) -> Callable[[Floats], tuple[Floats, Floats, Floats]]:
    """Per class: weight of hits, of true rows, of predicted rows."""
    classes = outcome.output.shape[1]
    truth, labels = outcome.truth.astype(np.int64), outcome.labels
    hits = _sum_by(truth, classes, truth == labels)
    actual, predicted = _sum_by(truth, classes), _sum_by(labels, classes)
    return lambda weights: (hits(weights), actual(weights), predicted(weights))


def accuracy(outcome: Outcome) -> Weighted:
    """Share of rows whose predicted class is the true one."""
    return _mean((outcome.labels == outcome.truth).astype(np.float64))


def balanced_accuracy(outcome: Outcome) -> Weighted:
    """Mean recall over the classes that occur: Brodersen et al., ICPR 2010.

    NaN without two classes among the true ones.
    """
    sums = _class_sums(outcome)

    def weighted(weights: Floats) -> Floats:
        hits, actual, _ = sums(weights)
        occurring = (actual > 0).sum(axis=1)
        recall = _ratio(hits, actual, empty=0.0).sum(axis=1)
        return np.where(occurring >= 2, recall / np.maximum(occurring, 1), np.nan)

    return weighted


def f1(outcome: Outcome) -> Weighted:
    """Harmonic mean of precision and recall of the positive class: 2TP / (2TP + FP + FN).

    0 when no positive is found; NaN without a positive among the true rows.
    """
    sums = _class_sums(outcome)

    def weighted(weights: Floats) -> Floats:
        hits, actual, predicted = (part[:, 1] for part in sums(weights))
        score = _ratio(2 * hits, actual + predicted)
        return np.where(actual > 0, score, np.nan)

    return weighted


def f1_macro(outcome: Outcome) -> Weighted:
    """Plain mean of each class's F1, over the classes that occur or are predicted.

    NaN without two classes among the true ones.
    """
    sums = _class_sums(outcome)

    def weighted(weights: Floats) -> Floats:
        hits, actual, predicted = sums(weights)
        among = actual + predicted
        scores = _ratio(2 * hits, among, empty=0.0).sum(axis=1)
        mean = scores / np.maximum((among > 0).sum(axis=1), 1)
        return np.where((actual > 0).sum(axis=1) >= 2, mean, np.nan)

    return weighted


# ── Probability metrics ─────────────────────────────────────────────────────────────────────────


def log_loss(outcome: Outcome) -> Weighted:
    """Mean of -ln(probability given to the true class): Good, J. R. Stat. Soc. B 14 (1952)."""
    given = outcome.output[np.arange(outcome.rows), outcome.truth.astype(np.int64)]
    return _mean(-np.log(np.clip(given, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)))


def brier(outcome: Outcome) -> Weighted:
    """Mean of (probability of the positive class - 1 or 0) squared: Brier, 1950."""
    return _mean((outcome.scores - (outcome.truth == 1)) ** 2)


# ── Regression metrics ──────────────────────────────────────────────────────────────────────────


def rmse(outcome: Outcome) -> Weighted:
    """Root of the mean squared error."""
    squared = _mean((outcome.output - outcome.truth) ** 2)
    return lambda weights: np.sqrt(squared(weights))


def mae(outcome: Outcome) -> Weighted:
    """Mean absolute error."""
    return _mean(np.abs(outcome.output - outcome.truth))


def r2(outcome: Outcome) -> Weighted:
    """1 - squared error over squared deviation from the mean; NaN when the truth is constant."""
    squared = (outcome.output - outcome.truth) ** 2
    # Moments about the plain mean: sums of large raw squares would cancel.
    centred = outcome.truth - outcome.truth.mean()
    scale = float(np.abs(centred).max(initial=0.0))

    def weighted(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        offset = _ratio(weights @ centred, total)
        variation = weights @ (centred**2) - total * offset**2
        variation[variation <= total * scale**2 * 1e-12] = 0.0
        return 1 - _ratio(weights @ squared, variation)

    return weighted


_METRICS: Final[dict[str, Callable[[Outcome], Weighted]]] = {
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "f1_macro": f1_macro,
    "log_loss": log_loss,
    "brier": brier,
    "rmse": rmse,
    "mae": mae,
    "r2": r2,
}
