"""The one owner of logger, metrics and tracer.

Powertools reads service name, namespace and log level from the environment. Dimensions stay few:
the model and, where it matters, the outcome.
"""

from typing import Final

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit

NAMESPACE: Final = "Millrace"

logger = Logger(service="millrace", utc=True)
metrics = Metrics(namespace=NAMESPACE, service="millrace")
tracer = Tracer(service="millrace")

__all__ = ["METRICS", "MetricUnit", "bind", "logger", "metrics", "tracer"]


class METRICS:
    """Names of every metric Millrace emits; alarms and dashboards use the same constants."""

    UPLOADS_RECEIVED: Final = "UploadsReceived"
    UPLOADS_DUPLICATE: Final = "UploadsDuplicate"
    UPLOADS_UNROUTABLE: Final = "UploadsUnroutable"
    UPLOADS_REFUSED: Final = "UploadsRefused"
    ROWS_ACCEPTED: Final = "RowsAccepted"
    ROWS_QUARANTINED: Final = "RowsQuarantined"
    TRIALS_FINISHED: Final = "TrialsFinished"
    TRIALS_FAILED: Final = "TrialsFailed"
    GATES_PASSED: Final = "GatesPassed"
    GATES_FAILED: Final = "GatesFailed"
    PROMOTIONS: Final = "Promotions"
    ROLLBACKS: Final = "Rollbacks"
    RUNS_FAILED: Final = "RunsFailed"
    NOTIFICATIONS_FAILED: Final = "NotificationsFailed"
    PREDICTIONS: Final = "Predictions"
    PREDICTION_LATENCY: Final = "PredictionLatency"
    PREDICTIONS_REFUSED: Final = "PredictionsRefused"
    MODEL_LOADS: Final = "ModelLoads"
    MODEL_LOAD_FAILURES: Final = "ModelLoadFailures"


def bind(*, correlation_id: str, run_id: str = "", model: str = "") -> None:
    """Puts the ids that join a log line to its upload, run and model on every line that follows."""
    logger.set_correlation_id(correlation_id)
    logger.append_keys(run_id=run_id, model=model)
