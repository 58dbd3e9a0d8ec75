"""Transactions of the tables that moto keeps."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.e2e.conformance.conftest import Stack

ROWS = 2_000
TRANSACTIONS = 15


@pytest.fixture
def table(stack: Stack) -> Iterator[str]:
    """A table of its own, with a stream."""
    name = f"copies-{time.time_ns()}"
    dynamodb = stack.client("dynamodb")
    dynamodb.create_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": k, "AttributeType": "S"} for k in ("PK", "SK")],
        KeySchema=[
            {"AttributeName": "PK", "KeyType": "HASH"},
            {"AttributeName": "SK", "KeyType": "RANGE"},
        ],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    dynamodb.get_waiter("table_exists").wait(TableName=name)
    yield name
    dynamodb.delete_table(TableName=name)


def key(name: str) -> dict[str, Any]:
    return {"PK": {"S": name}, "SK": {"S": "META"}}


def change(table: str, name: str, value: int) -> dict[str, Any]:
    """An update in a transaction."""
    return {
        "Update": {
            "TableName": table,
            "Key": key(name),
            "UpdateExpression": "SET v = :v",
            "ExpressionAttributeValues": {":v": {"N": str(value)}},
        }
    }


def test_what_fails_changes_nothing_and_is_in_no_stream(stack: Stack, table: str) -> None:
    """Gap ``copies``."""
    dynamodb, streams = stack.client("dynamodb"), stack.client("dynamodbstreams")
    for name in ("changed", "deleted", "there"):
        dynamodb.put_item(TableName=table, Item=key(name) | {"v": {"N": "1"}})
    before = dynamodb.scan(TableName=table)["Items"]
    there = {"Item": key("there"), "ConditionExpression": "attribute_not_exists(PK)"}

    with pytest.raises(ClientError) as refused:
        dynamodb.transact_write_items(
            TransactItems=[
                change(table, "changed", 2),
                {"Delete": {"TableName": table, "Key": key("deleted")}},
                {"Put": {"TableName": table, "Item": key("new")}},
                {"Put": {"TableName": table} | there},
            ]
        )
    after = dynamodb.scan(TableName=table)["Items"]
    dynamodb.transact_write_items(TransactItems=[change(table, "changed", 3)])

    assert refused.value.response["Error"]["Code"] == "TransactionCanceledException"
    assert after == before
    found = dynamodb.get_item(TableName=table, Key=key("changed"))["Item"]
    assert found["v"] == {"N": "3"}
    arn = dynamodb.describe_table(TableName=table)["Table"]["LatestStreamArn"]
    [shard] = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
    beginning = streams.get_shard_iterator(
        StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )
    records = streams.get_records(ShardIterator=beginning["ShardIterator"])["Records"]
    assert [r["eventName"] for r in records] == ["INSERT", "INSERT", "INSERT", "MODIFY"]
    assert records[-1]["dynamodb"]["OldImage"]["v"] == {"N": "1"}
    assert records[-1]["dynamodb"]["NewImage"]["v"] == {"N": "3"}


def test_a_transaction_takes_no_longer_in_a_large_table(stack: Stack, table: str) -> None:
    """Gap ``copies``; with the copy it takes some thirty times as long."""
    dynamodb = stack.client("dynamodb")

    def transaction() -> float:
        times = []
        for n in range(TRANSACTIONS):
            begun = time.perf_counter()
            dynamodb.transact_write_items(TransactItems=[change(table, "one", n)])
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    small = transaction()
    for start in range(0, ROWS, 25):
        puts = [
            {"PutRequest": {"Item": key(f"row-{n}") | {"v": {"N": str(n)}}}}
            for n in range(start, start + 25)
        ]
        dynamodb.batch_write_item(RequestItems={table: puts})
    large = transaction()

    assert large < 8 * small
