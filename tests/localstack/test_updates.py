"""Gap ``updates``: what a second deployment changes is changed."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conformance.conftest import Stack
from tests.until import until


def _template(word: str, threshold: int, pattern: str) -> dict[str, Any]:
    mock = {
        "type": "mock",
        "requestTemplates": {"application/json": '{"statusCode": 200}'},
        "responses": {"default": {"statusCode": "200"}},
    }
    body = {
        "openapi": "3.0.1",
        "info": {"title": "updated", "version": "1"},
        "paths": {
            f"/{word}": {
                "get": {
                    "responses": {"200": {"description": "fine"}},
                    "x-amazon-apigateway-integration": mock,
                }
            }
        },
    }
    return {
        "Resources": {
            "Api": {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Body": body}},
            f"Deployment{word}": {
                "Type": "AWS::ApiGateway::Deployment",
                "Properties": {"RestApiId": {"Ref": "Api"}},
            },
            "Live": {
                "Type": "AWS::ApiGateway::Stage",
                "Properties": {
                    "RestApiId": {"Ref": "Api"},
                    "DeploymentId": {"Ref": f"Deployment{word}"},
                    "StageName": "live",
                },
            },
            "Alarm": {
                "Type": "AWS::CloudWatch::Alarm",
                "Properties": {
                    "Namespace": "Updated",
                    "MetricName": "Pressure",
                    "Statistic": "Sum",
                    "Period": 60,
                    "EvaluationPeriods": 1,
                    "ComparisonOperator": "GreaterThanThreshold",
                    "Threshold": threshold,
                },
            },
            "Rule": {
                "Type": "AWS::Events::Rule",
                "Properties": {"EventPattern": {"source": [pattern]}},
            },
        },
        "Outputs": {
            "Api": {"Value": {"Ref": "Api"}},
            "Alarm": {"Value": {"Ref": "Alarm"}},
            "Rule": {"Value": {"Ref": "Rule"}},
        },
    }


@pytest.fixture
def deployed(stack: Stack) -> Iterator[Callable[..., dict[str, str]]]:
    """Deploys a template under a name of its own, and tells the outputs."""
    formation = stack.client("cloudformation")
    name = f"updated-{time.time_ns()}"
    made: list[str] = []

    def deploy(template: dict[str, Any]) -> dict[str, str]:
        change = f"change{len(made)}"
        formation.create_change_set(
            StackName=name,
            ChangeSetName=change,
            ChangeSetType="UPDATE" if made else "CREATE",
            TemplateBody=json.dumps(template),
        )
        formation.execute_change_set(StackName=name, ChangeSetName=change)
        made.append(change)

        def finished() -> dict[str, Any] | None:
            [found] = formation.describe_stacks(StackName=name)["Stacks"]
            assert "FAILED" not in found["StackStatus"], found
            assert "ROLLBACK" not in found["StackStatus"], found
            return found if found["StackStatus"].endswith("_COMPLETE") else None

        outputs = until(finished, seconds=60)["Outputs"]
        return {output["OutputKey"]: output["OutputValue"] for output in outputs}

    yield deploy
    formation.delete_stack(StackName=name)


def test_what_a_second_deployment_changes_is_changed_and_keeps_its_name(
    stack: Stack, deployed: Callable[..., dict[str, str]]
) -> None:
    before = deployed(_template("first", 1, "one"))

    after = deployed(_template("second", 2, "two"))

    assert after == before
    gateway = stack.client("apigateway")
    paths = {r["path"] for r in gateway.get_resources(restApiId=after["Api"])["items"]}
    assert paths == {"/", "/second"}
    [live] = gateway.get_stages(restApiId=after["Api"])["item"]
    deployments = {d["id"] for d in gateway.get_deployments(restApiId=after["Api"])["items"]}
    assert {live["deploymentId"]} == deployments
    [alarm] = stack.client("cloudwatch").describe_alarms(AlarmNames=[after["Alarm"]])[
        "MetricAlarms"
    ]
    assert alarm["Threshold"] == 2
    rule = stack.client("events").describe_rule(Name=after["Rule"])
    assert json.loads(rule["EventPattern"]) == {"source": ["two"]}
