"""Versions are signed when they are registered, and what loads them asks who signed."""

import pytest

from functions.predict import handler as predict
from millrace.attestation import Attestation
from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.kms import KmsKey
from millrace.aws.s3 import S3ObjectStore
from millrace.batch.scoring import load_scorer
from millrace.errors import ArtifactSignatureError
from millrace.messages import BatchInput
from millrace.registry.items import serving_key
from millrace.registry.registry import Registry, open_registry
from tests.fakes import cases, cloud
from tests.fakes.onnx_models import crown


@pytest.fixture
def key_arn(stack: cloud.Cloud) -> str:
    made = client("kms").create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    return made["KeyMetadata"]["Arn"]


@pytest.fixture
def signing(key_arn: str) -> Registry:
    """A registry that signs."""
    return open_registry(client("dynamodb"), cloud.TABLE, sign=KmsKey(client("kms"), key_arn).sign)


def put(key: str, body: bytes) -> None:
    client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)


def assembled(key_arn: str) -> predict.Assembly:
    return predict.assemble(
        predict.PredictSettings(
            table_name=cloud.TABLE,
            artifact_bucket=cases.ARTIFACT_BUCKET,
            authorizer="NONE",
            trusted_key_arn=key_arn,
        )
    )


def test_the_ledger_says_who_signed(signing: Registry, key_arn: str) -> None:
    crown(signing, put, 1)

    [entry] = [e for e in signing.audit("churn").items if e.action == "version_registered"]
    assert entry.facts["signed_by"] == key_arn


def test_what_serves_carries_the_signature_of_its_version(signing: Registry) -> None:
    crown(signing, put, 1)

    serving, version = signing.get_serving("churn"), signing.get_version("churn", 1)

    assert serving.kms_signature == version.kms_signature != ""
    assert serving.kms_key_id == version.kms_key_id


def test_a_signed_champion_answers_where_signatures_are_required(
    signing: Registry, key_arn: str
) -> None:
    crown(signing, put, 1)

    assert assembled(key_arn).store.get("churn").version == 1


def test_an_unsigned_champion_is_not_loaded(stack: cloud.Cloud, key_arn: str) -> None:
    crown(stack.registry, put, 1)

    with pytest.raises(ArtifactSignatureError, match="churn@1: .* it is not signed"):
        assembled(key_arn).store.get("churn")


def test_another_signed_version_in_the_champions_place_is_not_loaded(
    signing: Registry, key_arn: str
) -> None:
    crown(signing, put, 1)
    crown(signing, put, 2)
    first = signing.get_version("churn", 1)
    table = DynamoTable(client("dynamodb"), cloud.TABLE)
    item = table.get(serving_key("churn")) or {}
    client("dynamodb").update_item(
        TableName=cloud.TABLE,
        Key={"PK": {"S": item["PK"]}, "SK": {"S": item["SK"]}},
        UpdateExpression="SET model_key = :k, sha256 = :s",
        ExpressionAttributeValues={":k": {"S": first.model_key}, ":s": {"S": first.sha256}},
    )

    with pytest.raises(ArtifactSignatureError, match="the registry's record was changed"):
        assembled(key_arn).store.get("churn")


def test_nobody_is_asked_where_signatures_are_not_required(stack: cloud.Cloud) -> None:
    crown(stack.registry, put, 1)

    assert assembled("").store.get("churn").version == 1


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_a_batch_job_scores_with_a_signed_version_alone(
    signing: Registry, key_arn: str, signed: bool
) -> None:
    crown(signing, put, 1)
    serving = signing.get_serving("churn")
    task = BatchInput(
        batch_id="churn-batch-1",
        attempt=1,
        model="churn",
        correlation_id="c",
        version=1,
        model_key=serving.model_key,
        sha256=serving.sha256,
        signature_key=serving.signature_key,
        signature_sha256=serving.signature_sha256,
        kms_signature=serving.kms_signature if signed else "",
        kms_key_id=serving.kms_key_id if signed else "",
        spec_version=1,
        spec_key="specs/churn/x.json",
        spec_digest="x",
        source=cases.source(1),
        created_at="2026-11-21T12:00:00Z",
        concurrency=1,
    )
    attestation = Attestation(key_arn, KmsKey(client("kms"), key_arn).verify)

    def load() -> object:
        return load_scorer(task, S3ObjectStore(client("s3")), cases.ARTIFACT_BUCKET, attestation)

    if signed:
        assert load() is not None
    else:
        with pytest.raises(ArtifactSignatureError, match="churn@1: .* it is not signed"):
            load()
