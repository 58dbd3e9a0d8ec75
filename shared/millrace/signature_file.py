"""The signature of a model version in the artifact bucket: read back only if it was registered."""

from millrace.aws.objects import ObjectReader, verify_sha256
from millrace.errors import ArtifactError
from millrace.signature import Signature
from millrace.typed import WrongValue


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
        return Signature.from_json(body)
    except WrongValue as exc:
        raise ArtifactError(f"{where}, is none: {exc}") from None
    except ValueError:
        # The chain is cut: the error of the parser quotes what it read.
        raise ArtifactError(f"{where}, is none: it is not JSON") from None
