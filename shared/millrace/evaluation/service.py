"""Evaluates one candidate on the held-out test split and says whether it may be deployed."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import onnxruntime

from millrace import layout
from millrace.attestation import Attestation, Claim
from millrace.aws.objects import ObjectStore
from millrace.datasets.table import Table, TableSchema
from millrace.errors import TrainingError
from millrace.evaluation import curves
from millrace.evaluation.bootstrap import draw, measured, paired_difference
from millrace.evaluation.coverage import measure_coverage
from millrace.evaluation.document import (
    Comparison,
    Drawings,
    Evaluation,
    Measured,
    Provenance,
)
from millrace.evaluation.gates import apply_gates, verdict_reason
from millrace.evaluation.importance import permutation_importance
from millrace.evaluation.metrics import Codes, Floats, Outcome, compute, improvement, prepare
from millrace.evaluation.reference import Judged, describe
from millrace.evaluation.report import render
from millrace.evaluation.scoring import (
    check_split,
    guess,
    model_inputs,
    outcome_classes,
    score,
    why_incomparable,
)
from millrace.evaluation.slices import columns_to_slice, slice_table
from millrace.messages import EvaluateTask, EvaluationResult, MetricValue
from millrace.monitoring.baseline import CONTENT_TYPE as BASELINE_TYPE
from millrace.onnx_session import load_session
from millrace.signature_file import read_signature
from millrace.spec import ModelSpec, Role, Task, metrics_for

_CANDIDATE: Final = "candidate"
_CHAMPION: Final = "champion"


@dataclass(frozen=True, slots=True)
class _Champion:
    version: int
    outcome: Outcome | None
    reason: str = ""


def evaluate(
    task: EvaluateTask,
    *,
    spec: ModelSpec,
    store: ObjectStore,
    data_bucket: str,
    artifact_bucket: str,
    clock: Callable[[], datetime],
    attestation: Attestation | None = None,
) -> EvaluationResult:
    """Evaluates, stores the evaluation and its report, and gives the verdict.

    Idempotent by run and champion: the same candidate against the same champion writes the same
    keys with the same figures; against another champion it writes new ones. The baseline, which
    monitoring compares with, depends on the run alone and is written anew as it was.

    Args:
        task: The candidate, and the champion it is compared with.
        spec: The spec of its run.
        store: Objects.
        data_bucket: Where the test split lies.
        artifact_bucket: Where models lie, and what is written goes.
        clock: Gives the time, aware and in UTC.
        attestation: Checks who signed both; none where nobody need have.

    Raises:
        DigestMismatchError: A model or signature is not the one registered.
        ArtifactError: A stored artifact cannot be used, or is not signed.
        TrainingError: The test split cannot judge anything.
        NotFoundError: A stored artifact is missing.
    """
    started = clock()
    if attestation is not None:
        _check_signed(task, attestation)
    table = _read_test_split(task, store, data_bucket)
    check_split(table)
    candidate_name = f"{task.model}@{task.registration.version}"
    signature = read_signature(
        store,
        artifact_bucket,
        task.fit.signature_key,
        task.fit.signature_sha256,
        candidate_name,
    )
    session = _read_model(
        store, artifact_bucket, task.fit.model_key, task.fit.sha256, candidate_name
    )
    candidate = score(session, signature, table, candidate_name)
    champion = _score_champion(task, store, artifact_bucket, table)

    clusters = _clusters(spec, table)
    metrics, comparison = _measure(spec, candidate, champion, clusters)
    gates = apply_gates(
        spec,
        parity=task.fit.parity,
        metrics=dict(metrics),
        comparison=comparison,
        table=table,
        outcome=candidate,
    )
    headline = spec.training_metric
    passed = all(gate.passed for gate in gates)
    reason = verdict_reason(task.model, gates, headline, metrics[headline], comparison)

    attempt = str(champion.version if champion else 0)
    document = Evaluation(
        model=task.model,
        version=task.registration.version,
        run_id=task.run_id,
        correlation_id=task.correlation_id,
        attempt=attempt,
        evaluated_at=started,
        description=spec.description,
        owner=spec.owner,
        task=spec.task,
        target=spec.target.name,
        classes=table.schema.classes,
        dataset_version=task.ingest.dataset_version,
        split_rows=table.schema.rows,
        rows=table.rows,
        algorithm=task.fit.algorithm,
        params=task.fit.params,
        features=tuple(f.name for f in signature.features),
        cv_metric=task.fit.metric,
        cv_score=task.fit.cv_score,
        metric=headline,
        metrics=metrics,
        guess=_guess(spec, candidate),
        comparison=comparison,
        gates=gates,
        verdict="passed" if passed else "failed",
        reason=reason,
        slices=tuple(
            slice_table(spec, table, candidate, column, gate, spec.train.seed, clusters)
            for column, gate in columns_to_slice(spec).items()
        ),
        importance=permutation_importance(
            session,
            signature,
            model_inputs(signature, table),
            candidate,
            headline,
            spec.train.seed,
        ),
        coverage=measure_coverage(signature.conformal, candidate)
        if signature.conformal is not None
        else None,
        trials=task.trials,
        parity=task.fit.parity,
        provenance=_provenance(task, spec),
        drawings=_drawings(candidate, champion, table),
    )
    baseline = describe(
        Judged(
            spec=spec,
            signature=signature,
            version=task.registration.version,
            run_id=task.run_id,
            dataset_version=task.ingest.dataset_version,
            inputs=model_inputs(signature, table),
            outcome=candidate,
            classes=outcome_classes(signature, table.schema),
            metrics=metrics,
            importance=document.importance,
            moments=_moments(spec, table),
        )
    )
    store.write(
        artifact_bucket,
        layout.baseline_key(task.model, task.run_id),
        baseline.to_bytes(),
        content_type=BASELINE_TYPE,
    )
    evaluation_key = layout.evaluation_key(task.model, task.run_id, attempt)
    report_key = layout.report_key(task.model, task.run_id, attempt)
    store.write(
        artifact_bucket,
        evaluation_key,
        document.model_dump_json().encode(),
        content_type="application/json",
    )
    store.write(
        artifact_bucket,
        report_key,
        render(document).encode(),
        content_type="text/html; charset=utf-8",
    )
    return EvaluationResult(
        verdict=document.verdict,
        reason=reason,
        rows=table.rows,
        metric=headline,
        metrics={name: _plain(value) for name, value in metrics.items()},
        champion_version=champion.version if champion else None,
        champion_metrics={n: _plain(v) for n, v in comparison.metrics.items()}
        if comparison
        else {},
        difference=_gate_difference(spec, comparison),
        gates=gates,
        evaluation_key=evaluation_key,
        report_key=report_key,
        seconds=round((clock() - started).total_seconds(), 3),
    )


def _check_signed(task: EvaluateTask, attestation: Attestation) -> None:
    made, champion = task.registration, task.registration.champion
    attestation.check(
        Claim(
            task.model,
            made.version,
            task.fit.sha256,
            task.fit.signature_sha256,
            made.kms_signature,
            made.kms_key_id,
        )
    )
    if champion is not None:
        attestation.check(
            Claim(
                task.model,
                champion.version,
                champion.sha256,
                champion.signature_sha256,
                champion.kms_signature,
                champion.kms_key_id,
            )
        )


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────


def _read_test_split(task: EvaluateTask, store: ObjectStore, bucket: str) -> Table:
    key = task.ingest.schema_key
    schema = TableSchema.from_bytes(store.read(bucket, key), f"s3://{bucket}/{key}")
    return Table.from_bytes(store.read(bucket, _split_key(task)), schema)


def _split_key(task: EvaluateTask) -> str:
    return layout.split_key(
        task.model, task.ingest.dataset_version, task.ingest.data_digest, "test"
    )


def _read_model(
    store: ObjectStore, bucket: str, key: str, sha256: str, what: str
) -> onnxruntime.InferenceSession:
    return load_session(store.read(bucket, key), sha256, f"model {what}, s3://{bucket}/{key}")


def _score_champion(
    task: EvaluateTask, store: ObjectStore, bucket: str, table: Table
) -> _Champion | None:
    champion = task.registration.champion
    if champion is None:
        return None
    name = f"{task.model}@{champion.version}"
    signature = read_signature(
        store, bucket, champion.signature_key, champion.signature_sha256, name
    )
    reason = why_incomparable(signature, table.schema)
    if reason is not None:
        return _Champion(champion.version, None, reason)
    session = _read_model(store, bucket, champion.model_key, champion.sha256, name)
    return _Champion(champion.version, score(session, signature, table, name))


# ── Measuring ───────────────────────────────────────────────────────────────────────────────────


def _clusters(spec: ModelSpec, table: Table) -> Codes | None:
    """Rows of one entity are drawn together when the spec keeps them together in the split."""
    if spec.split_strategy != "group":
        return None
    (group,) = spec.columns_with(Role.GROUP)
    _, codes = np.unique(table.arrays[group.name], return_inverse=True)
    return codes.astype(np.int64)


def _moments(spec: ModelSpec, table: Table) -> Floats | None:
    """When each row was, where the contract has a column of that."""
    return next((table.arrays[c.name] for c in spec.columns_with(Role.TIME)), None)


def _measure(
    spec: ModelSpec, candidate: Outcome, champion: _Champion | None, clusters: Codes | None
) -> tuple[dict[str, Measured], Comparison | None]:
    models = {_CANDIDATE: candidate}
    if champion is not None and champion.outcome is not None:
        models[_CHAMPION] = champion.outcome
    names = metrics_for(spec.task)
    values = {(model, n): compute(n, outcome) for model, outcome in models.items() for n in names}
    undefined = sorted({n for (_, n), value in values.items() if np.isnan(value)})
    if undefined:
        raise TrainingError(
            f"the test split of {candidate.rows} rows gives no value for {', '.join(undefined)}"
        )
    draws = draw(
        {key: prepare(key[1], models[key[0]]) for key in values},
        candidate.rows,
        spec.evaluate.bootstrap,
        spec.train.seed,
        clusters,
    )
    confidence = spec.evaluate.confidence

    def all_of(model: str) -> dict[str, Measured]:
        return {n: measured(values[model, n], draws[model, n], confidence) for n in names}

    if champion is None:
        return all_of(_CANDIDATE), None
    if champion.outcome is None:
        return all_of(_CANDIDATE), Comparison(
            version=champion.version, comparable=False, reason=champion.reason
        )
    differences = {
        n: measured(
            improvement(n, values[_CANDIDATE, n], values[_CHAMPION, n]),
            paired_difference(n, draws[_CANDIDATE, n], draws[_CHAMPION, n]),
            confidence,
        )
        for n in names
    }
    return all_of(_CANDIDATE), Comparison(
        version=champion.version,
        comparable=True,
        metrics=all_of(_CHAMPION),
        differences=differences,
    )


def _guess(spec: ModelSpec, candidate: Outcome) -> dict[str, float]:
    constant = guess(candidate)
    values = {name: compute(name, constant) for name in metrics_for(spec.task)}
    return {name: value for name, value in values.items() if not np.isnan(value)}


def _gate_difference(spec: ModelSpec, comparison: Comparison | None) -> MetricValue | None:
    if comparison is None or not comparison.comparable:
        return None
    metric = spec.evaluate.against_champion.metric or spec.training_metric
    return _plain(comparison.differences[metric])


def _plain(metric: MetricValue) -> MetricValue:
    """Six digits and no more: the result crosses state boundaries."""

    def short(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.6g}")

    return MetricValue(
        value=float(f"{metric.value:.6g}"), low=short(metric.low), high=short(metric.high)
    )


# ── Describing ──────────────────────────────────────────────────────────────────────────────────


def _drawings(candidate: Outcome, champion: _Champion | None, table: Table) -> Drawings:
    classes = table.schema.classes
    against = champion.outcome if champion is not None else None
    binary, regression = candidate.task is Task.BINARY, candidate.task is Task.REGRESSION
    return Drawings(
        curves=curves.curves(candidate) if binary else None,
        champion_curves=curves.curves(against) if binary and against is not None else None,
        calibration=curves.calibration(candidate),
        scores=curves.score_histogram(candidate, classes),
        residuals=curves.residual_histogram(candidate, against) if regression else None,
        density=curves.density(candidate) if regression else None,
        confusion=None if regression else curves.confusion(candidate, classes),
        class_scores=() if regression else curves.class_scores(candidate, classes),
        operating_points=curves.operating_points(candidate) if binary else (),
    )


def _provenance(task: EvaluateTask, spec: ModelSpec) -> Provenance:
    return Provenance(
        model_key=task.fit.model_key,
        model_sha256=task.fit.sha256,
        signature_key=task.fit.signature_key,
        signature_sha256=task.fit.signature_sha256,
        environment_key=task.fit.environment_key,
        data_key=task.ingest.data_key,
        split_key=_split_key(task),
        spec_key=task.spec_key,
        spec_digest=task.spec_digest,
        spec_version=task.spec_version,
        code_version=task.fit.code_version,
        fit_seed=task.fit.seed,
        split_seed=spec.split.seed,
        split_strategy=spec.split_strategy,
        bootstrap_seed=spec.train.seed,
        bootstrap_resamples=spec.evaluate.bootstrap,
        confidence=spec.evaluate.confidence,
        packages={"numpy": np.__version__, "onnxruntime": onnxruntime.__version__},
        upload=task.source.key,
    )
