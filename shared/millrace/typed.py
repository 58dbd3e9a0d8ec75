"""Frozen dataclasses from JSON-like values, each value held to its annotation.

Pydantic does this everywhere else. On the way to a prediction its import alone was a third of a cold
start, so what the predict function reads (its settings, the serving item, the signature) are plain
dataclasses, and this is the part of pydantic that they need. Nothing but the standard library is
imported.

Annotations understood: ``str``, ``int``, ``float``, ``bool``, ``datetime`` (ISO 8601), enumerations of
text, ``Literal``, ``tuple[X, ...]``, ``X | None`` and dataclasses of these.
"""

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from millrace.errors import FieldProblem

type _Read = Callable[[Any, str], Any]


class WrongValue(Exception):  # noqa: N818  # caught where the document has a name, and told there
    """A value does not fit its annotation.

    Args:
        problem: Where, and what was expected; never the value.
    """

    def __init__(self, problem: FieldProblem) -> None:
        super().__init__(f"{problem.field}: {problem.message}")
        self.problem = problem


def make[T](
    kind: type[T], document: Any, *, ignore_unknown: bool = False, from_text: bool = False
) -> T:
    """A dataclass from a mapping of its fields.

    Args:
        kind: The dataclass.
        document: The mapping, as read from JSON, DynamoDB or the environment.
        ignore_unknown: Whether fields the dataclass does not have are passed over.
        from_text: Whether everything is written as text, as in the environment: numbers, and what
            else has a constructor that reads a text, a path for instance.

    Raises:
        WrongValue: Names the first field that is wrong, missing or unknown.
    """
    read = _of_dataclass(kind, ignore_unknown, from_text)  # type: ignore[arg-type]  # a class is
    made: T = read(document, "")
    return made


def _wrong(path: str, message: str) -> WrongValue:
    return WrongValue(FieldProblem(path or "document", message))


@cache
def _of_dataclass(kind: type[Any], ignore_unknown: bool, from_text: bool) -> _Read:
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)
    readers = {f.name: _of(hints[f.name], ignore_unknown, from_text) for f in fields}
    required = [
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(path, "expected an object")
        prefix = f"{path}." if path else ""
        for name in required:
            if name not in value:
                raise _wrong(prefix + name, "is required")
        given: dict[str, Any] = {}
        for name, content in value.items():
            reader = readers.get(name)
            if reader is not None:
                given[name] = reader(content, prefix + name)
            elif not ignore_unknown:
                raise _wrong(prefix + str(name), "unknown key")
        return kind(**given)

    return read


def _of(annotation: Any, ignore_unknown: bool, from_text: bool) -> _Read:
    """The reader of an annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is UnionType:
        (inner,) = (a for a in arguments if a is not NoneType)
        reader = _of(inner, ignore_unknown, from_text)
        return lambda value, path: None if value is None else reader(value, path)
    if origin is tuple:
        return _tuple(_of(arguments[0], ignore_unknown, from_text))
    if origin is Literal:
        return _choice(arguments)
    if dataclasses.is_dataclass(annotation):
        return _of_dataclass(annotation, ignore_unknown, from_text)  # type: ignore[arg-type]  # a class
    if issubclass(annotation, StrEnum):
        return _choice(tuple(annotation), annotation)
    if from_text:
        return _in_text(annotation)
    return _SCALARS[annotation]


def _tuple(reader: _Read) -> _Read:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, list | tuple):
            raise _wrong(path, "expected a list")
        return tuple(reader(v, f"{path}.{i}") for i, v in enumerate(value))

    return read


def _choice(choices: tuple[str, ...], convert: Callable[[str], Any] = str) -> _Read:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise _wrong(path, f"expected one of {', '.join(choices)}")
        return convert(value)

    return read


def _in_text(kind: Callable[[str], Any]) -> _Read:
    """Of what its own constructor reads from a text: numbers, paths."""

    def read(value: Any, path: str) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise _wrong(path, _EXPECTED[kind]) from None

    return read


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "expected a text")
    return value


def _boolean(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, "expected true or false")
    return value


def _integer(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(path, _EXPECTED[int])
    return value


def _float(value: Any, path: str) -> float:
    # DynamoDB has no NaN, no infinities and nothing beyond 1e±125: those are stored as text.
    if isinstance(value, str):
        return float(_in_text(float)(value, path))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(path, _EXPECTED[float])
    return float(value)


def _moment(value: Any, path: str) -> datetime:
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _wrong(path, "expected a time as ISO 8601 writes it") from None


_EXPECTED: Final[dict[Any, str]] = {int: "expected a whole number", float: "expected a number"}
_SCALARS: Final[dict[Any, _Read]] = {
    str: _text,
    bool: _boolean,
    int: _integer,
    float: _float,
    datetime: _moment,
}
