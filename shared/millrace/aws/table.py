"""Items of one DynamoDB table as the registry means them: keys, writes, conditions and values.

A value that is None is an attribute that is absent, so ``{"version": None}`` as a condition reads
"has no version". Nothing here calls AWS: `aws.dynamodb` does, and `aws.wire` for a cold start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Protocol

from millrace.errors import InvalidEventError

PK: Final = "PK"
SK: Final = "SK"
INDEX: Final = "GSI1"
INDEX_PK: Final = "GSI1PK"
INDEX_SK: Final = "GSI1SK"

MAX_WRITES: Final = 100
"""DynamoDB's limit of writes per transaction."""

MAX_ITEM: Final = 400 * 1024
"""DynamoDB's limit of bytes per item, names and values together."""

MAX_PARTITION_KEY: Final = 2_048
MAX_SORT_KEY: Final = 1_024
"""DynamoDB's limits of bytes in keys."""

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


class Present(Enum):
    """A condition's expectation: the attribute is there, whatever it is."""

    PRESENT = "present"


PRESENT: Final = Present.PRESENT


@dataclass(frozen=True, slots=True)
class Below:
    """A condition's expectation: the attribute is absent, or a number less than this."""

    value: int


type Expected = str | int | OneOf | Present | Below | None
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
    adds: Mapping[str, int] = field(default_factory=dict)
    """Numbers to add to attributes; one that is absent counts as zero."""


@dataclass(frozen=True, slots=True)
class Check:
    """Asserts without writing."""

    name: str
    key: Key
    when: Mapping[str, Expected] = field(default_factory=dict)
    exists: bool = True
    """Whether the item must be there; if not, ``when`` is all that is asserted."""


type Write = Put | Update | Check


@dataclass(frozen=True, slots=True)
class QueryPage:
    """Items of one query and where the next begins."""

    items: tuple[Item, ...]
    last: Item | None


class ItemReader(Protocol):
    """Reads single items."""

    def get(self, key: Key) -> Item | None:
        """The item as it is now (strongly consistent), or None."""
        ...


class Table(ItemReader, Protocol):
    """What the registry needs of DynamoDB."""

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
        """Items of one partition in the order of their sort key.

        With ``where`` it is one request that looks at ``limit`` items and returns those of them
        that have these attributes: few or none, and still not the end.
        """
        ...

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """Those of the items that are there, as they are now (strongly consistent)."""
        ...

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """All writes or none.

        Raises:
            ConditionFailedError: A condition did not hold; ``failed`` names the writes.
            ConcurrentWriteError: Another transaction touched the same items.
        """
        ...


# ── Requests ────────────────────────────────────────────────────────────────────────────────────


def get_request(table: str, key: Key) -> dict[str, Any]:
    """The GetItem request of a strongly consistent read."""
    return {"TableName": table, "Key": to_key(key), "ConsistentRead": True}


def query_request(
    table: str,
    pk: str,
    *,
    prefix: str = "",
    since: str = "",
    until: str = "",
    index: bool = False,
    newest_first: bool = False,
) -> dict[str, Any]:
    """The Query request of one partition; arguments as `Table.query`."""
    names = {"#pk": INDEX_PK if index else PK}
    values: dict[str, Any] = {":pk": to_attribute(pk)}
    expression = "#pk = :pk"
    if prefix or since:
        names["#sk"] = INDEX_SK if index else SK
        values[":sk"] = to_attribute(prefix or since)
        if prefix:
            expression += " AND begins_with(#sk, :sk)"
        elif until:
            values[":until"] = to_attribute(until)
            expression += " AND #sk BETWEEN :sk AND :until"
        else:
            expression += " AND #sk >= :sk"
    request: dict[str, Any] = {
        "TableName": table,
        "KeyConditionExpression": expression,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ScanIndexForward": not newest_first,
    }
    if index:
        request["IndexName"] = INDEX
    else:
        request["ConsistentRead"] = True
    return request


def to_key(key: Key) -> dict[str, Any]:
    """DynamoDB's form of a key."""
    return {PK: {"S": key.pk}, SK: {"S": key.sk}}


# ── Values ──────────────────────────────────────────────────────────────────────────────────────

_SMALLEST = Decimal("1E-130")
_LARGEST = Decimal("9.9999999999999999999999999999999999999E+125")


def check_item(what: str, key: Key, attributes: Mapping[str, Any]) -> None:
    """Refuses what DynamoDB would not store, in words.

    Args:
        what: The write, as errors call it.
        key: Its key.
        attributes: The item as DynamoDB's values.

    Raises:
        InvalidEventError: The item or its key is too large.
    """
    for name, text, most in (
        ("partition key", key.pk, MAX_PARTITION_KEY),
        ("sort key", key.sk, MAX_SORT_KEY),
    ):
        if (size := len(text.encode())) > most:
            raise InvalidEventError(
                f"{what}: expected a {name} of {most} bytes at most, got {size}"
            )
    size = sum(len(n.encode()) + _size(v) for n, v in attributes.items())
    if size > MAX_ITEM:
        raise too_large(what, f"got {size:,}")


def too_large(what: str, got: str) -> InvalidEventError:
    """The error of an item that DynamoDB would not store."""
    return InvalidEventError(
        f"{what}: expected an item of {MAX_ITEM:,} bytes at most, {got}; what is large lies in S3, "
        "and the item names its key"
    )


def _size(value: Mapping[str, Any]) -> int:
    """Bytes of a value as DynamoDB counts them; of numbers, the most that they can take."""
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return (len(content) + 1) // 2 + 1
        case "M":
            return 3 + sum(len(n.encode()) + 1 + _size(v) for n, v in content.items())
        case "L":
            return 3 + sum(1 + _size(v) for v in content)
        case _:
            return 1


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
