"""`aws.dynamodb.Table` in memory: transactions are atomic, conditions are evaluated for real."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from millrace.aws.dynamodb import (
    INDEX_PK,
    INDEX_SK,
    MAX_WRITES,
    PK,
    PRESENT,
    SK,
    Below,
    Check,
    Expected,
    Item,
    Key,
    OneOf,
    Put,
    QueryPage,
    Update,
    Write,
    from_item,
    to_item,
)
from millrace.aws.table import check_item
from millrace.errors import ConditionFailedError, ConfigurationError


class FakeTable:
    """`Table` in memory.

    Items pass through DynamoDB's attribute values, so what cannot be stored cannot be stored here.

    Attributes:
        calls: Names of the methods that were called, for counting requests.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._items: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()

    def get(self, key: Key) -> Item | None:
        """See `Table.get`."""
        self.calls.append("get")
        with self._lock:
            stored = self._items.get((key.pk, key.sk))
            return None if stored is None else from_item(stored)

    def query(
        self,
        pk: str,
        *,
        prefix: str = "",
        since: str = "",
        until: str = "",
        index: bool = False,
        newest_first: bool = False,
        limit: int | None = None,
        start: Item | None = None,
        where: Mapping[str, Expected] | None = None,
    ) -> QueryPage:
        """See `Table.query`."""
        self.calls.append("query")
        pk_name, sk_name = (INDEX_PK, INDEX_SK) if index else (PK, SK)
        with self._lock:
            wanted = {"S": pk}
            rows = [from_item(i) for i in self._items.values() if i.get(pk_name) == wanted]
        rows = [
            r
            for r in rows
            if (r[sk_name].startswith(prefix) if prefix else r[sk_name] >= since)
            and (not until or prefix != "" or r[sk_name] <= until)
        ]
        rows.sort(key=lambda r: (r[sk_name].encode(), r[PK], r[SK]), reverse=newest_first)
        if start is not None:
            mark = start[sk_name].encode()
            rows = [
                r
                for r in rows
                if (r[sk_name].encode() < mark if newest_first else r[sk_name].encode() > mark)
            ]
        kept = rows[:limit]
        found = tuple(r for r in kept if _matches(r, where or {}))
        if len(kept) == len(rows):
            return QueryPage(found, None)
        names = (PK, SK, INDEX_PK, INDEX_SK) if index else (PK, SK)
        return QueryPage(found, {n: kept[-1][n] for n in names})

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """See `Table.transact`."""
        self.calls.append("transact")
        if len(writes) > MAX_WRITES:
            raise ConfigurationError(f"{what}: too many writes")
        touched = [(w.key.pk, w.key.sk) for w in writes]
        if len(set(touched)) != len(touched):
            raise AssertionError(f"{what}: one transaction touches an item twice: {touched}")
        with self._lock:
            failed = tuple(w.name for w in writes if not self._holds(w))
            if failed:
                raise ConditionFailedError(f"{what}: {', '.join(failed)}", failed)
            for write in writes:
                self._check_size(write)
            for write in writes:
                self._apply(write)

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """See `DynamoTable.get_many`."""
        self.calls.append("get_many")
        with self._lock:
            stored = {key: self._items.get((key.pk, key.sk)) for key in keys}
            return {key: from_item(item) for key, item in stored.items() if item is not None}

    def put(self, write: Put) -> None:
        """See `DynamoTable.put`."""
        self.calls.append("put")
        with self._lock:
            if not self._holds(write):
                raise ConditionFailedError(f"{write.key.pk}: {write.name}", (write.name,))
            self._apply(write)

    def update(self, write: Update) -> None:
        """See `DynamoTable.update`."""
        self.calls.append("update")
        with self._lock:
            if not self._holds(write):
                raise ConditionFailedError(f"{write.key.pk}: {write.name}", (write.name,))
            self._apply(write)

    def remove(self, key: Key) -> None:
        """Takes an item away, as only somebody with the table's rights can."""
        with self._lock:
            del self._items[key.pk, key.sk]

    def copy(self) -> "FakeTable":
        """A table of its own with the same items."""
        made = FakeTable()
        with self._lock:
            made._items = dict(self._items)
        return made

    def items(self) -> list[Item]:
        """Every item, for assertions on invariants."""
        with self._lock:
            return [from_item(i) for i in self._items.values()]

    def _holds(self, write: Write) -> bool:
        stored = self._items.get((write.key.pk, write.key.sk))
        must_exist = isinstance(write, Update | Check) and write.exists
        if must_exist and stored is None:
            return False
        return _matches({} if stored is None else from_item(stored), write.when)

    def _check_size(self, write: Write) -> None:
        if isinstance(write, Put):
            check_item(
                write.name, write.key, to_item({PK: write.key.pk, SK: write.key.sk, **write.item})
            )
        elif isinstance(write, Update):
            stored = self._items.get((write.key.pk, write.key.sk), {})
            check_item(write.name, write.key, {**stored, **to_item(write.values)})

    def _apply(self, write: Write) -> None:
        place = (write.key.pk, write.key.sk)
        key = {PK: write.key.pk, SK: write.key.sk}
        match write:
            case Put():
                self._items[place] = to_item({**key, **write.item})
            case Update():
                before = from_item(self._items.get(place, {}))
                sums = {name: before.get(name, 0) + n for name, n in write.adds.items()}
                merged = {
                    **self._items.get(place, to_item(key)),
                    **to_item(write.values),
                    **to_item(sums),
                }
                gone = {name for name, value in write.values.items() if value is None}
                self._items[place] = {k: v for k, v in merged.items() if k not in gone}
            case Check():
                pass


def _matches(item: Mapping[str, Any], when: Mapping[str, Expected]) -> bool:
    for attribute, expected in when.items():
        if expected is PRESENT:
            if item.get(attribute) is None:
                return False
            continue
        if isinstance(expected, Below):
            if item.get(attribute, expected.value - 1) >= expected.value:
                return False
            continue
        allowed = expected.values if isinstance(expected, OneOf) else (expected,)
        if item.get(attribute) not in allowed:
            return False
    return True
