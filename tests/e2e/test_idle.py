"""Nothing runs while nothing flows: the deployed stack, left alone and watched."""

import time
from collections.abc import Iterator

import pytest

from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Client, Until
from tests.e2e.measured import total
from tests.until import until

# Disposable: nobody else uses the stack meanwhile.
pytestmark = pytest.mark.needs("deployment", "service-metrics", "logs", "rest-api", "disposable")

WATCHED = 20.0
"""Seconds that the stack is watched; alarms are evaluated and pollers would poll several times."""
STILL = 3.0
"""Seconds without a change after which what earlier tests began is over."""

type Activity = dict[str, float]


@pytest.fixture(scope="module")
def quiet(client: Client, target: Target) -> Activity:
    """What the stack has done so far, once what earlier tests began is over."""
    seen: list[tuple[float, Activity]] = []

    def still() -> Activity | None:
        now = _activity(client, target)
        if not seen or seen[0][1] != now:
            seen[:] = [(time.monotonic(), now)]
        return now if time.monotonic() - seen[0][0] >= STILL else None

    return until(still, seconds=90, pause=0.5)


def test_a_stack_that_is_left_alone_does_nothing(
    client: Client, target: Target, quiet: Activity
) -> None:
    began = int(time.time() * 1000)
    end = time.monotonic() + WATCHED

    while time.monotonic() < end:
        assert _activity(client, target) == quiet
        time.sleep(1)

    assert quiet["running executions"] == 0
    assert list(_logged(client, target, began)) == []


def test_one_request_is_seen_by_the_same_watch(
    client: Client, target: Target, api: ApiClient, quiet: Activity, patiently: Until
) -> None:
    """So that the test above cannot pass for want of eyes."""
    began = int(time.time() * 1000)

    api.get("/v1/health")

    patiently(lambda: _activity(client, target) != quiet)
    changed = {
        name for name, value in _activity(client, target).items() if value > quiet.get(name, 0)
    }
    assert changed == {"invocations of Api", "requests to the API"}
    assert patiently(lambda: list(_logged(client, target, began)))


def _activity(client: Client, target: Target) -> Activity:
    """Everything the stack has done or holds that would be paid by use."""
    outputs = target.outputs.raw
    functions = {
        name.removesuffix("FunctionName"): function
        for name, function in outputs.items()
        if name.endswith("FunctionName")
    }
    machine = {"stateMachineArn": outputs["TrainingStateMachineArn"]}
    executions = [
        execution["status"]
        for page in client("stepfunctions").get_paginator("list_executions").paginate(**machine)
        for execution in page["executions"]
    ]
    letters = client("sqs").get_queue_attributes(
        QueueUrl=outputs["DeadLetterQueueUrl"],
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    return {
        **{
            f"invocations of {name}": total(
                client, "AWS/Lambda", "Invocations", {"FunctionName": function}
            )
            for name, function in functions.items()
        },
        "requests to the API": total(
            client, "AWS/ApiGateway", "Count", {"ApiName": target.stack, "Stage": "live"}
        ),
        "executions": len(executions),
        "running executions": executions.count("RUNNING"),
        "dead letters": sum(int(count) for count in letters.values()),
        "objects": sum(
            len(page.get("Versions", ()))
            for bucket in (target.outputs.data_bucket, target.outputs.artifact_bucket)
            for page in client("s3").get_paginator("list_object_versions").paginate(Bucket=bucket)
        ),
        "items": sum(
            page["Count"]
            for page in client("dynamodb")
            .get_paginator("scan")
            .paginate(TableName=outputs["TableName"], Select="COUNT")
        ),
    }


def _logged(client: Client, target: Target, since: int) -> Iterator[str]:
    """What any part of the stack has logged since a moment in milliseconds."""
    logs = client("logs")
    for page in logs.get_paginator("describe_log_groups").paginate():
        for group in page["logGroups"]:
            name = group["logGroupName"]
            if f"/{target.stack}-" in name or f"/{target.stack}/" in name:
                found = logs.filter_log_events(logGroupName=name, startTime=since)
                yield from (event["message"] for event in found["events"])
