"""The capture function: captured predictions leave the log for S3, and rollouts are counted.

Events: deliveries of the log subscription on the predict function's log group. Idempotent by the
prediction ids of a delivery: the same batch again is the same objects, which are written once, and
meets the marker of its own counts (`millrace.monitoring.tallies`).
"""

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.logs import unpack
from millrace.aws.s3 import S3ObjectStore
from millrace.monitoring import tallies
from millrace.monitoring.captures import keep
from millrace.observability import METRICS, bind, count, logger, publish, published, tracer
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class CaptureSettings(EnvironmentSettings):
    """Environment of the capture function."""

    data_bucket: str
    table_name: str


@cache
def settings() -> CaptureSettings:
    """The settings, read once per process."""
    return CaptureSettings.from_environment()


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Lambda's entry point."""
    bind(correlation_id=context.aws_request_id)
    delivered = unpack(event)
    kept = keep(
        delivered.messages,
        objects=S3ObjectStore(client("s3")),
        bucket=settings().data_bucket,
        logged=delivered.logged,
    )
    counted = tallies.add(
        DynamoTable(client("dynamodb"), settings().table_name),
        delivered.messages,
        now=datetime.now(UTC),
    )
    for model, records in kept.captured.items():
        count(METRICS.CAPTURED_RECORDS, records, model=model)
        publish()  # one model at a time: a line's figures count for every model it names
    if kept.rejected:
        count(METRICS.CAPTURE_REJECTED, kept.rejected)
    logger.info(
        "capture ends",
        log_stream=delivered.stream,
        record_count=sum(kept.captured.values()),
        rejected=kept.rejected,
        written=kept.written,
        repeated=kept.repeated,
        counted=counted,
    )
    return {
        "records": sum(kept.captured.values()),
        "rejected": kept.rejected,
        "written": kept.written,
        "repeated": kept.repeated,
        "counted": counted,
    }
