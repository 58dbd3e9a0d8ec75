"""Labelled predictions beside the rows of an upload: the file that a retraining takes in.

The rows of the upload stay as they are; labelled rows come after them, in the order of their
predictions. Rows that earlier trainings took in are kept, and a newer label of one of them wins.
"""

# ruff: noqa: S608  # SQL is put together from the contract's columns through engine.identifier and
# engine.literal; nothing that came over the network is in it.

from dataclasses import dataclass
from pathlib import Path

import duckdb

from millrace.datasets.engine import Limits, engine, identifier, literal
from millrace.datasets.rules import Refusal
from millrace.errors import UploadRefusedError
from millrace.monitoring.labelled import PREDICTION, ROW, VALUE
from millrace.spec import ColumnType, ModelSpec, Role


@dataclass(frozen=True, slots=True)
class Merged:
    """Labelled rows, the earlier ones and those that are new.

    Attributes:
        rows: All of them.
        new: Those that no earlier training took in.
    """

    rows: int
    new: int


def merge_labelled(
    spec: ModelSpec,
    *,
    workspace: Path,
    limits: Limits,
    lines: Path,
    previous: Path | None,
    out: Path,
) -> Merged:
    """Writes labelled rows as Parquet: those just read over those of earlier trainings.

    Args:
        spec: The contract.
        workspace: Holds all files.
        limits: Memory.
        lines: What `monitoring.labelled.write_labelled` wrote.
        previous: What this function wrote for the training before.
        out: The file to write.
    """
    names = [VALUE + column.name for column in spec.data.columns]
    fields = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    with engine(workspace, limits) as connection:
        connection.execute(
            "CREATE TEMP TABLE fresh AS SELECT * FROM read_json("
            f"{literal(str(lines))}, format = 'newline_delimited', compression = 'gzip', "
            f"columns = {{{literal(PREDICTION)}: 'VARCHAR', {literal(ROW)}: 'BIGINT', {fields}}})"
        )
        connection.execute("CREATE TEMP TABLE known AS SELECT * FROM fresh LIMIT 0")
        if previous is not None:
            source = _parquet(previous)
            held = {str(row[0]) for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()}
            kept = ", ".join(
                identifier(name) if name in held else f"NULL AS {identifier(name)}"
                for name in (PREDICTION, ROW, *names)
            )
            connection.execute(f"INSERT INTO known SELECT {kept} FROM {source}")
        key = f"{identifier(PREDICTION)}, {identifier(ROW)}"
        connection.execute(
            "COPY (SELECT * FROM fresh UNION ALL SELECT * FROM known "
            f"WHERE ({key}) NOT IN (SELECT ({key}) FROM fresh) ORDER BY {key}) "
            f"TO {literal(str(out))} (FORMAT parquet, COMPRESSION zstd)"
        )
        rows = _one(connection, f"SELECT count(*) FROM {_parquet(out)}")
        before = _one(connection, "SELECT count(*) FROM known")
    return Merged(rows, rows - before)


def count_labelled(
    *, workspace: Path, limits: Limits, labelled: Path, previous: Path | None
) -> Merged:
    """What `merge_labelled` said of files that it wrote before."""
    with engine(workspace, limits) as connection:
        rows, before = (
            0 if path is None else _one(connection, f"SELECT count(*) FROM {_parquet(path)}")
            for path in (labelled, previous)
        )
    return Merged(rows, rows - before)


def add_labelled(
    spec: ModelSpec,
    *,
    workspace: Path,
    limits: Limits,
    base: Path,
    labelled: Path,
    out: Path,
) -> None:
    """Writes the rows of a dataset version with the labelled rows behind them, as Parquet.

    A labelled value that its column cannot hold is left empty, and the row is judged as any other.
    Rows get numbers after the largest where the id is a number.

    Args:
        spec: The contract.
        workspace: Holds all files.
        limits: Memory.
        base: The rows of the dataset version.
        labelled: What `merge_labelled` wrote.
        out: The file to write.

    Raises:
        UploadRefusedError: The contract has columns that the dataset version lacks.
    """
    with engine(workspace, limits) as connection:
        source = _parquet(base)
        described = connection.execute(f"DESCRIBE FROM {source}").fetchall()
        types = {str(row[0]): str(row[1]) for row in described}
        lacking = [c.name for c in spec.data.columns if c.name not in types]
        if lacking:
            raise UploadRefusedError(
                f"the contract's column {lacking[0]!r} is not in the newest dataset version, so "
                "labelled predictions have no rows to stand beside: upload a file under the new "
                "contract",
                Refusal.MISSING_COLUMNS,
            )
        columns = ", ".join(identifier(c.name) for c in spec.data.columns)
        values = []
        for column in spec.data.columns:
            value = identifier(VALUE + column.name)
            if column.role is Role.ID and column.type is not ColumnType.STRING:
                value = (
                    f"(SELECT max({identifier(column.name)}) FROM {source}) + row_number() OVER "
                    f"(ORDER BY {identifier(PREDICTION)}, {identifier(ROW)})"
                )
            values.append(f"TRY_CAST({value} AS {types[column.name]}) AS {identifier(column.name)}")
        connection.execute(
            f"COPY (SELECT {columns} FROM {source} UNION ALL SELECT {', '.join(values)} FROM "
            f"(SELECT * FROM {_parquet(labelled)} "
            f"ORDER BY {identifier(PREDICTION)}, {identifier(ROW)})) TO {literal(str(out))} "
            "(FORMAT parquet, COMPRESSION zstd)"
        )


def _parquet(path: Path) -> str:
    return f"read_parquet({literal(str(path))})"


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    [(count,)] = connection.execute(query).fetchall()
    return int(count)
