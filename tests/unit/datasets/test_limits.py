"""Wide, ragged and large uploads: bounded, and judged as small ones are."""

from pathlib import Path
from typing import Any

import duckdb
import pytest

from millrace.datasets import contract, reading, versions
from millrace.datasets.check import check_file
from millrace.datasets.engine import Limits, engine
from millrace.errors import FinalError
from millrace.spec import ModelSpec
from tests.unit.datasets.uploads import (
    CHURN,
    checked,
    churn_csv,
    churn_jsonl,
    churn_rows,
    write_parquet,
)

WIDTH = 150


def wide_spec() -> ModelSpec:
    columns: list[dict[str, Any]] = [{"name": "id", "type": "integer", "role": "id"}]
    columns += [{"name": f"f{i}", "type": "number", "max": 1000} for i in range(WIDTH)]
    columns += [{"name": "y", "type": "integer", "role": "target"}]
    return ModelSpec.from_document(
        {"name": "wide", "task": "binary", "data": {"columns": columns, "min_rows": 20}}
    )


def wide_rows() -> list[dict[str, str]]:
    return [
        {"id": str(i), **{f"f{k}": str((i * k) % 97) for k in range(WIDTH)}, "y": str(i % 2)}
        for i in range(100)
    ]


def test_wide_rows_are_judged_in_every_chunk(tmp_path: Path) -> None:
    rows = wide_rows()
    rows[4] |= {"f0": "x", "f70": "1001", f"f{WIDTH - 1}": "inf"}
    rows[9]["id"] = "8"

    report = checked(tmp_path, churn_csv(rows), spec=wide_spec())

    assert report.rows.quarantined == 2
    assert [(s.row, s.column, s.rule, s.came) for s in report.samples] == [
        (5, "f0", "type", "x"),
        (5, "f70", "above_max", "1001"),
        (5, f"f{WIDTH - 1}", "not_finite", "inf"),
        (10, "id", "duplicate_id", ""),
    ]


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_chunks_change_neither_version_nor_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    rows = churn_rows()
    rows[4] |= {"age": "x", "churned": ""}
    body = churn_csv(rows) if format_ == "csv" else churn_jsonl(rows) + b"broken\n"
    whole = checked(tmp_path, body, f"a.{format_}")
    for module in (contract, versions):
        monkeypatch.setattr(module, "WIDE", 3)
    monkeypatch.setattr(contract, "CHUNK", 2)

    chunked = checked(tmp_path, body, f"a.{format_}")

    assert chunked.outcome == "accepted", chunked.reason
    assert chunked.model_copy(update={"seconds": 0}) == whole.model_copy(update={"seconds": 0})


@pytest.mark.parametrize("line", [b"1,2\n", b'"1",2\n'], ids=["plain", "quoted"])
def test_ragged_lines_beyond_what_the_parser_can_list_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    monkeypatch.setattr(reading, "MAX_PARSER_ERRORS", 500)
    header = churn_csv(churn_rows()).split(b"\n", 1)[0]

    report = checked(tmp_path, header + b"\n" + line * 200)

    assert report.code == "too_many_quarantined"
    assert "200 of 200 rows cannot be read" in report.reason
    assert "8 fields" in report.reason


def test_quoted_delimiters_are_not_taken_for_ragged_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_PARSER_ERRORS", 0)
    body = churn_csv(churn_rows()).replace(b"Paris", b'"Par,is"')

    report = checked(tmp_path, body)

    assert "cannot be read" not in report.reason


def test_quote_left_open_late_in_a_large_file_is_found(tmp_path: Path) -> None:
    lines = churn_csv(churn_rows(30_000)).splitlines()
    lines[25_000] = lines[25_000].replace(b",Paris,", b',"Paris,').replace(b",Rome,", b',"Rome,')

    report = checked(tmp_path, b"\n".join(lines))

    assert report.code == "unclosed_quote"
    assert "data row 25000 " in report.reason


def test_rows_keep_their_numbers_across_blocks(tmp_path: Path) -> None:
    lines = churn_csv(churn_rows(40_000)).splitlines()
    lines[10_000] = b"ragged"
    lines[39_000] = lines[39_000].replace(b",", b",x", 1)

    report = checked(tmp_path, b"\n".join(lines))

    assert [(s.row, s.rule) for s in report.samples] == [
        (10_000, "too_few_fields"),
        (39_000, "type"),
    ]


def test_too_little_memory_is_a_refusal_not_a_crash(tmp_path: Path) -> None:
    def exhausted(*_: object) -> None:
        raise duckdb.OutOfMemoryException("could not allocate block")

    path = tmp_path / "a.csv"
    path.write_bytes(churn_csv(churn_rows()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "check_cells", exhausted)

        report = check_file(path, CHURN, limits=Limits(memory_mb=256))

    assert report.code == "too_large"
    assert "256 MB of memory" in report.reason


def test_damaged_parquet_is_refused_or_read_but_never_a_crash(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_bytes(churn_csv(churn_rows()))
    path = write_parquet(
        tmp_path / "a.parquet", "SELECT * FROM read_csv($path)", {"path": str(source)}
    )
    whole = path.read_bytes()

    codes = set()
    for place in range(4, len(whole) - 4, 211):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        codes.add(check_file(path, CHURN).code)

    assert "not_parquet" in codes
    assert "unsupported_format" not in codes


def test_a_fault_of_ours_names_no_data(tmp_path: Path) -> None:
    def failing(*_: object) -> None:
        raise duckdb.BinderException('Binder Error: no column for "secret" Input: secret')

    path = tmp_path / "a.csv"
    path.write_bytes(churn_csv(churn_rows()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "check_cells", failing)

        with pytest.raises(
            FinalError, match="BinderException: Binder Error: no column for"
        ) as info:
            check_file(path, CHURN)

    assert "secret" not in str(info.value)


def test_engine_reads_nothing_outside_its_workspace(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")

    with engine(workspace, Limits()) as connection:
        with pytest.raises(duckdb.PermissionException):
            connection.execute("SELECT * FROM read_csv($path)", {"path": str(secret)})
        with pytest.raises(duckdb.PermissionException):
            connection.execute("INSTALL httpfs")
        with pytest.raises(duckdb.InvalidInputException, match="locked"):
            connection.execute("SET enable_external_access = true")
