"""The verbs `dlq list` and `dlq replay`: what could not be delivered or handled, and once more.

The queue holds two kinds of message. EventBridge's are the event itself, with the rule's and the
target's ARN as attributes. Lambda's are a report on a failed invocation with the event inside. All
functions that take events are idempotent, so a letter that was handled after all does no harm.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from millrace.aws.translate import translated
from millrace.errors import ConfigurationError
from millrace_cli.console import JsonFlag, chosen, out, print_json, reported
from millrace_cli.exits import ExitCode
from millrace_cli.render import listing
from millrace_cli.target import Target

if TYPE_CHECKING:
    from mypy_boto3_lambda.client import LambdaClient
    from mypy_boto3_sqs.client import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

app = typer.Typer(
    name="dlq", help="Dead letters: events that could not be handled.", no_args_is_help=True
)

HIDDEN_SECONDS: Final = 300
"""How long a letter that is being sent stays out of sight of another reader."""
LOOKED_AT_SECONDS: Final = 5
"""How long one that is only shown does."""


class UnreadableLetterError(Exception):
    """A message in the queue that neither EventBridge nor Lambda put there."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter.

    Attributes:
        id: Its id in the queue.
        receipt: SQS's handle to delete it by.
        function: ARN of the function it was meant for.
        event: What the function should have been given.
        reason: Why it is here.
        since: Since when.
        tries: How often it was looked at.
    """

    id: str
    receipt: str
    function: str
    event: dict[str, Any]
    reason: str
    since: datetime
    tries: int

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.split(":function:")[-1].partition(":")[0]

    @property
    def kind(self) -> str:
        """What kind of event it is."""
        return str(self.event.get("detail-type") or "event")

    def document(self) -> dict[str, Any]:
        """Facts of it; never the event, which may hold what callers sent."""
        return {
            "id": self.id,
            "function": self.name,
            "event": self.kind,
            "reason": self.reason,
            "since": self.since.isoformat(),
            "looked_at": self.tries,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the queue.

    Attributes:
        letters: Dead letters.
        unreadable: Ids of messages that are none; they are left.
    """

    letters: tuple[Letter, ...]
    unreadable: tuple[str, ...]


def read(message: "MessageTypeDef") -> Letter:
    """A queue's message as a letter.

    Raises:
        UnreadableLetterError: It has neither form.
    """
    attributes = {
        name: value.get("StringValue", "")
        for name, value in message.get("MessageAttributes", {}).items()
    }
    try:
        body = json.loads(message["Body"])
    except ValueError as exc:
        raise UnreadableLetterError(f"message {message['MessageId']} is no JSON") from exc
    if "TARGET_ARN" in attributes:
        reason = attributes.get("ERROR_MESSAGE") or attributes.get("ERROR_CODE", "")
        return _letter(message, attributes["TARGET_ARN"], body, reason)
    if isinstance(body, dict) and {"requestContext", "requestPayload"} <= body.keys():
        # The ARN ends in a qualifier, :$LATEST, which the Invoke API takes as it is.
        failure = body.get("responsePayload") or {}
        reason = failure.get("errorType") or body["requestContext"].get("condition", "")
        return _letter(
            message, body["requestContext"]["functionArn"], body["requestPayload"], reason
        )
    raise UnreadableLetterError(
        f"message {message['MessageId']} is from neither EventBridge nor Lambda"
    )


def _letter(message: "MessageTypeDef", function: str, event: Any, reason: str) -> Letter:
    facts = message.get("Attributes", {})
    return Letter(
        id=message["MessageId"],
        receipt=message["ReceiptHandle"],
        function=function,
        event=event,
        reason=reason,
        since=datetime.fromtimestamp(int(facts.get("SentTimestamp", "0")) / 1_000, UTC),
        tries=int(facts.get("ApproximateReceiveCount", "1")),
    )


def messages(
    sqs: "SQSClient", queue: str, *, hidden_seconds: int
) -> Iterator[Letter | UnreadableLetterError]:
    """Every message in the queue, each at most once."""
    seen: set[str] = set()
    while True:
        answer = sqs.receive_message(
            QueueUrl=queue,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            VisibilityTimeout=hidden_seconds,
            WaitTimeSeconds=1,
        )
        fresh = [m for m in answer.get("Messages", []) if m["MessageId"] not in seen]
        if not fresh:
            return
        for message in fresh:
            seen.add(message["MessageId"])
            try:
                yield read(message)
            except UnreadableLetterError as exc:
                yield exc


def look(sqs: "SQSClient", queue: str) -> Found:
    """What waits in the queue; it is left there."""
    return _sorted(messages(sqs, queue, hidden_seconds=LOOKED_AT_SECONDS))


def replay(sqs: "SQSClient", functions: "LambdaClient", queue: str, *, function: str = "") -> Found:
    """Sends letters to the functions they were meant for, and deletes them from the queue.

    Args:
        sqs: Reads and deletes.
        functions: Takes them.
        queue: The dead-letter queue's URL.
        function: Only the letters of functions whose name ends so.

    Returns:
        The letters that were sent, and what could not be read.
    """

    def sent() -> Iterator[Letter | UnreadableLetterError]:
        for letter in messages(sqs, queue, hidden_seconds=HIDDEN_SECONDS):
            if isinstance(letter, Letter):
                if not letter.name.endswith(function):
                    # Another one's: it is to be seen again at once.
                    sqs.change_message_visibility(
                        QueueUrl=queue, ReceiptHandle=letter.receipt, VisibilityTimeout=0
                    )
                    continue
                functions.invoke(
                    FunctionName=letter.function,
                    InvocationType="Event",
                    Payload=json.dumps(letter.event).encode(),
                )
                # Only now: a letter that could not be handed over stays.
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=letter.receipt)
            yield letter

    return _sorted(sent())


def _sorted(found: Iterator[Letter | UnreadableLetterError]) -> Found:
    letters: list[Letter] = []
    unreadable: list[str] = []
    for one in found:
        if isinstance(one, Letter):
            letters.append(one)
        else:
            unreadable.append(str(one))
    letters.sort(key=lambda letter: letter.since)
    return Found(tuple(letters), tuple(unreadable))


def _queue(target: Target) -> str:
    queue = target.outputs.raw.get("DeadLetterQueueUrl")
    if not queue:
        raise ConfigurationError(
            f"stack {target.stack!r} {target.where} has no output DeadLetterQueueUrl: deploy it anew"
        )
    return queue


@app.command("list", epilog="Example: millrace dlq list")
def list_letters(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show what waits in the dead-letter queue, and why; nothing is taken out."""
    with reported(as_json):
        target = chosen(context).target()
        queue = _queue(target)
        with translated(f"read {queue}"):
            found = look(target.sqs, queue)
        _print(found, as_json, "waiting")
        if found.letters and not as_json:
            out.print("their cause mended: millrace dlq replay")


@app.command("replay", epilog="Example: millrace dlq replay --function capture")
def replay_letters(
    context: typer.Context,
    function: Annotated[
        str, typer.Option("--function", help="Only letters of this function, e.g. capture.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Send each dead letter to its function, and delete it from the queue.

    Sending twice is harmless. What fails again comes back as a new letter.
    """
    with reported(as_json):
        target = chosen(context).target()
        queue = _queue(target)
        with translated(f"replay {queue}"):
            found = replay(target.sqs, target.functions, queue, function=function)
        _print(found, as_json, "sent")
        if found.unreadable:
            raise typer.Exit(ExitCode.OUTCOME)


def _print(found: Found, as_json: bool, verb: str) -> None:
    if as_json:
        print_json(
            {
                verb: [letter.document() for letter in found.letters],
                "unreadable": list(found.unreadable),
            }
        )
        return
    if found.letters:
        rows = [
            (f"{one.since:%Y-%m-%d %H:%M:%S}", one.name, one.kind, str(one.tries))
            for one in found.letters
        ]
        reasons = [one.reason for one in found.letters]
        out.print(listing(("since (UTC)", "function", "event", "looked at"), rows, reasons))
    for reason in found.unreadable:
        out.print(Text(f"left where it is: {reason}", style="yellow"))
    count = len(found.letters)
    out.print(f"{count} dead letter{'' if count == 1 else 's'} {verb}")
