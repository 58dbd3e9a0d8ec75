"""What can be told of an ONNX file, and done to it, by its bytes alone.

An ONNX file is one protocol buffers message (onnx.proto, github.com/onnx/onnx; the encoding is that of
protobuf.dev/programming-guides/encoding). The functions that serve have no `onnx` package: it takes as
much room as all the rest of them. What they need of a file is little: whether it points at others, and
the part of our own graphs that comes after the categories were ranked.
"""

import struct
from collections.abc import Iterator, Sequence
from math import isnan
from typing import Final, NamedTuple

from millrace.errors import ArtifactError
from millrace.signature import CATEGORICAL_INPUT, NUMERIC_INPUT

FEATURES: Final = "features"
"""The tensor float32 [rows, width] that our graphs make of both inputs, and the model proper takes."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_FLOAT: Final = struct.Struct("<f")


class _Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: Which.
        wire_type: How its value is written.
        begin: Where its key begins.
        value: A varint's value; else where the value begins.
        end: Where the next field begins.
    """

    number: int
    wire_type: int
    begin: int
    value: int
    end: int


def _fields(body: bytes, position: int, end: int, what: str) -> Iterator[_Field]:
    """The fields of a message.

    Raises:
        ArtifactError: It is not well formed.
    """
    while position < end:
        begin = position
        key, position = _varint(body, position, end, what)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(body, position, end, what)
        elif wire_type == _BYTES:
            length, value = _varint(body, position, end, what)
            position = value + length
        elif wire_type in _SIZES:
            value, position = position, position + _SIZES[wire_type]
        else:
            raise ArtifactError(f"{what}: the file is no ONNX model: unknown protobuf wire type")
        if position > end:
            raise _truncated(what)
        yield _Field(number, wire_type, begin, value, position)
    if position != end:
        raise _truncated(what)


def _varint(body: bytes, position: int, end: int, what: str) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _truncated(what)


def _truncated(what: str) -> ArtifactError:
    return ArtifactError(f"{what}: the file is truncated or no ONNX model")


# ── External data ───────────────────────────────────────────────────────────────────────────────
# The messages of onnx.proto that can hold a TensorProto, and the field numbers that lead there.

_MODEL: Final = "ModelProto"
_TENSOR: Final = "TensorProto"
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    _MODEL: {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR,
        6: "GraphProto",
        10: _TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_EXTERNAL_DATA_FIELD: Final = 13
_DATA_LOCATION_FIELD: Final = 14


def refers_to_external_data(body: bytes, what: str = "the model") -> bool:
    """Whether any tensor of an ONNX model lives outside the file.

    External data needs an entry with the key ``location``; a file without these bytes has none,
    which a search tells at once. Only a file that has them is walked message by message (they may
    be a category's name).

    Raises:
        ArtifactError: The file is no well-formed protobuf message.
    """
    if b"location" not in body:
        return False
    pending = [(_MODEL, 0, len(body))]
    while pending:
        message, position, end = pending.pop()
        children = _CHILDREN[message]
        for field in _fields(body, position, end, what):
            if message == _TENSOR:
                if field.number == _EXTERNAL_DATA_FIELD:
                    return True
                # Its only other value is 0: in the file.
                if field.number == _DATA_LOCATION_FIELD and field.value != 0:
                    return True
            elif field.wire_type == _BYTES and field.number in children:
                pending.append((children[field.number], field.value, field.end))
    return False


# ── Behind the categories ───────────────────────────────────────────────────────────────────────

_GRAPH: Final = 7
_NODE, _INPUT = 1, 11
_MATRIX: Final = 2
"""Dimensions."""
_RANKING: Final = frozenset({"keys_strings", "values_floats", "default_float"})


class Ranked(NamedTuple):
    """A model behind its categories.

    Attributes:
        body: An ONNX file that takes `FEATURES` alone: the numbers, if any, and then the rank of each
            category, NaN for none that has a rank.
        ranks: Of each categorical feature, its categories' ranks; empty for a model without any.
    """

    body: bytes
    ranks: tuple[dict[str, float], ...]


class _Node(NamedTuple):
    """A node of a graph.

    Attributes:
        type: Its operator.
        inputs: What it takes.
        outputs: What it gives.
        attributes: Where each is.
    """

    type: str
    inputs: list[str]
    outputs: list[str]
    attributes: list[_Field]


def behind_ranks(body: bytes, what: str = "the model") -> Ranked | None:
    """The part of a model's graph that comes after its categories became ranks.

    Taking texts apart, looking them up and joining the columns is a tenth of a run of a hundred trees,
    and nearly half of one of a single row; whoever has the texts in hand has their ranks in less.

    Args:
        body: The ONNX file.
        what: What it is called in an error.

    Returns:
        None when the graph is not made that way, as those that have a feature for every category are.

    Raises:
        ArtifactError: The file is no well-formed protobuf message.
    """
    model = list(_fields(body, 0, len(body), what))
    graphs = [field for field in model if field.number == _GRAPH and field.wire_type == _BYTES]
    if len(graphs) != 1:
        return None
    [graph] = graphs
    ranking = _Ranking()
    numbers: int | None = 0
    view = memoryview(body)  # a model may be large, and is put together once
    kept: list[bytes | memoryview] = []
    for field in _fields(body, graph.value, graph.end, what):
        if field.number in (_NODE, _INPUT) and field.wire_type != _BYTES:
            raise _truncated(what)
        if field.number == _NODE:
            node = _node(body, field, what)
            if ranking.takes(node, body, what):
                continue
            if not (ranking.is_over and ranking.names.isdisjoint((*node.inputs, *node.outputs))):
                return None
        if field.number == _INPUT:
            name, width = _matrix(body, field, what)
            if name == NUMERIC_INPUT:
                numbers = width
        else:
            kept.append(view[field.begin : field.end])
    if not ranking.is_over or numbers is None:
        return None
    kept.append(_message(_INPUT, _float_matrix(FEATURES, numbers + len(ranking.ranks))))
    others = [view[f.begin : f.end] for f in model if f is not graph]
    key = _key(_GRAPH, sum(map(len, kept)))
    return Ranked(b"".join((*others, key, *kept)), tuple(ranking.ranks))


class _Ranking:
    """Recognises the nodes from both inputs to `FEATURES`, in the order that we write them."""

    def __init__(self) -> None:
        self.ranks: list[dict[str, float]] = []
        self.names = {NUMERIC_INPUT, CATEGORICAL_INPUT}
        """Tensors that nothing behind may take."""
        self.is_over = False
        self._columns = [CATEGORICAL_INPUT]
        self._ranked: list[str] = []

    def takes(self, node: _Node, body: bytes, what: str) -> bool:
        """Whether a node is one of them."""
        if self.is_over:
            return False
        match node:
            case _Node("Split", [name], outputs, _) if name == CATEGORICAL_INPUT:
                if self.ranks or self._columns != [CATEGORICAL_INPUT]:
                    return False
                self._columns = outputs
                self.names.update(outputs)
                return True
            case _Node("LabelEncoder", [name], [output], attributes):
                place = len(self.ranks)
                ranks = _ranks(body, attributes, what)
                if ranks is None or place == len(self._columns) or self._columns[place] != name:
                    return False
                self.ranks.append(ranks)
                self._ranked.append(output)
                self.names.add(output)
                return True
            case _Node("Concat", inputs, [output], _) if output == FEATURES:
                all_of_them = not self._ranked or len(self._ranked) == len(self._columns)
                joined = inputs[1:] if inputs[:1] == [NUMERIC_INPUT] else inputs
                self.is_over = all_of_them and joined == self._ranked
                return self.is_over
        return False


# The numbers below are those of the fields of NodeProto, AttributeProto and ValueInfoProto.


def _node(body: bytes, node: _Field, what: str) -> _Node:
    found = _Node("", [], [], [])
    for field in _messages(body, node, what):
        match field.number:
            case 1:
                found.inputs.append(_text(body, field, what))
            case 2:
                found.outputs.append(_text(body, field, what))
            case 4:
                found = found._replace(type=_text(body, field, what))
            case 5:
                found.attributes.append(field)
    return found


def _ranks(body: bytes, attributes: Sequence[_Field], what: str) -> dict[str, float] | None:
    """The table of a LabelEncoder from texts to numbers, NaN for all others; None of another kind."""
    texts: list[str] = []
    values: list[float] = []
    default = 0.0
    for attribute in attributes:
        name = ""
        for field in _fields(body, attribute.value, attribute.end, what):
            match field.number, field.wire_type:
                case 1, 2:
                    name = _text(body, field, what)
                case 2, 5:
                    (default,) = _FLOAT.unpack_from(body, field.value)
                case 7, 5:
                    values += _FLOAT.unpack_from(body, field.value)
                case 7, 2:  # packed
                    if (field.end - field.value) % _FLOAT.size:
                        raise _truncated(what)
                    values += (v for (v,) in _FLOAT.iter_unpack(body[field.value : field.end]))
                case 9, 2:
                    texts.append(_text(body, field, what))
        if name not in _RANKING:
            return None
    if not isnan(default) or len(texts) != len(values) or len(set(texts)) != len(texts):
        return None
    return dict(zip(texts, values, strict=True))


def _messages(body: bytes, message: _Field, what: str) -> Iterator[_Field]:
    """A message's fields that hold messages, texts or bytes."""
    return (f for f in _fields(body, message.value, message.end, what) if f.wire_type == _BYTES)


def _text(body: bytes, field: _Field, what: str) -> str:
    try:
        return body[field.value : field.end].decode()
    except UnicodeDecodeError as exc:
        raise _truncated(what) from exc


def _message(number: int, content: bytes) -> bytes:
    """A field that holds a message or a text."""
    return _key(number, len(content)) + content


def _key(number: int, length: int) -> bytes:
    """What stands before a message or a text."""
    return bytes((number << 3 | _BYTES,)) + _written(length)


def _written(number: int) -> bytes:
    """A varint."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*digits, number))


def _float_matrix(name: str, width: int) -> bytes:
    """A ValueInfoProto: float32 [rows, width]."""
    shape = _message(1, _message(2, b"rows")) + _message(1, b"\x08" + _written(width))
    tensor = b"\x08\x01" + _message(2, shape)
    return _message(1, name.encode()) + _message(2, _message(1, tensor))


def _matrix(body: bytes, info: _Field, what: str) -> tuple[str, int | None]:
    """Name and width of a ValueInfoProto, None where the width is not fixed."""
    name = ""
    path: list[_Field] = []
    for field in _messages(body, info, what):
        if field.number == 1:
            name = _text(body, field, what)
        elif field.number == 2:
            path = [field]
    for number in (1, 2):  # of a tensor its shape
        path = [f for p in path for f in _messages(body, p, what) if f.number == number]
    sizes = [f for p in path for f in _messages(body, p, what)]
    if len(sizes) != _MATRIX:
        return name, None
    last = sizes[-1]
    fixed = [
        f.value
        for f in _fields(body, last.value, last.end, what)
        if (f.number, f.wire_type) == (1, _VARINT)
    ]
    return name, fixed[0] if fixed else None
