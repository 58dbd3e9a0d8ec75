"""Bodies are read quickly when all is well, and the same way as when they are not."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import MillraceError
from millrace.serving.codec import OPTIONS, Asked, SignatureCodec
from millrace.serving.packed import PlainNumbers
from millrace.serving.rows import PlainReader, RowReader
from millrace.serving.texts import Texts
from millrace.signature import Signature
from tests.fakes.onnx_models import churn_signature

ROW: dict[str, Any] = {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"}
FEATURES = churn_signature().features
READER = RowReader(FEATURES, OPTIONS)
COLUMNS = {name: [value] * 2 for name, value in ROW.items()}


def warmed() -> SignatureCodec:
    """A codec that reads quickly: its first body was read thoroughly, and none made it wait."""
    codec = SignatureCodec(churn_signature())
    for _ in range(2):
        codec.decode(json.dumps({"rows": [ROW]}).encode())
    return codec


QUICK = warmed()


def plain_reader(signature: Signature) -> PlainReader:
    """A reader of its own, which no body before has made wait."""
    cities = Texts(next(f for f in signature.categorical if f.name == "city"), lambda t: t or "")
    for text in ("Graz", "Linz"):
        cities.one(text)  # what it raised no question about once, it knows
    texts = [
        cities if f is cities.feature else Texts(f, lambda t: t or "")
        for f in signature.categorical
    ]
    plain = PlainNumbers(signature.numeric, 2.0**53 - 1)
    return PlainReader(signature.numeric, plain, texts, OPTIONS)


def outcome(codec: SignatureCodec, body: bytes) -> Any:
    """What a body means, or what is said of it."""
    try:
        asked: Asked = codec.read(body)
    except MillraceError as error:
        return type(error).__name__, str(error), getattr(error, "problems", None)
    batch = asked.batch
    numbers = [[None if v != v else v for v in row] for row in batch.numeric.tolist()]
    return (
        numbers,
        batch.categorical.tolist(),
        batch.warnings,
        batch.unknown_categories,
        asked.options,
    )


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 130),
    st.integers(2**53 - 2, 2**53 + 2),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([41.0, 41.5, -0.0, 1e-320, 2**64, -(2**63) - 1, 10**30]),
    st.sampled_from(
        ["basic", "gold", " basic ", "NA", "Graz", "a:b", 'q"q', "back\\slash", "\u00e9"]
    ),
)
TYPICAL = st.fixed_dictionaries(
    {
        "age": st.integers(18, 120) | st.just(41.0),
        "plan": st.sampled_from(["basic", "premium", None]),
        "tenure": st.none() | st.floats(0, 1e6) | st.integers(0, 99),
        "active": st.booleans(),
        "city": st.sampled_from(["Graz", "Linz", "12:30", "unheard of"]),
    }
)
ODD = st.fixed_dictionaries(dict.fromkeys(ROW, VALUES), optional={"more": VALUES})


@given(
    rows=st.lists(TYPICAL, max_size=40)
    | st.lists(TYPICAL | ODD, max_size=6)
    | st.lists(TYPICAL, min_size=1, max_size=6).map(lambda rows: [*rows, {"age": 41}]),
    options=st.fixed_dictionaries({}, optional={"form": st.just("columns"), "odd": st.none()}),
    escaped=st.booleans(),
)
def test_the_quick_reader_and_the_thorough_one_agree(
    rows: list[dict[str, Any]], options: dict[str, Any], escaped: bool
) -> None:
    body = json.dumps({"rows": rows, **options}, ensure_ascii=escaped).encode()

    assert outcome(QUICK, body) == outcome(SignatureCodec(churn_signature()), body)


PLAIN = st.fixed_dictionaries(
    {
        "age": st.integers(18, 120),
        "plan": st.sampled_from(["basic", "premium", None]),
        "tenure": st.none() | st.integers(-9, 99) | st.floats(-1e15, 1e15),
        "active": st.booleans(),
        "city": st.sampled_from(["Graz", "Linz"]),
    }
)


def turned(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns."""
    return {name: [row[name] for row in rows] for name in ROW}


GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "form": st.sampled_from(["rows", "columns", "neither"]),
        "outputs": st.lists(st.sampled_from(["labels", "intervals", "odd"]), max_size=2),
        "coverage": st.floats(0, 1) | st.integers(0, 2),
    },
)


@given(
    rows=st.lists(PLAIN, min_size=1, max_size=40),
    options=GIVEN,
    by_column=st.booleans(),
)
def test_what_is_plain_is_read_at_once_and_as_the_thorough_reader_reads_it(
    rows: list[dict[str, Any]], options: dict[str, Any], by_column: bool
) -> None:
    data = {"columns": turned(rows)} if by_column else {"rows": rows}
    body = json.dumps({**data, **options}).encode()

    read = plain_reader(churn_signature()).read(body)

    assert read is not None
    thorough = SignatureCodec(churn_signature()).read(body)
    np.testing.assert_array_equal(read.numeric, thorough.batch.numeric)
    assert list(map(list, read.texts)) == list(map(list, thorough.batch.texts))
    assert read.options == thorough.options
    assert read.rows == thorough.batch.rows
    assert read.pairs == body.count(b":")
    assert not thorough.batch.warnings
    assert read.numeric.dtype == thorough.batch.numeric.dtype


@given(
    rows=st.lists(PLAIN | ODD, min_size=1, max_size=20) | st.lists(ODD, min_size=1, max_size=20),
    by_column=st.booleans(),
    escaped=st.booleans(),
)
def test_what_is_taken_for_plain_is_plain(
    rows: list[dict[str, Any]], by_column: bool, escaped: bool
) -> None:
    data = {"columns": turned(rows)} if by_column else {"rows": rows}
    body = json.dumps(data, ensure_ascii=escaped).encode()

    read = plain_reader(churn_signature()).read(body)

    if read is not None:
        numbers = [[None if v != v else v for v in row] for row in read.numeric.tolist()]
        expected = numbers, list(map(list, zip(*read.texts, strict=True))), (), 0, read.options
        assert outcome(SignatureCodec(churn_signature()), body) == expected


@given(
    rows=st.lists(PLAIN | ODD | TYPICAL, max_size=20),
    options=GIVEN
    | st.dictionaries(st.sampled_from(["form", "outputs", "coverage", "odd"]), VALUES),
)
def test_columns_are_read_as_the_thorough_reader_reads_them(
    rows: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    body = json.dumps({"columns": turned(rows), **options}).encode()

    assert outcome(QUICK, body) == outcome(SignatureCodec(churn_signature()), body)


@pytest.mark.parametrize(
    "change",
    [
        {"age": 17},
        {"age": 121},
        {"age": 41.5},
        {"age": None},
        {"plan": "gold"},
        {"plan": "NA"},
        {"tenure": 2**53},
        {"tenure": True},
        {"active": 1},
        {"city": "unheard of"},
        {"city": "Graz", "more": 1},
        {"city": "back\\slash"},
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("by_column", [False, True])
def test_what_is_remarkable_is_not_taken_for_plain(
    change: dict[str, Any], rows: int, by_column: bool
) -> None:
    made = [ROW] * (rows - 1) + [{**ROW, **change}]
    data: dict[str, Any] = {"rows": made}
    if by_column:
        columns = turned(made) | ({"more": [1] * rows} if "more" in change else {})
        data = {"columns": columns}

    assert plain_reader(churn_signature()).read(json.dumps(data).encode()) is None


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"form": "rows"},
        {"rows": []},
        {"columns": {}},
        {"columns": {name: [] for name in ROW}},
        {"columns": {**COLUMNS, "age": [41]}},
        {"rows": [ROW], "columns": COLUMNS},
    ],
    ids=str,
)
def test_what_is_no_table_is_not_taken_for_plain(document: dict[str, Any]) -> None:
    assert plain_reader(churn_signature()).read(json.dumps(document).encode()) is None


@pytest.mark.parametrize("depth", [3, 500, 200_000])
@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize("key", ["form", "outputs", "coverage", "odd", None])
def test_what_is_nested_too_deep_is_refused_as_the_thorough_reader_does(
    key: str | None, form: str, depth: int
) -> None:
    data = json.dumps([ROW] if form == "rows" else COLUMNS)
    nested = "[" * depth + "]" * depth
    text = f'{{"{form}":{nested}}}' if key is None else f'{{"{form}":{data},"{key}":{nested}}}'

    assert outcome(warmed(), text.encode()) == outcome(
        SignatureCodec(churn_signature()), text.encode()
    )


@pytest.mark.parametrize(("remarkable", "skipped"), [(0, 0), (1, 1), (3, 3), (31, 31), (127, 63)])
def test_after_remarkable_bodies_fewer_and_fewer_are_tried(remarkable: int, skipped: int) -> None:
    reader = plain_reader(churn_signature())
    plain = json.dumps({"rows": [ROW]}).encode()
    odd = json.dumps({"rows": [{**ROW, "age": 17}]}).encode()
    for _ in range(remarkable):
        assert reader.read(odd) is None

    assert [reader.read(plain) is None for _ in range(skipped)] == [True] * skipped
    assert reader.read(plain) is not None
    assert reader.read(plain) is not None  # one that is plain ends it


@pytest.mark.parametrize(
    "text",
    [
        '{"rows":[%s,{"age":1,"age":41,"plan":"basic","tenure":1,"active":true,"city":"Graz"}]}',
        '{"rows":[%s],"rows":[%s]}',
        '{"rows":[%s]',
        '{"rows":[%s]}}',
        '{"rows":[%s,]}',
        '{"rows":[%s,NaN]}',
        '{"rows":[%s,{"age":NaN,"plan":"basic","tenure":1,"active":true,"city":"Graz"}]}',
        '{"rows":[%s,{"age":1e400,"plan":"basic","tenure":1,"active":true,"city":"Graz"}]}',
        '{"rows":[%s,[1]]}',
        '{"rows":[]}',
        '{"rows":{}}',
        '{"rows":null}',
        '{"rows":[%s],"columns":{}}',
        "[]",
        "",
        "\ufeff{}",
        '{"rows":[%s]}\x00',
        '{"rows":[{"age":41,"plan":"\ud800","tenure":1,"active":true,"city":"Graz"}]}',
        r'{"rows":[{"age":41,"plan":"\ud800","tenure":1,"active":true,"city":"Graz"}]}',
        r'{"rows":[{"age":41,"plan":"basic","tenure":1,"active":true,"city":"\ud800"}]}',
        r'{"rows":[{"age":41,"plan":"b\u0061sic","tenure":1,"active":true,"city":"Gr\u00e4z"}]}',
        r'{"rows":[{"\u0061ge":41,"plan":"basic","tenure":1,"active":true,"city":"Graz"}]}',
        r'{"rows":[{"age":41,"plan":"basic","tenure":1,"active":true,"city":"a\":1"}]}',
        r'{"rows":[{"age":1,"\u0061ge":41,"plan":"basic","tenure":1,"active":true,"city":"Graz"}]}',
        r'{"rows":[{"age":1,"\u0061ge":41,"plan":"basic","tenure":1,"active":true,"city":":"}]}',
        r'{"rows":[%s],"form":"\ud800"}',
        r'{"rows":[%s],"form":"r\u006fws"}',
    ],
)
def test_what_is_wrong_is_said_as_the_thorough_reader_says_it(text: str) -> None:
    body = text.replace("%s", json.dumps(ROW)).encode("utf-8", "surrogatepass")

    assert outcome(warmed(), body) == outcome(SignatureCodec(churn_signature()), body)


def test_rows_come_as_tuples_in_the_order_of_the_features() -> None:
    read = READER.read(
        json.dumps({"rows": [ROW, {**ROW, "tenure": None}], "form": "rows"}).encode()
    )

    assert read is not None
    rows, options = read
    assert rows == [
        tuple(ROW[f.name] for f in FEATURES),
        tuple({**ROW, "tenure": None}[f.name] for f in FEATURES),
    ]
    assert options == {"form": "rows"}


@pytest.mark.parametrize(
    "change", [{"age": "41"}, {"active": 1}, {"plan": 3}, {"more": 1}], ids=str
)
def test_a_body_that_is_not_as_it_should_be_is_left_to_the_thorough_reader(
    change: dict[str, Any],
) -> None:
    assert READER.read(json.dumps({"rows": [{**ROW, **change}]}).encode()) is None


def test_names_that_no_field_can_have_are_read_thoroughly() -> None:
    features = tuple(replace(f, name='a "quoted" name') if f.name == "age" else f for f in FEATURES)
    codec = SignatureCodec(replace(churn_signature(), features=features))
    row = {('a "quoted" name' if k == "age" else k): v for k, v in ROW.items()}
    body = json.dumps({"rows": [row]}).encode()

    answers = [codec.decode(body).numeric.tolist() for _ in range(3)]

    assert answers == [[[41, 3.5, 1]]] * 3


@pytest.mark.parametrize("rows", [1, 5, 200])
def test_few_rows_and_many_are_read_alike(rows: int) -> None:
    body = json.dumps({"rows": [{**ROW, "age": 18 + i % 100} for i in range(rows)]}).encode()

    batch = QUICK.decode(body)

    np.testing.assert_array_equal(batch.numeric[:, 0], [18 + i % 100 for i in range(rows)])
    assert batch.categorical.tolist() == [["basic", "Graz"]] * rows
