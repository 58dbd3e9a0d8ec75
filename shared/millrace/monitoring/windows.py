"""Which windows of a model are due, and what is kept of those that were judged.

``MONITOR#<model>`` / ``WINDOW#<start>#<version>`` says what a window was judged on and what came of it,
in so many words as the next window needs. A window that was judged keeps its bounds: counts and labels
that come late are judged within them.

``LABELS#<model>`` / ``DAY#<day>`` counts the labels that were told of predictions of a day, and
``MONITOR#<model>`` / ``LABELS_SEEN`` how many of them were when its windows were last judged: so the
windows of late labels are found without reading any label.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from millrace.aws.table import SK, Item, Key, Put, QueryPage, Update, Write
from millrace.errors import ConditionFailedError
from millrace.monitoring.findings import State, Verdict
from millrace.monitoring.hours import WindowCounts, hour_text

WINDOW: Final = "WINDOW#"
DAY: Final = "DAY#"
_AFTER: Final = "~"
_SEEN: Final = "LABELS_SEEN"
_PATIENCE: Final = 8
"""A day is judged again for late labels when an eighth of its age has passed since it last was: so it
is judged some thirty times in its life, however its labels come."""


class WindowTable(Protocol):
    """What windows need of DynamoDB."""

    def query(self, pk: str, *, prefix: str = "", since: str = "", until: str = "") -> QueryPage:
        """Items of one partition in the order of their sort key."""
        ...

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """All writes or none."""
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """A window that was judged.

    Attributes:
        since: When it begins.
        until: When it ends.
        version: The version.
        requests: Captured requests that it was judged on.
        errors: Failed requests that it was judged on.
        at: When it was judged.
        state: What came of it.
        verdict: What moved.
        revision: How often it was written.
    """

    since: datetime
    until: datetime
    version: int
    requests: int
    errors: int
    at: datetime
    state: State
    verdict: Verdict
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How windows are cut.

    Attributes:
        shortest: How long they are at least.
        longest: How long one grows at most.
        min_rows: Rows from which on one is judged.
    """

    shortest: timedelta
    longest: timedelta
    min_rows: int


def due(
    hours: Iterable[WindowCounts], begin: datetime, closed: datetime, plan: Plan
) -> list[tuple[datetime, datetime]]:
    """Windows that are complete and were not judged, the oldest first.

    One begins with an hour that had traffic, is as long as the plan says, and grows hour by hour until
    it has enough rows; what has too few after the longest time is given up.

    Args:
        hours: Counts of one version by the hour, in order.
        begin: Where the last window ended.
        closed: Before this moment no more is expected.
        plan: How windows are cut.
    """
    left = [one for one in hours if one.since >= begin and one.until <= closed]
    windows: list[tuple[datetime, datetime]] = []
    while left:
        since = left[0].since
        until = _end(left, since, plan)
        if until > closed:
            break
        windows.append((since, until))
        left = [one for one in left if one.since >= until]
    return windows


def _end(hours: Sequence[WindowCounts], since: datetime, plan: Plan) -> datetime:
    end = since + plan.shortest
    rows = sum(one.rows for one in hours if one.until <= end)
    for one in hours:
        if rows >= plan.min_rows or one.until > since + plan.longest:
            break
        if one.until > end:
            end, rows = one.until, rows + one.rows
    return end if rows >= plan.min_rows else since + plan.longest


def outdated(judged: Iterable[Judged], hours: Sequence[WindowCounts]) -> list[Judged]:
    """Windows of which more was counted than when they were judged.

    Args:
        judged: Windows that were judged.
        hours: Counts of their version by the hour. What of a window is not in them changes nothing.
    """
    found = []
    for one in judged:
        inside = [h for h in hours if one.since <= h.since and h.until <= one.until]
        if (
            sum(h.requests for h in inside) > one.requests
            or sum(h.errors for h in inside) > one.errors
        ):
            found.append(one)
    return found


# ── Items ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class WindowBook:
    """Windows that were judged, of all models.

    Attributes:
        table: Where they are kept.
        keep: How long after their end.
    """

    table: WindowTable
    keep: timedelta

    def judged(self, model: str, since: datetime, until: datetime) -> list[Judged]:
        """Windows that begin within a span of time, in order."""
        page = self.table.query(
            f"MONITOR#{model}",
            since=f"{WINDOW}{hour_text(since)}",
            until=f"{WINDOW}{hour_text(until)}{_AFTER}",
        )
        return [_judged(item) for item in page.items]

    def record(
        self, verdict: Verdict, counts: WindowCounts, before: Judged | None, at: datetime
    ) -> Judged:
        """Keeps what came of a window.

        Args:
            verdict: What came of it.
            counts: What it was judged on.
            before: The same window as it was judged before.
            at: Now.

        Raises:
            ConditionFailedError: Somebody else judged it meanwhile.
        """
        revision = 0 if before is None else before.revision
        key = f"{WINDOW}{hour_text(verdict.since)}#{verdict.version:06d}"
        item: dict[str, Any] = {
            "version": verdict.version,
            "since": verdict.since.isoformat(),
            "until": verdict.until.isoformat(),
            "requests": counts.requests,
            "rows": counts.rows,
            "errors": counts.errors,
            "at": at.isoformat(),
            "state": verdict.state,
            "verdict": json.dumps(verdict.to_document(moved_only=True)),
            "revision": revision + 1,
            "expires_at": int((verdict.until + self.keep).timestamp()),
        }
        put = Put(
            "window", Key(f"MONITOR#{verdict.model}", key), item, {"revision": revision or None}
        )
        self.table.transact([put], f"record window {key} of {verdict.model}")
        return _judged(item)

    def unseen_labels(self, model: str, now: datetime) -> dict[datetime, int]:
        """Days of which labels were told since their windows were judged: how many labels by now.

        Args:
            model: The model.
            now: The time; a day is not judged again for every label.
        """
        page = self.table.query(f"LABELS#{model}", prefix=DAY)
        if not page.items:
            return {}
        seen = self.table.query(f"MONITOR#{model}", prefix=_SEEN)
        days = seen.items[0]["days"] if seen.items else {}
        unseen = {}
        for item in page.items:
            day = _day(item)
            known = days.get(f"{day:%Y-%m-%d}", {"labels": 0, "at": None})
            if item["labels"] <= known["labels"]:
                continue
            at = known["at"]
            if at is None or now - datetime.fromisoformat(at) >= (now - day) / _PATIENCE:
                unseen[day] = item["labels"]
        return unseen

    def note_labels(self, model: str, told: Mapping[datetime, int], now: datetime) -> None:
        """Keeps that the windows of some days were judged with the labels told so far."""
        if not told:
            return
        page = self.table.query(f"MONITOR#{model}", prefix=_SEEN)
        before: Item = page.items[0] if page.items else {"days": {}}
        oldest = f"{now - self.keep:%Y-%m-%d}"
        days = {day: seen for day, seen in before["days"].items() if day >= oldest}
        days |= {f"{d:%Y-%m-%d}": {"labels": n, "at": now.isoformat()} for d, n in told.items()}
        revision = before.get("revision")
        item = {"days": days, "revision": (revision or 0) + 1}
        put = Put("labels", Key(f"MONITOR#{model}", _SEEN), item, {"revision": revision})
        with suppress(
            ConditionFailedError
        ):  # another look noted its own: these are judged once more
            self.table.transact([put], f"note labels of {model}")


def labels_told(model: str, days: Mapping[datetime, int], keep: timedelta) -> list[Update]:
    """What to write when labels were told: they add to the days of their predictions.

    A label that is told again adds again: that more may be known is all that this says.

    Args:
        model: The model.
        days: Labels by day of the prediction.
        keep: How long after that day.
    """
    return [
        # nosemgrep: registry-write-without-assumption -- it adds, and once too often does no harm
        Update(
            "labels of a day",
            Key(f"LABELS#{model}", f"{DAY}{day:%Y-%m-%d}"),
            {"expires_at": int((day + keep).timestamp()) + 86_400},
            exists=False,
            adds={"labels": told},
        )
        for day, told in sorted(days.items())
    ]


def _day(item: Item) -> datetime:
    return datetime.fromisoformat(str(item[SK]).removeprefix(DAY)).replace(tzinfo=UTC)


def _judged(item: Item) -> Judged:
    return Judged(
        since=datetime.fromisoformat(item["since"]),
        until=datetime.fromisoformat(item["until"]),
        version=item["version"],
        requests=item["requests"],
        errors=item["errors"],
        at=datetime.fromisoformat(item["at"]),
        state=item["state"],
        verdict=Verdict.of_document(json.loads(item["verdict"])),
        revision=item["revision"],
    )
