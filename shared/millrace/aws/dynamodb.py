"""Items in one DynamoDB table: reads, queries, and transactions with named conditions.

Owns the translation between Python values and DynamoDB's attribute values. A value that is None is
an attribute that is absent, so ``{"version": None}`` as a condition reads "has no version".
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

from millrace.aws.translate import translated
from millrace.errors import ConfigurationError, NotFoundError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

PK: Final = "PK"
SK: Final = "SK"
INDEX: Final = "GSI1"
INDEX_PK: Final = "GSI1PK"
INDEX_SK: Final = "GSI1SK"

MAX_WRITES: Final = 100
"""DynamoDB's limit of writes per transaction."""

type Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """Primary key of an item."""

    pk: str
    sk: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """A condition's expectation: the attribute is one of these values, None for absent."""

    values: tuple[str | int | None, ...]


type Expected = str | int | OneOf | None
"""What a condition expects of an attribute; None expects it to be absent."""

ABSENT: Final[Mapping[str, Expected]] = {PK: None}
"""Condition: there is no such item."""


@dataclass(frozen=True, slots=True)
class Put:
    """Writes a whole item. ``name`` says in errors which assumption broke."""

    name: str
    key: Key
    item: Mapping[str, Any]
    when: Mapping[str, Expected] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Update:
    """Sets attributes of an item; None removes the attribute."""

    name: str
    key: Key
    values: Mapping[str, Any]
    when: Mapping[str, Expected] = field(default_factory=dict)
    exists: bool = True
    """Whether the item must be there already, so that an update never makes half an item."""


@dataclass(frozen=True, slots=True)
class Check:
    """Asserts without writing."""

    name: str
    key: Key
    when: Mapping[str, Expected] = field(default_factory=dict)


type Write = Put | Update | Check


@dataclass(frozen=True, slots=True)
class QueryPage:
    """Items of one query and where the next begins."""

    items: tuple[Item, ...]
    last: Item | None


class Table(Protocol):
    """What the registry needs of DynamoDB."""

    def get(self, key: Key) -> Item | None:
        """The item as it is now (strongly consistent), or None."""
        ...

    def query(
        self,
        pk: str,
        *,
        prefix: str = "",
        since: str = "",
        index: bool = False,
        newest_first: bool = False,
        limit: int | None = None,
        start: Item | None = None,
    ) -> QueryPage:
        """Items of one partition in the order of their sort key."""
        ...

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """All writes or none.

        Raises:
            ConditionFailedError: A condition did not hold; ``failed`` names the writes.
            ConcurrentWriteError: Another transaction touched the same items.
        """
        ...


class DynamoTable:
    """`Table` on DynamoDB."""

    def __init__(self, client: "DynamoDBClient", name: str) -> None:
        self._client = client
        self._name = name

    def get(self, key: Key) -> Item | None:
        """See `Table.get`."""
        with self._translated(f"read {key.pk} {key.sk}"):
            answer = self._client.get_item(TableName=self._name, Key=_key(key), ConsistentRead=True)
        item = answer.get("Item")
        return None if item is None else from_item(item)

    def query(
        self,
        pk: str,
        *,
        prefix: str = "",
        since: str = "",
        index: bool = False,
        newest_first: bool = False,
        limit: int | None = None,
        start: Item | None = None,
    ) -> QueryPage:
        """See `Table.query`.

        Args:
            pk: The partition: of the table, or of the index.
            prefix: Only sort keys that begin so.
            since: Only sort keys from this one on; used without ``prefix``.
            index: Ask the index (eventually consistent) and not the table.
            newest_first: Descending order.
            limit: Most items to return; without it the whole partition, page after page.
            start: ``last`` of the page before.
        """
        names = {"#pk": INDEX_PK if index else PK}
        values: dict[str, Any] = {":pk": to_attribute(pk)}
        expression = "#pk = :pk"
        if prefix or since:
            names["#sk"] = INDEX_SK if index else SK
            values[":sk"] = to_attribute(prefix or since)
            expression += " AND begins_with(#sk, :sk)" if prefix else " AND #sk >= :sk"
        request: dict[str, Any] = {
            "TableName": self._name,
            "KeyConditionExpression": expression,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": not newest_first,
        }
        if index:
            request["IndexName"] = INDEX
        else:
            request["ConsistentRead"] = True
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
            if last is None or (limit is not None and len(items) >= limit):
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
            case Update():
                verb = "Update"
                request["Key"] = _key(write.key)
                request["UpdateExpression"] = _update_expression(write.values, names, values)
            case Check():
                verb = "ConditionCheck"
                request["Key"] = _key(write.key)
        exists = isinstance(write, Check) or (isinstance(write, Update) and write.exists)
        condition = _condition(write.when, names, values, exists=exists)
        if condition:
            request["ConditionExpression"] = condition
        if names:
            request["ExpressionAttributeNames"] = names
        if values:
            request["ExpressionAttributeValues"] = values
        return {verb: request}


def _update_expression(
    changes: Mapping[str, Any], names: dict[str, str], values: dict[str, Any]
) -> str:
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
        allowed = expected.values if isinstance(expected, OneOf) else (expected,)
        choices = [f"attribute_not_exists({name})"] if None in allowed else []
        present = [v for v in allowed if v is not None]
        places = [f":c{number}_{i}" for i in range(len(present))]
        values |= {p: to_attribute(v) for p, v in zip(places, present, strict=True)}
        if places:
            choices.append(f"{name} IN ({', '.join(places)})")
        terms.append(f"({' OR '.join(choices)})")
    return " AND ".join(terms)


def _key(key: Key) -> dict[str, Any]:
    return {PK: {"S": key.pk}, SK: {"S": key.sk}}


# ── Values ──────────────────────────────────────────────────────────────────────────────────────

_SMALLEST = Decimal("1E-130")
_LARGEST = Decimal("9.9999999999999999999999999999999999999E+125")


def to_item(values: Mapping[str, Any]) -> dict[str, Any]:
    """Attribute values of an item; None is left out."""
    return {name: to_attribute(v) for name, v in values.items() if v is not None}


def from_item(item: Mapping[str, Any]) -> Item:
    """Python values of an item."""
    return {name: from_attribute(v) for name, v in item.items()}


def to_attribute(value: Any) -> dict[str, Any]:
    """DynamoDB's form of a JSON-like value.

    A float that DynamoDB's numbers cannot hold (NaN, infinities, magnitudes beyond 1e±125) is
    written as text, which pydantic reads back as the same float.
    """
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": str(value)}
        case int():
            return {"N": str(value)}
        case float():
            number = Decimal(repr(value))
            if not number.is_finite() or (number and not _SMALLEST <= abs(number) <= _LARGEST):
                return {"S": repr(value)}
            return {"N": str(number)}
        case Decimal():
            return {"N": str(value)}
        case Mapping():
            return {"M": {str(k): to_attribute(v) for k, v in value.items()}}
        case list() | tuple():
            return {"L": [to_attribute(v) for v in value]}
        case _:
            raise TypeError(f"no attribute value for {type(value).__name__}")


def from_attribute(value: Mapping[str, Any]) -> Any:
    """The Python value of DynamoDB's form; a whole number is an int."""
    ((kind, content),) = value.items()
    match kind:
        case "NULL":
            return None
        case "N":
            number = Decimal(content)
            return int(number) if number == number.to_integral_value() else float(number)
        case "M":
            return from_item(content)
        case "L":
            return [from_attribute(v) for v in content]
        case _:
            return content
