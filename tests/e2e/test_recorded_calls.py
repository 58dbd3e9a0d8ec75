"""Every AWS call that the functions made in this run, held against what their roles grant.

The last module: it looks at what all the others made the functions do. An emulator enforces no role;
this is how we know that AWS would let us run, and that nobody may do more than somebody needs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from millrace_cli.target import Target
from tests.access import reference
from tests.access.compare import (
    denied,
    reasons,
    unchanged_by_mutation,
    unexplained,
    unnoticed,
    used,
)
from tests.access.needs import Recording, all_needed, read
from tests.access.policies import Request
from tests.access.stack import Stack, alike, attached
from tests.e2e.conftest import JUDGED, Client
from tests.infra.deployment import statements

pytestmark = pytest.mark.needs("recorded-calls")

OTHER_PARAMETERS = {
    "KmsKeyArn": "arn:aws:kms:us-east-1:000000000000:key/11111111-2222-3333-4444-555555555555",
    "TraceMode": "Active",
}
"""What the engines' deployment goes without, and whose rights are judged all the same."""


@dataclass(frozen=True)
class Seen:
    """What happened on the deployment in this run.

    Attributes:
        stack: The deployment.
        recording: What the functions asked for.
        streams: Log groups and the names of their streams.
        machines: Logical name of each state machine to its definition as deployed and the states
            that its executions entered.
    """

    stack: Stack
    recording: Recording
    streams: Mapping[str, list[str]]
    machines: Mapping[str, tuple[dict[str, Any], frozenset[str]]]

    @cached_property
    def richer(self) -> Stack:
        """The same deployment, had it been traced and given a customer key."""
        return self.stack.supposing(**OTHER_PARAMETERS)

    def requests(self, stack: Stack) -> dict[Request, list[object]]:
        """What AWS authorizes for it all, and why."""
        found: dict[Request, list[object]] = {
            request: [*calls]
            for request, calls in all_needed(self.recording.calls, stack.roles, stack.place).items()
        }
        for implied in (
            stack.logged(self.streams),
            *(
                stack.entered(name, definition, states)
                for name, (definition, states) in self.machines.items()
            ),
            stack.by_configuration(),
        ):
            for request, why in implied.items():
                found.setdefault(request, []).append(why)
        return found


@pytest.fixture(scope="module")
def seen(target: Target, client: Client, recorded: Path) -> Seen:
    """Everything of this run, once the functions are idle."""
    states = client("stepfunctions")
    machines = {
        name: _seen_of(states, target.outputs.raw[f"{name}Arn"])
        for name in ("TrainingStateMachine", "BatchStateMachine", "RolloutStateMachine")
    }
    logs = client("logs")
    groups = [
        group["logGroupName"]
        for page in logs.get_paginator("describe_log_groups").paginate()
        for group in page["logGroups"]
    ]
    streams = {
        group: [
            stream["logStreamName"]
            for page in logs.get_paginator("describe_log_streams").paginate(logGroupName=group)
            for stream in page["logStreams"]
        ]
        for group in groups
    }
    return Seen(
        stack=Stack.described(target.stack, target.cloudformation),
        recording=read(recorded),
        streams=streams,
        machines=machines,
    )


def _seen_of(states: Any, machine: str) -> tuple[dict[str, Any], frozenset[str]]:
    """A machine's definition as deployed, and the states that its executions entered."""
    entered: set[str] = set()
    for page in states.get_paginator("list_executions").paginate(stateMachineArn=machine):
        for execution in page["executions"]:
            history = states.get_paginator("get_execution_history")
            for events in history.paginate(executionArn=execution["executionArn"]):
                entered |= {
                    event["stateEnteredEventDetails"]["name"]
                    for event in events["events"]
                    if "stateEnteredEventDetails" in event
                }
    definition = states.describe_state_machine(stateMachineArn=machine)["definition"]
    return json.loads(definition), frozenset(entered)


def test_every_function_that_ran_was_recorded(seen: Seen) -> None:
    ran = {
        seen.stack.physical[name]
        for name, function in seen.stack.of("AWS::Lambda::Function").items()
        if seen.streams.get(seen.stack.put_in(function["LoggingConfig"]["LogGroup"]))
    }

    assert ran
    assert ran <= seen.recording.functions.keys()


def test_iam_holds_the_policies_that_are_judged(seen: Seen, client: Client) -> None:
    for name, role in seen.stack.of("AWS::IAM::Role").items():
        held = attached(seen.stack.physical[name], client("iam"))
        resolved = json.loads(seen.stack.put_in(json.dumps(list(statements({"Properties": role})))))

        assert held == [alike(one) for one in resolved], name


@pytest.mark.parametrize("given", ["as deployed", "with tracing and a customer key"])
def test_every_call_is_granted(seen: Seen, given: str) -> None:
    stack = seen.stack if given == "as deployed" else seen.richer

    refused = denied(seen.requests(stack), stack.policies)

    assert not refused, "AWS would refuse:\n" + "\n".join(map(str, refused))


def test_every_request_is_one_that_aws_knows(seen: Seen) -> None:
    asked = {(r.action, r.resource) for r in seen.requests(seen.richer)}

    assert [fault for action, thing in asked for fault in reference.faults(action, [thing])] == []


def test_every_grant_is_used_or_has_a_written_reason(seen: Seen, partial: str | None) -> None:
    if partial is not None:
        pytest.skip(f"only a whole run shows which grants are never used: {partial}")

    wrong = unexplained(seen.requests(seen.richer), seen.richer.policies, reasons())

    assert not wrong, "\n".join(wrong)


def test_taking_away_any_grant_that_is_used_is_noticed(
    seen: Seen, pytestconfig: pytest.Config
) -> None:
    policies, requests = seen.richer.policies, seen.requests(seen.richer)
    needed = used(requests, policies)

    missed = unnoticed(requests, policies)

    pytestconfig.stash[JUDGED] = (
        f"{sum(seen.recording.calls.values()):,} calls by {len(seen.recording.functions)} functions, "
        f"and what services do for them, come to {len(requests):,} different requests.\n"
        f"{len(needed)} of {len(policies.grants())} grants are used; "
        f"{len(needed) - len(missed)} of these were missed when they were taken away."
    )
    assert len(needed) > 20
    assert not missed, "another grant covers:\n" + "\n".join(map(str, missed))


def test_changing_any_statement_that_is_used_is_noticed(seen: Seen) -> None:
    policies, requests = seen.richer.policies, seen.requests(seen.richer)

    assert unchanged_by_mutation(requests, policies) == []
