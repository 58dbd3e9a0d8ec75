"""S3 and DynamoDB as the registry and the stores use them."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from tests.e2e.conformance.conftest import Stack

pytestmark = pytest.mark.needs("object-versions", "transactions")


def _item(key: str, **values: str) -> dict[str, dict[str, str]]:
    return {"PK": {"S": key}, "SK": {"S": "META"}} | {k: {"S": v} for k, v in values.items()}


def test_an_object_is_written_once(stack: Stack) -> None:
    s3 = stack.client("s3")
    where = {"Bucket": stack.outputs["Bucket"], "Key": f"once/{time.time_ns()}"}
    s3.put_object(**where, Body=b"first", IfNoneMatch="*")

    with pytest.raises(ClientError) as refused:
        s3.put_object(**where, Body=b"second", IfNoneMatch="*")

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert s3.get_object(**where)["Body"].read() == b"first"


def test_an_older_version_stays_readable(stack: Stack) -> None:
    s3 = stack.client("s3")
    where = {"Bucket": stack.outputs["Bucket"], "Key": f"versions/{time.time_ns()}"}
    first = s3.put_object(**where, Body=b"first")["VersionId"]
    s3.put_object(**where, Body=b"second")

    assert s3.get_object(**where, VersionId=first)["Body"].read() == b"first"
    assert s3.get_object(**where)["Body"].read() == b"second"


def test_a_part_of_an_older_version_is_that_part(stack: Stack) -> None:
    """Gap ``part``."""
    s3 = stack.client("s3")
    where = {"Bucket": stack.outputs["Bucket"], "Key": f"parts/{time.time_ns()}"}
    first = s3.put_object(**where, Body=b"0123456789")["VersionId"]
    s3.put_object(**where, Body=b"another")

    answer = s3.get_object(**where, VersionId=first, Range="bytes=3-5")

    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert (answer["Body"].read(), answer["ContentRange"]) == (b"345", "bytes 3-5/10")


def test_a_transaction_with_a_broken_condition_changes_nothing(stack: Stack) -> None:
    table, key = stack.outputs["Table"], f"transaction-{time.time_ns()}"
    dynamodb = stack.client("dynamodb")
    dynamodb.put_item(TableName=table, Item=_item(key, champion="1"))

    with pytest.raises(ClientError) as refused:
        dynamodb.transact_write_items(
            TransactItems=[
                {"Put": {"TableName": table, "Item": _item(f"{key}-audit", what="promoted")}},
                {
                    "Update": {
                        "TableName": table,
                        "Key": {"PK": {"S": key}, "SK": {"S": "META"}},
                        "UpdateExpression": "SET champion = :new",
                        "ConditionExpression": "champion = :assumed",
                        "ExpressionAttributeValues": {
                            ":new": {"S": "3"},
                            ":assumed": {"S": "2"},
                        },
                    }
                },
            ]
        )

    assert refused.value.response["Error"]["Code"] == "TransactionCanceledException"
    reasons = refused.value.response["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["None", "ConditionalCheckFailed"]
    found = dynamodb.batch_get_item(
        RequestItems={
            table: {
                "Keys": [
                    {"PK": {"S": key}, "SK": {"S": "META"}},
                    {"PK": {"S": f"{key}-audit"}, "SK": {"S": "META"}},
                ]
            }
        }
    )["Responses"][table]
    assert found == [_item(key, champion="1")]


def test_one_of_many_racing_transactions_wins(stack: Stack) -> None:
    table, key = stack.outputs["Table"], f"race-{time.time_ns()}"
    dynamodb = stack.client("dynamodb")

    def claim(number: int) -> bool:
        put = {
            "TableName": table,
            "Item": _item(key, owner=str(number)),
            "ConditionExpression": "attribute_not_exists(PK)",
        }
        audit = {"TableName": table, "Item": _item(f"{key}-{number}")}
        try:
            dynamodb.transact_write_items(TransactItems=[{"Put": put}, {"Put": audit}])
        except dynamodb.exceptions.TransactionCanceledException:
            return False
        return True

    with ThreadPoolExecutor(max_workers=8) as pool:
        won = list(pool.map(claim, range(8)))

    assert won.count(True) == 1
    owner = dynamodb.get_item(TableName=table, Key={"PK": {"S": key}, "SK": {"S": "META"}})
    assert owner["Item"]["owner"]["S"] == str(won.index(True))


def test_an_index_is_queried_in_order_and_in_pages(stack: Stack) -> None:
    table, group = stack.outputs["Table"], f"group-{time.time_ns()}"
    dynamodb = stack.client("dynamodb")
    for number in (3, 1, 2):
        item = _item(f"{group}-{number}", GSI1PK=group, GSI1SK=f"{number:04d}")
        dynamodb.put_item(TableName=table, Item=item)

    pages = dynamodb.get_paginator("query").paginate(
        TableName=table,
        IndexName="GSI1",
        KeyConditionExpression="GSI1PK = :group",
        ExpressionAttributeValues={":group": {"S": group}},
        ScanIndexForward=False,
        PaginationConfig={"PageSize": 2},
    )

    found = [[item["GSI1SK"]["S"] for item in page["Items"]] for page in pages]
    assert found == [["0003", "0002"], ["0001"]]


def test_the_table_expires_items(stack: Stack) -> None:
    described = stack.client("dynamodb").describe_time_to_live(TableName=stack.outputs["Table"])

    assert described["TimeToLiveDescription"] == {
        "TimeToLiveStatus": "ENABLED",
        "AttributeName": "expires_at",
    }
