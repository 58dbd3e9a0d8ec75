"""The alarm rings in time, once and for this block alone."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from millrace.errors import TrainingError
from millrace.learning.deadline import RESERVE_SECONDS, check_time, deadline


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1_000))


def test_block_is_interrupted_before_the_time_is_up() -> None:
    started = time.monotonic()

    with (
        pytest.raises(TrainingError, match="the fit was stopped after 0 s"),
        deadline(lambda: RESERVE_SECONDS + 0.05, "the fit"),
    ):
        spin(30)

    assert time.monotonic() - started < 10


def test_swallowed_alarm_rings_again() -> None:
    def swallow_and_go_on() -> None:
        with contextlib.suppress(TrainingError):
            spin(30)
        spin(30)

    with (
        pytest.raises(TrainingError, match="was stopped"),
        deadline(lambda: RESERVE_SECONDS + 0.02, "the fit"),
    ):
        swallow_and_go_on()


def test_swallowed_alarm_still_fails_the_block() -> None:
    def swallow_and_end() -> None:
        with contextlib.suppress(TrainingError):
            spin(30)

    with (
        pytest.raises(TrainingError, match="was stopped"),
        deadline(lambda: RESERVE_SECONDS + 0.02, "the fit"),
    ):
        swallow_and_end()


@pytest.fixture
def their_alarm() -> Iterator[list[int]]:
    """An alarm of somebody else, ten seconds ahead, in the place of the test runner's own."""
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    theirs, repeat = signal.setitimer(signal.ITIMER_REAL, 10)
    yield rung
    signal.setitimer(signal.ITIMER_REAL, theirs, repeat)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("remaining", [None, lambda: 100.0], ids=["no_bound", "enough"])
def test_somebody_elses_alarm_goes_on(remaining: Any, their_alarm: list[int]) -> None:
    before = signal.getsignal(signal.SIGALRM)

    with deadline(remaining, "the fit"):
        spin(0.01)

    assert signal.getsignal(signal.SIGALRM) is before
    assert 1 < signal.getitimer(signal.ITIMER_REAL)[0] < 10


def test_nothing_is_left_behind(their_alarm: list[int]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)

    with deadline(lambda: 100.0, "the fit"):
        spin(0.01)

    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_nothing_begins_without_time() -> None:
    with (
        pytest.raises(TrainingError, match="was stopped after 0 s"),
        deadline(lambda: RESERVE_SECONDS - 1, "the fit"),
    ):
        pytest.fail("the block ran")


def test_other_threads_run_without_alarm() -> None:
    done = []

    def work() -> None:
        with deadline(lambda: 0.0, "the fit"):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)

    assert done == [True]


def test_step_longer_than_the_time_left_is_refused() -> None:
    check_time(None, 1e9, "fold 2")
    check_time(lambda: 100.0, 10.0, "fold 2")
    with pytest.raises(TrainingError, match="fold 2: the next step needs about 200 s and 97 s"):
        check_time(lambda: 100.0, 200.0, "fold 2")
