"""The demo's real census data, ingested and learned by the product's own rooms, without a cloud."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.demo.data import prepare
from millrace import layout
from millrace.datasets.engine import Limits
from millrace.datasets.ingestion import ingest
from millrace.datasets.table import Table, TableSchema
from millrace.learning.fitting import Fit, fit, make_signature
from millrace.learning.search import plan, run_trial
from millrace.messages import Cause, IngestResult, SourceObject, TrainingInput
from millrace.signature import Signature
from millrace.spec import Algorithm, ModelSpec
from tests.fakes.store import FakeStore

PROJECT = Path(__file__).resolve().parents[2]
DATA, ARTIFACTS = "data-bucket", "artifact-bucket"
Ingest = Callable[[Path], IngestResult]


@dataclass(frozen=True, slots=True)
class Learned:
    """A champion in the making: its spec, splits and fit."""

    spec: ModelSpec
    signature: Signature
    test: Table
    fit: Fit


@pytest.fixture(scope="session")
def census() -> Path:
    """68,785 rows of real data as CSV."""
    uv = Path(sys.executable).with_name("uv")
    return prepare(PROJECT / ".millrace" / "demo", uv).first


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    """The demo's spec."""
    text = (PROJECT / "infra" / "demo" / "employment.yaml").read_text(encoding="utf-8")
    return ModelSpec.from_yaml(text)


@pytest.fixture
def store(spec: ModelSpec) -> FakeStore:
    """Objects in memory, the spec among them."""
    made = FakeStore()
    made.write(
        ARTIFACTS,
        layout.spec_key(spec.name, spec.digest),
        spec.to_json().encode(),
        content_type="application/json",
    )
    return made


def ingest_file(path: Path, spec: ModelSpec, store: FakeStore, scratch: Path) -> IngestResult:
    """One upload through the ingest service."""
    key = layout.incoming_key(spec.name, path.name)
    store.objects[DATA, key] = [path.read_bytes()]
    return ingest(
        TrainingInput(
            run_id="bench-run",
            model=spec.name,
            cause=Cause.UPLOAD,
            correlation_id="bench",
            spec_version=1,
            spec_key=layout.spec_key(spec.name, spec.digest),
            spec_digest=spec.digest,
            source=SourceObject(
                bucket=DATA, key=key, version_id="v0", size=path.stat().st_size, etag=""
            ),
        ),
        store=store,
        data_bucket=DATA,
        artifact_bucket=ARTIFACTS,
        scratch=scratch,
        limits=Limits(),
        clock=lambda: datetime.now(UTC),
    )


@pytest.fixture(scope="session")
def learned(census: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """The demo's kind of champion: gradient boosting on the census."""
    store = FakeStore()
    store.write(
        ARTIFACTS,
        layout.spec_key(spec.name, spec.digest),
        spec.to_json().encode(),
        content_type="application/json",
    )
    result = ingest_file(census, spec, store, tmp_path_factory.mktemp("scratch"))
    schema = TableSchema.model_validate_json(store.read(DATA, result.schema_key))
    splits = {
        name: Table.from_bytes(
            store.read(
                DATA,
                layout.split_key(spec.name, result.dataset_version, result.data_digest, name),
            ),
            schema,
        )
        for name in ("train", "validation", "test")
    }
    planned = plan(spec, schema)
    boosted = next(t for t in planned.trials if t.algorithm is Algorithm.HIST_GRADIENT_BOOSTING)
    tried = run_trial(spec, splits["train"], boosted, metric=planned.metric, folds=2)
    made = fit(
        spec, splits["train"], splits["validation"], planned, [tried], metadata={"run_id": "bench"}
    )
    return Learned(
        spec=spec,
        signature=make_signature(
            spec,
            schema,
            boosted.algorithm,
            seen=made.seen,
            conformal=made.calibrate(made.onnx, spec),
        ),
        test=splits["test"],
        fit=made,
    )
