"""Whether a function's role lets it make the AWS calls it was seen making.

moto checks no role, so the calls are compared with the table of rights. Conditions are not judged.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from tests.infra.access import rights
from tests.integration.pipeline.machine import MACHINE_ARN
from tests.integration.pipeline.twin import ARTIFACT_BUCKET, DATA_BUCKET, TABLE, TOPIC_ARN, Call

_BUCKETS = {DATA_BUCKET: "DataBucket", ARTIFACT_BUCKET: "ArtifactBucket"}
_S3_WRITES = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
_TRANSACTIONS = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}


def needed(call: Call) -> Iterator[tuple[str, str]]:
    """The actions and resources, in the table's words, that AWS would ask for."""
    given = call.parameters
    match call.service, call.operation:
        case "s3", ("GetObject" | "HeadObject"):
            bucket = _BUCKETS[given["Bucket"]]
            version = "Version" if "VersionId" in given else ""
            yield f"s3:GetObject{version}", f"{bucket}/{given['Key']}"
            # Otherwise an absent key reads as access denied.
            yield "s3:ListBucket", bucket
        case "s3", operation if operation in _S3_WRITES:
            yield "s3:PutObject", f"{_BUCKETS[given['Bucket']]}/{given['Key']}"
        case "dynamodb", "TransactWriteItems":
            for item in given["TransactItems"]:
                for verb in item:
                    assert item[verb]["TableName"] == TABLE
                    yield f"dynamodb:{_TRANSACTIONS[verb]}", "RegistryTable"
        case "dynamodb", operation:
            assert given["TableName"] == TABLE
            index = given.get("IndexName")
            yield (
                f"dynamodb:{operation}",
                f"RegistryTable/index/{index}" if index else "RegistryTable",
            )
        case "stepfunctions", "StartExecution":
            assert given["stateMachineArn"] == MACHINE_ARN
            yield "states:StartExecution", "TrainingStateMachine"
        case "stepfunctions", operation:
            name = given["executionArn"].rsplit(":", 1)[1]
            yield f"states:{operation}", f"execution:TrainingStateMachine.Name:{name}"
        case "sns", "Publish":
            assert given["TopicArn"] == TOPIC_ARN
            yield "sns:Publish", "NotificationTopic"
        case "lambda", "Invoke":
            function = given["FunctionName"].removeprefix("millrace-").capitalize()
            yield "lambda:InvokeFunction", f"{function}Function"
        case _:
            raise NotImplementedError(f"no rights are known for {call.service} {call.operation}")


@cache
def _grants(function: str) -> tuple[dict[str, Any], ...]:
    return tuple(rights()[f"{function.capitalize()}Role"]["may"].values())


def allowed(function: str, action: str, resource: str) -> bool:
    """Whether a function's role grants an action on a resource."""
    return any(
        action in grant["actions"]
        and any(fnmatchcase(resource, pattern) for pattern in grant["resources"])
        for grant in _grants(function)
    )


def idle(function: str, calls: list[Call]) -> set[tuple[str, str]]:
    """Rights of a function's role that none of the calls needed: action, resource pattern."""
    used = {pair for call in calls if call.function == function for pair in needed(call)}
    return {
        (action, pattern)
        for grant in _grants(function)
        for action in grant["actions"]
        for pattern in grant["resources"]
        if not action.startswith(("logs:", "xray:", "kms:"))
        if not any(a == action and fnmatchcase(r, pattern) for a, r in used)
    }


def denied(calls: list[Call]) -> set[tuple[str, str, str]]:
    """What AWS would have denied: function, action, resource."""
    return {
        (call.function, action, resource)
        for call in calls
        for action, resource in needed(call)
        if not allowed(call.function, action, resource)
    }
