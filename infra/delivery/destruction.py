"""Removing a deployment: what goes and what stays, said before, and looked at afterwards."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from infra.delivery.place import Place, asked
from infra.delivery.plan import WORDS
from infra.delivery.stack import Resource, Stack, resources_of, template_of
from infra.delivery.store import empty_bucket
from millrace.errors import (
    AccessDeniedError,
    ConflictError,
    FinalError,
    MillraceError,
    NotFoundError,
    ServiceUnavailableError,
)

Fate = Literal["goes", "stays"]
Found = Literal["gone", "still there", "not looked at"]

_SHARED: Final = ("AWS::ApiGateway::Account", "AWS::IAM::Role")
_KEEPING: Final = ("Retain", "RetainExceptOnCreate")
_COUNTED: Final = 100_000
"""Objects that are counted one by one; a larger bucket is said to have more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fated:
    """One resource and what becomes of it.

    Attributes:
        resource: It.
        fate: Whether it goes with the stack.
        holds: What it holds, in words, for those that stay.
    """

    resource: Resource
    fate: Fate
    holds: str = ""

    @property
    def word(self) -> str:
        """The type in words."""
        return WORDS.get(self.resource.kind, self.resource.kind.removeprefix("AWS::"))


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found where a resource was.

    Attributes:
        resource: It.
        expected: What should have become of it.
        found: What was found.
        how: How that is known.
    """

    resource: Resource
    expected: Fate
    found: Found
    how: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it is there and should be gone, or the other way round."""
        return (self.expected == "goes" and self.found == "still there") or (
            self.expected == "stays" and self.found == "gone"
        )


def fates(place: Place, stack: Stack) -> list[Fated]:
    """What would become of each resource of a stack."""
    template = template_of(place, stack)["Resources"]
    found = []
    for resource in resources_of(place, stack):
        policy = template.get(resource.name, {}).get("DeletionPolicy", "Delete")
        stays = policy in _KEEPING
        found.append(
            Fated(
                resource=resource,
                fate="stays" if stays else "goes",
                holds=_holds(place, resource) if stays else "",
            )
        )
    return found


def refuse_protected(place: Place, stack: Stack, fated: list[Fated], *, data: bool) -> None:
    """Refuses what AWS would refuse half-way.

    Raises:
        ConflictError: The stack or its table is protected.
    """
    if stack.protected:
        raise ConflictError(
            f"stack {stack.name} has termination protection: take it off first (`aws cloudformation "
            f"update-termination-protection --no-enable-termination-protection --stack-name "
            f"{stack.name} --region {place.region}`)"
        )
    if not data:
        return
    for each in fated:
        if each.resource.kind != "AWS::DynamoDB::Table":
            continue
        with asked(f"describe table {each.resource.identifier}", place):
            table = place.dynamodb.describe_table(TableName=each.resource.identifier)["Table"]
        # An engine may answer with the template's own text.
        if str(table.get("DeletionProtectionEnabled", False)).lower() == "true":
            raise ConflictError(
                f"table {each.resource.identifier} is protected from deletion: take that off first "
                '(`make deploy STAGE=… PARAMETERS="TableDeletionProtection=false"`)'
            )


def delete_data(
    place: Place,
    fated: list[Fated],
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> list[Fated]:
    """Empties and deletes the buckets and the table that stayed; returns them as gone."""
    gone = []
    for each in fated:
        identifier = each.resource.identifier
        if each.fate == "stays" and each.resource.kind == "AWS::S3::Bucket":
            say(f"emptying bucket {identifier}")
            empty_bucket(place, identifier)
            with asked(f"delete bucket {identifier}", place):
                place.s3.delete_bucket(Bucket=identifier)
        elif each.fate == "stays" and each.resource.kind == "AWS::DynamoDB::Table":
            say(f"deleting table {identifier}")
            with asked(f"delete table {identifier}", place):
                if place.emulated:
                    # MiniStack takes the text "false" of the template for true.
                    place.dynamodb.update_table(
                        TableName=identifier, DeletionProtectionEnabled=False
                    )
                place.dynamodb.delete_table(TableName=identifier)
            deadline = clock() + 300
            while _is_there(place, each.resource):
                if clock() > deadline:
                    raise ServiceUnavailableError(f"table {identifier} is still being deleted")
                pause(0.2 if place.emulated else 2.0)
        else:
            continue
        gone.append(Fated(resource=each.resource, fate="goes"))
    return gone


def prove(place: Place, fated: list[Fated]) -> list[Proof]:
    """Looks for every resource where it was."""
    return [_proof(place, each) for each in fated]


def _proof(place: Place, fated: Fated) -> Proof:
    resource = fated.resource
    holder = _WITH.get(resource.kind)
    if holder:
        return Proof(resource, fated.fate, "not looked at", f"with their {holder}")
    if resource.kind not in _PROBES:
        return Proof(resource, fated.fate, "not looked at", "no way to look at this type is known")
    try:
        there = _is_there(place, resource)
    except AccessDeniedError as exc:
        return Proof(resource, fated.fate, "not looked at", str(exc))
    return Proof(resource, fated.fate, "still there" if there else "gone", "asked its service")


def _is_there(place: Place, resource: Resource) -> bool:
    try:
        with asked(f"look for {resource.identifier}", place):
            return _PROBES[resource.kind](place, resource.identifier)
    except AccessDeniedError:
        raise
    except NotFoundError:
        return False
    except FinalError as exc:
        # Each service has its own name for what it does not know.
        if any(word in str(exc) for word in _UNKNOWN):
            return False
        raise


_UNKNOWN: Final = (
    "NoSuch",
    "NotFound",
    "NonExistent",
    "DoesNotExist",
    "does not exist",
)


def _answers(call: Callable[[Place, str], object]) -> Callable[[Place, str], bool]:
    """A probe of a service that refuses to describe what it does not have."""

    def probe(place: Place, identifier: str) -> bool:
        call(place, identifier)
        return True

    return probe


def _table_is_there(place: Place, name: str) -> bool:
    place.dynamodb.describe_table(TableName=name)
    return True


def _log_group_is_there(place: Place, name: str) -> bool:
    found = place.logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    return any(g.get("logGroupName") == name for g in found)


def _alarm_is_there(place: Place, name: str) -> bool:
    return bool(place.cloudwatch.describe_alarms(AlarmNames=[name]).get("MetricAlarms"))


_PROBES: Final[Mapping[str, Callable[[Place, str], bool]]] = {
    "AWS::ApiGateway::ApiKey": _answers(lambda p, i: p.apigateway.get_api_key(apiKey=i)),
    "AWS::ApiGateway::RestApi": _answers(lambda p, i: p.apigateway.get_rest_api(restApiId=i)),
    "AWS::ApiGateway::UsagePlan": _answers(lambda p, i: p.apigateway.get_usage_plan(usagePlanId=i)),
    "AWS::CloudWatch::Alarm": _alarm_is_there,
    "AWS::DynamoDB::Table": _table_is_there,
    "AWS::Events::Rule": _answers(lambda p, i: p.events.describe_rule(Name=i.split("|")[-1])),
    "AWS::IAM::ManagedPolicy": _answers(lambda p, i: p.iam.get_policy(PolicyArn=i)),
    "AWS::IAM::Role": _answers(lambda p, i: p.iam.get_role(RoleName=i)),
    "AWS::Lambda::Function": _answers(lambda p, i: p.lambda_.get_function(FunctionName=i)),
    "AWS::Logs::LogGroup": _log_group_is_there,
    "AWS::S3::Bucket": _answers(lambda p, i: p.s3.head_bucket(Bucket=i)),
    "AWS::SNS::Subscription": _answers(
        lambda p, i: p.sns.get_subscription_attributes(SubscriptionArn=i)
    ),
    "AWS::SNS::Topic": _answers(lambda p, i: p.sns.get_topic_attributes(TopicArn=i)),
    "AWS::SQS::Queue": _answers(lambda p, i: p.sqs.get_queue_attributes(QueueUrl=i)),
    "AWS::StepFunctions::StateMachine": _answers(
        lambda p, i: p.stepfunctions.describe_state_machine(stateMachineArn=i)
    ),
}

_WITH: Final = {
    "AWS::ApiGateway::Account": "account's settings",
    "AWS::ApiGateway::Deployment": "API",
    "AWS::ApiGateway::Stage": "API",
    "AWS::ApiGateway::UsagePlanKey": "usage plan",
    "AWS::Lambda::EventInvokeConfig": "function",
    "AWS::Lambda::Permission": "function",
    "AWS::S3::BucketPolicy": "bucket",
    "AWS::SNS::TopicPolicy": "topic",
    "AWS::SQS::QueuePolicy": "queue",
    "AWS::WAFv2::WebACLAssociation": "firewall",
}
"""Types without an existence of their own, and whose they are."""


def _holds(place: Place, resource: Resource) -> str:
    """What something that stays holds, in words."""
    try:
        if resource.kind == "AWS::S3::Bucket":
            return _bucket_holds(place, resource.identifier)
        if resource.kind == "AWS::DynamoDB::Table":
            with asked(f"describe table {resource.identifier}", place):
                table: Any = place.dynamodb.describe_table(TableName=resource.identifier)["Table"]
            items, size = table.get("ItemCount", 0), table.get("TableSizeBytes", 0)
            return f"{items:,} items, {size / 1e6:,.1f} MB (as DynamoDB last counted)"
    except NotFoundError:
        return "nothing: it is gone already"
    except MillraceError as exc:
        return f"not known: {exc}"
    return "the account's other APIs log with it" if resource.kind in _SHARED else ""


def _bucket_holds(place: Place, bucket: str) -> str:
    objects = versions = size = 0
    with asked(f"count the objects of {bucket}", place):
        for page in place.s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for each in page.get("Versions", ()):
                versions += 1
                objects += bool(each.get("IsLatest"))
                size += each.get("Size", 0)
            if versions >= _COUNTED:
                return f"more than {versions:,} object versions, {size / 1e9:,.1f} GB so far"
    if not versions:
        return "empty"
    older = f" and {versions - objects:,} older versions" if versions > objects else ""
    return f"{objects:,} objects{older}, {size / 1e6:,.1f} MB"
