"""Values of captured predictions fall into the bins of their version's baseline.

Bin i of a number is [edges[i], edges[i+1]), the last one closed, as `datasets.profiles` makes them. What
lies under the first edge or over the last counts into the first or last bin, and as ``below`` or
``above`` besides; infinities are such. NaN is missing, and so is what is no number where one belongs.
A feature that the bins do not name, as no private one is, is not counted at all.
"""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from millrace.monitoring.baseline import Baseline
from millrace.monitoring.counting import latency_bin
from millrace.monitoring.hours import FeatureCounts, HourCounts, Layout, WindowCounts
from millrace.serving.capture import CapturedPrediction
from millrace.vocabulary import ColumnType

HOUR: Final = timedelta(hours=1)
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_BINARY: Final = 2
_EVERYTHING: Final = (-math.inf, math.inf)
"""Edges of a number that training never saw a value of."""


@dataclass(frozen=True, slots=True)
class NumericBins:
    """Bins of a number.

    Attributes:
        edges: Ascending, one more than bins; at least one.
    """

    edges: tuple[float, ...]

    @property
    def size(self) -> int:
        """How many bins there are."""
        return max(1, len(self.edges) - 1)

    def count(self, values: Sequence[Any]) -> FeatureCounts:
        """Counts values."""
        numbers = [v for v in values if type(v) in _NUMBERS and v == v]
        inner, low, high = self.edges[1:-1], self.edges[0], self.edges[-1]
        return FeatureCounts(
            rows=len(values),
            missing=len(values) - len(numbers),
            below=sum(v < low for v in numbers),
            above=sum(v > high for v in numbers),
            bins=Counter([bisect_right(inner, v) for v in numbers]),
        )


_NUMBERS: Final = frozenset({int, float, bool})


@dataclass(frozen=True, slots=True)
class CategoryBins:
    """Bins of a category.

    Attributes:
        places: The bin of each category that has one.
        known: Categories that training saw and that have no bin. None: training saw some, and it is not
            known which, so that one without a bin counts as ``other``.
    """

    places: Mapping[str, int]
    known: frozenset[str] | None = field(default_factory=frozenset)

    @property
    def size(self) -> int:
        """How many bins there are."""
        return len(self.places)

    def count(self, values: Sequence[Any]) -> FeatureCounts:
        """Counts values."""
        counted = FeatureCounts(rows=len(values))
        for value, rows in Counter(map(category_text, values)).items():
            if not value:
                counted.missing += rows
            elif (place := self.places.get(value)) is not None:
                counted.bins[place] += rows
            elif self.known is None or value in self.known:
                counted.other += rows
            else:
                counted.unseen += rows
        return counted


def category_text(value: Any) -> str:
    """A category as the baseline spells it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value != value:
        return ""
    return str(value)


@dataclass(frozen=True, slots=True)
class Bins:
    """Where what one version was asked and answered falls.

    Attributes:
        features: By name; no private one is among them.
        scores: Of the score.
        classes: The classes, in the order of the probabilities; empty for a regression.
    """

    features: Mapping[str, NumericBins | CategoryBins]
    scores: NumericBins
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, baseline: Baseline) -> "Bins":
        """The bins of a version's baseline."""
        features: dict[str, NumericBins | CategoryBins] = {}
        for one in baseline.features:
            if one.private:
                continue
            if one.categorical is not None:
                places = {name: i for i, name in enumerate(one.categorical.categories)}
                rest = one.categorical.rest
                features[one.name] = CategoryBins(places, None if rest is None else frozenset(rest))
            elif one.type is ColumnType.STRING:
                features[one.name] = CategoryBins({})
            else:
                edges = () if one.numeric is None else one.numeric.edges
                features[one.name] = NumericBins(edges or _EVERYTHING)
        return cls(features, NumericBins(baseline.scores.edges or _EVERYTHING), baseline.classes)

    @property
    def layout(self) -> Layout:
        """Which of the counts lie together."""
        sizes = {name: bins.size for name, bins in self.features.items()}
        return Layout.of(sizes, self.scores.size, self.classes)


NO_LAYOUT: Final = Layout.of({}, 0)
"""Of a version without a baseline."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that a version failed.

    Attributes:
        model: The model.
        version: The version.
        at: When.
    """

    model: str
    version: int
    at: datetime


def begin_of(at: datetime, hour: timedelta = HOUR) -> datetime:
    """When the hour of a moment begins."""
    return at - (at - _EPOCH) % hour


def count(
    records: Iterable[CapturedPrediction],
    failures: Iterable[Failure],
    bins_of: Callable[[str, int], Bins | None],
    *,
    hour: timedelta = HOUR,
) -> list[WindowCounts]:
    """What captured and failed requests add up to, by model, version and hour.

    Args:
        records: Captured requests, in any order.
        failures: Requests that a version failed.
        bins_of: The bins of a model's version; None when it has no baseline.
        hour: How long an hour lasts.

    Returns:
        One for each hour of each version, in order.
    """
    by_place: dict[tuple[str, int, datetime], list[CapturedPrediction]] = defaultdict(list)
    for record in records:
        by_place[record.model, record.version, begin_of(record.at, hour)].append(record)
    failed = Counter((one.model, one.version, begin_of(one.at, hour)) for one in failures)
    counted = []
    for place in sorted({*by_place, *failed}):
        model, version, at = place
        counts = _of_hour(by_place[place], bins_of(model, version), place, hour)
        counts.errors = counts.hours[at].errors = failed[place]
        counted.append(counts)
    return counted


def _of_hour(
    records: Sequence[CapturedPrediction],
    bins: Bins | None,
    place: tuple[str, int, datetime],
    hour: timedelta,
) -> WindowCounts:
    model, version, at = place
    latency = Counter([latency_bin(one.latency_ms) for one in records])
    asked = sum(one.row_count for one in records)
    counts = WindowCounts(
        model,
        version,
        at,
        at + hour,
        requests=len(records),
        rows=sum(len(one.kept_rows) for one in records),
        weighed=sum(1 / one.rate for one in records),
        binned=bins is not None,
        latency=latency,
        hours={at: HourCounts(at, len(records), asked, 0, Counter(latency))},
    )
    if bins is not None:
        _count_values(records, bins, counts)
    return counts


def _count_values(records: Sequence[CapturedPrediction], bins: Bins, counts: WindowCounts) -> None:
    columns: dict[str, list[Any]] = {name: [] for name in bins.features}
    scores: list[Any] = []
    classes: Counter[int] = Counter()
    for one in records:
        for name, values in one.inputs.items():
            if name in columns:
                columns[name] += values
        if "probabilities" in one.outputs:
            for row in one.outputs["probabilities"]:
                place, score = _of_probabilities(row)
                scores.append(score)
                if place is not None:
                    classes[place] += 1
        else:
            scores += one.outputs.get("prediction", ())
    for name, values in columns.items():
        if values:
            counts.features[name] = bins.features[name].count(values)
    counts.scores = bins.scores.count(scores)
    names = bins.classes
    counts.classes = Counter(
        {names[place]: rows for place, rows in classes.items() if place < len(names)}
    )


def _of_probabilities(row: Any) -> tuple[int | None, float | None]:
    """The predicted class's place and the score: of two classes the second's, else the greatest."""
    if not isinstance(row, list) or not row:
        return None, None
    if not all(type(p) in _NUMBERS and math.isfinite(p) for p in row):
        return None, None
    greatest = max(row)
    return row.index(greatest), row[1] if len(row) == _BINARY else greatest
