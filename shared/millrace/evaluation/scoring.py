"""Models on a split: from the stored columns to an `Outcome`, for candidate and champion alike.

A champion was made under an older contract, maybe. It is scored when every feature it needs is
stored with this split in a type that reads the same; else `why_incomparable` says why not.
"""

import numpy as np
import numpy.typing as npt
import onnxruntime

from millrace.datasets.table import Table, TableSchema
from millrace.errors import ArtifactError, TrainingError
from millrace.evaluation.metrics import Outcome
from millrace.onnx_session import predict
from millrace.signature import Signature
from millrace.spec import ColumnType, Task


def model_inputs(
    signature: Signature, table: Table
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.object_]]:
    """The model's two inputs, in the signature's order, whatever the order of the split.

    Raises:
        ArtifactError: The split lacks a feature.
    """
    numeric = np.empty((table.rows, len(signature.numeric)), dtype=np.float32)
    for index, feature in enumerate(signature.numeric):
        table.schema.position(feature.name)
        numeric[:, index] = table.arrays[feature.name]
    categorical = np.empty((table.rows, len(signature.categorical)), dtype=object)
    for index, feature in enumerate(signature.categorical):
        categorical[:, index] = table.strings(feature.name)
    return numeric, categorical


def why_incomparable(signature: Signature, schema: TableSchema) -> str | None:
    """Why a model cannot be scored on splits of this schema, or None when it can."""
    if signature.task is not schema.task:
        return f"its task is {signature.task} and this data's is {schema.task}"
    if signature.target != schema.target:
        return f"it predicts {signature.target!r} and this data's target is {schema.target!r}"
    if schema.task is Task.BINARY and signature.classes != schema.classes:
        return "its classes are not those of this data"
    stored = {column.name: column.type for column in schema.columns}
    missing = [f.name for f in signature.features if f.name not in stored]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        names = ", ".join(repr(name) for name in missing[:3])
        return f"it needs {names}{more}, which this dataset version does not have"
    for feature in signature.features:
        if (feature.type is ColumnType.STRING) != (stored[feature.name] is ColumnType.STRING):
            return (
                f"it takes {feature.name!r} as {feature.type} "
                f"and this dataset version has it as {stored[feature.name]}"
            )
    return None


def score(
    session: onnxruntime.InferenceSession, signature: Signature, table: Table, what: str
) -> Outcome:
    """Runs a model on a whole split.

    Classes the data has and the model does not know get probability 0; classes only the model
    knows follow after the data's.

    Raises:
        ArtifactError: The model answers with something that is no number.
    """
    answer = predict(session, signature, *model_inputs(signature, table)).astype(np.float64)
    if not np.isfinite(answer).all():
        bad = int((~np.isfinite(answer)).reshape(table.rows, -1).any(axis=1).sum())
        raise ArtifactError(f"{what}: {bad} of {table.rows} answers are not finite numbers")
    if signature.task is Task.REGRESSION:
        return Outcome(Task.REGRESSION, table.target.astype(np.float64), answer)
    classes = outcome_classes(signature, table.schema)
    output = np.zeros((table.rows, len(classes)))
    output[:, [classes.index(label) for label in signature.classes]] = answer
    return Outcome(signature.task, table.target.astype(np.int64), output)


def outcome_classes(signature: Signature, schema: TableSchema) -> tuple[str, ...]:
    """What the columns of `score`'s probabilities are: the data's classes, then the model's own."""
    known = schema.classes
    return (*known, *(label for label in signature.classes if label not in known))


def check_split(table: Table, min_rows: int = 2) -> None:
    """Refuses a test split on which nothing can be judged.

    Raises:
        TrainingError: Too few rows, or a target that never changes.
    """
    if table.rows < min_rows:
        raise TrainingError(f"the test split has {table.rows} rows: nothing can be judged on it")
    if len(np.unique(table.target)) < 2:
        what = "value" if table.schema.task is Task.REGRESSION else "class"
        raise TrainingError(
            f"the test split's target {table.schema.target!r} has one {what} only in all of its "
            f"{table.rows} rows: nothing can be judged on it"
        )


def guess(outcome: Outcome) -> Outcome:
    """What answering the class shares, or the mean, for every row would have been."""
    if outcome.task is Task.REGRESSION:
        return Outcome(outcome.task, outcome.truth, np.full(outcome.rows, outcome.truth.mean()))
    shares = np.bincount(outcome.truth, minlength=outcome.output.shape[1]) / outcome.rows
    return Outcome(outcome.task, outcome.truth, np.tile(shares, (outcome.rows, 1)))
