"""Objects in S3: read whole, streamed to a file, written once, never overwritten by accident."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Final

from millrace.aws.objects import ObjectFacts
from millrace.aws.translate import translated
from millrace.errors import AlreadyExistsError, NotFoundError, ServiceUnavailableError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_MAX_DELETES: Final = 1_000
"""S3's limit of objects per request."""


class S3ObjectStore:
    """`ObjectStore` on S3."""

    def __init__(self, client: "S3Client") -> None:
        self._client = client

    def read(self, bucket: str, key: str, *, version_id: str | None = None) -> bytes:
        """See `ObjectStore.read`."""
        with translated(f"read s3://{bucket}/{key}"):
            if version_id:
                answer = self._client.get_object(Bucket=bucket, Key=key, VersionId=version_id)
            else:
                answer = self._client.get_object(Bucket=bucket, Key=key)
            return answer["Body"].read()

    def download(self, bucket: str, key: str, path: Path, *, version_id: str | None = None) -> None:
        """See `ObjectStore.download`."""
        extra = {"VersionId": version_id} if version_id else None
        with translated(f"read s3://{bucket}/{key}"):
            self._client.download_file(bucket, key, str(path), ExtraArgs=extra)

    def write(self, bucket: str, key: str, body: bytes, *, content_type: str) -> None:
        """See `ObjectStore.write`."""
        with translated(f"write s3://{bucket}/{key}"):
            self._client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)

    def write_once(self, bucket: str, key: str, body: bytes, *, content_type: str) -> bool:
        """See `ObjectStore.write_once`."""
        try:
            with translated(f"write s3://{bucket}/{key}"):
                self._client.put_object(
                    Bucket=bucket, Key=key, Body=body, ContentType=content_type, IfNoneMatch="*"
                )
        except AlreadyExistsError:
            return False
        return True

    def upload(self, bucket: str, key: str, path: Path, *, content_type: str) -> None:
        """See `ObjectStore.upload`."""
        with translated(f"write s3://{bucket}/{key}"):
            self._client.upload_file(
                str(path), bucket, key, ExtraArgs={"ContentType": content_type}
            )

    def exists(self, bucket: str, key: str) -> bool:
        """See `ObjectStore.exists`."""
        try:
            with translated(f"look at s3://{bucket}/{key}"):
                self._client.head_object(Bucket=bucket, Key=key)
        except NotFoundError:
            return False
        return True

    def describe(self, bucket: str, key: str, *, version_id: str | None = None) -> ObjectFacts:
        """Looks at an object.

        Raises:
            NotFoundError: There is no such object, or no such version of it.
        """
        with translated(f"look at s3://{bucket}/{key}"):
            if version_id:
                answer = self._client.head_object(Bucket=bucket, Key=key, VersionId=version_id)
            else:
                answer = self._client.head_object(Bucket=bucket, Key=key)
        return ObjectFacts(
            version_id=version_id or answer.get("VersionId", ""),
            size=answer["ContentLength"],
            etag=answer["ETag"].strip('"'),
        )

    def count(self, bucket: str, prefix: str) -> int:
        """How many objects lie below a prefix; one request per thousand."""
        with translated(f"list s3://{bucket}/{prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix
            )
            return sum(page.get("KeyCount", 0) for page in pages)

    def presigned_put_once(
        self, bucket: str, key: str, *, seconds: int = 3600
    ) -> tuple[str, Mapping[str, str]]:
        """An address to upload one new object to, and the headers that it wants.

        Args:
            bucket: The bucket.
            key: The object; S3 refuses the upload when it is there already.
            seconds: How long the address holds.
        """
        with translated(f"sign s3://{bucket}/{key}"):
            url = self._client.generate_presigned_url(
                "put_object",
                Params={"Bucket": bucket, "Key": key, "IfNoneMatch": "*"},
                ExpiresIn=seconds,
            )
        return url, {"if-none-match": "*"}

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Keys that begin so, in order.

        Args:
            bucket: The bucket.
            prefix: How they begin.
        """
        pages = self._client.get_paginator("list_objects_v2")
        with translated(f"list s3://{bucket}/{prefix}"):
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                yield from [thing["Key"] for thing in page.get("Contents", ())]

    def delete(self, bucket: str, keys: Sequence[str]) -> None:
        """Deletes objects; those that are gone are none to it.

        Args:
            bucket: The bucket.
            keys: As many as one likes; a thousand are asked for at a time.

        Raises:
            ServiceUnavailableError: Some are still there.
        """
        for some in batched(keys, _MAX_DELETES, strict=False):
            with translated(f"delete {len(some)} objects of s3://{bucket}"):
                answer = self._client.delete_objects(
                    Bucket=bucket,
                    Delete={"Objects": [{"Key": key} for key in some], "Quiet": True},
                )
            if answer.get("Errors"):
                raise ServiceUnavailableError(
                    f"S3 did not delete {len(answer['Errors'])} of {len(some)} objects; try again"
                )

    def presigned_get(self, bucket: str, key: str, *, seconds: int = 900) -> str:
        """An address that lets anyone who has it read the object for a while.

        Args:
            bucket: The bucket.
            key: The object; it is not looked at.
            seconds: How long the address holds.
        """
        with translated(f"sign s3://{bucket}/{key}"):
            return self._client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
            )
