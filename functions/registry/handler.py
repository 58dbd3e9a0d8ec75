"""The registry function: every write of a training to the registry.

Tasks of the TRAINING machine: ``{"action": …, "input": {…}}``; and EventBridge's "Step Functions
Execution Status Change" of executions that could not close their run themselves. Idempotent by the
conditions of the registry's transactions; the keys are in `millrace.registry.registry`.
"""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from millrace.aws.clients import client
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.sns import SnsNotifier
from millrace.decoding import decode
from millrace.documents import read_spec
from millrace.messages import (
    Message,
    PromoteTask,
    ReadChampionTask,
    RecordDatasetTask,
    RecordEvaluationTask,
    RecordFailureTask,
    RecordRefusalTask,
    RecordTrialTask,
    RegisterTask,
    TrainingInput,
    task_event,
)
from millrace.observability import bind, logger, published, tracer
from millrace.registry.recorder import Recorder
from millrace.registry.registry import open_registry
from millrace.settings import EnvironmentSettings
from millrace.spec import ModelSpec

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class RegistrySettings(EnvironmentSettings):
    """Environment of the registry function."""

    table_name: str
    artifact_bucket: str
    topic_arn: str


class ExecutionDetail(BaseModel):
    """``detail`` of an execution's status change."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    status: Literal["FAILED", "TIMED_OUT", "ABORTED"]
    error: str | None = None
    cause: str | None = None


class ExecutionEnded(BaseModel):
    """EventBridge's event of an execution that did not succeed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    source: Literal["aws.states"]
    detail: ExecutionDetail


type Task = (
    RecordDatasetTask
    | RecordRefusalTask
    | RecordTrialTask
    | RegisterTask
    | ReadChampionTask
    | RecordEvaluationTask
    | PromoteTask
    | RecordFailureTask
)

_TASK: Final[TypeAdapter[Task]] = TypeAdapter(Annotated[Task, Field(discriminator="action")])
_ENDED: Final = TypeAdapter(ExecutionEnded)


@cache
def recorder() -> Recorder:
    """The service, wired from the environment once per process."""
    settings = RegistrySettings.from_environment()
    store = S3ObjectStore(client("s3"))

    def spec_of(task: TrainingInput) -> ModelSpec:
        return read_spec(store, settings.artifact_bucket, task.spec_key, task.spec_digest)

    return Recorder(
        registry=open_registry(client("dynamodb"), settings.table_name),
        notifier=SnsNotifier(client("sns"), settings.topic_arn),
        read_spec=spec_of,
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:  # noqa: ARG001  # Lambda's signature
    """Lambda's entry point."""
    if "detail-type" in event:
        ended = decode(_ENDED, event, "the end of an execution that did not succeed")
        return _execution_ended(ended)
    return _perform(decode(_TASK, task_event(event), "a task of the registry"))


def _perform(task: Task) -> dict[str, Any]:
    bind(correlation_id=task.correlation_id, run_id=task.run_id, model=task.model)
    logger.info("registry task begins", action=task.action)
    answer: Message | None = None
    match task:
        case RecordDatasetTask():
            answer = recorder().record_dataset(task)
        case RecordRefusalTask():
            recorder().record_refusal(task)
        case RecordTrialTask():
            recorder().record_trial(task)
        case RegisterTask():
            answer = recorder().register(task)
        case ReadChampionTask():
            answer = recorder().read_champion(task)
        case RecordEvaluationTask():
            answer = recorder().record_evaluation(task)
        case PromoteTask():
            answer = recorder().promote(task)
        case RecordFailureTask():
            recorder().record_failure(task)
    logger.info("registry task ends", action=task.action)
    return {} if answer is None else answer.model_dump(mode="json")


def _execution_ended(event: ExecutionEnded) -> dict[str, Any]:
    detail = event.detail
    bind(correlation_id=event.id, run_id=detail.name)
    logger.info("closing a run begins", status=detail.status)
    closed = recorder().execution_ended_badly(
        run_id=detail.name,
        status=detail.status,
        error=detail.error or "",
        cause=detail.cause or "",
    )
    logger.info("closing a run ends", closed=closed)
    return {"run_id": detail.name, "closed": closed}
