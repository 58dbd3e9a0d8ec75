"""The BATCH machine: its substitutions, its shape, and every path through it."""

import re
from collections.abc import Iterator
from typing import Any

from millrace import errors
from millrace.errors import MillraceError, RetryableError
from millrace.messages import (
    BatchInput,
    FinishTask,
    RecordBatchFailureTask,
    RecordBatchRefusalTask,
    RecordBatchSplitTask,
    RecordBatchTask,
    ScoreTask,
    SplitTask,
)
from tests.infra.deployment import BATCH_MACHINE, machine_definition, resources

FUNCTIONS = ("Batch", "Score", "Registry")
TRANSIENT = {
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
}
ARNS = {f"{f}FunctionArn": f"arn:aws:lambda:us-east-1:123456789012:function:{f}" for f in FUNCTIONS}
ACTIONS = {
    "split": SplitTask,
    "finish": FinishTask,
    "record_batch_split": RecordBatchSplitTask,
    "record_batch_refusal": RecordBatchRefusalTask,
    "record_batch": RecordBatchTask,
    "record_batch_failure": RecordBatchFailureTask,
}
DEFINITION = machine_definition(ARNS, BATCH_MACHINE)

type State = dict[str, Any]


def test_placeholders_are_the_substitutions_of_the_template() -> None:
    machine = resources("AWS::StepFunctions::StateMachine")["BatchStateMachine"]
    lines = [line.strip() for line in BATCH_MACHINE.read_text().splitlines() if "${" in line]

    placeholders = re.findall(r"\$\{(\w+)\}", BATCH_MACHINE.read_text())
    assert set(placeholders) == set(machine["Properties"]["DefinitionSubstitutions"])
    for line in lines:
        assert re.fullmatch(r'Resource: "\$\{\w+FunctionArn\}"', line), line


def test_machine_uses_only_what_every_interpreter_runs() -> None:
    for name, state in _states(DEFINITION):
        assert not {"Assign", "QueryLanguage", "ItemBatcher", "ResultWriter"} & state.keys(), name
        for path in _paths_in(state):
            assert "?(" not in path, (name, path)
            assert not path.startswith("States."), (name, path)
    assert not re.search(r"^\s*\w+: [&*]\w", BATCH_MACHINE.read_text(), re.MULTILINE), "YAML alias"


def test_every_task_has_a_timeout_a_retry_and_what_is_transient_named() -> None:
    ours = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, RetryableError)
        and kind is not RetryableError
    }
    known = {
        n for n, k in vars(errors).items() if isinstance(k, type) and issubclass(k, MillraceError)
    }
    tasks = {n: s for n, s in _states(DEFINITION) if s["Type"] == "Task"}

    assert len(tasks) == 7
    for name, state in tasks.items():
        [retrier] = state["Retry"]
        assert set(retrier["ErrorEquals"]) == TRANSIENT | ours, name
        assert retrier["MaxAttempts"] >= 3, name
        assert retrier["JitterStrategy"] == "FULL", name
        assert state["TimeoutSeconds"] > 0, name
    for name, state in DEFINITION["States"].items():
        if state["Type"] in ("Task", "Map"):
            assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"], name
        for catcher in state.get("Catch", []):
            assert set(catcher["ErrorEquals"]) <= known | {"States.ALL"}, name


def test_timeouts_stand_above_those_of_the_functions() -> None:
    functions = resources("AWS::Lambda::Function")

    for name, state in _states(DEFINITION):
        if state["Type"] == "Task":
            function = state["Resource"].rsplit(":", 1)[1]
            limit = functions[f"{function}Function"]["Properties"]["Timeout"]
            assert limit < state["TimeoutSeconds"] <= limit + 60, name


def test_chunks_are_scored_by_a_map_that_is_bounded_and_distributed() -> None:
    state = DEFINITION["States"]["Score"]

    assert state["MaxConcurrencyPath"] == "$.concurrency"
    assert state["ItemProcessor"]["ProcessorConfig"]["Mode"] == "DISTRIBUTED"
    assert "ToleratedFailurePercentage" not in state
    assert "ToleratedFailureCount" not in state


def test_a_chunk_gets_every_field_it_must_have() -> None:
    given = {k.removesuffix(".$") for k in DEFINITION["States"]["Score"]["ItemSelector"]}

    needed = {n for n, f in ScoreTask.model_fields.items() if f.is_required()}
    assert needed <= given <= set(ScoreTask.model_fields)


def test_every_task_names_an_action_of_its_function() -> None:
    for name, state in DEFINITION["States"].items():
        if state["Type"] == "Task":
            assert state["Parameters"]["action"] in ACTIONS, name
            assert state["Parameters"]["input.$"] == "$", name


def test_results_never_hide_the_input_of_the_job() -> None:
    kept = {"Split": "$.split", "Finish": "$.finish"}

    for name, state in DEFINITION["States"].items():
        if state["Type"] in ("Task", "Map"):
            assert state["ResultPath"] == kept.get(name), name
    assert not {"split", "finish", "failure", "recording"} & BatchInput.model_fields.keys()


def test_role_may_invoke_exactly_the_functions_of_the_machine_and_run_its_chunks() -> None:
    role = resources("AWS::IAM::Role")["BatchMachineRole"]
    [policy] = role["Properties"]["Policies"]
    granted = {s["Sid"]: s for s in policy["PolicyDocument"]["Statement"] if "Sid" in s}

    used = {s["Resource"].rsplit(":", 1)[1] for _, s in _states(DEFINITION) if s["Type"] == "Task"}
    assert {f"{name}Function" for name in used} == {
        r["Fn::GetAtt"][0] for r in granted["RunSteps"]["Resource"]
    }
    name = resources("AWS::StepFunctions::StateMachine")["BatchStateMachine"]["Properties"][
        "StateMachineName"
    ]["Fn::Sub"]
    assert granted["RunChunks"]["Resource"]["Fn::Sub"].endswith(f":stateMachine:{name}")
    assert granted["WatchChunks"]["Resource"]["Fn::Sub"].endswith(f":execution:{name}:*")


def test_every_path_ends_and_every_failure_ends_in_fail() -> None:
    paths = list(_walk(DEFINITION))

    assert {state for path in paths for state in path} == DEFINITION["States"].keys()
    for path in paths:
        if "RecordFailure" in path:
            assert path[-2:] == ("RecordFailure", "BatchFailed")
    assert {path[-1] for path in paths} == {"FileRefused", "BatchEnded", "BatchFailed"}
    failing = {path[-3] for path in paths if path[-1] == "BatchFailed"}
    working = {n for n, s in DEFINITION["States"].items() if s["Type"] in ("Task", "Map")}
    assert failing == working - {"RecordFailure"}


def test_the_way_to_results_is_the_one_in_the_design() -> None:
    ways = [path for path in _walk(DEFINITION) if path[-1] == "BatchEnded"]

    assert ways == [
        ("Split", "CheckFile", "RecordSplit", "Score", "Finish", "RecordBatch", "BatchEnded")
    ]


def _states(definition: dict[str, Any]) -> Iterator[tuple[str, State]]:
    for name, state in definition["States"].items():
        yield name, state
        if "ItemProcessor" in state:
            yield from _states(state["ItemProcessor"])


def _successors(state: State) -> list[str]:
    branches = [*state.get("Choices", []), *state.get("Catch", [])]
    ways = [state.get("Next"), state.get("Default"), *(branch["Next"] for branch in branches)]
    return list(dict.fromkeys(way for way in ways if way))


def _walk(machine: dict[str, Any], so_far: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every path from the start; the machine has no loop."""
    path = so_far or (machine["StartAt"],)
    targets = _successors(machine["States"][path[-1]])
    if not targets:
        yield path
    for target in targets:
        yield from _walk(machine, (*path, target))


def _paths_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str) and (key.endswith((".$", "Path")) or key == "Variable"):
                yield value
            yield from _paths_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from _paths_in(value)
