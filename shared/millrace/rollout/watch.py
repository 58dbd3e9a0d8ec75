"""What the rollout function does for each task: the record decides, the machine only waits.

Every task reads the rollout, does at most one thing, and answers with the next `Turn`. A task that is
repeated meets its own trace and answers the same; one of an execution that was replaced, or of a
rollout that has ended, does nothing. So any task may be retried, and a rollout whose machinery failed
is taken up by a new execution where its record stands.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from pydantic import ValidationError

from millrace.aws.sns import Notice, Notifier
from millrace.aws.stepfunctions import Started
from millrace.errors import (
    ConcurrentWriteError,
    FieldProblem,
    InvalidRequestError,
    NotFoundError,
)
from millrace.monitoring.tallies import Tally
from millrace.observability import METRICS, count, logger
from millrace.registry.champions import ANY_CHAMPION
from millrace.registry.records import PIPELINE, VersionStatus
from millrace.registry.rollout_records import MAX_WHY, Finding, Judgement, Rollout
from millrace.registry.rollout_states import OPEN, RolloutStatus
from millrace.registry.rollouts import Rollouts, evidence_facts
from millrace.rollout.health import Looked, Seen, look
from millrace.rollout.messages import (
    Asked,
    BeginTask,
    CheckHealthTask,
    FinishTask,
    RecordStallTask,
    ResumeTask,
    RollBackTask,
    RolloutInput,
    RollOutTask,
    SetTrafficTask,
    StartTask,
    Turn,
)
from millrace.rollout.sequential import Counts
from millrace.spec import ModelSpec, RolloutSection, Task

WAIT_SECONDS: Final = 300
"""Between two tries of a waiting rollout to begin."""
RENEW_AFTER: Final = 2_000
"""Looks or tries of one execution: at nine events each they stay below its limit of 25,000."""
MAX_CAUSE: Final = 1_000
ENDED_BADLY: Final = {
    "FAILED": "its execution failed",
    "TIMED_OUT": "its execution ran out of time",
    "ABORTED": "its execution was aborted",
}


class Executions(Protocol):
    """What is needed of the ROLLOUT machine."""

    def start(self, name: str, payload: str) -> Started:
        """Starts the execution of that name, unless there is one."""
        ...

    def execution_arn(self, name: str) -> str:
        """The ARN of the execution of that name."""
        ...

    def status(self, execution_arn: str) -> str | None:
        """Its status; None if there is none."""
        ...


class Watcher:
    """Starts rollouts, moves them on, and judges them.

    Args:
        rollouts: The record.
        executions: The ROLLOUT machine.
        tallies: What was counted at a rollout's step, of the champion and of the challenger.
        alarms: States of named CloudWatch alarms.
        feedback: Wrong predictions among the labelled ones, of both versions.
        read_spec: Gives a model's current spec; for a training, the spec it was started with.
        notifier: Tells people.
        clock: Gives the time, aware and in UTC.
    """

    def __init__(
        self,
        *,
        rollouts: Rollouts,
        executions: Executions,
        tallies: Callable[[str, int], tuple[Tally, Tally]],
        alarms: Callable[[Sequence[str]], Mapping[str, str | None]],
        feedback: Callable[[Rollout], tuple[Counts, Counts] | None],
        read_spec: Callable[[str, RollOutTask | None], ModelSpec],
        notifier: Notifier,
        clock: Callable[[], datetime],
    ) -> None:
        self._rollouts = rollouts
        self._executions = executions
        self._tallies = tallies
        self._alarms = alarms
        self._feedback = feedback
        self._read_spec = read_spec
        self._notifier = notifier
        self._clock = clock

    # ── Starting ────────────────────────────────────────────────────────────────────────────────

    def start(self, task: StartTask) -> Asked:
        """Records a rollout that a person asks for and starts its execution. Idempotent by token.

        Raises:
            InvalidRequestError: The plan is not possible, or names an alarm that is not there.
            MillraceError: See `Rollouts.start`.
        """
        spec = self._read_spec(task.model, None)
        plan = planned(spec.rollout, task.changes)
        if plan.health.feedback is not None and spec.task is Task.REGRESSION:
            raise _refused(
                "health.feedback", "of a regression no prediction is right or wrong; leave it out"
            )
        self._expect_alarms(plan)
        rollout = self._rollouts.start(
            rollout_id=rollout_id_of(task.model, task.version, task.token),
            model=task.model,
            version=task.version,
            plan=plan,
            actor=task.actor,
            reason=task.reason,
            correlation_id=task.correlation_id,
            run_id=task.run_id,
            expected_champion=task.expected_champion if task.run_id else ANY_CHAMPION,
        )
        return self._started(rollout)

    def roll_out(self, task: RollOutTask) -> Asked:
        """Records the rollout of a training's version and starts its execution. Idempotent by run.

        Raises:
            ChampionChangedError: The champion is not the one of the evaluation any more.
            MillraceError: See `Rollouts.start`.
        """
        version = task.registration.version
        rollout = self._rollouts.start(
            rollout_id=rollout_id_of(task.model, version, task.run_id),
            model=task.model,
            version=version,
            plan=self._read_spec(task.model, task).rollout,
            actor=PIPELINE,
            reason=task.evaluation.reason,
            correlation_id=task.correlation_id,
            run_id=task.run_id,
            expected_champion=task.evaluation.champion_version,
        )
        return self._started(rollout)

    def resume(self, task: ResumeTask) -> Asked:
        """Lets a new execution take a rollout up. Repeated after a lost answer, it says it runs.

        Raises:
            NotFoundError: There is no such rollout.
            InvalidTransitionError: It runs already, or has ended.
        """
        rollout = self._rollouts.resume(
            task.rollout_id,
            actor=task.actor,
            reason=task.reason,
            correlation_id=task.correlation_id,
            is_alive=self._is_alive,
        )
        self._run(rollout)
        self._tell(rollout, "rollout_resumed", f"resumed by {task.actor}", reason=task.reason)
        return Asked(rollout_id=rollout.rollout_id, status=rollout.status, why=rollout.why)

    def _started(self, rollout: Rollout) -> Asked:
        if rollout.status in OPEN:
            self._run(rollout)
        count(METRICS.ROLLOUTS_STARTED, model=rollout.model)
        waits = rollout.status is RolloutStatus.WAITING
        self._tell(
            rollout,
            "rollout_waiting" if waits else "rollout_started",
            rollout.why if waits else f"{rollout.plan.strategy} to {_steps(rollout.plan)}",
        )
        return Asked(rollout_id=rollout.rollout_id, status=rollout.status, why=rollout.why)

    def _expect_alarms(self, plan: RolloutSection) -> None:
        states = self._alarms(plan.health.alarms) if plan.health.alarms else {}
        missing = [name for name in plan.health.alarms if states.get(name) is None]
        if missing:
            raise _refused("health.alarms", f"there is no CloudWatch alarm {', '.join(missing)}")

    def _run(self, rollout: Rollout) -> None:
        payload = RolloutInput(
            rollout_id=rollout.rollout_id,
            attempt=rollout.attempt,
            model=rollout.model,
            correlation_id=rollout.correlation_id,
        )
        self._executions.start(rollout.execution, payload.model_dump_json())

    def _is_alive(self, execution: str) -> bool:
        return self._executions.status(self._executions.execution_arn(execution)) == "RUNNING"

    # ── The machine ─────────────────────────────────────────────────────────────────────────────

    def begin(self, task: BeginTask) -> Turn:
        """Whether the rollout's turn has come."""
        rollout = self._rollouts.begin(task.rollout_id, task.attempt)
        over = self._over(rollout, task)
        if over is not None:
            return over
        if rollout.status is not RolloutStatus.WAITING:
            return Turn(decision="proceed", step=rollout.step or 0)
        waits = task.turn.waits + 1
        if waits >= RENEW_AFTER:
            return self._renewed(rollout)
        return Turn(decision="wait", seconds=WAIT_SECONDS, waits=waits)

    def set_traffic(self, task: SetTrafficTask) -> Turn:
        """Gives the version the traffic of the step that the machine is at."""
        rollout = self._rollouts.get(task.rollout_id)
        over = self._over(rollout, task)
        if over is not None:
            return over
        if self._rollouts.version_status(rollout) is not VersionStatus.VALIDATED:
            return self._withdrawn(rollout, task)
        rollout = self._rollouts.set_traffic(task.rollout_id, task.attempt, task.turn.step)
        return self._over(rollout, task) or self._bake(rollout)

    def check_health(self, task: CheckHealthTask) -> Turn:
        """Looks at the step once, and says what follows.

        Raises:
            ConcurrentWriteError: The rollout changed during the look; the same task may succeed.
        """
        rollout = self._rollouts.get(task.rollout_id)
        over = self._over(rollout, task)
        if over is not None:
            return over
        if rollout.step is None:
            if rollout.status is RolloutStatus.RUNNING:
                return Turn(decision="advance", step=0)
            return self._bake(rollout)
        if self._rollouts.version_status(rollout) is not VersionStatus.VALIDATED:
            return self._withdrawn(rollout, task)
        if rollout.checks < task.turn.check:
            self._look(rollout)
            rollout = self._rollouts.get(task.rollout_id)
            over = self._over(rollout, task)
            if over is not None:
                return over
        return self._next(rollout)

    def finish(self, task: FinishTask) -> Turn:
        """Makes the version champion, unless somebody paused or ended the rollout meanwhile."""
        rollout = self._rollouts.finish(task.rollout_id, task.attempt)
        if rollout.status is RolloutStatus.PROMOTED:
            count(METRICS.ROLLOUTS_PROMOTED, model=rollout.model)
            self._tell(rollout, "rollout_promoted", f"{_subject(rollout)} is champion")
        return self._over(rollout, task) or self._bake(rollout)

    def roll_back(self, task: RollBackTask) -> Turn:
        """Gives the traffic back to the champion, says why, and leaves the evidence."""
        rollout = self._rollouts.get(task.rollout_id)
        why = "" if rollout.judgement is None else rollout.judgement.why
        rollout = self._rollouts.roll_back(task.rollout_id, task.attempt, why)
        self._tell_rolled_back(rollout)
        return self._over(rollout, task) or self._bake(rollout)

    def record_stall(self, task: RecordStallTask) -> None:
        """Notes that the machinery failed; the traffic stays where it was."""
        cause = task.failure.Cause[:MAX_CAUSE]
        self._stall(task.rollout_id, task.attempt, f"{task.failure.Error}: {cause}")

    def execution_ended_badly(self, *, execution: str, status: str, error: str, cause: str) -> bool:
        """Notes what an execution could not note itself.

        Returns:
            False when it was noted before, or the execution is nobody's.
        """
        rollout_id, _, attempt = execution.rpartition("-")
        if not attempt.isdecimal() or len(attempt) > 6:
            return False
        said = ": ".join(part for part in (error, cause[:MAX_CAUSE]) if part)
        why = ENDED_BADLY.get(status, f"its execution ended as {status}")
        try:
            return self._stall(rollout_id, int(attempt), f"{why}: {said}" if said else why)
        except NotFoundError:
            logger.warning("an execution without a rollout ended badly", execution=execution)
            return False

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────

    def _over(self, rollout: Rollout, task: RolloutInput) -> Turn | None:
        """The last turn of an execution that has nothing more to do; None while it has."""
        if rollout.status not in OPEN or rollout.status is RolloutStatus.STALLED:
            return Turn(decision="ended")
        if rollout.attempt != task.attempt:
            # Whoever opened the later attempt may have been killed before its execution began.
            self._run(rollout)
            return Turn(decision="ended")
        return None

    def _renewed(self, rollout: Rollout) -> Turn:
        self._run(self._rollouts.renew(rollout.rollout_id, rollout.attempt))
        return Turn(decision="ended")

    def _bake(self, rollout: Rollout) -> Turn:
        seconds = rollout.plan.look_seconds
        return Turn(decision="bake", seconds=seconds, check=rollout.checks + 1)

    def _withdrawn(self, rollout: Rollout, task: RolloutInput) -> Turn:
        status = self._rollouts.version_status(rollout)
        why = f"{_subject(rollout)} is {status}, and only a version that passed its gates goes on"
        rollout = self._rollouts.roll_back(rollout.rollout_id, task.attempt, why)
        self._tell_rolled_back(rollout)
        return self._over(rollout, task) or self._bake(rollout)

    def _look(self, rollout: Rollout) -> None:
        step = 0 if rollout.step is None else rollout.step
        champion, challenger = self._tallies(rollout.rollout_id, step)
        plan = rollout.plan
        seen = Seen(
            champion=champion,
            challenger=challenger,
            alarms=self._alarms(plan.health.alarms) if plan.health.alarms else {},
            feedback=None if plan.health.feedback is None else self._feedback(rollout),
        )
        before = self._rollouts.evidence(rollout.rollout_id)
        looked = look(plan, seen, json.loads(before) if before else {})
        judgement = judge(rollout, looked, self._clock())
        evidence = json.dumps(looked.document, separators=(",", ":"))
        if not self._rollouts.record_look(rollout, judgement, evidence):
            raise ConcurrentWriteError(
                f"rollout {rollout.rollout_id} changed while it was looked at; look again"
            )
        logger.info(
            "rollout looked at",
            rollout_id=rollout.rollout_id,
            step=step,
            check=judgement.check,
            decision=judgement.decision,
        )

    def _next(self, rollout: Rollout) -> Turn:
        """What follows from the last look; a rollout that does not run only bakes, or rolls back."""
        last = rollout.judgement
        decision = "wait" if last is None or last.step != rollout.step else last.decision
        if decision == "roll_back":
            return Turn(decision="roll_back")
        if rollout.status is RolloutStatus.RUNNING and last is not None:
            step = 0 if rollout.step is None else rollout.step
            match decision:
                case "advance":
                    return Turn(decision="advance", step=step + 1)
                case "finish":
                    return Turn(decision="finish")
                case "hold" | "ask":
                    asks = decision == "ask"
                    rollout = self._rollouts.hold(
                        rollout.rollout_id, rollout.attempt, last.why, asks=asks
                    )
                    count(METRICS.ROLLOUTS_HELD, model=rollout.model)
                    self._tell(
                        rollout,
                        "rollout_held",
                        f"waits for a person: {last.why}",
                        resume=f"millrace rollout {rollout.model} --resume",
                        abort=f"millrace rollout {rollout.model} --abort",
                        **evidence_facts(rollout),
                    )
        if rollout.checks - rollout.checks_before >= RENEW_AFTER:
            return self._renewed(rollout)
        return self._bake(rollout)

    def _stall(self, rollout_id: str, attempt: int, why: str) -> bool:
        rollout = self._rollouts.stall(rollout_id, attempt, why[:MAX_WHY])
        if rollout is None:
            return False
        count(METRICS.ROLLOUTS_STALLED, model=rollout.model)
        logger.error("rollout stalled", rollout_id=rollout_id, weight=rollout.weight)
        self._tell(
            rollout,
            "rollout_stalled",
            f"its machinery failed; the traffic stays at {rollout.weight:g} %",
            reason=why,
            resume=f"millrace rollout {rollout.model} --resume",
            abort=f"millrace rollout {rollout.model} --abort",
        )
        return True

    def _tell_rolled_back(self, rollout: Rollout) -> None:
        if rollout.status is not RolloutStatus.ROLLED_BACK:
            return
        count(METRICS.ROLLOUTS_ROLLED_BACK, model=rollout.model)
        self._tell(
            rollout,
            "rollout_rolled_back",
            f"rolled back: {rollout.why}",
            **evidence_facts(rollout),
        )

    def _tell(self, rollout: Rollout, event: str, summary: str, **facts: Any) -> None:
        self._notifier.notify(notice_of(rollout, event, summary, **facts))


def notice_of(rollout: Rollout, event: str, summary: str, **facts: Any) -> Notice:
    """What people are told of a rollout."""
    return Notice(
        model=rollout.model,
        event=event,
        subject=f"{rollout.model}: rollout of {_subject(rollout)}: {summary}",
        details={
            "rollout_id": rollout.rollout_id,
            "version": rollout.version,
            "champion": rollout.champion,
            "strategy": rollout.plan.strategy,
            "step": rollout.step,
            "weight": rollout.weight,
            "correlation_id": rollout.correlation_id,
            **facts,
        },
    )


def judge(rollout: Rollout, looked: Looked, at: datetime) -> Judgement:
    """What follows from a look: pure.

    Args:
        rollout: As it was read before the look.
        looked: What was found.
        at: When.
    """
    counted = rollout.looks + (1 if rollout.status is RolloutStatus.RUNNING else 0)
    decision, why = _decided(rollout, looked.findings, counted)
    return Judgement(
        check=rollout.checks + 1,
        step=rollout.step or 0,
        look=counted,
        at=at,
        decision=decision,
        why=why,
        findings=looked.findings,
    )


def _decided(rollout: Rollout, findings: Sequence[Finding], looks: int) -> tuple[str, str]:
    plan = rollout.plan
    breaches = [f.text for f in findings if f.found == "breach"]
    if breaches:
        return "roll_back", "; ".join(breaches)
    if rollout.status is not RolloutStatus.RUNNING:
        return "wait", f"no breach; the rollout is {rollout.status}"
    if looks < plan.looks:
        return "wait", f"look {looks} of {plan.looks}: no breach"
    short = "; ".join(f.text for f in findings if f.found == "short")
    if short:
        if looks < plan.max_looks:
            return "wait", f"look {looks} of at most {plan.max_looks}: {short}"
        waited = f"after {plan.max_wait}: {short}"
        match plan.when_short_of_traffic:
            case "hold":
                return "hold", waited
            case "roll_back":
                return "roll_back", waited
            case "promote":
                return _onward(rollout, f"goes on as the plan says, {waited}")
    return _onward(rollout, f"no breach in {looks} looks")


def _onward(rollout: Rollout, why: str) -> tuple[str, str]:
    if rollout.step != rollout.last_step:
        return "advance", why
    if rollout.plan.finish == "hold" and not rollout.go_ahead:
        return "ask", f"{why}; the plan asks for a person before the promotion"
    return "finish", why


def planned(section: RolloutSection, changes: Mapping[str, Any]) -> RolloutSection:
    """The spec's plan with what a person says laid over it.

    Another strategy takes its own steps, not the spec's.

    Raises:
        InvalidRequestError: It is not possible; names each field.
    """
    base = section.model_dump(mode="json", exclude_defaults=True)
    if changes.get("strategy", section.strategy) != section.strategy:
        base.pop("steps", None)
    document = {**base, "strategy": section.strategy, **changes}
    if document["strategy"] == "all-at-once":
        raise _refused("strategy", "expected canary, linear or shadow; all-at-once is a promotion")
    try:
        return RolloutSection.model_validate(document)
    except ValidationError as exc:
        problems = [
            FieldProblem(
                ".".join(str(part) for part in error["loc"]) or "steps",
                str(error["msg"]).removeprefix("Value error, "),
            )
            for error in exc.errors(include_url=False, include_input=False)
        ]
        first = problems[0]
        raise InvalidRequestError(f"{first.field}: {first.message}", problems) from exc


def rollout_id_of(model: str, version: int, token: str) -> str:
    """The id of the rollout that a cause leads to: the same cause, the same rollout."""
    digest = hashlib.sha256("\x1f".join((model, str(version), token)).encode()).hexdigest()
    return f"{model}-{version}-{digest[:10]}"


def _refused(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: {message}", [FieldProblem(field, message)])


def _subject(rollout: Rollout) -> str:
    return f"{rollout.model}@{rollout.version}"


def _steps(plan: RolloutSection) -> str:
    return ", ".join(f"{weight:g}" for weight in plan.weights) + " %"
