"""Functions on LocalStack beyond what the conformance tests ask: layers, code, queues."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.e2e.conformance.conftest import Stack
from tests.until import until

ROLE = "arn:aws:iam::000000000000:role/none"


def _archive(source: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("app.py", source)
    return stream.getvalue()


@pytest.fixture
def function(stack: Stack) -> Iterator[str]:
    """A function of its own, which answers ``one``."""
    name = f"own-{time.time_ns()}"
    stack.client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.13",
        Handler="app.handler",
        Role=ROLE,
        Code={"ZipFile": _archive("def handler(event, context): return 'one'\n")},
    )
    stack.client("lambda").get_waiter("function_active_v2").wait(
        FunctionName=name, WaiterConfig={"Delay": 1}
    )
    yield name
    stack.client("lambda").delete_function(FunctionName=name)


def _invoke(stack: Stack, name: str, **more: Any) -> Any:
    answer = stack.client("lambda").invoke(FunctionName=name, **more)
    return json.loads(answer["Payload"].read())


def test_new_code_reaches_the_next_invocation(stack: Stack, function: str) -> None:
    assert _invoke(stack, function) == "one"

    stack.client("lambda").update_function_code(
        FunctionName=function, ZipFile=_archive("def handler(event, context): return 'two'\n")
    )
    stack.client("lambda").get_waiter("function_updated_v2").wait(
        FunctionName=function, WaiterConfig={"Delay": 1}
    )

    assert _invoke(stack, function) == "two"


def test_a_published_version_keeps_its_code(stack: Stack, function: str) -> None:
    functions = stack.client("lambda")
    version = functions.publish_version(FunctionName=function)["Version"]
    functions.update_function_code(
        FunctionName=function, ZipFile=_archive("def handler(event, context): return 'two'\n")
    )
    functions.get_waiter("function_updated_v2").wait(
        FunctionName=function, WaiterConfig={"Delay": 1}
    )

    assert _invoke(stack, function, Qualifier=version) == "one"
    assert _invoke(stack, function) == "two"


def test_the_log_of_an_invocation_can_be_had_with_its_reply(stack: Stack, function: str) -> None:
    answer = stack.client("lambda").invoke(FunctionName=function, LogType="Tail")

    assert answer["LogResult"]


def test_messages_of_a_queue_arrive_in_batches(stack: Stack) -> None:
    sqs, functions = stack.client("sqs"), stack.client("lambda")
    queue = sqs.create_queue(QueueName=f"work-{time.time_ns()}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    mapping = functions.create_event_source_mapping(
        FunctionName=stack.outputs["Quiet"],
        EventSourceArn=arn["Attributes"]["QueueArn"],
        BatchSize=5,
    )["UUID"]
    mark = f"message-{time.time_ns()}"
    try:
        sqs.send_message(QueueUrl=queue, MessageBody=mark)

        def taken() -> bool:
            found = sqs.get_queue_attributes(
                QueueUrl=queue,
                AttributeNames=[
                    "ApproximateNumberOfMessages",
                    "ApproximateNumberOfMessagesNotVisible",
                ],
            )["Attributes"]
            return set(found.values()) == {"0"}

        until(taken, seconds=30)
    finally:
        functions.delete_event_source_mapping(UUID=mapping)
        sqs.delete_queue(QueueUrl=queue)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"Runtime": "nodejs22.x"}, "functions are Python zips"), ({"Layers": ["l"]}, "has layers")],
    ids=["another language", "a layer"],
)
def test_a_function_that_only_docker_could_run_is_refused(
    stack: Stack, changes: dict[str, Any], told: str
) -> None:
    functions = stack.client("lambda")
    name = f"unsupported-{time.time_ns()}"
    if "Layers" in changes:
        layer = functions.publish_layer_version(
            LayerName="more", Content={"ZipFile": _archive("x = 1")}
        )
        changes = {"Layers": [layer["LayerVersionArn"]]}
    functions.create_function(
        **{"FunctionName": name, "Runtime": "python3.13", "Handler": "app.handler"}
        | {"Role": ROLE, "Code": {"ZipFile": _archive("def handler(e, c): return 1\n")}}
        | changes
    )

    def refused() -> str | None:
        found = functions.get_function_configuration(FunctionName=name)
        return str(found["StateReason"]) if found["State"] == "Failed" else None

    assert told in until(refused)
    with pytest.raises(ClientError):
        functions.invoke(FunctionName=name)
