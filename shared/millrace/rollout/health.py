"""Whether a challenger is as healthy as its champion, from what was counted of both at one step.

Each condition of the spec gives a `Finding`. The statistical ones are e-processes (`sequential`): the
spec's ``alpha`` is split evenly over the conditions that are judged and over the steps, so that the
chance of any false alarm in the whole rollout stays below it, however often somebody looks.

What a look must know of those before it is `Looked`, plain JSON: thresholds that had to be learned
first (what is slow, which scores to compare) and the evidence so far.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from millrace.monitoring.counting import latency_bin, latency_edge
from millrace.monitoring.tallies import Tally, score_text
from millrace.registry.rollout_records import Finding, Found
from millrace.rollout.sequential import EFFECTS, Counts, Evidence, log_mean
from millrace.spec import RolloutSection

SLOW: Final = 0.95
"""A champion's request is slow beyond this quantile."""
LEARN_FROM: Final = 100
"""Requests of the champion that what is slow, and what scores to compare, are learned from. As many of
either version are compared after that before a condition is called healthy, or the plan's
``min_requests`` if these are fewer: the first of them tell nothing yet."""
MAX_EDGES: Final = 19

COMPARED: Final = "Turner, Ly and Grünwald's e-process for two samples, mixed over effects"
BOUNDED: Final = "e-process of a share against a bound, mixed over effects"

type Document = dict[str, Any]


class Seen(NamedTuple):
    """What a look looks at."""

    champion: Tally
    challenger: Tally
    alarms: Mapping[str, str | None] = {}
    """States of the named CloudWatch alarms; None for one that is not there."""
    feedback: tuple[Counts, Counts] | None = None
    """Wrong predictions of the champion and of the challenger, of those with a label."""


class Looked(NamedTuple):
    """What a look found, and what the next one must know."""

    findings: tuple[Finding, ...]
    document: Document


class Bar(NamedTuple):
    """When a condition has an answer.

    Attributes:
        breach: The e-value that is a breach.
        least: Requests of either version to compare before it is healthy.
    """

    breach: float
    least: int

    def found(self, peak: float, compared: Sequence[int]) -> Found:
        """What a condition found.

        Args:
            peak: Logarithm of the greatest e-value so far.
            compared: How many requests of each were compared.
        """
        if peak >= math.log(self.breach):
            return "breach"
        return "healthy" if min(compared) >= self.least else "short"

    def told(self, found: Found, compared: Sequence[int], text: str) -> str:
        """What is said of a condition; of one that has no answer yet, also how far it is."""
        if found != "short":
            return text
        return f"{text}; {min(compared):,} of each version are compared, {self.least:,} are needed"


def statistical(plan: RolloutSection) -> tuple[str, ...]:
    """The conditions among which alpha is split."""
    health = plan.health
    shadow = plan.strategy == "shadow"
    named = {
        "errors": health.errors is not None,
        "latency": health.latency is not None and not shadow,
        "scores": health.scores is not None,
        "disagreement": health.disagreement is not None and shadow,
        "feedback": health.feedback is not None and not shadow,
    }
    return tuple(name for name, judged in named.items() if judged)


def threshold(plan: RolloutSection) -> float:
    """The e-value that is a breach: one over the condition's share of alpha."""
    return max(1, len(statistical(plan))) * len(plan.weights) / plan.alpha


def look(plan: RolloutSection, seen: Seen, before: Document) -> Looked:
    """Judges a step by everything counted at it so far.

    Args:
        plan: The conditions.
        seen: The counts so far.
        before: What the last look at this step left; empty for the first.
    """
    judged = statistical(plan)
    bar = Bar(threshold(plan), min(plan.min_requests, LEARN_FROM))
    document: Document = {}
    findings = [_traffic(plan, seen)]
    health = plan.health
    for name in judged:
        past = before.get(name, {})
        match name:
            case "errors" if health.errors is not None:
                found, after = _errors(seen, past, health.errors.max_increase, bar)
            case "latency" if health.latency is not None:
                margin, most = health.latency.max_increase, health.latency.max_ms
                found, after = _latency(seen, past, margin, most, bar)
            case "scores" if health.scores is not None:
                found, after = _scores(seen, past, health.scores.max_shift, bar)
            case "disagreement" if health.disagreement is not None:
                found, after = _disagreement(seen, past, health.disagreement.max_share, bar)
            case "feedback" if health.feedback is not None:
                found, after = _feedback(seen, past, health.feedback.max_increase, bar)
            case _:
                continue
        findings.append(found)
        document[name] = after
    findings += [_alarm(name, seen.alarms.get(name)) for name in health.alarms]
    return Looked(tuple(findings), document)


# ── Conditions ──────────────────────────────────────────────────────────────────────────────────


def _errors(seen: Seen, past: Document, margin: float, bar: Bar) -> tuple[Finding, Document]:
    champion = Counts(seen.champion.requests, seen.champion.errors)
    challenger = Counts(seen.challenger.requests, seen.challenger.errors)
    return _compared("errors", "of its requests failed", champion, challenger, past, margin, bar)


def _latency(
    seen: Seen, past: Document, margin: float, max_ms: float | None, bar: Bar
) -> tuple[Finding, Document]:
    slow_from = past.get("slow_from")
    if slow_from is None:
        if max_ms is not None:
            slow_from = math.ceil(
                latency_bin(max_ms) + (max_ms > latency_edge(latency_bin(max_ms)))
            )
        else:
            slow_from = _quantile_edge(seen.champion.latency)
        if slow_from is None:
            return _learning("latency", seen.champion.latency.total()), past
        if max_ms is None:
            # What taught the threshold does not count as evidence for or against it.
            taught = Evidence(
                champion=_slow(seen.champion, slow_from),
                challenger=_slow(seen.challenger, slow_from),
            )
            return (
                _learning("latency", seen.champion.latency.total()),
                {"slow_from": slow_from, **_kept(taught), "taught": _trials(taught)},
            )
    edge = f"slower than {latency_edge(slow_from):.3g} ms"
    finding, after = _compared(
        "latency",
        f"of its requests were {edge}",
        _slow(seen.champion, slow_from),
        _slow(seen.challenger, slow_from),
        past,
        margin,
        bar,
    )
    return finding, {"slow_from": slow_from, **after}


def _slow(tally: Tally, slow_from: int) -> Counts:
    slow = sum(n for number, n in tally.latency.items() if number >= slow_from)
    return Counts(tally.latency.total(), slow)


def _quantile_edge(histogram: Counter[int]) -> int | None:
    """The bound beyond which nearest to one in twenty lies; None when there is too little to tell.

    Nearest, and not the first beyond the quantile: where a few requests are slow and the others are
    not, the quantile falls among the slow ones as often as not, and none would be slower.
    """
    total = histogram.total()
    if total < LEARN_FROM:
        return None
    above = total
    shares: dict[int, float] = {}
    for number in sorted(histogram):
        above -= histogram[number]
        shares[number + 1] = above / total
    return min(shares, key=lambda edge: abs(shares[edge] - (1 - SLOW)))


def _scores(seen: Seen, past: Document, margin: float, bar: Bar) -> tuple[Finding, Document]:
    """Kolmogorov and Smirnov's distance between two versions' scores, bound by bound.

    The hypothesis is that no bound has more than the margin between the shares below it. Each bound
    and direction has an e-process of its own; their mean is one for all of it.
    """
    champion, challenger = seen.champion.scores, seen.challenger.scores
    bounds = past.get("bounds")
    if bounds is None:
        bounds = _bounds(champion)
        if not bounds:
            return _learning("scores", champion.total()), past
        pairs = [
            _shares(champion, challenger, bound, up) for bound in bounds for up in (True, False)
        ]
        parts = [_kept(Evidence(champion=a, challenger=b)) for a, b in pairs]
        taught = [champion.total(), challenger.total()]
        return (
            _learning("scores", champion.total()),
            {"bounds": bounds, "parts": parts, "taught": taught},
        )
    taught = past.get("taught") or _trials(_evidence(past["parts"][0]))
    parts = []
    logs: list[float] = []
    compared: list[int] = []
    widest, at = 0.0, bounds[0]
    places = [(bound, up) for bound in bounds for up in (True, False)]
    for (bound, up), kept in zip(places, past["parts"], strict=True):
        a, b = _shares(champion, challenger, bound, up)
        evidence = _evidence(kept).compared(a, b, margin)
        compared += _beyond(evidence, taught)
        parts.append(_kept(evidence))
        logs.append(evidence.log)
        if up and abs(b.share - a.share) > widest:
            widest, at = abs(b.share - a.share), bound
    peak = max(past.get("peak", 0.0), log_mean(logs))
    found = bar.found(peak, compared)
    text = (
        f"the shares of scores below {score_text(at)} differ by {widest:.1%}, "
        f"{margin:.1%} is tolerated"
    )
    finding = Finding(
        condition="scores",
        found=found,
        text=bar.told(found, compared, text),
        test=COMPARED,
        evidence=_value(peak),
        threshold=bar.breach,
        figures={
            "distance": round(widest, 6),
            "bound": score_text(at),
            "tolerated": margin,
            "champion_scores": champion.total(),
            "challenger_scores": challenger.total(),
        },
    )
    return finding, {"bounds": bounds, "parts": parts, "peak": peak, "taught": taught}


def _bounds(champion: Counter[int]) -> list[int]:
    """Bins at whose beginnings shares are compared: quantiles of the champion's scores."""
    total = champion.total()
    if total < LEARN_FROM:
        return []
    bounds: list[int] = []
    below = 0
    for number in sorted(champion):
        wanted = (len(bounds) + 1) * total / (MAX_EDGES + 1)
        if below and below >= wanted and len(bounds) < MAX_EDGES:
            bounds.append(number)
        below += champion[number]
    last = max(champion) + 1
    return bounds or [last]


def _shares(
    champion: Counter[int], challenger: Counter[int], bound: int, up: bool
) -> tuple[Counts, Counts]:
    counts = []
    for histogram in (champion, challenger):
        total = histogram.total()
        below = sum(n for number, n in histogram.items() if number < bound)
        counts.append(Counts(total, below if up else total - below))
    return counts[0], counts[1]


def _disagreement(seen: Seen, past: Document, most: float, bar: Bar) -> tuple[Finding, Document]:
    counts = Counts(seen.challenger.compared, seen.challenger.disagreements)
    evidence = _evidence(past).bounded(counts, most)
    peak = max(past.get("peak", 0.0), evidence.log)
    compared = [counts.trials]
    found = bar.found(peak, compared)
    text = f"{counts.share:.2%} of predictions differ from the champion's, {most:.2%} is tolerated"
    finding = Finding(
        condition="disagreement",
        found=found,
        text=bar.told(found, compared, text),
        test=BOUNDED,
        evidence=_value(peak),
        threshold=bar.breach,
        figures={"compared": counts.trials, "different": counts.hits, "tolerated": most},
    )
    return finding, {**_kept(evidence), "peak": peak}


def _feedback(seen: Seen, past: Document, margin: float, bar: Bar) -> tuple[Finding, Document]:
    if seen.feedback is None or not all(counts.trials for counts in seen.feedback):
        return (
            Finding(
                condition="feedback",
                found="ignored",
                text="there are no labels of both versions' predictions yet",
            ),
            past,
        )
    champion, challenger = seen.feedback
    found, after = _compared(
        "feedback",
        "of its labelled predictions were wrong",
        champion,
        challenger,
        past,
        margin,
        bar,
    )
    if found.found == "short" and past.get("logs"):
        # Labels come when they come: a rollout does not wait for more of them.
        found = found.model_copy(update={"found": "ignored"})
    return found, after


def _alarm(name: str, state: str | None) -> Finding:
    condition = f"alarm {name}"
    if state == "ALARM":
        return Finding(condition=condition, found="breach", text=f"alarm {name} is ringing")
    if state is None:
        return Finding(condition=condition, found="short", text=f"there is no alarm {name}")
    if state == "INSUFFICIENT_DATA":
        return Finding(condition=condition, found="ignored", text=f"alarm {name} has no data")
    return Finding(condition=condition, found="healthy", text=f"alarm {name} is quiet")


def _traffic(plan: RolloutSection, seen: Seen) -> Finding:
    """Whether there is enough to judge by at all."""
    have = min(seen.champion.requests, seen.challenger.requests)
    return Finding(
        condition="traffic",
        found="healthy" if have >= plan.min_requests else "short",
        text=f"{seen.challenger.requests:,} requests of the challenger and "
        f"{seen.champion.requests:,} of the champion, {plan.min_requests:,} of each are needed",
        figures={
            "champion_requests": seen.champion.requests,
            "challenger_requests": seen.challenger.requests,
            "needed": plan.min_requests,
        },
    )


def _compared(
    condition: str,
    what: str,
    champion: Counts,
    challenger: Counts,
    past: Document,
    margin: float,
    bar: Bar,
) -> tuple[Finding, Document]:
    evidence = _evidence(past).compared(champion, challenger, margin)
    peak = max(past.get("peak", 0.0), evidence.log)
    # The first look teaches what the champion's share is: what it counted is no comparison.
    taught = past.get("taught") or _trials(evidence)
    compared = _beyond(evidence, taught)
    found = bar.found(peak, compared)
    text = (
        f"{challenger.share:.2%} {what}, and {champion.share:.2%} of the champion's; "
        f"{margin:.2%} more is tolerated"
    )
    finding = Finding(
        condition=condition,
        found=found,
        text=bar.told(found, compared, text),
        test=COMPARED,
        evidence=_value(peak),
        threshold=bar.breach,
        figures={
            "champion": champion.trials,
            "champion_hits": champion.hits,
            "challenger": challenger.trials,
            "challenger_hits": challenger.hits,
            "tolerated": margin,
        },
    )
    after = {**_kept(evidence), "peak": peak}
    return finding, after | ({"taught": taught} if any(taught) else {})


def _learning(condition: str, have: int) -> Finding:
    """A condition that cannot judge yet: short of what it learns from, unless there is nothing."""
    if not have:
        return Finding(
            condition=condition, found="ignored", text="nothing of it is captured of the champion"
        )
    return Finding(
        condition=condition,
        found="short",
        text=f"{condition}: learns from the champion's first {LEARN_FROM} requests ({have} so far)",
    )


# ── Between looks ───────────────────────────────────────────────────────────────────────────────


def _kept(evidence: Evidence) -> Document:
    return {
        "logs": [round(log, 6) for log in evidence.logs],
        "champion": list(evidence.champion),
        "challenger": list(evidence.challenger),
    }


def _evidence(kept: Document) -> Evidence:
    if not kept.get("logs"):
        return Evidence()
    return Evidence(tuple(kept["logs"]), Counts(*kept["champion"]), Counts(*kept["challenger"]))


def _trials(evidence: Evidence) -> list[int]:
    """Requests of the champion and of the challenger that an e-process has seen."""
    return [evidence.champion.trials, evidence.challenger.trials]


def _beyond(evidence: Evidence, taught: Sequence[int]) -> list[int]:
    """How many it has seen of each since it was taught."""
    return [seen - before for seen, before in zip(_trials(evidence), taught, strict=True)]


def _value(log: float) -> float:
    """An e-value for people, held within what a float and a reader take."""
    return float(f"{math.exp(min(log, 200.0)):.4g}")


__all__ = ["EFFECTS", "Document", "Looked", "Seen", "look", "statistical", "threshold"]
