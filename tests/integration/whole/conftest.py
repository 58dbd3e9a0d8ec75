"""The whole API: every function behind one door, on a fresh stack with a real champion."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import uvicorn

from functions.api import handler as api
from functions.predict import handler as predict
from functions.rollout import handler as rollout
from functions.trigger import handler as trigger
from millrace.aws.clients import client
from millrace.observability import metrics
from millrace.signature import Conformal, Reference, Signature
from tests.fakes import cases, cloud
from tests.fakes.front import Front
from tests.fakes.gateway import Handler
from tests.fakes.onnx_models import churn_signature, crown, stored

TRIGGER = "stack-trigger"
ROLLOUT = "rollout"


class InProcess:
    """`LambdaInvoker` that runs the handlers here; moto needs Docker for that."""

    def __init__(self, client: Any) -> None:
        """Takes what the real one takes."""

    def invoke(self, function_name: str, payload: Mapping[str, Any]) -> Any:
        """See `LambdaInvoker.invoke`."""
        asked = {TRIGGER: trigger, ROLLOUT: rollout}[function_name]
        answer = asked.handler(json.loads(json.dumps(payload)), cloud.LambdaContext())
        return json.loads(json.dumps(answer))


@dataclass
class Whole:
    """A deployment in this process.

    Attributes:
        stack: Its resources.
        handlers: Its functions.
        front: What stands before them.
    """

    stack: cloud.Cloud
    handlers: Mapping[str, Handler]
    front: Front


def signature() -> Signature:
    """A champion's signature that answers everything: intervals, contributions, categories."""
    plain = churn_signature()
    features = tuple(
        replace(f, categories=("basic", "premium")) if f.name == "plan" else f
        for f in plain.features
    )
    return replace(
        plain,
        features=features,
        reference=Reference(numeric=(40.0, 3.0, 1.0), categorical=("basic", "")),
        conformal=Conformal(
            method="lac", rows=20, levels=(0.5, 0.8, 0.9), quantiles=(0.4, 0.6, 0.8)
        ),
    )


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    metrics.provider.clear_metrics()
    monkeypatch.setenv("MILLRACE_TRIGGER_FUNCTION", TRIGGER)
    monkeypatch.setattr(api, "LambdaInvoker", InProcess)
    wired = (api.gateway, predict.gateway, trigger.wiring, rollout.settings, rollout.watcher)
    for made in wired:
        made.cache_clear()
    with cloud.stack(monkeypatch) as stack:
        handlers: dict[str, Handler] = {"api": api.handler, "predict": predict.handler}
        stack.apply(cases.spec())

        def put(key: str, body: bytes) -> None:
            client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)

        first = cases.run(1, cases.spec()).run_id
        crown(stack.registry, put, 1, stored(first, signature=signature(), bias=0.25))
        yield Whole(stack, handlers, Front(handlers))
    for made in wired:
        made.cache_clear()


@contextmanager
def listening(front: Front) -> Iterator[str]:
    """Serves on a free port of this machine; gives the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(128)
        config = uvicorn.Config(front, log_level="error", lifespan="off", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()
