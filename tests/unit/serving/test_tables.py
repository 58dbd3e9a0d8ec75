"""CSV, Arrow and typed columns are held to the rules of JSON, and give the same arrays."""

import base64
import csv
import io
import random
import zlib
from dataclasses import replace
from typing import Any, Literal

import nanoarrow as na
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nanoarrow.c_array import c_array_from_buffers
from nanoarrow.ipc import StreamWriter

from millrace.errors import InvalidRequestError, MalformedRequestError, RequestTooLargeError
from millrace.serving.arrow import read_arrow
from millrace.serving.codec import Limits, SignatureCodec
from millrace.serving.columns import Coded
from millrace.serving.delimited import read_csv
from millrace.serving.features import Batch
from millrace.signature import FeatureField
from millrace.spec import WHITESPACE, ColumnType
from tests.fakes.onnx_models import churn_signature

ROW: dict[str, Any] = {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"}
CODEC = SignatureCodec(churn_signature())
HEADER = "age,plan,tenure,active,city"

# Two record batches written by pyarrow 22: age int16, plan dictionary-encoded, tenure float32, active
# bool, city large_string; nulls in the first three.
PYARROW = zlib.decompress(
    base64.b85decode(
        "c-oCpJ5Iwu5S{fe7FfuIg<KG63yRQDrl3d%MS4<D#6%WYB32X}B+_sh3JyWR0l1Ty*<B~=5vydQ$?VK~ex8r"
        "pwr%GEAO$)nkU#_>#CXFa0tnDuB8Pm479jT%{R7%H#b^?7Bxj_Nn;aOwsG4`WPmyz{c@gJDXvLzb-b#Q5IV;"
        "Wci6<GaDeKL;)KQEUDMVoXxrztaK?<4aM}!&v-!L8WtCymtdyGHI#3ui(-VH+Yb^oN-X;WmhJ@OZpu1|eDmB"
        ">xd21=8N#6#Kk3w>s|3EuRi6Qv4XpfG80y#ZZUx0@W9fkCDw@4^1~;691*DU0>=`a0bSE#71CS}j)Va#?MbV"
        "EUN}yPxxZKYpNg{Jc}^*Z=!Z{im!ZJ%|17?fN@BXZ?&=4<m+;89ruu6NXRNduGO;u{n86#}&hoacKM%+R%#m"
        "d;sQH;?D<v4y<q8p5yJh*xpxVEvHqzmB;UKa$t|bu}5(98MA!M>UHh8!zFuOGQR6ONZH;aHgn;eb3Yab@a_y"
        "9c^AK{$KDUce+chVZ2"
    )
)


def of_csv(text: str | bytes, codec: SignatureCodec = CODEC) -> Batch:
    body = text.encode() if isinstance(text, str) else text
    return codec.decode_columns(read_csv(body, codec))


def of_json(*rows: dict[str, Any]) -> Batch:
    return CODEC.decode(orjson.dumps({"rows": list(rows)}))


def assert_equal(one: Batch, other: Batch) -> None:
    np.testing.assert_array_equal(one.numeric, other.numeric)
    assert one.categorical.tolist() == other.categorical.tolist()
    assert one.warnings == other.warnings


def columns_of(**changes: Any) -> dict[str, Any]:
    """Two typed rows."""
    return {
        "age": np.array([41, 29], dtype=np.int32),
        "plan": np.array(["basic", None], dtype=object),
        "tenure": np.array([3.5, np.nan]),
        "active": np.array([True, False]),
        "city": np.array(["Graz", "Wien"], dtype=object),
    } | changes


def longer(columns: dict[str, Any], times: int) -> dict[str, Any]:
    """The same rows so many times."""

    def repeated(column: Any) -> Any:
        if isinstance(column, Coded):
            return Coded(np.tile(column.codes, times), column.values)
        if isinstance(column, np.ndarray):
            return column[np.tile(np.arange(len(column)), times)]
        return [*column] * times

    return {name: repeated(column) for name, column in columns.items()}


# ── CSV ─────────────────────────────────────────────────────────────────────────────────────────


def test_csv_is_read_by_the_types_of_the_features() -> None:
    batch = of_csv(f'{HEADER}\r\n41,basic,3.5,true,Graz\r\n 29 ,NA,,NO,"Bad, ""Ischl"""\r\n')

    assert_equal(
        batch,
        of_json(
            ROW,
            {"age": 29, "plan": None, "tenure": None, "active": False, "city": 'Bad, "Ischl"'},
        ),
    )


def test_csv_may_begin_with_a_mark_and_skip_lines() -> None:
    batch = of_csv(b"\xef\xbb\xbf" + f"{HEADER}\n\n41,basic,3.5,1,Graz\n\n".encode())

    assert_equal(batch, of_json(ROW))


_cells = st.fixed_dictionaries(
    {
        "age": st.integers(-(2**53), 2**53),
        "plan": st.none() | st.sampled_from(["basic", "premium", "gold", " x "]),
        "tenure": st.none()
        | st.floats(width=32, allow_nan=False, allow_infinity=False)
        | st.integers(-1000, 1000),
        "active": st.booleans(),
        "city": st.text(
            st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
            min_size=1,
            max_size=8,
        ).filter(lambda t: t.strip(WHITESPACE) not in ("", "NA")),
    }
)


@given(st.lists(_cells, min_size=1, max_size=6))
def test_csv_gives_the_arrays_of_json(rows: list[dict[str, Any]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(["" if row[name] is None else row[name] for name in rows[0]])

    assert_equal(of_csv(out.getvalue()), of_json(*rows))


@pytest.mark.parametrize(
    ("line", "field", "words"),
    [
        ("x,basic,1,true,Graz", "age", "got a string"),
        ("1.5,basic,1,true,Graz", "age", "fraction"),
        ("9007199254740993,basic,1,true,Graz", "age", "2^53"),
        ("1" * 5000 + ",basic,1,true,Graz", "age", "2^53"),
        (",basic,1,true,Graz", "age", "expected an integer"),
        ("4e1,basic,1,true,Graz", "age", "expected an integer"),
        ("41,basic,1_000,true,Graz", "tenure", "got a string"),
        ("41,basic,nan,true,Graz", "tenure", "got a string"),
        ("41,basic,inf,true,Graz", "tenure", "got a string"),
        ("41,basic,1e999,true,Graz", "tenure", "infin"),
        ("41,basic,1e39,true,Graz", "tenure", "32-bit"),
        ("41,basic,٣,true,Graz", "tenure", "got a string"),
        ("41,basic,1,maybe,Graz", "active", "got a string"),
        ("41,basic,1,,Graz", "active", "got null"),
        ("41,basic,1,true, NA ", "city", "no value"),
    ],
)
def test_a_cell_that_is_no_value_of_its_feature_is_named(line: str, field: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        of_csv(f"{HEADER}\n41,basic,1,true,Graz\n{line}\n")

    [told] = caught.value.problems
    assert (told.field, told.row) == (field, 1)
    assert words in told.message


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("age,plan\n1,basic\n", ["tenure", "active", "city"]),
        (f"{HEADER},agee\n41,basic,1,true,Graz,1\n", ["agee"]),
        (f"{HEADER},age\n41,basic,1,true,Graz,1\n", ["age"]),
        (f"{HEADER}\n41,basic,1,true\n", ["row"]),
        (f"{HEADER}\n", ["columns"]),
    ],
    ids=["missing", "unknown", "twice", "ragged", "no rows"],
)
def test_a_table_of_another_shape_is_refused_by_name(body: str, fields: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        of_csv(body)

    assert [p.field for p in caught.value.problems] == fields


@pytest.mark.parametrize(
    "body",
    [b"", b"age\xff,plan\n", f'{HEADER}\n41,"basic'.encode(), f'{HEADER}\n4"1,"b"x'.encode()],
)
def test_what_is_no_csv_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        of_csv(body)


def test_a_single_column_may_be_empty_in_a_row() -> None:
    signature = replace(
        churn_signature(),
        features=(FeatureField(name="tenure", type=ColumnType.NUMBER, nullable=True),),
    )

    batch = of_csv("tenure\n1\n\n2.5\n", SignatureCodec(signature))

    np.testing.assert_array_equal(batch.numeric, np.array([[1], [np.nan], [2.5]], np.float32))


# ── Arrow ───────────────────────────────────────────────────────────────────────────────────────


def stream_of(columns: dict[str, tuple[Any, Any]]) -> bytes:
    """An IPC stream of one batch; a column is its type and its values."""
    types = {name: kind for name, (kind, _) in columns.items()}
    children = [na.c_array(values, kind) for kind, values in columns.values()]
    rows = len(next(iter(columns.values()))[1])
    table = c_array_from_buffers(na.struct(types), rows, [None], null_count=0, children=children)
    out = io.BytesIO()
    with StreamWriter.from_writable(out) as writer:
        writer.write_array(table)
    return out.getvalue()


def arrow(**changes: Any) -> bytes:
    return stream_of(
        {
            "age": (na.int64(), [41, 29]),
            "plan": (na.string(), ["basic", None]),
            "tenure": (na.float64(), [3.5, None]),
            "active": (na.bool_(), [True, False]),
            "city": (na.string(), ["Graz", "Wörgl"]),
        }
        | changes
    )


def test_arrow_is_read_as_it_lies_in_memory() -> None:
    batch = CODEC.decode_columns(read_arrow(arrow(), CODEC))

    assert_equal(
        batch,
        of_json(ROW, {"age": 29, "plan": None, "tenure": None, "active": False, "city": "Wörgl"}),
    )


def test_dictionaries_and_several_record_batches_are_read() -> None:
    columns = read_arrow(PYARROW, CODEC)
    columns["age"] = [41, 30, 29]

    assert_equal(
        CODEC.decode_columns(columns),
        of_json(
            ROW,
            {"age": 30, "plan": None, "tenure": None, "active": False, "city": "Wien"},
            {"age": 29, "plan": "premium", "tenure": None, "active": True, "city": "Linz"},
        ),
    )


def test_a_null_where_the_contract_has_none_is_named() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        CODEC.decode_columns(read_arrow(PYARROW, CODEC))

    assert [(p.field, p.row) for p in caught.value.problems] == [("age", 1)]


@pytest.mark.parametrize(
    ("column", "kind", "values", "words"),
    [
        ("age", na.string(), ["41", "29"], "a string"),
        ("age", na.bool_(), [True, False], "booleans"),
        ("tenure", na.date32(), [1, 2], "timestamps"),
        ("active", na.int8(), [1, 0], "integers"),
        ("plan", na.int64(), [1, 2], "integers"),
        ("city", na.binary(), [b"a", b"b"], "records"),
    ],
)
def test_a_column_of_another_type_is_named(
    column: str, kind: Any, values: list[Any], words: str
) -> None:
    body = arrow(**{column: (kind, values)})

    with pytest.raises(InvalidRequestError) as caught:
        CODEC.decode_columns(read_arrow(body, CODEC))

    told = caught.value.problems[0]
    assert told.field == column
    assert words in told.message


def test_damaged_arrow_never_does_more_than_be_refused() -> None:
    dice = random.Random(7)
    for body in (PYARROW, arrow()):
        for _ in range(300):
            damaged = bytearray(body)
            for _ in range(dice.randint(1, 3)):
                damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
            cut = bytes(
                damaged[: dice.randint(1, len(damaged))] if dice.random() < 0.3 else damaged
            )
            try:
                batch = CODEC.decode_columns(read_arrow(cut, CODEC))
            except InvalidRequestError:
                continue
            assert batch.numeric.shape == (batch.rows, 3)


@pytest.mark.parametrize("body", [b"", b"\xff\xff\xff\xff", b"ARROW1\0\0", b"{}"])
def test_what_is_no_arrow_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        read_arrow(body, CODEC)


# ── Typed columns ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"age": np.array([41, 29], dtype=np.uint8)},
        {"age": np.array([41.0, 29.0], dtype=np.float16)},
        {"age": [41, 29]},
        {"plan": Coded(np.array([1, -1]), ["premium", "basic"])},
        {"plan": np.ma.MaskedArray(np.array(["basic", "x"], dtype=object), [False, True])},
        {"tenure": np.ma.MaskedArray(np.array([3.5, 0]), [False, True])},
        {"tenure": [3.5, None]},
        {"active": np.array([True, False], dtype=object)},
        {"city": np.array(["Graz", "Wien"])},
    ],
    ids=[
        "plain",
        "uint8",
        "float16",
        "list",
        "codes",
        "masked",
        "masked number",
        "None",
        "objects",
        "U",
    ],
)
@pytest.mark.parametrize("times", [1, 20], ids=["few rows", "many rows"])
def test_a_column_may_come_in_any_type_that_fits(changes: dict[str, Any], times: int) -> None:
    batch = CODEC.decode_columns(longer(columns_of(**changes), times))

    rows = [ROW, {"age": 29, "plan": None, "tenure": None, "active": False, "city": "Wien"}]
    assert_equal(batch, of_json(*rows * times))


@pytest.mark.parametrize(
    ("column", "values", "row", "words"),
    [
        ("age", np.array([41, 2**53 + 1]), 1, "2^53"),
        ("age", np.array([2**63, 1], dtype=np.uint64), 0, "2^53"),
        ("age", np.array([41, 1.5]), 1, "fraction"),
        ("age", np.array([41, np.nan]), 1, "got none"),
        ("age", np.array([True, False]), None, "booleans"),
        ("tenure", np.array([np.inf, 1]), 0, "infinite"),
        ("tenure", np.array([1e39, 1]), 0, "32-bit"),
        ("active", np.array([1, 0]), None, "integers"),
        ("active", np.ma.MaskedArray([True, True], [False, True]), 1, "got none"),
        ("city", np.array(["Graz", None], dtype=object), 1, "null"),
        ("city", np.array(["Graz", "a\0b"], dtype=object), 1, "NUL"),
        ("city", Coded(np.array([0, 1]), ["Graz", " NA "]), 1, "no value"),
        ("city", Coded(np.array([0, 5]), ["Graz"]), 1, "dictionary"),
    ],
)
@pytest.mark.parametrize("times", [1, 20], ids=["few rows", "many rows"])
def test_a_typed_value_that_does_not_fit_is_named(
    column: str, values: Any, row: int | None, words: str, times: int
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        CODEC.decode_columns(longer(columns_of(**{column: values}), times))

    told, *more = caught.value.problems
    assert (told.field, told.row) == (column, row)
    assert {p.field for p in more} <= {column}
    assert words in told.message


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="has 3 values|has 2 values"):
        CODEC.decode_columns(columns_of(age=np.arange(3)))


def test_more_rows_than_a_request_may_carry_are_refused() -> None:
    codec = SignatureCodec(churn_signature(), Limits(rows=1))

    with pytest.raises(RequestTooLargeError, match="at most 1 rows, got 2"):
        codec.decode_columns(columns_of())


def test_a_text_of_a_dictionary_that_no_row_has_harms_nothing() -> None:
    batch = CODEC.decode_columns(columns_of(city=Coded(np.array([0, 0]), ["Graz", "a\0b"])))

    assert batch.categorical[:, 1].tolist() == ["Graz", "Graz"]


# ── Unknown categories ──────────────────────────────────────────────────────────────────────────


def knowing(unknown: Literal["serve", "refuse"]) -> SignatureCodec:
    """A codec of a model that was trained on two cities."""
    signature = churn_signature()
    features = tuple(
        replace(f, categories=("Graz", "Wien")) if f.name == "city" else f
        for f in signature.features
    )
    return SignatureCodec(replace(signature, features=features, unknown_categories=unknown))


def many(*cities: str) -> bytes:
    return orjson.dumps({"rows": [{**ROW, "city": city} for city in cities]})


@pytest.mark.parametrize("repeat", [1, 20], ids=["few rows", "many rows"])
def test_unknown_categories_are_counted_and_answered_with_a_warning(repeat: int) -> None:
    batch = knowing("serve").decode(many(*["Graz", "Linz", " Wien ", "Bern"] * repeat))

    assert batch.unknown_categories == 2 * repeat
    [warning] = batch.warnings
    assert (warning.field, warning.count, warning.first_row) == ("city", 2 * repeat, 1)
    assert batch.categorical[:4, 1].tolist() == ["Graz", "Linz", "Wien", "Bern"]


def test_unknown_categories_are_refused_by_row_where_the_spec_says_so() -> None:
    codec = knowing("refuse")

    assert codec.decode(many("Graz", "Wien")).unknown_categories == 0
    with pytest.raises(InvalidRequestError) as caught:
        codec.decode(many("Graz", "Linz"))
    assert [(p.field, p.row) for p in caught.value.problems] == [("city", 1)]
    assert "Linz" not in str(caught.value)
