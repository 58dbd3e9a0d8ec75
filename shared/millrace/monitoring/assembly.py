"""From what the other parts found of a window to the one document that is shown.

Pure: counts, the baseline, the verdict and the measured performance go in, a `MonitorReport` comes
out. Its alarms are filled in when it is concluded (`report.conclude`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from millrace.monitoring.baseline import Baseline, FeatureBaseline
from millrace.monitoring.counting import latency_edge
from millrace.monitoring.document import (
    Action,
    ActionKind,
    Cost,
    Distribution,
    Feature,
    HourPoint,
    Interval,
    LabelCoverage,
    MetricSeries,
    MonitorChange,
    MonitorFinding,
    MonitorReport,
    MonitorTraffic,
    PerformancePoint,
    Segment,
    SegmentTable,
    State,
    VersionTraffic,
)
from millrace.monitoring.findings import Finding, Verdict
from millrace.monitoring.hours import FeatureCounts, HourCounts, WindowCounts
from millrace.registry.records import AuditEntry
from millrace.spec import Task

POINTS: Final = 120
"""Windows that a metric is drawn over."""

OTHERS: Final = "(others)"
NEVER_SEEN: Final = "(never seen in training)"

_ORDER: Final[tuple[State, ...]] = ("alarm", "watch", "unknown", "ok")
_Z: Final = 1.96


# What `monitoring.performance` measured, as it is read here: this module loads without NumPy.


class MeasuredInterval(Protocol):
    """`performance.Interval`."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


class MeasuredMetric(Protocol):
    """`performance.MetricWindow`."""

    @property
    def metric(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def reference(self) -> MeasuredInterval: ...
    @property
    def threshold_low(self) -> float | None: ...
    @property
    def threshold_high(self) -> float | None: ...
    @property
    def realised(self) -> MeasuredInterval | None: ...
    @property
    def rows_labelled(self) -> int: ...
    @property
    def verdict(self) -> State: ...
    @property
    def estimated(self) -> MeasuredInterval | None: ...
    @property
    def rows(self) -> int: ...
    @property
    def estimated_verdict(self) -> State: ...
    @property
    def caveat(self) -> str: ...


class MeasuredGroup(Protocol):
    """`performance.GroupWindow`."""

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def labelled(self) -> int: ...
    @property
    def realised(self) -> MeasuredInterval | None: ...
    @property
    def estimated(self) -> MeasuredInterval | None: ...
    @property
    def reference(self) -> float | None: ...
    @property
    def verdict(self) -> State: ...


class MeasuredSegment(Protocol):
    """`performance.SegmentWindow`."""

    @property
    def column(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def gate(self) -> bool: ...
    @property
    def groups(self) -> Sequence[MeasuredGroup]: ...
    @property
    def gap(self) -> MeasuredInterval | None: ...


class Measured(Protocol):
    """`performance.PerformanceWindow`."""

    @property
    def since(self) -> datetime: ...
    @property
    def until(self) -> datetime: ...
    @property
    def metrics(self) -> Sequence[MeasuredMetric]: ...
    @property
    def segments(self) -> Sequence[MeasuredSegment]: ...
    @property
    def rows(self) -> int: ...
    @property
    def labelled(self) -> int: ...
    @property
    def warnings(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found of one window of a model.

    Attributes:
        model: The model.
        task: Its task.
        stage: The deployment's stage.
        window: Counts of the version that is judged.
        verdict: Of that version.
        baseline: Of that version; None when it has none.
        others: Counts of other versions that answered in the window, with their role.
        last_week: Counts of the judged version a week before.
        performance: Measured and estimated; None when it was not looked at.
        cost: What the model costs.
        actions: What was done, the newest first.
        before: The newest report so far: its windows are drawn on.
        made_at: When.
    """

    model: str
    task: Task
    stage: str
    window: WindowCounts
    verdict: Verdict
    baseline: Baseline | None
    made_at: datetime
    others: Sequence[tuple[WindowCounts, str]] = ()
    last_week: WindowCounts | None = None
    performance: Measured | None = None
    cost: Cost | None = None
    actions: Sequence[Action] = ()
    before: MonitorReport | None = None


def assemble(seen: Seen) -> MonitorReport:
    """The document of a window, without its alarms."""
    verdict, window, baseline = seen.verdict, seen.window, seen.baseline
    findings = tuple(map(finding_view, verdict.findings))
    measured = seen.performance
    return MonitorReport(
        model=seen.model,
        version=window.version,
        task=seen.task,
        stage=seen.stage,
        since=window.since,
        until=window.until,
        made_at=seen.made_at,
        state=verdict.state,
        summary="",
        refused=verdict.reason if verdict.state == "unknown" else "",
        baseline_run="" if baseline is None else baseline.run_id,
        baseline_rows=0 if baseline is None else baseline.rows,
        traffic=_traffic(seen),
        cost=seen.cost,
        scores=_scores(seen),
        score_name=_score_name(baseline),
        classes=_classes(seen),
        features=()
        if baseline is None or not window.binned
        else tuple(_feature(one, seen, findings) for one in baseline.features),
        findings=tuple(sorted(findings, key=lambda f: (_ORDER.index(f.verdict), -_size(f)))),
        performance=() if measured is None else _performance(measured, seen.before),
        labels=None if measured is None else _labels(measured),
        segments=() if measured is None else tuple(_segments(measured.segments)),
        changes=_changes(verdict),
        actions=tuple(seen.actions),
    )


def finding_view(finding: Finding) -> MonitorFinding:
    """A finding as the document has it."""
    return MonitorFinding(
        kind=finding.kind,
        subject=finding.subject,
        statistic=finding.statistic,
        value=finding.value,
        effect=finding.effect,
        p_value=finding.p_value,
        adjusted_p=finding.adjusted_p,
        threshold=finding.threshold,
        against=finding.against,
        rows=finding.rows,
        first_seen=finding.first_seen,
        persisted=finding.persisted,
        verdict=finding.verdict,
        text=finding.text,
        parameters=dict(finding.parameters),
    )


def _size(finding: MonitorFinding) -> float:
    return abs(finding.effect or 0.0)


def _changes(verdict: Verdict) -> tuple[MonitorChange, ...]:
    """What differs from training, the first change first; each kind and subject once."""
    found: dict[tuple[str, str], MonitorChange] = {}
    for one in verdict.moved:
        if one.against in (None, "training") and one.verdict in ("watch", "alarm"):
            at = one.first_seen or verdict.since
            found.setdefault(
                (one.kind, one.subject),
                MonitorChange(
                    at=at, kind=one.kind, subject=one.subject, text=one.text, verdict=one.verdict
                ),
            )
    return tuple(found.values())


# ── Traffic ─────────────────────────────────────────────────────────────────────────────────────


def percentile(latency: Mapping[int, int], share: float) -> float | None:
    """A percentile of counted latencies, geometric within its bin; None of nothing."""
    total = sum(latency.values())
    if not total:
        return None
    left = share * total
    for number in sorted(latency):
        count = latency[number]
        if count and left <= count:
            low, high = latency_edge(number), latency_edge(number + 1)
            return float(low * (high / low) ** (left / count))
        left -= count
    return float(latency_edge(max(latency) + 1))


def wilson(hits: float, total: float) -> Interval | None:
    """A share with its 95 % interval (Wilson, J. Am. Stat. Assoc. 22, 1927); None of nothing."""
    if total <= 0:
        return None
    share, square = hits / total, _Z * _Z
    centre = (share + square / (2 * total)) / (1 + square / total)
    spread = math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    half = _Z / (1 + square / total) * spread
    return Interval(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half))


def _answered(window: WindowCounts) -> int:
    """Requests that were answered: the captured, each for as many as it stands for."""
    return max(window.requests, round(window.weighed))


def _traffic(seen: Seen) -> MonitorTraffic:
    windows = [seen.window, *(one for one, _ in seen.others)]
    latency: Counter[int] = Counter()
    hours: dict[datetime, HourCounts] = {}
    for one in windows:
        latency += one.latency
        for at, hour in one.hours.items():
            hours[at] = hours[at] + hour if at in hours else hour
    requests = sum(map(_answered, windows))
    captured = sum(one.requests for one in windows)
    rows = sum(one.rows for one in windows)
    errors = sum(one.errors for one in windows)
    weight = requests / captured if captured else 1.0
    return MonitorTraffic(
        requests=requests,
        rows=round(rows * weight),
        errors=errors,
        error_rate=wilson(errors, requests + errors),
        p50_ms=percentile(latency, 0.5),
        p95_ms=percentile(latency, 0.95),
        p99_ms=percentile(latency, 0.99),
        captured=captured,
        lost=max(one.missing_lines for one in windows),
        last_week=None if seen.last_week is None else _answered(seen.last_week) or None,
        hours=tuple(
            HourPoint(
                at=at,
                requests=round(hours[at].requests * weight),
                errors=hours[at].errors,
                p95_ms=percentile(hours[at].latency, 0.95),
            )
            for at in sorted(hours)
        ),
        versions=tuple(
            VersionTraffic(
                version=one.version,
                role="challenger"
                if role == "challenger"
                else "former"
                if role == "former"
                else "champion",
                requests=_answered(one),
                errors=one.errors,
                p95_ms=percentile(one.latency, 0.95),
            )
            for one, role in ((seen.window, "champion"), *seen.others)
        ),
    )


# ── Inputs and answers ──────────────────────────────────────────────────────────────────────────


def _score_name(baseline: Baseline | None) -> str:
    match baseline:
        case Baseline(task=Task.BINARY, classes=classes) if len(classes) > 1:
            return f"probability of {classes[1]}"
        case Baseline(task=Task.MULTICLASS):
            return "probability of the predicted class"
        case Baseline(task=Task.REGRESSION):
            return "the predicted number"
        case _:
            return ""


def _scores(seen: Seen) -> Distribution | None:
    baseline, window = seen.baseline, seen.window
    if baseline is None or not window.binned or len(baseline.scores.edges) < 2:
        return None
    week = seen.last_week
    return _binned(
        baseline.scores.edges,
        baseline.scores.counts,
        window.scores,
        None if week is None or not week.binned else week.scores,
    )


def _binned(
    edges: tuple[float, ...],
    training: tuple[int, ...],
    window: FeatureCounts,
    week: FeatureCounts | None,
) -> Distribution:
    bins = len(training)
    return Distribution(
        edges=edges,
        window=tuple(window.counts(bins)),
        training=training,
        last_week=() if week is None or not week.rows else tuple(week.counts(bins)),
    )


def _classes(seen: Seen) -> Distribution | None:
    baseline, window = seen.baseline, seen.window
    if baseline is None or not baseline.predicted or not window.classes:
        return None
    names = baseline.classes[: len(baseline.predicted)]
    week = seen.last_week
    return Distribution(
        categories=names,
        window=tuple(window.classes[name] for name in names),
        training=baseline.predicted,
        last_week=() if week is None or not week.classes else tuple(week.classes[n] for n in names),
    )


def _feature(one: FeatureBaseline, seen: Seen, findings: Sequence[MonitorFinding]) -> Feature:
    counts = seen.window.features.get(one.name, FeatureCounts())
    week = None if seen.last_week is None else seen.last_week.features.get(one.name)
    rows = 0 if seen.baseline is None else seen.baseline.rows
    of_it = tuple(
        f
        for f in findings
        if f.subject == one.name and f.kind in ("feature_drift", "missing", "unseen", "range")
    )
    distribution = None
    if not one.private and counts.rows:
        distribution = _distribution(one, counts, week)
    return Feature(
        name=one.name,
        kind="private" if one.private else "categorical" if one.categorical else "numeric",
        rows=counts.rows,
        missing=counts.missing,
        missing_training=one.missing / rows if rows else None,
        unseen=counts.unseen,
        below=counts.below,
        above=counts.above,
        distribution=distribution,
        findings=of_it,
        verdict=min((f.verdict for f in of_it), key=_ORDER.index, default="unknown"),
    )


def _distribution(
    one: FeatureBaseline, counts: FeatureCounts, week: FeatureCounts | None
) -> Distribution | None:
    if one.numeric is not None:
        return _binned(one.numeric.edges, one.numeric.counts, counts, week)
    if one.categorical is None:
        return None
    known = one.categorical
    bins = len(known.categories)
    former = None if week is None or not week.rows else week
    rest = [
        (OTHERS, counts.other, known.other, 0 if former is None else former.other),
        (NEVER_SEEN, counts.unseen, 0, 0 if former is None else former.unseen),
    ]
    rest = [r for r in rest if any(r[1:])]
    return Distribution(
        categories=(*known.categories, *(r[0] for r in rest)),
        window=(*counts.counts(bins), *(r[1] for r in rest)),
        training=(*known.counts, *(r[2] for r in rest)),
        last_week=() if former is None else (*former.counts(bins), *(r[3] for r in rest)),
    )


# ── Performance ─────────────────────────────────────────────────────────────────────────────────


def _interval(one: MeasuredInterval | None) -> Interval | None:
    return None if one is None else Interval(value=one.value, low=one.low, high=one.high)


def _performance(measured: Measured, before: MonitorReport | None) -> tuple[MetricSeries, ...]:
    known = {s.metric: s.points for s in before.performance} if before is not None else {}
    return tuple(_series(m, measured, known.get(m.metric, ())) for m in measured.metrics)


def _series(
    metric: MeasuredMetric, measured: Measured, known: Sequence[PerformancePoint]
) -> MetricSeries:
    point = PerformancePoint(
        since=measured.since,
        until=measured.until,
        rows=metric.rows,
        labelled=metric.rows_labelled,
        realised=_interval(metric.realised),
        estimated=_interval(metric.estimated),
        verdict=metric.estimated_verdict if metric.realised is None else metric.verdict,
    )
    reference = _interval(metric.reference)
    return MetricSeries(
        metric=metric.metric,
        higher_is_better=metric.higher_is_better,
        reference=reference,
        threshold_low=metric.threshold_low,
        threshold_high=metric.threshold_high,
        points=with_point(known, point),
        caveat=metric.caveat,
    )


def with_point(
    points: Sequence[PerformancePoint], point: PerformancePoint
) -> tuple[PerformancePoint, ...]:
    """The windows up to one, this one added or in the place of what it said before."""
    earlier = [p for p in points if p.until <= point.until and p.since != point.since]
    return tuple(sorted([*earlier, point], key=lambda p: p.since)[-POINTS:])


def _labels(measured: Measured) -> LabelCoverage:
    return LabelCoverage(
        rows=measured.rows, labelled=measured.labelled, warning="; ".join(measured.warnings)
    )


def _segments(segments: Iterable[MeasuredSegment]) -> Iterable[SegmentTable]:
    for one in segments:
        yield SegmentTable(
            column=one.column,
            metric=one.metric,
            gate=one.gate,
            gap=None if one.gap is None else one.gap.value,
            segments=tuple(
                Segment(
                    value=group.name,
                    rows=group.rows,
                    labelled=group.labelled,
                    realised=_interval(group.realised),
                    estimated=_interval(group.estimated),
                    reference=group.reference,
                    verdict=group.verdict,
                )
                for group in sorted(one.groups, key=lambda g: _ORDER.index(g.verdict))
            ),
        )


# ── What was done ───────────────────────────────────────────────────────────────────────────────

_SAID: Final[dict[str, str]] = {
    "promoted": "{subject} became champion",
    "forced_promotion": "{subject} was made champion by force",
    "rolled_back": "Rolled back to {after}",
    "rollout_started": "A rollout began: {subject}",
    "rollout_step": "Rollout {subject} went on to {after}",
    "rollout_promoted": "Rollout {subject} ended with its version as champion",
    "rollout_rolled_back": "Rollout {subject} was rolled back",
    "rollout_aborted": "Rollout {subject} was aborted",
    "run_created": "A training began",
    "run_finished": "A training ended: {after}",
    "alarm_opened": "Alarm opened: {of}",
    "alarm_woken": "Alarm rings again: {of}",
    "alarm_acknowledged": "Alarm acknowledged: {of}",
    "alarm_silenced": "Alarm silenced: {of}",
    "alarm_widened": "Alarm widened: {of}",
    "alarm_narrowed": "Widening taken back: {of}",
    "alarm_retraining": "Alarm started a training: {of}",
    "alarm_closed": "Alarm closed: {of}",
}


def actions_of(entries: Iterable[AuditEntry]) -> tuple[Action, ...]:
    """Entries of the ledger as what was done, in their order; those of no interest left out."""
    return tuple(_action(e) for e in entries if e.action in _SAID)


def _action(entry: AuditEntry) -> Action:
    of = " of ".join(
        str(entry.facts[name]).replace("_", " ")
        for name in ("kind", "subject")
        if name in entry.facts
    )
    text = _SAID[entry.action].format(subject=entry.subject, after=entry.after, of=of)
    return Action(
        at=entry.at,
        kind=_kind(entry),
        text=f"{text}{f' ({entry.reason})' if entry.reason else ''}",
        by=entry.actor,
        reference=entry.subject if entry.action.startswith("run_") else "",
    )


def _kind(entry: AuditEntry) -> ActionKind:
    match entry.action.split("_", 1)[0]:
        case "alarm":
            return "episode" if entry.actor == "monitor" else "person"
        case "run":
            return "retraining"
        case "rollout":
            return "rollout"
        case "rolled":
            return "rollback"
        case _:
            return "promotion"
