"""Tensors in JSON and in bytes, and what of them a signature takes."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import InvalidRequestError, MalformedRequestError
from millrace.serving.codec import SignatureCodec
from millrace.serving.columns import Coded, listed
from millrace.serving.features import Batch
from millrace.serving.inference_request import (
    MAX_FORMS,
    InferenceRequest,
    RequestReader,
    Tensor,
)
from millrace.serving.tensors import TensorMap
from millrace.signature import FeatureField, Signature
from millrace.spec import ColumnType, Task
from tests.fakes.onnx_models import churn_signature

SIGNATURE = churn_signature()
CODEC = SignatureCodec(SIGNATURE)
TENSORS = TensorMap(SIGNATURE)
ROWS: list[dict[str, Any]] = [
    {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"},
    {"age": 19, "plan": "", "tenure": None, "active": False, "city": "Málaga"},
]
TYPES = {"age": "INT64", "plan": "BYTES", "tenure": "FP64", "active": "BOOL", "city": "BYTES"}
NUMPY = {
    "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BOOL": "?",
}  # fmt: skip


def raw(values: Sequence[Any], datatype: str) -> bytes:
    """The extension's bytes, written plainly."""
    if datatype == "BYTES":
        texts = [v if isinstance(v, bytes) else v.encode() for v in values]
        return b"".join(struct.pack("<I", len(t)) + t for t in texts)
    numbers = [np.nan if v is None else v for v in values]
    return np.array(numbers, dtype=NUMPY[datatype]).tobytes()


def read_request(body: bytes, header_length: int | None) -> InferenceRequest:
    """Reads a request twice, the second time with what was remembered of it."""
    reader = RequestReader()
    first = reader.read(body, header_length)
    again = reader.read(body, header_length)
    assert shown(again) == shown(first)
    return again


def shown(request: InferenceRequest) -> Any:
    """All there is to a request."""
    tensors = [
        (t.name, t.datatype, t.shape, type(t.values), listed(t.values)) for t in request.inputs
    ]
    return repr((tensors, request._replace(inputs=(), form=None)))


def tensor(name: str, datatype: str, values: Sequence[Any], shape: Any = None) -> dict[str, Any]:
    """An input with its data in JSON."""
    shape = [len(values)] if shape is None else shape
    return {"name": name, "datatype": datatype, "shape": shape, "data": list(values)}


def inputs(**changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows as one tensor per feature, some of them changed."""
    made = {n: tensor(n, t, [row[n] for row in ROWS]) for n, t in TYPES.items()}
    return [made[n] | changes.get(n, {}) for n in made]


def packed(rows: int = 2, **changes: Any) -> list[dict[str, Any]]:
    """The rows as packed tensors."""
    numeric = [x for r in ROWS for x in (r["age"], r["tenure"], float(r["active"]))]
    texts = [x for r in ROWS for x in (r["plan"], r["city"])]
    made = {
        "numeric": tensor("numeric", "FP32", numeric, [rows, 3]),
        "categorical": tensor("categorical", "BYTES", texts, [rows, 2]),
    }
    return [made[n] | changes.get(n, {}) for n in made]


def as_json(items: list[dict[str, Any]], **rest: Any) -> tuple[bytes, None]:
    """A request in JSON."""
    return orjson.dumps({"inputs": items, **rest}), None


def as_bytes(items: list[dict[str, Any]], **rest: Any) -> tuple[bytes, int]:
    """A request with all data in bytes."""
    described, parts = [], []
    for item in items:
        part = raw(item["data"], item["datatype"])
        kept = {k: v for k, v in item.items() if k != "data"}
        described.append(kept | {"parameters": {"binary_data_size": len(part)}})
        parts.append(part)
    header = orjson.dumps({"inputs": described, **rest})
    return b"".join((header, *parts)), len(header)


def decode(body: bytes, length: int | None) -> Batch:
    """The batch that a request becomes."""
    return TENSORS.batch(read_request(body, length), CODEC)


def refusal(body: bytes, length: int | None = None) -> InvalidRequestError:
    """Why a request is refused."""
    with pytest.raises(InvalidRequestError) as caught:
        decode(body, length)
    return caught.value


@pytest.mark.parametrize("write", [as_json, as_bytes], ids=["json", "bytes"])
@pytest.mark.parametrize("items", [inputs(), packed()], ids=["per feature", "packed"])
def test_both_forms_in_both_ways_are_the_rows(items: list[dict[str, Any]], write: Any) -> None:
    batch = decode(*write(items))

    wanted = CODEC.decode(orjson.dumps({"rows": ROWS}))
    np.testing.assert_array_equal(batch.numeric, wanted.numeric)
    assert batch.categorical.tolist() == wanted.categorical.tolist()


def rows_of(batch: Batch) -> Any:
    """What a batch is, such that two are compared."""
    numeric = batch.numeric
    assert numeric.dtype == np.float32
    return (
        numeric.shape,
        numeric.tobytes(),
        batch.categorical.tolist(),
        batch.warnings,
        batch.unknown_categories,
    )


def outcome(read: Callable[[], Batch]) -> Any:
    """What reading gives or says, such that two are compared."""
    try:
        batch = read()
    except InvalidRequestError as refused:
        return str(refused), refused.problems
    return rows_of(batch)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 99), st.sampled_from([np.nan, -1.0, 41.5, 2.0**53, np.inf])),
            st.one_of(st.floats(width=32), st.integers(-3, 3)),
            st.sampled_from([0.0, 1.0, np.nan, 0.5]),
            st.sampled_from(["basic", "plus", "", " basic ", "odd"]),
            st.one_of(st.sampled_from(["Graz", "Málaga", "", "NA"]), st.text(max_size=4)),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["FP16", "FP32", "FP64"]),
    st.sampled_from([1, 40]),
)
def test_packed_tensors_at_once_are_what_they_are_as_columns(
    rows: list[tuple[Any, ...]], datatype: str, times: int
) -> None:
    with np.errstate(over="ignore"):
        numbers = np.array([row[:3] for row in rows] * times).astype(NUMPY[datatype])
    texts = [text for row in rows * times for text in row[3:]]
    body, length = as_bytes(
        [
            tensor("numeric", datatype, numbers.reshape(-1).tolist(), list(numbers.shape)),
            tensor("categorical", "BYTES", texts, [len(numbers), 2]),
        ]
    )
    request = read_request(body, length)

    at_once = outcome(lambda: TENSORS.batch(request, CODEC))

    assert at_once == outcome(lambda: CODEC.decode_columns(TENSORS.columns(request)))


def test_what_needs_no_closer_look_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CODEC, "decode_columns", None)

    batch = decode(*as_bytes(packed()))

    assert batch.rows == 2


def test_a_feature_may_have_a_column_of_its_own() -> None:
    nested = inputs(age={"shape": [2, 1], "data": [[41], [19]]})
    flat = inputs(age={"shape": [2, 1], "data": [41, 19]})

    for items in (nested, flat):
        assert decode(*as_json(items)).numeric[:, 0].tolist() == [41.0, 19.0]


@pytest.mark.parametrize("datatype", [t for t in NUMPY if t != "BOOL"])
def test_numbers_may_come_in_any_numeric_datatype(datatype: str) -> None:
    items = inputs(age={"datatype": datatype, "data": [41, 19]})

    for write in (as_json, as_bytes):
        assert decode(*write(items)).numeric[:, 0].tolist() == [41.0, 19.0]


def test_floats_that_are_integers_are_integers_and_ones_are_true() -> None:
    items = inputs(age={"data": [41.0, 19.0]}, active={"data": [1.0, 0.0]})

    batch = decode(*as_json(items))

    assert batch.numeric[:, [0, 2]].tolist() == [[41.0, 1.0], [19.0, 0.0]]


def texts_of(read: Tensor) -> list[str | None]:
    """The elements of a tensor of texts."""
    assert isinstance(read.values, Coded | list)
    return list(listed(read.values))


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["", "a", "basic", "\0", "a\0\0\0", "Málaga"]), st.text(max_size=300)
        ),
        min_size=1,
        max_size=120,
    ),
    st.integers(1, 20),
)
def test_texts_of_any_length_come_through(texts: list[str], times: int) -> None:
    texts = texts * times
    part = raw(texts, "BYTES")
    item = {"name": "city", "datatype": "BYTES", "shape": [len(texts)]}
    header = orjson.dumps({"inputs": [item | {"parameters": {"binary_data_size": len(part)}}]})

    [read] = read_request(header + part, len(header)).inputs

    assert texts_of(read) == texts


def test_a_nul_in_a_text_hides_no_other_text() -> None:
    texts = ["a\0\0\0b", "", "\0", "c" * 300]
    part = raw(texts, "BYTES")
    item = {"name": "city", "datatype": "BYTES", "shape": [4]}
    header = orjson.dumps({"inputs": [item | {"parameters": {"binary_data_size": len(part)}}]})

    [read] = read_request(header + part, len(header)).inputs

    assert texts_of(read) == texts


BODY, LENGTH = as_bytes(inputs())


@given(st.lists(st.text("ab \1\2\0", max_size=9), max_size=12), st.binary(max_size=3))
def test_short_texts_are_read_as_the_lengths_say(texts: list[str], more: bytes) -> None:
    part = raw(texts, "BYTES") + more
    item = {"name": "city", "datatype": "BYTES", "shape": [len(texts)]}
    header = orjson.dumps({"inputs": [item | {"parameters": {"binary_data_size": len(part)}}]})

    try:
        [read] = read_request(header + part, len(header)).inputs
    except MalformedRequestError:
        assert more
    else:
        assert not more
        assert texts_of(read) == texts


# ── What requests have in common ────────────────────────────────────────────────────────────────


def told(reader: RequestReader, body: bytes, length: int) -> Any:
    """What reading gives or says, such that two are compared."""
    try:
        return shown(reader.read(body, length))
    except (InvalidRequestError, MalformedRequestError) as refused:
        return str(refused), refused.problems


@given(data=st.data())
def test_a_request_that_is_like_another_is_read_as_if_it_were_the_first(
    data: st.DataObject,
) -> None:
    items = packed() if data.draw(st.booleans()) else inputs()
    if data.draw(st.booleans()):
        items[0]["parameters"] = {"binary_data_size": 3}
    body, length = as_bytes(items)
    knows = RequestReader()
    told(knows, body, length)
    other = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1) | st.integers(length, len(body) - 1))
        other[place] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789 "-.:,}'))
    cut = bytes(other[: data.draw(st.integers(length, len(body)) | st.just(len(body)))])

    assert told(knows, cut, length) == told(RequestReader(), cut, length)


@pytest.mark.parametrize(
    "size", ["\f4", "\v4", "4\f", "007", "-4", "4.0", "4e0", "+4", "", "null", '"4"', "99999999999"]
)
def test_a_size_that_json_does_not_have_is_not_read_from_memory(size: str) -> None:
    header = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":%s}}]}'
    good, bad = (header % 4).encode(), (header % size).encode()
    knows = RequestReader()
    knows.read(good + bytes(4), len(good))

    with pytest.raises((InvalidRequestError, MalformedRequestError)):
        knows.read(bad + bytes(4), len(bad))


def test_a_header_that_ends_behind_the_body_is_none_that_is_known() -> None:
    header = orjson.dumps({"inputs": []})
    reader = RequestReader()
    assert reader.read(header, len(header)).form is not None

    with pytest.raises(MalformedRequestError, match="expected a length from 1 to the body's"):
        reader.read(header, len(header) + 1)


@pytest.mark.parametrize(
    "document",
    [
        {"id": "7"},
        {"parameters": {"entity": "customer-7"}},
        {"parameters": {"binary_data_size": 4}},
        {"outputs": [{"name": "label", "parameters": {"binary_data_size": 4}}]},
    ],
    ids=["an id", "an entity", "a size of the request", "a size of an output"],
)
def test_what_is_not_in_common_is_not_remembered(document: dict[str, Any]) -> None:
    tensor_ = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    header = orjson.dumps({"inputs": [tensor_], **document})
    reader = RequestReader()

    for _ in range(2):
        assert reader.read(header + bytes(4), len(header)).form is None


def test_the_forms_of_requests_are_bounded() -> None:
    reader = RequestReader()

    def read(rows: int) -> InferenceRequest:
        tensor_ = {"name": "x", "datatype": "BOOL", "shape": [rows]}
        header = orjson.dumps({"inputs": [tensor_ | {"parameters": {"binary_data_size": rows}}]})
        return reader.read(header + bytes(rows), len(header))

    forms = [read(rows).form for rows in range(MAX_FORMS + 1)]

    assert all(forms)
    assert read(MAX_FORMS).form is forms[-1]
    assert read(1).form is forms[1]
    assert read(0).form is not forms[0]  # the oldest is gone


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_form_that_fits_is_held_against_the_signature_once(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {n: tensor(n, t, [ROWS[0][n]] * rows) for n, t in TYPES.items()}
    body, length = as_bytes(list(made.values()))
    reader, tensors = RequestReader(), TensorMap(SIGNATURE)
    first = tensors.batch(reader.read(body, length), CODEC)
    monkeypatch.setattr(TensorMap, "columns", None)

    again = tensors.batch(reader.read(body, length), CODEC)

    assert outcome(lambda: again) == outcome(lambda: first)
    made["age"]["data"][-1] = -3
    worse, length = as_bytes(list(made.values()))
    [warning] = tensors.batch(reader.read(worse, length), CODEC).warnings
    assert (warning.field, warning.count) == ("age", 1)


@pytest.mark.parametrize(
    "items",
    [
        inputs()[:-1],
        [*inputs(), tensor("more", "FP32", [0.5, 0.5])],
        inputs(age=tensor("age", "INT64", [41])),
        inputs(age=tensor("age", "BYTES", ["41", "19"])),
        inputs(age=tensor("age", "INT64", [41, 19, 3, 4], [2, 2])),
    ],
    ids=["missing", "unknown", "short", "another type", "wide"],
)
def test_a_form_that_does_not_fit_is_refused_each_time(items: list[dict[str, Any]]) -> None:
    body, length = as_bytes(items)
    reader, tensors = RequestReader(), TensorMap(SIGNATURE)

    said = [outcome(lambda: tensors.batch(reader.read(body, length), CODEC)) for _ in range(3)]

    assert said[0][1]
    assert said == said[:1] * 3


# ── Damage ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (BODY, 0, "expected a length from 1"),
        (BODY, len(BODY) + 1, "expected a length from 1"),
        (BODY, LENGTH - 1, "is not JSON"),
        (BODY, LENGTH + 1, "is not JSON"),
        (BODY, None, "Inference-Header-Content-Length has to say where"),
        (BODY[:-1], LENGTH, "inputs[4]: expected 19 bytes of binary data, got 18"),
        (BODY + b"x", LENGTH, "got 1 bytes more"),
        (b"{", None, "is not JSON"),
        (b'{"inputs": [{"data": [NaN]}]}', None, "send null where there is no value"),
        (b"\xff\xfe", None, "is not JSON"),
    ],
)
def test_damaged_lengths_and_bodies_are_malformed(
    body: bytes, length: int | None, message: str
) -> None:
    error = refusal(body, length)

    assert isinstance(error, MalformedRequestError)
    assert message in str(error)


@pytest.mark.parametrize(
    ("datatype", "part", "message"),
    [
        ("BYTES", struct.pack("<I", 9) + b"Graz" + raw(["x"], "BYTES"), "do not add up"),
        ("BYTES", struct.pack("<I", 0xFFFFFFFF) + b"Graz", "do not add up"),
        ("BYTES", raw(["Graz"], "BYTES"), "expected 2 elements"),
        ("BYTES", raw(["Graz", "x", "y"], "BYTES"), "expected 2 elements"),
        ("BYTES", b"\x01\x00", "do not add up"),
        ("BYTES", raw([b"\xff\xfe", b"x"], "BYTES"), "expected BYTES in UTF-8"),
        ("BYTES", b"", "do not add up"),
        ("INT64", b"\0" * 15, "expected 16 bytes"),
        ("BOOL", b"\x01\x02", "bytes of 0 or 1"),
    ],
)
def test_damaged_binary_data_is_refused_by_tensor(datatype: str, part: bytes, message: str) -> None:
    parameters = {"binary_data_size": len(part)}
    item = {"name": "city", "datatype": datatype, "shape": [2], "parameters": parameters}
    header = orjson.dumps({"inputs": [item]})

    error = refusal(header + part, len(header))

    assert "inputs[0]: " in str(error)
    assert message in str(error)


@given(
    st.lists(st.sampled_from(["", "a", "basic", "premium"]), min_size=64, max_size=90), st.data()
)
def test_damaged_texts_are_refused_or_read_as_they_are(
    texts: list[str], data: st.DataObject
) -> None:
    part = bytearray(raw(texts, "BYTES"))
    for _ in range(data.draw(st.integers(1, 3))):
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    item = {"name": "city", "datatype": "BYTES", "shape": [len(texts)]}
    header = orjson.dumps({"inputs": [item | {"parameters": {"binary_data_size": len(part)}}]})

    try:
        [read] = read_request(header + bytes(part), len(header)).inputs
    except InvalidRequestError:
        return
    assert raw([text or "" for text in texts_of(read)], "BYTES") == bytes(part)


@given(st.data())
def test_no_damage_gets_past_a_refusal(data: st.DataObject) -> None:
    body = bytearray(BODY)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, 8))
    length = data.draw(st.sampled_from([LENGTH, None, LENGTH - 1, 3]))

    try:
        batch = decode(bytes(body[: len(body) - cut]), length)
    except InvalidRequestError:
        return
    assert batch.numeric.shape == (batch.rows, 3)
    assert batch.categorical.shape == (batch.rows, 2)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected an object with inputs, got an array"),
        ({}, "inputs: expected an array of tensors, got none"),
        ({"inputs": {}}, "inputs: expected an array of tensors, got an object"),
        ({"inputs": [1]}, "inputs[0]: expected an object"),
        ({"inputs": [{}]}, "inputs[0]: expected a name"),
        ({"inputs": [{"name": "a"}]}, "inputs[0]: expected a datatype of BOOL"),
        ({"inputs": [tensor("a", "FP128", [1])]}, "expected a datatype of BOOL"),
        ({"inputs": [tensor("a", "FP32", [1], "x")]}, "expected a shape"),
        ({"inputs": [tensor("a", "FP32", [1], [1, 1, 1])]}, "expected a shape"),
        ({"inputs": [tensor("a", "FP32", [1], [-1])]}, "expected a shape"),
        ({"inputs": [tensor("a", "FP32", [1], [True])]}, "expected a shape"),
        ({"inputs": [tensor("a", "FP32", [1, 2], [3])]}, "expected 3 values for shape [3], got 2"),
        ({"inputs": [tensor("a", "FP32", [[1], 2], [2, 1])]}, "flat or nested as its shape"),
        ({"inputs": [tensor("a", "FP32", [[1, 2]], [2, 1])]}, "flat or nested as its shape"),
        ({"inputs": [tensor("a", "FP32", [[[1]]], [1, 1])]}, "expected values of FP32, got an arr"),
        ({"inputs": [tensor("a", "INT8", [300])]}, "outside the range of INT8"),
        ({"inputs": [tensor("a", "UINT8", [-1])]}, "outside the range of UINT8"),
        ({"inputs": [tensor("a", "INT64", [1.5])]}, "expected values of INT64, got a fraction"),
        ({"inputs": [tensor("a", "INT64", [True])]}, "expected values of INT64, got a boolean"),
        ({"inputs": [tensor("a", "FP64", ["1"])]}, "expected values of FP64, got a string"),
        ({"inputs": [tensor("a", "BOOL", [2])]}, "expected values of BOOL, got another number"),
        ({"inputs": [tensor("a", "BYTES", [1])]}, "expected values of BYTES, got an integer"),
        ({"inputs": [{"name": "a", "datatype": "FP32", "shape": [1]}]}, "expected exactly one of"),
        ({"inputs": [tensor("a", "FP32", [1]) | {"data": None}]}, "expected data to be an array"),
        ({"inputs": [tensor("a", "FP32", [1])] * 2}, "inputs[1]: its name is given twice"),
        ({"inputs": [tensor("a", "FP32", [1]) | {"parameters": 1}]}, "parameters to be an object"),
        (
            {"inputs": [tensor("a", "FP32", [1]) | {"parameters": {"shared_memory_region": "x"}}]},
            "shared memory is not offered",
        ),
        (
            {
                "inputs": [
                    {
                        "name": "a",
                        "datatype": "FP32",
                        "shape": [1],
                        "parameters": {"binary_data_size": -4},
                    }
                ]
            },
            "expected binary_data_size to be a number of bytes",
        ),
        ({"inputs": [], "id": 7}, "id: expected a string"),
        ({"inputs": [], "parameters": []}, "the request: expected parameters to be an object"),
        ({"inputs": [], "parameters": {"binary_data_output": 1}}, "true or false"),
        ({"inputs": [], "outputs": {}}, "outputs: expected an array"),
        ({"inputs": [], "outputs": [{}]}, "outputs[0]: expected an object with a name"),
        ({"inputs": [], "outputs": [{"name": "a"}] * 2}, "outputs[1] is asked for twice"),
        (
            {"inputs": [], "outputs": [{"name": "a", "parameters": {"classification": 2}}]},
            "the parameter classification is not offered",
        ),
        ({"inputs": []}, "age: is missing"),
    ],
)
def test_what_is_no_request_is_refused(document: Any, message: str) -> None:
    assert message in str(refusal(orjson.dumps(document)))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            inputs(age={"datatype": "BYTES", "data": ["x", "y"]}),
            "age: expected datatype INT64 or a",
        ),
        (
            inputs(active={"datatype": "FP32", "data": [1, 0]}),
            "active: expected datatype BOOL, got",
        ),
        (inputs(plan={"datatype": "INT64", "data": [1, 2]}), "plan: expected datatype BYTES"),
        (inputs(age={"shape": [1, 2]}), "age: expected shape [n] or [n, 1], got [1, 2]"),
        (inputs()[1:], "age: is missing"),
        ([*inputs(), tensor("agee", "INT64", [1, 2])], "inputs[5]: is no feature"),
        (inputs(age={"data": [2**53 + 1, 1]}), "row 0, age"),
        (inputs(age={"data": [2.0**53 + 2, 1]}), "row 0, age"),
        (inputs(age={"data": [1.0, 2**53 + 1]}), "row 1, age"),
        (inputs(age={"data": [None, 1]}), "row 0, age"),
        (inputs(tenure={"data": [1e39, 1.0]}), "row 0, tenure"),
        (inputs(tenure={"data": [2**53 + 1, 1.0]}), "row 0, tenure"),
        (inputs(city={"data": ["x\0", "y"]}), "row 0, city: the string contains a NUL"),
        (packed(numeric={"shape": [3, 2]}), "numeric: expected shape [n, 3], got [3, 2]"),
        (
            packed(numeric={"datatype": "BOOL", "data": [True] * 6}),
            "numeric: expected datatype FP32",
        ),
        (
            packed(categorical={"datatype": "FP32", "data": [0] * 4}),
            "categorical: expected datatype",
        ),
        (packed()[:1], "categorical: is missing"),
        (
            packed(categorical={"shape": [1, 2], "data": ["a", "b"]}),
            "numeric: has another number of rows",
        ),
        (packed(numeric={"data": [41, 3.5, 0.5, 19, None, 0]}), "row 0, active: expected 0 or 1"),
        (packed(numeric={"data": [41.5, 3.5, 1, 19, None, 0]}), "row 0, age: expected an integer"),
        (packed(numeric={"data": [41, 3.5, None, 19, None, 0]}), "row 0, active"),
        ([*packed(), tensor("age", "INT64", [1, 2])], "numeric: packs all features"),
    ],
)
def test_what_does_not_fit_the_signature_is_named(
    items: list[dict[str, Any]], message: str
) -> None:
    error = refusal(*as_json(items))

    assert message in str(error)
    assert error.problems


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_in_bytes_are_refused_by_row(value: float) -> None:
    error = refusal(*as_bytes(inputs(tenure={"data": [1.0, value]})))

    assert "row 1, tenure" in str(error)


def test_messages_never_show_a_value() -> None:
    secret = "SECRET-7Q"
    wrongs = [
        inputs(age={"datatype": "BYTES", "data": [secret, secret]}),
        inputs(city={"data": [f"{secret}\0", secret]}),
        packed(categorical={"data": [secret, secret, secret, f"{secret}\0"]}),
        [*inputs(), tensor("age", secret, [1])],
        inputs(age={"parameters": {"shared_memory_region": secret}}),
        inputs(plan={"data": [secret] * 3}),
    ]
    for items in wrongs:
        error = refusal(*as_json(items))
        assert secret not in f"{error} {error.problems}"


def test_a_model_with_a_feature_called_numeric_has_no_packed_form() -> None:
    features = (FeatureField(name="numeric", type=ColumnType.NUMBER, nullable=False),)
    signature = replace(SIGNATURE, features=features)
    tensors = TensorMap(signature)
    read = read_request(*as_json([tensor("numeric", "FP32", [1.5, 2.5])]))

    columns = tensors.columns(read)

    assert np.asarray(columns["numeric"]).tolist() == [1.5, 2.5]
    assert not any(name.startswith("packed") for name in tensors.metadata()["properties"])


def test_the_metadata_says_what_fits() -> None:
    told = TENSORS.metadata()

    assert [(i["name"], i["datatype"]) for i in told["inputs"]] == list(TYPES.items())
    assert told["properties"] == {
        "task": "binary",
        "target": "left",
        "classes": '["0","1"]',
        "packed.numeric": '["age","tenure","active"]',
        "packed.categorical": '["plan","city"]',
    }


# ── Answers ─────────────────────────────────────────────────────────────────────────────────────

OUTPUT = np.array([[0.25, 0.75], [0.9, 0.1]], dtype=np.float32)


def answered(
    tensors: TensorMap, output: Any, *, outputs: dict[str, bool] | None, binary: bool = False
) -> tuple[dict[str, Any], bytes]:
    request = InferenceRequest(id="r", inputs=(), outputs=outputs, binary=binary)
    body, length = tensors.answer(request, output, version=3, parameters={"prediction_id": "p"})
    length = len(body) if length is None else length
    return orjson.loads(body[:length]), body[length:]


def test_an_answer_in_json_is_flat_and_exact() -> None:
    told, rest = answered(TENSORS, OUTPUT, outputs=None)

    assert told == {
        "model_name": "churn",
        "model_version": "3",
        "id": "r",
        "parameters": {"prediction_id": "p"},
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [2], "data": [1, 0]},
            {
                "name": "probabilities",
                "datatype": "FP32",
                "shape": [2, 2],
                "data": [0.25, 0.75, 0.9, 0.1],
            },
        ],
    }
    values = np.array(told["outputs"][1]["data"], dtype=np.float32)
    np.testing.assert_array_equal(values, OUTPUT.reshape(-1))
    assert rest == b""


@pytest.mark.parametrize(
    ("kind", "classes", "expected"),
    [
        (ColumnType.INTEGER, ("-3", "7"), struct.pack("<qq", 7, -3)),
        (ColumnType.BOOLEAN, ("false", "true"), b"\x01\x00"),
        (ColumnType.STRING, ("nein", "ja-ñ"), raw(["ja-ñ", "nein"], "BYTES")),
    ],
)
def test_labels_in_bytes_are_in_the_target_s_type(
    kind: ColumnType, classes: tuple[str, str], expected: bytes
) -> None:
    signature = replace(SIGNATURE, target_type=kind, classes=classes)

    told, rest = answered(TensorMap(signature), OUTPUT, outputs={"label": True})

    assert rest == expected
    assert told["outputs"][0]["parameters"] == {"binary_data_size": len(expected)}


def test_bytes_follow_in_the_order_asked_for() -> None:
    told, rest = answered(TENSORS, OUTPUT, outputs={"probabilities": True, "label": False})

    assert [o["name"] for o in told["outputs"]] == ["probabilities", "label"]
    assert "data" not in told["outputs"][0]
    assert told["outputs"][1]["data"] == [1, 0]
    assert rest == OUTPUT.tobytes()


def test_a_regression_answers_with_predictions() -> None:
    signature: Signature = churn_signature("spend", Task.REGRESSION)

    told, rest = answered(
        TensorMap(signature), np.array([1.5, -2.0], dtype=np.float32), outputs=None, binary=True
    )

    assert told["outputs"] == [
        {
            "name": "prediction",
            "datatype": "FP32",
            "shape": [2],
            "parameters": {"binary_data_size": 8},
        }
    ]
    assert rest == struct.pack("<ff", 1.5, -2.0)
