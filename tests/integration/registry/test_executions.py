"""The state machine's adapter on Step Functions as moto interprets it."""

import json
import time
from collections.abc import Iterator

import pytest
from moto import mock_aws

from millrace.aws.clients import client
from millrace.aws.stepfunctions import StateMachine
from tests.fakes import cloud

DEFINITION = {
    "StartAt": "Begin",
    "States": {
        "Begin": {"Type": "Pass", "Next": "Search"},
        "Search": {
            "Type": "Map",
            "ItemsPath": "$.items",
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "INLINE"},
                "StartAt": "Try",
                "States": {"Try": {"Type": "Pass", "End": True}},
            },
            "ResultPath": "$.tried",
            "Next": "Broken",
        },
        "Broken": {"Type": "Fail", "Error": "Boom", "Cause": "on purpose"},
    },
}


@pytest.fixture
def machine() -> Iterator[StateMachine]:
    with mock_aws(
        config={
            "stepfunctions": {"execute_state_machine": True},
            "core": {"service_whitelist": cloud.SERVICES},
        }
    ):
        arn = client("stepfunctions").create_state_machine(
            name="m",
            definition=json.dumps(DEFINITION),
            roleArn="arn:aws:iam::123456789012:role/states",
        )["stateMachineArn"]
        yield StateMachine(client("stepfunctions"), arn)


def test_execution_starts_once_and_tells_its_steps(machine: StateMachine) -> None:
    payload = json.dumps({"items": [1, 2, 3]})

    started = machine.start("run-1", payload)
    deadline = time.monotonic() + 20
    while machine.status(started.execution_arn) == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.02)
    again = machine.start("run-1", payload)

    assert started.started is True
    assert started.execution_arn == machine.execution_arn("run-1")
    assert (again.execution_arn, again.started) == (started.execution_arn, False)
    assert machine.status(started.execution_arn) == "FAILED"
    steps = machine.steps(started.execution_arn)
    assert [(s.name, s.status, s.count, s.done) for s in steps] == [
        ("Begin", "succeeded", 1, 1),
        ("Search", "succeeded", 1, 1),
        ("Try", "succeeded", 3, 3),
        ("Broken", "failed", 1, 0),
    ]
    assert all(s.ended_at is not None for s in steps)


def test_execution_that_never_was_has_no_steps(machine: StateMachine) -> None:
    unknown = machine.execution_arn("nothing")

    assert machine.status(unknown) is None
    assert machine.steps(unknown) == ()
