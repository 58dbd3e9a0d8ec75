"""The one owner of logger, metrics and tracer.

The *service*, in Powertools' sense, is the deployment: all functions of a stack share its name, so
that what two functions count is one series, and two stacks in one account are two. Log lines name
their function besides. Dimensions stay few: the service, and the service with the model.

All three are made when they are first named. Powertools takes longer to import than a prediction's
model to load, and the X-Ray SDK behind the tracer longer than all else that a prediction needs; the
predict function writes its lines itself (`serving.journal`) and comes here when something is wrong.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger, Metrics, Tracer
    from aws_lambda_powertools.metrics import MetricUnit

    logger: Logger
    metrics: Metrics
    tracer: Tracer

NAMESPACE: Final = "Millrace"
SERVICE: Final = os.environ.get("POWERTOOLS_SERVICE_NAME", "millrace")

__all__ = [
    "METRICS",
    "MetricUnit",
    "bind",
    "correlate",
    "correlation",
    "count",
    "logger",
    "metrics",
    "publish",
    "published",
    "tracer",
]

_correlation = ""
_made: dict[str, Any] = {}
"""The logger's formatter and the metrics, if they were needed already: every request asks."""


def __getattr__(name: str) -> Any:
    """Logger, metrics, tracer and the units of metrics, made when they are first named."""
    match name:
        case "logger":
            return _logger()
        case "metrics":
            return _metrics()
        case "tracer":
            return _tracer()
        case "MetricUnit":
            from aws_lambda_powertools.metrics import MetricUnit

            return MetricUnit
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _logger() -> "Logger":
    from aws_lambda_powertools import Logger

    made = Logger(service=SERVICE, utc=True)
    if _correlation:
        made.set_correlation_id(_correlation)
    # The logger looks for it among its handlers each time.
    _made["formatter"] = made.registered_formatter
    return made


@cache
def _metrics() -> "Metrics":
    from aws_lambda_powertools import Metrics

    made = _made["metrics"] = Metrics(namespace=NAMESPACE, service=SERVICE)
    return made


@cache
def _tracer() -> "Tracer":
    from aws_lambda_powertools import Tracer

    return Tracer(service=SERVICE)


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
    ROLLOUTS_STARTED: Final = "RolloutsStarted"
    ROLLOUTS_PROMOTED: Final = "RolloutsPromoted"
    ROLLOUTS_ROLLED_BACK: Final = "RolloutsRolledBack"
    ROLLOUTS_HELD: Final = "RolloutsHeld"
    ROLLOUTS_STALLED: Final = "RolloutsStalled"
    RUNS_FAILED: Final = "RunsFailed"
    NOTIFICATIONS_FAILED: Final = "NotificationsFailed"
    EVENTS_FAILED: Final = "EventsFailed"
    ROWS_SCORED: Final = "RowsScored"
    BATCHES_FINISHED: Final = "BatchesFinished"
    BATCHES_REFUSED: Final = "BatchesRefused"
    BATCHES_FAILED: Final = "BatchesFailed"
    PREDICTIONS: Final = "Predictions"
    PREDICTION_LATENCY: Final = "PredictionLatency"
    PREDICTIONS_REFUSED: Final = "PredictionsRefused"
    UNKNOWN_CATEGORIES: Final = "UnknownCategories"
    CHALLENGER_FAILURES: Final = "ChallengerFailures"
    CHALLENGER_LACKING: Final = "ChallengerLacking"
    MODEL_LOADS: Final = "ModelLoads"
    MODEL_LOAD_FAILURES: Final = "ModelLoadFailures"
    CAPTURED_REQUESTS: Final = "CapturedRequests"
    CAPTURED_RECORDS: Final = "CapturedRecords"
    CAPTURE_REJECTED: Final = "CaptureRejected"
    WINDOWS_JUDGED: Final = "WindowsJudged"
    WINDOW_ROWS: Final = "WindowRows"
    WINDOW_ALARMS: Final = "WindowAlarms"
    DRIFTED_FEATURES: Final = "DriftedFeatures"
    CAPTURES_LOST: Final = "CapturesLost"
    MODELS_NOT_MONITORED: Final = "ModelsNotMonitored"
    LABELS_ACCEPTED: Final = "LabelsAccepted"
    LABELS_CORRECTED: Final = "LabelsCorrected"
    LABELS_DUPLICATE: Final = "LabelsDuplicate"
    LABELS_REJECTED: Final = "LabelsRejected"
    ALARMS_OPENED: Final = "AlarmsOpened"
    ALARMS_CLOSED: Final = "AlarmsClosed"
    DRIFT_RETRAININGS: Final = "DriftRetrainings"
    HEARTBEAT_SUCCESS: Final = "HeartbeatSuccess"
    HEARTBEAT_LATENCY: Final = "HeartbeatLatency"


def correlate(identifier: str) -> None:
    """Puts a request's id on every line that follows."""
    global _correlation  # noqa: PLW0603 - the logger, which keeps it too, may not be made yet
    _correlation = identifier
    formatter = _made.get("formatter")
    if formatter is not None:
        formatter.append_keys(correlation_id=identifier)


def correlation() -> str:
    """The id of the request being answered."""
    return _correlation


def bind(*, correlation_id: str, run_id: str = "", model: str = "") -> None:
    """Puts the ids that join a log line to its upload, run and model on every line that follows."""
    correlate(correlation_id)
    _logger().set_correlation_id(correlation_id)
    _logger().append_keys(run_id=run_id, model=model)


def count(
    metric: str, value: float = 1, *, model: str = "", unit: "MetricUnit | None" = None
) -> None:
    """Adds a value to a metric, to be published with the others of this invocation.

    Every value counts for the service, which is what alarms watch; with a model, also for it.

    Args:
        metric: One of `METRICS`.
        value: The value.
        model: A model that is known to exist: names that callers invent are no dimension.
        unit: The value's unit; a count by default.
    """
    metrics = _metrics()
    metrics.add_metric(name=metric, unit=unit or "Count", value=value)
    of_model = {"service": SERVICE, "model": model}
    if model and of_model not in metrics.provider.dimension_sets:
        metrics.add_dimensions(**of_model)


@contextmanager
def published() -> Iterator[None]:
    """Publishes what is counted inside, even when it raises; stands on handlers as a decorator."""
    try:
        yield
    finally:
        publish()


def publish() -> None:
    """Writes what was counted as one line; nothing when nothing was."""
    metrics = _made.get("metrics")
    if metrics is None:
        return
    if metrics.provider.metric_set:
        metrics.flush_metrics()
    else:
        metrics.provider.clear_metrics()
