"""From process start to the first answer, over two small functions that people would write.

Subject: the built artifact of the predict function. References: a plain FastAPI, Mangum, boto3 and
ONNX Runtime function on the same trimmed and compiled packages (``cold/plain.py``), and the same with
a pickled scikit-learn pipeline (``cold/pickled.py``). All read the same registry item and the same
kind of model, gradient boosting on the census, from the same local DynamoDB and S3, whose own time
does not count: what is compared is the CPU time of the function's process, from its first
instruction to the answer.
"""

import hashlib
import io
import json
import os
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import joblib  # type: ignore[import-untyped]  # it has no types
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from infra.build.artifact import ROOT
from infra.build.expansion import source
from millrace import layout
from tests.bench.conftest import Learned
from tests.bench.measure import keep
from tests.fakes.gateway import event
from tests.infra.isolated import RUNTIME, logical_id

BUILT = ROOT / ".aws-sam" / "build"
COLD = Path(__file__).parent / "cold"
ROUNDS = 9
RUN, TABLE, BUCKET = "bench-run", "registry", "artifacts"

MARKS = [
    (
        "millrace.registry.serving:ServingReader",
        "get_serving",
        "until the registry",
        "registry read",
    ),
    ("millrace.onnx_session", "load_ranked", "signature and model fetched", "session created"),
    ("millrace.onnx_session", "predict_ranked", "decoded", "first run"),
]
"""Where the subject's way to the first answer is cut: module and class, function, marks."""


@dataclass(frozen=True)
class World:
    """What the functions find: a registry and a bucket on this machine."""

    environment: dict[str, str]
    event: dict[str, Any]

    def start(
        self,
        folders: list[Path],
        modules: list[str],
        marks: list[tuple[str, str, str, str]],
        variables: dict[str, str],
    ) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
        """One cold start: CPU and wall seconds by step, in order, and the answer."""
        reading, writing = os.pipe()
        task = {
            "folders": [str(f) for f in folders],
            "modules": modules,
            "marks": marks,
            "event": self.event,
            "descriptor": writing,
        }
        command = [str(RUNTIME), "-I", str(COLD / "drive.py"), json.dumps(task)]
        try:
            subprocess.run(
                command,
                env=self.environment | variables,
                check=True,
                capture_output=True,
                pass_fds=[writing],
                timeout=120,
            )
        finally:
            os.close(writing)
        with os.fdopen(reading) as told:
            found = json.load(told)
        steps: dict[str, tuple[float, float]] = {}
        cpu_before, wall_before = 0.0, found["marks"][0][2]
        for name, cpu, wall in found["marks"]:
            steps[name] = (cpu - cpu_before, wall - wall_before)
            cpu_before, wall_before = cpu, wall
        return steps, found["answer"]


@pytest.fixture(scope="module")
def world(learned: Learned) -> Iterator[World]:
    """The champion on a local DynamoDB and S3, as ONNX and as a pickled pipeline."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_LAMBDA_FUNCTION_NAME": "predict",
        "POWERTOOLS_TRACE_DISABLED": "true",
        "MILLRACE_TABLE_NAME": TABLE,
        "MILLRACE_ARTIFACT_BUCKET": BUCKET,
    }
    try:
        _publish(environment["AWS_ENDPOINT_URL"], learned)
        yield World(environment, _request(learned))
    finally:
        server.stop()


def _publish(endpoint: str, learned: Learned) -> None:
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    name, onnx = learned.spec.name, learned.fit.onnx
    signature = learned.signature.to_json()
    s3 = session.client("s3", endpoint_url=endpoint)
    table = session.client("dynamodb", endpoint_url=endpoint)
    s3.create_bucket(Bucket=BUCKET)
    model_key = layout.model_key(name, RUN)
    for key, body in (
        (model_key, onnx),
        (layout.signature_key(name, RUN), signature),
        (model_key.replace("model.onnx", "model.joblib"), _pickled(learned)),
    ):
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    table.create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": a, "AttributeType": "S"} for a in ("PK", "SK")],
        KeySchema=[
            {"AttributeName": "PK", "KeyType": "HASH"},
            {"AttributeName": "SK", "KeyType": "RANGE"},
        ],
    )
    item = {
        "PK": f"MODEL#{name}",
        "SK": "SERVING",
        "model": name,
        "run_id": RUN,
        "model_key": model_key,
        "sha256": hashlib.sha256(onnx).hexdigest(),
        "signature_key": layout.signature_key(name, RUN),
        "signature_sha256": hashlib.sha256(signature).hexdigest(),
        "updated_at": "2026-11-01T00:00:00Z",
    }
    table.put_item(
        TableName=TABLE, Item={k: {"S": v} for k, v in item.items()} | {"version": {"N": "1"}}
    )


def _pickled(learned: Learned) -> bytes:
    """A scikit-learn pipeline of the same kind, on the same columns."""
    numeric, categorical = learned.test.features()
    width = numeric.shape[1]
    features = np.concatenate([numeric.astype(object), categorical], axis=1)
    pipeline = make_pipeline(
        make_column_transformer(
            ("passthrough", list(range(width))),
            (
                OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
                list(range(width, features.shape[1])),
            ),
        ),
        HistGradientBoostingClassifier(max_iter=100, early_stopping=False),
    )
    rng = np.random.default_rng(0)
    pipeline.fit(features[:5_000], rng.integers(0, 2, 5_000))
    body = io.BytesIO()
    joblib.dump(pipeline, body)
    return body.getvalue()


def _request(learned: Learned) -> dict[str, Any]:
    """One row, as API Gateway hands it over."""
    numeric, categorical = learned.test.features()
    integers = {f.name for f in learned.signature.numeric if f.type == "integer"}
    row = {
        f.name: int(v) if f.name in integers else float(v)
        for f, v in zip(learned.signature.numeric, numeric[0], strict=True)
    } | {f.name: v for f, v in zip(learned.signature.categorical, categorical[0], strict=True)}
    return event(
        "POST",
        f"/v1/models/{learned.spec.name}/predict",
        json.dumps({"rows": [row]}),
        headers={"Content-Type": "application/json"},
    )


def _fixed_variables() -> dict[str, str]:
    """What the template says of the function's environment whatever the deployment."""
    function = source()["Resources"][logical_id("predict")]["Properties"]
    variables = function["Environment"]["Variables"]
    return {name: value for name, value in variables.items() if isinstance(value, str)}


def test_cold_start_over_plain_functions(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    predict, train = BUILT / logical_id("predict"), BUILT / logical_id("train")
    if not predict.is_dir():
        pytest.fail("nothing is built: run the benchmarks through `make bench`")
    starts = {
        "millrace": ([predict], ["numpy", "onnxruntime", "handler"], MARKS, _fixed_variables()),
        "plain": ([COLD, predict], ["plain"], [], {}),
        "pickled": ([COLD, predict, train], ["pickled"], [], {}),
    }
    totals: dict[str, list[float]] = {name: [] for name in starts}
    steps: dict[str, list[tuple[float, float]]] = {}
    for turn in range(ROUNDS + 1):
        for name, start in starts.items():
            taken, answer = world.start(*start)
            assert answer["statusCode"] == 200, answer["body"]
            if turn == 0:
                continue  # Files are read from the disk for the first time.
            totals[name].append(sum(cpu for cpu, _ in taken.values()))
            if name == "millrace":
                for step, times in taken.items():
                    steps.setdefault(step, []).append(times)

    of_plain, of_pickled = (
        statistics.median(
            ours / theirs for ours, theirs in zip(totals["millrace"], totals[name], strict=True)
        )
        for name in ("plain", "pickled")
    )
    figures: dict[str, list[float]] = {
        step: [statistics.median(t[i] for t in times) * 1e3 for i in (0, 1)]
        for step, times in steps.items()
    }
    keep(
        "cold start",
        {
            "milliseconds": {n: statistics.median(t) * 1e3 for n, t in totals.items()},
            "over plain": of_plain,
            "over pickled": of_pickled,
            "steps": figures,
        },
    )
    capsys.readouterr()
    with capsys.disabled():
        print("\ncold start, process start to first answer, CPU milliseconds (median):")
        for name, spent in totals.items():
            print(f"  {name:<10} {statistics.median(spent) * 1e3:7.0f}")
        print(f"  over plain {of_plain:.2f}, over scikit-learn {of_pickled:.3f}")
        print("  steps of millrace (CPU, wall):")
        for step, clocks in figures.items():
            print(f"    {step:<28} {clocks[0]:7.1f} {clocks[1]:7.1f}")
    assert of_plain <= 1 / 2
    assert of_pickled <= 1 / 6
