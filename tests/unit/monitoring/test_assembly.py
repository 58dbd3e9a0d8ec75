"""From counts, baseline, verdict and measured performance to the document that is shown."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from scipy.stats import binomtest

from millrace.monitoring.assembly import (
    NEVER_SEEN,
    OTHERS,
    Seen,
    actions_of,
    assemble,
    percentile,
    wilson,
)
from millrace.monitoring.baseline import (
    Baseline,
    ScoreBaseline,
)
from millrace.monitoring.counting import latency_bin
from millrace.monitoring.document import State
from millrace.monitoring.findings import Finding, Verdict
from millrace.monitoring.hours import FeatureCounts, HourCounts, WindowCounts
from millrace.monitoring.report import render
from millrace.registry.records import AuditEntry
from millrace.spec import Task
from tests.fakes import baselines

START = datetime(2026, 11, 2, tzinfo=UTC)
UNTIL = START + timedelta(hours=6)


@dataclass(frozen=True)
class Range:
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Metric:
    metric: str = "roc_auc"
    higher_is_better: bool = True
    reference: Range = Range(0.9, 0.88, 0.92)
    threshold_low: float | None = 0.87
    threshold_high: float | None = None
    realised: Range | None = Range(0.89, 0.86, 0.91)
    rows_labelled: int = 400
    verdict: State = "ok"
    estimated: Range | None = Range(0.85)
    rows: int = 1_000
    estimated_verdict: State = "watch"
    caveat: str = "it cannot see"


@dataclass(frozen=True)
class Performance:
    since: datetime = START
    until: datetime = UNTIL
    metrics: tuple[Metric, ...] = (Metric(),)
    segments: tuple[Any, ...] = ()
    rows: int = 1_000
    labelled: int = 400
    warnings: tuple[str, ...] = ("Labels are of a part.",)


def baseline() -> Baseline:
    return baselines.baseline(
        baselines.number("age", (48, 48), edges=(18, 30, 90), missing=4, mean=40, std=9),
        baselines.text("plan", {"a": 60, "b": 30}, other=10, rest=("c",)),
        baselines.private("email", missing=2),
        scores=ScoreBaseline(edges=(0, 0.5, 1), counts=(70, 30), mean=0.4, std=0.2),
        classes=("no", "yes"),
        predicted=(70, 30),
    )


def window(since: datetime = START, version: int = 3) -> WindowCounts:
    return WindowCounts(
        model="churn",
        version=version,
        since=since,
        until=since + timedelta(hours=6),
        requests=1_000,
        rows=1_100,
        errors=20,
        weighed=2_000.0,
        missing_lines=3,
        latency=Counter({latency_bin(5.0): 900, latency_bin(50.0): 100}),
        features={
            "age": FeatureCounts(rows=1_100, missing=50, below=1, above=2, bins=Counter({0: 900})),
            "plan": FeatureCounts(rows=1_100, unseen=7, other=93, bins=Counter({0: 500, 1: 500})),
        },
        scores=FeatureCounts(rows=1_100, bins=Counter({0: 600, 1: 500})),
        classes=Counter({"no": 600, "yes": 500}),
        hours={
            since + timedelta(hours=h): HourCounts(since + timedelta(hours=h), 100 * (h + 1), 0, h)
            for h in (1, 0)
        },
    )


@dataclass
class Case:
    """A window of a version with one number and one text."""

    baseline: Baseline = field(default_factory=baseline)
    window: WindowCounts = field(default_factory=window)

    def seen(self, *findings: Finding, **changes: Any) -> Seen:
        """What was found of it."""
        verdict = Verdict("churn", 3, START, UNTIL, self.window.rows, "ok", "", findings)
        return Seen(
            **{
                "model": "churn",
                "task": Task.BINARY,
                "stage": "dev",
                "window": self.window,
                "verdict": verdict,
                "baseline": self.baseline,
                "made_at": UNTIL,
                **changes,
            }
        )


def test_counts_become_distributions_beside_training_and_last_week() -> None:
    case = Case()

    report = assemble(case.seen(last_week=window(START - timedelta(days=7))))

    age, plan, email = report.features
    assert age.distribution is not None
    assert age.distribution.window == (900, 0)
    assert age.distribution.training == (48, 48)
    assert age.distribution.last_week == (900, 0)
    assert (age.missing, age.missing_training, age.below, age.above) == (50, 0.04, 1, 2)
    assert plan.distribution is not None
    assert plan.distribution.categories == ("a", "b", OTHERS, NEVER_SEEN)
    assert plan.distribution.window == (500, 500, 93, 7)
    assert plan.distribution.training == (60, 30, 10, 0)
    assert (email.kind, email.distribution) == ("private", None)
    assert report.score_name == "probability of yes"
    assert report.classes is not None
    assert report.classes.window == (600, 500)
    assert "churn" in render(report)


def test_traffic_is_of_every_version_and_of_what_was_not_captured_too() -> None:
    challenger = window(version=4)

    traffic = assemble(Case().seen(others=[(challenger, "challenger")])).traffic

    assert (traffic.requests, traffic.captured, traffic.errors) == (4_000, 2_000, 40)
    assert traffic.lost == 3
    assert [(v.version, v.role, v.requests) for v in traffic.versions] == [
        (3, "champion", 2_000),
        (4, "challenger", 2_000),
    ]
    assert [(h.at, h.requests, h.errors) for h in traffic.hours] == [
        (START, 400, 0),
        (START + timedelta(hours=1), 800, 2),
    ]
    assert traffic.error_rate is not None
    assert traffic.error_rate.value == pytest.approx(40 / 4_040)


def test_findings_go_to_their_features_the_worst_first() -> None:
    found = Finding("feature_drift", "age", "psi", 0.3, 0.29, against="training", verdict="alarm")
    calm = Finding("missing", "plan", "difference", 0.0, verdict="ok")

    report = assemble(Case().seen(calm, found))

    assert [f.subject for f in report.findings] == ["age", "plan"]
    assert [(f.name, f.verdict) for f in report.features] == [
        ("age", "alarm"),
        ("plan", "ok"),
        ("email", "unknown"),
    ]


def test_what_changed_first_is_told_once_and_not_of_last_week() -> None:
    def moved(subject: str, hours: int, against: Any = "training") -> Finding:
        return Finding(
            "feature_drift",
            subject,
            "psi",
            0.3,
            0.3,
            against=against,
            first_seen=START - timedelta(hours=hours),
            persisted=2,
            verdict="watch",
        )

    report = assemble(
        Case().seen(moved("plan", 6), moved("age", 12), moved("age", 99, "last_week"))
    )

    assert [(c.subject, c.at) for c in report.changes] == [
        ("age", START - timedelta(hours=12)),
        ("plan", START - timedelta(hours=6)),
    ]


def test_a_refused_window_says_why() -> None:
    case = Case()
    refused = Verdict("churn", 3, START, UNTIL, 12, "unknown", "12 rows were captured")

    report = assemble(case.seen(verdict=refused))

    assert (report.state, report.refused) == ("unknown", "12 rows were captured")


def test_performance_goes_on_from_the_report_before_and_takes_the_place_of_itself() -> None:
    case = Case()
    earlier = Performance(START - timedelta(hours=6), START)
    first = assemble(case.seen(performance=earlier))
    second = assemble(case.seen(performance=Performance(), before=first))
    better = Performance(metrics=(Metric(realised=None),))

    again = assemble(case.seen(performance=better, before=second))

    assert [p.since for p in second.performance[0].points] == [START - timedelta(hours=6), START]
    assert [p.realised is None for p in again.performance[0].points] == [False, True]
    assert again.performance[0].points[-1].verdict == "watch"
    assert again.labels is not None
    assert again.labels.warning == "Labels are of a part."


def test_a_version_without_a_baseline_shows_its_traffic() -> None:
    report = assemble(Case().seen(baseline=None))

    assert report.features == ()
    assert report.scores is None
    assert report.traffic.requests == 2_000
    assert "this version has no baseline" in render(report)


def test_percentiles_lie_within_their_bin() -> None:
    latency = Counter({latency_bin(5.0): 900, latency_bin(50.0): 100})

    assert percentile(latency, 0.5) == pytest.approx(5.0, rel=0.19)
    assert percentile(latency, 0.95) == pytest.approx(50.0, rel=0.19)
    assert percentile(Counter(), 0.5) is None


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (3, 10), (61, 38_265), (10, 10)])
def test_the_interval_of_a_share_is_wilsons(hits: int, total: int) -> None:
    expected = binomtest(hits, total).proportion_ci(method="wilson")

    found = wilson(hits, total)

    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-5)
    assert wilson(0, 0) is None


def test_the_ledger_tells_what_was_done() -> None:
    def entry(action: str, actor: str = "monitor", **changes: Any) -> AuditEntry:
        return AuditEntry(
            **{
                "model": "churn",
                "at": START,
                "entry_id": "e",
                "actor": actor,
                "action": action,
                "subject": "churn@3",
                **changes,
            }
        )

    facts = {"kind": "feature_drift", "subject": "age"}

    done = actions_of(
        [
            entry("promoted"),
            entry("spec_applied"),
            entry("alarm_opened", facts=facts),
            entry("alarm_silenced", "user:ann", facts=facts, reason="a campaign"),
            entry("run_created", subject="churn-1", reason="ROC AUC fell"),
        ]
    )

    assert [(a.kind, a.text, a.by) for a in done] == [
        ("promotion", "churn@3 became champion", "monitor"),
        ("episode", "Alarm opened: feature drift of age", "monitor"),
        ("person", "Alarm silenced: feature drift of age (a campaign)", "user:ann"),
        ("retraining", "A training began (ROC AUC fell)", "monitor"),
    ]
