"""Gap ``lines``: a log subscription is sent the lines that fit its pattern, in AWS's envelope."""

import json
import time
from typing import Any

from tests.e2e.conformance.conftest import STACK, Stack
from tests.until import until


def heard(stack: Stack, mark: str) -> dict[str, Any] | None:
    """The delivery that brought a line, once there is one."""
    item = stack.client("dynamodb").get_item(
        TableName=stack.outputs["Table"], Key={"PK": {"S": mark}, "SK": {"S": "heard"}}
    )
    if "Item" not in item:
        return None
    delivery: dict[str, Any] = json.loads(item["Item"]["delivery"]["S"])
    return delivery


def say(stack: Stack, *lines: Any) -> None:
    """Has the function print lines."""
    stack.invoke({"do": "say", "lines": lines}, function="Speaking")


def test_lines_that_fit_are_delivered_in_awss_envelope(stack: Stack) -> None:
    mark = f"line-{time.time_ns()}"
    line = {"heard": {"by": 1}, "mark": mark, "text": "æ"}

    say(stack, "no JSON", {"heard": {"by": 2}, "mark": "another"}, line, {"heard": None})

    delivery = until(lambda: heard(stack, mark))
    assert delivery["messageType"] == "DATA_MESSAGE"
    assert delivery["logGroup"] == stack.outputs["SpokenLog"]
    assert delivery["logStream"]
    assert len(delivery["subscriptionFilters"]) == 1
    (event,) = delivery["logEvents"]
    assert json.loads(event["message"]) == line
    assert event["id"]
    assert abs(event["timestamp"] / 1000 - time.time()) < 60
    assert heard(stack, "another") is None


def test_a_delivery_that_fails_three_times_is_a_dead_letter(stack: Stack) -> None:
    mark = f"fail-{time.time_ns()}"

    say(stack, {"heard": {"by": 1, "fail": True}, "mark": mark})

    letter = stack.received("DeadLetters", lambda m: "awslogs" in m.get("requestPayload", {}))
    assert letter["responsePayload"]["errorType"] == "DocumentedError"
    assert heard(stack, mark) is not None


def test_lines_put_by_a_client_are_delivered_too(stack: Stack) -> None:
    mark = f"put-{time.time_ns()}"
    logs = stack.client("logs")
    group = stack.outputs["SpokenLog"]
    logs.create_log_stream(logGroupName=group, logStreamName=mark)

    logs.put_log_events(
        logGroupName=group,
        logStreamName=mark,
        logEvents=[
            {
                "timestamp": int(time.time() * 1000),
                "message": json.dumps({"heard": {"by": 1}, "mark": mark}),
            }
        ],
    )

    delivery = until(lambda: heard(stack, mark))
    assert delivery["logStream"] == mark


def test_a_saved_query_can_be_deployed(stack: Stack) -> None:
    """Gap ``queries``: nothing is kept of it, and nothing refuses it."""
    stacks = stack.client("cloudformation")

    found = stacks.describe_stack_resource(StackName=STACK, LogicalResourceId="SavedQuery")[
        "StackResourceDetail"
    ]

    assert found["ResourceStatus"] == "CREATE_COMPLETE"
