"""What EventBridge delivers: only the fields that are read."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AwsEvent(BaseModel):
    """Base of AWS's events: fields that are not ours to know are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class Bucket(AwsEvent):
    """``detail.bucket``."""

    name: str


class S3Object(AwsEvent):
    """``detail.object``."""

    key: str = Field(min_length=1)
    size: int = 0
    etag: str = ""
    version_id: str = Field("", alias="version-id")


class ObjectCreatedDetail(AwsEvent):
    """``detail`` of an object that was created."""

    bucket: Bucket
    object: S3Object


class ObjectCreated(AwsEvent):
    """EventBridge's event for an object in the data bucket."""

    id: str
    detail_type: Literal["Object Created"] = Field(alias="detail-type")
    source: Literal["aws.s3"]
    detail: ObjectCreatedDetail


class ExecutionDetail(AwsEvent):
    """``detail`` of an execution's status change."""

    name: str
    machine: str = Field("", alias="stateMachineArn")
    status: Literal["FAILED", "TIMED_OUT", "ABORTED"]
    error: str | None = None
    cause: str | None = None


class ExecutionEnded(AwsEvent):
    """EventBridge's event of an execution that did not succeed."""

    id: str
    source: Literal["aws.states"]
    detail: ExecutionDetail
