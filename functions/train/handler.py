"""The train function: proposes trials, scores one, fits the winner.

Tasks of the TRAINING machine: ``{"action": "plan" | "trial" | "fit", "input": {…}}``. Running one
again is safe: plan and trial write nothing, and fit writes each artifact once by its run id.
"""

from functools import cache
from typing import Annotated, Any, Final, Protocol

from pydantic import Field, TypeAdapter

from millrace.aws.clients import client
from millrace.aws.s3 import S3ObjectStore
from millrace.decoding import decode
from millrace.learning.data import SplitReader
from millrace.learning.deadline import Remaining
from millrace.learning.service import Training
from millrace.messages import FitTask, PlanTask, TrialResult, TrialTask, task_event
from millrace.observability import METRICS, bind, count, logger, published, tracer
from millrace.settings import EnvironmentSettings


class TrainSettings(EnvironmentSettings):
    """Environment of the train function."""

    data_bucket: str
    artifact_bucket: str
    code_version: str = "unknown"


class InvocationContext(Protocol):
    """What is used of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the invocation."""
        ...


_TASK: Final[TypeAdapter[PlanTask | TrialTask | FitTask]] = TypeAdapter(
    Annotated[PlanTask | TrialTask | FitTask, Field(discriminator="action")]
)


@cache
def training() -> Training:
    """The service, wired to S3 once per process."""
    settings = TrainSettings.from_environment()
    store = S3ObjectStore(client("s3"))
    return Training(
        store=store,
        splits=SplitReader(store, settings.data_bucket),
        artifact_bucket=settings.artifact_bucket,
        code_version=settings.code_version,
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: InvocationContext) -> dict[str, Any]:
    """Lambda's entry point."""
    task = decode(_TASK, task_event(event), "a task of a training")
    bind(correlation_id=task.correlation_id, run_id=task.run_id, model=task.model)

    def remaining() -> float:
        return context.get_remaining_time_in_millis() / 1000

    match task:
        case PlanTask():
            logger.info("plan begins", dataset_version=task.ingest.dataset_version)
            plan = training().plan(task)
            logger.info("plan ends", trials=len(plan.trials), metric=plan.metric)
            return plan.model_dump(mode="json")
        case TrialTask():
            return _trial(task, remaining).model_dump(mode="json")
        case FitTask():
            logger.info("fit begins", trials=len(task.trials))
            fitted = training().fit(task, remaining)
            logger.info(
                "fit ends",
                trial_id=fitted.trial_id,
                algorithm=fitted.algorithm,
                cv_score=fitted.cv_score,
                validation_score=fitted.validation_score,
                sha256=fitted.sha256,
                size_bytes=fitted.size_bytes,
                parity=fitted.parity.max_difference,
                seconds=fitted.seconds,
            )
            return fitted.model_dump(mode="json")


def _trial(task: TrialTask, remaining: Remaining) -> TrialResult:
    logger.info("trial begins", trial_id=task.trial.trial_id, algorithm=task.trial.algorithm)
    counted = METRICS.TRIALS_FAILED
    try:
        result = training().trial(task, remaining)
        counted = METRICS.TRIALS_FINISHED
    finally:
        count(counted, model=task.model)
    logger.info("trial ends", trial_id=result.trial_id, score=result.score, seconds=result.seconds)
    return result
