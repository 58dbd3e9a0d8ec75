"""The trigger function on a fresh stack."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from functions.trigger import handler as trigger
from tests.fakes import cases, cloud


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[cloud.Cloud]:
    trigger.wiring.cache_clear()
    with cloud.stack(monkeypatch) as made:
        yield made
    trigger.wiring.cache_clear()


@pytest.fixture
def deliver(stack: cloud.Cloud) -> Callable[..., dict[str, Any]]:
    """Delivers an event to the handler."""

    def send(event: dict[str, Any], remaining_ms: int = 30_000) -> dict[str, Any]:
        return trigger.handler(event, cloud.LambdaContext(remaining_ms=remaining_ms))

    return send


def created(
    key: str = "incoming/churn/customers.csv",
    *,
    version: str | None = "ver1",
    event_id: str = "event-1",
    size: int = 10,
    bucket: str = cases.DATA_BUCKET,
) -> dict[str, Any]:
    """EventBridge's event for a new object."""
    thing = {"key": key, "size": size, "etag": "abc", "sequencer": "00"}
    if version is not None:
        thing["version-id"] = version
    return {
        "version": "0",
        "id": event_id,
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": "123456789012",
        "time": "2026-11-01T12:00:00Z",
        "region": "us-east-1",
        "resources": [f"arn:aws:s3:::{bucket}"],
        "detail": {
            "version": "0",
            "bucket": {"name": bucket},
            "object": thing,
            "request-id": "r",
            "requester": "123456789012",
            "reason": "PutObject",
        },
    }


@pytest.fixture
def object_created() -> Callable[..., dict[str, Any]]:
    return created
