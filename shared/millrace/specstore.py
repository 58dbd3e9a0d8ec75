"""Reads the spec a run was started with: one immutable, content-addressed document in S3."""

import json

from millrace.aws.s3 import ObjectStore, verify_sha256
from millrace.errors import ArtifactError, InvalidSpecError
from millrace.spec import ModelSpec


def read_spec(store: ObjectStore, bucket: str, key: str, digest: str) -> ModelSpec:
    """Reads a spec and checks that it is the one that was meant.

    Args:
        store: Where the artifact bucket is read.
        bucket: The artifact bucket.
        key: The document's key, from `layout.spec_key`.
        digest: SHA-256 of the canonical JSON, as the run carries it.

    Raises:
        NotFoundError: There is no such document.
        DigestMismatchError: The document is not the one the run names.
        ArtifactError: The document is no spec this version of Millrace understands.
    """
    where = f"s3://{bucket}/{key}"
    body = store.read(bucket, key)
    verify_sha256(body, digest, f"spec {where}")
    try:
        return ModelSpec.from_document(json.loads(body))
    except (InvalidSpecError, ValueError) as exc:
        raise ArtifactError(f"the stored spec {where} cannot be used: {exc}") from exc
