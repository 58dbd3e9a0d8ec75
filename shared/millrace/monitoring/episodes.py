"""Alarms that open when a window is found to be bad, and close by themselves when it is over.

`Episodes.observe` takes a window's report and moves what it finds along the table of states
(`episode_records.TABLE`). It is idempotent by model, kind, subject and window: the same report again
changes nothing, and a window that is computed anew with late labels replaces what it said before.
People acknowledge, silence and widen; each such change, each opening and each end is an entry of the
model's ledger, in the transaction of the change.

People are told of several alarms of one window at once. What they are still to be told stands in the
standing, so that a notice that a crash prevented is sent when the window is looked at again.
"""

import math
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from millrace.aws.dynamodb import DynamoTable
from millrace.aws.table import ABSENT, Expected, Put, Table, Update, Write
from millrace.errors import FieldProblem, InvalidRequestError, NotFoundError
from millrace.monitoring.causes import likely_cause, next_step
from millrace.monitoring.document import MonitorFinding, MonitorReport, State
from millrace.monitoring.episode_records import (
    EPISODE,
    SEEN,
    STANDING,
    STEPS,
    Episode,
    EpisodeEvent,
    EpisodeState,
    EpisodeStep,
    Happened,
    Seen,
    Standing,
    Untold,
    episode_id,
    episode_key,
    from_episode,
    from_standing,
    monitor_pk,
    standing_key,
    to_episode,
    to_standing,
    transition,
)
from millrace.registry.changes import list_page, with_fresh_reads
from millrace.registry.ledger import Ledger
from millrace.registry.pages import Page
from millrace.registry.records import AuditEntry

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

MONITOR: Final = "monitor"
"""The ledger's actor of what monitoring does by itself."""

CLEAR_WINDOWS: Final = 3
"""Windows in a row without the finding that end an episode, unless told otherwise."""

FORGOTTEN_WINDOWS: Final = 30
"""Windows in a row that say nothing of it, after which an episode ends."""

MAX_SILENCE: Final = timedelta(days=90)

_WORST: Final[tuple[State, ...]] = ("alarm", "watch", "ok", "unknown")
_EARLIER: Final = ("last_week", "same_hour")
_TRAFFIC: Final = frozenset({"errors", "latency", "capture_gap"})
"""Kinds that have no other reference than earlier windows."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a window came to.

    Attributes:
        untold: What people are still to be told, and of which episode; the worst first.
        episodes: Every open episode, and those that this window closed.
    """

    untold: tuple[tuple[Untold, Episode], ...]
    episodes: tuple[Episode, ...]


def open_episodes(client: "DynamoDBClient", table_name: str) -> "Episodes":
    """Episodes in a real table, with the real clock and ids."""
    return Episodes(
        DynamoTable(client, table_name),
        clock=lambda: datetime.now(UTC),
        ids=lambda: uuid.uuid4().hex,
    )


class Episodes:
    """Episodes of every model.

    Args:
        table: The registry's table.
        clock: The time, aware and in UTC.
        ids: Makes ids of ledger entries.
    """

    def __init__(
        self, table: Table, *, clock: Callable[[], datetime], ids: Callable[[], str]
    ) -> None:
        self._table = table
        self._clock = clock
        self._ids = ids
        self._ledger = Ledger(table)

    # ── Asking ──────────────────────────────────────────────────────────────────────────────────

    def get(self, model: str, episode_id: str) -> Episode:
        """An episode.

        Raises:
            NotFoundError: There is none of this id.
        """
        item = self._table.get(episode_key(model, episode_id))
        if item is None:
            raise NotFoundError(
                f"model {model!r} has no alarm {episode_id!r}; `millrace alarms {model}` lists them"
            )
        return to_episode(item)

    def list_episodes(
        self,
        model: str,
        *,
        state: EpisodeState | None = None,
        limit: int = 50,
        token: str | None = None,
    ) -> Page[Episode]:
        """A model's episodes, the newest first."""
        where: dict[str, Expected] | None = None if state is None else {"state": state.value}
        return list_page(
            self._table,
            monitor_pk(model),
            to_episode,
            limit,
            token,
            prefix=EPISODE,
            where=where,
        )

    def open_of(self, model: str) -> tuple[Episode, ...]:
        """The episodes that have not ended, the oldest first."""
        named = [s.episode_id for s in self._standings(model) if s.episode_id]
        found = self._table.get_many([episode_key(model, one) for one in named])
        return tuple(sorted(map(to_episode, found.values()), key=lambda one: one.id))

    def widened(self, model: str) -> dict[str, float]:
        """The effects that people tolerate, by ``<kind>:<subject>``: for a policy's thresholds."""
        found = self._standings(model)
        return {f"{s.kind}:{s.subject}": s.widened_to for s in found if s.widened_to is not None}

    def _standings(self, model: str) -> tuple[Standing, ...]:
        page = self._table.query(monitor_pk(model), prefix=STANDING)
        return tuple(to_standing(item) for item in page.items)

    # ── Observing ───────────────────────────────────────────────────────────────────────────────

    def observe(self, report: MonitorReport, *, clear_windows: int = CLEAR_WINDOWS) -> Observed:
        """Opens, goes on with and ends episodes by what a window's report found.

        Idempotent by the window's start and what it found.

        Args:
            report: The report; findings of one kind and subject count by the worst of them.
            clear_windows: Windows in a row without the finding that end an episode.
        """
        found = _worst_findings(report.findings)
        standings = {(s.kind, s.subject): s for s in self._standings(report.model)}
        alarms = {at for at, one in found.items() if one.verdict == "alarm"}
        open_ones = {at for at, one in standings.items() if one.episode_id}
        episodes: list[Episode] = []
        for at in sorted(alarms | open_ones):
            episode = self._observe_one(report, at, found.get(at), clear_windows)
            if episode is not None:
                episodes.append(episode)
        untold = [
            (standing.untold, self.get(report.model, standing.untold_of))
            for standing in self._standings(report.model)
            if standing.untold is not None
        ]
        untold.sort(key=lambda one: (one[0] == "closed", _rank(one[1].kind), one[1].subject))
        return Observed(tuple(untold), tuple(episodes))

    def _observe_one(
        self,
        report: MonitorReport,
        at: tuple[str, str],
        finding: MonitorFinding | None,
        clear_windows: int,
    ) -> Episode | None:
        kind, subject = at
        model, now = report.model, self._clock()
        entry_id = self._ids()
        what = f"observe {kind} of {subject} of {model}"

        def change() -> Episode | None:
            stored = self._table.get(standing_key(model, kind, subject))
            standing = (
                Standing(model=model, kind=kind, subject=subject)
                if stored is None
                else to_standing(stored)
            )
            verdict = _verdict(finding, standing)
            if not standing.episode_id:
                through = standing.closed_through
                if (
                    finding is None
                    or verdict != "alarm"
                    or (through is not None and report.since <= through)
                ):
                    return None
                return self._opened(report, finding, standing, now, entry_id, what)
            before = self.get(model, standing.episode_id)
            return self._went_on(
                report, finding, verdict, standing, before, now, entry_id, clear_windows, what
            )

        return with_fresh_reads(what, change)

    def _opened(
        self,
        report: MonitorReport,
        finding: MonitorFinding,
        standing: Standing,
        now: datetime,
        entry_id: str,
        what: str,
    ) -> Episode:
        state = transition(None, EpisodeEvent.OPEN, finding.subject)
        episode = Episode(
            id=episode_id(report.model, finding.kind, finding.subject, report.since),
            model=report.model,
            kind=finding.kind,
            subject=finding.subject,
            statistic=finding.statistic,
            against=finding.against or "",
            opened_at=now,
            opened_window=report.since,
            state=state,
            version=report.version,
            last_window=report.since,
            widened_to=standing.widened_to,
            likely_cause=likely_cause(finding, report),
            next_step=next_step(finding, report),
            history=(EpisodeStep(at=now, event="opened", by=MONITOR, text=finding.text),),
            **_figures(finding),
        )
        after = standing.model_copy(
            update={
                "episode_id": episode.id,
                "seen": (Seen(window=report.since, verdict="alarm"),),
                "untold": "opened",
                "untold_of": episode.id,
            }
        )
        self._write(standing, after, None, episode, what, entry_id, MONITOR, "opened", finding.text)
        return episode

    def _went_on(
        self,
        report: MonitorReport,
        finding: MonitorFinding | None,
        verdict: State,
        standing: Standing,
        before: Episode,
        now: datetime,
        entry_id: str,
        clear_windows: int,
        what: str,
    ) -> Episode:
        seen = _with_seen(standing.seen, Seen(window=report.since, verdict=verdict))
        episode = before
        if verdict == "alarm" and finding is not None and seen[-1].window == report.since:
            episode = before.model_copy(
                update={
                    "version": report.version,
                    "last_window": report.since,
                    "text": finding.text,
                    **_figures(finding),
                }
            )
        bad = sum(one.verdict == "alarm" for one in seen)
        known = sum(one.verdict == "alarm" for one in standing.seen)
        episode = episode.model_copy(update={"windows": max(1, before.windows + bad - known)})
        after = standing.model_copy(update={"seen": seen})
        event, text = _ending(seen, clear_windows)
        if event is None and verdict == "alarm" and _silence_is_over(before, now):
            event, text = EpisodeEvent.WAKE, "the silence is over, and it is still found"
        happened: Happened | None = None
        if event is not None:
            happened = "closed" if event is EpisodeEvent.CLOSE else "woken"
            episode = _moved(episode, event, happened, now, MONITOR, text)
            if event is EpisodeEvent.CLOSE:
                told = before.state is not EpisodeState.SILENCED
                after = after.model_copy(
                    update={
                        "episode_id": "",
                        "closed_through": seen[-1].window,
                        "untold": "closed" if told else None,
                        "untold_of": episode.id if told else "",
                    }
                )
                episode = episode.model_copy(update={"closed_at": now, "silenced_until": None})
            else:
                after = after.model_copy(update={"untold": "woken", "untold_of": episode.id})
                episode = episode.model_copy(update={"silenced_until": None})
        if after == standing and episode == before:
            return before
        self._write(standing, after, before, episode, what, entry_id, MONITOR, happened, text)
        return episode

    def told(self, model: str, untold: Iterable[tuple[Untold, Episode]]) -> None:
        """Notes that people were told; what changed meanwhile stays to be told."""
        for news, episode in untold:

            def change(news: Untold = news, episode: Episode = episode) -> None:
                key = standing_key(model, episode.kind, episode.subject)
                stored = self._table.get(key)
                standing = None if stored is None else to_standing(stored)
                if standing is None or standing.untold != news or standing.untold_of != episode.id:
                    return
                done = {"untold": None, "untold_of": "", "revision": standing.revision + 1}
                write = Update("standing", key, done, {"revision": standing.revision})
                self._table.transact([write], f"note that people know of alarm {episode.id}")

            with_fresh_reads(f"note that people know of alarm {episode.id}", change)

    # ── What people do ──────────────────────────────────────────────────────────────────────────

    def acknowledge(
        self, model: str, episode_id: str, *, actor: str, reason: str = "", correlation_id: str = ""
    ) -> Episode:
        """Says that a person knows of it. Idempotent: again by the same person changes nothing.

        Raises:
            NotFoundError: There is no such alarm.
            InvalidTransitionError: It is closed.
        """
        return self._by_hand(
            model,
            episode_id,
            EpisodeEvent.ACKNOWLEDGE,
            "acknowledged",
            actor=actor,
            reason=reason,
            correlation_id=correlation_id,
            changes={"silenced_until": None},
        )

    def silence(
        self,
        model: str,
        episode_id: str,
        until: datetime,
        *,
        actor: str,
        reason: str = "",
        correlation_id: str = "",
    ) -> Episode:
        """Tells nobody of it until a moment; if it is still found then, people are told again.

        Raises:
            NotFoundError: There is no such alarm.
            InvalidTransitionError: It is closed.
            InvalidRequestError: The moment is past, or too far away.
        """
        now = self._clock()
        if not now < until <= now + MAX_SILENCE:
            message = f"expected a moment within the next {MAX_SILENCE.days} days"
            raise InvalidRequestError(f"until: {message}", [FieldProblem("until", message)])
        return self._by_hand(
            model,
            episode_id,
            EpisodeEvent.SILENCE,
            "silenced",
            actor=actor,
            reason=reason,
            correlation_id=correlation_id,
            changes={"silenced_until": until},
        )

    def widen(
        self,
        model: str,
        episode_id: str,
        to: float | None,
        *,
        actor: str,
        reason: str = "",
        correlation_id: str = "",
    ) -> Episode:
        """Tolerates more of this kind and subject from now on, in later episodes, too.

        Args:
            model: The model.
            episode_id: The alarm; to take a widening back, one that is closed will do.
            to: The effect up to which nothing rings; None takes it back.
            actor: Who does it.
            reason: Why.
            correlation_id: The request's id.

        Raises:
            NotFoundError: There is no such alarm.
            InvalidTransitionError: It is closed.
            InvalidRequestError: It would go on ringing.
        """
        episode = self.get(model, episode_id)
        now = abs(episode.effect or 0.0)
        if to is not None and not now < to < math.inf:
            message = f"expected more than the effect it has now, {now:.4g}: else it rings on"
            raise InvalidRequestError(f"to: {message}", [FieldProblem("to", message)])
        return self._by_hand(
            model,
            episode_id,
            None if to is None else EpisodeEvent.WIDEN,
            "narrowed" if to is None else "widened",
            actor=actor,
            reason=reason,
            correlation_id=correlation_id,
            changes={"widened_to": to, **({} if to is None else {"silenced_until": None})},
        )

    def note_retraining(self, model: str, episode_id: str, run_id: str, *, text: str) -> Episode:
        """Notes the retraining that an episode started: one at most.

        Returns:
            The episode; with the run that was noted first.
        """
        if self.get(model, episode_id).run_id:
            return self.get(model, episode_id)
        return self._by_hand(
            model,
            episode_id,
            None,
            "retraining",
            actor=MONITOR,
            reason=text,
            correlation_id="",
            changes={"run_id": run_id},
            unless="run_id",
        )

    def _by_hand(
        self,
        model: str,
        episode_id: str,
        event: EpisodeEvent | None,
        happened: Happened,
        *,
        actor: str,
        reason: str,
        correlation_id: str,
        changes: dict[str, Any],
        unless: str = "",
    ) -> Episode:
        now, entry_id = self._clock(), self._ids()
        what = f"{happened} alarm {episode_id} of {model}"

        def change() -> Episode:
            before = self.get(model, episode_id)
            if unless and getattr(before, unless):
                return before
            if event is not None:
                transition(before.state, event, episode_id)
            if _is_repeated(before, happened, actor, changes):
                return before
            episode = _moved(before, event, happened, now, actor, reason).model_copy(update=changes)
            standing = widened = None
            if "widened_to" in changes:
                stored = self._table.get(standing_key(model, before.kind, before.subject))
                assert stored is not None  # noqa: S101  (written with the episode, and never removed)
                standing = to_standing(stored)
                widened = standing.model_copy(update={"widened_to": changes["widened_to"]})
            self._write(
                standing,
                widened,
                before,
                episode,
                what,
                entry_id,
                actor,
                happened,
                reason,
                correlation_id,
            )
            return episode

        return with_fresh_reads(what, change)

    # ── Writing ─────────────────────────────────────────────────────────────────────────────────

    def _write(
        self,
        standing_before: Standing | None,
        standing: Standing | None,
        before: Episode | None,
        episode: Episode,
        what: str,
        entry_id: str,
        actor: str,
        happened: Happened | None,
        text: str,
        correlation_id: str = "",
    ) -> None:
        """Standing, episode and the ledger's entry in one transaction."""
        revision = 1 if before is None else before.revision + 1
        written = episode.model_copy(update={"revision": revision})
        writes: list[Write] = [
            Put(
                "episode",
                episode_key(episode.model, episode.id),
                from_episode(written),
                ABSENT if before is None else {"revision": before.revision},
            )
        ]
        if standing is not None and standing_before is not None:
            counted = standing.model_copy(update={"revision": standing_before.revision + 1})
            writes.append(
                Put(
                    "standing",
                    standing_key(standing.model, standing.kind, standing.subject),
                    from_standing(counted),
                    {"revision": standing_before.revision} if standing_before.revision else ABSENT,
                )
            )
        if happened is not None:
            writes += self._ledger.append(
                AuditEntry(
                    model=episode.model,
                    at=self._clock(),
                    entry_id=entry_id,
                    actor=actor,
                    action=f"alarm_{happened}",
                    subject=f"alarm {episode.id}",
                    before="" if before is None else before.state.value,
                    after=episode.state.value,
                    reason=text,
                    correlation_id=correlation_id,
                    facts=_facts(episode),
                )
            ).writes
        self._table.transact(writes, what)


# ── Pure parts ──────────────────────────────────────────────────────────────────────────────────


def _worst_findings(findings: Iterable[MonitorFinding]) -> dict[tuple[str, str], MonitorFinding]:
    """The worst finding of each kind and subject; of equals, the one with the larger effect.

    Of what is compared with training, how it differs from earlier weeks says nothing: it never rings,
    and when a drift is over, the week in which it was is another for a week.
    """
    worst: dict[tuple[str, str], MonitorFinding] = {}
    for one in findings:
        if one.against in _EARLIER and one.kind not in _TRAFFIC:
            continue
        other = worst.get((one.kind, one.subject))
        if other is None or _badness(one) > _badness(other):
            worst[one.kind, one.subject] = one
    return worst


def _badness(finding: MonitorFinding) -> tuple[int, float]:
    return -_WORST.index(finding.verdict), abs(finding.effect or 0.0)


def _rank(kind: str) -> int:
    """Kinds in the order of how much they matter to who uses the model."""
    order = ("errors", "performance", "fairness", "latency", "estimated_performance", "capture_gap")
    return order.index(kind) if kind in order else len(order)


def _verdict(finding: MonitorFinding | None, standing: Standing) -> State:
    """How a window found it, what a person tolerates being fine.

    What was compared and is well has a finding that says so. Without one nothing was compared: labels,
    a baseline, an earlier week or the feature itself may be missing, and that is no recovery.
    """
    if finding is None:
        return "unknown"
    bound, effect = standing.widened_to, finding.effect
    if bound is not None and effect is not None and finding.verdict in ("alarm", "watch"):
        return "ok" if abs(effect) <= bound else finding.verdict
    return finding.verdict


def _with_seen(seen: tuple[Seen, ...], one: Seen) -> tuple[Seen, ...]:
    """The windows so far with one more, or with one that was computed anew."""
    others = [s for s in seen if s.window != one.window]
    return tuple(sorted([*others, one], key=lambda s: s.window)[-SEEN:])


def _ending(seen: tuple[Seen, ...], clear_windows: int) -> tuple[EpisodeEvent | None, str]:
    """Whether the last windows end an episode, and why."""
    unknown = _at_the_end(seen, ("unknown",))
    if unknown >= FORGOTTEN_WINDOWS:
        return EpisodeEvent.CLOSE, f"{unknown} windows in a row say nothing of it any more"
    known = tuple(s for s in seen if s.verdict != "unknown")
    clear = _at_the_end(known, ("ok",))
    if clear >= clear_windows:
        return EpisodeEvent.CLOSE, f"not found in the last {clear} windows that could tell"
    return None, ""


def _at_the_end(seen: tuple[Seen, ...], verdicts: tuple[State, ...]) -> int:
    count = 0
    for one in reversed(seen):
        if one.verdict not in verdicts:
            break
        count += 1
    return count


def _silence_is_over(episode: Episode, now: datetime) -> bool:
    until = episode.silenced_until
    return episode.state is EpisodeState.SILENCED and until is not None and until <= now


def _moved(
    episode: Episode,
    event: EpisodeEvent | None,
    happened: Happened,
    now: datetime,
    actor: str,
    text: str,
) -> Episode:
    """The episode after an event, with the step in its history."""
    state = episode.state if event is None else transition(episode.state, event, episode.id)
    step = EpisodeStep(at=now, event=happened, by=actor, text=text)
    return episode.model_copy(update={"state": state, "history": (*episode.history, step)[-STEPS:]})


def _is_repeated(episode: Episode, happened: Happened, actor: str, changes: dict[str, Any]) -> bool:
    """Whether the same person did the same before, and nothing happened since."""
    last = episode.history[-1] if episode.history else None
    same = all(getattr(episode, name) == value for name, value in changes.items())
    return last is not None and last.event == happened and last.by == actor and same


def _figures(finding: MonitorFinding) -> dict[str, Any]:
    names = ("value", "effect", "p_value", "threshold", "rows", "text")
    return {name: getattr(finding, name) for name in names}


def _facts(episode: Episode) -> dict[str, Any]:
    """What the ledger keeps of an episode's change."""
    facts = {
        "alarm": episode.id,
        "kind": episode.kind,
        "subject": episode.subject,
        "version": episode.version,
        "statistic": episode.statistic,
        "value": episode.value,
        "threshold": episode.threshold,
        "effect": episode.effect,
        "window": episode.last_window.isoformat(),
        "windows": episode.windows,
        "widened_to": episode.widened_to,
        "silenced_until": episode.silenced_until and episode.silenced_until.isoformat(),
        "run_id": episode.run_id,
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}
