"""Reports of windows as monitoring makes them, small and valid."""

from datetime import UTC, datetime, timedelta
from typing import Any

from millrace.monitoring.document import FindingView, MonitorReport, Traffic
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
) -> FindingView:
    """What one test said."""
    return FindingView(
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


def traffic(requests: int = 5_000) -> Traffic:
    """Some traffic without errors."""
    return Traffic(
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


def window(number: int = 0, *findings: FindingView, **changes: Any) -> MonitorReport:
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
