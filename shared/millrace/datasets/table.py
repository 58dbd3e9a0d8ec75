"""Splits as NumPy arrays: written by ingest, read by train and evaluate, without pickled objects.

A split is one uncompressed ``.npz``. Per column of the contract that is a feature, the target, the
time, a group or a sensitive column it holds one array named like the column's position (``c0``,
``c1`` …):

* numeric and boolean columns: float64, missing as NaN; timestamps: float64, growing with time;
* string columns: int32 codes into `ColumnSchema.categories`, missing as -1;
* the target of a classification: int32 codes into `TableSchema.classes`.

Plus ``row``: uint64, the first 8 bytes of each row's digest, which is also the order of the rows.
Imports NumPy only, so that it fits in every artifact.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.decoding import in_words, wrong_fields
from millrace.errors import ArtifactError
from millrace.spec import ColumnType, Role, Task

SPLITS = ("train", "validation", "test")
SplitName = Literal["train", "validation", "test"]


class ColumnSchema(BaseModel):
    """One stored column."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    type: ColumnType
    role: Role
    categories: tuple[str, ...] = ()
    """String columns: every value seen in the whole dataset version, sorted."""


class TableSchema(BaseModel):
    """What the arrays of a split mean; stored once beside the splits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task
    target: str
    classes: tuple[str, ...] = ()
    """Class labels as text, sorted (numerically for integers, false before true)."""
    columns: tuple[ColumnSchema, ...]
    rows: dict[str, int]
    """Rows per split."""

    @classmethod
    def from_bytes(cls, body: bytes, where: str) -> "TableSchema":
        """Reads a stored schema.

        Args:
            body: JSON.
            where: What it is called in an error.

        Raises:
            ArtifactError: The bytes are no schema.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as exc:
            # The chain is cut: pydantic shows what it read, and categories are people's data.
            message = f"{where} is no split schema: {in_words(wrong_fields(exc))}"
            raise ArtifactError(message) from None

    def position(self, name: str) -> int:
        """Where a column stands in `columns`.

        Raises:
            ArtifactError: There is no such column.
        """
        for index, column in enumerate(self.columns):
            if column.name == name:
                return index
        raise ArtifactError(f"the split schema has no column {name!r}")


@dataclass(frozen=True, slots=True)
class Table:
    """One split in memory.

    Attributes:
        schema: What the arrays mean.
        arrays: Column name to array, each of shape [rows]; dtypes as in the module docstring.
        row: uint64, shape [rows].
    """

    schema: TableSchema
    arrays: Mapping[str, npt.NDArray[Any]]
    row: npt.NDArray[np.uint64]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.row)

    @property
    def target(self) -> npt.NDArray[Any]:
        """The target: int32 class codes, or float64 for regression."""
        return self.arrays[self.schema.target]

    def strings(self, name: str) -> npt.NDArray[np.object_]:
        """A string column decoded to Python strings, missing as the empty string."""
        column = self.schema.columns[self.schema.position(name)]
        lookup = np.array([*column.categories, ""], dtype=object)
        decoded: npt.NDArray[np.object_] = lookup[self.arrays[name]]
        return decoded

    def features(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.object_]]:
        """The model's inputs in signature order.

        Returns:
            ``numeric`` float32 [rows, k] (missing NaN) and ``categorical`` object [rows, m] of str
            (missing the empty string); k or m may be 0.
        """
        features = [c for c in self.schema.columns if c.role is Role.FEATURE]
        numeric = [self.arrays[c.name] for c in features if c.type is not ColumnType.STRING]
        strings = [self.strings(c.name) for c in features if c.type is ColumnType.STRING]
        return (
            np.column_stack(numeric).astype(np.float32)
            if numeric
            else np.empty((self.rows, 0), dtype=np.float32),
            np.column_stack(strings) if strings else np.empty((self.rows, 0), dtype=object),
        )

    def to_bytes(self) -> bytes:
        """The split as ``.npz``."""
        buffer = io.BytesIO()
        named = {f"c{self.schema.position(name)}": a for name, a in self.arrays.items()}
        np.savez(buffer, allow_pickle=False, row=self.row, **named)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, body: bytes, schema: TableSchema) -> "Table":
        """Reads a split.

        Raises:
            ArtifactError: The bytes are no split of this schema.
        """
        try:
            with np.load(io.BytesIO(body), allow_pickle=False) as stored:
                arrays = {c.name: stored[f"c{i}"] for i, c in enumerate(schema.columns)}
                row = stored["row"]
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as exc:
            raise ArtifactError(f"a stored split cannot be read: {exc}") from exc
        if any(len(a) != len(row) for a in arrays.values()):
            raise ArtifactError("a stored split has columns of different lengths")
        return cls(schema=schema, arrays=arrays, row=row)
