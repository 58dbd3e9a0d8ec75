"""Items in one DynamoDB table: reads, queries, and transactions with named conditions."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import batched
from typing import TYPE_CHECKING, Any, Final

from millrace.aws.table import (
    ABSENT,
    INDEX,
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
    Table,
    Update,
    Write,
    check_item,
    from_attribute,
    from_item,
    get_request,
    query_request,
    to_attribute,
    to_item,
    to_key,
)
from millrace.aws.translate import translated
from millrace.errors import ConfigurationError, NotFoundError, ThrottledError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

MAX_READS: Final = 100
"""DynamoDB's limit of items per batch read."""

_PAUSES: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds before what a batch read left out is asked for again, as AWS advises."""

__all__ = [
    "ABSENT",
    "INDEX",
    "INDEX_PK",
    "INDEX_SK",
    "MAX_WRITES",
    "PK",
    "PRESENT",
    "SK",
    "Below",
    "Check",
    "DynamoTable",
    "Expected",
    "Item",
    "Key",
    "OneOf",
    "Put",
    "QueryPage",
    "Table",
    "Update",
    "Write",
    "from_attribute",
    "from_item",
    "get_request",
    "query_request",
    "to_attribute",
    "to_item",
    "to_key",
]


class DynamoTable:
    """`Table` on DynamoDB."""

    def __init__(
        self, client: "DynamoDBClient", name: str, *, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._name = name
        self._wait = wait

    def get(self, key: Key) -> Item | None:
        """See `Table.get`."""
        with self._translated(f"read {key.pk} {key.sk}"):
            answer = self._client.get_item(**get_request(self._name, key))
        item = answer.get("Item")
        return None if item is None else from_item(item)

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
        """See `Table.query`.

        Args:
            pk: The partition: of the table, or of the index.
            prefix: Only sort keys that begin so.
            since: Only sort keys from this one on; used without ``prefix``.
            until: Only sort keys up to this one; used with ``since``.
            index: Ask the index (eventually consistent) and not the table.
            newest_first: Descending order.
            limit: Most items to return; without it the whole partition, page after page.
            start: ``last`` of the page before.
            where: What the items must have. DynamoDB reads ``limit`` items, a megabyte at most,
                and leaves out the others: one request, whatever it finds.
        """
        request = query_request(
            self._name,
            pk,
            prefix=prefix,
            since=since,
            until=until,
            index=index,
            newest_first=newest_first,
        )
        if where:
            request["FilterExpression"] = _condition(
                where,
                request["ExpressionAttributeNames"],
                request["ExpressionAttributeValues"],
                exists=False,
            )
        items: list[Item] = []
        last = start
        while True:
            if last is not None:
                request["ExclusiveStartKey"] = to_item(last)
            if limit is not None:
                request["Limit"] = limit - len(items)
            with self._translated(f"query {pk} {prefix}"):
                answer = self._client.query(**request)
            items += [from_item(i) for i in answer["Items"]]
            key = answer.get("LastEvaluatedKey")
            last = from_item(key) if key else None
            # A page ends at a megabyte too, so a short page is not the end.
            if where or last is None or (limit is not None and len(items) >= limit):
                return QueryPage(tuple(items), last)

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """See `Table.transact`."""
        if len(writes) > MAX_WRITES:
            raise ConfigurationError(
                f"{what}: a transaction holds {MAX_WRITES} writes at most, this has {len(writes)}"
            )
        with self._translated(what, [w.name for w in writes]):
            self._client.transact_write_items(
                TransactItems=[self._write(w) for w in writes]  # type: ignore[misc]  # built below
            )

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """Those of the items that are there, as they are now (strongly consistent).

        Args:
            keys: As many as one likes; a hundred are asked for at a time.

        Raises:
            ThrottledError: DynamoDB kept answering a part only.
        """
        found: dict[Key, Item] = {}
        for some in batched(dict.fromkeys(keys), MAX_READS, strict=False):
            wanted: list[dict[str, Any]] = [to_key(key) for key in some]
            for pause in (*_PAUSES, None):
                request: dict[str, Any] = {self._name: {"Keys": wanted, "ConsistentRead": True}}
                with self._translated(f"read {len(wanted)} items"):
                    answer = self._client.batch_get_item(RequestItems=request)
                for stored in answer["Responses"].get(self._name, ()):
                    item = from_item(stored)
                    found[Key(item[PK], item[SK])] = item
                left: Any = answer.get("UnprocessedKeys", {}).get(self._name)
                if not left:
                    break
                if pause is None:
                    raise ThrottledError(
                        f"DynamoDB left {len(left['Keys'])} items unread; try again"
                    )
                wanted = list(left["Keys"])
                self._wait(pause)
        return found

    def put(self, write: Put) -> None:
        """Writes one item, at half the price of a transaction.

        Raises:
            ConditionFailedError: Its condition did not hold.
        """
        request = self._write(write)["Put"]
        with self._translated(f"write {write.key.pk} {write.key.sk}", [write.name]):
            # nosemgrep: unconditional-item-write -- the write carries the condition that it has
            self._client.put_item(**request)

    def update(self, write: Update) -> None:
        """Updates one item, at half the price of a transaction.

        Raises:
            ConditionFailedError: Its condition did not hold.
        """
        request = self._write(write)["Update"]
        with self._translated(f"update {write.key.pk} {write.key.sk}", [write.name]):
            # nosemgrep: unconditional-item-write -- the write carries the condition that it has
            self._client.update_item(**request)

    @contextmanager
    def _translated(self, what: str, writes: Sequence[str] = ()) -> Iterator[None]:
        """`translated`; a missing table is the deployment's fault, never "no such model"."""
        try:
            with translated(what, writes):
                yield
        except NotFoundError as exc:
            raise ConfigurationError(f"{what}: there is no table {self._name!r}") from exc

    def _write(self, write: Write) -> dict[str, Any]:
        names: dict[str, str] = {}
        values: dict[str, Any] = {}
        request: dict[str, Any] = {"TableName": self._name}
        match write:
            case Put():
                verb = "Put"
                request["Item"] = to_item({PK: write.key.pk, SK: write.key.sk, **write.item})
                check_item(write.name, write.key, request["Item"])
            case Update():
                verb = "Update"
                request["Key"] = to_key(write.key)
                check_item(write.name, write.key, to_item(write.values))
                request["UpdateExpression"] = _update_expression(
                    write.values, write.adds, names, values
                )
            case Check():
                verb = "ConditionCheck"
                request["Key"] = to_key(write.key)
        exists = isinstance(write, Update | Check) and write.exists
        condition = _condition(write.when, names, values, exists=exists)
        if condition:
            request["ConditionExpression"] = condition
        if names:
            request["ExpressionAttributeNames"] = names
        if values:
            request["ExpressionAttributeValues"] = values
        return {verb: request}


def _update_expression(
    changes: Mapping[str, Any],
    amounts: Mapping[str, int],
    names: dict[str, str],
    values: dict[str, Any],
) -> str:
    adds: list[str] = []
    for number, (attribute, amount) in enumerate(amounts.items()):
        names[f"#a{number}"] = attribute
        values[f":a{number}"] = to_attribute(amount)
        adds.append(f"#a{number} :a{number}")
    sets: list[str] = []
    removes: list[str] = []
    for number, (attribute, value) in enumerate(changes.items()):
        names[f"#u{number}"] = attribute
        if value is None:
            removes.append(f"#u{number}")
        else:
            values[f":u{number}"] = to_attribute(value)
            sets.append(f"#u{number} = :u{number}")
    return " ".join(
        [
            *(["SET " + ", ".join(sets)] if sets else []),
            *(["REMOVE " + ", ".join(removes)] if removes else []),
            *(["ADD " + ", ".join(adds)] if adds else []),
        ]
    )


def _condition(
    when: Mapping[str, Expected],
    names: dict[str, str],
    values: dict[str, Any],
    *,
    exists: bool,
) -> str:
    terms: list[str] = []
    if exists:
        names["#pk"] = PK
        terms.append("attribute_exists(#pk)")
    for number, (attribute, expected) in enumerate(when.items()):
        name = f"#c{number}"
        names[name] = attribute
        if expected is PRESENT:
            terms.append(f"attribute_exists({name})")
            continue
        if isinstance(expected, Below):
            values[f":c{number}"] = to_attribute(expected.value)
            terms.append(f"(attribute_not_exists({name}) OR {name} < :c{number})")
            continue
        allowed = expected.values if isinstance(expected, OneOf) else (expected,)
        choices = [f"attribute_not_exists({name})"] if None in allowed else []
        present = [v for v in allowed if v is not None]
        places = [f":c{number}_{i}" for i in range(len(present))]
        values |= {p: to_attribute(v) for p, v in zip(places, present, strict=True)}
        if places:
            choices.append(f"{name} IN ({', '.join(places)})")
        terms.append(f"({' OR '.join(choices)})")
    return " AND ".join(terms)
