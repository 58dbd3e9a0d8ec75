"""How well the model does in a window: measured where labels came, estimated where they have not.

Both by the gate's own metrics (`evaluation.metrics`), both with intervals, both on a bounded sample of
the window's rows (`monitoring.sample`), so that the cost does not grow with traffic.

A metric counts as fallen when it is worse than on the test split by more than is of no concern
(`least_loss`) and by more than chance tells: its own sampling error in so many rows, that of the test
split, and what equal chunks of the test split differ beyond that. The test is one-sided, as no alarm is
wanted of a model that does better, and corrected for the number of metrics (Holm). What is beyond
all doubt alarms at once (`CERTAIN`); what is likely (`LIKELY`) is watched, and alarms when it lasts, or
when another metric of the same rows is beyond doubt.

Labels are rarely of all rows, and rarely of a random part: `PerformanceWindow.warnings` says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf, sqrt
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.evaluation.bootstrap import CHUNK_CELLS
from millrace.evaluation.metrics import Outcome
from millrace.evaluation.slices import group_facts
from millrace.monitoring.baseline import Baseline, ReferenceMetric, SegmentGroup
from millrace.monitoring.baseline import Segment as SegmentBaseline
from millrace.monitoring.drift import ks
from millrace.monitoring.estimation import (
    CAVEAT,
    calibrated,
    estimate,
    estimate_loss,
    every_truth,
)
from millrace.monitoring.findings import Finding, Parameter, Policy, State, Verdict, worst
from millrace.monitoring.sample import Sample
from millrace.monitoring.segments import MISSING, codes_of, group_name
from millrace.monitoring.spread import Interval, Spread, draw_each, group_spread, reach, spreads
from millrace.monitoring.tails import normal_tail, stepped_down
from millrace.spec import HIGHER_IS_BETTER, Task

CERTAIN: Final = 1e-4
"""Corrected p-value from which a fall alarms in its first window."""
LIKELY: Final = 0.02
"""Corrected p-value from which a fall is watched; `Policy.persistence` windows in a row alarm."""
RESAMPLES: Final = 200
ESTIMATE_RESAMPLES: Final = 100
MAX_ESTIMATE_CELLS: Final = 500_000
"""Rows times classes of an estimate: of many classes fewer rows are taken."""
PARTIAL: Final = 0.9
"""Share of labelled rows below which labelling is called partial."""
SELECTIVE: Final = 0.1
"""Distance of Kolmogorov and Smirnov between scores with and without labels from which labelling is
called selective, where it is not chance."""
_SELECTIVE_P: Final = 0.001
_SEED: Final = 7

type Floats = npt.NDArray[np.float64]
type Judged = tuple[State, float | None]
"""A verdict, and the corrected p-value that it goes by."""
_UNTOLD: Final[Judged] = ("unknown", None)


@dataclass(frozen=True, slots=True)
class MetricWindow:
    """One metric in one window.

    Attributes:
        metric: The metric.
        higher_is_better: Its direction.
        reference: On the test split.
        threshold_low: What it falls below when it counts, at this number of rows; None for errors.
        threshold_high: What an error rises above when it counts; None for the others.
        realised: By labels; None where fewer than `Policy.min_rows` came.
        rows_labelled: Rows that it was measured on.
        verdict: Of the measured value.
        p_value: Of a fall as large, corrected for the number of metrics.
        estimated: Without labels; None where it cannot be told.
        rows: Rows that it was estimated on.
        estimated_verdict: Of the estimate. Where labels tell that all is well it is no alarm.
        estimated_p: As `p_value`.
        caveat: What the estimate cannot see, or why there is none.
    """

    metric: str
    higher_is_better: bool
    reference: Interval
    threshold_low: float | None
    threshold_high: float | None
    realised: Interval | None
    rows_labelled: int
    verdict: State
    p_value: float | None
    estimated: Interval | None
    rows: int
    estimated_verdict: State
    estimated_p: float | None
    caveat: str


@dataclass(frozen=True, slots=True)
class GroupWindow:
    """One group of a segment in one window.

    Attributes:
        name: Its values.
        rows: Rows of the even sample.
        labelled: Rows with a label.
        realised: The segment's metric by labels; None below the segment's least rows.
        estimated: Without labels.
        reference: On the test split; None where it was too small there.
        verdict: Against its gate, or against the test split.
        text: Why.
        facts: The gate's fairness figures of the labelled rows.
    """

    name: str
    rows: int
    labelled: int
    realised: Interval | None
    estimated: Interval | None
    reference: float | None
    verdict: State
    text: str = ""
    facts: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SegmentWindow:
    """A column's groups in one window.

    Attributes:
        column: The column.
        metric: What is measured.
        gate: Whether the spec has a gate on it: that is fairness, and may alarm. Others are important
            features, cut to show which rows suffer; at most they are watched, and are no findings.
        groups: The groups that have rows.
        gap: Between the best and the worst group of enough labelled rows.
        max_gap: What the gate allows.
        verdict: The worst of all.
        gap_verdict: Of the gap.
    """

    column: str
    metric: str
    gate: bool
    groups: tuple[GroupWindow, ...]
    gap: Interval | None
    max_gap: float | None
    verdict: State
    gap_verdict: State = "ok"


@dataclass(frozen=True, slots=True)
class PerformanceWindow:
    """How well one version did in one window.

    Attributes:
        model: The model.
        version: The version.
        since: Begin of the window.
        until: Its end; not part of it.
        metrics: The training metric first.
        segments: Groups of rows.
        rows: Rows of the even sample.
        labelled: Of those, with a label.
        rows_labelled: Labelled rows in all that were measured on.
        sampled: The share of the window's captured rows that the even sample is; 1: all.
        warnings: What to know before believing the figures.
        unmeasured: Columns whose fairness the gates judged and that live rows do not tell.
        state: The worst of the verdicts of metrics and gates.
    """

    model: str
    version: int
    since: datetime
    until: datetime
    metrics: tuple[MetricWindow, ...]
    segments: tuple[SegmentWindow, ...]
    rows: int
    labelled: int
    rows_labelled: int
    sampled: float
    warnings: tuple[str, ...]
    unmeasured: tuple[str, ...]
    state: State

    @property
    def share_labelled(self) -> float:
        """How much of the window has labels."""
        return self.labelled / self.rows if self.rows else 0.0


def least_loss(metric: str, reference: float, policy: Policy) -> float:
    """The least loss of a metric that counts; what a person widened (`Policy.thresholds`) instead.

    Half a hundredth for metrics that are shares, 2 % of the reference for errors.
    """
    for name in (f"performance:{metric}", "performance"):
        if name in policy.thresholds:
            return policy.thresholds[name]
    return 0.005 if HIGHER_IS_BETTER[metric] else 0.02 * abs(reference)


def measure(baseline: Baseline, sample: Sample, policy: Policy) -> PerformanceWindow:
    """Measures and estimates the metrics of a window, over all rows and over groups of them.

    A pure function: the same rows and labels give the same figures.

    Args:
        baseline: Of the version.
        sample: Rows of the window with their labels (`sample.read_sample`).
        policy: When a difference counts.
    """
    rows, truth = _labelled(baseline, sample)
    labelled = None if not len(rows) else _outcome(baseline, sample, rows, truth)
    even = sample.take(sample.even)
    few = None if labelled is None or labelled.rows < policy.min_rows else labelled
    realised = {} if few is None else _realised(baseline, few)
    estimated, why_not = _estimated(baseline, even, policy)
    verdicts = _judged(baseline, policy, realised, len(rows))
    guesses = _judged(baseline, policy, estimated, even.rows)
    names = sorted(baseline.performance, key=lambda name: name != baseline.metric)
    metrics = tuple(
        _metric(
            name,
            baseline,
            policy,
            realised=realised.get(name),
            labelled=len(rows),
            judged=verdicts.get(name, _UNTOLD),
            estimated=estimated.get(name),
            rows=even.rows,
            guessed=guesses.get(name, _UNTOLD),
            caveat=CAVEAT if name in estimated else why_not,
        )
        for name in names
    )
    segments = tuple(
        _segment(baseline, segment, sample, rows, few) for segment in baseline.segments
    )
    judged = [
        *(m.verdict for m in metrics),
        *(m.estimated_verdict for m in metrics),
        *(s.verdict for s in segments if s.gate),
    ]
    return PerformanceWindow(
        model=baseline.model,
        version=baseline.version,
        since=sample.since,
        until=sample.until,
        metrics=metrics,
        segments=segments,
        rows=even.rows,
        labelled=sum(label is not None for label in even.labels),
        rows_labelled=len(rows),
        sampled=sample.share,
        warnings=_warnings(baseline, sample, rows),
        unmeasured=baseline.uncaptured_segments,
        state=worst(judged),
    )


# ── Rows ────────────────────────────────────────────────────────────────────────────────────────


def _labelled(baseline: Baseline, sample: Sample) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Rows whose label the model can be held against, and their truth."""
    if baseline.task is Task.REGRESSION:
        told = {i: float(label) for i, label in enumerate(sample.labels) if label is not None}
        return np.asarray(list(told), np.int64), np.asarray(list(told.values()), np.float64)
    codes = {label: code for code, label in enumerate(baseline.classes)}
    known = {i: codes[label] for i, label in enumerate(sample.labels) if label in codes}
    return np.asarray(list(known), np.int64), np.asarray(list(known.values()), np.int64)


def _outcome(
    baseline: Baseline, sample: Sample, rows: npt.NDArray[np.int64], truth: npt.NDArray[Any]
) -> Outcome:
    return Outcome(baseline.task, truth, sample.output[rows])


def _scores(task: Task, output: Floats) -> Floats:
    match task:
        case Task.BINARY:
            return output[:, 1]
        case Task.MULTICLASS:
            top: Floats = output.max(axis=1)
            return top
        case Task.REGRESSION:
            return output


# ── Metrics with intervals ──────────────────────────────────────────────────────────────────────


def _realised(baseline: Baseline, outcome: Outcome) -> dict[str, Spread]:
    return spreads(tuple(baseline.performance), outcome, RESAMPLES, baseline.confidence)


def _estimated(baseline: Baseline, even: Sample, policy: Policy) -> tuple[dict[str, Spread], str]:
    """Estimates by metric, and why there is none of the others."""
    if even.rows < policy.min_rows:
        return {}, f"not estimated: {even.rows} rows are fewer than {policy.min_rows}"
    if baseline.task is Task.REGRESSION:
        return _estimated_losses(baseline, even), baseline.losses_refused
    return _estimated_metrics(baseline, even.output, tuple(baseline.performance)), (
        "not estimated: the metric has no value on these rows"
    )


def _estimated_metrics(
    baseline: Baseline, output: Floats, names: Sequence[str], count: int = ESTIMATE_RESAMPLES
) -> dict[str, Spread]:
    """Confidence-based estimates.

    The interval is where the metric would be measured, had all of the rows labels: it is drawn with
    other rows and with labels by their chances (row and label at once, as Poisson weights of every
    row with every class), and widened by how far such estimates were off on the test split.
    """
    most = max(1, MAX_ESTIMATE_CELLS // output.shape[1])
    output = output[:most]
    chances = calibrated(baseline.calibration, output)
    values = estimate(baseline.task, chances, output, names)
    weights = chances.T.reshape(-1)

    def drawn() -> Any:
        rng = np.random.default_rng(_SEED)
        step = max(1, CHUNK_CELLS // len(weights))
        for start in range(0, count, step):
            shape = (min(step, count - start), len(weights))
            yield rng.poisson(weights, shape).astype(np.float64)

    draws = draw_each(list(values), every_truth(baseline.task, output), drawn)
    return {
        name: _widened(
            Spread.of_draws(value, draws[name], baseline.confidence),
            baseline.performance.get(name),
            baseline.confidence,
        )
        for name, value in values.items()
    }


def _estimated_losses(baseline: Baseline, even: Sample) -> dict[str, Spread]:
    found = {}
    for loss in baseline.losses:
        name = "mae" if loss.loss == "absolute" else "rmse"
        reference = baseline.performance.get(name)
        if reference is None:
            continue
        value = estimate_loss(loss, baseline, even.inputs, even.output)
        deviation = (reference.row_deviation or 0.0) / sqrt(even.rows)
        # The error of so many rows is spread as on the test split, in proportion to its size.
        deviation *= value / reference.value if reference.value else 1.0
        spread = Spread.of_deviation(value, deviation, baseline.confidence)
        found[name] = _widened(spread, reference, baseline.confidence)
    return found


def _widened(spread: Spread, reference: ReferenceMetric | None, confidence: float) -> Spread:
    """The spread with what estimates were off on held-out chunks beyond the chunks' own error."""
    interval = spread.interval
    error = 0.0 if reference is None else _estimate_error(reference)
    if not error or interval.low is None or interval.high is None:
        return spread
    value, more = interval.value, reach(confidence) * error
    return Spread(
        Interval(
            value,
            value - sqrt((value - interval.low) ** 2 + more**2),
            value + sqrt((interval.high - value) ** 2 + more**2),
        ),
        sqrt(spread.deviation**2 + error**2),
    )


def _estimate_error(reference: ReferenceMetric) -> float:
    if reference.estimate_std is None or reference.estimate_bias is None:
        return 0.0
    chunk = (reference.row_deviation or 0.0) ** 2 / max(reference.chunk_rows, 1)
    return sqrt(max(0.0, reference.estimate_std**2 - chunk) + reference.estimate_bias**2)


# ── Verdicts ────────────────────────────────────────────────────────────────────────────────────


def expected_deviation(reference: ReferenceMetric, rows: int, baseline_rows: int) -> float | None:
    """How far a window of so many rows lies from the reference by chance, one standard deviation.

    See `ReferenceMetric`. None where the reference's own sampling error is not known.
    """
    if reference.row_deviation is None or not rows:
        return None
    own = reference.row_deviation**2
    chunks = 0.0
    if reference.chunk_std is not None and reference.chunk_rows:
        chunks = max(0.0, reference.chunk_std**2 - own / reference.chunk_rows)
    return sqrt(own / rows + own / baseline_rows + chunks)


def _metric(
    name: str,
    baseline: Baseline,
    policy: Policy,
    *,
    realised: Spread | None,
    labelled: int,
    judged: Judged,
    estimated: Spread | None,
    rows: int,
    guessed: Judged,
    caveat: str,
) -> MetricWindow:
    reference = baseline.performance[name]
    (verdict, p_value), (guess, guessed_p) = judged, guessed
    if verdict == "ok" and guess == "alarm":
        guess = "watch"
    limit = _limit(name, baseline, policy, labelled if realised is not None else rows)
    better_high = HIGHER_IS_BETTER[name]
    return MetricWindow(
        metric=name,
        higher_is_better=better_high,
        reference=Interval(reference.value, reference.low, reference.high),
        threshold_low=limit if better_high else None,
        threshold_high=None if better_high else limit,
        realised=None if realised is None else realised.interval,
        rows_labelled=labelled,
        verdict=verdict,
        p_value=p_value,
        estimated=None if estimated is None else estimated.interval,
        rows=rows,
        estimated_verdict=guess,
        estimated_p=guessed_p,
        caveat=caveat,
    )


def _limit(name: str, baseline: Baseline, policy: Policy, rows: int) -> float | None:
    """The value from which on the metric counts as fallen, in a window of so many rows."""
    reference = baseline.performance[name]
    deviation = expected_deviation(reference, rows, baseline.rows)
    if deviation is None:
        return None
    chance = NormalDist().inv_cdf(1 - LIKELY / len(baseline.performance)) * deviation
    loss = max(least_loss(name, reference.value, policy), chance)
    return reference.value - loss if HIGHER_IS_BETTER[name] else reference.value + loss


def _judged(
    baseline: Baseline, policy: Policy, found: Mapping[str, Spread], rows: int
) -> dict[str, Judged]:
    """Which metrics fell, and how likely each fall is by chance, corrected for their number."""
    tested: dict[str, float] = {}
    for name, spread in found.items():
        p_value = _chance(name, baseline, spread, rows)
        if p_value is not None:
            tested[name] = p_value
    corrected = dict(zip(tested, stepped_down(list(tested.values())).tolist(), strict=True))
    judged = {
        name: _verdict(name, baseline, policy, found[name], p) for name, p in corrected.items()
    }
    if "alarm" in judged.values():
        # A second window would be waited for to rule out chance; these rows have done that.
        judged = {name: "alarm" if v == "watch" else v for name, v in judged.items()}
    return {name: (judged[name], corrected[name]) for name in judged}


def _chance(name: str, baseline: Baseline, found: Spread, rows: int) -> float | None:
    """How likely a fall as large is by chance; None where it cannot be told."""
    reference = baseline.performance[name]
    expected = expected_deviation(reference, rows, baseline.rows)
    if expected is None or found.deviation == inf:
        return None
    # A window of other rows than the reference's may have the larger sampling error.
    own = (reference.row_deviation or 0.0) ** 2 / rows
    spread = sqrt(expected**2 + max(0.0, found.deviation**2 - own))
    return _tail(_loss(name, reference, found), spread)


def _loss(name: str, reference: ReferenceMetric, found: Spread) -> float:
    sign = 1 if HIGHER_IS_BETTER[name] else -1
    return sign * (reference.value - found.interval.value)


def _verdict(
    name: str, baseline: Baseline, policy: Policy, found: Spread, corrected: float
) -> State:
    reference = baseline.performance[name]
    least = least_loss(name, reference.value, policy)
    if _loss(name, reference, found) < least or corrected > LIKELY:
        return "ok"
    return "alarm" if corrected <= CERTAIN else "watch"


# ── Groups ──────────────────────────────────────────────────────────────────────────────────────


def _segment(
    baseline: Baseline,
    segment: SegmentBaseline,
    sample: Sample,
    rows: npt.NDArray[np.int64],
    labelled: Outcome | None,
) -> SegmentWindow:
    names, codes = codes_of(segment, sample.inputs[segment.column])
    before = {group_name(group.name): group for group in segment.groups}
    groups, found = [], {}
    for code, name in enumerate(names):
        among = codes == code
        if not among.any():
            continue
        part = None if labelled is None else labelled.take(codes[rows] == code)
        spread = None
        if part is not None and part.rows >= segment.min_rows:
            spread = group_spread(segment.metric, part, baseline.confidence)
        if spread is not None:
            found[name] = spread
        known = before.get(name)
        verdict, text = _group_verdict(baseline, segment, spread, known)
        even = among & sample.even
        groups.append(
            GroupWindow(
                name=name,
                rows=int(even.sum()),
                labelled=0 if part is None else part.rows,
                realised=None if spread is None else spread.interval,
                estimated=_group_estimate(baseline, segment, sample.output[even]),
                reference=None if known is None else known.value,
                verdict=verdict,
                text=text,
                facts={} if part is None or part.rows < segment.min_rows else group_facts(part),
            )
        )
    gap, gap_verdict = _gap(baseline, segment, found)
    return SegmentWindow(
        column=segment.column,
        metric=segment.metric,
        gate=segment.gate,
        groups=tuple(groups),
        gap=gap,
        max_gap=segment.max_gap,
        verdict=worst([*(g.verdict for g in groups), gap_verdict]),
        gap_verdict=gap_verdict,
    )


def _group_estimate(
    baseline: Baseline, segment: SegmentBaseline, output: Floats
) -> Interval | None:
    if baseline.task is Task.REGRESSION or len(output) < segment.min_rows:
        return None
    found = _estimated_metrics(baseline, output, (segment.metric,))
    spread = found.get(segment.metric)
    return None if spread is None else spread.interval


def _group_verdict(
    baseline: Baseline,
    segment: SegmentBaseline,
    spread: Spread | None,
    before: SegmentGroup | None,
) -> tuple[State, str]:
    """With a gate: whether the group misses it; else whether it is worse than on the test split.

    Corrected for the number of groups of all segments.
    """
    groups, confidence = sum(len(s.groups) for s in baseline.segments), baseline.confidence
    if spread is None:
        return "unknown", "too few labelled rows"
    value, sign = spread.interval.value, 1 if HIGHER_IS_BETTER[segment.metric] else -1
    bounds = [(segment.min, 1, "below"), (segment.max, -1, "above")]
    for bound, side, word in bounds:
        if bound is not None and side * (bound - value) > 0:
            p_value = _tail(side * (bound - value), spread.deviation) * groups
            text = f"{segment.metric} {value:.4g} is {word} the gate's {bound:g}"
            if p_value <= CERTAIN:
                return "alarm", text
            return ("watch", text) if p_value <= LIKELY else ("ok", f"{text}, within chance")
    if segment.gate or before is None or before.value is None:
        return "ok", ""
    other = 0.0
    if before.low is not None and before.high is not None:
        other = (before.high - before.low) / 2 / reach(confidence)
    loss = sign * (before.value - value)
    p_value = _tail(loss, sqrt(spread.deviation**2 + other**2)) * groups
    least = 0.01 if HIGHER_IS_BETTER[segment.metric] else 0.05 * abs(before.value)
    if loss >= least and p_value <= LIKELY:
        return "watch", f"{segment.metric} {value:.4g}, after {before.value:.4g} on the test split"
    return "ok", ""


def _tail(distance: float, deviation: float) -> float:
    if deviation == 0:
        return 0.0 if distance > 0 else 1.0
    return normal_tail(distance / deviation) if deviation != inf else 1.0


def _gap(
    baseline: Baseline, segment: SegmentBaseline, spreads: Mapping[str, Spread]
) -> tuple[Interval | None, State]:
    """The gap of best and worst; it counts when it exceeds the gate's by more than chance tells."""
    judged = {name: s for name, s in spreads.items() if s.deviation != inf and name != MISSING}
    if len(judged) < 2:
        return None, "unknown" if segment.max_gap is not None else "ok"
    ranked = sorted(judged.values(), key=lambda s: s.interval.value)
    gap = ranked[-1].interval.value - ranked[0].interval.value
    deviation = sqrt(ranked[-1].deviation ** 2 + ranked[0].deviation ** 2)
    half = reach(baseline.confidence) * deviation
    interval = Interval(gap, max(0.0, gap - half), gap + half)
    if segment.max_gap is None or gap <= segment.max_gap:
        return interval, "ok"
    # Best and worst are chosen among all: as many pairs are tested.
    pairs = len(judged) * (len(judged) - 1) / 2
    p_value = min(1.0, _tail(gap - segment.max_gap, deviation) * pairs)
    if p_value <= CERTAIN:
        return interval, "alarm"
    return interval, "watch" if p_value <= LIKELY else "ok"


# ── Warnings ────────────────────────────────────────────────────────────────────────────────────


def _warnings(baseline: Baseline, sample: Sample, rows: npt.NDArray[np.int64]) -> tuple[str, ...]:
    told = []
    labelled = np.zeros(sample.rows, dtype=bool)
    labelled[rows] = True
    even = int(sample.even.sum())
    share = float(labelled[sample.even].mean()) if even else 0.0
    if len(rows) and share < PARTIAL:
        told.append(
            f"labels came for {share:.1%} of the rows: what was measured is of those, and rows "
            "whose labels come early or are sought may be unlike the others"
        )
        scores = _scores(baseline.task, sample.output)
        distance, p_value = _kolmogorov_smirnov(scores[labelled], scores[sample.even & ~labelled])
        if distance >= SELECTIVE and p_value <= _SELECTIVE_P:
            told.append(
                f"selective labels: labelled rows have other scores than the rest (Kolmogorov-"
                f"Smirnov distance {distance:.2f}), so what was measured is not that of all rows"
            )
    unknown = sum(label is not None for label in sample.labels) - len(rows)
    if unknown:
        told.append(f"{unknown} labels are of classes that this version does not know")
    if baseline.uncaptured_segments:
        names = ", ".join(baseline.uncaptured_segments)
        told.append(
            f"fairness by {names} is not measured: private columns and columns that are no "
            "features are never captured"
        )
    return tuple(told)


def _kolmogorov_smirnov(a: Floats, b: Floats) -> tuple[float, float]:
    if not len(a) or not len(b):
        return 0.0, 1.0
    found = ks(a, b)
    return found.value, 1.0 if found.p_value is None else found.p_value


# ── Findings ────────────────────────────────────────────────────────────────────────────────────


def findings(
    window: PerformanceWindow, history: Sequence[Verdict], policy: Policy
) -> tuple[Finding, ...]:
    """What a window's performance comes to, for `judging.judge`.

    Args:
        window: What was measured.
        history: Verdicts of earlier windows: what was watched in the last one that does not overlap
            and is again becomes an alarm with `Policy.persistence` of them in a row.
        policy: When a difference counts.
    """
    before = {f.key: f for f in _last(window, history)}
    return tuple(_lasting(f, before, policy) for f in _all(window))


def _last(window: PerformanceWindow, history: Sequence[Verdict]) -> tuple[Finding, ...]:
    judged = [v for v in history if v.until <= window.since and v.state != "unknown"]
    return max(judged, key=lambda v: v.until).findings if judged else ()


def _lasting(
    finding: Finding, before: Mapping[tuple[str, str, str | None], Finding], policy: Policy
) -> Finding:
    if finding.verdict != "watch" or finding.parameters.get("only_watched"):
        return finding
    earlier = before.get(finding.key)
    lasted = 1 + (0 if earlier is None else earlier.persisted)
    return replace(finding, verdict="alarm") if lasted >= policy.persistence else finding


def _all(window: PerformanceWindow) -> list[Finding]:
    told = []
    for metric in window.metrics:
        if metric.realised is not None:
            told.append(_finding(metric, metric.realised, "performance"))
        if metric.estimated is not None:
            told.append(_finding(metric, metric.estimated, "estimated_performance"))
    for segment in window.segments:
        if segment.gate:
            told += _of_segment(segment)
    return told


def _finding(metric: MetricWindow, found: Interval, kind: Any) -> Finding:
    realised = kind == "performance"
    sign = 1 if metric.higher_is_better else -1
    verdict = metric.verdict if realised else metric.estimated_verdict
    rows = metric.rows_labelled if realised else metric.rows
    reference = metric.reference.value
    parameters: dict[str, Parameter] = {"reference": reference, "rows": rows}
    if found.low is not None and found.high is not None:
        parameters |= {"low": found.low, "high": found.high}
    contradicted = not realised and metric.verdict == "ok" and verdict == "watch"
    if contradicted:
        parameters["only_watched"] = True
    by = f"measured on {rows} labelled rows" if realised else f"estimated from {rows} rows"
    limit = metric.threshold_low if metric.higher_is_better else metric.threshold_high
    if not realised:
        parameters["caveat"] = metric.caveat
    return Finding(
        kind=kind,
        subject=metric.metric,
        statistic=metric.metric,
        value=found.value,
        effect=sign * (reference - found.value),
        p_value=metric.p_value if realised else metric.estimated_p,
        adjusted_p=metric.p_value if realised else metric.estimated_p,
        threshold=limit,
        against="training",
        rows=rows,
        verdict=verdict,
        parameters=parameters,
        text=f"{metric.metric} {found.value:.4f}, {by}, after {reference:.4f} on the test split"
        + (" (labels say that it did not fall)" if contradicted else ""),
    )


def _of_segment(segment: SegmentWindow) -> list[Finding]:
    told = [
        _of_group(segment, group, group.realised)
        for group in segment.groups
        if group.verdict != "unknown" and group.realised is not None
    ]
    if segment.gap is None or segment.max_gap is None:
        return told
    gap = Finding(
        kind="fairness",
        subject=segment.column,
        statistic=f"{segment.metric}_gap",
        value=segment.gap.value,
        effect=segment.gap.value - segment.max_gap,
        threshold=segment.max_gap,
        against="training",
        rows=sum(group.labelled for group in segment.groups),
        verdict=segment.gap_verdict,
        text=f"{segment.column}: {segment.metric} of the best and of the worst group differ by "
        f"{segment.gap.value:.4f}, where the gate allows {segment.max_gap:g}",
    )
    return [*told, gap]


def _of_group(segment: SegmentWindow, group: GroupWindow, found: Interval) -> Finding:
    return Finding(
        kind="fairness",
        subject=f"{segment.column}={group.name}",
        statistic=segment.metric,
        value=found.value,
        effect=None if group.reference is None else abs(group.reference - found.value),
        against="training",
        rows=group.labelled,
        verdict=group.verdict,
        text=f"{segment.column} = {group.name}: {group.text}",
    )
