"""Every right of the template against AWS's own list of actions, resources and condition keys."""

from typing import Any

import pytest

from infra.local.calls import PARTITION_KEYS
from tests.access.compare import denied
from tests.access.needs import Place
from tests.access.policies import Policies, Reader, Statement
from tests.access.reference import faults, fruitless, statement_faults
from tests.access.stack import Stack
from tests.infra.bootstrapped import STAGES, boundary, deploy, execution
from tests.infra.deployment import Resolver, resources

KEY = "arn:aws:kms:us-east-1:123456789012:key/customer"
EVERYTHING = {"KmsKeyArn": KEY, "TraceMode": "Active", "SignArtifacts": "require"}
"""Parameters under which every right is granted."""


def _stack(**parameters: str) -> Stack:
    """A stack that nobody deployed."""
    ids = {name: f"stack-{name}" for name in Resolver(**parameters).resources()}
    machine = "arn:aws:states:us-east-1:123456789012:stateMachine:stack-"
    topic = "arn:aws:sns:us-east-1:123456789012:stack-notices"
    return Stack(
        place=Place("123456789012", "us-east-1", key=parameters.get("KmsKeyArn")),
        name="stack",
        parameters=parameters,
        physical={
            **ids,
            "TrainingStateMachine": f"{machine}training",
            "BatchStateMachine": f"{machine}batch",
            "NotificationTopic": topic,
        },
    )


def _statements() -> list[Statement]:
    return [s for s in _stack(**EVERYTHING).policies.statements if s.allows]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        EVERYTHING,
        {"Alarms": "off", "TraceMode": "PassThrough"},
        {"ApiAuthorizer": "API_KEY", "NotificationEmail": "ops@example.org"},
    ],
    ids=["default", "everything", "little", "key and mail"],
)
def test_services_may_do_what_the_deployment_has_them_do(parameters: dict[str, str]) -> None:
    stack = _stack(**parameters)

    asked = stack.by_configuration()

    assert len(asked) > 30
    assert list(map(str, denied({r: [why] for r, why in asked.items()}, stack.policies))) == []


@pytest.mark.parametrize(
    "permission", ["UploadRulePermission", "ExecutionFailureRulePermission", "ApiPermission"]
)
def test_a_service_without_its_permission_is_refused(permission: str) -> None:
    stack = _stack()
    fewer = Policies(s for s in stack.policies.statements if s.owner != permission)

    refused = denied({r: [why] for r, why in stack.by_configuration().items()}, fewer)

    assert refused
    assert {r.request.action for r in refused} == {"lambda:InvokeFunction"}


def test_every_action_exists_on_its_resources_under_its_conditions() -> None:
    found = _statements()

    assert len(found) > 50
    assert [fault for statement in found for fault in statement_faults(statement)] == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"Action": "s3:GetObjects"}, "did you mean s3:GetObject"),
        ({"Action": "s4:GetObject"}, "no service s4"),
        ({"Action": "s3:Get*"}, "name each action"),
        ({"Resource": "arn:aws:s3:::bucket"}, "is about"),
        ({"Resource": "*"}, "can be restricted to"),
        ({"Action": "xray:PutTraceSegments"}, "takes no resource"),
        ({"Condition": {"StringLike": {"dynamodb:LeadingKeys": "M#*"}}}, "never sends"),
        ({"Action": "dynamodb:Query"}, "is about"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_right_that_would_grant_nothing_is_told(changed: dict, said: str) -> None:
    right = {
        "Effect": "Allow",
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::bucket/models/*",
    }

    found = list(statement_faults(Reader().statement("TrainRole", {**right, **changed})))

    assert any(said in fault for fault in found), found


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("s3:GetObject", "arn:aws:s3:::bucket/models/*/report-*"),
        ("s3:ListBucket", "arn:aws:s3:::bucket"),
        ("dynamodb:Query", "arn:aws:dynamodb:us-east-1:1:table/t/index/GSI1"),
        ("states:GetExecutionHistory", "arn:aws:states:us-east-1:1:execution:m:*"),
        ("logs:PutLogEvents", "arn:aws:logs:us-east-1:1:log-group:/aws/lambda/f:*"),
        ("xray:PutTraceSegments", "*"),
    ],
)
def test_a_right_on_what_its_action_is_about_is_well(action: str, resource: str) -> None:
    assert list(faults(action, [resource])) == []


UNLISTED = {
    "apigateway": "the reference names the resources of HTTP APIs alone under this prefix",
    "iam:CreateServiceLinkedRole": "the reference names roles without the path that services' roles have",
    "cloudformation:CreateChangeSet": "a transform is a resource too, as CloudFormation's guide says",
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("policy", [boundary, deploy, execution], ids=lambda p: p.__name__)
def test_what_a_pipeline_may_do_is_granted_on_what_it_is_about(policy: Any, stage: str) -> None:
    found = [
        fault
        for document in policy(stage)
        if document["Effect"] == "Allow"
        for fault in fruitless(Reader().statement(policy.__name__, document))
        if not any(f" {unlisted}" in fault for unlisted in UNLISTED)
    ]

    # ApiLogs is one role's for the whole account, and says so by its condition.
    assert [fault for fault in found if "ApiLogs" not in fault] == []


def test_the_recorder_knows_the_partition_keys_of_the_template() -> None:
    [table] = resources("AWS::DynamoDB::Table").values()
    properties = table["Properties"]
    schemas = {None: properties["KeySchema"]} | {
        index["IndexName"]: index["KeySchema"] for index in properties["GlobalSecondaryIndexes"]
    }

    found = {
        index: part["AttributeName"]
        for index, schema in schemas.items()
        for part in schema
        if part["KeyType"] == "HASH"
    }

    assert found == PARTITION_KEYS
