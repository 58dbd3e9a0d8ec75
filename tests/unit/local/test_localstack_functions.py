"""How LocalStack's Lambda and our executor understand each other; neither is needed to see it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from infra.local.executor import Archive, Executor, Function, Invocation, Reply
from infra.localstack.functions import (
    Functions,
    Services,
    UnsupportedFunctionError,
    runtime_executor,
)


@dataclass
class _Code:
    code_sha256: str = "digest"


@dataclass
class _Config:
    runtime: str | None = "python3.13"
    handler: str = "app.handler"
    timeout: int = 30
    memory_size: int = 256
    role: str = "arn:aws:iam::000000000000:role/r"
    internal_revision: str = "1"
    environment: dict[str, Any] | None = None
    code: _Code | None = field(default_factory=_Code)
    layers: list[str] = field(default_factory=list)


@dataclass
class _Identity:
    function_name: str = "train"
    qualifier: str = "$LATEST"
    region: str = "eu-central-1"

    def unqualified_arn(self) -> str:
        return f"arn:aws:lambda:{self.region}:000000000000:function:{self.function_name}"

    def qualified_arn(self) -> str:
        return f"{self.unqualified_arn()}:{self.qualifier}"


@dataclass
class _Version:
    id: _Identity = field(default_factory=_Identity)
    config: _Config = field(default_factory=_Config)


class _Executor:
    """Answers what it is told to, and remembers what it was given."""

    def __init__(self, reply: Reply | None) -> None:
        self.reply = reply
        self.functions: list[Function] = []
        self.events: list[Invocation] = []
        self.forgotten: list[Function] = []

    def run(self, function: Function, archive: Archive, invocation: Invocation) -> Reply | None:
        self.functions.append(function)
        self.events.append(invocation)
        return self.reply

    def warm(self, function: Function, archive: Archive) -> None:
        self.functions.append(function)

    def forget(self, function: Function) -> None:
        self.forgotten.append(function)


class _Credentials:
    """A session of a role, which is another each time."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, role: str, region: str, function: str) -> Mapping[str, str]:
        self.given += 1
        return {"AWS_ACCESS_KEY_ID": f"key-{self.given}"}


PAYLOAD = {
    "invoke-id": "request",
    "invoked-function-arn": "arn:aws:lambda:eu-central-1:000000000000:function:train",
    "payload": '{"rows": ["Zoë"]}',
    "trace-id": "Root=1",
}


def _functions(executor: _Executor) -> Functions:
    services = Services(endpoint="http://127.0.0.1:4566", credentials=_Credentials())
    return Functions(cast("Executor", executor), services)


def _result(request_id: str, body: bytes, *, is_error: bool, logs: str) -> dict[str, Any]:
    return {"id": request_id, "body": body, "error": is_error, "logs": logs}


def test_an_event_goes_to_the_executor_and_its_reply_back() -> None:
    executor = _Executor(Reply(body={"name": "Zoë"}, failed=False, log="printed"))
    made = runtime_executor(_functions(executor), _result, RuntimeError)("id", _Version())

    result = made.invoke(PAYLOAD)

    [event] = executor.events
    assert json.loads(event.payload) == {"rows": ["Zoë"]}
    assert (event.request_id, event.trace_id) == ("request", "Root=1")
    assert json.loads(result["body"]) == {"name": "Zoë"}
    assert not result["error"]
    start, printed, end, report = result["logs"].splitlines()
    assert start == "START RequestId: request Version: $LATEST"
    assert printed == "printed"
    assert end == "END RequestId: request"
    assert report.startswith("REPORT RequestId: request\tDuration: ")


def test_an_error_stays_one() -> None:
    executor = _Executor(Reply(body={"errorType": "DocumentedError"}, failed=True, log=""))
    made = runtime_executor(_functions(executor), _result, RuntimeError)("id", _Version())

    result = made.invoke(PAYLOAD)

    assert result["error"]
    assert json.loads(result["body"])["errorType"] == "DocumentedError"


def test_an_event_that_found_no_environment_is_throttled() -> None:
    made = runtime_executor(_functions(_Executor(None)), _result, LookupError)("id", _Version())

    with pytest.raises(LookupError, match="every environment of train stayed busy"):
        made.invoke(PAYLOAD)


def test_the_function_gets_its_variables_its_role_and_the_endpoint_and_no_more() -> None:
    executor = _Executor(Reply(body=None, failed=False, log=""))
    version = _Version(config=_Config(environment={"STAGE": "dev", "N": 1, "_HANDLER": "other"}))

    _functions(executor).invoke(version, PAYLOAD)

    [function] = executor.functions
    assert dict(function.environment) == {
        "AWS_ACCESS_KEY_ID": "key-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:4566",
        "N": "1",
        "STAGE": "dev",
    }
    assert (function.handler, function.timeout, function.memory) == ("app.handler", 30.0, 256)
    assert function.region == "eu-central-1"


def test_events_of_one_version_share_their_environments() -> None:
    executor = _Executor(Reply(body=None, failed=False, log=""))
    functions = _functions(executor)

    functions.invoke(_Version(), PAYLOAD)
    functions.invoke(_Version(), PAYLOAD)

    first, second = executor.functions
    assert first == second


@pytest.mark.parametrize(
    "changed",
    [_Config(internal_revision="2"), _Config(code=_Code("other"))],
    ids=["a setting", "code"],
)
def test_what_is_deployed_anew_gets_environments_of_its_own(changed: _Config) -> None:
    executor = _Executor(Reply(body=None, failed=False, log=""))
    functions = _functions(executor)

    functions.invoke(_Version(), PAYLOAD)
    functions.invoke(_Version(config=changed), PAYLOAD)

    first, second = executor.functions
    assert first != second


def test_a_version_that_is_gone_is_forgotten_once() -> None:
    executor = _Executor(Reply(body=None, failed=False, log=""))
    functions = _functions(executor)
    functions.invoke(_Version(), PAYLOAD)

    functions.forget(_Version())
    functions.forget(_Version())

    assert executor.forgotten == executor.functions


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (_Config(runtime="nodejs22.x"), "train runs on nodejs22.x"),
        (_Config(runtime=None, code=None), "train runs on a container image"),
        (_Config(layers=["one"]), "train has layers"),
    ],
    ids=["another language", "an image", "a layer"],
)
def test_what_only_docker_could_run_is_refused_with_the_way_out(config: _Config, told: str) -> None:
    made = runtime_executor(_functions(_Executor(None)), _result, RuntimeError)

    with pytest.raises(UnsupportedFunctionError, match=f"{told}.*--runtime docker"):
        made.prepare_version(_Version(config=config))
