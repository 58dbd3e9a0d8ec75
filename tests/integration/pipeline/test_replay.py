"""Dead letters come back as trainings."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from infra.monitoring.replay import replay
from tests import samples
from tests.integration.pipeline.machine import REGION, function_arn
from tests.integration.pipeline.twin import Twin, twin

FILE = samples.csv_file(samples.rows(300))


@pytest.fixture
def deployed() -> Iterator[Twin]:
    with twin() as made:
        made.apply(samples.spec())
        yield made


@pytest.fixture
def queue(deployed: Twin) -> str:
    """The dead-letter queue, with two letters about one upload and one that nobody can read."""
    sqs = boto3.client("sqs", region_name=REGION)
    url = sqs.create_queue(QueueName="dead-letters")["QueueUrl"]
    event = deployed.upload("churn", "first.csv", FILE)
    sqs.send_message(
        QueueUrl=url,
        MessageBody=json.dumps(event),
        MessageAttributes={
            name: {"DataType": "String", "StringValue": value}
            for name, value in {
                "RULE_ARN": "arn:aws:events:us-east-1:123456789012:rule/upload",
                "TARGET_ARN": function_arn("trigger"),
                "ERROR_CODE": "NO_PERMISSIONS",
            }.items()
        },
    )
    report = {
        "version": "1.0",
        "requestContext": {
            "functionArn": function_arn("trigger") + ":$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        },
        "requestPayload": event,
        "responsePayload": {"errorType": "ServiceUnavailableError"},
    }
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps(report))
    sqs.send_message(QueueUrl=url, MessageBody="no letter of ours")
    return url


def _replay(queue: str, *, send: bool) -> int:
    clients: list[Any] = [boto3.client(name, region_name=REGION) for name in ("sqs", "lambda")]
    return replay(clients[0], clients[1], queue, send=send)


def _left(queue: str) -> int:
    sqs = boto3.client("sqs", region_name=REGION)
    names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return sum(int(counts[name]) for name in names)


def test_showing_dead_letters_leaves_them(
    deployed: Twin, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _replay(queue, send=False) == 2

    told = capsys.readouterr()
    assert "millrace-trigger: Object Created (NO_PERMISSIONS)" in told.out
    assert "millrace-trigger:$LATEST: Object Created (ServiceUnavailableError)" in told.out
    assert "neither" in told.err or "no JSON" in told.err
    assert deployed.machine.executions() == []
    assert _left(queue) == 3


def test_replayed_upload_trains_once_however_many_letters_there_are(
    deployed: Twin, queue: str
) -> None:
    assert _replay(queue, send=True) == 2

    [run_id] = deployed.machine.executions()
    assert deployed.follow(run_id).states[-1] == "Promoted"
    assert _left(queue) == 1
