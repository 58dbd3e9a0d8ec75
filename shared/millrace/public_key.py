"""Signatures checked with a file that holds the public half of a key, without AWS.

The only importer of ``cryptography`` in `millrace serve` and the command line.
"""

from pathlib import Path

from millrace.attestation import Attestation, Verify
from millrace.errors import ConfigurationError


def attestation_by(path: Path) -> Attestation:
    """What lets only versions pass that the key of a file signed.

    Args:
        path: The public key, as PEM (``-----BEGIN PUBLIC KEY-----``) or as DER.

    Raises:
        ConfigurationError: There is no such file, or it holds no public key on P-256, or the
            package ``cryptography`` is not installed.
    """
    return Attestation(str(path), _verify(path), by_name=False)


def _verify(path: Path) -> Verify:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, utils
    except ImportError as exc:
        raise ConfigurationError(
            "to check signatures, install the package cryptography: pip install millrace[serve]"
        ) from exc
    try:
        body = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"public key {path}: {exc.strerror or exc}") from exc
    try:
        load = (
            serialization.load_pem_public_key
            if body.lstrip().startswith(b"-----")
            else serialization.load_der_public_key
        )
        key = load(body)
    except ValueError as exc:
        raise ConfigurationError(f"public key {path}: expected one in PEM or DER: {exc}") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError(
            f"public key {path}: expected one on the curve P-256 (ECC_NIST_P256), got another kind"
        )

    def verify(digest: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        except InvalidSignature:
            return False
        return True

    return verify
