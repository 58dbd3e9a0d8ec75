"""Intervals and label sets that hold the truth as often as promised: split conformal prediction.

What was learned from held-back rows lies in the signature (`millrace.signature.Conformal`; sources
and guarantee in `millrace.learning.conformal`); here it is put around an answer. A regression is
answered with prediction ± quantile. A classification is answered with every class whose probability
is at least 1 - quantile, and always with the most probable one: a set that would be empty says no
more than that, and a larger set covers no less.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.errors import FieldProblem, InvalidRequestError
from millrace.signature import Signature
from millrace.vocabulary import Task

DEFAULT_COVERAGE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Intervals:
    """What surrounds the answers of one request.

    Attributes:
        coverage: The share of rows whose truth is promised to be inside.
        lower: float64 [rows] of a regression, else None.
        upper: float64 [rows] of a regression, else None.
        inside: bool [rows, classes] of a classification, else None.
    """

    coverage: float
    lower: npt.NDArray[np.float64] | None = None
    upper: npt.NDArray[np.float64] | None = None
    inside: npt.NDArray[np.bool_] | None = None

    def told(self, labels: npt.NDArray[np.object_]) -> list[dict[str, Any]]:
        """One object per row, as an answer has it.

        Args:
            labels: The class labels in the target's own type; unused for a regression.
        """
        if self.inside is not None:
            return [
                {"coverage": self.coverage, "labels": labels[row].tolist()} for row in self.inside
            ]
        if self.lower is None or self.upper is None:
            return []
        return [
            {"coverage": self.coverage, "lower": low, "upper": high}
            for low, high in zip(self.lower.tolist(), self.upper.tolist(), strict=True)
        ]


def intervals(
    signature: Signature, output: npt.NDArray[np.float32], coverage: float = DEFAULT_COVERAGE
) -> Intervals:
    """The intervals, or label sets, around a model's answers.

    Args:
        signature: The version's signature.
        output: Probabilities [rows, classes], or predictions [rows] of a regression.
        coverage: The share of rows whose truth shall be inside.

    Raises:
        InvalidRequestError: The version has no intervals, or none of this coverage.
    """
    conformal = signature.conformal
    if conformal is None:
        raise InvalidRequestError(
            f"this version of model {signature.model} has no intervals: it was trained before they "
            "were, with serve.intervals off, or on too few rows; train it again",
            [FieldProblem("outputs", "intervals are not available from this version")],
        )
    if coverage not in conformal.levels:
        known = ", ".join(f"{level:g}" for level in conformal.levels)
        raise InvalidRequestError(
            f"expected a coverage that {conformal.rows:,} calibration rows of model "
            f"{signature.model} can promise: one of {known}",
            [FieldProblem("coverage", f"expected one of {known}")],
        )
    quantile = conformal.quantiles[conformal.levels.index(coverage)]
    exact = output.astype(np.float64)
    if signature.task is Task.REGRESSION:
        return Intervals(coverage, lower=exact - quantile, upper=exact + quantile)
    return Intervals(coverage, inside=label_sets(exact, quantile))


def label_sets(probabilities: npt.NDArray[np.float64], quantile: float) -> npt.NDArray[np.bool_]:
    """The least ambiguous sets of a quantile, bool [rows, classes]; none is empty.

    Args:
        probabilities: float64 [rows, classes].
        quantile: The largest score, one minus the probability, that is inside.
    """
    inside: npt.NDArray[np.bool_] = (1.0 - probabilities) <= quantile
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return inside
