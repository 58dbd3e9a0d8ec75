"""Small uploads and the spec they are meant for."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from millrace.datasets.check import CheckReport, check_file
from millrace.spec import ModelSpec

Row = dict[str, Any]

COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "id", "type": "integer", "role": "id"},
    {"name": "age", "type": "integer", "min": 0, "max": 120},
    {"name": "score", "type": "number"},
    {"name": "city", "type": "string", "allowed": ["Paris", "Rome"]},
    {"name": "member", "type": "boolean"},
    {"name": "joined", "type": "timestamp", "role": "ignore"},
    {"name": "salary", "type": "number", "role": "sensitive"},
    {"name": "churned", "type": "boolean", "role": "target"},
)


def churn_spec(
    task: str = "binary",
    columns: Sequence[dict[str, Any]] = COLUMNS,
    split: dict[str, Any] | None = None,
    **data: Any,
) -> ModelSpec:
    """A spec with some of its data section changed."""
    return ModelSpec.from_document(
        {
            "name": "churn",
            "task": task,
            "data": {"columns": list(columns), "min_rows": 20, **data},
            "split": split or {},
        }
    )


def with_column(name: str, **changes: Any) -> tuple[dict[str, Any], ...]:
    """The columns with one of them changed."""
    return tuple({**c, **changes} if c["name"] == name else c for c in COLUMNS)


CHURN = churn_spec()


def churn_rows(count: int = 100) -> list[Row]:
    """Good rows, as text."""
    return [
        {
            "id": str(i),
            "age": str(18 + i % 60),
            "score": repr(i / 7),
            "city": "Paris" if i % 3 else "Rome",
            "member": "true" if i % 5 else "false",
            "joined": f"2024-{1 + i % 12:02d}-{1 + i % 28:02d}T00:00:{i % 60:02d}Z",
            "salary": str(1000.5 + i),
            "churned": "true" if i % 4 == 0 else "false",
        }
        for i in range(count)
    ]


def churn_csv(rows: Sequence[Row], delimiter: str = ",", end: str = "\n") -> bytes:
    """The rows as CSV."""
    out = io.StringIO()
    names = list(rows[0]) if rows else [c["name"] for c in COLUMNS]
    writer = csv.DictWriter(out, names, delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def churn_jsonl(rows: Sequence[Row]) -> bytes:
    """The rows as JSON Lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_parquet(path: Path, select: str, parameters: dict[str, Any] | None = None) -> Path:
    """Writes a query's result as Parquet."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE made AS " + select, parameters)
        connection.execute(f"COPY made TO '{path}' (FORMAT parquet)")
    return path


def checked(
    directory: Path, body: bytes, name: str = "upload.csv", spec: ModelSpec = CHURN
) -> CheckReport:
    """What the cloud would say to these bytes."""
    path = directory / name
    path.write_bytes(body)
    return check_file(path, spec)
