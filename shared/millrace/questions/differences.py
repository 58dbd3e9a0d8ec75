"""How two JSON documents differ, leaf by leaf. Pure.

Lists of objects that have a ``name`` are compared by it, so that a column put first does not change
every column behind it; other lists are leaves.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from millrace.registry.records import Record

MOST: Final = 1_000
"""Changes that are named one by one."""


class Change(Record):
    """One leaf that differs."""

    path: str
    """Dotted, as in ``data.columns.age.min``."""
    kind: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None


class Changes(Record):
    """How two documents differ."""

    same: bool
    items: tuple[Change, ...] = ()
    left_out: int = 0
    """Changes beyond the most that are named."""


def changes_between(before: Any, after: Any) -> Changes:
    """Compares two documents.

    Args:
        before: A JSON document.
        after: Another.
    """
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    found = [
        change
        for path in (*old, *(p for p in new if p not in old))
        if (change := _change(path, old, new)) is not None
    ]
    return Changes(same=not found, items=tuple(found[:MOST]), left_out=max(0, len(found) - MOST))


def _change(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Change | None:
    if path not in new:
        return Change(path=path, kind="removed", before=old[path])
    if path not in old:
        return Change(path=path, kind="added", after=new[path])
    if _same(old[path], new[path]):
        return None
    return Change(path=path, kind="changed", before=old[path], after=new[path])


def _same(one: Any, other: Any) -> bool:
    """Equality in which ``true`` is not 1 and NaN is itself."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(one == other) or (one != one and other != other)


def _leaves(document: Any, path: str) -> Iterator[tuple[str, Any]]:
    match document:
        case Mapping() if document:
            for key, value in document.items():
                yield from _leaves(value, f"{path}.{key}" if path else str(key))
        case list() | tuple() if _named(document):
            for value in document:
                rest = {k: v for k, v in value.items() if k != "name"}
                inner = f"{path}.{value['name']}" if path else str(value["name"])
                yield from _leaves(rest, inner) if rest else [(inner, {})]
        case _:
            yield path, document


def _named(values: Sequence[Any]) -> bool:
    names = [v.get("name") for v in values if isinstance(v, Mapping)]
    return (
        bool(names)
        and len(names) == len(values) == len(set(names))
        and all(isinstance(n, str) for n in names)
    )
