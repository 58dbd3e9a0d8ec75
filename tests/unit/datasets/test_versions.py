"""Dataset versions: named by content, whatever file, format or order it came in."""

# ruff: noqa: S608  # SQL over names and paths of our own making.

import json
import math
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.datasets.check import Prepared, check_file, prepare
from millrace.datasets.contract import CHUNK, WIDE
from millrace.datasets.engine import Limits, identifier, literal
from millrace.datasets.table import SPLITS, Table
from millrace.spec import WHITESPACE, ModelSpec
from tests.unit.datasets.uploads import (
    CHURN,
    checked,
    churn_csv,
    churn_jsonl,
    churn_rows,
    churn_spec,
    write_parquet,
)

TYPED = ModelSpec.from_document(
    {
        "name": "typed",
        "task": "regression",
        "data": {
            "min_rows": 20,
            "max_quarantined": 0,
            "columns": [
                {"name": "whole", "type": "integer"},
                {"name": "part", "type": "number"},
                {"name": "word", "type": "string"},
                {"name": "flag", "type": "boolean"},
                {"name": "when", "type": "timestamp", "role": "ignore"},
                {"name": "y", "type": "number", "role": "target"},
            ],
        },
    }
)
SQL = {"whole": "BIGINT", "part": "DOUBLE", "word": "VARCHAR", "flag": "BOOLEAN", "y": "DOUBLE"}

numbers = st.floats(-3e38, 3e38)
words = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), max_size=8
)
moments = st.integers(-(2**51), 2**51).map(
    lambda micros: (
        datetime.fromtimestamp(0, UTC).replace(tzinfo=None) + timedelta(microseconds=micros)
    )
)
rows = st.fixed_dictionaries(
    {
        "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
        "part": st.none() | numbers,
        "word": st.none() | words | st.sampled_from(["a,b", 'say "hi"', "~", "1:a;", "ü", "a\nb"]),
        "flag": st.none() | st.booleans(),
        "when": st.none() | moments,
        "y": numbers,
    }
).map(lambda row: {c.name: row[c.name] for c in TYPED.data.columns})
FILLER = [
    {"whole": i, "part": i / 3, "word": f"w{i}", "flag": i % 2 == 0, "when": None, "y": i * 1.5}
    for i in range(60)
]


def text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.replace(tzinfo=UTC).isoformat()
        case float():
            return repr(value)
        case _:
            return str(value)


def write(directory: Path, format_: str, data: Sequence[dict[str, Any]]) -> Path:
    path = directory / f"upload.{format_}"
    if format_ == "csv":
        path.write_bytes(churn_csv([{k: text(v) for k, v in row.items()} for row in data]))
    elif format_ == "jsonl":
        plain = [
            {k: text(v) if isinstance(v, datetime) else v for k, v in row.items()} for row in data
        ]
        path.write_bytes(churn_jsonl(plain))
    else:
        with duckdb.connect() as connection:
            columns = ", ".join(f"{identifier(k)} {SQL.get(k, 'TIMESTAMP')}" for k in data[0])
            connection.execute(f"CREATE TABLE made ({columns})")
            marks = ", ".join("?" for _ in data[0])
            connection.executemany(
                f"INSERT INTO made VALUES ({marks})", [list(row.values()) for row in data]
            )
            connection.execute(f"COPY made TO {literal(str(path))} (FORMAT parquet)")
    return path


@settings(max_examples=15)
@given(drawn=st.lists(rows, max_size=12), shuffled=st.randoms(use_true_random=False))
def test_same_rows_in_any_order_and_format_are_the_same_version(
    drawn: list[dict[str, Any]], shuffled: Any
) -> None:
    data = [*drawn, *FILLER]
    moved = list(data)
    shuffled.shuffle(moved)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)

        reports = [
            check_file(write(directory, format_, order), TYPED)
            for format_, order in (("csv", data), ("jsonl", moved), ("parquet", moved))
        ]

    assert [(r.outcome, r.reason, r.rows.accepted) for r in reports] == [
        ("accepted", "", len(data))
    ] * 3
    assert len({r.dataset_version for r in reports}) == 1
    assert len({json.dumps(r.split_rows) for r in reports}) == 1


def prepared_in(directory: Path, path: Path, spec: ModelSpec) -> Prepared:
    workspace = directory / "work"
    workspace.mkdir()
    return prepare(path, path.name, spec, workspace=workspace, limits=Limits())


@settings(max_examples=10)
@given(drawn=st.lists(rows, min_size=1, max_size=12))
def test_typed_values_survive_reading_and_storing(drawn: list[dict[str, Any]]) -> None:
    data = [*drawn, *FILLER]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)

        made = prepared_in(directory, write(directory, "csv", data), TYPED)

        assert made.kept is not None, made.report.reason
        with duckdb.connect() as connection:
            names = ", ".join(identifier(c.name) for c in TYPED.data.columns)
            stored = connection.execute(
                f"SELECT {names} FROM read_parquet($path)", {"path": str(made.kept.data)}
            ).fetchall()
    nulls = {*TYPED.data.null_values, ""}
    expected = [
        {**row, "word": None if (word := (row["word"] or "").strip(WHITESPACE)) in nulls else word}
        for row in data
    ]
    order = [c.name for c in TYPED.data.columns]
    as_read = [dict(zip(order, row, strict=True)) for row in stored]

    def key(row: dict[str, Any]) -> str:
        return repr(
            [
                row[name] + 0 if name in {"part", "y"} and row[name] is not None else row[name]
                for name in order
            ]
        )

    assert sorted(map(key, as_read)) == sorted(map(key, expected))


def version(directory: Path, data: list[dict[str, Any]], spec: ModelSpec = CHURN) -> str:
    report = checked(directory, churn_csv(data), spec=spec)
    assert report.outcome == "accepted", report.reason
    return report.dataset_version


def test_version_of_known_rows_never_changes(tmp_path: Path) -> None:
    # A changed value here means that every upload becomes a new version after an upgrade.
    assert version(tmp_path, churn_rows()) == "eeef144286d62813aabdced7202db551"


def test_one_changed_cell_is_another_version(tmp_path: Path) -> None:
    changed = churn_rows()
    changed[50]["score"] = "0.125"

    assert version(tmp_path, changed) != version(tmp_path, churn_rows())


def test_a_row_twice_is_another_version(tmp_path: Path) -> None:
    spec = ModelSpec.from_document(
        {
            **CHURN.model_dump(mode="json"),
            "data": {
                **CHURN.data.model_dump(mode="json"),
                "columns": [
                    {**c.model_dump(mode="json"), "role": "ignore" if c.role == "id" else c.role}
                    for c in CHURN.data.columns
                ],
            },
        }
    )
    data = churn_rows()

    assert version(tmp_path, [*data, data[0]], spec) != version(tmp_path, data, spec)
    assert version(tmp_path, [*data, data[0]], spec) == version(tmp_path, [data[0], *data], spec)


@pytest.mark.parametrize(
    ("column", "spellings"),
    [
        ("age", ["41", " 41", "+41", "041", "41.0"]),
        ("score", ["0", "-0.0", "0e5", " 0.0 "]),
        ("score", ["100", "1e2", "100.0", "+1E+2"]),
        ("member", ["true", "TRUE", "1", "yes"]),
        ("city", ["Rome", " Rome "]),
        ("city", ["", "NA", "  ", "NULL"]),
        (
            "joined",
            [
                "2024-01-02",
                "2024-01-02T00:00Z",
                "2024-01-02 02:00:00+02:00",
                "2024-01-02 00:00:00.0",
            ],
        ),
    ],
)
def test_spellings_of_one_value_are_one_version(
    tmp_path: Path, column: str, spellings: list[str]
) -> None:
    data = churn_rows()

    versions = set()
    for spelling in spellings:
        data[9][column] = spelling
        versions.add(version(tmp_path, data))

    assert len(versions) == 1


def test_float32_parquet_is_the_version_of_its_shortest_decimals(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        churn_csv([{**r, "score": f"{i / 10:.1f}"} for i, r in enumerate(churn_rows())])
    )
    parquet = tmp_path / "a.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * REPLACE (score::FLOAT AS score, age::TINYINT AS age, "
            f"joined::TIMESTAMPTZ AS joined, salary::DECIMAL(10, 2) AS salary) "
            f"FROM read_csv({literal(str(path))})) TO {literal(str(parquet))} (FORMAT parquet)"
        )

    assert check_file(parquet, CHURN).dataset_version == check_file(path, CHURN).dataset_version


@pytest.mark.parametrize("count", [3, WIDE + CHUNK])
@pytest.mark.parametrize("texts", [0, 1])
def test_parquet_without_texts_is_the_version_of_its_csv(
    tmp_path: Path, count: int, texts: int
) -> None:
    columns: tuple[dict[str, Any], ...] = (
        *({"name": f"n{i}", "type": "number", "max": 1e6} for i in range(count)),
        *({"name": f"s{i}", "type": "string"} for i in range(texts)),
        {"name": "is_new", "type": "boolean"},
        {"name": "seen", "type": "timestamp", "role": "ignore"},
        {"name": "churned", "type": "integer", "role": "target"},
    )
    spec = churn_spec(columns=columns)
    data = [
        {
            **{f"n{c}": repr((i + c) / 7) for c in range(count)},
            **{f"s{c}": f"word {i}" for c in range(texts)},
            "is_new": str(i % 3 == 0).lower(),
            "seen": f"2024-01-{1 + i % 28:02d}T00:00:00Z",
            "churned": str(i % 2),
        }
        for i in range(60)
    ]
    path = tmp_path / "a.csv"
    path.write_bytes(churn_csv(data))
    parquet = write_parquet(
        tmp_path / "a.parquet", "SELECT * FROM read_csv($path)", {"path": str(path)}
    )

    reports = [check_file(one, spec) for one in (path, parquet)]

    assert [(r.outcome, r.rows.accepted) for r in reports] == [("accepted", 60)] * 2
    assert reports[0].dataset_version == reports[1].dataset_version


@pytest.mark.parametrize(
    ("value", "rule"), [("'nan'::DOUBLE", "not_finite"), ("'inf'::DOUBLE", "not_finite")]
)
def test_parquet_number_that_is_not_finite_is_bad(tmp_path: Path, value: str, rule: str) -> None:
    source = tmp_path / "a.csv"
    source.write_bytes(churn_csv(churn_rows()))
    parquet = tmp_path / "a.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * REPLACE (CASE WHEN id = 5 THEN {value} ELSE score END AS score) "
            f"FROM read_csv({literal(str(source))})) TO {literal(str(parquet))} (FORMAT parquet)"
        )

    report = check_file(parquet, CHURN)

    assert [(s.row, s.column, s.rule) for s in report.samples] == [(6, "score", rule)]


def test_parquet_double_is_an_integer_only_when_whole_and_exact(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_bytes(churn_csv(churn_rows()))
    parquet = tmp_path / "a.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT * REPLACE (CASE id WHEN 1 THEN 41.5 WHEN 2 THEN 1e17 ELSE age END::DOUBLE "
            f"AS age) FROM read_csv({literal(str(source))})) "
            f"TO {literal(str(parquet))} (FORMAT parquet)"
        )

    report = check_file(parquet, CHURN)

    assert [(s.row, s.column, s.rule) for s in report.samples] == [
        (2, "age", "type"),
        (3, "age", "type"),
    ]


def test_splits_hold_what_the_file_held(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    data = churn_rows()
    data[3]["age"] = ""
    data[4]["city"] = ""
    path.write_bytes(churn_csv(data))

    made = prepared_in(tmp_path, path, CHURN)

    assert made.kept is not None
    schema = made.kept.schema
    assert [c.name for c in schema.columns] == [
        "age", "score", "city", "member", "salary", "churned",
    ]  # fmt: skip
    assert schema.classes == ("false", "true")
    tables = [Table.from_bytes(made.kept.splits[s].read_bytes(), schema) for s in SPLITS]
    found = set()
    for table in tables:
        assert list(table.row) == sorted(table.row)
        numeric, categorical = table.features()
        assert numeric.dtype == np.float32
        for n, c, salary, label in zip(
            numeric, categorical, table.arrays["salary"], table.target, strict=True
        ):
            age = None if math.isnan(n[0]) else int(n[0])
            found.add((age, float(salary), c[0], bool(n[2]), schema.classes[label]))
    assert found == {
        (
            int(r["age"]) if r["age"] else None,
            float(r["salary"]),
            r["city"],
            r["member"] == "true",
            r["churned"],
        )
        for r in data
    }


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(churn_csv(churn_rows()))
    other = tmp_path / "other"
    other.mkdir()
    shuffled = other / "a.csv"
    shuffled.write_bytes(churn_csv(churn_rows()[::-1]))

    first, second = prepared_in(tmp_path, path, CHURN), prepared_in(other, shuffled, CHURN)

    assert first.kept is not None
    assert second.kept is not None
    assert first.kept.data.read_bytes() == second.kept.data.read_bytes()
    for split in SPLITS:
        assert first.kept.splits[split].read_bytes() == second.kept.splits[split].read_bytes()
    assert first.kept.profile == second.kept.profile


def test_profile_tells_columns_and_keeps_private_values_back(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    data = churn_rows()
    data[3]["score"] = ""
    path.write_bytes(churn_csv(data))

    made = prepared_in(tmp_path, path, CHURN)

    assert made.kept is not None
    columns = {c.name: c for c in made.kept.profile.columns}
    score, city, member, salary = (columns[n] for n in ("score", "city", "member", "salary"))
    values = np.array([float(r["score"]) for r in data if r["score"]])
    assert (score.count, score.missing, score.distinct) == (99, 1, 99)
    assert score.numeric is not None
    assert score.numeric.mean == pytest.approx(values.mean())
    assert score.numeric.std == pytest.approx(values.std())
    assert score.numeric.quantiles["0.95"] == pytest.approx(np.quantile(values, 0.95))
    assert sum(score.numeric.histogram.counts) == 99
    assert len(score.numeric.histogram.edges) == len(score.numeric.histogram.counts) + 1
    assert city.categories is not None
    assert {c.value: c.count for c in city.categories} == {"Paris": 66, "Rome": 34}
    assert member.categories is not None
    assert {c.value: c.count for c in member.categories} == {"true": 80, "false": 20}
    assert (salary.count, salary.distinct) == (100, 100)
    assert (salary.numeric, salary.categories, columns["id"].numeric) == (None, None, None)
