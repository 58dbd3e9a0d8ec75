"""A trained candidate, and maybe a champion, lying in S3 as the earlier states leave them.

Rows are made up; models are really trained and exported by the learning room.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.datasets.table import SPLITS, ColumnSchema, Table, TableSchema
from millrace.learning.data import SplitReader
from millrace.learning.service import Training
from millrace.messages import (
    Cause,
    ChampionRef,
    EvaluateTask,
    FitTask,
    IngestResult,
    PlanTask,
    Registration,
    SourceObject,
    TrainingInput,
    TrialTask,
)
from millrace.spec import ColumnType, ModelSpec, Role, Task

DATA, ARTIFACTS = "data-bucket", "artifact-bucket"
MODEL = "churn"


def spec_document(task: Task = Task.BINARY, **sections: Any) -> dict[str, Any]:
    """A small spec with one feature of each kind and a sensitive column."""
    target = {
        Task.BINARY: {"name": "left", "type": "boolean", "role": "target"},
        Task.MULTICLASS: {"name": "plan", "type": "string", "role": "target"},
        Task.REGRESSION: {"name": "spend", "type": "number", "role": "target"},
    }[task]
    document: dict[str, Any] = {
        "name": MODEL,
        "description": "Which customers will leave within a month.",
        "owner": "retention team",
        "task": task,
        "data": {
            "columns": [
                {"name": "customer", "type": "string", "role": "id"},
                {"name": "age", "type": "number"},
                {"name": "calls", "type": "integer"},
                {"name": "member", "type": "boolean"},
                {"name": "region", "type": "string"},
                {"name": "sex", "type": "string", "role": "sensitive"},
                target,
            ]
        },
        "train": {"candidates": ["linear"], "trials": 2, "folds": 2},
        "evaluate": {"bootstrap": 60},
    }
    for name, section in sections.items():
        document[name] = {**document.get(name, {}), **section} if section else section
    return document


def make_rows(task: Task, rows: int, seed: int, *, signal: float = 1.0) -> dict[str, Any]:
    """Columns with missing values; ``signal`` says how much the features tell of the target."""
    rng = np.random.default_rng(seed)
    age = rng.normal(45, 15, rows).clip(18, 90)
    calls = rng.poisson(3, rows).astype(np.float64)
    member = (rng.random(rows) < 0.6).astype(np.float64)
    region = rng.integers(0, 4, rows)
    sex = rng.integers(0, 2, rows)
    score = signal * (
        (45 - age) / 15 + 0.5 * (calls - 3) - 1.2 * member + 0.8 * (region == 2)
    ) + rng.logistic(size=rows)
    age[rng.random(rows) < 0.05] = np.nan
    region[rng.random(rows) < 0.03] = -1
    target: Any = {
        Task.BINARY: (score > 0).astype(np.int32),
        Task.MULTICLASS: np.digitize(score, [-1.2, 1.0]).astype(np.int32),
        Task.REGRESSION: 100 + 25 * score,
    }[task]
    return {
        "age": age,
        "calls": calls,
        "member": member,
        "region": region.astype(np.int32),
        "sex": sex.astype(np.int32),
        "target": target,
    }


CATEGORIES = {"region": ("east", "north", "south", "west"), "sex": ("f", "m")}
CLASSES = {
    Task.BINARY: ("false", "true"),
    Task.MULTICLASS: ("basic", "family", "pro"),
    Task.REGRESSION: (),
}


@dataclass
class Scenario:
    """Puts what earlier states make into S3.

    Attributes:
        store: Where to.
        document: The spec.
        rows: Rows of the dataset version.
        seed: Names the rows.
    """

    store: ObjectStore
    document: dict[str, Any]
    rows: int = 900
    seed: int = 1

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec.from_document(self.document)

    def training_input(self, run: str) -> dict[str, Any]:
        spec = self.spec
        key = layout.spec_key(MODEL, spec.digest)
        self.store.write(ARTIFACTS, key, spec.to_json().encode(), content_type="application/json")
        return TrainingInput(
            run_id=run,
            model=MODEL,
            cause=Cause.UPLOAD,
            correlation_id="correlation-1",
            spec_version=1,
            spec_key=key,
            spec_digest=spec.digest,
            source=SourceObject(bucket=DATA, key="incoming/churn/a.csv", version_id="1"),
        ).model_dump(mode="json")

    def ingest(self, *, signal: float = 1.0, version: str = "d" * 64) -> IngestResult:
        """Writes the splits."""
        spec = self.spec
        stored = [c for c in spec.data.columns if c.role not in (Role.ID, Role.IGNORE)]
        columns = make_rows(spec.task, self.rows, self.seed, signal=signal)
        cuts = np.array_split(np.arange(self.rows), [self.rows // 2, self.rows * 2 // 3])
        schema = TableSchema(
            task=spec.task,
            target=spec.target.name,
            classes=CLASSES[spec.task],
            columns=tuple(
                ColumnSchema(
                    name=c.name,
                    type=c.type,
                    role=c.role,
                    categories=CATEGORIES.get(c.name, ())
                    if c.type is ColumnType.STRING and c.role is not Role.TARGET
                    else (),
                )
                for c in stored
            ),
            rows={name: len(part) for name, part in zip(SPLITS, cuts, strict=True)},
        )
        for name, part in zip(SPLITS, cuts, strict=True):
            arrays = {
                c.name: columns["target" if c.role is Role.TARGET else c.name][part] for c in stored
            }
            table = Table(schema=schema, arrays=arrays, row=part.astype(np.uint64))
            self.store.write(
                DATA,
                layout.split_key(MODEL, version, spec.data_digest, name),
                table.to_bytes(),
                content_type="application/octet-stream",
            )
        schema_key = layout.split_manifest_key(MODEL, version, spec.data_digest)
        self.store.write(
            DATA, schema_key, schema.model_dump_json().encode(), content_type="application/json"
        )
        return IngestResult(
            outcome="accepted",
            dataset_version=version,
            data_digest=spec.data_digest,
            data_key=layout.dataset_data_key(MODEL, version),
            schema_key=schema_key,
            split_rows=schema.rows,
        )

    def candidate(
        self,
        run: str,
        *,
        version: int = 1,
        champion: EvaluateTask | None = None,
        signal: float = 1.0,
        dataset: str = "d" * 64,
    ) -> EvaluateTask:
        """Ingests, trains and registers; the answer is the evaluate function's message."""
        given = {
            **self.training_input(run),
            "ingest": self.ingest(signal=signal, version=dataset).model_dump(mode="json"),
        }
        training = Training(
            store=self.store,
            splits=SplitReader(self.store, DATA),
            artifact_bucket=ARTIFACTS,
            code_version="abc1234",
        )
        plan = training.plan(PlanTask(action="plan", **given))
        trials = tuple(
            training.trial(
                TrialTask(
                    action="trial",
                    plan_metric=plan.metric,
                    folds=plan.folds,
                    trial=trial,
                    **given,
                )
            )
            for trial in plan.trials
        )
        fit = training.fit(FitTask(action="fit", plan=plan, trials=trials, **given))
        return EvaluateTask.model_validate(
            {
                **given,
                "fit": fit.model_dump(mode="json"),
                "trials": [t.model_dump(mode="json") for t in trials],
                "registration": Registration(
                    version=version, champion=champion_ref(champion) if champion else None
                ).model_dump(mode="json"),
            }
        )


def champion_ref(task: EvaluateTask) -> ChampionRef:
    """The model of an earlier evaluation as the registry names a champion."""
    return ChampionRef(
        version=task.registration.version,
        run_id=task.run_id,
        model_key=task.fit.model_key,
        sha256=task.fit.sha256,
        signature_key=task.fit.signature_key,
        signature_sha256=task.fit.signature_sha256,
    )


def read_document(store: ObjectStore, key: str) -> dict[str, Any]:
    """A stored evaluation."""
    document: dict[str, Any] = json.loads(store.read(ARTIFACTS, key))
    return document
