"""One training and one prediction through the built artifacts, each alone in its own process.

A trimmed tree that imports may still miss what a fit, a conversion or a report needs. Here every
function does its real work, with moto's server in the place of AWS and this module in the place
of Step Functions.
"""

import csv
import io
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from tests.fakes.issuer import AUDIENCE, issuer, new_key
from tests.infra.isolated import Artifacts, HandlerError, IsolatedFunction

MODEL = "toll"
TABLE = "registry"
DATA = "data-bucket"
STORE = "artifact-bucket"

SPEC = {
    "name": MODEL,
    "task": "binary",
    "data": {
        "columns": [
            {"name": "age", "type": "integer", "min": 0, "max": 120},
            {"name": "income", "type": "number"},
            {"name": "region", "type": "string"},
            {"name": "member", "type": "boolean"},
            {"name": "left", "type": "boolean", "role": "target"},
        ]
    },
    "train": {"trials": 3, "folds": 2},
    "evaluate": {"bootstrap": 50},
}


def table_of_people(rows: int) -> bytes:
    """A CSV with a learnable target, missing cells and one bad row."""
    chance = random.Random(7)  # made-up data
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["age", "income", "region", "member", "left"])
    for number in range(rows):
        age = chance.randint(18, 90)
        income = "" if number % 17 == 0 else f"{chance.gauss(40_000, 9_000):.2f}"
        region = chance.choice(["north", "south", "east", ""])
        member = chance.random() < 0.5
        left = chance.random() < (0.85 if age > 54 else 0.15)
        writer.writerow(["old" if number == 5 else age, income, region, member, left])
    return text.getvalue().encode()


def gateway_event(method: str, path: str, body: Any = None) -> dict[str, Any]:
    """What API Gateway's REST API sends."""
    return {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": {"content-type": "application/json", "host": "api.example.com"},
        "multiValueHeaders": {
            "content-type": ["application/json"],
            "host": ["api.example.com"],
        },
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api",
            "httpMethod": method,
            "identity": {"sourceIp": "127.0.0.1", "userArn": "arn:aws:iam::123456789012:user/ada"},
            "path": path,
            "protocol": "HTTP/1.1",
            "requestId": "6f4c9d0e-0000-4000-8000-000000000001",
            "requestTimeEpoch": 1_700_000_000_000,
            "resourcePath": path,
            "stage": "live",
        },
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


class Stack:
    """The deployment: resources on moto, functions in processes."""

    def __init__(self, endpoint: str, artifacts: Artifacts, folder: Path, exits: ExitStack) -> None:
        self._endpoint = endpoint
        self._artifacts = artifacts
        self._folder = folder
        self._exits = exits
        self._running: dict[str, IsolatedFunction] = {}
        self.s3 = self._client("s3")
        self.steps = self._client("stepfunctions")
        self.s3.create_bucket(Bucket=DATA)
        self.s3.create_bucket(Bucket=STORE)
        self.s3.put_bucket_versioning(Bucket=DATA, VersioningConfiguration={"Status": "Enabled"})
        self._client("dynamodb").create_table(
            TableName=TABLE,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": "S"}
                for name in ("PK", "SK", "GSI1PK", "GSI1SK")
            ],
            KeySchema=[
                {"AttributeName": "PK", "KeyType": "HASH"},
                {"AttributeName": "SK", "KeyType": "RANGE"},
            ],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "GSI1",
                    "KeySchema": [
                        {"AttributeName": "GSI1PK", "KeyType": "HASH"},
                        {"AttributeName": "GSI1SK", "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "ALL"},
                }
            ],
        )
        self.topic = self._client("sns").create_topic(Name="notices")["TopicArn"]
        self.machine = self.steps.create_state_machine(
            name="training",
            definition=json.dumps({"StartAt": "Wait", "States": {"Wait": {"Type": "Succeed"}}}),
            roleArn="arn:aws:iam::123456789012:role/training",
        )["stateMachineArn"]

    def _client(self, service: Any) -> Any:
        return boto3.client(
            service,
            endpoint_url=self._endpoint,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}),
        )

    def call(self, function: str, event: dict[str, Any]) -> Any:
        """Invokes a function, starting its process at the first call."""
        if function not in self._running:
            self._running[function] = self._exits.enter_context(
                IsolatedFunction(
                    self._artifacts[function],
                    self._folder / f"{function}.log",
                    AWS_ENDPOINT_URL=self._endpoint,
                    AWS_LAMBDA_FUNCTION_NAME=f"millrace-{function}",
                    POWERTOOLS_SERVICE_NAME=function,
                    POWERTOOLS_METRICS_NAMESPACE="Millrace",
                    POWERTOOLS_TRACE_DISABLED="true",
                    MILLRACE_TABLE_NAME=TABLE,
                    MILLRACE_DATA_BUCKET=DATA,
                    MILLRACE_ARTIFACT_BUCKET=STORE,
                    MILLRACE_STATE_MACHINE_ARN=self.machine,
                    MILLRACE_BATCH_MACHINE_ARN=self.machine,
                    MILLRACE_BATCH_MACHINE="batch",
                    MILLRACE_TOPIC_ARN=self.topic,
                    MILLRACE_TRIGGER_FUNCTION="trigger",
                    MILLRACE_ROLLOUT_FUNCTION="rollout",
                    MILLRACE_REFRESH_SECONDS="0",
                    MILLRACE_CODE_VERSION="test",
                    MILLRACE_STAGE="dev",
                )
            )
        return self._running[function].invoke(event)

    def packages(self, function: str) -> frozenset[str]:
        """What the function's process had imported when it answered last."""
        return self._running[function].packages

    def request(self, function: str, method: str, path: str, body: Any = None) -> Any:
        """Sends one HTTP request to a function; the answer's body."""
        answer = self.call(function, gateway_event(method, path, body))
        assert answer["statusCode"] < 400, answer["body"]
        return json.loads(answer["body"])

    def upload(self, folder: str, data: bytes) -> dict[str, Any]:
        """Uploads a file and lets the trigger see it; the input of the execution it started."""
        key = f"{folder}/{MODEL}/people.csv"
        version = self.s3.put_object(Bucket=DATA, Key=key, Body=data)["VersionId"]
        started = self.call(
            "trigger",
            {
                "version": "0",
                "id": "17793124-05d4-b198-2fde-7ededc63b103",
                "detail-type": "Object Created",
                "source": "aws.s3",
                "account": "123456789012",
                "time": "2026-11-01T12:00:00Z",
                "region": "us-east-1",
                "resources": [f"arn:aws:s3:::{DATA}"],
                "detail": {
                    "version": "0",
                    "bucket": {"name": DATA},
                    "object": {"key": key, "size": len(data), "etag": "e", "version-id": version},
                    "reason": "PutObject",
                },
            },
        )
        assert started["status"] == "started", started
        executions = self.steps.list_executions(stateMachineArn=self.machine)["executions"]
        inputs: list[dict[str, Any]] = [
            json.loads(self.steps.describe_execution(executionArn=e["executionArn"])["input"])
            for e in executions
        ]
        (payload,) = (one for one in inputs if one["source"]["key"] == key)
        return payload


@pytest.fixture(scope="module")
def stack(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Empty resources, and every function ready to start."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with ExitStack() as exits:
            yield Stack(f"http://{host}:{port}", artifacts, tmp_path_factory.mktemp("logs"), exits)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def trained(stack: Stack) -> dict[str, Any]:
    """The machine's payload after a whole training of every algorithm."""
    stack.request("api", "PUT", f"/v1/specs/{MODEL}", SPEC)
    payload = stack.upload("incoming", table_of_people(500))

    def task(function: str, action: str, **extra: Any) -> Any:
        return stack.call(function, {"action": action, "input": {**payload, **extra}})

    payload["ingest"] = stack.call("ingest", payload)
    payload["dataset"] = task("registry", "record_dataset")
    payload["plan"] = task("train", "plan")
    payload["trials"] = []
    for trial in payload["plan"]["trials"]:
        result = task(
            "train",
            "trial",
            plan_metric=payload["plan"]["metric"],
            folds=payload["plan"]["folds"],
            trial=trial,
        )
        task("registry", "record_trial", trial=result)
        payload["trials"].append(result)
    payload["fit"] = task("train", "fit")
    payload["registration"] = task("registry", "register")
    payload["evaluation"] = stack.call("evaluate", payload)
    payload["verdict"] = task("registry", "record_evaluation")
    payload["promotion"] = task("registry", "promote")
    return payload


def test_ingest_reads_checks_and_quarantines(trained: dict[str, Any]) -> None:
    ingest = trained["ingest"]

    assert ingest["outcome"] == "accepted", ingest
    assert ingest["rows"] == {"read": 500, "accepted": 499, "quarantined": 1}
    assert trained["dataset"]["decision"] == "train"


def test_train_fits_every_algorithm(trained: dict[str, Any]) -> None:
    trials = trained["trials"]

    assert {trial["algorithm"] for trial in trials} == {
        "linear",
        "random_forest",
        "hist_gradient_boosting",
    }
    assert {trial["status"] for trial in trials} == {"finished"}, trials


@pytest.mark.parametrize("algorithm", ["linear", "random_forest", "hist_gradient_boosting"])
def test_train_converts_every_algorithm(
    stack: Stack, trained: dict[str, Any], algorithm: str
) -> None:
    only = [trial for trial in trained["trials"] if trial["algorithm"] == algorithm]

    fitted = stack.call(
        "train",
        {
            "action": "fit",
            "input": {**trained, "run_id": f"{trained['run_id']}-{algorithm}", "trials": only},
        },
    )

    assert fitted["algorithm"] == algorithm
    assert fitted["parity"]["max_difference"] <= fitted["parity"]["tolerance"]


def test_evaluate_writes_a_report(stack: Stack, trained: dict[str, Any]) -> None:
    evaluation = trained["evaluation"]

    report = stack.s3.get_object(Bucket=STORE, Key=evaluation["report_key"])["Body"].read()

    assert evaluation["verdict"] == "passed", evaluation
    assert b"<svg" in report


def test_registry_made_a_champion(stack: Stack, trained: dict[str, Any]) -> None:
    shown = stack.request("api", "GET", f"/v1/models/{MODEL}/versions/champion")

    assert trained["promotion"]["version"] == shown["version"] == 1


def test_predict_answers_with_the_champion(stack: Stack, trained: dict[str, Any]) -> None:
    rows = [
        {"age": 30, "income": 41_000.0, "region": "north", "member": True},
        {"age": 77, "income": None, "region": "unseen", "member": False},
    ]

    answer = stack.request("predict", "POST", f"/v1/models/{MODEL}/predict", {"rows": rows})

    assert answer["model"] == MODEL
    assert answer["version"] == trained["promotion"]["version"]
    assert len(answer["predictions"]) == len(rows)
    slow = {
        "aws_lambda_powertools",
        "aws_xray_sdk",
        "boto3",
        "botocore",
        "fastapi",
        "pydantic",
        "starlette",
        "yaml",
    }
    assert {"mangum", "onnxruntime"} <= stack.packages("predict")
    assert not slow & stack.packages("predict"), "a cold start pays for what it does not need"


def test_a_batch_job_scores_a_file(stack: Stack, trained: dict[str, Any]) -> None:
    payload = stack.upload("batch", table_of_people(40))

    payload["split"] = stack.call("batch", {"action": "split", "input": payload})
    stack.call("registry", {"action": "record_batch_split", "input": payload})
    for chunk in payload["split"]["chunks"]:
        stack.call("score", {**payload, "chunk": chunk})
    payload["finish"] = stack.call("batch", {"action": "finish", "input": payload})
    stack.call("registry", {"action": "record_batch", "input": payload})
    shown = stack.request("api", "GET", f"/v1/batches/{payload['batch_id']}")

    assert shown["outcome"] == "scored"
    assert shown["version"] == trained["promotion"]["version"]
    assert shown["rows"] == {"read": 40, "accepted": 39, "quarantined": 1}
    scores = stack.s3.get_object(Bucket=DATA, Key=payload["finish"]["predictions_key"])[
        "Body"
    ].read()
    assert len(scores.splitlines()) == 1 + 40


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_the_authorizer_verifies_a_signature(
    artifacts: Artifacts, tmp_path: Path, algorithm: str
) -> None:
    with (
        issuer() as listening,
        IsolatedFunction(
            artifacts["authorizer"],
            tmp_path / "authorizer.log",
            POWERTOOLS_TRACE_DISABLED="true",
            MILLRACE_JWT_ISSUER=listening.url,
            MILLRACE_JWT_AUDIENCE=AUDIENCE,
        ) as authorizer,
    ):
        listening.rotate(algorithm=algorithm)
        event = {
            "type": "TOKEN",
            "methodArn": "arn:aws:execute-api:us-east-1:123456789012:api/live/GET/v1/models",
        }
        token = listening.token("viewer", sub="ada")
        forged = listening.token("viewer", sub="ada", key=new_key(algorithm))

        answer = authorizer.invoke(event | {"authorizationToken": f"Bearer {token}"})

        assert answer["principalId"] == "ada"
        assert answer["context"]["roles"] == "viewer"
        with pytest.raises(HandlerError, match="^UnauthenticatedError in "):
            authorizer.invoke(event | {"authorizationToken": f"Bearer {forged}"})


@pytest.mark.parametrize(
    "function",
    [
        "batch",
        "capture",
        "evaluate",
        "feedback",
        "ingest",
        "registry",
        "rollout",
        "score",
        "train",
        "trigger",
    ],
)
def test_unusable_event_is_refused_by_name(stack: Stack, function: str) -> None:
    with pytest.raises(HandlerError, match=r"^InvalidEventError in "):
        stack.call(function, {"action": "nothing", "input": {"known": "no"}})
