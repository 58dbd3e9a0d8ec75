"""What the serving path tells the world, so that it can never harm an answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from millrace.errors import MillraceError
from millrace.observability import METRICS, count, logger, publish


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
    *, model: str, version: int, error: Exception | None, still_serving: int | None
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


def note_stale(*, model: str, version: int, error: Exception | None) -> None:
    """The registry could not say who the champion is; the last known one goes on answering."""
    with harmless():
        logger.warning(
            "champion not confirmed",
            extra={"model": model, "version": version, "error": type(error).__name__},
        )


def note_not_preloaded(*, model: str, error: MillraceError) -> None:
    """A champion could not be loaded ahead of the first request; that request tries again."""
    with harmless():
        logger.warning(
            "champion not preloaded", extra={"model": model, "error": type(error).__name__}
        )


def flush() -> None:
    """Writes what loading counted as one line; nothing, as a rule."""
    with harmless():
        publish()
