"""The batch function: a file becomes chunks, and the chunks' scores become one file again.

Actions split and finish of the BATCH machine: ``{"action": …, "input": {…}}``. Idempotent by job: what
is written has one name and one content, plan and manifest are written last, and a job that has them is
not worked on again.
"""

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, TypeAdapter

from millrace.aws.clients import client
from millrace.aws.s3 import S3ObjectStore
from millrace.batch.finishing import finish
from millrace.batch.splitting import split
from millrace.datasets.engine import Limits
from millrace.decoding import decode
from millrace.messages import FinishResult, FinishTask, SplitResult, SplitTask, task_event
from millrace.observability import bind, logger, published, tracer
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

DEFAULT_MEMORY_MB: Final = 2048

type Task = SplitTask | FinishTask

_TASK: Final[TypeAdapter[Task]] = TypeAdapter(Annotated[Task, Field(discriminator="action")])


class BatchSettings(EnvironmentSettings):
    """Environment of the batch function."""

    data_bucket: str
    artifact_bucket: str
    max_upload_mb: int = 2048
    scratch: Path = Path("/tmp")  # noqa: S108  # Lambda's only writable directory


@cache
def settings() -> BatchSettings:
    """The function's settings, read once."""
    return BatchSettings.from_environment()


def limits() -> Limits:
    """What DuckDB may use: half of the function's memory, the rest spills to its disk."""
    memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", DEFAULT_MEMORY_MB))
    most = settings().max_upload_mb
    return Limits(
        memory_mb=memory // 2, spill_mb=2 * most, max_upload_mb=most, max_unpacked_mb=2 * most
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:  # noqa: ARG001  # Lambda's signature
    """Lambda's entry point."""
    task = decode(_TASK, task_event(event), "a task of a batch job: split or finish")
    bind(correlation_id=task.correlation_id, run_id=task.batch_id, model=task.model)
    logger.info("batch task begins", action=task.action, key=task.source.key)
    result = _perform(task)
    logger.info(
        "batch task ends",
        action=task.action,
        outcome=result.outcome,
        code=result.code,
        read=result.rows.read,
        quarantined=result.rows.quarantined,
        seconds=result.seconds,
    )
    return result.model_dump(mode="json")


def _perform(task: Task) -> SplitResult | FinishResult:
    store = S3ObjectStore(client("s3"))
    made = settings()
    match task:
        case SplitTask():
            return split(
                task,
                store=store,
                data_bucket=made.data_bucket,
                artifact_bucket=made.artifact_bucket,
                scratch=made.scratch,
                limits=limits(),
            )
        case FinishTask():
            return finish(
                task,
                store=store,
                data_bucket=made.data_bucket,
                artifact_bucket=made.artifact_bucket,
                scratch=made.scratch,
                limits=limits(),
            )
