"""The rendered state machines on moto's Step Functions interpreter, with Python behind its Tasks.

moto runs the states; what it does not wire is wired here: an invocation of a Lambda function becomes
a call of a Python handler in this process, one at a time (moto's transactions break under threads,
and Powertools' singletons belong to one invocation). A handler's exception becomes a function error
by its class's name, as Lambda reports it. Four names of moto are replaced, because it offers no
seam: its Lambda backend's ``invoke``; what its retries and its Wait states wait by, so that no test
waits; and the
making of a new client for every invocation, which took half of a test's time.

Not evidence for IAM: moto checks no role.
"""

import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import boto3
from botocore.config import Config
from moto import mock_aws
from moto.awslambda.models import LambdaBackend
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.wait_function import (
    WaitFunction,
)

from tests.infra.deployment import MACHINE, machine_definition

REGION = "us-east-1"
ACCOUNT = "123456789012"
MACHINE_ARN = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:millrace-training"
BATCH_ARN = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:millrace-batch"
ROLLOUT_ARN = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:millrace-rollout"
ENDED_WITHIN_SECONDS = 60

type Event = dict[str, Any]
type Handler = Callable[[Event, Any], Any]


class LambdaFault(Exception):  # noqa: N818  # what Lambda reports, not an error of ours
    """A failure of Lambda itself, such as a throttle, by the name Step Functions sees."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of a function.

    Attributes:
        function: ``ingest``, ``train``, ….
        event: What it was given.
        error: Name of the error it ended with, empty if it answered.
    """

    function: str
    event: Event
    error: str = ""

    @property
    def action(self) -> str:
        """The task's action, or the function's name where there is only one."""
        return str(self.event.get("action", self.function))


@dataclass(slots=True)
class _Fault:
    action: str
    error: Exception
    left: int
    when: Callable[[Event], bool]


@dataclass(frozen=True, slots=True)
class Ended:
    """How an execution ended."""

    status: str
    error: str
    cause: str
    output: dict[str, Any]
    states: tuple[str, ...]
    """Names in the order they were entered; a Map's states once per item."""


@dataclass(slots=True)
class Context:
    """The Lambda context a handler sees."""

    function_name: str
    timeout_seconds: float
    aws_request_id: str
    memory_limit_in_mb: int = 1024
    log_stream_name: str = "stream"
    started: float = field(default_factory=time.monotonic)

    @property
    def invoked_function_arn(self) -> str:
        """The function's ARN."""
        return function_arn(self.function_name.removeprefix("millrace-"))

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function's timeout."""
        return int((self.timeout_seconds - (time.monotonic() - self.started)) * 1000)


def function_arn(name: str) -> str:
    """ARN of ``ingest``, ``train``, …."""
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:millrace-{name}"


class Dispatcher:
    """Calls handlers for invocations and keeps account of them.

    Args:
        handlers: Function to handler; may be filled after construction.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.handlers = dict(handlers)
        self.invocations: list[Invocation] = []
        self.waits: list[float] = []
        self._faults: list[_Fault] = []
        self._beforehand: dict[str, Callable[[], object]] = {}
        self._lock = threading.RLock()
        self._open = True

    def fail(
        self,
        action: str,
        error: Exception,
        *,
        times: int = 1,
        when: Callable[[Event], bool] = lambda _: True,
    ) -> None:
        """Makes the next invocations of an action fail before its handler is called."""
        self._faults.append(_Fault(action, error, times, when))

    def before(self, action: str, happens: Callable[[], object]) -> None:
        """Lets something happen right before the next invocation of an action."""
        self._beforehand[action] = happens

    def actions(self) -> list[str]:
        """The actions that were called, in order."""
        return [i.action for i in self.invocations]

    def invoke(self, function: str, event: Event) -> tuple[Any, str]:
        """Calls a handler.

        Returns:
            What Lambda would answer, and the function error (empty if it answered).
        """
        with self._lock:
            if not self._open:
                return {"errorType": "Gone", "errorMessage": "the test has ended"}, "Unhandled"
            invocation = Invocation(function, event)
            happens = self._beforehand.pop(invocation.action, None)
            if happens is not None:
                happens()
            try:
                self._raise_fault(invocation)
                context = Context(f"millrace-{function}", 900, f"request-{len(self.invocations)}")
                answer = json.loads(json.dumps(self.handlers[function](event, context)))
            except Exception as exc:  # noqa: BLE001  # Lambda's boundary: everything is reported by name
                name = exc.name if isinstance(exc, LambdaFault) else type(exc).__name__
                self.invocations.append(Invocation(function, event, name))
                return {
                    "errorType": name,
                    "errorMessage": str(exc),
                    "stackTrace": traceback.format_tb(exc.__traceback__),
                }, "Unhandled"
            self.invocations.append(invocation)
            return answer, ""

    def _raise_fault(self, invocation: Invocation) -> None:
        for fault in self._faults:
            if fault.left and fault.action == invocation.action and fault.when(invocation.event):
                fault.left -= 1
                raise fault.error

    @contextmanager
    def wired(self) -> Iterator[None]:
        """Puts the dispatcher behind moto's Lambda and takes the waiting out of retries.

        At the end a handler that runs is waited for, and no other is called: an aborted execution
        goes on in moto's thread, and would log and set the environment in the middle of other tests.
        """

        def invoke(
            _: LambdaBackend,
            function_name: str,
            qualifier: str | None,
            body: bytes | str,
            headers: Any,
            response_headers: dict[str, str],
        ) -> bytes:
            # A name, or an ARN that may end in a qualifier.
            name = function_name.split(":function:")[-1].split(":")[0]
            function = name.removeprefix("millrace-")
            answer, error = self.invoke(function, json.loads(body))
            if error:
                response_headers["x-amz-function-error"] = error
            return json.dumps(answer).encode()

        lambda_client = boto3.client(
            "lambda", region_name=REGION, config=Config(parameter_validation=False)
        )

        def waited(_: WaitFunction, env: Any, wait_seconds: int) -> None:  # moto's signature
            self.waits.append(wait_seconds)

        no_waiting = SimpleNamespace(sleep=self.waits.append)
        with (
            patch.object(lambda_eval_utils, "boto_client_for", lambda **_: lambda_client),
            patch.object(LambdaBackend, "invoke", invoke),
            patch.object(retrier_decl, "time", no_waiting),
            patch.object(WaitFunction, "_wait_interval", waited),
        ):
            try:
                yield
            finally:
                with self._lock:
                    self._open = False


class Machine:
    """A deployed machine: started by name, watched until it ends.

    Args:
        path: Its definition.
    """

    def __init__(self, path: Path = MACHINE) -> None:
        self._client = boto3.client("stepfunctions", region_name=REGION)
        functions = ("Ingest", "Train", "Evaluate", "Batch", "Score", "Registry", "Rollout")
        definition = machine_definition(
            {f"{name}FunctionArn": function_arn(name.lower()) for name in functions}, path
        )
        created = self._client.create_state_machine(
            name=f"millrace-{path.name.partition('.')[0]}",
            definition=json.dumps(definition),
            roleArn=f"arn:aws:iam::{ACCOUNT}:role/training",
        )
        self.arn = created["stateMachineArn"]

    def run(self, payload: Mapping[str, Any]) -> Ended:
        """Starts an execution and waits for its end."""
        started = self._client.start_execution(
            stateMachineArn=self.arn, name=str(payload["run_id"]), input=json.dumps(payload)
        )
        return self.ended(started["executionArn"])

    def abort(self, execution_arn: str) -> None:
        """Stops an execution from outside, as a person would in the console."""
        self._client.stop_execution(executionArn=execution_arn, error="", cause="by hand")

    def executions(self) -> list[str]:
        """Names of all executions."""
        found = self._client.list_executions(stateMachineArn=self.arn)["executions"]
        return [execution["name"] for execution in found]

    def ended(self, execution_arn: str) -> Ended:
        """Waits until an execution has ended."""
        deadline = time.monotonic() + ENDED_WITHIN_SECONDS
        while True:
            described = self._client.describe_execution(executionArn=execution_arn)
            if described["status"] != "RUNNING":
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{execution_arn} still runs after {ENDED_WITHIN_SECONDS} s")
            threading.Event().wait(0.005)
        history = self._client.get_execution_history(executionArn=execution_arn, maxResults=1000)
        return Ended(
            status=described["status"],
            error=described.get("error", ""),
            cause=described.get("cause", ""),
            output=json.loads(described.get("output") or "{}"),
            states=tuple(
                e["stateEnteredEventDetails"]["name"]
                for e in history["events"]
                if "stateEnteredEventDetails" in e
            ),
        )


@contextmanager
def emulated() -> Iterator[None]:
    """moto, with state machines that run."""
    with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        yield
