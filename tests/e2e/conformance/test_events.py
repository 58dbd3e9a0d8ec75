"""Gaps ``version-id`` and ``retry``: events arrive with what they must carry, and are not lost."""

import json
import time

import pytest

from tests.e2e.conformance.conftest import Stack

pytestmark = pytest.mark.needs("upload-events", "dead-letters", "execution-events")


def test_an_upload_event_names_the_version(stack: Stack) -> None:
    key = f"incoming/churn/a b {time.time_ns()}.csv"
    put = stack.client("s3").put_object(Bucket=stack.outputs["Bucket"], Key=key, Body=b"x\n1\n")

    event = stack.received("Heard", lambda e: _key_of(e) == key)

    assert event["detail"]["object"]["version-id"] == put["VersionId"]
    assert event["detail"]["object"]["size"] == 4
    assert event["detail"]["object"]["sequencer"]
    assert event["detail"]["bucket"]["name"] == stack.outputs["Bucket"]
    assert event["detail"]["reason"] == "PutObject"


def test_an_upload_in_parts_names_the_version(stack: Stack) -> None:
    s3 = stack.client("s3")
    where = {"Bucket": stack.outputs["Bucket"], "Key": f"incoming/churn/{time.time_ns()}.csv"}
    upload = s3.create_multipart_upload(**where)["UploadId"]
    part = s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"x\n1\n")
    done = s3.complete_multipart_upload(
        **where,
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )

    event = stack.received("Heard", lambda e: _key_of(e) == where["Key"])

    assert event["detail"]["object"]["version-id"] == done["VersionId"]


def test_keys_outside_the_pattern_are_not_delivered(stack: Stack) -> None:
    s3 = stack.client("s3")
    stamp = time.time_ns()
    for prefix in ("elsewhere", "incoming"):
        s3.put_object(Bucket=stack.outputs["Bucket"], Key=f"{prefix}/{stamp}", Body=b"")

    event = stack.received("Heard", lambda e: str(stamp) in _key_of(e))

    assert _key_of(event) == f"incoming/{stamp}"


def test_a_failed_invocation_by_a_rule_is_retried(stack: Stack) -> None:
    key = f"work-{time.time_ns()}"
    _put(stack, "Work", {"do": "raise_times", "key": key, "times": 1})

    def calls() -> int:
        item = stack.client("dynamodb").get_item(
            TableName=stack.outputs["Table"], Key={"PK": {"S": key}, "SK": {"S": "count"}}
        )
        return int(item["Item"]["calls"]["N"]) if "Item" in item else 0

    deadline = time.monotonic() + 15
    while calls() < 2:
        assert time.monotonic() < deadline, f"{calls()} calls"
        time.sleep(0.1)


def test_an_event_that_fails_three_times_is_a_dead_letter(stack: Stack) -> None:
    mark = f"dead-{time.time_ns()}"
    _put(stack, "Work", {"do": "raise", "mark": mark})

    letter = stack.received("DeadLetters", lambda m: mark in json.dumps(m))

    assert letter["requestPayload"]["mark"] == mark
    assert letter["responsePayload"]["errorType"] == "DocumentedError"
    assert letter["requestContext"]["condition"] == "RetriesExhausted"


def test_an_event_for_no_function_is_a_dead_letter(stack: Stack) -> None:
    mark = f"lost-{time.time_ns()}"
    _put(stack, "Lost", {"mark": mark})

    letter = stack.received("DeadLetters", lambda m: mark in json.dumps(m))

    assert letter["detail"] == {"mark": mark}


def test_a_failed_execution_is_an_event(stack: Stack) -> None:
    done = stack.execute({"route": "nowhere"})

    event = stack.received(
        "Heard", lambda e: e.get("detail", {}).get("executionArn") == done["executionArn"]
    )

    assert event["detail-type"] == "Step Functions Execution Status Change"
    assert event["detail"]["status"] == "FAILED"
    assert event["detail"]["error"] == "UnknownRoute"
    assert json.loads(event["detail"]["input"]) == {"route": "nowhere"}


def _key_of(event: dict[str, dict[str, dict[str, str]]]) -> str:
    return event.get("detail", {}).get("object", {}).get("key", "")


def _put(stack: Stack, kind: str, detail: dict[str, object]) -> None:
    answer = stack.client("events").put_events(
        Entries=[{"Source": "conformance", "DetailType": kind, "Detail": json.dumps(detail)}]
    )
    assert answer["FailedEntryCount"] == 0
