"""The stack as CloudFormation made it of the template."""

import re

import pytest

from infra.build.expansion import Resolver
from millrace_cli.client import ApiClient
from millrace_cli.target import Target

pytestmark = pytest.mark.needs("deployment")


def test_the_stack_holds_what_the_template_says_for_its_parameters(target: Target) -> None:
    [stack] = target.cloudformation.describe_stacks(StackName=target.stack)["Stacks"]
    parameters = {p["ParameterKey"]: p["ParameterValue"] for p in stack["Parameters"]}
    template = Resolver(**parameters)

    pages = target.cloudformation.get_paginator("list_stack_resources").paginate(
        StackName=target.stack
    )
    made = {
        _steady(r["LogicalResourceId"]): (r["ResourceType"], r["ResourceStatus"])
        for page in pages
        for r in page["StackResourceSummaries"]
    }

    expected = {_steady(name): r["Type"] for name, r in template.resources().items()}
    assert {name: kind for name, (kind, _) in made.items()} == expected
    assert {status for _, status in made.values()} <= {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
    assert template.outputs().keys() == target.outputs.raw.keys()


def _steady(logical_id: str) -> str:
    """A name without the digest that SAM gives a deployment of an API."""
    return re.sub(r"(Deployment)[0-9a-f]{10}$", r"\1", logical_id)


@pytest.mark.needs("rest-api")
def test_the_health_check_reaches_the_table(api: ApiClient) -> None:
    health = api.get("/v1/health", deep="true")

    assert (health["status"], health["checks"]) == ("ok", {"table": "ok"})
