"""Runs, from their cause to their outcome, with what was logged on them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from millrace.aws.dynamodb import (
    ABSENT,
    Check,
    Expected,
    OneOf,
    Put,
    Update,
)
from millrace.errors import ConditionFailedError, ConflictError, NotFoundError
from millrace.messages import IngestResult, TrialResult
from millrace.registry import items
from millrace.registry.pages import Page
from millrace.registry.records import PIPELINE, AuditEntry, Run, RunOutcome, RunStatus, TrialRecord
from millrace.registry.tracking import Tracking
from millrace.registry.writer import text_of

OPEN: Final = OneOf((RunStatus.SCHEDULED.value, RunStatus.RUNNING.value))
_MAX_TEXT: Final = 2_000


class Runs(Tracking):
    """Runs, their trials, and how they end."""

    def create_run(self, run: Run) -> bool:
        """Records a run of a model that exists. Idempotent by run id.

        Returns:
            False when the run was there already; it is left as it is.

        Raises:
            NotFoundError: There is no such model.
        """
        entry = AuditEntry(
            model=run.model,
            at=run.started_at,
            entry_id=self._ids(),
            actor=run.requested_by or PIPELINE,
            action="run_created",
            subject=run.run_id,
            after=str(run.outcome or run.status),
            reason=run.reason,
            correlation_id=run.correlation_id,
        )

        def change() -> bool:
            if self._table.get(items.run_key(run.run_id)) is not None:
                return False
            self.get_model(run.model)
            self._table.transact(
                [
                    Put("run", items.run_key(run.run_id), items.from_run(run), ABSENT),
                    Check("model", items.model_key(run.model)),
                    *self._audit(entry),
                ],
                f"create run {run.run_id}",
            )
            return True

        return self._with_fresh_reads(f"create run {run.run_id}", change)

    def start_run(self, run_id: str) -> bool:
        """Marks a scheduled run as running.

        Returns:
            False when it was running or closed already.
        """
        return self._move_run(
            run_id, {"status": RunStatus.RUNNING.value}, when={"status": RunStatus.SCHEDULED.value}
        )

    def get_run(self, run_id: str) -> Run:
        """A run with its params, metrics, tags and trials.

        Raises:
            NotFoundError: There is no such run.
        """
        # From META on: metric histories, which may be long, sort before it (docs/registry.md).
        found = self._table.query(items.run_pk(run_id), since=items.META).items
        meta = next((i for i in found if i["SK"] == items.META), None)
        if meta is None:
            raise NotFoundError(f"there is no run {run_id!r}")
        return items.to_run(meta, (i for i in found if i is not meta))

    def list_runs(self, model: str, *, limit: int = 50, token: str | None = None) -> Page[Run]:
        """Runs of a model, the newest first, without params, metrics and trials."""
        return self._list_of(
            model, items.runs_index_pk(model), items.to_run, limit, token, index=True
        )

    def finish_run(
        self,
        run_id: str,
        outcome: RunOutcome,
        *,
        reason: str = "",
        error: str = "",
        actor: str = PIPELINE,
        correlation_id: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> bool:
        """Closes an open run; a closed one keeps its outcome, so a late failure changes nothing.

        Args:
            run_id: The run.
            outcome: How it ended.
            reason: Why, for people.
            error: The error's name, if it failed.
            actor: Who closed it.
            correlation_id: The upload's or request's id; the run's own by default.
            facts: More attributes of the run's item.

        Returns:
            False when it was closed before.

        Raises:
            NotFoundError: There is no such run.
        """
        now = self._clock()
        entry_id = self._ids()

        def change() -> bool:
            run = self._run(run_id)
            if run.outcome is not None:
                return False
            self._table.transact(
                [
                    self._run_update(
                        run_id, {**(facts or {}), **closing(outcome, reason, error, now)}
                    ),
                    *self._audit(
                        run_finished(run, outcome, reason, now, entry_id, actor, correlation_id)
                    ),
                ],
                f"close run {run_id}",
            )
            return True

        return self._with_fresh_reads(f"close run {run_id}", change)

    def record_trial(self, run_id: str, trial: TrialResult) -> bool:
        """Records a trial. Idempotent by its number; only a failed trial is replaced.

        Returns:
            False when it was recorded before.
        """
        record = TrialRecord.model_validate(trial.model_dump())
        try:
            self._table.transact(
                [
                    Put(
                        "trial",
                        items.trial_key(run_id, trial.trial_id),
                        items.from_trial(record),
                        {"status": OneOf((None, "failed"))},
                    )
                ],
                f"record trial {trial.trial_id} of run {run_id}",
            )
        except ConditionFailedError:
            return False
        return True

    def record_refusal(self, run_id: str, ingest: IngestResult) -> bool:
        """Closes the run of a refused upload with what was wrong.

        Returns:
            False when the run was closed before.
        """
        return self.finish_run(
            run_id,
            RunOutcome.REFUSED,
            reason=ingest.reason,
            error=ingest.code,
            facts=upload_facts(ingest),
        )

    def _run(self, run_id: str) -> Run:
        item = self._table.get(items.run_key(run_id))
        if item is None:
            raise NotFoundError(f"there is no run {run_id!r}")
        return items.to_run(item)

    def _move_run(
        self, run_id: str, values: Mapping[str, Any], *, when: Mapping[str, Expected]
    ) -> bool:
        try:
            self._table.transact(
                [Update("run", items.run_key(run_id), values, when)], f"update run {run_id}"
            )
        except ConditionFailedError:
            self._run(run_id)
            return False
        return True

    def _run_update(self, run_id: str, values: Mapping[str, Any]) -> Update:
        return Update("run", items.run_key(run_id), values, {"status": OPEN})


def upload_facts(ingest: IngestResult) -> dict[str, Any]:
    """What a run's item says of its upload."""
    facts = ingest.model_dump(mode="json", include={"rows", "problems", "quarantine_prefix"})
    return {k: v for k, v in {**facts, "ingest_seconds": ingest.seconds}.items() if v}


def closing(outcome: RunOutcome, reason: str, error: str, now: datetime) -> dict[str, Any]:
    """Attributes that close a run."""
    status = RunStatus.FAILED if outcome is RunOutcome.FAILED else RunStatus.FINISHED
    return {
        "status": status.value,
        "outcome": outcome.value,
        "reason": reason[:_MAX_TEXT],
        "error": error[:_MAX_TEXT],
        "ended_at": text_of(now),
        "awaiting_approval": False,
    }


def run_finished(
    run: Run,
    outcome: RunOutcome,
    reason: str,
    now: datetime,
    entry_id: str,
    actor: str = PIPELINE,
    correlation_id: str = "",
) -> AuditEntry:
    return AuditEntry(
        model=run.model,
        at=now,
        entry_id=entry_id,
        actor=actor,
        action="run_finished",
        subject=run.run_id,
        before=run.status.value,
        after=outcome.value,
        reason=reason,
        correlation_id=correlation_id or run.correlation_id,
    )


def closed(run: Run) -> ConflictError:
    return ConflictError(f"run {run.run_id} is closed: {run.outcome}")
