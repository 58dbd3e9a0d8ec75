"""Checks a model's ledger entry by entry, and that the registry's state is what the ledger tells.

It walks the chain page by page and keeps one page at a time, whatever the chain's length. A walk
may stop after some entries and go on from a token: an HTTP request lasts seconds, a chain of a
million entries minutes. It runs beside writers, and never takes a change under way for a fault.

What a chain by itself cannot show is its replacement as a whole, or of its end, by somebody who may
write the table. An anchor, an entry's number and hash kept elsewhere, shows both.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from millrace.aws.table import PK, SK, Item, Table
from millrace.errors import InvalidEventError, NotFoundError
from millrace.registry.champions import CROWNINGS
from millrace.registry.items import alias_key, model_key, version_key
from millrace.registry.ledger import (
    AUDIT,
    Anchor,
    digest_of,
    entry_key,
    head_key,
)
from millrace.registry.live import LIVE
from millrace.registry.records import CHAMPION, Record, VersionStatus
from millrace.registry.serving import model_pk, serving_key

PAGE: Final = 1_000
"""Entries read and held at a time."""

MAX_FAULTS: Final = 100
"""Faults that are told one by one; the rest are counted."""

_NUMBER: Final = 12
_MAX_KEY: Final = 1_024
_STATUSES: Final = frozenset(s.value for s in VersionStatus)
_CROWNINGS: Final = frozenset(CROWNINGS.values())
_SNAPSHOTS: Final = 5
"""Reads of the champion's items until two in a row agree: writers go on meanwhile."""


class FaultKind(StrEnum):
    """What is wrong with a ledger."""

    EDITED = "edited"
    """An entry's content is not what its hash, or the entry after it, was made of."""
    DROPPED = "dropped"
    """Entries are missing between two others."""
    REORDERED = "reordered"
    """An entry stands in another's place."""
    ADDED = "added"
    """An entry that no change wrote."""
    CUT = "cut"
    """Entries are missing at the end."""
    HEAD = "head"
    """The head is not the last entry's."""
    ANCHOR = "anchor"
    """The ledger is not the one that the anchor was taken of."""
    STATE = "state"
    """The registry's state is not what the ledger tells."""


class LedgerFault(Record):
    """One fault, at an entry."""

    kind: FaultKind
    sequence: int
    """The entry; the first of several."""
    message: str


class Verification(Record):
    """What a walk along a ledger found."""

    model: str
    first: int
    """The first entry that was looked at; 0 when there was none."""
    last: int
    entries: int
    """How many were looked at."""
    complete: bool
    """Whether the end was reached; only then are the end and the champion checked."""
    head: str
    """``sequence:hash`` of the last entry: keep it elsewhere, as an anchor. Empty at the start."""
    faults: tuple[LedgerFault, ...] = ()
    fault_count: int = 0
    token: str | None = None
    """Goes on from here; None at the end."""

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return self.fault_count == 0


class _Point(NamedTuple):
    """How far a walk came: the entry's number, its hash where the next must name it, its key."""

    sequence: int
    hash: str | None
    sk: str


_START: Final = _Point(0, "", "")


def verify(
    table: Table,
    model: str,
    *,
    anchors: Sequence[Anchor] = (),
    limit: int | None = None,
    token: str | None = None,
) -> Verification:
    """Walks a model's ledger and names every fault.

    Args:
        table: The table.
        model: The model.
        anchors: Entries' numbers and hashes that were kept elsewhere.
        limit: Most entries to look at; all by default.
        token: Where the walk before ended.

    Raises:
        NotFoundError: There is no such model.
        InvalidEventError: The token is none.
    """
    return _Walk(table, model, _decode(token, model) if token else _START).run(anchors, limit)


class _Walk:
    """One walk: the point it came to, and what it found."""

    def __init__(self, table: Table, model: str, start: _Point) -> None:
        self._table = table
        self._model = model
        self._pk = model_pk(model)
        self._start = start
        self._at = start
        self._hash = start.hash or ""
        self._entries = 0
        self._first = 0
        self._added: list[int] = []
        self._faults: list[LedgerFault] = []
        self._count = 0
        self._crowned: Item | None = None
        self._watched = Anchor(0, "")
        self._found_head: str | None = None

    def run(self, anchors: Sequence[Anchor], limit: int | None) -> Verification:
        if self._table.get(model_key(self._model)) is None:
            raise NotFoundError(f"there is no model {self._model!r}")
        for anchor in anchors:
            self._check_anchor(anchor)
        ended = self._walk(limit)
        if ended:
            self._check_end()
            self._check_champion()
        last = self._at.sequence
        return Verification(
            model=self._model,
            first=self._first,
            last=last,
            entries=self._entries,
            complete=ended,
            head=f"{last}:{self._hash}" if last else "",
            faults=tuple(self._faults),
            fault_count=self._count,
            token=None if ended else _encode(self._model, self._at),
        )

    # ── The chain ───────────────────────────────────────────────────────────────────────────────

    def _walk(self, limit: int | None) -> bool:
        """Goes on to the end, or until so many entries were seen; whether the end was reached."""
        start: Item | None = {PK: self._pk, SK: self._at.sk} if self._at.sk else None
        while limit is None or self._entries < limit:
            size = PAGE if limit is None else min(PAGE, limit - self._entries)
            page = self._table.query(
                self._pk, since=AUDIT, until=f"{AUDIT}~", limit=size, start=start
            )
            for item in page.items:
                self._see(item)
            self._check_versions(page.items)
            start = page.last
            if start is None:
                return True
        return False

    def _see(self, item: Item) -> None:
        self._entries += 1
        suffix = str(item[SK])[len(AUDIT) :]
        self._at = self._at._replace(sk=str(item[SK]))
        if len(suffix) != _NUMBER or not (suffix.isascii() and suffix.isdecimal()):
            self._fault(
                FaultKind.ADDED,
                self._at.sequence + 1,
                f"an entry stands under the key {str(item[SK])!r}, which no change writes",
            )
            return
        number, inner, stored = int(suffix), item.get("sequence"), str(item.get("hash", ""))
        self._first = self._first or number
        expected, before = self._at.sequence + 1, self._at.hash
        if number > expected:
            self._fault(FaultKind.DROPPED, expected, _missing(expected, number - 1))
            before = None
        follows: str | None = stored
        if stored != digest_of(item):
            self._fault(
                FaultKind.EDITED, number, f"entry {number} is not what its hash was made of"
            )
        elif inner != number:
            self._fault(
                FaultKind.REORDERED, number, f"entry {inner} stands in the place of entry {number}"
            )
            follows = None
        elif item.get("model") != self._model:
            self._fault(FaultKind.ADDED, number, f"entry {number} is of another model")
            follows = None
        elif before is not None and item.get("previous_hash") != before:
            self._fault(
                FaultKind.EDITED,
                max(number - 1, 1),
                f"entry {number - 1} is not the one that entry {number} follows: one of the two "
                "was written anew"
                if number > 1
                else "entry 1 follows an entry that is not there",
            )
        if str(item.get("action")) in _CROWNINGS:
            self._crowned = item
        if number == self._watched.sequence:
            self._found_head = stored
        self._at, self._hash = _Point(number, follows, str(item[SK])), stored

    def _check_end(self) -> None:
        """That the head names the last entry.

        Writers go on: entries after a head that was read are seen by walking on, and a head that
        is behind what was walked is read once more.
        """
        self._watched = self._head()
        before = self._at
        if before.sequence == self._watched.sequence:
            self._found_head = self._hash
        self._walk(None)
        last, head = self._at.sequence, self._watched
        if last > head.sequence:
            now = self._head().sequence
            if last > now:
                first = max(now, self._start.sequence) + 1
                which = (
                    f"entry {last} comes" if first == last else f"entries {first} to {last} come"
                )
                self._fault(
                    FaultKind.ADDED, first, f"{which} after the head, which names entry {now}"
                )
        if last < head.sequence:
            told = f"{_missing(last + 1, head.sequence)}: the end was cut off"
            self._fault(FaultKind.CUT, last + 1, told)
        elif self._found_head is not None and self._found_head != head.hash:
            self._fault(
                FaultKind.HEAD,
                head.sequence,
                f"the head has another hash than entry {head.sequence}",
            )

    def _check_anchor(self, anchor: Anchor) -> None:
        item = self._table.get(entry_key(self._model, anchor.sequence))
        if item is None:
            self._fault(
                FaultKind.ANCHOR,
                anchor.sequence,
                f"there is no entry {anchor.sequence}, of which the anchor was taken: the ledger "
                "was cut, or the anchor is of another model",
            )
        elif digest_of(item) != anchor.hash:
            self._fault(
                FaultKind.ANCHOR,
                anchor.sequence,
                f"entry {anchor.sequence} is not the one the anchor was taken of: the ledger was "
                "written anew, or the anchor is of another model",
            )

    # ── The state ───────────────────────────────────────────────────────────────────────────────

    def _check_versions(self, entries: Iterable[Item]) -> None:
        """Versions that a page tells of are there, and in the state the ledger last told."""
        told: dict[int, int] = {}
        for entry in entries:
            sequence = entry.get("sequence")
            if isinstance(sequence, int):
                told |= dict.fromkeys(_told(self._model, entry), sequence)
        if not told:
            return
        stored = self._table.get_many([version_key(self._model, n) for n in told])
        versions = {n: stored.get(version_key(self._model, n)) for n in told}
        pointers = {n: _whole(v.get("ledger_sequence")) for n, v in versions.items() if v}
        named = self._table.get_many([entry_key(self._model, p) for p in set(pointers.values())])
        for number, sequence in told.items():
            version = versions[number]
            subject = f"{self._model}@{number}"
            if version is None:
                self._fault(
                    FaultKind.STATE, sequence, f"{subject}, told of by entry {sequence}, is missing"
                )
                continue
            pointer = pointers[number]
            entry = named.get(entry_key(self._model, pointer), {})
            state = _told(self._model, entry).get(number)
            if pointer < sequence:
                self._fault(
                    FaultKind.STATE,
                    sequence,
                    f"{subject} does not know of entry {sequence}, which changed it",
                )
            elif state is None:
                self._fault(
                    FaultKind.STATE,
                    sequence,
                    f"{subject} names entry {pointer}, which does not tell of it",
                )
            elif state != version["status"]:
                self._fault(
                    FaultKind.STATE,
                    pointer,
                    f"{subject} is {version['status']}, and entry {pointer} tells that it is {state}",
                )

    def _check_champion(self) -> None:
        """Alias, serving item, model, versions and the record of what was live tell one story."""
        seen = self._champion_items()
        meta, alias, serving, live = seen
        champion = meta.get("champion_version")
        sequence = _whole(alias.get("ledger_sequence"))
        for name, item in (("alias champion", alias), ("serving item", serving)):
            if item.get("version") != champion:
                self._fault(
                    FaultKind.STATE,
                    sequence,
                    f"the model's champion is {_version(champion)}, the {name} names "
                    f"{_version(item.get('version'))}",
                )
        crowned = self._crowned
        if crowned is not None and _whole(crowned.get("sequence")) > sequence:
            self._fault(
                FaultKind.STATE,
                _whole(crowned.get("sequence")),
                f"entry {crowned.get('sequence')} made {crowned.get('after')} champion, and the alias does "
                "not know of it",
            )
        if champion is None:
            return
        entry = self._table.get(entry_key(self._model, sequence)) or {}
        if str(entry.get("action")) not in _CROWNINGS or entry.get("after") != _name(
            self._model, champion
        ):
            self._fault(
                FaultKind.STATE,
                sequence,
                f"the alias champion names entry {sequence}, which does not tell that "
                f"{_name(self._model, champion)} became champion",
            )
        version = self._table.get(version_key(self._model, champion)) or {}
        if version.get("status") != VersionStatus.CHAMPION.value and self._unchanged(seen):
            self._fault(
                FaultKind.STATE,
                sequence,
                f"{_name(self._model, champion)} is champion, and its status is "
                f"{version.get('status', 'missing')}",
            )
        if any(serving.get(f) != version.get(f) for f in ("sha256", "model_key", "run_id")):
            self._fault(
                FaultKind.STATE,
                sequence,
                f"the serving item has another artifact than {_name(self._model, champion)}",
            )
        if any(live.get(k) != serving.get(k) for k in ("version", "sequence", "sha256")):
            self._fault(
                FaultKind.STATE,
                _whole(serving.get("sequence")),
                "the newest record of what was live is not of the serving item's change",
            )

    def _champion_items(self) -> tuple[Item, Item, Item, Item]:
        """Model, alias, serving item and newest live record, of one moment."""
        before = self._read_champion()
        for _ in range(_SNAPSHOTS):
            again = self._read_champion()
            if again == before:
                break
            before = again
        return before

    def _unchanged(self, seen: tuple[Item, Item, Item, Item]) -> bool:
        return self._read_champion() == seen

    def _read_champion(self) -> tuple[Item, Item, Item, Item]:
        live = self._table.query(self._pk, prefix=LIVE, newest_first=True, limit=1).items
        return (
            self._table.get(model_key(self._model)) or {},
            self._table.get(alias_key(self._model, CHAMPION)) or {},
            self._table.get(serving_key(self._model)) or {},
            live[0] if live else {},
        )

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────

    def _head(self) -> Anchor:
        item = self._table.get(head_key(self._model)) or {}
        return Anchor(_whole(item.get("sequence")), str(item.get("hash", "")))

    def _fault(self, kind: FaultKind, sequence: int, message: str) -> None:
        self._count += 1
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(LedgerFault(kind=kind, sequence=sequence, message=message))


def _told(model: str, entry: Mapping[str, Any]) -> dict[int, str]:
    """The versions whose state an entry tells, and that state.

    A crowning tells of two: whom it crowned, and who was champion before. A request that expires
    turns its version down. Any other entry tells of its subject, when ``after`` is a state of a version.
    """
    if str(entry.get("action")) in _CROWNINGS:
        after = {_number(model, entry.get("after")): VersionStatus.CHAMPION.value}
        before = {_number(model, entry.get("before")): VersionStatus.ARCHIVED.value}
        return {n: s for n, s in (before | after).items() if n is not None}
    number = _number(model, entry.get("subject"))
    expired = entry.get("action") == "approval_expired"
    state = VersionStatus.REJECTED.value if expired else str(entry.get("after"))
    return {number: state} if number and state in _STATUSES else {}


def _number(model: str, name: object) -> int | None:
    """The version in ``churn@3``."""
    text = str(name)
    start = f"{model}@"
    digits = text[len(start) :]
    if not text.startswith(start) or not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits)


def _missing(first: int, last: int) -> str:
    return (
        f"entry {first} is missing" if first == last else f"entries {first} to {last} are missing"
    )


def _whole(value: object) -> int:
    """A number of an item that anybody may have edited; 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _name(model: str, version: object) -> str:
    return f"{model}@{version}"


def _version(number: object) -> str:
    return "none" if number is None else f"version {number}"


def _encode(model: str, point: _Point) -> str:
    document = json.dumps([model, *point], separators=(",", ":"))
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def _decode(token: str, model: str) -> _Point:
    refusal = InvalidEventError("token: expected the token of this walk's last answer")
    try:
        padded = token[:2048] + "=" * (-len(token[:2048]) % 4)
        known = json.loads(base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, ValueError, RecursionError) as exc:
        raise refusal from exc
    match known:
        case [str() as of, int() as sequence, (str() | None) as digest, str() as sk] if (
            of == model
            and not isinstance(sequence, bool)
            and 0 <= sequence < 10**_NUMBER
            and sk.startswith(AUDIT)
            and len(sk.encode()) <= _MAX_KEY
        ):
            return _Point(sequence, digest, sk)
    raise refusal
