"""Split conformal prediction: what the rows held back from the fit say about the model's errors.

The guarantee (Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005; Lei et
al., *Distribution-Free Predictive Inference for Regression*, JASA 2018; Sadinle, Lei and Wasserman,
*Least Ambiguous Set-Valued Classifiers with Bounded Error Levels*, JASA 2019; Angelopoulos and
Bates, *Conformal Prediction: A Gentle Introduction*, 2023): if n held-back rows and a new row are
exchangeable, and the model saw none of them, then the new row's score is at most the
ceil((n + 1) level)-th smallest of theirs with probability at least `level`, whatever the model.

So the rows must be held back from everything that shapes the model. The search chooses by
cross-validation on the train split and never looks at the validation split, and the test split
belongs to the gates and to measuring the coverage: the rows are validation rows, and the served
model is fitted on train and what is left of validation. At 1,000 rows the coverage of one such
calibration varies by about one percentage point around what is promised (Angelopoulos and Bates,
section 3.2), so larger validation splits give the rest of their rows to the fit.
"""

import hashlib
import math
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from millrace.datasets.table import Table
from millrace.learning.features import Rows
from millrace.learning.parity import run_session
from millrace.onnx_session import load_session
from millrace.signature import Conformal
from millrace.spec import ModelSpec, Role, Task

MAX_ROWS: Final = 1_000
"""Most rows held back; see above."""

LEVELS: Final = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Coverages that can be asked for, as far as the rows allow."""


def hold_back(spec: ModelSpec, validation: Table) -> npt.NDArray[np.bool_]:
    """Which validation rows are held back: a function of content, spec and seed alone.

    Rows of one group stay together, so that none of them is fitted on.

    Args:
        spec: The run's spec.
        validation: The validation split.
    """
    if not spec.serve.intervals:
        return np.zeros(validation.rows, dtype=np.bool_)
    if validation.rows <= MAX_ROWS:
        return np.ones(validation.rows, dtype=np.bool_)
    random = np.random.default_rng(spec.train.seed)
    if spec.split_strategy == "group":
        (column,) = spec.columns_with(Role.GROUP)
        _, groups, sizes = np.unique(
            validation.arrays[column.name], return_inverse=True, return_counts=True
        )
        order = random.permutation(len(sizes))
        chosen = order[np.cumsum(sizes[order]) <= MAX_ROWS]
        held: npt.NDArray[np.bool_] = np.isin(groups, chosen if len(chosen) else order[:1])
        return held
    held = np.zeros(validation.rows, dtype=np.bool_)
    held[random.permutation(validation.rows)[:MAX_ROWS]] = True
    return held


def calibrate(
    model: bytes, spec: ModelSpec, rows: Rows, target: npt.NDArray[np.generic]
) -> Conformal | None:
    """Scores the held-back rows by the model that will be served.

    Args:
        model: The exported model.
        spec: The run's spec.
        rows: The rows of `hold_back`.
        target: Their class codes, or numbers for regression.

    Returns:
        The quantiles, or None when the rows are too few to promise the lowest level.
    """
    if not len(rows):
        return None
    session = load_session(model, hashlib.sha256(model).hexdigest(), "the exported model")
    answer = run_session(session, rows, spec.task)
    if spec.task is Task.REGRESSION:
        scores = np.abs(target.astype(np.float64) - answer)
    else:
        scores = 1.0 - answer[np.arange(len(rows)), target.astype(np.int64)]
    ordered = np.sort(scores)
    places = {level: math.ceil((len(rows) + 1) * Fraction(str(level))) for level in LEVELS}
    kept = tuple(level for level, place in places.items() if place <= len(rows))
    if not kept:
        return None
    return Conformal(
        method="absolute_residual" if spec.task is Task.REGRESSION else "lac",
        rows=len(rows),
        levels=kept,
        quantiles=tuple(float(ordered[places[level] - 1]) for level in kept),
        exchangeable=spec.split_strategy not in ("time", "group"),
    )
