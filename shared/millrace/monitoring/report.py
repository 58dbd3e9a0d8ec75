"""The monitoring report: one HTML file per window that needs nothing else, and its JSON beside it.

`conclude` ends the look at a window: alarms open, go on or close; the report is written with them, as
the window's and as the newest; and people are told what is new. Repeated, it writes the same objects,
moves no alarm twice, and tells only what was not told yet.

Column names, categories and reasons are user input: the template escapes everything, and the page's
own policy forbids scripts and external resources.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import jinja2

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.aws.sns import Notice, Notifier
from millrace.errors import ArtifactError
from millrace.evaluation import report as evaluation_report
from millrace.evaluation.wording import number
from millrace.monitoring import figures
from millrace.monitoring.archive import latest, of_window
from millrace.monitoring.causes import MEANING, runbook
from millrace.monitoring.document import (
    Distribution,
    Feature,
    Interval,
    MetricSeries,
    MonitorFinding,
    MonitorReport,
    State,
)
from millrace.monitoring.episode_records import Episode, Untold, episode_view
from millrace.monitoring.episodes import CLEAR_WINDOWS, Episodes, Observed
from millrace.observability import METRICS, count, logger

MAX_MOVED: Final = 12
"""Features that moved which are drawn open; the rest of them are drawn folded."""
MAX_DRAWN: Final = 60
_MAX_TOLD: Final = 5
_WORST: Final[tuple[State, ...]] = ("alarm", "watch", "unknown", "ok")
_QUALITY: Final = frozenset({"missing", "unseen", "range"})
_HTML: Final = "text/html; charset=utf-8"

_STATES: Final = {
    "ok": "As expected",
    "watch": "Something moved",
    "alarm": "Needs attention",
    "unknown": "Too little to say",
}
_SIGNS: Final = {"ok": "✓", "watch": "△", "alarm": "✗", "unknown": "…"}
_WORDS: Final = {"ok": "as expected", "watch": "watch", "alarm": "alarm", "unknown": "unknown"}
_BUDGET: Final = {
    "none": "",
    "within": "within the budget.",
    "warned": "close to the budget.",
    "exhausted": "the budget is used up, and Millrace starts no retraining; predictions go on.",
}


class _Headline(NamedTuple):
    """The first metric's newest value."""

    metric: str
    now: Interval
    how: str
    reference: Interval | None

    @property
    def low(self) -> float | None:
        """Of the interval."""
        return self.now.low


# ── Concluding a window ─────────────────────────────────────────────────────────────────────────


def conclude(
    report: MonitorReport,
    *,
    episodes: Episodes,
    objects: ObjectStore,
    bucket: str,
    notifier: Notifier,
    link: Callable[[str], str],
    docs: str = "",
    clear_windows: int = CLEAR_WINDOWS,
) -> tuple[MonitorReport, Observed]:
    """Moves the alarms by a window's report, writes it, and tells people what is new.

    Idempotent by model and window.

    Args:
        report: What was found; its episodes are filled in.
        episodes: The alarms.
        objects: Where the artifact bucket is written.
        bucket: The artifact bucket.
        notifier: Tells people.
        link: The address of a report by its key.
        docs: Where people read the repository; empty leaves runbooks paths of it.
        clear_windows: Windows in a row without the finding that end an alarm.

    Returns:
        The report as it was written, and what the alarms came to.
    """
    observed = episodes.observe(report, clear_windows=clear_windows)
    written = with_episodes(report, _shown(report, observed, episodes))
    key = write(written, objects=objects, bucket=bucket)
    for news, _ in observed.untold:
        count(
            METRICS.ALARMS_CLOSED if news == "closed" else METRICS.ALARMS_OPENED, model=report.model
        )
    if observed.untold:
        notifier.notify(notice_of(written, observed.untold, link(key), docs))
        episodes.told(report.model, observed.untold)
    return written, observed


def rewrite(report: MonitorReport, *, objects: ObjectStore, bucket: str) -> MonitorReport:
    """Writes the report of a window anew that an earlier champion was judged in.

    More is known of it now, as when its labels came. Its alarms stay as they were told then.

    Returns:
        The report as it was written.
    """
    before = readable(
        partial(of_window, report.model, report.since, objects=objects, bucket=bucket)
    )
    told = report.model_copy(update={"episodes": () if before is None else before.episodes})
    written = told.model_copy(update={"summary": summary_of(told)})
    write(written, objects=objects, bucket=bucket)
    return written


def readable(read: Callable[[], MonitorReport | None]) -> MonitorReport | None:
    """A stored report; None when there is none that this version reads: a new one takes its place."""
    try:
        return read()
    except ArtifactError:
        logger.exception("stored monitoring report cannot be read")
        return None


def _shown(report: MonitorReport, observed: Observed, episodes: Episodes) -> tuple[Episode, ...]:
    """Open alarms, and those that closed within the last days: the newest page of them."""
    known = {e.id: e for e in episodes.list_episodes(report.model, limit=100).items}
    known |= {e.id: e for e in observed.episodes}
    recent = [
        e for e in known.values() if e.closed_at is None or (report.made_at - e.closed_at).days < 30
    ]
    return tuple(sorted(recent, key=lambda e: (e.closed_at is not None, e.id), reverse=False))


def with_episodes(report: MonitorReport, episodes: Sequence[Episode]) -> MonitorReport:
    """The report with its alarms, and the state that follows of both.

    An alarm that a person acknowledged, silenced or widened is still one; a window in which it is
    not found any more, and which does not end it yet, is to be watched.
    """
    views = tuple(episode_view(e) for e in episodes)
    state: State = report.state
    if state == "ok" and any(v.state != "closed" for v in views):
        state = "watch"
    said = report.model_copy(update={"episodes": views, "state": state})
    return said if report.summary else said.model_copy(update={"summary": summary_of(said)})


def write(report: MonitorReport, *, objects: ObjectStore, bucket: str) -> str:
    """Writes a window's report, and as the newest one if none is newer.

    What an older window says, now that more labels came, goes into the newest report too.

    Returns:
        The key of the window's page.
    """
    _put(report, objects, bucket)
    newest = readable(partial(latest, report.model, objects=objects, bucket=bucket))
    if newest is not None and newest.since > report.since:
        completed = with_performance_of(newest, report)
        if completed != newest:
            _put(completed, objects, bucket)
            _put(completed, objects, bucket, as_newest=True)
    else:
        _put(report, objects, bucket, as_newest=True)
    return layout.monitor_report_key(report.model, report.since, "html")


def _put(
    report: MonitorReport, objects: ObjectStore, bucket: str, *, as_newest: bool = False
) -> None:
    def key(form: Literal["json", "html"]) -> str:
        if as_newest:
            return layout.latest_monitor_report_key(report.model, form)
        return layout.monitor_report_key(report.model, report.since, form)

    # The page first: whoever finds the document finds its page.
    objects.write(bucket, key("html"), render(report).encode(), content_type=_HTML)
    body = report.model_dump_json().encode()
    objects.write(bucket, key("json"), body, content_type="application/json")


def with_performance_of(newest: MonitorReport, older: MonitorReport) -> MonitorReport:
    """A newer report with what an older window says now that more labels came."""
    told = {s.metric: {p.since: p for p in s.points} for s in older.performance}
    series = tuple(
        s.model_copy(
            update={"points": tuple(told.get(s.metric, {}).get(p.since, p) for p in s.points)}
        )
        for s in newest.performance
    )
    return newest.model_copy(update={"performance": series})


# ── In words ────────────────────────────────────────────────────────────────────────────────────


def summary_of(report: MonitorReport) -> str:
    """One sentence: how the model is."""
    open_ones = [e for e in report.episodes if e.state != "closed"]
    found = headline_of(report)
    at = (
        "" if found is None else f"{named(found.metric)} is {number(found.now.value)} ({found.how})"
    )
    if report.state == "unknown":
        return "Too little was asked in this window to judge the model."
    if open_ones:
        first = open_ones[0]
        more = f" and {len(open_ones) - 1} more" if len(open_ones) > 1 else ""
        said = f"{MEANING[first.kind]} of {named(first.subject)}{more}." if more else ""
        said = said or f"{MEANING[first.kind]}: {named(first.subject)}."
        return f"{said} {at[:1].upper() + at[1:] + '.' if at else ''}".rstrip()
    moved = [f for f in report.findings if f.verdict in ("alarm", "watch")]
    if moved:
        return (
            f"{len({f.subject for f in moved})} of what is compared moved, and none by enough, or "
            f"for long enough, to ring.{' ' + at + '.' if at else ''}"
        )
    return f"Inputs and answers are as in training.{' ' + at + '.' if at else ''}"


def notice_of(
    report: MonitorReport, untold: Sequence[tuple[Untold, Episode]], address: str, docs: str = ""
) -> Notice:
    """One notice of all that is new in a window: the worst in full, the others by name."""
    news, first = untold[0]
    others = [f"{MEANING[e.kind]}: {named(e.subject)} ({what})" for what, e in untold[1:]]
    said = {"opened": "rings", "woken": "rings again", "closed": "is over"}[news]
    more = f", and {len(others)} more" if others else ""
    facts: dict[str, Any] = {
        "alarm": first.id,
        "kind": first.kind,
        "of": named(first.subject),
        "version": first.version,
        "window": f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC",
    }
    if news != "closed":
        facts |= {
            "effect": _rounded(first.effect),
            "value": _rounded(first.value),
            "counts_from": _rounded(first.threshold),
            "rows": first.rows,
            "windows": first.windows,
            "distribution": _distribution_of(report, first),
            "likely_cause": first.likely_cause,
        }
    if others:
        rest = f" and {len(others) - _MAX_TOLD} more" if len(others) > _MAX_TOLD else ""
        facts["also"] = "; ".join(others[:_MAX_TOLD]) + rest
    facts |= {
        "performance": _performance_of(report),
        "report": address,
        "runbook": docs + runbook(first.kind),
    }
    return Notice(
        model=report.model,
        event=f"alarm_{news}",
        subject=f"{report.model}: {MEANING[first.kind].lower()} of {named(first.subject)} {said}{more}",
        details={name: value for name, value in facts.items() if value not in (None, "")},
        why=first.text if news != "closed" else first.history[-1].text,
        next_step=first.next_step
        if news != "closed"
        else f"nothing: it closed by itself; millrace alarms {report.model} --all has its history",
    )


def _distribution_of(report: MonitorReport, episode: Episode) -> str:
    """What moved, in shares of rows: the bins that gained and lost most."""
    data = {
        "score_drift": report.scores,
        "class_drift": report.classes,
    }.get(episode.kind)
    feature = next((f for f in report.features if f.name == episode.subject), None)
    if feature is not None:
        if episode.kind == "missing" and feature.rows and feature.missing_training is not None:
            return f"missing: {feature.missing_training:.1%} → {feature.missing / feature.rows:.1%}"
        if episode.kind == "unseen" and feature.rows:
            return f"unseen categories: {feature.unseen / feature.rows:.1%} of the rows"
        if episode.kind == "range" and feature.rows:
            return (
                f"below training: {feature.below / feature.rows:.1%}, above: "
                f"{feature.above / feature.rows:.1%} of the rows"
            )
        data = data or feature.distribution
    return "" if data is None else figures.moved_bins(data, 3)


def _performance_of(report: MonitorReport) -> str:
    found = headline_of(report)
    if found is None:
        return "unknown: no labels came, and there is no estimate"
    reference = f", {number(found.reference.value)} in training" if found.reference else ""
    return f"{named(found.metric)} {number(found.now.value)} {found.how}{reference}"


def headline_of(report: MonitorReport) -> _Headline | None:
    """The first metric as it was measured last, or else estimated last."""
    for series in report.performance:
        for point in reversed(series.points):
            if point.realised is not None:
                when = "" if point.until == report.until else f" on {point.until:%d %b}"
                return _Headline(series.metric, point.realised, f"measured{when}", series.reference)
            if point.estimated is not None and point.until == report.until:
                return _Headline(series.metric, point.estimated, "estimated", series.reference)
    return None


def _rounded(value: float | None) -> str:
    return "" if value is None else number(value)


# ── The page ────────────────────────────────────────────────────────────────────────────────────


def render(report: MonitorReport) -> str:
    """The report as HTML."""
    drawn = sorted(
        (f for f in report.features if f.distribution is not None),
        key=lambda f: (_WORST.index(_drift_verdict(f)), -_effect(f)),
    )
    open_ones = [f for f in drawn if _drift_verdict(f) in ("alarm", "watch")][:MAX_MOVED]
    folded = [f for f in drawn if f not in open_ones][: MAX_DRAWN - len(open_ones)]
    traffic = report.traffic
    asked = traffic.requests + traffic.errors
    return (
        _environment()
        .get_template("monitor.html.j2")
        .render(
            r=report,
            headline=headline_of(report),
            error_share=traffic.errors / asked if asked else None,
            performance=[(s, figures.performance(s)) for s in report.performance],
            drift=figures.drift_bars(report.features),
            drift_note="Bars: how far the distribution moved, in PSI less what chance alone gives "
            "at this number of rows. A shift of a normal feature by a fifth of its standard "
            "deviation is some 0.05.",
            answers=_answers(report),
            moved=[_figure(f) for f in open_ones],
            calm=[_figure(f) for f in folded],
            undrawn=len(drawn) - len(open_ones) - len(folded),
            quality=sorted(report.features, key=lambda f: _WORST.index(quality_verdict(f))),
            traffic=figures.traffic(traffic),
        )
    )


@cache
def _environment() -> jinja2.Environment:
    made = evaluation_report.environment(Path(__file__).parent)
    filters: dict[str, Any] = {
        "moment": _moment,
        "meaning": _meaning,
        "dollars": dollars,
        "change": lambda share: f"{share:+.0%}".replace("-", "−"),
        "expected": _expected,
        "ms": milliseconds,
        "named": named,
        "share": share,
        "quality_verdict": quality_verdict,
    }
    made.filters |= filters
    made.globals |= {
        "states": _STATES,
        "signs": _SIGNS,
        "words": _WORDS,
        "budget_words": _BUDGET,
        "monitor_style": (Path(__file__).parent / "monitor.css").read_text(),
    }
    return made


def _meaning(kind: str) -> str:
    return MEANING.get(kind, kind.replace("_", " "))


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def dollars(amount: float) -> str:
    """An amount for people: cents, or what is left of a cent."""
    if amount == 0 or abs(amount) >= 0.01:
        return f"${amount:,.2f}"
    return f"${amount:.2g}" if abs(amount) >= 1e-6 else "under $0.000001"


def milliseconds(value: float) -> str:
    """A latency for people: 9.6 ms, 140 ms, 1.2 s."""
    if value >= 1_000:
        return f"{value / 1_000:.1f} s"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def share(value: float) -> str:
    """A share for people: 12.3 %, 0.16 %."""
    return (
        f"{value:.1%}".replace("%", " %")
        if value >= 0.01 or not value
        else f"{value:.2%}".replace("%", " %")
    )


def named(subject: str) -> str:
    """A finding's subject for people: metrics have names."""
    return evaluation_report.METRIC_NAMES.get(subject, subject)


def _expected(series: MetricSeries) -> str:
    low, high = series.threshold_low, series.threshold_high
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}"
    if low is not None:
        return f"from {number(low)}"
    return f"up to {number(high)}" if high is not None else "–"


def _drift_verdict(feature: Feature) -> State:
    found = [f.verdict for f in feature.findings if f.kind == "feature_drift"]
    return min(found, key=_WORST.index, default="unknown")


def quality_verdict(feature: Feature) -> State:
    """The worst that was found of what arrived, whatever its distribution."""
    found = [f.verdict for f in feature.findings if f.kind in _QUALITY]
    return min(found, key=_WORST.index, default="unknown")


def _effect(feature: Feature) -> float:
    return max((f.effect or 0.0 for f in feature.findings if f.kind == "feature_drift"), default=0)


def _figure(feature: Feature) -> dict[str, Any]:
    assert feature.distribution is not None  # noqa: S101  (only such features are drawn)
    found = [f for f in feature.findings if f.kind == "feature_drift"]
    return {
        "title": feature.name,
        "verdict": _drift_verdict(feature),
        "picture": figures.distribution(feature.distribution, feature.name),
        "note": _said(found) or figures.moved_bins(feature.distribution),
    }


def _said(found: Sequence[MonitorFinding]) -> str:
    return " ".join(dict.fromkeys(f.text.rstrip(".") + "." for f in found if f.text))


def _answers(report: MonitorReport) -> list[dict[str, Any]]:
    """Scores and predicted classes."""
    drawn: tuple[tuple[str, Distribution | None, str], ...] = (
        (
            f"Scores{': ' + report.score_name if report.score_name else ''}",
            report.scores,
            "score_drift",
        ),
        ("Predicted classes", report.classes, "class_drift"),
    )
    answers = []
    for title, data, kind in drawn:
        if data is None:
            continue
        found = [f for f in report.findings if f.kind == kind]
        answers.append(
            {
                "title": title,
                "verdict": min((f.verdict for f in found), key=_WORST.index, default="unknown"),
                "picture": figures.distribution(data, title),
                "note": _said(found),
            }
        )
    return answers
