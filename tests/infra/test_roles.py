"""The roles' IAM policies in the template, asked about every route as IAM would be."""

import json
import re
from functools import cache
from typing import Any

import pytest

from millrace.http.policies import policy_of
from millrace.http.roles import PERMISSIONS, Role
from millrace.http.routes import ROUTES, Route
from tests.access.policies import Policies, Reader, Request
from tests.infra.deployment import Resolver

API = "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3d4e5"
STAGE = f"{API}/live"
SIZE_LIMIT = 6144
"""Characters of a managed policy, white space aside."""
NAMES = (
    "churn",
    "predict",
    "batch",
    "infer",
    "ready",
    "champion",
    "versions",
    "retrain",
    "feedback",
)
"""Names that a caller could give a model, to get further than they should."""

each_role = pytest.mark.parametrize("role", Role)
each_route = pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")


@cache
def policies() -> dict[str, dict[str, Any]]:
    """Documents of the template's managed policies, by logical name."""
    known = {
        "AWS::Partition": "aws",
        "AWS::Region": "eu-central-1",
        "AWS::AccountId": "123456789012",
        "Api": "a1b2c3d4e5",
    }
    return {
        name: json.loads(
            re.sub(
                r"\$\{([^}]+)\}",
                lambda m: known[m[1]],
                json.dumps(resource["Properties"]["PolicyDocument"]),
            )
        )
        for name, resource in Resolver().resources().items()
        if resource["Type"] == "AWS::IAM::ManagedPolicy"
    }


@cache
def of(role: Role) -> Policies:
    """The policy of a role, as IAM reads it."""
    statements = policies()[f"{role.capitalize()}Policy"]["Statement"]
    return Policies(Reader().statement(role, statement) for statement in statements)


def allowed(role: Role, arn: str) -> bool:
    return of(role).verdict(Request(role, "execute-api:Invoke", arn)).allowed


def concrete(route: Route, name: str) -> str:
    return f"{STAGE}/{route.method}{re.sub(r'{[^}]+}', name, route.path)}"


@each_route
@each_role
def test_a_role_s_policy_opens_what_the_role_permits_and_nothing_else(
    role: Role, route: Route
) -> None:
    for name in NAMES:
        assert allowed(role, concrete(route, name)) == (route.permission in PERMISSIONS[role]), name


@each_role
def test_a_role_s_policy_reaches_no_other_api_stage_and_action(role: Role) -> None:
    path = "GET/v1/health"

    assert allowed(role, f"{STAGE}/{path}")
    assert not allowed(role, f"{API}/test/{path}")
    assert not allowed(role, f"{API.replace('a1b2', 'z9z9')}/live/{path}")
    assert not allowed(role, f"{STAGE}/DELETE/v1/models/churn")
    management = Request(role, "execute-api:ManageConnections", f"{STAGE}/{path}")
    assert not of(role).verdict(management).allowed


@each_role
def test_the_authorizer_gives_a_token_the_same_as_the_template_gives_a_signer(role: Role) -> None:
    [written] = policies()[f"{role.capitalize()}Policy"]["Statement"]
    [given] = policy_of([role], STAGE)["Statement"]

    assert written["Resource"] == given["Resource"]
    assert (written["Effect"], written["Action"]) == (given["Effect"], given["Action"])


def test_policies_have_room_to_grow() -> None:
    assert policies().keys() == {f"{role.capitalize()}Policy" for role in Role}
    for name, document in policies().items():
        assert len(json.dumps(document, separators=(",", ":"))) < 0.9 * SIZE_LIMIT, name


def test_a_pipeline_s_stages_write_no_policies() -> None:
    kinds = {r["Type"] for r in Resolver(ApiPolicies="none").resources().values()}

    assert "AWS::IAM::ManagedPolicy" not in kinds
