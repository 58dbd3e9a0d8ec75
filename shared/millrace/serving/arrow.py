"""Arrow's IPC streams, read and written with nanoarrow: columns as they lie in memory.

Read are integers, floating-point numbers, booleans and texts, plain or dictionary-encoded, in any
number of record batches. What has another type is a column of the wrong kind, which the codec
refuses by name like any other.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import nanoarrow as na
import numpy as np
import numpy.typing as npt
from nanoarrow.c_array import c_array_from_buffers
from nanoarrow.ipc import InputStream, StreamWriter

from millrace.errors import MalformedRequestError
from millrace.serving.codec import SignatureCodec
from millrace.serving.columns import Coded, Column

_NUMBERS: Final = frozenset(
    {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"half_float", "float", "double"}
)
_TEXTS: Final = frozenset({"string", "large_string"})
_NUMPY_OF: Final = {"half_float": "float16", "float": "float32", "double": "float64"}


def read_arrow(body: bytes, codec: SignatureCodec) -> dict[str, Column]:
    """The columns of a stream by name.

    Args:
        body: An Arrow IPC stream of one schema.
        codec: Of the model that is asked.

    Raises:
        MalformedRequestError: The bytes are no such stream.
        InvalidRequestError: A column is given twice.
    """
    try:
        with na.c_array_stream(InputStream.from_readable(io.BytesIO(body))) as stream:
            schema = stream.get_schema()
            names = [child.name or "" for child in schema.children]
            batches = list(stream)
    except (ValueError, RuntimeError, NotImplementedError, UnicodeDecodeError) as exc:
        raise MalformedRequestError(
            "expected an Arrow IPC stream (application/vnd.apache.arrow.stream), and the body "
            "cannot be read as one"
        ) from exc
    codec.refuse_twice(names, "columns")
    columns: dict[str, Column] = {}
    for position, (name, field) in enumerate(zip(names, schema.children, strict=True)):
        parts = [_column(field, batch.child(position)) for batch in batches]
        columns[name] = _joined(parts)
    return columns


def _column(field: Any, array: Any) -> Column:
    """One column of one record batch."""
    if field.dictionary is not None:
        values = _column(field.dictionary, array.dictionary)
        codes = _numbers(array.view())
        mask = _missing(array.view())
        signed = codes.astype(np.int64)
        if mask is not None:
            signed[mask] = -1
        texts = values.tolist() if isinstance(values, np.ndarray) else list(values)  # type: ignore[arg-type]
        return Coded(signed, texts)
    view = array.view()
    kind = view.storage_type
    if kind in _NUMBERS and _is_plain(field):
        values = _numbers(view)
    elif kind == "bool":
        values = _bits(view)
    elif kind in _TEXTS:
        return _objects(_strings(view))
    elif kind == "string_view":
        return _objects(na.Array(array).to_pylist())
    elif kind == "na":
        return np.empty(view.length, dtype=object)
    else:
        # Times and dates, decimals, lists: the codec refuses what has such a dtype.
        return np.empty(view.length, dtype="M8[s]" if field.format.startswith("t") else "V1")
    mask = _missing(view)
    return values if mask is None else np.ma.MaskedArray(values, mask)


def _is_plain(field: Any) -> bool:
    """Whether integers mean numbers: dates and times are stored as integers too."""
    return bool(field.format in "cCsSiIlLefg")


def _numbers(view: Any) -> npt.NDArray[Any]:
    kind = _NUMPY_OF.get(view.storage_type, view.storage_type)
    if view.length == 0:
        return np.empty(0, dtype=kind)
    return np.asarray(view.buffer(1))[view.offset : view.offset + view.length]


def _strings(view: Any) -> list[str | None]:
    if view.length == 0:
        return []
    ends = np.asarray(view.buffer(1))[view.offset : view.offset + view.length + 1].tolist()
    content = bytes(view.buffer(2))
    texts: list[str | None]
    try:
        if content.isascii():
            whole = content.decode("ascii")
            texts = [whole[a:b] for a, b in pairwise(ends)]
        else:
            texts = [content[a:b].decode() for a, b in pairwise(ends)]
    except UnicodeDecodeError as exc:
        raise MalformedRequestError("a text of the Arrow stream is not UTF-8") from exc
    missing = _missing(view)
    if missing is not None:
        for row in np.flatnonzero(missing).tolist():
            texts[row] = None
    return texts


def _bits(view: Any) -> npt.NDArray[np.bool_]:
    return _unpacked(view.buffer(1), view)


def _missing(view: Any) -> npt.NDArray[np.bool_] | None:
    """Which values are null, or None when none is."""
    validity = view.buffer(0)
    if view.null_count == 0 or validity.size_bytes == 0:
        return None
    return ~_unpacked(validity, view)


def _unpacked(buffer: Any, view: Any) -> npt.NDArray[np.bool_]:
    if view.length == 0:
        return np.empty(0, dtype=np.bool_)
    packed = np.frombuffer(buffer, dtype=np.uint8)
    bits = np.unpackbits(packed, bitorder="little", count=view.offset + view.length)
    return bits[view.offset :].astype(np.bool_)


def _joined(parts: Sequence[Column]) -> Column:
    """The record batches of one column as one."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return np.empty(0, dtype=object)
    if any(isinstance(part, Coded) for part in parts):
        return _objects([text for part in parts for text in _texts(part)])
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if any(isinstance(a, np.ma.MaskedArray) for a in arrays):
        joined: npt.NDArray[Any] = np.ma.concatenate(arrays)
        return joined
    return np.concatenate(arrays)


def _texts(column: Column) -> list[Any]:
    if isinstance(column, Coded):
        try:
            return [None if code < 0 else column.values[code] for code in column.codes.tolist()]
        except IndexError as exc:
            raise MalformedRequestError("a code of the Arrow stream has no text") from exc
    return list(column.tolist() if isinstance(column, np.ndarray) else column)


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────


def arrow_of(columns: Mapping[str, npt.NDArray[Any] | list[Any]]) -> bytes:
    """A table as an Arrow IPC stream of one record batch."""
    types: dict[str, Any] = {}
    children = []
    for name, values in columns.items():
        if isinstance(values, np.ndarray):
            kind = na.float32() if values.dtype == np.float32 else na.float64()
            child = c_array_from_buffers(kind, len(values), [None, values], null_count=0)
        else:
            first = values[0]
            kind = (
                na.bool_()
                if isinstance(first, bool)
                else na.int64()
                if isinstance(first, int)
                else na.string()
            )
            child = na.c_array(values, kind)
        types[name] = kind
        children.append(child)
    schema = na.struct(types, nullable=False)
    rows = len(next(iter(columns.values())))
    table = c_array_from_buffers(schema, rows, [None], null_count=0, children=children)
    out = io.BytesIO()
    with StreamWriter.from_writable(out) as writer:
        writer.write_array(table)
    return out.getvalue()


def _objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made
