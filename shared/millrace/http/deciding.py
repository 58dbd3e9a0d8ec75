"""What a person decides on a version that waits: the evidence, the answer, and what follows from it.

The answer is the registry's; here the machine that waits is told to look, and where no machine waits
any more (it died, its time was over), what follows is done at once. Both are idempotent, so a caller
who got no answer asks again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from millrace.errors import (
    ArtifactError,
    ChampionChangedError,
    FieldProblem,
    GoneError,
    InvalidRequestError,
    MillraceError,
    NotFoundError,
)
from millrace.http.models import (
    ApprovalEvidence,
    ApprovalTraining,
    ApprovalView,
    ComparedMetric,
    SpecChange,
    approval_view,
)
from millrace.http.operations import RolloutDoor
from millrace.observability import METRICS, count, logger
from millrace.registry.approvals import Approvals, Decision, Via, check_may_decide
from millrace.registry.records import (
    Approval,
    ApprovalStatus,
    ModelVersion,
    RunOutcome,
    SpecVersion,
    VersionStatus,
)
from millrace.registry.registry import Registry
from millrace.spec import ModelSpec, RolloutSection

MAX_CHANGES: Final = 200
"""Changed keys of a spec that are shown one by one."""
_MAX_SHOWN: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Where decisions are made.

    Attributes:
        registry: The registry.
        approvals: Its requests for approval.
        wake: Tells the machine that waits with a task token to look; False when none waits.
        read_spec: A stored spec.
        report_link: An address of a stored report, for a while.
        rollout_door: Starts rollouts.
    """

    registry: Registry
    approvals: Approvals
    wake: Callable[[str], bool]
    read_spec: Callable[[SpecVersion], ModelSpec]
    report_link: Callable[[str], str | None]
    rollout_door: RolloutDoor

    # ── Evidence ────────────────────────────────────────────────────────────────────────────────

    def evidence(self, model: str, version: int, *, actor: str | None = None) -> ApprovalEvidence:
        """Everything there is to know before deciding, as one document.

        Args:
            model: The model.
            version: The version.
            actor: Who looks: they are told whether they may approve. None for a link.

        Raises:
            NotFoundError: Nobody was asked to approve it.
        """
        asked = self.approvals.get(model, version)
        record = self.registry.get_version(model, version)
        run = self.registry.get_run(asked.run_id)
        champion = self._champion(asked)
        spec = self.registry.get_spec(model, record.spec_version)
        imported = record.provenance is not None
        dataset = None if imported else self.registry.get_dataset(model, record.dataset_version)
        return ApprovalEvidence(
            request=approval_view(asked),
            version_status=record.status.value,
            you_may_approve=None if actor is None else _refusal(asked, actor) is None,
            why_not="" if actor is None else _refusal(asked, actor) or "",
            reason=record.reason,
            gates=list(record.gates),
            champion=asked.compared_with,
            champion_now=self.registry.get_model(model).champion_version,
            rows=int(asked.evidence.get("rows") or 0),
            metrics=_compared(asked, record),
            report_url=self.report_link(asked.report_key),
            training=ApprovalTraining(
                run_id=run.run_id,
                cause=run.cause.value,
                reason=run.reason,
                requested_by=run.requested_by,
                started_at=run.started_at,
                upload=run.source,
                dataset_version=record.dataset_version,
                dataset_rows=None if dataset is None else dataset.rows,
                champion_dataset_version=champion.dataset_version if champion else None,
                spec_version=record.spec_version,
                spec_applied_by=spec.created_by,
                spec_applied_at=spec.created_at,
                algorithm=record.algorithm.value,
                params=record.params,
                seed=record.seed,
                code_version=record.code_version,
                champion_code_version=champion.code_version if champion else None,
                parity=record.parity,
                sha256=record.sha256,
            ),
            spec_changes=self._spec_changes(spec, champion),
        )

    def _champion(self, asked: Approval) -> ModelVersion | None:
        if asked.compared_with is None:
            return None
        return self.registry.get_version(asked.model, asked.compared_with)

    def _spec_changes(
        self, spec: SpecVersion, champion: ModelVersion | None
    ) -> list[SpecChange] | None:
        """What the spec says otherwise than the champion's; None when there is no champion."""
        if champion is None:
            return None
        if champion.spec_digest == spec.digest:
            return []
        try:
            before = self.read_spec(self.registry.get_spec(spec.model, champion.spec_version))
            after = self.read_spec(spec)
        except (NotFoundError, ArtifactError) as exc:
            # Whoever decides must be able to see the rest.
            logger.error("a spec cannot be compared", exc_info=exc, extra={"model": spec.model})
            return None
        return spec_changes(before, after)

    # ── Deciding ────────────────────────────────────────────────────────────────────────────────

    def decide(
        self,
        model: str,
        version: int,
        decision: Decision,
        *,
        actor: str,
        reason: str,
        via: Via,
        request_id: str | None,
        correlation_id: str,
    ) -> ApprovalView:
        """Records a person's answer, and sees to what follows. Idempotent by actor and decision.

        Raises:
            NotFoundError: Nobody was asked to approve it.
            AlreadyDecidedError: Somebody decided before, or otherwise.
            ChampionChangedError: The champion is another than the one it was compared with.
            GoneError: The request expired, or a newer one replaced it.
            NotApproverError: The actor may not decide.
            InvalidRequestError: A rejection without a reason.
        """
        if decision == "reject" and not reason.strip():
            message = "expected why: whoever trained the version reads it"
            raise InvalidRequestError(f"reason: {message}", [FieldProblem("reason", message)])
        asked = self.approvals.decide(
            model,
            version,
            decision,
            actor=actor,
            reason=reason,
            via=via,
            request_id=request_id,
            correlation_id=correlation_id,
        )
        logger.info(
            "approval decided",
            extra={"model": model, "version": version, "status": asked.status.value, "via": via},
        )
        self.carry_on(asked)
        if asked.status is ApprovalStatus.SUPERSEDED:
            raise ChampionChangedError(
                f"{asked.reason}: it is evaluated against that one, and a new request comes if it "
                "passes"
            )
        if asked.status is ApprovalStatus.EXPIRED:
            raise GoneError(
                f"{asked.subject}: {asked.reason}; train again, or promote it by force with a reason"
            )
        return approval_view(asked)

    def carry_on(self, asked: Approval) -> None:
        """Lets the answer take effect: wakes the machine, or does what it would have done."""
        if asked.task_token and self.wake(asked.task_token):
            return
        match asked.status:
            case ApprovalStatus.APPROVED:
                self._promote(asked)
            case ApprovalStatus.REJECTED:
                self._close(asked, RunOutcome.REJECTED)
            case ApprovalStatus.EXPIRED:
                self._close(asked, RunOutcome.EXPIRED)
            case _:
                logger.info("nothing follows", extra={"status": asked.status.value})

    def _promote(self, asked: Approval) -> None:
        if self.registry.get_version(asked.model, asked.version).status is not (
            VersionStatus.VALIDATED
        ):
            return
        open_run = self.registry.get_run(asked.run_id).outcome is None
        if asked.compared_with is not None:
            record = self.registry.get_version(asked.model, asked.version)
            plan = self.read_spec(self.registry.get_spec(asked.model, record.spec_version)).rollout
            if plan.strategy != "all-at-once":
                self._roll_out(asked, plan, open_run)
                return
        try:
            self.registry.promote(
                asked.model,
                asked.version,
                actor=asked.decided_by,
                reason=asked.reason,
                expected_champion=asked.compared_with,
                correlation_id=asked.correlation_id,
                finishing_run=asked.run_id if open_run else None,
            )
        except ChampionChangedError:
            # A machine that is under way after all compares anew.
            if not open_run:
                raise
        else:
            count(METRICS.PROMOTIONS, model=asked.model)

    def _roll_out(self, asked: Approval, plan: RolloutSection, open_run: bool) -> None:
        """Starts the rollout that the machine would have started: the same one, by its id."""
        self.rollout_door.ask(
            "start",
            {
                "model": asked.model,
                "version": asked.version,
                "changes": plan.model_dump(mode="json"),
                "token": asked.run_id,
                "run_id": asked.run_id if open_run else "",
                "expected_champion": asked.compared_with,
                "actor": asked.decided_by,
                "reason": asked.reason,
                "correlation_id": asked.correlation_id,
            },
        )

    def _close(self, asked: Approval, outcome: RunOutcome) -> None:
        self.registry.finish_run(
            asked.run_id,
            outcome,
            reason=asked.reason,
            actor=asked.decided_by,
            correlation_id=asked.correlation_id,
        )

    def tell_of_promotion(self, model: str, version: int) -> None:
        """Lets a machine that waited for this version end, after a person promoted it by hand."""
        asked = self.approvals.find(model, version)
        if asked is None or asked.via != "promotion" or not asked.task_token:
            return
        try:
            self.wake(asked.task_token)
        except MillraceError as exc:
            # It ends by itself when its time is over, and finds the version promoted.
            logger.warning("a waiting machine was not told", extra={"error": type(exc).__name__})


def _refusal(asked: Approval, actor: str) -> str | None:
    try:
        check_may_decide(asked, actor, "approve")
    except MillraceError as exc:
        return str(exc)
    return None


def _compared(asked: Approval, record: ModelVersion) -> list[ComparedMetric]:
    """Each metric of the version beside the champion's, on the same rows."""
    other = asked.evidence.get("champion_metrics") or {}
    judged = asked.evidence.get("metric")
    difference = asked.evidence.get("difference") if judged else None
    return [
        ComparedMetric(
            metric=name,
            version=value,
            champion=other.get(name),
            difference=difference if name == judged else None,
        )
        for name, value in record.metrics.items()
    ]


def spec_changes(before: ModelSpec, after: ModelSpec) -> list[SpecChange]:
    """What one spec says otherwise than another, key by key; columns by their names."""
    old, new = _flat(_named(before)), _flat(_named(after))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [
        SpecChange(field=key, before=old.get(key), after=new.get(key))
        for key in changed[:MAX_CHANGES]
    ]


def _named(spec: ModelSpec) -> dict[str, Any]:
    document = spec.model_dump(mode="json")
    columns = document["data"].pop("columns")
    document["data"]["columns"] = {column.pop("name"): column for column in columns}
    return document


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {
            key: text
            for name, inner in value.items()
            for key, text in _flat(inner, f"{path}.{name}" if path else str(name)).items()
        }
    text = "none" if value is None else str(value)
    return {path: text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"}
