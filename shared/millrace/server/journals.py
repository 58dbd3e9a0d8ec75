"""Who is told of the server's answers, and when: after them, several at once, to be counted and written."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from millrace.server.metrics import Meters
from millrace.serving import telemetry
from millrace.serving.prediction import Journal, Prediction
from millrace.serving.routing import Chosen

MAX_WAITING: Final = 64
"""Answers that may wait to be counted and captured."""

type Together = Callable[[], AbstractContextManager[None]]


class MeteredJournal:
    """A journal that counts, and passes on to the one that writes lines.

    Args:
        meters: Count.
        lines: Writes a line of each request; None to write none.
    """

    def __init__(self, meters: Meters, lines: Journal | None) -> None:
        self._meters = meters
        self._lines = lines

    def answered(self, prediction: Prediction, *, seconds: float, correlation_id: str) -> None:
        """See `Journal.answered`."""
        self._meters.answered(prediction, seconds)
        if self._lines is not None:
            self._lines.answered(prediction, seconds=seconds, correlation_id=correlation_id)

    def refused(
        self,
        error: Exception,
        *,
        model: str | None,
        seconds: float,
        correlation_id: str,
        failed: Chosen | None = None,
    ) -> None:
        """See `Journal.refused`."""
        self._meters.refused(model, type(error).__name__)
        if self._lines is not None:
            self._lines.refused(
                error, model=model, seconds=seconds, correlation_id=correlation_id, failed=failed
            )


class LaterJournal:
    """A journal that is told of answers when the event loop has dealt with all requests that were there.

    Nobody waits for what is counted and captured, and one such after the other costs the processor less
    than each between two requests. Beyond `MAX_WAITING` nothing waits.

    Args:
        journal: Is told.
        together: Around all that is told at once.
    """

    def __init__(self, journal: Journal, together: Together = nullcontext) -> None:
        self._journal = journal
        self._together = together
        self._waiting: list[tuple[Prediction, float, str]] = []

    def answered(self, prediction: Prediction, *, seconds: float, correlation_id: str) -> None:
        """See `Journal.answered`."""
        self._waiting.append((prediction, seconds, correlation_id))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self.flush)
        elif len(self._waiting) >= MAX_WAITING:
            self.flush()

    def refused(
        self,
        error: Exception,
        *,
        model: str | None,
        seconds: float,
        correlation_id: str,
        failed: Chosen | None = None,
    ) -> None:
        """See `Journal.refused`; what was answered before is told before."""
        self.flush()
        self._journal.refused(
            error, model=model, seconds=seconds, correlation_id=correlation_id, failed=failed
        )

    def flush(self) -> None:
        """Tells of everything that waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        with telemetry.harmless(), self._together():
            for prediction, seconds, correlation_id in waiting:
                with telemetry.harmless():
                    self._journal.answered(
                        prediction, seconds=seconds, correlation_id=correlation_id
                    )
