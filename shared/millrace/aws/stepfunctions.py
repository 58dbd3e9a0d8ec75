"""One Step Functions state machine: started once per name, and its history told as steps."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from millrace.aws.translate import translated
from millrace.errors import AlreadyExistsError, NotFoundError

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions.client import SFNClient

type StepStatus = Literal["running", "succeeded", "failed"]

_ENDINGS: Final[dict[str, StepStatus]] = {
    "ExecutionSucceeded": "succeeded",
    "ExecutionFailed": "failed",
    "ExecutionTimedOut": "failed",
    "ExecutionAborted": "failed",
}
_FAILURES: Final = frozenset(
    {
        "LambdaFunctionFailed",
        "LambdaFunctionTimedOut",
        "LambdaFunctionScheduleFailed",
        "LambdaFunctionStartFailed",
        "TaskFailed",
        "TaskTimedOut",
        "TaskStartFailed",
        "TaskSubmitFailed",
        "MapStateFailed",
        "MapStateAborted",
    }
)
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Started:
    """Answer to a start.

    Attributes:
        execution_arn: The execution of that name.
        started: False when there was one of that name already.
    """

    execution_arn: str
    started: bool


@dataclass(frozen=True, slots=True)
class StepProgress:
    """One state of the machine in one execution; a state entered often is one step.

    Attributes:
        name: The state's name.
        status: What it is doing, or how it ended.
        started_at: When it was entered first.
        ended_at: When it was left last, None while it runs.
        count: How often it was entered: iterations of a Map, or repetitions.
        done: How many of these were left well.
        failed: How many of these ended in an error.
    """

    name: str
    status: StepStatus
    started_at: datetime
    ended_at: datetime | None
    count: int
    done: int
    failed: int

    @property
    def seconds(self) -> float | None:
        """From the first entry to the last exit, None while it runs."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()


class StateMachine:
    """A standard state machine."""

    def __init__(self, client: "SFNClient", arn: str) -> None:
        self._client = client
        self._arn = arn

    def start(self, name: str, payload: str) -> Started:
        """Starts the execution of that name, unless there is one. Idempotent by name.

        A second start with the same payload while the first runs answers as if it had started it:
        Step Functions tells the two apart only when the payload differs or the first has ended.

        Args:
            name: Unique for 90 days.
            payload: The input as JSON.
        """
        try:
            with translated(f"start execution {name}"):
                answer = self._client.start_execution(
                    stateMachineArn=self._arn, name=name, input=payload
                )
        except AlreadyExistsError:
            return Started(self.execution_arn(name), started=False)
        return Started(answer["executionArn"], started=True)

    def execution_arn(self, name: str) -> str:
        """The ARN of the execution of that name, whether it exists or not."""
        return self._arn.replace(":stateMachine:", ":execution:", 1) + f":{name}"

    def status(self, execution_arn: str) -> str | None:
        """``RUNNING``, ``SUCCEEDED``, ``FAILED``, ``TIMED_OUT`` or ``ABORTED``; None if unknown."""
        try:
            with translated(f"describe {execution_arn}"):
                return self._client.describe_execution(executionArn=execution_arn)["status"]
        except NotFoundError:
            return None

    def steps(self, execution_arn: str) -> tuple[StepProgress, ...]:
        """The execution's states in the order they were entered; empty if there is none."""
        events: list[Any] = []
        token: str | None = None
        try:
            while True:
                with translated(f"read the history of {execution_arn}"):
                    request: dict[str, Any] = {"nextToken": token} if token else {}
                    answer = self._client.get_execution_history(
                        executionArn=execution_arn,
                        maxResults=_PAGE,
                        includeExecutionData=False,
                        **request,
                    )
                events += answer["events"]
                token = answer.get("nextToken")
                if not token:
                    return progress(events)
        except NotFoundError:
            return ()


class WaitingTasks:
    """Tasks of any machine that wait for a callback."""

    def __init__(self, client: "SFNClient") -> None:
        self._client = client

    def wake(self, token: str) -> bool:
        """Lets the state that waits with this token go on.

        Returns:
            False when none waits: it was woken before, its time was over, or its execution ended.
        """
        try:
            with translated("wake a waiting task"):
                self._client.send_task_success(taskToken=token, output="{}")
        except NotFoundError:
            return False
        return True


@dataclass(slots=True)
class _Step:
    name: str
    started_at: datetime
    ended_at: datetime | None = None
    entered: int = 0
    exited: int = 0
    errors: int = 0

    def enter(self) -> None:
        self.entered += 1
        self.ended_at = None

    def leave(self, at: datetime, *, well: bool) -> None:
        self.exited += well
        self.errors += not well
        self.ended_at = at


def progress(events: Iterable[Any]) -> tuple[StepProgress, ...]:
    """Aggregates an execution's history.

    An event belongs to the state that its ``previousEventId`` leads to. A failed attempt counts
    only when the state is left right after it: one that is retried is no failure of the state.

    Args:
        events: ``GetExecutionHistory``'s events in order.
    """
    steps: dict[str, _Step] = {}
    state_of: dict[int, str] = {}
    failing: dict[int, str] = {}
    latest_map: str | None = None
    ending: StepStatus | None = None
    ended_at: datetime | None = None
    for event in events:
        previous = event.get("previousEventId", 0)
        kind: str = event["type"]
        at: datetime = event["timestamp"]
        state = state_of.get(previous)
        failed = failing.pop(previous, None)
        if kind in _ENDINGS:
            ending, ended_at = _ENDINGS[kind], at
            if failed is not None:
                steps[failed].leave(at, well=False)
        elif kind.endswith("StateEntered"):
            state = str(event["stateEnteredEventDetails"]["name"])
            steps.setdefault(state, _Step(state, at)).enter()
            latest_map = state if kind == "MapStateEntered" else latest_map
            if failed is not None:
                steps[failed].leave(at, well=False)
        elif kind.endswith("StateExited"):
            state = str(event["stateExitedEventDetails"]["name"])
            if state in steps:
                steps[state].leave(at, well=failed is None)
        elif kind in _FAILURES:
            state = latest_map if kind.startswith("MapState") else state
            if state is not None:
                failing[event["id"]] = state
        if state is not None:
            state_of[event["id"]] = state
    return tuple(_told(s, ending, ended_at) for s in steps.values())


def _told(step: _Step, ending: StepStatus | None, ended_at: datetime | None) -> StepProgress:
    open_entries = step.entered - step.exited - step.errors
    if open_entries > 0 and ending is None:
        status: StepStatus = "running"
    elif (step.errors and not step.exited) or (open_entries > 0 and ending == "failed"):
        status = "failed"
    else:
        status = "succeeded"
    return StepProgress(
        name=step.name,
        status=status,
        started_at=step.started_at,
        ended_at=None if status == "running" else step.ended_at or ended_at,
        count=step.entered,
        done=step.exited,
        failed=step.errors + (open_entries if status == "failed" and open_entries > 0 else 0),
    )
