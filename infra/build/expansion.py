"""The template as CloudFormation will see it: expanded by the SAM translator, then resolved.

cfn-lint neither expands SAM nor looks into `DefinitionUri`, so whatever is to be known or checked about
a deployment without making it is read from this form.
"""

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template.yaml"
MACHINE = ROOT / "infra" / "statemachines" / "training.asl.yaml"
BATCH_MACHINE = ROOT / "infra" / "statemachines" / "batch.asl.yaml"
ROLLOUT_MACHINE = ROOT / "infra" / "statemachines" / "rollout.asl.yaml"
MACHINES = {
    "TrainingStateMachine": MACHINE,
    "BatchStateMachine": BATCH_MACHINE,
    "RolloutStateMachine": ROLLOUT_MACHINE,
}
"""The definition of each state machine of the template."""

type Resource = dict[str, Any]


class _NoManagedPolicies:
    def load(self) -> dict[str, str]:
        return {}


@cache
def _source() -> str:
    return TEMPLATE.read_text()


def source() -> dict[str, Any]:
    """The template as written, intrinsics in their long form."""
    document: dict[str, Any] = yaml_parse(_source())
    return document


@cache
def _expanded() -> str:
    document = source()
    for resource in document["Resources"].values():
        # `sam deploy` uploads local paths and puts these addresses in their place.
        for name in ("CodeUri", "DefinitionUri"):
            if name in resource.get("Properties", {}):
                resource["Properties"][name] = "s3://uploads/artifact"
    # The translator wants a region to choose partitions by; any will do.
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    return json.dumps(transform(document, {}, _NoManagedPolicies()))


def expanded() -> dict[str, Any]:
    """The template after the SAM transform: only resources CloudFormation knows."""
    document: dict[str, Any] = json.loads(_expanded())
    return document


def resources(kind: str) -> dict[str, Resource]:
    """The expanded resources of one type, conditions and references still in them."""
    return {n: r for n, r in expanded()["Resources"].items() if r["Type"] == kind}


class Resolver:
    """Works out conditions and intrinsics for one choice of parameters.

    References to resources become readable text, ``${RegistryTable.Arn}``, so that a policy can be
    compared with a table written by hand.

    Args:
        template: What to resolve, without SAM in it; the deployment, expanded, unless another is given.
        parameters: Values that differ from the defaults.

    Attributes:
        values: The value of every parameter.
    """

    def __init__(self, template: dict[str, Any] | None = None, /, **parameters: str) -> None:
        self._template = template or expanded()
        declared = self._template["Parameters"]
        unknown = parameters.keys() - declared.keys()
        if unknown:
            raise KeyError(f"no such parameters: {', '.join(sorted(unknown))}")
        self.values = {n: str(p.get("Default", "")) for n, p in declared.items()} | parameters
        self._conditions = self._template["Conditions"]

    def holds(self, condition: str) -> bool:
        """Whether a named condition is true."""
        return bool(self(self._conditions[condition]))

    def resources(self) -> dict[str, Resource]:
        """Every resource that this choice of parameters creates, resolved."""
        return {
            name: self(resource)
            for name, resource in self._template["Resources"].items()
            if "Condition" not in resource or self.holds(resource["Condition"])
        }

    def outputs(self) -> dict[str, Any]:
        """Every output of this choice of parameters, resolved."""
        return {
            name: self(output["Value"])
            for name, output in self._template["Outputs"].items()
            if "Condition" not in output or self.holds(output["Condition"])
        }

    def __call__(self, node: Any) -> Any:
        """The node without intrinsics."""
        if isinstance(node, list):
            return [v for v in map(self, node) if v is not _ABSENT]
        if not isinstance(node, Mapping):
            return node
        if len(node) == 1:
            [(name, argument)] = node.items()
            is_condition = name == "Condition" and isinstance(argument, str)
            if name == "Ref" or is_condition or name.startswith("Fn::"):
                return self._intrinsic(name, argument)
        resolved = {key: self(value) for key, value in node.items()}
        return {key: value for key, value in resolved.items() if value is not _ABSENT}

    def _intrinsic(self, name: str, argument: Any) -> Any:
        match name:
            case "Ref" if argument == "AWS::NoValue":
                return _ABSENT
            case "Ref":
                return self.values.get(argument, "${" + argument + "}")
            case "Fn::GetAtt":
                parts = argument if isinstance(argument, list) else argument.split(".", 1)
                return "${" + ".".join(parts) + "}"
            case "Fn::Sub":
                text, given = (argument, {}) if isinstance(argument, str) else argument
                for variable, value in (self.values | self(given)).items():
                    text = text.replace("${" + variable + "}", value)
                return text
            case "Fn::ImportValue":
                return "${" + self(argument) + "}"
            case "Fn::If":
                condition, yes, no = argument
                return self(yes if self.holds(condition) else no)
            case "Fn::Equals":
                left, right = map(self, argument)
                return str(left) == str(right)
            case "Fn::Not":
                return not self(argument[0])
            case "Fn::And":
                return all(map(self, argument))
            case "Fn::Or":
                return any(map(self, argument))
            case "Condition":
                return self.holds(argument)
            case "Fn::FindInMap":
                mapping, *keys = map(self, argument)
                found = self._template["Mappings"][mapping]
                for key in keys:
                    found = found[str(key)]
                return self(found)
            case "Fn::Join":
                separator, parts = argument
                return separator.join(map(self, parts))
        raise NotImplementedError(f"{name} is not used by the template so far")


_ABSENT = object()


def machine_definition(substitutions: Mapping[str, str], machine: Path = MACHINE) -> dict[str, Any]:
    """A definition as CloudFormation makes it: YAML to JSON, then text substitution.

    Args:
        substitutions: Values of its placeholders.
        machine: The definition; TRAINING's unless another is given.
    """
    text = json.dumps(yaml_parse(machine.read_text()))
    for name, value in substitutions.items():
        text = text.replace("${" + name + "}", value)
    definition: dict[str, Any] = json.loads(text)
    return definition
