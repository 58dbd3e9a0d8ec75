"""Inline SVG for the report: no script, no external resource, readable in light, dark and print.

Every chart is an image with a title and a description for screen readers. Colours come from the
report's style sheet by class; they are from the Okabe-Ito palette, and never the only mark: lines
differ in dash, bars in place. Everything that came from a user is escaped here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from millrace.evaluation.document import (
    Calibration,
    Curves,
    Density,
    Histogram,
    Importance,
    Measured,
    Points,
)
from millrace.evaluation.wording import number

WIDTH: Final = 460
HEIGHT: Final = 320
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 44
MAX_BARS: Final = 25


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve; ``style`` is a class of the style sheet."""

    name: str
    points: Points
    style: str


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers from low to high."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _tick(value: float) -> str:
    size = abs(value)
    if size >= 1_000_000:
        return f"{value / 1e6:g}M"
    if size >= 10_000:
        return f"{value / 1e3:g}k"
    return f"{0.0 if size < 1e-12 else value:.6g}"


def _at(value: float) -> str:
    return f"{value:.1f}"


@dataclass(frozen=True, slots=True)
class _Axes:
    """A plot area with scales."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int = HEIGHT
    width: int = WIDTH
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM

    def across(self, value: float) -> float:
        share = (value - self.x[0]) / (self.x[1] - self.x[0] or 1)
        return self.left + share * (self.width - self.left - self.right)

    def up(self, value: float) -> float:
        share = (value - self.y[0]) / (self.y[1] - self.y[0] or 1)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def frame(
        self, x_label: str, y_label: str, y_ticks: Callable[[float], str] = _tick
    ) -> list[str]:
        """Grid, tick labels and axis labels."""
        parts = []
        floor, ceiling = self.height - self.bottom, self.top
        for value in ticks(*self.x):
            at = _at(self.across(value))
            parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{ceiling}" y2="{floor}"/>')
            parts.append(
                f'<text x="{at}" y="{floor + 16}" text-anchor="middle">{_tick(value)}</text>'
            )
        for value in ticks(*self.y):
            at = _at(self.up(value))
            parts.append(
                f'<line class="grid" x1="{self.left}" x2="{self.width - self.right}" '
                f'y1="{at}" y2="{at}"/>'
            )
            parts.append(
                f'<text x="{self.left - 8}" y="{at}" dy="0.35em" text-anchor="end">'
                f"{escape(y_ticks(value))}</text>"
            )
        middle = (self.left + self.width - self.right) / 2
        parts.append(
            f'<text class="axis" x="{_at(middle)}" y="{self.height - 8}" text-anchor="middle">'
            f"{escape(x_label)}</text>"
        )
        centre = _at((ceiling + floor) / 2)
        parts.append(
            f'<text class="axis" transform="translate(13 {centre}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_label)}</text>'
        )
        return parts

    def path(self, points: Points, style: str) -> str:
        commands = (
            f"{'L' if i else 'M'}{_at(self.across(x))} {_at(self.up(y))}"
            for i, (x, y) in enumerate(points)
        )
        return f'<path class="line {style}" d="{"".join(commands)}"/>'


def _image(
    parts: Sequence[str], title: str, description: str, *, width: int = WIDTH, height: int = HEIGHT
) -> Markup:
    body = "".join(parts)
    return Markup(  # noqa: S704  (every piece of user text in it was escaped where it was put in)
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}. {escape(description)}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{body}</svg>"
    )


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """A legend in HTML, so that it wraps and can be selected."""
    items = Markup("").join(
        Markup('<li><span class="key {}"></span>{}</li>').format(style, name)
        for name, style in entries
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def roc(candidate: Curves, champion: Curves | None) -> Markup:
    """ROC curves."""
    lines = [Line("candidate", candidate.roc, "candidate")]
    if champion is not None:
        lines.append(Line("champion", champion.roc, "champion"))
    axes = _Axes((0, 1), (0, 1))
    parts = axes.frame("false positive rate", "true positive rate")
    parts.append(axes.path(((0, 0), (1, 1)), "reference"))
    parts += [axes.path(line.points, line.style) for line in lines]
    chart = _image(parts, "ROC curve", "True against false positive rate at every threshold.")
    return chart + _legend([*((line.name, line.style) for line in lines), ("guess", "reference")])


def precision_recall(candidate: Curves, champion: Curves | None) -> Markup:
    """Precision-recall curves."""
    lines = [Line("candidate", candidate.precision_recall, "candidate")]
    if champion is not None:
        lines.append(Line("champion", champion.precision_recall, "champion"))
    axes = _Axes((0, 1), (0, 1))
    parts = axes.frame("recall", "precision")
    share = candidate.prevalence
    parts.append(axes.path(((0, share), (1, share)), "reference"))
    parts += [axes.path(line.points, line.style) for line in lines]
    chart = _image(
        parts,
        "Precision-recall curve",
        f"Precision at every recall; a guess has precision {number(share)}.",
    )
    return chart + _legend([*((line.name, line.style) for line in lines), ("guess", "reference")])


def reliability(calibration: Calibration, *, top_label: bool) -> Markup:
    """Predicted against observed share, with counts below."""
    axes = _Axes((0, 1), (0, 1), bottom=96)
    predicted = "confidence in the predicted class" if top_label else "predicted probability"
    observed = "share right" if top_label else "share positive"
    frame = axes.frame("", observed)
    parts = [p for p in frame if 'class="axis"' not in p or observed in p]
    parts.append(axes.path(((0, 0), (1, 1)), "reference"))
    base, reach = HEIGHT - 34, 30
    most = max(b.rows for b in calibration.bins)
    for b in calibration.bins:
        x = _at(axes.across(b.predicted))
        low, high = _at(axes.up(b.observed_low)), _at(axes.up(b.observed_high))
        tip = (
            f"{number(b.low)} to {number(b.high)}: {b.rows:,} rows, predicted "
            f"{number(b.predicted)}, observed {number(b.observed)}"
        )
        parts.append(
            f'<g><title>{escape(tip)}</title><line class="whisker candidate" '
            f'x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'
            f'<circle class="dot candidate" cx="{x}" cy="{_at(axes.up(b.observed))}" r="4"/></g>'
        )
        left, right = axes.across(b.low) + 1, axes.across(b.high) - 1
        tall = max(1.0, reach * b.rows / most)
        parts.append(
            f'<rect class="bar muted" x="{_at(left)}" y="{_at(base - tall)}" '
            f'width="{_at(right - left)}" height="{_at(tall)}"><title>{escape(tip)}</title></rect>'
        )
    parts.append(f'<text x="{LEFT - 8}" y="{base}" text-anchor="end">rows</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{_at(middle)}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{predicted}</text>"
    )
    chart = _image(
        parts,
        "Calibration",
        f"Observed against {predicted} in ten bins, with 95 % intervals; "
        f"the expected calibration error is {number(calibration.error)}.",
    )
    return chart + _legend([("candidate", "candidate dotted"), ("perfect", "reference")])


def value_calibration(calibration: Calibration) -> Markup:
    """Mean actual value per tenth of the predictions."""
    bins = calibration.bins
    lows = [min(b.observed_low, b.predicted) for b in bins]
    highs = [max(b.observed_high, b.predicted) for b in bins]
    span = _padded(min(lows), max(highs))
    axes = _Axes(_padded(min(b.predicted for b in bins), max(b.predicted for b in bins)), span)
    parts = axes.frame("mean predicted, tenths of the predictions", "actual")
    low, high = max(axes.x[0], span[0]), min(axes.x[1], span[1])
    parts.append(axes.path(((low, low), (high, high)), "reference"))
    for b in bins:
        x = _at(axes.across(b.predicted))
        tip = (
            f"{b.rows:,} rows: predicted {number(b.predicted)}, actual mean {number(b.observed)}, "
            f"from {number(b.observed_low)} to {number(b.observed_high)}"
        )
        parts.append(
            f'<g><title>{escape(tip)}</title><line class="whisker candidate" x1="{x}" x2="{x}" '
            f'y1="{_at(axes.up(b.observed_low))}" y2="{_at(axes.up(b.observed_high))}"/>'
            f'<circle class="dot candidate" cx="{x}" cy="{_at(axes.up(b.observed))}" r="4"/></g>'
        )
    chart = _image(
        parts,
        "Calibration",
        "Mean actual value in each tenth of the predictions; whiskers hold the middle 80 %.",
    )
    return chart + _legend(
        [("mean actual, middle 80 %", "candidate dotted"), ("perfect", "reference")]
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.04 or abs(low) * 0.01 or 0.5
    return low - margin, high + margin


def histogram(data: Histogram, title: str, x_label: str, styles: Sequence[str]) -> Markup:
    """Overlaid histograms: the first filled, the others as outlines, each scaled to its share."""
    shares = {
        name: [c / (sum(counts) or 1) for c in counts] for name, counts in data.series.items()
    }
    most = max(max(s) for s in shares.values()) or 1.0
    axes = _Axes((data.edges[0], data.edges[-1]), (0, most * 1.06))
    parts = axes.frame(x_label, "share of rows", lambda v: f"{v * 100:g} %")
    for (name, values), style in zip(shares.items(), styles, strict=False):
        if style == styles[0]:
            for i, share in enumerate(values):
                left, right = axes.across(data.edges[i]), axes.across(data.edges[i + 1])
                tip = f"{name}: {number(data.edges[i])} to {number(data.edges[i + 1])}, {share:.1%}"
                parts.append(
                    f'<rect class="bar {style}" x="{_at(left + 0.5)}" '
                    f'y="{_at(axes.up(share))}" width="{_at(max(0.5, right - left - 1))}" '
                    f'height="{_at(axes.up(0) - axes.up(share))}">'
                    f"<title>{escape(tip)}</title></rect>"
                )
        else:
            corners = [(data.edges[0], 0.0)]
            for i, share in enumerate(values):
                corners += [(data.edges[i], share), (data.edges[i + 1], share)]
            corners.append((data.edges[-1], 0.0))
            parts.append(axes.path(tuple(corners), style))
    names = ", ".join(f"{n}: {sum(c):,} rows" for n, c in data.series.items())
    chart = _image(parts, title, f"Share of rows per bin of {x_label}. {names}.")
    counts = [f"{name} ({sum(c):,})" for name, c in data.series.items()]
    keys = [f"{style} filled" if style == styles[0] else style for style in styles]
    return chart + _legend(list(zip(counts, keys, strict=False)))


def density(data: Density, target: str) -> Markup:
    """Predicted by actual values as a heat map."""
    axes = _Axes((data.edges[0], data.edges[-1]), (data.edges[0], data.edges[-1]))
    parts = axes.frame("predicted", "actual")
    most = max((max(row) for row in data.counts), default=0) or 1
    for i, row in enumerate(data.counts):
        for j, count in enumerate(row):
            if not count:
                continue
            left, right = axes.across(data.edges[j]), axes.across(data.edges[j + 1])
            top, bottom = axes.up(data.edges[i + 1]), axes.up(data.edges[i])
            heat = 0.12 + 0.88 * math.sqrt(count / most)
            parts.append(
                f'<rect class="bar candidate" fill-opacity="{heat:.2f}" x="{_at(left)}" '
                f'y="{_at(top)}" width="{_at(right - left + 0.2)}" '
                f'height="{_at(bottom - top + 0.2)}"><title>{count:,} rows</title></rect>'
            )
    ends = (data.edges[0], data.edges[-1])
    parts.append(axes.path(((ends[0], ends[0]), (ends[1], ends[1])), "reference strong"))
    outside = f" {data.outside:,} rows lie outside." if data.outside else ""
    chart = _image(
        parts,
        f"Predicted and actual {target}",
        f"Rows counted in a grid; the diagonal is right.{outside}",
    )
    return chart + _legend([("rows", "candidate filled"), ("perfect", "line-strong")])


def importance_bars(importance: Importance) -> Markup:
    """Features by how much the metric suffers when they are shuffled."""
    shown = importance.features[:MAX_BARS]
    row, left, right = 22, 168, 70
    height = row * len(shown) + 40
    top = max((f.mean + f.deviation for f in shown), default=0.0) or 1.0
    bottom = min((f.mean - f.deviation for f in shown), default=0.0)
    axes = _Axes(
        (min(0.0, bottom), top), (0, 1), width=720, height=height, left=left, right=right, bottom=30
    )
    floor = height - 30
    parts = []
    for value in ticks(*axes.x):
        at = _at(axes.across(value))
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="4" y2="{floor}"/>')
        parts.append(f'<text x="{at}" y="{floor + 16}" text-anchor="middle">{_tick(value)}</text>')
    for i, feature in enumerate(shown):
        middle = 8 + row * i + row / 2
        start, end = sorted((axes.across(0), axes.across(feature.mean)))
        tip = f"{feature.feature}: {number(feature.mean)} ± {number(feature.deviation)}"
        name = feature.feature if len(feature.feature) <= 24 else feature.feature[:23] + "…"
        low = _at(axes.across(feature.mean - feature.deviation))
        high = _at(axes.across(feature.mean + feature.deviation))
        parts.append(
            f"<g><title>{escape(tip)}</title>"
            f'<text class="name" x="{left - 8}" y="{_at(middle)}" dy="0.35em" text-anchor="end">'
            f"{escape(name)}</text>"
            f'<rect class="bar candidate" x="{_at(start)}" y="{_at(middle - 7)}" '
            f'width="{_at(max(0.5, end - start))}" height="14" rx="2"/>'
            f'<line class="whisker" x1="{low}" x2="{high}" y1="{_at(middle)}" y2="{_at(middle)}"/>'
            f'<text x="{_at(max(float(high), end) + 6)}" y="{_at(middle)}" dy="0.35em">'
            f"{number(feature.mean)}</text></g>"
        )
    return _image(
        parts,
        "Permutation importance",
        f"Loss of {importance.metric} when a feature is shuffled, most important first.",
        width=720,
        height=height,
    )


def interval_mark(metric: Measured | None, low: float, high: float, zero: float | None) -> Markup:
    """A point with its interval on a common scale, for a table's row.

    Args:
        metric: What to draw; nothing when None.
        low: The scale's left end.
        high: The scale's right end.
        zero: Where to draw a reference line, if anywhere.
    """
    if metric is None:
        return Markup("")
    width, height = 160, 18
    axes = _Axes((low, high), (0, 1), width=width, height=height, left=6, right=6)
    parts = []
    if zero is not None:
        at = _at(axes.across(zero))
        parts.append(f'<line class="zero" x1="{at}" x2="{at}" y1="0" y2="{height}"/>')
    if metric.low is not None and metric.high is not None:
        parts.append(
            f'<line class="whisker candidate" x1="{_at(axes.across(metric.low))}" '
            f'x2="{_at(axes.across(metric.high))}" y1="9" y2="9"/>'
        )
    parts.append(
        f'<circle class="dot candidate" cx="{_at(axes.across(metric.value))}" cy="9" r="3.5"/>'
    )
    return Markup(  # noqa: S704  (numbers only)
        f'<svg class="mark" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )
