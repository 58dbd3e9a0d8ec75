"""Sends dead letters to the functions they were meant for, once their cause is mended.

The queue holds two kinds of message. EventBridge's are the event itself, with the rule's and the
target's ARN as attributes. Lambda's are a report on a failed invocation with the event inside. All
functions that take events are idempotent, so a letter that was handled after all does no harm.

    python -m infra.monitoring.replay --stack millrace            # show what waits
    python -m infra.monitoring.replay --stack millrace --send     # send, and delete what was taken
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3

if TYPE_CHECKING:
    from mypy_boto3_lambda.client import LambdaClient
    from mypy_boto3_sqs.client import SQSClient

HIDDEN_SECONDS = 300
"""How long a letter that was read stays out of sight of another reader."""


class UnreadableLetterError(Exception):
    """A message in the queue that neither EventBridge nor Lambda put there."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter.

    Attributes:
        receipt: SQS's handle to delete it by.
        function: ARN of the function it was meant for.
        event: What the function should have been given.
        reason: Why it is here.
    """

    receipt: str
    function: str
    event: dict[str, Any]
    reason: str


def read(message: dict[str, Any]) -> Letter:
    """A queue's message as a letter.

    Raises:
        UnreadableLetterError: It has neither form.
    """
    attributes = {
        n: a.get("StringValue", "") for n, a in message.get("MessageAttributes", {}).items()
    }
    try:
        body = json.loads(message["Body"])
    except ValueError as exc:
        raise UnreadableLetterError(f"message {message['MessageId']} is no JSON") from exc
    if "TARGET_ARN" in attributes:
        reason = attributes.get("ERROR_MESSAGE") or attributes.get("ERROR_CODE", "")
        return Letter(message["ReceiptHandle"], attributes["TARGET_ARN"], body, reason)
    if isinstance(body, dict) and {"requestContext", "requestPayload"} <= body.keys():
        # The ARN ends in a qualifier, :$LATEST, which the Invoke API takes as it is.
        function = body["requestContext"]["functionArn"]
        failure = body.get("responsePayload") or {}
        reason = failure.get("errorType") or body["requestContext"].get("condition", "")
        return Letter(message["ReceiptHandle"], function, body["requestPayload"], reason)
    raise UnreadableLetterError(
        f"message {message['MessageId']} is from neither EventBridge nor Lambda"
    )


def letters(sqs: "SQSClient", queue: str, *, hidden_seconds: int) -> Iterator[Letter]:
    """Every letter in the queue, each at most once; unreadable ones are told and left."""
    seen: set[str] = set()
    while True:
        answer = sqs.receive_message(
            QueueUrl=queue,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            VisibilityTimeout=hidden_seconds,
            WaitTimeSeconds=1,
        )
        fresh = [m for m in answer.get("Messages", []) if m["MessageId"] not in seen]
        if not fresh:
            return
        for message in fresh:
            seen.add(message["MessageId"])
            try:
                yield read(dict(message))
            except UnreadableLetterError as exc:
                print(f"left where it is: {exc}", file=sys.stderr)


def replay(sqs: "SQSClient", functions: "LambdaClient", queue: str, *, send: bool) -> int:
    """Shows, or sends, every letter.

    Returns:
        How many there were.
    """
    count = 0
    for letter in letters(sqs, queue, hidden_seconds=HIDDEN_SECONDS if send else 5):
        count += 1
        name = letter.function.split(":function:")[-1]
        print(f"{name}: {letter.event.get('detail-type', 'event')} ({letter.reason})")
        if send:
            functions.invoke(
                FunctionName=letter.function,
                InvocationType="Event",
                Payload=json.dumps(letter.event).encode(),
            )
            # Only now: a letter that could not be handed over stays.
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=letter.receipt)
    return count


def queue_of(stack: str) -> str:
    """The stack's dead-letter queue."""
    [described] = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    outputs = {o["OutputKey"]: o["OutputValue"] for o in described.get("Outputs", [])}
    return outputs["DeadLetterQueueUrl"]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Show or replay the dead letters of a stack.")
    parser.add_argument("--stack", default="millrace")
    parser.add_argument("--send", action="store_true", help="send them; without it, only show")
    given = parser.parse_args()
    queue = queue_of(given.stack)
    count = replay(boto3.client("sqs"), boto3.client("lambda"), queue, send=given.send)
    verb = "sent" if given.send else "waiting"
    print(f"{count} dead letter{'' if count == 1 else 's'} {verb}")


if __name__ == "__main__":
    main()
