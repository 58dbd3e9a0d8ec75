"""Findings and verdicts: what the next window, the API and the command line read of them."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from millrace.monitoring.findings import Finding, Policy, Verdict, worst

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def drift(subject: str, **parts: object) -> Finding:
    """A finding of a feature."""
    made: dict[str, object] = {
        "kind": "feature_drift", "subject": subject, "statistic": "psi", "value": 0.2,
        "effect": 0.15, "p_value": 1e-9, "adjusted_p": 2e-8, "threshold": 0.06,
        "against": "training", "rows": 1_000, "first_seen": NOON, "persisted": 2,
        "verdict": "alarm", "parameters": {"bins": 20, "smoothing": 0.5}, "text": "age moved",
    }  # fmt: skip
    return Finding(**(made | parts))  # type: ignore[arg-type]  # a test's own values


def verdict(*findings: Finding) -> Verdict:
    """A verdict of a day."""
    return Verdict("churn", 3, NOON, NOON + timedelta(days=1), 1_000, "alarm", "why", findings)


def test_a_verdict_survives_its_document() -> None:
    made = verdict(drift("age"), drift("plan", first_seen=None, p_value=None, verdict="ok"))

    document = json.loads(json.dumps(made.to_document()))

    assert Verdict.of_document(document) == made


def test_a_short_document_keeps_what_moved() -> None:
    made = verdict(drift("age"), drift("plan", first_seen=None, verdict="ok"))

    short = Verdict.of_document(made.to_memory(made.moved))

    assert [f.subject for f in short.findings] == ["age"]


def test_what_changed_first_comes_first() -> None:
    made = verdict(
        drift("late"),
        drift("early", first_seen=NOON - timedelta(days=2), effect=0.06),
        drift("late-and-larger", effect=0.5),
        drift("still", first_seen=None, verdict="ok"),
    )

    assert [f.subject for f in made.moved] == ["early", "late-and-larger", "late"]


def test_a_widened_threshold_holds_for_its_subject_before_its_kind() -> None:
    policy = Policy(thresholds={"feature_drift:age": 0.4, "feature_drift": 0.2})

    assert policy.least("feature_drift", "age") == 0.4
    assert policy.least("feature_drift", "plan") == 0.2
    assert policy.least("score_drift", "scores") == policy.min_drift
    assert policy.least("missing", "age") == policy.min_share


def test_the_worst_state_leads() -> None:
    assert worst(["ok", "watch", "unknown"]) == "watch"
    assert worst(["ok", "alarm", "watch"]) == "alarm"
    assert worst([]) == "unknown"


def test_findings_are_read_without_numpy() -> None:
    code = "import sys, millrace.monitoring.findings; print('numpy' in sys.modules)"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "False"
