"""Rollouts in the registry: every change conditional, in the ledger, and repeated without harm.

At most one rollout of a model may have traffic: the model's item names it. Each write assumes the
state and the attempt that were read, so two people at once, or a person and the machine, never both
win, and an execution that was replaced changes nothing any more. The promotion at the end is the
registry's own: `registry.registry` ends the rollout in the transaction that crowns the version, as it
ends one that a person overtakes.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from millrace.aws.dynamodb import ABSENT, Check, DynamoTable, Put, Table, Update, Write
from millrace.errors import (
    ChampionChangedError,
    ConcurrentWriteError,
    ConflictError,
    InvalidTransitionError,
    NoChampionError,
    NotFoundError,
)
from millrace.registry import items
from millrace.registry.approvals import approved, check_asked
from millrace.registry.champions import ANY_CHAMPION, AnyChampion, name_of
from millrace.registry.changes import BACKOFF, Backoff, list_page, with_fresh_reads
from millrace.registry.ledger import Ledger
from millrace.registry.live import live_write
from millrace.registry.pages import Page
from millrace.registry.records import (
    AuditEntry,
    ModelVersion,
    RegisteredModel,
    VersionStatus,
)
from millrace.registry.registry import Registry
from millrace.registry.rollout_records import (
    CHECK,
    MAX_WHY,
    Judgement,
    Rollout,
    RolloutStep,
    check_key,
    ending,
    entry_of,
    from_judgement,
    from_rollout,
    rollout_key,
    rollout_pk,
    rollouts_index_pk,
    text_of,
    to_judgement,
    to_rollout,
)
from millrace.registry.rollout_states import (
    ACTIVE,
    OPEN,
    WATCHED,
    RolloutEvent,
    RolloutStatus,
    transition,
)
from millrace.registry.states import Event
from millrace.registry.states import transition as version_transition
from millrace.spec import RolloutSection

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

WATCHER: Final = "rollout"
"""Actor of what the ROLLOUT machine does by itself."""


def open_rollouts(client: "DynamoDBClient", table_name: str) -> "Rollouts":
    """The rollouts on a real table, with the real clock and ids."""
    table = DynamoTable(client, table_name)

    def clock() -> datetime:
        # nosemgrep: clock-read-in-the-domain -- the composition: everything inside takes a clock
        return datetime.now(UTC)

    def ids() -> str:
        return uuid.uuid4().hex

    return Rollouts(table, Registry(table, clock=clock, ids=ids), clock=clock, ids=ids)


class Rollouts:
    """Rollouts and what the ledger says of them.

    Args:
        table: The table.
        registry: Knows the models, and crowns.
        clock: Gives the time of a change, aware and in UTC.
        ids: Gives the ids of ledger entries, never the same twice.
        backoff: How long a change that lost a race waits.
    """

    def __init__(
        self,
        table: Table,
        registry: Registry,
        *,
        clock: Callable[[], datetime],
        ids: Callable[[], str],
        backoff: Backoff = BACKOFF,
    ) -> None:
        self._table = table
        self._registry = registry
        self._backoff = backoff
        self._ledger = Ledger(table)
        self._clock = clock
        self._ids = ids

    # ── Looking ─────────────────────────────────────────────────────────────────────────────────

    def get(self, rollout_id: str) -> Rollout:
        """A rollout.

        Raises:
            NotFoundError: There is no such rollout.
        """
        item = self._table.get(rollout_key(rollout_id))
        if item is None:
            raise NotFoundError(f"there is no rollout {rollout_id!r}")
        return to_rollout(item)

    def list_rollouts(
        self, model: str, *, limit: int = 50, token: str | None = None
    ) -> Page[Rollout]:
        """A model's rollouts, the newest first.

        Raises:
            NotFoundError: There is no such model.
        """
        page = list_page(
            self._table, rollouts_index_pk(model), to_rollout, limit, token, index=True
        )
        if not page.items and not token:
            self._registry.get_model(model)
        return page

    def judgements(
        self, rollout_id: str, *, limit: int = 50, token: str | None = None
    ) -> Page[Judgement]:
        """What each look found, the last first."""
        return list_page(
            self._table, rollout_pk(rollout_id), to_judgement, limit, token, prefix=CHECK
        )

    def version_status(self, rollout: Rollout) -> VersionStatus:
        """The state of the version that is rolled out."""
        return self._registry.get_version(rollout.model, rollout.version).status

    # ── Starting ────────────────────────────────────────────────────────────────────────────────

    def start(
        self,
        *,
        rollout_id: str,
        model: str,
        version: int,
        plan: RolloutSection,
        actor: str,
        reason: str = "",
        correlation_id: str = "",
        run_id: str = "",
        expected_champion: int | AnyChampion | None = ANY_CHAMPION,
    ) -> Rollout:
        """Records a rollout; it has no traffic before its first step is set. Idempotent by its id.

        Args:
            rollout_id: Its id.
            model: The model.
            version: The version to be rolled out; it passed its gates.
            plan: Strategy, steps and health.
            actor: Who asks.
            reason: Why.
            correlation_id: The request's or upload's id.
            run_id: The training that asks for it: closed in the same transaction.
            expected_champion: The champion that the version was compared with, if the caller knows.

        Raises:
            NotFoundError: There is no such model or version.
            NoChampionError: There is no champion to compare with.
            InvalidTransitionError: The version's state does not allow it to become champion.
            ChampionChangedError: The champion is not the expected one.
            ConflictError: The version is being rolled out already; it waits for approval, or was
                not approved; the plan is no rollout; or the training is closed.
        """
        if plan.strategy == "all-at-once":
            raise ConflictError(
                f"{model}@{version}: all-at-once is a promotion, not a rollout; promote it"
            )
        now = self._clock()
        entry_id, ending_id, second_id = self._ids(), self._ids(), self._ids()
        what = f"start rollout {rollout_id}"

        def change() -> Rollout:
            found = self._table.get(rollout_key(rollout_id))
            if found is not None:
                return to_rollout(found)
            meta = self._registry.get_model(model)
            candidate = self._registry.get_version(model, version)
            _check_startable(meta, candidate, expected_champion)
            check_asked(self._table, candidate)
            approval = approved(self._table, model, version)
            active = None if meta.rollout_id is None else self.get(meta.rollout_id)
            waiting = None if meta.waiting_rollout_id is None else self.get(meta.waiting_rollout_id)
            for other in (active, waiting):
                if other is not None and other.version == version:
                    raise ConflictError(
                        f"{model}@{version} is being rolled out already, by rollout "
                        f"{other.rollout_id}, which is {other.status}; abort it first, or follow it"
                    )
            queued = active is not None and plan.on_conflict == "wait"
            event = RolloutEvent.QUEUE if queued else RolloutEvent.START
            rollout = Rollout(
                rollout_id=rollout_id,
                model=model,
                version=version,
                plan=plan,
                run_id=run_id,
                created_by=actor,
                reason=reason,
                correlation_id=correlation_id,
                created_at=now,
                status=transition(None, event, rollout_id),
                champion=None if queued else meta.champion_version,
                why=f"waits for rollout {meta.rollout_id}" if queued else "",
                changed_by=actor,
                changed_at=now,
            )
            entries: list[AuditEntry] = []
            writes: list[Write] = [
                Put("rollout", rollout_key(rollout_id), from_rollout(rollout), ABSENT),
                Check(
                    "version",
                    items.version_key(model, version),
                    {"status": candidate.status.value},
                ),
                approval,
            ]
            replaced = [waiting] if queued else [active, waiting]
            for old, ended_id in zip(replaced, (ending_id, second_id), strict=False):
                if old is None:
                    continue
                ended = ending(
                    old,
                    RolloutEvent.SUPERSEDE,
                    at=now,
                    entry_id=ended_id,
                    actor=actor,
                    why=f"rollout {rollout_id} of {model}@{version} took its place",
                    correlation_id=correlation_id,
                )
                # `rollout` and the run are the new rollout's names for its writes.
                writes += [_renamed(w, old.rollout_id) for w in ended.writes]
                entries.append(ended.entry)
            entries.append(
                entry_of(
                    rollout,
                    "rollout_queued" if queued else "rollout_started",
                    before="",
                    after=rollout.status.value,
                    at=now,
                    entry_id=entry_id,
                    actor=actor,
                    why=reason,
                    facts={"weights": list(plan.weights)},
                )
            )
            pointers: dict[str, Any] = (
                {"waiting_rollout_id": rollout_id}
                if queued
                else {
                    "rollout_id": rollout_id,
                    "challenger_version": version,
                    "waiting_rollout_id": None,
                }
            )
            writes.append(_model_update(meta, pointers, now))
            if run_id:
                run = self._registry.rolling_out(run_id, candidate, rollout_id, now)
                writes += run.writes
                entries.append(run.entry)
            appended = self._ledger.append(*entries)
            writes += appended.writes
            if not queued and active is not None and active.step is not None:
                writes += self._traffic(meta, None, appended.entries[0])
            self._table.transact(writes, what)
            return rollout

        return with_fresh_reads(what, change, self._backoff)

    def begin(self, rollout_id: str, attempt: int) -> Rollout:
        """Lets a waiting rollout have its turn, if there is no other before it. Idempotent.

        Returns:
            The rollout: still waiting, running, or ended because its version is of no use any more.

        Raises:
            NotFoundError: There is no such rollout.
        """
        now = self._clock()
        entry_id = self._ids()
        what = f"begin rollout {rollout_id}"

        def change() -> Rollout:
            rollout = self.get(rollout_id)
            if rollout.status is not RolloutStatus.WAITING or rollout.attempt != attempt:
                return rollout
            meta = self._registry.get_model(rollout.model)
            if meta.rollout_id is not None:
                return rollout
            version = self._registry.get_version(rollout.model, rollout.version)
            stale = _stale(meta, version)
            if stale:
                ended = ending(
                    rollout,
                    RolloutEvent.OVERTAKE,
                    at=now,
                    entry_id=entry_id,
                    actor=WATCHER,
                    why=stale,
                )
                self._table.transact(
                    [
                        *ended.writes,
                        _model_update(meta, {"waiting_rollout_id": None}, now),
                        *self._ledger.append(ended.entry).writes,
                    ],
                    what,
                )
                return self.get(rollout_id)
            after = transition(rollout.status, RolloutEvent.BEGIN, rollout_id)
            begun = rollout.model_copy(update={"champion": meta.champion_version})
            self._table.transact(
                [
                    Update(
                        "rollout",
                        rollout_key(rollout_id),
                        {
                            "status": after.value,
                            "champion": meta.champion_version,
                            "why": "",
                            "changed_by": WATCHER,
                            "changed_at": text_of(now),
                        },
                        {"status": rollout.status.value, "attempt": attempt},
                    ),
                    Check(
                        "version",
                        items.version_key(rollout.model, rollout.version),
                        {"status": version.status.value},
                    ),
                    _model_update(
                        meta,
                        {
                            "rollout_id": rollout_id,
                            "challenger_version": rollout.version,
                            "waiting_rollout_id": None,
                        },
                        now,
                    ),
                    *self._ledger.append(
                        entry_of(
                            begun,
                            "rollout_started",
                            after=after.value,
                            at=now,
                            entry_id=entry_id,
                            actor=WATCHER,
                            facts={"weights": list(rollout.plan.weights)},
                        )
                    ).writes,
                ],
                what,
            )
            return self.get(rollout_id)

        return with_fresh_reads(what, change, self._backoff)

    # ── The machine's steps ─────────────────────────────────────────────────────────────────────

    def set_traffic(self, rollout_id: str, attempt: int, step: int) -> Rollout:
        """Gives the version the traffic of a step. Idempotent by step.

        Returns:
            The rollout; at the step, unless it is paused, at another attempt, or has ended.

        Raises:
            NotFoundError: There is no such rollout.
            ConflictError: The step is not the next one.
        """
        now = self._clock()
        entry_id = self._ids()
        what = f"set step {step} of rollout {rollout_id}"

        def change() -> Rollout:
            rollout = self.get(rollout_id)
            if (
                rollout.status is not RolloutStatus.RUNNING
                or rollout.attempt != attempt
                or rollout.step == step
            ):
                return rollout
            wanted = 0 if rollout.step is None else rollout.step + 1
            if step != wanted or step > rollout.last_step:
                raise ConflictError(
                    f"rollout {rollout_id}: expected step {wanted} of {rollout.last_step + 1} "
                    f"after step {rollout.step}, got {step}"
                )
            meta = self._registry.get_model(rollout.model)
            version = self._registry.get_version(rollout.model, rollout.version)
            version_transition(version.status, Event.PROMOTE, f"{rollout.model}@{rollout.version}")
            after = transition(rollout.status, RolloutEvent.ADVANCE, rollout_id)
            at_step = rollout.model_copy(update={"step": step})
            appended = self._ledger.append(
                entry_of(
                    at_step,
                    "rollout_step",
                    before=f"{rollout.weight:g} %",
                    after=f"{at_step.weight:g} %",
                    at=now,
                    entry_id=entry_id,
                    actor=WATCHER,
                    why="" if rollout.judgement is None else rollout.judgement.why,
                )
            )
            entry = appended.entries[0]
            steps = (
                *rollout.steps,
                RolloutStep(step=step, weight=at_step.weight, at=entry.at, sequence=entry.sequence),
            )
            self._table.transact(
                [
                    Update(
                        "rollout",
                        rollout_key(rollout_id),
                        {
                            "status": after.value,
                            "step": step,
                            "steps": [s.model_dump(mode="json") for s in steps],
                            "looks": 0,
                            "evidence": None,
                            "why": "",
                            "changed_by": WATCHER,
                            "changed_at": text_of(entry.at),
                        },
                        {
                            "status": rollout.status.value,
                            "attempt": attempt,
                            "step": rollout.step,
                        },
                    ),
                    Check("model", items.model_key(rollout.model), {"rollout_id": rollout_id}),
                    Check(
                        "version",
                        items.version_key(rollout.model, rollout.version),
                        {"status": version.status.value},
                    ),
                    *appended.writes,
                    *self._traffic(meta, (at_step, version), entry),
                ],
                what,
            )
            return self.get(rollout_id)

        return with_fresh_reads(what, change, self._backoff)

    def evidence(self, rollout_id: str) -> str:
        """What the looks at this step added up to so far, as they wrote it; empty before any."""
        item = self._table.get(rollout_key(rollout_id)) or {}
        return str(item.get("evidence", ""))

    def record_look(self, rollout: Rollout, judgement: Judgement, evidence: str) -> bool:
        """Keeps what a look found, unless somebody was faster.

        Args:
            rollout: As it was read before the look.
            judgement: What was found.
            evidence: What the looks add up to, for the next one.

        Returns:
            False when the rollout changed meanwhile: the look is to be taken again.
        """
        counted = rollout.status is RolloutStatus.RUNNING
        values: dict[str, Any] = {
            "checks": rollout.checks + 1,
            "looks": rollout.looks + (1 if counted else 0),
            "judgement": from_judgement(judgement),
            "evidence": evidence,
        }
        try:
            self._table.transact(
                [
                    Update(
                        "rollout",
                        rollout_key(rollout.rollout_id),
                        values,
                        {
                            "status": rollout.status.value,
                            "attempt": rollout.attempt,
                            "step": rollout.step,
                            "checks": rollout.checks,
                        },
                    ),
                    Put(
                        "check",
                        check_key(rollout.rollout_id, rollout.checks + 1),
                        {"judgement": from_judgement(judgement)},
                        ABSENT,
                    ),
                ],
                f"record look {rollout.checks + 1} at rollout {rollout.rollout_id}",
            )
        except (ConflictError, ConcurrentWriteError):
            return False
        return True

    def finish(self, rollout_id: str, attempt: int) -> Rollout:
        """Makes the version champion: the registry's one crowning transaction. Idempotent.

        Returns:
            The rollout: promoted, unless it was paused or ended meanwhile, or is at another attempt.

        Raises:
            NotFoundError: There is no such rollout.
            MillraceError: The registry refuses the promotion.
        """
        rollout = self.get(rollout_id)
        if rollout.status is not RolloutStatus.RUNNING or rollout.attempt != attempt:
            return rollout
        why = "" if rollout.judgement is None else rollout.judgement.why
        try:
            self._registry.promote(
                rollout.model,
                rollout.version,
                actor=WATCHER,
                reason=f"rollout {rollout_id}: {why or 'its steps were healthy'}"[:MAX_WHY],
                expected_champion=rollout.champion,
                correlation_id=rollout.correlation_id,
                by_rollout=rollout,
            )
        except (ChampionChangedError, InvalidTransitionError, ConflictError):
            again = self.get(rollout_id)
            if (again.status, again.attempt) == (rollout.status, rollout.attempt):
                raise
            return again
        return self.get(rollout_id)

    def roll_back(self, rollout_id: str, attempt: int, why: str) -> Rollout:
        """Takes the traffic back in one write, with the last look as evidence. Idempotent.

        Returns:
            The rollout: rolled back, unless it ended otherwise or is at another attempt.
        """

        def may(rollout: Rollout) -> bool:
            return rollout.status in WATCHED and rollout.attempt == attempt

        return self._end(rollout_id, RolloutEvent.ROLL_BACK, WATCHER, why, may=may)

    def hold(self, rollout_id: str, attempt: int, why: str, *, asks: bool = False) -> Rollout:
        """Keeps the traffic where it is until a person decides. Idempotent.

        Args:
            rollout_id: The rollout.
            attempt: The execution's.
            why: For people.
            asks: Whether only the promotion is left: resuming it is the answer.

        Returns:
            The rollout: held, unless it is in another state or at another attempt.
        """

        def may(rollout: Rollout) -> bool:
            return rollout.status is RolloutStatus.RUNNING and rollout.attempt == attempt

        return self._move(rollout_id, RolloutEvent.HOLD, WATCHER, why, may=may, more={"asks": asks})

    def stall(self, rollout_id: str, attempt: int, why: str) -> Rollout | None:
        """Notes that the machinery failed; the traffic stays. Idempotent.

        Returns:
            The rollout if this noted it; None when there was nothing to note.
        """
        noted = False

        def may(rollout: Rollout) -> bool:
            nonlocal noted
            noted = rollout.status in WATCHED and rollout.attempt == attempt
            return noted

        rollout = self._move(rollout_id, RolloutEvent.STALL, WATCHER, why, may=may)
        return rollout if noted else None

    def renew(self, rollout_id: str, attempt: int) -> Rollout:
        """Hands the rollout to a new execution: one has a limit of 25,000 events. Idempotent."""

        def may(rollout: Rollout) -> bool:
            return rollout.status in OPEN and rollout.attempt == attempt

        return self._move(rollout_id, RolloutEvent.RENEW, WATCHER, None, may=may, next_attempt=True)

    # ── People ──────────────────────────────────────────────────────────────────────────────────

    def pause(
        self, rollout_id: str, *, actor: str, reason: str, correlation_id: str = ""
    ) -> Rollout:
        """Keeps the traffic where it is; health is watched on.

        Raises:
            NotFoundError: There is no such rollout.
            InvalidTransitionError: It is paused already, waits, has stalled, or has ended.
        """
        return self._move(
            rollout_id, RolloutEvent.PAUSE, actor, reason, correlation_id=correlation_id
        )

    def resume(
        self,
        rollout_id: str,
        *,
        actor: str,
        reason: str,
        correlation_id: str = "",
        is_alive: Callable[[str], bool],
    ) -> Rollout:
        """Lets a new execution take a rollout up where it stands.

        Args:
            rollout_id: The rollout.
            actor: Who asks.
            reason: Why.
            correlation_id: The request's id.
            is_alive: Whether an execution of that name runs: a rollout that says it runs, and whose
                execution is gone, is taken up as well.

        Raises:
            NotFoundError: There is no such rollout.
            InvalidTransitionError: It runs, waits, or has ended.
        """
        rollout = self.get(rollout_id)
        if rollout.status in (RolloutStatus.RUNNING, RolloutStatus.WAITING) and not is_alive(
            rollout.execution
        ):
            return self.renew(rollout_id, rollout.attempt)
        return self._move(
            rollout_id,
            RolloutEvent.RESUME,
            actor,
            reason,
            correlation_id=correlation_id,
            next_attempt=True,
        )

    def abort(
        self, rollout_id: str, *, actor: str, reason: str, correlation_id: str = ""
    ) -> Rollout:
        """Takes the traffic back in one write.

        Raises:
            NotFoundError: There is no such rollout.
            InvalidTransitionError: It has ended.
        """
        return self._end(
            rollout_id, RolloutEvent.ABORT, actor, reason, correlation_id=correlation_id
        )

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────

    def _move(
        self,
        rollout_id: str,
        event: RolloutEvent,
        actor: str,
        why: str | None,
        *,
        may: Callable[[Rollout], bool] = lambda _: True,
        correlation_id: str = "",
        next_attempt: bool = False,
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> Rollout:
        """Changes a rollout's state, and no traffic."""
        now = self._clock()
        entry_id = self._ids()
        what = f"{event.value.replace('_', ' ')} rollout {rollout_id}"

        def change() -> Rollout:
            rollout = self.get(rollout_id)
            if not may(rollout):
                return rollout
            after = transition(rollout.status, event, rollout_id)
            values: dict[str, Any] = {"status": after.value, **more}
            if why is not None:
                values |= {
                    "why": why[:MAX_WHY],
                    "changed_by": actor,
                    "changed_at": text_of(now),
                }
            if next_attempt:
                values |= {"attempt": rollout.attempt + 1, "checks_before": rollout.checks}
            if event is RolloutEvent.RESUME and rollout.status is RolloutStatus.HELD:
                if rollout.asks:
                    values["go_ahead"] = True
                else:
                    values["looks"] = 0
            facts = {} if rollout.judgement is None else {"check": rollout.judgement.check}
            appended = self._ledger.append(
                entry_of(
                    rollout,
                    f"rollout_{_PAST[event]}",
                    after=after.value,
                    at=now,
                    entry_id=entry_id,
                    actor=actor,
                    why=why or "",
                    correlation_id=correlation_id,
                    facts={**facts, "attempt": values.get("attempt", rollout.attempt)},
                )
            )
            self._table.transact(
                [
                    Update(
                        "rollout",
                        rollout_key(rollout_id),
                        values,
                        {"status": rollout.status.value, "attempt": rollout.attempt},
                    ),
                    *appended.writes,
                ],
                what,
            )
            return self.get(rollout_id)

        return with_fresh_reads(what, change, self._backoff)

    def _end(
        self,
        rollout_id: str,
        event: RolloutEvent,
        actor: str,
        why: str,
        *,
        may: Callable[[Rollout], bool] = lambda _: True,
        correlation_id: str = "",
    ) -> Rollout:
        """Ends a rollout and gives its traffic back to the champion."""
        now = self._clock()
        entry_id = self._ids()
        what = f"{event.value.replace('_', ' ')} rollout {rollout_id}"

        def change() -> Rollout:
            rollout = self.get(rollout_id)
            if not may(rollout):
                return rollout
            ended = ending(
                rollout,
                event,
                at=now,
                entry_id=entry_id,
                actor=actor,
                why=why,
                correlation_id=correlation_id,
                facts=evidence_facts(rollout),
            )
            meta = self._registry.get_model(rollout.model)
            appended = self._ledger.append(ended.entry)
            writes = [*ended.writes, *appended.writes]
            if rollout.status in ACTIVE:
                pointers: dict[str, Any] = {"rollout_id": None, "challenger_version": None}
                writes.append(_model_update(meta, pointers, now, rollout_id=rollout_id))
                if rollout.step is not None:
                    writes += self._traffic(meta, None, appended.entries[0])
            else:
                waiting = {"waiting_rollout_id": rollout_id}
                writes.append(
                    Update(
                        "model",
                        items.model_key(rollout.model),
                        {"waiting_rollout_id": None, "updated_at": text_of(now)},
                        waiting,
                    )
                )
            self._table.transact(writes, what)
            return self.get(rollout_id)

        return with_fresh_reads(what, change, self._backoff)

    def _traffic(
        self,
        meta: RegisteredModel,
        share: tuple[Rollout, ModelVersion] | None,
        entry: AuditEntry,
    ) -> list[Write]:
        """The serving item with the share a rollout has from now on, and what is live."""
        serving = self._table.get(items.serving_key(meta.name))
        if serving is None or meta.champion_version is None:
            raise NoChampionError(f"model {meta.name!r} has no champion any more")
        champion = self._table.get(items.version_key(meta.name, meta.champion_version)) or {}
        route: dict[str, Any] | None = None
        live: dict[str, Any] | None = None
        if share is not None:
            rollout, version = share
            live = {
                "rollout_id": rollout.rollout_id,
                "step": rollout.step,
                "strategy": rollout.plan.strategy,
                "weight": rollout.weight,
                "version": rollout.version,
                "sha256": version.sha256,
            }
            route = live | {
                "run_id": version.run_id,
                "model_key": version.model_key,
                "signature_key": version.signature_key,
                "signature_sha256": version.signature_sha256,
                "kms_signature": version.kms_signature,
                "kms_key_id": version.kms_key_id,
            }
        return [
            Update(
                "serving",
                items.serving_key(meta.name),
                {
                    "rollout": route,
                    "sequence": entry.sequence,
                    "updated_at": text_of(entry.at),
                },
                {"version": meta.champion_version, "sequence": serving.get("sequence")},
            ),
            live_write(
                meta.name,
                at=entry.at,
                sequence=entry.sequence,
                version=meta.champion_version,
                sha256=str(serving["sha256"]),
                run_id=str(serving["run_id"]),
                rollout=live,
                approval=champion.get("approval"),
            ),
        ]


_PAST: Final = {
    RolloutEvent.PAUSE: "paused",
    RolloutEvent.RESUME: "resumed",
    RolloutEvent.HOLD: "held",
    RolloutEvent.STALL: "stalled",
    RolloutEvent.RENEW: "renewed",
}
"""What the ledger calls changes that leave the traffic alone."""


def evidence_facts(rollout: Rollout) -> dict[str, Any]:
    """The last look, as the ledger tells of it: what was found, by which test, against what."""
    last = rollout.judgement
    if last is None:
        return {}
    return {
        "check": last.check,
        "findings": [
            f.model_dump(mode="json", exclude={"figures"}) | {"figures": dict(f.figures)}
            for f in last.findings
            if f.found != "ignored"
        ][:12],
    }


def _check_startable(
    meta: RegisteredModel, version: ModelVersion, expected: int | AnyChampion | None
) -> None:
    subject = f"{meta.name}@{version.version}"
    if version.status is VersionStatus.CHAMPION:
        raise ConflictError(f"{subject} is the champion already: there is nothing to roll out")
    version_transition(version.status, Event.PROMOTE, subject)
    if meta.champion_version is None:
        raise NoChampionError(
            f"model {meta.name!r} has no champion that {subject} could be compared with: promote it"
        )
    if not isinstance(expected, AnyChampion) and meta.champion_version != expected:
        raise ChampionChangedError(
            f"expected {name_of(meta, expected)} as champion of {meta.name}, found "
            f"{name_of(meta, meta.champion_version)}"
        )


def _stale(meta: RegisteredModel, version: ModelVersion) -> str:
    """Why a rollout that waited need not begin; nothing when it may."""
    subject = f"{meta.name}@{version.version}"
    if version.status is VersionStatus.CHAMPION:
        return f"{subject} became champion meanwhile"
    if version.status is not VersionStatus.VALIDATED:
        return f"{subject} is {version.status} now"
    if meta.champion_version is None:
        return "there is no champion any more"
    if meta.champion_version > version.version:
        return f"{name_of(meta, meta.champion_version)}, which is newer, became champion meanwhile"
    return ""


def _model_update(
    meta: RegisteredModel, values: dict[str, Any], now: datetime, rollout_id: str | None = None
) -> Update:
    return Update(
        "model",
        items.model_key(meta.name),
        values | {"updated_at": text_of(now)},
        {
            "champion_version": meta.champion_version,
            "rollout_id": rollout_id or meta.rollout_id,
            "waiting_rollout_id": meta.waiting_rollout_id,
        },
    )


def _renamed(write: Write, of: str) -> Write:
    """A write under a name of its own: errors tell by it which assumption broke."""
    return replace(write, name=f"{write.name} {of}")
