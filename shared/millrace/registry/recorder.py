"""What the registry function does for each task of the TRAINING machine.

A task is a change of the registry, then the notice and the metric of it. Repeating a task repeats
its answer; a notice may come twice rather than never.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Literal

from millrace.aws.sns import Notice, Notifier
from millrace.errors import NotFoundError
from millrace.messages import (
    ApprovalSettlement,
    Cause,
    DatasetDecision,
    ExpireApprovalTask,
    PromoteTask,
    Promotion,
    ReadChampionTask,
    RecordDatasetTask,
    RecordEvaluationTask,
    RecordFailureTask,
    RecordRefusalTask,
    RecordTrialTask,
    RegisterTask,
    Registration,
    RequestApprovalTask,
    SettleApprovalTask,
    TrainingInput,
    Verdict,
)
from millrace.observability import METRICS, count, logger
from millrace.registry.approvals import Approvals
from millrace.registry.records import (
    PIPELINE,
    Approval,
    ApprovalStatus,
    RunOutcome,
    VersionStatus,
)
from millrace.registry.registry import Registry
from millrace.spec import ModelSpec

MAX_CAUSE: Final = 1_000

ENDED_BADLY: Final = {
    "FAILED": "the execution failed",
    "TIMED_OUT": "the execution ran out of time",
    "ABORTED": "the execution was aborted",
}
"""What an execution's final status means, as the reason of its run."""


class Recorder:
    """Records a training as it goes.

    Args:
        registry: The registry.
        approvals: Requests for approval.
        notifier: Told of every end of a run.
        read_spec: Gives the spec a run was started with.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        approvals: Approvals,
        notifier: Notifier,
        read_spec: Callable[[TrainingInput], ModelSpec],
    ) -> None:
        self._registry = registry
        self._approvals = approvals
        self._notifier = notifier
        self._read_spec = read_spec

    def record_dataset(self, task: RecordDatasetTask) -> DatasetDecision:
        """Records the dataset version; decides whether to train. Idempotent by run."""
        spec = self._read_spec(task)
        trains = spec.retrain.on_upload or task.cause is not Cause.UPLOAD
        decision = self._registry.record_dataset(task, task.ingest, train_on_upload=trains)
        if decision.decision != "train":
            self._tell(
                task,
                RunOutcome(decision.decision),
                f"nothing to train: {decision.reason}",
                dataset_version=task.ingest.dataset_version,
            )
        return decision

    def record_refusal(self, task: RecordRefusalTask) -> None:
        """Closes the run of a refused upload. Idempotent by run."""
        self._registry.record_refusal(task.run_id, task.ingest)
        self._tell(
            task,
            RunOutcome.REFUSED,
            f"upload refused: {task.ingest.reason}",
            key=task.source.key,
            code=task.ingest.code,
            rows=task.ingest.rows.model_dump(),
            quarantine=task.ingest.quarantine_prefix,
        )

    def record_trial(self, task: RecordTrialTask) -> None:
        """Keeps a trial on its run. Idempotent by run and trial."""
        self._registry.record_trial(task.run_id, task.trial)

    def register(self, task: RegisterTask) -> Registration:
        """Gives the run's model a version number. Idempotent by run."""
        seconds = task.fit.seconds + sum(trial.seconds for trial in task.trials)
        return self._registry.register_version(
            task, task.ingest, task.fit, train_seconds=round(seconds, 3)
        )

    def read_champion(self, task: ReadChampionTask) -> Registration:
        """The run's version, and the champion as it is now."""
        return self._registry.registration(task.model, task.registration.version)

    def record_evaluation(self, task: RecordEvaluationTask) -> Verdict:
        """Attaches the evaluation and decides. Idempotent by the evaluation's key."""
        spec = self._read_spec(task)
        version = task.registration.version
        verdict = self._registry.record_evaluation(
            task, version, task.evaluation, automatic=spec.approve.mode == "automatic"
        )
        passed = verdict.decision != "reject"
        count(METRICS.GATES_PASSED if passed else METRICS.GATES_FAILED, model=task.model)
        if verdict.decision == "reject":
            self._tell_judged(
                task, RunOutcome.GATES_FAILED, f"{task.model}@{version} failed its gates"
            )
        if verdict.decision == "await_approval":
            return verdict.model_copy(update={"approval_seconds": spec.approve.timeout_seconds})
        return verdict

    def request_approval(self, task: RequestApprovalTask) -> Approval:
        """Asks a person to approve the version. Idempotent by the version's evaluation.

        Raises:
            AlreadyDecidedError: A person decided before the request was made.
        """
        spec = self._read_spec(task)
        judged = task.evaluation
        asked = self._approvals.request(
            task.model,
            task.registration.version,
            task_token=task.task_token,
            timeout=timedelta(seconds=spec.approve.timeout_seconds),
            four_eyes=spec.approve.four_eyes,
            barred=self._taking_part(task),
            approvers=spec.approve.approvers,
            requested_by=task.requested_by,
            evidence=judged.model_dump(
                mode="json",
                include={"metric", "rows", "metrics", "champion_metrics", "difference"},
            ),
        )
        logger.info("approval requested", version=asked.version, request_id=asked.request_id)
        return asked

    def _taking_part(self, task: TrainingInput) -> dict[str, str]:
        """Who may not approve what came of the training, and what each of them did."""
        applied_by = self._registry.get_spec(task.model, task.spec_version).created_by
        parts = {applied_by: f"applied the spec {task.model}/{task.spec_version}"}
        if task.requested_by:
            parts[task.requested_by] = "asked for the training"
        return parts

    def settle_approval(self, task: SettleApprovalTask) -> ApprovalSettlement:
        """What was decided on the run's version; a rejection closes the run.

        The machine was woken: by whom, and with which words, does not matter.
        """
        asked = self._approvals.find(task.model, task.registration.version)
        return self._settled(task, task.registration.version, asked)

    def expire_approval(self, task: ExpireApprovalTask) -> ApprovalSettlement:
        """Expires the request, unless it was answered at the last moment; closes the run."""
        asked = self._approvals.expire(task.model, task.registration.version)
        return self._settled(task, task.registration.version, asked)

    def _settled(
        self, task: TrainingInput, version: int, asked: Approval | None
    ) -> ApprovalSettlement:
        if asked is None:
            # A person decided on the version before a request was made.
            champion = self._registry.get_version(task.model, version).status
            approved = champion is VersionStatus.CHAMPION
            status = ApprovalStatus.APPROVED if approved else ApprovalStatus.REJECTED
            reason = f"{task.model}@{version} was {champion} before a request was made"
        else:
            status, reason = asked.status, asked.reason
        ends = {
            ApprovalStatus.REJECTED: RunOutcome.REJECTED,
            ApprovalStatus.EXPIRED: RunOutcome.EXPIRED,
        }
        if status in ends:
            actor = PIPELINE if asked is None else asked.decided_by
            self._registry.finish_run(
                task.run_id,
                ends[status],
                reason=reason,
                actor=actor,
                correlation_id=task.correlation_id,
            )
        logger.info("approval settled", version=version, decision=status.value)
        return ApprovalSettlement(decision=status.value, reason=reason)

    def promote(self, task: PromoteTask) -> Promotion:
        """Makes the version champion, or leaves that to a rollout where the spec says so.

        The first champion of a model has nothing to be compared with, and takes everything at once.
        Idempotent by version and expected champion.

        Where a person approved it, the audit names them.

        Raises:
            ChampionChangedError: The champion is not the one of the evaluation any more.
        """
        version = task.registration.version
        strategy = self._read_spec(task).rollout.strategy
        champion = task.evaluation.champion_version
        if strategy != "all-at-once" and champion is not None:
            return Promotion(version=version, previous=champion, strategy=strategy)
        asked = self._approvals.find(task.model, version)
        approved = asked is not None and asked.status is ApprovalStatus.APPROVED
        promotion = self._registry.promote(
            task.model,
            version,
            actor=asked.decided_by if asked is not None and approved else PIPELINE,
            reason=(asked.reason if asked is not None and approved else "")
            or task.evaluation.reason,
            expected_champion=task.evaluation.champion_version,
            correlation_id=task.correlation_id,
            finishing_run=task.run_id,
        )
        count(METRICS.PROMOTIONS, model=task.model)
        self._tell_judged(
            task,
            RunOutcome.PROMOTED,
            f"{task.model}@{version} is champion",
            previous=promotion.previous,
        )
        return promotion

    def record_failure(self, task: RecordFailureTask) -> None:
        """Closes the run as failed, unless it was closed before."""
        error, cause = task.failure.Error, task.failure.Cause[:MAX_CAUSE]
        self._fail(task.run_id, task.model, error, cause, task.correlation_id)

    def execution_ended_badly(
        self,
        *,
        run_id: str,
        status: Literal["FAILED", "TIMED_OUT", "ABORTED"],
        error: str,
        cause: str,
    ) -> bool:
        """Closes the run of an execution that could not do so itself.

        Returns:
            False when the run was closed before, or there is no such run.
        """
        try:
            run = self._registry.get_run(run_id)
        except NotFoundError:
            logger.warning("an execution without a run ended badly", run_id=run_id, status=status)
            return False
        reason = ENDED_BADLY[status] + (f": {cause[:MAX_CAUSE]}" if cause else "")
        return self._fail(run_id, run.model, error or status, reason, run.correlation_id)

    def _fail(self, run_id: str, model: str, error: str, reason: str, correlation_id: str) -> bool:
        closed = self._registry.finish_run(
            run_id,
            RunOutcome.FAILED,
            error=error,
            reason=reason,
            correlation_id=correlation_id,
        )
        if closed:
            count(METRICS.RUNS_FAILED, model=model)
            logger.error("run failed", error=error)
            self._notifier.notify(
                Notice(
                    model=model,
                    event=RunOutcome.FAILED.value,
                    subject=f"{model}: training failed with {error or 'an unnamed error'}",
                    details={
                        "run_id": run_id,
                        "error": error,
                        "reason": reason,
                        "correlation_id": correlation_id,
                    },
                )
            )
        return closed

    def _tell_judged(
        self,
        task: RecordEvaluationTask | PromoteTask,
        outcome: RunOutcome,
        summary: str,
        **facts: Any,
    ) -> None:
        judged = task.evaluation
        self._tell(
            task,
            outcome,
            summary,
            version=task.registration.version,
            reason=judged.reason,
            compared_with=judged.champion_version,
            metrics={name: m.value for name, m in judged.metrics.items()},
            gates=[g.model_dump(mode="json") for g in judged.gates],
            report_key=judged.report_key,
            **facts,
        )

    def _tell(self, task: TrainingInput, outcome: RunOutcome, summary: str, **facts: Any) -> None:
        logger.info("run ends", outcome=outcome.value)
        self._notifier.notify(
            Notice(
                model=task.model,
                event=outcome.value,
                subject=summary if summary.startswith(task.model) else f"{task.model}: {summary}",
                details={
                    "run_id": task.run_id,
                    "correlation_id": task.correlation_id,
                    "outcome": outcome.value,
                    **facts,
                },
            )
        )
