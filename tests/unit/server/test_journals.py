"""When the server's answers are counted and written, and how lines reach their file."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import InvalidRequestError
from millrace.server.journals import MAX_WAITING, LaterJournal
from millrace.server.lines import LineWriter


class Told:
    """A journal that keeps what it is told; some numbers it cannot take."""

    def __init__(self, *broken: int) -> None:
        self.heard: list[Any] = []
        self._broken = broken

    def answered(self, prediction: Any, *, seconds: float, correlation_id: str) -> None:
        """See `Journal.answered`."""
        if prediction in self._broken:
            raise OSError("no room")
        self.heard.append(prediction)

    def refused(self, error: Exception, **_: Any) -> None:
        """See `Journal.refused`."""
        self.heard.append(type(error))


def answer(journal: LaterJournal, *numbers: Any) -> None:
    """Answers, with numbers in place of predictions."""
    for number in numbers:
        journal.answered(number, seconds=0.001, correlation_id="c")


def test_what_was_answered_in_one_turn_is_told_in_the_next() -> None:
    told = Told()
    heard: list[list[Any]] = []

    async def turns() -> None:
        journal = LaterJournal(told)
        answer(journal, 1, 2)
        heard.append(list(told.heard))
        await asyncio.sleep(0)
        heard.append(list(told.heard))
        answer(journal, 3)
        await asyncio.sleep(0)
        heard.append(list(told.heard))

    asyncio.run(turns())

    assert heard == [[], [1, 2], [1, 2, 3]]


def test_a_refusal_is_told_after_what_was_answered_before() -> None:
    told = Told()

    async def turns() -> None:
        journal = LaterJournal(told)
        answer(journal, 1)
        journal.refused(InvalidRequestError("no"), model="churn", seconds=0.001, correlation_id="c")

    asyncio.run(turns())

    assert told.heard == [1, InvalidRequestError]


def test_only_so_many_wait() -> None:
    told = Told()

    async def turns() -> None:
        answer(LaterJournal(told), *range(MAX_WAITING + 1))
        assert told.heard == list(range(MAX_WAITING))

    asyncio.run(turns())

    assert told.heard == list(range(MAX_WAITING + 1))


def test_one_that_cannot_be_told_takes_no_other_along() -> None:
    told = Told(2)

    async def turns() -> None:
        answer(LaterJournal(told), 1, 2, 3)

    asyncio.run(turns())

    assert told.heard == [1, 3]


def test_all_of_a_turn_are_told_together() -> None:
    told = Told()

    @contextmanager
    def together() -> Iterator[None]:
        told.heard.append("begin")
        yield
        told.heard.append("end")

    async def turns() -> None:
        journal = LaterJournal(told, together)
        journal.flush()
        answer(journal, 1, 2)

    asyncio.run(turns())

    assert told.heard == ["begin", 1, 2, "end"]


def test_lines_that_come_together_are_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lines"
    write = LineWriter(file)
    writes: list[int] = []
    real = os.write

    def counted(descriptor: int, content: bytes) -> int:
        # Only half at first, as a pipe that is nearly full takes it.
        writes.append(len(content))
        return real(descriptor, content[: len(content) // 2] if len(writes) == 1 else content)

    monkeypatch.setattr(os, "write", counted)
    with write.together():
        write(b"one\n")
        write(b"two\n")
    write(b"three\n")
    write.close()

    assert writes == [8, 4, 6]
    assert file.read_bytes() == b"one\ntwo\nthree\n"
