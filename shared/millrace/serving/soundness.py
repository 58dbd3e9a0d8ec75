"""What a model may answer: the output side of its signature, checked before anybody is told.

A graph that is verified by its digest can still answer nonsense, to rows nobody thought of or on a
processor nobody tried. Probabilities are finite, not negative, and add up to one in every row;
values of a regression are finite.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

TOLERANCE: Final = 1e-3
"""Of a sum of float32 probabilities, and below zero: far above rounding, far below an error."""

FEW: Final = 16
"""Rows up to which Python is faster."""


def is_sound(output: npt.NDArray[np.float32]) -> bool:
    """Whether a model's output is what its signature says.

    Args:
        output: Probabilities [rows, classes], or predictions [rows] of a regression.
    """
    if output.ndim == 1:
        return bool(np.isfinite(output).all())
    if len(output) <= FEW:
        rows: list[list[float]] = output.tolist()
        for row in rows:  # a generator of one row costs more than the row
            if not abs(sum(row) - 1.0) <= TOLERANCE or min(row) < -TOLERANCE:
                return False
        return True
    # A ufunc's own reduction spares what the methods cost. NaN fails: it compares with nothing.
    least, most = np.minimum.reduce(output, axis=None), np.maximum.reduce(output, axis=None)
    if not (least >= -TOLERANCE and most <= 1.0 + TOLERANCE):
        return False
    # A product adds narrow rows ten times as fast as a sum does.
    sums = output.dot(_ones(output.shape[1]))
    return bool(
        np.minimum.reduce(sums) >= 1.0 - TOLERANCE and np.maximum.reduce(sums) <= 1.0 + TOLERANCE
    )


@cache
def _ones(count: int) -> npt.NDArray[np.float32]:
    return np.ones(count, dtype=np.float32)
