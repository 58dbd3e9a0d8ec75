"""How the champion changes: promotions and rollbacks, each one transaction."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from millrace.aws.dynamodb import Put, Update, Write
from millrace.errors import ConflictError, NotFoundError
from millrace.messages import Promotion
from millrace.registry import items
from millrace.registry.approvals import (
    PENDING,
    check_asked,
    decided_by_promotion,
    decision_entry,
    decision_write,
    reference_to,
)
from millrace.registry.champions import (
    ANY_CHAMPION,
    CROWNINGS,
    AnyChampion,
    check_answerable,
    check_expectation,
    crowning_event,
    is_repeated,
    name_of,
    promotion_of,
    step_back,
)
from millrace.registry.live import live_write
from millrace.registry.records import (
    CHAMPION,
    AuditEntry,
    ModelVersion,
    RegisteredModel,
    Run,
    RunOutcome,
    ServingRecord,
    VersionStatus,
)
from millrace.registry.rollout_records import Rollout, ended_by
from millrace.registry.runs import closed, closing, run_finished
from millrace.registry.states import Event, transition
from millrace.registry.versions import Versions, told_by
from millrace.registry.writer import text_of


class ClosedRun(NamedTuple):
    """The writes that close a run, and what the ledger says of it."""

    writes: list[Write]
    entry: AuditEntry


class Crown(Versions):
    """Promotions and rollbacks."""

    def promote(
        self,
        model: str,
        version: int,
        *,
        actor: str,
        reason: str = "",
        expected_champion: int | AnyChampion | None = ANY_CHAMPION,
        force: bool = False,
        correlation_id: str = "",
        finishing_run: str | None = None,
        by_rollout: Rollout | None = None,
    ) -> Promotion:
        """Makes a version the champion and archives the one before, in one transaction.

        Idempotent with an expectation: when the version is champion already, the same promotion is
        given again.

        Args:
            model: The model.
            version: The version.
            actor: Who promotes it.
            reason: Why; needed with ``force``.
            expected_champion: The champion the decision was made against, None for no champion.
                By default the one the version was compared with; with ``force``, whoever is
                champion now.
            force: Promote a version that did not pass its gates; needs a named actor and a reason.
            correlation_id: The request's or upload's id.
            finishing_run: A run that this closes as promoted, in the same transaction.
            by_rollout: The rollout that ends with this; any other that is under way is overtaken.

        Raises:
            NotFoundError: There is no such model or version.
            InvalidTransitionError: The version's state does not allow it.
            ChampionChangedError: The champion is not the expected one.
            ConflictError: The version is champion already, and no expectation was given; the run to
                finish is closed; or nobody was asked about an imported version.
            NotApproverError: The version waits for approval, and the actor may not approve it.
            InvalidEventError: ``force`` without a named actor or a reason.
        """
        if force:
            check_answerable(actor, reason, f"promote {model}@{version} by force")

        return self._crown(
            model,
            version,
            restore=False,
            actor=actor,
            reason=reason,
            expected_champion=expected_champion,
            force=force,
            correlation_id=correlation_id,
            finishing_run=finishing_run,
            by_rollout=by_rollout,
        )

    def rollback(
        self,
        model: str,
        *,
        actor: str,
        reason: str,
        to: int | None = None,
        expected_champion: int | AnyChampion | None = ANY_CHAMPION,
        force: bool = False,
        correlation_id: str = "",
    ) -> Promotion:
        """Brings an archived version back as champion.

        By default the one that the champion replaced when it was promoted, so that two rollbacks
        go two steps back. A rollout that is under way is aborted in the same write. Idempotent with
        an expectation.

        Args:
            model: The model.
            actor: Who rolls back.
            reason: Why.
            to: The version to go back to.
            expected_champion: The champion to get rid of; without it, whoever is champion now.
            force: Go back to a version that failed its gates; needs a named actor and a reason.
            correlation_id: The request's id.

        Raises:
            NotFoundError: There is no such model or version.
            NoChampionError: The model has no champion to roll back from.
            ConflictError: There is nowhere to go back to, or the version failed its gates.
            InvalidTransitionError: The version never was champion.
            ChampionChangedError: The champion is not the expected one.
            InvalidEventError: ``force`` without a named actor or a reason.
        """
        if force:
            check_answerable(actor, reason, f"roll {model} back by force")

        return self._crown(
            model,
            to,
            restore=True,
            actor=actor,
            reason=reason,
            expected_champion=expected_champion,
            force=force,
            correlation_id=correlation_id,
            finishing_run=None,
        )

    def _crown(
        self,
        model: str,
        target: int | None,
        *,
        restore: bool,
        actor: str,
        reason: str,
        expected_champion: int | AnyChampion | None,
        force: bool,
        correlation_id: str,
        finishing_run: str | None,
        by_rollout: Rollout | None = None,
    ) -> Promotion:
        """The one way a champion changes. Without a target a rollback goes one step back."""
        now = self._clock()
        change_id, closed_id, ended_id = self._ids(), self._ids(), self._ids()
        answered_id = self._ids()
        what = f"roll {model} back" if restore else f"promote {model}@{target}"

        def change() -> Promotion:
            meta = self.get_model(model)
            alias = self._table.get(items.alias_key(model, CHAMPION))
            run = None if finishing_run is None else self._run(finishing_run)
            if alias is not None and is_repeated(
                alias, change_id, target, expected_champion, restore
            ):
                if run is not None and run.outcome is None:
                    self._close_promoted(run, reason, now, closed_id, what)
                return promotion_of(alias)
            if run is not None and run.outcome is RunOutcome.PROMOTED and target is not None:
                stored = self._table.get(items.version_key(model, target)) or {}
                return Promotion(version=target, previous=stored.get("predecessor"))
            if run is not None and run.outcome is not None:
                raise closed(run)
            number = step_back(meta) if target is None else target
            item = self._table.get(items.version_key(model, number))
            if item is None:
                raise NotFoundError(f"model {model!r} has no version {number}")
            version = items.to_version(item)
            event = crowning_event(meta, version, restore=restore, force=force)
            check_expectation(meta, version, event, expected_champion, force)
            entry = AuditEntry(
                model=model,
                at=now,
                entry_id=change_id,
                actor=actor,
                action=CROWNINGS[event],
                subject=f"{model}@{number}",
                before=name_of(meta, meta.champion_version),
                after=f"{model}@{number}",
                reason=reason,
                correlation_id=correlation_id or version.correlation_id,
                facts={"sha256": version.sha256, "run_id": version.run_id},
            )
            answer = None
            if not restore and not by_rollout:
                check_asked(self._table, version)
                answer = decided_by_promotion(
                    self._table, model, number, actor=actor, reason=reason, now=now
                )
            # A promotion by hand also answers the request that waits, and closes its run.
            waiting = self._run(version.run_id) if answer is not None and run is None else run
            ending = waiting if waiting is not None and waiting.outcome is None else None
            told = [entry]
            if answer is not None:
                told.append(decision_entry(answer, entry_id=answered_id, before=PENDING))
            if ending is not None:
                told.append(run_finished(ending, RunOutcome.PROMOTED, reason, now, closed_id))
            ended = ended_by(self._table, meta, number, restore, by_rollout, entry, ended_id)
            if ended is not None:
                told.append(ended.entry)
            appended = self._ledger.append(*told)
            predecessor = item.get("predecessor") if restore else meta.champion_version
            approval = item.get("approval") if answer is None else reference_to(answer)
            writes = self._crowning_writes(
                meta, version, event, predecessor, appended.entries[0], approval
            )
            if answer is not None:
                writes.append(decision_write(answer, before=PENDING))
            if ending is not None:
                writes += self._promoted_writes(ending, version, reason, now)
            if ended is not None:
                writes += ended.writes
            self._table.transact([*writes, *appended.writes], what)
            return Promotion(version=number, previous=meta.champion_version)

        return self._with_fresh_reads(what, change)

    def _crowning_writes(
        self,
        meta: RegisteredModel,
        version: ModelVersion,
        event: Event,
        predecessor: int | None,
        entry: AuditEntry,
        approval: Mapping[str, Any] | None,
    ) -> list[Write]:
        """Alias, serving item, model and both versions: all name the same champion, or none does.

        Args:
            meta: The model as it was read.
            version: The version that becomes champion.
            event: By what.
            predecessor: Where a rollback from it leads.
            entry: The change's audit entry, as it stands in the ledger.
            approval: Who approved the version, if somebody did.
        """
        model, number, champion = meta.name, version.version, meta.champion_version
        now = text_of(entry.at)
        serving = ServingRecord.from_item(
            {
                **version.model_dump(exclude={"updated_at"}),
                "updated_at": entry.at,
                "capture_rate": meta.capture_rate,
                "sequence": entry.sequence,
            }
        )
        after = transition(version.status, event, entry.subject)
        writes: list[Write] = [
            Put(
                "alias",
                items.alias_key(model, CHAMPION),
                {
                    "model": model,
                    "alias": CHAMPION,
                    "version": number,
                    "run_id": version.run_id,
                    "previous": champion,
                    "restored": event is Event.RESTORE,
                    "change_id": entry.entry_id,
                    "actor": entry.actor,
                    "updated_at": now,
                    **told_by(entry),
                },
                {"version": champion},
            ),
            Put(
                "serving",
                items.serving_key(model),
                serving.to_item(),
                {"version": champion},
            ),
            Update(
                "model",
                items.model_key(model),
                {
                    "champion_version": number,
                    "previous_champion_version": predecessor,
                    "rollout_id": None,
                    "challenger_version": None,
                    "updated_at": now,
                },
                {
                    "champion_version": champion,
                    "spec_version": meta.spec_version,
                    "rollout_id": meta.rollout_id,
                },
            ),
            Update(
                "version",
                items.version_key(model, number),
                {
                    "status": after.value,
                    "predecessor": predecessor,
                    "approval": approval,
                    "updated_at": now,
                    **told_by(entry),
                },
                {"status": version.status.value},
            ),
            live_write(
                model,
                at=entry.at,
                sequence=entry.sequence,
                version=number,
                sha256=version.sha256,
                run_id=version.run_id,
                approval=approval,
            ),
        ]
        if champion is not None:
            demoted = transition(VersionStatus.CHAMPION, Event.DEMOTE, f"{model}@{champion}")
            writes.append(
                Update(
                    "old champion",
                    items.version_key(model, champion),
                    {"status": demoted.value, "updated_at": now, **told_by(entry)},
                    {"status": VersionStatus.CHAMPION.value},
                )
            )
        return writes

    def rolling_out(
        self, run_id: str, version: ModelVersion, rollout_id: str, now: datetime
    ) -> ClosedRun:
        """The writes that close a run whose version is rolled out, for the rollout's transaction.

        Args:
            run_id: The run.
            version: Its version.
            rollout_id: The rollout.
            now: When.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: It is closed.
        """
        run = self._run(run_id)
        if run.outcome is not None:
            raise closed(run)
        outcome, reason = RunOutcome.ROLLING_OUT, f"rollout {rollout_id}"
        facts = {**closing(outcome, reason, "", now), "rollout_id": rollout_id}
        return ClosedRun(
            [self._run_update(run_id, facts), self._trained(run, version, outcome)],
            run_finished(run, outcome, reason, now, self._ids()),
        )

    def _promoted_writes(
        self, run: Run, version: ModelVersion, reason: str, now: datetime
    ) -> list[Write]:
        outcome = RunOutcome.PROMOTED
        return [
            self._run_update(run.run_id, closing(outcome, reason, "", now)),
            self._trained(run, version, outcome),
        ]

    def _close_promoted(
        self, run: Run, reason: str, now: datetime, entry_id: str, what: str
    ) -> None:
        if run.model_version is None:
            raise ConflictError(f"run {run.run_id} made no version that could be promoted")
        version = self.get_version(run.model, run.model_version)
        entry = run_finished(run, RunOutcome.PROMOTED, reason, now, entry_id)
        self._table.transact(
            [*self._promoted_writes(run, version, reason, now), *self._audit(entry)], what
        )
