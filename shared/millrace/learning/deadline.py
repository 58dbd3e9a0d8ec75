"""Ends training with a clear error before the Lambda is killed without one."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from millrace.errors import TrainingError

RESERVE_SECONDS = 3.0
"""Kept free at the end: to raise, log and answer."""

REPEAT_SECONDS = 0.2

type Remaining = Callable[[], float]
"""Seconds the invocation still has."""


@contextmanager
def deadline(remaining: Remaining | None, what: str) -> Iterator[None]:
    """Raises inside the block when the time is nearly used up.

    An alarm signal interrupts scikit-learn between two of its Python steps (a tree, a node, an
    iteration). Signals reach the main thread only, where Lambda runs handlers; elsewhere the block
    relies on `check_time` between the folds.

    Args:
        remaining: Seconds the invocation still has, or None for no bound.
        what: What is being done, for the message.

    Raises:
        TrainingError: The time is nearly used up.
    """
    if remaining is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    seconds = remaining() - RESERVE_SECONDS
    if seconds <= 0:
        raise _too_late(what, 0.0)
    started = time.monotonic()
    armed = True
    rang = False

    def ring(_signal: int, _frame: FrameType | None) -> None:
        nonlocal rang
        if armed:
            rang = True
            raise _too_late(what, time.monotonic() - started)

    before = signal.signal(signal.SIGALRM, ring)
    # It rings again, as an exception raised inside a C library's callback is swallowed.
    theirs, repeat = signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT_SECONDS)
    try:
        try:
            yield
        finally:
            armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if theirs:  # Somebody else's alarm was on: it goes on, and rings now if it is late.
            left = max(theirs - (time.monotonic() - started), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, repeat)
    if rang:
        raise _too_late(what, time.monotonic() - started)


def check_time(remaining: Remaining | None, needed: float, what: str) -> None:
    """Refuses to begin what cannot be finished.

    Args:
        remaining: Seconds the invocation still has, or None for no bound.
        needed: Seconds the next step is expected to take.
        what: What is being done, for the message.

    Raises:
        TrainingError: Too little time is left.
    """
    if remaining is None:
        return
    left = remaining() - RESERVE_SECONDS
    if left < needed:
        raise TrainingError(
            f"{what}: the next step needs about {needed:.0f} s and {max(left, 0):.0f} s are left; "
            "lower train.folds, or give the train function more memory or time"
        )


def _too_late(what: str, seconds: float) -> TrainingError:
    return TrainingError(
        f"{what} was stopped after {seconds:.0f} s, before the function's time limit; "
        "give the train function more memory or time, or train on fewer rows"
    )
