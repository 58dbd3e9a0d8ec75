"""Services whose stock implementation fetches a program: here moto's, which comes with LocalStack.

LocalStack runs DynamoDB as Amazon's Java archive, downloaded when first used. moto's is Python, in
the same process, and moto is what LocalStack itself uses for most services.
"""

import importlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

NAME = "moto"


def specifications() -> Iterable[Any]:
    """Plug-in specifications of the providers, each named ``moto``."""
    plugins = importlib.import_module("localstack.services.plugins")

    def specification(service: str, make: Callable[[], Any]) -> Any:
        return plugins.aws_provider(api=service, name=NAME)(make)

    # A stream is read from the same tables as are written, so one lock is for both.
    lock = threading.RLock()
    yield specification("dynamodb", lambda: _service("dynamodb", "DynamodbApi", lock))
    yield specification(
        "dynamodbstreams", lambda: _service("dynamodbstreams", "DynamodbstreamsApi", lock)
    )


def _service(name: str, interface: str, lock: threading.RLock) -> Any:
    """A service that has moto answer everything, one request at a time.

    moto checks a transaction's conditions and then writes, with nothing between it and another
    thread that does the same: two of them could both find their condition true.
    """
    plugins = importlib.import_module("localstack.services.plugins")
    moto = importlib.import_module("localstack.services.moto")
    api = getattr(importlib.import_module(f"localstack.aws.api.{name}"), interface)

    def one_at_a_time(provider: object) -> dict[str, Callable[..., Any]]:
        return {
            operation: _locked(handler, lock)
            for operation, handler in moto.MotoFallbackDispatcher(provider).items()
        }

    return plugins.Service.for_provider(api(), dispatch_table_factory=one_at_a_time)


def _locked(handler: Callable[..., Any], lock: threading.RLock) -> Callable[..., Any]:
    def handle(*arguments: Any) -> Any:
        with lock:
            return handler(*arguments)

    return handle
