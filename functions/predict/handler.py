"""POST /v1/models/{name}/predict: the champion's answer.

Metrics are published by the app, where a failure of theirs cannot harm the answer; and log lines,
one per prediction, do without the facts about the function that the other handlers add.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

from millrace.aws.credentials import CredentialSource
from millrace.aws.wire import Wire, WireObjects, WireTable
from millrace.http.gateway import Gateway
from millrace.http.keys import open_guard
from millrace.http.service import create_service
from millrace.registry.serving import ServingReader
from millrace.serving.codec import Limits
from millrace.serving.identity import new_prediction_id
from millrace.serving.store import ModelStore, capacity_of, unfrozen_clock
from millrace.settings import EnvironmentSettings


class PredictSettings(EnvironmentSettings):
    """Environment of the predict function."""

    table_name: str
    artifact_bucket: str
    refresh_seconds: float = 30.0
    max_rows: int = 5_000
    memory_mb: int = 1_024
    authorizer: str = "IAM"
    api_keys: str = ""


def build(settings: PredictSettings, clock: Callable[[], float] | None = None) -> Gateway:
    """The app and its clients.

    Args:
        settings: The function's settings.
        clock: Seconds, by which the champion is read anew; by default `unfrozen_clock`.
    """
    limits = Limits(rows=settings.max_rows)
    credentials = CredentialSource(time.time)
    table = WireTable(Wire("dynamodb", credentials), settings.table_name)
    store = ModelStore(
        ServingReader(table),
        WireObjects(Wire("s3", credentials)),
        settings.artifact_bucket,
        refresh_seconds=settings.refresh_seconds,
        clock=clock or unfrozen_clock(),
        limits=limits,
        capacity_bytes=capacity_of(settings.memory_mb * 2**20),
    )
    guard = open_guard(settings.authorizer, settings.api_keys, lambda: table)
    service = create_service(store, new_id=new_prediction_id, limits=limits)
    return Gateway(service, guard, never_waits=service.never_waits)


@cache
def gateway() -> Gateway:
    """The app of this environment, built at the first request."""
    return build(PredictSettings.from_environment())


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answers one API Gateway proxy event."""
    return gateway()(event, context)
