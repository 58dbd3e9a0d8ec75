"""Small splits, outcomes and documents for the evaluation's tests."""

from typing import Any

import numpy as np

from millrace.datasets.table import ColumnSchema, Table, TableSchema
from millrace.evaluation.metrics import Outcome
from millrace.messages import Parity
from millrace.spec import ColumnType, ModelSpec, Role, Task


def binary_outcome(truth: Any, scores: Any) -> Outcome:
    """An outcome from true codes and probabilities of the positive class."""
    positive = np.asarray(scores, dtype=np.float64)
    return Outcome(
        Task.BINARY,
        np.asarray(truth, dtype=np.int64),
        np.column_stack([1 - positive, positive]),
    )


def random_binary(rows: int, seed: int, noise: float = 1.0) -> Outcome:
    """Scores that tell something of the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    return binary_outcome(truth, 1 / (1 + np.exp(-(2 * truth - 1 + noise * rng.normal(size=rows)))))


def table(**columns: tuple[ColumnType, Role, Any, tuple[str, ...]]) -> Table:
    """A binary split of the given columns and the target ``y`` of alternating classes."""
    rows = len(next(iter(columns.values()))[2])
    schema = TableSchema(
        task=Task.BINARY,
        target="y",
        classes=("no", "yes"),
        columns=(
            *(
                ColumnSchema(name=name, type=kind, role=role, categories=categories)
                for name, (kind, role, _, categories) in columns.items()
            ),
            ColumnSchema(name="y", type=ColumnType.STRING, role=Role.TARGET),
        ),
        rows={"test": rows},
    )
    arrays = {name: np.asarray(values) for name, (_, _, values, _) in columns.items()}
    arrays["y"] = np.arange(rows, dtype=np.int32) % 2
    return Table(schema=schema, arrays=arrays, row=np.arange(rows, dtype=np.uint64))


def numbers(values: Any, role: Role = Role.FEATURE) -> tuple[Any, ...]:
    """A numeric column."""
    return (ColumnType.NUMBER, role, np.asarray(values, dtype=np.float64), ())


def strings(values: Any, role: Role = Role.FEATURE) -> tuple[Any, ...]:
    """A string column; None is missing."""
    names = tuple(sorted({v for v in values if v is not None}))
    codes = [-1 if v is None else names.index(v) for v in values]
    return (ColumnType.STRING, role, np.asarray(codes, dtype=np.int32), names)


def spec(**evaluate: Any) -> ModelSpec:
    """A binary spec with features ``a``, ``b``, sensitive ``s``, and ``p``, never to be logged."""
    privacy = {"never_log": ["p"]}
    return ModelSpec.from_document(
        {
            "name": "tiny",
            "task": "binary",
            "data": {
                "columns": [
                    {"name": "a", "type": "number"},
                    {"name": "b", "type": "string"},
                    {"name": "p", "type": "string"},
                    {"name": "s", "type": "string", "role": "sensitive"},
                    {"name": "y", "type": "string", "role": "target"},
                ]
            },
            "evaluate": {"bootstrap": 50, **evaluate},
            "privacy": privacy,
        }
    )


PARITY = Parity(rows=500, hostile_rows=200, max_difference=3e-7, tolerance=1e-4, label_mismatches=0)
