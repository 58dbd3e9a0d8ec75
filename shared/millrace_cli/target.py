"""Which deployment the commands talk to: the embedded cloud of this project, or AWS.

Both are reached through the same calls; only endpoint and credentials differ.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import boto3
from botocore.config import Config

from millrace.aws.execute_api import reachable
from millrace.aws.translate import translated
from millrace.errors import ConfigurationError, FinalError, NotFoundError
from millrace_cli import cloud

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.client import CloudFormationClient
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_kms.client import KMSClient
    from mypy_boto3_lambda.client import LambdaClient
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_sqs.client import SQSClient

DEFAULT_STACK = "millrace"
TargetKind = Literal["local", "aws"]

_REQUIRED_OUTPUTS = ("ApiUrl", "DataBucketName", "ArtifactBucketName", "ApiAuthorizer")


@dataclass(frozen=True, slots=True)
class StackOutputs:
    """What the stack says of itself."""

    api_url: str
    data_bucket: str
    artifact_bucket: str
    authorizer: str
    raw: dict[str, str]


class Target:
    """One deployment.

    Args:
        kind: ``local`` for the embedded cloud, ``aws`` for the account of the credentials.
        stack: CloudFormation stack name.
        endpoint_url: Endpoint of the emulator, or None for AWS (or what AWS_ENDPOINT_URL puts in
            its place).
        region: AWS region, or None for the session's own.
    """

    def __init__(
        self, *, kind: TargetKind, stack: str, endpoint_url: str | None, region: str | None
    ) -> None:
        self.kind = kind
        self.stack = stack
        self.endpoint_url = endpoint_url
        self._region = region

    @cached_property
    def session(self) -> boto3.Session:
        """The boto3 session; the embedded cloud gets credentials that open nothing elsewhere."""
        if self.kind == "local":
            return boto3.Session(
                aws_access_key_id="test",
                aws_secret_access_key="test",  # noqa: S106 - the emulator's public credentials
                region_name=self._region or cloud.LOCAL_REGION,
            )
        return boto3.Session(region_name=self._region)

    @property
    def region(self) -> str:
        """The region in force.

        Raises:
            ConfigurationError: None is set.
        """
        if not self.session.region_name:
            raise ConfigurationError(
                "no AWS region is set: pass --region or set AWS_REGION; or start the embedded "
                "cloud (millrace local up)"
            )
        return self.session.region_name

    def _config(self) -> Config:
        return Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5)

    @cached_property
    def s3(self) -> "S3Client":
        """S3 client; path-style addresses on emulators."""
        config = self._config().merge(
            Config(s3={"addressing_style": "path" if self.endpoint_url else "auto"})
        )
        return self.session.client("s3", endpoint_url=self.endpoint_url, config=config)

    @cached_property
    def cloudformation(self) -> "CloudFormationClient":
        """CloudFormation client."""
        return self.session.client(
            "cloudformation", endpoint_url=self.endpoint_url, config=self._config()
        )

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        """DynamoDB client."""
        return self.session.client(
            "dynamodb", endpoint_url=self.endpoint_url, config=self._config()
        )

    @cached_property
    def kms(self) -> "KMSClient":
        """KMS client."""
        return self.session.client("kms", endpoint_url=self.endpoint_url, config=self._config())

    @cached_property
    def sqs(self) -> "SQSClient":
        """SQS client."""
        return self.session.client("sqs", endpoint_url=self.endpoint_url, config=self._config())

    @cached_property
    def functions(self) -> "LambdaClient":
        """Lambda client."""
        return self.session.client("lambda", endpoint_url=self.endpoint_url, config=self._config())

    @cached_property
    def outputs(self) -> StackOutputs:
        """The stack's outputs.

        Raises:
            ConfigurationError: The stack is absent, unfinished or not Millrace's.
        """
        region = self.region  # Its absence is told here, in our words.
        try:
            with translated(f"describe stack {self.stack} in {region}"):
                stacks = self.cloudformation.describe_stacks(StackName=self.stack)["Stacks"]
        except (NotFoundError, FinalError) as exc:
            if "does not exist" not in str(exc):
                raise
            raise ConfigurationError(
                f"there is no stack {self.stack!r} {self.where}: deploy it first "
                f"({'millrace local up' if self.kind == 'local' else 'sam build && sam deploy'})"
            ) from exc
        raw = {o["OutputKey"]: o["OutputValue"] for o in stacks[0].get("Outputs", [])}
        missing = [name for name in _REQUIRED_OUTPUTS if name not in raw]
        if missing:
            raise ConfigurationError(
                f"stack {self.stack!r} {self.where} has status {stacks[0]['StackStatus']} and "
                f"lacks the outputs {', '.join(missing)}: is it a finished Millrace deployment?"
            )
        return StackOutputs(
            api_url=reachable(raw["ApiUrl"], self.endpoint_url),
            data_bucket=raw["DataBucketName"],
            artifact_bucket=raw["ArtifactBucketName"],
            authorizer=raw["ApiAuthorizer"],
            raw=raw,
        )

    def close(self) -> None:
        """Closes the connections of the clients made so far."""
        for made in ("s3", "cloudformation", "dynamodb", "kms", "sqs", "functions"):
            if made in self.__dict__:
                self.__dict__[made].close()

    @property
    def where(self) -> str:
        """The deployment's place in words."""
        if self.kind == "local":
            return f"on the embedded cloud at {self.endpoint_url}"
        region = f"in {self.session.region_name or 'no region'}"
        return region if self.endpoint_url is None else f"{region} at {self.endpoint_url}"


def resolve_target(
    *,
    kind: TargetKind | None,
    stack: str | None,
    endpoint_url: str | None,
    region: str | None,
    project: Path,
) -> Target:
    """Chooses the deployment.

    An explicit endpoint wins; then ``kind``; then the embedded cloud when it runs for this
    project; then AWS.

    Raises:
        ConfigurationError: ``local`` was asked for and no embedded cloud runs.
    """
    name = stack or os.environ.get("MILLRACE_STACK") or DEFAULT_STACK
    endpoint = endpoint_url or os.environ.get("MILLRACE_ENDPOINT_URL")
    if endpoint and kind != "aws":
        return Target(kind="local", stack=name, endpoint_url=endpoint.rstrip("/"), region=region)
    if kind != "aws":
        info = cloud.status(project)
        if info is not None:
            return Target(kind="local", stack=name, endpoint_url=info.endpoint, region=region)
        if kind == "local":
            raise ConfigurationError(
                "the embedded cloud is not running: start it (millrace local up)"
            )
        if cloud.killed(project) is not None:
            # Someone working with it must not reach an AWS account by accident.
            raise ConfigurationError(
                "the embedded cloud ended without being stopped: start it again (millrace local "
                "up), or forget it (millrace local down), or say --target aws"
            )
    return aws_target(stack=name, region=region)


def aws_target(*, stack: str, region: str | None) -> Target:
    """A stack in the account of the credentials; ``AWS_ENDPOINT_URL`` is minded, as by every SDK."""
    return Target(
        kind="aws", stack=stack, endpoint_url=os.environ.get("AWS_ENDPOINT_URL"), region=region
    )
