"""The whole deployment in one process: real handlers, moto's services, the real machine.

Tables, buckets, rules and each function's environment are taken from the template, so that what is
wired here is what will be deployed.
"""

import importlib.util
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import boto3
import pytest
from moto.events.models import EventPattern

from millrace import layout
from millrace.aws.clients import forget_clients
from millrace.registry.registry import Registry, open_registry
from millrace.spec import ModelSpec
from tests.access.needs import Place
from tests.access.stack import Stack
from tests.fakes.cloud import wire_endpoint
from tests.infra.deployment import BATCH_MACHINE, FUNCTIONS, ROLLOUT_MACHINE, ROOT, Resolver
from tests.integration.pipeline.machine import (
    ACCOUNT,
    BATCH_ARN,
    ENDED_WITHIN_SECONDS,
    MACHINE_ARN,
    REGION,
    ROLLOUT_ARN,
    Dispatcher,
    Ended,
    Event,
    Machine,
    emulated,
)

DATA_BUCKET = "millrace-data"
ARTIFACT_BUCKET = "millrace-artifacts"
TABLE = "millrace-registry"
TOPIC_ARN = f"arn:aws:sns:{REGION}:{ACCOUNT}:millrace-notices"

ROLLOUT_BY_NAME = (
    "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}"
    ":stateMachine:${AWS::StackName}-rollout"
)
"""As the rollout function is told of the machine that refers to it."""

_PHYSICAL = {
    "${DataBucket}": DATA_BUCKET,
    "${ArtifactBucket}": ARTIFACT_BUCKET,
    "${RegistryTable}": TABLE,
    "${NotificationTopic}": TOPIC_ARN,
    "${TrainingStateMachine}": MACHINE_ARN,
    "${BatchStateMachine}": BATCH_ARN,
    "${RolloutStateMachine}": ROLLOUT_ARN,
    "${AWS::StackName}-batch": "millrace-batch",
    ROLLOUT_BY_NAME: ROLLOUT_ARN,
    **{f"${{{name}Function}}": f"millrace-{name.lower()}" for name in FUNCTIONS},
}


_PARAMETERS = {"RefreshSeconds": "1"}


@cache
def _deployed() -> dict[str, dict[str, Any]]:
    return Resolver(**_PARAMETERS).resources()


@cache
def stack() -> Stack:
    """The deployment as its policies see it."""
    named = {f"${{{name}}}": f"millrace-{name}" for name in _deployed()} | _PHYSICAL
    return Stack(
        place=Place(ACCOUNT, REGION),
        name="millrace",
        parameters=_PARAMETERS,
        physical={reference[2:-1]: physical for reference, physical in named.items()},
    )


def environment(function: str) -> dict[str, str]:
    """The environment the template gives a function, with the names used here."""
    variables = _deployed()[f"{function.capitalize()}Function"]["Properties"]["Environment"]
    return {name: _PHYSICAL.get(value, value) for name, value in variables["Variables"].items()}


def _load(function: str) -> ModuleType:
    """A handler's module, new, so that no cached client or model outlives a test."""
    path = ROOT / "functions" / function / "handler.py"
    found = importlib.util.spec_from_file_location(f"function_{function}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class Twin:
    """Upload, wait, ask: what a user does, without a cloud."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.functions = dispatcher
        self._s3 = boto3.client("s3", region_name=REGION)
        self._make_resources()
        self.machine = Machine()
        self.batch_machine = Machine(BATCH_MACHINE)
        self.rollout_machine = Machine(ROLLOUT_MACHINE)
        self._events = 0
        deployed = [name for name in FUNCTIONS if f"{name}Function" in _deployed()]
        self.modules = {name.lower(): _load(name.lower()) for name in deployed}
        dispatcher.handlers |= {n: self._with_environment(n, m) for n, m in self.modules.items()}

    @property
    def registry(self) -> Registry:
        """The registry, read beside the functions."""
        return open_registry(boto3.client("dynamodb", region_name=REGION), TABLE)

    # ── What a user does ────────────────────────────────────────────────────────────────────────

    def apply(self, spec: ModelSpec) -> None:
        """Applies a spec over the API."""
        answer = self.api("PUT", f"/v1/specs/{spec.name}", json.loads(spec.to_json()))
        assert answer["statusCode"] in (200, 201), answer["body"]

    def upload(
        self, model: str, filename: str, body: bytes, *, folder: str = layout.INCOMING
    ) -> Event:
        """Puts a file under ``incoming/``, or ``batch/``, and gives the event S3 would send."""
        key = f"{folder}{model}/{filename}"
        put = self._s3.put_object(Bucket=DATA_BUCKET, Key=key, Body=body)
        self._events += 1
        event = {
            "version": "0",
            "id": f"00000000-0000-4000-8000-{self._events:012d}",
            "detail-type": "Object Created",
            "source": "aws.s3",
            "account": ACCOUNT,
            "time": "2026-11-01T12:00:00Z",
            "region": REGION,
            "resources": [f"arn:aws:s3:::{DATA_BUCKET}"],
            "detail": {
                "version": "0",
                "bucket": {"name": DATA_BUCKET},
                "object": {
                    "key": key,
                    "size": len(body),
                    "etag": put["ETag"].strip('"'),
                    "version-id": put["VersionId"],
                    "sequencer": f"{self._events:018X}",
                },
                "request-id": "REQUEST",
                "requester": ACCOUNT,
                "source-ip-address": "192.0.2.1",
                "reason": "PutObject",
            },
        }
        assert self.rule_matches("UploadRule", event)
        return event

    def deliver(self, function: str, event: Event) -> Any:
        """Invokes a function with an event; raises what it reports as an error."""
        answer, error = self.functions.invoke(function, event)
        if error:
            raise AssertionError(f"{function} failed with {answer['errorType']}: {answer}")
        return answer

    def train(self, model: str, filename: str, body: bytes) -> Ended:
        """Uploads a file, delivers its event and waits for the training to end."""
        admitted = self.deliver("trigger", self.upload(model, filename, body))
        assert admitted["started"], admitted
        return self.follow(admitted["run_id"])

    def train_until_asked(self, model: str, filename: str, body: bytes) -> str:
        """Uploads a file and waits until its version waits for a person; gives the run."""
        admitted = self.deliver("trigger", self.upload(model, filename, body))
        run_id = str(admitted["run_id"])
        deadline = time.monotonic() + ENDED_WITHIN_SECONDS
        while not (run := self.registry.get_run(run_id)).awaiting_approval:
            assert run.outcome is None, run
            assert time.monotonic() < deadline, run
            threading.Event().wait(0.02)
        return run_id

    def follow(self, run_id: str) -> Ended:
        """Waits for a training to end; a bad end is told to the registry as the rule does."""
        arn = MACHINE_ARN.replace(":stateMachine:", ":execution:") + f":{run_id}"
        ended = self.machine.ended(arn)
        if ended.status != "SUCCEEDED":
            self.deliver("registry", self.execution_event(run_id, ended))
        return ended

    def execution_event(self, run_id: str, ended: Ended) -> Event:
        """The event of an execution that ended badly."""
        event = {
            "version": "0",
            "id": f"execution-{run_id}",
            "detail-type": "Step Functions Execution Status Change",
            "source": "aws.states",
            "account": ACCOUNT,
            "time": "2026-11-01T12:00:00Z",
            "region": REGION,
            "resources": [],
            "detail": {
                "executionArn": MACHINE_ARN.replace("stateMachine", "execution") + f":{run_id}",
                "stateMachineArn": MACHINE_ARN,
                "name": run_id,
                "status": ended.status,
                "error": ended.error,
                "cause": ended.cause,
                "startDate": 1793534400000,
                "stopDate": 1793534460000,
            },
        }
        assert self.rule_matches("ExecutionFailureRule", event)
        return event

    def api(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Calls the API through the function that the route reaches."""
        function = "predict" if path.endswith("/predict") else "api"
        answer: dict[str, Any] = self.deliver(
            function,
            {
                "resource": path,
                "path": path,
                "httpMethod": method,
                "headers": {"Content-Type": "application/json", "Host": "api.example.org"},
                "multiValueHeaders": {
                    "Content-Type": ["application/json"],
                    "Host": ["api.example.org"],
                },
                "queryStringParameters": None,
                "multiValueQueryStringParameters": None,
                "pathParameters": None,
                "stageVariables": None,
                "requestContext": {
                    "requestId": f"request-{len(self.functions.invocations)}",
                    "stage": "live",
                    "path": f"/live{path}",
                    "httpMethod": method,
                    "identity": {"sourceIp": "192.0.2.1"},
                },
                "body": None if body is None else json.dumps(body),
                "isBase64Encoded": False,
            },
        )
        return answer

    def ask(self, model: str, rows: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        """A prediction: status and body."""
        answer = self.api("POST", f"/v1/models/{model}/predict", {"rows": rows})
        return answer["statusCode"], json.loads(answer["body"])

    # ── Wiring ──────────────────────────────────────────────────────────────────────────────────

    def rule_matches(self, rule: str, event: Event) -> bool:
        """Whether the template's rule lets the event pass."""
        pattern = json.loads(
            json.dumps(_deployed()[rule]["Properties"]["EventPattern"])
            .replace("${DataBucket}", DATA_BUCKET)
            .replace("${TrainingStateMachine}", MACHINE_ARN)
            .replace("${BatchStateMachine}", BATCH_ARN)
            .replace("${RolloutStateMachine}", ROLLOUT_ARN)
        )
        matcher: Any = EventPattern.load(json.dumps(pattern))
        return bool(matcher.matches_event(event))

    def _make_resources(self) -> None:
        for bucket in (DATA_BUCKET, ARTIFACT_BUCKET):
            self._s3.create_bucket(Bucket=bucket)
            self._s3.put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )
        table = _deployed()["RegistryTable"]["Properties"]
        boto3.client("dynamodb", region_name=REGION).create_table(
            TableName=TABLE,
            **{
                name: table[name]
                for name in (
                    "AttributeDefinitions",
                    "BillingMode",
                    "GlobalSecondaryIndexes",
                    "KeySchema",
                )
            },
        )
        boto3.client("sns", region_name=REGION).create_topic(Name=TOPIC_ARN.rsplit(":", 1)[1])

    def _with_environment(self, function: str, module: ModuleType) -> Any:
        variables = environment(function)

        def handler(event: Event, context: Any) -> Any:
            with pytest.MonkeyPatch.context() as patched:
                for name, value in variables.items():
                    patched.setenv(name, value)
                patched.setenv("POWERTOOLS_TRACE_DISABLED", "true")
                # What calls AWS without boto3 (`aws.wire`) finds the same resources over HTTP.
                for service in ("DYNAMODB", "S3"):
                    patched.setenv(f"AWS_ENDPOINT_URL_{service}", wire_endpoint())
                patched.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
                return module.handler(event, context)

        return handler


@contextmanager
def twin() -> Iterator[Twin]:
    """A fresh deployment."""
    dispatcher = Dispatcher({})
    with emulated(), dispatcher.wired():
        forget_clients()
        try:
            yield Twin(dispatcher)
        finally:
            forget_clients()
