"""How each type of resource is billed, and what makes one bill by the hour or work at rest.

Every type of the template stands in `KINDS` with its reason; a type that does not is an error, so
that nobody adds a resource without saying what it costs. Types that bill by the hour whatever their
properties stand in `HOURLY`, so that the list names them instead of not knowing them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from infra.build.expansion import Resource
from millrace.errors import ConfigurationError

type Properties = Mapping[str, Any]


class Billing(StrEnum):
    """What a type of resource is billed by."""

    HOUR = "by the hour"
    MONTH = "at rest"
    USE = "by use"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Kind:
    """How one type of resource is billed.

    Attributes:
        bills: What it is billed by; nothing else costs.
        why: The reason.
        idle: Says why a resource with these properties would cost or work with nothing to do,
            or None when it would not.
    """

    bills: tuple[Billing, ...]
    why: str
    idle: Callable[[Properties], str | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Idle:
    """A resource that costs by the hour, or works, while nothing flows.

    Attributes:
        resource: Its logical id.
        type: Its CloudFormation type.
        why: What bills or works.
    """

    resource: str
    type: str
    why: str


def _table(properties: Properties) -> str | None:
    if properties.get("BillingMode") != "PAY_PER_REQUEST":
        return "provisioned capacity is billed by the hour; BillingMode PAY_PER_REQUEST is not"
    if properties.get("ContributorInsightsSpecification", {}).get("Enabled"):
        return "contributor insights bill a rule for the table and for each index every month"
    return None


def _function(properties: Properties) -> str | None:
    if properties.get("SnapStart", {}).get("ApplyOn", "None") != "None":
        return "SnapStart bills a cached snapshot of a Python function for every second it exists"
    if properties.get("CapacityProviderConfig"):
        return "managed instances are billed by the hour"
    return None


def _provisioned(properties: Properties) -> str | None:
    settings = properties.get("ProvisionedConcurrencyConfig") or {}
    if settings.get("ProvisionedConcurrentExecutions"):
        return "provisioned concurrency is billed for every second it is configured"
    return None


def _stage(properties: Properties) -> str | None:
    if str(properties.get("CacheClusterEnabled", "false")).lower() == "true":
        return "the cache of a stage is billed by the hour"
    return None


MOST_TICKS: Final = 24
"""A day. Looking once an hour whether there is anything to do costs two cents a year, which the bill
at rest shows; more often than that is work while nothing flows."""

_RATE: Final = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
_CRON: Final = re.compile(r"cron\(\d+ (\d+|\*) \* \* \? \*\)")
_MINUTES: Final = {"minute": 1, "hour": 60, "day": 1_440}


def ticks_a_day(expression: str) -> Decimal:
    """How often a day a schedule runs.

    Raises:
        ConfigurationError: It is neither a rate nor a cron expression of a fixed minute, every day.
    """
    rate = _RATE.fullmatch(expression)
    if rate is not None:
        return Decimal(_MINUTES["day"]) / (int(rate[1]) * _MINUTES[rate[2]])
    cron = _CRON.fullmatch(expression)
    if cron is None:
        raise ConfigurationError(
            f"expected rate(N hours) or cron(MINUTE HOUR * * ? *), got {expression!r}"
        )
    return Decimal(24 if cron[1] == "*" else 1)


def _rule(properties: Properties) -> str | None:
    expression = properties.get("ScheduleExpression")
    if expression and ticks_a_day(expression) > MOST_TICKS:
        return f"runs its targets by the clock: {expression}"
    return None


def _bucket(properties: Properties) -> str | None:
    busy = {
        "InventoryConfigurations": "writes inventories by the clock",
        "AnalyticsConfigurations": "analyses its storage every day",
        "MetricsConfigurations": "emits paid metrics",
        "IntelligentTieringConfigurations": "is watched object by object",
        "ReplicationConfiguration": "keeps a second copy",
        "MetadataTableConfiguration": "keeps tables of its metadata",
        "MetadataConfiguration": "keeps tables of its metadata",
    }
    found = [words for name, words in busy.items() if properties.get(name)]
    return ", ".join(found) or None


def _scheduled(properties: Properties) -> str | None:
    if properties.get("ScheduledActions"):
        return "provisioned concurrency is billed for every second between its two schedules"
    return None


def _mapping(properties: Properties) -> str | None:
    source = str(properties.get("EventSourceArn", ""))
    if "StreamArn" in source or ":dynamodb:" in source:
        return None
    return "asks its source again and again; each empty answer of a queue is a request"


KINDS: dict[str, Kind] = {
    "AWS::Lambda::EventSourceMapping": Kind(
        (Billing.FREE,), "Lambda reads a table's stream without charge", _mapping
    ),
    "AWS::ApplicationAutoScaling::ScalableTarget": Kind(
        (Billing.FREE,), "changes what is provisioned, by the clock", _scheduled
    ),
    "AWS::ApiGateway::Account": Kind((Billing.FREE,), "a setting of the account"),
    "AWS::ApiGateway::ApiKey": Kind((Billing.FREE,), "a key has no price"),
    "AWS::ApiGateway::Deployment": Kind((Billing.FREE,), "a copy of the API's definition"),
    "AWS::ApiGateway::RestApi": Kind((Billing.USE,), "requests, and data sent to the internet"),
    "AWS::ApiGateway::Stage": Kind((Billing.USE,), "access logs and traces; no cache", _stage),
    "AWS::ApiGateway::UsagePlan": Kind((Billing.FREE,), "a throttle has no price"),
    "AWS::ApiGateway::UsagePlanKey": Kind((Billing.FREE,), "joins key and plan"),
    "AWS::CloudWatch::Alarm": Kind((Billing.MONTH,), "each metric that it watches"),
    "AWS::CloudWatch::Dashboard": Kind((Billing.MONTH,), "each dashboard"),
    "AWS::DynamoDB::Table": Kind(
        (Billing.MONTH, Billing.USE),
        "what it stores, with its index and its recovery; reads and writes",
        _table,
    ),
    "AWS::Events::Rule": Kind(
        (Billing.USE,), "objects that arrive, as events; no rule runs by the clock", _rule
    ),
    "AWS::IAM::ManagedPolicy": Kind((Billing.FREE,), "IAM has no price"),
    "AWS::IAM::OIDCProvider": Kind((Billing.FREE,), "IAM has no price"),
    "AWS::IAM::Role": Kind((Billing.FREE,), "IAM has no price"),
    "AWS::KMS::Key": Kind((Billing.MONTH, Billing.USE), "each version of the key; requests"),
    "AWS::Lambda::Alias": Kind((Billing.FREE,), "a name for a version", _provisioned),
    "AWS::Lambda::EventInvokeConfig": Kind((Billing.FREE,), "says how often to try again"),
    "AWS::Lambda::Function": Kind(
        (Billing.USE,), "requests, memory by time, logs and traces", _function
    ),
    "AWS::Lambda::Permission": Kind((Billing.FREE,), "IAM has no price"),
    "AWS::Lambda::Version": Kind((Billing.FREE,), "a copy of the function", _provisioned),
    "AWS::Logs::LogGroup": Kind((Billing.MONTH, Billing.USE), "what it stores; what is written"),
    "AWS::Logs::QueryDefinition": Kind((Billing.USE,), "what a person scans when running it"),
    "AWS::Logs::SubscriptionFilter": Kind(
        (Billing.FREE,), "what it delivers to a function is the function's to pay"
    ),
    "AWS::S3::Bucket": Kind(
        (Billing.MONTH, Billing.USE),
        "what it stores, old versions included; requests. Lifecycle expiry is free",
        _bucket,
    ),
    "AWS::S3::BucketPolicy": Kind((Billing.FREE,), "IAM has no price"),
    "AWS::SNS::Subscription": Kind((Billing.USE,), "each e-mail"),
    "AWS::SNS::Topic": Kind((Billing.USE,), "each notice, and what it is delivered to"),
    "AWS::SNS::TopicPolicy": Kind((Billing.FREE,), "IAM has no price"),
    "AWS::SQS::Queue": Kind((Billing.USE,), "requests; nobody polls the dead letters"),
    "AWS::SQS::QueuePolicy": Kind((Billing.FREE,), "IAM has no price"),
    "AWS::WAFv2::WebACL": Kind(
        (Billing.MONTH, Billing.USE),
        "the list and each of its rules, by the hour, whether anything comes or not; requests",
    ),
    "AWS::WAFv2::WebACLAssociation": Kind((Billing.FREE,), "puts the firewall before the API"),
    "AWS::SecretsManager::Secret": Kind((Billing.MONTH, Billing.USE), "each secret; requests"),
    "AWS::StepFunctions::StateMachine": Kind(
        (Billing.USE,), "state transitions, failures' logs and traces; nothing without an execution"
    ),
}
"""Every type that the template has, and the few beside it that a stack like this may get."""

HOURLY: dict[str, str] = {
    "AWS::DAX::Cluster": "its nodes are billed by the hour",
    "AWS::EC2::EIP": "a public address is billed by the hour",
    "AWS::EC2::Instance": "an instance is billed by the second",
    "AWS::EC2::NatGateway": "a NAT gateway is billed by the hour, used or not",
    "AWS::EC2::TransitGatewayAttachment": "an attachment is billed by the hour",
    "AWS::EC2::VPCEndpoint": "an interface endpoint is billed by the hour in each zone",
    "AWS::ECS::Service": "its tasks are billed by the second, used or not",
    "AWS::EKS::Cluster": "a cluster is billed by the hour",
    "AWS::ElastiCache::CacheCluster": "its nodes are billed by the hour",
    "AWS::ElastiCache::ReplicationGroup": "its nodes are billed by the hour",
    "AWS::ElastiCache::ServerlessCache": "at least a gigabyte is billed by the hour",
    "AWS::ElasticLoadBalancingV2::LoadBalancer": "a load balancer is billed by the hour",
    "AWS::Kinesis::Stream": "a stream is billed by the hour, in both modes",
    "AWS::Lambda::CapacityProvider": "its instances are billed by the hour",
    "AWS::MSK::Cluster": "its brokers are billed by the hour",
    "AWS::Neptune::DBInstance": "an instance is billed by the second",
    "AWS::OpenSearchServerless::Collection": "at least one compute unit is billed by the hour",
    "AWS::OpenSearchService::Domain": "its nodes are billed by the hour",
    "AWS::Pipes::Pipe": "asks its source again and again",
    "AWS::RDS::DBCluster": "a cluster is billed by the second",
    "AWS::RDS::DBInstance": "an instance is billed by the second",
    "AWS::Redshift::Cluster": "its nodes are billed by the hour",
    "AWS::SageMaker::Endpoint": "its instances are billed by the second, used or not",
    "AWS::SageMaker::NotebookInstance": "an instance is billed by the second",
    "AWS::Scheduler::Schedule": "runs its target by the clock",
    "AWS::Synthetics::Canary": "runs by the clock",
    "AWS::Transfer::Server": "a server is billed by the hour",
}
"""Types that cost or work at rest whatever their properties: none may be in a stack."""


def kind_of(type_: str) -> Kind:
    """How a type is billed.

    Raises:
        ConfigurationError: Nobody has said so.
    """
    if type_ in HOURLY:
        why = HOURLY[type_]
        return Kind((Billing.HOUR,), why, lambda _: why)
    if type_ not in KINDS:
        raise ConfigurationError(
            f"nobody has said what {type_} costs: add it to infra/costs/kinds.py with its reason"
        )
    return KINDS[type_]


def busy_at_rest(resources: Mapping[str, Resource]) -> list[Idle]:
    """Every resource that bills by the hour or works while nothing flows.

    Raises:
        ConfigurationError: A resource's type is not classified.
    """
    found = []
    for name, resource in resources.items():
        why = kind_of(resource["Type"]).idle(resource.get("Properties", {}))
        if why:
            found.append(Idle(name, resource["Type"], why))
    return found
