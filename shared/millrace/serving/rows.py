"""JSON rows into typed tuples in one step, for the codec: what it cannot read is read elsewhere.

`msgspec` decodes straight into records of the signature's own fields: no dictionary per row, no key
twice in memory, and every value's type checked on the way, in half the time that parsing and
picking take. It says of what it refuses only the first thing that is wrong, and of a key that comes
twice nothing; so the codec takes a body from here when all is well, and otherwise reads it again
thoroughly. A test holds both to the same answers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from millrace.signature import FeatureField
from millrace.vocabulary import ColumnType

_KINDS: Final[Mapping[ColumnType, type]] = {
    # Integers too: what writes 41.0 for 41 is taken by its value, as elsewhere.
    ColumnType.INTEGER: float,
    ColumnType.NUMBER: float,
    ColumnType.BOOLEAN: bool,
    ColumnType.STRING: str,
}
_ABSENT: Final = msgspec.UNSET

type Row = tuple[Any, ...]


class RowReader:
    """Reads bodies with ``rows`` of some features.

    Args:
        features: In the order that the tuples shall have.
        options: Names of the body's other keys.

    Raises:
        ValueError: A feature's name cannot be a field's.
    """

    def __init__(self, features: Sequence[FeatureField], options: Sequence[str]) -> None:
        fields: list[tuple[str, Any]] = []
        names: dict[str, str] = {}
        for position, feature in enumerate(features):
            kind = _KINDS[feature.type]
            fields.append((f"f{position}", kind | None if feature.nullable else kind))
            names[f"f{position}"] = feature.name
        row = msgspec.defstruct("Row", fields, rename=names, forbid_unknown_fields=True, gc=False)
        body = msgspec.defstruct(
            "Body",
            [("rows", list[row]), *((name, Any, _ABSENT) for name in options)],  # type: ignore[valid-type]
            forbid_unknown_fields=True,
        )
        self._options = tuple(options)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(body).decode

    def read(self, body: bytes) -> tuple[list[Row], dict[str, Any]] | None:
        """The rows, and the other keys that came; None when something is not as it should be."""
        if b"\\" in body:
            return None  # What an escape may stand for is for one parser to say.
        try:
            document = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        rows = list(map(msgspec.structs.astuple, document.rows))
        given = {
            name: value
            for name in self._options
            if (value := getattr(document, name)) is not _ABSENT
        }
        return rows, given
