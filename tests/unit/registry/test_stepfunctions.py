"""An execution's history told as steps."""

from datetime import UTC, datetime, timedelta
from typing import Any

from millrace.aws.stepfunctions import StateMachine, progress

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


class History:
    """Builds a history as Step Functions numbers it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, kind: str, name: str = "", *, after: int | None = None) -> int:
        number = len(self.events) + 1
        event: dict[str, Any] = {
            "id": number,
            "previousEventId": number - 1 if after is None else after,
            "type": kind,
            "timestamp": BEGIN + timedelta(seconds=number),
        }
        if kind.endswith("StateEntered"):
            event["stateEnteredEventDetails"] = {"name": name}
        if kind.endswith("StateExited"):
            event["stateExitedEventDetails"] = {"name": name}
        self.events.append(event)
        return number

    def task(self, name: str, *, after: int | None = None) -> int:
        self.add("TaskStateEntered", name, after=after)
        self.add("LambdaFunctionScheduled")
        self.add("LambdaFunctionStarted")
        self.add("LambdaFunctionSucceeded")
        return self.add("TaskStateExited", name)


def told(history: History) -> list[tuple[Any, ...]]:
    return [(s.name, s.status, s.count, s.done, s.failed) for s in progress(history.events)]


def test_states_in_order_with_times() -> None:
    history = History()
    history.add("ExecutionStarted")
    history.task("Ingest")
    history.add("TaskStateEntered", "Plan")
    history.add("LambdaFunctionScheduled")

    first, second = progress(history.events)

    assert (first.name, first.status, first.seconds) == ("Ingest", "succeeded", 4.0)
    assert (second.name, second.status, second.ended_at) == ("Plan", "running", None)
    assert second.seconds is None


def test_retried_attempt_is_no_failure_of_its_state() -> None:
    history = History()
    history.add("ExecutionStarted")
    history.add("TaskStateEntered", "Fit")
    history.add("LambdaFunctionScheduled")
    history.add("LambdaFunctionFailed")
    history.add("LambdaFunctionScheduled")
    history.add("LambdaFunctionSucceeded")
    history.add("TaskStateExited", "Fit")
    history.add("ExecutionSucceeded")

    assert told(history) == [("Fit", "succeeded", 1, 1, 0)]


def test_caught_failure_is_a_failed_step_with_or_without_an_exit() -> None:
    for leaves in (True, False):
        history = History()
        history.add("ExecutionStarted")
        history.add("TaskStateEntered", "Fit")
        history.add("LambdaFunctionFailed")
        if leaves:
            history.add("TaskStateExited", "Fit")
        history.task("RecordFailure")
        history.add("FailStateEntered", "PipelineFailed")
        history.add("ExecutionFailed")

        assert told(history) == [
            ("Fit", "failed", 1, 0, 1),
            ("RecordFailure", "succeeded", 1, 1, 0),
            ("PipelineFailed", "failed", 1, 0, 1),
        ]


def test_map_iterations_are_one_step() -> None:
    history = History()
    history.add("ExecutionStarted")
    history.add("MapStateEntered", "Search")
    started = history.add("MapStateStarted")
    for _ in range(3):
        begun = history.add("MapIterationStarted", after=started)
        history.task("RunTrial", after=begun)
    begun = history.add("MapIterationStarted", after=started)
    entered = history.add("TaskStateEntered", "RunTrial", after=begun)
    history.add("LambdaFunctionFailed", after=entered)
    history.add("PassStateEntered", "NameTrialFailure")

    assert told(history) == [
        ("Search", "running", 1, 0, 0),
        ("RunTrial", "succeeded", 4, 3, 1),
        ("NameTrialFailure", "running", 1, 0, 0),
    ]


def test_failed_map_is_a_failed_step() -> None:
    history = History()
    history.add("ExecutionStarted")
    history.add("MapStateEntered", "Search")
    history.add("MapStateStarted")
    begun = history.add("MapIterationStarted")
    history.add("TaskStateEntered", "RunTrial", after=begun)
    history.add("LambdaFunctionFailed")
    history.add("MapIterationFailed")
    history.add("MapStateFailed")
    history.add("MapStateExited", "Search")
    history.task("RecordFailure")

    assert told(history)[0] == ("Search", "failed", 1, 0, 1)


def test_aborted_execution_leaves_no_step_running() -> None:
    history = History()
    history.add("ExecutionStarted")
    history.add("TaskStateEntered", "Ingest")
    history.add("ExecutionAborted")

    (step,) = progress(history.events)

    assert (step.status, step.ended_at) == ("failed", BEGIN + timedelta(seconds=3))


def test_empty_history_has_no_steps() -> None:
    assert progress([]) == ()


def test_history_is_read_page_by_page() -> None:
    history = History()
    history.add("ExecutionStarted")
    history.task("Ingest")
    asked: list[dict[str, Any]] = []

    class Pages:
        def get_execution_history(self, **request: Any) -> dict[str, Any]:
            asked.append(request)
            if "nextToken" not in request:
                return {"events": history.events[:2], "nextToken": "more"}
            return {"events": history.events[2:]}

    steps = StateMachine(Pages(), "arn").steps("execution")  # type: ignore[arg-type]

    assert [s.name for s in steps] == ["Ingest"]
    assert len(asked) == 2
    assert all(r["includeExecutionData"] is False for r in asked)


def test_execution_arn_follows_from_the_machines() -> None:
    machine = StateMachine(None, "arn:aws:states:eu-west-1:1:stateMachine:stateMachine")  # type: ignore[arg-type]

    assert machine.execution_arn("run") == "arn:aws:states:eu-west-1:1:execution:stateMachine:run"
