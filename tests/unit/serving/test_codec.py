"""Requests become arrays in bulk, and every wrong value is named by row and field."""

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from millrace.errors import (
    InvalidRequestError,
    MalformedRequestError,
    RequestTooLargeError,
)
from millrace.serving.codec import Limits, SignatureCodec
from millrace.serving.diagnosis import MAX_PROBLEMS
from millrace.signature import Signature
from millrace.spec import WHITESPACE
from tests.fakes.onnx_models import churn_signature

ROW: dict[str, Any] = {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"}
CODEC = SignatureCodec(churn_signature())


def body_of(*rows: Any) -> bytes:
    return orjson.dumps({"rows": list(rows)})


def columns_of(*rows: dict[str, Any]) -> bytes:
    return orjson.dumps({"columns": {name: [row[name] for row in rows] for name in rows[0]}})


def refusal(body: bytes, codec: SignatureCodec = CODEC) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        codec.decode(body)
    return caught.value


# ── What is accepted ────────────────────────────────────────────────────────────────────────────


def test_rows_become_arrays_in_signature_order() -> None:
    batch = CODEC.decode(body_of(ROW, {**ROW, "tenure": None, "plan": None, "active": False}))

    assert batch.rows == 2
    assert batch.numeric.dtype == np.float32
    np.testing.assert_array_equal(
        batch.numeric, np.array([[41, 3.5, 1], [41, np.nan, 0]], dtype=np.float32)
    )
    assert batch.categorical.tolist() == [["basic", "Graz"], ["", "Graz"]]
    assert batch.warnings == ()


def test_the_order_of_keys_does_not_matter() -> None:
    batch = CODEC.decode(body_of(dict(reversed(ROW.items()))))

    assert batch.numeric.tolist() == [[41, 3.5, 1]]
    assert batch.categorical.tolist() == [["basic", "Graz"]]


def test_an_integral_float_is_an_integer() -> None:
    assert CODEC.decode(body_of({**ROW, "age": 41.0})).numeric[0, 0] == 41


def test_texts_are_cleaned_as_ingest_cleans_them() -> None:
    batch = CODEC.decode(body_of({**ROW, "plan": "  premium\t"}, {**ROW, "plan": " NA "}))

    assert batch.categorical[:, 0].tolist() == ["premium", ""]


def test_values_outside_the_training_contract_are_answered_with_a_warning() -> None:
    batch = CODEC.decode(body_of(ROW, {**ROW, "age": 150, "plan": "gold"}, {**ROW, "age": 7}))

    assert batch.rows == 3
    assert [(w.field, w.count, w.first_row) for w in batch.warnings] == [
        ("age", 2, 1),
        ("plan", 1, 1),
    ]
    assert "min 18 and max 120" in batch.warnings[0].message
    assert "gold" not in batch.warnings[1].message


def test_the_largest_exact_integer_is_accepted() -> None:
    assert CODEC.decode(body_of({**ROW, "age": 2**53})).numeric[0, 0] == np.float32(2**53)


def test_a_colon_in_a_text_is_no_duplicate_key() -> None:
    batch = CODEC.decode(body_of({**ROW, "city": 'a:b": '}, {**ROW, "city": ':"x":'}))

    assert batch.categorical[:, 1].tolist() == ['a:b":', ':"x":']


_numbers = (
    st.none()
    | st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
)
_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
_rows = st.fixed_dictionaries(
    {
        "age": st.integers(-(2**53), 2**53) | st.integers(-1000, 1000).map(float),
        "plan": st.none() | _texts | st.sampled_from(["basic", "premium", "NA"]),
        "tenure": _numbers,
        "active": st.booleans(),
        "city": _texts.filter(lambda t: t.strip(WHITESPACE) not in ("", "NA")),
    }
)


@given(st.lists(_rows, min_size=1, max_size=8))
def test_rows_and_columns_give_equal_arrays(rows: list[dict[str, Any]]) -> None:
    by_row, by_column = CODEC.decode(body_of(*rows)), CODEC.decode(columns_of(*rows))

    np.testing.assert_array_equal(by_row.numeric, by_column.numeric)
    assert by_row.categorical.tolist() == by_column.categorical.tolist()
    assert by_row.warnings == by_column.warnings


@given(st.lists(_rows, min_size=1, max_size=8))
def test_arrays_hold_what_each_row_says(rows: list[dict[str, Any]]) -> None:
    batch = CODEC.decode(body_of(*rows))

    for index, row in enumerate(rows):
        tenure = np.nan if row["tenure"] is None else row["tenure"]
        expected = np.array([row["age"], tenure, row["active"]], dtype=np.float64)
        np.testing.assert_array_equal(batch.numeric[index], expected.astype(np.float32))
        plan = (row["plan"] or "").strip(WHITESPACE)
        assert batch.categorical[index, 0] == ("" if plan == "NA" else plan)


# ── What is refused ─────────────────────────────────────────────────────────────────────────────

BAD: list[tuple[str, Any, str]] = [
    ("age", "41", "expected an integer, got a string"),
    ("age", True, "expected an integer, got a boolean"),
    ("age", 41.5, "expected an integer, got a number with a fraction"),
    ("age", None, "expected an integer, got null"),
    ("age", 2**53 + 1, "expected an integer between -2^53 and 2^53"),
    ("age", -(2**60), "expected an integer between -2^53 and 2^53"),
    ("age", 2**70, "expected an integer between -2^53 and 2^53"),
    ("age", [41], "expected an integer, got an array"),
    ("tenure", "3.5", "expected a number, got a string"),
    ("tenure", False, "expected a number, got a boolean"),
    ("tenure", {"a": 1}, "expected a number, got an object"),
    ("tenure", 1e39, "expected a number up to 3.403e+38"),
    ("tenure", float("nan"), "got NaN or infinity"),
    ("tenure", float("inf"), "got NaN or infinity"),
    ("tenure", float("-inf"), "got NaN or infinity"),
    ("active", 1, "expected true or false, got an integer"),
    ("active", "true", "expected true or false, got a string"),
    ("active", None, "expected true or false, got null"),
    ("plan", 3, "expected a string, got an integer"),
    ("plan", True, "expected a string, got a boolean"),
    ("plan", ["basic"], "expected a string, got an array"),
    ("plan", "a\0b", "NUL"),
    ("city", None, "expected a string, got null"),
    ("city", "", "no value"),
    ("city", "  ", "no value"),
    ("city", "NA", "no value"),
]


def lenient_json(document: Any) -> bytes:
    """JSON as Python writes it, NaN and big integers included."""
    import json

    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("field", "value", "message"), BAD, ids=[f"{f}-{str(v)[:12]!r}" for f, v, _ in BAD]
)
@pytest.mark.parametrize("form", ["rows", "columns"])
def test_a_wrong_value_is_named_by_row_and_field(
    field: str, value: Any, message: str, form: str
) -> None:
    rows = [ROW, ROW, {**ROW, field: value}, ROW]
    document: Any = rows if form == "rows" else {n: [r[n] for r in rows] for n in ROW}

    error = refusal(lenient_json({form: document}))

    assert [(p.field, p.row) for p in error.problems] == [(field, 2)]
    assert message in error.problems[0].message
    assert f"row 2, {field}" in str(error)


_bad_values = st.one_of(
    st.tuples(st.sampled_from([f.name for f in CODEC.signature.features]), st.just(...)),
    st.sampled_from([(f, v) for f, v, _ in BAD]),
)


@given(st.lists(_rows, min_size=1, max_size=6), st.data())
def test_every_bad_value_is_refused_with_its_row_and_field(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    planted: dict[tuple[int, str], Any] = {}
    for _ in range(data.draw(st.integers(1, 4))):
        field, value = data.draw(_bad_values)
        planted[data.draw(st.integers(0, len(rows) - 1)), field] = value
    rows = [dict(row) for row in rows]
    for (index, field), value in planted.items():
        if value is ...:
            del rows[index][field]
        else:
            rows[index][field] = value

    error = refusal(lenient_json({"rows": rows}))

    assert {(p.row, p.field) for p in error.problems} == set(planted)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["rows", "columns", "age", "x"]), inner)
        ),
        max_leaves=12,
    )
)
def test_any_other_document_is_refused_cleanly(document: Any) -> None:
    assume(document != {"rows": [ROW]})

    with pytest.raises(InvalidRequestError):
        CODEC.encode(document)


@given(
    st.binary(max_size=40)
    | st.builds(
        lambda at, piece: body_of(ROW, ROW)[:at] + piece + body_of(ROW, ROW)[at + len(piece) :],
        st.integers(0, len(body_of(ROW, ROW))),
        st.binary(min_size=1, max_size=3) | st.sampled_from([b"null", b'"a":1,', b"NaN", b"1e999"]),
    )
)
def test_any_bytes_are_answered_or_refused_cleanly(body: bytes) -> None:
    try:
        batch = CODEC.decode(body)
    except InvalidRequestError:
        return
    assert batch.numeric.shape == (batch.rows, 3)
    assert not np.isinf(batch.numeric).any()


def test_a_missing_feature_is_named() -> None:
    row = {k: v for k, v in ROW.items() if k != "age"}

    error = refusal(body_of(ROW, row))

    assert [(p.row, p.field, p.message) for p in error.problems] == [(1, "age", "is missing")]


def test_a_missing_nullable_feature_is_refused_with_advice() -> None:
    row = {k: v for k, v in ROW.items() if k != "tenure"}

    assert "send null" in refusal(body_of(row)).problems[0].message


def test_an_unknown_feature_is_named_with_the_likely_one() -> None:
    error = refusal(body_of({**ROW, "tenur": 1}))

    assert [(p.row, p.field) for p in error.problems] == [(0, "tenur")]
    assert "did you mean 'tenure'?" in error.problems[0].message


def test_unknown_missing_and_ragged_columns_are_named() -> None:
    columns = {n: [v] for n, v in ROW.items() if n != "city"}

    error = refusal(orjson.dumps({"columns": {**columns, "plan": ["a", "b"], "cty": ["x", "y"]}}))

    messages = {p.field: p.message for p in error.problems}
    assert "is missing" in messages["city"]
    assert "did you mean 'city'?" in messages["cty"]
    assert messages["age"] == "has 1 values where the longest column has 2"


def test_a_column_that_is_no_array_is_named() -> None:
    error = refusal(orjson.dumps({"columns": {**{n: [v] for n, v in ROW.items()}, "age": 41}}))

    assert [(p.field, p.message) for p in error.problems] == [
        ("age", "expected an array of values, got an integer")
    ]


def test_a_row_that_is_no_object_is_named() -> None:
    error = refusal(body_of(ROW, [1, 2], None))

    assert [(p.row, p.message) for p in error.problems] == [
        (1, "expected an object, got an array"),
        (2, "expected an object, got null"),
    ]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"rows": [ROW], "columns": {}},
        {"instances": [ROW]},
        [],
        "rows",
        None,
        {"rows": {}},
        {"columns": []},
        {"rows": "x"},
    ],
    ids=str,
)
def test_a_body_of_another_shape_is_refused(document: Any) -> None:
    assert "expected" in str(refusal(orjson.dumps(document)))


@pytest.mark.parametrize(
    "document", [{"rows": []}, {"columns": {n: [] for n in ROW}}], ids=["rows", "columns"]
)
def test_an_empty_batch_is_refused(document: Any) -> None:
    assert "at least one row" in str(refusal(orjson.dumps(document)))


@pytest.mark.parametrize("name", ["age", "\\u0061ge"], ids=["plain", "escaped"])
def test_a_key_given_twice_is_refused(name: str) -> None:
    body = body_of({**ROW, "city": 'says ":" often'}).replace(
        b'{"age":', b'{"' + name.encode() + b'":1,"age":'
    )

    assert [(p.field, p.message) for p in refusal(body).problems] == [
        ("age", "is given twice in one object")
    ]


def test_a_column_given_twice_is_refused() -> None:
    body = columns_of(ROW).replace(b'"age":', b'"age":[1],"age":')

    assert refusal(body).problems[0].field == "age"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"rows": [}', b"\xff\xfe", b'{"rows": [{"age": 01}]}', b"[" * 5_000, b"nan"],
    ids=["empty", "open", "broken", "not utf-8", "leading zero", "deep", "word"],
)
def test_invalid_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequestError, match="not JSON"):
        CODEC.decode(body)


def test_too_many_rows_are_refused_with_advice() -> None:
    codec = SignatureCodec(churn_signature(), Limits(rows=3))

    with pytest.raises(RequestTooLargeError, match=r"at most 3 rows, got 4.*several requests"):
        codec.decode(body_of(*[ROW] * 4))


def test_too_many_bytes_are_refused_with_advice() -> None:
    codec = SignatureCodec(churn_signature(), Limits(body_bytes=50))

    with pytest.raises(RequestTooLargeError, match="at most 50 bytes, got"):
        codec.decode(body_of(ROW))


def test_many_problems_are_capped_and_counted() -> None:
    error = refusal(body_of(*[{**ROW, "age": "x"}] * 100))

    assert len(error.problems) == MAX_PROBLEMS
    assert "(and 99 more)" in str(error)


@pytest.mark.parametrize("field", list(ROW))
def test_messages_never_show_a_value(field: str) -> None:
    canary = "canary-7731"

    error = refusal(body_of({**ROW, field: [canary]}, {**ROW, field: {canary: canary}}))

    assert canary not in str(error)
    assert all(canary not in p.message for p in error.problems)


def test_a_model_of_one_numeric_feature_needs_no_texts() -> None:
    signature = replace(churn_signature(), features=churn_signature().features[2:3])

    batch = SignatureCodec(signature).decode(b'{"rows": [{"tenure": 1}, {"tenure": null}]}')

    assert batch.numeric.shape == (2, 1)
    assert batch.categorical.shape == (2, 0)


def test_a_model_of_one_text_feature_needs_no_numbers() -> None:
    signature = replace(churn_signature(), features=churn_signature().features[1:2])

    batch = SignatureCodec(signature).decode(b'{"columns": {"plan": ["basic", null]}}')

    assert batch.numeric.shape == (2, 0)
    assert batch.categorical.tolist() == [["basic"], [""]]


def test_signatures_written_before_null_values_still_load() -> None:
    old = churn_signature().document()
    del old["null_values"]

    assert Signature.from_json(orjson.dumps(old)).null_values == ()
