"""Which windows of a model are due, and what is kept of those that were judged.

``MONITOR#<model>`` / ``WINDOW#<start>#<version>`` says what a window was judged on and what came of it:
a summary for listings, and in so many words as the next window needs what moved. A window that was
judged keeps its bounds: counts and labels that come late are judged within them.

``LABELS#<model>`` / ``DAY#<day>`` counts the labels that were told of predictions of a day, and
``MONITOR#<model>`` / ``LABELS_SEEN`` how many of them were when its windows were last judged: so the
windows of late labels are found without reading any label. A day has more windows than one look judges:
until all of them were judged, it says since when they are.
"""

import json
import zlib
from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from millrace.aws.table import SK, Item, Key, Put, QueryPage, Table, Update, Write
from millrace.errors import ConditionFailedError
from millrace.monitoring.document import Interval, MonitorReport
from millrace.monitoring.findings import Finding, State, Verdict
from millrace.monitoring.hours import WindowCounts, hour_text
from millrace.registry.changes import list_page
from millrace.registry.pages import Page

WINDOW: Final = "WINDOW#"
DAY: Final = "DAY#"
_AFTER: Final = "~"
_SEEN: Final = "LABELS_SEEN"
_MAX_MEMORY: Final = 250_000
"""Characters of what is remembered of a window: an item holds 400 KB."""
_PLAIN: Final = 20_000
"""Characters up to which it is kept as it is; more is packed."""
_MAX_REASON: Final = 2_000
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


type Span = tuple[datetime, datetime]


def due(
    hours: Iterable[WindowCounts], closed: datetime, plan: Plan, judged: Sequence[Span] = ()
) -> list[Span]:
    """Windows that are complete and were not judged, the oldest first.

    One begins with an hour that had traffic, is as long as the plan says, and grows hour by hour until
    it has enough rows; what has too few after the longest time is given up. Hours whose counts came
    after those of later hours are a window between the windows that were judged, if a small one.

    Args:
        hours: Counts of one version by the hour, in order.
        closed: Before this moment no more is expected.
        plan: How windows are cut.
        judged: Windows that were judged, of whatever version: none overlaps them.
    """
    taken = sorted(judged)
    left = [one for one in hours if one.until <= closed and not _overlaps(one, taken)]
    windows: list[Span] = []
    while left:
        since = left[0].since
        bound = next((begin for begin, _ in taken if begin > since), None)
        inside = left if bound is None else [one for one in left if one.until <= bound]
        until = _end(inside, since, plan)
        if bound is not None:
            until = min(until, bound)
        if until > closed:
            break
        windows.append((since, until))
        left = [one for one in left if one.since >= until]
    return windows


def _overlaps(hour: WindowCounts, taken: Iterable[Span]) -> bool:
    return any(since < hour.until and hour.since < until for since, until in taken)


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
        hours: Counts by the hour. What of a window's version is not in them changes nothing.
    """
    found = []
    for one in judged:
        inside = [
            h
            for h in hours
            if h.version == one.version and one.since <= h.since and h.until <= one.until
        ]
        if (
            sum(h.requests for h in inside) > one.requests
            or sum(h.errors for h in inside) > one.errors
        ):
            found.append(one)
    return found


@dataclass(frozen=True, slots=True)
class Summary:
    """A window that was judged, as a listing shows it.

    Attributes:
        since: When it begins.
        until: When it ends.
        version: The version that was judged.
        state: What came of it.
        reason: In words.
        rows: Captured rows.
        requests: Captured requests.
        errors: Failed requests.
        judged_at: When it was judged last.
        times: How often it was.
        findings: What moved: by kind, how many findings alarm and how many are watched.
        metric: What performance is judged by; empty where it was not looked at.
        reference: Its value on the test split.
        realised: Measured on labels; None where too few came.
        estimated: Estimated without labels; None where it cannot be.
        sampled: Rows whose labels were asked for.
        labelled: How many of them have one.
    """

    since: datetime
    until: datetime
    version: int
    state: State
    reason: str
    rows: int
    requests: int
    errors: int
    judged_at: datetime
    times: int
    findings: Mapping[str, Mapping[str, int]]
    metric: str = ""
    reference: Interval | None = None
    realised: Interval | None = None
    estimated: Interval | None = None
    sampled: int | None = None
    labelled: int | None = None


# ── Items ───────────────────────────────────────────────────────────────────────────────────────


def list_windows(
    table: Table,
    model: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    version: int | None = None,
    limit: int = 50,
    token: str | None = None,
) -> Page[Summary]:
    """Windows that were judged, the newest first.

    Args:
        table: The registry's table.
        model: The model.
        since: Only windows that begin then or later.
        until: Only windows that begin then or earlier.
        version: Only windows of this version.
        limit: Most windows of the page.
        token: Where the page before ended.

    Raises:
        InvalidEventError: The limit is none, or the token is not of this listing.
    """
    return list_page(
        table,
        _pk(model),
        _summary,
        limit,
        token,
        since=WINDOW if since is None else f"{WINDOW}{hour_text(since)}",
        until=f"{WINDOW}{'' if until is None else hour_text(until)}{_AFTER}",
        where=None if version is None else {"version": version},
    )


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
            _pk(model),
            since=f"{WINDOW}{hour_text(since)}",
            until=f"{WINDOW}{hour_text(until)}{_AFTER}",
        )
        return [_judged(item) for item in page.items]

    def record(
        self,
        verdict: Verdict,
        counts: WindowCounts,
        before: Judged | None,
        at: datetime,
        report: MonitorReport | None = None,
    ) -> Judged:
        """Keeps what came of a window.

        Args:
            verdict: What came of it.
            counts: What it was judged on.
            before: The same window as it was judged before.
            at: Now.
            report: What was written of it, for the summary of its performance.

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
            "reason": verdict.reason[:_MAX_REASON],
            "findings": _by_kind(verdict.findings),
            **({} if report is None else _performance(report)),
            "verdict": _remembered(verdict),
            "revision": revision + 1,
            "expires_at": int((verdict.until + self.keep).timestamp()),
        }
        put = Put("window", Key(_pk(verdict.model), key), item, {"revision": revision or None})
        self.table.transact([put], f"record window {key} of {verdict.model}")
        return _judged(item)

    def unseen_labels(self, model: str, now: datetime) -> dict[datetime, "Unseen"]:
        """Days of which labels were told that not all of their windows were judged with.

        Args:
            model: The model.
            now: The time; a day is not judged again for every label.
        """
        page = self.table.query(f"LABELS#{model}", prefix=DAY)
        if not page.items:
            return {}
        days = self._seen(model).get("days", {})
        unseen = {}
        for item in page.items:
            day = _day(item)
            known = days.get(f"{day:%Y-%m-%d}", {"labels": 0, "at": None})
            if (begun := known.get("begun")) is not None:
                unseen[day] = Unseen(begun["labels"], datetime.fromisoformat(begun["at"]))
                continue
            if item["labels"] <= known["labels"]:
                continue
            at = known["at"]
            if at is None or now - datetime.fromisoformat(at) >= (now - day) / _PATIENCE:
                unseen[day] = Unseen(item["labels"], now)
        return unseen

    def note_labels(
        self, model: str, told: Mapping[datetime, "Unseen"], done: Callable[[datetime], bool]
    ) -> None:
        """Keeps which days' windows were judged with the labels told so far, and which only in part.

        Args:
            model: The model.
            told: What `unseen_labels` said.
            done: Whether all windows of a day were judged since it was begun with.
        """
        if not told:
            return
        before = self._seen(model)
        newest = max(one.begun for one in told.values())
        oldest = f"{newest - self.keep:%Y-%m-%d}"
        days = {day: seen for day, seen in before.get("days", {}).items() if day >= oldest}
        for day, unseen in told.items():
            name, now = f"{day:%Y-%m-%d}", {"labels": unseen.labels, "at": unseen.begun.isoformat()}
            known = days.get(name, {"labels": 0, "at": None})
            days[name] = now if done(day) else known | {"begun": now}
        revision = before.get("revision")
        item = {"days": days, "revision": (revision or 0) + 1}
        put = Put("labels", Key(_pk(model), _SEEN), item, {"revision": revision})
        with suppress(
            ConditionFailedError
        ):  # another look noted its own: these are judged once more
            self.table.transact([put], f"note labels of {model}")

    def _seen(self, model: str) -> Item:
        page = self.table.query(_pk(model), prefix=_SEEN)
        return page.items[0] if page.items else {}


@dataclass(frozen=True, slots=True)
class Unseen:
    """Labels of a day that not all of its windows were judged with.

    Attributes:
        labels: How many there were when it was begun to judge them again.
        begun: When that was: windows that were judged since need no more.
    """

    labels: int
    begun: datetime


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


def _pk(model: str) -> str:
    return f"MONITOR#{model}"


def _by_kind(findings: Iterable[Finding]) -> dict[str, dict[str, int]]:
    """How many findings of each kind alarm and are watched, of those that are not ``ok``."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for one in findings:
        if one.verdict in ("alarm", "watch"):
            found[one.kind][one.verdict] += 1
    return {kind: dict(counts) for kind, counts in found.items()}


def _performance(report: MonitorReport) -> dict[str, Any]:
    """The first metric's figures of the window itself, as an item has them."""
    told: dict[str, Any] = {}
    if report.labels is not None:
        told |= {"sampled": report.labels.rows, "labelled": report.labels.labelled}
    if report.performance:
        series = report.performance[0]
        told |= {"metric": series.metric, "reference": _figures(series.reference)}
        for point in series.points:
            if point.since == report.since:
                told |= {
                    "realised": _figures(point.realised),
                    "estimated": _figures(point.estimated),
                }
    return told


def _figures(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else interval.model_dump()


def _remembered(verdict: Verdict) -> str:
    """What the next window needs to know of this one, in so many characters as an item has room for.

    Of very many features that moved, comparisons with earlier windows are forgotten first, and then
    the smallest differences: they count as new when they are found again.
    """
    short = replace(verdict, reason=verdict.reason[:_MAX_REASON])
    for findings in _forgetting(verdict.moved):
        text = json.dumps(short.to_memory(findings))
        if len(text) <= _PLAIN:
            return text
        packed = b64encode(zlib.compress(text.encode())).decode()
        if len(packed) <= _MAX_MEMORY:
            return packed
    raise AssertionError("a verdict without findings is short")


def _forgetting(moved: Sequence[Finding]) -> Iterator[Sequence[Finding]]:
    yield moved
    left = [f for f in moved if f.against != "last_week"]
    yield left
    left = sorted(
        (f for f in left if f.against != "same_hour"),
        key=lambda f: (f.verdict != "alarm", -(f.effect or 0.0)),
    )
    while left:
        yield left
        left = left[: len(left) // 2]
    yield ()


def _recalled(text: str) -> Verdict:
    plain = text if text.startswith("{") else zlib.decompress(b64decode(text)).decode()
    return Verdict.of_document(json.loads(plain))


def _summary(item: Item) -> Summary:
    # An item of an earlier release has no summary beside the verdict.
    verdict = None if "findings" in item else _recalled(item["verdict"])

    def interval(name: str) -> Interval | None:
        return None if item.get(name) is None else Interval.model_validate(item[name])

    return Summary(
        since=datetime.fromisoformat(item["since"]),
        until=datetime.fromisoformat(item["until"]),
        version=item["version"],
        state=item["state"],
        reason=item.get("reason", "") if verdict is None else verdict.reason,
        rows=item["rows"],
        requests=item["requests"],
        errors=item["errors"],
        judged_at=datetime.fromisoformat(item["at"]),
        times=item["revision"],
        findings=_by_kind(verdict.findings) if verdict is not None else item["findings"],
        metric=item.get("metric", ""),
        reference=interval("reference"),
        realised=interval("realised"),
        estimated=interval("estimated"),
        sampled=item.get("sampled"),
        labelled=item.get("labelled"),
    )


def _judged(item: Item) -> Judged:
    return Judged(
        since=datetime.fromisoformat(item["since"]),
        until=datetime.fromisoformat(item["until"]),
        version=item["version"],
        requests=item["requests"],
        errors=item["errors"],
        at=datetime.fromisoformat(item["at"]),
        state=item["state"],
        verdict=_recalled(item["verdict"]),
        revision=item["revision"],
    )
