"""The heartbeat function: asks the deployed API a known row of every model that has a champion.

Invoked by the schedule, with `HeartbeatMinutes`, and by hand. What is not well is logged and counted, and
fails no invocation: a beat that comes late is worth nothing, so none is repeated, and one that does not
come at all is what the alarm waits for.
"""

import os
import secrets
import time
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from millrace.aws.apikeys import value_of_key
from millrace.aws.clients import client
from millrace.aws.credentials import CredentialSource
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.execute_api import ApiCaller, reachable
from millrace.aws.s3 import S3ObjectStore
from millrace.http.roles import Authorizer
from millrace.monitoring.heartbeat import Beat, Heartbeat
from millrace.observability import METRICS, MetricUnit, bind, count, logger, published, tracer
from millrace.registry.serving import ServingReader, ServingRecord
from millrace.settings import EnvironmentSettings
from millrace.signature import Signature
from millrace.signature_file import read_signature

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_ENOUGH_MS: Final = 30_000
"""Time that has to be left for another model."""


class HeartbeatSettings(EnvironmentSettings):
    """Environment of the heartbeat function."""

    table_name: str
    artifact_bucket: str
    api_url: str
    authorizer: str
    api_key_id: str = ""
    """Of the key that it calls with, where keys are asked for."""
    refresh_seconds: float = 30.0
    deadline_seconds: float = 10.0


@cache
def settings() -> HeartbeatSettings:
    """The settings, read once per process."""
    return HeartbeatSettings.from_environment()


@cache
def reader() -> ServingReader:
    """Says what serves."""
    return ServingReader(DynamoTable(client("dynamodb"), settings().table_name))


def caller() -> ApiCaller:
    """The API's door, with what it asks of this function: a signature, a key, or nothing."""
    made = settings()
    endpoint, region = (os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "AWS_REGION"))
    signed = made.authorizer == Authorizer.IAM
    key = value_of_key(client("apigateway"), made.api_key_id) if made.api_key_id else ""
    return ApiCaller(
        reachable(made.api_url, endpoint),
        region=region,
        credentials=CredentialSource(time.time) if signed else None,
        headers={"x-api-key": key} if key else {},
    )


@cache
def heartbeat() -> Heartbeat:
    """The use case with its clients, wired once per process."""
    made = settings()
    store = S3ObjectStore(client("s3"))

    def signature(serving: ServingRecord) -> Signature:
        return read_signature(
            store,
            made.artifact_bucket,
            serving.signature_key,
            serving.signature_sha256,
            f"{serving.model}@{serving.version}",
        )

    return Heartbeat(
        table=DynamoTable(client("dynamodb"), made.table_name),
        serving=reader().get_serving,
        signature=signature,
        api=caller(),
        now=lambda: datetime.now(UTC),
        new_mark=lambda: secrets.token_urlsafe(32),
        refresh=timedelta(seconds=made.refresh_seconds),
        deadline=made.deadline_seconds,
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(_event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Lambda's entry point."""
    bind(correlation_id=context.aws_request_id)
    models = [offer.model for offer in reader().list_serving() if offer.version is not None]
    beats = [] if models else [heartbeat().api()]
    for model in models:
        if context.get_remaining_time_in_millis() < _ENOUGH_MS:
            beats.append(Beat(model, "expected time for every model, got too many of them"))
            continue
        beats.append(heartbeat().model(model))
    looked = [beat for beat in beats if not beat.skipped]
    failed = [beat for beat in looked if beat.reason]
    for beat in failed:
        logger.error("heartbeat failed", model=beat.model, version=beat.version, why=beat.reason)
    if looked:
        count(METRICS.HEARTBEAT_SUCCESS, 0 if failed else 1)
    took = [beat.seconds for beat in looked if beat.seconds is not None]
    if took:
        count(METRICS.HEARTBEAT_LATENCY, max(took) * 1e3, unit=MetricUnit.Milliseconds)
    logger.info("heartbeat ends", models=len(models), failed=len(failed))
    return {
        "models": len(models),
        "failed": len(failed),
        "beats": [
            {
                "model": beat.model,
                "version": beat.version,
                "milliseconds": None if beat.seconds is None else round(beat.seconds * 1e3, 1),
                "reason": beat.reason,
                "skipped": beat.skipped,
            }
            for beat in beats
        ],
    }
