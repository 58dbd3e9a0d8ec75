"""Reports of windows as monitoring makes them, small and valid."""

from datetime import UTC, datetime, timedelta
from typing import Any

from millrace.monitoring.document import (
    Action,
    Cost,
    CostLine,
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
    VersionTraffic,
)
from millrace.spec import Task

START = datetime(2026, 11, 1, tzinfo=UTC)
WINDOW = timedelta(hours=6)


def finding(
    kind: str = "feature_drift",
    subject: str = "age",
    verdict: Any = "alarm",
    *,
    effect: float | None = 0.31,
    **figures: Any,
) -> MonitorFinding:
    """What one test said."""
    return MonitorFinding(
        **{
            "kind": kind,
            "subject": subject,
            "statistic": "psi",
            "value": None if effect is None else effect + 0.01,
            "effect": effect,
            "p_value": 1e-6,
            "adjusted_p": 1e-5,
            "threshold": 0.06,
            "against": "training",
            "rows": 5_000,
            "first_seen": START,
            "persisted": 2,
            "verdict": verdict,
            "text": f"{subject} moved",
            **figures,
        }
    )


def traffic(requests: int = 5_000) -> MonitorTraffic:
    """Some traffic without errors."""
    return MonitorTraffic(
        requests=requests,
        rows=requests,
        errors=0,
        error_rate=None,
        p50_ms=4.0,
        p95_ms=9.0,
        p99_ms=14.0,
        captured=requests,
        lost=0,
    )


def window(number: int = 0, *findings: MonitorFinding, **changes: Any) -> MonitorReport:
    """The report of a model's window, by number."""
    since = START + number * WINDOW
    return MonitorReport(
        **{
            "model": "churn",
            "version": 3,
            "task": Task.BINARY,
            "stage": "dev",
            "since": since,
            "until": since + WINDOW,
            "made_at": since + WINDOW + timedelta(minutes=5),
            "state": "ok",
            "summary": "",
            "traffic": traffic(),
            "findings": findings,
            **changes,
        }
    )


# ── A whole report ──────────────────────────────────────────────────────────────────────────────


def drifted(name: str = "", **changes: Any) -> MonitorReport:
    """A report with everything in it, of a model whose income drifted and whose AUC fell.

    Args:
        name: Put into every place that a user chooses a name for.
        changes: Of the report.
    """
    until = START + 40 * WINDOW
    since = until - WINDOW
    age, income = name or "age", f"{name}income"
    moved = finding(
        subject=income,
        effect=0.42,
        text=f"{income} moved by 0.42: its upper tenth holds 31.0% of the rows, 10.0% in training.",
        first_seen=since - 2 * WINDOW,
        persisted=3,
        parameters={"binning": "quantile, 10 bins", "least": 0.05},
    )
    week = finding(subject=income, effect=0.2, against="last_week", verdict="watch", text="")
    calm = finding(subject=age, verdict="ok", effect=0.004, text="", parameters={"least": 0.05})
    region = finding(subject="region", verdict="watch", effect=0.09, text="region moved by 0.09.")
    missing = finding("missing", income, "watch", effect=0.03, text="3.0% more are missing.")
    fell = finding(
        "performance",
        "roc_auc",
        statistic="difference",
        effect=0.011,
        value=0.9598,
        threshold=0.964,
        against="training",
        text="ROC AUC is 0.960 where 0.964 to 0.976 is expected.",
        first_seen=since - WINDOW,
    )
    scores = finding("score_drift", "scores", "watch", effect=0.06, text="Scores moved by 0.06.")
    hours = tuple(
        HourPoint(
            at=since - timedelta(hours=42) + timedelta(hours=h),
            requests=500 + 300 * (h % 24 > 7) + 17 * (h % 7),
            errors=40 if h == 30 else h % 3,
            p95_ms=9.0 + h % 5,
        )
        for h in range(48)
    )
    points = tuple(
        PerformancePoint(
            since=START + n * WINDOW,
            until=START + (n + 1) * WINDOW,
            rows=5_000,
            labelled=2_000 if n < 38 else 0,
            realised=Interval(value=v, low=v - 0.004, high=v + 0.004) if n < 38 else None,
            estimated=Interval(value=v + 0.003, low=v - 0.002, high=v + 0.008),
            verdict="alarm" if n in (36, 37) else "ok",
        )
        for n, v in (
            (n, 0.970 - (0.010 if n > 35 else 0.0) + 0.0012 * (n % 3)) for n in range(20, 40)
        )
    )
    return MonitorReport(
        **{
            "model": "churn",
            "version": 3,
            "task": Task.BINARY,
            "stage": "prod",
            "since": since,
            "until": until,
            "made_at": until + timedelta(minutes=5),
            "state": "alarm",
            "summary": "",
            "baseline_run": "churn-2b5a91a37b3dc9dbb236dc85",
            "baseline_rows": 12_400,
            "traffic": MonitorTraffic(
                requests=38_204,
                rows=41_910,
                errors=61,
                error_rate=Interval(value=0.0016, low=0.0012, high=0.002),
                p50_ms=3.9,
                p95_ms=9.6,
                p99_ms=21.5,
                captured=38_190,
                lost=14,
                last_week=35_120,
                hours=hours,
                versions=(
                    VersionTraffic(
                        version=3, role="champion", requests=36_300, errors=40, p95_ms=9.5
                    ),
                    VersionTraffic(
                        version=4, role="challenger", requests=1_904, errors=21, p95_ms=9.9
                    ),
                ),
            ),
            "cost": Cost(
                window=0.213,
                per_thousand_predictions=0.0056,
                month_to_date=8.41,
                last_training=0.094,
                monthly_budget=20.0,
                budget_state="within",
                lines=(
                    CostLine(name="Predictions", amount=0.151),
                    CostLine(name="Capture and monitoring", amount=0.044),
                    CostLine(name="Storage", amount=0.018),
                ),
                prices_of="2026-11-01",
            ),
            "scores": Distribution(
                edges=(0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
                window=(900, 1_400, 2_000, 1_500, 1_000, 700),
                training=(1_200, 1_500, 2_000, 1_300, 800, 500),
                last_week=(1_150, 1_480, 2_050, 1_350, 830, 520),
            ),
            "score_name": f"probability of {name or 'true'}",
            "classes": Distribution(
                categories=(f"{name}false", f"{name}true"),
                window=(5_100, 2_400),
                training=(5_700, 1_600),
            ),
            "features": (
                Feature(
                    name=age,
                    kind="numeric",
                    rows=7_500,
                    missing=31,
                    missing_training=0.004,
                    below=0,
                    above=2,
                    distribution=Distribution(
                        edges=(18, 25, 31, 38, 46, 57, 91),
                        window=(1_250, 1_240, 1_260, 1_250, 1_240, 1_229),
                        training=(2_066, 2_067, 2_067, 2_067, 2_067, 2_066),
                        last_week=(1_100, 1_120, 1_110, 1_090, 1_105, 1_100),
                    ),
                    findings=(calm,),
                    verdict="ok",
                ),
                Feature(
                    name=income,
                    kind="numeric",
                    rows=7_500,
                    missing=240,
                    missing_training=0.002,
                    below=11,
                    above=420,
                    distribution=Distribution(
                        edges=(0, 12_000, 19_500, 26_000, 34_000, 52_000, 240_000),
                        window=(600, 700, 900, 1_100, 1_700, 2_260),
                        training=(2_066, 2_067, 2_067, 2_067, 2_067, 2_066),
                        last_week=(900, 1_000, 1_100, 1_200, 1_400, 1_660),
                    ),
                    findings=(moved, week, missing),
                    verdict="alarm",
                ),
                Feature(
                    name="region",
                    kind="categorical",
                    rows=7_500,
                    missing=0,
                    missing_training=0.0,
                    unseen=75,
                    distribution=Distribution(
                        categories=(f"{name}north", "south", "east", "west", "(others)"),
                        window=(3_300, 1_900, 1_200, 900, 200),
                        training=(4_000, 4_100, 2_200, 1_900, 200),
                        last_week=(1_700, 1_500, 900, 700, 90),
                    ),
                    findings=(region,),
                    verdict="watch",
                ),
                Feature(
                    name="email",
                    kind="private",
                    rows=0,
                    missing=0,
                    missing_training=0.01,
                    verdict="unknown",
                ),
            ),
            "findings": (moved, fell, week, region, missing, scores, calm),
            "performance": (
                MetricSeries(
                    metric="roc_auc",
                    higher_is_better=True,
                    reference=Interval(value=0.970, low=0.966, high=0.974),
                    threshold_low=0.964,
                    threshold_high=0.976,
                    points=points,
                    caveat="The estimate assumes that the relation between inputs and outcome is "
                    "that of training; it cannot see it change. Only labels can.",
                ),
            ),
            "labels": LabelCoverage(
                rows=7_500,
                labelled=2_000,
                warning="Labelled rows have higher scores than the others (PSI 0.21): what is "
                "measured may not hold for all.",
            ),
            "segments": (
                SegmentTable(
                    column="region",
                    metric="roc_auc",
                    gate=True,
                    segments=(
                        Segment(
                            value=f"{name}north",
                            rows=3_300,
                            labelled=900,
                            realised=Interval(value=0.941, low=0.93, high=0.952),
                            estimated=Interval(value=0.955, low=0.949, high=0.961),
                            reference=0.968,
                            verdict="alarm",
                        ),
                        Segment(
                            value="south",
                            rows=1_900,
                            labelled=600,
                            realised=Interval(value=0.969, low=0.956, high=0.98),
                            estimated=None,
                            reference=0.971,
                            verdict="ok",
                        ),
                    ),
                    gap=0.028,
                    hidden=2,
                ),
            ),
            "changes": (
                MonitorChange(
                    at=since - 2 * WINDOW,
                    kind="feature_drift",
                    subject=income,
                    text="moved by 0.42 against training",
                    verdict="alarm",
                ),
                MonitorChange(
                    at=since - WINDOW,
                    kind="performance",
                    subject="roc_auc",
                    text="0.960 where 0.964 to 0.976 is expected",
                    verdict="alarm",
                ),
            ),
            "actions": (
                Action(
                    at=since,
                    kind="retraining",
                    text="Retraining started with 21,400 labelled rows",
                    by="monitor",
                    reference="churn-9c0d1a",
                ),
                Action(
                    at=since - WINDOW,
                    kind="episode",
                    text=f"Alarm opened: drift of {income}",
                    by="monitor",
                ),
            ),
            **changes,
        }
    )
