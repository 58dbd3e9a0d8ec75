"""What every change and listing of the registry has in common."""

from collections.abc import Callable
from typing import Final

from millrace.aws.dynamodb import ABSENT, Item, Put, Table
from millrace.errors import ConcurrentWriteError, ConditionFailedError
from millrace.registry import items
from millrace.registry.pages import Page, check_limit, decode_token, encode_token
from millrace.registry.records import AuditEntry

ATTEMPTS: Final = 10
"""Fresh reads before a lost race is given back to the caller."""


def with_fresh_reads[T](what: str, change: Callable[[], T]) -> T:
    """Repeats a change that lost a race; it reads anew what it builds on.

    Raises:
        ConcurrentWriteError: It lost every race.
    """
    lost: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            return change()
        except (ConditionFailedError, ConcurrentWriteError) as exc:
            lost = exc
    raise ConcurrentWriteError(f"{what}: lost {ATTEMPTS} races in a row, try again later") from lost


def audit_write(entry: AuditEntry) -> Put:
    """The write of an audit entry; it stands in the transaction of what it tells."""
    return Put("audit", items.audit_key(entry), entry.model_dump(mode="json"), ABSENT)


def list_page[T](
    table: Table,
    pk: str,
    convert: Callable[[Item], T],
    limit: int,
    token: str | None,
    *,
    prefix: str = "",
    index: bool = False,
    descending: bool = True,
) -> Page[T]:
    """One page of a partition.

    Args:
        table: The table.
        pk: The partition.
        convert: Makes a record of an item.
        limit: Most records.
        token: Where the page before ended.
        prefix: What sort keys begin with.
        index: Whether it is a partition of the index.
        descending: Whether the last comes first.

    Raises:
        InvalidEventError: The limit is none, or the token is not of this listing.
    """
    wanted = check_limit(limit)
    page = table.query(
        pk,
        prefix=prefix,
        index=index,
        newest_first=descending,
        limit=wanted + 1,
        start=decode_token(token, pk=pk, prefix=prefix, index=index) if token else None,
    )
    shown = page.items[:wanted]
    more = len(page.items) > wanted
    return Page(
        tuple(convert(i) for i in shown), encode_token(shown[-1], index=index) if more else None
    )
