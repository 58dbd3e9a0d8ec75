"""The ledger: every change of a model, in one chain that shows when somebody edits it.

An entry carries its number, the hash of the entry before it, and its own hash: SHA-256 over the
canonical JSON of everything else that is stored of it. The head, one item per model, names the last
entry. A change puts its entries and the new head into its own transaction, on the condition that
the head is still the one it read: so no change is without its entry, no entry without its change,
and numbers have no gaps.

Who holds only the table may still rewrite all of it. An *anchor*, ``sequence:hash`` kept outside,
shows that, too (`registry.verification`).
"""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from millrace.aws.table import ABSENT, INDEX_PK, INDEX_SK, PK, SK, Item, ItemReader, Key, Put, Write
from millrace.errors import ConfigurationError, InvalidEventError
from millrace.registry import items
from millrace.registry.records import AuditEntry
from millrace.registry.serving import model_pk
from millrace.spec import canonical_json

AUDIT: Final = "AUDIT#"
HEAD: Final = "LEDGER"

MAX_FACTS: Final = 16_384
"""Bytes of an entry's facts as JSON: evidence lies in S3, and the entry names where."""

MAX_REASON: Final = 2_000
"""Characters of an entry's reason."""

_OUTSIDE: Final = frozenset({PK, SK, "hash"})
"""What the hash is not over: where the entry lies, and the hash itself."""


class Head(NamedTuple):
    """The end of a chain."""

    sequence: int
    hash: str
    at: datetime | None


class Appended(NamedTuple):
    """Entries as they will stand in the chain, and the writes that put them there."""

    writes: list[Write]
    entries: tuple[AuditEntry, ...]


class Anchor(NamedTuple):
    """An entry's number and hash, kept somewhere else than the table."""

    sequence: int
    hash: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash}"


EMPTY: Final = Head(0, "", None)
"""The head of a model nothing happened to yet."""


def head_key(model: str) -> Key:
    """The end of a model's chain."""
    return Key(model_pk(model), HEAD)


def entry_key(model: str, sequence: int) -> Key:
    """An entry: keys stand in the order of the chain."""
    return Key(model_pk(model), f"{AUDIT}{sequence:012d}")


def parse_anchor(text: str) -> Anchor:
    """The anchor of ``sequence:hash``.

    Raises:
        InvalidEventError: It is none.
    """
    number, _, digest = text.strip().partition(":")
    is_number = number.isascii() and number.isdecimal() and 0 < len(number) <= 12
    if not is_number or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise InvalidEventError(
            "anchor: expected SEQUENCE:HASH, a number and 64 hexadecimal digits, as "
            "`millrace audit NAME --verify` prints it"
        )
    return Anchor(int(number), digest)


def digest_of(entry: Mapping[str, Any]) -> str:
    """The hash of an entry, over what is stored of it.

    Args:
        entry: The stored item, or what is to be stored.
    """
    document = {k: v for k, v in entry.items() if k not in _OUTSIDE and v is not None}
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def from_entry(entry: AuditEntry) -> Item:
    """The item of an entry; its place in the index is under the hash like the rest."""
    return {
        **entry.model_dump(mode="json"),
        INDEX_PK: items.audit_index_pk(entry.model),
        INDEX_SK: f"{items.sortable(entry.at)}#{entry.sequence:012d}",
    }


def to_entry(item: Item) -> AuditEntry:
    """The entry of an item."""
    return AuditEntry.model_validate(item)


class Ledger:
    """Appends to the chains of one table.

    Args:
        table: The table.
    """

    def __init__(self, table: ItemReader) -> None:
        self._table = table

    def head(self, model: str) -> Head:
        """The end of a model's chain as it is now (a strongly consistent read)."""
        item = self._table.get(head_key(model))
        if item is None:
            return EMPTY
        return Head(item["sequence"], item["hash"], datetime.fromisoformat(item["at"]))

    def append(self, *entries: AuditEntry) -> Appended:
        """Entries for the end of a model's chain, and the writes for the change's transaction.

        To be called inside `changes.with_fresh_reads`: whoever loses the race for the head fails
        in the write ``ledger head`` and reads it anew.

        Args:
            *entries: Entries of one model, in their order; sequence and hashes are filled in, and
                a time before the head's becomes the head's.

        Raises:
            ConfigurationError: The entries are of several models.
            InvalidEventError: An entry's facts are no JSON, or too many.
        """
        if not entries:
            return Appended([], ())
        model = entries[0].model
        if any(e.model != model for e in entries):
            raise ConfigurationError("a ledger's entries of one change are of one model")
        before = head = self.head(model)
        chained: list[AuditEntry] = []
        writes: list[Write] = []
        for number, entry in enumerate(entries):
            linked = entry.model_copy(
                update={
                    "sequence": head.sequence + 1,
                    "previous_hash": head.hash,
                    "at": entry.at if head.at is None else max(entry.at, head.at),
                    "reason": entry.reason[:MAX_REASON],
                    "facts": _plain_facts(entry.facts),
                }
            )
            sealed = linked.model_copy(update={"hash": digest_of(from_entry(linked))})
            name = f"audit {number}" if number else "audit"
            writes.append(Put(name, entry_key(model, sealed.sequence), from_entry(sealed), ABSENT))
            chained.append(sealed)
            head = Head(sealed.sequence, sealed.hash, sealed.at)
        last = from_entry(chained[-1])
        end = Put(
            "ledger head",
            head_key(model),
            {"model": model, "sequence": head.sequence, "hash": head.hash, "at": last["at"]},
            {"hash": before.hash or None},
        )
        return Appended([*writes, end], tuple(chained))


def _plain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they read back from the table: one number type, lists and not tuples."""
    plain = {str(k): _plain(v) for k, v in facts.items()}
    size = len(json.dumps(plain, ensure_ascii=False).encode())
    if size > MAX_FACTS:
        raise InvalidEventError(
            f"facts: expected at most {MAX_FACTS} bytes of JSON, got {size}; store the evidence "
            "and name its key"
        )
    return plain


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value if value is None or isinstance(value, bool) else str(value)
        case int():
            return int(value)
        case float():
            if not math.isfinite(value) or (value and not 1e-100 < abs(value) < 1e100):
                raise InvalidEventError("facts: expected finite numbers of ordinary size")
            # DynamoDB does not tell 5 from 5.0, and the hash must not either.
            return int(value) if value.is_integer() else value
        case Mapping():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case _:
            raise InvalidEventError(f"facts: expected JSON, got {type(value).__name__}")
