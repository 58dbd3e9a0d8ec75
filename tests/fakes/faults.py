"""A table that fails as AWS does: before a call is done, after it, or because somebody was faster."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from millrace.aws.dynamodb import Item, Key, QueryPage, Table, Write
from millrace.errors import ConcurrentWriteError, ServiceUnavailableError, ThrottledError
from tests.fakes.crashes import Killed


class Fault(StrEnum):
    """What happens to one call; what is about a commit happens to a read as if it were sent."""

    UNSENT = "unsent"
    """It never reached DynamoDB."""
    LOST_ANSWER = "lost_answer"
    """It was done, and the answer was lost: a timeout after success."""
    REPEATED = "repeated"
    """It was done, and the SDK sent it again as if it had not been."""
    CONFLICT = "conflict"
    """Another transaction held the items."""
    THROTTLED = "throttled"
    """DynamoDB asked to slow down, more often than the SDK tries."""
    KILLED_BEFORE = "killed_before"
    """The process was gone before it sent the call."""
    KILLED_AFTER = "killed_after"
    """The process was gone when the call was done."""


type Event = Fault | Callable[[], None] | None
"""What happens at a call; a callable is a rival that is faster."""


class FaultyTable:
    """Passes everything on to a table, with one fault or one rival at a time.

    Args:
        inner: The table.
    """

    def __init__(self, inner: Table) -> None:
        self._inner = inner
        self._faults: list[Event] = []
        self._at: dict[int, Event] = {}
        self.transactions = 0
        self.calls = 0
        self.writes: list[int] = []
        """Numbers of the calls that were transactions."""

    def plan(self, *faults: Event) -> None:
        """What happens to the next transactions."""
        self._faults = list(faults)

    def plan_calls(self, at: Mapping[int, Event]) -> None:
        """What happens to calls of any kind, reads and writes, by their number from now on."""
        self._at, self.calls, self.writes = dict(at), 0, []

    def get(self, key: Key) -> Item | None:
        """See `Table.get`."""
        return self._meet(self._next(), f"get {key}", lambda: self._inner.get(key))

    def query(self, pk: str, **how: Any) -> QueryPage:
        """See `Table.query`."""
        return self._meet(self._next(), f"query {pk}", lambda: self._inner.query(pk, **how))

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """See `Table.get_many`."""
        return self._meet(self._next(), "get many", lambda: self._inner.get_many(keys))

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """See `Table.transact`."""
        self.transactions += 1
        self.writes.append(self.calls)
        event = self._next()
        if event is None and self._faults:
            event = self._faults.pop(0)
        self._meet(event, what, lambda: self._inner.transact(writes, what))

    def _next(self) -> Event:
        number, self.calls = self.calls, self.calls + 1
        return self._at.pop(number, None)

    def _meet[T](self, event: Event, what: str, call: Callable[[], T]) -> T:
        match event:
            case Fault.UNSENT:
                raise ServiceUnavailableError(f"{what}: no answer")
            case Fault.CONFLICT:
                raise ConcurrentWriteError(f"{what}: conflict")
            case Fault.THROTTLED:
                raise ThrottledError(f"{what}: slow down")
            case Fault.KILLED_BEFORE:
                raise Killed(what)
        if callable(event):
            event()
        answer = call()
        match event:
            case Fault.LOST_ANSWER:
                raise ServiceUnavailableError(f"{what}: no answer")
            case Fault.REPEATED:
                return call()
            case Fault.KILLED_AFTER:
                raise Killed(what)
        return answer
