"""Agreement of the ONNX graph with the scikit-learn pipeline: a gate, not a formality.

Several conversions succeed and are wrong, so the served graph is compared with the fitted pipeline
on held-out rows and on hostile rows made from them.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

from millrace.errors import ParityError
from millrace.learning.features import Rows
from millrace.messages import Parity
from millrace.onnx_session import load_session
from millrace.signature import NUMERIC_INPUT, PREDICTION_OUTPUT, PROBABILITIES_OUTPUT
from millrace.spec import Task

MAX_HELD_OUT_ROWS = 20_000
HOSTILE_ROWS = 2_000
UNSEEN = ("\u2603 unseen", 'unseen, with "quotes" and\nlines', " ", "x" * 1_000)

type Values = npt.NDArray[np.float64]


def check_parity(
    model: bytes,
    predict: Callable[[Rows], Values],
    rows: Rows,
    *,
    task: Task,
    tolerance: float,
    target_scale: float = 1.0,
    seed: int = 0,
) -> Parity:
    """Compares an ONNX model with the pipeline it was made from.

    Args:
        model: The ONNX model's bytes.
        predict: The pipeline: probabilities [n, classes] or numbers [n].
        rows: Held-out rows; hostile rows are made from them.
        task: What the model predicts.
        tolerance: Largest difference allowed.
        target_scale: What differences of a regression are divided by.
        seed: Of the hostile rows.

    Raises:
        ParityError: They differ by more, or give different labels where the choice is clear.
    """
    session = load_session(model, hashlib.sha256(model).hexdigest(), "the exported model")
    held_out = rows.take(np.arange(min(len(rows), MAX_HELD_OUT_ROWS)))
    hostile = hostile_rows(rows, tree_thresholds(model), count=HOSTILE_ROWS, seed=seed)
    difference = 0.0
    mismatches = 0
    for some in (held_out, hostile):
        # scikit-learn looks for infinities by a sum, which extremes of both signs make NaN.
        with np.errstate(over="ignore", invalid="ignore"):
            expected = predict(some)
        actual = run_session(session, some, task)
        if actual.shape != expected.shape:
            raise ParityError(
                f"ONNX gives an array of shape {actual.shape}, scikit-learn {expected.shape}"
            )
        gaps = np.abs(actual - expected) / target_scale
        # A NaN on either side is the largest difference there is.
        gaps[~np.isfinite(gaps)] = np.inf
        difference = max(difference, float(gaps.max(initial=0.0)))
        if task is not Task.REGRESSION:
            mismatches += _label_mismatches(expected, actual, tolerance)
    if difference > tolerance or mismatches:
        raise ParityError(
            f"ONNX and scikit-learn differ by {difference:.3g}, more than the tolerance of "
            f"{tolerance:.3g}, or in {mismatches} clear labels, on {len(held_out)} held-out and "
            f"{len(hostile)} hostile rows"
        )
    return Parity(
        rows=len(held_out),
        hostile_rows=len(hostile),
        max_difference=difference,
        tolerance=tolerance,
        label_mismatches=mismatches,
    )


def run_session(session: onnxruntime.InferenceSession, rows: Rows, task: Task) -> Values:
    """Probabilities [n, classes] or numbers [n] by ONNX."""
    name = PREDICTION_OUTPUT if task is Task.REGRESSION else PROBABILITIES_OUTPUT
    taken = {value.name for value in session.get_inputs()}
    inputs = {key: array for key, array in rows.inputs().items() if key in taken}
    output = np.asarray(session.run([name], inputs)[0]).astype(np.float64)
    return output[:, 0] if task is Task.REGRESSION else output


def tree_thresholds(model: bytes) -> dict[int, npt.NDArray[np.float32]]:
    """Split points of every numeric column that trees split on, by column."""
    proto = onnx.load_from_string(model)
    numbers = next(
        (v.type.tensor_type.shape.dim[1].dim_value for v in proto.graph.input
         if v.name == NUMERIC_INPUT), 0,
    )  # fmt: skip
    found: dict[int, npt.NDArray[np.float32]] = {}
    for node in proto.graph.node:
        attributes = {a.name: a for a in node.attribute}
        if "nodes_featureids" not in attributes:
            continue
        columns = np.array(attributes["nodes_featureids"].ints)
        branch = np.array([mode != b"LEAF" for mode in attributes["nodes_modes"].strings])
        values = (
            numpy_helper.to_array(attributes["nodes_values_as_tensor"].t)
            if "nodes_values_as_tensor" in attributes
            else np.array(attributes["nodes_values"].floats)
        ).astype(np.float32)
        for column in np.unique(columns[branch]):
            if column < numbers:
                found[int(column)] = np.unique(values[branch & (columns == column)])
    return found


def hostile_rows(
    rows: Rows, thresholds: dict[int, npt.NDArray[np.float32]], *, count: int, seed: int
) -> Rows:
    """Rows with missing values, unseen categories, extremes and values at tree thresholds.

    Args:
        rows: Where ordinary values are taken from.
        thresholds: From `tree_thresholds`.
        count: How many rows to make.
        seed: Of the choices.
    """
    random = np.random.default_rng(seed)
    base = rows.take(random.integers(0, len(rows), count))
    numeric = base.numeric.copy()
    for column in range(numeric.shape[1]):
        pool = _hostile_numbers(rows.numeric[:, column], thresholds.get(column))
        chosen = random.random(count) < 0.5
        numeric[chosen, column] = random.choice(pool, int(chosen.sum()))
        numeric[random.random(count) < 0.1, column] = np.nan
    codes = base.codes.copy()
    categories = tuple((*known, *UNSEEN, *_near(known)) for known in rows.categories)
    for column, known in enumerate(categories):
        chosen = random.random(count) < 0.5
        codes[chosen, column] = random.integers(
            len(rows.categories[column]), len(known), int(chosen.sum())
        )
        codes[random.random(count) < 0.1, column] = -1
    # Whole rows of nothing, and of nothing known.
    numeric[:2] = np.nan
    codes[:2] = -1
    for column, known in enumerate(rows.categories):
        codes[1, column] = len(known)
    return Rows(numeric, codes, categories)


def _hostile_numbers(
    values: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    known = values[~np.isnan(values)].astype(np.float64)
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    span = high - low or 1.0
    biggest = float(np.finfo(np.float32).max)
    pool = np.array(
        [0.0, -0.0, 1.0, -1.0, low, high, low - span, high + span, low - 100 * span,
         high + 100 * span, 1e-40, 1e30, -1e30, biggest, -biggest]
    ).clip(-biggest, biggest).astype(np.float32)  # fmt: skip
    if thresholds is not None:
        points = thresholds[np.isfinite(thresholds)]
        up = np.nextafter(points, np.float32(np.inf))
        down = np.nextafter(points, np.float32(-np.inf))
        pool = np.concatenate((pool, points, up, down))
        pool = pool[np.isfinite(pool)]
    return pool


def _near(known: tuple[str, ...]) -> tuple[str, ...]:
    """Values that differ from known ones by case, space or length, and are not known."""
    made = {form for value in known[:20] for form in (value + " ", value.swapcase(), value[:-1])}
    return tuple(sorted(made - set(known) - {""}))


def _label_mismatches(expected: Values, actual: Values, tolerance: float) -> int:
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    return int((clear & (expected.argmax(axis=1) != actual.argmax(axis=1))).sum())
