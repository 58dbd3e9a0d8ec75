"""The api function on a fresh stack, with the real trigger function behind its retraining."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from functions.api import handler as api
from functions.trigger import handler as trigger
from millrace.observability import metrics
from tests.fakes import cloud
from tests.fakes.gateway import Caller

TRIGGER = "stack-trigger"


class InProcess:
    """`LambdaInvoker` that runs the trigger's handler here; moto needs Docker for that."""

    def __init__(self, client: Any) -> None:
        """Takes what the real one takes."""

    def invoke(self, function_name: str, payload: Mapping[str, Any]) -> Any:
        """See `LambdaInvoker.invoke`."""
        assert function_name == TRIGGER
        answer = trigger.handler(json.loads(json.dumps(payload)), cloud.LambdaContext())
        return json.loads(json.dumps(answer))


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[cloud.Cloud]:
    metrics.provider.clear_metrics()
    monkeypatch.setenv("MILLRACE_TRIGGER_FUNCTION", TRIGGER)
    monkeypatch.setattr(api, "LambdaInvoker", InProcess)
    api.gateway.cache_clear()
    trigger.wiring.cache_clear()
    with cloud.stack(monkeypatch) as made:
        yield made
    api.gateway.cache_clear()
    trigger.wiring.cache_clear()


@pytest.fixture
def call(stack: cloud.Cloud) -> Caller:
    return Caller(api.handler)
