"""The rollout function: every step of a rollout, and the door for people who start or resume one.

Tasks of the ROLLOUT machine, of TRAINING (``roll_out``) and of the api function (``start``, ``resume``):
``{"action": …, "input": {…}}``; and EventBridge's "Step Functions Execution Status Change" of
executions of ROLLOUT that could not note their failure themselves. Idempotent by the rollout's record:
by its id, its attempt, its step and the number of its last look.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, TypeAdapter

from millrace.aws.alarms import Alarms
from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.events import ExecutionEnded
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.sns import SnsNotifier
from millrace.aws.stepfunctions import StateMachine
from millrace.decoding import decode
from millrace.documents import read_spec
from millrace.messages import Message, task_event
from millrace.monitoring import tallies
from millrace.monitoring.captures import captured
from millrace.monitoring.labelbook import LabelBook
from millrace.observability import bind, logger, published, tracer
from millrace.registry.registry import open_registry
from millrace.registry.rollout_records import Rollout
from millrace.registry.rollouts import open_rollouts
from millrace.rollout.labels import count_wrong
from millrace.rollout.messages import (
    BeginTask,
    CheckHealthTask,
    FinishTask,
    RecordStallTask,
    ResumeTask,
    RollBackTask,
    RolloutInput,
    RollOutTask,
    SetTrafficTask,
    StartTask,
)
from millrace.rollout.sequential import Counts
from millrace.rollout.watch import Watcher
from millrace.serving.capture import CapturedPrediction
from millrace.settings import EnvironmentSettings
from millrace.signature_file import read_signature
from millrace.spec import ModelSpec

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class RolloutSettings(EnvironmentSettings):
    """Environment of the rollout function."""

    table_name: str
    artifact_bucket: str
    data_bucket: str
    topic_arn: str
    state_machine_arn: str
    capture_days: int = 90


type Task = (
    BeginTask
    | SetTrafficTask
    | CheckHealthTask
    | FinishTask
    | RollBackTask
    | RecordStallTask
    | RollOutTask
    | StartTask
    | ResumeTask
)

_TASK: Final[TypeAdapter[Task]] = TypeAdapter(Annotated[Task, Field(discriminator="action")])
_ENDED: Final = TypeAdapter(ExecutionEnded)


@cache
def settings() -> RolloutSettings:
    """The function's settings, read once."""
    return RolloutSettings.from_environment()


@cache
def watcher() -> Watcher:
    """The service with its clients, wired once per process."""
    made = settings()
    table = DynamoTable(client("dynamodb"), made.table_name)
    registry = open_registry(client("dynamodb"), made.table_name)
    store = S3ObjectStore(client("s3"))
    book = LabelBook(table, timedelta(days=made.capture_days))

    def spec_of(model: str, task: RollOutTask | None) -> ModelSpec:
        if task is not None:
            return read_spec(store, made.artifact_bucket, task.spec_key, task.spec_digest)
        current = registry.get_spec(model)
        return read_spec(store, made.artifact_bucket, current.key, current.digest)

    def captured_of(model: str, since: datetime, until: datetime) -> Iterator[CapturedPrediction]:
        return captured(store, made.data_bucket, model, since, until)

    def feedback(rollout: Rollout) -> tuple[Counts, Counts] | None:
        def classes(version: int) -> tuple[str, ...]:
            record = registry.get_version(rollout.model, version)
            what = f"{rollout.model}@{version}"
            key, digest = record.signature_key, record.signature_sha256
            return read_signature(store, made.artifact_bucket, key, digest, what).classes

        return count_wrong(
            rollout,
            classes=classes,
            labels=book.of_span,
            captured=captured_of,
            until=datetime.now(UTC),
        )

    return Watcher(
        rollouts=open_rollouts(client("dynamodb"), made.table_name),
        executions=StateMachine(client("stepfunctions"), made.state_machine_arn),
        tallies=lambda rollout_id, step: tallies.read(table, rollout_id, step),
        alarms=Alarms(client("cloudwatch")).states,
        feedback=feedback,
        read_spec=spec_of,
        notifier=SnsNotifier(client("sns"), made.topic_arn),
        clock=lambda: datetime.now(UTC),
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:  # noqa: ARG001  # Lambda's signature
    """Lambda's entry point."""
    if "detail-type" in event:
        ended = decode(_ENDED, event, "the end of an execution that did not succeed")
        bind(correlation_id=ended.id, run_id=ended.detail.name)
        noted = watcher().execution_ended_badly(
            execution=ended.detail.name,
            status=ended.detail.status,
            error=ended.detail.error or "",
            cause=ended.detail.cause or "",
        )
        logger.info("an execution ended badly", noted=noted)
        return {"execution": ended.detail.name, "noted": noted}
    return _perform(decode(_TASK, task_event(event), "a task of a rollout"))


def _perform(task: Task) -> dict[str, Any]:
    about = task.rollout_id if isinstance(task, RolloutInput | ResumeTask) else ""
    model = "" if isinstance(task, ResumeTask) else task.model
    bind(correlation_id=task.correlation_id, run_id=about, model=model)
    logger.info("rollout task begins", action=task.action)
    answer: Message | None = None
    match task:
        case BeginTask():
            answer = watcher().begin(task)
        case SetTrafficTask():
            answer = watcher().set_traffic(task)
        case CheckHealthTask():
            answer = watcher().check_health(task)
        case FinishTask():
            answer = watcher().finish(task)
        case RollBackTask():
            answer = watcher().roll_back(task)
        case RecordStallTask():
            watcher().record_stall(task)
        case RollOutTask():
            answer = watcher().roll_out(task)
        case StartTask():
            answer = watcher().start(task)
        case ResumeTask():
            answer = watcher().resume(task)
    logger.info("rollout task ends", action=task.action)
    return {} if answer is None else answer.model_dump(mode="json")
