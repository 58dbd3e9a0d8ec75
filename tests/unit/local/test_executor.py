"""Parts of the function executor that need no process."""

import base64
import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from infra.local.executor import CODE_SECONDS, LOG_BYTES, CodeStore, LogPipe


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


def test_code_is_unpacked_once_with_its_modes(tmp_path: Path) -> None:
    digest, archive = _archive("x = 1", tool=0o755)
    store = CodeStore(tmp_path / "code")

    folder = store.folder(digest, archive)
    (folder / "mark").touch()

    assert (folder / "app.py").read_text() == "x = 1"
    assert (folder / "tool").stat().st_mode & 0o777 == 0o755
    assert CodeStore(tmp_path / "code").folder(digest, archive) == folder
    assert (folder / "mark").exists()


def test_an_archive_that_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    digest, _ = _archive("x = 1")
    _, other = _archive("x = 2")

    with pytest.raises(ValueError, match="sha256"):
        CodeStore(tmp_path).folder(digest, other)


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = b"not an archive"
    digest = base64.b64encode(hashlib.sha256(archive).digest()).decode()

    with pytest.raises(zipfile.BadZipFile):
        CodeStore(tmp_path).folder(digest, archive)

    assert list(tmp_path.iterdir()) == []


def test_code_unused_for_long_makes_room_and_other_code_stays(tmp_path: Path) -> None:
    old, recent, new = (_archive(f"x = {number}") for number in range(3))
    before = CodeStore(tmp_path)
    forgotten = before.folder(*old)
    kept = before.folder(*recent)
    os.utime(forgotten, (1, kept.stat().st_mtime - CODE_SECONDS - 1))

    CodeStore(tmp_path, limit=1).folder(*new)

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
