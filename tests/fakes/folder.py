"""`aws.objects.ObjectStore` in a folder, for what is too large to be kept in memory."""

import shutil
from pathlib import Path

from millrace.errors import NotFoundError


class FolderStore:
    """`ObjectStore` in a folder, without versions.

    Args:
        folder: Where the objects lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, bucket: str, key: str) -> Path:
        """Where an object lies."""
        return self._folder / bucket / key

    def read(self, bucket: str, key: str, *, version_id: str | None = None) -> bytes:
        """See `ObjectStore.read`."""
        if not self.exists(bucket, key):
            raise NotFoundError(f"read s3://{bucket}/{key}@{version_id}: there is no such object")
        return self.path(bucket, key).read_bytes()

    def download(self, bucket: str, key: str, path: Path, *, version_id: str | None = None) -> None:
        """See `ObjectStore.download`."""
        if not self.exists(bucket, key):
            raise NotFoundError(f"read s3://{bucket}/{key}@{version_id}: there is no such object")
        shutil.copyfile(self.path(bucket, key), path)

    def write(
        self, bucket: str, key: str, body: bytes, *, content_type: str
    ) -> None:  # a file has none
        """See `ObjectStore.write`."""
        target = self.path(bucket, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)

    def write_once(self, bucket: str, key: str, body: bytes, *, content_type: str) -> bool:
        """See `ObjectStore.write_once`."""
        if self.exists(bucket, key):
            return False
        self.write(bucket, key, body, content_type=content_type)
        return True

    def upload(
        self, bucket: str, key: str, path: Path, *, content_type: str
    ) -> None:  # a file has none
        """See `ObjectStore.upload`."""
        target = self.path(bucket, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)

    def exists(self, bucket: str, key: str) -> bool:
        """See `ObjectStore.exists`."""
        return self.path(bucket, key).is_file()
