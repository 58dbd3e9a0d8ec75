"""Requests of the Open Inference Protocol (v2): JSON, and the data of tensors in it or after it.

Raw little-endian bytes after the JSON are the binary tensor data extension
(github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md). Nothing here
looks at a value of a caller's beyond what a shape and a datatype say.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from millrace.errors import InvalidRequestError, MalformedRequestError
from millrace.serving.byte_texts import read_texts
from millrace.serving.columns import Column
from millrace.serving.diagnosis import MAX_INTEGER, kind_of
from millrace.serving.routing import ENTITY
from millrace.serving.text_codes import Vocabulary

MAX_TENSORS: Final = 10_000
"""Inputs that one request may name, far above what any signature has."""
MAX_FORMS: Final = 64
"""Forms of requests that are remembered."""
LONGEST_REMEMBERED: Final = 16_384
"""Bytes of the JSON of such a request."""

_SIZE: Final = re.compile(
    rb'"binary_data_size"[ \t\r\n]*:[ \t\r\n]*(0|[1-9][0-9]{0,9})(?=[ \t\r\n,}])'
)

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
NUMERIC_DATATYPES: Final = frozenset(_DTYPES) - {"BOOL", "BYTES"}
_FLOATING: Final = frozenset({"FP16", "FP32", "FP64"})
_NULL: Final = type(None)
_JSON_TYPES: Final[dict[str, frozenset[type]]] = {
    "BYTES": frozenset({str, _NULL}),
    # The protocol's own client writes every number and boolean as a float: 41.0 is the integer 41,
    # and 1.0 in a BOOL tensor is true.
    "BOOL": frozenset({bool, int, float, _NULL}),
    **{name: frozenset({int, float, _NULL}) for name in NUMERIC_DATATYPES},
}


class Tensor(NamedTuple):
    """One input tensor, decoded.

    Attributes:
        name: As the caller calls it.
        datatype: One of the protocol's.
        shape: At most two dimensions.
        values: All elements in row-major order, flat: an array; a list when they are strings, or came
            as JSON and are integers and booleans some of which are missing (None); coded when they
            are many strings that came as bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Column


class InferenceRequest(NamedTuple):
    """A request, decoded but not yet held against a signature.

    Attributes:
        id: The caller's id of the request, given back in the answer.
        inputs: The tensors.
        outputs: Wanted outputs and whether each is wanted in binary; None when all are wanted.
        binary: Whether all outputs are wanted in binary, when none is named.
        entity: The caller's key, by which a rollout divides: the request's parameter ``entity``.
        form: What it has in common with others, if anything.
    """

    id: str | None
    inputs: tuple[Tensor, ...]
    outputs: Mapping[str, bool] | None
    binary: bool
    entity: bytes | None = None
    form: "Form | None" = None


class _Expected(NamedTuple):
    """What is known of a tensor before its data is there; ``size`` only of numbers."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    elements: int
    size: int | None


class Form:
    """What requests of one client have in common: all but the data of their tensors.

    Args:
        request: One of them.
    """

    def __init__(self, request: InferenceRequest) -> None:
        self._inputs = tuple(map(_expected, request.inputs))
        self._outputs, self._binary = request.outputs, request.binary
        self.vocabulary: Vocabulary | None = None
        """Of the model that was asked last: texts that these requests are likely to have."""

    def filled(self, body: bytes, start: int, sizes: Sequence[int]) -> InferenceRequest:
        """The request with the data of a body.

        Args:
            body: The body.
            start: Where the data begins.
            sizes: Bytes of each tensor.

        Raises:
            MalformedRequestError: The bytes do not fit.
            InvalidRequestError: Or are none of a tensor's datatype.
        """
        tensors: list[Tensor] = []
        for (name, datatype, shape, dtype, count, expected), size in zip(
            self._inputs, sizes, strict=True
        ):
            end = start + size
            values: Column
            if size == expected and end <= len(body):
                values = np.frombuffer(body, dtype, count, start)
            else:
                what = f"inputs[{len(tensors)}]"
                values = _from_bytes(body, start, size, datatype, shape, what, self.vocabulary)
            tensors.append(Tensor(name, datatype, shape, values))
            start = end
        _expect_end(body, start)
        return InferenceRequest(None, tuple(tensors), self._outputs, self._binary, None, self)


def _expected(tensor: Tensor) -> _Expected:
    name, datatype, shape, _ = tensor
    dtype, count = _DTYPES[datatype], prod(shape)
    # Booleans and texts are looked at, and of nothing there is no array.
    plain = datatype in NUMERIC_DATATYPES and count
    return _Expected(name, datatype, shape, dtype, count, count * dtype.itemsize if plain else None)


class RequestReader:
    """Decodes requests, and remembers what they have in common.

    A client says the same of its tensors each time, but for how many bytes their texts have; what was
    read of it once need not be read again. Requests with an id or an entity, which are others in each,
    or with data in the JSON itself have nothing in common.
    """

    def __init__(self) -> None:
        self._forms: dict[tuple[bytes, ...], Form] = {}

    def read(self, body: bytes, header_length: int | None) -> InferenceRequest:
        """Decodes a request.

        Args:
            body: JSON, and after it the data of binary tensors.
            header_length: Length of the JSON, when binary data follows.

        Raises:
            MalformedRequestError: It is not JSON, or lengths do not fit.
            InvalidRequestError: It does not have the protocol's shape.
        """
        if header_length is None or header_length > min(LONGEST_REMEMBERED, len(body)):
            return _read(body, header_length)[0]
        pieces = _SIZE.split(body[:header_length])
        key, sizes = tuple(pieces[::2]), list(map(int, pieces[1::2]))
        form = self._forms.get(key)
        if form is not None:
            return form.filled(body, header_length, sizes)
        request, read = _read(body, header_length)
        # Sizes elsewhere, or not as they are looked for, make it a request of its own; and whom a
        # request is about is kept nowhere.
        if request.id is not None or request.entity is not None or read != sizes:
            return request
        if len(self._forms) >= MAX_FORMS:
            del self._forms[next(iter(self._forms))]  # the oldest
        form = self._forms[key] = Form(request)
        return request._replace(form=form)


def _read(body: bytes, header_length: int | None) -> tuple[InferenceRequest, list[int | None]]:
    """A request, and of each input its bytes after the JSON, None where its data is in it."""
    if header_length is not None and not 0 < header_length <= len(body):
        raise MalformedRequestError(
            f"Inference-Header-Content-Length: expected a length from 1 to the body's {len(body):,}"
            f" bytes, got {header_length:,}"
        )
    end = len(body) if header_length is None else header_length
    try:
        document = orjson.loads(memoryview(body)[:end])
    except orjson.JSONDecodeError as exc:
        raise MalformedRequestError(_not_json(exc, body, header_length)) from exc
    if not isinstance(document, dict):
        raise InvalidRequestError(f"expected an object with inputs, got {kind_of(document)}")
    inputs = document.get("inputs")
    if not isinstance(inputs, list):
        came = kind_of(inputs) if "inputs" in document else "none"
        raise InvalidRequestError(f"inputs: expected an array of tensors, got {came}")
    if len(inputs) > MAX_TENSORS:
        raise InvalidRequestError(f"inputs: expected at most {MAX_TENSORS:,} tensors")
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise InvalidRequestError(f"id: expected a string, got {kind_of(identifier)}")
    parameters = _parameters(document, "the request")
    tensors: list[Tensor] = []
    sizes: list[int | None] = []
    names: set[str] = set()
    for position, item in enumerate(inputs):
        tensor, size = _read_tensor(item, position, body, end)
        if tensor.name in names:
            raise InvalidRequestError(f"inputs[{position}]: its name is given twice")
        names.add(tensor.name)
        tensors.append(tensor)
        sizes.append(size)
        end += size or 0
    _expect_end(body, end)
    request = InferenceRequest(
        id=identifier,
        inputs=tuple(tensors),
        outputs=_read_outputs(document),
        binary=_flag(parameters, "binary_data_output", "the request"),
        entity=entity.encode() if isinstance(entity := parameters.get(ENTITY), str) else None,
    )
    return request, sizes


def _expect_end(body: bytes, end: int) -> None:
    if end != len(body):
        raise MalformedRequestError(
            f"expected the body to end with the last binary tensor, got {len(body) - end:,} bytes "
            "more: their sum is what the inputs' binary_data_size say"
        )


def _not_json(error: orjson.JSONDecodeError, body: bytes, header_length: int | None) -> str:
    if header_length is None and b"binary_data_size" in body:
        return (
            "the body is not JSON alone: binary tensors follow, and the header "
            "Inference-Header-Content-Length has to say where"
        )
    what = "the body" if header_length is None else "what Inference-Header-Content-Length spans"
    return (
        f"{what} is not JSON: {error.msg} at position {error.pos} "
        "(NaN is none: send null where there is no value)"
    )


def _read_tensor(item: Any, position: int, body: bytes, start: int) -> tuple[Tensor, int | None]:
    """One input, and its bytes after the JSON, None where its data is in it."""
    if not isinstance(item, dict):
        raise InvalidRequestError(f"inputs[{position}]: expected an object, got {kind_of(item)}")
    name = item.get("name")
    if not isinstance(name, str):
        raise InvalidRequestError(f"inputs[{position}]: expected a name, got {kind_of(name)}")
    # By its place: a caller's own words may be anything, and are not said again.
    what = f"inputs[{position}]"
    datatype = item.get("datatype")
    if not isinstance(datatype, str) or datatype not in _DTYPES:
        came = "another" if isinstance(datatype, str) else kind_of(datatype)
        raise InvalidRequestError(
            f"{what}: expected a datatype of {', '.join(_DTYPES)}, got {came}"
        )
    shape = _read_shape(item.get("shape"), what)
    parameters = _parameters(item, what)
    if "shared_memory_region" in parameters:
        raise InvalidRequestError(
            f"{what}: shared memory is not offered here; send data in the body"
        )
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in item):
        raise InvalidRequestError(
            f"{what}: expected exactly one of data and the parameter binary_data_size"
        )
    if size is None:
        return Tensor(name, datatype, shape, _from_json(item["data"], datatype, shape, what)), None
    if type(size) is not int or size < 0:
        raise InvalidRequestError(f"{what}: expected binary_data_size to be a number of bytes")
    values = _from_bytes(body, start, size, datatype, shape, what)
    return Tensor(name, datatype, shape, values), size


def _from_bytes(
    body: bytes,
    start: int,
    size: int,
    datatype: str,
    shape: tuple[int, ...],
    what: str,
    expected: Vocabulary | None = None,
) -> Column:
    """A tensor's elements from the bytes after the JSON."""
    if size > len(body) - start:
        raise MalformedRequestError(
            f"{what}: expected {size:,} bytes of binary data, got {len(body) - start:,}"
        )
    count = prod(shape)
    if datatype == "BYTES":
        return read_texts(body[start : start + size], count, what, expected)
    dtype = _DTYPES[datatype]
    if size != count * dtype.itemsize:
        raise MalformedRequestError(
            f"{what}: expected {count * dtype.itemsize:,} bytes of binary data for {datatype} "
            f"{list(shape)}, got {size:,}"
        )
    if datatype == "BOOL" and body[start : start + size].strip(b"\0\1"):
        raise InvalidRequestError(f"{what}: expected BOOL as bytes of 0 or 1, got another")
    return np.frombuffer(body, dtype, count, start) if count else np.empty(0, dtype)


def _read_shape(shape: Any, what: str) -> tuple[int, ...]:
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 2
        or any(type(size) is not int or size < 0 for size in shape)
    ):
        raise InvalidRequestError(f"{what}: expected a shape of one or two sizes, as [n] or [n, 1]")
    return tuple(shape)


def _from_json(values: Any, datatype: str, shape: tuple[int, ...], what: str) -> Column:
    """A tensor's elements from JSON, which may be nested as the shape is, or flat."""
    if not isinstance(values, list):
        raise InvalidRequestError(f"{what}: expected data to be an array, got {kind_of(values)}")
    data: list[Any] = values
    count = prod(shape)
    kinds = set(map(type, data))
    if list in kinds:
        if kinds != {list} or len(shape) != 2 or set(map(len, data)) != {shape[1]}:
            raise InvalidRequestError(
                f"{what}: expected data flat or nested as its shape {list(shape)}"
            )
        data = list(chain.from_iterable(data))
        kinds = set(map(type, data))
    if len(data) != count:
        raise InvalidRequestError(
            f"{what}: expected {count:,} values for shape {list(shape)}, got {len(data):,}"
        )
    if not kinds <= _JSON_TYPES[datatype]:
        row = next(i for i, value in enumerate(data) if type(value) not in _JSON_TYPES[datatype])
        raise InvalidRequestError(
            f"{what}: expected values of {datatype}, got {kind_of(data[row])} at position {row}"
        )
    if datatype == "BYTES":
        return data
    if datatype == "BOOL":
        if kinds & {int, float}:
            if not {0, 1, None}.issuperset(data):
                raise InvalidRequestError(f"{what}: expected values of BOOL, got another number")
            data = [None if value is None else value == 1 for value in data]
        return data if _NULL in kinds else np.array(data, dtype=np.bool_)
    if datatype in _FLOATING or float in kinds:
        # Wider than FP16 and FP32 say, so that a number they cannot hold is refused by name.
        numbers = np.array(data, dtype=np.float64)
        if int in kinds and np.fmax.reduce(np.abs(numbers), initial=0.0) >= MAX_INTEGER:
            # A float no longer tells such integers apart: it must not hide one.
            return data
        if datatype not in _FLOATING and (numbers != np.trunc(numbers))[~np.isnan(numbers)].any():
            raise InvalidRequestError(f"{what}: expected values of {datatype}, got a fraction")
        return numbers
    if _NULL in kinds:
        return data
    try:
        return np.array(data, dtype=_DTYPES[datatype])
    except OverflowError as exc:
        raise InvalidRequestError(f"{what}: a value is outside the range of {datatype}") from exc


def _read_outputs(document: Mapping[str, Any]) -> dict[str, bool] | None:
    """Wanted outputs by name, and whether in binary; the request's own default holds for none."""
    wanted = document.get("outputs")
    if wanted is None:
        return None
    if not isinstance(wanted, list):
        raise InvalidRequestError(f"outputs: expected an array, got {kind_of(wanted)}")
    if not wanted:
        return None
    default = _flag(_parameters(document, "the request"), "binary_data_output", "the request")
    found: dict[str, bool] = {}
    for position, item in enumerate(wanted):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise InvalidRequestError(f"outputs[{position}]: expected an object with a name")
        what = f"outputs[{position}]"
        if name in found:
            raise InvalidRequestError(f"{what} is asked for twice")
        parameters = _parameters(item, what)
        for refused in ("classification", "shared_memory_region"):
            if refused in parameters:
                raise InvalidRequestError(f"{what}: the parameter {refused} is not offered here")
        found[name] = _flag(parameters, "binary_data", what, default=default)
    return found


def _parameters(item: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    found = item.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidRequestError(f"{what}: expected parameters to be an object")
    return found


def _flag(parameters: Mapping[str, Any], name: str, what: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{what}: expected {name} to be true or false")
    return value
