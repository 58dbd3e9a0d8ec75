"""Small, valid messages for tests of what surrounds a training: the registry and its functions."""

from typing import Any

from millrace import layout
from millrace.messages import (
    Cause,
    EvaluationResult,
    FitResult,
    GateResult,
    IngestResult,
    MetricValue,
    Parity,
    RowCounts,
    SourceObject,
    TrainingInput,
)
from millrace.monitoring.baseline import (
    Baseline,
    FeatureBaseline,
    NumericBaseline,
    ReferenceMetric,
    ScoreBaseline,
)
from millrace.registry import door
from millrace.registry.records import Run, RunStatus
from millrace.registry.registry import Registry
from millrace.spec import Algorithm, ColumnType, ModelSpec, Task

MODEL = "churn"
DATA_BUCKET = "data-bucket"
ARTIFACT_BUCKET = "artifact-bucket"


def spec(name: str = MODEL, **sections: Any) -> ModelSpec:
    """A binary model's spec with one feature."""
    return ModelSpec.from_document(
        {
            "name": name,
            "task": "binary",
            "data": {
                "columns": [
                    {"name": "age", "type": "number"},
                    {"name": "left", "type": "boolean", "role": "target"},
                ]
            },
            **sections,
        }
    )


def source(number: int = 1, model: str = MODEL) -> SourceObject:
    """An upload."""
    return SourceObject(
        bucket=DATA_BUCKET,
        key=layout.incoming_key(model, f"file-{number}.csv"),
        version_id=f"v{number}",
        size=100 + number,
    )


def run(number: int, of: ModelSpec, *, spec_version: int = 1, **changes: Any) -> Run:
    """A scheduled run of an upload."""
    given = source(number, of.name)
    return Run(
        **{
            "run_id": layout.run_id_for_upload(of.name, given.bucket, given.key, given.version_id),
            "model": of.name,
            "cause": Cause.UPLOAD,
            "status": RunStatus.SCHEDULED,
            "correlation_id": f"event-{number}",
            "spec_version": spec_version,
            "spec_digest": of.digest,
            "source": given,
            "started_at": f"2026-11-01T10:{number // 60:02d}:{number % 60:02d}Z",
            **changes,
        }
    )


def training_input(of: Run, *, force: bool = False) -> TrainingInput:
    """The TRAINING machine's input for a run, as the door makes it, or as a retraining's."""
    made = door.training_input(of)
    return made.model_copy(update={"force": True}) if force else made


def ingested(dataset_version: str = "d1", model: str = MODEL) -> IngestResult:
    """An accepted upload."""
    return IngestResult(
        outcome="accepted",
        rows=RowCounts(read=110, accepted=100, quarantined=10),
        dataset_version=dataset_version,
        data_digest="dd",
        data_key=layout.dataset_data_key(model, dataset_version),
        manifest_key=layout.dataset_manifest_key(model, dataset_version),
        profile_key=layout.dataset_profile_key(model, dataset_version),
        schema_key=layout.split_manifest_key(model, dataset_version, "dd"),
        split_rows={"train": 65, "validation": 15, "test": 20},
    )


def refused() -> IngestResult:
    """A refused upload."""
    return IngestResult(outcome="refused", code="empty_file", reason="the file is empty")


def fitted(run_id: str, model: str = MODEL, **changes: Any) -> FitResult:
    """A fitted and exported winner."""
    return FitResult(
        **{
            "trial_id": 2,
            "algorithm": Algorithm.LINEAR,
            "params": {"C": 1.0, "penalty": "l2", "max_features": None},
            "metric": "roc_auc",
            "cv_score": 0.8,
            "cv_score_std": 0.01,
            "validation_score": 0.79,
            "rows": 80,
            "model_key": layout.model_key(model, run_id),
            "sha256": "ab" * 32,
            "size_bytes": 1234,
            "signature_key": layout.signature_key(model, run_id),
            "signature_sha256": "cd" * 32,
            "environment_key": layout.environment_key(model, run_id),
            "parity": Parity(
                rows=20, hostile_rows=40, max_difference=1e-7, tolerance=1e-4, label_mismatches=0
            ),
            "code_version": "abc123",
            "seed": 7,
            "seconds": 1.5,
            **changes,
        }
    )


def evaluated(
    run_id: str, *, passed: bool = True, champion: int | None = None, model: str = MODEL
) -> EvaluationResult:
    """An evaluation against a champion."""
    attempt = str(champion or 0)
    return EvaluationResult(
        verdict="passed" if passed else "failed",
        reason="better than the champion" if passed else "roc_auc 0.61 is below 0.7",
        rows=20,
        metric="roc_auc",
        metrics={"roc_auc": MetricValue(value=0.81, low=0.75, high=0.86)},
        champion_version=champion,
        gates=(
            GateResult(
                gate="metrics[0]",
                passed=passed,
                metric="roc_auc",
                expected="at least 0.7",
                actual="0.81" if passed else "0.61",
            ),
        ),
        evaluation_key=layout.evaluation_key(model, run_id, attempt),
        report_key=layout.report_key(model, run_id, attempt),
    )


def apply(registry: Registry, of: ModelSpec) -> None:
    """Applies a spec as the API does."""
    registry.apply_spec(of, key=layout.spec_key(of.name, of.digest), actor="ann")


def candidate(registry: Registry, number: int, of: ModelSpec | None = None) -> TrainingInput:
    """A run whose model is registered and not yet evaluated; its version is what comes next."""
    the_spec = of or spec()
    apply(registry, the_spec)
    started = run(number, the_spec)
    registry.create_run(started)
    task = training_input(started)
    ingest = ingested(f"d{number}", the_spec.name)
    registry.record_dataset(task, ingest, train_on_upload=True)
    registry.register_version(task, ingest, fitted(task.run_id, the_spec.name))
    return task


def champion(registry: Registry, number: int, of: ModelSpec | None = None) -> int:
    """Trains and promotes one more version, as the pipeline does."""
    task = candidate(registry, number, of)
    version = registry.get_run(task.run_id).model_version
    assert version is not None
    now = registry.get_model(task.model).champion_version
    registry.record_evaluation(
        task, version, evaluated(task.run_id, champion=now, model=task.model), automatic=True
    )
    registry.promote(
        task.model, version, actor="pipeline", expected_champion=now, finishing_run=task.run_id
    )
    return version


def baseline(run_id: str, version: int, dataset_version: str = "d1") -> Baseline:
    """What monitoring compares with: a feature ``left`` from 0 to 4, and scores from 0 to 1."""
    return Baseline(
        schema=1,
        model=MODEL,
        version=version,
        run_id=run_id,
        dataset_version=dataset_version,
        task=Task.BINARY,
        rows=400,
        metric="roc_auc",
        confidence=0.95,
        classes=("false", "true"),
        features=(
            FeatureBaseline(
                name="left",
                type=ColumnType.NUMBER,
                private=False,
                missing=0,
                numeric=NumericBaseline(
                    edges=(0, 1, 2, 3, 4), counts=(100,) * 4, mean=2.0, std=1.2
                ),
            ),
        ),
        scores=ScoreBaseline(edges=(0, 0.25, 0.5, 1), counts=(100, 200, 100), mean=0.5, std=0.2),
        predicted=(200, 200),
        performance={"roc_auc": ReferenceMetric(value=0.8, low=0.78, high=0.82, row_deviation=0.4)},
    )
