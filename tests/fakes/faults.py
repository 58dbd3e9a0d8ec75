"""A table that fails as AWS does: before a commit, after it, or because somebody was faster."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from millrace.aws.dynamodb import Expected, Item, Key, QueryPage, Table, Write
from millrace.errors import ConcurrentWriteError, ServiceUnavailableError


class Fault(StrEnum):
    """What happens to one transaction."""

    UNSENT = "unsent"
    """It never reached DynamoDB."""
    LOST_ANSWER = "lost_answer"
    """It was committed, and the answer was lost."""
    REPEATED = "repeated"
    """It was committed, and the SDK sent it again as if it had not been."""
    CONFLICT = "conflict"
    """Another transaction held the items."""


class FaultyTable:
    """Passes everything on to a table, with one fault or one rival at a time.

    Args:
        inner: The table.
    """

    def __init__(self, inner: Table) -> None:
        self._inner = inner
        self._faults: list[Fault | Callable[[], None] | None] = []
        self.transactions = 0

    def plan(self, *faults: Fault | Callable[[], None] | None) -> None:
        """What happens to the next transactions; a callable is a rival that is faster."""
        self._faults = list(faults)

    def get(self, key: Key) -> Item | None:
        """See `Table.get`."""
        return self._inner.get(key)

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
        return self._inner.query(
            pk,
            prefix=prefix,
            since=since,
            until=until,
            index=index,
            newest_first=newest_first,
            limit=limit,
            start=start,
            where=where,
        )

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """See `Table.get_many`."""
        return self._inner.get_many(keys)

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """See `Table.transact`."""
        self.transactions += 1
        fault = self._faults.pop(0) if self._faults else None
        if fault is Fault.UNSENT:
            raise ServiceUnavailableError(f"{what}: no answer")
        if fault is Fault.CONFLICT:
            raise ConcurrentWriteError(f"{what}: conflict")
        if callable(fault):
            fault()
        self._inner.transact(writes, what)
        if fault is Fault.LOST_ANSWER:
            raise ServiceUnavailableError(f"{what}: no answer")
        if fault is Fault.REPEATED:
            self._inner.transact(writes, what)
