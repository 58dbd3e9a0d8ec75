"""`aws.s3.ObjectStore` in memory, with versions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from millrace.errors import NotFoundError


@dataclass
class FakeStore:
    """`ObjectStore` in memory.

    Attributes:
        objects: (bucket, key) to the object's versions, the newest last.
        content_types: (bucket, key) to the content type of the newest version.
    """

    objects: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)
    content_types: dict[tuple[str, str], str] = field(default_factory=dict)

    def read(self, bucket: str, key: str, *, version_id: str | None = None) -> bytes:
        """See `ObjectStore.read`; version ids are ``v0``, ``v1``, … in order of writing."""
        versions = self.objects.get((bucket, key), [])
        number = int(version_id.removeprefix("v")) if version_id else len(versions) - 1
        if not 0 <= number < len(versions):
            raise NotFoundError(f"read s3://{bucket}/{key}: there is no such object")
        return versions[number]

    def download(self, bucket: str, key: str, path: Path, *, version_id: str | None = None) -> None:
        """See `ObjectStore.download`."""
        path.write_bytes(self.read(bucket, key, version_id=version_id))

    def write(self, bucket: str, key: str, body: bytes, *, content_type: str) -> None:
        """See `ObjectStore.write`."""
        self.objects.setdefault((bucket, key), []).append(body)
        self.content_types[bucket, key] = content_type

    def write_once(self, bucket: str, key: str, body: bytes, *, content_type: str) -> bool:
        """See `ObjectStore.write_once`."""
        if self.exists(bucket, key):
            return False
        self.write(bucket, key, body, content_type=content_type)
        return True

    def upload(self, bucket: str, key: str, path: Path, *, content_type: str) -> None:
        """See `ObjectStore.upload`."""
        self.write(bucket, key, path.read_bytes(), content_type=content_type)

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """See `S3ObjectStore.keys`."""
        yield from sorted(k for b, k in self.objects if b == bucket and k.startswith(prefix))

    def delete(self, bucket: str, keys: Sequence[str]) -> None:
        """See `S3ObjectStore.delete`."""
        for key in keys:
            self.objects.pop((bucket, key), None)

    def exists(self, bucket: str, key: str) -> bool:
        """See `ObjectStore.exists`."""
        return (bucket, key) in self.objects
