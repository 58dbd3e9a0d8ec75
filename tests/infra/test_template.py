"""The template, as written and as expanded."""

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint

from millrace import layout
from millrace.http.problems import Problem
from millrace.http.routes import ROUTES, Permission
from millrace.observability import METRICS, NAMESPACE
from millrace.serving.capture import SCHEMA
from tests.infra.deployment import (
    EVERY,
    FUNCTIONS,
    MACHINES,
    ROOT,
    TEMPLATE,
    TOKENS,
    Resolver,
    as_list,
    expanded,
    lintable,
    resources,
    source,
    statements,
)

CHOICES: dict[str, dict[str, str]] = {
    "defaults": {},
    "local": {"ApiAuthorizer": "NONE", "ApiAccessLogs": "off", "TraceMode": "PassThrough"},
    "dev": {"Stage": "dev", "Alarms": "off"},
    "strict": {
        "ApiAuthorizer": "API_KEY",
        "ApiAccessLogs": "existing-role",
        "KmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1",
        "PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary",
        "NotificationEmail": "ops@example.org",
        "TableDeletionProtection": "true",
    },
    "tokens": {**TOKENS, "WebAcl": "on"},
    "heartbeat": {"HeartbeatMinutes": "5", "DocsUrl": "https://example.org/millrace/blob/main/"},
    "snapshots": {"PredictSnapStart": "on", "CodeVersion": "0123abc"},
    "warm": {"PredictProvisionedConcurrency": "2", "CodeVersion": "0123abc"},
    "warm by day": {
        "PredictProvisionedConcurrency": "2",
        "PredictWarmFrom": "cron(0 7 ? * MON-FRI *)",
        "PredictWarmUntil": "cron(0 19 ? * MON-FRI *)",
        "CodeVersion": "0123abc",
    },
}

# Actions that know no resource; everything else names what it may touch.
WITHOUT_RESOURCE = re.compile(
    r"^(xray:.*|dynamodb:ListStreams|states:SendTaskSuccess|"
    r"logs:(\w*LogDeliver(y|ies)|\w*ResourcePolic(y|ies)|DescribeLogGroups))$"
)

PERMISSION_OF = {(route.method, route.path): route.permission for route in ROUTES}

BEATING = {"HeartbeatMinutes": "15"}
SILENCE = {"MonitorStaleAlarm", "HeartbeatAlarm"}
"""Alarms that tell when something stopped."""

each_choice = pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES.keys())


def test_expanded_template_is_clean_for_cfn_lint() -> None:
    document = json.dumps(lintable(), indent=1)

    matches = lint(document, regions=["us-east-1"])

    assert [str(match) for match in matches] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"TimeoutSecond": 5}, "TimeoutSecond"),
        ({"Type": "Taskk"}, "Taskk"),
        ({"Resource": None}, "'Resource' is a required property"),
    ],
    ids=["field", "type", "resource"],
)
def test_cfn_lint_looks_into_the_rendered_state_machine(change: dict[str, Any], says: str) -> None:
    """Transitions to nowhere it does not see: asl-validator does (test_scan_machines.py)."""
    of_template = lintable()["Resources"]["TrainingStateMachine"]
    machine = json.loads(of_template["Properties"]["DefinitionString"])
    state = {**machine["States"]["Ingest"], **change}
    machine["States"]["Ingest"] = {k: v for k, v in state.items() if v is not None}
    properties = {
        "RoleArn": "arn:aws:iam::123456789012:role/training",
        "DefinitionString": json.dumps(machine),
    }
    document = {"Resources": {"Machine": {"Type": of_template["Type"], "Properties": properties}}}

    matches = [str(match) for match in lint(json.dumps(document), regions=["us-east-1"])]

    assert any("E3601" in match and says in match for match in matches)


def test_template_as_written_is_clean_for_sam_validate() -> None:
    sam = ROOT / ".tools" / "sam" / "bin" / "python"
    if not sam.exists():
        pytest.fail("SAM CLI is missing: run `make setup`")

    done = subprocess.run(
        [
            sam,
            "-m",
            "samcli",
            "validate",
            "--lint",
            "--template",
            TEMPLATE,
            "--region",
            "us-east-1",
        ],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
        env={**os.environ, "SAM_CLI_TELEMETRY": "0", "PYTHONWARNINGS": "ignore"},
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a valid SAM Template" in done.stdout + done.stderr


def test_every_parameter_is_described_and_constrained() -> None:
    for name, parameter in source()["Parameters"].items():
        assert parameter.get("Description"), name
        assert {"AllowedValues", "AllowedPattern", "MinValue"} & parameter.keys(), name
        if "AllowedPattern" in parameter:
            assert "ConstraintDescription" in parameter, name
            assert re.match(parameter["AllowedPattern"], parameter["Default"]), name
        if "MinValue" in parameter:
            assert parameter["MinValue"] <= parameter["Default"] <= parameter["MaxValue"], name
        if "AllowedValues" in parameter:
            assert parameter["Default"] in parameter["AllowedValues"], name


def test_every_parameter_stands_in_a_group_of_the_console() -> None:
    groups = source()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]

    assert sorted(p for g in groups for p in g["Parameters"]) == sorted(source()["Parameters"])


def test_sections_follow_the_order_of_the_flow() -> None:
    banners = re.findall(r"^ *# ══ (.+?) ═+$", TEMPLATE.read_text(), re.MULTILINE)

    assert banners == [
        "Parameters",
        "Storage",
        "Dead letters and notices",
        *FUNCTIONS,
        "TRAINING",
        "BATCH",
        "ROLLOUT",
        "What starts them",
        "HTTPS API",
        "Dashboards",
        "Alarms",
        "Outputs",
    ]


# ── Storage ─────────────────────────────────────────────────────────────────────────────────────


@each_choice
def test_buckets_are_encrypted_versioned_private_and_outlive_the_stack(
    choice: dict[str, str],
) -> None:
    buckets = _of(choice, "AWS::S3::Bucket")

    assert buckets.keys() == {"DataBucket", "ArtifactBucket"}
    for bucket in buckets.values():
        properties = bucket["Properties"]
        [rule] = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        algorithm = rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"]
        assert algorithm == ("aws:kms" if "KmsKeyArn" in choice else "AES256")
        assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
        assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
        assert len(properties["PublicAccessBlockConfiguration"]) == 4
        assert any(
            "AbortIncompleteMultipartUpload" in r
            for r in properties["LifecycleConfiguration"]["Rules"]
        )
        assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
        assert bucket["UpdateReplacePolicy"] == "Retain"
        assert "BucketName" not in properties


def test_buckets_refuse_anything_but_tls() -> None:
    policies = {
        policy["Properties"]["Bucket"]: policy["Properties"]["PolicyDocument"]["Statement"]
        for policy in _of({}, "AWS::S3::BucketPolicy").values()
    }

    assert policies.keys() == {"${DataBucket}", "${ArtifactBucket}"}
    for bucket, listed in policies.items():
        name = bucket.strip("${}")
        [tls] = [
            s for s in listed if s.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        ]
        assert (tls["Effect"], tls["Principal"], tls["Action"]) == ("Deny", "*", "s3:*")
        assert tls["Resource"] == [f"${{{name}.Arn}}", f"${{{name}.Arn}}/*"]


def test_data_bucket_speaks_to_eventbridge() -> None:
    bucket = _of({}, "AWS::S3::Bucket")["DataBucket"]["Properties"]

    assert bucket["NotificationConfiguration"] == {
        "EventBridgeConfiguration": {"EventBridgeEnabled": True}
    }


@each_choice
def test_registry_table_is_on_demand_recoverable_and_encrypted(choice: dict[str, str]) -> None:
    [table] = _of(choice, "AWS::DynamoDB::Table").values()

    properties = table["Properties"]
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["SSESpecification"]["SSEEnabled"] is True
    assert properties["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert str(properties["DeletionProtectionEnabled"]) == choice.get(
        "TableDeletionProtection", "false"
    )
    assert table["DeletionPolicy"] == "RetainExceptOnCreate"


def test_queue_is_encrypted_keeps_letters_two_weeks_and_takes_them_from_our_rules_alone() -> None:
    [queue] = _of({}, "AWS::SQS::Queue").values()
    [policy] = _of({}, "AWS::SQS::QueuePolicy").values()

    assert queue["Properties"] == {"MessageRetentionPeriod": 1209600, "SqsManagedSseEnabled": True}
    allowed, denied = policy["Properties"]["PolicyDocument"]["Statement"]
    assert allowed["Condition"]["ArnEquals"]["aws:SourceArn"] == [
        "${UploadRule.Arn}",
        "${ExecutionFailureRule.Arn}",
        "${RolloutFailureRule.Arn}",
        "${MonitorRule.Arn}",
        "${FeedbackRule.Arn}",
        "${CalendarRule.Arn}",
    ]
    assert denied["Effect"] == "Deny"


# ── Functions ───────────────────────────────────────────────────────────────────────────────────


def test_every_function_has_its_own_role_and_log_group_made_before_it() -> None:
    functions = _of(EVERY, "AWS::Lambda::Function")
    groups = _of(EVERY, "AWS::Logs::LogGroup")
    order = list(source()["Resources"])

    assert set(functions) == {f"{name}Function" for name in FUNCTIONS}
    for name in FUNCTIONS:
        properties = functions[f"{name}Function"]["Properties"]
        assert properties["Role"] == f"${{{name}Role.Arn}}"
        assert properties["LoggingConfig"] == {"LogGroup": f"${{{name}LogGroup}}"}
        assert groups[f"{name}LogGroup"]["Properties"] == {
            "LogGroupName": f"/aws/lambda/{properties['FunctionName']}",
            "RetentionInDays": "30",
        }
        assert order.index(f"{name}LogGroup") < order.index(f"{name}Role")
        assert order.index(f"{name}Role") < order.index(f"{name}Function")


def test_every_function_has_the_runtime_it_was_built_for() -> None:
    for name, function in _of(EVERY, "AWS::Lambda::Function").items():
        properties = function["Properties"]
        assert properties["Runtime"] == "python3.13", name
        assert properties["Architectures"] == ["x86_64"], name
        assert properties["Handler"] == "handler.handler", name
        assert "ReservedConcurrentExecutions" not in properties, name


def test_every_function_is_built_from_its_folder_by_the_one_makefile() -> None:
    functions = {
        n: r for n, r in source()["Resources"].items() if r["Type"] == "AWS::Serverless::Function"
    }

    for name, function in functions.items():
        folder = name.removesuffix("Function").lower()
        metadata = {k: v for k, v in function["Metadata"].items() if k != "cfn-lint"}
        assert metadata == {"BuildMethod": "makefile", "ContextPath": "infra/build"}
        assert function["Properties"]["CodeUri"] == f"functions/{folder}/"
        assert (ROOT / "functions" / folder).is_dir()


def test_functions_behind_the_api_answer_before_the_gateway_gives_up() -> None:
    functions = _of({}, "AWS::Lambda::Function")

    assert functions["ApiFunction"]["Properties"]["Timeout"] <= 29
    assert functions["PredictFunction"]["Properties"]["Timeout"] <= 29


@pytest.mark.parametrize(("mode", "disabled"), [("Active", "false"), ("PassThrough", "true")])
def test_tracing_follows_the_parameter(mode: str, disabled: str) -> None:
    for function in _of({**EVERY, "TraceMode": mode}, "AWS::Lambda::Function").values():
        properties = function["Properties"]
        assert properties["TracingConfig"] == {"Mode": mode}
        assert properties["Environment"]["Variables"]["POWERTOOLS_TRACE_DISABLED"] == disabled


@each_choice
def test_no_role_may_touch_everything(choice: dict[str, str]) -> None:
    for name, role in _of(choice, "AWS::IAM::Role").items():
        for statement in statements(role):
            assert statement["Effect"] == "Allow"
            actions = as_list(statement["Action"])
            assert not [a for a in actions if "*" in a], name
            for resource in as_list(statement["Resource"]):
                if resource == "*":
                    assert all(WITHOUT_RESOURCE.match(a) for a in actions), (name, actions)


def test_every_role_takes_the_boundary_when_there_is_one() -> None:
    boundary = CHOICES["strict"]["PermissionsBoundaryArn"]
    bounded = _of({**EVERY, "PermissionsBoundaryArn": boundary}, "AWS::IAM::Role")
    unbounded = _of(EVERY, "AWS::IAM::Role")

    assert {r["Properties"].get("PermissionsBoundary") for r in bounded.values()} == {boundary}
    assert {r["Properties"].get("PermissionsBoundary") for r in unbounded.values()} == {None}


def test_failed_invocations_of_asynchronous_functions_go_to_the_dead_letters() -> None:
    configs = _of({}, "AWS::Lambda::EventInvokeConfig")

    assert {c["Properties"]["FunctionName"] for c in configs.values()} == {
        "${TriggerFunction}",
        "${RegistryFunction}",
        "${CaptureFunction}",
        "${FeedbackFunction}",
        "${MonitorFunction}",
        "${RolloutFunction}",
    }
    for config in configs.values():
        destination = config["Properties"]["DestinationConfig"]["OnFailure"]["Destination"]
        assert destination == "${DeadLetterQueue.Arn}"


# ── Events ──────────────────────────────────────────────────────────────────────────────────────


def test_rules_retry_for_a_day_then_leave_a_dead_letter() -> None:
    rules = _of({}, "AWS::Events::Rule")

    assert rules.keys() == {
        "UploadRule",
        "ExecutionFailureRule",
        "RolloutFailureRule",
        "MonitorRule",
        "FeedbackRule",
        "CalendarRule",
    }
    for rule in rules.values():
        [target] = rule["Properties"]["Targets"]
        assert target["RetryPolicy"] == {
            "MaximumEventAgeInSeconds": 86400,
            "MaximumRetryAttempts": 185,
        }
        assert target["DeadLetterConfig"] == {"Arn": "${DeadLetterQueue.Arn}"}


def test_every_execution_that_does_not_succeed_is_an_event_for_the_registry() -> None:
    rule = _of({}, "AWS::Events::Rule")["ExecutionFailureRule"]["Properties"]

    assert rule["EventPattern"] == {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {
            "stateMachineArn": ["${TrainingStateMachine}", "${BatchStateMachine}"],
            "status": ["FAILED", "TIMED_OUT", "ABORTED"],
        },
    }
    assert [target["Arn"] for target in rule["Targets"]] == ["${RegistryFunction.Arn}"]


def test_each_rule_may_invoke_its_target_and_nothing_else_may() -> None:
    permissions = {
        (p["Properties"]["Principal"], p["Properties"]["SourceArn"]): p["Properties"][
            "FunctionName"
        ]
        for p in _of(EVERY, "AWS::Lambda::Permission").values()
    }

    api = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}"
    gateway = f"{api}/live"
    assert permissions == {
        ("events.amazonaws.com", "${UploadRule.Arn}"): "${TriggerFunction}",
        ("events.amazonaws.com", "${ExecutionFailureRule.Arn}"): "${RegistryFunction}",
        ("events.amazonaws.com", "${RolloutFailureRule.Arn}"): "${RolloutFunction}",
        ("events.amazonaws.com", "${MonitorRule.Arn}"): "${MonitorFunction}",
        ("events.amazonaws.com", "${HeartbeatRule.Arn}"): "${HeartbeatFunction}",
        ("events.amazonaws.com", "${FeedbackRule.Arn}"): "${FeedbackFunction}",
        ("events.amazonaws.com", "${CalendarRule.Arn}"): "${TriggerFunction}",
        ("logs.amazonaws.com", "${PredictLogGroup.Arn}"): "${CaptureFunction}",
        ("apigateway.amazonaws.com", f"{gateway}/*/v1/*"): "${ApiFunction}",
        ("apigateway.amazonaws.com", f"{gateway}/POST/v1/models/*/predict"): "${PredictFunction}",
        ("apigateway.amazonaws.com", f"{gateway}/*/v2*"): "${PredictFunction}",
        ("apigateway.amazonaws.com", f"{api}/authorizers/*"): "${AuthorizerFunction}",
    }


def test_what_was_captured_leaves_the_predict_functions_log_and_no_other() -> None:
    [subscription] = _of(TOKENS, "AWS::Logs::SubscriptionFilter").values()

    assert subscription["Properties"] == {
        "LogGroupName": "${PredictLogGroup}",
        "FilterPattern": (
            f"{{ ($.capture.schema >= {SCHEMA}) || ($.rollout.step >= 0) || ($.failed = 1) }}"
        ),
        "DestinationArn": "${CaptureFunction.Arn}",
    }


def test_who_reads_captured_lines_is_updated_before_who_writes_them() -> None:
    written = _of(EVERY, "AWS::Lambda::Function")["PredictFunction"]
    carried = _of(EVERY, "AWS::Logs::SubscriptionFilter")["CaptureSubscription"]

    assert written["DependsOn"] == "CaptureSubscription"
    assert carried["Properties"]["DestinationArn"] == "${CaptureFunction.Arn}"


def test_captures_and_labels_are_forgotten_for_good() -> None:
    days = "30"
    properties = _of({"CaptureDays": days}, "AWS::S3::Bucket")["DataBucket"]["Properties"]
    rules = {r.get("Prefix"): r for r in properties["LifecycleConfiguration"]["Rules"]}

    for prefix in (layout.CAPTURE, layout.CAPTURE_REJECTED, layout.FEEDBACK):
        assert str(rules[prefix]["ExpirationInDays"]) == days
        assert rules[prefix]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
    functions = _of({"CaptureDays": days}, "AWS::Lambda::Function")
    for name in (
        "ApiFunction",
        "CaptureFunction",
        "FeedbackFunction",
        "MonitorFunction",
        "RolloutFunction",
    ):
        variables = functions[name]["Properties"]["Environment"]["Variables"]
        assert str(variables["MILLRACE_CAPTURE_DAYS"]) == days


# ── API ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("authorizer", "security"),
    [
        ("IAM", [{"sigv4": []}]),
        ("API_KEY", [{"api_key": []}]),
        ("JWT", [{"jwt": []}]),
        ("NONE", []),
    ],
)
def test_every_route_asks_for_the_chosen_credentials(
    authorizer: str, security: list[dict[str, list[str]]]
) -> None:
    operations = _operations({"ApiAuthorizer": authorizer})

    for route, operation in operations.items():
        is_link = PERMISSION_OF[route] is Permission.LINK
        assert operation["security"] == ([] if is_link else security), route


def test_routes_are_those_of_the_apps_and_reach_the_functions_that_answer_them() -> None:
    integrations = {
        (*route, _target(operation).lower()) for route, operation in _operations({}).items()
    }

    assert integrations == {(r.method, r.path, r.function) for r in ROUTES}


def test_every_route_is_explicit_and_declares_its_path_parameters() -> None:
    for (method, path), operation in _operations({}).items():
        assert method in {"GET", "POST", "PUT"}
        assert "proxy+" not in path
        assert re.findall(r"\{(\w+)\}", path) == operation["_parameters"]


@pytest.mark.parametrize("authorizer", ["IAM", "API_KEY", "JWT", "NONE"])
def test_keys_and_usage_plans_exist_for_api_keys_alone(authorizer: str) -> None:
    kinds = {r["Type"] for r in Resolver(ApiAuthorizer=authorizer).resources().values()}

    for kind in ("ApiKey", "UsagePlan", "UsagePlanKey"):
        assert (f"AWS::ApiGateway::{kind}" in kinds) == (authorizer == "API_KEY")


def test_usage_plans_cover_the_stage_of_the_api_and_limit_each_key() -> None:
    found = _of(
        {"ApiAuthorizer": "API_KEY", "PredictorDailyQuota": "1000"}, "AWS::ApiGateway::UsagePlan"
    )
    [stage] = _of({}, "AWS::ApiGateway::Stage")

    assert {name: plan["Properties"].get("Quota") for name, plan in found.items()} == {
        "PredictorUsagePlan": {"Limit": "1000", "Period": "DAY"},
        "StaffUsagePlan": None,
    }
    for plan in found.values():
        assert plan["Properties"]["ApiStages"] == [{"ApiId": "${Api}", "Stage": f"${{{stage}}}"}]
        assert plan["Properties"]["Throttle"].keys() == {"RateLimit", "BurstLimit"}


def test_the_firewall_stands_before_the_stage_and_counts_by_address_and_credential() -> None:
    choice = {"ApiAuthorizer": "API_KEY", "WebAcl": "on"}
    [acl] = _of(choice, "AWS::WAFv2::WebACL").values()
    [association] = _of(choice, "AWS::WAFv2::WebACLAssociation").values()

    rules = {rule["Name"]: rule["Statement"] for rule in acl["Properties"]["Rules"]}
    assert rules.keys() == {"sizes", "rate-of-an-address", "rate-of-a-credential"}
    [key] = rules["rate-of-a-credential"]["RateBasedStatement"]["CustomKeys"]
    assert key["Header"]["Name"] == "x-api-key"
    assert "/restapis/${Api}/stages/" in association["Properties"]["ResourceArn"]
    assert _of({"ApiAuthorizer": "API_KEY"}, "AWS::WAFv2::WebACL") == {}
    [signed] = _of({"WebAcl": "on"}, "AWS::WAFv2::WebACL").values()
    assert [r["Name"] for r in signed["Properties"]["Rules"]] == ["sizes", "rate-of-an-address"]


def test_errors_of_the_gateway_are_problem_details() -> None:
    [api] = _of({}, "AWS::ApiGateway::RestApi").values()

    responses = api["Properties"]["Body"]["x-amazon-apigateway-gateway-responses"]
    assert {"DEFAULT_4XX", "DEFAULT_5XX", "THROTTLED", "REQUEST_TOO_LARGE"} <= responses.keys()
    for name, response in responses.items():
        header = "gatewayresponse.header."
        parameters = response["responseParameters"]
        assert parameters.pop(f"{header}Content-Type") == "'application/problem+json'"
        wanted = {"401": {f"{header}WWW-Authenticate"}, "429": {f"{header}Retry-After"}}
        if name != "QUOTA_EXCEEDED":
            assert wanted.get(response.get("statusCode", ""), set()) <= parameters.keys(), name
        template = response["responseTemplates"]["application/json"]
        body = json.loads(template.replace("$context.error.messageString", '"text"'))
        if "statusCode" not in response:
            body["status"] = 500
        problem = Problem.model_validate(body)
        assert problem.status == int(response.get("statusCode", 500)), name
        assert problem.error == problem.detail, name
        assert problem.type == f"urn:millrace:problem:{problem.code.replace('_', '-')}", name


def test_stage_throttles_and_logs_no_payloads() -> None:
    [stage] = _of({}, "AWS::ApiGateway::Stage").values()

    settings, *links = stage["Properties"]["MethodSettings"]
    assert settings["ResourcePath"] == "/*"
    assert [(one["HttpMethod"], one["ResourcePath"]) for one in links] == [
        (method, "/~1v1~1approvals~1{link}") for method in ("GET", "POST")
    ]
    assert all(one["ThrottlingRateLimit"] <= 5 and not one["DataTraceEnabled"] for one in links)
    assert settings["ThrottlingRateLimit"] == "50"
    assert settings["ThrottlingBurstLimit"] == "100"
    assert settings["DataTraceEnabled"] is False
    assert "$context.identity.sourceIp" in stage["Properties"]["AccessLogSetting"]["Format"]


def test_stage_waits_for_the_role_that_access_logs_need() -> None:
    [stage] = _of({}, "AWS::ApiGateway::Stage").values()
    [local] = _of(CHOICES["local"], "AWS::ApiGateway::Stage").values()

    assert stage["Properties"]["Variables"] == {"accessLogs": "${ApiLogAccount}"}
    assert local["Properties"]["Variables"] == {"accessLogs": "off"}
    assert "AccessLogSetting" not in local["Properties"]


# ── Settings ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FUNCTIONS)
def test_environment_holds_what_the_function_reads_and_nothing_else(name: str) -> None:
    properties = _of(EVERY, "AWS::Lambda::Function")[f"{name}Function"]["Properties"]
    given = {v for v in properties["Environment"]["Variables"] if v.startswith("MILLRACE_")}

    # Parsed, not imported: a handler brings its heavy libraries with it.
    settings = _settings_of(ROOT / "functions" / name.lower())
    assert {variable for variable, needed in settings.items() if needed} <= given
    assert given <= settings.keys()


def _settings_of(folder: Path) -> dict[str, bool]:
    """Environment variable to whether the function cannot do without it."""
    return {
        f"MILLRACE_{statement.target.id.upper()}": statement.value is None
        for file in folder.glob("*.py")
        for node in _settings_classes(ast.parse(file.read_text()))
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def _settings_classes(module: ast.Module) -> Iterator[ast.ClassDef]:
    """Classes of settings that a module defines, and those that it takes from the shared rooms."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and any(
            isinstance(b, ast.Name) and b.id.endswith("Settings") for b in node.bases
        ):
            yield node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("millrace."):
            file = ROOT / "shared" / f"{str(node.module).replace('.', '/')}.py"
            taken = {alias.name for alias in node.names}
            if file.exists() and file.stem != "settings":
                found = ast.parse(file.read_text()).body
                classes = [n for n in found if isinstance(n, ast.ClassDef) and n.name in taken]
                yield from _settings_classes(ast.Module(body=[*classes], type_ignores=[]))


# ── Alarms ──────────────────────────────────────────────────────────────────────────────────────


def test_every_alarm_tells_the_topic_and_stays_quiet_without_data() -> None:
    alarms = _of(BEATING, "AWS::CloudWatch::Alarm")

    assert alarms.keys() == {
        "TrainingFailedAlarm",
        "BatchFailedAlarm",
        "RolloutStalledAlarm",
        "RunsFailedAlarm",
        "DeadLettersAlarm",
        "TriggerTroubleAlarm",
        "RegistryTroubleAlarm",
        "ApiServerErrorsAlarm",
        "PredictThrottlesAlarm",
        "PredictLatencyAlarm",
        "CaptureTroubleAlarm",
        "CaptureGapAlarm",
        "ScheduleFailedAlarm",
        "MonitorTroubleAlarm",
        "MonitorStaleAlarm",
        "FeedbackTroubleAlarm",
        "EventsTroubleAlarm",
        "ModelLoadFailuresAlarm",
        "HeartbeatAlarm",
    }
    for name, alarm in alarms.items():
        properties = alarm["Properties"]
        assert properties["AlarmActions"] == ["${NotificationTopic}"]
        # Whoever does not run says nothing, and that is what two of them wait for: the end of data, not
        # its absence in a stack that was just made.
        silent = name in SILENCE
        assert properties["TreatMissingData"] == ("missing" if silent else "notBreaching")
        assert properties.get("InsufficientDataActions") == (
            ["${NotificationTopic}"] if silent else None
        )


def test_alarms_exist_unless_they_are_off() -> None:
    declared = resources("AWS::CloudWatch::Alarm")

    assert _of(BEATING, "AWS::CloudWatch::Alarm").keys() == declared.keys()
    assert _of({**BEATING, "Alarms": "off"}, "AWS::CloudWatch::Alarm") == {}


def test_an_alarm_on_heartbeats_exists_when_there_are_any() -> None:
    usual, beating = (_of(choice, "AWS::CloudWatch::Alarm") for choice in ({}, BEATING))

    assert beating.keys() - usual.keys() == {"HeartbeatAlarm"}
    for minutes in ("5", "15", "60"):
        alarm = _of({"HeartbeatMinutes": minutes}, "AWS::CloudWatch::Alarm")["HeartbeatAlarm"]
        rule = _of({"HeartbeatMinutes": minutes}, "AWS::Events::Rule")["HeartbeatRule"]
        assert int(alarm["Properties"]["Period"]) == int(minutes) * 60
        assert rule["Properties"]["ScheduleExpression"] == f"rate({minutes} minutes)"


def test_alarms_link_to_their_runbooks_where_it_is_known_who_shows_them() -> None:
    address = "https://example.org/millrace/blob/main/"
    for name, alarm in _of({**BEATING, "DocsUrl": address}, "AWS::CloudWatch::Alarm").items():
        described = alarm["Properties"]["AlarmDescription"]
        assert described.endswith(f" Runbook: {address}docs/operations.md#{name.lower()}")
        assert len(described) <= 1024


def test_operations_page_says_what_each_alarm_means_and_costs() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    alarms = _of(BEATING, "AWS::CloudWatch::Alarm")

    sections = re.findall(r"^### (\w+Alarm)$", page, re.MULTILINE)
    assert sections == [name for name in source()["Resources"] if name in alarms]
    for name in sections:
        [section] = re.findall(rf"^### {name}\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL)
        assert "**Rings when** " in section, name
        assert "**Look at** " in section, name
        assert len(section.strip().split("\n\n")) > 1, f"{name}: nothing says what to do"
        described = alarms[name]["Properties"]["AlarmDescription"]
        assert described.endswith(f" Runbook: docs/operations.md#{name.lower()}")
    usual = _of({}, "AWS::CloudWatch::Alarm")
    count = sum(len(_metrics(alarm["Properties"])) for alarm in usual.values())
    assert f"{count} alarm metrics" in page


def test_every_alarm_watches_a_metric_that_somebody_emits() -> None:
    ours = {v for k, v in vars(METRICS).items() if not k.startswith("_")}
    theirs = {
        ("AWS/States", "ExecutionsFailed"),
        ("AWS/States", "ExecutionsTimedOut"),
        ("AWS/States", "ExecutionsAborted"),
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
        ("AWS/Lambda", "Errors"),
        ("AWS/Lambda", "Throttles"),
        ("AWS/Lambda", "Duration"),
        ("AWS/Lambda", "Invocations"),
        ("AWS/ApiGateway", "5XXError"),
        ("AWS/Events", "FailedInvocations"),
    }

    watched = {
        (metric["Namespace"], metric["MetricName"])
        for alarm in _of(BEATING, "AWS::CloudWatch::Alarm").values()
        for metric in _metrics(alarm["Properties"])
    }
    assert watched - {(NAMESPACE, name) for name in ours} == theirs


def test_alarms_watch_the_figures_of_their_own_stack() -> None:
    functions = _of(EVERY, "AWS::Lambda::Function").values()
    [service] = {
        f["Properties"]["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] for f in functions
    }

    assert service == "${AWS::StackName}"
    for alarm in _of({}, "AWS::CloudWatch::Alarm").values():
        for metric in _metrics(alarm["Properties"]):
            if metric["Namespace"] == NAMESPACE:
                assert metric["Dimensions"] == [{"Name": "service", "Value": service}]


def _metrics(alarm: dict[str, Any]) -> list[dict[str, Any]]:
    if "Metrics" not in alarm:
        return [alarm]
    return [m["MetricStat"]["Metric"] for m in alarm["Metrics"] if "MetricStat" in m]


# ── Machine, outputs ────────────────────────────────────────────────────────────────────────────


def test_state_machines_log_no_execution_data() -> None:
    machines = _of({}, "AWS::StepFunctions::StateMachine")

    assert machines.keys() == MACHINES.keys()
    for machine in machines.values():
        logging = machine["Properties"]["LoggingConfiguration"]
        assert logging["IncludeExecutionData"] is False
        assert logging["Level"] == "ERROR"
        assert machine["Properties"]["StateMachineType"] == "STANDARD"


def test_outputs_name_all_that_the_command_line_looks_for() -> None:
    outputs = Resolver(ApiAuthorizer="API_KEY").outputs()
    tokens = Resolver(**EVERY).outputs()

    assert {
        "ApiUrl",
        "ApiAuthorizer",
        "ApiKeyId",
        "DataBucketName",
        "ArtifactBucketName",
        "TableName",
        "TrainingStateMachineArn",
        "BatchStateMachineArn",
        "RolloutStateMachineArn",
        "TopicArn",
        "DeadLetterQueueUrl",
    } <= outputs.keys()
    assert {f"{name}FunctionName" for name in FUNCTIONS} <= tokens.keys()
    assert outputs["ApiAuthorizer"] == "API_KEY"
    assert tokens["JwtIssuer"] == TOKENS["JwtIssuer"]


def test_nothing_in_the_expanded_template_is_left_without_our_say() -> None:
    """SAM adds roles and permissions of its own where a template leaves them out."""
    written = source()["Resources"].keys()

    added = {
        (name, resource["Type"])
        for name, resource in expanded()["Resources"].items()
        if name not in written
    }

    assert {kind for _, kind in added} == {
        "AWS::ApiGateway::Deployment",
        "AWS::ApiGateway::Stage",
        "AWS::Lambda::EventInvokeConfig",
    }


def _of(choice: dict[str, str], kind: str) -> dict[str, dict[str, Any]]:
    return {n: r for n, r in Resolver(**choice).resources().items() if r["Type"] == kind}


def _target(operation: dict[str, Any]) -> str:
    uri = operation["x-amazon-apigateway-integration"]["uri"]
    [name] = re.findall(r"\$\{(\w+)(?:Function\.Arn|Alias)\}", str(uri))
    return str(name)


def _operations(choice: dict[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
    [api] = _of(choice, "AWS::ApiGateway::RestApi").values()
    return {
        (method.upper(), path): {
            **operation,
            "_parameters": [p["name"] for p in item.get("parameters", [])],
        }
        for path, item in api["Properties"]["Body"]["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def test_only_the_local_stage_may_be_open_to_everyone() -> None:
    rule = source()["Rules"]["OpenOnlyLocally"]

    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "ApiAuthorizer"}, "NONE"]}
    assert [a["Assert"] for a in rule["Assertions"]] == [
        {"Fn::Equals": [{"Ref": "Stage"}, "local"]}
    ]


def test_heartbeats_are_refused_where_they_would_not_get_through_the_door() -> None:
    rule = source()["Rules"]["HeartbeatGetsThrough"]

    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "ApiAuthorizer"}, "JWT"]}
    assert [a["Assert"] for a in rule["Assertions"]] == [
        {"Fn::Equals": [{"Ref": "HeartbeatMinutes"}, "0"]}
    ]


@pytest.mark.parametrize(
    ("authorizer", "extra"),
    [("IAM", {"CallApi"}), ("API_KEY", {"ReadKey"}), ("NONE", set())],
)
def test_heartbeats_get_through_the_door_that_there_is(authorizer: str, extra: set[str]) -> None:
    choice = {"ApiAuthorizer": authorizer, "HeartbeatMinutes": "5"}
    rights = {s["Sid"]: s for s in statements(_of(choice, "AWS::IAM::Role")["HeartbeatRole"])}
    function = _of(choice, "AWS::Lambda::Function")["HeartbeatFunction"]["Properties"]

    assert rights.keys() & {"CallApi", "ReadKey"} == extra
    key = function["Environment"]["Variables"]["MILLRACE_API_KEY_ID"]
    assert key == ("${PredictorApiKey}" if authorizer == "API_KEY" else "")
    if authorizer == "IAM":
        routes = {arn.partition("/live/")[2] for arn in rights["CallApi"]["Resource"]}
        assert routes == {"GET/v1/health", "POST/v1/models/*/predict"}


def test_tokens_are_taken_only_of_a_named_issuer_for_a_named_audience() -> None:
    rule = source()["Rules"]["TokensHaveAnIssuer"]

    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "ApiAuthorizer"}, "JWT"]}
    assert [a["Assert"] for a in rule["Assertions"]] == [
        {"Fn::Not": [{"Fn::Equals": [{"Ref": name}, ""]}]} for name in ("JwtIssuer", "JwtAudience")
    ]


@pytest.mark.parametrize(
    ("issuer", "fits"),
    [
        ("https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbC123", True),
        ("https://login.example.org/realms/main/", True),
        ("http://127.0.0.1:8123", True),
        ("http://login.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("https://example.org/?a=b", False),
    ],
)
def test_issuers_are_https_or_this_machine(issuer: str, fits: bool) -> None:
    pattern = source()["Parameters"]["JwtIssuer"]["AllowedPattern"]

    assert bool(re.match(pattern, issuer)) == fits


def test_the_authorizer_is_asked_once_per_token_and_five_minutes() -> None:
    [api] = _of(TOKENS, "AWS::ApiGateway::RestApi").values()

    scheme = api["Properties"]["Body"]["components"]["securitySchemes"]["jwt"]
    authorizer = scheme["x-amazon-apigateway-authorizer"]
    assert authorizer["authorizerResultTtlInSeconds"] == 300
    assert "${AuthorizerFunction.Arn}" in authorizer["authorizerUri"]
    assert re.match(authorizer["identityValidationExpression"], "Bearer aa.b-b.c_c")
    assert not re.match(authorizer["identityValidationExpression"], "Bearer aa.bb")
    assert "x-amazon-apigateway-authorizer" not in str(_of({}, "AWS::ApiGateway::RestApi").values())
