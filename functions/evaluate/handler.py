"""The evaluate function: judges a candidate on held-out rows against its gates.

One task of the TRAINING machine; its event is the whole payload. Running it again is safe: the same
candidate against the same champion writes the same objects with the same figures.
"""

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from millrace.attestation import Attestation
from millrace.aws.clients import client
from millrace.aws.kms import KmsKey
from millrace.aws.s3 import S3ObjectStore
from millrace.decoding import decode
from millrace.documents import read_spec
from millrace.evaluation.service import evaluate
from millrace.messages import EvaluateTask
from millrace.observability import bind, logger, published, tracer
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_TASK: Final = TypeAdapter(EvaluateTask)


class EvaluateSettings(EnvironmentSettings):
    """Environment of the evaluate function."""

    data_bucket: str
    artifact_bucket: str
    trusted_key_arn: str = ""


@cache
def collaborators() -> tuple[EvaluateSettings, S3ObjectStore, Attestation | None]:
    """Settings, S3 and what checks signatures, made once per process."""
    settings = EvaluateSettings.from_environment()
    trusted = settings.trusted_key_arn
    attestation = Attestation(trusted, KmsKey(client("kms"), trusted).verify) if trusted else None
    return settings, S3ObjectStore(client("s3")), attestation


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:  # noqa: ARG001  # Lambda's signature
    """Lambda's entry point."""
    task = decode(_TASK, event, "the evaluation of a run")
    bind(correlation_id=task.correlation_id, run_id=task.run_id, model=task.model)
    champion = task.registration.champion
    logger.info(
        "evaluation begins",
        version=task.registration.version,
        champion=champion.version if champion else None,
        dataset_version=task.ingest.dataset_version,
    )
    settings, store, attestation = collaborators()
    result = evaluate(
        task,
        spec=read_spec(store, settings.artifact_bucket, task.spec_key, task.spec_digest),
        store=store,
        data_bucket=settings.data_bucket,
        artifact_bucket=settings.artifact_bucket,
        clock=lambda: datetime.now(UTC),
        attestation=attestation,
    )
    logger.info(
        "evaluation ends",
        version=task.registration.version,
        verdict=result.verdict,
        failed_gates=[gate.gate for gate in result.gates if not gate.passed],
        row_count=result.rows,
        metric=result.metric,
        value=result.metrics[result.metric].value,
        seconds=result.seconds,
    )
    return result.model_dump(mode="json")
