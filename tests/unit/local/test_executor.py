"""Parts of the function executor that need no process."""

import base64
import hashlib
import io
import os
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.local.executor import (
    CODE_SECONDS,
    LOG_BYTES,
    CodeStore,
    Environment,
    EnvironmentPool,
    Invocation,
    LogPipe,
    Reply,
)


def _archive(content: str, **modes: int) -> tuple[str, bytes]:
    """An archive with one file, and its digest as Lambda reports it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for name, mode in {"app.py": 0o644, **modes}.items():
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.external_attr = mode << 16
            target.writestr(entry, content)
    archive = stream.getvalue()
    return base64.b64encode(hashlib.sha256(archive).digest()).decode(), archive


def _folder(store: CodeStore, packed: tuple[str, bytes]) -> Path:
    digest, archive = packed
    return store.folder(digest, lambda: archive)


def test_code_is_unpacked_once_with_its_modes(tmp_path: Path) -> None:
    digest, archive = _archive("x = 1", tool=0o755)
    store = CodeStore(tmp_path / "code")

    folder = store.folder(digest, lambda: archive)
    (folder / "mark").touch()

    assert (folder / "app.py").read_text() == "x = 1"
    assert (folder / "tool").stat().st_mode & 0o777 == 0o755
    assert CodeStore(tmp_path / "code").folder(digest, lambda: archive) == folder
    assert (folder / "mark").exists()


def test_an_archive_that_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    digest, _ = _archive("x = 1")
    _, other = _archive("x = 2")

    with pytest.raises(ValueError, match="sha256"):
        CodeStore(tmp_path).folder(digest, lambda: other)


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = b"not an archive"
    digest = base64.b64encode(hashlib.sha256(archive).digest()).decode()

    with pytest.raises(zipfile.BadZipFile):
        CodeStore(tmp_path).folder(digest, lambda: archive)

    assert list(tmp_path.iterdir()) == []


def test_code_unused_for_long_makes_room_and_other_code_stays(tmp_path: Path) -> None:
    old, recent, new = (_archive(f"x = {number}") for number in range(3))
    before = CodeStore(tmp_path)
    forgotten = _folder(before, old)
    kept = _folder(before, recent)
    os.utime(forgotten, (1, kept.stat().st_mtime - CODE_SECONDS - 1))

    _folder(CodeStore(tmp_path, limit=1), new)

    assert not forgotten.exists()
    assert kept.exists()


def _pipe() -> tuple[LogPipe, int]:
    reading, writing = os.pipe()
    return LogPipe(os.fdopen(reading, "rb", buffering=0)), writing


def test_what_was_printed_before_the_reply_is_taken_with_it() -> None:
    log, writing = _pipe()

    for number in range(200):
        os.write(writing, f"line {number}\n".encode())
        assert log.take() == f"line {number}\n"
    os.close(writing)


def test_the_end_of_a_process_ends_its_log() -> None:
    log, writing = _pipe()
    os.write(writing, b"last words")
    os.close(writing)

    assert log.finish() == "last words"
    assert log.take() == ""


def test_a_log_that_is_too_long_loses_its_beginning() -> None:
    log, writing = _pipe()

    for _ in range(2 * LOG_BYTES // 4096):
        os.write(writing, b"x" * 4096)
    os.write(writing, b"end")
    os.close(writing)

    text = log.finish()
    assert len(text) <= LOG_BYTES + 65_536
    assert text.endswith("end")


class _FakeEnvironment(Environment):
    """An environment without a process: it answers with its number once it is let go."""

    def __init__(self, number: int, gate: threading.Event, start_seconds: float) -> None:
        self.number = number
        self.last_used = 0.0
        self._gate = gate
        self._start_seconds = start_seconds
        self._dead = False

    def start(self) -> Reply | None:
        time.sleep(self._start_seconds)
        return None

    def invoke(self, invocation: Invocation) -> Reply:
        self._gate.wait(5)
        self._dead = invocation.payload == b"die"
        return Reply(body=self.number, failed=False, log="")

    @property
    def alive(self) -> bool:
        return not self._dead

    def stop(self) -> str:
        self._dead = True
        return ""


class _Fakes:
    """A pool over fake environments, and how many were made."""

    def __init__(self, *, limit: int = 2, start_seconds: float = 0.0) -> None:
        self.gate = threading.Event()
        self.made: list[_FakeEnvironment] = []
        self.pool = EnvironmentPool(limit, lambda: self._make(start_seconds))

    def _make(self, start_seconds: float) -> Environment:
        self.made.append(_FakeEnvironment(len(self.made), self.gate, start_seconds))
        return self.made[-1]

    def run(self, payload: bytes = b"", wait_seconds: float = 5.0) -> Reply | None:
        event = Invocation(request_id="r", arn="a", payload=payload)
        return self.pool.run(event, wait_seconds=wait_seconds)


def test_events_one_after_another_share_an_environment() -> None:
    fakes = _Fakes()
    fakes.gate.set()

    assert [fakes.run() for _ in range(3)] == [Reply(body=0, failed=False, log="")] * 3


def test_no_more_environments_than_the_limit_and_then_it_throttles() -> None:
    fakes = _Fakes()
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = [pool.submit(fakes.run) for _ in range(2)]
        deadline = time.monotonic() + 5
        while len(fakes.made) < 2:
            assert time.monotonic() < deadline

        assert fakes.run(wait_seconds=0.01) is None

        fakes.gate.set()
        assert {reply.body for future in running if (reply := future.result())} == {0, 1}


def test_a_short_queue_is_preferred_to_a_long_start() -> None:
    fakes = _Fakes(start_seconds=0.3)
    fakes.gate.set()
    fakes.run()
    fakes.gate.clear()
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = [pool.submit(fakes.run) for _ in range(2)]
        fakes.gate.set()

        assert [future.result() for future in running] == [Reply(body=0, failed=False, log="")] * 2

    assert len(fakes.made) == 1


def test_an_event_waits_for_an_environment_that_is_warming() -> None:
    fakes = _Fakes(start_seconds=0.2)
    fakes.gate.set()
    with ThreadPoolExecutor(max_workers=1) as pool:
        warming = pool.submit(fakes.pool.warm)
        deadline = time.monotonic() + 5
        while not fakes.made:
            assert time.monotonic() < deadline

        assert fakes.run() == Reply(body=0, failed=False, log="")
        warming.result()

    assert len(fakes.made) == 1


def test_a_dead_environment_is_replaced() -> None:
    fakes = _Fakes()
    fakes.gate.set()
    fakes.run(b"die")

    reply = fakes.run()

    assert reply is not None
    assert reply.body == 1


def test_a_closed_pool_keeps_nothing() -> None:
    fakes = _Fakes()
    fakes.gate.set()
    fakes.run()

    fakes.pool.close(running=True)

    assert [made.alive for made in fakes.made] == [False]
