"""How deliveries of the log are counted: each once, in bins that add up.

What a delivery adds to items of the registry's table is written with a marker, named by a digest of
its lines, in one transaction: the same delivery again, in whatever order its lines stand, meets its
marker and adds nothing. Markers expire. (A subscription may, rarely, deliver a line again within
another delivery; it then counts twice.)

Deliveries of a busy model want the same items at the same moment, and DynamoDB lets one of two
transactions win. The loser comes back and spreads over more and more items, its *shards*: a calm model
keeps to one.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import batched
from typing import Final, Protocol

from millrace.aws.table import ABSENT, MAX_WRITES, Key, Put, Update, Write
from millrace.errors import ConcurrentWriteError, ConditionFailedError, ThrottledError

MARKER_LIFE: Final = timedelta(days=2)
"""Deliveries are retried for a day."""
MAX_ADDS: Final = 270
"""Amounts that one update adds to. DynamoDB takes 300 operators and 4 KB in an update expression."""
_MARKER: Final = "delivery"
_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds at most before the next attempt of a transaction that lost to another."""

LATENCY_BINS: Final = 84
_FIRST_MS: Final = 0.1
_PER_OCTAVE: Final = 4


class CountingTable(Protocol):
    """What counting needs of DynamoDB."""

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """All writes or none."""
        ...


@dataclass(frozen=True, slots=True)
class Addition:
    """What a delivery adds to one item.

    Attributes:
        update: The addition.
        otherwise: The addition in its place when the item is not as the first one assumes.
    """

    update: Update
    otherwise: Update | None = None


def digest_of(lines: Sequence[str]) -> str:
    """The name of a delivery: of its lines, in whatever order."""
    return hashlib.sha256("\x1f".join(sorted(lines)).encode()).hexdigest()[:32]


def add_once(
    table: CountingTable,
    marker: str,
    digest: str,
    additions: Callable[[int], Sequence[Addition]],
    *,
    now: datetime,
    wait: Callable[[float], None] = time.sleep,
) -> list[Addition]:
    """Adds what a delivery says, unless that was done before.

    Args:
        table: The registry's table.
        marker: What the markers of this kind of counting begin with.
        digest: `digest_of` the delivery.
        additions: What is added, in the same order whatever the shard that it is given. Over 99 of
            them take several transactions, each with a marker of its own.
        now: Tells when the marker may go.
        wait: Waits so many seconds.

    Returns:
        The additions of this call; none of those that were counted before.

    Raises:
        ConcurrentWriteError: Others kept winning; the same call again counts what is left.
        ThrottledError: DynamoDB kept asking to slow down; likewise.
    """
    expires_at = int((now + MARKER_LIFE).timestamp())
    parts = list(batched(additions(0), MAX_WRITES - 1, strict=False))
    added: list[Addition] = []
    for number in range(len(parts)):
        key = Key(f"{marker}{digest}", f"{number:06d}")
        seen = Put(_MARKER, key, {"expires_at": expires_at}, ABSENT)

        def part(shard: int, number: int = number) -> Sequence[Addition]:
            return list(batched(additions(shard), MAX_WRITES - 1, strict=False))[number]

        if _add_part(table, seen, part, digest, wait):
            added += parts[number]
    return added


def _add_part(
    table: CountingTable,
    seen: Put,
    part: Callable[[int], Sequence[Addition]],
    digest: str,
    wait: Callable[[float], None],
) -> bool:
    chance = int(digest[:8], 16) / 16**8
    for attempt, pause in enumerate((*_PAUSES, None)):
        shard = int(digest, 16) % 2**attempt
        try:
            return _transact(table, seen, part(shard), digest)
        except (ConcurrentWriteError, ThrottledError):
            if pause is None:
                raise
            wait(pause * chance)
    raise AssertionError("the last attempt returns or raises")


def _transact(table: CountingTable, seen: Put, additions: Sequence[Addition], digest: str) -> bool:
    """One transaction; again with what is otherwise added, where an item is not as assumed."""
    updates = [one.update for one in additions]
    while True:
        try:
            table.transact([seen, *updates], f"count delivery {digest}")
        except ConditionFailedError as exc:
            if _MARKER in exc.failed:
                return False
            mended = [
                one.otherwise
                if one.otherwise is not None and update is one.update and update.name in exc.failed
                else update
                for one, update in zip(additions, updates, strict=True)
            ]
            if mended == updates:
                raise
            updates = mended
        else:
            return True


# ── Bins ────────────────────────────────────────────────────────────────────────────────────────


def latency_bin(milliseconds: float) -> int:
    """The bin of a latency, in quarters of powers of two; `latency_edge` is where it begins."""
    if milliseconds <= _FIRST_MS:
        return 0
    if milliseconds == math.inf:
        return LATENCY_BINS - 1
    return min(LATENCY_BINS - 1, math.floor(_PER_OCTAVE * math.log2(milliseconds / _FIRST_MS)))


def latency_edge(number: int) -> float:
    """Where a bin begins, in milliseconds."""
    return _FIRST_MS * 2 ** (number / _PER_OCTAVE)
