"""A stack's resources on moto: what the handlers find in AWS, without the functions."""

import atexit
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws
from moto.server import ThreadedMotoServer

from millrace import layout
from millrace.aws.clients import client
from millrace.registry.batches import Batches, open_batches
from millrace.registry.registry import Registry, open_registry
from millrace.spec import ModelSpec
from tests.fakes import cases
from tests.fakes.crashes import uninstall_all

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

TABLE = "registry-table"
SERVICES = [
    "dynamodb",
    "events",
    "kms",
    "s3",
    "sns",
    "sqs",
    "stepfunctions",
    "sts",
    "iam",
    "lambda",
]


@dataclass
class LambdaContext:
    """What handlers and Powertools use of Lambda's context."""

    remaining_ms: int = 30_000
    aws_request_id: str = "request-1"
    function_name: str = "function"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:function"

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda would end the invocation."""
        return self.remaining_ms


@dataclass
class Cloud:
    """The resources of a stack on moto."""

    state_machine_arn: str
    batch_machine_arn: str
    rollout_machine_arn: str
    topic_arn: str
    queue_url: str
    seen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def registry(self) -> Registry:
        """The registry on the stack's table."""
        return open_registry(client("dynamodb"), TABLE)

    def apply(self, spec: ModelSpec) -> None:
        """Stores a spec and applies it, as the API does."""
        client("s3").put_object(
            Bucket=cases.ARTIFACT_BUCKET,
            Key=layout.spec_key(spec.name, spec.digest),
            Body=spec.to_json().encode(),
        )
        cases.apply(self.registry, spec)

    @property
    def batches(self) -> Batches:
        """The batch jobs on the stack's table."""
        return open_batches(client("dynamodb"), TABLE)

    def executions(self, machine: str = "") -> list[str]:
        """Names of the executions that were started, of TRAINING unless another is named."""
        found = client("stepfunctions").list_executions(
            stateMachineArn=machine or self.state_machine_arn
        )
        return sorted(e["name"] for e in found["executions"])

    def notices(self) -> list[dict[str, Any]]:
        """Every notice sent so far, in no order."""
        queue = _sqs()
        while messages := queue.receive_message(
            QueueUrl=self.queue_url, MaxNumberOfMessages=10
        ).get("Messages"):
            for message in messages:
                self.seen.append(json.loads(json.loads(message["Body"])["Message"]))
                queue.delete_message(
                    QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"]
                )
        return self.seen

    def events_told(self) -> list[str]:
        """Names of the events people were told of."""
        return sorted(n["event"] for n in self.notices())


@cache
def _sqs() -> Any:
    return boto3.client("sqs")


@cache
def wire_endpoint() -> str:
    """Address of the same resources over HTTP, for what calls AWS without boto3 (`aws.wire`).

    One server for the process: its thread answers from moto's own memory, where boto3's calls end.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    atexit.register(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


@contextmanager
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A fresh stack, and the environment of its functions."""
    with mock_aws(config={"core": {"service_whitelist": SERVICES}}):
        create_table()
        for bucket in (cases.DATA_BUCKET, cases.ARTIFACT_BUCKET):
            client("s3").create_bucket(Bucket=bucket)
            client("s3").put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )
        topic = client("sns").create_topic(Name="notices")["TopicArn"]
        queue = _sqs().create_queue(QueueName="told")["QueueUrl"]
        client("sns").subscribe(
            TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:told"
        )
        machine, batch, rollout = (
            client("stepfunctions").create_state_machine(
                name=name,
                definition='{"StartAt": "Wait", "States": {"Wait": {"Type": "Succeed"}}}',
                roleArn="arn:aws:iam::123456789012:role/states",
            )["stateMachineArn"]
            for name in ("training", "batch", "millrace-rollout")
        )
        for name, value in {
            "TABLE_NAME": TABLE,
            "DATA_BUCKET": cases.DATA_BUCKET,
            "ARTIFACT_BUCKET": cases.ARTIFACT_BUCKET,
            "STATE_MACHINE_ARN": machine,
            "BATCH_MACHINE_ARN": batch,
            "BATCH_MACHINE": "batch",
            "ROLLOUT_FUNCTION": "rollout",
            "TOPIC_ARN": topic,
        }.items():
            monkeypatch.setenv(f"MILLRACE_{name}", value)
        for service in ("DYNAMODB", "KMS", "S3"):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", wire_endpoint())
        # boto3 stays with moto's patches, which know the services by their own addresses.
        monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
        try:
            yield Cloud(machine, batch, rollout, topic, queue)
        finally:
            uninstall_all()


def create_table(name: str = TABLE, dynamodb: "DynamoDBClient | None" = None) -> None:
    """The registry table, with the keys and the index of the template.

    Args:
        name: Its name.
        dynamodb: Where; default: the process's own client.
    """
    attributes = ["PK", "SK", "GSI1PK", "GSI1SK"]
    (dynamodb or client("dynamodb")).create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": a, "AttributeType": "S"} for a in attributes],
        KeySchema=[
            {"AttributeName": "PK", "KeyType": "HASH"},
            {"AttributeName": "SK", "KeyType": "RANGE"},
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "GSI1",
                "KeySchema": [
                    {"AttributeName": "GSI1PK", "KeyType": "HASH"},
                    {"AttributeName": "GSI1SK", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )
