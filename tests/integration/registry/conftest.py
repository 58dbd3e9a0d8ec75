"""The registry function on a fresh stack."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from functions.registry import handler as registry_function
from millrace.messages import Message, TrainingInput
from tests.fakes import cloud


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[cloud.Cloud]:
    registry_function.recorder.cache_clear()
    with cloud.stack(monkeypatch) as made:
        yield made
    registry_function.recorder.cache_clear()


@pytest.fixture
def perform(stack: cloud.Cloud) -> Callable[..., dict[str, Any]]:
    """Sends a task to the handler as the state machine does: the whole payload and an action."""

    def send(
        action: str, task: TrainingInput, **fields: Message | dict[str, Any]
    ) -> dict[str, Any]:
        payload = task.model_dump(mode="json") | {
            name: value.model_dump(mode="json") if isinstance(value, Message) else value
            for name, value in fields.items()
        }
        return registry_function.handler(
            {"action": action, "input": payload},
            cloud.LambdaContext(),
        )

    return send
