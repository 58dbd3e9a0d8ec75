"""Signatures by a key of AWS KMS: the private half never leaves it.

`aws.wire.WireKey` verifies as well, where boto3 would cost too much.
"""

import base64
from typing import TYPE_CHECKING

from millrace.attestation import ALGORITHM, Seal
from millrace.aws.translate import translated

if TYPE_CHECKING:
    from mypy_boto3_kms.client import KMSClient


class KmsKey:
    """Signs and verifies with one asymmetric key.

    Args:
        client: KMS.
        key_arn: A key of the kind ECC_NIST_P256, for signatures.
    """

    def __init__(self, client: "KMSClient", key_arn: str) -> None:
        self._client = client
        self._key_arn = key_arn

    def sign(self, digest: bytes) -> Seal:
        """Signs a SHA-256 digest.

        Raises:
            AccessDeniedError: The caller may not use the key.
            RetryableError: KMS cannot be asked.
        """
        with translated(f"sign with {self._key_arn}"):
            answer = self._client.sign(
                KeyId=self._key_arn,
                Message=digest,
                MessageType="DIGEST",
                SigningAlgorithm=ALGORITHM,
            )
        return Seal(base64.b64encode(answer["Signature"]).decode(), self._key_arn)

    def verify(self, digest: bytes, signature: bytes) -> bool:
        """Whether the key made this signature of this SHA-256 digest.

        Raises:
            AccessDeniedError: The caller may not use the key.
            RetryableError: KMS cannot be asked.
        """
        with translated(f"verify a signature by {self._key_arn}"):
            try:
                answer = self._client.verify(
                    KeyId=self._key_arn,
                    Message=digest,
                    MessageType="DIGEST",
                    Signature=signature,
                    SigningAlgorithm=ALGORITHM,
                )
            except self._client.exceptions.KMSInvalidSignatureException:
                return False
        return answer["SignatureValid"]

    def public_key(self) -> bytes:
        """The public half, in DER (SubjectPublicKeyInfo): verifies without AWS."""
        with translated(f"read the public key of {self._key_arn}"):
            return self._client.get_public_key(KeyId=self._key_arn)["PublicKey"]
