"""What answered predictions when, since when, and by whose decision."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol

from millrace.aws.table import Item, Key, Table
from millrace.errors import FieldProblem, InvalidRequestError, NoChampionError
from millrace.questions.listings import check_span, expect_model
from millrace.questions.moments import text_of
from millrace.registry import items
from millrace.registry.changes import list_page
from millrace.registry.ledger import entry_key, to_entry
from millrace.registry.live import LIVE, Live, live_at, live_key, to_live
from millrace.registry.pages import Page
from millrace.registry.records import AuditEntry, Record

_LATEST: Final = f"{LIVE}9999"


class ReadTable(Table, Protocol):
    """A table that many items can be read from at once."""

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """Those of the items that are there; a hundred a request."""
        ...


class Decision(Record):
    """The entry of the ledger that a change of traffic came with."""

    sequence: int
    at: datetime
    action: str
    actor: str
    reason: str
    subject: str
    before: str
    after: str
    correlation_id: str
    hash: str


class Period(Record):
    """What answered, from one change of traffic to the next."""

    live: Live
    until: datetime | None
    """None while it lasts."""
    decision: Decision | None
    """None when the ledger has no such entry any more."""


class History:
    """Tells what a model's traffic was.

    Args:
        table: The registry's table.
    """

    def __init__(self, table: ReadTable) -> None:
        self._table = table

    def at(self, model: str, moment: datetime, *, now: datetime) -> Period:
        """What answered at a moment: four requests.

        Raises:
            InvalidRequestError: The moment is yet to come.
            NoChampionError: Nothing answered yet; the message says since when something does.
            NotFoundError: There is no such model.
        """
        if moment > now:
            message = f"expected a time that has come, at most {text_of(now)}"
            raise InvalidRequestError(f"at: {message}", [FieldProblem("at", message)])
        live = live_at(self._table, model, moment)
        if live is None:
            raise self._nothing_yet(model, moment)
        later = self._next(model, live)
        return Period(
            live=live, until=later.at if later else None, decision=self._decisions([live])[0]
        )

    def changes(
        self,
        model: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        token: str | None = None,
    ) -> Page[Period]:
        """Changes of traffic, the newest first: four requests at most.

        Args:
            model: The model.
            since: Changed then or later.
            until: Changed then or before.
            limit: Most of a page.
            token: Where the page before ended.

        Raises:
            NotFoundError: There is no such model.
        """
        check_span(since, until)
        page = list_page(
            self._table,
            items.model_pk(model),
            to_live,
            limit,
            token,
            since=f"{LIVE}{items.sortable(since)}" if since else LIVE,
            until=f"{LIVE}{items.sortable(until)}#~" if until else _LATEST,
        )
        if not page.items:
            if not token:
                expect_model(self._table, model)
            return Page((), page.token)
        # The newest of the listing lasts until the change after it, if there is one.
        newest = self._next(model, page.items[0]) if token or until else None
        ends = [newest.at if newest else None, *(live.at for live in page.items)]
        decisions = self._decisions(page.items)
        return Page(
            tuple(
                Period(live=live, until=end, decision=decision)
                for live, end, decision in zip(page.items, ends, decisions, strict=False)
            ),
            page.token,
        )

    def of_change(self, model: str, sequence: int) -> tuple[AuditEntry, Live] | None:
        """The change of traffic with a number in the ledger, None if there is none: two requests."""
        found = self._table.get(entry_key(model, sequence)) if 0 < sequence < 10**12 else None
        if found is None:
            return None
        entry = to_entry(found)
        live = self._table.get(live_key(model, entry.at, sequence))
        return None if live is None else (entry, to_live(live))

    def next(self, model: str, live: Live) -> Live | None:
        """The change of traffic after one: one request."""
        return self._next(model, live)

    def _next(self, model: str, live: Live) -> Live | None:
        key = live_key(model, live.at, live.sequence)
        page = self._table.query(key.pk, since=f"{key.sk}~", until=_LATEST, limit=1)
        return to_live(page.items[0]) if page.items else None

    def _decisions(self, changes: Sequence[Live]) -> list[Decision | None]:
        """The entries of the ledger behind changes of traffic; a hundred a request."""
        keys = [entry_key(live.model, live.sequence) for live in changes]
        found = self._table.get_many(keys)
        return [decision_of(to_entry(found[k])) if k in found else None for k in keys]

    def _nothing_yet(self, model: str, moment: datetime) -> NoChampionError:
        expect_model(self._table, model)
        first = self._table.query(items.model_pk(model), since=LIVE, until=_LATEST, limit=1).items
        if not first:
            return NoChampionError(f"model {model!r} never had a champion")
        began = to_live(first[0])
        return NoChampionError(
            f"model {model!r} had no champion at {text_of(moment)}: its first was "
            f"{model}@{began.version}, from {text_of(began.at)} on"
        )


def decision_of(entry: AuditEntry) -> Decision:
    """What a person wants to know of the entry."""
    return Decision.model_validate({n: getattr(entry, n) for n in Decision.model_fields})
