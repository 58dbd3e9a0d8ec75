"""The tensors of the Open Inference Protocol (v2), and how a model's signature maps to them.

A model takes its features in one of two forms:

* **one tensor per feature**, named as the feature, of shape [n] or [n, 1]. The metadata names the
  datatype that fits: INT64, FP64, BOOL or BYTES. Numbers may come in any numeric datatype: the
  rules are those of the signature, whatever the datatype. A missing value is ``null`` in JSON, NaN
  in floating point, and the empty string in BYTES; integers and booleans in binary have none.
* **two packed tensors**, as the ONNX graph has them: ``numeric`` (FP32 or any numeric datatype,
  [n, k]) with all numbers and booleans, and ``categorical`` (BYTES, [n, m]) with all strings, each
  in the order of the signature, which the metadata's properties name. It is the fast form. A model
  with a feature called like one of the two has only the first form.

It gives ``label`` (BYTES, INT64 or BOOL, [n]) and ``probabilities`` (FP32, [n, classes]) of a
classification, ``prediction`` (FP32, [n]) of a regression.

Tensors come and go as JSON, or as raw little-endian bytes after the JSON (the binary tensor data
extension, github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
Nothing here looks at a value of a caller's beyond what a shape and a datatype say; the signature's
own rules are `codec`'s.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from millrace.errors import InvalidRequestError, MalformedRequestError
from millrace.serving.codec import SignatureCodec
from millrace.serving.columns import Coded, Column
from millrace.serving.diagnosis import MAX_INTEGER, Report, kind_of
from millrace.serving.features import Batch
from millrace.serving.packed import Packed
from millrace.serving.routing import ENTITY
from millrace.signature import (
    CATEGORICAL_INPUT,
    NUMERIC_INPUT,
    PREDICTION_OUTPUT,
    PROBABILITIES_OUTPUT,
    FeatureField,
    Signature,
)
from millrace.vocabulary import ColumnType, Task

LABEL_OUTPUT: Final = "label"
MAX_TENSORS: Final = 10_000
"""Inputs that one request may name, far above what any signature has."""

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
_NUMERIC: Final = frozenset(_DTYPES) - {"BOOL", "BYTES"}
_FLOATING: Final = frozenset({"FP16", "FP32", "FP64"})
_OF_FEATURE: Final[dict[ColumnType, str]] = {
    ColumnType.INTEGER: "INT64",
    ColumnType.NUMBER: "FP64",
    ColumnType.BOOLEAN: "BOOL",
    ColumnType.STRING: "BYTES",
}
_NULL: Final = type(None)
_JSON_TYPES: Final[dict[str, frozenset[type]]] = {
    "BYTES": frozenset({str, _NULL}),
    # The protocol's own client writes every number and boolean as a float: 41.0 is the integer 41,
    # and 1.0 in a BOOL tensor is true.
    "BOOL": frozenset({bool, int, float, _NULL}),
    **{name: frozenset({int, float, _NULL}) for name in _NUMERIC},
}
_LENGTH: Final = struct.Struct("<I")
_FEW: Final = 64
"""Elements of a BYTES tensor below which a plain loop is quicker."""
_HIGH_BYTES: Final = 3
_WIDEST: Final = 64
_MANY: Final = 4_096
_SLOT_BITS: Final = 16
_FEW_SLOT_BITS: Final = 13
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_MASKS: Final = np.array(
    [
        [(1 << 8 * min(8, max(0, size - 8 * word))) - 1 for size in range(_WIDEST + 1)]
        for word in range(_WIDEST // 8)
    ],
    dtype=np.uint64,
)
"""By word and size of an element, what of the word is the element's own."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input tensor, decoded.

    Attributes:
        name: As the caller calls it.
        datatype: One of the protocol's.
        shape: At most two dimensions.
        values: All elements in row-major order, flat: an array; a list when they came as JSON and
            are strings, or integers and booleans some of which are missing (None); coded when they
            are strings that came as bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Column


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A request, decoded but not yet held against a signature.

    Attributes:
        id: The caller's id of the request, given back in the answer.
        inputs: The tensors.
        outputs: Wanted outputs and whether each is wanted in binary; None when all are wanted.
        binary: Whether all outputs are wanted in binary, when none is named.
        entity: The caller's key, by which a rollout divides: the request's parameter ``entity``.
    """

    id: str | None
    inputs: tuple[Tensor, ...]
    outputs: Mapping[str, bool] | None
    binary: bool
    entity: bytes | None = None


# ── Requests ────────────────────────────────────────────────────────────────────────────────────


def read_request(body: bytes, header_length: int | None) -> InferenceRequest:
    """Decodes a request.

    Args:
        body: JSON, and after it the data of binary tensors.
        header_length: Length of the JSON, when binary data follows.

    Raises:
        MalformedRequestError: It is not JSON, or lengths do not fit.
        InvalidRequestError: It does not have the protocol's shape.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise MalformedRequestError(
            f"Inference-Header-Content-Length: expected a length from 1 to the body's {len(body):,}"
            f" bytes, got {header_length:,}"
        )
    end = len(body) if header_length is None else header_length
    view = memoryview(body)
    try:
        document = orjson.loads(view[:end])
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
    names: set[str] = set()
    for position, item in enumerate(inputs):
        tensor, end = _read_tensor(item, position, view, end)
        if tensor.name in names:
            raise InvalidRequestError(f"inputs[{position}]: its name is given twice")
        names.add(tensor.name)
        tensors.append(tensor)
    if end != len(body):
        raise MalformedRequestError(
            f"expected the body to end with the last binary tensor, got {len(body) - end:,} bytes "
            "more: their sum is what the inputs' binary_data_size say"
        )
    return InferenceRequest(
        id=identifier,
        inputs=tuple(tensors),
        outputs=_read_outputs(document),
        binary=_flag(parameters, "binary_data_output", "the request"),
        entity=entity.encode() if isinstance(entity := parameters.get(ENTITY), str) else None,
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


def _read_tensor(item: Any, position: int, body: memoryview, start: int) -> tuple[Tensor, int]:
    """One input, and where the next one's binary data begins."""
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
    count = prod(shape)
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
        return Tensor(name, datatype, shape, _from_json(item["data"], datatype, shape, what)), start
    if type(size) is not int or size < 0:
        raise InvalidRequestError(f"{what}: expected binary_data_size to be a number of bytes")
    end = start + size
    if end > len(body):
        raise MalformedRequestError(
            f"{what}: expected {size:,} bytes of binary data, got {len(body) - start:,}"
        )
    values: Column
    if datatype == "BYTES":
        values = _strings(bytes(body[start:end]), count, what)
    else:
        dtype = _DTYPES[datatype]
        if size != count * dtype.itemsize:
            raise MalformedRequestError(
                f"{what}: expected {count * dtype.itemsize:,} bytes of binary data for {datatype} "
                f"{list(shape)}, got {size:,}"
            )
        values = np.frombuffer(body[start:end], dtype=dtype)
        if datatype == "BOOL" and values.view(np.uint8).max(initial=0) > 1:
            raise InvalidRequestError(f"{what}: expected BOOL as bytes of 0 or 1, got another")
    return Tensor(name, datatype, shape, values), end


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


def _strings(data: bytes, count: int, what: str) -> Coded:
    """The elements of a binary BYTES tensor: each a 32-bit length and as many bytes.

    Categories repeat: each distinct text becomes a string once, and no other object is made.
    """
    found = _coded(data, count)
    if found is None:
        parts = _parts(data, count, what)
        known = {part: code for code, part in enumerate(dict.fromkeys(parts))}
        found = np.array([known[part] for part in parts], dtype=np.intp), list(known)
    codes, distinct = found
    try:
        return Coded(codes, [text.decode() for text in distinct])
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"{what}: expected BYTES in UTF-8") from exc


def _coded(data: bytes, count: int) -> tuple[npt.NDArray[np.intp], list[bytes]] | None:
    """Elements as codes of the distinct ones, when that is quick: None says nothing of the data.

    The lengths are a chain, each leading to the next. Where they are below 256 and no element has a
    NUL, runs of NULs show all of them at once: three high bytes of a length, or four bytes for each
    empty element. What is found that way is held against the chain itself, so that it is right
    whatever the bytes are.
    """
    if count < _FEW:
        return None
    octets = np.frombuffer(data, dtype=np.uint8)
    starts = _starts(octets == 0, count)
    if starts is None or starts[0] != 0 or len(data) < starts[-1] + 4:
        return None
    sizes = octets.take(starts)
    begins = starts + 4
    ends = begins + sizes
    if ends[-1] != len(data) or (ends[:-1] != starts[1:]).any():
        return None
    return _distinct(data, begins, sizes)


def _starts(zero: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.intp] | None:
    """Where the lengths of so many elements may begin, by which bytes are NUL."""
    found = np.flatnonzero(zero[1:-2] & zero[2:-1] & zero[3:])
    if len(found) == count:  # none is empty
        return found
    edges = np.flatnonzero(np.diff(zero.view(np.int8), prepend=0, append=0))
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    high = lengths == _HIGH_BYTES
    if (lengths[~high] % 4).any():
        return None
    each = np.where(high, 1, lengths // 4)
    starts = np.repeat(np.where(high, begins - 1, begins), each)
    within = np.arange(len(starts)) - np.repeat(np.cumsum(each) - each, each)
    starts += 4 * within
    return starts if len(starts) == count else None


def _distinct(
    data: bytes, begins: npt.NDArray[np.intp], sizes: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.intp], list[bytes]] | None:
    """Codes of the distinct elements, by a hash of their words that is checked against them."""
    widest = int(np.maximum.reduce(sizes))
    if widest > _WIDEST:
        return None
    words = max(1, -(-widest // 8))
    # Eight bytes from any place on, as one number.
    padded = data + bytes(8 * words)
    windows = np.ndarray((len(padded) - 7,), np.dtype("<u8"), padded, strides=(1,))
    keys: list[npt.NDArray[np.uint64]] = []
    mixed = sizes.astype(np.uint64)
    for word in range(words):
        key = windows[begins + 8 * word if word else begins]
        key &= _MASKS[word].take(sizes)
        mixed = (mixed ^ key) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
        keys.append(key)
    bits = _SLOT_BITS if len(mixed) > _MANY else _FEW_SLOT_BITS
    slots = (mixed >> np.uint64(64 - bits)).view(np.int64)
    numbers = np.arange(len(slots), dtype=np.int32)
    table = np.empty(1 << bits, dtype=np.int32)
    table[slots] = numbers
    first = table.take(slots)
    if (sizes.take(first) != sizes).any() or any((k.take(first) != k).any() for k in keys):
        return None
    chosen = np.flatnonzero(first == numbers)
    if len(chosen) > len(first) // 2:
        return None
    code = np.empty(len(first), dtype=np.intp)
    code[chosen] = np.arange(len(chosen))
    spans = zip(begins[chosen].tolist(), (begins + sizes)[chosen].tolist(), strict=True)
    return code.take(first), [data[begin:end] for begin, end in spans]


def _parts(data: bytes, count: int, what: str) -> list[bytes]:
    """The elements, whatever they are.

    Raises:
        MalformedRequestError: The lengths do not add up.
    """
    parts: list[bytes] = []
    position = 0
    while position < len(data) and len(parts) <= count:
        if position + 4 > len(data):
            break
        (length,) = _LENGTH.unpack_from(data, position)
        begin, position = position + 4, position + 4 + length
        if position > len(data):
            break
        parts.append(data[begin:position])
    if position != len(data) or len(parts) != count:
        raise MalformedRequestError(
            f"{what}: expected {count:,} elements, each a 32-bit little-endian length and as many "
            f"bytes, in {len(data):,} bytes of binary data; the lengths do not add up"
        )
    return parts


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


# ── Signatures ──────────────────────────────────────────────────────────────────────────────────


class TensorMap:
    """What a signature is in tensors.

    Args:
        signature: What the model takes and gives.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._features = {f.name: f for f in signature.features}
        self._packed: dict[str, tuple[str, ...]] = {}
        if not {NUMERIC_INPUT, CATEGORICAL_INPUT} & self._features.keys():
            for name, features in (
                (NUMERIC_INPUT, signature.numeric),
                (CATEGORICAL_INPUT, signature.categorical),
            ):
                if features:
                    self._packed[name] = tuple(f.name for f in features)
        self._label_type = {
            ColumnType.INTEGER: "INT64",
            ColumnType.BOOLEAN: "BOOL",
        }.get(signature.target_type, "BYTES")
        self._labels, self._raw_labels = self._known_labels()

    def _known_labels(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.object_]]:
        """Every class in its datatype, and each as an element of binary BYTES."""
        classes = self.signature.classes
        raw = np.empty(len(classes), dtype=object)
        raw[:] = [_LENGTH.pack(len(c.encode())) + c.encode() for c in classes]
        if self._label_type == "INT64":
            return np.array([int(c) for c in classes], dtype="<i8"), raw
        if self._label_type == "BOOL":
            return np.array([c.lower() in ("true", "1") for c in classes], dtype=np.bool_), raw
        texts = np.empty(len(classes), dtype=object)
        texts[:] = classes
        return texts, raw

    def metadata(self) -> dict[str, Any]:
        """``inputs``, ``outputs`` and ``properties`` of the model's metadata."""
        signature = self.signature
        outputs: list[dict[str, Any]]
        if signature.task is Task.REGRESSION:
            outputs = [{"name": PREDICTION_OUTPUT, "datatype": "FP32", "shape": [-1]}]
        else:
            outputs = [
                {"name": LABEL_OUTPUT, "datatype": self._label_type, "shape": [-1]},
                {
                    "name": PROBABILITIES_OUTPUT,
                    "datatype": "FP32",
                    "shape": [-1, len(signature.classes)],
                },
            ]
        properties = {"task": signature.task.value, "target": signature.target}
        if signature.classes:
            properties["classes"] = orjson.dumps(signature.classes).decode()
        for name, features in self._packed.items():
            properties[f"packed.{name}"] = orjson.dumps(features).decode()
        return {
            "inputs": [
                {"name": f.name, "datatype": _OF_FEATURE[f.type], "shape": [-1]}
                for f in signature.features
            ],
            "outputs": outputs,
            "properties": properties,
        }

    # ── In ──────────────────────────────────────────────────────────────────────────────────────

    def batch(self, request: InferenceRequest, codec: SignatureCodec) -> Batch:
        """The request's rows as the model takes them.

        Args:
            request: The request.
            codec: Of the same signature.

        Raises:
            RequestTooLargeError: More rows than one request may carry.
            InvalidRequestError: Names what does not fit.
        """
        packed = self._packed_as_they_are(request)
        batch = None if packed is None else codec.decode_packed(packed)
        return codec.decode_columns(self.columns(request)) if batch is None else batch

    def _packed_as_they_are(self, request: InferenceRequest) -> Packed | None:
        """A request's packed tensors as they are, where their shapes and datatypes fit."""
        given = {tensor.name: tensor for tensor in request.inputs}
        if not given or given.keys() != self._packed.keys():
            return None
        rows = request.inputs[0].shape[0]
        for name, features in self._packed.items():
            if given[name].shape != (rows, len(features)):
                return None
        numeric: Any = np.empty((rows, 0), dtype=np.float32)
        if NUMERIC_INPUT in given:
            values = given[NUMERIC_INPUT].values
            if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
                return None
            numeric = values.reshape(rows, -1)
        categorical = given[CATEGORICAL_INPUT].values if CATEGORICAL_INPUT in given else None
        if categorical is not None and not isinstance(categorical, Coded):
            return None
        return Packed(rows, numeric, categorical)

    def columns(self, request: InferenceRequest) -> dict[str, Column]:
        """The request's tensors as columns by feature, in either form.

        Raises:
            InvalidRequestError: Names every tensor whose datatype or shape does not fit.
        """
        names = {tensor.name for tensor in request.inputs}
        if names and names <= self._packed.keys():
            return self._unpack(request.inputs)
        report = Report(self.signature.model)
        for name in (n for n in self._packed if n in names):
            report.add(name, "packs all features: it comes with no tensors of single ones")
        report.refuse()
        columns: dict[str, Column] = {}
        for position, tensor in enumerate(request.inputs):
            if len(tensor.shape) == 2 and tensor.shape[1] != 1:
                report.add(
                    tensor.name if tensor.name in self._features else f"inputs[{position}]",
                    f"expected shape [n] or [n, 1], got {list(tensor.shape)}",
                )
            feature = self._features.get(tensor.name)
            if feature is None:
                report.add(f"inputs[{position}]", f"is no feature of model {self.signature.model}")
            elif not _fits(feature, tensor.datatype):
                report.add(feature.name, _wrong_datatype(feature, tensor.datatype))
            columns[tensor.name] = tensor.values
        report.refuse()
        return columns

    def _unpack(self, inputs: Sequence[Tensor]) -> dict[str, Column]:
        report = Report(self.signature.model)
        given = {tensor.name: tensor for tensor in inputs}
        columns: dict[str, Column] = {}
        for name, features in self._packed.items():
            tensor = given.get(name)
            if tensor is None:
                report.add(name, "is missing: the packed form has all its tensors")
                continue
            if name == NUMERIC_INPUT:
                fits, expected = tensor.datatype in _NUMERIC, "FP32"
            else:
                fits, expected = tensor.datatype == "BYTES", "BYTES"
            if not fits:
                report.add(name, f"expected datatype {expected}, got {tensor.datatype}")
            if len(tensor.shape) != 2 or tensor.shape[1] != len(features):
                report.add(name, f"expected shape [n, {len(features)}], got {list(tensor.shape)}")
        lengths = {tensor.shape[0] for tensor in inputs}
        if len(lengths) > 1:
            report.add(NUMERIC_INPUT, "has another number of rows than categorical")
        report.refuse()
        for name, features in self._packed.items():
            values, width = given[name].values, len(features)
            for position, feature in enumerate(features):
                column = _every(values, position, width)
                if self._features[feature].type is ColumnType.BOOLEAN:
                    column = _as_flags(column, feature, report)
                columns[feature] = column
        report.refuse()
        return columns

    # ── Out ─────────────────────────────────────────────────────────────────────────────────────

    def expect_outputs(self, wanted: Mapping[str, bool] | None) -> None:
        """Refuses outputs that the model does not have, before it runs.

        Raises:
            InvalidRequestError: Names the first that is unknown.
        """
        known = self.outputs
        for position, name in enumerate(wanted or ()):
            if name not in known:
                raise InvalidRequestError(
                    f"outputs[{position}] is none of model {self.signature.model}; "
                    f"its outputs are {', '.join(known)}"
                )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        if self.signature.task is Task.REGRESSION:
            return (PREDICTION_OUTPUT,)
        return (LABEL_OUTPUT, PROBABILITIES_OUTPUT)

    def answer(
        self,
        request: InferenceRequest,
        output: npt.NDArray[np.float32],
        *,
        version: int,
        parameters: Mapping[str, str | int | bool],
    ) -> tuple[bytes, int | None]:
        """The response body, and the length of its JSON when binary tensors follow.

        Args:
            request: Says what is wanted, and how.
            output: Probabilities [rows, classes], or predictions [rows] of a regression.
            version: The model version that answered.
            parameters: Parameters of the response.
        """
        wanted = request.outputs
        if wanted is None:
            wanted = dict.fromkeys(self.outputs, request.binary)
        top = output.argmax(axis=1) if LABEL_OUTPUT in wanted else None
        described: list[dict[str, Any]] = []
        parts: list[bytes] = [b""]
        for name, binary in wanted.items():
            entry: dict[str, Any]
            if name == LABEL_OUTPUT and top is not None:
                entry = {"name": name, "datatype": self._label_type, "shape": [len(top)]}
                content: Any = self._label_bytes(top) if binary else self._labels[top].tolist()
            else:
                entry = {"name": name, "datatype": "FP32", "shape": list(output.shape)}
                flat = np.ascontiguousarray(output, dtype="<f4").reshape(-1)
                content = flat.tobytes() if binary else flat
            if binary:
                entry["parameters"] = {"binary_data_size": len(content)}
                parts.append(content)
            else:
                entry["data"] = content
            described.append(entry)
        document: dict[str, Any] = {
            "model_name": self.signature.model,
            "model_version": str(version),
        }
        if request.id is not None:
            document["id"] = request.id
        document["parameters"] = parameters
        document["outputs"] = described
        parts[0] = header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        return (header, None) if len(parts) == 1 else (b"".join(parts), len(header))

    def _label_bytes(self, top: npt.NDArray[np.intp]) -> bytes:
        if self._label_type == "BYTES":
            return b"".join(self._raw_labels[top].tolist())
        picked: bytes = self._labels[top].tobytes()
        return picked


def _every(values: Column, position: int, width: int) -> Column:
    """One column of a tensor; a coded one keeps the texts of all, of which it uses some."""
    if isinstance(values, Coded):
        return Coded(values.codes[position::width], values.values)
    return values[position::width]


def _fits(feature: FeatureField, datatype: str) -> bool:
    if feature.type in (ColumnType.INTEGER, ColumnType.NUMBER):
        return datatype in _NUMERIC
    return datatype == _OF_FEATURE[feature.type]


def _wrong_datatype(feature: FeatureField, came: str) -> str:
    expected = _OF_FEATURE[feature.type]
    other = " or another numeric one" if expected in _NUMERIC else ""
    return f"expected datatype {expected}{other}, got {came}"


def _as_flags(column: Column, feature: str, report: Report) -> Column:
    """A boolean column of the packed numbers: 0, 1, or missing."""
    numbers = np.asarray(column, dtype=np.float64)
    missing = np.isnan(numbers)
    wrong = ~(missing | (numbers == 0) | (numbers == 1))
    for row in np.flatnonzero(wrong).tolist():
        report.add(feature, f"expected 0 or 1 for a boolean in {NUMERIC_INPUT}, got another", row)
    flags: npt.NDArray[np.bool_] = numbers == 1
    if not missing.any():
        return flags
    return [None if gone else flag for flag, gone in zip(flags.tolist(), missing, strict=True)]
