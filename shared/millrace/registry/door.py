"""The one door to a training: every cause enters here, is recorded, and starts one execution.

The order is record, start, mark as running. A run that is recorded and still scheduled did not get
further, so whoever comes next with the same cause starts it; Step Functions refuses a second
execution of its name.
"""

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from millrace import layout
from millrace.aws.sns import Notice, Notifier
from millrace.aws.stepfunctions import Started
from millrace.errors import InvalidEventError, NotFoundError
from millrace.messages import Cause, LabelledSpan, SourceObject, TrainingInput
from millrace.observability import METRICS, bind, count, logger
from millrace.registry.records import DatasetVersion, RegisteredModel, Run, RunOutcome, RunStatus
from millrace.registry.registry import Registry


class Executions(Protocol):
    """What the door needs of the state machine."""

    def start(self, name: str, payload: str) -> Started:
        """Starts the execution of that name, unless there is one."""
        ...

    def execution_arn(self, name: str) -> str:
        """The ARN of the execution of that name."""
        ...


class AdmissionStatus(StrEnum):
    """What became of a cause."""

    STARTED = "started"
    DUPLICATE = "duplicate"
    UNROUTABLE = "unroutable"
    IGNORED = "ignored"


class Admission(BaseModel):
    """The door's answer."""

    model_config = ConfigDict(frozen=True)

    status: AdmissionStatus
    run_id: str = ""
    model: str = ""
    started: bool = False
    """Whether this call started the execution."""
    reason: str = ""


class RetrainRequest(BaseModel):
    """A person's or an alarm's wish to train on the latest dataset version again.

    Attributes:
        model: The model.
        token: The caller's idempotency token: the same token is the same run; a drift episode's id.
        reason: Why.
        requested_by: Who asks.
        cause: A person's wish, or an alarm's.
        labelled: Whether labels that came since are taken in with their predictions.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    token: str
    reason: str = ""
    requested_by: str = ""
    cause: Literal[Cause.RETRAIN, Cause.DRIFT] = Cause.RETRAIN
    labelled: bool = False


CALENDAR: Final = "calendar"
"""Who asks for a training by the spec's calendar, as the audit writes it."""

UNVERSIONED: Final = ("", "null")
"""Version ids of an object in a bucket without versioning."""


class Door:
    """Admits uploads and retraining requests.

    Args:
        registry: Where runs are recorded.
        executions: The TRAINING machine.
        notifier: Told of uploads that lead nowhere.
        clock: Gives the time, aware and in UTC.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        executions: Executions,
        notifier: Notifier,
        clock: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._executions = executions
        self._notifier = notifier
        self._clock = clock

    def admit_upload(self, source: SourceObject, correlation_id: str) -> Admission:
        """Starts the training of an upload. Idempotent by the object's version.

        An upload that no training can be made of is no error: it is answered, counted, told to
        people, and recorded as a refused run when its model exists.

        Args:
            source: The object that was created.
            correlation_id: The event's id.
        """
        if source.key.endswith("/") and source.size == 0:
            return Admission(status=AdmissionStatus.IGNORED, reason="a folder marker")
        try:
            name = layout.model_of_incoming(source.key)
            model = self._registry.get_model(name)
        except (InvalidEventError, NotFoundError) as exc:
            return self._unroutable(source, _model_part(source.key), str(exc))
        run_id = upload_run_id(name, source)
        bind(correlation_id=correlation_id, run_id=run_id, model=name)
        run = self._new_run(model, run_id, Cause.UPLOAD, source, correlation_id)
        if not source.key.lower().endswith(layout.SUPPORTED_SUFFIXES):
            return self._refuse(run)
        return self._start(run)

    def admit_retrain(self, request: RetrainRequest, correlation_id: str) -> Admission:
        """Trains on the latest dataset version again. Idempotent by the request's token.

        Raises:
            NotFoundError: There is no such model, or it has no dataset version yet.
        """
        run_id = layout.run_id_for_retrain(request.model, request.token)
        bind(correlation_id=correlation_id, run_id=run_id, model=request.model)
        model = self._registry.get_model(request.model)
        dataset = self._registry.latest_dataset(request.model)
        run = self._new_run(model, run_id, request.cause, dataset.source, correlation_id)
        return self._start(
            run.model_copy(
                update={
                    "reason": request.reason,
                    "requested_by": request.requested_by,
                    "labelled": _labelled(dataset, run.started_at, fresh=request.labelled),
                }
            )
        )

    def admit_slot(
        self, model: RegisteredModel, dataset: DatasetVersion, slot: str, correlation_id: str
    ) -> Admission:
        """Trains a model by its calendar. Idempotent by slot.

        Rows that turn out to be trained already are not trained again: the run then says so.

        Args:
            model: The model.
            dataset: Its newest dataset version.
            slot: The stretch of the calendar, such as ``2026-W47``.
            correlation_id: The event's id.
        """
        run_id = slot_run_id(model.name, slot)
        bind(correlation_id=correlation_id, run_id=run_id, model=model.name)
        run = self._new_run(model, run_id, Cause.SCHEDULE, dataset.source, correlation_id)
        return self._start(
            run.model_copy(
                update={
                    "reason": f"the {model.retrain_schedule} training of {slot}",
                    "requested_by": CALENDAR,
                    "labelled": _labelled(dataset, run.started_at, fresh=True),
                }
            )
        )

    def _new_run(
        self,
        model: RegisteredModel,
        run_id: str,
        cause: Cause,
        source: SourceObject,
        correlation_id: str,
    ) -> Run:
        return Run(
            run_id=run_id,
            model=model.name,
            cause=cause,
            status=RunStatus.SCHEDULED,
            correlation_id=correlation_id,
            execution_arn=self._executions.execution_arn(run_id),
            spec_version=model.spec_version,
            spec_digest=model.spec_digest,
            source=source,
            started_at=self._clock(),
        )

    def _start(self, run: Run) -> Admission:
        if not self._registry.create_run(run):
            # The run as it was recorded, so that the execution's input is the same as then.
            run = self._registry.get_run(run.run_id)
            if run.status is not RunStatus.SCHEDULED:
                return _duplicate(run)
            logger.info("a scheduled run is taken up again")
        started = self._executions.start(run.run_id, training_input(run).model_dump_json())
        self._registry.start_run(run.run_id)
        if not started.started:
            return _duplicate(run)
        logger.info("training started", execution_arn=started.execution_arn, cause=run.cause)
        if run.cause is Cause.UPLOAD:
            count(METRICS.UPLOADS_RECEIVED, model=run.model)
        return Admission(
            status=AdmissionStatus.STARTED, run_id=run.run_id, model=run.model, started=True
        )

    def _refuse(self, run: Run) -> Admission:
        """An upload for a model that exists, of a kind that ingest cannot read."""
        reason = (
            f"{run.source.key} ends in none of {', '.join(layout.SUPPORTED_SUFFIXES)}, so that its "
            "format is unknown"
        )
        now = self._clock()
        closed = run.model_copy(
            update={
                "status": RunStatus.FINISHED,
                "outcome": RunOutcome.REFUSED,
                "reason": reason,
                "error": "unsupported_suffix",
                "execution_arn": "",
                "ended_at": now,
            }
        )
        if not self._registry.create_run(closed):
            return _duplicate(run)
        return self._unroutable(run.source, run.model, reason, run_id=run.run_id)

    def _unroutable(
        self, source: SourceObject, model: str, reason: str, *, run_id: str = ""
    ) -> Admission:
        return tell_unroutable(self._notifier, source, model, reason, run_id=run_id)


def tell_unroutable(
    notifier: Notifier,
    source: SourceObject,
    model: str,
    reason: str,
    *,
    leads_to: str = "training",
    run_id: str = "",
) -> Admission:
    """Counts an upload that leads nowhere and tells people of it.

    Args:
        notifier: Tells them.
        source: The upload.
        model: What its key names as the model.
        reason: Why it leads nowhere.
        leads_to: What it would have led to.
        run_id: The run or job that was recorded for it, if any.
    """
    logger.warning("an upload leads nowhere", key=source.key, reason=reason)
    count(METRICS.UPLOADS_UNROUTABLE)
    notifier.notify(
        Notice(
            model=model or "none",
            event="upload_unroutable",
            subject=f"an upload leads to no {leads_to}: {source.key}",
            details={
                "bucket": source.bucket,
                "key": source.key,
                "reason": reason,
                "run_id": run_id,
            },
        )
    )
    return Admission(status=AdmissionStatus.UNROUTABLE, run_id=run_id, model=model, reason=reason)


def slot_run_id(model: str, slot: str) -> str:
    """The run of a model's slot of the calendar."""
    return layout.run_id_for_retrain(model, f"schedule:{slot}")


def upload_run_id(model: str, source: SourceObject) -> str:
    """The run of an upload; without a version id, what the bytes are must do."""
    version = source.version_id if source.version_id not in UNVERSIONED else f"etag:{source.etag}"
    return layout.run_id_for_upload(model, source.bucket, source.key, version)


def training_input(run: Run) -> TrainingInput:
    """The TRAINING machine's input: a pure function of the run as it was recorded."""
    return TrainingInput(
        run_id=run.run_id,
        model=run.model,
        cause=run.cause,
        correlation_id=run.correlation_id,
        spec_version=run.spec_version,
        spec_key=layout.spec_key(run.model, run.spec_digest),
        spec_digest=run.spec_digest,
        source=run.source,
        labelled=run.labelled,
        force=run.cause is Cause.RETRAIN,
        requested_by=run.requested_by,
        reason=run.reason,
    )


def _labelled(dataset: DatasetVersion, now: datetime, *, fresh: bool) -> LabelledSpan | None:
    """The labelled predictions of a training on the rows of a dataset version.

    Labels may come late or be corrected, so every span begins with the upload; a row that an
    earlier training took in and that is not captured any more stays in by ``previous_key``.
    """
    held = dataset.labelled
    if held is None:
        if not fresh:
            return None
        return LabelledSpan(
            base_version=dataset.dataset_version,
            base_key=dataset.data_key,
            since=dataset.created_at,
            until=now,
        )
    return LabelledSpan(
        base_version=held.base_version,
        base_key=held.base_key,
        previous_key=held.key,
        since=held.since if fresh else now,
        until=now,
    )


def count_duplicate(model: str) -> None:
    """Counts a cause that came again."""
    logger.info("a duplicate was turned away")
    count(METRICS.UPLOADS_DUPLICATE, model=model)


def _duplicate(run: Run) -> Admission:
    count_duplicate(run.model)
    return Admission(
        status=AdmissionStatus.DUPLICATE,
        run_id=run.run_id,
        model=run.model,
        reason=f"run {run.run_id} was there already",
    )


def _model_part(key: str) -> str:
    parts = key.split("/")
    return parts[1] if len(parts) > 2 and parts[0] + "/" == layout.INCOMING else ""
