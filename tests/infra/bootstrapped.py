"""The bootstrap stack of a stage as it will be, and what its policies allow."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from samtranslator.yaml_helper import yaml_parse

from tests.access.policies import Policies, Reader, Request
from tests.infra.deployment import ROOT, Resolver, statements

BOOTSTRAP = ROOT / "infra" / "ci" / "bootstrap.yaml"
STAGES = ("staging", "prod")
ACCOUNT = "123456789012"
REGION = "eu-central-1"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/customer"
UUID = "01234567-89ab-cdef-0123-456789abcdef"
ORIGIN = {
    "GITHUB": {"Repository": "me@1/millrace@2"},
    "GITLAB": {"Repository": "group/sub/millrace"},
    "CIRCLECI": {
        "Repository": "github.com/me/millrace",
        "OrganizationId": UUID,
        "ProjectId": UUID[::-1],
    },
    "JENKINS": {"PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/agents"},
}


@cache
def document() -> dict[str, Any]:
    """The template as written."""
    found: dict[str, Any] = yaml_parse(BOOTSTRAP.read_text())
    return found


def made(stage: str, provider: str = "GITHUB", **parameters: str) -> dict[str, Any]:
    """The bootstrap stack of a stage, its references as real as they will be."""
    choice = {"Stage": stage, "Provider": provider, **ORIGIN[provider], **parameters}
    resolved = Resolver(document(), **choice).resources()
    name = f"millrace-ci-{stage}"
    known = {
        "AWS::Partition": "aws",
        "AWS::Region": REGION,
        "AWS::AccountId": ACCOUNT,
        "AWS::StackName": name,
        "ArtifactBucket": "millrace-ci-staging-artifactbucket-x",
        "ArtifactBucket.Arn": "arn:aws:s3:::millrace-ci-staging-artifactbucket-x",
        "millrace-ci-artifact-bucket": "millrace-ci-staging-artifactbucket-x",
        "Boundary": boundary_arn(stage),
        "ExecutionRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/{name}-execution",
        "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{name}/id",
        "OidcProvider": f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.githubusercontent.com",
    }
    text = re.sub(r"\$\{([^}]+)\}", lambda m: known[m[1]], json.dumps(resolved))
    found: dict[str, Any] = json.loads(text)
    return found


def boundary_arn(stage: str) -> str:
    """The stage's boundary."""
    return f"arn:aws:iam::{ACCOUNT}:policy/millrace-ci-{stage}-boundary"


@cache
def execution(stage: str) -> tuple[dict[str, Any], ...]:
    """What CloudFormation may do for a stage."""
    return tuple(statements(made(stage, KmsKeyArn=KEY)["ExecutionRole"]))


@cache
def deploy(stage: str) -> tuple[dict[str, Any], ...]:
    """What the pipeline itself may do for a stage."""
    return tuple(statements(made(stage, KmsKeyArn=KEY)["DeployRole"]))


@cache
def boundary(stage: str) -> tuple[dict[str, Any], ...]:
    """What roles of a stage may do at most."""
    policy = made(stage, KmsKeyArn=KEY)["Boundary"]["Properties"]["PolicyDocument"]
    return tuple(policy["Statement"])


def allows(
    policy: Callable[[str], tuple[dict[str, Any], ...]],
    stage: str,
    action: str,
    resource: str,
    context: Mapping[str, str] | None = None,
) -> bool:
    """Whether AWS would allow it, going by one of the policies of a stage's bootstrap."""
    keys = tuple((key.lower(), (value,)) for key, value in (context or {}).items())
    request = Request(policy.__name__, action, resource, keys)
    return _policies(policy, stage).verdict(request).allowed


@cache
def _policies(policy: Callable[[str], tuple[dict[str, Any], ...]], stage: str) -> Policies:
    return Policies(Reader().statement(policy.__name__, s) for s in policy(stage))
