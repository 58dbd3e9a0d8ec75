"""What the API says and reads of rollouts."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from millrace.http.models import Reason
from millrace.http.prediction_models import Answer, Request
from millrace.registry.rollout_records import Finding, Judgement, Rollout
from millrace.spec import Duration, HealthSection

Weight = Annotated[float, Field(gt=0, le=100)]


class RolloutRequest(Request):
    """Asks for a rollout; what is not said is as the model's spec has it."""

    version: int = Field(ge=1, lt=10**6, description="The version to be rolled out.")
    strategy: Literal["canary", "linear", "shadow"] | None = None
    steps: list[Weight] | None = Field(
        None, min_length=1, max_length=50, description="Percent of the traffic, rising."
    )
    bake: Duration | None = Field(None, description="How long each step is watched at least.")
    looks: int | None = Field(None, ge=1, le=100, description="Looks within a bake.")
    min_requests: int | None = Field(None, ge=1)
    max_wait: Duration | None = None
    when_short_of_traffic: Literal["hold", "promote", "roll_back"] | None = None
    finish: Literal["promote", "hold"] | None = None
    on_conflict: Literal["wait", "supersede"] | None = None
    alpha: float | None = Field(None, gt=0, le=0.2)
    health: HealthSection | None = None
    reason: Reason = ""


class RolloutDecision(Request):
    """Pauses, resumes or aborts a rollout."""

    reason: Reason = ""


class RolloutAccepted(Answer):
    """The rollout that came of a request."""

    rollout_id: str
    status: str
    why: str


class FindingView(Answer):
    """What one condition says after a look, with the figures behind it."""

    condition: str
    found: str
    text: str
    test: str
    evidence: float | None
    threshold: float | None
    figures: dict[str, Any]


class JudgementView(Answer):
    """What a look at a rollout's step found."""

    check: int
    step: int
    look: int
    at: datetime
    decision: str
    why: str
    findings: list[FindingView]


class RolloutStepView(Answer):
    """A step that was set."""

    step: int
    weight: float
    at: datetime


class RolloutView(Answer):
    """A rollout."""

    rollout_id: str
    model: str
    version: int
    champion: int | None
    strategy: str
    weights: list[float]
    status: str
    step: int | None
    weight: float
    """Percent of the traffic now; of what it had last, if it has ended."""
    looks: int
    looks_needed: int
    checks: int
    why: str
    changed_by: str
    changed_at: datetime | None
    run_id: str
    created_by: str
    created_at: datetime
    ended_at: datetime | None
    reason: str


class RolloutDetail(RolloutView):
    """A rollout with its plan, its steps and its last looks."""

    plan: dict[str, Any]
    steps: list[RolloutStepView]
    judgement: JudgementView | None
    """The last look."""
    judgements: list[JudgementView]
    """The last looks, the newest first."""


class RolloutPage(Answer):
    """Rollouts of a model, newest first."""

    items: list[RolloutView]
    next_page_token: str | None


def rollout_view(record: Rollout) -> RolloutView:
    """A rollout as a listing shows it."""
    return RolloutView.model_validate(_view(record))


def rollout_detail(record: Rollout, judgements: list[Judgement]) -> RolloutDetail:
    """A rollout with everything about it."""
    return RolloutDetail.model_validate(
        _view(record)
        | {
            "plan": record.plan.model_dump(mode="json"),
            "steps": [RolloutStepView(step=s.step, weight=s.weight, at=s.at) for s in record.steps],
            "judgement": None if record.judgement is None else judgement_view(record.judgement),
            "judgements": [judgement_view(one) for one in judgements],
        }
    )


def judgement_view(record: Judgement) -> JudgementView:
    """A look as the API shows it."""
    return JudgementView(
        check=record.check,
        step=record.step,
        look=record.look,
        at=record.at,
        decision=record.decision,
        why=record.why,
        findings=[finding_view(f) for f in record.findings],
    )


def finding_view(record: Finding) -> FindingView:
    """What a condition says, as the API shows it."""
    return FindingView.model_validate(record.model_dump())


def _view(record: Rollout) -> dict[str, Any]:
    fields = {n: getattr(record, n) for n in RolloutView.model_fields if hasattr(record, n)}
    return fields | {
        "strategy": record.plan.strategy,
        "weights": list(record.plan.weights),
        "looks_needed": record.plan.looks,
    }
