"""What a run of the e2e tests takes away again from the stack it ran on.

The API deletes nothing, on purpose: the registry is a record. So the objects of the run's models go,
version by version, by S3's own calls, and what stays is told.
"""

from typing import TYPE_CHECKING

from millrace.aws.translate import translated
from millrace.errors import AccessDeniedError, MillraceError
from millrace_cli.target import Target

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef


def tidy(target: Target, prefix: str) -> list[str]:
    """Deletes the objects of the models whose names begin with a prefix.

    Args:
        target: The deployment.
        prefix: Beginning of the names, without the hyphen.

    Returns:
        What stays, a line each.
    """
    stays = [
        f"registry table {target.outputs.raw['TableName']}: the records of models {prefix}-* "
        "(nothing serves them, and their audit is meant to last)",
        f"executions of {target.outputs.raw['TrainingStateMachineArn']} named {prefix}-* "
        "(Step Functions forgets them after 90 days), logs and metrics",
    ]
    training = ("incoming", "datasets", "quarantine", "capture", "feedback")
    for bucket, folders in (
        (target.outputs.data_bucket, (*training, "batch", "work", "results")),
        (target.outputs.artifact_bucket, ("specs", "models")),
    ):
        for folder in folders:
            beginning = f"{folder}/{prefix}-"
            try:
                _delete(target, bucket, beginning)
            except MillraceError as exc:
                stays.append(f"s3://{bucket}/{beginning}*: {exc}")
    return stays


def _delete(target: Target, bucket: str, prefix: str) -> None:
    with translated(f"delete s3://{bucket}/{prefix}*"):
        pages = target.s3.get_paginator("list_object_versions").paginate(
            Bucket=bucket, Prefix=prefix
        )
        for page in pages:
            found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            named: list[ObjectIdentifierTypeDef] = [
                {"Key": one["Key"], "VersionId": one["VersionId"]} for one in found
            ]
            if not named:
                continue
            answer = target.s3.delete_objects(
                Bucket=bucket, Delete={"Objects": named, "Quiet": True}
            )
            for refused in answer.get("Errors", ()):
                raise AccessDeniedError(f"{refused.get('Key')}: {refused.get('Message')}")
