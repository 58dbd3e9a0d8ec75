"""The fake object store and the adapter keep the same contract."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace.aws.clients import client
from millrace.aws.objects import ObjectStore
from millrace.aws.s3 import S3ObjectStore
from millrace.errors import NotFoundError
from tests.fakes import cases, cloud
from tests.fakes.store import FakeStore

BUCKET = cases.DATA_BUCKET


@pytest.fixture(params=["fake", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    if request.param == "fake":
        yield FakeStore()
        return
    assert isinstance(request.getfixturevalue("stack"), cloud.Cloud)
    yield S3ObjectStore(client("s3"))


def write(store: ObjectStore, key: str, body: bytes) -> None:
    store.write(BUCKET, key, body, content_type="text/plain")


def test_object_comes_back(store: ObjectStore, tmp_path: Path) -> None:
    write(store, "a/b c+ü.txt", b"one")
    write(store, "a/b c+ü.txt", b"two")

    store.download(BUCKET, "a/b c+ü.txt", tmp_path / "copy")

    assert store.read(BUCKET, "a/b c+ü.txt") == b"two"
    assert (tmp_path / "copy").read_bytes() == b"two"


def test_file_is_uploaded(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")

    store.upload(BUCKET, "up", tmp_path / "file", content_type="text/plain")

    assert store.read(BUCKET, "up") == b"content"


def test_immutable_object_is_written_once(store: ObjectStore) -> None:
    assert store.write_once(BUCKET, "k", b"first", content_type="text/plain") is True
    assert store.write_once(BUCKET, "k", b"second", content_type="text/plain") is False

    assert store.read(BUCKET, "k") == b"first"


def test_missing_object_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    assert store.exists(BUCKET, "nothing") is False
    with pytest.raises(NotFoundError):
        store.read(BUCKET, "nothing")
    with pytest.raises(NotFoundError):
        store.download(BUCKET, "nothing", tmp_path / "copy")


def test_written_object_exists(store: ObjectStore) -> None:
    write(store, "k", b"")

    assert store.exists(BUCKET, "k") is True
    assert store.read(BUCKET, "k") == b""
