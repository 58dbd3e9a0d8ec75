"""The ingest function: an upload becomes a dataset version, or a refusal with its reasons.

Task of the TRAINING machine; the event is the whole payload. Idempotent by content: the objects of
a dataset version are named by their rows and written once, the quarantine by the run.
"""

import os
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.s3 import S3ObjectStore
from millrace.datasets.engine import Limits
from millrace.datasets.gathering import Gatherer
from millrace.datasets.ingestion import ingest
from millrace.decoding import decode
from millrace.messages import IngestResult, TrainingInput
from millrace.monitoring.labelbook import LabelBook
from millrace.observability import METRICS, bind, count, logger, published, tracer
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

DEFAULT_MEMORY_MB: Final = 2048

_TASK: Final = TypeAdapter(TrainingInput)


class IngestSettings(EnvironmentSettings):
    """Environment of the ingest function."""

    data_bucket: str
    artifact_bucket: str
    table_name: str
    capture_days: int = 90
    max_upload_mb: int = 512
    scratch: Path = Path("/tmp")  # noqa: S108  # Lambda's only writable directory


@cache
def settings() -> IngestSettings:
    """The function's settings, read once."""
    return IngestSettings.from_environment()


def store() -> S3ObjectStore:
    """Both buckets."""
    return S3ObjectStore(client("s3"))


def gatherer() -> Gatherer:
    """Joins captured predictions with their labels; calls nothing before a run asks for it."""
    keep = timedelta(days=settings().capture_days)
    book = LabelBook(DynamoTable(client("dynamodb"), settings().table_name), keep)
    return Gatherer(store(), settings().data_bucket, book, keep)


def limits() -> Limits:
    """What DuckDB may use: half of the function's memory, since the rows are copied at the end."""
    memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", DEFAULT_MEMORY_MB))
    return Limits(memory_mb=memory // 2, max_upload_mb=settings().max_upload_mb)


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:  # noqa: ARG001  # Lambda's signature
    """Lambda's entry point."""
    task = decode(_TASK, event, "a training's input")
    bind(correlation_id=task.correlation_id, run_id=task.run_id, model=task.model)
    logger.info("ingest begins", key=task.source.key, size=task.source.size)
    with tracer.provider.in_subsegment("## ingest"):
        result = ingest(
            task,
            store=store(),
            data_bucket=settings().data_bucket,
            artifact_bucket=settings().artifact_bucket,
            scratch=settings().scratch,
            limits=limits(),
            clock=lambda: datetime.now(UTC),
            gatherer=gatherer(),
        )
    _count(task.model, result)
    logger.info(
        "ingest ends",
        outcome=result.outcome,
        code=result.code,
        read=result.rows.read,
        accepted=result.rows.accepted,
        quarantined=result.rows.quarantined,
        dataset_version=result.dataset_version,
        seconds=result.seconds,
    )
    return result.model_dump(mode="json")


def _count(model: str, result: IngestResult) -> None:
    accepted, refused = result.outcome == "accepted", result.outcome == "refused"
    count(METRICS.ROWS_ACCEPTED, result.rows.accepted if accepted else 0, model=model)
    count(METRICS.ROWS_QUARANTINED, result.rows.quarantined, model=model)
    count(METRICS.UPLOADS_REFUSED, int(refused), model=model)
