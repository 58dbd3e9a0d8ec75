"""Immutable documents in the artifact bucket: read back only if they are what was registered."""

import json

from millrace.aws.objects import ObjectReader, verify_sha256
from millrace.errors import ArtifactError, InvalidSpecError
from millrace.signature_file import read_signature as read_signature
from millrace.spec import ModelSpec


def read_spec(store: ObjectReader, bucket: str, key: str, digest: str) -> ModelSpec:
    """Reads the spec a run was started with.

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
