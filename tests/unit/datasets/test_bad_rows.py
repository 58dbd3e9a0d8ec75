"""Rows that break the contract: quarantined with number, column, rule and what came."""

from pathlib import Path

import duckdb
import pytest

from millrace.datasets.check import prepare
from millrace.datasets.engine import Limits
from tests.unit.datasets.uploads import (
    CHURN,
    COLUMNS,
    checked,
    churn_csv,
    churn_jsonl,
    churn_rows,
    churn_spec,
    with_column,
)

CELLS = [
    pytest.param("age", "abc", "type", "an integer of at most 64 bits", id="word for integer"),
    pytest.param("age", "41.5", "type", "an integer", id="decimal for integer"),
    pytest.param("age", "1e1", "type", "an integer", id="scientific for integer"),
    pytest.param("age", "4_1", "type", "an integer", id="underscore in integer"),
    pytest.param("age", "0x1F", "type", "an integer", id="hexadecimal"),
    pytest.param("age", "9223372036854775808", "type", "64 bits", id="beyond 64 bits"),
    pytest.param("age", "NaN", "type", "an integer", id="nan for integer"),
    pytest.param("age", "-1", "below_min", "at least 0", id="below min"),
    pytest.param("age", "121", "above_max", "at most 120", id="above max"),
    pytest.param("score", "1,5", "type", "a number", id="decimal comma"),
    pytest.param("score", "1_0.5", "type", "a number", id="underscore in number"),
    pytest.param("score", "\u00a01_0.5", "type", "a number", id="underscore after a blank"),
    pytest.param("score", "+-1", "type", "a number", id="two signs"),
    pytest.param("score", "NaN", "not_finite", "a finite number", id="nan"),
    pytest.param("score", "inf", "not_finite", "a finite number", id="inf"),
    pytest.param("score", "-Infinity", "not_finite", "a finite number", id="minus infinity"),
    pytest.param("score", "1e400", "not_finite", "a finite number", id="overflow"),
    pytest.param("score", "-1e39", "not_finite", "a finite number", id="beyond float32"),
    pytest.param("city", "Berlin", "not_allowed", "one of 'Paris', 'Rome'", id="not allowed"),
    pytest.param("city", "paris", "not_allowed", "one of", id="case counts"),
    pytest.param("member", "2", "type", "true, false, 1, 0, yes or no", id="two for boolean"),
    pytest.param("joined", "01/02/2024", "type", "an ISO 8601", id="american date"),
    pytest.param("joined", "2024-02-30", "type", "an ISO 8601", id="30 February"),
    pytest.param("joined", "infinity", "type", "an ISO 8601", id="infinite time"),
    pytest.param("churned", "", "missing", "a value", id="missing target"),
    pytest.param("churned", "N/A", "missing", "a value", id="null token in target"),
]


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
@pytest.mark.parametrize(("column", "came", "rule", "expected"), CELLS)
def test_bad_cell_is_named(
    tmp_path: Path, format_: str, column: str, came: str, rule: str, expected: str
) -> None:
    rows = churn_rows()
    rows[41][column] = came
    body = churn_csv(rows) if format_ == "csv" else churn_jsonl(rows)

    report = checked(tmp_path, body, f"a.{format_}")

    assert report.outcome == "accepted"
    assert report.rows.model_dump() == {"read": 100, "accepted": 99, "quarantined": 1}
    (problem,) = report.problems
    assert (problem.column, problem.rule, problem.count, problem.first_row) == (column, rule, 1, 42)
    (sample,) = report.samples
    assert (sample.row, sample.column, sample.rule) == (42, column, rule)
    assert expected in sample.expected
    assert sample.came == came


@pytest.mark.parametrize(
    ("column", "came"),
    [
        ("age", " 41 "),
        ("age", "+41"),
        ("age", "041"),
        ("age", "41.0"),
        ("age", "41."),
        ("age", ""),
        ("age", "NULL"),
        ("score", "1e-3"),
        ("score", ".5"),
        ("score", "-0"),
        ("score", "NA"),
        ("score", "\u00a07.5"),
        ("city", "  Rome\t"),
        ("city", "None"),
        ("member", "YES"),
        ("member", "No"),
        ("member", "1"),
        ("joined", "2024-01-02"),
        ("joined", "2024-01-02T03:04"),
        ("joined", "2024-01-02 03:04:05.123456+02:00"),
        ("joined", "2024-01-02T03:04:05-08"),
    ],
)
def test_good_cell_is_accepted(tmp_path: Path, column: str, came: str) -> None:
    rows = churn_rows()
    rows[41][column] = came

    report = checked(tmp_path, churn_csv(rows))

    assert report.problems == ()
    assert report.rows.accepted == 100


def test_row_with_several_problems_counts_once_and_names_all(tmp_path: Path) -> None:
    rows = churn_rows()
    rows[9] |= {"age": "x", "score": "inf", "city": "Berlin", "churned": ""}

    report = checked(tmp_path, churn_csv(rows))

    assert report.rows.quarantined == 1
    assert [(s.column, s.rule) for s in report.samples] == [
        ("age", "type"),
        ("score", "not_finite"),
        ("city", "not_allowed"),
        ("churned", "missing"),
    ]


def test_ragged_lines_are_quarantined_by_number(tmp_path: Path) -> None:
    lines = churn_csv(churn_rows()).splitlines()
    lines[3] = b"2,20"
    lines[7] += b",and,more"
    rows = b"\n".join(lines)

    report = checked(tmp_path, rows)

    assert report.rows.model_dump() == {"read": 100, "accepted": 98, "quarantined": 2}
    assert [(s.row, s.column, s.rule) for s in report.samples] == [
        (3, "(row)", "too_few_fields"),
        (7, "(row)", "too_many_fields"),
    ]


def test_row_numbers_hold_after_ragged_and_blank_lines(tmp_path: Path) -> None:
    rows = churn_rows()
    rows[20]["age"] = "x"
    rows[60]["age"] = "y"
    lines = churn_csv(rows).splitlines()
    lines[5] = b"broken"
    lines[6] = b"broken"
    lines[41] = b"broken"
    body = b"\n".join([b"", *lines[:11], b"", b"", *lines[11:31], b"", *lines[31:]])

    report = checked(tmp_path, body)

    assert [(s.row, s.came) for s in report.samples if s.column == "age"] == [(21, "x"), (61, "y")]
    assert [s.row for s in report.samples if s.column == "(row)"] == [5, 6, 41]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_line_breaks_of_every_system_are_read(tmp_path: Path, end: str) -> None:
    plain = checked(tmp_path, churn_csv(churn_rows()))

    report = checked(tmp_path, churn_csv(churn_rows(), end=end))

    assert report.outcome == "accepted", report.reason
    assert report.dataset_version == plain.dataset_version


def test_mixed_line_breaks_are_read(tmp_path: Path) -> None:
    plain = checked(tmp_path, churn_csv(churn_rows()))
    body = churn_csv(churn_rows()).replace(b"\n", b"\r\n", 40)

    report = checked(tmp_path, body)

    assert report.outcome == "accepted", report.reason
    assert report.dataset_version == plain.dataset_version


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    plain = checked(tmp_path, churn_csv(churn_rows()))

    report = checked(tmp_path, b"\xef\xbb\xbf" + churn_csv(churn_rows()))

    assert report.dataset_version == plain.dataset_version


def test_line_breaks_and_delimiters_inside_quotes_belong_to_the_value(tmp_path: Path) -> None:
    spec = churn_spec(columns=with_column("city", allowed=None))
    rows = churn_rows()
    rows[4]["city"] = 'a, "b"\nc'
    rows[5]["age"] = "x"

    report = checked(tmp_path, churn_csv(rows), spec=spec)

    assert report.rows.read == 100
    assert [(s.row, s.came) for s in report.samples] == [(6, "x")]


def test_damaged_bytes_in_few_lines_are_quarantined(tmp_path: Path) -> None:
    spec = churn_spec(columns=with_column("city", allowed=None))
    rows = [{**row, "city": "Orléans"} for row in churn_rows()]
    lines = churn_csv(rows).splitlines()
    lines[30] = lines[30].replace("é".encode(), b"\xe9")

    report = checked(tmp_path, b"\n".join(lines), spec=spec)

    assert report.rows.quarantined == 1
    assert [(s.row, s.rule, s.expected) for s in report.samples] == [(30, "encoding", "UTF-8 text")]


def test_broken_json_lines_are_quarantined_by_number(tmp_path: Path) -> None:
    lines = churn_jsonl(churn_rows()).splitlines()
    lines[10] = lines[10][:-5]
    lines[20] = b"[1, 2]"
    lines[30] = b'"text"'

    report = checked(tmp_path, b"\n".join(lines), "a.jsonl")

    assert [(s.row, s.rule) for s in report.samples] == [
        (11, "broken_json"),
        (21, "broken_json"),
        (31, "broken_json"),
    ]
    assert report.rows.accepted == 97


def test_nested_json_value_is_a_bad_number(tmp_path: Path) -> None:
    rows = churn_rows()
    rows[1]["score"] = {"deep": 1}

    report = checked(tmp_path, churn_jsonl(rows), "a.jsonl")

    assert [(s.row, s.column, s.rule) for s in report.samples] == [(2, "score", "type")]


def test_absent_json_key_is_a_missing_value(tmp_path: Path) -> None:
    rows = churn_rows()
    del rows[1]["age"]
    del rows[2]["churned"]

    report = checked(tmp_path, churn_jsonl(rows), "a.jsonl")

    assert [(s.row, s.column, s.rule) for s in report.samples] == [(3, "churned", "missing")]


def test_all_but_the_first_of_equal_ids_are_quarantined(tmp_path: Path) -> None:
    rows = churn_rows()
    rows[50]["id"] = "7"
    rows[60]["id"] = "7"

    report = checked(tmp_path, churn_csv(rows))

    assert [(s.row, s.column, s.rule) for s in report.samples] == [
        (51, "id", "duplicate_id"),
        (61, "id", "duplicate_id"),
    ]
    assert report.rows.accepted == 98


def test_a_bad_row_takes_its_id_from_nobody(tmp_path: Path) -> None:
    rows = churn_rows()
    rows[7]["age"] = "x"
    rows[50]["id"] = "7"

    report = checked(tmp_path, churn_csv(rows))

    assert [(s.row, s.rule) for s in report.samples] == [(8, "type")]


def test_own_null_values_replace_the_defaults(tmp_path: Path) -> None:
    spec = churn_spec(null_values=["-999", "NaN"])
    rows = churn_rows()
    rows[3]["score"] = "-999"
    rows[4]["score"] = "NaN"
    rows[5]["score"] = "NA"

    report = checked(tmp_path, churn_csv(rows), spec=spec)
    for row in rows[3:5]:
        row["score"] = ""
    empty = checked(tmp_path, churn_csv(rows), spec=spec)

    assert [(s.row, s.rule) for s in report.samples] == [(6, "type")]
    assert report.dataset_version == empty.dataset_version


def test_unknown_columns_can_be_dropped(tmp_path: Path) -> None:
    plain = checked(tmp_path, churn_csv(churn_rows()))
    rows = [{"note": f"n{i}", **row} for i, row in enumerate(churn_rows())]

    report = checked(tmp_path, churn_csv(rows), spec=churn_spec(unknown_columns="drop"))

    assert report.dataset_version == plain.dataset_version


def test_values_of_private_columns_are_not_shown(tmp_path: Path) -> None:
    rows = churn_rows()
    rows[1]["id"] = "secret-id"
    rows[2]["salary"] = "secret-pay"
    lines = churn_csv(rows).splitlines()
    lines[4] = b"secret-line"

    report = checked(tmp_path, b"\n".join(lines))

    assert report.rows.quarantined == 3
    assert "secret" not in report.model_dump_json()


def test_long_values_are_cut(tmp_path: Path) -> None:
    rows = churn_rows()
    rows[1]["city"] = "x" * 500

    report = checked(tmp_path, churn_csv(rows))

    assert report.samples[0].came == "x" * 80


def test_quarantine_keeps_rows_as_text_with_reasons(tmp_path: Path) -> None:
    rows = churn_rows()
    rows[1] |= {"age": "old", "city": "Berlin"}
    rows[50]["id"] = "7"
    lines = churn_csv(rows).splitlines()
    lines[9] = b"8,20"
    path = tmp_path / "a.csv"
    path.write_bytes(b"\n".join(lines))
    workspace = tmp_path / "work"
    workspace.mkdir()

    prepared = prepare(path, path.name, CHURN, workspace=workspace, limits=Limits())

    assert prepared.quarantine is not None
    with duckdb.connect() as connection:
        kept = connection.execute(
            "SELECT row, reasons, cells, line FROM read_parquet($path)",
            {"path": str(prepared.quarantine)},
        ).fetchall()
    assert [row for row, *_ in kept] == [2, 9, 51]
    assert kept[0][1] == [
        {"column": "age", "rule": "type", "came": "old"},
        {"column": "city", "rule": "not_allowed", "came": "Berlin"},
    ]
    assert kept[0][2]["age"] == "old"
    assert list(kept[0][2]) == [c["name"] for c in COLUMNS]
    assert kept[1][1][0]["rule"] == "too_few_fields"
    assert (kept[1][2], kept[1][3]) == (None, "8,20")
    assert kept[2][1] == [{"column": "id", "rule": "duplicate_id", "came": ""}]


def test_hostile_names_and_values_are_only_text(tmp_path: Path) -> None:
    name = """x'); DROP TABLE "good"; --"""
    columns = tuple({**c, "name": name} if c["name"] == "city" else c for c in COLUMNS)
    columns = tuple(
        {**c, "allowed": ["Paris", "Rome", "a'b"]} if c["name"] == name else c for c in columns
    )
    rows = [{name if k == "city" else k: v for k, v in row.items()} for row in churn_rows()]
    rows[3][name] = "a'b"
    rows[4][name] = "'; DROP TABLE good; --"

    for body, file in ((churn_csv(rows), "it's.csv"), (churn_jsonl(rows), "it's.jsonl")):
        report = checked(tmp_path, body, file, churn_spec(columns=columns))

        assert report.outcome == "accepted", report.reason
        assert [(s.row, s.column, s.rule) for s in report.samples] == [(5, name, "not_allowed")]
