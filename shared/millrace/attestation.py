"""What a signature of a model version vouches for, and the check before a version is loaded.

Signed is a statement: which version of which model has which artifact and which signature document
(what it takes and gives). So neither can be put in place of another that was signed as well. The
statement is canonical JSON, made anew from the record that is to be served, never read; the key
that is trusted comes from the environment, never from the record.

A signature is ECDSA over P-256 and SHA-256, in DER, as AWS KMS makes it. ``openssl dgst -sha256
-verify key.pem -signature statement.sig statement.json`` verifies it as well.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from millrace.errors import ArtifactSignatureError

FORMAT: Final = "millrace-version/1"
ALGORITHM: Final = "ECDSA_SHA_256"
"""As KMS calls it."""

type Sign = Callable[[bytes], "Seal"]
"""Signs a SHA-256 digest."""
type Verify = Callable[[bytes, bytes], bool]
"""Says whether a signature (second) is one of a SHA-256 digest (first)."""


class Attested(Protocol):
    """A record of a version, as far as a signature is concerned."""

    @property
    def model(self) -> str:
        """The model."""
        ...

    @property
    def version(self) -> int:
        """The version."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of the artifact."""
        ...

    @property
    def signature_sha256(self) -> str:
        """Digest of the signature document."""
        ...

    @property
    def kms_signature(self) -> str:
        """Signature of the statement, in base64; empty when there is none."""
        ...

    @property
    def kms_key_id(self) -> str:
        """ARN of the key it was made with."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """An `Attested` of its own, where what is said of a version comes in parts."""

    model: str
    version: int
    sha256: str
    signature_sha256: str
    kms_signature: str
    kms_key_id: str


@dataclass(frozen=True, slots=True)
class Seal:
    """A signature of a version.

    Attributes:
        kms_signature: The signature, in base64.
        kms_key_id: ARN of the key.
    """

    kms_signature: str
    kms_key_id: str


def statement(model: str, version: int, sha256: str, signature_sha256: str) -> bytes:
    """What is signed of a version."""
    document = {
        "format": FORMAT,
        "model": model,
        "version": version,
        "sha256": sha256,
        "signature_sha256": signature_sha256,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def statement_digest(record: Attested) -> bytes:
    """SHA-256 of a version's statement: what the key signs."""
    return hashlib.sha256(
        statement(record.model, record.version, record.sha256, record.signature_sha256)
    ).digest()


class Attestation:
    """Lets only versions be loaded that the one trusted key signed.

    Args:
        key: The key's ARN, or the file that holds it.
        verify: Asks it.
        by_name: Whether a record must name the key, so that who signed with another is told so.
    """

    def __init__(self, key: str, verify: Verify, *, by_name: bool = True) -> None:
        self._key = key
        self._verify = verify
        self._by_name = by_name

    def check(self, record: Attested) -> None:
        """Checks the signature of a version.

        Raises:
            ArtifactSignatureError: It is unsigned, or not signed as it is by the trusted key.
            RetryableError: The key cannot be asked.
        """
        what = f"{record.model}@{record.version}"
        if not record.kms_signature:
            raise ArtifactSignatureError(
                f"{what}: expected a signature by {self._key}, and it is not signed: "
                "`millrace doctor --registry --mend` signs what was registered before"
            )
        if self._by_name and record.kms_key_id != self._key:
            raise ArtifactSignatureError(
                f"{what}: expected a signature by {self._key}, and it was signed with "
                f"{record.kms_key_id or 'an unnamed key'}: import it here, which signs it anew"
            )
        if not self._verify(statement_digest(record), decoded(record.kms_signature, what)):
            raise ArtifactSignatureError(
                f"{what}: its signature is not one of this version, artifact and signature "
                f"document by {self._key}: the registry's record was changed"
            )


def decoded(kms_signature: str, what: str) -> bytes:
    """The bytes of a signature.

    Raises:
        ArtifactSignatureError: It is not base64.
    """
    try:
        return base64.b64decode(kms_signature, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ArtifactSignatureError(f"{what}: its signature is not base64: {exc}") from exc
