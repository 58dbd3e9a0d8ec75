"""CSV is read in a request as ingest reads it in an upload, cell by cell, by ingest's own code.

What ingest quarantines is refused by the same row and column; what it takes is answered with
scikit-learn's answer for the values it took. A request refuses more in one case: integers beyond
2^53, which an upload may have in columns that are no features.
"""

import csv
import io
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.datasets import reading
from millrace.datasets.contract import check_cells
from millrace.datasets.engine import Limits, engine
from millrace.learning.features import Rows
from millrace.spec import Algorithm, ColumnType, Task
from tests.unit.serving.pipelines import CITIES, COLUMNS, PLANS, Pipeline, post, serve, trained

NAMES: Final = tuple(c["name"] for c in COLUMNS)
SPACES: Final = ("", "", "", " ", "\t", "\u00a0", "\u3000", "\ufeff", "\u200b", "\u0085")
NUMBERS: Final = (
    "41", "0", "-7", "+3", "3.0", "3.", "0.50", ".5", "-.5", "1e3", "1E-3", "2e+2", "-0", "-0.0",
    "1e-400", "1e-45", "3.4028235e38", "16777217", "9007199254740991", "007", "123456789.987654321",
)  # fmt: skip
ODD: Final = (
    "", "NA", "null", "None", "NaN", "nan", "inf", "-Infinity", "1e39", "1e400", "3.5", "1_000", "0x10",
    "1 000", "1,000", "--1", "+-1", "e5", "1e", "\u0663", "\uff11", "\u22121", "9007199254740993",
    "9223372036854775807", "9223372036854775808", "1" * 50, "true", "FALSE", "Yes", "no", "1.0", "0.0",
    "2", "t", "y", "basic", 'ba"sic', "x" * 400, "\U0001f30d", "gra\u0308z",
)  # fmt: skip
GOOD: Final = {
    ColumnType.INTEGER: st.one_of(
        st.integers(-(2**53), 2**53).map(str), st.sampled_from(("41", "3.0", "+3", "007", "-0"))
    ),
    ColumnType.NUMBER: st.one_of(
        st.floats(-1e6, 1e6).map(repr), st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
        st.sampled_from(NUMBERS),
    ),
    ColumnType.BOOLEAN: st.sampled_from(("true", "False", "1", "0", "yes", "NO", "1.0", "0.0")),
    ColumnType.STRING: st.sampled_from((*CITIES, *PLANS, "other")),
}  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """Rows of cells, most of them ordinary."""
    rows = [
        [
            draw(st.sampled_from(SPACES)) + draw(GOOD[c["type"]]) + draw(st.sampled_from(SPACES))
            for c in COLUMNS
        ]
        for _ in range(draw(st.integers(1, 5)))
    ]
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        row = draw(st.sampled_from(rows))
        row[draw(st.integers(0, len(COLUMNS) - 1))] = draw(
            st.one_of(
                st.sampled_from((*ODD, *NUMBERS)),
                st.text(st.characters(exclude_characters="\0\r\n", codec="utf-8"), max_size=5),
            )
        )
    return rows


def written(header: tuple[str, ...], rows: list[list[str]]) -> bytes:
    """A table as CSV, every cell quoted, so that no line is blank."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def as_ingested(
    made: Pipeline, rows: list[list[str]], path: Path
) -> tuple[set[tuple[int, str]], list[tuple[Any, ...]]]:
    """Wrong cells and typed values by ingest's own reading; the target is added."""
    target = "1.0" if made.spec.task is Task.REGRESSION else made.signature.classes[0]
    path.write_bytes(written((*NAMES, "y"), [[*row, target] for row in rows]))
    limits = Limits()
    with engine(path.parent, limits, path) as connection:
        cells = reading.open_cells(
            connection,
            path,
            path.name,
            workspace=path.parent,
            delimiter=",",
            expected=(*NAMES, "y"),
            max_unpacked_mb=limits.max_unpacked_mb,
        )
        check_cells(connection, cells, made.spec, range(len(NAMES) + 1))
        values = ", ".join(f"v{k}" for k in range(len(NAMES)))
        found = connection.execute(
            f"SELECT {values}, codes FROM checked ORDER BY rowid"  # noqa: S608
        ).fetchall()
    assert len(found) == len(rows)
    wrong = {
        (row, NAMES[k])
        for row, (*_, codes) in enumerate(found)
        for k, code in enumerate((codes or ())[: len(NAMES)])
        if code
    }
    return wrong, [tuple(values) for *values, _ in found]


@pytest.fixture(scope="module")
def made() -> Pipeline:
    """One pipeline: cells are read before any model sees them."""
    return trained(Task.BINARY, Algorithm.LINEAR)


def test_csv_is_read_as_ingest_reads_it(made: Pipeline, pytestconfig: pytest.Config) -> None:
    service = serve(made.loaded)
    seen = {"answered": 0, "refused": 0}

    @settings(max_examples=pytestconfig.getoption("--examples"))
    @given(tables())
    def compare(rows: list[list[str]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            wrong, values = as_ingested(made, rows, Path(folder) / "rows.csv")
        wrong |= {
            (row, name)
            for row, taken in enumerate(values)
            for name, value in zip(NAMES, taken, strict=True)
            if type(value) is int and abs(value) > 2**53
        }
        reply = post(service, written(NAMES, rows), headers=[("content-type", "text/csv")])
        if wrong:
            seen["refused"] += 1
            assert reply.status == 422, reply.body
            assert {(e["row"], e["field"]) for e in reply.json["errors"]} == wrong
            return
        seen["answered"] += 1
        assert reply.status == 200, reply.body
        told = [
            [p["probabilities"][c] for c in made.signature.classes]
            for p in reply.json["predictions"]
        ]
        np.testing.assert_allclose(told, truth(made, values), atol=made.tolerance)

    compare()

    assert seen["answered"]
    assert seen["refused"]


def truth(made: Pipeline, values: list[tuple[Any, ...]]) -> np.ndarray:
    """scikit-learn's answer to what ingest took."""
    named = [dict(zip(NAMES, row, strict=True)) for row in values]
    numbers = [[row[f.name] for f in made.signature.numeric] for row in named]
    known = tuple(
        tuple(sorted({row[f.name] for row in named} - {None})) for f in made.signature.categorical
    )
    codes = [
        [
            -1 if row[f.name] is None else known[place].index(row[f.name])
            for place, f in enumerate(made.signature.categorical)
        ]
        for row in named
    ]
    numeric = np.array(numbers, dtype=np.float64).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return made.fit.model.predict(Rows(numeric, np.array(codes, dtype=np.int32), known))
