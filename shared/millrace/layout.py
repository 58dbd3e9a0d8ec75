"""Where things lie in S3 and what runs are called: the only place that builds keys.

Data bucket: ``incoming/`` uploads, ``datasets/`` immutable versions, ``quarantine/`` bad rows;
``batch/`` files to be scored, ``work/`` a batch job's chunks, ``results/`` what was made of them;
``capture/`` captured predictions, ``capture-rejected/`` lines that are none, ``feedback/`` uploaded
labels.
Artifact bucket: ``specs/``, ``models/`` and ``monitor/``; nothing personal lies there.
"""

import hashlib
import re
from datetime import datetime
from typing import Literal
from urllib.parse import unquote

from millrace.errors import InvalidEventError
from millrace.vocabulary import MODEL_NAME_PATTERN

INCOMING = "incoming/"
BATCH = "batch/"
WORK = "work/"
RESULTS = "results/"
FEEDBACK = "feedback/"
CAPTURE = "capture/"
CAPTURE_REJECTED = "capture-rejected/"
SUPPORTED_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".parquet")


def incoming_key(model: str, filename: str) -> str:
    """Where an upload goes to start a training."""
    return f"{INCOMING}{model}/{filename}"


def feedback_key(model: str, filename: str) -> str:
    """Where a file of labels goes."""
    return f"{FEEDBACK}{model}/{filename}"


def model_of_incoming(key: str) -> str:
    """The model an uploaded object is meant for.

    Raises:
        InvalidEventError: The key is not ``incoming/<model>/<file>``.
    """
    return _model_of(key, INCOMING)


def batch_key(model: str, filename: str) -> str:
    """Where a file goes to be scored."""
    return f"{BATCH}{model}/{filename}"


def model_of_batch(key: str) -> str:
    """The model that is to score an uploaded object.

    Raises:
        InvalidEventError: The key is not ``batch/<model>/<file>``.
    """
    return _model_of(key, BATCH)


def model_of_feedback(key: str) -> str:
    """The model that a file of labels belongs to.

    Raises:
        InvalidEventError: The key is not ``feedback/<model>/<file>``.
    """
    return _model_of(key, FEEDBACK)


def _model_of(key: str, folder: str) -> str:
    parts = key.split("/", 2)
    if len(parts) != 3 or parts[0] + "/" != folder or not parts[2]:
        raise InvalidEventError(f"expected a key {folder}<model>/<file>, got {key!r}")
    if not re.match(MODEL_NAME_PATTERN, parts[1]):
        raise InvalidEventError(
            f"{parts[1]!r} in key {key!r} is no model name: 2 to 40 lower-case letters, "
            "digits and hyphens, beginning with a letter"
        )
    return parts[1]


def run_id_for_upload(model: str, bucket: str, key: str, version_id: str) -> str:
    """The run an upload starts: a pure function of the object's version, so twice is once."""
    return _run_id(model, "upload", bucket, unquote(key), version_id)


def run_id_for_retrain(model: str, token: str) -> str:
    """The run a retraining request starts; ``token`` is the caller's idempotency token."""
    return _run_id(model, "retrain", token)


def run_id_for_import(model: str, *digests: str) -> str:
    """The run that an imported version is registered by: of what is imported, so twice is once."""
    return _run_id(model, "import", *digests)


def batch_id_for(model: str, bucket: str, key: str, version_id: str) -> str:
    """The batch job of an object's version: the same object delivered twice is one job."""
    return _batch_id(model, "object", bucket, unquote(key), version_id)


def reserved_batch_id(model: str, key: str) -> str:
    """The job that a key names itself, as those of presigned uploads do; empty for others."""
    parts = unquote(key).split("/")
    named = len(parts) == 4 and re.fullmatch(re.escape(model) + r"-batch-[0-9a-f]{24}", parts[2])
    return parts[2] if named else ""


def reserved_batch_key(model: str, token: str, filename: str) -> tuple[str, str]:
    """The id of a job to come and the key its file is to be uploaded to."""
    batch_id = _batch_id(model, "reserved", token)
    return batch_id, batch_key(model, f"{batch_id}/{filename}")


def _batch_id(model: str, *parts: str) -> str:
    digest = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
    return f"{model}-batch-{digest[:24]}"


def batch_execution(batch_id: str, attempt: int) -> str:
    """Name of the execution of a job's attempt."""
    return batch_id if attempt == 1 else f"{batch_id}-{attempt}"


def batch_work(model: str, batch_id: str) -> str:
    """Data bucket: what a job keeps between its steps; the bucket forgets it after some days."""
    return f"{WORK}{model}/{batch_id}/"


def batch_plan_key(model: str, batch_id: str) -> str:
    """Data bucket: how the file was split, `batch.splitting.Plan` as JSON; written last."""
    return batch_work(model, batch_id) + "plan.json"


def batch_rows_key(model: str, batch_id: str) -> str:
    """Data bucket: every row's number, id and whether it is quarantined, as Parquet in order."""
    return batch_work(model, batch_id) + "rows.parquet"


def batch_chunk_key(model: str, batch_id: str, chunk: int) -> str:
    """Data bucket: the features of some rows, `batch.chunks.Chunk` without pickled objects."""
    return batch_work(model, batch_id) + f"chunks/{chunk:05d}.npz"


def batch_scores_prefix(model: str, batch_id: str) -> str:
    """Data bucket: one object per chunk that is scored, so that counting them tells how far it is."""
    return batch_work(model, batch_id) + "scores/"


def batch_scores_key(model: str, batch_id: str, chunk: int) -> str:
    """Data bucket: what the model said to a chunk, `batch.chunks.Scores`; written once."""
    return batch_scores_prefix(model, batch_id) + f"{chunk:05d}.npz"


def batch_results(model: str, batch_id: str) -> str:
    """Data bucket: what a job gives: predictions, quarantine, summary, report, manifest."""
    return f"{RESULTS}{model}/{batch_id}/"


def _run_id(model: str, *parts: str) -> str:
    digest = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
    return f"{model}-{digest[:24]}"


def spec_key(model: str, digest: str) -> str:
    """Artifact bucket: the canonical JSON of a spec, content-addressed."""
    return f"specs/{model}/{digest}.json"


def dataset_prefix(model: str, dataset_version: str) -> str:
    """Data bucket: everything of one dataset version."""
    return f"datasets/{model}/{dataset_version}/"


def dataset_data_key(model: str, dataset_version: str) -> str:
    """Data bucket: the rows as Parquet, sorted by row digest."""
    return dataset_prefix(model, dataset_version) + "data.parquet"


def dataset_manifest_key(model: str, dataset_version: str) -> str:
    """Data bucket: `datasets.manifest.Manifest` as JSON."""
    return dataset_prefix(model, dataset_version) + "manifest.json"


def labelled_rows_key(model: str, run_id: str) -> str:
    """Data bucket: the labelled predictions that a training takes in."""
    return f"datasets/{model}/labelled/{run_id}.parquet"


def dataset_profile_key(model: str, dataset_version: str) -> str:
    """Data bucket: the profile (the later drift baseline) as JSON."""
    return dataset_prefix(model, dataset_version) + "profile.json"


def split_key(model: str, dataset_version: str, data_digest: str, split: str) -> str:
    """Data bucket: one split (train, validation, test) as ``.npz`` without pickled objects."""
    return dataset_prefix(model, dataset_version) + f"splits/{data_digest[:16]}/{split}.npz"


def split_manifest_key(model: str, dataset_version: str, data_digest: str) -> str:
    """Data bucket: what the splits hold, `datasets.table.TableSchema` as JSON."""
    return dataset_prefix(model, dataset_version) + f"splits/{data_digest[:16]}/schema.json"


def quarantine_prefix(model: str, run_id: str) -> str:
    """Data bucket: ``rows.parquet`` (bad rows with reasons) and ``report.json`` of one upload."""
    return f"quarantine/{model}/{run_id}/"


def capture_prefix(model: str, hour: datetime) -> str:
    """Data bucket: what was captured of a model in one hour (UTC)."""
    return f"{CAPTURE}{model}/date={hour:%Y-%m-%d}/{hour:%H}-"


def capture_key(model: str, hour: datetime, digest: str, compacted: int | None = None) -> str:
    """Data bucket: captured predictions of one hour, as gzipped JSON Lines.

    Of one delivered batch; or of several objects put together, and then of so many requests.
    """
    number = "" if compacted is None else f"-{compacted}"
    return f"{capture_prefix(model, hour)}{digest}{number}.jsonl.gz"


def compacted_requests(key: str) -> int:
    """Requests of an object that was put together, by its key; 0 for a delivery's."""
    named = re.search(r"-(\d+)\.jsonl\.gz$", key)
    return int(named[1]) if named and key.rpartition("/")[2].count("-") == 2 else 0


def rejected_capture_key(logged: datetime, digest: str) -> str:
    """Data bucket: lines of one delivery that are no captured predictions, each with its reason."""
    return f"{CAPTURE_REJECTED}date={logged:%Y-%m-%d}/{digest}.jsonl.gz"


def feedback_report_key(model: str, bucket: str, key: str, version_id: str) -> str:
    """Data bucket: what became of one file of labels; named by the object's version."""
    digest = hashlib.sha256("\x1f".join((bucket, unquote(key), version_id)).encode()).hexdigest()
    return quarantine_prefix(model, f"feedback-{digest[:24]}") + "report.json"


def run_prefix(model: str, run_id: str) -> str:
    """Artifact bucket: everything one run made."""
    return f"models/{model}/runs/{run_id}/"


def artifacts_prefix(model: str) -> str:
    """Artifact bucket: what versions of a model are made of, by content."""
    return f"models/{model}/sha256/"


def model_key(model: str, sha256: str) -> str:
    """Artifact bucket: the whole pipeline as ONNX, content-addressed."""
    return f"{artifacts_prefix(model)}{sha256}/model.onnx"


def signature_key(model: str, sha256: str) -> str:
    """Artifact bucket: `signature.Signature` as JSON, content-addressed."""
    return f"{artifacts_prefix(model)}{sha256}/signature.json"


def environment_key(model: str, sha256: str) -> str:
    """Artifact bucket: package versions, code version and seeds of the fit, content-addressed."""
    return f"{artifacts_prefix(model)}{sha256}/environment.json"


def evaluation_key(model: str, run_id: str, attempt: str) -> str:
    """Artifact bucket: the whole evaluation as JSON; one per attempt, as the champion may change."""
    return run_prefix(model, run_id) + f"evaluation-{attempt}.json"


def report_key(model: str, run_id: str, attempt: str) -> str:
    """Artifact bucket: the self-contained HTML report of one evaluation attempt."""
    return run_prefix(model, run_id) + f"report-{attempt}.html"


def monitor_prefix(model: str) -> str:
    """Artifact bucket: what monitoring reports of a model."""
    return f"monitor/{model}/"


def monitor_report_key(model: str, since: datetime, form: Literal["json", "html"]) -> str:
    """Artifact bucket: the report of the window that began then (UTC)."""
    return monitor_prefix(model) + f"{since:%Y-%m-%dT%H%MZ}.{form}"


def latest_monitor_report_key(model: str, form: Literal["json", "html"]) -> str:
    """Artifact bucket: the report of the newest window."""
    return monitor_prefix(model) + f"latest.{form}"


def baseline_key(model: str, run_id: str) -> str:
    """Artifact bucket: what monitoring compares with, `monitoring.baseline.Baseline` as JSON."""
    return run_prefix(model, run_id) + "baseline.json"
