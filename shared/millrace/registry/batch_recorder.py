"""What the registry function does for each task of the BATCH machine.

A task is a change of the registry, then the notice and the metric of it, as in `registry.recorder`.
"""

from typing import Any, Literal

from millrace.aws.sns import Notice, Notifier
from millrace.errors import ConflictError, NotFoundError
from millrace.layout import batch_execution
from millrace.messages import (
    BatchInput,
    RecordBatchFailureTask,
    RecordBatchRefusalTask,
    RecordBatchSplitTask,
    RecordBatchTask,
)
from millrace.observability import METRICS, count, logger
from millrace.registry.batches import Batches
from millrace.registry.recorder import ENDED_BADLY, MAX_CAUSE
from millrace.registry.records import BatchOutcome


class BatchRecorder:
    """Records a batch job as it goes.

    Args:
        batches: The jobs.
        notifier: Told of every end of a job.
    """

    def __init__(self, *, batches: Batches, notifier: Notifier) -> None:
        self._batches = batches
        self._notifier = notifier

    def record_split(self, task: RecordBatchSplitTask) -> None:
        """Notes how many rows and chunks there are. Idempotent by job and attempt."""
        self._batches.record_split(task.batch_id, task.attempt, task.split)

    def record_refusal(self, task: RecordBatchRefusalTask) -> None:
        """Closes a job whose file cannot be scored. Idempotent by job."""
        split = task.split
        self._batches.finish(
            task.batch_id,
            task.attempt,
            BatchOutcome.REFUSED,
            result=split,
            reason=split.reason,
            error=split.code,
        )
        self._tell_refused(task, split.reason, split.code, split.rows.model_dump())

    def record(self, task: RecordBatchTask) -> None:
        """Closes a job that went through. Idempotent by job.

        Raises:
            ConflictError: It is another attempt's, or was closed in another way.
        """
        made = task.finish
        outcome = BatchOutcome(made.outcome)
        closed = self._batches.finish(
            task.batch_id,
            task.attempt,
            outcome,
            result=made,
            reason=made.reason,
            error=made.code,
        )
        if not closed and self._batches.get(task.batch_id).outcome is not outcome:
            raise ConflictError(
                f"batch job {task.batch_id} is not at attempt {task.attempt} any more"
            )
        if outcome is BatchOutcome.REFUSED:
            self._tell_refused(task, made.reason, made.code, made.rows.model_dump())
            return
        count(METRICS.BATCHES_FINISHED, model=task.model)
        rows = made.rows
        self._tell(
            task,
            BatchOutcome.SCORED,
            f"{rows.accepted:,} rows scored by {task.model}@{task.version}"
            + (f", {rows.quarantined:,} quarantined" if rows.quarantined else ""),
            rows=rows.model_dump(),
            warnings=[w.model_dump() for w in made.warnings[:20]],
            predictions=made.predictions_key,
            manifest=made.manifest_key,
        )

    def record_failure(self, task: RecordBatchFailureTask) -> None:
        """Closes the job as failed, unless it was closed before."""
        cause = task.failure.Cause[:MAX_CAUSE]
        self._fail(task.batch_id, task.model, task.attempt, task.failure.Error, cause)

    def execution_ended_badly(
        self,
        *,
        execution: str,
        status: Literal["FAILED", "TIMED_OUT", "ABORTED"],
        error: str,
        cause: str,
    ) -> bool:
        """Closes the job of an execution that could not do so itself.

        Returns:
            False when it was closed before, is at a later attempt, or there is no such job.
        """
        batch_id, _, suffix = execution.rpartition("-")
        attempt = int(suffix) if suffix.isdecimal() and len(suffix) < 6 else 1
        if execution != batch_execution(batch_id, attempt) or attempt == 1:
            batch_id, attempt = execution, 1
        try:
            batch = self._batches.get(batch_id)
        except NotFoundError:
            logger.warning("an execution without a batch job ended badly", execution=execution)
            return False
        reason = ENDED_BADLY[status] + (f": {cause[:MAX_CAUSE]}" if cause else "")
        return self._fail(batch_id, batch.model, attempt, error or status, reason)

    def _fail(self, batch_id: str, model: str, attempt: int, error: str, reason: str) -> bool:
        closed = self._batches.finish(
            batch_id, attempt, BatchOutcome.FAILED, reason=reason, error=error
        )
        if closed:
            count(METRICS.BATCHES_FAILED, model=model)
            logger.error("batch job failed", error=error)
            self._notifier.notify(
                Notice(
                    model=model,
                    event="batch_failed",
                    subject=f"{model}: batch prediction failed with {error or 'an unnamed error'}",
                    details={
                        "batch_id": batch_id,
                        "error": error,
                        "reason": reason,
                        "resume": "ask for the same object again: what was scored is kept",
                    },
                )
            )
        return closed

    def _tell_refused(self, task: BatchInput, reason: str, code: str, rows: dict[str, int]) -> None:
        count(METRICS.BATCHES_REFUSED, model=task.model)
        self._tell(
            task,
            BatchOutcome.REFUSED,
            f"batch file refused: {reason}",
            key=task.source.key,
            code=code,
            rows=rows,
        )

    def _tell(self, task: BatchInput, outcome: BatchOutcome, summary: str, **facts: Any) -> None:
        logger.info("batch job ends", outcome=outcome.value)
        self._notifier.notify(
            Notice(
                model=task.model,
                event=f"batch_{outcome.value}",
                subject=f"{task.model}: {summary}",
                details={
                    "batch_id": task.batch_id,
                    "correlation_id": task.correlation_id,
                    "outcome": outcome.value,
                    "version": task.version,
                    **facts,
                },
            )
        )
