"""What the recorder keeps of an AWS call, and what it leaves out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.local.calls import Recorder, appended, describe

ROOT = Path(__file__).parents[3]


def _kept(service: str, operation: str, **parameters: Any) -> dict[str, Any]:
    names: dict[str, Any] = describe(service, operation, parameters, "ok")["names"]
    return names


def test_objects_are_named_and_bodies_stay_out() -> None:
    call = describe(
        "s3",
        "PutObject",
        {"Bucket": "data", "Key": "a/b", "Body": b"secret", "ServerSideEncryption": "aws:kms"},
        "ok",
    )

    assert call["names"] == {"Bucket": "data", "Key": "a/b", "ServerSideEncryption": "aws:kms"}
    assert call["given"] == ["Body", "Bucket", "Key", "ServerSideEncryption"]
    assert "secret" not in str(call)


def test_items_are_known_by_table_and_partition_alone() -> None:
    item = {"PK": {"S": "MODEL#churn"}, "SK": {"S": "RUN#1"}, "metric": {"N": "0.913"}}

    kept = _kept("dynamodb", "PutItem", TableName="registry", Item=item)

    assert kept["items"] == [{"verb": "PutItem", "TableName": "registry", "leading": "MODEL#churn"}]
    assert "0.913" not in str(kept)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        pytest.param(
            {
                "KeyConditionExpression": "#pk = :pk AND begins_with(#sk, :sk)",
                "ExpressionAttributeNames": {"#pk": "PK", "#sk": "SK"},
                "ExpressionAttributeValues": {":pk": {"S": "RUN#1"}, ":sk": {"S": "TRIAL#"}},
            },
            {"verb": "Query", "TableName": "registry", "leading": "RUN#1"},
            id="table",
        ),
        pytest.param(
            {
                "IndexName": "GSI1",
                "KeyConditionExpression": "GSI1PK = :pk",
                "ExpressionAttributeValues": {":pk": {"S": "MODELS"}},
            },
            {
                "verb": "Query",
                "TableName": "registry",
                "IndexName": "GSI1",
                "leading": "MODELS",
            },
            id="index",
        ),
    ],
)
def test_a_query_is_known_by_its_partition(
    parameters: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert _kept("dynamodb", "Query", TableName="registry", **parameters)["items"] == [expected]


def test_a_scan_names_no_partition() -> None:
    [item] = _kept("dynamodb", "Scan", TableName="registry")["items"]

    assert "leading" not in item


def test_each_item_of_a_transaction_and_of_a_batch_is_told() -> None:
    key = {"PK": {"S": "A"}, "SK": {"S": "B"}}
    transaction = _kept(
        "dynamodb",
        "TransactWriteItems",
        TransactItems=[
            {"Put": {"TableName": "t", "Item": {**key, "x": {"S": "secret"}}}},
            {"ConditionCheck": {"TableName": "t", "Key": key, "ConditionExpression": "x"}},
        ],
    )
    batch = _kept(
        "dynamodb",
        "BatchWriteItem",
        RequestItems={"t": [{"PutRequest": {"Item": key}}, {"DeleteRequest": {"Key": key}}]},
    )
    read = _kept("dynamodb", "BatchGetItem", RequestItems={"t": {"Keys": [key]}})

    assert [i["verb"] for i in transaction["items"]] == ["Put", "ConditionCheck"]
    assert {i["leading"] for i in transaction["items"]} == {"A"}
    assert "secret" not in str(transaction)
    assert [i["verb"] for i in batch["items"]] == ["Put", "Delete"]
    assert [(i["verb"], i["leading"]) for i in read["items"]] == [("Get", "A")]


def test_a_fault_of_the_recorder_is_written_down_and_not_raised(tmp_path: Path) -> None:
    recorder = Recorder(appended(tmp_path, "api"))

    recorder.keep("dynamodb", "GetItem", {"TableName": "t", "Key": {"other": {"S": "A"}}}, "ok")

    [file] = tmp_path.iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [("recording" in line, "fault" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]
    assert lines[1]["fault"] == "dynamodb GetItem: KeyError: 'PK'"


WATCHED = """
import io, sys
from pathlib import Path
import boto3
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from botocore.response import StreamingBody
from infra.local.calls import Recorder, appended

early = boto3.client("s3", region_name="us-east-1")
Recorder(appended(Path(sys.argv[1]), "api")).install()
late = boto3.client("s3", region_name="us-east-1")

with Stubber(early) as stub:
    body = StreamingBody(io.BytesIO(b"rows"), 4)
    stub.add_response("get_object", {"Body": body}, {"Bucket": "b", "Key": "k"})
    assert early.get_object(Bucket="b", Key="k")["Body"].read() == b"rows"
with Stubber(late) as stub:
    stub.add_client_error("head_object", "404", http_status_code=404)
    try:
        late.head_object(Bucket="b", Key="absent", VersionId="v")
        raise SystemExit("the error did not pass through")
    except ClientError as exc:
        assert exc.response["Error"]["Code"] == "404"
    for token in ("next", None):
        more = {"NextContinuationToken": token, "IsTruncated": True} if token else {}
        stub.add_response("list_objects_v2", {"Contents": [], **more})
    list(late.get_paginator("list_objects_v2").paginate(Bucket="b", Prefix="p/"))
address = late.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "r"})
assert "/r?" in address
late.generate_presigned_post("b", "up")
"""


SIGNED = """
import http.client, json, sys
from datetime import UTC, datetime
from pathlib import Path
from infra.local.calls import Recorder, appended
from millrace.aws.credentials import Credentials
from millrace.aws.signing import signed_headers

# Nothing is sent.
http.client.HTTPConnection.request = lambda made, method, url, body=None, headers={}: None
Recorder(appended(Path(sys.argv[1]), "predict")).install()


def send(service, method, path, host, body=b"", **headers):
    signed = signed_headers(
        method, path, {**headers, "host": host}, body, credentials=Credentials("a", "b", ""),
        region="us-east-1", service=service, now=datetime(2026, 11, 1, tzinfo=UTC),
    )
    http.client.HTTPConnection(host).request(method, path, body=body or None, headers=signed)


asked = {"TableName": "t", "Key": {"PK": {"S": "A"}, "SK": {"S": "B"}}}
target = {"x-amz-target": "DynamoDB_20120810.GetItem"}
send("dynamodb", "POST", "/", "127.0.0.1:4566", json.dumps(asked).encode(), **target)
send("s3", "GET", "/b/a%20key/k", "127.0.0.1:4566")
send("s3", "GET", "/a%20key/k", "b.s3.us-east-1.amazonaws.com")
send("s3", "DELETE", "/b/k", "127.0.0.1:4566")
http.client.HTTPConnection("runtime").request("GET", "/next")
"""


def test_requests_that_are_signed_without_botocore_are_recorded(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", SIGNED, str(tmp_path)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )

    [file] = tmp_path.iterdir()
    _, item, *objects, fault = [json.loads(line) for line in file.read_text().splitlines()]
    assert (item["service"], item["operation"], item["outcome"]) == ("dynamodb", "GetItem", "ok")
    assert item["names"]["items"] == [{"verb": "GetItem", "TableName": "t", "leading": "A"}]
    assert [(o["operation"], o["names"]) for o in objects] == [
        ("GetObject", {"Bucket": "b", "Key": "a key/k"})
    ] * 2
    assert fault["fault"] == "a signed request to s3: KeyError: ('s3', 'DELETE')"


def test_every_way_to_call_is_recorded_and_nothing_changes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)],
        cwd=ROOT,
        env={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    [file] = tmp_path.iterdir()
    begun, *calls = [json.loads(line) for line in file.read_text().splitlines()]
    assert begun["recording"] is True
    assert [(c["operation"], c["outcome"], c["names"].get("Key")) for c in calls] == [
        ("GetObject", "ok", "k"),
        ("HeadObject", "404", "absent"),
        ("ListObjectsV2", "ok", None),
        ("ListObjectsV2", "ok", None),
        ("GetObject", "ok", "r"),
        ("PutObject", "ok", "up"),
    ]
    assert [c.get("signed", False) for c in calls] == [False, False, False, False, True, True]
    assert {c["function"] for c in calls} == {"api"}
