"""Files that are wrong as a whole: each is refused with its code and a sentence that helps."""

import gzip
import json
from pathlib import Path

import pytest

from millrace.datasets import reading
from millrace.datasets.check import check_file
from millrace.datasets.engine import Limits
from millrace.datasets.rules import MAX_LINE_BYTES
from tests.unit.datasets.uploads import (
    CHURN,
    checked,
    churn_csv,
    churn_jsonl,
    churn_rows,
    churn_spec,
    with_column,
    write_parquet,
)

ROWS = churn_rows()
CSV = churn_csv(ROWS)
HEADER = CSV.split(b"\n", 1)[0] + b"\n"


def renamed(old: str, new: str) -> bytes:
    return CSV.replace(old.encode(), new.encode(), 1)


def accented(encoding: str) -> bytes:
    rows = [{**row, "city": "Orléans"} for row in ROWS]
    return churn_csv(rows).decode().encode(encoding)


REFUSALS = [
    pytest.param("a.csv", b"", "empty_file", ["0 bytes", "header"], id="empty file"),
    pytest.param("a.csv.gz", gzip.compress(b""), "empty_file", ["no content"], id="empty gzip"),
    pytest.param("a.jsonl", b"", "empty_file", ["0 bytes"], id="empty jsonl"),
    pytest.param("a.csv", b"\n\r\n\n", "empty_file", ["no content"], id="blank lines only"),
    pytest.param("a.csv", HEADER, "header_only", ["8 columns", "no rows"], id="header only"),
    pytest.param("a.csv", HEADER.strip(), "header_only", ["no rows"], id="header without end"),
    pytest.param("a.csv", HEADER + b"\n\n", "header_only", ["no rows"], id="header and blanks"),
    pytest.param(
        "a.csv",
        churn_csv(ROWS, delimiter=";"),
        "wrong_delimiter",
        ["comma (',')", "1 column ", "semicolon (';')", "8 columns", "data.delimiter"],
        id="semicolons",
    ),
    pytest.param(
        "a.csv",
        churn_csv(ROWS, delimiter="\t"),
        "wrong_delimiter",
        ["tab ('\\t')"],
        id="tabs",
    ),
    pytest.param(
        "a.csv", CSV.decode().encode("utf-16"), "wrong_encoding", ["UTF-8", "UTF-16"], id="utf-16"
    ),
    pytest.param(
        "a.csv",
        CSV.decode().encode("utf-16-le"),
        "wrong_encoding",
        ["UTF-16 without a byte order mark"],
        id="utf-16 without mark",
    ),
    pytest.param("a.csv", CSV.decode().encode("utf-32"), "wrong_encoding", ["UTF-32"], id="utf-32"),
    pytest.param(
        "a.csv",
        accented("latin-1"),
        "wrong_encoding",
        ["UTF-8", "line 2", "100 of 101", "Latin-1"],
        id="latin-1",
    ),
    pytest.param(
        "a.csv", renamed("age", "âge").decode().encode("latin-1"), "wrong_encoding", ["line 1"],
        id="latin-1 header",
    ),
    pytest.param(
        "a.csv.gz", gzip.compress(CSV)[:-20], "truncated_gzip", ["cut off"], id="truncated gzip"
    ),
    pytest.param("a.csv.gz", CSV, "not_gzip", [".gz", "not gzip"], id="no gzip"),
    pytest.param(
        "a.csv.gz",
        gzip.compress(CSV)[:40] + b"\xff" * 40 + gzip.compress(CSV)[80:],
        "not_gzip",
        ["damaged"],
        id="damaged gzip",
    ),
    pytest.param("a.csv", gzip.compress(CSV), "unsupported_format", [".csv.gz"], id="gzip as csv"),
    pytest.param("a.csv", b"PK\x03\x04zip", "unsupported_format", ["Excel"], id="excel as csv"),
    pytest.param("a.csv", b"PAR1....PAR1", "unsupported_format", [".parquet"], id="parquet as csv"),
    pytest.param("a.xlsx", b"PK", "unsupported_format", ["*.csv", "a.xlsx"], id="excel"),
    pytest.param("a.parquet", CSV, "not_parquet", ["PAR1"], id="csv as parquet"),
    pytest.param(
        "a.parquet", b"PAR1" + b"x" * 50, "not_parquet", ["no footer", "cut off"], id="cut parquet"
    ),
    pytest.param(
        "a.parquet", b"PAR1" + b"x" * 50 + b"PAR1", "not_parquet", ["not readable"],
        id="broken parquet",
    ),
    pytest.param(
        "a.jsonl", json.dumps(ROWS).encode(), "json_array", ["one object per line"], id="array"
    ),
    pytest.param(
        "a.jsonl", json.dumps(ROWS[0], indent=1).encode(), "broken_json", ["pretty-printed"],
        id="pretty json",
    ),
    pytest.param("a.jsonl", CSV, "broken_json", ["line 1"], id="csv as jsonl"),
    pytest.param(
        "a.csv",
        renamed("age", "agee"),
        "missing_columns",
        ["'age'", "column 'agee' is unknown; did you mean 'age'?"],
        id="renamed column",
    ),
    pytest.param(
        "a.csv", renamed("age", "AGE"), "missing_columns", ["did you mean 'age'?"], id="case"
    ),
    pytest.param(
        "a.csv", renamed("churned", "churned,extra"), "unknown_columns",
        ["'extra'", "unknown_columns to drop"], id="unknown column",
    ),
    pytest.param(
        "a.csv", renamed("age", "id"), "duplicate_columns", ["'id'", "twice"], id="named twice"
    ),
    pytest.param(
        "a.csv",
        (",".join(f"x{i}" for i in range(10_000)) + "\n1\n").encode(),
        "too_many_columns",
        ["10,000", "2,000"],
        id="10,000 columns",
    ),
    pytest.param(
        "a.jsonl",
        json.dumps({f"x{i}": 1 for i in range(10_000)}).encode(),
        "too_many_columns",
        ["2,000"],
        id="10,000 keys",
    ),
    pytest.param(
        "a.csv",
        HEADER + b'1,"20' + b"\n2,30,1" * 50,
        "unclosed_quote",
        ["data row 1", "not closed"],
        id="unclosed quote",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "code", "words"), REFUSALS)
def test_file_wrong_as_a_whole_is_refused_with_its_reason(
    tmp_path: Path, name: str, body: bytes, code: str, words: list[str]
) -> None:
    report = checked(tmp_path, body, name)

    assert (report.outcome, report.code) == ("refused", code), report.reason
    assert [word for word in words if word not in report.reason] == []
    assert report.dataset_version == ""


def test_one_line_of_200_mb_is_refused_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"id,age\t\xc3\xa9" * (2**20 // 9 + 1))
    taken = []
    read = reading._read

    def counted(source: object, *, packed: bool) -> bytes:
        block = read(source, packed=packed)  # type: ignore[arg-type]
        taken.append(len(block))
        return block

    monkeypatch.setattr(reading, "_read", counted)

    report = check_file(path, CHURN)

    assert report.code == "line_too_long"
    assert "line 1" in report.reason
    assert f"{MAX_LINE_BYTES:,} bytes" in report.reason
    assert sum(taken) <= 4 * MAX_LINE_BYTES


def test_long_line_later_in_the_file_is_named(tmp_path: Path) -> None:
    report = checked(tmp_path, CSV + b"x" * (MAX_LINE_BYTES + 1) + b"\n" + b"1\n" * 10)

    assert report.code == "line_too_long"
    assert "line 102 " in report.reason


def test_gzip_that_unpacks_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(CSV + b"1,2\n" * 1_000_000))

    report = check_file(path, CHURN, limits=Limits(max_unpacked_mb=1))

    assert report.code == "too_large"
    assert "1 MB unpacked" in report.reason


def test_file_beyond_the_upload_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * (1024 * 1024 + 1))

    report = check_file(path, CHURN, limits=Limits(max_upload_mb=1))

    assert report.code == "too_large"
    assert "1,048,577 bytes" in report.reason


def test_parquet_with_nested_column_is_refused(tmp_path: Path) -> None:
    columns = ", ".join(f"1 AS {c.name}" for c in CHURN.data.columns if c.name != "age")
    path = write_parquet(tmp_path / "a.parquet", f"SELECT {columns}, [1, 2] AS age")

    report = check_file(path, CHURN)

    assert report.code == "nested_column"
    assert "'age'" in report.reason


def test_parquet_without_rows_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", "SELECT 1 AS id WHERE false")

    assert check_file(path, CHURN).code == "header_only"


def test_too_many_bad_rows_names_the_top_rules(tmp_path: Path) -> None:
    rows = churn_rows()
    for row in rows[:30]:
        row["age"] = "200"
    for row in rows[:8]:
        row["city"] = "Berlin"

    report = checked(tmp_path, churn_csv(rows))

    assert report.code == "too_many_quarantined"
    assert "30 of 100 rows are bad (30.0%)" in report.reason
    assert "allows 5.0%" in report.reason
    assert "age: above_max in 30 rows, first row 1; city: not_allowed in 8 rows" in report.reason
    assert report.rows.quarantined == 30


def test_every_row_bad_is_refused_without_crash(tmp_path: Path) -> None:
    report = checked(tmp_path, HEADER + b"1,2\n" * 500)

    assert report.code == "too_many_quarantined"
    assert report.rows.read == 500


def test_too_few_rows_names_the_minimum(tmp_path: Path) -> None:
    report = checked(tmp_path, churn_csv(churn_rows(12)))

    assert report.code == "too_few_rows"
    assert "12 good rows" in report.reason
    assert "at least 20" in report.reason


def test_target_with_one_class_after_cleaning_is_refused(tmp_path: Path) -> None:
    rows = [{**row, "churned": "yes"} for row in churn_rows()]
    rows[0]["churned"] = "maybe"

    report = checked(tmp_path, churn_csv(rows))

    assert report.code == "one_class"
    assert "'churned'" in report.reason
    assert "99 accepted rows" in report.reason


def test_binary_target_with_three_classes_is_refused(tmp_path: Path) -> None:
    spec = churn_spec(columns=with_column("churned", type="integer"))
    rows = [{**row, "churned": str(i % 3)} for i, row in enumerate(churn_rows())]

    report = checked(tmp_path, churn_csv(rows), spec=spec)

    assert report.code == "not_binary"
    assert "3 classes" in report.reason


def test_more_classes_than_sensible_are_refused(tmp_path: Path) -> None:
    spec = churn_spec("multiclass", columns=with_column("churned", type="integer"))
    rows = [{**row, "churned": str(i)} for i, row in enumerate(churn_rows(300))]

    report = checked(tmp_path, churn_csv(rows), spec=spec)

    assert report.code == "too_many_classes"
    assert "300 classes" in report.reason
    assert "at most 100" in report.reason


def test_constant_target_of_a_regression_is_refused(tmp_path: Path) -> None:
    spec = churn_spec("regression", columns=with_column("churned", type="number"))
    rows = [{**row, "churned": "1.5"} for row in churn_rows()]

    report = checked(tmp_path, churn_csv(rows), spec=spec)

    assert report.code == "constant_target"


def test_class_too_rare_for_train_and_test_is_refused(tmp_path: Path) -> None:
    spec = churn_spec("multiclass", columns=with_column("churned", type="string"))
    rows = churn_rows()
    rows[50]["churned"] = "perhaps"

    report = checked(tmp_path, churn_csv(rows), spec=spec)

    assert report.code == "class_absent"
    assert "'perhaps'" in report.reason
    assert "test split" in report.reason


def test_time_column_with_one_moment_leaves_splits_empty(tmp_path: Path) -> None:
    spec = churn_spec(columns=with_column("joined", role="time"), split={"strategy": "time"})
    rows = [{**row, "joined": "2024-01-01"} for row in churn_rows()]

    report = checked(tmp_path, churn_csv(rows), spec=spec)

    assert report.code == "empty_split"
    assert "strategy time" in report.reason
    assert "3 different values" in report.reason


def test_refusal_of_jsonl_shows_nothing_of_private_columns(tmp_path: Path) -> None:
    rows = [{**row, "salary": "very-secret"} for row in churn_rows()]

    report = checked(tmp_path, churn_jsonl(rows), "a.jsonl")

    assert report.code == "too_many_quarantined"
    assert "secret" not in report.model_dump_json()
