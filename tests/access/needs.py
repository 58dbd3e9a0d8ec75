"""What AWS authorizes for an API call: actions, resources and condition keys.

Sources: the Service Authorization Reference (``infra/build/requirements/iam.in`` brings its data,
with which `tests.infra.test_rights` checks every action, resource and key named here), and per service:

- S3: "Required permissions for Amazon S3 API operations". A version needs the action on versions;
  a key that is absent needs ListBucket, else the answer is 403; a conditional write with If-Match
  reads the object too.
- DynamoDB: "Using DynamoDB transactions: IAM" (each write of a transaction needs its own action, the
  transaction none) and "Using IAM policy conditions" (LeadingKeys is the partition key's value).
- Multipart uploads under a customer key need Decrypt beside GenerateDataKey ("Protecting data with
  SSE-KMS"); a table under one needs Decrypt, with which DynamoDB opens the table's key for the caller
  ("DynamoDB encryption at rest: usage notes"); a topic both ("SNS: Key management").
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.access.policies import Context, Request

S3_ABSENT = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NotFound"})

TLS: Context = (("aws:securetransport", ("true",)), ("s3:tlsversion", ("1.3",)))
"""On AWS every SDK speaks TLS; the emulators are spoken to without."""


class UnmappedCallError(Exception):
    """Nobody has yet written down which rights a call needs."""


class RecordingError(Exception):
    """A recording is not whole."""


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of recorded call, however often it was made.

    Attributes:
        function: Physical name of the function.
        service: botocore's name of the service.
        operation: The API operation.
        names: What identifies the resource, as JSON with sorted keys.
        given: Names of all its parameters.
        outcome: ``ok`` or the error's code.
        signed: Whether it was signed for somebody else to make.
    """

    function: str
    service: str
    operation: str
    names: str
    given: tuple[str, ...]
    outcome: str
    signed: bool = False

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "Call":
        """The call of a line that the recorder wrote."""
        return cls(
            function=line["function"],
            service=line["service"],
            operation=line["operation"],
            names=json.dumps(line["names"], sort_keys=True),
            given=tuple(line["given"]),
            outcome=line["outcome"],
            signed=line.get("signed", False),
        )

    def __str__(self) -> str:
        signed = "signed " if self.signed else ""
        return f"{signed}{self.service} {self.operation} {self.names} -> {self.outcome}"


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything recorded in a folder.

    Attributes:
        calls: Kinds of calls, and how often each was made.
        functions: Physical names of the functions that were recorded, and how many processes.
    """

    calls: Counter[Call]
    functions: Counter[str]


def read(folder: Path) -> Recording:
    """Reads what function processes recorded.

    Raises:
        RecordingError: A call could not be recorded, or a line is cut.
    """
    calls: Counter[Call] = Counter()
    functions: Counter[str] = Counter()
    for file in sorted(folder.glob("*.jsonl")):
        for number, text in enumerate(file.read_text().splitlines(), 1):
            try:
                line = json.loads(text)
            except ValueError as exc:
                raise RecordingError(f"{file.name}, line {number} is no JSON: {text!r}") from exc
            if "fault" in line:
                raise RecordingError(
                    f"{line['function']}: a call was not recorded: {line['fault']}"
                )
            if "recording" in line:
                functions[line["function"]] += 1
            else:
                calls[Call.of(line)] += 1
    return Recording(calls, functions)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a deployment is, as ARNs name it.

    Attributes:
        account: Account id.
        region: Region.
        partition: ``aws``, ``aws-cn``, ….
        key: The customer key that the deployment was given, or none.
    """

    account: str
    region: str
    partition: str = "aws"
    key: str | None = None

    def arn(self, service: str, resource: str) -> str:
        """A regional ARN; what is one already stays."""
        if resource.startswith("arn:"):
            return resource
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def bucket(self, name: str) -> str:
        """A bucket's ARN."""
        return f"arn:{self.partition}:s3:::{name}"


def needed(call: Call, principal: str, place: Place) -> list[Request]:
    """What AWS authorizes for a call.

    Args:
        call: The call.
        principal: Logical name of the role that made it.
        place: Where.

    Raises:
        UnmappedCallError: Which rights the call needs is not known here.
    """
    names = json.loads(call.names)
    rules = {
        "s3": _s3,
        "dynamodb": _dynamodb,
        "stepfunctions": _states,
        "sns": _sns,
        "sqs": _sqs,
        "lambda": _lambda,
        "events": _events,
    }
    if (call.service, call.operation) == ("sts", "GetCallerIdentity"):
        return []  # AWS lets everybody ask who they are.
    if call.service not in rules:
        raise UnmappedCallError(f"{call}: add the service to tests/access/needs.py")
    return [
        Request(principal, action, resource, tuple(sorted(context)))
        for action, resource, context in rules[call.service](call, names, place)
    ]


type Needs = Iterator[tuple[str, str, Context]]

_READS = frozenset({"GetObject", "HeadObject"})
_WRITES = frozenset({"PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"})
_COPIES = frozenset({"CopyObject", "UploadPartCopy"})
_S3_OTHER = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListParts": "s3:ListMultipartUploadParts",
    "GetObjectTagging": "s3:GetObjectTagging",
    "PutObjectTagging": "s3:PutObjectTagging",
}
_S3_LISTS = {
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "GetBucketLocation": "s3:GetBucketLocation",
}
_WITH_PARAMETER = {
    "ACL": "s3:PutObjectAcl",
    "Tagging": "s3:PutObjectTagging",
    "ObjectLockMode": "s3:PutObjectRetention",
    "ObjectLockLegalHoldStatus": "s3:PutObjectLegalHold",
    "IfMatch": "s3:GetObject",
}


def _s3(call: Call, names: Mapping[str, Any], place: Place) -> Needs:
    operation, bucket = call.operation, place.bucket(names["Bucket"])
    thing = f"{bucket}/{names.get('Key', '')}"
    if operation in _READS:
        yield _read(names), thing, TLS
        if call.outcome in S3_ABSENT:
            yield "s3:ListBucket", bucket, TLS
        else:
            yield from _key(place, "kms:Decrypt")
    elif operation in _WRITES | _COPIES:
        yield "s3:PutObject", thing, _encrypted(names)
        for parameter, action in _WITH_PARAMETER.items():
            if parameter in call.given:
                yield action, thing, TLS
        if operation in _COPIES:
            source = _source(names["CopySource"])
            yield _read(source), f"{place.bucket(source['Bucket'])}/{source['Key']}", TLS
        several = operation != "PutObject"
        yield from _key(place, "kms:GenerateDataKey", *(["kms:Decrypt"] if several else []))
    elif operation == "DeleteObject":
        yield f"s3:DeleteObject{'Version' if 'VersionId' in names else ''}", thing, TLS
    elif operation == "DeleteObjects":
        for one in names["objects"]:
            verb = f"s3:DeleteObject{'Version' if 'VersionId' in one else ''}"
            yield verb, f"{bucket}/{one['Key']}", TLS
    elif operation in _S3_OTHER:
        yield _S3_OTHER[operation], thing, TLS
    elif operation in _S3_LISTS:
        prefix: Context = (("s3:prefix", (names["Prefix"],)),) if "Prefix" in names else ()
        yield _S3_LISTS[operation], bucket, (*TLS, *prefix)
    else:
        raise UnmappedCallError(f"{call}: add the operation to tests/access/needs.py")


def _read(names: Mapping[str, Any]) -> str:
    return "s3:GetObjectVersion" if "VersionId" in names else "s3:GetObject"


def _encrypted(names: Mapping[str, Any]) -> Context:
    if "ServerSideEncryption" not in names:
        return TLS
    return (*TLS, ("s3:x-amz-server-side-encryption", (names["ServerSideEncryption"],)))


def _source(source: Any) -> Mapping[str, Any]:
    """A copy's source; text is ``bucket/key?versionId=…``."""
    if isinstance(source, Mapping):
        return source
    path, _, version = str(source).lstrip("/").partition("?versionId=")
    bucket, _, key = path.partition("/")
    return {"Bucket": bucket, "Key": key} | ({"VersionId": version} if version else {})


_VERBS = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
    "Get": "GetItem",
}
_ON_ITEMS = frozenset(
    {"GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "BatchGetItem", "BatchWriteItem"}
)
_ON_COLLECTIONS = frozenset({"Scan", "DescribeTable"})


def _dynamodb(call: Call, names: Mapping[str, Any], place: Place) -> Needs:
    together = call.operation in ("TransactWriteItems", "TransactGetItems")
    if not together and call.operation not in _ON_ITEMS | _ON_COLLECTIONS:
        raise UnmappedCallError(f"{call}: add the operation to tests/access/needs.py")
    for item in names["items"]:
        context: Context = ()
        if "leading" in item:
            context = (("dynamodb:leadingkeys", (item["leading"],)),)
        elif call.operation not in _ON_COLLECTIONS:
            raise RecordingError(f"{call}: the partition key was not recorded")
        if together:
            context = (*context, ("dynamodb:enclosingoperation", (call.operation,)))
        table = item["TableName"]
        arn = place.arn("dynamodb", table if table.startswith("arn:") else f"table/{table}")
        if "IndexName" in item:
            arn += f"/index/{item['IndexName']}"
        action = _VERBS[item["verb"]] if together else call.operation
        yield f"dynamodb:{action}", arn, context
    yield from _key(place, "kms:Decrypt")


_EXECUTIONS = frozenset({"DescribeExecution", "GetExecutionHistory", "StopExecution"})
_MACHINES = frozenset({"StartExecution", "ListExecutions", "DescribeStateMachine"})


def _states(call: Call, names: Mapping[str, Any], _place: Place) -> Needs:
    if call.operation in _MACHINES:
        yield f"states:{call.operation}", names["stateMachineArn"], ()
    elif call.operation in _EXECUTIONS:
        yield f"states:{call.operation}", names["executionArn"], ()
    elif call.operation == "SendTaskSuccess":
        # A token names no machine, and IAM knows no resource for it.
        yield "states:SendTaskSuccess", "*", ()
    else:
        raise UnmappedCallError(f"{call}: add the operation to tests/access/needs.py")


def _sns(call: Call, names: Mapping[str, Any], place: Place) -> Needs:
    if call.operation != "Publish":
        raise UnmappedCallError(f"{call}: add the operation to tests/access/needs.py")
    yield "sns:Publish", names.get("TopicArn") or names["TargetArn"], TLS[:1]
    yield from _key(place, "kms:GenerateDataKey", "kms:Decrypt")


def _sqs(call: Call, names: Mapping[str, Any], place: Place) -> Needs:
    if call.operation != "SendMessage":
        raise UnmappedCallError(f"{call}: add the operation to tests/access/needs.py")
    yield "sqs:SendMessage", place.arn("sqs", names["QueueUrl"].rsplit("/", 1)[1]), TLS[:1]


def _events(call: Call, _names: Mapping[str, Any], place: Place) -> Needs:
    if call.operation != "PutEvents":
        raise UnmappedCallError(f"{call}: add the operation to tests/access/needs.py")
    yield "events:PutEvents", place.arn("events", "event-bus/default"), ()


def _lambda(call: Call, names: Mapping[str, Any], place: Place) -> Needs:
    if call.operation != "Invoke":
        raise UnmappedCallError(f"{call}: add the operation to tests/access/needs.py")
    name = names["FunctionName"]
    arn = place.arn("lambda", name if name.startswith("arn:") else f"function:{name}")
    qualifier = f":{names['Qualifier']}" if "Qualifier" in names else ""
    yield "lambda:InvokeFunction", arn + qualifier, ()


def _key(place: Place, *actions: str) -> Needs:
    """Under a customer key the caller opens what it reads and closes what it writes."""
    if place.key is not None:
        for action in actions:
            yield action, place.key, ()


def all_needed(
    calls: Iterable[Call], roles: Mapping[str, str], place: Place
) -> dict[Request, list[Call]]:
    """What AWS authorizes for many calls, each with the calls that need it.

    Args:
        calls: The calls.
        roles: Physical name of a function to the logical name of its role.
        place: Where.
    """
    found: dict[Request, list[Call]] = {}
    for call in calls:
        if call.function not in roles:
            raise RecordingError(f"{call.function} is no function of the deployment: {call}")
        for request in needed(call, roles[call.function], place):
            found.setdefault(request, []).append(call)
    return found
