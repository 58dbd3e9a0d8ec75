"""A key of KMS signs; KMS, asked with and without boto3, and its public half as a file verify."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from millrace.attestation import Attestation, Claim, statement, statement_digest
from millrace.aws.clients import client
from millrace.aws.credentials import CredentialSource
from millrace.aws.kms import KmsKey
from millrace.aws.wire import Wire, WireKey, open_attestation
from millrace.errors import ArtifactSignatureError, ConfigurationError, FinalError
from millrace.public_key import attestation_by
from tests.fakes import cloud

ENVIRONMENT = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


@pytest.fixture
def key_arn(stack: cloud.Cloud) -> str:
    made = client("kms").create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    return made["KeyMetadata"]["Arn"]


@pytest.fixture
def claim(key_arn: str) -> Claim:
    unsigned = Claim("churn", 7, "a" * 64, "b" * 64, "", "")
    seal = KmsKey(client("kms"), key_arn).sign(statement_digest(unsigned))
    return replace(unsigned, kms_signature=seal.kms_signature, kms_key_id=seal.kms_key_id)


@pytest.fixture(params=["boto3", "wire"])
def attestation(request: pytest.FixtureRequest, key_arn: str) -> Attestation:
    if request.param == "boto3":
        return Attestation(key_arn, KmsKey(client("kms"), key_arn).verify)
    credentials = CredentialSource(lambda: 0.0, ENVIRONMENT)
    return Attestation(key_arn, WireKey(Wire("kms", credentials), key_arn).verify)


def test_what_the_key_signed_may_be_loaded(attestation: Attestation, claim: Claim) -> None:
    attestation.check(claim)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kms_signature": ""}, "churn@7: expected a signature by .*, and it is not signed"),
        ({"sha256": "c" * 64}, "not one of this version, artifact and signature"),
        ({"signature_sha256": "c" * 64}, "not one of this version, artifact and signature"),
        ({"version": 6}, "churn@6: its signature is not one of this version"),
        ({"model": "loans"}, "loans@7: its signature is not one of this version"),
        ({"kms_key_id": "arn:aws:kms:other"}, "it was signed with arn:aws:kms:other"),
        ({"kms_signature": "!"}, "churn@7: its signature is not base64"),
        ({"kms_signature": base64.b64encode(b"junk").decode()}, "not one of this version"),
    ],
    ids=["unsigned", "artifact", "document", "version", "model", "key", "no base64", "junk"],
)
def test_anything_else_is_refused_and_says_why(
    attestation: Attestation, claim: Claim, change: dict[str, object], told: str
) -> None:
    with pytest.raises(ArtifactSignatureError, match=told):
        attestation.check(replace(claim, **change))  # type: ignore[arg-type]


def test_a_key_that_is_gone_is_no_signature_that_is_wrong(stack: cloud.Cloud) -> None:
    gone = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    wire = WireKey(Wire("kms", CredentialSource(lambda: 0.0, ENVIRONMENT)), gone)

    with pytest.raises(FinalError, match="NotFoundException") as found:
        wire.verify(hashlib.sha256(b"").digest(), b"junk")
    assert not isinstance(found.value, ArtifactSignatureError)


def test_nobody_is_asked_where_versions_need_not_be_signed() -> None:
    assert open_attestation("") is None


@pytest.mark.parametrize(
    "encoding", [serialization.Encoding.PEM, serialization.Encoding.DER], ids=["pem", "der"]
)
def test_the_public_half_verifies_without_aws(
    encoding: serialization.Encoding, tmp_path: Path
) -> None:
    # Not by moto's key: it hashes a digest once more, which KMS and MiniStack do not.
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key"
    path.write_bytes(
        key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    unsigned = Claim("churn", 7, "a" * 64, "b" * 64, "", "")
    made = key.sign(statement("churn", 7, "a" * 64, "b" * 64), ec.ECDSA(hashes.SHA256()))
    claim = replace(unsigned, kms_signature=base64.b64encode(made).decode())

    attestation_by(path).check(claim)
    with pytest.raises(ArtifactSignatureError, match="not one of this version"):
        attestation_by(path).check(replace(claim, sha256="c" * 64))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_text("nothing"), "expected one in PEM or DER"),
        (lambda path: path.write_text("-----BEGIN PUBLIC KEY-----\n"), "expected one in PEM"),
    ],
    ids=["missing", "no key", "cut"],
)
def test_a_file_that_is_no_public_key_is_told(
    write: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    write(tmp_path / "key")

    with pytest.raises(ConfigurationError, match=told):
        attestation_by(tmp_path / "key")


def test_another_kind_of_key_is_told(stack: cloud.Cloud, tmp_path: Path) -> None:
    made = client("kms").create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")
    path = tmp_path / "key.der"
    path.write_bytes(KmsKey(client("kms"), made["KeyMetadata"]["Arn"]).public_key())

    with pytest.raises(ConfigurationError, match="P-256"):
        attestation_by(path)


def test_a_statement_is_the_same_bytes_for_ever() -> None:
    """Signatures of versions that were registered long ago must go on holding."""
    assert statement("churn", 7, "aa", "bb") == (
        b'{"format":"millrace-version/1","model":"churn","sha256":"aa","signature_sha256":"bb",'
        b'"version":7}'
    )
