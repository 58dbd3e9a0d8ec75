"""POST /v1/models/{name}/predict: the champion's answer, and the Open Inference Protocol beside it.

What a cold start imports is kept small here: AWS is called without boto3 (`aws.wire`), and neither
the web framework nor the X-Ray SDK is loaded on the way to a prediction.

Where an environment is made ahead of its first request, by SnapStart or for provisioned
concurrency, the champions are loaded ahead as well (`prepare`).
"""

import os
import random
import ssl
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

from millrace.attestation import Attestation
from millrace.aws.credentials import CredentialSource
from millrace.aws.wire import Wire, WireKey, WireObjects, WireTable
from millrace.http.gateway import Gateway
from millrace.http.keys import open_guard
from millrace.http.service import create_service
from millrace.registry.heartbeats import HeartbeatMarks
from millrace.registry.serving import ServingReader
from millrace.serving.codec import Limits
from millrace.serving.identity import new_prediction_id
from millrace.serving.store import ModelStore, capacity_of, unfrozen_clock
from millrace.settings import EnvironmentSettings

SNAP_START: Final = "snap-start"
PROVISIONED: Final = "provisioned-concurrency"
BODY_BYTES: Final = 4_500_000
"""Of a request: Lambda takes events of 6 MB, and ours carry bodies in base64, beside their headers."""


class PredictSettings(EnvironmentSettings):
    """Environment of the predict function."""

    table_name: str
    artifact_bucket: str
    refresh_seconds: float = 30.0
    max_rows: int = 5_000
    memory_mb: int = 1_024
    authorizer: str = "IAM"
    api_keys: str = ""
    trusted_key_arn: str = ""
    """The key that must have signed what is loaded; empty where nobody need have."""


class Assembly(NamedTuple):
    """The app and what must be renewed when its environment is restored from a snapshot."""

    gateway: Gateway
    store: ModelStore
    credentials: CredentialSource
    wires: tuple[Wire, ...]

    def renew(self) -> None:
        """Drops what may not be shared by all environments restored from one snapshot.

        Connections lead nowhere; credentials have expired; what the registry said may be days old,
        which no monotonic clock noticed. Prediction ids and TLS draw from the operating system and
        OpenSSL, which are given fresh randomness, and the jitter between tries is seeded anew.
        """
        for wire in self.wires:
            wire.disconnect()
        self.credentials.forget()
        self.store.expire()
        random.seed()
        ssl.RAND_add(os.urandom(32), 32.0)


def assemble(settings: PredictSettings, clock: Callable[[], float] | None = None) -> Assembly:
    """The app and its clients.

    Args:
        settings: The function's settings.
        clock: Seconds, by which the champion is read anew; by default `unfrozen_clock`.
    """
    limits = Limits(rows=settings.max_rows, body_bytes=BODY_BYTES)
    credentials = CredentialSource(time.time)
    dynamodb, s3 = Wire("dynamodb", credentials), Wire("s3", credentials)
    wires = [dynamodb, s3]
    attestation = None
    if settings.trusted_key_arn:
        wires.append(Wire("kms", credentials))
        key = WireKey(wires[-1], settings.trusted_key_arn)
        attestation = Attestation(settings.trusted_key_arn, key.verify)
    table = WireTable(dynamodb, settings.table_name)
    store = ModelStore(
        ServingReader(table),
        WireObjects(s3),
        settings.artifact_bucket,
        refresh_seconds=settings.refresh_seconds,
        clock=clock or unfrozen_clock(),
        limits=limits,
        capacity_bytes=capacity_of(settings.memory_mb * 2**20),
        attestation=attestation,
    )
    guard = open_guard(settings.authorizer, settings.api_keys, lambda: table)
    service = create_service(
        store, new_id=new_prediction_id, limits=limits, heartbeats=HeartbeatMarks(table).proves
    )
    return Assembly(
        Gateway(service, guard, never_waits=service.never_waits),
        store,
        credentials,
        tuple(wires),
    )


def build(settings: PredictSettings, clock: Callable[[], float] | None = None) -> Gateway:
    """The app alone; arguments as `assemble`."""
    return assemble(settings, clock).gateway


@cache
def assembly() -> Assembly:
    """The app of this environment, built at the first request."""
    return assemble(PredictSettings.from_environment())


@cache
def gateway() -> Gateway:
    """Its door."""
    return assembly().gateway


def prepare(initialization: str) -> None:
    """Loads champions before the first request, where an environment is made before it.

    Args:
        initialization: ``AWS_LAMBDA_INITIALIZATION_TYPE``. An environment ``on-demand`` is made for
            a request that waits, and loads nothing but what that one asks for.
    """
    if initialization == PROVISIONED:
        assembly().store.preload()
    elif initialization == SNAP_START:
        # Only Lambda's runtime has it.
        from snapshot_restore_py import (  # type: ignore[import-not-found]
            register_after_restore,
            register_before_snapshot,
        )

        register_before_snapshot(freeze)
        register_after_restore(thaw)


def freeze() -> None:
    """Before the snapshot: the champions and all that could be imported later go into it."""
    from millrace.http import predict  # noqa: F401 - the framework, for errors and descriptions

    assembly().store.preload()
    assembly().renew()


def thaw() -> None:
    """After the snapshot is restored, before the first request."""
    assembly().renew()


prepare(os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", ""))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answers one API Gateway proxy event."""
    return gateway()(event, context)
