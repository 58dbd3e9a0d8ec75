"""Registry and artifacts disagree in every way they can; the doctor finds it, and mends what it may."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millrace.attestation import Attestation
from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.kms import KmsKey
from millrace.registry.records import RunOutcome
from millrace.registry.verification import verify
from millrace_cli.agreement import STUCK, Agreement, Disagreement
from tests.fakes import cases, cloud
from tests.fakes.clock import counting_ids
from tests.fakes.onnx_models import crown

NOW = datetime(2026, 11, 1, 11, tzinfo=UTC)


def put(key: str, body: bytes) -> None:
    client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)


def agreement(stack: cloud.Cloud, **changes: Any) -> Agreement:
    return Agreement(
        DynamoTable(client("dynamodb"), cloud.TABLE),
        stack.registry,
        client("s3"),
        cases.ARTIFACT_BUCKET,
        **{
            "actor": "ben",
            "clock": lambda: NOW,
            "ids": counting_ids("mend"),
            **changes,
        },
    )


def item_key(sk: str) -> dict[str, Any]:
    return {"PK": {"S": "MODEL#churn"}, "SK": {"S": sk}}


def change(sk: str, attribute: str, value: dict[str, Any]) -> None:
    client("dynamodb").update_item(
        TableName=cloud.TABLE,
        Key=item_key(sk),
        UpdateExpression="SET #a = :v",
        ExpressionAttributeNames={"#a": attribute},
        ExpressionAttributeValues={":v": value},
    )


def drop(sk: str) -> None:
    client("dynamodb").delete_item(TableName=cloud.TABLE, Key=item_key(sk))


@pytest.fixture
def one(stack: cloud.Cloud) -> cloud.Cloud:
    """A stack whose model has one version, its champion."""
    crown(stack.registry, put, 1)
    return stack


def kinds(found: list[Disagreement]) -> list[str]:
    return [d.kind for d in found]


def mended(stack: cloud.Cloud, **changes: Any) -> list[Disagreement]:
    doctor = agreement(stack, **changes)
    done = doctor.mend(list(doctor.look()))
    assert list(agreement(stack, **changes).look()) == []
    assert verify(DynamoTable(client("dynamodb"), cloud.TABLE), "churn").sound
    return done


def told_of_mends(stack: cloud.Cloud) -> list[tuple[str, str]]:
    entries = stack.registry.audit("churn", limit=200).items
    return [(e.actor, e.subject) for e in entries if e.action == "mended"]


def test_what_agrees_is_left_alone(one: cloud.Cloud) -> None:
    assert list(agreement(one).look()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda key: put(key, b"something else"),
        lambda key: client("s3").delete_object(Bucket=cases.ARTIFACT_BUCKET, Key=key),
    ],
    ids=["changed", "deleted"],
)
def test_an_artifact_comes_back_from_its_own_versions(
    one: cloud.Cloud, damage: Callable[[str], object]
) -> None:
    key = one.registry.get_version("churn", 1).model_key
    body = client("s3").get_object(Bucket=cases.ARTIFACT_BUCKET, Key=key)["Body"].read()
    damage(key)

    [found] = mended(one)

    assert (found.kind, found.subject) == ("artifact", "model of churn@1")
    assert client("s3").get_object(Bucket=cases.ARTIFACT_BUCKET, Key=key)["Body"].read() == body
    assert told_of_mends(one) == [("ben", "churn@1")]


def test_an_artifact_that_is_gone_for_good_is_told(one: cloud.Cloud) -> None:
    key = one.registry.get_version("churn", 1).model_key
    listed = client("s3").list_object_versions(Bucket=cases.ARTIFACT_BUCKET, Prefix=key)
    client("s3").delete_object(
        Bucket=cases.ARTIFACT_BUCKET, Key=key, VersionId=listed["Versions"][0]["VersionId"]
    )

    [found] = agreement(one).look()

    assert found.mend is None
    assert "import the version's bundle again" in found.advice


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda: drop("SERVING"), "nothing answers"),
        (lambda: change("SERVING", "sha256", {"S": "0" * 64}), "what answers differs in sha256"),
        (lambda: change("SERVING", "version", {"N": "9"}), "what answers differs in version"),
        (lambda: change("ALIAS#champion", "version", {"N": "9"}), "the alias champion names 9"),
        (lambda: drop("ALIAS#champion"), "the alias champion names None"),
    ],
    ids=["no serving item", "artifact", "version", "alias", "no alias"],
)
def test_what_answers_becomes_the_champion_again(
    one: cloud.Cloud, damage: Callable[[], object], told: str
) -> None:
    before = one.registry.get_serving("churn")
    damage()
    [seen] = agreement(one).look()
    assert told in seen.found

    [found] = mended(one)

    after = one.registry.get_serving("churn")
    assert (after.version, after.sha256, after.sequence) == (1, before.sha256, before.sequence)
    assert one.registry.get_version("churn", "champion").version == 1
    assert told_of_mends(one) == [("ben", "churn@1")]
    assert found.mended


def test_a_ledger_is_told_and_never_mended(one: cloud.Cloud) -> None:
    drop("AUDIT#000000000003")

    found = list(agreement(one).look())

    assert set(kinds(found)) == {"ledger"}
    assert all(d.mend is None and "backup" in d.advice for d in found)


def test_a_run_that_nobody_closed_is_closed_as_failed(one: cloud.Cloud) -> None:
    run = cases.run(9, cases.spec())
    one.registry.create_run(run)

    done = mended(one, clock=lambda: run.started_at + STUCK + timedelta(minutes=1))

    assert ("run", run.run_id) in [(d.kind, d.subject) for d in done]
    closed = one.registry.get_run(run.run_id)
    assert (closed.outcome, closed.error) == (RunOutcome.FAILED, "Abandoned")


def test_a_run_that_may_go_on_is_left_alone(one: cloud.Cloud) -> None:
    run = cases.run(9, cases.spec())
    one.registry.create_run(run)

    assert list(agreement(one, clock=lambda: run.started_at + timedelta(hours=1)).look()) == []


def test_artifacts_that_no_version_names_are_told_and_kept(one: cloud.Cloud) -> None:
    put("models/churn/sha256/00/model.onnx", b"of a training that was repeated")

    [found] = agreement(one).look()

    assert (found.kind, found.mend) == ("orphan", None)
    assert "00/model.onnx" in found.found


def test_versions_of_before_are_signed_once_their_artifacts_are_right(one: cloud.Cloud) -> None:
    arn = client("kms").create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"][
        "Arn"
    ]
    key = KmsKey(client("kms"), arn)
    signing = {"sign": key.sign, "attestation": Attestation(arn, key.verify)}
    assert kinds(list(agreement(one, **signing).look())) == ["unsigned"]

    mended(one, **signing)

    Attestation(arn, key.verify).check(one.registry.get_serving("churn"))
    Attestation(arn, key.verify).check(one.registry.get_version("churn", 1))
    assert told_of_mends(one) == [("ben", "churn@1")]


def test_a_version_whose_artifact_is_wrong_is_not_signed(one: cloud.Cloud) -> None:
    arn = client("kms").create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"][
        "Arn"
    ]
    key = KmsKey(client("kms"), arn)
    put(one.registry.get_version("churn", 1).model_key, b"something else")

    found = agreement(one, sign=key.sign, attestation=Attestation(arn, key.verify)).look()

    [unsigned] = [d for d in found if d.kind == "unsigned"]
    assert (unsigned.subject, unsigned.mend) == ("churn@1", None)
