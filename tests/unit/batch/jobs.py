"""A batch job without a cloud: a small real model, the real steps, objects in memory."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace import layout
from millrace.batch.finishing import finish
from millrace.batch.scoring import Scorer, load_scorer, score
from millrace.batch.splitting import split
from millrace.datasets.engine import Limits
from millrace.messages import (
    BatchInput,
    FinishResult,
    FinishTask,
    ScoreResult,
    ScoreTask,
    SourceObject,
    SplitResult,
)
from millrace.serving.codec import SignatureCodec
from millrace.serving.features import Batch
from millrace.spec import ModelSpec, Task
from tests.fakes.onnx_models import StoredModel, stored
from tests.fakes.store import FakeStore

DATA, ARTIFACTS = "data-bucket", "artifact-bucket"
HEADER = ["customer", "age", "plan", "tenure", "active", "city"]
LIMITS = Limits(memory_mb=256)

type Row = list[str]


def spec_document(task: Task = Task.BINARY, **sections: Any) -> dict[str, Any]:
    """The contract of `onnx_models.churn_signature`, with an id and a sensitive column."""
    target = {"name": "left", "type": "integer", "role": "target"}
    if task is Task.REGRESSION:
        target = {"name": "left", "type": "number", "role": "target"}
    columns = [
        {"name": "customer", "type": "string", "role": "id"},
        {"name": "sex", "type": "string", "role": "sensitive"},
        {"name": "age", "type": "integer", "nullable": False, "min": 18, "max": 120},
        {"name": "plan", "type": "string", "allowed": ["basic", "premium"]},
        {"name": "tenure", "type": "number"},
        {"name": "active", "type": "boolean", "nullable": False},
        {"name": "city", "type": "string", "nullable": False},
        target,
    ]
    data = {"columns": columns, **sections.pop("data", {})}
    return {
        "name": "churn",
        "task": task.value,
        "data": data,
        "privacy": {"never_log": ["city"]},
        **sections,
    }


def rows(count: int, start: int = 0) -> list[Row]:
    """Good rows, a pure function of their numbers; some values are missing."""
    return [
        [
            f"c{i}",
            str(18 + i % 80),
            ("basic", "premium", "")[i % 3],
            "" if i % 7 == 0 else f"{(i % 60) / 2}",
            ("true", "no", "1")[i % 3],
            ("Graz", "Linz")[i % 2],
        ]
        for i in range(start, start + count)
    ]


def csv_bytes(of: Iterable[Row], header: Row | None = None) -> bytes:
    """Rows as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header or HEADER, *of])
    return text.getvalue().encode()


@dataclass
class Job:
    """One job and its objects.

    Attributes:
        scratch: A temporary directory.
        task: What the model predicts.
        sections: Sections of the spec.
        model: The model; the linear one of the fakes by default.
        chunk_rows: Most rows of a chunk.
        runs: Rows of every run of the model, in order.
        before_write: Called with a chunk's number after it was scored, before that is kept.
    """

    scratch: Path
    task: Task = Task.BINARY
    sections: dict[str, Any] = field(default_factory=dict)
    model: StoredModel | None = None
    chunk_rows: int = 10
    store: Any = field(default_factory=FakeStore)
    runs: list[int] = field(default_factory=list)
    before_write: Callable[[int], None] = lambda _: None

    def __post_init__(self) -> None:
        self.model = self.model or stored("run-1", task=self.task)
        self.spec = ModelSpec.from_document(spec_document(self.task, **self.sections))
        spec_key = layout.spec_key("churn", self.spec.digest)
        self.store.write(ARTIFACTS, spec_key, self.spec.to_json().encode(), content_type="")
        self.store.write(ARTIFACTS, self.model.model_key, self.model.onnx, content_type="")
        self.store.write(
            ARTIFACTS, self.model.signature_key, self.model.signature_body, content_type=""
        )

    @property
    def codec(self) -> SignatureCodec:
        """Reads and writes as the API does."""
        assert self.model is not None
        return SignatureCodec(self.model.signature)

    def put(self, name: str, body: bytes) -> BatchInput:
        """Uploads a file; returns the input of its job."""
        self.store.write(DATA, layout.batch_key("churn", name), body, content_type="")
        return self._input(name, len(body))

    def put_file(self, name: str, path: Path) -> BatchInput:
        """Uploads a file that lies on the disk; returns the input of its job."""
        self.store.upload(DATA, layout.batch_key("churn", name), path, content_type="")
        return self._input(name, path.stat().st_size)

    def _input(self, name: str, size: int) -> BatchInput:
        assert self.model is not None
        key = layout.batch_key("churn", name)
        return BatchInput(
            batch_id=layout.batch_id_for("churn", DATA, key, "v0"),
            attempt=1,
            model="churn",
            correlation_id="event-1",
            version=3,
            model_key=self.model.model_key,
            sha256=self.model.sha256,
            signature_key=self.model.signature_key,
            signature_sha256=self.model.signature_sha256,
            spec_version=1,
            spec_key=layout.spec_key("churn", self.spec.digest),
            spec_digest=self.spec.digest,
            source=SourceObject(bucket=DATA, key=key, version_id="v0", size=size, etag="e"),
            created_at="2026-11-01T10:00:00+00:00",
            concurrency=4,
        )

    def split(self, job: BatchInput) -> SplitResult:
        """The step Split."""
        return split(
            job,
            store=self.store,
            data_bucket=DATA,
            artifact_bucket=ARTIFACTS,
            scratch=self.scratch,
            limits=LIMITS,
            chunk_rows=self.chunk_rows,
        )

    def score(self, job: BatchInput, chunk: int) -> ScoreResult:
        """The step Score, for one chunk."""

        def scorer(task: BatchInput) -> Scorer:
            made = load_scorer(task, self.store, ARTIFACTS)

            def run(batch: Batch) -> npt.NDArray[np.float32]:
                self.runs.append(batch.rows)
                output = made.run(batch)
                self.before_write(chunk)
                return output

            return Scorer(made.signature, made.codec, run)

        task = ScoreTask(**job.model_dump(), chunk=chunk)
        return score(task, store=self.store, data_bucket=DATA, scorer=scorer)

    def finish(self, job: BatchInput, made: SplitResult) -> FinishResult:
        """The step Finish."""
        return finish(
            FinishTask(**job.model_dump(), action="finish", split=made),
            store=self.store,
            data_bucket=DATA,
            artifact_bucket=ARTIFACTS,
            scratch=self.scratch,
            limits=LIMITS,
        )

    def run(self, name: str, body: bytes) -> FinishResult:
        """The whole job."""
        job = self.put(name, body)
        made = self.split(job)
        assert made.outcome == "accepted", made
        for chunk in made.chunks:
            self.score(job, chunk)
        return self.finish(job, made)

    def read(self, key: str) -> bytes:
        """An object of the data bucket."""
        return self.store.read(DATA, key)

    def table(self, key: str) -> list[dict[str, str]]:
        """A CSV object as rows."""
        return list(csv.DictReader(io.StringIO(self.read(key).decode(), newline="")))

    def document(self, key: str) -> Any:
        """A JSON object."""
        return json.loads(self.read(key))
