"""Served answers against scikit-learn's own, for whatever a caller may send.

Real pipelines of every algorithm and task are trained, exported and put behind the prediction
service. Hypothesis makes requests of ordinary and of hostile values; each is read once by the
service and once by an oracle: text as the contract's own SQL cleans it, numbers as float64 and then
float32, as ingest and training do. Either the oracle accepts every value, and then the answer is
scikit-learn's within the parity tolerance; or it does not, and then the request is refused with a
problem for every wrong row and field. Nothing else passes.

`--examples 1000` looks at that many requests for every pipeline and form.
"""

import io
import json
import math
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import duckdb
import nanoarrow as na
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nanoarrow.c_array import c_array_from_buffers
from nanoarrow.ipc import StreamWriter

from millrace.datasets.contract import cleaned
from millrace.errors import FieldProblem, InvalidRequestError
from millrace.learning.features import Rows
from millrace.serving.diagnosis import MAX_PROBLEMS
from millrace.serving.features import Batch
from millrace.spec import WHITESPACE, Algorithm, ColumnType, Task, null_texts
from tests.unit.serving.pipelines import (
    CITIES,
    COLUMNS,
    NAME,
    PLANS,
    Pipeline,
    post,
    serve,
    trained,
)

FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
ABSENT: Final = object()
type Row = dict[str, Any]

# ── What a caller may send ──────────────────────────────────────────────────────────────────────

EDGES = (
    0.0, -0.0, 0.1, 1e-45, -1e-45, 1.4e-45, 1e-40, 1.1754944e-38, 5e-324, 1e-400, 16_777_217.0,
    0.1 + 0.2, 1e16, 1e22, 1e30, FLOAT32_MAX, -FLOAT32_MAX, 3.4028235e38, 2.0**53,
)  # fmt: skip
BEYOND = (3.4028236e38, 1e39, -1e39, 1.7976931348623157e308, math.inf, -math.inf, math.nan)
BIG = (2**31, 2**32, 2**53 - 1, 2**53, -(2**53), 2**53 + 1, -(2**53) - 1, 2**63, 2**64, 10**30)
WRONG: tuple[Any, ...] = (None, True, False, "41", "", "NaN", [], [1], {}, {"a": 1}, ABSENT)
SPACES = ("", " ", "\t", "\n", "\u00a0", "\u3000", "\ufeff", "\u200b", "\u0085", "\u2028", "\x0b")
TEXTS = (
    *CITIES, *PLANS, "NA", "null", "None", " NA ", "NULL\u00a0", "na", "", " ", "\u00a0", "\u200b",
    "Basic", "basic ", " basic", "\ufeffbasic\u3000", "ba\0sic", "\0", "\ud800", "a\udfffb",
    "gra\u0308z", "\u1e9b\u0323", "\U0010ffff", "﷽", "NaN", "0", "true", "y" * 5_000,
)  # fmt: skip

numbers = st.one_of(
    st.integers(-100, 10_000),
    st.floats(-1e6, 1e6),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from(EDGES),
)
integers = st.one_of(
    st.integers(-100, 10_000), st.integers(-(2**53), 2**53), st.sampled_from((3.0, -0.0, 1e15))
)
texts = st.builds(
    lambda before, text, after: before + text + after,
    st.sampled_from(SPACES),
    st.one_of(st.sampled_from((*CITIES, *PLANS)), st.text(max_size=4)),
    st.sampled_from(SPACES),
)
good: dict[str, st.SearchStrategy[Any]] = {
    ColumnType.INTEGER: integers,
    ColumnType.NUMBER: numbers,
    ColumnType.BOOLEAN: st.booleans(),
    ColumnType.STRING: texts.filter(lambda t: "\0" not in t),
}
hostile = st.one_of(
    st.sampled_from((*EDGES, *BEYOND)),
    st.sampled_from(BIG),
    st.sampled_from(WRONG),
    st.sampled_from(TEXTS),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
)


@st.composite
def requests(draw: st.DrawFn, *, absent: bool) -> list[Row]:
    """Rows of which most values are ordinary and a few are anything."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        row = {}
        for column in COLUMNS:
            fits = good[column["type"]]
            if column["nullable"]:
                fits = st.one_of(fits, st.none())
            row[column["name"]] = draw(fits)
        rows.append(row)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 2)))):
        row = draw(st.sampled_from(rows))
        value = draw(hostile)
        if value is not ABSENT or absent:
            row[draw(st.sampled_from([c["name"] for c in COLUMNS]))] = value
    return rows


# ── How training would read it ──────────────────────────────────────────────────────────────────


@cache
def _cleaner() -> Callable[[str], str | None]:
    """The contract's own reading of a text."""
    connection = duckdb.connect()
    nulls = sorted(null_texts(("", "NA", "N/A", "NULL", "null", "None")))
    statement = f"SELECT {cleaned('$text', '$nulls')}".replace("IN ($nulls)", "IN $nulls")

    @cache
    def clean(text: str) -> str | None:
        found = connection.execute(
            statement, {"text": text, "nulls": nulls, "white": WHITESPACE}
        ).fetchall()
        return found[0][0]

    return clean


REFUSED: Final = object()


def read(kind: ColumnType, nullable: bool, value: Any) -> Any:
    """A value as training would have it: a number, a text, None for missing, or REFUSED."""
    missing = None if nullable else REFUSED
    if value is None:
        return missing
    if kind is ColumnType.STRING:
        if (
            not isinstance(value, str)
            or "\0" in value
            or any(0xD800 <= ord(c) < 0xE000 for c in value)
        ):
            return REFUSED
        text = _cleaner()(value)
        return missing if text is None else text
    if kind is ColumnType.BOOLEAN:
        return float(value) if isinstance(value, bool) else REFUSED
    if isinstance(value, bool) or not isinstance(value, int | float):
        return REFUSED
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        # JSON has no integers: digits beyond 64 bits are read as the nearest double.
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return REFUSED
    if (isinstance(value, int) or kind is ColumnType.INTEGER) and abs(value) > 2**53:
        return REFUSED
    if abs(value) > FLOAT32_MAX or (kind is ColumnType.INTEGER and value != int(value)):
        return REFUSED
    return float(value)


def expected(
    pipeline: Pipeline, request: list[Row]
) -> tuple[set[tuple[int, str]], npt.NDArray[np.float64] | None]:
    """The wrong places of a request or, when there are none, scikit-learn's own answer."""
    numeric = [f for f in pipeline.signature.features if f.type is not ColumnType.STRING]
    strings = [f for f in pipeline.signature.features if f.type is ColumnType.STRING]
    table: list[dict[str, Any]] = [
        {
            f.name: read(f.type, f.nullable, row[f.name]) if row[f.name] is not ABSENT else REFUSED
            for f in pipeline.signature.features
        }
        for row in request
    ]
    wrong = {
        (i, name) for i, row in enumerate(table) for name, value in row.items() if value is REFUSED
    }
    if wrong:
        return wrong, None
    values = np.array([[row[f.name] for f in numeric] for row in table], dtype=np.float64)
    known = tuple(tuple(sorted({r[f.name] for r in table} - {None})) for f in strings)
    codes = [
        [-1 if row[f.name] is None else known[i].index(row[f.name]) for i, f in enumerate(strings)]
        for row in table
    ]
    rows = Rows(values.astype(np.float32), np.array(codes, dtype=np.int32), known)
    # scikit-learn looks for infinities by a sum, which extremes of both signs make NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        return set(), pipeline.fit.model.predict(rows)


# ── The comparison ──────────────────────────────────────────────────────────────────────────────


def as_rows(request: list[Row]) -> bytes:
    """The request in rows; NaN and infinities as Python writes them."""
    whole = [{k: v for k, v in row.items() if v is not ABSENT} for row in request]
    return json.dumps({"rows": whole}).encode()


def as_columns(request: list[Row]) -> bytes:
    """The request in columns, texts unescaped where UTF-8 has them."""
    columns = {c["name"]: [row[c["name"]] for row in request] for c in COLUMNS}
    try:
        return json.dumps({"columns": columns}, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps({"columns": columns}).encode()


FORMS = {"rows": as_rows, "columns": as_columns}


@cache
def pipeline(task: Task, algorithm: Algorithm) -> Pipeline:
    """One pipeline, fitted once."""
    return trained(task, algorithm)


@pytest.fixture(params=list(Task), ids=str)
def task(request: pytest.FixtureRequest) -> Task:
    return request.param


@pytest.fixture(params=list(Algorithm), ids=str)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return request.param


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    yield
    pipeline.cache_clear()


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_scikit_learns_or_the_request_is_refused_by_row_and_field(
    task: Task, algorithm: Algorithm, form: str, pytestconfig: pytest.Config
) -> None:
    made = pipeline(task, algorithm)
    service = serve(made.loaded)
    seen = {"answered": 0, "refused": 0}

    @settings(max_examples=pytestconfig.getoption("--examples"))
    @given(requests(absent=form == "rows"))
    def compare(request: list[Row]) -> None:
        wrong, truth = expected(made, request)
        reply = post(service, FORMS[form](request))
        if truth is None:
            seen["refused"] += 1
            assert reply.status == 422, reply.body
            named = {(e["row"], e["field"]) for e in reply.json["errors"]}
            assert named == wrong if len(wrong) <= MAX_PROBLEMS else named < wrong
            return
        seen["answered"] += 1
        assert reply.status == 200, reply.body
        agree(made, reply.json["predictions"], truth)

    compare()

    assert seen["answered"]
    assert seen["refused"]


# ── Typed columns: arrays, and the tensors of the Open Inference Protocol ───────────────────────


def as_arrays(request: list[Row]) -> dict[str, Any]:
    """Columns of the narrowest type that holds their values; objects when none does."""
    return {c["name"]: typed(c["type"], [row[c["name"]] for row in request]) for c in COLUMNS}


def typed(kind: ColumnType, values: list[Any]) -> npt.NDArray[Any]:
    """One column as a NumPy user would have it; no array has integers beyond 64 bits."""
    values = [float(v) if type(v) is int and not -(2**63) <= v < 2**64 else v for v in values]
    types = set(map(type, values))
    if types == {int} and all(-(2**63) <= v < 2**63 for v in values):
        return np.array(values, dtype=np.int64)
    if types == {bool}:
        return np.array(values, dtype=np.bool_)
    if types == {float} and kind is not ColumnType.STRING:
        wide = np.array(values, dtype=np.float64)
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        return narrow if np.array_equal(narrow.astype(np.float64), wide, equal_nan=True) else wide
    objects = np.empty(len(values), dtype=object)
    objects[:] = values
    return objects


DATATYPES: Final = {"i": "INT64", "b": "BOOL", "f4": "FP32", "f8": "FP64"}
FALLBACK: Final = {
    ColumnType.INTEGER: "INT64",
    ColumnType.NUMBER: "FP64",
    ColumnType.BOOLEAN: "BOOL",
    ColumnType.STRING: "BYTES",
}


def as_tensors(request: list[Row], *, binary: bool) -> tuple[bytes, int]:
    """One tensor per feature, raw where its values have a type of their own; the JSON's length."""
    inputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for column in COLUMNS:
        values = [row[column["name"]] for row in request]
        array = typed(column["type"], values)
        entry: dict[str, Any] = {"name": column["name"], "shape": [len(values)]}
        kind = array.dtype.kind
        if binary and kind != "O":
            entry["datatype"] = DATATYPES[kind if kind in "ib" else f"f{array.dtype.itemsize}"]
            raw.append(array.tobytes())
        elif binary and set(map(type, values)) == {str} and encodable(values):
            entry["datatype"] = "BYTES"
            parts = [text.encode() for text in values]
            raw.append(b"".join(len(part).to_bytes(4, "little") + part for part in parts))
        else:
            inputs.append({**entry, "datatype": FALLBACK[column["type"]], "data": values})
            continue
        inputs.append({**entry, "parameters": {"binary_data_size": len(raw[-1])}})
    head = json.dumps({"inputs": inputs}).encode()
    return head + b"".join(raw), len(head)


def encodable(values: list[str]) -> bool:
    """Whether texts have UTF-8."""
    return not any(0xD800 <= ord(character) < 0xE000 for text in values for character in text)


def decoded(made: Pipeline, columns: dict[str, Any]) -> Batch | tuple[FieldProblem, ...]:
    """What the codec makes of columns, or says of them."""
    try:
        return made.loaded.codec.decode_columns(columns)
    except InvalidRequestError as refused:
        return refused.problems


def truths_held(request: list[Row]) -> list[Row]:
    """A request without NaN among truth values, which columns of truth values do not hold.

    JSON refuses it by name; NumPy makes a column of numbers of it, nanoarrow calls it true, and
    JSON's tensors cannot write it.
    """
    flags = {c["name"] for c in COLUMNS if c["type"] == ColumnType.BOOLEAN}
    return [
        {
            name: None if name in flags and isinstance(v, float) and math.isnan(v) else v
            for name, v in row.items()
        }
        for row in request
    ]


def nan_is_missing(request: list[Row]) -> list[Row]:
    """A request as typed columns mean it: NaN among numbers is no value."""
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in request
    ]


def numbers_are_flags(request: list[Row]) -> list[Row]:
    """A request as tensors mean it: public clients write 0 and 1 into BOOL tensors."""
    flags = {c["name"] for c in COLUMNS if c["type"] == ColumnType.BOOLEAN}
    return [
        {k: v == 1 if k in flags and type(v) in (int, float) and v in (0, 1) else v
         for k, v in row.items()}
        for row in request
    ]  # fmt: skip


def test_typed_columns_are_read_as_json_is(
    task: Task, algorithm: Algorithm, pytestconfig: pytest.Config
) -> None:
    made = pipeline(task, algorithm)
    seen = {"answered": 0, "refused": 0}

    @settings(max_examples=pytestconfig.getoption("--examples"))
    @given(requests(absent=False))
    def compare(request: list[Row]) -> None:
        request = truths_held(request)
        wrong, truth = expected(made, nan_is_missing(request))
        batch = decoded(made, as_arrays(request))
        if not isinstance(batch, Batch):
            seen["refused"] += 1
            # Of a column of a wrong type no row is named, or every row.
            assert batch
            assert {problem.field for problem in batch} <= {field for _, field in wrong}
            return
        seen["answered"] += 1
        assert truth is not None, wrong
        answers = made.loaded.run(batch)
        np.testing.assert_allclose(answers, truth, rtol=1e-6, atol=made.tolerance)

    compare()

    assert seen["answered"]
    assert seen["refused"]


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_tensors_are_read_as_json_is(
    task: Task, algorithm: Algorithm, binary: bool, pytestconfig: pytest.Config
) -> None:
    made = pipeline(task, algorithm)
    service = serve(made.loaded)
    seen = {"answered": 0, "refused": 0}

    @settings(max_examples=pytestconfig.getoption("--examples"))
    @given(requests(absent=False))
    def compare(request: list[Row]) -> None:
        request = truths_held(request)
        meant = numbers_are_flags(nan_is_missing(request) if binary else request)
        wrong, truth = expected(made, meant)
        body, length = as_tensors(request, binary=binary)
        sized = [("inference-header-content-length", str(length))] if length < len(body) else []
        reply = post(service, body, path=f"/v2/models/{NAME}/infer", headers=sized)
        if reply.status != 200:
            seen["refused"] += 1
            assert reply.status == 400, reply.body
            said = reply.json["error"]
            names = [c["name"] for c in COLUMNS]
            # A datatype refuses what JSON may write otherwise, as 3.0 for INT64: no more than that.
            assert wrong or "INT64" in said or "BOOL" in said or b"NaN" in body, said
            assert any(name in said for name in names) or "inputs[" in said or "not JSON" in said
            return
        seen["answered"] += 1
        assert truth is not None, wrong
        outputs = {
            o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in reply.json["outputs"]
        }
        answers = outputs["prediction" if task is Task.REGRESSION else "probabilities"]
        np.testing.assert_allclose(answers, truth, rtol=1e-6, atol=made.tolerance)

    compare()

    assert seen["answered"]
    assert seen["refused"]


ARROW_TYPES: Final = {
    ColumnType.INTEGER: na.int64(),
    ColumnType.NUMBER: na.float64(),
    ColumnType.BOOLEAN: na.bool_(),
    ColumnType.STRING: na.string(),
}


def as_arrow(request: list[Row]) -> bytes | None:
    """The request as an Arrow IPC stream of the signature's types; None where they hold it not."""
    kinds = {c["name"]: ARROW_TYPES[c["type"]] for c in COLUMNS}
    try:
        columns = [na.c_array([row[n] for row in request], kind) for n, kind in kinds.items()]
    except (ValueError, TypeError, OverflowError, AttributeError, struct.error):
        return None
    schema = na.struct(kinds, nullable=False)
    table = c_array_from_buffers(schema, len(request), [None], null_count=0, children=columns)
    out = io.BytesIO()
    with StreamWriter.from_writable(out) as writer:
        writer.write_array(table)
    return out.getvalue()


def test_arrow_is_read_as_json_is(task: Task, pytestconfig: pytest.Config) -> None:
    made = pipeline(task, Algorithm.LINEAR)
    service = serve(made.loaded)
    seen = {"answered": 0, "refused": 0, "unwritable": 0}

    @settings(max_examples=pytestconfig.getoption("--examples"))
    @given(requests(absent=False))
    def compare(request: list[Row]) -> None:
        request = truths_held(request)
        body = as_arrow(request)
        if body is None:
            seen["unwritable"] += 1
            return
        # As Arrow's types hold it: a number is a double, a truth is one or none.
        meant = [
            {c["name"]: held(c["type"], row[c["name"]]) for c in COLUMNS}
            for row in nan_is_missing(request)
        ]
        wrong, truth = expected(made, meant)
        kind = [("content-type", "application/vnd.apache.arrow.stream")]
        reply = post(service, body, headers=kind)
        if truth is None:
            seen["refused"] += 1
            assert reply.status == 422, reply.body
            assert {(e["row"], e["field"]) for e in reply.json["errors"]} == wrong
            return
        seen["answered"] += 1
        assert reply.status == 200, reply.body
        agree(made, reply.json["predictions"], truth)

    compare()

    assert seen["answered"]


def held(kind: ColumnType, value: Any) -> Any:
    """What a column of an Arrow type holds of a value it took."""
    if value is None or kind == ColumnType.STRING:
        return value
    if kind == ColumnType.BOOLEAN:
        return bool(value)
    return float(value) if kind == ColumnType.NUMBER else int(value)


# ── One answer ──────────────────────────────────────────────────────────────────────────────────


def agree(
    made: Pipeline, predictions: list[dict[str, Any]], truth: npt.NDArray[np.float64]
) -> None:
    """Holds an answer's predictions against scikit-learn's."""
    assert len(predictions) == len(truth)
    classes = made.signature.classes
    for told, true in zip(predictions, truth, strict=True):
        if not classes:
            assert told["value"] == pytest.approx(true, rel=1e-6, abs=made.tolerance)
            continue
        probabilities = [told["probabilities"][c] for c in classes]
        np.testing.assert_allclose(probabilities, true, atol=made.tolerance)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        best = np.sort(true)
        if best[-1] - best[-2] > 2 * made.tolerance:
            assert told["label"] == classes[int(true.argmax())]
