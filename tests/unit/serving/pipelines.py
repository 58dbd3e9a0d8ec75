"""Small pipelines, really trained by the learning room, exported, and served."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson

from millrace.datasets.table import ColumnSchema, Table, TableSchema
from millrace.errors import NotFoundError
from millrace.http.service import Service, create_service
from millrace.learning.fitting import Fit, fit, make_signature
from millrace.learning.search import plan
from millrace.messages import TrialResult
from millrace.registry.serving import ServingRecord
from millrace.serving.codec import SignatureCodec
from millrace.serving.model import load_model
from millrace.serving.prediction import Prediction
from millrace.serving.routing import Chosen, alone
from millrace.serving.store import LoadedModel, ModelState
from millrace.signature import Signature
from millrace.spec import Algorithm, ModelSpec, Role, Task

NAME = "truth"
CITIES = (
    "Graz",
    "Gra\u0308z",
    "Gräz",
    "graz",
    "1",
    "true",
    "a\u200bb",
    "\U0001f30d",
    "N A",
    "x" * 300,
)
PLANS = ("basic", "premium", "free")

COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "visits", "type": "integer", "nullable": True},
    {"name": "age", "type": "integer", "nullable": False},
    {"name": "ratio", "type": "number", "nullable": True},
    {"name": "income", "type": "number", "nullable": False},
    {"name": "member", "type": "boolean", "nullable": True},
    {"name": "agreed", "type": "boolean", "nullable": False},
    {"name": "city", "type": "string", "nullable": True},
    {"name": "plan", "type": "string", "nullable": False},
)


@dataclass(frozen=True)
class Pipeline:
    """A fitted pipeline and what is served of it.

    Attributes:
        spec: Its spec.
        fit: scikit-learn's side.
        loaded: The served side.
    """

    spec: ModelSpec
    fit: Fit
    loaded: LoadedModel

    @property
    def signature(self) -> Signature:
        return self.loaded.signature

    @property
    def tolerance(self) -> float:
        """Of an answer's numbers."""
        return self.spec.train.parity_tolerance * self.fit.target_scale


def rows(task: Task, count: int, seed: int) -> dict[str, Any]:
    """Columns as ingest stores them, with a target they tell something of."""
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "visits": random.poisson(4, count) * 10.0 ** random.integers(0, 6, count),
        "age": random.integers(18, 90, count).astype(np.float64),
        "ratio": random.normal(size=count) * 10.0 ** random.integers(-12, 4, count),
        "income": random.lognormal(10, 1, count),
        "member": (random.random(count) < 0.5).astype(np.float64),
        "agreed": (random.random(count) < 0.7).astype(np.float64),
        "city": random.integers(0, len(CITIES), count).astype(np.int32),
        "plan": random.integers(0, len(PLANS), count).astype(np.int32),
    }
    score = (
        columns["age"] / 30
        - columns["member"]
        + (columns["city"] == 2) * 1.5
        - columns["plan"]
        + np.log(columns["income"]) / 2
        + random.normal(size=count) / 2
    )
    for name in ("visits", "ratio", "member"):
        columns[name][random.random(count) < 0.1] = np.nan
    columns["city"][random.random(count) < 0.1] = -1
    columns["y"] = {
        Task.BINARY: (score > np.median(score)).astype(np.int32),
        Task.MULTICLASS: np.digitize(score, np.quantile(score, (0.3, 0.7))).astype(np.int32),
        Task.REGRESSION: score * 100.0,
    }[task]
    return columns


def trained(
    task: Task, algorithm: Algorithm, *, training_rows: int = 400, **sections: Any
) -> Pipeline:
    """Fits, exports, proves equal and loads one pipeline."""
    regression = task is Task.REGRESSION
    target = {"name": "y", "type": "number" if regression else "string", "role": "target"}
    spec = ModelSpec.from_document(
        {
            "name": NAME,
            "task": task,
            "data": {"columns": [*COLUMNS, target]},
            "train": {"candidates": [algorithm], "trials": 1, "folds": 2},
            **sections,
        }
    )
    known = {"city": CITIES, "plan": PLANS}
    classes = {Task.BINARY: ("no", "yes"), Task.MULTICLASS: ("high", "low", "mid")}.get(task, ())
    parts = {"train": rows(task, training_rows, 1), "validation": rows(task, 120, 2)}
    schema = TableSchema(
        task=task,
        target="y",
        classes=classes,
        columns=tuple(
            ColumnSchema(
                name=c.name,
                type=c.type,
                role=c.role,
                categories=known.get(c.name, ()) if c.role is Role.FEATURE else (),
            )
            for c in spec.data.columns
        ),
        rows={name: len(part["y"]) for name, part in parts.items()},
    )
    tables = {
        name: Table(schema, part, np.arange(len(part["y"]), dtype=np.uint64))
        for name, part in parts.items()
    }
    proposed = plan(spec, schema)
    (trial,) = proposed.trials
    tried = TrialResult(
        trial_id=trial.trial_id,
        algorithm=trial.algorithm,
        params=trial.params,
        metric=proposed.metric,
        score=0.5,
    )
    done = fit(spec, tables["train"], tables["validation"], proposed, [tried], metadata={})
    signature = make_signature(
        spec, schema, algorithm, seen=done.seen, conformal=done.calibrate(done.onnx, spec)
    )
    # As it is stored and read back, not as it was made.
    signature = Signature.from_json(signature.to_json())
    sha256 = hashlib.sha256(done.onnx).hexdigest()
    return Pipeline(
        spec=spec,
        fit=done,
        loaded=LoadedModel(
            record=ServingRecord(
                model=NAME,
                version=1,
                run_id="run-1",
                model_key="model.onnx",
                sha256=sha256,
                signature_key="signature.json",
                signature_sha256="0" * 64,
                updated_at=datetime(2026, 11, 1, tzinfo=UTC),
            ),
            signature=signature,
            codec=SignatureCodec(signature),
            model=load_model(done.onnx, sha256, NAME, signature),
            size=len(done.onnx),
        ),
    )


class Shelf:
    """A store of one model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    def get(self, model: str, version: int | None = None) -> LoadedModel:
        """The model, whatever version is asked for."""
        if model != self._loaded.record.model:
            raise NotFoundError(f"there is no model {model}")
        return self._loaded

    def choose(self, model: str, version: int | None = None, entity: bytes | None = None) -> Chosen:
        """The model, whoever asks."""
        return alone(self.get(model, version), version)

    def models(self) -> tuple[ModelState, ...]:
        """The one."""
        record = self._loaded.record
        return (ModelState(record.model, record.version, "READY"),)


class Silence:
    """A journal that writes nothing."""

    def answered(self, prediction: Prediction, *, seconds: float, correlation_id: str) -> None:
        """Of an answer."""

    def refused(
        self,
        error: Exception,
        *,
        model: str | None,
        seconds: float,
        correlation_id: str,
        failed: Chosen | None = None,
    ) -> None:
        """Of a refusal."""


def serve(loaded: LoadedModel) -> Service:
    """The prediction service with one model."""
    return create_service(Shelf(loaded), new_id=lambda *_: "p-1", journal=Silence())


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return orjson.loads(self.body)


def post(
    service: Service,
    body: bytes,
    *,
    path: str = f"/v1/models/{NAME}/predict",
    query: str = "",
    headers: Sequence[tuple[str, str]] = (("content-type", "application/json"),),
) -> Reply:
    """One request, as a server hands it to the application."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(service(scope, receive, send))
    return Reply(
        sent[0]["status"],
        {k.decode(): v.decode() for k, v in sent[0]["headers"]},
        b"".join(m.get("body", b"") for m in sent[1:]),
    )
