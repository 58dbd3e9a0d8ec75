"""What the serving path tells the world, so that it can never harm an answer."""

import sys
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Protocol

import orjson

from millrace import observability
from millrace.errors import MillraceError
from millrace.observability import METRICS, NAMESPACE, SERVICE, count, publish
from millrace.serving.identity import Role


class _Harmless:
    """See `harmless`."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Logs what was raised, whatever it is; the answer stands."""
        if not isinstance(error, Exception):
            return False
        observability.logger.error("telemetry failed", exc_info=error)
        return True


_HARMLESS: Final = _Harmless()


def harmless() -> _Harmless:
    """A prediction never fails because monitoring does: what is raised inside is only logged."""
    return _HARMLESS


class Observer(Protocol):
    """Is told of loads besides: a server on premises counts them in its own metrics."""

    def loaded(self, model: str) -> None:
        """A version was loaded."""
        ...

    def load_failed(self, model: str | None) -> None:
        """A version could not be loaded; None when it is not known of which model."""
        ...


_observers: list[Observer] = []


def observe(observer: Observer) -> None:
    """Makes an observer hear of every load of this process from now on, in place of any other."""
    _observers[:] = [observer]


def unobserve() -> None:
    """Makes the observer hear no more."""
    _observers.clear()


def note_load(*, model: str, version: int, size: int, seconds: float) -> None:
    """A version was loaded: a log line that is its metric as well, as `journal` writes them.

    The first answer of every environment comes after it, and waits for no logger to be imported.
    """
    with harmless():
        # nosemgrep: clock-read-in-the-domain -- the time of a log line, as a logger would stamp it
        now = time.time()
        metric = METRICS.MODEL_LOADS
        line = {
            "level": "INFO",
            "message": "model loaded",
            "timestamp": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "service": SERVICE,
            "correlation_id": observability.correlation(),
            "model": model,
            "version": version,
            "bytes": size,
            "milliseconds": round(seconds * 1e3, 1),
            metric: 1,
            "_aws": {
                "Timestamp": int(now * 1e3),
                "CloudWatchMetrics": [
                    {
                        "Namespace": NAMESPACE,
                        "Dimensions": [["service"], ["service", "model"]],
                        "Metrics": [{"Name": metric, "Unit": "Count"}],
                    }
                ],
            },
        }
        # nosemgrep: printed-in-a-function -- this is the log: the logger's import would delay the answer
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
        sys.stdout.flush()
    with harmless():
        for observer in _observers:
            observer.loaded(model)


def note_load_failure(
    *, model: str, version: int, role: Role, error: Exception | None, still_serving: int | None
) -> None:
    """A version could not be loaded; an alarm watches the metric, and the line says whose it was."""
    with harmless():
        observability.logger.error(
            "model cannot be loaded",
            exc_info=error,
            extra={
                "model": model,
                "version": version,
                "role": role.name.lower(),
                "error": type(error).__name__,
                "still_serving": still_serving,
            },
        )
    with harmless():
        count(METRICS.MODEL_LOAD_FAILURES, model=model)
        for observer in _observers:
            observer.load_failed(model)


def note_stale(*, model: str, version: int, error: Exception | None) -> None:
    """The registry could not say who the champion is; the last known one goes on answering."""
    with harmless():
        observability.logger.warning(
            "champion not confirmed",
            extra={"model": model, "version": version, "error": type(error).__name__},
        )


def note_not_preloaded(*, model: str, error: MillraceError) -> None:
    """A champion could not be loaded ahead of the first request; that request tries again."""
    with harmless():
        observability.logger.warning(
            "champion not preloaded", extra={"model": model, "error": type(error).__name__}
        )


def flush() -> None:
    """Writes what loading counted as one line; nothing, as a rule."""
    with harmless():
        publish()
