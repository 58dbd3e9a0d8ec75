"""Removal: what goes, what stays, and what is found afterwards."""

import json
from dataclasses import replace

import pytest

from infra.delivery.deployment import delete_stack
from infra.delivery.destruction import (
    Fated,
    delete_data,
    fates,
    prove,
    refuse_protected,
)
from infra.delivery.place import Place
from infra.delivery.stack import Stack, find_stack
from millrace.errors import ConflictError

NAME = "millrace-staging"
_ROLE = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "x.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}
RESOURCES = {
    "Data": {
        "Type": "AWS::S3::Bucket",
        "DeletionPolicy": "RetainExceptOnCreate",
        "Properties": {
            "BucketName": "data-that-stays",
            "VersioningConfiguration": {"Status": "Enabled"},
        },
    },
    "Table": {
        "Type": "AWS::DynamoDB::Table",
        "DeletionPolicy": "Retain",
        "Properties": {
            "TableName": "table-that-stays",
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "PK", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "PK", "KeyType": "HASH"}],
        },
    },
    "Queue": {"Type": "AWS::SQS::Queue"},
    "Topic": {"Type": "AWS::SNS::Topic"},
    "Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "/millrace/x"}},
    "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": _ROLE}},
}


@pytest.fixture
def stack(place: Place) -> Stack:
    place.cloudformation.create_stack(
        StackName=NAME,
        TemplateBody=json.dumps({"Resources": RESOURCES}),
        Capabilities=["CAPABILITY_IAM"],
    )
    place.s3.put_bucket_versioning(
        Bucket="data-that-stays", VersioningConfiguration={"Status": "Enabled"}
    )
    for body in (b"one", b"four"):
        place.s3.put_object(Bucket="data-that-stays", Key="k", Body=body)
    place.dynamodb.put_item(TableName="table-that-stays", Item={"PK": {"S": "a"}})
    found = find_stack(place, NAME)
    assert found is not None
    return found


def _by_name(fated: list[Fated]) -> dict[str, Fated]:
    return {f.resource.name: f for f in fated}


def test_what_stays_is_told_with_what_it_holds(place: Place, stack: Stack) -> None:
    found = _by_name(fates(place, stack))

    assert {n for n, f in found.items() if f.fate == "stays"} == {"Data", "Table"}
    assert found["Data"].holds == "1 objects and 1 older versions, 0.0 MB"
    assert found["Table"].holds.startswith("1 items")


def test_every_resource_is_looked_for_afterwards(place: Place, stack: Stack) -> None:
    fated = fates(place, stack)
    assert {p.found for p in prove(place, fated)} == {"still there"}
    assert sum(p.wrong for p in prove(place, fated)) == 4

    delete_stack(place, stack, pause=lambda _: None)
    # moto keeps no retained resource: those that should have stayed are told as missing.
    proofs = {p.resource.name: p for p in prove(place, fated)}

    assert {n for n, p in proofs.items() if p.found == "gone"} >= {"Queue", "Topic", "Logs", "Role"}
    assert not any(proofs[n].wrong for n in ("Queue", "Topic", "Logs", "Role"))


def test_what_is_still_there_is_wrong(place: Place, stack: Stack) -> None:
    fated = fates(place, stack)

    wrong = [p for p in prove(place, fated) if p.wrong]

    assert {p.resource.name for p in wrong} == {"Queue", "Topic", "Logs", "Role"}


def test_data_goes_only_when_it_is_asked_for(place: Place, stack: Stack) -> None:
    fated = fates(place, stack)

    gone = delete_data(place, fated, lambda _: None, pause=lambda _: None)

    assert {g.resource.name for g in gone} == {"Data", "Table"}
    assert not any(p.wrong for p in prove(place, gone))
    assert {p.found for p in prove(place, gone)} == {"gone"}


def test_a_protected_table_is_told_before_anything_goes(place: Place, stack: Stack) -> None:
    place.dynamodb.update_table(TableName="table-that-stays", DeletionProtectionEnabled=True)
    fated = fates(place, stack)

    refuse_protected(place, stack, fated, data=False)
    with pytest.raises(ConflictError, match='PARAMETERS="TableDeletionProtection=false"'):
        refuse_protected(place, stack, fated, data=True)


def test_a_protected_stack_is_told_with_the_command(place: Place, stack: Stack) -> None:
    with pytest.raises(ConflictError, match="update-termination-protection --no-enable"):
        refuse_protected(place, replace(stack, protected=True), [], data=False)
