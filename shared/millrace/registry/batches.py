"""Batch jobs in the registry: every change conditional, audited, and repeated without harm.

========= ============================ =========
state     what happens                 next
========= ============================ =========
(none)    the door records it          SCHEDULED, or FINISHED when it can only be refused
SCHEDULED its execution started        RUNNING
SCHEDULED,
RUNNING   it ends: scored, refused     FINISHED
SCHEDULED,
RUNNING   it ends: failed              FAILED
FAILED    somebody resumes it          SCHEDULED, one attempt further
FAILED    its own execution is redriven
          and ends after all           FINISHED
========= ============================ =========

Every write names the attempt it belongs to: what an earlier attempt still says changes nothing.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from millrace.aws.dynamodb import (
    ABSENT,
    Check,
    DynamoTable,
    Expected,
    OneOf,
    Put,
    Table,
    Update,
    Write,
)
from millrace.errors import (
    ConditionFailedError,
    ConflictError,
    InvalidTransitionError,
    NotFoundError,
)
from millrace.messages import FinishResult, SplitResult
from millrace.registry import items
from millrace.registry.changes import BACKOFF, Backoff, list_page, with_fresh_reads
from millrace.registry.ledger import Ledger
from millrace.registry.pages import Page
from millrace.registry.records import (
    PIPELINE,
    AuditEntry,
    Batch,
    BatchOutcome,
    RunStatus,
)
from millrace.registry.registry import Registry

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

_OPEN: Final = (RunStatus.SCHEDULED, RunStatus.RUNNING)
_MAX_TEXT: Final = 2_000

BEFORE: Final[Mapping[BatchOutcome, tuple[RunStatus, ...]]] = {
    BatchOutcome.SCORED: (*_OPEN, RunStatus.FAILED),
    BatchOutcome.REFUSED: (*_OPEN, RunStatus.FAILED),
    BatchOutcome.FAILED: _OPEN,
}
"""The states in which a job may end in an outcome."""


def open_batches(client: "DynamoDBClient", table_name: str) -> "Batches":
    """The batch jobs on a real table, with the real clock and ids."""
    table = DynamoTable(client, table_name)

    def clock() -> datetime:
        # nosemgrep: clock-read-in-the-domain -- the composition: everything inside takes a clock
        return datetime.now(UTC)

    def ids() -> str:
        return uuid.uuid4().hex

    return Batches(table, Registry(table, clock=clock, ids=ids), clock=clock, ids=ids)


class Batches:
    """Batch jobs and their audit.

    Args:
        table: The table.
        registry: Knows the models.
        clock: Gives the time of a change, aware and in UTC.
        ids: Gives the ids of audit entries, never the same twice.
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
        self._ledger = Ledger(table)
        self._backoff = backoff
        self._registry = registry
        self._clock = clock
        self._ids = ids

    def create(self, batch: Batch) -> bool:
        """Records a job of a model that exists. Idempotent by its id.

        Returns:
            False when the job was there already; it is left as it is.

        Raises:
            NotFoundError: There is no such model.
            ConflictError: The version it is pinned to is not the champion any more.
        """
        entry_id = self._ids()

        def change() -> bool:
            if self._table.get(items.batch_key(batch.batch_id)) is not None:
                return False
            self._registry.get_model(batch.model)
            writes: list[Write] = [
                Put("batch", items.batch_key(batch.batch_id), items.from_batch(batch), ABSENT),
                Check("model", items.model_key(batch.model)),
                *self._audit(
                    batch,
                    "batch_created",
                    entry_id,
                    at=batch.created_at,
                    after=str(batch.outcome or batch.status),
                    reason=batch.reason,
                    actor=batch.requested_by or PIPELINE,
                ),
            ]
            if batch.version is not None:
                champion = self._registry.get_serving(batch.model).version
                if champion != batch.version:
                    raise ConflictError(
                        f"batch job {batch.batch_id} was to be scored by {batch.model}@"
                        f"{batch.version}, and {batch.model}@{champion} is champion now"
                    )
                pinned: dict[str, Expected] = {"version": batch.version}
                writes.append(Check("serving", items.serving_key(batch.model), pinned))
            self._table.transact(writes, f"create batch job {batch.batch_id}")
            return True

        return with_fresh_reads(f"create batch job {batch.batch_id}", change, self._backoff)

    def get(self, batch_id: str) -> Batch:
        """A job.

        Raises:
            NotFoundError: There is no such job.
        """
        item = self._table.get(items.batch_key(batch_id))
        if item is None:
            raise NotFoundError(f"there is no batch job {batch_id!r}")
        return items.to_batch(item)

    def list(self, model: str, *, limit: int = 50, token: str | None = None) -> Page[Batch]:
        """A model's jobs, the newest first.

        Raises:
            NotFoundError: There is no such model.
        """
        page = list_page(
            self._table, items.batches_index_pk(model), items.to_batch, limit, token, index=True
        )
        if not page.items and not token:
            self._registry.get_model(model)
        return page

    def start(self, batch_id: str, attempt: int) -> bool:
        """Marks a scheduled job as running.

        Returns:
            False when it was running or closed already.
        """
        return self._update(
            batch_id,
            {"status": RunStatus.RUNNING.value},
            {"status": RunStatus.SCHEDULED.value, "attempt": attempt},
        )

    def record_split(self, batch_id: str, attempt: int, split: SplitResult) -> bool:
        """Notes how many rows and chunks a job has.

        Returns:
            False when the job is closed, or at another attempt.
        """
        facts = split.model_dump(mode="json", include={"rows", "problems", "quarantine_key"})
        facts["report_key"] = split.report_key
        return self._update(
            batch_id,
            {**facts, "chunks": len(split.chunks)},
            {"status": OneOf(tuple(s.value for s in _OPEN)), "attempt": attempt},
        )

    def finish(
        self,
        batch_id: str,
        attempt: int,
        outcome: BatchOutcome,
        *,
        result: FinishResult | SplitResult | None = None,
        reason: str = "",
        error: str = "",
    ) -> bool:
        """Closes a job; one that ended keeps its outcome, unless it failed and ended well after all.

        Args:
            batch_id: The job.
            attempt: Which attempt ended.
            outcome: How.
            result: What it gave.
            reason: Why, for people.
            error: The error's name, if it failed.

        Returns:
            False when it was closed before, or is at another attempt.

        Raises:
            NotFoundError: There is no such job.
        """
        now = self._clock()
        entry_id = self._ids()

        def change() -> bool:
            batch = self.get(batch_id)
            if batch.attempt != attempt or batch.status not in BEFORE[outcome]:
                return False
            failed = outcome is BatchOutcome.FAILED
            status = RunStatus.FAILED if failed else RunStatus.FINISHED
            values: dict[str, Any] = {
                **_facts(result),
                "status": status.value,
                "outcome": outcome.value,
                "reason": reason[:_MAX_TEXT],
                "error": error[:_MAX_TEXT],
                "ended_at": now.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            }
            self._table.transact(
                [
                    Update(
                        "batch",
                        items.batch_key(batch_id),
                        values,
                        {"status": batch.status.value, "attempt": attempt},
                    ),
                    *self._audit(
                        batch,
                        "batch_finished",
                        entry_id,
                        at=now,
                        before=batch.status.value,
                        after=outcome.value,
                        reason=reason[:_MAX_TEXT],
                    ),
                ],
                f"close batch job {batch_id}",
            )
            return True

        return with_fresh_reads(f"close batch job {batch_id}", change, self._backoff)

    def resume(self, batch_id: str, *, actor: str, execution_arn: Callable[[int], str]) -> Batch:
        """Opens a failed job again, for its next attempt.

        Args:
            batch_id: The job.
            actor: Who asks.
            execution_arn: Gives the execution of an attempt.

        Returns:
            The job as it is now.

        Raises:
            NotFoundError: There is no such job.
            InvalidTransitionError: It has not failed.
        """
        now = self._clock()
        entry_id = self._ids()

        def change() -> Batch:
            batch = self.get(batch_id)
            if batch.status is not RunStatus.FAILED:
                raise InvalidTransitionError(
                    f"cannot resume batch job {batch_id}: it is {batch.status.lower()}, and only "
                    "a failed job is resumed"
                )
            attempt = batch.attempt + 1
            values: dict[str, Any] = {
                "status": RunStatus.SCHEDULED.value,
                "outcome": None,
                "reason": "",
                "error": "",
                "ended_at": None,
                "attempt": attempt,
                "execution_arn": execution_arn(attempt),
            }
            self._table.transact(
                [
                    Update(
                        "batch",
                        items.batch_key(batch_id),
                        values,
                        {"status": RunStatus.FAILED.value, "attempt": batch.attempt},
                    ),
                    *self._audit(
                        batch,
                        "batch_resumed",
                        entry_id,
                        at=now,
                        before=batch.status.value,
                        after=f"attempt {attempt}",
                        actor=actor or PIPELINE,
                    ),
                ],
                f"resume batch job {batch_id}",
            )
            return self.get(batch_id)

        return with_fresh_reads(f"resume batch job {batch_id}", change, self._backoff)

    def _update(
        self, batch_id: str, values: Mapping[str, Any], when: Mapping[str, Expected]
    ) -> bool:
        try:
            self._table.transact(
                [Update("batch", items.batch_key(batch_id), values, when)],
                f"update batch job {batch_id}",
            )
        except ConditionFailedError:
            self.get(batch_id)
            return False
        return True

    def _audit(
        self,
        batch: Batch,
        action: str,
        entry_id: str,
        *,
        at: datetime,
        after: str,
        before: str = "",
        reason: str = "",
        actor: str = PIPELINE,
    ) -> Sequence[Write]:
        return self._ledger.append(
            AuditEntry(
                model=batch.model,
                at=at,
                entry_id=entry_id,
                actor=actor,
                action=action,
                subject=batch.batch_id,
                before=before,
                after=after,
                reason=reason,
                correlation_id=batch.correlation_id,
            )
        ).writes


def _facts(result: FinishResult | SplitResult | None) -> dict[str, Any]:
    """What a job's item says of its results."""
    if result is None:
        return {}
    return result.model_dump(
        mode="json",
        include={
            "rows",
            "problems",
            "warnings",
            "predictions_key",
            "manifest_key",
            "summary_key",
            "quarantine_key",
            "report_key",
        },
    )
