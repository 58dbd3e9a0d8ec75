"""Ingest: an uploaded object becomes an immutable dataset version, or a refusal with its reasons.

Idempotent by content: every object of a dataset version is named by its content and written once,
the manifest last; the quarantine is named by the run.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import BaseModel

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.datasets.check import CheckReport, Kept, Prepared, prepare, too_large
from millrace.datasets.engine import Limits
from millrace.datasets.gathering import Gatherer, span_of
from millrace.datasets.table import SPLITS
from millrace.datasets.versions import Manifest, ManifestColumn
from millrace.documents import read_spec
from millrace.errors import ConfigurationError, UploadRefusedError
from millrace.messages import IngestResult, LabelledRows, TrainingInput
from millrace.spec import ModelSpec

JSON: Final = "application/json"
PARQUET: Final = "application/vnd.apache.parquet"
NPZ: Final = "application/octet-stream"


def ingest(
    task: TrainingInput,
    *,
    store: ObjectStore,
    data_bucket: str,
    artifact_bucket: str,
    scratch: Path,
    limits: Limits,
    clock: Callable[[], datetime],
    gatherer: Gatherer | None = None,
) -> IngestResult:
    """Ingests one upload, with the labelled predictions that the run asks for.

    Args:
        task: The run's input: which object, which spec.
        store: Objects.
        data_bucket: Where dataset versions and quarantines go.
        artifact_bucket: Where the spec lies.
        scratch: A directory in which a temporary one may be made; nothing stays in it.
        limits: What may be used.
        clock: Now, in UTC.
        gatherer: Gathers labelled predictions; only a run that asks for them needs it.

    Raises:
        NotFoundError: The object's version or the spec is not there.
        DigestMismatchError: The spec is not the one that was registered.
        ArtifactError: The spec is none this version of Millrace understands.
    """
    spec = read_spec(store, artifact_bucket, task.spec_key, task.spec_digest)
    with tempfile.TemporaryDirectory(prefix="millrace-ingest-", dir=scratch) as directory:
        workspace = Path(directory)
        labelled, prepared = _prepared(task, spec, store, workspace, limits, gatherer)
        if prepared.kept is None:
            return _refused(task, spec, store, data_bucket, prepared)
        return _accepted(task, spec, store, data_bucket, prepared, prepared.kept, clock, labelled)


def _prepared(
    task: TrainingInput,
    spec: ModelSpec,
    store: ObjectStore,
    workspace: Path,
    limits: Limits,
    gatherer: Gatherer | None,
) -> tuple[LabelledRows | None, Prepared]:
    try:
        span = span_of(task, spec)
        if span is None:
            return None, _prepare(task, spec, store, workspace, limits)
        if gatherer is None:
            raise ConfigurationError("a run with labelled predictions needs a gatherer")
        gathered = workspace / "gathered"
        gathered.mkdir()
        labelled, path = gatherer.gather(task, span, spec, gathered, limits)
    except UploadRefusedError as exc:
        return None, Prepared.refusal(exc)
    return labelled, prepare(path, path.name, spec, workspace=workspace, limits=limits)


def _prepare(
    task: TrainingInput, spec: ModelSpec, store: ObjectStore, workspace: Path, limits: Limits
) -> Prepared:
    source = task.source
    try:
        # Known from the event before a byte is fetched; checked again on the file itself.
        if source.size > limits.max_upload_mb * 1024 * 1024:
            raise too_large(source.size, limits)
    except UploadRefusedError as exc:
        return Prepared.refusal(exc)
    path = workspace / "upload"
    store.download(source.bucket, source.key, path, version_id=source.version_id or None)
    return prepare(path, PurePosixPath(source.key).name, spec, workspace=workspace, limits=limits)


def _refused(
    task: TrainingInput,
    spec: ModelSpec,
    store: ObjectStore,
    data_bucket: str,
    prepared: Prepared,
) -> IngestResult:
    report = prepared.report
    return IngestResult(
        outcome="refused",
        code=report.code,
        reason=report.reason,
        rows=report.rows,
        problems=report.problems,
        quarantine_prefix=_quarantine(task, spec, store, data_bucket, prepared),
        seconds=report.seconds,
    )


def _quarantine(
    task: TrainingInput,
    spec: ModelSpec,
    store: ObjectStore,
    data_bucket: str,
    prepared: Prepared,
) -> str:
    """Writes what was wrong; returns its prefix."""
    prefix = layout.quarantine_prefix(task.model, task.run_id)
    if prepared.quarantine is not None:
        body = prepared.quarantine.read_bytes()
        store.write_once(data_bucket, prefix + "rows.parquet", body, content_type=PARQUET)
    document = {
        "model": task.model,
        "run_id": task.run_id,
        "spec_version": task.spec_version,
        "spec_digest": spec.digest,
        "source": task.source.model_dump(mode="json"),
        # How long it took is no property of the upload, and would make each try another document.
        **prepared.report.model_dump(mode="json", exclude={"seconds", "classes"}),
    }
    body = json.dumps(document, indent=2, ensure_ascii=False).encode()
    store.write_once(data_bucket, prefix + "report.json", body, content_type=JSON)
    return prefix


def _accepted(
    task: TrainingInput,
    spec: ModelSpec,
    store: ObjectStore,
    data_bucket: str,
    prepared: Prepared,
    kept: Kept,
    clock: Callable[[], datetime],
    labelled: LabelledRows | None,
) -> IngestResult:
    report = prepared.report
    version, digest = report.dataset_version, spec.data_digest
    prefix = ""
    if report.rows.quarantined:
        prefix = _quarantine(task, spec, store, data_bucket, prepared)
    keys = {
        "data_key": layout.dataset_data_key(task.model, version),
        "manifest_key": layout.dataset_manifest_key(task.model, version),
        "profile_key": layout.dataset_profile_key(task.model, version),
        "schema_key": layout.split_manifest_key(task.model, version, digest),
    }
    if not store.exists(data_bucket, keys["schema_key"]):
        _store_splits(task, store, data_bucket, kept, version, digest)
    if not store.exists(data_bucket, keys["manifest_key"]):
        _store_version(task, spec, store, data_bucket, report, kept, clock, labelled)
    return IngestResult(
        outcome="accepted",
        rows=report.rows,
        problems=report.problems,
        quarantine_prefix=prefix,
        dataset_version=version,
        data_digest=digest,
        split_rows=report.split_rows,
        labelled=labelled,
        seconds=report.seconds,
        **keys,
    )


def _store_splits(
    task: TrainingInput,
    store: ObjectStore,
    data_bucket: str,
    kept: Kept,
    version: str,
    digest: str,
) -> None:
    for name in SPLITS:
        key = layout.split_key(task.model, version, digest, name)
        body = kept.splits[name].read_bytes()
        store.write_once(data_bucket, key, body, content_type=NPZ)
    key = layout.split_manifest_key(task.model, version, digest)
    store.write_once(data_bucket, key, _json(kept.schema), content_type=JSON)


def _store_version(
    task: TrainingInput,
    spec: ModelSpec,
    store: ObjectStore,
    data_bucket: str,
    report: CheckReport,
    kept: Kept,
    clock: Callable[[], datetime],
    labelled: LabelledRows | None,
) -> None:
    version = report.dataset_version
    data_key = layout.dataset_data_key(task.model, version)
    body = kept.data.read_bytes()
    if not store.write_once(data_bucket, data_key, body, content_type=PARQUET):
        # A run that died half-way left the same rows, perhaps in other bytes: describe those.
        body = store.read(data_bucket, data_key)
    store.write_once(
        data_bucket,
        layout.dataset_profile_key(task.model, version),
        _json(kept.profile),
        content_type=JSON,
    )
    manifest = Manifest(
        model=task.model,
        dataset_version=version,
        columns=tuple(
            ManifestColumn(name=c.name, type=c.type, role=c.role) for c in spec.data.columns
        ),
        rows=report.rows,
        classes=report.classes,
        data_key=data_key,
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        source=task.source,
        labelled=labelled,
        run_id=task.run_id,
        spec_version=task.spec_version,
        spec_digest=task.spec_digest,
        created_at=clock().isoformat(),
    )
    store.write_once(
        data_bucket,
        layout.dataset_manifest_key(task.model, version),
        _json(manifest),
        content_type=JSON,
    )


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json(indent=2).encode()
