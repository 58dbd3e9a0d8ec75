"""What the tests of the deployment share: the expanded template and shorthands to read it."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from infra.build.expansion import (
    BATCH_MACHINE,
    MACHINE,
    MACHINES,
    ROLLOUT_MACHINE,
    ROOT,
    TEMPLATE,
    Resolver,
    Resource,
    expanded,
    machine_definition,
    resources,
    source,
)

__all__ = [
    "BATCH_MACHINE",
    "EVERY",
    "FUNCTIONS",
    "MACHINE",
    "MACHINES",
    "ROLLOUT_MACHINE",
    "ROOT",
    "TEMPLATE",
    "TOKENS",
    "Resolver",
    "Resource",
    "as_list",
    "expanded",
    "lintable",
    "machine_definition",
    "resources",
    "source",
    "statements",
]

FUNCTIONS = (
    "Trigger",
    "Ingest",
    "Train",
    "Evaluate",
    "Registry",
    "Predict",
    "Capture",
    "Feedback",
    "Monitor",
    "Events",
    "Batch",
    "Score",
    "Rollout",
    "Api",
    "Authorizer",
    "Heartbeat",
)
TOKENS = {
    "ApiAuthorizer": "JWT",
    "JwtIssuer": "https://issuer.example.org",
    "JwtAudience": "millrace",
}
"""A deployment that takes tokens."""
EVERY = {**TOKENS, "HeartbeatMinutes": "5"}
"""Every function at once. No deployment, as a rule refuses heartbeats where tokens are asked for; what each
function has can be looked at together all the same."""


def lintable() -> dict[str, Any]:
    """The expanded template with the state machines' definitions put in where their addresses stood."""
    document = copy.deepcopy(expanded())
    for logical_id, resource in document["Resources"].items():
        if resource["Type"] == "AWS::StepFunctions::StateMachine":
            properties = resource["Properties"]
            del properties["DefinitionS3Location"]
            arns = {
                name: f"arn:aws:lambda:us-east-1:123456789012:function:{name.lower()}"
                for name in properties.pop("DefinitionSubstitutions")
            }
            properties["DefinitionString"] = json.dumps(
                machine_definition(arns, MACHINES[logical_id])
            )
    return document


def statements(role: Resource) -> Iterator[dict[str, Any]]:
    """Every inline policy statement of a role."""
    for policy in role["Properties"].get("Policies", []):
        yield from policy["PolicyDocument"]["Statement"]


def as_list(value: Any) -> list[Any]:
    """A value that may stand alone or in a list, as a list."""
    return value if isinstance(value, list) else [value]
