"""Dataset versions: named by their content, whatever file, format or order the rows came in.

A row's digest is SHA-256 over its canonical text: the columns in the order of the contract, each
ended by ``;``. A missing value is ``~``; a string is its length in UTF-8 bytes, ``:`` and itself; an
integer is decimal; a number is its shortest decimal that reads back the same; a boolean is
``true`` or ``false``; a timestamp is microseconds since 1970 UTC. The version is SHA-256 over the
contract's names and types and all row digests in ascending order, first 32 hex digits: rows that
occur twice count twice.
"""

# ruff: noqa: S608  # SQL is put together from positions (c0, v0, …); names, values and paths of
# the user's go in as parameters, or through engine.identifier and engine.literal where SQL takes none.

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import duckdb
import numpy as np
from pydantic import BaseModel, ConfigDict

from millrace.datasets.contract import SQL_TYPES, WIDE
from millrace.datasets.engine import identifier, literal
from millrace.datasets.rules import Refusal
from millrace.errors import UploadRefusedError
from millrace.messages import LabelledRows, RowCounts, SourceObject
from millrace.spec import Column, ColumnType, ModelSpec, Role

FORMAT: Final = "millrace-dataset-1"
VERSION_DIGITS: Final = 32


class ManifestColumn(BaseModel):
    """One column of the stored Parquet file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    type: ColumnType
    role: Role


class Manifest(BaseModel):
    """What a dataset version is and where it came from; written last, so it marks completeness."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["millrace-dataset-1"] = FORMAT
    model: str
    dataset_version: str
    columns: tuple[ManifestColumn, ...]
    rows: RowCounts
    classes: dict[str, int]
    """Rows per class in the order of the split schema; empty for regression."""
    data_key: str
    sha256: str
    """Of the Parquet bytes as stored."""
    size_bytes: int
    source: SourceObject
    labelled: LabelledRows | None = None
    """Labelled predictions in it, beside the rows of ``source``."""
    run_id: str
    """The run that stored the version first."""
    spec_version: int
    spec_digest: str
    created_at: str


def canonical(column: Column, value: str) -> str:
    """SQL of a value's canonical text, NULL for a missing value.

    Args:
        column: The contract's column.
        value: SQL of the typed value.
    """
    match column.type:
        case ColumnType.STRING:
            return f"strlen({value}) || ':' || {value}"
        case ColumnType.TIMESTAMP:
            return f"epoch_us({value})::VARCHAR"
        case _:
            return f"{value}::VARCHAR"


def store_rows(
    connection: duckdb.DuckDBPyConnection, spec: ModelSpec, split_unit: str, salt: str
) -> None:
    """Fills table ``good(h0, h1, h2, h3, split_key, v0…)``: the good rows sorted by digest.

    Args:
        connection: Holds tables ``checked`` and ``duplicates``, which are dropped.
        spec: The contract.
        split_unit: Name of the column whose value decides the split, or empty for the whole row.
        salt: What the split's hash is keyed with.
    """
    columns = spec.data.columns
    texts = [f"coalesce({canonical(column, f'v{k}')}, '~')" for k, column in enumerate(columns)]
    values = ", ".join(f"v{k}" for k in range(len(columns)))
    unit = next((texts[k] for k, column in enumerate(columns) if column.name == split_unit), "h")
    parts = ", ".join(f"('0x' || h[{16 * i + 1}:{16 * i + 16}])::UBIGINT AS h{i}" for i in range(4))
    relation = "(SELECT *, rowid AS row_id FROM checked)"
    chunks = [texts[i : i + WIDE] for i in range(0, len(texts), WIDE)]
    if len(chunks) > 1:
        for i, chunk in enumerate(chunks):
            connection.execute(
                f"CREATE TEMP TABLE text{i} AS "
                f"SELECT concat_ws(';', {', '.join(chunk)}) AS text{i} FROM checked"
            )
        texts = [f"text{i}" for i in range(len(chunks))]
        relation = " POSITIONAL JOIN ".join([relation, *texts])
    connection.execute(
        f"CREATE TEMP TABLE good AS SELECT {parts}, "
        f"('0x' || sha256($salt || {unit})[1:16])::UBIGINT AS split_key, {values} FROM ("
        f" SELECT sha256(concat_ws(';', {', '.join(texts)}) || ';') AS h, {values} "
        f" FROM {relation} WHERE NOT bad AND row_id NOT IN (SELECT row_id FROM duplicates)) "
        "ORDER BY h0, h1, h2, h3",
        {"salt": salt},
    )
    for i in range(len(chunks) if len(chunks) > 1 else 0):
        connection.execute(f"DROP TABLE text{i}")
    connection.execute("DROP TABLE checked")


def version_of(connection: duckdb.DuckDBPyConnection, columns: Sequence[Column]) -> str:
    """The content address of table ``good``."""
    digests = connection.execute("SELECT h0, h1, h2, h3 FROM good").fetchnumpy()
    rows = np.column_stack([digests[f"h{i}"] for i in range(4)]).astype(">u8")
    schema = json.dumps([FORMAT, [[c.name, str(c.type)] for c in columns]], ensure_ascii=False)
    whole = hashlib.sha256(schema.encode() + b"\n")
    whole.update(rows.tobytes())
    return whole.hexdigest()[:VERSION_DIGITS]


def write_parquet(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], path: Path
) -> None:
    """Writes table ``good`` under the contract's column names, in digest order."""
    named = ", ".join(
        f"v{k}::{SQL_TYPES[c.type]} AS {identifier(c.name)}" for k, c in enumerate(columns)
    )
    connection.execute(
        f"COPY (SELECT {named} FROM good) TO {literal(str(path))} "
        "(FORMAT parquet, COMPRESSION zstd)"
    )


def read_classes(connection: duckdb.DuckDBPyConnection, spec: ModelSpec) -> dict[str, int]:
    """Rows per class label as text, in class order: numeric, false before true, or by code point.

    Args:
        connection: Holds table ``good``.
        spec: A spec with a classification task.
    """
    v = f"v{spec.data.columns.index(spec.target)}"
    rows = connection.execute(
        f"SELECT {v}::VARCHAR, count(*) FROM good GROUP BY {v} ORDER BY {v}"
    ).fetchall()
    return {str(label): int(count) for label, count in rows}


def refuse_target(spec: ModelSpec, labels: int, rows: int, most: int) -> None:
    """Judges how many different target values there are.

    Args:
        spec: The spec.
        labels: Different values of the target.
        rows: Rows of the dataset.
        most: Most classes of a classification.

    Raises:
        UploadRefusedError: The target cannot be learnt.
    """
    name, task = spec.target.name, spec.task
    if task == "regression":
        if labels < 2:
            raise UploadRefusedError(
                f"target {name!r} has one value in all {rows:,} accepted rows; "
                "expected a number that varies",
                Refusal.CONSTANT_TARGET,
            )
        return
    if labels < 2:
        raise UploadRefusedError(
            f"target {name!r} has one class in all {rows:,} accepted rows; "
            f"task {task} needs at least two",
            Refusal.ONE_CLASS,
        )
    if task == "binary" and labels != 2:
        raise UploadRefusedError(
            f"target {name!r} has {labels:,} classes and task binary needs exactly 2; "
            "use task multiclass or correct the data",
            Refusal.NOT_BINARY,
        )
    if labels > most:
        raise UploadRefusedError(
            f"target {name!r} has {labels:,} classes in {rows:,} rows; Millrace accepts at most "
            f"{most}: is it an id, or a number for task regression?",
            Refusal.TOO_MANY_CLASSES,
        )
