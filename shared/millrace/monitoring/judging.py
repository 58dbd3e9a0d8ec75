"""What a window's differences mean: nothing, something to watch, or an alarm.

A difference counts when it is **significant and large**: among many rows everything is significant, among
few much looks large. Then it is held against what else explains it:

- *The number of tests.* All that is compared with one reference is one family; p-values are
  corrected for their number (`tails.adjusted`).
- *The size of the sample.* The threshold of PSI is the least drift that counts plus what chance alone
  gives with these rows (`drift.psi_by_chance`). Windows of fewer than `Policy.min_rows` are refused.
- *Chance.* A difference is watched until `Policy.persistence` windows in a row, none overlapping another,
  have shown it, each the same way.
- *The season.* A difference is watched, not told, until as many windows in a row differ from the same hours
  of earlier weeks too, or until it has lasted for a whole `Policy.cycle`: seasons end. As long as there are no earlier weeks, a difference must
  last for `Policy.unseasoned`.

Differences from last week and from the same hours of earlier weeks are told beside, and never alarm: a
model learned from the training data. Drift of inputs alone never is a reason to train again
(`monitoring.retraining`); a finding that performance fell is, and such findings come here ready-made.
"""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from millrace.monitoring.baseline import Baseline, FeatureBaseline
from millrace.monitoring.counting import latency_edge
from millrace.monitoring.drift import (
    chi2,
    jensen_shannon,
    ks_binned,
    merged,
    psi,
    psi_by_chance,
    share_difference,
    wasserstein_binned,
)
from millrace.monitoring.findings import (
    CLASSES,
    DIRECTION,
    INPUTS,
    SCORES,
    Against,
    Finding,
    Kind,
    Parameter,
    Policy,
    State,
    StatisticValue,
    Verdict,
    shortened,
    worst,
)
from millrace.monitoring.hours import FeatureCounts, WindowCounts, total
from millrace.monitoring.tails import adjusted

SMOOTHING: Final = 0.5
"""Added to every count before a PSI (Jeffreys' prior), so that an empty bin is not infinitely far."""
_SLOW: Final = 0.05
_FEW_SHOWN: Final = 3

type Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Bins:
    """One quantity's counts on both sides.

    Attributes:
        kind: Of its finding.
        subject: Of its finding.
        reference: Counts.
        window: Counts over the same bins.
        edges: Of an ordered quantity, one more than bins.
        names: Of the others, one for each bin.
    """

    kind: Kind
    subject: str
    reference: Floats
    window: Floats
    edges: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A finding before its p-value is corrected and its past is known.

    Attributes:
        finding: What was compared; its verdict is not made yet.
        large: Whether the effect is as large as counts.
    """

    finding: Finding
    large: bool


def judge(
    baseline: Baseline | None,
    window: WindowCounts,
    references: Sequence[WindowCounts],
    history: Sequence[Verdict],
    policy: Policy,
    *,
    multivariate: StatisticValue | None = None,
    further: Sequence[Finding] = (),
) -> Verdict:
    """Judges one window of one version.

    A pure function: the same arguments give the same verdict, so a window may be judged again when late
    counts or labels came.

    Args:
        baseline: Of the version; None when it has none, and then traffic alone is judged.
        window: What was counted.
        references: Earlier windows of the same version, told apart by their `against`: those of the same
            hours and weekday, and last week.
        history: Verdicts of earlier windows of the same version, in any order; the last that does not
            overlap this window is enough. Later ones are passed over.
        policy: When a difference counts.
        multivariate: What `multivariate.reconstruction` said of a sample of the window's rows.
        further: Findings made elsewhere (performance, fairness). Their verdict stands, unless the kind
            is watched for persistence here; how long they have lasted is filled in.

    Returns:
        The verdict; its state is ``unknown`` when the window was refused.
    """
    if window.rows < policy.min_rows:
        return _verdict(
            window,
            "unknown",
            f"{window.rows} rows were captured, and a window is judged from {policy.min_rows} on: of "
            "fewer, much looks large that is nothing",
        )
    before = _before(window, history)
    season = _reference(references, "same_hour", policy)
    last_week = _reference(references, "last_week", policy)

    from_training = _corrected(_with_training(baseline, window, policy, multivariate), policy)
    from_season = _corrected(_with_window(baseline, window, season, "same_hour", policy), policy)
    from_last_week = _corrected(
        _with_window(baseline, window, last_week, "last_week", policy), policy
    )
    beside = [
        _settled(c, d, window, before, policy, frozenset(), season)
        for c, d in (*from_season, *from_last_week)
    ]
    # A single hour that strays from earlier weeks is chance, as a single window is.
    usual = {
        (f.kind, f.subject)
        for f in beside
        if f.against == "same_hour" and f.persisted < policy.persistence
    }
    findings = [
        *(_settled(c, d, window, before, policy, usual, season) for c, d in from_training),
        *beside,
        *(_lasting(f, window, before) for f in further),
    ]
    return _verdict(window, worst(f.verdict for f in findings), "", tuple(findings))


def _verdict(
    window: WindowCounts, state: State, reason: str, findings: tuple[Finding, ...] = ()
) -> Verdict:
    return Verdict(
        model=window.model,
        version=window.version,
        since=window.since,
        until=window.until,
        rows=window.rows,
        state=state,
        reason=reason or _reason(findings),
        findings=findings,
    )


def _reason(findings: Sequence[Finding]) -> str:
    """The worst of the findings in words."""
    for state in ("alarm", "watch"):
        found = sorted(
            (f for f in findings if f.verdict == state), key=lambda f: -(f.effect or 0.0)
        )
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            return found[0].text + more
    return "nothing moved by more than counts"


# ── What is compared ────────────────────────────────────────────────────────────────────────────


def _with_training(
    baseline: Baseline | None,
    window: WindowCounts,
    policy: Policy,
    multivariate: StatisticValue | None,
) -> Iterator[_Comparison]:
    if baseline is not None and window.binned:
        for feature in baseline.features:
            counts = window.features.get(feature.name)
            if counts is not None and counts.rows:
                yield from _feature(feature, counts, baseline.rows, policy)
        for bins in _outputs(baseline, window):
            yield from _moved(bins, "training", policy)
    if multivariate is not None:
        yield _rebuilt(multivariate, policy)


def _feature(
    feature: FeatureBaseline, counts: FeatureCounts, rows: int, policy: Policy
) -> Iterator[_Comparison]:
    bins = _feature_bins(feature, counts)
    if bins is not None:
        yield from _moved(bins, "training", policy)
    yield _share(
        "missing", feature.name, counts.missing, counts.rows, feature.missing, rows, policy
    )
    here, there = counts.rows - counts.missing, rows - feature.missing
    if not here or not there:
        return
    if feature.numeric is not None:
        beyond = counts.below + counts.above
        yield _share("range", feature.name, beyond, here, 0, there, policy, rises_only=True)
    if feature.categorical is not None:
        # Of rare values there are ever new ones: as many as training had beyond its frequent ones
        # are none of concern.
        rare = feature.categorical.other
        yield _share(
            "unseen", feature.name, counts.unseen, here, rare, there, policy, rises_only=True
        )


def _feature_bins(feature: FeatureBaseline, counts: FeatureCounts) -> _Bins | None:
    if feature.numeric is not None:
        numeric = feature.numeric
        return _Bins(
            "feature_drift",
            feature.name,
            np.asarray(numeric.counts, dtype=np.float64),
            np.asarray(counts.counts(len(numeric.counts)), dtype=np.float64),
            edges=numeric.edges,
        )
    if feature.categorical is not None:
        categorical = feature.categorical
        beyond = counts.other + counts.unseen
        return _Bins(
            "feature_drift",
            feature.name,
            np.asarray((*categorical.counts, categorical.other), dtype=np.float64),
            np.asarray((*counts.counts(len(categorical.counts)), beyond), dtype=np.float64),
            names=(*categorical.categories, "other values"),
        )
    return None


def _outputs(baseline: Baseline, window: WindowCounts) -> Iterator[_Bins]:
    scores = baseline.scores
    yield _Bins(
        "score_drift",
        SCORES,
        np.asarray(scores.counts, dtype=np.float64),
        np.asarray(window.scores.counts(len(scores.counts)), dtype=np.float64),
        edges=scores.edges,
    )
    if baseline.predicted:
        names = baseline.classes
        yield _Bins(
            "class_drift",
            CLASSES,
            np.asarray(baseline.predicted, dtype=np.float64),
            np.asarray([window.classes[name] for name in names], dtype=np.float64),
            names=names,
        )


def _with_window(
    baseline: Baseline | None,
    window: WindowCounts,
    reference: WindowCounts | None,
    against: Against,
    policy: Policy,
) -> Iterator[_Comparison]:
    """The same quantities against another window, and how the traffic went."""
    if reference is None:
        if against == "same_hour":
            yield from _traffic(window, None, None, policy)
        return
    if against == "same_hour":
        yield from _traffic(window, reference, against, policy)
    if baseline is None or not window.binned or not reference.binned:
        return
    for feature in baseline.features:
        here, there = window.features.get(feature.name), reference.features.get(feature.name)
        if here is None or there is None or not here.rows or not there.rows:
            continue
        bins, then = _feature_bins(feature, here), _feature_bins(feature, there)
        if bins is not None and then is not None:
            yield from _moved(replace(bins, reference=then.window), against, policy)
        yield _share(
            "missing", feature.name, here.missing, here.rows, there.missing, there.rows, policy,
            against=against,
        )  # fmt: skip
    for bins, then in zip(_outputs(baseline, window), _outputs(baseline, reference), strict=True):
        yield from _moved(replace(bins, reference=then.window), against, policy)


def _traffic(
    window: WindowCounts, reference: WindowCounts | None, against: Against | None, policy: Policy
) -> Iterator[_Comparison]:
    asked = round(window.weighed or window.requests) + window.errors
    if asked >= policy.min_rows:
        before = 0 if reference is None else reference.errors
        # Nothing to compare with: as many requests, none of which failed.
        of = asked
        if reference is not None:
            of = round(reference.weighed or reference.requests) + reference.errors
        yield _share("errors", "requests", window.errors, asked, before, max(1, of), policy,
                     against=against, rises_only=True)  # fmt: skip
    sent = window.requests + window.missing_lines
    if sent:
        yield _share("capture_gap", "captures", window.missing_lines, sent, 0, sent, policy,
                     against=None, rises_only=True)  # fmt: skip
    if reference is not None and reference.latency.total() >= policy.min_rows:
        yield from _slow(window, reference, against, policy)


def _slow(
    window: WindowCounts, reference: WindowCounts, against: Against | None, policy: Policy
) -> Iterator[_Comparison]:
    """Requests slower than nineteen in twenty of the reference."""
    of, here = reference.latency.total(), window.latency.total()
    if here < policy.min_rows:
        return
    slow, edge = 0, 0
    for place in sorted(reference.latency, reverse=True):
        if slow + reference.latency[place] > _SLOW * of:
            break
        slow, edge = slow + reference.latency[place], place
    if not slow:
        return
    now = sum(n for place, n in window.latency.items() if place >= edge)
    found = share_difference(now, here, slow, of)
    least = policy.least("latency", "requests")
    share, before = now / here, slow / of
    finding = Finding(
        kind="latency",
        subject="requests",
        statistic="slow_share",
        value=share,
        effect=share / before,
        p_value=found.p_value,
        threshold=least * before,
        against=against,
        rows=here,
        parameters={**found.parameters, "beyond_ms": latency_edge(edge), "reference": before},
        text=f"{share:.1%} of the requests took {latency_edge(edge):.0f} ms or more, "
        f"after {before:.1%} in {_WORDS[against]}",
    )
    yield _Comparison(finding, share / before >= least)


# ── One comparison ──────────────────────────────────────────────────────────────────────────────


def _moved(bins: _Bins, against: Against, policy: Policy) -> Iterator[_Comparison]:
    """How far a distribution moved: PSI is how far, chi-squared whether it may be chance."""
    n, m = int(bins.window.sum()), int(bins.reference.sum())
    if not n or not m or len(bins.window) < 1:
        return
    ordered = bins.edges is not None
    reference, window = merged(bins.reference, bins.window, ordered=ordered)
    distance = psi(reference, window, smoothing=SMOOTHING)
    tested = chi2(reference, window)
    chance = psi_by_chance(len(window), m, n)
    least = policy.least(bins.kind, bins.subject)
    effect = distance.value - chance
    named = f"{bins.subject}: " if bins.kind == "feature_drift" else f"{_NAMES[bins.kind]}: "
    finding = Finding(
        kind=bins.kind,
        subject=bins.subject,
        statistic="psi",
        value=distance.value,
        effect=effect,
        p_value=tested.p_value,
        threshold=least + chance,
        against=against,
        rows=n,
        parameters={
            **distance.parameters,
            "least": least,
            "chance": chance,
            "reference_rows": m,
            "test": "chi2",
            "chi2": tested.value,
            "df": tested.parameters["df"],
            DIRECTION: _direction(bins),
            **_beside(bins),
        },
        text=f"{named}PSI {distance.value:.3f} against {_WORDS[against]}, "
        f"where {least + chance:.3f} counts{_most(bins) if effect >= least else ''}",
    )
    yield _Comparison(finding, effect >= least)


def _direction(bins: _Bins) -> str:
    """Which way the shares of the bins moved, in thousandths."""
    moved = bins.window / bins.window.sum() - bins.reference / bins.reference.sum()
    return ",".join(map(str, np.rint(1_000 * moved).astype(int).tolist()))


def _beside(bins: _Bins) -> dict[str, Parameter]:
    """The other statistics of the same counts, each with what makes it reproducible."""
    distance = jensen_shannon(bins.reference, bins.window)
    told: dict[str, Parameter] = {"jensen_shannon": distance.value, "jensen_shannon_base": 2.0}
    if bins.edges is None or len(bins.edges) < len(bins.window) + 1:
        return told
    greatest = ks_binned(bins.reference, bins.window)
    area = wasserstein_binned(bins.reference, bins.window, np.asarray(bins.edges))
    return told | {
        "ks": greatest.value,
        "ks_bound": greatest.bound or 0.0,
        "wasserstein": area.value,
        "wasserstein_bound": area.bound or 0.0,
    }


def _most(bins: _Bins) -> str:
    """Which bins moved most, in words."""
    shares = bins.reference / bins.reference.sum(), bins.window / bins.window.sum()
    order = np.argsort(-np.abs(shares[1] - shares[0]))[:_FEW_SHOWN]
    told = [
        f"{_bin_name(bins, int(place))} {shares[0][place]:.1%} → {shares[1][place]:.1%}"
        for place in order
        if shares[0][place] != shares[1][place]
    ]
    return f"; {', '.join(told)}" if told else ""


def _bin_name(bins: _Bins, place: int) -> str:
    if bins.edges is None:
        return shortened(bins.names[place])
    if len(bins.edges) < len(bins.window) + 1:
        return f"{bins.edges[0]:g}"
    return f"{bins.edges[place]:g} to {bins.edges[place + 1]:g}"


def _share(
    kind: Kind,
    subject: str,
    hits: int,
    rows: int,
    reference_hits: int,
    reference_rows: int,
    policy: Policy,
    *,
    against: Against | None = "training",
    rises_only: bool = False,
) -> _Comparison:
    found = share_difference(hits, rows, reference_hits, reference_rows)
    least = policy.least(kind, subject)
    effect = found.value if rises_only else abs(found.value)
    here, there = hits / rows, reference_hits / reference_rows
    after = f", after {there:.1%} in {_WORDS[against]}" if against or reference_hits else ""
    finding = Finding(
        kind=kind,
        subject=subject,
        statistic="share",
        value=here,
        effect=effect,
        p_value=found.p_value,
        threshold=there + least if found.value >= 0 or rises_only else there - least,
        against=against,
        rows=rows,
        parameters={
            **found.parameters,
            "reference": there,
            "reference_rows": reference_rows,
            DIRECTION: "1" if found.value >= 0 else "-1",
        },
        text=f"{subject}: {here:.1%} {_NAMES[kind]}{after}",
    )
    return _Comparison(finding, effect >= least)


def _rebuilt(found: StatisticValue, policy: Policy) -> _Comparison:
    least = policy.least("multivariate", INPUTS)
    effect = abs(float(found.parameters["effect"]))
    mean, std = float(found.parameters["baseline"]), float(found.parameters["baseline_std"])
    finding = Finding(
        kind="multivariate",
        subject=INPUTS,
        statistic=found.name,
        value=found.value,
        effect=effect,
        p_value=found.p_value,
        threshold=mean + least * std if found.value >= mean else mean - least * std,
        against="training",
        rows=int(found.parameters["rows"]),
        parameters={**found.parameters, DIRECTION: "1" if found.value >= mean else "-1"},
        text=f"rows lie {effect:.2f} standard deviations "
        f"{'farther from' if found.value >= mean else 'nearer to'} the baseline's principal "
        f"components, where {least:g} counts: features go together in another way",
    )
    return _Comparison(finding, effect >= least)


_NAMES: Final[dict[str, str]] = {
    "score_drift": "scores",
    "class_drift": "predicted classes",
    "missing": "of the rows lack a value",
    "unseen": "of the rows have a value that training never saw",
    "range": "of the rows lie beyond what training saw",
    "errors": "failed",
    "capture_gap": "of the captured lines never arrived",
}
_WORDS: Final[dict[str | None, str]] = {
    "training": "training",
    "last_week": "last week",
    "same_hour": "the same hours of earlier weeks",
    None: "none",
}


# ── What it means ───────────────────────────────────────────────────────────────────────────────


def _corrected(
    comparisons: Iterable[_Comparison], policy: Policy
) -> list[tuple[_Comparison, bool]]:
    """Each with its corrected p-value, and whether the difference counts."""
    found = list(comparisons)
    p_values = [1.0 if c.finding.p_value is None else c.finding.p_value for c in found]
    return [
        (
            _Comparison(replace(c.finding, adjusted_p=p), c.large),
            c.large and p <= policy.significance,
        )
        for c, p in zip(found, adjusted(p_values).tolist() if found else [], strict=True)
    ]


def _settled(
    comparison: _Comparison,
    differs: bool,
    window: WindowCounts,
    before: dict[tuple[str, str, str | None], Finding],
    policy: Policy,
    usual: AbstractSet[tuple[str, str]],
    season: WindowCounts | None,
) -> Finding:
    finding = comparison.finding
    if not differs:
        return finding
    lasting = _lasting(replace(finding, verdict="watch"), window, before)
    began = lasting.first_seen or window.since
    if finding.against in ("last_week", "same_hour") and finding.kind not in _TRAFFIC:
        return lasting
    if lasting.persisted < policy.persistence:
        seen = f"seen in {lasting.persisted} of {policy.persistence} windows that make an alarm"
        return replace(lasting, text=f"{lasting.text} ({seen})")
    already = before.get(finding.key)
    if already is not None and already.verdict == "alarm":
        return replace(lasting, verdict="alarm")
    if finding.kind not in _TRAFFIC and window.until - window.since < policy.cycle:
        lasted = window.until - began
        if season is None and lasted < policy.unseasoned:
            hours = policy.unseasoned / timedelta(hours=1)
            text = f"{lasting.text} (no earlier week tells what is usual: it must last {hours:g} h)"
            return replace(lasting, text=text)
        if (finding.kind, finding.subject) in usual and lasted < policy.cycle:
            text = f"{lasting.text} (the same hours of earlier weeks look alike)"
            return replace(lasting, text=text)
    return replace(lasting, verdict="alarm")


_TRAFFIC: Final = frozenset({"errors", "latency", "capture_gap"})
"""Kinds that have no other reference than earlier windows."""


def _lasting(
    finding: Finding, window: WindowCounts, before: dict[tuple[str, str, str | None], Finding]
) -> Finding:
    """How long a finding that is not ``ok`` has lasted."""
    if finding.verdict not in ("watch", "alarm"):
        return replace(finding, first_seen=None, persisted=0)
    earlier = before.get(finding.key)
    if earlier is None or earlier.first_seen is None or not _same_way(finding, earlier):
        return replace(finding, first_seen=window.since, persisted=1)
    # The way of the first: a season turns, little by little, and a drift stays.
    parameters = dict(finding.parameters)
    if DIRECTION in earlier.parameters:
        parameters[DIRECTION] = earlier.parameters[DIRECTION]
    return replace(
        finding,
        first_seen=earlier.first_seen,
        persisted=earlier.persisted + 1,
        parameters=parameters,
    )


def _same_way(finding: Finding, earlier: Finding) -> bool:
    """Whether both moved rather the same way than the opposite: nights and days each differ from
    their mean, and are no lasting difference together.
    """
    ways = [str(f.parameters.get(DIRECTION, "")).split(",") for f in (finding, earlier)]
    if ways[0] == [""] or len(ways[0]) != len(ways[1]):
        return True
    return sum(int(a) * int(b) for a, b in zip(*ways, strict=True)) > 0


def _before(
    window: WindowCounts, history: Sequence[Verdict]
) -> dict[tuple[str, str, str | None], Finding]:
    """Findings of the last window that was judged and does not overlap this one."""
    judged = [v for v in history if v.until <= window.since and v.state != "unknown"]
    if not judged:
        return {}
    return {f.key: f for f in max(judged, key=lambda v: v.until).findings}


def _reference(
    references: Sequence[WindowCounts], against: Against, policy: Policy
) -> WindowCounts | None:
    found = total(w for w in references if w.against == against)
    return found if found is not None and found.rows >= policy.min_rows else None
