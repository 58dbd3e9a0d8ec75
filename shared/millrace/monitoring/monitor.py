"""Looks at every model: judges the windows that are complete, and those of which more is known now.

Nothing is read of a model but counts, one query, when nothing flowed. What a window costs does not
depend on its traffic: counts are of bins, and rows are looked at in a sample of bounded size.

Idempotent by model, version and the window's start: counts, baseline and labels decide, the report is
the same object, an alarm is moved once by a window, and the window's own item, which makes it done, is
written last. What a crash leaves is judged again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from millrace.errors import ConditionFailedError, NoChampionError, NotFoundError
from millrace.monitoring import hours
from millrace.monitoring.assembly import Measured, Seen, assemble
from millrace.monitoring.baseline import Baseline
from millrace.monitoring.binning import begin_of
from millrace.monitoring.document import Action, Cost, MonitorReport
from millrace.monitoring.episode_records import Episode
from millrace.monitoring.episodes import Observed
from millrace.monitoring.findings import Finding, Policy, StatisticValue, Verdict
from millrace.monitoring.hours import CountsTable, WindowCounts
from millrace.monitoring.judging import judge
from millrace.monitoring.windows import Judged, Plan, Unseen, WindowBook, due, outdated
from millrace.observability import METRICS, count, logger, publish
from millrace.registry.serving import ServingRecord
from millrace.spec import ModelSpec

MAX_WINDOWS: Final = 24
"""Windows of one model that one look judges; the next look goes on."""
SEASONS: Final = 3
"""Weeks that the same hours are looked at in."""
_DAY: Final = timedelta(days=1)
_DAY_HOURS: Final = 24
_WEEK_HOURS: Final = 7 * _DAY_HOURS
_DELIVERY: Final = 12
"""A closed hour is waited for this part of an hour longer: what is on its way arrives."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a sample of a window's rows told.

    Attributes:
        measured: Performance; None where there is no baseline to hold it against.
        findings: Of it.
        multivariate: How well the rows were rebuilt from the baseline's components.
    """

    measured: Measured | None = None
    findings: tuple[Finding, ...] = ()
    multivariate: StatisticValue | None = None


class Rows(Protocol):
    """Looks at a sample of a window's rows: `rows.RowReader` is one."""

    def __call__(
        self, baseline: Baseline, window: WindowCounts, history: Sequence[Verdict], policy: Policy
    ) -> Looked:
        """What the rows tell."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What the monitor asks about models.

    Attributes:
        serving: What answers for a model.
        spec: Its current spec.
        baseline: Of a version; None when it has none.
        widened: Effects that people tolerate, by ``<kind>:<subject>``.
        newest: The newest report so far.
        actions: What was done since a moment, the newest first.
        cost: What it costs, in a window and so far.
    """

    serving: Callable[[str], ServingRecord]
    spec: Callable[[str], ModelSpec]
    baseline: Callable[[str, int], Baseline | None]
    widened: Callable[[str], Mapping[str, float]]
    newest: Callable[[str], MonitorReport | None]
    actions: Callable[[str], Sequence[Action]]
    cost: Callable[[ModelSpec, WindowCounts, datetime], Cost]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look at one model came to.

    Attributes:
        model: The model.
        flowed: Whether it had traffic lately.
        windows: Verdicts of the windows that were judged, the oldest first.
        again: How many of them had been judged before.
    """

    model: str
    flowed: bool = False
    windows: tuple[Verdict, ...] = ()
    again: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """The use case.

    Attributes:
        table: The registry's table.
        book: Windows that were judged.
        models: Tells about models.
        rows: Looks at rows.
        conclude: Moves the alarms, writes the report, and tells people.
        rewrite: Writes the report of an earlier champion anew, and moves no alarm.
        consider: Decides on a training, given a model's alarms; some of them may be over.
        settle: Keeps what a model cost, and tells people when its budget is nearly spent.
        stage: The deployment's stage, for the report.
        hour: How long an hour lasts.
    """

    table: CountsTable
    book: WindowBook
    models: Models
    rows: Rows
    conclude: Callable[[MonitorReport, int], tuple[MonitorReport, Observed]]
    rewrite: Callable[[MonitorReport], MonitorReport]
    consider: Callable[[ModelSpec, Sequence[Episode]], object]
    settle: Callable[[ModelSpec, datetime], None]
    stage: str
    hour: timedelta

    def watch(
        self, model: str, now: datetime, *, time_left: Callable[[], bool] = lambda: True
    ) -> Outcome:
        """Looks at one model.

        Args:
            model: The model.
            now: The time.
            time_left: Whether there is time for another window.

        Returns:
            What it came to; nothing of a model without traffic or champion.
        """
        week = _WEEK_HOURS * self.hour
        closed = begin_of(now - self.hour / _DELIVERY, self.hour)
        lately = closed - week - _DAY_HOURS * self.hour
        found = hours.read_hours(self.table, model, lately, closed, hour=self.hour)
        if not found:
            return Outcome(model)
        try:
            version = self.models.serving(model).version
        except (NoChampionError, NotFoundError):
            return Outcome(model, flowed=True)
        spec, told = self.models.spec(model), self.book.unseen_labels(model, now)
        plan = self._plan(spec)
        earliest = min(lately, closed - plan.longest)
        if earliest < lately:
            found = hours.read_hours(self.table, model, earliest, lately, hour=self.hour) + found
        judged = self.book.judged(model, earliest - plan.longest, closed)
        late = outdated(judged, found)
        labelled = self._of_labels(model, plan, told)
        own = [one for one in found if one.version == version]
        new = due(own, closed, plan, [(j.since, j.until) for j in judged])
        # What is new comes before what is known better now: labels of a month are judged for hours.
        todo: list[tuple[datetime, datetime, int, Judged | None]] = [
            *((j.since, j.until, j.version, j) for j in late),
            *((since, until, version, None) for since, until in new),
        ]
        mentioned = {(since, of) for since, _, of, _ in todo}
        todo += [
            (j.since, j.until, j.version, j)
            for j in labelled
            if (j.since, j.version) not in mentioned
        ]
        verdicts = self._judge(
            spec, version, now, todo[:MAX_WINDOWS], found, earliest, judged, time_left
        )
        done = {(one.since, one.version) for one in verdicts}
        left = [j for j in labelled if (j.since, j.version) not in done]
        self.book.note_labels(
            model,
            told,
            lambda day: not any(j.since < day + _DAY and j.until > day for j in left),
        )
        if verdicts:
            self.settle(spec, now)
        again = {(j.since, j.version) for j in (*late, *labelled)}
        return Outcome(model, True, tuple(verdicts), len(done & again))

    def _of_labels(self, model: str, plan: Plan, told: Mapping[datetime, Unseen]) -> list[Judged]:
        """Windows that were judged before some labels of theirs came, the oldest first."""
        found = {
            (j.since, j.version): j
            for day, unseen in told.items()
            for j in self.book.judged(model, day - plan.longest, day + _DAY)
            if j.until > day and j.at < unseen.begun
        }
        return [found[place] for place in sorted(found)]

    def _judge(
        self,
        spec: ModelSpec,
        version: int,
        now: datetime,
        todo: Sequence[tuple[datetime, datetime, int, Judged | None]],
        found: list[WindowCounts],
        earliest: datetime,
        judged: Sequence[Judged],
        time_left: Callable[[], bool],
    ) -> list[Verdict]:
        """Judges windows, each with those of its version as its history."""
        if not todo:
            return []
        first = min(since for since, _, _, _ in todo)
        until = max(until for _, until, _, _ in todo)
        known = self._compared(spec.name, first, until, found, earliest)
        history = judged
        if first < earliest:
            history = self.book.judged(spec.name, first - self._plan(spec).longest, until)
        looks: dict[int, _Look] = {}
        verdicts: list[Verdict] = []
        for begin, end, of, before in todo:
            if not time_left():
                break
            if of not in looks:
                own = [j for j in history if j.version == of]
                looks[of] = _Look(self, spec, of, of == version, now, known, own)
            verdicts.append(looks[of].judge(begin, end, before))
        return verdicts

    def _compared(
        self,
        model: str,
        first: datetime,
        until: datetime,
        found: list[WindowCounts],
        earliest: datetime,
    ) -> list[WindowCounts]:
        """Hours of some windows and of what they are compared with, and no others of a model.

        That is the week before them, and the same hours of the weeks before that: of a model with
        very many features a month of hours is more than is needed, and more than memory holds.

        Args:
            model: The model.
            first: Where the first window begins.
            until: Where the last one ends.
            found: Hours that were read already.
            earliest: From when on.
        """
        week = _WEEK_HOURS * self.hour
        near = found
        if first - week < earliest:
            near = hours.read_hours(self.table, model, first - week, until, hour=self.hour)
        far: list[WindowCounts] = []
        for weeks in range(2, SEASONS + 1):
            begin = first - weeks * week
            end = min(until - weeks * week, begin + week)
            far = hours.read_hours(self.table, model, begin, end, hour=self.hour) + far
        return far + near

    def _plan(self, spec: ModelSpec) -> Plan:
        section = spec.monitor
        return Plan(
            section.window_hours * self.hour,
            section.max_window_hours * self.hour,
            section.min_rows,
        )


@dataclass(slots=True)
class _Look:
    """One model at one moment."""

    monitor: Monitor
    spec: ModelSpec
    version: int
    answers: bool
    """Whether it is the champion: what is known better of another changes its report, and rings no more."""
    now: datetime
    hours: list[WindowCounts]
    judged: list[Judged]

    def judge(self, since: datetime, until: datetime, before: Judged | None) -> Verdict:
        """Judges one window, and does what follows."""
        monitor, model = self.monitor, self.spec.name
        window = hours.window_of(self.hours, model, self.version, since, until)
        window.missing_lines = hours.read_missing_lines(
            monitor.table, model, since, until, hour=monitor.hour
        )
        last_week, references = self._references(since, until)
        policy = self._policy()
        baseline = monitor.models.baseline(model, self.version)
        history = [j.verdict for j in self.judged if j.until <= since]
        looked = Looked()
        if baseline is not None and window.rows >= policy.min_rows:
            looked = monitor.rows(baseline, window, history, policy)
        verdict = judge(
            baseline,
            window,
            references,
            history,
            policy,
            multivariate=looked.multivariate,
            further=looked.findings,
        )
        report = assemble(
            Seen(
                model=model,
                task=self.spec.task,
                stage=monitor.stage,
                window=window,
                verdict=verdict,
                baseline=baseline,
                made_at=self.now,
                others=self._others(since, until),
                last_week=last_week,
                performance=looked.measured,
                cost=monitor.models.cost(self.spec, window, self.now),
                actions=monitor.models.actions(model),
                before=monitor.models.newest(model),
            )
        )
        if self.answers:
            report, observed = monitor.conclude(report, self.spec.monitor.clear_after)
            monitor.consider(self.spec, observed.episodes)
        else:
            report = monitor.rewrite(report)
        self._record(verdict, window, before, report)
        _tell(verdict, window, again=before is not None)
        return verdict

    def _policy(self) -> Policy:
        section, hour = self.spec.monitor, self.monitor.hour
        return Policy(
            min_rows=section.min_rows,
            significance=section.significance,
            min_drift=section.min_drift,
            persistence=section.persistence,
            unseasoned=_DAY_HOURS * hour,
            cycle=_WEEK_HOURS * hour,
            thresholds=self.monitor.models.widened(self.spec.name),
        )

    def _references(
        self, since: datetime, until: datetime
    ) -> tuple[WindowCounts | None, list[WindowCounts]]:
        """The same hours a week ago, and all that the window is compared with."""
        week = _WEEK_HOURS * self.monitor.hour
        seasons = [self._window(since - n * week, until - n * week) for n in range(1, SEASONS + 1)]
        same = hours.total(one for one in seasons if one.requests)
        lately = self._window(since - week, since)
        references = []
        if same is not None:
            references.append(replace(same, against="same_hour"))
        if lately.requests:
            references.append(replace(lately, against="last_week"))
        return seasons[0] if seasons[0].requests else None, references

    def _window(self, since: datetime, until: datetime) -> WindowCounts:
        return hours.window_of(self.hours, self.spec.name, self.version, since, until)

    def _others(self, since: datetime, until: datetime) -> list[tuple[WindowCounts, str]]:
        """Other versions that answered in the window."""
        inside = [h for h in self.hours if since <= h.since and h.until <= until]
        return [
            (
                hours.window_of(inside, self.spec.name, version, since, until),
                "challenger" if version > self.version else "former",
            )
            for version in sorted({h.version for h in inside} - {self.version})
        ]

    def _record(
        self, verdict: Verdict, window: WindowCounts, before: Judged | None, report: MonitorReport
    ) -> None:
        try:
            judged = self.monitor.book.record(verdict, window, before, self.now, report)
        except ConditionFailedError:
            # Another look judged it at the same time, on the same counts or on more.
            logger.info("window judged elsewhere", model=verdict.model, since=str(verdict.since))
            return
        self.judged = [*(j for j in self.judged if j.since != verdict.since), judged]


def _tell(verdict: Verdict, window: WindowCounts, *, again: bool) -> None:
    """What a window came to, as a log line and as metrics."""
    model = verdict.model
    drifted = {
        f.subject
        for f in verdict.findings
        if f.kind == "feature_drift" and f.against == "training" and f.verdict in ("watch", "alarm")
    }
    logger.info(
        "window judged",
        model=model,
        version=verdict.version,
        since=verdict.since.isoformat(),
        until=verdict.until.isoformat(),
        row_count=verdict.rows,
        state=verdict.state,
        reason=verdict.reason,
        again=again,
    )
    count(METRICS.WINDOWS_JUDGED, model=model)
    count(METRICS.WINDOW_ROWS, window.rows, model=model)
    count(METRICS.WINDOW_ALARMS, len(verdict.alarms), model=model)
    count(METRICS.DRIFTED_FEATURES, len(drifted), model=model)
    count(METRICS.CAPTURES_LOST, window.missing_lines, model=model)
    publish()
