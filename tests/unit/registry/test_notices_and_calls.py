"""Notices to people, and calls of one function by another."""

import io
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from millrace.aws.lambda_ import LambdaInvoker
from millrace.aws.sns import Notice, SnsNotifier
from millrace.errors import (
    AccessDeniedError,
    ConcurrentWriteError,
    MillraceError,
    NotFoundError,
    ServiceUnavailableError,
    UploadRefusedError,
)
from millrace.observability import METRICS, metrics


class Topic:
    """An SNS client that keeps what is published, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.published: list[dict[str, Any]] = []
        self._error = error

    def publish(self, **message: Any) -> None:
        if self._error is not None:
            raise self._error
        self.published.append(message)


def denied() -> ClientError:
    return ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "Publish")


def test_notice_reads_well_and_can_be_filtered() -> None:
    topic = Topic()

    SnsNotifier(topic, "arn").notify(  # type: ignore[arg-type]
        Notice(
            model="churn",
            event="promoted",
            subject="churn@3 is champion",
            why="better than churn@2",
            next_step="nothing",
            details={"v": 3},
        )
    )

    (sent,) = topic.published
    assert sent["Subject"] == "Millrace: churn@3 is champion"
    message = json.loads(sent["Message"])
    assert sent["MessageStructure"] == "json"
    assert message["default"] == (
        "churn@3 is champion\n\nWhy: better than churn@2\n\nWhat to do: nothing\n\n"
        "model: churn\nv: 3\n"
    )
    assert message["sqs"] == message["lambda"] == message["https"]
    assert json.loads(message["sqs"]) == {
        "model": "churn",
        "event": "promoted",
        "summary": "churn@3 is champion",
        "why": "better than churn@2",
        "next_step": "nothing",
        "v": 3,
    }
    assert sent["MessageAttributes"]["event"]["StringValue"] == "promoted"


@pytest.mark.parametrize(
    "subject", ["x" * 500, "two\nlines\tand a tab", "schlüssel – ✓"], ids=["long", "lines", "text"]
)
def test_subject_is_what_sns_takes(subject: str) -> None:
    topic = Topic()

    SnsNotifier(topic, "arn").notify(Notice(model="m", event="e", subject=subject))  # type: ignore[arg-type]

    sent = topic.published[0]["Subject"]
    assert len(sent) < 100
    assert sent.isascii()
    assert sent.isprintable()


def test_a_notice_of_very_long_texts_is_cut_to_what_sns_takes() -> None:
    topic = Topic()
    text = "a value of a column " * 20_000

    SnsNotifier(topic, "arn").notify(  # type: ignore[arg-type]
        Notice(model="m", event="e", subject="s", why=text, details={"distribution": text, "n": 3})
    )

    (message,) = topic.published
    assert len(message["Message"].encode()) < 64_000
    assert json.loads(json.loads(message["Message"])["sqs"])["n"] == 3


def test_notice_that_cannot_be_sent_is_counted_and_raises_nothing() -> None:
    metrics.clear_metrics()

    SnsNotifier(Topic(denied()), "arn").notify(Notice(model="m", event="e", subject="s"))  # type: ignore[arg-type]

    assert METRICS.NOTIFICATIONS_FAILED in metrics.provider.metric_set
    metrics.clear_metrics()


class Function:
    """A Lambda client whose function answers as told."""

    def __init__(self, body: Any, error: str | None = None) -> None:
        self._body = body
        self._error = error

    def invoke(self, **request: Any) -> dict[str, Any]:
        if isinstance(self._body, Exception):
            raise self._body
        assert request["InvocationType"] == "RequestResponse"
        answer: dict[str, Any] = {"Payload": io.BytesIO(self._body)}
        return answer | ({"FunctionError": self._error} if self._error else {})


def call(body: Any, error: str | None = None) -> Any:
    return LambdaInvoker(Function(body, error)).invoke("trigger", {"a": 1})  # type: ignore[arg-type]


def test_answer_is_decoded() -> None:
    assert call(b'{"run_id": "r"}') == {"run_id": "r"}
    assert call(b"null") is None
    assert call(b"") is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NotFoundError", NotFoundError),
        ("ConcurrentWriteError", ConcurrentWriteError),
        ("UploadRefusedError", UploadRefusedError),
        ("ImportModuleError", ServiceUnavailableError),
        ("FieldProblem", ServiceUnavailableError),
        ("Sandbox.Timedout", ServiceUnavailableError),
        ("", ServiceUnavailableError),
    ],
)
def test_what_the_function_raised_is_raised_here(name: str, kind: type[MillraceError]) -> None:
    report = json.dumps({"errorType": name, "errorMessage": "there is no model 'x'"}).encode()

    with pytest.raises(MillraceError, match="there is no model 'x'") as raised:
        call(report, "Unhandled")

    assert type(raised.value) is kind


def test_failure_without_a_report_is_an_outage() -> None:
    for body in (b"", b"null", b"[]", b"<html>"):
        with pytest.raises(ServiceUnavailableError, match="invoke trigger"):
            call(body, "Unhandled")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (denied(), AccessDeniedError),
        (ReadTimeoutError(endpoint_url="http://x"), ServiceUnavailableError),
    ],
)
def test_lambdas_errors_become_ours(error: Exception, kind: type[MillraceError]) -> None:
    with pytest.raises(kind):
        call(error)
