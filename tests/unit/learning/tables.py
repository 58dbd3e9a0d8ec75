"""Small tables for the tests of learning: scikit-learn's bundled data, with holes and categories."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import datasets

from millrace.datasets.table import ColumnSchema, Table, TableSchema
from millrace.spec import ModelSpec, Role, Task

COLOURS = ("", "blue", "green", "grün", "red")


def make_table(
    task: Task,
    numeric: npt.NDArray[np.float64],
    target: npt.NDArray[Any],
    *,
    categorical: dict[str, tuple[npt.NDArray[np.int32], tuple[str, ...]]] | None = None,
    extra: dict[str, tuple[Role, npt.NDArray[np.float64]]] | None = None,
    sections: dict[str, Any] | None = None,
    classes: int | None = None,
) -> tuple[ModelSpec, Table]:
    """A spec and one split that fits it.

    Args:
        task: What is predicted.
        numeric: Columns ``n0`` …, NaN where missing.
        target: Class codes or numbers.
        categorical: Name to codes (-1 missing) and categories.
        extra: Group or time columns by name.
        sections: Further sections of the spec.
        classes: Number of classes; by default as many as the target has.
    """
    columns: list[dict[str, Any]] = []
    arrays: dict[str, npt.NDArray[Any]] = {}
    categories: dict[str, tuple[str, ...]] = {}
    for index in range(numeric.shape[1]):
        columns.append({"name": f"n{index}", "type": "number"})
        arrays[f"n{index}"] = numeric[:, index].astype(np.float64)
    for name, (codes, values) in (categorical or {}).items():
        columns.append({"name": name, "type": "string"})
        arrays[name] = codes.astype(np.int32)
        categories[name] = values
    for name, (role, keys) in (extra or {}).items():
        columns.append({"name": name, "type": "number", "role": role})
        arrays[name] = keys
    regression = task is Task.REGRESSION
    columns.append({"name": "y", "type": "number" if regression else "integer", "role": "target"})
    arrays["y"] = target.astype(np.float64 if regression else np.int32)
    spec = ModelSpec.from_document(
        {"name": "sample", "task": task, "data": {"columns": columns}, **(sections or {})}
    )
    known = 0 if regression else (classes or int(target.max()) + 1)
    schema = TableSchema(
        task=task,
        target="y",
        classes=tuple(str(code) for code in range(known)),
        columns=tuple(
            ColumnSchema(
                name=c.name, type=c.type, role=c.role, categories=categories.get(c.name, ())
            )
            for c in spec.data.columns
        ),
        rows={"train": len(target)},
    )
    return spec, Table(schema, arrays, np.arange(len(target), dtype=np.uint64))


def bundled(name: str, **kwargs: Any) -> tuple[ModelSpec, Table]:
    """One of scikit-learn's tables with 5 % holes and a category column that tells a little."""
    loaded = getattr(datasets, f"load_{name}")()
    task = {
        "breast_cancer": Task.BINARY,
        "iris": Task.MULTICLASS,
        "wine": Task.MULTICLASS,
        "diabetes": Task.REGRESSION,
    }[name]
    random = np.random.default_rng(3)
    order = random.permutation(len(loaded.target))
    numeric, target = loaded.data[order], loaded.target[order]
    numeric = np.where(random.random(numeric.shape) < 0.05, np.nan, numeric)
    hint = np.digitize(target, np.quantile(target, (0.3, 0.7)))
    noise = random.random(len(target)) < 0.6
    colour = np.where(noise, random.integers(-1, 5, len(target)), hint).astype(np.int32)
    return make_table(task, numeric, target, categorical={"colour": (colour, COLOURS)}, **kwargs)
