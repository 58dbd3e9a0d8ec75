"""boto3 clients: one per service and process, with bounded waiting and the SDK's standard retries.

Endpoint, region and credentials come from the environment as every AWS SDK reads them
(``AWS_ENDPOINT_URL``, ``AWS_REGION``, …), so the same code runs on AWS and on the local cloud.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, overload

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_apigateway.client import APIGatewayClient
    from mypy_boto3_cloudwatch.client import CloudWatchClient
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_events.client import EventBridgeClient
    from mypy_boto3_kms.client import KMSClient
    from mypy_boto3_lambda.client import LambdaClient
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_sns.client import SNSClient
    from mypy_boto3_stepfunctions.client import SFNClient

CONNECT_SECONDS = 2

READ_SECONDS = {
    "apigateway": 5,
    "cloudwatch": 5,
    "dynamodb": 5,
    "events": 5,
    "kms": 5,
    "stepfunctions": 10,
    "sns": 5,
    "lambda": 28,
    "s3": 60,
}
"""How long one try may wait for an answer. ``lambda`` stays under API Gateway's 29 seconds."""

MAX_ATTEMPTS = {"lambda": 1}
"""Tries per call, three unless named: a synchronous invocation is repeated only by its caller,
who knows whether the function may run twice."""


@overload
def client(service: Literal["apigateway"]) -> "APIGatewayClient": ...
@overload
def client(service: Literal["cloudwatch"]) -> "CloudWatchClient": ...
@overload
def client(service: Literal["dynamodb"]) -> "DynamoDBClient": ...
@overload
def client(service: Literal["events"]) -> "EventBridgeClient": ...
@overload
def client(service: Literal["kms"]) -> "KMSClient": ...
@overload
def client(service: Literal["lambda"]) -> "LambdaClient": ...
@overload
def client(service: Literal["s3"]) -> "S3Client": ...
@overload
def client(service: Literal["sns"]) -> "SNSClient": ...
@overload
def client(service: Literal["stepfunctions"]) -> "SFNClient": ...
@cache
def client(service: str) -> Any:
    """The process's client of a service.

    Args:
        service: The service's boto3 name.
    """
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS[service],
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS.get(service, 3)},
        # Presigned addresses still default to version 2, which KMS-encrypted buckets refuse.
        signature_version="s3v4" if service == "s3" else None,
    )
    return boto3.client(service, config=config)  # type: ignore[call-overload]  # names checked above


def forget_clients() -> None:
    """Drops every cached client, for tests and for a snapshot's restore hook."""
    client.cache_clear()  # type: ignore[attr-defined]  # overloads hide functools' wrapper
