"""Rows for a prediction as people have them: files of several formats, read as ingest reads them."""

from pathlib import Path
from typing import Any, cast

import pytest

from millrace.errors import InvalidRequestError
from millrace_cli.client import ApiClient
from millrace_cli.predictions import csv_rows, read_rows, typed

SIGNATURE: dict[str, Any] = {
    "features": [
        {"name": "age", "type": "integer"},
        {"name": "spend", "type": "number"},
        {"name": "plan", "type": "string"},
        {"name": "news", "type": "boolean"},
    ],
    "null_values": ["", "N/A"],
}
FILE = Path("rows.csv")
NO_API = cast("ApiClient", None)


def test_cells_take_the_types_of_the_signature() -> None:
    text = "id,age,spend,plan,news\n1,41.0,3.5, basic ,yes\n2,,N/A,N/A,FALSE\n"

    rows = csv_rows(FILE, text, SIGNATURE, ",")

    assert rows == [
        {"age": 41, "spend": 3.5, "plan": "basic", "news": True},
        {"age": None, "spend": None, "plan": None, "news": False},
    ]


def test_a_header_without_the_features_is_told_once() -> None:
    with pytest.raises(InvalidRequestError, match="lacks spend, plan, news; it has 2 columns"):
        csv_rows(FILE, "id,age\n1,2\n3,4\n", SIGNATURE, ",")


def test_the_delimiter_of_the_spec_counts() -> None:
    rows = csv_rows(FILE, "age;spend;plan;news\n1;2;pro;1\n", SIGNATURE, ";")

    assert rows == [{"age": 1, "spend": 2.0, "plan": "pro", "news": True}]


@pytest.mark.parametrize(
    ("cell", "kind"),
    [("old", "integer"), ("4.5", "integer"), ("1.5x", "number"), ("maybe", "boolean")],
)
def test_a_cell_that_does_not_fit_is_left_for_the_api_to_name(cell: str, kind: str) -> None:
    assert typed(cell, kind, frozenset()) == cell


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b"[{", "expected a JSON list of objects"),
        ("rows.json", b"[1, 2]", "expected a JSON list of objects"),
        ("rows.jsonl", b'{"a": 1}\n\n[1]\n', "line 3: expected a JSON object, got list"),
        ("rows.csv", b"\xff\xfe", "expected UTF-8"),
        ("rows.xlsx", b"PK", r"expected .json, .jsonl or .csv, got '.xlsx'"),
    ],
)
def test_an_unusable_file_says_what_was_expected(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(InvalidRequestError, match=message):
        read_rows(file, NO_API, "churn")


def test_json_rows_come_as_a_list_or_as_a_whole_request(tmp_path: Path) -> None:
    plain, request = tmp_path / "plain.json", tmp_path / "request.json"
    plain.write_text('[{"age": 1}]')
    request.write_text('{"rows": [{"age": 1}]}')

    assert read_rows(plain, NO_API, "m") == read_rows(request, NO_API, "m") == [{"age": 1}]
