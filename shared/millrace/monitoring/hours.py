"""What was asked and answered, counted by hour: what monitoring compares, whatever the traffic.

Everything here adds up: counts of two deliveries, hours or windows are the sum of theirs, in any order.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from typing import Literal, Self


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
        latency: Captured requests by `tallies.latency_bin`.
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
        latency: Captured requests by `tallies.latency_bin`.
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
