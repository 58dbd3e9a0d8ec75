"""What the serving path tells the world, so that it can never harm an answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from millrace.errors import MillraceError
from millrace.observability import METRICS, MetricUnit, count, logger, publish


@contextmanager
def harmless() -> Iterator[None]:
    """A prediction never fails because monitoring does: what is raised inside is only logged."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001 - monitoring is whatever it is; the answer stands
        logger.error("telemetry failed", exc_info=exc)


def note_load(*, model: str, version: int, size: int, seconds: float) -> None:
    """A version was loaded."""
    with harmless():
        logger.info(
            "model loaded",
            extra={
                "model": model,
                "version": version,
                "bytes": size,
                "milliseconds": round(seconds * 1e3, 1),
            },
        )
    with harmless():
        count(METRICS.MODEL_LOADS, model=model)


def note_load_failure(
    *, model: str, version: int, error: MillraceError, still_serving: int | None
) -> None:
    """A version could not be loaded; an alarm watches the metric."""
    with harmless():
        logger.error(
            "model cannot be loaded",
            exc_info=error,
            extra={
                "model": model,
                "version": version,
                "error": type(error).__name__,
                "still_serving": still_serving,
            },
        )
    with harmless():
        count(METRICS.MODEL_LOAD_FAILURES, model=model)


def note_stale(*, model: str, version: int, error: MillraceError) -> None:
    """The registry could not say who the champion is; the last known one goes on answering."""
    with harmless():
        logger.warning(
            "champion not confirmed",
            extra={"model": model, "version": version, "error": type(error).__name__},
        )


def note_answer(*, model: str, version: int, prediction_id: str, rows: int, seconds: float) -> None:
    """One log line and the metrics of an answered request; features and answers stay out."""
    with harmless():
        logger.info(
            "predicted",
            extra={
                "model": model,
                "version": version,
                "prediction_id": prediction_id,
                "row_count": rows,
                "milliseconds": round(seconds * 1e3, 3),
            },
        )
    with harmless():
        count(METRICS.PREDICTIONS, rows, model=model)
        count(
            METRICS.PREDICTION_LATENCY,
            seconds * 1e3,
            model=model,
            unit=MetricUnit.Milliseconds,
        )


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
        count(METRICS.PREDICTIONS_REFUSED, model=model or "")


def flush() -> None:
    """Writes the metrics of this request as one line."""
    with harmless():
        publish()
