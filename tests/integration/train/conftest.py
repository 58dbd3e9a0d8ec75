"""The train function on S3 by moto, with the splits that ingest would have left there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from moto import mock_aws
from sklearn import datasets

from functions.train import handler as train
from millrace import layout
from millrace.aws.clients import client, forget_clients
from millrace.datasets.table import SPLITS, ColumnSchema, Table, TableSchema
from millrace.spec import ModelSpec, Role, Task
from tests.fakes.cloud import LambdaContext

DATA = "data-bucket"
ARTIFACTS = "artifact-bucket"
DATASET = "ab" * 32


@dataclass
class Run:
    """One run's spec and splits in S3, and its way through the function.

    Attributes:
        spec: The spec.
        payload: The machine's payload.
        context: Lambda's context.
    """

    spec: ModelSpec
    payload: dict[str, Any]
    context: LambdaContext = field(default_factory=lambda: LambdaContext(remaining_ms=900_000))

    def invoke(self, action: str, **fields: Any) -> dict[str, Any]:
        """Calls the handler as the state machine does."""
        event = {"action": action, "input": {**self.payload, **fields}}
        return train.handler(event, self.context)

    def plan(self) -> dict[str, Any]:
        """The plan."""
        return self.invoke("plan")

    def trial(self, plan: dict[str, Any], trial: dict[str, Any]) -> dict[str, Any]:
        """One trial's result."""
        return self.invoke("trial", plan_metric=plan["metric"], folds=plan["folds"], trial=trial)

    def search(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Every trial's result."""
        return [self.trial(plan, trial) for trial in plan["trials"]]

    def fit(self, plan: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, Any]:
        """The fit."""
        return self.invoke("fit", plan=plan, trials=trials)


def stored(key: str) -> bytes:
    """An object of the artifact bucket."""
    return client("s3").get_object(Bucket=ARTIFACTS, Key=key)["Body"].read()


def versions(prefix: str) -> int:
    """How many object versions the artifact bucket has under a prefix."""
    found = client("s3").list_object_versions(Bucket=ARTIFACTS, Prefix=prefix)
    return len(found.get("Versions", []))


def put(bucket: str, key: str, body: bytes) -> None:
    """Writes an object."""
    client("s3").put_object(Bucket=bucket, Key=key, Body=body)


type NewRun = Callable[..., Run]


@pytest.fixture
def new_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[NewRun]:
    """Makes runs on fresh buckets."""
    monkeypatch.setenv("MILLRACE_DATA_BUCKET", DATA)
    monkeypatch.setenv("MILLRACE_ARTIFACT_BUCKET", ARTIFACTS)
    monkeypatch.setenv("MILLRACE_CODE_VERSION", "1.2.3")
    with mock_aws(config={"core": {"service_whitelist": ["s3"]}}):
        forget_clients()
        train.training.cache_clear()
        for bucket in (DATA, ARTIFACTS):
            client("s3").create_bucket(Bucket=bucket)
            client("s3").put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )
        yield make_run
        forget_clients()
        train.training.cache_clear()


def make_run(
    name: str = "breast_cancer",
    *,
    run_id: str = "sample-0123",
    dataset: str = DATASET,
    **train_section: Any,
) -> Run:
    """Stores one of scikit-learn's tables as a dataset version's splits, and a spec for it."""
    loaded = getattr(datasets, f"load_{name}")()
    task = {"breast_cancer": Task.BINARY, "wine": Task.MULTICLASS, "diabetes": Task.REGRESSION}[
        name
    ]
    random = np.random.default_rng(5)
    rows = len(loaded.target)
    numeric = np.where(random.random(loaded.data.shape) < 0.03, np.nan, loaded.data)
    columns: list[dict[str, Any]] = [
        {"name": f"n{i}", "type": "number"} for i in range(numeric.shape[1])
    ]
    regression = task is Task.REGRESSION
    columns += [
        {"name": "colour", "type": "string"},
        {"name": "y", "type": "number" if regression else "integer", "role": "target"},
    ]
    spec = ModelSpec.from_document(
        {
            "name": "sample",
            "task": task,
            "data": {"columns": columns},
            "train": {"trials": 3, **train_section},
        }
    )
    arrays: dict[str, Any] = {f"n{i}": numeric[:, i] for i in range(numeric.shape[1])}
    arrays["colour"] = random.integers(-1, 3, rows).astype(np.int32)
    arrays["y"] = loaded.target.astype(np.float64 if regression else np.int32)
    parts = np.array_split(random.permutation(rows), [rows * 13 // 20, rows * 8 // 10])
    schema = TableSchema(
        task=task,
        target="y",
        classes=() if regression else tuple(str(c) for c in np.unique(loaded.target)),
        columns=tuple(
            ColumnSchema(
                name=c.name,
                type=c.type,
                role=c.role,
                categories=("blue", "grün", "red") if c.name == "colour" else (),
            )
            for c in spec.data.columns
            if c.role in (Role.FEATURE, Role.TARGET)
        ),
        rows={split: len(part) for split, part in zip(SPLITS, parts, strict=True)},
    )
    for split, part in zip(SPLITS, parts, strict=True):
        table = Table(schema, {k: v[part] for k, v in arrays.items()}, part.astype(np.uint64))
        put(
            DATA,
            layout.split_key(spec.name, dataset, spec.data_digest, split),
            table.to_bytes(),
        )
    schema_key = layout.split_manifest_key(spec.name, dataset, spec.data_digest)
    put(DATA, schema_key, schema.model_dump_json().encode())
    spec_key = layout.spec_key(spec.name, spec.digest)
    put(ARTIFACTS, spec_key, spec.to_json().encode())
    return Run(
        spec,
        {
            "run_id": run_id,
            "model": spec.name,
            "cause": "upload",
            "correlation_id": "event-1",
            "spec_version": 4,
            "spec_key": spec_key,
            "spec_digest": spec.digest,
            "source": {"bucket": DATA, "key": "incoming/sample/a.csv", "version_id": "v1"},
            "ingest": {
                "outcome": "accepted",
                "dataset_version": dataset,
                "data_digest": spec.data_digest,
                "schema_key": schema_key,
                "split_rows": schema.rows,
            },
        },
    )
