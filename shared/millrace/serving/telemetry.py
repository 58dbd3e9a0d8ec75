"""What the serving path tells the world, so that it can never harm an answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from millrace.observability import METRICS, MetricUnit, logger, metrics


@contextmanager
def harmless() -> Iterator[None]:
    """A prediction never fails because monitoring does: what is raised inside is only logged."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001 - monitoring is whatever it is; the answer stands
        logger.error("telemetry failed", exc_info=exc)


def count(metric: str, value: float = 1) -> None:
    """Adds to a metric of the request; `flush` sends them together."""
    with harmless():
        metrics.add_metric(metric, MetricUnit.Count, value)


def note_answer(*, model: str, version: int, prediction_id: str, rows: int, seconds: float) -> None:
    """One log line and the metrics of an answered request; features and answers stay out."""
    with harmless():
        logger.info(
            "predicted",
            extra={
                "model": model,
                "version": version,
                "prediction_id": prediction_id,
                "rows": rows,
                "milliseconds": round(seconds * 1e3, 3),
            },
        )
    with harmless():
        metrics.add_dimensions(model=model)
        metrics.add_metric(METRICS.PREDICTIONS, MetricUnit.Count, rows)
        metrics.add_metric(METRICS.PREDICTION_LATENCY, MetricUnit.Milliseconds, seconds * 1e3)


def note_refusal(*, model: str | None, error: str, fields: int) -> None:
    """One log line and the metric of a refused request.

    Args:
        model: The model, when it is known to exist: names that callers invent are no dimension.
        error: The error's class.
        fields: How many wrong places were named.
    """
    with harmless():
        logger.info("prediction refused", extra={"model": model, "error": error, "fields": fields})
    with harmless():
        if model is not None:
            metrics.add_dimensions(model=model)
        metrics.add_metric(METRICS.PREDICTIONS_REFUSED, MetricUnit.Count, 1)


def flush() -> None:
    """Writes the metrics of this request as one line."""
    with harmless():
        if metrics.provider.metric_set:
            metrics.flush_metrics()
