"""What every change and listing of the registry has in common."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from millrace.aws.dynamodb import Expected, Item, Table
from millrace.errors import ConcurrentWriteError, ConditionFailedError
from millrace.registry.pages import Page, check_limit, decode_token, encode_token


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a change that lost a race waits before it reads anew: full jitter.

    Writers of one model meet at the head of its ledger; waits that double and are drawn at random
    let them pass one by one (Brooker, "Exponential backoff and jitter", AWS Architecture Blog).

    Attributes:
        first: Seconds that the first wait lasts at most.
        longest: Seconds that any wait lasts at most.
        deadline: Seconds after which the race is given back to the caller.
        clock: Seconds that pass.
        wait: Waits for seconds.
        draw: A number between two.
    """

    first: float = 0.01
    longest: float = 0.4
    deadline: float = 8.0
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    draw: Callable[[float, float], float] = secrets.SystemRandom().uniform

    def pause(self, lost: int) -> float:
        """Seconds to wait after so many races lost."""
        return self.draw(0.0, min(self.longest, self.first * 2.0 ** min(lost, 20)))


BACKOFF: Final = Backoff()

LOOK: Final = 1_000
"""Items that one request of a filtered listing looks at, at most; a megabyte ends it, too."""

LOOKS: Final = 3
"""Requests of one page of a filtered listing, at most."""


def with_fresh_reads[T](what: str, change: Callable[[], T], backoff: Backoff = BACKOFF) -> T:
    """Repeats a change that lost a race; it reads anew what it builds on.

    Args:
        what: The change, for the error's text.
        change: Reads, decides, and writes one transaction.
        backoff: How long to wait, and when to give up.

    Raises:
        ConcurrentWriteError: It lost every race until the deadline.
    """
    end = backoff.clock() + backoff.deadline
    lost = 0
    while True:
        try:
            return change()
        except (ConditionFailedError, ConcurrentWriteError) as exc:
            lost += 1
            pause = backoff.pause(lost - 1)
            if backoff.clock() + pause > end:
                raise ConcurrentWriteError(
                    f"{what}: lost {lost} races in a row, try again later"
                ) from exc
        backoff.wait(pause)


def list_page[T](
    table: Table,
    pk: str,
    convert: Callable[[Item], T],
    limit: int,
    token: str | None,
    *,
    prefix: str = "",
    since: str = "",
    until: str = "",
    index: bool = False,
    descending: bool = True,
    where: Mapping[str, Expected] | None = None,
) -> Page[T]:
    """One page of a partition, in a bounded number of requests.

    A filtered page may be short, even empty, and still carry a token: it looks at so many items and
    no more, and the token goes on where it stopped looking.

    Args:
        table: The table.
        pk: The partition.
        convert: Makes a record of an item.
        limit: Most records.
        token: Where the page before ended.
        prefix: What sort keys begin with.
        since: The least sort key; without a prefix.
        until: The greatest sort key; with ``since``.
        index: Whether it is a partition of the index.
        descending: Whether the last comes first.
        where: What the items must have.

    Raises:
        InvalidEventError: The limit is none, or the token is not of this listing.
    """
    wanted = check_limit(limit)
    bounds = {"prefix": prefix, "since": since, "until": until}
    start = decode_token(token, pk=pk, **bounds, index=index) if token else None
    found: list[Item] = []
    for _ in range(LOOKS if where else 1):
        page = table.query(
            pk,
            **bounds,
            index=index,
            newest_first=descending,
            limit=LOOK if where else wanted + 1,
            start=start,
            where=where,
        )
        found += page.items
        start = page.last
        if len(found) > wanted or start is None:
            break
    shown = found[:wanted]
    # More was found than is shown: go on after what is shown. Else where looking stopped.
    last = shown[-1] if len(found) > wanted else start
    return Page(tuple(convert(i) for i in shown), encode_token(last, index=index) if last else None)
