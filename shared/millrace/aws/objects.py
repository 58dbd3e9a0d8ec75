"""What the rooms need of stored objects, whatever stores them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from millrace.errors import DigestMismatchError


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """An object's version as S3 describes it.

    Attributes:
        version_id: Its version, empty where the bucket has none.
        size: Bytes.
        etag: S3's fingerprint, without quotes.
    """

    version_id: str
    size: int
    etag: str


class ObjectReader(Protocol):
    """What reads immutable artifacts: S3, or a folder."""

    def read(self, bucket: str, key: str) -> bytes:
        """The object's bytes.

        Raises:
            NotFoundError: There is no such object.
        """
        ...


class ObjectStore(Protocol):
    """What the rooms need of S3; the fake in ``tests/fakes`` passes the same contract tests."""

    def read(self, bucket: str, key: str, *, version_id: str | None = None) -> bytes:
        """The object's bytes.

        Raises:
            NotFoundError: There is no such object.
        """
        ...

    def download(self, bucket: str, key: str, path: Path, *, version_id: str | None = None) -> None:
        """Streams the object into a file.

        Raises:
            NotFoundError: There is no such object.
        """
        ...

    def write(self, bucket: str, key: str, body: bytes, *, content_type: str) -> None:
        """Writes or replaces the object."""
        ...

    def write_once(self, bucket: str, key: str, body: bytes, *, content_type: str) -> bool:
        """Writes an immutable object; returns False when it was there already."""
        ...

    def upload(self, bucket: str, key: str, path: Path, *, content_type: str) -> None:
        """Streams a file into an object."""
        ...

    def exists(self, bucket: str, key: str) -> bool:
        """Whether the object is there."""
        ...


def verify_sha256(body: bytes, expected: str, what: str) -> None:
    """Checks bytes against the digest that was registered.

    Raises:
        DigestMismatchError: They differ.
    """
    actual = hashlib.sha256(body).hexdigest()
    if actual != expected:
        raise DigestMismatchError(f"{what}: expected sha256 {expected}, got {actual}")
