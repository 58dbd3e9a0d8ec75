"""The verb `import`: a version that was trained elsewhere comes into this environment by its digest.

Nothing of the bundle is run or unpickled. Its artifacts are written under the names of their
content; the version is registered by a run of its own, named by those digests, so that importing a
bundle again finds what is there. It is judged by the gates of the spec here, on the evidence that
came with it: figures measured on the very artifact. What that evidence cannot show, such as a
comparison with another champion than the one here, is a gate that failed.
"""

import getpass
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError
from rich.text import Text

from millrace import layout
from millrace.attestation import Sign
from millrace.aws.kms import KmsKey
from millrace.aws.objects import ObjectStore, verify_sha256
from millrace.aws.s3 import S3ObjectStore
from millrace.bundle import Bundle
from millrace.decoding import in_words, wrong_fields
from millrace.documents import read_spec
from millrace.errors import ArtifactError, ConflictError, InvalidRequestError, NotFoundError
from millrace.evaluation.document import Evaluation
from millrace.evaluation.gates import AGAINST_CHAMPION, absolute_gate, champion_gate, parity_gate
from millrace.messages import (
    Cause,
    EvaluationResult,
    FitResult,
    GateResult,
    IngestResult,
    MetricValue,
    SourceObject,
    TrainingInput,
)
from millrace.monitoring.baseline import Baseline
from millrace.public_key import attestation_by
from millrace.registry.approvals import Approvals, open_approvals
from millrace.registry.records import (
    ApprovalStatus,
    CarriedVersion,
    ModelVersion,
    Provenance,
    RegisteredModel,
    Run,
    RunStatus,
    VersionStatus,
)
from millrace.registry.registry import Registry, open_registry
from millrace.signature import Signature
from millrace.spec import ModelSpec, SliceGate
from millrace_cli.console import Context, JsonFlag, chosen, out, print_json, reported
from millrace_cli.target import Target

app = typer.Typer()

_SHOWN: Final = 12
"""Digits of a digest that people are shown."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a bundle.

    Attributes:
        model: The model.
        version: Its version here.
        status: Its state here.
        created: False when it was here already.
        reason: The verdict, in words.
        gates: The gates of the spec here.
        provenance: Where it comes from.
        awaits_approval: Whether a person is asked before it may take traffic.
        has_baseline: Whether its inputs and performance are monitored here.
    """

    model: str
    version: int
    status: VersionStatus
    created: bool
    reason: str
    gates: tuple[GateResult, ...]
    provenance: Provenance | None
    awaits_approval: bool = False
    has_baseline: bool = True


@app.command(
    "import",
    epilog="Examples: millrace import churn-7.bundle | millrace --stack millrace-prod import "
    "churn-7.bundle --public-key staging.pem",
)
def import_bundle(
    context: typer.Context,
    bundle: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="What `millrace export` wrote.")
    ],
    to: Annotated[
        str | None,
        typer.Option("--to", help="Stack to import into. Default: the one that is chosen anyway."),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key",
            exists=True,
            dir_okay=False,
            help="Take it only if this key signed it where it comes from (PEM or DER).",
        ),
    ] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", help="Who imports it. Default: you, on this machine.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring a version that another environment exported into this one, by its digest.

    Needs AWS credentials that reach the table, the artifact bucket and, with SignArtifacts, the
    key (docs/promotion.md). It is judged by the gates of the spec here, and promotes nothing.
    """
    with reported(as_json, hint="docs/promotion.md says more"):
        selected: Context = chosen(context)
        target = selected.target() if to is None else selected.target(stack=to)
        context.call_on_close(target.close)
        opened = Bundle.open(bundle)
        if public_key is not None:
            attestation_by(public_key).check(opened.manifest.serving)
        registry = open_registry(
            target.dynamodb, target.outputs.raw["TableName"], sign=signer(target)
        )
        imported = bring_in(
            opened,
            registry=registry,
            approvals=open_approvals(target.dynamodb, target.outputs.raw["TableName"]),
            store=S3ObjectStore(target.s3),
            bucket=target.outputs.artifact_bucket,
            actor=actor or getpass.getuser(),
            clock=lambda: datetime.now(UTC),
        )
        _tell(imported, target, as_json)


def signer(target: Target) -> Sign | None:
    """What signs a version here, with the caller's own rights; None where versions are not signed."""
    arn = target.outputs.raw.get("SigningKeyArn", "")
    return KmsKey(target.kms, arn).sign if arn else None


def bring_in(
    bundle: Bundle,
    *,
    registry: Registry,
    approvals: Approvals,
    store: ObjectStore,
    bucket: str,
    actor: str,
    clock: Callable[[], datetime],
) -> Imported:
    """Registers a bundle's version here. Idempotent by the digests of what is imported.

    Args:
        bundle: The bundle, opened and so compared with its own digests.
        registry: The registry here.
        approvals: Its requests for approval.
        store: Objects here.
        bucket: The artifact bucket here.
        actor: Who imports it.
        clock: Gives the time, aware and in UTC.

    Raises:
        InvalidRequestError: It is no bundle that can be imported.
        ArtifactError: Its parts are not of one version.
        NotFoundError: The model is not here.
        ConflictError: The spec here is for something else.
    """
    parts = _Parts.of(bundle)
    record = parts.carried.version
    model = registry.get_model(record.model)
    spec = read_spec(store, bucket, model.spec_key, model.spec_digest)
    _check_spec(spec, parts.signature, bundle)
    champion = registry.champion(model.name)
    judged = judge(spec, parts, champion)
    run_id = layout.run_id_for_import(
        model.name, record.sha256, record.signature_sha256, parts.evaluation_sha256
    )
    now = clock()
    keys = _write_artifacts(parts, run_id, store, bucket)
    source = SourceObject(bucket=bucket, key=keys["model"], version_id="", size=record.size_bytes)
    reason = f"imported from {parts.carried.environment}, {record.model}@{record.version} there"
    run = Run(
        run_id=run_id,
        model=model.name,
        cause=Cause.IMPORT,
        status=RunStatus.SCHEDULED,
        reason=reason,
        correlation_id=run_id,
        spec_version=model.spec_version,
        spec_digest=model.spec_digest,
        source=source,
        requested_by=actor,
        started_at=now,
    )
    registry.create_run(run)
    registry.start_run(run_id)
    known = registry.get_run(run_id)
    if known.outcome is None:
        asks = spec.approve.mode == "manual"
        _register(
            registry, model, parts, keys, run_id, judged, source, actor, now, asks, store, bucket
        )
        known = registry.get_run(run_id)
    _ask(registry, approvals, model, spec, known, actor)
    if known.model_version is None:
        raise ConflictError(f"run {run_id} was closed as {known.outcome} without a version")
    version = registry.get_version(model.name, known.model_version)
    # Again, for a version that was imported from a bundle that had none yet.
    has_baseline = _write_baseline(parts, version.version, run_id, store, bucket)
    asked = approvals.find(model.name, version.version)
    return Imported(
        model=model.name,
        version=version.version,
        status=version.status,
        created=version.created_at >= now,
        reason=version.reason,
        gates=version.gates,
        provenance=version.provenance,
        awaits_approval=asked is not None and asked.status is ApprovalStatus.PENDING,
        has_baseline=has_baseline,
    )


# ── The bundle's parts ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a bundle, found to be of one version."""

    carried: CarriedVersion
    signature: Signature
    evaluation: Evaluation
    spec: ModelSpec
    bodies: dict[str, bytes]
    evaluation_sha256: str
    bundle_sha256: str
    baseline: Baseline | None
    baseline_sha256: str

    @classmethod
    def of(cls, bundle: Bundle) -> "_Parts":
        """Reads them.

        Raises:
            InvalidRequestError: A part is missing.
            ArtifactError: A part is damaged or of another version.
        """
        path, serving = bundle.path, bundle.manifest.serving
        if bundle.manifest.kind != "bundle":
            raise InvalidRequestError(
                f"{path}: expected a bundle, got one for {bundle.manifest.kind}: export it with "
                "`millrace export MODEL@VERSION`"
            )
        bodies: dict[str, bytes] = {}
        for role in ("model", "signature", "spec", "environment", "evaluation", "record"):
            try:
                bodies[role] = bundle.read_role(role)
            except NotFoundError as exc:
                why = (
                    "it was not evaluated, so there is no evidence to judge it by"
                    if role == "evaluation"
                    else f"format {bundle.manifest.format_version} has none: export it anew"
                )
                raise InvalidRequestError(f"{path}: the bundle has no {role}: {why}") from exc
        if any(f.path == "report.html" for f in bundle.manifest.files):
            bodies["report"] = bundle.read("report.html")
        try:
            carried = CarriedVersion.model_validate_json(bodies["record"])
            evaluation = Evaluation.model_validate_json(bodies["evaluation"])
        except ValidationError as exc:
            raise ArtifactError(f"{path}: {in_words(wrong_fields(exc))}") from None
        record = carried.version
        baseline, baseline_sha256 = None, ""
        if bundle.manifest.of_role("baseline") is not None:
            body = bundle.read_role("baseline")
            baseline = Baseline.from_bytes(body, f"{path}: baseline.json")
            baseline_sha256 = hashlib.sha256(body).hexdigest()
        verify_sha256(bodies["spec"], record.spec_digest, f"{path}: spec.json")
        signature = Signature.from_json(bodies["signature"])
        environment = _document(bodies["environment"], path, "environment.json")
        found = evaluation.provenance
        for what, came, expected in (
            ("version.json: model", record.model, serving.model),
            ("version.json: version", record.version, serving.version),
            ("version.json: sha256", record.sha256, serving.sha256),
            ("version.json: signature", record.signature_sha256, serving.signature_sha256),
            ("signature.json: model", signature.model, serving.model),
            ("evaluation.json: model", found.model_sha256, serving.sha256),
            ("evaluation.json: signature", found.signature_sha256, serving.signature_sha256),
            ("environment.json: model", environment.get("model_sha256"), serving.sha256),
            *_of_baseline(baseline, record),
        ):
            if came != expected:
                raise ArtifactError(f"{path}: {what}: expected {expected}, got {came}")
        return cls(
            carried=carried,
            signature=signature,
            evaluation=evaluation,
            spec=ModelSpec.from_document(_document(bodies["spec"], path, "spec.json")),
            bodies=bodies,
            evaluation_sha256=hashlib.sha256(bodies["evaluation"]).hexdigest(),
            bundle_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            baseline=baseline,
            baseline_sha256=baseline_sha256,
        )


def _of_baseline(
    baseline: Baseline | None, record: ModelVersion
) -> tuple[tuple[str, object, object], ...]:
    """What a baseline says of itself beside what the version's record says."""
    if baseline is None:
        return ()
    return (
        ("baseline.json: model", baseline.model, record.model),
        ("baseline.json: version", baseline.version, record.version),
        ("baseline.json: run", baseline.run_id, record.run_id),
        ("baseline.json: dataset version", baseline.dataset_version, record.dataset_version),
    )


def _document(body: bytes, path: Path, name: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError as exc:
        raise ArtifactError(f"{path}: {name} is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise ArtifactError(f"{path}: {name}: expected an object")
    return document


def _check_spec(spec: ModelSpec, signature: Signature, bundle: Bundle) -> None:
    """That the spec here is for what the bundle predicts, from columns that it knows."""
    columns = {c.name: c.type for c in spec.data.columns} if spec.data.columns else {}
    if (spec.task, spec.target.name) != (signature.task, signature.target):
        raise ConflictError(
            f"{bundle.path}: the spec of {spec.name} here is for {spec.task} of "
            f"{spec.target.name}, the bundle for {signature.task} of {signature.target}"
        )
    other = sorted(
        f.name for f in signature.features if columns and columns.get(f.name) is not f.type
    )
    if other:
        raise ConflictError(
            f"{bundle.path}: the contract of {spec.name} here lacks, or has as another type, "
            f"what the bundle asks for: {', '.join(other[:10])}"
        )


# ── The gates ───────────────────────────────────────────────────────────────────────────────────


def judge(
    spec: ModelSpec, parts: _Parts, champion: ModelVersion | None
) -> tuple[tuple[GateResult, ...], str]:
    """Every gate of the spec here, on the evidence that came, and the verdict in a sentence.

    Args:
        spec: The spec here.
        parts: The bundle.
        champion: The champion here, if there is one.
    """
    evaluation = parts.evaluation
    gates = (
        parity_gate(evaluation.parity),
        *(
            absolute_gate(i, g, evaluation.metrics[g.metric])
            if g.metric in evaluation.metrics
            else _unmeasured(f"metrics[{i}]", g.metric)
            for i, g in enumerate(spec.evaluate.metrics)
        ),
        _against(spec, parts, champion),
        *(_slice(i, g, parts) for i, g in enumerate(spec.evaluate.slices)),
    )
    failed = [g for g in gates if not g.passed]
    origin = f"{parts.carried.version.version} of {parts.carried.environment}"
    if not failed:
        return gates, f"imported from version {origin}: all {len(gates)} gates passed"
    shown = "; ".join(f"{g.gate}: expected {g.expected}, got {g.actual}" for g in failed[:3])
    return gates, f"imported from version {origin}: failed {len(failed)} of {len(gates)}: {shown}"


def _unmeasured(gate: str, metric: str) -> GateResult:
    return GateResult(
        gate=gate,
        passed=False,
        metric=metric,
        expected=f"{metric} measured where the version comes from",
        actual="it was not measured there",
    )


def _against(spec: ModelSpec, parts: _Parts, champion: ModelVersion | None) -> GateResult:
    gate = spec.evaluate.against_champion
    metric = gate.metric or spec.training_metric
    if champion is None or champion.sha256 == parts.carried.version.sha256:
        return champion_gate(gate, metric, None)
    compared, comparison = parts.carried.compared_with_sha256, parts.evaluation.comparison
    name = f"{champion.model}@{champion.version}, the champion here"
    if comparison is None or compared != champion.sha256:
        told = f"with sha256 {compared[:_SHOWN]}" if compared else "with no champion"
        return GateResult(
            gate=AGAINST_CHAMPION,
            passed=False,
            metric=metric,
            expected=f"compared with {name} (sha256 {champion.sha256[:_SHOWN]})",
            actual=f"compared {told} where it comes from",
        )
    if comparison.comparable and metric not in comparison.differences:
        return _unmeasured(AGAINST_CHAMPION, metric)
    return champion_gate(gate, metric, comparison.model_copy(update={"version": champion.version}))


def _slice(index: int, gate: SliceGate, parts: _Parts) -> GateResult:
    """A slice gate that was the same there keeps its result; another was not judged there."""
    there = parts.spec.evaluate.slices
    for other, found in enumerate(there):
        if found == gate:
            result = next((g for g in parts.evaluation.gates if g.gate == f"slices[{other}]"), None)
            if result is not None:
                return result.model_copy(update={"gate": f"slices[{index}]"})
    return _unmeasured(f"slices[{index}]", gate.metric)


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────


def _write_artifacts(parts: _Parts, run_id: str, store: ObjectStore, bucket: str) -> dict[str, str]:
    """Writes what is not there yet; gives each part's key."""
    record, bodies = parts.carried.version, parts.bodies
    digests = {role: hashlib.sha256(body).hexdigest() for role, body in bodies.items()}
    keys = {
        "model": layout.model_key(record.model, digests["model"]),
        "signature": layout.signature_key(record.model, digests["signature"]),
        "environment": layout.environment_key(record.model, digests["environment"]),
        "spec": layout.spec_key(record.model, digests["spec"]),
        "evaluation": layout.evaluation_key(record.model, run_id, "imported"),
    }
    if "report" in bodies:
        keys["report"] = layout.report_key(record.model, run_id, "imported")
    for role, key in keys.items():
        kind = "application/json"
        if role == "model":
            kind = "application/octet-stream"
        elif role == "report":
            kind = "text/html; charset=utf-8"
        if not store.write_once(bucket, key, bodies[role], content_type=kind):
            verify_sha256(store.read(bucket, key), digests[role], f"s3://{bucket}/{key}")
    return keys


def _write_baseline(
    parts: _Parts, version: int, run_id: str, store: ObjectStore, bucket: str
) -> bool:
    """Writes the baseline as that of the version here; whether there is one."""
    key = layout.baseline_key(parts.carried.version.model, run_id)
    if parts.baseline is None:
        return store.exists(bucket, key)
    body = parts.baseline.model_copy(update={"version": version, "run_id": run_id}).to_bytes()
    if not store.write_once(bucket, key, body, content_type="application/json"):
        verify_sha256(
            store.read(bucket, key), hashlib.sha256(body).hexdigest(), f"s3://{bucket}/{key}"
        )
    return True


def _register(
    registry: Registry,
    model: RegisteredModel,
    parts: _Parts,
    keys: dict[str, str],
    run_id: str,
    judged: tuple[tuple[GateResult, ...], str],
    source: SourceObject,
    actor: str,
    now: datetime,
    asks: bool,
    store: ObjectStore,
    bucket: str,
) -> None:
    record, evaluation = parts.carried.version, parts.evaluation
    gates, reason = judged
    task = TrainingInput(
        run_id=run_id,
        model=model.name,
        cause=Cause.IMPORT,
        correlation_id=run_id,
        spec_version=model.spec_version,
        spec_key=keys["spec"],
        # Of the spec it was trained with: its own part of the lineage.
        spec_digest=record.spec_digest,
        source=source,
        requested_by=actor,
        reason=reason,
    )
    ingest = IngestResult(outcome="accepted", dataset_version=record.dataset_version)
    fit = FitResult(
        trial_id=0,
        algorithm=record.algorithm,
        params=record.params,
        metric=record.cv_metric,
        cv_score=record.cv_score,
        cv_score_std=0.0,
        validation_score=record.cv_score,
        rows=sum(evaluation.split_rows.values()),
        model_key=keys["model"],
        sha256=record.sha256,
        size_bytes=record.size_bytes,
        signature_key=keys["signature"],
        signature_sha256=record.signature_sha256,
        environment_key=keys["environment"],
        parity=record.parity,
        code_version=record.code_version,
        seed=record.seed,
        seconds=0.0,
    )
    registered = registry.register_version(
        task,
        ingest,
        fit,
        provenance=Provenance(
            environment=parts.carried.environment,
            version=record.version,
            bundle_sha256=parts.bundle_sha256,
            evaluation_sha256=parts.evaluation_sha256,
            baseline_sha256=parts.baseline_sha256,
            compared_with_sha256=parts.carried.compared_with_sha256,
            approval=parts.carried.approval,
            kms_signature=record.kms_signature,
            kms_key_id=record.kms_key_id,
            imported_at=now,
            imported_by=actor,
            needs_approval=asks,
        ),
    )
    # Before it may take traffic: its first requests are counted in its bins.
    _write_baseline(parts, registered.version, run_id, store, bucket)
    registry.record_evaluation(
        task,
        registered.version,
        EvaluationResult(
            verdict="passed" if all(g.passed for g in gates) else "failed",
            reason=reason,
            rows=evaluation.rows,
            metric=evaluation.metric,
            metrics={
                n: MetricValue(value=m.value, low=m.low, high=m.high)
                for n, m in evaluation.metrics.items()
            },
            champion_version=model.champion_version,
            gates=gates,
            evaluation_key=keys["evaluation"],
            report_key=keys.get("report", ""),
        ),
        # Whoever promotes it here says so: an import changes no traffic.
        automatic=False,
    )


def _ask(
    registry: Registry,
    approvals: Approvals,
    model: RegisteredModel,
    spec: ModelSpec,
    run: Run,
    actor: str,
) -> None:
    """Asks a person, where the spec here wants one; no machine waits for the answer."""
    if run.model_version is None or run.outcome is not None:
        return
    version = registry.get_version(model.name, run.model_version)
    origin = version.provenance
    if origin is None or not origin.needs_approval or version.status is not VersionStatus.VALIDATED:
        return
    if approvals.find(model.name, version.version) is not None:
        return
    applied_by = registry.get_spec(model.name, model.spec_version).created_by
    approvals.request(
        model.name,
        version.version,
        task_token="",
        timeout=timedelta(seconds=spec.approve.timeout_seconds),
        four_eyes=spec.approve.four_eyes,
        barred={
            applied_by: f"applied the spec {model.name}/{model.spec_version}",
            actor: "imported it",
        },
        approvers=spec.approve.approvers,
        requested_by=actor,
    )


def _tell(imported: Imported, target: Target, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "model": imported.model,
                "version": imported.version,
                "status": imported.status.value,
                "created": imported.created,
                "reason": imported.reason,
                "awaits_approval": imported.awaits_approval,
                "has_baseline": imported.has_baseline,
                "gates": [g.model_dump(mode="json") for g in imported.gates],
                "provenance": None
                if imported.provenance is None
                else imported.provenance.model_dump(mode="json"),
            }
        )
        return
    name = f"{imported.model}@{imported.version}"
    how = "is registered" if imported.created else "was here already"
    out.print("[green]✓[/]", Text(name, style="bold"), f"{how}, {imported.status.value}")
    _tell_gates(imported.gates)
    out.print(Text(f"  {imported.reason}", style="dim"), soft_wrap=True)
    if not imported.has_baseline:
        out.print(
            Text(
                "  the bundle has no baseline: here its traffic is monitored, and neither its inputs "
                "nor its performance. Export it anew where it was trained, and import it again",
                style="yellow",
            ),
            soft_wrap=True,
        )
    if imported.status is VersionStatus.VALIDATED:
        stack = f"--stack {target.stack} " if target.stack != "millrace" else ""
        verb = "approve" if imported.awaits_approval else "promote"
        out.print(Text(f"  next: millrace {stack}{verb} {name}", style="dim"), soft_wrap=True)


def _tell_gates(gates: Sequence[GateResult]) -> None:
    for gate in gates:
        mark = "[green]✓[/]" if gate.passed else "[red]✗[/]"
        out.print(" ", mark, Text(f"{gate.gate}: {gate.actual}"), soft_wrap=True)
