"""The ROLLOUT machine: its substitutions, its shape, and every path through it."""

import re
from typing import Any

from millrace import errors
from millrace.errors import RetryableError
from millrace.rollout.messages import (
    BeginTask,
    CheckHealthTask,
    FinishTask,
    RecordStallTask,
    RollBackTask,
    RolloutInput,
    SetTrafficTask,
)
from tests.infra.deployment import ROLLOUT_MACHINE, machine_definition, resources

ARNS = {"RolloutFunctionArn": "arn:aws:lambda:us-east-1:123456789012:function:Rollout"}
ACTIONS: dict[str, type[RolloutInput]] = {
    "begin": BeginTask,
    "set_traffic": SetTrafficTask,
    "check_health": CheckHealthTask,
    "finish": FinishTask,
    "roll_back": RollBackTask,
    "record_stall": RecordStallTask,
}
DEFINITION = machine_definition(ARNS, ROLLOUT_MACHINE)
STATES: dict[str, dict[str, Any]] = DEFINITION["States"]
TASKS = {name: state for name, state in STATES.items() if state["Type"] == "Task"}


def test_placeholders_are_the_substitutions_of_the_template() -> None:
    machine = resources("AWS::StepFunctions::StateMachine")["RolloutStateMachine"]

    placeholders = re.findall(r"\$\{(\w+)\}", ROLLOUT_MACHINE.read_text())
    assert set(placeholders) == set(machine["Properties"]["DefinitionSubstitutions"])


def test_machine_uses_only_what_every_interpreter_runs() -> None:
    for name, state in STATES.items():
        assert not {"Assign", "QueryLanguage", "Output"} & state.keys(), name
    text = ROLLOUT_MACHINE.read_text()
    assert "?(" not in text
    assert not re.search(r"^\s*\w+: [&*]\w", text, re.MULTILINE), "YAML alias"


def test_every_task_retries_what_is_transient_and_records_what_is_not() -> None:
    ours = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, RetryableError)
        and kind is not RetryableError
    }

    assert set(TASKS) == {
        "Begin",
        "SetTraffic",
        "CheckHealth",
        "Finish",
        "RollBack",
        "RecordStall",
    }
    for name, state in TASKS.items():
        [retrier] = state["Retry"]
        assert ours <= set(retrier["ErrorEquals"]), name
        assert retrier["MaxAttempts"] >= 3, name
        [catcher] = state["Catch"]
        assert catcher["ErrorEquals"] == ["States.ALL"], name
        wanted = "RolloutStalled" if name == "RecordStall" else "RecordStall"
        assert catcher["Next"] == wanted, name


def test_every_task_names_an_action_of_its_function_and_gets_everything() -> None:
    assert {state["Parameters"]["action"] for state in TASKS.values()} == set(ACTIONS)
    for name, state in TASKS.items():
        assert state["Parameters"]["input.$"] == "$", name


def test_a_task_reads_the_payload_with_the_last_turn() -> None:
    payload = RolloutInput(rollout_id="churn-7-a", attempt=1, model="churn").model_dump()
    turn = {"decision": "bake", "seconds": 300, "step": 0, "check": 1, "waits": 0}
    failure = {"Error": "Boom", "Cause": "out of memory"}

    for action, kind in ACTIONS.items():
        task = kind.model_validate({**payload, "turn": turn, "failure": failure, "action": action})
        assert task.rollout_id == "churn-7-a"


def test_timeouts_stand_above_that_of_the_function() -> None:
    limit = resources("AWS::Lambda::Function")["RolloutFunction"]["Properties"]["Timeout"]

    for name, state in TASKS.items():
        assert limit < state["TimeoutSeconds"] <= limit + 60, name


def test_waits_are_as_long_as_the_last_turn_says() -> None:
    waits = {name: state for name, state in STATES.items() if state["Type"] == "Wait"}

    assert set(waits) == {"AwaitTurn", "Bake"}
    assert {state["SecondsPath"] for state in waits.values()} == {"$.turn.seconds"}


def test_every_state_is_reached_and_every_way_ends() -> None:
    def follows(name: str) -> set[str]:
        state = STATES[name]
        found = {state["Next"]} if "Next" in state else set()
        found |= {choice["Next"] for choice in state.get("Choices", ())}
        found |= {state["Default"]} if "Default" in state else set()
        return found | {catcher["Next"] for catcher in state.get("Catch", ())}

    reached, ahead = set(), {DEFINITION["StartAt"]}
    while ahead:
        name = ahead.pop()
        reached.add(name)
        ahead |= follows(name) - reached
    ends = {name for name, state in STATES.items() if not follows(name)}

    assert reached == set(STATES)
    assert ends == {"RolloutOver", "RolloutStalled"}
    assert STATES["RolloutOver"]["Type"] == "Succeed"
    assert STATES["RolloutStalled"]["Type"] == "Fail"


def test_a_decision_that_is_not_known_ends_the_execution_and_changes_no_traffic() -> None:
    choices = {name: state for name, state in STATES.items() if state["Type"] == "Choice"}

    assert len(choices) == 3
    for name, state in choices.items():
        assert state["Default"] == "RolloutOver", name


def test_the_rule_on_failed_executions_tells_the_rollout_function() -> None:
    rule = resources("AWS::Events::Rule")["RolloutFailureRule"]["Properties"]

    [machine] = rule["EventPattern"]["detail"]["stateMachineArn"]
    assert machine == {"Ref": "RolloutStateMachine"}
    assert rule["EventPattern"]["detail"]["status"] == ["FAILED", "TIMED_OUT", "ABORTED"]
