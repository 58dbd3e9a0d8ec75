"""The feedback function: files of labels become what is known of predictions.

Events: EventBridge's S3 "Object Created" under ``feedback/``. Idempotent by the object's version:
its report is written last, and a file with a report is not looked at again.
"""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import AwareDatetime, TypeAdapter

from millrace.aws.clients import client
from millrace.aws.console import page_of_object
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.events import ObjectCreated
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.sns import SnsNotifier
from millrace.decoding import decode
from millrace.errors import InvalidEventError
from millrace.messages import SourceObject
from millrace.monitoring.feedback import Feedback
from millrace.monitoring.labelbook import LabelBook
from millrace.observability import bind, logger, published, tracer
from millrace.registry.registry import open_registry
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Arrived(ObjectCreated):
    """The event with its time, which is when the labels were received, at every attempt."""

    time: AwareDatetime


_EVENT: Final = TypeAdapter(Arrived)


class FeedbackSettings(EnvironmentSettings):
    """Environment of the feedback function."""

    table_name: str
    data_bucket: str
    artifact_bucket: str
    topic_arn: str
    capture_days: int = 90


@cache
def settings() -> FeedbackSettings:
    """The settings, read once per process."""
    return FeedbackSettings.from_environment()


@cache
def feedback() -> Feedback:
    """The use case with its clients, built from the environment once per process."""
    made = settings()
    return Feedback(
        serving=open_registry(client("dynamodb"), made.table_name),
        objects=S3ObjectStore(client("s3")),
        artifact_bucket=made.artifact_bucket,
        book=LabelBook(
            DynamoTable(client("dynamodb"), made.table_name), timedelta(days=made.capture_days)
        ),
        clock=lambda: datetime.now(UTC),
        link=page_of_object,
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Lambda's entry point."""
    arrived = decode(_EVENT, event, "an S3 'Object Created' event")
    bind(correlation_id=arrived.id or context.aws_request_id)
    bucket, thing = arrived.detail.bucket, arrived.detail.object
    if bucket.name != settings().data_bucket:
        raise InvalidEventError(
            f"detail.bucket.name: expected {settings().data_bucket!r}, got {bucket.name!r}"
        )
    source = SourceObject(
        bucket=bucket.name,
        key=thing.key,
        version_id=thing.version_id,
        size=thing.size,
        etag=thing.etag,
    )
    notifier = SnsNotifier(client("sns"), settings().topic_arn)
    outcome = feedback().take_file(source, arrived.time, notifier)
    facts = asdict(outcome)
    logger.info("feedback ends", **facts)
    return facts
