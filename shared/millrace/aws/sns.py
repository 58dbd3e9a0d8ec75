"""Notices to people over SNS.

A notice is a courtesy: the registry is the record. When SNS fails, the failure is logged and
counted, and the training goes on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from millrace.aws.translate import translated
from millrace.errors import MillraceError
from millrace.observability import METRICS, count, logger

if TYPE_CHECKING:
    from mypy_boto3_sns.client import SNSClient

_MAX_TEXT = 4_000
"""Characters of one fact of a notice."""
_MAX_SUBJECT = 100
"""SNS's limit: under 100 characters of ASCII, without line breaks."""
_PROGRAMS = ("sqs", "lambda", "https")
"""Subscribers that read JSON."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What people are told.

    Attributes:
        model: The model it is about; subscribers can filter on it.
        event: A stable name such as ``promoted``; subscribers can filter on it.
        subject: One line: what happened.
        details: The facts, JSON-like.
        why: The reason, in words.
        next_step: What to do now.
    """

    model: str
    event: str
    subject: str
    details: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    next_step: str = ""


class Notifier(Protocol):
    """Tells people."""

    def notify(self, notice: Notice) -> None:
        """Sends the notice; never raises because it could not."""
        ...


class SnsNotifier:
    """`Notifier` on an SNS topic."""

    def __init__(self, client: "SNSClient", topic_arn: str) -> None:
        self._client = client
        self._topic_arn = topic_arn

    def notify(self, notice: Notice) -> None:
        """See `Notifier.notify`."""
        try:
            with translated(f"publish to {self._topic_arn}"):
                self._client.publish(
                    TopicArn=self._topic_arn,
                    Subject=_subject(notice.subject),
                    Message=_message(notice),
                    MessageStructure="json",
                    MessageAttributes={
                        "model": {"DataType": "String", "StringValue": notice.model},
                        "event": {"DataType": "String", "StringValue": notice.event},
                    },
                )
        except MillraceError as exc:
            logger.warning("a notice could not be sent", event=notice.event, error=str(exc))
            count(METRICS.NOTIFICATIONS_FAILED)


def _message(notice: Notice) -> str:
    """Words for mail and telephones; JSON for queues, functions and web hooks."""
    facts = {
        "model": notice.model,
        "event": notice.event,
        "summary": notice.subject,
        "why": notice.why,
        "next_step": notice.next_step,
        **notice.details,
    }
    told = {k: _cut(v) for k, v in facts.items() if v != ""}
    document = json.dumps(told, indent=2, default=str)
    return json.dumps({"default": _text(notice), **dict.fromkeys(_PROGRAMS, document)})


def _text(notice: Notice) -> str:
    parts = [notice.subject]
    why = notice.why or str(notice.details.get("reason") or "")
    if why:
        parts.append(f"Why: {_cut(why)}")
    if notice.next_step:
        parts.append(f"What to do: {notice.next_step}")
    facts = {"model": notice.model, **notice.details}
    plain = [
        f"{name.replace('_', ' ')}: {_cut(value)}"
        for name, value in facts.items()
        if name != "reason" and isinstance(value, str | int | float) and value != ""
    ]
    return "\n\n".join([*parts, "\n".join(plain)]) + "\n"


def _cut(value: Any) -> Any:
    """A fact, cut where it is a text so long that SNS would refuse the message (256 KB)."""
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return f"{value[: _MAX_TEXT - 1]}…"
    return value


def _subject(text: str) -> str:
    plain = " ".join(f"Millrace: {text}".split()).encode("ascii", "replace").decode()
    return plain if len(plain) < _MAX_SUBJECT else plain[: _MAX_SUBJECT - 4] + "..."
