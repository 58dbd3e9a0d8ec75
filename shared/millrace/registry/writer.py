"""What the registry's parts share: the table, its ledger, the clock, and how a change is made."""

from collections.abc import Callable
from datetime import UTC, datetime

from millrace.attestation import Sign
from millrace.aws.dynamodb import Item, Table, Write
from millrace.registry.changes import BACKOFF, Backoff, list_page, with_fresh_reads
from millrace.registry.ledger import Ledger
from millrace.registry.pages import Page
from millrace.registry.records import AuditEntry


class Writer:
    """Reads and changes one table.

    Args:
        table: The table.
        clock: Gives the time of a change, aware and in UTC.
        ids: Gives the ids of audit entries and changes, never the same twice.
        backoff: How long a change that lost a race waits.
        sign: Signs the digest of a version's statement when it is registered; without it versions
            are not signed.
    """

    def __init__(
        self,
        table: Table,
        *,
        clock: Callable[[], datetime],
        ids: Callable[[], str],
        backoff: Backoff = BACKOFF,
        sign: Sign | None = None,
    ) -> None:
        self._sign = sign
        self._table = table
        self._ledger = Ledger(table)
        self._backoff = backoff
        self._clock = clock
        self._ids = ids

    def _audit(self, *entries: AuditEntry) -> list[Write]:
        """The writes that put entries at the end of their model's ledger."""
        return self._ledger.append(*entries).writes

    def _list[T](
        self,
        pk: str,
        convert: Callable[[Item], T],
        limit: int,
        token: str | None,
        *,
        prefix: str = "",
        index: bool = False,
        descending: bool = True,
    ) -> Page[T]:
        return list_page(
            self._table,
            pk,
            convert,
            limit,
            token,
            prefix=prefix,
            index=index,
            descending=descending,
        )

    def _with_fresh_reads[T](self, what: str, change: Callable[[], T]) -> T:
        return with_fresh_reads(what, change, self._backoff)


def text_of(moment: datetime) -> str:
    """A moment as items have it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
