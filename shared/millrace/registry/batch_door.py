"""The door to batch prediction: a file under ``batch/<model>/`` becomes one job.

As in `registry.door`, the order is record, start, mark as running, so that whoever comes next with
the same object takes up what was left.
"""

from collections.abc import Callable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from millrace import layout
from millrace.aws.sns import Notifier
from millrace.errors import ConflictError, InvalidEventError, NoChampionError, NotFoundError
from millrace.messages import BatchInput, SourceObject
from millrace.observability import METRICS, bind, count, logger
from millrace.registry.batches import Batches
from millrace.registry.door import (
    UNVERSIONED,
    Admission,
    AdmissionStatus,
    Executions,
    count_duplicate,
    tell_unroutable,
)
from millrace.registry.records import Batch, BatchOutcome, RunStatus
from millrace.registry.registry import Registry


class BatchRequest(BaseModel):
    """A person's wish to have an object of the data bucket scored, or to resume a job that failed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    source: SourceObject
    requested_by: str = ""


class BatchDoor:
    """Admits files to be scored.

    Args:
        registry: Knows the models and their champions.
        batches: Where jobs are recorded.
        executions: The BATCH machine.
        notifier: Told of files that lead nowhere.
        clock: Gives the time, aware and in UTC.
        concurrency: Most chunks of a job scored at once.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        batches: Batches,
        executions: Executions,
        notifier: Notifier,
        clock: Callable[[], datetime],
        concurrency: int,
    ) -> None:
        self._registry = registry
        self._batches = batches
        self._executions = executions
        self._notifier = notifier
        self._clock = clock
        self._concurrency = concurrency

    def admit_upload(self, source: SourceObject, correlation_id: str) -> Admission:
        """Starts the job of an upload. Idempotent by the object's version.

        A file that no job can be made of is no error: it is answered, counted, told to people, and
        recorded as a refused job when its model exists.

        Args:
            source: The object that was created.
            correlation_id: The event's id.
        """
        return self._admit(source, correlation_id)

    def admit_request(self, request: BatchRequest, correlation_id: str) -> Admission:
        """Starts the job of an object, or resumes it if it failed.

        Args:
            request: Who asks, and for which object.
            correlation_id: The request's id.
        """
        return self._admit(request.source, correlation_id, request.requested_by, resume=True)

    def _admit(
        self,
        source: SourceObject,
        correlation_id: str,
        requested_by: str = "",
        *,
        resume: bool = False,
    ) -> Admission:
        if source.key.endswith("/") and source.size == 0:
            return Admission(status=AdmissionStatus.IGNORED, reason="a folder marker")
        try:
            name = layout.model_of_batch(source.key)
            model = self._registry.get_model(name)
        except (InvalidEventError, NotFoundError) as exc:
            parts = source.key.split("/")
            return tell_unroutable(
                self._notifier,
                source,
                parts[1] if len(parts) > 2 else "",
                str(exc),
                leads_to="batch job",
            )
        batch_id = self._batch_id(name, source)
        bind(correlation_id=correlation_id, run_id=batch_id, model=name)
        batch = Batch(
            batch_id=batch_id,
            model=name,
            correlation_id=correlation_id,
            source=source,
            spec_version=model.spec_version,
            spec_digest=model.spec_digest,
            concurrency=self._concurrency,
            requested_by=requested_by,
            created_at=self._clock(),
            status=RunStatus.SCHEDULED,
            execution_arn=self._execution_arn(batch_id, 1),
        )
        if not source.key.lower().endswith(layout.SUPPORTED_SUFFIXES):
            reason = (
                f"{source.key} ends in none of {', '.join(layout.SUPPORTED_SUFFIXES)}, so that its "
                "format is unknown"
            )
            return self._refuse(batch, "unsupported_suffix", reason)
        return self._start(batch, resume=resume)

    def _batch_id(self, model: str, source: SourceObject) -> str:
        """The job's id: of the key, if it names one whose file this is; else of the version."""
        version = source.version_id if source.version_id not in UNVERSIONED else ""
        reserved = layout.reserved_batch_id(model, source.key)
        if reserved:
            try:
                known = self._batches.get(reserved).source
            except NotFoundError:
                return reserved
            if (known.version_id, known.etag) == (source.version_id, source.etag):
                return reserved
        return layout.batch_id_for(
            model, source.bucket, source.key, version or f"etag:{source.etag}"
        )

    def _execution_arn(self, batch_id: str, attempt: int) -> str:
        return self._executions.execution_arn(layout.batch_execution(batch_id, attempt))

    def _start(self, wanted: Batch, *, resume: bool) -> Admission:
        try:
            batch, created = self._recorded(wanted)
        except NoChampionError as exc:
            return self._refuse(
                wanted, "no_champion", f"{exc}: train one, then upload the file again"
            )
        if not created:
            if resume and batch.status is RunStatus.FAILED:
                batch = self._resumed(batch, wanted)
            elif batch.status is not RunStatus.SCHEDULED:
                return _duplicate(batch)
            else:
                logger.info("a scheduled batch job is taken up again")
        name = layout.batch_execution(batch.batch_id, batch.attempt)
        started = self._executions.start(name, batch_input(batch).model_dump_json())
        self._batches.start(batch.batch_id, batch.attempt)
        if not started.started:
            return _duplicate(batch)
        logger.info(
            "batch job started",
            execution_arn=started.execution_arn,
            version=batch.version,
            attempt=batch.attempt,
        )
        return Admission(
            status=AdmissionStatus.STARTED,
            run_id=batch.batch_id,
            model=batch.model,
            started=True,
        )

    def _recorded(self, wanted: Batch) -> tuple[Batch, bool]:
        """The job as it is recorded, and whether it was recorded now.

        The version is the champion of this moment: a promotion between reading and recording makes
        the record fail, and the new champion is taken.
        """
        for _ in range(3):
            try:
                return self._batches.get(wanted.batch_id), False
            except NotFoundError:
                serving = self._registry.get_serving(wanted.model)
            pinned = wanted.model_copy(
                update={
                    "version": serving.version,
                    "model_key": serving.model_key,
                    "sha256": serving.sha256,
                    "signature_key": serving.signature_key,
                    "signature_sha256": serving.signature_sha256,
                    "kms_signature": serving.kms_signature,
                    "kms_key_id": serving.kms_key_id,
                }
            )
            try:
                if self._batches.create(pinned):
                    return pinned, True
            except ConflictError:
                logger.info("the champion changed while a batch job was recorded")
        return self._batches.get(wanted.batch_id), False

    def _resumed(self, batch: Batch, wanted: Batch) -> Batch:
        resumed = self._batches.resume(
            batch.batch_id,
            actor=wanted.requested_by,
            execution_arn=lambda attempt: self._execution_arn(batch.batch_id, attempt),
        )
        logger.info("a failed batch job is resumed", attempt=resumed.attempt)
        return resumed

    def _refuse(self, batch: Batch, error: str, reason: str) -> Admission:
        """A file for a model that exists, which cannot be scored."""
        closed = batch.model_copy(
            update={
                "status": RunStatus.FINISHED,
                "outcome": BatchOutcome.REFUSED,
                "reason": reason,
                "error": error,
                "execution_arn": "",
                "ended_at": batch.created_at,
            }
        )
        if not self._batches.create(closed):
            return _duplicate(batch)
        count(METRICS.BATCHES_REFUSED, model=batch.model)
        return tell_unroutable(
            self._notifier,
            batch.source,
            batch.model,
            reason,
            leads_to="batch job",
            run_id=batch.batch_id,
        )


def batch_input(batch: Batch) -> BatchInput:
    """The BATCH machine's input: a pure function of the job as it was recorded."""
    return BatchInput(
        batch_id=batch.batch_id,
        attempt=batch.attempt,
        model=batch.model,
        correlation_id=batch.correlation_id,
        version=batch.version or 0,
        model_key=batch.model_key,
        sha256=batch.sha256,
        signature_key=batch.signature_key,
        signature_sha256=batch.signature_sha256,
        kms_signature=batch.kms_signature,
        kms_key_id=batch.kms_key_id,
        spec_version=batch.spec_version,
        spec_key=layout.spec_key(batch.model, batch.spec_digest),
        spec_digest=batch.spec_digest,
        source=batch.source,
        created_at=batch.created_at.isoformat(),
        concurrency=batch.concurrency,
        requested_by=batch.requested_by,
    )


def _duplicate(batch: Batch) -> Admission:
    count_duplicate(batch.model)
    return Admission(
        status=AdmissionStatus.DUPLICATE,
        run_id=batch.batch_id,
        model=batch.model,
        reason=f"batch job {batch.batch_id} was there already",
    )
