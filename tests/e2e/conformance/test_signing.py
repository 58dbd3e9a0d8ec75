"""KMS as the signing of versions uses it: digests are signed as they are, with a key of a template."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from millrace.aws.credentials import CredentialSource
from millrace.aws.kms import KmsKey
from millrace.aws.wire import Wire, WireKey
from tests.e2e.conformance.conftest import Stack

pytestmark = pytest.mark.needs("deployment")

STATEMENT = b"what is signed"
DIGEST = hashlib.sha256(STATEMENT).digest()


def test_a_signature_of_a_digest_is_one_of_what_has_it(stack: Stack) -> None:
    key = KmsKey(stack.client("kms"), stack.outputs["SigningKey"])

    signature = base64.b64decode(key.sign(DIGEST).kms_signature)

    public = serialization.load_der_public_key(key.public_key())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, STATEMENT, ec.ECDSA(hashes.SHA256()))


def test_verification_tells_the_right_from_the_wrong_with_and_without_boto3(stack: Stack) -> None:
    arn = stack.outputs["SigningKey"]
    key = KmsKey(stack.client("kms"), arn)
    environment = stack.info.environment()
    wire = Wire("kms", CredentialSource(lambda: 0.0, environment), environ=environment)
    signature = base64.b64decode(key.sign(DIGEST).kms_signature)
    other = hashlib.sha256(b"something else").digest()

    for verify in (key.verify, WireKey(wire, arn).verify):
        assert verify(DIGEST, signature)
        assert not verify(other, signature)
        assert not verify(DIGEST, signature[:-1] + bytes([signature[-1] ^ 1]))
