"""The figures of the evaluation report.

They are never told by colour alone: lines differ in dash, bars in place (the palette is Okabe and
Ito's). What they are drawn with, and how user text is escaped, is `millrace.plots`.
"""

import math
from collections.abc import Sequence
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
from millrace.plots import HEIGHT, LEFT, RIGHT, WIDTH, Axes, image, legend, px, tick_text, ticks

MAX_BARS: Final = 25


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve; ``style`` is a class of the style sheet."""

    name: str
    points: Points
    style: str


def roc(candidate: Curves, champion: Curves | None) -> Markup:
    """ROC curves."""
    lines = [Line("candidate", candidate.roc, "candidate")]
    if champion is not None:
        lines.append(Line("champion", champion.roc, "champion"))
    axes = Axes((0, 1), (0, 1))
    parts = axes.frame("false positive rate", "true positive rate")
    parts.append(axes.path(((0, 0), (1, 1)), "reference"))
    parts += [axes.path(line.points, line.style) for line in lines]
    chart = image(parts, "ROC curve", "True against false positive rate at every threshold.")
    return chart + legend([*((line.name, line.style) for line in lines), ("guess", "reference")])


def precision_recall(candidate: Curves, champion: Curves | None) -> Markup:
    """Precision-recall curves."""
    lines = [Line("candidate", candidate.precision_recall, "candidate")]
    if champion is not None:
        lines.append(Line("champion", champion.precision_recall, "champion"))
    axes = Axes((0, 1), (0, 1))
    parts = axes.frame("recall", "precision")
    share = candidate.prevalence
    parts.append(axes.path(((0, share), (1, share)), "reference"))
    parts += [axes.path(line.points, line.style) for line in lines]
    chart = image(
        parts,
        "Precision-recall curve",
        f"Precision at every recall; a guess has precision {number(share)}.",
    )
    return chart + legend([*((line.name, line.style) for line in lines), ("guess", "reference")])


def reliability(calibration: Calibration, *, top_label: bool) -> Markup:
    """Predicted against observed share, with counts below."""
    axes = Axes((0, 1), (0, 1), bottom=96)
    predicted = "confidence in the predicted class" if top_label else "predicted probability"
    observed = "share right" if top_label else "share positive"
    frame = axes.frame("", observed)
    parts = [p for p in frame if 'class="axis"' not in p or observed in p]
    parts.append(axes.path(((0, 0), (1, 1)), "reference"))
    base, reach = HEIGHT - 34, 30
    most = max(b.rows for b in calibration.bins)
    for b in calibration.bins:
        x = px(axes.across(b.predicted))
        low, high = px(axes.up(b.observed_low)), px(axes.up(b.observed_high))
        tip = (
            f"{number(b.low)} to {number(b.high)}: {b.rows:,} rows, predicted "
            f"{number(b.predicted)}, observed {number(b.observed)}"
        )
        parts.append(
            f'<g><title>{escape(tip)}</title><line class="whisker candidate" '
            f'x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'
            f'<circle class="dot candidate" cx="{x}" cy="{px(axes.up(b.observed))}" r="4"/></g>'
        )
        left, right = axes.across(b.low) + 1, axes.across(b.high) - 1
        tall = max(1.0, reach * b.rows / most)
        parts.append(
            f'<rect class="bar muted" x="{px(left)}" y="{px(base - tall)}" '
            f'width="{px(right - left)}" height="{px(tall)}"><title>{escape(tip)}</title></rect>'
        )
    parts.append(f'<text x="{LEFT - 8}" y="{base}" text-anchor="end">rows</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{px(middle)}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{predicted}</text>"
    )
    chart = image(
        parts,
        "Calibration",
        f"Observed against {predicted} in ten bins, with 95 % intervals; "
        f"the expected calibration error is {number(calibration.error)}.",
    )
    return chart + legend([("candidate", "candidate dotted"), ("perfect", "reference")])


def value_calibration(calibration: Calibration) -> Markup:
    """Mean actual value per tenth of the predictions."""
    bins = calibration.bins
    lows = [min(b.observed_low, b.predicted) for b in bins]
    highs = [max(b.observed_high, b.predicted) for b in bins]
    span = _padded(min(lows), max(highs))
    axes = Axes(_padded(min(b.predicted for b in bins), max(b.predicted for b in bins)), span)
    parts = axes.frame("mean predicted, tenths of the predictions", "actual")
    low, high = max(axes.x[0], span[0]), min(axes.x[1], span[1])
    parts.append(axes.path(((low, low), (high, high)), "reference"))
    for b in bins:
        x = px(axes.across(b.predicted))
        tip = (
            f"{b.rows:,} rows: predicted {number(b.predicted)}, actual mean {number(b.observed)}, "
            f"from {number(b.observed_low)} to {number(b.observed_high)}"
        )
        parts.append(
            f'<g><title>{escape(tip)}</title><line class="whisker candidate" x1="{x}" x2="{x}" '
            f'y1="{px(axes.up(b.observed_low))}" y2="{px(axes.up(b.observed_high))}"/>'
            f'<circle class="dot candidate" cx="{x}" cy="{px(axes.up(b.observed))}" r="4"/></g>'
        )
    chart = image(
        parts,
        "Calibration",
        "Mean actual value in each tenth of the predictions; whiskers hold the middle 80 %.",
    )
    return chart + legend(
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
    axes = Axes((data.edges[0], data.edges[-1]), (0, most * 1.06))
    parts = axes.frame(x_label, "share of rows", lambda v: f"{v * 100:g} %")
    for (name, values), style in zip(shares.items(), styles, strict=False):
        if style == styles[0]:
            for i, share in enumerate(values):
                left, right = axes.across(data.edges[i]), axes.across(data.edges[i + 1])
                tip = f"{name}: {number(data.edges[i])} to {number(data.edges[i + 1])}, {share:.1%}"
                parts.append(
                    f'<rect class="bar {style}" x="{px(left + 0.5)}" '
                    f'y="{px(axes.up(share))}" width="{px(max(0.5, right - left - 1))}" '
                    f'height="{px(axes.up(0) - axes.up(share))}">'
                    f"<title>{escape(tip)}</title></rect>"
                )
        else:
            corners = [(data.edges[0], 0.0)]
            for i, share in enumerate(values):
                corners += [(data.edges[i], share), (data.edges[i + 1], share)]
            corners.append((data.edges[-1], 0.0))
            parts.append(axes.path(tuple(corners), style))
    names = ", ".join(f"{n}: {sum(c):,} rows" for n, c in data.series.items())
    chart = image(parts, title, f"Share of rows per bin of {x_label}. {names}.")
    counts = [f"{name} ({sum(c):,})" for name, c in data.series.items()]
    keys = [f"{style} filled" if style == styles[0] else style for style in styles]
    return chart + legend(list(zip(counts, keys, strict=False)))


def density(data: Density, target: str) -> Markup:
    """Predicted by actual values as a heat map."""
    axes = Axes((data.edges[0], data.edges[-1]), (data.edges[0], data.edges[-1]))
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
                f'<rect class="bar candidate" fill-opacity="{heat:.2f}" x="{px(left)}" '
                f'y="{px(top)}" width="{px(right - left + 0.2)}" '
                f'height="{px(bottom - top + 0.2)}"><title>{count:,} rows</title></rect>'
            )
    ends = (data.edges[0], data.edges[-1])
    parts.append(axes.path(((ends[0], ends[0]), (ends[1], ends[1])), "reference strong"))
    outside = f" {data.outside:,} rows lie outside." if data.outside else ""
    chart = image(
        parts,
        f"Predicted and actual {target}",
        f"Rows counted in a grid; the diagonal is right.{outside}",
    )
    return chart + legend([("rows", "candidate filled"), ("perfect", "line-strong")])


def importance_bars(importance: Importance) -> Markup:
    """Features by how much the metric suffers when they are shuffled."""
    shown = importance.features[:MAX_BARS]
    row, left, right = 22, 168, 70
    height = row * len(shown) + 40
    top = max((f.mean + f.deviation for f in shown), default=0.0) or 1.0
    bottom = min((f.mean - f.deviation for f in shown), default=0.0)
    axes = Axes(
        (min(0.0, bottom), top), (0, 1), width=720, height=height, left=left, right=right, bottom=30
    )
    floor = height - 30
    parts = []
    for value in ticks(*axes.x):
        at = px(axes.across(value))
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="4" y2="{floor}"/>')
        parts.append(
            f'<text x="{at}" y="{floor + 16}" text-anchor="middle">{tick_text(value)}</text>'
        )
    for i, feature in enumerate(shown):
        middle = 8 + row * i + row / 2
        start, end = sorted((axes.across(0), axes.across(feature.mean)))
        tip = f"{feature.feature}: {number(feature.mean)} ± {number(feature.deviation)}"
        name = feature.feature if len(feature.feature) <= 24 else feature.feature[:23] + "…"
        low = px(axes.across(feature.mean - feature.deviation))
        high = px(axes.across(feature.mean + feature.deviation))
        parts.append(
            f"<g><title>{escape(tip)}</title>"
            f'<text class="name" x="{left - 8}" y="{px(middle)}" dy="0.35em" text-anchor="end">'
            f"{escape(name)}</text>"
            f'<rect class="bar candidate" x="{px(start)}" y="{px(middle - 7)}" '
            f'width="{px(max(0.5, end - start))}" height="14" rx="2"/>'
            f'<line class="whisker" x1="{low}" x2="{high}" y1="{px(middle)}" y2="{px(middle)}"/>'
            f'<text x="{px(max(float(high), end) + 6)}" y="{px(middle)}" dy="0.35em">'
            f"{number(feature.mean)}</text></g>"
        )
    return image(
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
    axes = Axes((low, high), (0, 1), width=width, height=height, left=6, right=6)
    parts = []
    if zero is not None:
        at = px(axes.across(zero))
        parts.append(f'<line class="zero" x1="{at}" x2="{at}" y1="0" y2="{height}"/>')
    if metric.low is not None and metric.high is not None:
        parts.append(
            f'<line class="whisker candidate" x1="{px(axes.across(metric.low))}" '
            f'x2="{px(axes.across(metric.high))}" y1="9" y2="9"/>'
        )
    parts.append(
        f'<circle class="dot candidate" cx="{px(axes.across(metric.value))}" cy="9" r="3.5"/>'
    )
    return Markup(  # noqa: S704  (numbers only)
        f'<svg class="mark" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )
