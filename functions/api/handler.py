"""The registry over HTTPS: specs, models, versions, runs, audit, champions, retraining, batch jobs."""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.lambda_ import LambdaInvoker
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.sns import SnsNotifier
from millrace.aws.stepfunctions import StateMachine, WaitingTasks
from millrace.documents import read_spec
from millrace.http.api import create_app
from millrace.http.deciding import Desk
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.gateway import Gateway
from millrace.http.keys import open_guard
from millrace.http.operations import RolloutDoor, Trigger
from millrace.monitoring.costs import Sizes
from millrace.monitoring.episodes import open_episodes
from millrace.monitoring.feedback import Feedback
from millrace.monitoring.labelbook import LabelBook
from millrace.observability import logger, published, tracer
from millrace.registry.approvals import open_approvals
from millrace.registry.batches import open_batches
from millrace.registry.records import SpecVersion
from millrace.registry.registry import open_registry
from millrace.registry.rollouts import open_rollouts
from millrace.settings import EnvironmentSettings
from millrace.spec import ModelSpec

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class ApiSettings(EnvironmentSettings):
    """Environment of the api function."""

    table_name: str
    artifact_bucket: str
    data_bucket: str
    state_machine_arn: str
    trigger_function: str
    rollout_function: str
    topic_arn: str
    stage: str = "dev"
    code_version: str = "unknown"
    authorizer: str = "IAM"
    api_keys: str = ""
    capture_days: int = 90
    approval_links: str = "on"


@cache
def gateway() -> Gateway:
    """The app and its clients, built from the environment at the first request."""
    settings = ApiSettings.from_environment()
    objects = S3ObjectStore(client("s3"))
    registry = open_registry(client("dynamodb"), settings.table_name)

    def stored_spec(record: SpecVersion) -> ModelSpec:
        return read_spec(objects, settings.artifact_bucket, record.key, record.digest)

    def report_link(key: str) -> str | None:
        return objects.presigned_get(settings.artifact_bucket, key) if key else None

    rollout_door = RolloutDoor(LambdaInvoker(client("lambda")), settings.rollout_function)
    return Gateway(
        create_app(
            Collaborators(
                registry=registry,
                batches=open_batches(client("dynamodb"), settings.table_name),
                objects=objects,
                artifact_bucket=settings.artifact_bucket,
                data_bucket=settings.data_bucket,
                presign=objects.presigned_get,
                steps=StateMachine(client("stepfunctions"), settings.state_machine_arn).steps,
                rollouts=open_rollouts(client("dynamodb"), settings.table_name),
                rollout_door=rollout_door,
                trigger=Trigger(LambdaInvoker(client("lambda")), settings.trigger_function),
                notifier=SnsNotifier(client("sns"), settings.topic_arn),
                stage=settings.stage,
                code_version=settings.code_version,
                new_token=lambda: str(uuid4()),
                table=DynamoTable(client("dynamodb"), settings.table_name),
                now=lambda: datetime.now(UTC),
                feedback=Feedback(
                    serving=registry,
                    objects=objects,
                    artifact_bucket=settings.artifact_bucket,
                    book=LabelBook(
                        DynamoTable(client("dynamodb"), settings.table_name),
                        timedelta(days=settings.capture_days),
                    ),
                    clock=lambda: datetime.now(UTC),
                ),
                episodes=open_episodes(client("dynamodb"), settings.table_name),
                desk=Desk(
                    registry=registry,
                    approvals=open_approvals(client("dynamodb"), settings.table_name),
                    wake=WaitingTasks(client("stepfunctions")).wake,
                    read_spec=stored_spec,
                    report_link=report_link,
                    rollout_door=rollout_door,
                ),
                approval_links=settings.approval_links == "on",
                clock=lambda: datetime.now(UTC),
                sizes=Sizes.from_environment(),
            )
        ),
        open_guard(
            settings.authorizer,
            settings.api_keys,
            lambda: DynamoTable(client("dynamodb"), settings.table_name),
        ),
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answers one API Gateway proxy event."""
    return gateway()(event, context)
