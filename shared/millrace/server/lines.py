"""Where the lines about requests go: standard output or a file, whole, whoever else writes there."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_STDOUT: Final = 1


class LineWriter:
    """Appends lines, each, or those that come together, with one system call.

    A file takes concurrent appends one after the other. A pipe does so for up to 4 kB only, so that
    workers that share one take turns.

    Args:
        path: A file to append to; standard output without one.
        turns: A file by which the workers take turns; None for a single one.
    """

    def __init__(self, path: Path | None, *, turns: Path | None = None) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        # What is captured are inputs and answers: for the owner and the group alone.
        self._descriptor = _STDOUT if path is None else os.open(path, flags, 0o640)
        self._held: list[bytes] | None = None
        self._turns: int | None = None
        if turns is not None and not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self._turns = os.open(turns, flags, 0o600)

    def __call__(self, line: bytes) -> None:
        """Writes a line that has its end."""
        if self._held is None:
            self._put(line)
        else:
            self._held.append(line)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Lines that come meanwhile are written at the end, all at once."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            self._put(b"".join(held))

    def _put(self, lines: bytes) -> None:
        if self._turns is None:
            self._write(lines)
            return
        fcntl.flock(self._turns, fcntl.LOCK_EX)
        try:
            self._write(lines)
        finally:
            fcntl.flock(self._turns, fcntl.LOCK_UN)

    def _write(self, lines: bytes) -> None:
        written = 0
        while written < len(lines):
            written += os.write(self._descriptor, lines[written:] if written else lines)

    def close(self) -> None:
        """Closes what it opened."""
        if self._descriptor != _STDOUT:
            os.close(self._descriptor)
        if self._turns is not None:
            os.close(self._turns)
