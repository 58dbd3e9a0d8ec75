"""Drift that no feature shows alone: rows that the baseline's principal components rebuild less well.

Features may each look as ever and no longer go together. The baseline keeps the components of the
encoded rows and how far rows lie from their span; when the relations between features change, the mean
of these distances moves. The method is NannyML's ("Multivariate Drift: Data Reconstruction with PCA");
it alarms beyond three standard deviations of ten chunks, and here the difference is tested as the
difference of two means, so that the size of the window counts.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.monitoring.findings import StatisticValue
from millrace.monitoring.tails import normal_tail


def reconstruction(
    errors: npt.NDArray[np.floating[Any]], *, mean: float, std: float, rows: int
) -> StatisticValue:
    """Holds the reconstruction errors of a window's rows against the baseline's.

    Welch's test of two means (Biometrika 34, 1947) with the normal distribution for its t: both samples
    have hundreds of rows.

    Args:
        errors: Of the window's rows, or of an even sample of them; two at least.
        mean: Of the baseline's errors.
        std: Of the baseline's errors.
        rows: Of the baseline.

    Returns:
        ``reconstruction_error``: the window's mean error. Its parameters hold the baseline's mean, the
        difference in the baseline's standard deviations (``effect``), and the rows.
    """
    here = float(errors.mean())
    spread = math.sqrt(float(errors.var(ddof=1)) / len(errors) + std * std / rows)
    difference = here - mean
    if spread > 0:
        p_value = 2 * normal_tail(abs(difference) / spread)
    else:
        p_value = 1.0 if difference == 0 else 0.0
    effect = difference / std if std > 0 else math.copysign(math.inf, difference)
    return StatisticValue(
        "reconstruction_error",
        here,
        p_value,
        parameters={
            "baseline": mean,
            "baseline_std": std,
            "effect": effect if difference else 0.0,
            "rows": len(errors),
        },
    )
