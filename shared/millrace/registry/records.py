"""Domain records of the registry, in MLflow's words. Stored items and API models are made elsewhere."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from millrace.messages import (
    Cause,
    ColumnProblem,
    FieldFault,
    FieldWarning,
    GateResult,
    LabelledRows,
    LabelledSpan,
    MetricValue,
    Parity,
    RowCounts,
    SourceObject,
)
from millrace.registry.serving import ServingRecord, VersionStatus
from millrace.spec import Algorithm, Task
from millrace.vocabulary import ANONYMOUS

__all__ = [
    "ANONYMOUS",
    "CHALLENGER",
    "CHAMPION",
    "PIPELINE",
    "Approval",
    "ApprovalStatus",
    "AuditEntry",
    "CarriedVersion",
    "DatasetVersion",
    "ModelVersion",
    "Provenance",
    "Record",
    "RegisteredModel",
    "Run",
    "RunOutcome",
    "RunStatus",
    "ServingRecord",
    "SpecVersion",
    "TrialRecord",
    "VersionStatus",
]

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"

PIPELINE: Final = "pipeline"
"""Actor of what the TRAINING machine does by itself."""


class Record(BaseModel):
    """Base of every record."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class RunStatus(StrEnum):
    """MLflow's run states."""

    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"


class RunOutcome(StrEnum):
    """How a finished run ended, in a person's terms."""

    PROMOTED = "promoted"
    ROLLING_OUT = "rolling_out"
    """Its version takes the traffic step by step; what becomes of it replaces this outcome."""
    ROLLED_BACK = "rolled_back"
    """The rollout found its version worse, and took the traffic back."""
    NOT_PROMOTED = "not_promoted"
    """Its rollout was aborted, or another version came first."""
    REJECTED = "rejected"
    """A person turned its version down."""
    EXPIRED = "expired"
    """Nobody answered the request for approval in time."""
    GATES_FAILED = "gates_failed"
    REFUSED = "refused"
    UNCHANGED = "unchanged"
    STORED = "stored"
    FAILED = "failed"


class SpecVersion(Record):
    """One immutable version of a spec."""

    model: str
    version: int
    digest: str
    key: str
    created_at: datetime
    created_by: str


class RegisteredModel(Record):
    """A registered model and its newest facts."""

    name: str
    task: Task
    description: str = ""
    owner: str = ""
    spec_version: int
    spec_digest: str
    spec_key: str
    latest_version: int = 0
    champion_version: int | None = None
    previous_champion_version: int | None = None
    rollout_id: str | None = None
    """The rollout that may have traffic."""
    challenger_version: int | None = None
    """Its version: the alias ``challenger``."""
    waiting_rollout_id: str | None = None
    """The rollout that comes after it."""
    latest_dataset_version: str = ""
    capture_rate: float = 1.0
    """Of the current spec: the serving item carries it on."""
    retrain_schedule: str = ""
    """Of the current spec, so that the calendar reads no specs; empty for none."""
    monthly_budget: float | None = None
    """Of the current spec, in US dollars."""
    created_at: datetime
    updated_at: datetime


class DatasetVersion(Record):
    """One immutable dataset version."""

    model: str
    dataset_version: str
    data_key: str
    manifest_key: str
    profile_key: str
    rows: RowCounts
    split_rows: dict[str, int]
    source: SourceObject
    labelled: LabelledRows | None = None
    """Labelled predictions in it, beside the rows of ``source``."""
    created_at: datetime
    created_by_run: str
    trained: dict[str, str] = {}
    """``spec_digest`` → run id of the finished training on this dataset version."""


class TrialRecord(Record):
    """One trial as tracked on its run."""

    trial_id: int
    algorithm: Algorithm
    params: dict[str, Any]
    status: str
    metric: str
    score: float | None
    score_std: float | None
    seconds: float
    error: str = ""


class Run(Record):
    """One training run, from its cause to its outcome."""

    run_id: str
    model: str
    cause: Cause
    status: RunStatus
    outcome: RunOutcome | None = None
    reason: str = ""
    correlation_id: str
    execution_arn: str = ""
    spec_version: int
    spec_digest: str
    source: SourceObject
    labelled: LabelledSpan | None = None
    """Labelled predictions that it takes in beside ``source``."""
    requested_by: str = ""
    dataset_version: str = ""
    rows: RowCounts | None = None
    problems: tuple[ColumnProblem, ...] = ()
    quarantine_prefix: str = ""
    model_version: int | None = None
    awaiting_approval: bool = False
    """Whether a person's answer is what it waits for."""
    report_key: str = ""
    started_at: datetime
    ended_at: datetime | None = None
    error: str = ""
    ingest_seconds: float = 0.0
    train_seconds: float = 0.0
    """Of all trials and the fit together."""
    evaluate_seconds: float = 0.0
    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    trials: tuple[TrialRecord, ...] = ()


class BatchOutcome(StrEnum):
    """How a batch job ended, in a person's terms."""

    SCORED = "scored"
    REFUSED = "refused"
    FAILED = "failed"


class Batch(Record):
    """One batch job: a file, the version that scores it, and what became of it.

    Everything down to ``created_at`` is fixed when the job is recorded.
    """

    batch_id: str
    model: str
    correlation_id: str
    source: SourceObject
    version: int | None = None
    """The version that scores every row; none when the model had no champion."""
    model_key: str = ""
    sha256: str = ""
    signature_key: str = ""
    signature_sha256: str = ""
    kms_signature: str = ""
    kms_key_id: str = ""
    spec_version: int
    spec_digest: str
    concurrency: int = 1
    requested_by: str = ""
    created_at: datetime
    status: RunStatus
    outcome: BatchOutcome | None = None
    reason: str = ""
    error: str = ""
    attempt: int = 1
    execution_arn: str = ""
    rows: RowCounts | None = None
    chunks: int = 0
    problems: tuple[FieldFault, ...] = ()
    warnings: tuple[FieldWarning, ...] = ()
    predictions_key: str = ""
    manifest_key: str = ""
    summary_key: str = ""
    quarantine_key: str = ""
    report_key: str = ""
    ended_at: datetime | None = None


class Provenance(Record):
    """Where an imported version comes from."""

    environment: str
    """The stack that exported it: ``STACK in REGION of ACCOUNT``."""
    version: int
    """Its number there."""
    bundle_sha256: str
    """Digest of the file it came in."""
    evaluation_sha256: str
    """Digest of the evaluation that came with it."""
    baseline_sha256: str = ""
    """Digest of the baseline that came with it; empty: without one it is not held against training."""
    compared_with_sha256: str = ""
    """Digest of the artifact of the champion it was compared with there; empty without one."""
    approval: dict[str, Any] | None = None
    """Who approved it there, when, why; None when nobody did."""
    kms_signature: str = ""
    """As it was signed there."""
    kms_key_id: str = ""
    imported_at: datetime
    imported_by: str
    needs_approval: bool = False
    """Whether the spec here asks for a person: without a request it cannot take traffic."""


class ModelVersion(Record):
    """One model version; all but status, evaluation and timestamps is fixed at registration."""

    model: str
    version: int
    status: VersionStatus
    run_id: str
    correlation_id: str
    algorithm: Algorithm
    params: dict[str, Any]
    model_key: str
    sha256: str
    size_bytes: int
    signature_key: str
    signature_sha256: str
    environment_key: str
    dataset_version: str
    spec_version: int
    spec_digest: str
    code_version: str
    seed: int
    cv_metric: str
    cv_score: float
    parity: Parity
    kms_signature: str = ""
    """Of the version's statement (`attestation`), in base64; empty when it is not signed."""
    kms_key_id: str = ""
    """ARN of the key that signed it."""
    provenance: Provenance | None = None
    """Where it was imported from; None for a version that was trained here."""
    created_at: datetime
    updated_at: datetime
    verdict: str = ""
    reason: str = ""
    metrics: dict[str, MetricValue] = {}
    gates: tuple[GateResult, ...] = ()
    compared_with: int | None = None
    evaluation_key: str = ""
    report_key: str = ""
    aliases: tuple[str, ...] = ()


class CarriedVersion(Record):
    """A version as it goes from one environment to another, in a bundle."""

    environment: str
    """Where it was exported: ``STACK in REGION of ACCOUNT``."""
    version: ModelVersion
    compared_with_sha256: str = ""
    """Digest of the artifact of the champion it was compared with; empty without one."""
    approval: dict[str, Any] | None = None
    """Who approved it, when and why; None when nobody did."""


class ApprovalStatus(StrEnum):
    """States of a request; every one but ``pending`` is final."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    """Nobody answered in time."""
    SUPERSEDED = "superseded"
    """The champion changed: the version is compared anew, and asked for anew if it passes."""


class Approval(Record):
    """The request for approval of one version; a newer request of the version replaces it."""

    model: str
    version: int
    request_id: str
    run_id: str
    correlation_id: str
    status: ApprovalStatus
    requested_at: datetime
    deadline: datetime
    requested_by: str = ""
    """Who asked for the training; empty when an upload did, as S3 does not say whose it was."""
    four_eyes: bool = False
    barred: dict[str, str] = {}
    """Who may not approve under four-eyes, and what each of them did."""
    approvers: tuple[str, ...] = ()
    compared_with: int | None = None
    evaluation_key: str = ""
    report_key: str = ""
    evidence: dict[str, Any] = {}
    """How version and champion did on the same rows, as the evaluation told it."""
    decided_by: str = ""
    decided_at: datetime | None = None
    reason: str = ""
    via: str = ""
    link_secret: str = Field("", repr=False)
    """Signs the link in the notification; shown by no route and no entry of the ledger."""
    task_token: str = Field("", repr=False)
    """What the waiting machine is woken with."""

    @property
    def subject(self) -> str:
        """The version as people call it."""
        return f"{self.model}@{self.version}"

    @property
    def link_decides(self) -> bool:
        """Whether the link may decide: it proves no name, so not where a name matters."""
        return not self.four_eyes and not self.approvers


class AuditEntry(Record):
    """One state change: who did what, on which assumption, and why."""

    model: str
    at: datetime
    entry_id: str
    actor: str
    action: str
    """``spec_applied``, ``run_created``, ``dataset_recorded``, ``version_registered``,
    ``version_validated``, ``version_rejected``, ``promoted``, ``forced_promotion``,
    ``rolled_back``, ``approval_requested``, ``approval_approved``, ``approval_rejected``,
    ``approval_expired``, ``approval_superseded``, ``run_finished``, ``batch_created``, ``batch_resumed``, ``batch_finished``."""
    subject: str
    """What changed: ``churn@3``, ``spec churn/2``, a run id or a dataset version."""
    before: str = ""
    after: str = ""
    reason: str = ""
    correlation_id: str = ""
    facts: dict[str, Any] = {}
    """What else the change decided, small and in JSON: a rollout's step and weights, where the
    evidence lies."""
    sequence: int = 0
    """Its place in the model's ledger, from 1; `registry.ledger` gives it."""
    previous_hash: str = ""
    hash: str = ""
