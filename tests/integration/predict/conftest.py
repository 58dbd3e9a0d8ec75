"""The predict function on a fresh stack, with champions that are real ONNX models."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from functions.predict import handler as predict
from millrace.aws.clients import client
from millrace.observability import metrics
from tests.fakes import cases, cloud
from tests.fakes.gateway import Caller, Reply
from tests.fakes.onnx_models import StoredModel, crown

ROW: dict[str, Any] = {
    "age": 41,
    "plan": "basic",
    "tenure": 3.5,
    "active": True,
    "city": "Graz",
}


@dataclass
class Serving:
    """A stack whose predict function tests call."""

    stack: cloud.Cloud
    call: Caller
    now: float = 5_000.0

    def predict(self, body: Any, name: str = "churn", **how: Any) -> Reply:
        """Asks for a prediction."""
        return self.call("POST", f"/v1/models/{name}/predict", body, **how)

    def crown(self, number: int, model: StoredModel | None = None) -> StoredModel:
        """Trains version `number` of the model, as the pipeline does, and makes it champion."""
        return crown(self.stack.registry, self.put, number, model)

    def put(self, key: str, body: bytes) -> None:
        """Writes an artifact."""
        client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    predict.gateway.cache_clear()
    metrics.provider.clear_metrics()
    monkeypatch.setenv("MILLRACE_REFRESH_SECONDS", "30")
    with cloud.stack(monkeypatch) as stack:
        made = Serving(stack, Caller(predict.handler))
        monkeypatch.setattr(
            predict,
            "gateway",
            cached(
                lambda: predict.build(predict.PredictSettings.from_environment(), lambda: made.now)
            ),
        )
        yield made


def cached(build: Any) -> Any:
    """Builds once."""
    held: list[Any] = []

    def get() -> Any:
        if not held:
            held.append(build())
        return held[0]

    get.cache_clear = held.clear  # type: ignore[attr-defined]
    return get
