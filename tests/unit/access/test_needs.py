"""API calls to what AWS authorizes for them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from infra.local.calls import describe
from tests.access.needs import (
    Call,
    Place,
    RecordingError,
    UnmappedCallError,
    all_needed,
    needed,
    read,
)

HERE = Place("123456789012", "us-east-1")
KEY = "arn:aws:kms:us-east-1:123456789012:key/k"
TABLE = "arn:aws:dynamodb:us-east-1:123456789012:table/registry"
ITEM = {"PK": {"S": "MODEL#churn"}, "SK": {"S": "x"}}


def _call(service: str, operation: str, outcome: str = "ok", **parameters: Any) -> Call:
    return Call.of({"function": "train", **describe(service, operation, parameters, outcome)})


def _pairs(call: Call, place: Place = HERE) -> set[tuple[str, str]]:
    return {(r.action, r.resource) for r in needed(call, "TrainRole", place)}


def _s3(operation: str, outcome: str = "ok", **parameters: Any) -> set[tuple[str, str]]:
    return _pairs(_call("s3", operation, outcome, Bucket="data", **parameters))


@pytest.mark.parametrize("operation", ["GetObject", "HeadObject"])
def test_reading_an_object_needs_the_right_to_read_it(operation: str) -> None:
    assert _s3(operation, Key="a/b") == {("s3:GetObject", "arn:aws:s3:::data/a/b")}


@pytest.mark.parametrize("operation", ["GetObject", "HeadObject"])
def test_reading_a_version_is_a_right_of_its_own(operation: str) -> None:
    assert _s3(operation, Key="a", VersionId="v") == {
        ("s3:GetObjectVersion", "arn:aws:s3:::data/a")
    }


def test_deleting_many_objects_needs_the_right_on_each() -> None:
    wanted = {"Objects": [{"Key": "a/b"}, {"Key": "c", "VersionId": "v"}], "Quiet": True}

    assert _s3("DeleteObjects", Delete=wanted) == {
        ("s3:DeleteObject", "arn:aws:s3:::data/a/b"),
        ("s3:DeleteObjectVersion", "arn:aws:s3:::data/c"),
    }


@pytest.mark.parametrize(("operation", "code"), [("GetObject", "NoSuchKey"), ("HeadObject", "404")])
def test_telling_that_an_object_is_absent_needs_the_right_to_list(
    operation: str, code: str
) -> None:
    assert _s3(operation, code, Key="a") == {
        ("s3:GetObject", "arn:aws:s3:::data/a"),
        ("s3:ListBucket", "arn:aws:s3:::data"),
    }


def test_listing_is_a_right_on_the_bucket_and_tells_its_prefix() -> None:
    [request] = needed(_call("s3", "ListObjectsV2", Bucket="data", Prefix="p/"), "TrainRole", HERE)

    assert (request.action, request.resource) == ("s3:ListBucket", "arn:aws:s3:::data")
    assert ("s3:prefix", ("p/",)) in request.context


@pytest.mark.parametrize(
    "operation", ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]
)
def test_writing_in_one_or_many_parts_is_one_right(operation: str) -> None:
    assert _s3(operation, Key="a", IfNoneMatch="*") == {("s3:PutObject", "arn:aws:s3:::data/a")}


def test_what_a_write_does_besides_needs_more() -> None:
    actions = {a for a, _ in _s3("PutObject", Key="a", Tagging="x=y", ACL="private", IfMatch="e")}

    assert actions == {"s3:PutObject", "s3:PutObjectTagging", "s3:PutObjectAcl", "s3:GetObject"}


@pytest.mark.parametrize(
    "source", ["src/k/1?versionId=v", {"Bucket": "src", "Key": "k/1", "VersionId": "v"}], ids=type
)
def test_a_copy_reads_its_source_and_writes_its_target(source: Any) -> None:
    assert _s3("CopyObject", Key="a", CopySource=source) == {
        ("s3:PutObject", "arn:aws:s3:::data/a"),
        ("s3:GetObjectVersion", "arn:aws:s3:::src/k/1"),
    }


def test_giving_up_an_upload_is_a_right_of_its_own() -> None:
    assert _s3("AbortMultipartUpload", Key="a", UploadId="u") == {
        ("s3:AbortMultipartUpload", "arn:aws:s3:::data/a")
    }


def test_each_write_of_a_transaction_needs_its_own_right() -> None:
    one = {"TableName": "registry"}
    call = _call(
        "dynamodb",
        "TransactWriteItems",
        TransactItems=[
            {"Put": {**one, "Item": ITEM}},
            {"Update": {**one, "Key": ITEM}},
            {"Delete": {**one, "Key": ITEM}},
            {"ConditionCheck": {**one, "Key": ITEM}},
        ],
    )

    requests = needed(call, "TrainRole", HERE)

    assert [r.action for r in requests] == [
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
        "dynamodb:DeleteItem",
        "dynamodb:ConditionCheckItem",
    ]
    assert {r.resource for r in requests} == {TABLE}
    assert all(("dynamodb:leadingkeys", ("MODEL#churn",)) in r.context for r in requests)


def test_a_query_of_an_index_is_about_the_index() -> None:
    query: dict[str, Any] = {
        "TableName": "registry",
        "KeyConditionExpression": "GSI1PK = :p",
        "ExpressionAttributeValues": {":p": {"S": "MODELS"}},
    }

    assert _pairs(_call("dynamodb", "Query", IndexName="GSI1", **query)) == {
        ("dynamodb:Query", f"{TABLE}/index/GSI1")
    }


def test_an_unknown_partition_is_an_error_where_aws_knows_it() -> None:
    query = _call("dynamodb", "Query", TableName="registry", KeyConditionExpression="other = :p")

    with pytest.raises(RecordingError, match="partition key"):
        needed(query, "TrainRole", HERE)


def test_other_services_are_asked_for_by_what_the_call_names() -> None:
    machine = "arn:aws:states:us-east-1:123456789012:stateMachine:m"
    execution = "arn:aws:states:us-east-1:123456789012:execution:m:run"
    topic = "arn:aws:sns:us-east-1:123456789012:notices"
    queue = "https://sqs.us-east-1.amazonaws.com/123456789012/letters"
    function = "arn:aws:lambda:us-east-1:123456789012:function:trigger"

    assert _pairs(_call("stepfunctions", "StartExecution", stateMachineArn=machine)) == {
        ("states:StartExecution", machine)
    }
    assert _pairs(_call("stepfunctions", "GetExecutionHistory", executionArn=execution)) == {
        ("states:GetExecutionHistory", execution)
    }
    assert _pairs(_call("sns", "Publish", TopicArn=topic, Message="m")) == {("sns:Publish", topic)}
    assert _pairs(_call("sqs", "SendMessage", QueueUrl=queue)) == {
        ("sqs:SendMessage", "arn:aws:sqs:us-east-1:123456789012:letters")
    }
    for name in ("trigger", function):
        assert _pairs(_call("lambda", "Invoke", FunctionName=name)) == {
            ("lambda:InvokeFunction", function)
        }
    assert _pairs(_call("lambda", "Invoke", FunctionName="trigger", Qualifier="live")) == {
        ("lambda:InvokeFunction", f"{function}:live")
    }


@pytest.mark.parametrize(
    ("call", "actions"),
    [
        (_call("s3", "GetObject", Bucket="b", Key="k"), {"Decrypt"}),
        (_call("s3", "HeadObject", "404", Bucket="b", Key="k"), set()),
        (_call("s3", "PutObject", Bucket="b", Key="k"), {"GenerateDataKey"}),
        (_call("s3", "UploadPart", Bucket="b", Key="k"), {"GenerateDataKey", "Decrypt"}),
        (_call("dynamodb", "GetItem", TableName="t", Key=ITEM), {"Decrypt"}),
        (_call("sns", "Publish", TopicArn="arn:aws:sns:r:1:t"), {"GenerateDataKey", "Decrypt"}),
        (_call("stepfunctions", "StartExecution", stateMachineArn="arn:m"), set()),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else str(value)[:24],
)
def test_a_customer_key_is_used_with_the_callers_right(call: Call, actions: set[str]) -> None:
    place = Place("123456789012", "us-east-1", key=KEY)

    extra = _pairs(call, place) - _pairs(call)

    assert extra == {(f"kms:{action}", KEY) for action in actions}


@pytest.mark.parametrize(
    ("service", "operation", "parameters"),
    [
        ("s3", "PutBucketPolicy", {"Bucket": "b"}),
        ("dynamodb", "ExecuteStatement", {"TableName": "t"}),
        ("sns", "Subscribe", {}),
        ("sqs", "ReceiveMessage", {}),
        ("stepfunctions", "SendTaskFailure", {}),
        ("lambda", "UpdateFunctionCode", {}),
        ("ec2", "RunInstances", {}),
    ],
)
def test_a_call_that_nobody_mapped_is_an_error_and_no_pass(
    service: str, operation: str, parameters: dict[str, Any]
) -> None:
    with pytest.raises(UnmappedCallError, match=operation):
        needed(_call(service, operation, **parameters), "TrainRole", HERE)


def _recorded(folder: Path, lines: Iterable[dict[str, Any] | str]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "train-1.jsonl").write_text("\n".join(texts) + "\n")
    return folder


def test_a_recording_counts_equal_calls(tmp_path: Path) -> None:
    call = {"function": "train", **describe("s3", "GetObject", {"Bucket": "b", "Key": "k"}, "ok")}
    begun = {"function": "train", "recording": True}

    recording = read(_recorded(tmp_path, [begun, {**call, "at": "1"}, {**call, "at": "2"}]))

    assert list(recording.calls.values()) == [2]
    assert recording.functions == {"train": 1}


@pytest.mark.parametrize(
    "line", [{"function": "train", "fault": "s3 GetObject: KeyError"}, '{"function": "tr']
)
def test_a_recording_that_is_not_whole_is_an_error(tmp_path: Path, line: Any) -> None:
    with pytest.raises(RecordingError):
        read(_recorded(tmp_path, [line]))


def test_a_call_of_a_function_nobody_knows_is_an_error() -> None:
    with pytest.raises(RecordingError, match="train is no function"):
        all_needed([_call("s3", "GetObject", Bucket="b", Key="k")], {"api": "ApiRole"}, HERE)
