"""The TRAINING machine: its substitutions, its shape, and every path through it."""

import re
from collections.abc import Iterator
from typing import Any

from millrace import errors
from millrace.errors import MillraceError, RetryableError
from millrace.messages import TrainingInput, TrialResult, TrialTask
from tests.infra.deployment import MACHINE, machine_definition, resources

FUNCTIONS = ("Ingest", "Train", "Evaluate", "Registry", "Rollout")
TRANSIENT = {
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
}
ARNS = {f"{f}FunctionArn": f"arn:aws:lambda:us-east-1:123456789012:function:{f}" for f in FUNCTIONS}

type State = dict[str, Any]

DEFINITION = machine_definition(ARNS)


def test_placeholders_are_the_substitutions_of_the_template() -> None:
    machine = resources("AWS::StepFunctions::StateMachine")["TrainingStateMachine"]
    placeholders = re.findall(r"\$\{(\w+)\}", MACHINE.read_text())

    assert set(placeholders) == set(machine["Properties"]["DefinitionSubstitutions"])


def _waits(state: dict[str, Any]) -> bool:
    return str(state["Resource"]).endswith(".waitForTaskToken")


def _function(state: dict[str, Any]) -> str:
    """The function that a Task calls, itself or through the integration that waits."""
    called = state["Parameters"]["FunctionName"] if _waits(state) else state["Resource"]
    return str(called).rsplit(":", 1)[1]


def test_placeholders_are_quoted_and_alone() -> None:
    lines = [line.strip() for line in MACHINE.read_text().splitlines() if "${" in line]

    assert lines
    for line in lines:
        assert re.fullmatch(r'(Resource|FunctionName): "\$\{\w+FunctionArn\}"', line), line


def test_machine_uses_only_what_every_interpreter_runs() -> None:
    for name, state in _states(DEFINITION):
        assert "Assign" not in state, name
        assert "QueryLanguage" not in state, name
        assert "MaxConcurrencyPath" not in state, name
        for path in _paths_in(state):
            assert "?(" not in path, (name, path)
            assert not path.startswith("States."), (name, path)
    assert not re.search(r"^\s*\w+: [&*]\w", MACHINE.read_text(), re.MULTILINE), "YAML alias"


def test_states_are_pascal_case_and_named_once() -> None:
    names = [name for name, _ in _states(DEFINITION)]

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"([A-Z][a-z]+)+", name) for name in names)


def test_ends_are_succeed_or_fail() -> None:
    for machine in _machines(DEFINITION):
        for name, state in machine["States"].items():
            if state["Type"] in ("Succeed", "Fail"):
                assert not {"Next", "End", "Catch"} & state.keys(), name
            elif state["Type"] == "Choice":
                assert "Default" in state, name
            elif machine is DEFINITION:
                assert "End" not in state, name


def test_search_bounds_its_concurrency_and_catches() -> None:
    state = DEFINITION["States"]["Search"]

    assert 2 <= state["MaxConcurrency"] <= 10
    assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"]
    assert "ItemBatcher" not in state
    assert state["ItemProcessor"]["ProcessorConfig"] == {"Mode": "INLINE"}


def test_every_task_has_a_timeout_a_retry_and_a_catch() -> None:
    tasks = {n: s for n, s in _states(DEFINITION) if s["Type"] == "Task"}

    assert len(tasks) >= 12
    for name, state in tasks.items():
        assert "TimeoutSecondsPath" in state if _waits(state) else state["TimeoutSeconds"] > 0, name
        assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"], name
        assert state["Catch"][-1]["ResultPath"].startswith("$."), name
        [retrier] = state["Retry"]
        assert retrier["MaxAttempts"] >= 3, name
        assert retrier["BackoffRate"] >= 1.5, name
        assert retrier["JitterStrategy"] == "FULL", name


def test_retries_name_what_is_transient_and_nothing_that_is_final() -> None:
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

    for name, state in _states(DEFINITION):
        for retrier in state.get("Retry", []):
            assert set(retrier["ErrorEquals"]) == TRANSIENT | ours, name
        for catcher in state.get("Catch", []):
            assert set(catcher["ErrorEquals"]) <= known | {"States.ALL", "States.Timeout"}, name


def test_timeouts_stand_above_those_of_the_functions() -> None:
    functions = resources("AWS::Lambda::Function")

    for name, state in _states(DEFINITION):
        if state["Type"] == "Task":
            function = _function(state)
            limit = functions[f"{function}Function"]["Properties"]["Timeout"]
            if _waits(state):
                continue  # as long as the spec says: approve.timeout is a minute at least
            assert limit < state["TimeoutSeconds"] <= limit + 60, name


def test_role_may_invoke_exactly_the_functions_of_the_machine() -> None:
    role = resources("AWS::IAM::Role")["TrainingRole"]
    [policy] = role["Properties"]["Policies"]
    [invoke] = [s for s in policy["PolicyDocument"]["Statement"] if s.get("Sid") == "RunSteps"]

    used = {_function(s) for _, s in _states(DEFINITION) if s["Type"] == "Task"}
    assert {f"{name}Function" for name in used} == {r["Fn::GetAtt"][0] for r in invoke["Resource"]}


def test_trial_gets_every_field_it_must_have() -> None:
    given = {k.removesuffix(".$") for k in DEFINITION["States"]["Search"]["ItemSelector"]["input"]}
    given |= {"action"}

    needed = {n for n, f in TrialTask.model_fields.items() if f.is_required()}
    assert needed <= given
    assert given <= set(TrialTask.model_fields)


def test_failed_trial_gives_a_trial_result() -> None:
    state = _processor()["States"]["NameTrialFailure"]

    given = {k.removesuffix(".$") for k in state["Parameters"]}
    needed = {n for n, f in TrialResult.model_fields.items() if f.is_required()}
    assert needed <= given <= set(TrialResult.model_fields)


def test_results_never_hide_the_input_of_the_training() -> None:
    for name, state in DEFINITION["States"].items():
        if state["Type"] in ("Task", "Map"):
            result = state["ResultPath"]
            assert result is None or result.removeprefix("$.") not in TrainingInput.model_fields, (
                name
            )


# ── Paths ───────────────────────────────────────────────────────────────────────────────────────


def test_every_state_is_reached_and_every_target_exists() -> None:
    for machine in _machines(DEFINITION):
        states = machine["States"]
        seen = {machine["StartAt"]}
        waiting = [machine["StartAt"]]
        while waiting:
            for target in _successors(states[waiting.pop()]):
                assert target in states, target
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        assert seen == states.keys()


def test_every_path_ends_and_every_failure_ends_in_fail() -> None:
    paths = [path for machine in _machines(DEFINITION) for path in _walk(machine)]

    assert len(paths) > 20
    for path in paths:
        if "RecordFailure" in path:
            assert path[-2:] == ("RecordFailure", "PipelineFailed")
    ends = {path[-1] for path in paths}
    assert ends == {
        "UploadRefused",
        "DatasetRecorded",
        "VersionRejected",
        "ApprovalExpired",
        "GatesFailed",
        "Promoted",
        "RollingOut",
        "PipelineFailed",
        "RecordTrial",
        "TrialNotRecorded",
    }


def test_every_task_of_the_pipeline_can_fail_into_the_record_of_the_failure() -> None:
    failing = {
        path[-3] for path in _walk(DEFINITION) if path[-2:] == ("RecordFailure", "PipelineFailed")
    }

    tasks = {n for n, s in DEFINITION["States"].items() if s["Type"] in ("Task", "Map")}
    assert failing == tasks - {"RecordFailure"}


def test_the_way_to_a_champion_is_the_one_in_the_design() -> None:
    ways = [path for path in _walk(DEFINITION) if path[-1] == "Promoted"]

    straight = min(ways, key=len)
    assert straight == (
        "Ingest",
        "CheckUpload",
        "RecordDataset",
        "DecideTraining",
        "Plan",
        "Search",
        "Fit",
        "Register",
        "Evaluate",
        "RecordEvaluation",
        "Gate",
        "Promote",
        "ChooseStrategy",
        "Promoted",
    )
    assert (*straight[:-2], "ReadChampion", *straight[8:]) in ways


def _machines(definition: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield definition
    for state in definition["States"].values():
        if "ItemProcessor" in state:
            yield from _machines(state["ItemProcessor"])


def _states(definition: dict[str, Any]) -> Iterator[tuple[str, State]]:
    for machine in _machines(definition):
        yield from machine["States"].items()


def _processor() -> dict[str, Any]:
    processor: dict[str, Any] = DEFINITION["States"]["Search"]["ItemProcessor"]
    return processor


def _successors(state: State) -> Iterator[str]:
    if "Next" in state:
        yield state["Next"]
    if "Default" in state:
        yield state["Default"]
    for branch in (*state.get("Choices", []), *state.get("Catch", [])):
        yield branch["Next"]


def _walk(machine: dict[str, Any], so_far: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every path from the start, each state at most twice (a loop is gone round once)."""
    here = so_far[-1] if so_far else machine["StartAt"]
    path = so_far or (here,)
    targets = list(dict.fromkeys(_successors(machine["States"][here])))
    if not targets or machine["States"][here].get("End"):
        yield path
    for target in targets:
        if path.count(target) < 2:
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
