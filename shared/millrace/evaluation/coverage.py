"""How often the truth lies inside the promised intervals and label sets, on the test split.

The test rows were neither fitted on nor calibrated on, so that this measures the promise itself;
the sets are made by the code that serves them.
"""

import numpy as np

from millrace.evaluation.curves import wilson
from millrace.evaluation.document import Coverage, CoverageLevel
from millrace.evaluation.metrics import Outcome
from millrace.serving.intervals import label_sets
from millrace.signature import Conformal
from millrace.spec import Task


def measure_coverage(conformal: Conformal, outcome: Outcome) -> Coverage:
    """The coverage of every level that a version promises.

    Args:
        conformal: From the version's signature.
        outcome: The version on the test split.
    """
    levels = []
    for level, quantile in zip(conformal.levels, conformal.quantiles, strict=True):
        if outcome.task is Task.REGRESSION:
            inside = np.abs(outcome.truth - outcome.output) <= quantile
            size = 2 * quantile
        else:
            sets = label_sets(outcome.output, quantile)
            inside = sets[np.arange(outcome.rows), outcome.truth]
            size = float(sets.sum(axis=1).mean())
        low, high = wilson(float(inside.sum()), outcome.rows)
        levels.append(
            CoverageLevel(
                promised=level, covered=float(inside.mean()), low=low, high=high, size=size
            )
        )
    return Coverage(
        method=conformal.method,
        calibration_rows=conformal.rows,
        exchangeable=conformal.exchangeable,
        levels=tuple(levels),
    )
