"""What LocalStack leaves as it was when a stack is updated, and says that it has updated.

Of many resource types it can make and delete a resource, and not change one; it then logs a warning
and goes on. Here are the changes of those types in Millrace's template that a deployment makes:
the API's body and its stage, alarms, rules and policies.
"""

import importlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

Update = Callable[[Any, Any], Any]

AGAIN: Mapping[str, tuple[str, ...]] = {
    "cloudwatch.resource_providers.aws_cloudwatch_alarm:CloudWatchAlarmProvider": ("AlarmName",),
    "events.resource_providers.aws_events_rule:EventsRuleProvider": ("Name",),
    "lambda_.resource_providers.aws_lambda_eventinvokeconfig:LambdaEventInvokeConfigProvider": (),
    "s3.resource_providers.aws_s3_bucketpolicy:S3BucketPolicyProvider": (),
    "sns.resource_providers.aws_sns_topicpolicy:SNSTopicPolicyProvider": (),
}
"""Made again under the same names: their API's calls put what they are given in place of what is."""


def updates() -> Mapping[str, Update]:
    """How a resource is changed, by module and class of its provider."""
    gateway = "apigateway.resource_providers"
    return {
        f"{gateway}.aws_apigateway_restapi:ApiGatewayRestApiProvider": _change_api,
        f"{gateway}.aws_apigateway_stage:ApiGatewayStageProvider": _change_stage,
    } | {name: _again(generated) for name, generated in AGAIN.items()}


def _again(generated: tuple[str, ...]) -> Update:
    def update(self: Any, request: Any) -> Any:
        before = request.previous_state or {}
        for name in generated:
            if before.get(name):
                request.desired_state.setdefault(name, before[name])
        if "Id" in before and "Name" in generated:
            # A rule's generated name is only in its identifier.
            request.desired_state.setdefault("Name", str(before["Id"]).rpartition("|")[2])
        return self.create(request)

    return update


def _change_api(_self: Any, request: Any) -> Any:
    before, model = request.previous_state, request.desired_state
    api = request.aws_client_factory.apigateway
    identifier = before["RestApiId"]
    body = model.get("Body")
    if body:
        text = json.dumps(body) if isinstance(body, dict) else str(body)
        api.put_rest_api(
            restApiId=identifier,
            mode="overwrite",
            body=text.encode(),
            parameters={"basepath": "ignore"},
        )
    [root] = [
        resource["id"]
        for resource in api.get_resources(restApiId=identifier)["items"]
        if resource["path"] == "/"
    ]
    kept = {name: before[name] for name in ("RestApiId", "Name") if name in before}
    return _done(request, model | kept | {"RootResourceId": root})


def _change_stage(_self: Any, request: Any) -> Any:
    return _point_stage(request, (request.previous_state or {}) | request.desired_state)


def _point_stage(request: Any, model: dict[str, Any]) -> Any:
    """Points a stage to its new deployment."""
    changes = [{"op": "replace", "path": "/deploymentId", "value": model["DeploymentId"]}]
    if "TracingEnabled" in model:
        traced = str(model["TracingEnabled"]).lower()
        changes.append({"op": "replace", "path": "/tracingEnabled", "value": traced})
    request.aws_client_factory.apigateway.update_stage(
        restApiId=model["RestApiId"], stageName=model["StageName"], patchOperations=changes
    )
    return _done(request, model)


def stage_once(original: Update) -> Update:
    """Makes a stage, or takes over the one there is.

    LocalStack replaces a stage when its API has changed: it makes the new one first, and a stage has
    a name.
    """

    def create(self: Any, request: Any) -> Any:
        try:
            return original(self, request)
        except request.aws_client_factory.apigateway.exceptions.ConflictException:
            return _point_stage(request, request.desired_state)

    return create


def stage_unless_taken_over(original: Update) -> Update:
    """Deletes a stage, but for one that its replacement has taken over."""

    def delete(self: Any, request: Any) -> Any:
        model = request.desired_state
        api = request.aws_client_factory.apigateway
        try:
            found = api.get_stage(restApiId=model["RestApiId"], stageName=model["StageName"])
        except api.exceptions.NotFoundException:
            return _done(request, model)
        if found["deploymentId"] != model["DeploymentId"]:
            return _done(request, model)
        return original(self, request)

    return delete


def delete_deployment(_self: Any, request: Any) -> Any:
    """Deletes an API's old deployment alone; LocalStack takes every stage of the API with it."""
    model = request.desired_state
    api = request.aws_client_factory.apigateway
    try:
        api.delete_deployment(restApiId=model["RestApiId"], deploymentId=model["DeploymentId"])
    except api.exceptions.NotFoundException:
        logger.info("deployment %s went with its API", model["DeploymentId"])
    return _done(request, model)


def _done(request: Any, model: Mapping[str, Any]) -> Any:
    module = importlib.import_module("localstack.services.cloudformation.resource_provider")
    return module.ProgressEvent(
        status=module.OperationStatus.SUCCESS,
        resource_model=model,
        custom_context=request.custom_context,
    )
