"""The demo's real census data, ingested and learned by the product's own rooms, without a cloud."""

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
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

LARGEST = {"trees": 150, "max_leaf_nodes": 47}

MIXED = """
name: {name}
task: binary
data:
  columns:
    - {{name: age, type: integer, min: 0, max: 120, nullable: false}}
    - {{name: tenure, type: number}}
    - {{name: spend, type: number, min: 0}}
    - {{name: visits, type: integer}}
    - {{name: score, type: number}}
    - {{name: balance, type: number}}
    - {{name: active, type: boolean}}
    - {{name: trial, type: boolean}}
    - {{name: plan, type: {texts}{allowed}}}
    - {{name: region, type: {texts}}}
    - {{name: channel, type: {texts}}}
    - {{name: city, type: {texts}}}
    - {{name: left, type: integer, role: target}}
train: {{candidates: [hist_gradient_boosting], trials: 1}}
"""


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
    """The demo's kind of champion: gradient boosting on the census, thirteen of its columns texts."""
    return learn(census, spec, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Gradient boosting of a hundred trees on made-up rows: six numbers, two booleans, four texts."""
    spec = MIXED.format(name="mixed", texts="string", allowed=", allowed: [basic, plus, premium]")
    return learn_made_up(spec, tmp_path_factory.mktemp("mixed"), coded=False)


@pytest.fixture(scope="session")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """The mixed model with the most trees and leaves that the search tries."""
    spec = MIXED.format(name="heavy", texts="string", allowed=", allowed: [basic, plus, premium]")
    return learn_made_up(spec, tmp_path_factory.mktemp("heavy"), coded=False, **LARGEST)


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """The same with a number for each text, so that a request is one array of numbers."""
    spec = MIXED.format(name="coded", texts="integer", allowed="")
    return learn_made_up(spec, tmp_path_factory.mktemp("coded"), coded=True)


@pytest.fixture(scope="session")
def heavy_coded(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Both: the most trees and leaves, and a number for each text."""
    spec = MIXED.format(name="heavy-coded", texts="integer", allowed="")
    return learn_made_up(spec, tmp_path_factory.mktemp("heavy"), coded=True, **LARGEST)


def learn_made_up(text: str, folder: Path, *, coded: bool, **params: int) -> Learned:
    """A champion of made-up rows.

    Args:
        text: The spec.
        folder: Where the rows are written.
        coded: Whether each text is written as its place in the order of the texts.
        params: Of the algorithm, in place of those that the search begins with.
    """
    made = ModelSpec.from_yaml(text)
    dice = np.random.default_rng(7)
    rows = 8_000
    columns: dict[str, list[Any]] = {
        "age": dice.integers(18, 90, rows).tolist(),
        "tenure": dice.exponential(5, rows).round(3).tolist(),
        "spend": dice.gamma(2, 40, rows).round(2).tolist(),
        "visits": dice.poisson(4, rows).tolist(),
        "score": dice.normal(size=rows).round(6).tolist(),
        "balance": dice.normal(1000, 300, rows).round(2).tolist(),
        "active": ["true" if v else "false" for v in dice.random(rows) < 0.6],
        "trial": ["true" if v else "false" for v in dice.random(rows) < 0.2],
        "plan": dice.choice(["basic", "plus", "premium"], rows).tolist(),
        "region": dice.choice(["north", "south", "east", "west"], rows).tolist(),
        "channel": dice.choice(["web", "store", "phone", "partner"], rows).tolist(),
        "city": [f"city {n}" for n in dice.integers(0, 40, rows)],
    }
    logit = (
        0.02 * (np.array(columns["age"]) - 50)
        - 0.2 * np.array(columns["tenure"])
        + 0.01 * np.array(columns["spend"])
        + np.array(columns["score"])
        + (np.array(columns["plan"]) == "premium") * (np.array(columns["active"]) == "true")
    )
    columns["left"] = (dice.random(rows) < 1 / (1 + np.exp(-logit))).astype(int).tolist()
    if coded:
        for name in ("plan", "region", "channel", "city"):
            columns[name] = np.unique(columns[name], return_inverse=True)[1].tolist()
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return learn(path, made, folder, **params)


def learn(path: Path, spec: ModelSpec, scratch: Path, **params: int) -> Learned:
    """A champion of an upload.

    Args:
        path: The upload.
        spec: The spec.
        scratch: A folder.
        params: As `learn_made_up`.
    """
    store = FakeStore()
    store.write(
        ARTIFACTS,
        layout.spec_key(spec.name, spec.digest),
        spec.to_json().encode(),
        content_type="application/json",
    )
    result = ingest_file(path, spec, store, scratch)
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
    boosted = boosted.model_copy(update={"params": boosted.params | params})
    planned = planned.model_copy(update={"trials": (boosted,)})
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
