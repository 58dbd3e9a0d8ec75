"""Dead letters come back as trainings."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from millrace_cli.dead_letters import Found, look, replay
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


def _replay(queue: str, function: str = "") -> Found:
    sqs, functions = (boto3.client(name, region_name=REGION) for name in ("sqs", "lambda"))
    return replay(sqs, functions, queue, function=function)  # type: ignore[arg-type]  # by name


def _left(queue: str) -> int:
    sqs = boto3.client("sqs", region_name=REGION)
    names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return sum(int(counts[name]) for name in names)


def test_showing_dead_letters_leaves_them(deployed: Twin, queue: str) -> None:
    found = look(boto3.client("sqs", region_name=REGION), queue)

    assert sorted((one.name, one.kind, one.reason) for one in found.letters) == [
        ("millrace-trigger", "Object Created", "NO_PERMISSIONS"),
        ("millrace-trigger", "Object Created", "ServiceUnavailableError"),
    ]
    assert all(abs(one.since - datetime.now(UTC)) < timedelta(minutes=5) for one in found.letters)
    [unreadable] = found.unreadable
    assert "no JSON" in unreadable
    assert deployed.machine.executions() == []
    assert _left(queue) == 3


def test_what_is_told_of_a_letter_holds_nothing_of_its_event(deployed: Twin, queue: str) -> None:
    found = look(boto3.client("sqs", region_name=REGION), queue)

    assert "first.csv" not in json.dumps([one.document() for one in found.letters])


def test_letters_of_another_function_stay(deployed: Twin, queue: str) -> None:
    found = _replay(queue, "capture")

    assert found.letters == ()
    assert deployed.machine.executions() == []
    assert _left(queue) == 3


def test_replayed_upload_trains_once_however_many_letters_there_are(
    deployed: Twin, queue: str
) -> None:
    assert len(_replay(queue).letters) == 2

    [run_id] = deployed.machine.executions()
    assert deployed.follow(run_id).states[-1] == "Promoted"
    assert _left(queue) == 1
