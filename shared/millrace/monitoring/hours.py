"""What was asked and answered, counted by hour: what monitoring compares, whatever the traffic.

Everything here adds up: counts of two deliveries, hours or windows are the sum of theirs, in any order.

In the registry's table, ``HOURS#<model>`` / ``<hour>#<version>#<part>#<shard>`` holds the counts of one
version's predictions of one hour (UTC), by the predictions' own time. A part has as many counts as one
update may add to, and says what they are of. Beside them ``LINES#<model>`` / ``<hour>#<process>`` says
how many captured lines of a predict process arrived, and the greatest of their numbers: what is between
is lost, or on its way. Deliveries add to both, each once (`counting`). Items expire.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from typing import Any, Final, Literal, Protocol, Self

from millrace.aws.table import SK, Below, Item, Key, QueryPage, Update
from millrace.monitoring.counting import (
    LATENCY_BINS,
    MAX_ADDS,
    Addition,
    CountingTable,
    add_once,
)
from millrace.serving.capture import CapturedPrediction

MARKER: Final = "COUNTED#"
LOOK_BACK: Final = timedelta(days=1)
"""How long before a window a predict process is looked for that still answers in it."""
_TRAFFIC: Final = "#traffic"
_LATENCY: Final = "#latency"
_SCORES: Final = "#scores"
_CLASSES: Final = "#classes"
_THOUSANDTH: Final = 1_000
_PAGE: Final = 1_000
"""Items that are asked for at once: those of a month of a model with few features."""
_UNBINNED: Final = "---"
_AFTER: Final = "~"
"""Sorts after every part of an hour's key."""


@dataclass(slots=True)
class FeatureCounts:
    """Values of one feature, or scores, on the bins of the version's baseline.

    Attributes:
        rows: Captured rows, those without a value included.
        missing: Rows without a value; NaN is none.
        unseen: Rows with a category that training never saw; they are in no bin.
        other: Rows with a category that training saw and that is not among the baseline's; in no bin.
        below: Rows under the lowest edge; they are in the first bin as well.
        above: Rows over the highest edge; they are in the last bin as well.
        bins: Rows by number of the bin: of a category, its place in the baseline.
    """

    rows: int = 0
    missing: int = 0
    unseen: int = 0
    other: int = 0
    below: int = 0
    above: int = 0
    bins: Counter[int] = field(default_factory=Counter)

    def __add__(self, more: Self) -> "FeatureCounts":
        """Both together."""
        return FeatureCounts(
            rows=self.rows + more.rows,
            missing=self.missing + more.missing,
            unseen=self.unseen + more.unseen,
            other=self.other + more.other,
            below=self.below + more.below,
            above=self.above + more.above,
            bins=self.bins + more.bins,
        )

    def counts(self, number: int) -> list[int]:
        """Rows of each of so many bins."""
        return [self.bins[place] for place in range(number)]


@dataclass(slots=True)
class HourCounts:
    """Traffic of one hour.

    Attributes:
        at: When it begins.
        requests: Captured requests.
        rows: Rows that they asked about.
        errors: Requests that the version failed; they are not among the captured.
        latency: Captured requests by `counting.latency_bin`.
    """

    at: datetime
    requests: int = 0
    rows: int = 0
    errors: int = 0
    latency: Counter[int] = field(default_factory=Counter)

    def __add__(self, more: Self) -> "HourCounts":
        """Both together; the earlier hour names the sum."""
        return HourCounts(
            at=min(self.at, more.at),
            requests=self.requests + more.requests,
            rows=self.rows + more.rows,
            errors=self.errors + more.errors,
            latency=self.latency + more.latency,
        )


@dataclass(slots=True)
class WindowCounts:
    """What one version was asked and answered in a window.

    Attributes:
        model: The model.
        version: The version that answered.
        since: When the window begins.
        until: When it ends, itself not in it.
        against: What the window is compared with as; None for the window that is judged.
        requests: Captured requests.
        rows: Captured rows: of requests too large for a line, those that it holds.
        errors: Requests that the version failed; they are not among the captured.
        weighed: Requests that the captured stand for: the sum of the inverse of their rates.
        missing_lines: Captured lines of the model that never arrived, as gaps in their numbers tell.
        binned: Whether features and scores are on the bins of a baseline; False when the version has
            none, and then only traffic is counted.
        latency: Captured requests by `counting.latency_bin`.
        features: Of each public feature; of a private one, at most missing values.
        scores: The score of each row, as the baseline's.
        classes: Rows by predicted class; empty of a regression.
        hours: Traffic of each hour that had any.
    """

    model: str
    version: int
    since: datetime
    until: datetime
    against: Literal["last_week", "same_hour"] | None = None
    requests: int = 0
    rows: int = 0
    errors: int = 0
    weighed: float = 0.0
    missing_lines: int = 0
    binned: bool = True
    latency: Counter[int] = field(default_factory=Counter)
    features: dict[str, FeatureCounts] = field(default_factory=dict)
    scores: FeatureCounts = field(default_factory=FeatureCounts)
    classes: Counter[str] = field(default_factory=Counter)
    hours: dict[datetime, HourCounts] = field(default_factory=dict)

    def __add__(self, more: Self) -> "WindowCounts":
        """Both together: a window from the earlier beginning to the later end.

        Raises:
            ValueError: They are of different versions: their bins are not the same.
        """
        if (self.model, self.version) != (more.model, more.version):
            raise ValueError(
                f"counts of {self.model}@{self.version} and {more.model}@{more.version} do not add up"
            )
        return WindowCounts(
            model=self.model,
            version=self.version,
            since=min(self.since, more.since),
            until=max(self.until, more.until),
            against=self.against if self.against == more.against else None,
            requests=self.requests + more.requests,
            rows=self.rows + more.rows,
            errors=self.errors + more.errors,
            weighed=self.weighed + more.weighed,
            missing_lines=self.missing_lines + more.missing_lines,
            binned=self.binned and more.binned,
            latency=self.latency + more.latency,
            features=_merged(self.features, more.features),
            scores=self.scores + more.scores,
            classes=self.classes + more.classes,
            hours=_merged(self.hours, more.hours),
        )


def total(windows: Iterable[WindowCounts]) -> WindowCounts | None:
    """All of them together; None of none."""
    found = list(windows)
    return reduce(WindowCounts.__add__, found) if found else None


def _merged[K, V: (FeatureCounts, HourCounts)](one: dict[K, V], other: dict[K, V]) -> dict[K, V]:
    merged = dict(one)
    for key, counts in other.items():
        merged[key] = merged[key] + counts if key in merged else counts
    return merged


# ── Items ───────────────────────────────────────────────────────────────────────────────────────


class CountsTable(CountingTable, Protocol):
    """What hour counts need of DynamoDB."""

    def query(
        self,
        pk: str,
        *,
        since: str = "",
        until: str = "",
        limit: int | None = None,
        start: Item | None = None,
    ) -> QueryPage:
        """Items of one partition in the order of their sort key."""
        ...


@dataclass(frozen=True, slots=True)
class Section:
    """Counts of one thing within a part.

    Attributes:
        name: A feature's after a dot; of the rest, `_TRAFFIC` and the like.
        size: Most counts that it has.
        first: The first of its bins: many classes have several sections.
    """

    name: str
    size: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Which counts of a version are in which part: the same for every delivery.

    Attributes:
        parts: The sections of each part.
        classes: Names of the classes.
    """

    parts: tuple[tuple[Section, ...], ...]
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, features: Mapping[str, int], scores: int, classes: Sequence[str] = ()) -> "Layout":
        """The layout of a version.

        Args:
            features: How many bins each feature has.
            scores: How many bins the score has.
            classes: The classes.
        """
        sections = [Section(_TRAFFIC, len(_NUMBERS)), Section(_LATENCY, LATENCY_BINS)]
        sections += [Section(_SCORES, scores + len(_BESIDES))]
        step = MAX_ADDS // 2
        sections += [
            Section(_CLASSES, min(step, len(classes) - first), first)
            for first in range(0, len(classes), step)
        ]
        sections += [Section(f".{name}", size + len(_BESIDES)) for name, size in features.items()]
        parts: list[list[Section]] = [[]]
        for section in sections:
            if sum(one.size for one in parts[-1]) + section.size > MAX_ADDS:
                parts.append([])
            parts[-1].append(section)
        return cls(tuple(map(tuple, parts)), tuple(classes))


_NUMBERS: Final = {"requests": "q", "rows": "r", "asked": "k", "errors": "e", "weighed": "w"}
_BESIDES: Final = {
    "rows": "r",
    "missing": "m",
    "unseen": "u",
    "other": "o",
    "below": "b",
    "above": "a",
}
"""Counts of a feature beside its bins."""
_TRAFFIC_OF: Final = {letter: name for name, letter in _NUMBERS.items()}
_BESIDE_OF: Final = {letter: name for name, letter in _BESIDES.items()}
_COUNT: Final = re.compile(r"(\d+)([a-z]|_\d+)")


def hour_text(at: datetime) -> str:
    """An hour as keys name it."""
    return f"{at:%Y-%m-%dT%H:%M:%S}"


def add(
    table: CountingTable,
    digest: str,
    counted: Sequence[WindowCounts],
    layouts: Mapping[tuple[str, int], Layout],
    records: Iterable[CapturedPrediction],
    *,
    now: datetime,
    keep: timedelta,
    begin_of: Callable[[datetime], datetime],
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Adds what one delivery counted, unless that was done before.

    Args:
        table: The registry's table.
        digest: `counting.digest_of` the delivery.
        counted: Its counts by model, version and hour.
        layouts: Of each of these versions.
        records: Its captured requests, whose numbers tell what is lost.
        now: Tells when the delivery's marker may go.
        keep: How long after their hour counts are kept.
        begin_of: When the hour of a moment begins.
        wait: Waits so many seconds.

    Returns:
        Requests that were counted by this call.
    """
    lines = [_lines(*one, keep) for one in sorted(_arrived(records, begin_of).items())]

    def additions(shard: int) -> list[Addition]:
        return lines + [
            Addition(update)
            for counts in counted
            for update in _updates(counts, layouts[counts.model, counts.version], shard, keep)
        ]

    added = add_once(table, MARKER, digest, additions, now=now, wait=wait)
    # The first section of a version's first part is its traffic.
    place = f"0{_NUMBERS['requests']}"
    return sum(
        one.update.adds.get(place, 0)
        for one in added
        if one.update.values.get("sections", ("",))[0] == _TRAFFIC
    )


def _updates(counts: WindowCounts, layout: Layout, shard: int, keep: timedelta) -> Iterator[Update]:
    """What is added to each part that has something of these counts."""
    for number, sections in enumerate(layout.parts):
        adds = {
            f"{slot}{name}": amount
            for slot, section in enumerate(sections)
            for name, amount in _amounts(counts, section, layout)
            if amount
        }
        if not adds:
            continue
        values: dict[str, Any] = {
            "sections": [one.name for one in sections],
            "binned": counts.binned,
            "expires_at": int((counts.until + keep).timestamp()),
        }
        named = [one for one in sections if one.name == _CLASSES]
        if named:
            first, end = named[0].first, named[-1].first + named[-1].size
            values |= {"classes": list(layout.classes[first:end]), "first_class": first}
        # Counts that were made without a baseline have sections of their own.
        part = f"{number:03d}" if counts.binned else _UNBINNED
        place = f"{hour_text(counts.since)}#{counts.version:06d}#{part}#{shard:02d}"
        # nosemgrep: registry-write-without-assumption -- it adds; the delivery's marker carries the condition
        yield Update(
            f"counts {counts.model} {place}",
            Key(f"HOURS#{counts.model}", place),
            values,
            exists=False,
            adds=adds,
        )


def _amounts(counts: WindowCounts, section: Section, layout: Layout) -> Iterator[tuple[str, int]]:
    match section.name:
        case "#traffic":
            for name, letter in _NUMBERS.items():
                yield letter, _traffic(counts, name)
        case "#latency":
            yield from ((f"_{place}", rows) for place, rows in counts.latency.items())
        case "#classes":
            for place in range(section.first, section.first + section.size):
                yield f"_{place}", counts.classes[layout.classes[place]]
        case "#scores":
            yield from _of_feature(counts.scores)
        case name:
            feature = counts.features.get(name.removeprefix("."))
            if feature is not None:
                yield from _of_feature(feature)


def _traffic(counts: WindowCounts, name: str) -> int:
    if name == "asked":
        return sum(hour.rows for hour in counts.hours.values())
    if name == "weighed":
        return round(counts.weighed * _THOUSANDTH)
    amount: int = getattr(counts, name)
    return amount


def _of_feature(feature: FeatureCounts) -> Iterator[tuple[str, int]]:
    for name, letter in _BESIDES.items():
        yield letter, getattr(feature, name)
    for place, rows in feature.bins.items():
        yield f"_{place}", rows


# ── Lines that arrived ──────────────────────────────────────────────────────────────────────────


def _arrived(
    records: Iterable[CapturedPrediction], begin_of: Callable[[datetime], datetime]
) -> dict[tuple[str, datetime, str], list[int]]:
    """Numbers of the lines that arrived, by model, hour and process."""
    arrived: dict[tuple[str, datetime, str], list[int]] = defaultdict(list)
    for one in records:
        arrived[one.model, begin_of(one.at), one.process].append(one.sequence)
    return arrived


def _lines(place: tuple[str, datetime, str], numbers: Sequence[int], keep: timedelta) -> Addition:
    model, at, process = place
    last = max(numbers)
    key = Key(f"LINES#{model}", f"{hour_text(at)}#{process}")
    name = f"lines {model} {at} {process}"
    values = {"expires_at": int((at + keep).timestamp())}
    adds = {"arrived": len(numbers)}
    return Addition(
        Update(name, key, values | {"last": last}, {"last": Below(last)}, exists=False, adds=adds),
        # A delivery that was overtaken by a later one of its process.
        # nosemgrep: registry-write-without-assumption -- it adds; the delivery's marker carries the condition
        Update(name, key, values, exists=False, adds=adds),
    )


def missing_lines(items: Iterable[Item], since: datetime) -> int:
    """How many captured lines of a window never arrived.

    A process numbers its lines from one without a gap. So between its last line before the window and
    its last line in it there are as many as their numbers say; what did not arrive of them is lost.

    Args:
        items: ``LINES#`` items up to the window's end, from a day before it, in order.
        since: When the window begins.
    """
    begin = hour_text(since)
    before: dict[str, int] = defaultdict(int)
    missing = 0
    for item in items:
        hour, _, process = str(item[SK]).partition("#")
        if hour >= begin:
            missing += max(0, item["last"] - before[process] - item["arrived"])
        before[process] = max(before[process], item["last"])
    return missing


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────


def read_hours(
    table: CountsTable, model: str, since: datetime, until: datetime, *, hour: timedelta
) -> list[WindowCounts]:
    """Counts of every version and hour that had any: one query, whatever the traffic.

    Args:
        table: The registry's table.
        model: The model.
        since: From the hour on that begins then.
        until: Up to the hour that ends then.
        hour: How long an hour lasts.

    Returns:
        One for each hour of each version, in order.
    """
    found: dict[tuple[datetime, int], WindowCounts] = {}
    bounds = {"since": hour_text(since), "until": hour_text(until - hour) + _AFTER}
    for item in _items(table, f"HOURS#{model}", bounds):
        text, version = str(item[SK]).split("#")[:2]
        at = datetime.fromisoformat(text + "+00:00")
        counts = found.setdefault(
            (at, int(version)),
            WindowCounts(model, int(version), at, at + hour, hours={at: HourCounts(at)}),
        )
        _take(item, counts, at)
    for counts in found.values():
        traffic = counts.hours[counts.since]
        traffic.latency = Counter(counts.latency)
        traffic.requests, traffic.errors = counts.requests, counts.errors
    return [found[place] for place in sorted(found)]


def _items(table: CountsTable, pk: str, bounds: Mapping[str, str]) -> Iterator[Item]:
    """Items of a partition; of a model with very many features not all are held at once."""
    start: Item | None = None
    while True:
        page = table.query(pk, **bounds, limit=_PAGE, start=start)
        yield from page.items
        if (start := page.last) is None:
            return


def read_window(
    table: CountsTable,
    model: str,
    version: int,
    since: datetime,
    until: datetime,
    *,
    hour: timedelta = timedelta(hours=1),
) -> WindowCounts:
    """What one version was asked and answered in a window: two queries, whatever the traffic.

    Args:
        table: The registry's table.
        model: The model.
        version: The version.
        since: When the window begins, on an hour.
        until: When it ends.
        hour: How long an hour lasts.
    """
    found = read_hours(table, model, since, until, hour=hour)
    counts = window_of(found, model, version, since, until)
    counts.missing_lines = read_missing_lines(table, model, since, until, hour=hour)
    return counts


def read_missing_lines(
    table: CountsTable, model: str, since: datetime, until: datetime, *, hour: timedelta
) -> int:
    """How many captured lines of a model never arrived, as the gaps in their numbers tell."""
    page = table.query(
        f"LINES#{model}",
        since=hour_text(since - LOOK_BACK),
        until=hour_text(until - hour) + _AFTER,
    )
    return missing_lines(page.items, since)


def window_of(
    hours: Iterable[WindowCounts], model: str, version: int, since: datetime, until: datetime
) -> WindowCounts:
    """One version's window of the hours that `read_hours` found."""
    window = WindowCounts(model, version, since, until)
    inside = (
        one for one in hours if one.version == version and since <= one.since and one.until <= until
    )
    return reduce(WindowCounts.__add__, inside, window)


def _take(item: Item, counts: WindowCounts, at: datetime) -> None:
    """Adds what an item holds to the counts of its hour."""
    sections: list[str] = item["sections"]
    classes: list[str] = item.get("classes", [])
    first = item.get("first_class", 0)
    counts.binned = counts.binned and item["binned"]
    for slot, what, amount in _counts(item):
        section = sections[slot]
        match section:
            case "#traffic":
                _take_traffic(what, amount, counts, at)
            case "#latency":
                counts.latency[int(what[1:])] += amount
            case "#classes":
                counts.classes[classes[int(what[1:]) - first]] += amount
            case "#scores":
                _take_feature(what, amount, counts.scores)
            case name:
                feature = counts.features.setdefault(name.removeprefix("."), FeatureCounts())
                _take_feature(what, amount, feature)


def _counts(item: Item) -> Iterator[tuple[int, str, int]]:
    """The section's place, what it counts, and how many, of each count of an item."""
    for name, amount in item.items():
        named = _COUNT.fullmatch(name)
        if named is not None:
            yield int(named[1]), named[2], amount


def _take_traffic(letter: str, amount: int, counts: WindowCounts, at: datetime) -> None:
    match _TRAFFIC_OF[letter]:
        case "asked":
            counts.hours[at].rows += amount
        case "weighed":
            counts.weighed += amount / _THOUSANDTH
        case name:
            setattr(counts, name, getattr(counts, name) + amount)


def _take_feature(what: str, amount: int, feature: FeatureCounts) -> None:
    if what.startswith("_"):
        feature.bins[int(what[1:])] += amount
    else:
        name = _BESIDE_OF[what]
        setattr(feature, name, getattr(feature, name) + amount)
