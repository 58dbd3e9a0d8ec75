"""The score function: one chunk of a batch job goes through the model.

Task of the BATCH machine's Map. Idempotent by job and chunk: the scores have one name, are written
once, and a chunk that has them is not scored again. A version is loaded once per environment.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from millrace.attestation import Attestation
from millrace.aws.clients import client
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.wire import open_attestation
from millrace.batch.scoring import Scorer, load_scorer, score
from millrace.decoding import decode
from millrace.messages import BatchInput, ScoreTask
from millrace.observability import METRICS, bind, count, logger, published, tracer
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_TASK: Final = TypeAdapter(ScoreTask)
_KEPT: Final = 2
"""Versions kept loaded: an environment serves one job after another."""

_loaded: dict[tuple[str, str], Scorer] = {}


class ScoreSettings(EnvironmentSettings):
    """Environment of the score function."""

    data_bucket: str
    artifact_bucket: str
    trusted_key_arn: str = ""


@cache
def settings() -> ScoreSettings:
    """The function's settings, read once."""
    return ScoreSettings.from_environment()


@cache
def attestation() -> Attestation | None:
    """What checks who signed a version, if this environment demands it."""
    return open_attestation(settings().trusted_key_arn)


def scorer(task: BatchInput) -> Scorer:
    """The job's version, loaded unless it is already."""
    key = (task.sha256, task.signature_sha256)
    if key not in _loaded:
        made = load_scorer(
            task, S3ObjectStore(client("s3")), settings().artifact_bucket, attestation()
        )
        while len(_loaded) >= _KEPT:
            del _loaded[next(iter(_loaded))]
        _loaded[key] = made
    return _loaded[key]


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:  # noqa: ARG001  # Lambda's signature
    """Lambda's entry point."""
    task = decode(_TASK, event, "a chunk of a batch job")
    bind(correlation_id=task.correlation_id, run_id=task.batch_id, model=task.model)
    logger.info("chunk begins", chunk=task.chunk)
    result = score(
        task,
        store=S3ObjectStore(client("s3")),
        data_bucket=settings().data_bucket,
        scorer=scorer,
    )
    count(METRICS.ROWS_SCORED, result.rows, model=task.model)
    logger.info("chunk ends", chunk=task.chunk, row_count=result.rows, skipped=result.skipped)
    return result.model_dump(mode="json")
