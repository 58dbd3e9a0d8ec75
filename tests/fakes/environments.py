"""Environments in memory: a registry and a bucket, and versions that go from one to another."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from millrace import layout
from millrace.aws.dynamodb import Table
from millrace.bundle import Bundle, write_bundle
from millrace.evaluation.document import Evaluation
from millrace.messages import EvaluationResult, MetricValue
from millrace.registry.approvals import Approvals
from millrace.registry.records import ModelVersion
from millrace.registry.registry import Registry
from millrace.signature import Signature
from millrace.spec import Algorithm, ModelSpec, canonical_json
from millrace_cli.bundles import chosen_version, collect, papers
from millrace_cli.imports import Imported, bring_in
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.onnx_models import stored
from tests.fakes.store import FakeStore
from tests.fakes.table import FakeTable
from tests.unit.evaluation.test_report import evaluation

BUCKET = cases.ARTIFACT_BUCKET

SPEC = {
    "name": "churn",
    "task": "binary",
    "data": {
        "columns": [
            {"name": "age", "type": "integer"},
            {"name": "plan", "type": "string"},
            {"name": "tenure", "type": "number"},
            {"name": "active", "type": "boolean"},
            {"name": "city", "type": "string"},
            {"name": "left", "type": "boolean", "role": "target"},
        ]
    },
}
"""Of the models of `onnx_models`."""


def spec(**sections: Any) -> ModelSpec:
    """That spec, with other sections."""
    return ModelSpec.from_document(SPEC | sections)


@dataclass
class Environment:
    """One environment.

    Attributes:
        name: What it is called.
        table: Its table.
        store: Its objects.
        clock: Its clock.
    """

    name: str
    table: Table = field(default_factory=FakeTable)
    store: Any = field(default_factory=FakeStore)
    clock: FakeClock = field(default_factory=FakeClock)
    sign: Any = None

    def __post_init__(self) -> None:
        self.registry = Registry(
            self.table, clock=self.clock, ids=counting_ids(self.name), sign=self.sign
        )
        self.approvals = Approvals(
            self.table, clock=self.clock, ids=counting_ids(f"{self.name}-asked")
        )

    def apply(self, of: ModelSpec) -> None:
        """Stores and applies a spec."""
        key = layout.spec_key(of.name, of.digest)
        self.store.write(BUCKET, key, of.to_json().encode(), content_type="application/json")
        cases.apply(self.registry, of)

    def train(
        self,
        number: int,
        of: ModelSpec | None = None,
        *,
        verdict: str = "passed",
        promoted: bool = True,
        baseline: bool = True,
        **changes: Any,
    ) -> ModelVersion:
        """A version that was trained and judged here, with every artifact in the bucket.

        Args:
            number: Which upload it is trained on, and the bias of the model.
            of: The spec.
            verdict: What its gates said.
            promoted: Whether it becomes champion.
            baseline: Whether its evaluation left one.
            **changes: Of its evaluation.
        """
        the_spec = of or spec()
        self.apply(the_spec)
        run = cases.run(number, the_spec)
        self.registry.create_run(run)
        task, ingest = cases.training_input(run), cases.ingested(f"d{number}")
        self.registry.record_dataset(task, ingest, train_on_upload=True)
        model = stored(run.run_id, bias=float(number))
        environment = canonical_json(
            {
                "python": "3.13.0",
                "packages": {"numpy": "2.3.4", "scikit-learn": "1.9.0"},
                "opset": 17,
                "rows": 80,
                "model_sha256": model.sha256,
                "signature_sha256": model.signature_sha256,
            }
        ).encode()
        keys = {
            layout.model_key("churn", model.sha256): model.onnx,
            layout.signature_key("churn", model.signature_sha256): model.signature_body,
            layout.environment_key("churn", _digest(environment)): environment,
        }
        model_key, signature_key, environment_key = keys
        for key, body in keys.items():
            self.store.write(BUCKET, key, body, content_type="")
        registered = self.registry.register_version(
            task,
            ingest,
            cases.fitted(
                run.run_id,
                algorithm=Algorithm.LINEAR,
                model_key=model_key,
                sha256=model.sha256,
                size_bytes=len(model.onnx),
                signature_key=signature_key,
                signature_sha256=model.signature_sha256,
                environment_key=environment_key,
            ),
        )
        champion = registered.champion
        document = self._evaluation(model.sha256, model.signature_sha256, registered.version)
        document = document.model_copy(update={"verdict": verdict, **changes})
        if champion is None:
            document = document.model_copy(update={"comparison": None})
        attempt = str(champion.version if champion else 0)
        evaluation_key = layout.evaluation_key("churn", run.run_id, attempt)
        report_key = layout.report_key("churn", run.run_id, attempt)
        body = document.model_dump_json().encode()
        self.store.write(BUCKET, evaluation_key, body, content_type="")
        self.store.write(BUCKET, report_key, b"<html></html>", content_type="")
        if baseline:
            made = cases.baseline(run.run_id, registered.version, f"d{number}")
            key = layout.baseline_key("churn", run.run_id)
            self.store.write(BUCKET, key, made.to_bytes(), content_type="")
        self.registry.record_evaluation(
            task,
            registered.version,
            EvaluationResult(
                verdict=document.verdict,
                reason="as its gates say",
                rows=document.rows,
                metric=document.metric,
                metrics={
                    n: MetricValue(value=m.value, low=m.low, high=m.high)
                    for n, m in document.metrics.items()
                },
                champion_version=champion.version if champion else None,
                gates=document.gates,
                evaluation_key=evaluation_key,
                report_key=report_key,
            ),
            automatic=False,
        )
        if promoted:
            self.registry.promote("churn", registered.version, actor="ann", reason="better")
        return self.registry.get_version("churn", registered.version)

    def export(self, path: Path, version: int | None = None) -> Path:
        """Writes a version's bundle, as the verb does."""
        record, serving = chosen_version(
            self.registry, "churn", None if version is None else str(version)
        )
        contents = collect(self.store, BUCKET, record, serving, "bundle")
        contents += papers(self.registry, record, contents, self.name)
        write_bundle(
            path,
            contents,
            kind="bundle",
            serving=serving,
            task=Signature.from_json(contents[1].body).task,
            algorithm=record.algorithm,
            trained_at=record.created_at,
        )
        return path

    def bring_in(self, path: Path) -> Imported:
        """Imports a bundle, as the verb does."""
        return bring_in(
            Bundle.open(path),
            registry=self.registry,
            approvals=self.approvals,
            store=self.store,
            bucket=BUCKET,
            actor="ben",
            clock=self.clock,
        )

    def _evaluation(self, sha256: str, signature_sha256: str, version: int) -> Evaluation:
        made = evaluation(name="left")
        gates = tuple(g.model_copy(update={"passed": True}) for g in made.gates)
        return made.model_copy(
            update={
                "version": version,
                "evaluated_at": datetime(2026, 11, 1, 12, tzinfo=UTC),
                "gates": gates,
                "provenance": made.provenance.model_copy(
                    update={"model_sha256": sha256, "signature_sha256": signature_sha256}
                ),
            }
        )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def document_of(path: Path, name: str) -> dict[str, Any]:
    """A JSON file of a bundle."""
    found: dict[str, Any] = json.loads(Bundle.open(path).read(name))
    return found
