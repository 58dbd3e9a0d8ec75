"""The bucket for artifacts: found or made, written once by content, verified by S3's own checksum."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.delivery.place import Place, asked
from infra.delivery.stack import outputs_of
from millrace.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    DigestMismatchError,
    InvalidRequestError,
    NotFoundError,
)

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

BOOTSTRAP_STACKS = ("millrace-ci-staging", "millrace-ci-prod")
"""Stacks of `make bootstrap`, the one that makes the bucket first."""
BUCKET_OUTPUT = "ArtifactBucketName"
BOUNDARY_OUTPUT = "PermissionsBoundaryArn"
ROLE_OUTPUT = "ExecutionRoleArn"

_KEPT_DAYS = 90
_OLD = timedelta(days=90)


def sha256_of(path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as body:
        return hashlib.file_digest(body, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object in the bucket: its digest, and whether it has been there for long."""

    sha256: str
    old: bool


class ArtifactStore:
    """The bucket for releases and records.

    Args:
        place: Where it is.
        bucket: Its name.
    """

    def __init__(self, place: Place, bucket: str) -> None:
        self._place = place
        self.bucket = bucket

    def uri(self, key: str) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{key}"

    def put_file(self, key: str, path: Path, sha256: str) -> bool:
        """Uploads a file under a key that its content decides; False when it was there.

        S3 computes the checksum itself and keeps it, so that later nobody has to download the
        object to know that it is the one that was built. An object that has been there for long is
        written again, as the bucket may forget what is old, and age counts from the upload.
        """
        there = self._look(key)
        if there is not None and there.sha256 == sha256 and not there.old:
            return False
        with asked(f"upload {self.uri(key)}", self._place), path.open("rb") as body:
            self._place.s3.put_object(
                Bucket=self.bucket, Key=key, Body=body, ChecksumSHA256=_as_s3(sha256)
            )
        return True

    def put_document(self, key: str, document: dict[str, Any], *, once: bool = False) -> None:
        """Writes a JSON document.

        Raises:
            AlreadyExistsError: ``once`` was asked for and there is one.
        """
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if once else {}
        with asked(f"write {self.uri(key)}", self._place):
            self._place.s3.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=json.dumps(document, indent=2).encode(),
                ContentType="application/json",
                **condition,
            )

    def read(self, key: str) -> bytes:
        """An object's content.

        Raises:
            NotFoundError: There is none.
        """
        with asked(f"read {self.uri(key)}", self._place):
            return self._place.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def digest(self, key: str) -> str | None:
        """The hex SHA-256 of an object, None when there is no such object.

        It is S3's own when the object was uploaded with it, else the object is read.
        """
        found = self._look(key)
        return None if found is None else found.sha256

    def _look(self, key: str) -> _Seen | None:
        try:
            with asked(f"look at {self.uri(key)}", self._place):
                found = self._place.s3.head_object(
                    Bucket=self.bucket, Key=key, ChecksumMode="ENABLED"
                )
        except NotFoundError:
            return None
        kept = found.get("ChecksumSHA256")
        whole = bool(kept) and "-" not in kept
        return _Seen(
            base64.b64decode(kept).hex() if whole else hashlib.sha256(self.read(key)).hexdigest(),
            datetime.now(UTC) - found["LastModified"] > _OLD,
        )

    def verify(self, key: str, sha256: str, what: str) -> None:
        """Compares an object with what a release says of it.

        Raises:
            NotFoundError: It is gone.
            DigestMismatchError: It is another.
        """
        found = self.digest(key)
        if found is None:
            raise NotFoundError(
                f"{what} of this release is not in the bucket: {self.uri(key)} is missing; "
                "package again, or roll back to a release that is whole"
            )
        if found != sha256:
            raise DigestMismatchError(
                f"{what} in the bucket is not what was built: {self.uri(key)} has sha256 "
                f"{found[:12]}…, the release says {sha256[:12]}…; deploy nothing of it, and package "
                "again"
            )

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys below a prefix, in order."""
        with asked(f"list {self.uri(prefix)}", self._place):
            for page in self._place.s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix
            ):
                yield from (found["Key"] for found in page.get("Contents", ()))


def find_store(
    place: Place,
    given: str | None,
    *,
    make: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> ArtifactStore:
    """The bucket for artifacts: the one given, the bootstrap stack's, else one of our own.

    Args:
        place: Account and region.
        given: ``ARTIFACT_BUCKET``, or nothing.
        make: Whether to create one when there is none.
        say: Told when one is created.

    Raises:
        ConfigurationError: The bucket given does not exist, or lies in another region.
        NotFoundError: There is none and none is to be made.
    """
    if given:
        where = _region_of(place, given)
        if where is None:
            raise ConfigurationError(
                f"there is no bucket {given!r} (ARTIFACT_BUCKET): correct the name, or run "
                "`make bootstrap` and leave it out"
            )
        if where != place.region:
            raise ConfigurationError(
                f"bucket {given} (ARTIFACT_BUCKET) is in {where} and the deployment in "
                f"{place.region}: Lambda takes code only from its own region; use a bucket there, "
                f"or AWS_REGION={where}"
            )
        return ArtifactStore(place, given)
    for stack in BOOTSTRAP_STACKS:
        bootstrapped = _outputs(place, stack).get(BUCKET_OUTPUT)
        if bootstrapped:
            return ArtifactStore(place, bootstrapped)
    own = f"millrace-artifacts-{place.identity.account}-{place.region}"
    if _region_of(place, own, owner=place.identity.account) is None:
        if not make:
            raise NotFoundError(
                f"nothing was ever packaged in {place.words}: there is no stack "
                f"{BOOTSTRAP_STACKS[0]}, no bucket {own}, and ARTIFACT_BUCKET is not set"
            )
        _create(place, own)
        say(
            f"created bucket {own} for releases, private and encrypted: ARTIFACT_BUCKET is not set, "
            f"and there is no stack {BOOTSTRAP_STACKS[0]} (make bootstrap)"
        )
    return ArtifactStore(place, own)


def bootstrap_stack(stage: str) -> str:
    """The bootstrap stack of a stage."""
    return f"millrace-ci-{stage}"


def bootstrap_outputs(place: Place, stage: str) -> dict[str, str]:
    """The outputs of a stage's bootstrap stack; nothing where it is absent or not ours to see."""
    return _outputs(place, bootstrap_stack(stage))


def _outputs(place: Place, stack: str) -> dict[str, str]:
    try:
        return outputs_of(place, stack)
    except (NotFoundError, AccessDeniedError):
        return {}


def _region_of(place: Place, bucket: str, *, owner: str | None = None) -> str | None:
    """A bucket's region, None when there is none; with an owner, it has to be that account's."""
    expected: dict[str, Any] = {"ExpectedBucketOwner": owner} if owner else {}
    try:
        with asked(f"look at bucket {bucket}", place):
            answer = place.s3.head_bucket(Bucket=bucket, **expected)
    except NotFoundError:
        return None
    except AccessDeniedError as exc:
        raise AccessDeniedError(
            f"bucket {bucket} belongs to another account, or these credentials may not look at it: set "
            f"ARTIFACT_BUCKET to one that they may ({exc})"
        ) from exc
    except (ConfigurationError, InvalidRequestError) as exc:
        raise ConfigurationError(f"{bucket!r} cannot be a bucket's name: {exc}") from exc
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return answer.get("BucketRegion") or headers.get("x-amz-bucket-region") or place.region


def _create(place: Place, bucket: str) -> None:
    where: dict[str, Any] = (
        {}
        if place.region == "us-east-1"
        else {"CreateBucketConfiguration": {"LocationConstraint": place.region}}
    )
    try:
        with asked(f"create bucket {bucket}", place):
            place.s3.create_bucket(Bucket=bucket, **where)
            place.s3.put_public_access_block(
                Bucket=bucket,
                PublicAccessBlockConfiguration={
                    "BlockPublicAcls": True,
                    "IgnorePublicAcls": True,
                    "BlockPublicPolicy": True,
                    "RestrictPublicBuckets": True,
                },
            )
            place.s3.put_bucket_encryption(
                Bucket=bucket,
                ServerSideEncryptionConfiguration={
                    "Rules": [
                        {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}},
                    ]
                },
            )
            place.s3.put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )
            place.s3.put_bucket_lifecycle_configuration(
                Bucket=bucket,
                LifecycleConfiguration={
                    "Rules": [
                        {
                            "ID": "forget-replaced-versions",
                            "Status": "Enabled",
                            "Filter": {"Prefix": ""},
                            "NoncurrentVersionExpiration": {"NoncurrentDays": _KEPT_DAYS},
                            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
                        }
                    ]
                },
            )
    except AlreadyExistsError as exc:
        raise ConflictError(
            f"bucket {bucket} belongs to another account: set ARTIFACT_BUCKET to one of yours"
        ) from exc


def empty_bucket(place: Place, bucket: str) -> int:
    """Deletes every version of every object; returns how many."""
    deleted = 0
    with asked(f"empty bucket {bucket}", place):
        for page in place.s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            found: list[ObjectIdentifierTypeDef] = [
                {"Key": each["Key"], "VersionId": each["VersionId"]}
                for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
            ]
            if found:
                answer = place.s3.delete_objects(
                    Bucket=bucket, Delete={"Objects": found, "Quiet": True}
                )
                failed = answer.get("Errors", [])
                if failed:
                    raise ConflictError(
                        f"{len(failed)} objects of {bucket} cannot be deleted, the first is "
                        f"{failed[0].get('Key')}: {failed[0].get('Message')}"
                    )
                deleted += len(found)
    return deleted


def _as_s3(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()
