"""Where a deployment goes: credentials, region, endpoint, and what to do when one is missing."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from millrace.aws.translate import translated
from millrace.errors import (
    AccessDeniedError,
    ConfigurationError,
    FinalError,
    MillraceError,
    ServiceUnavailableError,
)
from millrace_cli.target import Target

if TYPE_CHECKING:
    from mypy_boto3_apigateway.client import APIGatewayClient
    from mypy_boto3_cloudformation.client import CloudFormationClient
    from mypy_boto3_cloudwatch.client import CloudWatchClient
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_events.client import EventBridgeClient
    from mypy_boto3_iam.client import IAMClient
    from mypy_boto3_lambda.client import LambdaClient
    from mypy_boto3_logs.client import CloudWatchLogsClient
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_sns.client import SNSClient
    from mypy_boto3_sqs.client import SQSClient
    from mypy_boto3_stepfunctions.client import SFNClient

ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"

_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "expired")
_WRONG_KEYS = ("InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch")
_REFUSED = re.compile(
    r"not authorized to perform:? (?P<action>[\w:*-]+)(?: on resource:? (?P<resource>\S+))?"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who deploys."""

    account: str
    arn: str


class Place:
    """An account and a region, on AWS or at an endpoint that stands for it.

    Args:
        region: AWS region, None for the one of the environment or the profile.
        environment: The variables to read; credentials are found by boto3 in its own way.
    """

    def __init__(
        self, *, region: str | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        variables = os.environ if environment is None else environment
        self._region = region or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
        self.endpoint = _endpoint(variables.get(ENDPOINT_VARIABLE, ""))

    @cached_property
    def session(self) -> boto3.Session:
        """The boto3 session."""
        with asked("read the AWS profile"):
            return boto3.Session(region_name=self._region)

    @cached_property
    def region(self) -> str:
        """The region.

        Raises:
            ConfigurationError: None is set, or AWS has none of that name.
        """
        region = self.session.region_name
        if not region:
            raise ConfigurationError(
                "no AWS region is set: set AWS_REGION, for example "
                "`make deploy STAGE=staging AWS_REGION=eu-central-1`"
            )
        partitions = self.session.get_available_partitions()
        known = [
            name
            for partition in partitions
            for name in self.session.get_available_regions("cloudformation", partition)
        ]
        if region not in known:
            near = difflib.get_close_matches(region, known, n=1)
            meant = (
                f": did you mean {near[0]}?" if near else ": set AWS_REGION to one of AWS's regions"
            )
            raise ConfigurationError(f"AWS has no region {region!r}{meant}")
        return region

    @cached_property
    def identity(self) -> Identity:
        """Who the credentials say we are: the first question, as it answers most others.

        Raises:
            AccessDeniedError: There are no credentials, or they are refused or expired.
            ServiceUnavailableError: Nothing answers there.
        """
        if self.session.get_credentials() is None:
            raise AccessDeniedError(
                "no AWS credentials were found: sign in (`aws sso login`), set AWS_PROFILE, or, in "
                "CI, let the job take the deploy role (infra/ci); for the embedded cloud set "
                f"{ENDPOINT_VARIABLE} and any keys"
            )
        client = self.session.client("sts", **self._reached)
        try:
            with asked("ask who I am", self):
                answer = client.get_caller_identity()
        finally:
            client.close()
        return Identity(account=answer["Account"], arn=answer["Arn"])

    @property
    def emulated(self) -> bool:
        """Whether an endpoint of our own stands for AWS."""
        return self.endpoint is not None

    @property
    def words(self) -> str:
        """The place in words."""
        where = f"account {self.identity.account}, {self.region}"
        return f"{where}, at {self.endpoint}" if self.endpoint else where

    def environment(self) -> dict[str, str]:
        """What a program needs to go to the same place."""
        return dict(os.environ) | {
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "SAM_CLI_TELEMETRY": "0",
            # SAM breaks its tables at the terminal's width, which is not ours.
            "COLUMNS": "240",
            **({"SAM_CLI_POLL_DELAY": "0.5"} if self.emulated else {}),
        }

    def target(self, stack: str) -> Target:
        """The deployed stack as the command line sees it."""
        return Target(kind="aws", stack=stack, endpoint_url=self.endpoint, region=self.region)

    def object_url(self, bucket: str, key: str) -> str:
        """Where CloudFormation finds a template."""
        return f"{self.s3.meta.endpoint_url}/{bucket}/{key}"

    @cached_property
    def _reached(self) -> dict[str, Any]:
        return {
            "endpoint_url": self.endpoint,
            "region_name": self.region,
            # Path-style addresses on emulators; the others have no such choice.
            "config": Config(
                retries={"mode": "standard", "max_attempts": 4},
                connect_timeout=5,
                read_timeout=60,
                s3={"addressing_style": "path" if self.endpoint else "auto"},
            ),
        }

    @cached_property
    def s3(self) -> "S3Client":
        """S3."""
        return self.session.client("s3", **self._reached)

    @cached_property
    def cloudformation(self) -> "CloudFormationClient":
        """CloudFormation."""
        return self.session.client("cloudformation", **self._reached)

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        """DynamoDB."""
        return self.session.client("dynamodb", **self._reached)

    @cached_property
    def lambda_(self) -> "LambdaClient":
        """Lambda."""
        return self.session.client("lambda", **self._reached)

    @cached_property
    def logs(self) -> "CloudWatchLogsClient":
        """CloudWatch Logs."""
        return self.session.client("logs", **self._reached)

    @cached_property
    def cloudwatch(self) -> "CloudWatchClient":
        """CloudWatch."""
        return self.session.client("cloudwatch", **self._reached)

    @cached_property
    def iam(self) -> "IAMClient":
        """IAM."""
        return self.session.client("iam", **self._reached)

    @cached_property
    def sqs(self) -> "SQSClient":
        """SQS."""
        return self.session.client("sqs", **self._reached)

    @cached_property
    def sns(self) -> "SNSClient":
        """SNS."""
        return self.session.client("sns", **self._reached)

    @cached_property
    def events(self) -> "EventBridgeClient":
        """EventBridge."""
        return self.session.client("events", **self._reached)

    @cached_property
    def stepfunctions(self) -> "SFNClient":
        """Step Functions."""
        return self.session.client("stepfunctions", **self._reached)

    @cached_property
    def apigateway(self) -> "APIGatewayClient":
        """API Gateway."""
        return self.session.client("apigateway", **self._reached)

    def close(self) -> None:
        """Closes the connections of the clients made so far."""
        for made in list(self.__dict__.values()):
            close = getattr(made, "close", None)
            if callable(close):
                close()


def _endpoint(given: str) -> str | None:
    if not given:
        return None
    wanted = f"expected an address such as http://127.0.0.1:4566 in {ENDPOINT_VARIABLE}"
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError as exc:
        raise ConfigurationError(
            f"{wanted} with a port from 1 to 65535, got {given!r}; mend or unset it"
        ) from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigurationError(f"{wanted}, got {given!r}; mend or unset it")
    return given.rstrip("/")


@contextmanager
def asked(what: str, place: Place | None = None) -> Iterator[None]:
    """Turns what AWS refuses inside the block into a sentence that says what to do."""
    try:
        with translated(what):
            yield
    except AccessDeniedError as exc:
        raise refused(exc) from exc
    except ServiceUnavailableError as exc:
        raise _unreachable(exc, place) from exc
    except FinalError as exc:
        # Services name expired and unknown keys in different ways; not all count as refusals.
        if any(code in str(exc) for code in (*_EXPIRED, *_WRONG_KEYS)):
            raise refused(AccessDeniedError(str(exc))) from exc
        raise


def refused(error: AccessDeniedError) -> AccessDeniedError:
    """The same refusal with what to do about it."""
    text = str(error)
    if any(code in text for code in _EXPIRED):
        return AccessDeniedError(
            "the AWS credentials have expired: sign in again (`aws sso login`); in CI start the job "
            f"again, as its role lasts an hour ({text})"
        )
    if any(code in text for code in _WRONG_KEYS):
        return AccessDeniedError(
            "AWS does not know these credentials: look at AWS_PROFILE, AWS_ACCESS_KEY_ID and "
            f"AWS_SESSION_TOKEN for a mixture of two accounts ({text})"
        )
    found = _REFUSED.search(text)
    if found:
        resource = f" on {found['resource']}" if found["resource"] else ""
        return AccessDeniedError(
            f"the credentials may not {found['action']}{resource}: use the deploy role of "
            f"`make bootstrap`, or have this action granted ({text})"
        )
    return error


def _unreachable(error: ServiceUnavailableError, place: Place | None) -> MillraceError:
    if "connect" not in str(error).lower() and "closed" not in str(error).lower():
        return error
    endpoint = place.endpoint if place else os.environ.get(ENDPOINT_VARIABLE)
    if endpoint:
        return ServiceUnavailableError(
            f"nothing answers at {ENDPOINT_VARIABLE}={endpoint}: start the embedded cloud "
            "(`millrace local up`), or unset the variable to mean AWS"
        )
    return ServiceUnavailableError(
        f"AWS does not answer: is the network there, and AWS_REGION right? ({error})"
    )
