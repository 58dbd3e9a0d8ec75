"""Step Functions as Millrace's machines use it."""

import json
import time
from collections import Counter
from typing import Any

import pytest

from tests.e2e.conformance.conftest import Stack
from tests.until import until

pytestmark = pytest.mark.needs("state-machine")


def test_a_named_error_is_retried(stack: Stack) -> None:
    """Gap ``runtime``: Retry matches the class of the error."""
    done = stack.execute({"route": "retry", "key": f"retry-{time.time_ns()}", "times": 2})

    assert done["status"] == "SUCCEEDED"
    assert json.loads(done["output"])["flaky"] == {"calls": 3}


def test_a_named_error_is_caught_when_retries_are_used_up(stack: Stack) -> None:
    """Gap ``runtime``: Catch matches the class of the error, and its cause is Lambda's."""
    done = stack.execute({"route": "retry", "key": f"catch-{time.time_ns()}", "times": 9})

    failure = json.loads(done["output"])["failure"]
    assert failure["Error"] == "PassingError"
    assert json.loads(failure["Cause"])["errorMessage"] == "call 3"


def test_a_map_selects_its_items_and_one_failure_stays_in_its_iteration(stack: Stack) -> None:
    done = stack.execute({"route": "map", "key": "k", "numbers": [1, -2, 3]})

    assert json.loads(done["output"])["squares"] == [
        {"number": 1, "square": 1, "of": "k"},
        {"number": -2, "error": "DocumentedError"},
        {"number": 3, "square": 9, "of": "k"},
    ]


def test_the_history_names_states_entered_and_exited_inside_a_map_too(stack: Stack) -> None:
    """Gap ``history``."""
    done = stack.execute({"route": "map", "key": "k", "numbers": [1, -2, 3]})

    pages = stack.client("stepfunctions").get_paginator("get_execution_history")
    events = [
        event
        for page in pages.paginate(executionArn=done["executionArn"])
        for event in page["events"]
    ]
    entered = Counter(
        e["stateEnteredEventDetails"]["name"] for e in events if "stateEnteredEventDetails" in e
    )
    exited = Counter(
        e["stateExitedEventDetails"]["name"] for e in events if "stateExitedEventDetails" in e
    )
    assert entered == Counter(Route=1, Squares=1, Square=3, NoSquare=1, Done=1)
    assert exited == entered
    assert [e["id"] for e in events] == list(range(1, len(events) + 1))
    assert all(0 <= e["previousEventId"] < e["id"] for e in events[1:])
    iterations = Counter(e["type"] for e in events if e["type"].startswith("MapIteration"))
    assert iterations == Counter(MapIterationStarted=3, MapIterationSucceeded=3)
    assert all(e["timestamp"] for e in events)


def test_a_failed_execution_says_why(stack: Stack) -> None:
    done = stack.execute({"route": "nowhere"})

    assert (done["status"], done["error"]) == ("FAILED", "UnknownRoute")
    assert done["cause"] == "there is no such route"


@pytest.mark.parametrize(
    "payload",
    [{"route": "long"}, {"route": "map", "key": "k", "numbers": [1] * 40}],
    ids=["while it waits", "within a map"],
)
def test_a_stopped_execution_is_aborted_and_says_why(stack: Stack, payload: dict[str, Any]) -> None:
    states = stack.client("stepfunctions")
    arn = states.start_execution(
        stateMachineArn=stack.outputs["Machine"], input=json.dumps(payload)
    )["executionArn"]

    states.stop_execution(executionArn=arn, error="Operator", cause="a test")

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = states.describe_execution(executionArn=arn)
        return found if found["status"] != "RUNNING" else None

    done = until(ended)
    assert (done["status"], done["error"], done["cause"]) == ("ABORTED", "Operator", "a test")
    event = stack.received("Heard", lambda e: e.get("detail", {}).get("executionArn") == arn)
    assert event["detail"]["status"] == "ABORTED"


def test_a_name_starts_one_execution(stack: Stack) -> None:
    """Gap ``start-once``."""
    states = stack.client("stepfunctions")
    name = f"once-{time.time_ns()}"

    def start(payload: str) -> str:
        answer = states.start_execution(
            stateMachineArn=stack.outputs["Machine"], name=name, input=payload
        )
        return str(answer["executionArn"])

    first = start('{"route": "wait"}')

    assert start('{"route": "wait"}') == first
    with pytest.raises(states.exceptions.ExecutionAlreadyExists):
        start('{"route": "map"}')


def test_an_execution_can_be_stopped_as_soon_as_it_is_started(stack: Stack) -> None:
    states = stack.client("stepfunctions")
    arn = states.start_execution(
        stateMachineArn=stack.outputs["Machine"], input='{"route": "long"}'
    )["executionArn"]

    states.get_execution_history(executionArn=arn)
    states.stop_execution(executionArn=arn, error="Operator", cause="a test")

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = states.describe_execution(executionArn=arn)
        return found if found["status"] != "RUNNING" else None

    done = until(ended)
    assert (done["status"], done["error"]) == ("ABORTED", "Operator")


@pytest.mark.parametrize(
    ("do", "seconds", "end"),
    [("echo", 8, "nobody answered"), ("raise", 6_000, "could not ask")],
    ids=["its time is over", "its function fails"],
)
def test_a_state_that_waits_for_its_token_does_not_wait_for_ever(
    stack: Stack, do: str, seconds: int, end: str
) -> None:
    """Gap ``callbacks``: `TimeoutSecondsPath` is read, and an error of the function ends the wait."""
    done = stack.execute({"route": "ask", "do": do, "seconds": seconds})

    assert done["status"] == "SUCCEEDED"
    assert json.loads(done["output"])["end"] == end


def test_waits_are_scaled_down(stack: Stack) -> None:
    started = time.monotonic()

    done = stack.execute({"route": "wait"})

    assert done["status"] == "SUCCEEDED"
    assert time.monotonic() - started < 4
