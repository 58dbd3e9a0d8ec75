"""The feedback function and the api's route for labels, on a fresh stack with a champion."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions.api import handler as api
from functions.feedback import handler as function
from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.monitoring.labelbook import LabelBook
from millrace.observability import metrics
from tests.fakes import cases, cloud
from tests.fakes.gateway import Caller
from tests.fakes.onnx_models import StoredModel, crown

TRIGGER = "stack-trigger"


@dataclass(frozen=True)
class Desk:
    """Where labels are handed in."""

    stack: cloud.Cloud
    call: Caller

    def crown(self, number: int = 1, model: StoredModel | None = None) -> None:
        """Makes a champion; of churn with the classes 0 and 1, by default."""
        crown(self.stack.registry, self._put, number, model)

    def _put(self, key: str, body: bytes) -> None:
        client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)

    def event(self, name: str, body: bytes, model: str = "churn") -> dict[str, Any]:
        """Uploads a file of labels; EventBridge's event for it."""
        key = f"feedback/{model}/{name}"
        put = client("s3").put_object(Bucket=cases.DATA_BUCKET, Key=key, Body=body)
        return {
            "version": "0",
            "id": "event-1",
            "detail-type": "Object Created",
            "source": "aws.s3",
            "time": datetime.now(UTC).isoformat(),
            "detail": {
                "bucket": {"name": cases.DATA_BUCKET},
                "object": {
                    "key": key,
                    "size": len(body),
                    "etag": "abc",
                    "version-id": put["VersionId"],
                },
            },
        }

    def deliver(self, event: dict[str, Any]) -> dict[str, Any]:
        """Runs the handler."""
        return function.handler(event, cloud.LambdaContext())

    def report(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """The report on a file."""
        report: dict[str, Any] = json.loads(self.read(outcome["report_key"]))
        return report

    def read(self, key: str) -> bytes:
        """An object of the data bucket."""
        body: bytes = client("s3").get_object(Bucket=cases.DATA_BUCKET, Key=key)["Body"].read()
        return body

    def labels(self, prediction_id: str) -> dict[int, str]:
        """What is known of a prediction."""
        book = LabelBook(DynamoTable(client("dynamodb"), cloud.TABLE), timedelta(days=90))
        found = book.of_prediction("churn", prediction_id)
        return {row: label.value for row, label in found.items()}


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    def forget() -> None:
        api.gateway.cache_clear()
        function.settings.cache_clear()
        function.feedback.cache_clear()
        metrics.provider.clear_metrics()

    forget()
    monkeypatch.setenv("MILLRACE_TRIGGER_FUNCTION", TRIGGER)
    with cloud.stack(monkeypatch) as stack:
        yield Desk(stack, Caller(api.handler))
    forget()
