"""The figures of the monitoring report; drawn with `millrace.plots`, as the evaluation's are.

Nothing is told by colour alone: what is estimated is dashed and hollow, what is measured solid and
filled; the window is filled, what it is compared with are outlines of different dash.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from markupsafe import Markup, escape

from millrace.evaluation.wording import number
from millrace.monitoring.document import (
    Distribution,
    Feature,
    Interval,
    MetricSeries,
    MonitorTraffic,
    PerformancePoint,
)
from millrace.monitoring.findings import shortened
from millrace.plots import Axes, image, legend, px, tick_text, ticks

MAX_BARS: Final = 25
_WIDE: Final = 940
_LOW: Final = 210
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_MAX_CATEGORIES: Final = 12
_NAME: Final = 26


def short(name: str, most: int = _NAME) -> str:
    """A name that fits beside a bar."""
    return name if len(name) <= most else name[: most - 1] + "…"


# ── Time ────────────────────────────────────────────────────────────────────────────────────────


def _moments(since: datetime, until: datetime) -> list[tuple[datetime, str]]:
    """Moments to label an axis of time with: at most some eight, at round hours or days."""
    span = until - since
    steps = [_HOUR * h for h in (1, 2, 3, 6, 12)] + [_DAY * d for d in (1, 2, 7, 14, 28, 91)]
    step = next((s for s in steps if span / s <= 8), steps[-1])
    whole = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if step >= _DAY:
        whole = whole.replace(hour=0)
    else:
        hours = int(step / _HOUR)
        whole = whole.replace(hour=whole.hour - whole.hour % hours)
    found = []
    while whole <= until:
        if whole >= since:
            found.append((whole, f"{whole:%H:%M}" if step < _DAY else f"{whole:%d %b}".lstrip("0")))
        whole += step
    return found


def _time_axis(axes: Axes, since: datetime, until: datetime) -> list[str]:
    floor, parts = axes.height - axes.bottom, []
    for moment, label in _moments(since, until):
        x = px(axes.across(moment.timestamp()))
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{axes.top}" y2="{floor}"/>')
        parts.append(f'<text x="{x}" y="{floor + 16}" text-anchor="middle">{label}</text>')
    return parts


def _value_axis(axes: Axes, label: str, wanted: int = 4) -> list[str]:
    parts = []
    for value in ticks(*axes.y, wanted):
        y = px(axes.up(value))
        parts.append(
            f'<line class="grid" x1="{axes.left}" x2="{axes.width - axes.right}" y1="{y}" y2="{y}"/>'
            f'<text x="{axes.left - 8}" y="{y}" dy="0.35em" text-anchor="end">'
            f"{tick_text(value)}</text>"
        )
    if label:
        middle = px((axes.height - axes.bottom + axes.top) / 2)
        parts.append(
            f'<text class="axis" transform="translate(13 {middle}) rotate(-90)" '
            f'text-anchor="middle">{escape(label)}</text>'
        )
    return parts


def traffic(data: MonitorTraffic) -> Markup | None:
    """Requests of each hour, those that failed on top."""
    hours = data.hours
    if not hours:
        return None
    since, until = hours[0].at, hours[-1].at + _HOUR
    most = max(h.requests + h.errors for h in hours) or 1
    axes = Axes(
        (since.timestamp(), until.timestamp()),
        (0, most * 1.08),
        width=_WIDE,
        height=_LOW,
        right=26,
        bottom=30,
    )
    parts = [*_time_axis(axes, since, until), *_value_axis(axes, "requests an hour")]
    for hour in hours:
        left = axes.across(hour.at.timestamp()) + 0.8
        right = axes.across((hour.at + _HOUR).timestamp()) - 0.8
        good, bad = axes.up(hour.requests), axes.up(hour.requests + hour.errors)
        late = "" if hour.p95_ms is None else f", p95 {hour.p95_ms:.1f} ms"
        tip = f"{hour.at:%d %b %H:%M}: {hour.requests:,} answered, {hour.errors:,} failed{late}"
        wide = px(max(0.6, right - left))
        parts.append(
            f'<g><title>{escape(tip)}</title><rect class="bar first" x="{px(left)}" '
            f'y="{px(good)}" width="{wide}" height="{px(axes.up(0) - good)}"/>'
        )
        if hour.errors:
            parts.append(
                f'<rect class="bar bad" x="{px(left)}" y="{px(bad)}" width="{wide}" '
                f'height="{px(max(1.0, good - bad))}"/>'
            )
        parts.append("</g>")
    total = sum(h.requests for h in hours)
    failed = sum(h.errors for h in hours)
    drawn = image(
        parts,
        "Traffic",
        f"Requests of each hour: {total:,} answered, {failed:,} failed.",
        width=_WIDE,
        height=_LOW,
    )
    return drawn + legend([("answered", "first filled"), ("failed", "bad filled")])


# ── Performance ─────────────────────────────────────────────────────────────────────────────────


def performance(series: MetricSeries) -> Markup | None:
    """A metric over the windows: measured, estimated, and where it is expected."""
    points = [p for p in series.points if p.realised is not None or p.estimated is not None]
    if not points:
        return None
    since = min(p.since for p in series.points)
    until = max(p.until for p in series.points)
    low, high = _reach(series, points)
    axes = Axes(
        (since.timestamp(), until.timestamp()),
        (low, high),
        width=_WIDE,
        height=250,
        right=26,
        bottom=30,
    )
    parts = [*_time_axis(axes, since, until), *_value_axis(axes, "", 5)]
    left, right = axes.left, axes.width - axes.right
    if series.threshold_low is not None or series.threshold_high is not None:
        top = axes.up(min(high, high if series.threshold_high is None else series.threshold_high))
        floor = axes.up(max(low, low if series.threshold_low is None else series.threshold_low))
        parts.append(
            f'<rect class="expected" x="{left}" y="{px(top)}" width="{right - left}" '
            f'height="{px(max(0.0, floor - top))}"/>'
        )
    if series.reference is not None:
        y = px(axes.up(series.reference.value))
        parts.append(f'<line class="line reference" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
    parts += _estimates(axes, points)
    parts += _measurements(axes, points)
    drawn = image(
        parts,
        series.metric,
        f"{series.metric} of {len(points)} windows, measured where labels came and estimated where "
        "not, with 95 % intervals.",
        width=_WIDE,
        height=250,
    )
    keys = [("measured, with 95 % interval", "candidate dotted")]
    if any(p.estimated for p in points):
        keys.append(("estimated without labels", "second hollow"))
    if series.reference is not None:
        keys.append(("on the test rows of training", "reference"))
    if series.threshold_low is not None or series.threshold_high is not None:
        keys.append(("expected", "expected filled"))
    return drawn + legend(keys)


def _reach(series: MetricSeries, points: Sequence[PerformancePoint]) -> tuple[float, float]:
    """The least and the greatest that is drawn, with some air."""
    values: list[float] = []
    for one in (series.reference, *(p.realised for p in points), *(p.estimated for p in points)):
        if one is not None:
            values += [v for v in (one.value, one.low, one.high) if v is not None]
    values += [v for v in (series.threshold_low, series.threshold_high) if v is not None]
    low, high = min(values), max(values)
    air = (high - low) * 0.12 or abs(low) * 0.02 or 0.5
    return low - air, high + air


def _middle(point: PerformancePoint) -> float:
    return (point.since.timestamp() + point.until.timestamp()) / 2


def _tip(point: PerformancePoint) -> str:
    said = [f"{point.since:%d %b %H:%M} to {point.until:%d %b %H:%M}"]
    if point.realised is not None:
        said.append(f"measured {_with_interval(point.realised)} from {point.labelled:,} labels")
    if point.estimated is not None:
        said.append(f"estimated {_with_interval(point.estimated)} from {point.rows:,} rows")
    return "; ".join(said)


def _with_interval(value: Interval) -> str:
    if value.low is None or value.high is None:
        return number(value.value)
    return f"{number(value.value)} [{number(value.low)}, {number(value.high)}]"


def _measurements(axes: Axes, points: Sequence[PerformancePoint]) -> list[str]:
    parts = []
    for point in points:
        one = point.realised
        if one is None:
            continue
        x, y = px(axes.across(_middle(point))), px(axes.up(one.value))
        parts.append(f"<g><title>{escape(_tip(point))}</title>")
        if one.low is not None and one.high is not None:
            parts.append(
                f'<line class="whisker candidate" x1="{x}" x2="{x}" y1="{px(axes.up(one.low))}" '
                f'y2="{px(axes.up(one.high))}"/>'
            )
        if point.verdict == "alarm":
            parts.append(f'<circle class="ring" cx="{x}" cy="{y}" r="8"/>')
        parts.append(f'<circle class="dot candidate" cx="{x}" cy="{y}" r="4.5"/></g>')
    return parts


def _estimates(axes: Axes, points: Sequence[PerformancePoint]) -> list[str]:
    found = [(p, p.estimated) for p in points if p.estimated is not None]
    if not found:
        return []
    parts = []
    band = [(p, e) for p, e in found if e.low is not None and e.high is not None]
    if len(band) > 1:
        over = [f"{px(axes.across(_middle(p)))},{px(axes.up(e.high or 0.0))}" for p, e in band]
        under = [f"{px(axes.across(_middle(p)))},{px(axes.up(e.low or 0.0))}" for p, e in band]
        parts.append(f'<polygon class="band" points="{" ".join([*over, *reversed(under)])}"/>')
    parts.append(
        axes.path([(_middle(p), e.value) for p, e in found], "second dashed")
        if len(found) > 1
        else ""
    )
    for point, one in found:
        parts.append(
            f"<g><title>{escape(_tip(point))}</title>"
            f'<circle class="hollow" cx="{px(axes.across(_middle(point)))}" '
            f'cy="{px(axes.up(one.value))}" r="3.2"/></g>'
        )
    return parts


# ── Distributions ───────────────────────────────────────────────────────────────────────────────


def distribution(data: Distribution, title: str, unit: str = "rows") -> Markup:
    """A quantity in the window (filled) beside training and last week (outlines)."""
    return _numeric(data, title, unit) if data.edges else _categorical(data, title, unit)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [c / total for c in counts] if total else [0.0 for _ in counts]


def _numeric(data: Distribution, title: str, unit: str) -> Markup:
    """Bars of equal width: quantile bins have edges that may lie very close together."""
    bins = len(data.window)
    now, then, week = _shares(data.window), _shares(data.training), _shares(data.last_week)
    most = max([*now, *then, *week]) or 1.0
    height = 190
    axes = Axes((0, bins), (0, most * 1.06), height=height, bottom=48, left=46)
    parts = []
    for value in ticks(0, most * 1.06, 3):
        y = px(axes.up(value))
        parts.append(
            f'<line class="grid" x1="{axes.left}" x2="{axes.width - axes.right}" y1="{y}" y2="{y}"/>'
            f'<text x="{axes.left - 8}" y="{y}" dy="0.35em" text-anchor="end">'
            f"{value * 100:g} %</text>"
        )
    every = max(1, math.ceil(len(data.edges) / 7))
    for i, edge in enumerate(data.edges):
        if i % every == 0 or i == len(data.edges) - 1:
            if i != len(data.edges) - 1 and len(data.edges) - 1 - i < every * 0.6:
                continue
            parts.append(
                f'<text x="{px(axes.across(i))}" y="{height - 48 + 16}" text-anchor="middle">'
                f"{tick_text(float(f'{edge:.3g}'))}</text>"
            )
    for i, share in enumerate(now):
        left, right = axes.across(i) + 0.8, axes.across(i + 1) - 0.8
        said = f"{number(data.edges[i])} to {number(data.edges[i + 1])}: {share:.1%} now"
        if then:
            said += f", {then[i]:.1%} in training"
        if week:
            said += f", {week[i]:.1%} last week"
        parts.append(
            f'<rect class="bar first" x="{px(left)}" y="{px(axes.up(share))}" '
            f'width="{px(right - left)}" height="{px(axes.up(0) - axes.up(share))}">'
            f"<title>{escape(said)}</title></rect>"
        )
    parts.append(
        f'<text class="axis" x="{px((axes.left + axes.width - axes.right) / 2)}" y="{height - 10}" '
        f'text-anchor="middle">value ({bins} bins of training)</text>'
    )
    keys = [(f"this window ({sum(data.window):,} {unit})", "first filled")]
    if then:
        parts.append(axes.path(_steps(then), "second"))
        keys.append(("training", "second"))
    if week:
        parts.append(axes.path(_steps(week), "reference strong dotted"))
        keys.append(("last week", "reference dark"))
    drawn = image(parts, title, _described(data), height=height)
    return drawn + legend(keys)


def _steps(shares: Sequence[float]) -> list[tuple[float, float]]:
    corners: list[tuple[float, float]] = [(0, 0.0)]
    for i, share in enumerate(shares):
        corners += [(i, share), (i + 1, share)]
    return [*corners, (len(shares), 0.0)]


def _described(data: Distribution) -> str:
    """The distribution in words: where most was, and where most is."""
    now, then = _shares(data.window), _shares(data.training)
    if not then or not any(now):
        return f"{sum(data.window):,} rows in {len(data.window)} bins."
    moved = sorted(range(len(now)), key=lambda i: -abs(now[i] - then[i]))[:2]
    return (
        "; ".join(f"{bin_name(data, i)}: {then[i]:.1%} then, {now[i]:.1%} now" for i in moved) + "."
    )


def bin_name(data: Distribution, place: int) -> str:
    """A bin as people call it."""
    if data.edges:
        return f"{number(data.edges[place])} to {number(data.edges[place + 1])}"
    return shortened(data.categories[place])


def moved_bins(data: Distribution, most: int = 2) -> str:
    """The bins that gained and lost most against training, in words; empty without training."""
    now, then = _shares(data.window), _shares(data.training)
    if not then or not any(now) or not any(then):
        return ""
    moved = sorted(range(len(now)), key=lambda i: -abs(now[i] - then[i]))[:most]
    return ", ".join(f"{bin_name(data, i)}: {then[i]:.0%} → {now[i]:.0%}" for i in moved)


def _categorical(data: Distribution, title: str, unit: str) -> Markup:
    now, then, week = _shares(data.window), _shares(data.training), _shares(data.last_week)
    order = sorted(range(len(now)), key=lambda i: -max(now[i], then[i] if then else 0.0))
    shown = order[:_MAX_CATEGORIES]
    row, left, right = 24, 150, 52
    height = row * len(shown) + 34
    most = max([now[i] for i in shown] + [then[i] for i in shown if then] or [1.0]) or 1.0
    axes = Axes((0, most), (0, 1), height=height, left=left, right=right, bottom=26)
    floor = height - 26
    parts = []
    for value in ticks(0, most, 4):
        x = px(axes.across(value))
        parts.append(
            f'<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{floor}"/>'
            f'<text x="{x}" y="{floor + 16}" text-anchor="middle">{value * 100:g} %</text>'
        )
    for place, i in enumerate(shown):
        middle = 6 + row * place + row / 2
        said = f"{data.categories[i]}: {now[i]:.1%} now"
        said += f", {then[i]:.1%} in training" if then else ""
        said += f", {week[i]:.1%} last week" if week else ""
        parts.append(
            f"<g><title>{escape(said)}</title>"
            f'<text class="name" x="{left - 8}" y="{px(middle)}" dy="0.35em" text-anchor="end">'
            f"{escape(short(data.categories[i], 22))}</text>"
            f'<rect class="bar first" x="{left}" y="{px(middle - 8)}" '
            f'width="{px(max(0.5, axes.across(now[i]) - left))}" height="16" rx="2"/>'
            f'<text x="{px(axes.across(max(now[i], then[i] if then else 0.0)) + 7)}" '
            f'y="{px(middle)}" dy="0.35em">{now[i]:.0%}</text>'
        )
        if then:
            x = px(axes.across(then[i]))
            parts.append(
                f'<line class="mark-then" x1="{x}" x2="{x}" y1="{px(middle - 10)}" '
                f'y2="{px(middle + 10)}"/>'
            )
        if week:
            x = px(axes.across(week[i]))
            parts.append(
                f'<line class="mark-week" x1="{x}" x2="{x}" y1="{px(middle - 10)}" '
                f'y2="{px(middle + 10)}"/>'
            )
        parts.append("</g>")
    keys = [(f"this window ({sum(data.window):,} {unit})", "first filled")]
    keys += [("training", "tick-then")] if then else []
    keys += [("last week", "tick-week")] if week else []
    drawn = image(parts, title, _described(data), height=height)
    return drawn + legend(keys)


# ── Drift at a glance ───────────────────────────────────────────────────────────────────────────


def drift_bars(features: Sequence[Feature]) -> Markup | None:
    """How far each feature moved from training, and from last week; the furthest first."""
    moved = [(f, *_effects(f)) for f in features if f.kind != "private"]
    shown = sorted(moved, key=lambda one: -(one[1] or one[2] or 0.0))[:MAX_BARS]
    if not shown:
        return None
    row, left, right = 26, 190, 60
    height = row * len(shown) + 40
    ends = [e for _, a, b, t in shown for e in (a, b, t) if e is not None]
    top = max([*ends, 0.01]) * 1.05
    axes = Axes((0, top), (0, 1), width=_WIDE, height=height, left=left, right=right, bottom=30)
    floor = height - 30
    parts = []
    for value in ticks(0, top):
        x = px(axes.across(value))
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{floor}"/>')
        parts.append(
            f'<text x="{x}" y="{floor + 16}" text-anchor="middle">{tick_text(value)}</text>'
        )
    for place, (feature, then, week, bound) in enumerate(shown):
        middle = 8 + row * place + row / 2
        said = (
            f"{feature.name}: {_drifted(then)} against training, {_drifted(week)} against last week"
        )
        style = {"alarm": "bad", "watch": "second"}.get(feature.verdict, "muted")
        parts.append(
            f"<g><title>{escape(said)}</title>"
            f'<text class="name" x="{left - 8}" y="{px(middle)}" dy="0.35em" text-anchor="end">'
            f"{escape(short(feature.name))}</text>"
        )
        if then is not None:
            parts.append(
                f'<rect class="bar {style}" x="{left}" y="{px(middle - 8)}" rx="2" '
                f'width="{px(max(1.0, axes.across(then) - left))}" height="11"/>'
            )
        if week is not None:
            parts.append(
                f'<rect class="bar week" x="{left}" y="{px(middle + 4)}" rx="1.5" '
                f'width="{px(max(1.0, axes.across(week) - left))}" height="4"/>'
            )
        if bound is not None:
            x = px(axes.across(bound))
            parts.append(
                f'<line class="mark-then" x1="{x}" x2="{x}" y1="{px(middle - 10)}" '
                f'y2="{px(middle + 10)}"/>'
            )
        parts.append(
            f'<text x="{px(axes.across(max(then or 0.0, week or 0.0, bound or 0.0)) + 8)}" '
            f'y="{px(middle)}" dy="0.35em">{_drifted(then)}</text></g>'
        )
    drawn = image(
        parts,
        "Drift of the features",
        "Distance of each feature from training and from last week, the furthest first: "
        + "; ".join(f"{f.name} {_drifted(e)}" for f, e, _, _ in shown[:5])
        + ".",
        width=_WIDE,
        height=height,
    )
    return drawn + legend(
        [
            ("against training: alarm", "bad filled"),
            ("watch", "second filled"),
            ("as expected", "muted filled"),
            ("against last week", "week thin"),
            ("least that counts", "tick-then"),
        ]
    )


def _drifted(effect: float | None) -> str:
    return "–" if effect is None else number(effect)


def _effects(feature: Feature) -> tuple[float | None, float | None, float | None]:
    """Effect against training and against last week, and the least that counts."""
    found: dict[str | None, float | None] = {}
    bound = None
    for one in feature.findings:
        if one.kind == "feature_drift":
            found[one.against] = None if one.effect is None else max(0.0, one.effect)
            if one.against == "training":
                least = one.parameters.get("least")
                bound = float(least) if isinstance(least, int | float) else None
    return found.get("training"), found.get("last_week", found.get("same_hour")), bound
