"""The trigger function: uploads, retraining and batch requests become one execution each.

Events: EventBridge's S3 "Object Created" (keys as they are, not URL-encoded), the API's "Retrain
Requested" and "Batch Requested", the monitor's "Retrain Requested", and the tick of the calendar's
rule, which starts what is due of all models' ``retrain.on_schedule``. Idempotent by the object's
version, or the request's token: Powertools Idempotency answers a repetition fast, and the conditions
in the registry hold without it. They hold alone for a tick, and for a batch request, since asking
again may resume a job that failed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyPersistenceLayerError,
)
from pydantic import AwareDatetime, Field, TypeAdapter

from millrace import layout
from millrace.aws.clients import client
from millrace.aws.dynamodb import PK, SK, DynamoTable
from millrace.aws.events import AwsEvent, ObjectCreated
from millrace.aws.sns import SnsNotifier
from millrace.aws.stepfunctions import StateMachine
from millrace.decoding import decode
from millrace.errors import (
    ConcurrentWriteError,
    InvalidEventError,
    ServiceUnavailableError,
)
from millrace.messages import SourceObject
from millrace.monitoring.costs import Sizes, Spending, counted_from
from millrace.monitoring.retraining import Spent, why_over
from millrace.observability import bind, logger, published, tracer
from millrace.registry.batch_door import BatchDoor, BatchRequest
from millrace.registry.batches import open_batches
from millrace.registry.calendar import Calendar
from millrace.registry.door import (
    Admission,
    AdmissionStatus,
    Door,
    RetrainRequest,
    count_duplicate,
)
from millrace.registry.records import RegisteredModel
from millrace.registry.registry import open_registry
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.idempotency.persistence.datarecord import DataRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext

IDEMPOTENCY_PK = "IDEMPOTENCY#trigger"
REMEMBERED_SECONDS = 24 * 3600
"""As long as EventBridge tries to deliver an event."""


class TriggerSettings(EnvironmentSettings):
    """Environment of the trigger function."""

    table_name: str
    data_bucket: str
    state_machine_arn: str
    batch_machine_arn: str
    batch_concurrency: int = 4
    topic_arn: str


# ── Events ──────────────────────────────────────────────────────────────────────────────────────


class RetrainRequested(AwsEvent):
    """The API's event; it is a synchronous call, so it may have no id of EventBridge's."""

    id: str = ""
    detail_type: Literal["Retrain Requested"] = Field(alias="detail-type")
    source: Literal["millrace.api", "millrace.monitor"]
    detail: RetrainRequest


class BatchRequested(AwsEvent):
    """The API's event: a synchronous call."""

    id: str = ""
    detail_type: Literal["Batch Requested"] = Field(alias="detail-type")
    source: Literal["millrace.api"]
    detail: BatchRequest


class CalendarTick(AwsEvent):
    """EventBridge's rule: time to look at the calendars of all models."""

    id: str
    detail_type: Literal["Scheduled Event"] = Field(alias="detail-type")
    source: Literal["aws.events"]
    time: AwareDatetime


type Arrived = ObjectCreated | RetrainRequested | BatchRequested | CalendarTick

_EVENT: Final[TypeAdapter[Arrived]] = TypeAdapter(
    Annotated[Arrived, Field(discriminator="detail_type")]
)


_EXPECTED: Final = (
    "an S3 'Object Created', a 'Retrain Requested', a 'Batch Requested' or a 'Scheduled Event'"
)

# ── Wiring ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Wiring:
    """What the function is made of."""

    settings: TriggerSettings
    config: IdempotencyConfig
    admit_upload: Callable[..., dict[str, Any]]
    admit_retrain: Callable[..., dict[str, Any]]
    admit_batch: Callable[..., dict[str, Any]]
    """A file to be scored, once per object version."""
    batches: BatchDoor
    calendar: Calendar


@cache
def wiring() -> Wiring:
    """The door with its clients, built from the environment once per process."""
    settings = TriggerSettings.from_environment()
    registry = open_registry(client("dynamodb"), settings.table_name)
    door = Door(
        registry=registry,
        executions=StateMachine(client("stepfunctions"), settings.state_machine_arn),
        notifier=SnsNotifier(client("sns"), settings.topic_arn),
        clock=lambda: datetime.now(UTC),
    )
    batch_door = BatchDoor(
        registry=registry,
        batches=open_batches(client("dynamodb"), settings.table_name),
        executions=StateMachine(client("stepfunctions"), settings.batch_machine_arn),
        notifier=SnsNotifier(client("sns"), settings.topic_arn),
        clock=lambda: datetime.now(UTC),
        concurrency=settings.batch_concurrency,
    )
    table = DynamoTable(client("dynamodb"), settings.table_name)
    spending = Spending(table, registry, counted_from(table), Sizes.from_environment())

    def over_budget(model: RegisteredModel, moment: datetime) -> str:
        if model.monthly_budget is None:
            return ""
        spent = Spent(float(spending.of_month(model.name, moment).usd), model.monthly_budget)
        return why_over(spent) if spent.state == "exhausted" else ""

    store = DynamoDBPersistenceLayer(
        table_name=settings.table_name,
        key_attr=PK,
        sort_key_attr=SK,
        static_pk_value=IDEMPOTENCY_PK,
        expiry_attr="expires_at",
        boto3_client=client("dynamodb"),
    )
    config = IdempotencyConfig(
        expires_after_seconds=REMEMBERED_SECONDS,
        hash_function="sha256",
        response_hook=_answered_before,
    )

    def once(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            decorated: Callable[..., Any] = idempotent_function(
                function,
                data_keyword_argument="key",
                persistence_store=store,
                config=config,
                key_prefix=name,
            )
            return decorated

        return decorate

    @once("upload")
    def admit_upload(*, key: str, source: SourceObject, correlation_id: str) -> dict[str, Any]:
        return _answer(door.admit_upload(source, correlation_id), key)

    @once("retrain")
    def admit_retrain(*, key: str, request: RetrainRequest, correlation_id: str) -> dict[str, Any]:
        return _answer(door.admit_retrain(request, correlation_id), key)

    @once("batch")
    def admit_batch(*, key: str, source: SourceObject, correlation_id: str) -> dict[str, Any]:
        return _answer(batch_door.admit_upload(source, correlation_id), key)

    return Wiring(
        settings,
        config,
        admit_upload,
        admit_retrain,
        admit_batch,
        batch_door,
        Calendar(registry, door, over_budget),
    )


def _answer(admission: Admission, key: str) -> dict[str, Any]:
    logger.info("admission ends", status=admission.status, idempotency_key=key)
    return admission.model_dump(mode="json")


def _answered_before(response: Any, idempotent_data: "DataRecord") -> Any:  # noqa: ARG001  # Powertools' signature
    """What a repetition gets: the first answer, told as a duplicate."""
    if response["status"] != AdmissionStatus.STARTED:
        return response
    count_duplicate(response["model"])
    return {**response, "status": AdmissionStatus.DUPLICATE.value, "started": False}


# ── Handler ─────────────────────────────────────────────────────────────────────────────────────


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Lambda's entry point."""
    arrived = decode(_EVENT, event, _EXPECTED)
    correlation_id = arrived.id or context.aws_request_id
    bind(correlation_id=correlation_id)
    logger.info("admission begins", source=arrived.source)
    made = wiring()
    made.config.register_lambda_context(context)
    try:
        match arrived:
            case ObjectCreated():
                return _upload(made, arrived, correlation_id)
            case RetrainRequested():
                request = arrived.detail
                return made.admit_retrain(
                    key=layout.run_id_for_retrain(request.model, request.token),
                    request=request,
                    correlation_id=correlation_id,
                )
            case CalendarTick():
                return made.calendar.tick(arrived.time, correlation_id)
            case BatchRequested():
                return _batch_request(made, arrived, correlation_id)
    except IdempotencyAlreadyInProgressError as exc:
        raise ConcurrentWriteError("the same cause is being admitted right now") from exc
    except IdempotencyPersistenceLayerError as exc:
        raise ServiceUnavailableError(f"the idempotency record cannot be kept: {exc}") from exc


def _expect_bucket(made: Wiring, field: str, name: str) -> None:
    if name != made.settings.data_bucket:
        raise InvalidEventError(f"{field}: expected {made.settings.data_bucket!r}, got {name!r}")


def _batch_request(made: Wiring, event: BatchRequested, correlation_id: str) -> dict[str, Any]:
    source = event.detail.source
    _expect_bucket(made, "detail.source.bucket", source.bucket)
    return _answer(
        made.batches.admit_request(event.detail, correlation_id),
        f"{source.bucket}/{source.key}?{source.version_id or source.etag}",
    )


def _upload(made: Wiring, event: ObjectCreated, correlation_id: str) -> dict[str, Any]:
    bucket, thing = event.detail.bucket, event.detail.object
    _expect_bucket(made, "detail.bucket.name", bucket.name)
    source = SourceObject(
        bucket=bucket.name,
        key=thing.key,
        version_id=thing.version_id,
        size=thing.size,
        etag=thing.etag,
    )
    admit = made.admit_batch if source.key.startswith(layout.BATCH) else made.admit_upload
    return admit(
        key=f"{source.bucket}/{source.key}?{source.version_id or source.etag}",
        source=source,
        correlation_id=correlation_id,
    )
