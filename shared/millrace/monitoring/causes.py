"""What an alarm most likely means and what to do about it, in words for people.

Rules over what the window's report shows besides: they name the usual cause, and never claim more.
"""

from typing import Final

from millrace.monitoring.document import MonitorFinding, MonitorReport

_MANY: Final = 3
"""Features that moved together, from which on the population is more likely than one source."""

_RUNBOOK: Final = "docs/monitoring.md"

MEANING: Final[dict[str, str]] = {
    "feature_drift": "Drift of a feature",
    "score_drift": "Drift of the scores",
    "class_drift": "Drift of the predicted classes",
    "multivariate": "Drift of the inputs together",
    "missing": "Missing values",
    "unseen": "Unseen categories",
    "range": "Values out of range",
    "performance": "Performance",
    "estimated_performance": "Estimated performance",
    "fairness": "Fairness",
    "errors": "Errors",
    "latency": "Latency",
    "capture_gap": "Lost captured predictions",
}
"""Kinds of findings, as headings."""


def runbook(kind: str) -> str:
    """Where the page about a kind of alarm is."""
    return f"{_RUNBOOK}#{MEANING[kind].lower().replace(' ', '-')}"


def likely_cause(finding: MonitorFinding, report: MonitorReport) -> str:
    """The usual cause of such a finding, given what else was found in the window."""
    moved = _moved(report)
    changed = _changed_version(report)
    match finding.kind:
        case "missing":
            return (
                f"whoever sends {finding.subject} stopped filling it in, or renamed it: "
                "missing values do not rise by themselves"
            )
        case "unseen":
            return (
                f"{finding.subject} has new values at its source, or writes the old ones "
                "differently (case, language, codes)"
            )
        case "range":
            return (
                f"{finding.subject} changed its unit or scale at its source, or the population "
                "reaches further than the training's"
            )
        case "feature_drift" if len(moved) >= _MANY:
            return (
                f"{len(moved)} features moved together: more likely another population (a season, "
                "a campaign, a new market) than one broken source"
            )
        case "feature_drift":
            return (
                f"{finding.subject} moved while most features did not: its source or its encoding "
                "changed, or one group of callers grew"
            )
        case "score_drift" | "class_drift" | "multivariate":
            if changed:
                return f"{changed}; a new version scores differently by itself"
            if moved:
                return f"the inputs moved: {_listed(moved)}"
            return (
                "no single input moved far enough to be named: their mix changed, or callers ask "
                "about other cases than before"
            )
        case "performance" | "estimated_performance" | "fairness":
            if changed:
                return f"{changed}; compare it with the version before"
            if moved:
                return f"the inputs moved to where the model is weaker: {_listed(moved)}"
            if finding.kind == "estimated_performance":
                return "the model is less sure of its answers than on its test rows"
            return (
                "the inputs did not move, so the relation between inputs and outcome changed "
                "(concept drift), or the labels did"
            )
        case "errors":
            return (
                changed or "a service behind the predictions failed; callers' mistakes do not count"
            )
        case "latency":
            return changed or "larger requests, or fewer warm functions than the traffic needs"
        case "capture_gap":
            return (
                "lines of the log did not arrive: the log subscription or the capture function "
                "failed, or lines were dropped under load"
            )
        case _:
            return ""


def next_step(finding: MonitorFinding, report: MonitorReport) -> str:
    """What a person does about it first, as a command where there is one."""
    model, subject = report.model, finding.subject
    match finding.kind:
        case "missing" | "unseen" | "range":
            return (
                f"look at the source of {subject} before anything else: a retraining would learn "
                f"the fault; millrace monitor {model} shows since when"
            )
        case "feature_drift" | "multivariate" | "class_drift":
            return (
                "drift alone is no reason to retrain: look whether performance follows; "
                f"millrace monitor {model}. If it is meant to be so: millrace alarms {model} widen"
            )
        case "score_drift":
            return (
                f"compare performance, measured or estimated: millrace monitor {model}; send labels "
                "if none came: millrace feedback"
            )
        case "performance":
            return (
                f"Millrace retrains if the spec says so (retrain.on_drift); by hand: millrace "
                f'retrain {model} --why "{subject} fell"; back to the version before: millrace '
                f"rollback {model}"
            )
        case "estimated_performance":
            return (
                "an estimate is no proof: send labels of this window (millrace feedback), then "
                f'decide; by hand: millrace retrain {model} --why "…"'
            )
        case "fairness":
            return (
                f"look at the groups: millrace monitor {model}; stop a harm first: millrace "
                f"rollback {model}; then train with gates on the groups (evaluate.gates)"
            )
        case "errors" | "latency":
            return (
                f"look at the predict function's log by version; millrace rollback {model} if it "
                "began with a version"
            )
        case "capture_gap":
            return "look at the dead letters: millrace dlq list; answers are not affected"
        case _:
            return f"millrace monitor {model}"


def _moved(report: MonitorReport) -> tuple[str, ...]:
    """Features that drifted in the window, the furthest first."""
    found = {
        f.subject: abs(f.effect or 0.0)
        for f in report.findings
        if f.kind == "feature_drift" and f.verdict in ("watch", "alarm")
    }
    return tuple(sorted(found, key=lambda name: -found[name]))


def _changed_version(report: MonitorReport) -> str:
    """The promotion or rollout of the window, if there was one."""
    for action in report.actions:
        if action.kind in ("promotion", "rollback", "rollout") and action.at >= report.since:
            return f"{action.text} ({action.at:%Y-%m-%d %H:%M} UTC)"
    return ""


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MANY])
    return shown if len(names) <= _MANY else f"{shown} and {len(names) - _MANY} more"
