"""Messages between the states of the TRAINING machine: keys and small facts, never data.

Each Lambda task gets one request model and gives one result model. The machine's payload is
`TrainingInput` with one field added per step: ``ingest``, ``dataset``, ``plan``, ``trials``,
``fit``, ``registration``, ``evaluation``, ``verdict``, ``promotion``.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from millrace.errors import InvalidEventError
from millrace.spec import Algorithm, ModelName


class Message(BaseModel):
    """Base of everything that crosses a state boundary."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Cause(StrEnum):
    """What started a training."""

    UPLOAD = "upload"
    RETRAIN = "retrain"
    DRIFT = "drift"
    """An alarm on the model's performance."""
    SCHEDULE = "schedule"
    """The calendar of the spec's ``retrain.on_schedule``."""
    IMPORT = "import"
    """Nothing is trained: a version comes from another environment."""


class SourceObject(Message):
    """The uploaded object, by version."""

    bucket: str
    key: str
    version_id: str
    size: int = 0
    etag: str = ""


class LabelledSpan(Message):
    """Which labelled predictions a training takes in beside the rows of an upload.

    Attributes:
        base_version: The dataset version of the upload, whose rows stay in.
        base_key: Its rows.
        previous_key: Labelled rows that earlier trainings took in; empty when none did.
        since: Predictions from then on.
        until: Predictions before then.
    """

    base_version: str
    base_key: str
    previous_key: str = ""
    since: datetime
    until: datetime


class LabelledRows(Message):
    """The labelled predictions in a dataset version.

    Attributes:
        base_version: The dataset version of the upload, whose rows are in it too.
        base_key: Its rows.
        key: The labelled rows.
        rows: How many.
        new: How many no earlier training took in.
        lacking: Rows left out, because their version took other features.
        since: Predictions from then on were looked at.
        until: Predictions before then.
    """

    base_version: str
    base_key: str
    key: str
    rows: int
    new: int
    lacking: int = 0
    since: datetime
    until: datetime


class TrainingInput(Message):
    """Input of one TRAINING execution; every task receives at least this."""

    run_id: str
    model: ModelName
    cause: Cause
    correlation_id: str
    spec_version: int
    spec_key: str
    spec_digest: str
    source: SourceObject
    labelled: LabelledSpan | None = None
    """Labelled predictions that stand beside the upload's rows; None for the upload alone."""
    force: bool = False
    """Train even when this dataset version was trained with this spec before (retrain)."""
    requested_by: str = ""
    reason: str = ""


# ── Ingest ──────────────────────────────────────────────────────────────────────────────────────


class RowCounts(Message):
    """Rows of one upload."""

    read: int
    accepted: int
    quarantined: int


class ColumnProblem(Message):
    """How often one rule was broken in one column."""

    column: str
    rule: str
    count: int
    first_row: int
    """1-based number of the first bad data row (the header is not counted)."""
    example: str = ""
    """What came, empty for private columns."""


class IngestResult(Message):
    """What became of the upload."""

    outcome: Literal["accepted", "refused"]
    code: str = ""
    reason: str = ""
    rows: RowCounts = RowCounts(read=0, accepted=0, quarantined=0)
    problems: tuple[ColumnProblem, ...] = ()
    """At most 20, the most frequent first."""
    quarantine_prefix: str = ""
    dataset_version: str = ""
    data_digest: str = ""
    data_key: str = ""
    manifest_key: str = ""
    profile_key: str = ""
    schema_key: str = ""
    split_rows: dict[str, int] = {}
    labelled: LabelledRows | None = None
    seconds: float = 0.0


# ── Train: plan, trial, fit ─────────────────────────────────────────────────────────────────────


class Trial(Message):
    """One point of the search space."""

    trial_id: int
    algorithm: Algorithm
    params: dict[str, Any]
    seed: int


class Plan(Message):
    """What the search will try."""

    metric: str
    higher_is_better: bool
    folds: int
    trials: tuple[Trial, ...]


class TrialResult(Message):
    """What one trial gave."""

    trial_id: int
    algorithm: Algorithm
    params: dict[str, Any]
    status: Literal["finished", "failed"] = "finished"
    metric: str
    score: float | None = None
    score_std: float | None = None
    fold_scores: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""


class Parity(Message):
    """Agreement of ONNX and scikit-learn on held-out rows and on hostile rows."""

    rows: int
    hostile_rows: int
    """Rows with missing values, unseen categories and extreme numbers put in."""
    max_difference: float
    tolerance: float
    label_mismatches: int


class FitResult(Message):
    """The winner, fitted on train plus validation and exported."""

    trial_id: int
    algorithm: Algorithm
    params: dict[str, Any]
    metric: str
    cv_score: float
    cv_score_std: float
    validation_score: float
    rows: int
    model_key: str
    sha256: str
    size_bytes: int
    signature_key: str
    signature_sha256: str
    environment_key: str
    parity: Parity
    code_version: str
    seed: int
    seconds: float


class PlanTask(TrainingInput):
    """Train function, action plan."""

    action: Literal["plan"]
    ingest: IngestResult


class TrialTask(TrainingInput):
    """Train function, action trial."""

    action: Literal["trial"]
    ingest: IngestResult
    plan_metric: str
    folds: int
    trial: Trial


class FitTask(TrainingInput):
    """Train function, action fit."""

    action: Literal["fit"]
    ingest: IngestResult
    plan: Plan
    trials: tuple[TrialResult, ...]


# ── Registry ────────────────────────────────────────────────────────────────────────────────────


class ChampionRef(Message):
    """The reigning champion as the candidate will be compared with."""

    version: int
    run_id: str
    model_key: str
    sha256: str
    signature_key: str
    signature_sha256: str
    kms_signature: str = ""
    kms_key_id: str = ""


class DatasetDecision(Message):
    """What the registry says to a dataset version."""

    decision: Literal["train", "unchanged", "stored"]
    """``stored``: recorded, and the spec does not train on upload."""
    new_version: bool
    trained_by_run: str = ""
    reason: str = ""


class Registration(Message):
    """The model version a run made."""

    version: int
    champion: ChampionRef | None = None
    kms_signature: str = ""
    """Of the version's statement (`attestation`); empty when it is not signed."""
    kms_key_id: str = ""


class MetricValue(Message):
    """A metric with its bootstrap interval."""

    value: float
    low: float | None = None
    high: float | None = None


class GateResult(Message):
    """One gate's verdict."""

    gate: str
    """Stable name such as ``metrics[0]``, ``against_champion``, ``slices[1]``."""
    passed: bool
    metric: str
    expected: str
    """What was expected, in words."""
    actual: str
    """What came, in words."""


class EvaluationResult(Message):
    """The evaluation of one candidate on the held-out test split."""

    verdict: Literal["passed", "failed"]
    reason: str
    rows: int
    metric: str
    metrics: dict[str, MetricValue]
    champion_version: int | None = None
    champion_metrics: dict[str, MetricValue] = {}
    difference: MetricValue | None = None
    """Candidate minus champion in the gate's metric, signed so that positive is better."""
    gates: tuple[GateResult, ...]
    evaluation_key: str
    report_key: str
    seconds: float = 0.0


class EvaluateTask(TrainingInput):
    """Evaluate function."""

    ingest: IngestResult
    fit: FitResult
    trials: tuple[TrialResult, ...] = ()
    registration: Registration


class Verdict(Message):
    """What happens with the evaluated version."""

    decision: Literal["promote", "await_approval", "reject"]
    reason: str
    approval_seconds: int = 0
    """How long the machine waits for an answer; the Approve state reads it."""


class ApprovalSettlement(Message):
    """What became of a request for approval."""

    decision: Literal["approved", "rejected", "expired", "superseded", "pending"]
    reason: str = ""


class Promotion(Message):
    """The new champion; with another strategy than all-at-once, who is to become it."""

    version: int
    previous: int | None = None
    strategy: str = "all-at-once"
    """Of the spec's rollout; the machine reads it."""


class RecordDatasetTask(TrainingInput):
    """Registry function: record the dataset version, decide whether to train."""

    action: Literal["record_dataset"]
    ingest: IngestResult


class RecordRefusalTask(TrainingInput):
    """Registry function: close the run of a refused upload and notify."""

    action: Literal["record_refusal"]
    ingest: IngestResult


class RecordTrialTask(TrainingInput):
    """Registry function: one trial's params and metrics."""

    action: Literal["record_trial"]
    trial: TrialResult


class RegisterTask(TrainingInput):
    """Registry function: allocate the version of this run (once) and name the champion."""

    action: Literal["register"]
    ingest: IngestResult
    fit: FitResult
    trials: tuple[TrialResult, ...] = ()


class ReadChampionTask(TrainingInput):
    """Registry function: the champion as it is now, before an evaluation is repeated."""

    action: Literal["read_champion"]
    registration: Registration


class RecordEvaluationTask(TrainingInput):
    """Registry function: attach metrics and gates, move the version's state."""

    action: Literal["record_evaluation"]
    registration: Registration
    evaluation: EvaluationResult


class RequestApprovalTask(TrainingInput):
    """Registry function: ask a person; the machine waits with this token for the answer."""

    action: Literal["request_approval"]
    task_token: str = Field(min_length=1, repr=False)
    registration: Registration
    evaluation: EvaluationResult


class SettleApprovalTask(TrainingInput):
    """Registry function: what was decided, once the machine was woken."""

    action: Literal["settle_approval"]
    registration: Registration


class ExpireApprovalTask(TrainingInput):
    """Registry function: what was decided, once the time for it was over."""

    action: Literal["expire_approval"]
    registration: Registration


class PromoteTask(TrainingInput):
    """Registry function: make the version champion if the champion is still the compared one."""

    action: Literal["promote"]
    registration: Registration
    evaluation: EvaluationResult


class TaskFailure(Message):
    """What Step Functions' Catch gives."""

    Error: str = Field("", max_length=256)
    Cause: str = ""


class RecordFailureTask(TrainingInput):
    """Registry function: close the run as failed and notify."""

    action: Literal["record_failure"]
    failure: TaskFailure


# ── Batch ───────────────────────────────────────────────────────────────────────────────────────


class BatchInput(Message):
    """Input of one BATCH execution; every task receives at least this.

    The model version is pinned here, so that one version scores every row.
    """

    batch_id: str
    attempt: int
    model: ModelName
    correlation_id: str
    version: int
    model_key: str
    sha256: str
    signature_key: str
    signature_sha256: str
    kms_signature: str = ""
    kms_key_id: str = ""
    spec_version: int
    spec_key: str
    spec_digest: str
    source: SourceObject
    created_at: str
    concurrency: int = Field(ge=1)
    """Most chunks scored at once: the Map reads it."""
    requested_by: str = ""


class FieldFault(Message):
    """How often one rule was broken in one field of the rows to be scored."""

    field: str
    """The column, or ``(row)``."""
    rule: str
    expected: str
    count: int
    first_row: int
    """0-based number among the data rows, as in the results."""
    example: str = ""
    """What came, empty for private columns."""


class SplitResult(Message):
    """How a file was split, or why it was refused."""

    outcome: Literal["accepted", "refused"]
    code: str = ""
    reason: str = ""
    rows: RowCounts = RowCounts(read=0, accepted=0, quarantined=0)
    problems: tuple[FieldFault, ...] = ()
    """At most 20, the most frequent first."""
    chunks: tuple[int, ...] = ()
    """Numbers of the chunks that hold rows: what the Map goes through."""
    report_key: str = ""
    quarantine_key: str = ""
    seconds: float = 0.0


class ScoreTask(BatchInput):
    """Score function: one chunk."""

    chunk: int = Field(ge=0)


class ScoreResult(Message):
    """What became of one chunk."""

    rows: int
    skipped: bool = False
    """Whether it was scored before: nothing was done."""


class FieldWarning(Message):
    """Values that were answered and lie outside what the model was trained on."""

    field: str
    message: str
    count: int


class FinishResult(Message):
    """What a job gave."""

    outcome: Literal["scored", "refused"]
    code: str = ""
    reason: str = ""
    rows: RowCounts
    problems: tuple[FieldFault, ...] = ()
    warnings: tuple[FieldWarning, ...] = ()
    predictions_key: str = ""
    manifest_key: str = ""
    summary_key: str = ""
    quarantine_key: str = ""
    report_key: str = ""
    seconds: float = 0.0


class SplitTask(BatchInput):
    """Batch function, action split."""

    action: Literal["split"]


class FinishTask(BatchInput):
    """Batch function, action finish."""

    action: Literal["finish"]
    split: SplitResult


class RecordBatchSplitTask(BatchInput):
    """Registry function: how many rows and chunks the job has."""

    action: Literal["record_batch_split"]
    split: SplitResult


class RecordBatchRefusalTask(BatchInput):
    """Registry function: close a job whose file cannot be scored, and notify."""

    action: Literal["record_batch_refusal"]
    split: SplitResult


class RecordBatchTask(BatchInput):
    """Registry function: close a job that ended, and notify."""

    action: Literal["record_batch"]
    split: SplitResult
    finish: FinishResult


class RecordBatchFailureTask(BatchInput):
    """Registry function: close the job as failed and notify."""

    action: Literal["record_batch_failure"]
    failure: TaskFailure


def task_event(event: dict[str, Any]) -> dict[str, Any]:
    """The message in a task's event ``{"action": …, "input": {…}}``, merged.

    A state that waits sends its ``task_token`` beside them.

    Raises:
        InvalidEventError: The event is of another form.
    """
    if not isinstance(event.get("input"), dict) or "action" not in event:
        raise InvalidEventError("expected a task {'action': …, 'input': {…}}")
    token = {"task_token": event["task_token"]} if "task_token" in event else {}
    return {**event["input"], **token, "action": event["action"]}
