"""`millrace serve` beside the servers people would use otherwise, over loopback HTTP.

The same trained model in each: gradient boosting on mixed columns. Ours and the plain FastAPI run the
exported ONNX graph on rows as a caller has them; the scikit-learn servers are given the encoded
features, so that the encoding, which ours does, costs them nothing. One worker each; ours with capture
and metrics on. All run at once, idle but for the one that is asked; rounds take turns over the servers,
and a ratio is taken within its round.

Needs the peers' environments (`make setup-peers`); a peer whose environment is missing is left out and
said so.
"""

import hashlib
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import joblib  # type: ignore[import-untyped]
import numpy as np
import pytest

from millrace.bundle import Content, write_bundle
from millrace.spec import Algorithm, Task
from tests.bench.load import Connection, Load
from tests.bench.measure import keep
from tests.fakes.bundles import TRAINED_AT
from tests.unit.serving.pipelines import CITIES, NAME, PLANS, Pipeline, rows, trained

ROOT: Final = Path(__file__).resolve().parents[2]
PEERS: Final = Path(__file__).parent / "peers"
TOOLS: Final = ROOT / ".tools"
ROUNDS: Final = int(os.environ.get("MILLRACE_BENCH_ROUNDS", "7"))
SECONDS: Final = float(os.environ.get("MILLRACE_BENCH_SECONDS", "1.0"))
START_SECONDS: Final = 90
REFERENCE: Final = "FastAPI, ONNX Runtime"
OURS: Final = "millrace serve"
BINARY: Final = "millrace serve, v2 binary"
PACKED: Final = "millrace serve, v2 packed"
SIZES: Final = (1, 100)
CLIENTS: Final = (1, 8)

AIMS: Final = {1: 1.3, 100: 1.5}
"""Requests per second over the reference's, by rows; told beside what came of them."""

type Case = tuple[int, int]
"""Rows of a request, and clients at once."""


@dataclass
class Server:
    """A server under load.

    Attributes:
        name: What it is called in the table.
        port: Where it listens.
        requests: What a client sends, by the rows of a request.
        loads: What was measured, by case, one of each round.
    """

    name: str
    port: int
    requests: Mapping[int, bytes]
    loads: dict[Case, list[Load]] = field(default_factory=dict)


def request(path: str, body: bytes, *headers: str) -> bytes:
    """An HTTP request as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Length: {len(body)}",
        *(headers or ("Content-Type: application/json",)),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def as_json(path: str, document: Any) -> bytes:
    """A JSON request as bytes."""
    return request(path, json.dumps(document).encode())


@dataclass(frozen=True)
class Data:
    """The rows of the bench in the forms that the servers take."""

    rows: list[dict[str, Any]]
    features: list[list[float | None]]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return trained(Task.BINARY, Algorithm.HIST_GRADIENT_BOOSTING, training_rows=20_000)


@pytest.fixture(scope="module")
def data(pipeline: Pipeline) -> Data:
    """A hundred rows, some values missing."""
    columns = rows(Task.BINARY, 100, 5)
    words = {"city": (*CITIES, None), "plan": PLANS}
    made = []
    for i in range(100):
        row: dict[str, Any] = {}
        for feature in pipeline.signature.features:
            value = columns[feature.name][i]
            if feature.name in words:
                row[feature.name] = words[feature.name][value]
            elif np.isnan(value):
                row[feature.name] = None
            else:
                kind = {"integer": int, "boolean": bool}.get(feature.type, float)
                row[feature.name] = kind(value)
        made.append(row)
    batch = pipeline.loaded.codec.encode({"rows": made})
    encoder = pipeline.fit.model.encoder
    ranks = [{word: rank for rank, word in enumerate(v)} for v in encoder.vocabulary]
    features = [
        [
            *(None if np.isnan(v) else float(v) for v in batch.numeric[i]),
            *(ranks[j].get(word) for j, word in enumerate(batch.categorical[i])),
        ]
        for i in range(100)
    ]
    assert encoder.ranked
    return Data(made, features)


@pytest.fixture(scope="module")
def folder(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as each server wants it."""
    place = tmp_path_factory.mktemp("servers")
    signature = pipeline.signature.to_json()
    (place / "model.onnx").write_bytes(pipeline.fit.onnx)
    (place / "signature.json").write_bytes(signature)
    # For the peers that load nothing else; see plain_sklearn.py.
    joblib.dump(pipeline.fit.model.estimator, place / "model.joblib")
    record = replace(pipeline.loaded.record, signature_sha256=hashlib.sha256(signature).hexdigest())
    write_bundle(
        place / "truth.bundle",
        [
            Content("model.onnx", "model", pipeline.fit.onnx, record.model_key),
            Content("signature.json", "signature", signature, record.signature_key),
        ],
        kind="bundle",
        serving=record,
        task=Task.BINARY,
        algorithm=Algorithm.HIST_GRADIENT_BOOSTING,
        trained_at=TRAINED_AT,
    )
    return place


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A peer's environment: quiet, one thread, nothing reported home."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PEER_FOLDER": str(folder),
        "PYTHONPATH": str(PEERS),
        "OMP_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder / "bentoml"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "DO_NOT_TRACK": "1",
        **more,
    }


# ── The servers ─────────────────────────────────────────────────────────────────────────────────


def uvicorn(name: str, app: str, bodies: Mapping[int, Any], folder: Path) -> tuple[Server, Any]:
    port = free_port()
    python = TOOLS / "peers-fastapi" / "bin" / "python"
    command = [
        python, "-m", "uvicorn", app, "--port", str(port), "--loop", "uvloop",
        "--http", "httptools", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    requests = {n: as_json("/predict", body) for n, body in bodies.items()}
    return Server(name, port, requests), (command, environment(folder))


def mlserver(features: Mapping[int, Any], folder: Path) -> tuple[Server, Any]:
    place = folder / "mlserver"
    place.mkdir()
    port = free_port()
    (place / "settings.json").write_text(
        json.dumps(
            {
                "http_port": port,
                "grpc_port": free_port(),
                "metrics_port": free_port(),
                "host": "127.0.0.1",
                "parallel_workers": 0,
                "debug": False,
            }
        )
    )
    (place / "model-settings.json").write_text(
        json.dumps(
            {
                "name": NAME,
                "implementation": "mlserver_sklearn.SKLearnModel",
                "parameters": {"uri": str(folder / "model.joblib"), "version": "1"},
            }
        )
    )
    requests = {}
    for n, values in features.items():
        # Its JSON has neither null nor NaN in a tensor.
        flat = [0.0 if v is None else v for row in values for v in row]
        body = {
            "inputs": [
                {
                    "name": "features",
                    "shape": [n, len(values[0])],
                    "datatype": "FP64",
                    "data": flat,
                    "parameters": {"content_type": "np"},
                }
            ],
            "outputs": [{"name": "predict_proba"}],
        }
        requests[n] = as_json(f"/v2/models/{NAME}/infer", body)
    command = [TOOLS / "peers-mlserver" / "bin" / "mlserver", "start", place]
    return Server("MLServer, scikit-learn", port, requests), (command, environment(folder))


def bentoml(features: Mapping[int, Any], folder: Path) -> tuple[Server, Any]:
    port = free_port()
    command = [
        TOOLS / "peers-bentoml" / "bin" / "bentoml", "serve", "bento_service:Scorer",
        "--working-dir", PEERS, "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    requests = {n: as_json("/predict", {"rows": values}) for n, values in features.items()}
    return Server("BentoML, scikit-learn", port, requests), (command, environment(folder))


def mlflow(features: Mapping[int, Any], folder: Path) -> tuple[Server, Any]:
    python = TOOLS / "peers-mlflow" / "bin" / "python"
    subprocess.run(
        [python, PEERS / "save_mlflow.py", folder],
        check=True,
        env=environment(folder),
        capture_output=True,
    )
    port = free_port()
    command = [
        python.with_name("mlflow"), "models", "serve", "-m", folder / "mlflow",
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    requests = {n: as_json("/invocations", {"inputs": values}) for n, values in features.items()}
    return Server("MLflow, scikit-learn", port, requests), (
        command,
        environment(folder, PATH=path),
    )


def infer_request(pipeline: Pipeline, rows_: list[dict[str, Any]]) -> bytes:
    """A binary request of the Open Inference Protocol, as Triton's client sends it.

    The protocol has no null: rows that miss a value are given one.
    """
    kinds = {"integer": "INT64", "number": "FP64", "boolean": "BOOL", "string": "BYTES"}
    formats = {"INT64": "<i8", "FP64": "<f8", "BOOL": "?"}
    inputs, parts = [], []
    for feature in pipeline.signature.features:
        kind = kinds[feature.type]
        values = [row[feature.name] for row in rows_]
        if kind == "BYTES":
            texts = [(v or "Graz").encode() for v in values]
            part = b"".join(struct.pack("<I", len(t)) + t for t in texts)
        else:
            part = np.array([v or 0 for v in values], dtype=formats[kind]).tobytes()
        parts.append(part)
        inputs.append((feature.name, kind, [len(rows_)]))
    return binary_request(inputs, parts)


def packed_request(pipeline: Pipeline, rows_: list[dict[str, Any]]) -> bytes:
    """The same in the packed form: all numbers in one tensor, all texts in another."""
    signature = pipeline.signature
    numbers = [
        [np.nan if (v := row[f.name]) is None else v for f in signature.numeric] for row in rows_
    ]
    texts = [(row[f.name] or "").encode() for row in rows_ for f in signature.categorical]
    count = len(rows_)
    return binary_request(
        [
            ("numeric", "FP32", [count, len(signature.numeric)]),
            ("categorical", "BYTES", [count, len(signature.categorical)]),
        ],
        [
            np.array(numbers, dtype="<f4").tobytes(),
            b"".join(struct.pack("<I", len(t)) + t for t in texts),
        ],
    )


def binary_request(inputs: list[tuple[str, str, list[int]]], parts: list[bytes]) -> bytes:
    """A request of the Open Inference Protocol with data after the JSON, answered likewise."""
    described = [
        {
            "name": name,
            "shape": shape,
            "datatype": datatype,
            "parameters": {"binary_data_size": len(part)},
        }
        for (name, datatype, shape), part in zip(inputs, parts, strict=True)
    ]
    head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    return request(
        f"/v2/models/{NAME}/infer",
        head + b"".join(parts),
        f"Inference-Header-Content-Length: {len(head)}",
    )


@pytest.fixture(scope="module")
def servers(folder: Path, data: Data, pipeline: Pipeline) -> Iterator[list[Server]]:
    """Every server, warm."""
    port = free_port()
    ours = (
        [
            *(Path(sys.executable).with_name("millrace"), "serve", folder / "truth.bundle"),
            *("--port", str(port), "--workers", "1"),
        ],
        dict(os.environ),
    )
    own = {n: as_json(f"/v1/models/{NAME}/predict", {"rows": data.rows[:n]}) for n in SIZES}
    binary = {n: infer_request(pipeline, data.rows[:n]) for n in SIZES}
    packed = {n: packed_request(pipeline, data.rows[:n]) for n in SIZES}
    bodies = {n: {"rows": data.rows[:n]} for n in SIZES}
    features = {n: data.features[:n] for n in SIZES}
    makers: dict[str, Any] = {
        "peers-fastapi": lambda: [
            uvicorn(REFERENCE, "plain_onnx:app", bodies, folder),
            uvicorn(
                "FastAPI, pickled scikit-learn",
                "plain_sklearn:app",
                {n: {"rows": f} for n, f in features.items()},
                folder,
            ),
        ],
        "peers-mlserver": lambda: [mlserver(features, folder)],
        "peers-bentoml": lambda: [bentoml(features, folder)],
        "peers-mlflow": lambda: [mlflow(features, folder)],
    }
    absent = [name for name in makers if not (TOOLS / name / ".ready").exists()]
    if "peers-fastapi" in absent:
        pytest.skip("the reference's environment is missing: make setup-peers")
    made = [
        (Server(OURS, port, own), ours),
        (Server(BINARY, port, binary), None),
        (Server(PACKED, port, packed), None),
    ]
    made += [pair for name, maker in makers.items() if name not in absent for pair in maker()]
    with ExitStack() as stack:
        for server, start in made:
            if start is None:
                continue
            command, variables = start
            log = stack.enter_context((folder / f"{server.port}.log").open("wb"))
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=folder,
                env=variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(_end, process)
        for server, _ in made:
            _warm(server, folder)
        for name in absent:
            print(f"left out, as its environment is missing (make setup-peers): {name}")
        yield [server for server, _ in made]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stops a server and the processes it started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(15)


def _warm(server: Server, folder: Path) -> None:
    """Waits until a server answers, and lets it answer some."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            for sent in server.requests.values():
                with closing(Connection(server.port, sent)) as connection:
                    for _ in range(30):
                        connection.ask()
        except (OSError, RuntimeError) as exc:
            if time.monotonic() > deadline:
                log = (folder / f"{server.port}.log").read_text()[-3000:]
                pytest.fail(f"{server.name} does not answer: {exc}\n{log}")
            time.sleep(0.3)
        else:
            return


def load(server: Server, size: int, clients: int) -> Load:
    """Measures one case in a process of its own."""
    asked = {
        "port": server.port,
        "request": server.requests[size].hex(),
        "clients": clients,
        "seconds": SECONDS,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, f"{server.name}: {done.stderr[-1500:]}"
    return Load(**json.loads(done.stdout))


@pytest.mark.timeout(1800)
def test_requests_per_second_beside_other_servers(servers: list[Server]) -> None:
    cases: list[Case] = [(size, clients) for size in SIZES for clients in CLIENTS]
    for _ in range(ROUNDS):
        for case in cases:
            for server in servers:
                server.loads.setdefault(case, []).append(load(server, *case))

    figures = {case: _figures(servers, case) for case in cases}
    for (size, clients), table in figures.items():
        keep(f"servers {size} rows {clients} clients", table)
        _print(size, clients, table)

    for (size, _), table in figures.items():
        ours = table[OURS]
        aim = AIMS[size]
        said = "reached" if ours["ratio"] >= aim and ours["p99_ratio"] < 1 else "missed"
        print(f"aim at {size} rows, {aim} × with a lower p99: {said} ({ours['ratio']:.2f} ×)")
        if size == 1:
            for name, figures_of in table.items():
                if "scikit-learn" in name:
                    assert ours["per_second"] > figures_of["per_second"], name


def _figures(servers: list[Server], case: Case) -> dict[str, Any]:
    """Medians of each server, and its ratios to the reference within the rounds."""
    reference = next(s for s in servers if s.name == REFERENCE).loads[case]
    table: dict[str, Any] = {}
    for server in servers:
        loads = server.loads[case]
        pairs = list(zip(loads, reference, strict=True))
        ratios = [a.per_second / b.per_second for a, b in pairs]
        table[server.name] = {
            "per_second": statistics.median(x.per_second for x in loads),
            "p99_ms": statistics.median(x.p99 for x in loads) * 1e3,
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "p99_ratio": statistics.median(a.p99 / b.p99 for a, b in pairs),
        }
    return table


def _print(size: int, clients: int, table: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{size} rows, {clients} clients: requests/s, p99, over the plain FastAPI with ONNX")
    for name, f in sorted(table.items(), key=lambda item: -item[1]["per_second"]):
        print(
            f"  {name:32} {f['per_second']:8.0f}/s  p99 {f['p99_ms']:7.2f} ms  "
            f"{f['ratio']:5.2f} × [{f['low']:.2f}, {f['high']:.2f}]  p99 {f['p99_ratio']:.2f} ×"
        )
