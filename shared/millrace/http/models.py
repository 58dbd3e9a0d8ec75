"""What the API says and reads: its own models, apart from the registry's records.

Each answer model has one named conversion from the record it shows.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from millrace.aws.stepfunctions import StepProgress
from millrace.http.prediction_models import Answer, Request
from millrace.messages import (
    ColumnProblem,
    FieldFault,
    FieldWarning,
    GateResult,
    MetricValue,
    Parity,
    RowCounts,
    SourceObject,
)
from millrace.questions.history import Decision, Period
from millrace.questions.standing import RolloutBrief, Standing, Traffic
from millrace.registry.live import Live, LiveRollout
from millrace.registry.records import (
    Approval,
    AuditEntry,
    Batch,
    ModelVersion,
    Provenance,
    RegisteredModel,
    Run,
    SpecVersion,
    TrialRecord,
)
from millrace.registry.verification import FaultKind, Verification
from millrace.signature import Signature

Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=1_000)]


# ── Requests of the registry's routes ───────────────────────────────────────────────────────────


class PromoteRequest(Request):
    """Makes a validated version the champion."""

    action: Literal["promote"]
    version: int = Field(ge=1)
    reason: Reason = ""
    force: bool = Field(
        False, description="Promote a version that failed its gates; needs a reason and a name."
    )
    expected_champion: int | None = Field(
        None,
        ge=1,
        description="Refuse when the champion is another; null expects that there is none. "
        "Left out, any champion is replaced.",
    )


class RollbackRequest(Request):
    """Brings an earlier champion back."""

    action: Literal["rollback"]
    version: int | None = Field(None, ge=1, description="Default: the previous champion.")
    reason: Reason = ""
    force: bool = Field(
        False, description="Go back to a version that failed its gates; needs a reason and a name."
    )
    expected_champion: int | None = Field(
        None, ge=1, description="Refuse when the champion is another."
    )


ChampionRequest = Annotated[PromoteRequest | RollbackRequest, Field(discriminator="action")]


class DecisionRequest(Request):
    """A person's answer to a request for approval."""

    reason: Reason = Field("", description="Why; needed to reject.")
    request_id: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{32}$",
        description="The request that was looked at: a newer one is not answered by it.",
    )


class RetrainRequest(Request):
    """Asks for a training on the newest dataset version."""

    reason: Reason = ""
    labelled: bool = Field(
        False,
        description="Take predictions in whose labels came since, beside the rows of the upload; "
        "the run is refused where predictions are captured without a column that the model needs.",
    )


class BatchUploadRequest(Request):
    """Asks for an address to upload a file to; the upload starts the job."""

    filename: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="The file's name, whose ending tells its format: "
        ".csv, .csv.gz, .jsonl, .jsonl.gz, .ndjson, .ndjson.gz or .parquet.",
        examples=["scores.csv"],
    )


class BatchObjectRequest(Request):
    """Names an object that lies in the data bucket already.

    Its job is started, answered if it was started before, or resumed if it failed.
    """

    key: str = Field(
        min_length=1,
        max_length=1_024,
        description="`batch/<model>/<file>` in the data bucket.",
        examples=["batch/churn/scores.csv"],
    )
    version_id: str | None = Field(
        None, min_length=1, max_length=1_024, description="Default: the newest version."
    )


BatchRequest = BatchUploadRequest | BatchObjectRequest


# ── Answers of the registry's routes ────────────────────────────────────────────────────────────


class Health(Answer):
    """Whether the API answers; with `deep=true` also whether its table does."""

    status: Literal["ok", "degraded"]
    stage: str
    version: str
    code_version: str
    checks: dict[str, Literal["ok", "failed"]] = Field(default_factory=dict)


class SpecView(Answer):
    """One version of a spec; `spec` is its canonical document."""

    model: str
    version: int
    digest: str
    created_at: datetime
    created_by: str
    spec: dict[str, Any]


class ModelView(Answer):
    """A registered model."""

    name: str
    task: str
    description: str
    owner: str
    spec_version: int
    latest_version: int
    champion_version: int | None
    previous_champion_version: int | None
    latest_dataset_version: str
    created_at: datetime
    updated_at: datetime


class ModelPage(Answer):
    """Registered models by name."""

    items: list[ModelView]
    next_page_token: str | None


class VersionView(Answer):
    """A model version: what it is, how it was judged, where it comes from."""

    model: str
    version: int
    status: str
    aliases: list[str]
    algorithm: str
    params: dict[str, Any]
    metrics: dict[str, MetricValue]
    verdict: str
    reason: str
    gates: list[GateResult]
    compared_with: int | None
    cv_metric: str
    cv_score: float
    parity: Parity
    run_id: str
    dataset_version: str
    spec_version: int
    spec_digest: str
    code_version: str
    seed: int
    sha256: str
    size_bytes: int
    created_at: datetime
    updated_at: datetime
    correlation_id: str = Field(description="Joins the version to the logs of its training.")


class VersionDetail(VersionView):
    """A model version with what a caller sends it and where its artifacts lie."""

    signature: Signature | None = Field(
        description="What to send; null when the stored one is not what was registered."
    )
    model_key: str
    evaluation_key: str
    report_key: str
    report_url: str | None = Field(
        None, description="The evaluation report; the link holds for 15 minutes."
    )
    signed_by: str = Field(description="ARN of the key that signed it; empty when it is unsigned.")
    provenance: Provenance | None = Field(description="Where it was imported from.")
    traffic: Traffic | None = Field(description="Its share of the requests; null without any.")
    rollouts: list[RolloutBrief] = Field(description="Its rollouts, the newest first.")
    approval: dict[str, Any] | None = Field(description="Who approved it, when and why.")


class VersionPage(Answer):
    """Model versions, newest first."""

    items: list[VersionView]
    next_page_token: str | None


class StepView(Answer):
    """One state of the training machine; the trials of a search are counted in one entry."""

    name: str
    status: Literal["running", "succeeded", "failed"]
    started_at: datetime
    ended_at: datetime | None
    seconds: float | None
    count: int = Field(description="Times the state was entered.")
    done: int
    failed: int


class RunView(Answer):
    """A training run, from its cause to its outcome."""

    run_id: str
    model: str
    cause: str
    status: str
    outcome: str | None
    reason: str
    error: str
    requested_by: str
    spec_version: int
    source: SourceObject
    dataset_version: str
    rows: RowCounts | None
    problems: list[ColumnProblem]
    model_version: int | None
    awaiting_approval: bool = Field(description="Whether a person's answer is what it waits for.")
    correlation_id: str
    started_at: datetime
    ended_at: datetime | None


class RunDetail(RunView):
    """A training run with its steps, trials, params and metrics."""

    params: dict[str, str]
    metrics: dict[str, float]
    trials: list[TrialRecord]
    steps: list[StepView] = Field(
        description="The states of its execution, in the order entered; empty once the "
        "execution's history is gone."
    )
    report_url: str | None = Field(
        None, description="The evaluation report; the link holds for 15 minutes."
    )
    quarantine_url: str | None = Field(
        None, description="The report on quarantined rows; the link holds for 15 minutes."
    )


class RunPage(Answer):
    """Runs, newest first."""

    items: list[RunView]
    next_page_token: str | None


class AuditView(Answer):
    """One state change: who did what, and why."""

    at: datetime
    actor: str
    action: str
    subject: str
    before: str
    after: str
    reason: str
    correlation_id: str
    facts: dict[str, Any] = Field(description="What else was decided: weights, evidence.")
    sequence: int = Field(description="Its place in the model's ledger, from 1.")
    previous_hash: str
    hash: str = Field(description="SHA-256 of the entry, the hash before it included.")


class AuditPage(Answer):
    """State changes, newest first."""

    items: list[AuditView]
    next_page_token: str | None


class LedgerFaultView(Answer):
    """One fault of a ledger: what is wrong, and with which entry."""

    kind: FaultKind
    sequence: int
    message: str


class LedgerVerification(Answer):
    """What a check of a ledger, or of a part of it, found."""

    sound: bool
    complete: bool
    """Whether the end was reached; go on with the token until it is."""
    first: int
    last: int
    entries: int
    anchor: str
    """``sequence:hash`` of the last entry checked: keep it elsewhere, and give it to later checks."""
    fault_count: int
    faults: list[LedgerFaultView]
    """The first hundred."""
    next_page_token: str | None


class TrafficView(Answer):
    """What answered predictions from one change of traffic to the next, and whose change it was."""

    model: str
    version: int = Field(description="The champion.")
    sha256: str = Field(description="The digest of its artifact.")
    run_id: str
    rollout: LiveRollout | None = Field(description="The rollout that shared the traffic.")
    approval: dict[str, Any] | None
    since: datetime = Field(alias="from")
    until: datetime | None = Field(alias="to", description="Null while it lasts.")
    sequence: int = Field(description="Of the ledger's entry that tells of the change.")
    decision: Decision | None = Field(description="That entry, in short.")


class TrafficPage(Answer):
    """Changes of traffic, the newest first; with `at` the one that held then."""

    at: datetime | None
    items: list[TrafficView]
    next_page_token: str | None


class ChampionChanged(Answer):
    """The champion after a promotion or a rollback."""

    model: str
    version: int
    previous: int | None


class TakingPart(Answer):
    """Someone who had a part in the training."""

    who: str
    what: str


class ApprovalView(Answer):
    """A request for approval and its answer."""

    model: str
    version: int
    request_id: str
    run_id: str
    status: Literal["pending", "approved", "rejected", "expired", "superseded"]
    requested_at: datetime
    expires_at: datetime
    requested_by: str = Field(description="Who asked for the training; empty after an upload.")
    four_eyes: bool
    taking_part: list[TakingPart] = Field(description="Who may not approve under four eyes.")
    approvers: list[str] = Field(description="Who alone may decide; empty for every approver.")
    decided_by: str
    decided_at: datetime | None
    reason: str
    via: str = Field(description="`api`, `link`, `promotion`, `timeout` or `champion_changed`.")


class ComparedMetric(Answer):
    """A metric of the version beside the champion's, on the same held-out rows."""

    metric: str
    version: MetricValue
    champion: MetricValue | None
    difference: MetricValue | None = Field(
        description="Of the metric the gate compares: positive is better."
    )


class SpecChange(Answer):
    """A key of the spec that says otherwise than the champion's."""

    field: str
    before: str | None
    after: str | None


class ApprovalTraining(Answer):
    """Who trained the version, from what and with what."""

    run_id: str
    cause: str
    reason: str
    requested_by: str
    started_at: datetime
    upload: SourceObject
    dataset_version: str
    dataset_rows: RowCounts | None
    """None of an imported version: they were counted where it was trained."""
    champion_dataset_version: str | None
    spec_version: int
    spec_applied_by: str
    spec_applied_at: datetime
    algorithm: str
    params: dict[str, Any]
    seed: int
    code_version: str
    champion_code_version: str | None
    parity: Parity
    sha256: str


class ApprovalEvidence(Answer):
    """What there is to know before a version is approved."""

    request: ApprovalView
    version_status: str
    you_may_approve: bool | None = Field(description="Null where nobody proved who asks.")
    why_not: str
    reason: str = Field(description="What the evaluation says in words.")
    gates: list[GateResult]
    champion: int | None = Field(description="The champion it was compared with.")
    champion_now: int | None
    rows: int = Field(description="Held-out rows both were evaluated on.")
    metrics: list[ComparedMetric]
    report_url: str | None = Field(description="The report; the link holds for 15 minutes.")
    training: ApprovalTraining
    spec_changes: list[SpecChange] | None = Field(
        description="What the spec says otherwise than the champion's; null without a champion."
    )


class RetrainAccepted(Answer):
    """The run that a request for training started, or had started before."""

    run_id: str
    started: bool = Field(description="False when the same request had started the run before.")


class BatchUpload(Answer):
    """Where to put a file: one PUT with exactly these headers."""

    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    key: str
    expires_in: int = Field(description="Seconds the address holds.")


class BatchAccepted(Answer):
    """The job that a request started, or the one that an upload will start."""

    batch_id: str
    started: bool = Field(description="Whether this request started, or resumed, the job.")
    upload: BatchUpload | None = Field(
        None, description="Where to put the file; the job exists when it has arrived."
    )


class BatchProgress(Answer):
    """How far a job is: chunks of rows that are scored, of all."""

    chunks: int
    scored: int


class BatchView(Answer):
    """A batch job: a file, the version that scores it, what became of it."""

    batch_id: str
    model: str
    version: int | None = Field(description="The model version that scores every row.")
    status: str
    outcome: str | None = Field(description="`scored`, `refused` or `failed`, once it ended.")
    reason: str
    error: str
    attempt: int
    source: SourceObject
    rows: RowCounts | None
    problems: list[FieldFault]
    warnings: list[FieldWarning]
    requested_by: str
    correlation_id: str
    created_at: datetime
    ended_at: datetime | None


class BatchDetail(BatchView):
    """A batch job with its progress and its results; links hold for 15 minutes."""

    progress: BatchProgress
    predictions_url: str | None = None
    manifest_url: str | None = None
    summary_url: str | None = None
    quarantine_url: str | None = None
    report_url: str | None = None


class BatchPage(Answer):
    """Batch jobs, newest first."""

    items: list[BatchView]
    next_page_token: str | None


# ── Conversions ─────────────────────────────────────────────────────────────────────────────────


def model_view(record: RegisteredModel) -> ModelView:
    """A registered model as the API shows it."""
    return ModelView.model_validate(_fields(record, ModelView))


def version_view(record: ModelVersion) -> VersionView:
    """A model version as lists show it."""
    return VersionView.model_validate(_fields(record, VersionView))


def version_detail(
    record: ModelVersion,
    signature: Signature | None,
    stands: Standing,
    *,
    report_url: str | None,
) -> VersionDetail:
    """A model version as it is shown alone."""
    return VersionDetail.model_validate(
        _fields(record, VersionDetail)
        | _fields(stands, VersionDetail)
        | {"signature": signature, "report_url": report_url, "signed_by": record.kms_key_id}
    )


def run_view(record: Run) -> RunView:
    """A run as lists show it."""
    return RunView.model_validate(_fields(record, RunView))


def run_detail(
    record: Run,
    steps: tuple[StepProgress, ...],
    *,
    report_url: str | None,
    quarantine_url: str | None,
) -> RunDetail:
    """A run as it is shown alone."""
    return RunDetail.model_validate(
        _fields(record, RunDetail)
        | {
            "steps": [step_view(step) for step in steps],
            "report_url": report_url,
            "quarantine_url": quarantine_url,
        }
    )


def batch_view(record: Batch) -> BatchView:
    """A batch job as lists show it."""
    return BatchView.model_validate(_fields(record, BatchView))


def batch_detail(record: Batch, scored: int, links: Mapping[str, str | None]) -> BatchDetail:
    """A batch job as it is shown alone."""
    progress = BatchProgress(chunks=record.chunks, scored=scored)
    return BatchDetail.model_validate(
        _fields(record, BatchDetail) | {"progress": progress, **links}
    )


def approval_view(record: Approval) -> ApprovalView:
    """A request, without its secrets."""
    return ApprovalView(
        **record.model_dump(
            exclude={
                "deadline",
                "barred",
                "correlation_id",
                "compared_with",
                "evaluation_key",
                "report_key",
                "evidence",
                "link_secret",
                "task_token",
            }
        ),
        expires_at=record.deadline,
        taking_part=[TakingPart(who=who, what=what) for who, what in record.barred.items()],
    )


def step_view(step: StepProgress) -> StepView:
    """A state of an execution as the API shows it."""
    return StepView.model_validate({name: getattr(step, name) for name in StepView.model_fields})


def audit_view(record: AuditEntry) -> AuditView:
    """An audit entry as the API shows it."""
    return AuditView.model_validate(_fields(record, AuditView))


def ledger_verification(found: Verification) -> LedgerVerification:
    """What a check of a ledger found, as the API shows it."""
    return LedgerVerification(
        sound=found.sound,
        complete=found.complete,
        first=found.first,
        last=found.last,
        entries=found.entries,
        anchor=found.head,
        fault_count=found.fault_count,
        faults=[LedgerFaultView.model_validate(_fields(f, LedgerFaultView)) for f in found.faults],
        next_page_token=found.token,
    )


def traffic_view(period: Period) -> TrafficView:
    """A change of traffic as the API shows it."""
    live = period.live
    return TrafficView.model_validate(
        {
            **{n: getattr(live, n) for n in TrafficView.model_fields if n in Live.model_fields},
            "from": live.at,
            "to": period.until,
            "decision": period.decision,
        }
    )


def spec_view(record: SpecVersion, document: dict[str, Any]) -> SpecView:
    """A spec's version with its document."""
    return SpecView.model_validate(_fields(record, SpecView) | {"spec": document})


def _fields(record: BaseModel, view: type[BaseModel]) -> dict[str, Any]:
    """The record's values of the names that both have."""
    return {n: getattr(record, n) for n in view.model_fields if n in type(record).model_fields}
