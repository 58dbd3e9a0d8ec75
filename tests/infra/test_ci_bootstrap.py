"""The roles, the boundary and the bucket that a pipeline deploys with."""

import json
import re
from functools import cache
from typing import Any

import pytest
from cfnlint.api import lint
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

from tests.access.reference import takes_resource
from tests.infra.bootstrapped import (
    ACCOUNT,
    BOOTSTRAP,
    KEY,
    ORIGIN,
    REGION,
    STAGES,
    UUID,
    allows,
    boundary,
    boundary_arn,
    deploy,
    document,
    execution,
    made,
)
from tests.infra.deployment import ROOT, TOKENS, Resolver, as_list, expanded, statements

# How CloudFormation names what the template makes: its ARN, and the property that names it. Without one
# the name is STACK-LOGICALID-RANDOM. A new resource type belongs here.
ARNS: dict[str, tuple[str, str | None]] = {
    "AWS::ApiGateway::Account": (f"arn:aws:apigateway:{REGION}::/account", None),
    "AWS::ApiGateway::ApiKey": (f"arn:aws:apigateway:{REGION}::/apikeys/id", None),
    "AWS::ApiGateway::Deployment": (
        f"arn:aws:apigateway:{REGION}::/restapis/id/deployments/id",
        None,
    ),
    "AWS::ApiGateway::RestApi": (f"arn:aws:apigateway:{REGION}::/restapis/id", None),
    "AWS::ApiGateway::Stage": (f"arn:aws:apigateway:{REGION}::/restapis/id/stages/live", None),
    "AWS::ApiGateway::UsagePlan": (f"arn:aws:apigateway:{REGION}::/usageplans/id", None),
    "AWS::ApiGateway::UsagePlanKey": (f"arn:aws:apigateway:{REGION}::/usageplans/id/keys/id", None),
    "AWS::CloudWatch::Alarm": (
        f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:{{}}",
        "AlarmName",
    ),
    "AWS::CloudWatch::Dashboard": (
        f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/{{}}",
        "DashboardName",
    ),
    "AWS::Logs::QueryDefinition": (f"arn:aws:logs:{REGION}:{ACCOUNT}:query:id", None),
    "AWS::DynamoDB::Table": (f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{{}}", "TableName"),
    "AWS::Events::Rule": (f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{{}}", "Name"),
    "AWS::IAM::ManagedPolicy": (f"arn:aws:iam::{ACCOUNT}:policy/{{}}", "ManagedPolicyName"),
    "AWS::IAM::Role": (f"arn:aws:iam::{ACCOUNT}:role/{{}}", "RoleName"),
    "AWS::ApplicationAutoScaling::ScalableTarget": (
        f"arn:aws:application-autoscaling:{REGION}:{ACCOUNT}:scalable-target/id",
        None,
    ),
    "AWS::KMS::Key": (f"arn:aws:kms:{REGION}:{ACCOUNT}:key/signing", None),
    "AWS::Lambda::Alias": (
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{{}}:live",
        "FunctionName",
    ),
    "AWS::Lambda::Version": (
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{{}}:1",
        "FunctionName",
    ),
    "AWS::Lambda::EventSourceMapping": (
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:event-source-mapping:id",
        None,
    ),
    "AWS::Lambda::EventInvokeConfig": (
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{{}}",
        "FunctionName",
    ),
    "AWS::Lambda::Function": (f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{{}}", "FunctionName"),
    "AWS::Lambda::Permission": (f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{{}}", "FunctionName"),
    "AWS::Logs::LogGroup": (f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{{}}", "LogGroupName"),
    "AWS::Logs::SubscriptionFilter": (
        f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{{}}",
        "LogGroupName",
    ),
    "AWS::S3::Bucket": ("arn:aws:s3:::{}", "BucketName"),
    "AWS::S3::BucketPolicy": ("arn:aws:s3:::{}", "Bucket"),
    "AWS::SNS::Subscription": (f"arn:aws:sns:{REGION}:{ACCOUNT}:{{}}", "TopicArn"),
    "AWS::SNS::Topic": (f"arn:aws:sns:{REGION}:{ACCOUNT}:{{}}", "TopicName"),
    "AWS::SNS::TopicPolicy": (f"arn:aws:sns:{REGION}:{ACCOUNT}:{{}}", "Topics"),
    "AWS::SQS::Queue": (f"arn:aws:sqs:{REGION}:{ACCOUNT}:{{}}", "QueueName"),
    "AWS::SQS::QueuePolicy": (f"arn:aws:sqs:{REGION}:{ACCOUNT}:{{}}", "Queues"),
    "AWS::StepFunctions::StateMachine": (
        f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{{}}",
        "StateMachineName",
    ),
    "AWS::WAFv2::WebACL": (f"arn:aws:wafv2:{REGION}:{ACCOUNT}:regional/webacl/{{}}", "Name"),
    "AWS::WAFv2::WebACLAssociation": (
        f"arn:aws:apigateway:{REGION}::/restapis/id/stages/live",
        None,
    ),
}

# What a resource type's provider may call and this template never makes it call: patterns of
# `type action`, and why.
UNNEEDED = {
    r"ApplicationAutoScaling::ScalableTarget (?!application-autoscaling:|iam:).*": (
        "the service looks after what it scales with its own linked role, and scales functions alone"
    ),
    r"ApplicationAutoScaling::ScalableTarget iam:.*": (
        "the linked role has a statement of its own, for its own name"
    ),
    r"ApplicationAutoScaling::ScalableTarget application-autoscaling:.*[Tt]ag.*": "no tags",
    r"KMS::Key kms:(Enable|Disable)KeyRotation": "AWS rotates no asymmetric keys",
    r"Lambda::Alias codedeploy:.*": "no deployment in steps by CodeDeploy",
    r"Lambda::Version lambda:PutFunctionScalingConfig": "no such setting",
    r"Lambda::Version lambda:.*RuntimeManagementConfig": "runtimes follow AWS's updates",
    r"DynamoDB::Table dynamodb:(AssociateTableReplica|CreateTableReplica)": "no global table",
    r"DynamoDB::Table dynamodb:(BatchWriteItem|DeleteItem|GetItem|PutItem|Query|Scan|UpdateItem)": (
        "replicas and imports touch rows; a deployment must not"
    ),
    r"DynamoDB::Table dynamodb:(ImportTable|DescribeImport)": "no import from S3",
    r"DynamoDB::Table dynamodb:(Enable|Disable|Update)KinesisStreamingDestination": "no Kinesis stream",
    r"DynamoDB::Table dynamodb:UpdateContributorInsights": "no contributor insights",
    r"DynamoDB::Table dynamodb:(Put|Delete)ResourcePolicy": "no resource policy on the table",
    r"DynamoDB::Table kinesis:.*": "no Kinesis stream",
    r"(DynamoDB::Table|Lambda::Function) kms:(Encrypt|ListAliases|RevokeGrant)": "imports, and grants that AWS services retire",
    r"DynamoDB::Table iam:CreateServiceLinkedRole": "only for replicas and autoscaling of a table",
    r"IAM::ManagedPolicy iam:.*": (
        "a pipeline that could write policies could widen what people have: its stages are deployed "
        "with ApiPolicies=none"
    ),
    r"IAM::Role iam:DeleteRolePermissionsBoundary": "denied: the boundary stays",
    r"Lambda::Function lambda:(AssociateRuntimeAlias|PutRuntimeManagementConfig)": "runtimes follow AWS's updates",
    r"Lambda::Function lambda:.*CapacityProvider": "no capacity provider",
    r"Lambda::Function lambda:(GetCodeSigningConfig|(Put|Delete)FunctionCodeSigningConfig)": "no code signing",
    r"Lambda::Function lambda:GetLayerVersion": "no layer",
    r"Lambda::Function lambda:(PublishVersion|PutFunction(Recursion|Scaling)Config)": (
        "a version is a resource of its own here; no such setting"
    ),
    r"Lambda::Function ec2:.*": "no VPC",
    r"Lambda::Function elasticfilesystem:.*": "no file system",
    r"Lambda::Function s3files:.*": "no file system",
    r"Logs::LogGroup firehose:TagDeliveryStream": "no delivery stream",
    r"Logs::LogGroup logs:(CreateLogDelivery|(Put|Delete)ResourcePolicy)": "no delivery by a log group",
    r"Logs::LogGroup logs:(Put|Delete)(DataProtectionPolicy|IndexPolicy)": "no such policy",
    r"Logs::LogGroup logs:PutBearerTokenAuthentication": "no bearer tokens",
    r"Logs::LogGroup logs:PutLogGroupDeletionProtection": "no deletion protection of log groups",
    r"Logs::LogGroup logs:(Associate|Disassociate)KmsKey": "log groups have AWS's key",
    r"Logs::LogGroup s3:REST\.PUT\.OBJECT": "not an action",
    r"S3::Bucket s3:(Get|Put)(BucketAbac|AccelerateConfiguration)": "no such setting",
    r"S3::Bucket s3:Put(Accelerate|Analytics|IntelligentTiering|Inventory|Metrics|Replication)Configuration": (
        "no such configuration"
    ),
    r"S3::Bucket s3:(Put|Delete)Bucket(Acl|Cors|CORS|Logging|Replication|Website|ObjectLockConfiguration)": (
        "no such configuration"
    ),
    r"S3::Bucket s3:DeleteBucket(Analytics|Metrics|Inventory)Configuration": "no such configuration",
    r"S3::Bucket s3:DeleteBucket(Encryption|Lifecycle)": "encryption and lifecycle are never taken away",
    r"S3::Bucket s3:(Create|Delete|Update|Get)BucketMetadata.*": "no metadata table",
    r"S3::Bucket s3:(PutObject(Acl|LockConfiguration)|DeleteObject)": "a deployment touches no object",
    r"DynamoDB::Table (logs|s3):.*": "no import from S3, which would be logged",
    r"S3::Bucket s3tables:.*": "no table bucket",
    r"SNS::Topic sns:PutDataProtectionPolicy": "no data protection policy",
    r"WAFv2::WebACL payments:.*": "no managed rules that are bought",
    r"WAFv2::WebACLAssociation (amplify|apprunner|appsync|bedrock-agentcore|cognito-idp|ec2|elasticloadbalancing):.*": (
        "the firewall stands before the API alone"
    ),
    r"WAFv2::WebACLAssociation wafv2:((Get|Put)PermissionPolicy|GetWebACL)": "no shared rule groups",
    r"ApiGateway::RestApi apigateway:UpdateRestApiPolicy": "the API has no resource policy",
}

# Statements on every resource, and why.
EVERYTHING = {
    ("Boundary", "ApiLogs"): "API Gateway's account-wide role writes logs of any API; for it alone",
    ("Boundary", "LogDelivery"): "log delivery knows no resources",
    ("Boundary", "Callbacks"): "a task token names no machine",
    ("Boundary", "Streams"): "listing streams knows no resources",
    ("Boundary", "Traces"): "X-Ray knows no resources",
    (
        "ExecutionRole",
        "MakeKey",
    ): "a key has no ARN before it is made; its tag and kind are set",
    ("ExecutionRole", "FindLogGroups"): "log groups are found by listing",
    ("ExecutionRole", "Subscriptions"): "IAM knows no resource type for a subscription",
    ("ExecutionRole", "KeepBoundary"): "a refusal",
    ("ExecutionRole", "MakeSources"): "making and listing mappings knows no resources",
    ("ExecutionRole", "SeeWarmth"): "describing scaling targets knows no resources",
}

each_stage = pytest.mark.parametrize("stage", STAGES)
each_provider = pytest.mark.parametrize("provider", ORIGIN)


# ── What a deployment makes, by name ────────────────────────────────────────────────────────────


@cache
def _deployed(stage: str) -> dict[str, dict[str, Any]]:
    """Every resource that any choice of parameters makes, as in the stage's stack."""
    choices: tuple[dict[str, str], ...] = (
        {"NotificationEmail": "ops@example.org", "HeartbeatMinutes": "5"},
        {"ApiAuthorizer": "API_KEY", "KmsKeyArn": KEY, "WebAcl": "on"},
        TOKENS,
        {"SignArtifacts": "require"},
        {"Dashboards": "on"},
        {
            "PredictProvisionedConcurrency": "2",
            "PredictWarmFrom": "cron(0 7 ? * MON-FRI *)",
            "PredictWarmUntil": "cron(0 19 ? * MON-FRI *)",
            "CodeVersion": "0123abc",
        },
    )
    found: dict[str, dict[str, Any]] = {}
    for choice in choices:
        found |= Resolver(**choice, Stage=stage).resources()
    assert found.keys() == expanded()["Resources"].keys(), "a condition is not met by any choice"
    return found


def _arn(stage: str, name: str, resources: dict[str, dict[str, Any]]) -> str:
    """The ARN of a resource of the stage's stack."""
    stack = f"millrace-{stage}"
    resource = resources[name]
    pattern, naming = ARNS[resource["Type"]]
    given = resource.get("Properties", {}).get(naming)
    if given is None:
        random = f"{stack}-{name}-0A1B2C"
        return pattern.format(random.lower() if resource["Type"].startswith("AWS::S3") else random)
    [text] = as_list(given)
    if referred := re.fullmatch(r"\$\{(\w+)(\.Arn)?\}", text):
        return _arn(stage, referred[1], resources)
    return pattern.format(text.replace("${AWS::StackName}", stack))


def _concrete(text: str, stage: str, resources: dict[str, dict[str, Any]]) -> str:
    """A resource of a policy in the template, such as ``${DataBucket.Arn}/incoming/*``, as an ARN."""
    known = {
        "AWS::Partition": "aws",
        "AWS::Region": REGION,
        "AWS::AccountId": ACCOUNT,
        "AWS::StackName": f"millrace-{stage}",
    }

    def replace(match: re.Match[str]) -> str:
        name, _, attribute = match[1].partition(".")
        if match[1] in known:
            return known[match[1]]
        if resources[name]["Type"].startswith("AWS::ApiGateway") and not attribute:
            return "id"
        arn = _arn(stage, name, resources)
        return arn.rsplit(":", 1)[1] if attribute == "Name" else arn

    return re.sub(r"\$\{([^}]+)\}", replace, text)


def test_bootstrap_is_clean_for_cfn_lint() -> None:
    matches = lint(BOOTSTRAP.read_text(), regions=["us-east-1", "eu-central-1"])

    assert [str(match) for match in matches] == []


@each_stage
def test_everything_a_deployment_makes_begins_with_the_name_of_its_stack(stage: str) -> None:
    resources = _deployed(stage)

    for name, resource in resources.items():
        pattern, _ = ARNS[resource["Type"]]
        if "{}" not in pattern:
            unnamed = (
                "AWS::ApiGateway::",
                "AWS::WAFv2::WebACLA",
                "AWS::ApplicationAutoScaling::",
                "AWS::KMS::Key",
                "AWS::Lambda::EventSourceMapping",
                "AWS::Logs::QueryDefinition",
            )
            assert resource["Type"].startswith(unnamed), name
            continue
        last = re.split(r"[:/]", _arn(stage, name, resources))[-1]
        assert last.startswith(f"millrace-{stage}"), f"{name}: {last}"


@each_stage
def test_stacks_are_named_as_in_samconfig(stage: str) -> None:
    text = (ROOT / "samconfig.toml").read_text()

    assert f'[{stage}.global.parameters]\nstack_name = "millrace-{stage}"' in text
    assert stage in document()["Parameters"]["Stage"]["AllowedValues"]


# ── The execution role ──────────────────────────────────────────────────────────────────────────


@cache
def _provider_actions(kind: str) -> frozenset[str]:
    """What CloudFormation's published schema says that the provider of a type calls."""
    handlers = PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, kind).schema["handlers"]
    return frozenset(
        action
        for verb in ("create", "read", "update", "delete")
        for action in handlers.get(verb, {}).get("permissions", ())
    )


def _unneeded(kind: str, action: str) -> bool:
    return any(re.fullmatch(f"AWS::{pattern}", f"{kind} {action}") for pattern in UNNEEDED)


def _granted(stage: str, action: str, arn: str) -> bool:
    service = action.split(":")[0]
    resource = {
        "iam": f"arn:aws:iam::{ACCOUNT}:role/millrace-{stage}-Role-1",
        "kms": KEY,
        "s3": "arn:aws:s3:::millrace-ci-staging-artifactbucket-x/release/code.zip",
    }.get(service, arn)
    if f"arn:aws:{service}:" in arn:
        resource = arn
    policies = "arn:aws:iam::aws:policy/service-role/"
    context = {
        "iam:PermissionsBoundary": boundary_arn(stage),
        "iam:PassedToService": "lambda.amazonaws.com",
        "iam:PolicyARN": f"{policies}AmazonAPIGatewayPushToCloudWatchLogs",
        "lambda:Principal": "events.amazonaws.com",
        **_tags(stage, resource),
        "aws:RequestTag/millrace-stack": f"millrace-{stage}",
        "kms:KeySpec": "ECC_NIST_P256",
        "kms:KeyUsage": "SIGN_VERIFY",
    }
    return allows(execution, stage, action, resource, context)


def _tags(stage: str, arn: str) -> dict[str, str]:
    """What a key of the stage's stack is recognised by."""
    return {"aws:ResourceTag/millrace-stack": f"millrace-{stage}"} if ":kms:" in arn else {}


@pytest.mark.parametrize("kind", sorted({r["Type"] for r in expanded()["Resources"].values()}))
def test_execution_role_may_do_what_each_resource_type_needs(kind: str) -> None:
    for stage in STAGES:
        resources = _deployed(stage)
        for name in (n for n, r in resources.items() if r["Type"] == kind):
            arn = _arn(stage, name, resources)
            refused = {a for a in _provider_actions(kind) if not _granted(stage, a, arn)}
            left = {a for a in refused if not _unneeded(kind, a)}
            assert left == set(), f"{name} ({arn}) in {stage}"


def test_every_reason_to_refuse_an_action_still_holds_for_one() -> None:
    kinds = {r["Type"] for r in expanded()["Resources"].values()}
    needed = {f"{kind} {action}" for kind in kinds for action in _provider_actions(kind)}

    for pattern in UNNEEDED:
        matching = {n for n in needed if re.fullmatch(f"AWS::{pattern}", n)}
        assert matching, f"no resource type asks for {pattern} any more"


@each_stage
def test_nothing_is_granted_wholesale(stage: str) -> None:
    stack = made(stage, KmsKeyArn=KEY)
    policies = {
        "Boundary": boundary(stage),
        "ExecutionRole": execution(stage),
        "DeployRole": deploy(stage),
    }

    on_everything = set()
    for owner, found in policies.items():
        assert stack[owner]
        for statement in found:
            if "*" in as_list(statement["Resource"]):
                on_everything.add((owner, statement["Sid"]))
            if statement["Effect"] == "Allow":
                for action in as_list(statement["Action"]):
                    assert not action.endswith(":*"), action
                    assert action != "*"
                    assert action.startswith("s3:Get") or "*" not in action, action
    assert on_everything == EVERYTHING.keys()


@each_stage
def test_execution_role_reaches_nothing_of_the_other_stage(stage: str) -> None:
    other = next(s for s in STAGES if s != stage)
    resources = _deployed(other)

    for name, resource in resources.items():
        arn = _arn(other, name, resources)
        if any(w in arn for w in (":apigateway:", ":application-autoscaling:", "-mapping:")):
            continue  # named by ids: docs in the template
        for action in _provider_actions(resource["Type"]):
            if action.split(":")[0] in arn.split(":")[2]:
                assert not takes_resource(action) or not allows(
                    execution,
                    stage,
                    action,
                    arn,
                    {"iam:PermissionsBoundary": boundary_arn(stage), **_tags(other, arn)},
                ), f"{action} on {arn}"


# ── IAM itself ──────────────────────────────────────────────────────────────────────────────────


@each_stage
@pytest.mark.parametrize(
    "action", ["iam:CreateRole", "iam:PutRolePolicy", "iam:PutRolePermissionsBoundary"]
)
@pytest.mark.parametrize(
    "other",
    [
        None,
        "arn:aws:iam::aws:policy/AdministratorAccess",
        f"arn:aws:iam::{ACCOUNT}:policy/millrace-ci-other-boundary",
    ],
)
def test_rights_are_given_only_to_roles_within_the_boundary(
    stage: str, action: str, other: str | None
) -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/millrace-{stage}-ApiRole-1"
    asked = {} if other is None else {"iam:PermissionsBoundary": other}

    assert not allows(execution, stage, action, role, asked)
    assert allows(execution, stage, action, role, {"iam:PermissionsBoundary": boundary_arn(stage)})


@each_stage
def test_only_the_policy_of_access_logs_can_be_attached(stage: str) -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/millrace-{stage}-ApiRole-1"
    bounded = {"iam:PermissionsBoundary": boundary_arn(stage)}
    logs = "arn:aws:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
    admin = "arn:aws:iam::aws:policy/AdministratorAccess"

    assert allows(
        execution, stage, "iam:AttachRolePolicy", role, {**bounded, "iam:PolicyARN": logs}
    )
    assert not allows(
        execution, stage, "iam:AttachRolePolicy", role, {**bounded, "iam:PolicyARN": admin}
    )
    assert not allows(execution, stage, "iam:AttachRolePolicy", role, {"iam:PolicyARN": logs})


@each_stage
@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("iam:DeleteRolePermissionsBoundary", "role/millrace-{}-ApiRole-1"),
        ("iam:CreatePolicyVersion", "policy/millrace-ci-{}-boundary"),
        ("iam:SetDefaultPolicyVersion", "policy/millrace-ci-{}-boundary"),
        ("iam:DeletePolicy", "policy/millrace-ci-{}-boundary"),
        ("iam:PutRolePolicy", "role/millrace-ci-{}-execution"),
        ("iam:UpdateAssumeRolePolicy", "role/millrace-ci-{}-deploy"),
        ("iam:PassRole", "role/millrace-ci-{}-execution"),
        ("iam:PutRolePolicy", "role/admin"),
        ("iam:CreateUser", "user/millrace-{}-user"),
        ("iam:CreateAccessKey", "user/millrace-{}-user"),
        ("iam:CreateOpenIDConnectProvider", "oidc-provider/millrace-{}.example.org"),
        ("iam:CreatePolicy", "policy/millrace-{}-own"),
    ],
)
def test_execution_role_cannot_widen_what_bounds_it(stage: str, action: str, resource: str) -> None:
    context = {
        "iam:PermissionsBoundary": boundary_arn(stage),
        "iam:PassedToService": "lambda.amazonaws.com",
    }
    arn = f"arn:aws:iam::{ACCOUNT}:{resource.format(stage)}"

    assert not allows(execution, stage, action, arn, context)


@each_stage
def test_roles_are_handed_only_to_the_services_that_run_them(stage: str) -> None:
    trusted = {
        statement["Principal"]["Service"]
        for resource in _deployed(stage).values()
        if resource["Type"] == "AWS::IAM::Role"
        for statement in resource["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    }
    role = f"arn:aws:iam::{ACCOUNT}:role/millrace-{stage}-ApiRole-1"

    passed = {
        service
        for service in {*trusted, "ec2.amazonaws.com", "cloudformation.amazonaws.com"}
        if allows(execution, stage, "iam:PassRole", role, {"iam:PassedToService": service})
    }
    assert passed == trusted


def test_every_role_of_the_template_carries_the_boundary_it_is_given() -> None:
    given = boundary_arn("prod")

    for choice in ({}, {"ApiAuthorizer": "API_KEY", "KmsKeyArn": KEY}):
        for name, role in Resolver(PermissionsBoundaryArn=given, **choice).resources().items():
            if role["Type"] == "AWS::IAM::Role":
                assert role["Properties"]["PermissionsBoundary"] == given, name


# ── The boundary ────────────────────────────────────────────────────────────────────────────────


@each_stage
def test_boundary_admits_all_that_the_template_grants(stage: str) -> None:
    resources = _deployed(stage)
    log_role = _arn(stage, "ApiLogRole", resources)

    for name, role in resources.items():
        if role["Type"] != "AWS::IAM::Role":
            continue
        for statement in statements(role):
            for action in as_list(statement["Action"]):
                for resource in as_list(statement["Resource"]):
                    arn = _concrete(resource, stage, resources)
                    assert allows(boundary, stage, action, arn, _tags(stage, arn)), (
                        f"{name}: {action} on {arn}"
                    )
        if role["Properties"].get("ManagedPolicyArns"):
            assert allows(
                boundary, stage, "logs:PutLogEvents", "*", {"aws:PrincipalArn": log_role}
            ), name


@each_stage
def test_boundary_admits_no_power_over_the_account(stage: str) -> None:
    other = next(s for s in STAGES if s != stage)

    for action, resource in (
        ("iam:CreateRole", "*"),
        ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/admin"),
        ("cloudformation:UpdateStack", "*"),
        (
            "lambda:UpdateFunctionCode",
            f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:millrace-{stage}-api",
        ),
        ("s3:DeleteObject", f"arn:aws:s3:::millrace-{stage}-databucket-1/x"),
        ("s3:GetObject", f"arn:aws:s3:::millrace-{other}-databucket-1/x"),
        (
            "dynamodb:GetItem",
            f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/millrace-{other}-RegistryTable-1",
        ),
        ("s3:PutObject", "arn:aws:s3:::millrace-ci-staging-artifactbucket-x/release.json"),
        ("logs:GetLogEvents", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:other"),
    ):
        assert not allows(boundary, stage, action, resource), action


# ── The deploy role ─────────────────────────────────────────────────────────────────────────────


@each_stage
def test_deploy_role_touches_no_resource_of_the_stack(stage: str) -> None:
    services = {a.split(":")[0] for s in deploy(stage) for a in as_list(s["Action"])}
    resources = _deployed(stage)

    assert services == {"cloudformation", "execute-api", "iam", "kms", "s3"}
    for name, resource in resources.items():
        arn = _arn(stage, name, resources)
        for action in _provider_actions(resource["Type"]) - {"kms:Decrypt", "kms:GenerateDataKey"}:
            assert not allows(deploy, stage, action, arn), f"{action} on {arn}"


@each_stage
def test_deploy_role_hands_cloudformation_the_stages_execution_role_alone(stage: str) -> None:
    other = next(s for s in STAGES if s != stage)
    role = "arn:aws:iam::" + ACCOUNT + ":role/millrace-ci-{}-execution"
    to = {"iam:PassedToService": "cloudformation.amazonaws.com"}

    assert allows(deploy, stage, "iam:PassRole", role.format(stage), to)
    assert not allows(deploy, stage, "iam:PassRole", role.format(stage))
    assert not allows(deploy, stage, "iam:PassRole", role.format(other), to)
    assert not allows(deploy, stage, "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/admin", to)


@each_stage
def test_deploy_role_changes_the_stages_stack_alone_and_never_deletes_it(stage: str) -> None:
    other = next(s for s in STAGES if s != stage)
    stack = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/millrace-{{}}/id"

    assert allows(deploy, stage, "cloudformation:ExecuteChangeSet", stack.format(stage))
    assert not allows(deploy, stage, "cloudformation:ExecuteChangeSet", stack.format(other))
    assert not allows(deploy, stage, "cloudformation:ExecuteChangeSet", stack.format(f"ci-{stage}"))
    assert not allows(deploy, stage, "cloudformation:DeleteStack", stack.format(stage))
    assert not allows(
        deploy, stage, "s3:DeleteObject", "arn:aws:s3:::millrace-ci-staging-artifactbucket-x/1"
    )


@each_stage
@pytest.mark.parametrize(
    ("key", "writers"),
    [
        ("artifacts/0123.zip", {"staging"}),
        ("releases/v1/release.json", {"staging"}),
        ("deployments/millrace-staging/1.json", {"staging"}),
        ("deployments/millrace-prod/1.json", {"prod"}),
        ("templates/millrace-staging/1.template", {"staging"}),
        ("templates/millrace-prod/1.template", {"prod"}),
        ("else.txt", set()),
    ],
)
def test_releases_are_written_by_staging_and_records_by_their_stage(
    stage: str, key: str, writers: set[str]
) -> None:
    arn = f"arn:aws:s3:::millrace-ci-staging-artifactbucket-x/{key}"

    assert allows(deploy, stage, "s3:GetObject", arn)
    assert allows(deploy, stage, "s3:PutObject", arn) == (stage in writers)


# ── Who is trusted ──────────────────────────────────────────────────────────────────────────────


def _trust(stage: str, provider: str, **parameters: str) -> dict[str, Any]:
    document = made(stage, provider, **parameters)["DeployRole"]["Properties"][
        "AssumeRolePolicyDocument"
    ]
    if isinstance(document, str):
        document = json.loads(document, object_pairs_hook=_no_duplicates)
    [statement] = document["Statement"]
    found: dict[str, Any] = statement
    return found


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs), f"IAM would keep one of {pairs}"
    return dict(pairs)


@each_stage
@pytest.mark.parametrize(
    ("provider", "issuer", "audience", "subject"),
    [
        (
            "GITHUB",
            "token.actions.githubusercontent.com",
            "sts.amazonaws.com",
            "repo:me@1/millrace@2:environment:{}",
        ),
        (
            "GITLAB",
            "gitlab.com",
            "sts.amazonaws.com",
            "project_path:group/sub/millrace:ref_type:branch:ref:main",
        ),
        (
            "CIRCLECI",
            f"oidc.circleci.com/org/{UUID}",
            UUID,
            f"org/{UUID}/project/{UUID[::-1]}/user/????????-????-????-????-????????????"
            "/vcs-origin/github.com/me/millrace/vcs-ref/refs/heads/main",
        ),
    ],
)
def test_only_the_protected_job_of_the_repository_is_trusted(
    stage: str, provider: str, issuer: str, audience: str, subject: str
) -> None:
    trust = _trust(stage, provider, IdentityProvider="existing")

    assert trust == {
        "Effect": "Allow",
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Principal": {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{issuer}"},
        "Condition": {
            "StringEquals": {f"{issuer}:aud": audience},
            "StringLike": {f"{issuer}:sub": subject.format(stage)},
        },
    }


@each_stage
def test_jenkins_agents_are_trusted_by_their_role(stage: str) -> None:
    assert _trust(stage, "JENKINS") == {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:role/agents"},
        "Action": "sts:AssumeRole",
    }


def test_a_customised_subject_is_taken_as_it_is() -> None:
    subject = "project_path:g/p:ref_type:branch:ref:main:environment_protected:true"

    trust = _trust("prod", "GITLAB", Subject=subject)

    assert trust["Condition"]["StringLike"] == {"gitlab.com:sub": subject}


@pytest.mark.parametrize("parameter", ["Repository", "Branch", "Subject", "GitLabHost"])
@pytest.mark.parametrize("text", ["me/*", "me/mill?ace", 'me/x", "a": "b', "me/x\\"])
def test_no_parameter_can_loosen_the_trust(parameter: str, text: str) -> None:
    pattern = document()["Parameters"][parameter]["AllowedPattern"]

    assert not re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"Stage": "staging"}, True),
        ({"Stage": "prod"}, False),
        ({"Stage": "prod", "IdentityProvider": "create"}, True),
        ({"Stage": "staging", "IdentityProvider": "existing"}, False),
    ],
)
def test_identity_provider_is_made_once(parameters: dict[str, str], expected: bool) -> None:
    for provider, given in ORIGIN.items():
        resources = Resolver(document(), Provider=provider, **given, **parameters).resources()

        assert ("OidcProvider" in resources) == (expected and provider != "JENKINS")


@each_provider
def test_provider_without_its_particulars_is_refused(provider: str) -> None:
    rules = document()["Rules"]

    def refused(values: dict[str, str]) -> bool:
        resolver = Resolver(document(), **values)
        return any(
            resolver(rule["RuleCondition"])
            and not all(resolver(a["Assert"]) for a in rule["Assertions"])
            for rule in rules.values()
        )

    assert refused({"Stage": "prod", "Provider": provider})
    assert not refused({"Stage": "prod", "Provider": provider, **ORIGIN[provider]})


# ── The bucket, and the whole ───────────────────────────────────────────────────────────────────


def test_bucket_of_releases_is_private_versioned_and_kept() -> None:
    stack = made("staging")
    bucket = stack["ArtifactBucket"]
    rules = {r["Id"]: r for r in bucket["Properties"]["LifecycleConfiguration"]["Rules"]}

    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert bucket["UpdateReplacePolicy"] == "Retain"
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    assert rules["forget-old-releases"]["ExpirationInDays"] == "730"
    assert [
        s["Sid"] for s in stack["ArtifactBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    ] == ["OnlyTls", "OnlyModernTls"]
    assert "ArtifactBucket" not in made("prod")


@each_stage
@each_provider
def test_policies_fit_the_quotas_of_iam(stage: str, provider: str) -> None:
    stack = made(stage, provider, KmsKeyArn=KEY)

    def size(document: Any) -> int:
        return len(re.sub(r"\s", "", json.dumps(document)))

    assert size(stack["Boundary"]["Properties"]["PolicyDocument"]) <= 6144
    for role in ("ExecutionRole", "DeployRole"):
        properties = stack[role]["Properties"]
        assert sum(size(p["PolicyDocument"]) for p in properties["Policies"]) <= 10_240, role
        assert size(properties["AssumeRolePolicyDocument"]) <= 2048, role


def test_no_key_is_made_or_kept() -> None:
    kinds = {r["Type"] for r in document()["Resources"].values()}

    assert kinds == {
        "AWS::IAM::ManagedPolicy",
        "AWS::IAM::OIDCProvider",
        "AWS::IAM::Role",
        "AWS::S3::Bucket",
        "AWS::S3::BucketPolicy",
    }
