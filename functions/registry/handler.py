"""The registry function: every write of a training or a batch job to the registry.

Tasks of the machines TRAINING and BATCH: ``{"action": …, "input": {…}}``; and EventBridge's "Step
Functions Execution Status Change" of executions that could not close their run or job themselves. Idempotent by the
conditions of the registry's transactions; the keys are in `millrace.registry.registry`.
"""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, TypeAdapter

from millrace.aws.clients import client
from millrace.aws.events import ExecutionEnded
from millrace.aws.kms import KmsKey
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.sns import SnsNotifier
from millrace.decoding import decode
from millrace.documents import read_spec
from millrace.messages import (
    BatchInput,
    ExpireApprovalTask,
    Message,
    PromoteTask,
    ReadChampionTask,
    RecordBatchFailureTask,
    RecordBatchRefusalTask,
    RecordBatchSplitTask,
    RecordBatchTask,
    RecordDatasetTask,
    RecordEvaluationTask,
    RecordFailureTask,
    RecordRefusalTask,
    RecordTrialTask,
    RegisterTask,
    RequestApprovalTask,
    SettleApprovalTask,
    TrainingInput,
    task_event,
)
from millrace.observability import bind, logger, published, tracer
from millrace.registry.approvals import open_approvals
from millrace.registry.batch_recorder import BatchRecorder
from millrace.registry.batches import open_batches
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
    signing_key_arn: str = ""
    """Signs versions when they are registered; empty where they are not signed."""
    batch_machine: str
    """Name of the BATCH machine: tells its executions from those of TRAINING."""


type BatchTask = (
    RecordBatchSplitTask | RecordBatchRefusalTask | RecordBatchTask | RecordBatchFailureTask
)
type Task = (
    RecordDatasetTask
    | RecordRefusalTask
    | RecordTrialTask
    | RegisterTask
    | ReadChampionTask
    | RecordEvaluationTask
    | RequestApprovalTask
    | SettleApprovalTask
    | ExpireApprovalTask
    | PromoteTask
    | RecordFailureTask
    | BatchTask
)

_TASK: Final[TypeAdapter[Task]] = TypeAdapter(Annotated[Task, Field(discriminator="action")])
_ENDED: Final = TypeAdapter(ExecutionEnded)


@cache
def settings() -> RegistrySettings:
    """The function's settings, read once."""
    return RegistrySettings.from_environment()


@cache
def batch_recorder() -> BatchRecorder:
    """The service for batch jobs, wired once per process."""
    made = settings()
    return BatchRecorder(
        batches=open_batches(client("dynamodb"), made.table_name),
        notifier=SnsNotifier(client("sns"), made.topic_arn),
    )


@cache
def recorder() -> Recorder:
    """The service for trainings, wired once per process."""
    made = settings()
    store = S3ObjectStore(client("s3"))

    def spec_of(task: TrainingInput) -> ModelSpec:
        return read_spec(store, made.artifact_bucket, task.spec_key, task.spec_digest)

    return Recorder(
        registry=open_registry(
            client("dynamodb"),
            made.table_name,
            sign=KmsKey(client("kms"), made.signing_key_arn).sign if made.signing_key_arn else None,
        ),
        approvals=open_approvals(client("dynamodb"), made.table_name),
        notifier=SnsNotifier(client("sns"), made.topic_arn),
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
    about = task.batch_id if isinstance(task, BatchInput) else task.run_id
    bind(correlation_id=task.correlation_id, run_id=about, model=task.model)
    logger.info("registry task begins", action=task.action)
    answer: Message | None = None
    match task:
        case RecordBatchSplitTask():
            batch_recorder().record_split(task)
        case RecordBatchRefusalTask():
            batch_recorder().record_refusal(task)
        case RecordBatchTask():
            batch_recorder().record(task)
        case RecordBatchFailureTask():
            batch_recorder().record_failure(task)
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
        case RequestApprovalTask():
            recorder().request_approval(task)
        case SettleApprovalTask():
            answer = recorder().settle_approval(task)
        case ExpireApprovalTask():
            answer = recorder().expire_approval(task)
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
    error, cause = detail.error or "", detail.cause or ""
    if detail.machine.endswith(f":{settings().batch_machine}"):
        closed = batch_recorder().execution_ended_badly(
            execution=detail.name, status=detail.status, error=error, cause=cause
        )
    else:
        closed = recorder().execution_ended_badly(
            run_id=detail.name, status=detail.status, error=error, cause=cause
        )
    logger.info("closing a run ends", closed=closed)
    return {"run_id": detail.name, "closed": closed}
