"""asl-validator on the state machines as CloudFormation renders them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.infra.deployment import MACHINES, expanded, machine_definition, resources
from tests.infra.scans import ROOT, node_tool


@pytest.mark.parametrize("machine", MACHINES)
def test_asl_validator_finds_nothing(tmp_path: Path, machine: str) -> None:
    code, said = _validate(tmp_path, _definition(machine))

    assert code == 0, said


def test_every_state_machine_of_the_template_is_looked_at() -> None:
    written = {path.name for path in (ROOT / "infra" / "statemachines").glob("*.asl.yaml")}

    assert written == {path.name for path in MACHINES.values()}
    assert set(resources("AWS::StepFunctions::StateMachine")) == set(MACHINES)
    assert "DefinitionSubstitutions" in json.dumps(expanded())


def _no_target(machine: dict[str, Any]) -> None:
    machine["States"]["Ingest"]["Next"] = "Nowhere"


def _no_catch_target(machine: dict[str, Any]) -> None:
    machine["States"]["Ingest"]["Catch"][0]["Next"] = "Nowhere"


def _no_default(machine: dict[str, Any]) -> None:
    machine["States"]["CheckUpload"]["Default"] = "Nowhere"


def _no_start(machine: dict[str, Any]) -> None:
    machine["StartAt"] = "Nowhere"


def _unreachable(machine: dict[str, Any]) -> None:
    machine["States"]["Island"] = {"Type": "Succeed"}


def _no_end(machine: dict[str, Any]) -> None:
    del machine["States"]["Ingest"]["Next"]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_no_target, "Nowhere"),
        (_no_catch_target, "Nowhere"),
        (_no_default, "Nowhere"),
        (_no_start, "Nowhere"),
        (_unreachable, "Island"),
        (_no_end, "Ingest"),
    ],
    ids=["next", "catch", "default", "start", "unreachable", "no-end"],
)
def test_a_broken_transition_would_be_found(tmp_path: Path, broken: Any, says: str) -> None:
    machine = _definition()
    broken(machine)

    code, said = _validate(tmp_path, machine)

    assert code == 1
    assert says in said


def _definition(machine: str = "TrainingStateMachine") -> dict[str, Any]:
    properties = resources("AWS::StepFunctions::StateMachine")[machine]["Properties"]
    return machine_definition(
        {
            name: f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
            for name in properties["DefinitionSubstitutions"]
        },
        MACHINES[machine],
    )


def _validate(folder: Path, machine: dict[str, Any]) -> tuple[int, str]:
    file = folder / "machine.json"
    file.write_text(json.dumps(machine))
    done = subprocess.run(
        [*node_tool("asl-validator"), "--json-path", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
