"""What the API says and reads of monitoring and its alarms."""

from dataclasses import fields
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from millrace.http.models import Reason
from millrace.http.prediction_models import Answer, Request
from millrace.monitoring.document import EpisodeView, Interval, MonitorReport, State
from millrace.monitoring.episode_records import Episode, episode_view
from millrace.monitoring.retraining import Decision
from millrace.monitoring.windows import Summary


class MonitorAnswer(Answer):
    """The report of a window."""

    report: MonitorReport
    report_url: str | None = Field(
        None, description="The report as a page; the link holds for 15 minutes."
    )


class FindingCounts(Answer):
    """Findings of one kind."""

    alarm: int = 0
    watch: int = 0


class MonitorWindow(Answer):
    """A window that was judged; `GET …/monitor?window=` has its whole report."""

    since: datetime
    until: datetime
    version: int
    """The version that was judged."""
    state: State
    reason: str
    """What is worst, or why it was not judged, in words."""
    rows: int
    """Captured rows."""
    requests: int
    """Captured requests."""
    errors: int
    judged_at: datetime
    times: int
    """How often it was judged: again when counts or labels came late."""
    findings: dict[str, FindingCounts]
    """By kind, what moved."""
    metric: str
    """What performance is judged by; empty where it was not looked at."""
    reference: Interval | None
    """Its value on the test split."""
    realised: Interval | None
    """Measured on labels; none where too few came."""
    estimated: Interval | None
    """Estimated without labels; none where it cannot be."""
    sampled: int | None
    """Rows whose labels were looked for; none in windows that an earlier release judged."""
    labelled: int | None
    """How many of them have one."""


class MonitorWindowPage(Answer):
    """Windows of a model, the newest first."""

    items: list[MonitorWindow]
    next_page_token: str | None


class AlarmStep(Answer):
    """Something that happened to an alarm."""

    at: datetime
    event: str
    by: str
    text: str


class AlarmView(EpisodeView):
    """An alarm."""

    model: str
    version: int
    """The version that was found so, last."""
    statistic: str
    against: str
    rows: int
    last_window: datetime
    """Begin of the newest window in which it was found."""
    revision: int


class AlarmTraining(Answer):
    """Whether an alarm started a training, and why, or why not."""

    outcome: Literal["start", "refuse"]
    code: str
    reason: str
    run_id: str


class AlarmDetail(AlarmView):
    """An alarm with its whole history, the oldest first."""

    history: list[AlarmStep]
    training: AlarmTraining | None = Field(
        None, description="What was decided on a training, last; null when nothing was yet."
    )
    report_url: str | None = Field(
        None, description="The report of its newest window; the link holds for 15 minutes."
    )


class AlarmPage(Answer):
    """Alarms of a model, the newest first."""

    items: list[AlarmView]
    next_page_token: str | None


class AlarmDecision(Request):
    """Acknowledges an alarm."""

    reason: Reason = ""


class AlarmSilence(Request):
    """Tells nobody of an alarm for a while."""

    until: datetime = Field(description="When to tell again, if it is still found.")
    reason: Reason = ""


class AlarmWidening(Request):
    """Tolerates more of what an alarm is about, now and later."""

    to: float | None = Field(
        description="The effect up to which nothing rings; null takes a widening back.",
        allow_inf_nan=False,
    )
    reason: Reason = ""


def window_view(window: Summary) -> MonitorWindow:
    """A window as a listing shows it."""
    names = (f.name for f in fields(window) if f.name != "findings")
    return MonitorWindow(
        **{name: getattr(window, name) for name in names},
        findings={kind: FindingCounts(**counts) for kind, counts in window.findings.items()},
    )


def alarm_view(episode: Episode) -> AlarmView:
    """An alarm as a listing shows it."""
    return AlarmView(**_shown(episode))


def alarm_detail(
    episode: Episode, report_url: str | None, decision: Decision | None
) -> AlarmDetail:
    """An alarm with everything about it."""
    return AlarmDetail(
        **_shown(episode),
        history=[AlarmStep(at=s.at, event=s.event, by=s.by, text=s.text) for s in episode.history],
        training=None
        if decision is None
        else AlarmTraining(
            outcome=decision.outcome,
            code=decision.code,
            reason=decision.reason,
            run_id=decision.run_id,
        ),
        report_url=report_url,
    )


def _shown(episode: Episode) -> dict[str, Any]:
    names = ("model", "version", "statistic", "against", "rows", "last_window", "revision")
    return {
        **episode_view(episode).model_dump(),
        **{name: getattr(episode, name) for name in names},
    }
