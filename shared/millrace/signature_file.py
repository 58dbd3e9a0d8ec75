"""The signature of a model version in the artifact bucket: read back only if it was registered."""

from pydantic import ValidationError

from millrace.aws.objects import ObjectReader, verify_sha256
from millrace.decoding import in_words, wrong_fields
from millrace.errors import ArtifactError
from millrace.signature import Signature


def read_signature(store: ObjectReader, bucket: str, key: str, sha256: str, what: str) -> Signature:
    """Reads the signature of a model version.

    Args:
        store: Where the artifact bucket is read.
        bucket: The artifact bucket.
        key: The document's key, from `layout.signature_key`.
        sha256: The digest that was registered, in hexadecimal.
        what: The version it belongs to, for errors, e.g. ``churn@3``.

    Raises:
        NotFoundError: There is no such document.
        DigestMismatchError: The document is not the one that was registered.
        ArtifactError: The document is no signature this version of Millrace understands.
    """
    where = f"signature of {what}, s3://{bucket}/{key}"
    body = store.read(bucket, key)
    verify_sha256(body, sha256, where)
    try:
        return Signature.model_validate_json(body)
    except ValidationError as exc:
        # The chain is cut: pydantic shows what it read, a private column's values among it.
        raise ArtifactError(f"{where}, is none: {in_words(wrong_fields(exc))}") from None
