"""Two streams of predictions and labels whose truth is known, to hold monitoring against.

Both lie in the wheel of ``nannyml`` 0.13.1 (Apache-2.0), which is read as files and never imported
(`infra.demo.data`):

* ``car-loan``: 50,000 + 50,000 synthetic loans, label ``repaid``; from the middle of the second half
  on the inputs and what they mean drift, and the stored model's ROC AUC falls from 0.970 to 0.960;
* ``census``: employment in Massachusetts, American Community Survey (US Census Bureau, public
  domain), 2015 and then 2016 to 2018; inputs drift in every chunk, and the AUC does not fall. The
  rows of one year have no order in time and are taken in a fixed random one: as the files have
  them, residents of prisons, dormitories and homes stand together, for whom the model is worse.

Each has a stored model's probabilities beside its rows: of monitoring alone, they tell all.

    python -m infra.demo.streams car-loan --to FOLDER [--rows N]

writes ``reference.csv`` (labelled, to train on), ``analysis.csv`` (what comes later, in its order,
without labels) and ``labels.csv`` (their labels, by the same ``id``).
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import duckdb
import numpy as np
import numpy.typing as npt

from infra.demo.data import fetch_tables
from millrace.spec import ColumnType

Name = Literal["car-loan", "census"]

type Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Source:
    reference: str
    analysis: str
    labels: str
    target: str
    score: str
    order: str
    features: dict[str, ColumnType]


_SQL: Final = {
    ColumnType.BOOLEAN: "BOOLEAN",
    ColumnType.INTEGER: "BIGINT",
    ColumnType.NUMBER: "DOUBLE",
    ColumnType.STRING: "VARCHAR",
}
_NUMBER, _TEXT = ColumnType.NUMBER, ColumnType.STRING
_SOURCES: Final[dict[Name, _Source]] = {
    "car-loan": _Source(
        reference="synthetic_car_loan_reference.csv",
        analysis="synthetic_car_loan_analysis.csv",
        labels="synthetic_car_loan_analysis_target.csv",
        target="repaid",
        score="y_pred_proba",
        order="id",
        features={
            "car_value": _NUMBER,
            "salary_range": _TEXT,
            "debt_to_income_ratio": _NUMBER,
            "loan_length": _NUMBER,
            "repaid_loan_on_prev_car": ColumnType.BOOLEAN,
            "size_of_downpayment": _TEXT,
            "driver_tenure": _NUMBER,
        },
    ),
    "census": _Source(
        reference="employment_MA_reference.pq",
        analysis="employment_MA_analysis.pq",
        labels="employment_MA_analysis_target.pq",
        target="employed",
        score="predicted_probability",
        order="year, md5(CAST(id AS VARCHAR))",
        features={
            "AGEP": ColumnType.INTEGER,
            **dict.fromkeys(
                ("SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG", "MIL", "ANC", "NATIVITY"),
                _TEXT,
            ),
            **dict.fromkeys(("DEAR", "DEYE", "DREM", "SEX", "RAC1P"), _TEXT),
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a stream in their order.

    Attributes:
        ids: What a row is called in the wheel.
        inputs: Numbers as float64 with NaN for missing (booleans 0 and 1), texts as objects with ""
            for missing.
        labels: 0 and 1.
        scores: The stored model's probability of 1.
    """

    ids: npt.NDArray[np.int64]
    inputs: Columns
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.ids)

    def take(self, rows: npt.NDArray[Any]) -> "Part":
        """Some of the rows."""
        return Part(
            self.ids[rows],
            {name: values[rows] for name, values in self.inputs.items()},
            self.labels[rows],
            self.scores[rows],
        )

    def chunks(self, count: int) -> Iterator["Part"]:
        """So many parts of equal size, in the order of the rows."""
        for rows in np.array_split(np.arange(self.rows), count):
            yield self.take(rows)


@dataclass(frozen=True, slots=True)
class Stream:
    """A labelled past and what came after it.

    Attributes:
        name: Which.
        target: What the label is called.
        features: The inputs and their types.
        reference: The past.
        analysis: What came after it.
    """

    name: Name
    target: str
    features: dict[str, ColumnType]
    reference: Part
    analysis: Part


def read_stream(name: Name, folder: Path, uv: Path) -> Stream:
    """A stream, fetched where it is not there yet.

    Args:
        name: Which.
        folder: Where the wheel is unpacked: the demo's own will do.
        uv: The program that fetches it.

    Raises:
        ConfigurationError: The wheel could not be fetched.
    """
    source = _SOURCES[name]
    tables = fetch_tables(folder, uv)
    with duckdb.connect() as db:
        reference = _read(db, tables / source.reference)
        labels = _read(db, tables / source.labels).project(f'id, "{source.target}"')
        later = _read(db, tables / source.analysis).join(labels, "id")
        return Stream(
            name,
            source.target,
            dict(source.features),
            _part(reference, source),
            _part(later, source),
        )


def _read(db: duckdb.DuckDBPyConnection, path: Path) -> duckdb.DuckDBPyRelation:
    # The tables of the census are Parquet, whatever their names end in.
    return db.read_csv(str(path)) if path.suffix == ".csv" else db.read_parquet(str(path))


def _part(relation: duckdb.DuckDBPyRelation, source: _Source) -> Part:
    wanted = [
        f"CAST(id AS BIGINT) AS id, CAST({source.target} AS BIGINT) AS label",
        f"CAST({source.score} AS DOUBLE) AS score",
        *(
            f'COALESCE(CAST("{name}" AS VARCHAR), \'\') AS "{name}"'
            if kind is ColumnType.STRING
            else f'COALESCE(CAST(CAST("{name}" AS {_sql(kind)}) AS DOUBLE), \'nan\') AS "{name}"'
            for name, kind in source.features.items()
        ),
    ]
    columns = relation.order(source.order).project(", ".join(wanted)).fetchnumpy()
    inputs = {
        name: np.asarray(columns[name], dtype=object if kind is ColumnType.STRING else np.float64)
        for name, kind in source.features.items()
    }
    return Part(
        np.asarray(columns["id"], dtype=np.int64),
        inputs,
        np.asarray(columns["label"], dtype=np.int64),
        np.asarray(columns["score"], dtype=np.float64),
    )


def _sql(kind: ColumnType) -> str:
    """How DuckDB calls a type."""
    return _SQL[kind]


# ── For a deployment ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Files:
    """What a deployment is driven with.

    Attributes:
        reference: To train on.
        analysis: To ask predictions for, in order.
        labels: What came of it, by ``id``.
    """

    reference: Path
    analysis: Path
    labels: Path


def write_files(name: Name, folder: Path, uv: Path, rows: int | None = None) -> Files:
    """Writes a stream as CSV files with the columns of its rows, once.

    Args:
        name: Which stream.
        folder: Where they go, and where the wheel is unpacked.
        uv: The program that fetches the wheel.
        rows: Rows of each half at most, evenly spread over it; all by default.
    """
    source = _SOURCES[name]
    some = "all" if rows is None else str(rows)
    files = Files(
        *(folder / f"{name}-{part}-{some}.csv" for part in ("reference", "analysis", "labels"))
    )
    if all(path.exists() for path in (files.reference, files.analysis, files.labels)):
        return files
    tables = fetch_tables(folder, uv)
    inputs = ", ".join(
        f'CAST("{column}" AS {_sql(kind)}) AS "{column}"'
        for column, kind in source.features.items()
    )
    label = f'CAST("{source.target}" AS INTEGER) AS "{source.target}"'
    with duckdb.connect() as db:
        past = _spread(_read(db, tables / source.reference), source, rows)
        past.project(f"id, {inputs}, {label}").write_csv(str(files.reference))
        later = _spread(_read(db, tables / source.analysis), source, rows)
        later.project(f"id, {inputs}").write_csv(str(files.analysis))
        labels = _read(db, tables / source.labels).project(f"id, {label}")
        labels.join(later.project("id, place"), "id").order("place").project(
            "* EXCLUDE (place)"
        ).write_csv(str(files.labels))
    return files


def _spread(
    relation: duckdb.DuckDBPyRelation, source: _Source, rows: int | None
) -> duckdb.DuckDBPyRelation:
    """The rows in the stream's order, with their place; so many of them, evenly spread."""
    placed = relation.project(
        f"*, row_number() OVER (ORDER BY {source.order}) - 1 AS place, count(*) OVER () AS total"
    )
    if rows is not None:
        placed = placed.filter(
            f"place = 0 OR place * {rows} // total != (place - 1) * {rows} // total"
        )
    return placed.project("* EXCLUDE (total)").order("place")


def main(arguments: list[str]) -> int:
    """Writes the files of a stream and names them."""
    parser = argparse.ArgumentParser(prog="python -m infra.demo.streams", description=__doc__)
    parser.add_argument("stream", choices=sorted(_SOURCES))
    parser.add_argument("--to", type=Path, default=Path(".millrace/demo"), help="where they go")
    parser.add_argument("--rows", type=int, help="rows of each half at most, evenly spread")
    parser.add_argument("--uv", type=Path, default=Path(".venv/bin/uv"))
    given = parser.parse_args(arguments)
    given.to.mkdir(parents=True, exist_ok=True)
    files = write_files(given.stream, given.to, given.uv.resolve(), given.rows)
    for path in (files.reference, files.analysis, files.labels):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
