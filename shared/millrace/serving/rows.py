"""JSON bodies read in one step, for the codec: what cannot be read here is read elsewhere.

`msgspec` decodes straight into records of the signature's own fields: no dictionary per row, no key
twice in memory, and every value looked at on the way. There are two readers:

* `PlainReader` takes rows and columns in which every value is *plain*: of its feature's type, within
  the training contract, and a text that the model knows as it is. Nothing is left to be checked then.
* `RowReader` takes rows of the right types; whether they are plain is for others to say.

Of what it refuses `msgspec` says only the first thing that is wrong, and of a key that comes twice
nothing; so the codec takes a body from here when all is well, and otherwise reads it again
thoroughly. A test holds all to the same answers.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET
from msgspec.structs import astuple

from millrace.serving.features import TextColumns
from millrace.serving.packed import PlainNumbers
from millrace.serving.texts import Texts
from millrace.signature import FeatureField
from millrace.vocabulary import ColumnType

_TYPES: Final[Mapping[ColumnType, type]] = {
    # Integers too: what writes 41.0 for 41 is taken by its value, as elsewhere.
    ColumnType.INTEGER: float,
    ColumnType.NUMBER: float,
    ColumnType.BOOLEAN: bool,
    ColumnType.STRING: str,
}
_SHORT: Final = 8
"""Rows up to which arrays are made of them sooner than of their columns."""
_LONGEST_WAIT: Final = 63

type Row = tuple[Any, ...]
type _Columns = tuple[npt.NDArray[np.float32], TextColumns]


class PlainBody(NamedTuple):
    """A body in which nothing is remarkable.

    Attributes:
        rows: How many.
        numeric: float32 [rows, k], missing NaN.
        texts: Of each text feature its values, missing the empty string.
        options: The body's other keys.
        pairs: How many keys the body has when none comes twice.
    """

    rows: int
    numeric: npt.NDArray[np.float32]
    texts: TextColumns
    options: dict[str, Any]
    pairs: int


class PlainReader:
    """Reads bodies with ``rows`` or ``columns`` of some features, all of them plain.

    After a body that is not, the next is not tried; if the one after it is not either, the next three,
    and so on: where values are often remarkable, few bodies are read twice.

    Args:
        numbers: The numeric and boolean features, in the order that the model takes them.
        plain: Says which of their values are plain.
        texts: The string features, in that order.
        options: Names of the body's other keys, and their types.

    Raises:
        ValueError: A feature's name cannot be a field's.
    """

    def __init__(
        self,
        numbers: Sequence[FeatureField],
        plain: PlainNumbers,
        texts: Sequence[Texts],
        options: Mapping[str, Any],
    ) -> None:
        features = (*numbers, *(t.feature for t in texts))
        kinds = [
            *(_plain_number(f, *bounds) for f, bounds in zip(numbers, plain.bounds, strict=True)),
            *map(_plain_text, texts),
        ]
        row = _record("Row", features, kinds)
        columns = _record("Columns", features, [list[kind] for kind in kinds])  # type: ignore[valid-type]
        forms = [("rows", list[row], UNSET), ("columns", columns, UNSET)]  # type: ignore[valid-type]
        self._decode = _decoder(forms, options)
        self._options = tuple(options)
        self._width, self._count = len(numbers), len(features)
        self._texts = tuple(texts)
        self._wait = self._skipped = 0

    def read(self, body: bytes) -> PlainBody | None:
        """The arrays of a body; None when something in it is not plain, or was not of late."""
        if self._skipped < self._wait:
            self._skipped += 1
            return None
        read = self._read(body)
        self._skipped = 0
        self._wait = 0 if read is not None else min(2 * self._wait + 1, _LONGEST_WAIT)
        return read

    def _read(self, body: bytes) -> PlainBody | None:
        document = _decoded(self._decode, body)
        if document is None:
            return None
        rows, columns, *given = document
        if (rows is UNSET) is (columns is UNSET):
            return None
        options = _given(self._options, given)
        if columns is UNSET:
            values = list(map(astuple, rows))
            count, pairs = len(values), len(values) * self._count
        else:
            lists = astuple(columns)
            count, pairs = len(lists[0]), self._count
            if any(len(each) != count for each in lists):
                return None
        if count == 0:
            return None
        if count <= _SHORT:
            read = self._of_rows(values if columns is UNSET else list(zip(*lists, strict=True)))
        else:
            read = self._of_columns(
                list(zip(*values, strict=True)) if columns is UNSET else lists, count
            )
        if read is None:
            return None
        return PlainBody(count, *read, options, 1 + len(options) + pairs)

    def _of_rows(self, rows: Sequence[Row]) -> _Columns | None:
        width = self._width
        texts = self._plain_texts(list(zip(*[row[width:] for row in rows], strict=True)))
        if texts is None:
            return None
        return np.array([row[:width] for row in rows], dtype=np.float32), texts

    def _of_columns(self, columns: Sequence[Sequence[Any]], rows: int) -> _Columns | None:
        width, pack = self._width, struct.Struct(f"{rows}f").pack
        texts = self._plain_texts(columns[width:])
        if texts is None:
            return None
        parts: list[bytes] = []
        for values in columns[:width]:
            try:
                # A third of the time of NumPy's own conversion, and it takes no null.
                parts.append(pack(*values))
            except struct.error:
                parts.append(np.array(values, dtype=np.float32).tobytes())
        return np.frombuffer(b"".join(parts), dtype=np.float32).reshape(width, rows).T, texts

    def _plain_texts(self, columns: Sequence[Sequence[Any]]) -> TextColumns | None:
        plain: list[Sequence[str]] = []
        for texts, values in zip(self._texts, columns, strict=True):
            # The decoder has looked at those of a closed vocabulary, but for what may be missing.
            column = values if texts.closed and None not in values else texts.plain(values)
            if column is None:
                return None
            plain.append(column)
        return plain


class RowReader:
    """Reads bodies with ``rows`` of some features.

    Args:
        features: In the order that the tuples shall have.
        options: Names of the body's other keys, and their types.

    Raises:
        ValueError: A feature's name cannot be a field's.
    """

    def __init__(self, features: Sequence[FeatureField], options: Mapping[str, Any]) -> None:
        row = _record("Row", features, list(map(_typed, features)))
        self._decode = _decoder([("rows", list[row])], options)  # type: ignore[valid-type]
        self._options = tuple(options)

    def read(self, body: bytes) -> tuple[list[Row], dict[str, Any]] | None:
        """The rows, and the other keys that came; None when something is not as it should be."""
        document = _decoded(self._decode, body)
        if document is None:
            return None
        rows, *given = document
        return list(map(astuple, rows)), _given(self._options, given)


def _plain_number(
    feature: FeatureField, least: float, most: float, whole: bool, nullable: bool
) -> Any:
    kind: Any = Annotated[float, msgspec.Meta(ge=least, le=most)]
    if feature.type is ColumnType.BOOLEAN:
        kind = bool
    elif whole:
        kind = Annotated[int, msgspec.Meta(ge=math.ceil(least), le=math.floor(most))]
    return kind | None if nullable else kind


def _plain_text(texts: Texts) -> Any:
    # Of a closed vocabulary the decoder gives the text that is there already, and no other.
    kind: Any = Literal[tuple(sorted(texts.closed))] if texts.closed else str
    return kind | None if texts.feature.nullable else kind


def _typed(feature: FeatureField) -> Any:
    kind: Any = _TYPES[feature.type]
    return kind | None if feature.nullable else kind


def _record(name: str, features: Sequence[FeatureField], kinds: Sequence[Any]) -> type:
    fields = [(f"f{position}", kind) for position, kind in enumerate(kinds)]
    names = {f"f{position}": feature.name for position, feature in enumerate(features)}
    return msgspec.defstruct(name, fields, rename=names, forbid_unknown_fields=True, gc=False)


def _decoder(fields: Sequence[Any], options: Mapping[str, Any]) -> Callable[[bytes], Any]:
    """Reads no value of any type: of what is typed, nothing can be nested deeper than it should be."""
    body = msgspec.defstruct(
        "Body",
        [*fields, *((name, kind, UNSET) for name, kind in options.items())],
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(body).decode


def _decoded(decode: Callable[[bytes], Any], body: bytes) -> Row | None:
    """The values of a body's keys; None when something is not as it should be."""
    try:
        return astuple(decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _given(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The options that came."""
    return {n: v for n, v in zip(names, values, strict=True) if v is not UNSET}
