"""Waiting for something that has to come: a bounded look, never a sleep for its own sake."""

import time
from collections.abc import Callable

import pytest


def until[T](look: Callable[[], T | None], *, seconds: float = 15.0, pause: float = 0.05) -> T:
    """The first thing ``look`` finds that is not None or empty; fails when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"nothing after {seconds:.0f} s")
        time.sleep(pause)
