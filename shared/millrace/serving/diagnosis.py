"""What is wrong with a request, said by row and field and never with a value.

A caller may send anything in any field, and messages reach logs.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from millrace.errors import FieldProblem, InvalidRequestError
from millrace.signature import MISSING_CATEGORY, FeatureField
from millrace.vocabulary import ColumnType

MAX_PROBLEMS: Final = 20
"""Problems listed in one error; the message counts the rest."""
MAX_INTEGER: Final = 2**53
"""Beyond it a double, which is what JSON numbers become, no longer tells integers apart."""
MAX_FLOAT32: Final = float(np.finfo(np.float32).max)
FRACTION: Final = "expected an integer, got a number with a fraction"
BEYOND_INTEGER: Final = "expected an integer between -2^53 and 2^53, got one beyond"
BEYOND_FLOAT32: Final = (
    f"expected a number up to {MAX_FLOAT32:.4g} (32-bit float), got a larger one"
)
HALF_CHARACTER: Final = "the string has half of a surrogate pair, which is no character"
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_MAX_NAME_SHOWN: Final = 64

_TYPE_WORDS: Final[dict[type, str]] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    type(None): "null",
    list: "an array",
    dict: "an object",
}
EXPECTED: Final[dict[ColumnType, str]] = {
    ColumnType.INTEGER: "an integer",
    ColumnType.NUMBER: "a number",
    ColumnType.BOOLEAN: "true or false",
    ColumnType.STRING: "a string",
}


class _Absent:
    """Stands for a feature that a row does not have."""


ABSENT: Final = _Absent()


class Report:
    """Collects problems and raises them together, the first ones in full.

    Args:
        model: The model that was asked.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._problems: list[FieldProblem] = []
        self._count = 0

    def add(self, field: str, message: str, row: int | None = None) -> None:
        """Notes one wrong place; arguments as in `FieldProblem`."""
        self._count += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(FieldProblem(field, message, row))

    def add_untold(self, more: int) -> None:
        """Counts wrong places that are not told one by one."""
        self._count += more

    def refuse(self) -> None:
        """Ends the request when anything was added.

        Raises:
            InvalidRequestError: With the first problems, and the count of the rest.
        """
        if not self._problems:
            return
        first = self._problems[0]
        where = first.field if first.row is None else f"row {first.row}, {first.field}"
        more = f" (and {self._count - 1:,} more)" if self._count > 1 else ""
        raise InvalidRequestError(
            f"the request does not fit model {self._model}: {where}: {first.message}{more}",
            self._problems,
        )


def wrong_shape(field: str, expected: str, came: Any) -> InvalidRequestError:
    """The error for a part of the request that is no array, or no object."""
    message = f"expected {expected}, got {kind_of(came)}"
    return InvalidRequestError(f"{field}: {message}", [FieldProblem(field, message)])


def wrong_value(feature: FeatureField, value: Any) -> str | None:
    """What is wrong with one value, or None."""
    if value is ABSENT:
        return "is missing" + ("; send null when there is no value" if feature.nullable else "")
    expected = EXPECTED[feature.type]
    if value is None:
        return None if feature.nullable else f"expected {expected}, got null"
    match feature.type:
        case ColumnType.STRING:
            if not isinstance(value, str):
                return f"expected a string, got {kind_of(value)}"
            if value == MISSING_CATEGORY and not feature.nullable:
                return "expected a string, got an empty one, or one that means no value"
            if "\0" in value:
                return "the string contains a NUL character"
            return HALF_CHARACTER if _SURROGATES.search(value) else None
        case ColumnType.BOOLEAN:
            return None if isinstance(value, bool) else f"expected {expected}, got {kind_of(value)}"
        case _:
            return _wrong_number(feature, value)


def _wrong_number(feature: FeatureField, value: Any) -> str | None:
    expected = EXPECTED[feature.type]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"expected {expected}, got {kind_of(value)}"
    if isinstance(value, float) and not np.isfinite(value):
        return f"expected {expected}, got NaN or infinity; send null when there is no value"
    if feature.type is ColumnType.INTEGER and value != int(value):
        return FRACTION
    if (isinstance(value, int) or feature.type is ColumnType.INTEGER) and abs(value) > MAX_INTEGER:
        return BEYOND_INTEGER
    if abs(value) > MAX_FLOAT32:
        return BEYOND_FLOAT32
    return None


def kind_of(value: Any) -> str:
    """What a value is in JSON's words."""
    return _TYPE_WORDS.get(type(value), type(value).__name__)


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that a caller's own key was meant to be, or None.

    Only a key that resembles a feature's name is said again in a message: any other one may be
    anything, a person's data among it.
    """
    if len(name) > _MAX_NAME_SHOWN or _SURROGATES.search(name):
        return None
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return close[0] if close else None
