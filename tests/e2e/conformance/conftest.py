"""A cloud of its own with a small stack on it, shared by the conformance tests."""

import http.client
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from millrace_cli import cloud
from millrace_cli.deploy import sam_executable
from tests.until import until

HERE = Path(__file__).parent
PROJECT = HERE.parents[2]
STACK = "conformance"


def deploy(info: cloud.CloudInfo) -> None:
    """Deploys the small stack with SAM CLI, as people deploy."""
    done = subprocess.run(
        [
            str(sam_executable(PROJECT)),
            "deploy",
            "--template-file",
            str(HERE / "template.yaml"),
            "--stack-name",
            STACK,
            "--resolve-s3",
            "--capabilities",
            "CAPABILITY_IAM",
            "--no-progressbar",
            "--no-fail-on-empty-changeset",
        ],
        cwd=info.folder,
        env=info.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


@dataclass(frozen=True)
class Stack:
    """The deployed stack and clients for its services."""

    info: cloud.CloudInfo
    outputs: dict[str, str]

    @staticmethod
    def of(info: cloud.CloudInfo) -> "Stack":
        """The stack on a cloud."""
        described = client(info, "cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
        return Stack(info, {o["OutputKey"]: o["OutputValue"] for o in described["Outputs"]})

    def client(self, service: str) -> Any:
        """A boto3 client that does not retry: a refused call is what some tests look at."""
        return client(self.info, service)

    def invoke(self, event: object, *, function: str = "Function") -> tuple[Any, str | None]:
        """The function's answer and Lambda's word for its failure."""
        answer = self.client("lambda").invoke(
            FunctionName=self.outputs[function], Payload=json.dumps(event).encode()
        )
        return json.loads(answer["Payload"].read()), answer.get("FunctionError")

    def execute(self, payload: object) -> dict[str, Any]:
        """The state machine's execution, once it ended."""
        states = self.client("stepfunctions")
        arn = states.start_execution(
            stateMachineArn=self.outputs["Machine"], input=json.dumps(payload)
        )["executionArn"]

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = states.describe_execution(executionArn=arn)
            return found if found["status"] != "RUNNING" else None

        return until(ended)

    def received(self, queue: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first message of a queue that is wanted, as JSON; others go back to the queue."""
        sqs = self.client("sqs")
        url = self.outputs[queue]

        def look() -> dict[str, Any] | None:
            answer = sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0, VisibilityTimeout=1
            )
            for message in answer.get("Messages", ()):
                body: dict[str, Any] = json.loads(message["Body"])
                if wanted(body):
                    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                    return body
            return None

        return until(look)

    def alarm(self, name: str) -> dict[str, Any]:
        """An alarm as CloudWatch describes it."""
        described = self.client("cloudwatch").describe_alarms(AlarmNames=[self.outputs[name]])
        found: dict[str, Any] = described["MetricAlarms"][0]
        return found


@cache
def client(info: cloud.CloudInfo, service: str) -> Any:
    """A client for a service of an embedded cloud."""
    session: Any = boto3
    return session.client(
        service,
        endpoint_url=info.endpoint,
        region_name=cloud.LOCAL_REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=20),
    )


def call_api(stack: Stack, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer of the stack's API."""
    payload = body.encode() if body is not None else None
    headers = {"Content-Type": "application/json"}
    status, content = send_to_api(stack, method, path, payload, headers)
    return status, json.loads(content)


def send_to_api(
    stack: Stack, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, bytes]:
    """Status and bytes of an answer of the stack's API; no header but these is sent."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.info.port, timeout=10)
    try:
        base = f"/restapis/{stack.outputs['Api']}/live/_user_request_"
        connection.request(method, base + path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """The small stack, deployed once; it is gone before other tests start their cloud."""
    with cloud.ephemeral(PROJECT) as info:
        deploy(info)
        yield Stack.of(info)
