"""Writes down every AWS call of a function process: what was asked for, never what was in it.

Emulators enforce no role, so a test run keeps the calls and compares them with what the roles grant
(``tests/access``). Installed by ``bootstrap.py`` when the cloud was asked to record, before any code
of the function runs; a process that was not asked never loads this file.

One JSON line per call, in one file per process::

    {"function": …, "service": "s3", "operation": "GetObject", "names": {"Bucket": …, "Key": …},
     "given": ["Bucket", "Key"], "outcome": "ok", "at": …}

``names`` holds what identifies the resource, ``given`` the names of all parameters. Item data and
bodies stay out. The first line of a file says that the process is recorded; a line with ``fault``
says that a call could not be: the function goes on, and the comparison fails.

A call is seen where botocore makes it, and, for what the functions sign and send without botocore
(``millrace.aws.wire``), where ``http.client`` sends a request that is signed for a service.

Standard library only, but for botocore, which is the function's own.
"""

import functools
import http.client
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

NAMES = frozenset(
    {
        "Bucket",
        "Key",
        "Prefix",
        "VersionId",
        "UploadId",
        "ServerSideEncryption",
        "SSEKMSKeyId",
        "TableName",
        "IndexName",
        "stateMachineArn",
        "executionArn",
        "name",
        "TopicArn",
        "TargetArn",
        "QueueUrl",
        "FunctionName",
        "InvocationType",
        "Qualifier",
        "KeyId",
        "RoleArn",
    }
)
"""Parameters whose values name a resource or decide which right is needed."""

PARTITION_KEYS = {None: "PK", "GSI1": "GSI1PK"}
"""Partition key of the registry's table and of its index: what ``dynamodb:LeadingKeys`` holds."""

type Call = dict[str, Any]


def describe(
    service: str, operation: str, parameters: Mapping[str, Any], outcome: str, **facts: Any
) -> Call:
    """What is kept of a call.

    Args:
        service: botocore's name of the service.
        operation: The API operation.
        parameters: What the caller passed.
        outcome: ``ok`` or the error's code.
        facts: Added as they are.
    """
    names: dict[str, Any] = {
        n: v for n, v in parameters.items() if n in NAMES and isinstance(v, str)
    }
    if service == "dynamodb":
        names["items"] = _items(operation, parameters)
    if operation == "DeleteObjects":
        wanted = parameters["Delete"]["Objects"]
        names["objects"] = [{n: v for n, v in one.items() if n in NAMES} for one in wanted]
    if "CopySource" in parameters:
        names["CopySource"] = parameters["CopySource"]
    return {
        "service": service,
        "operation": operation,
        "names": names,
        "given": sorted(parameters),
        "outcome": outcome,
        **facts,
    }


def _items(operation: str, parameters: Mapping[str, Any]) -> list[Call]:
    """Each item, or collection of items, that a DynamoDB operation touches."""
    if operation in ("TransactWriteItems", "TransactGetItems"):
        return [
            _item(verb, one) for entry in parameters["TransactItems"] for verb, one in entry.items()
        ]
    if operation in ("BatchGetItem", "BatchWriteItem"):
        return [
            _item(verb, {"TableName": table, **one})
            for table, wanted in parameters["RequestItems"].items()
            for verb, one in _batched(wanted)
        ]
    return [_item(operation, parameters)]


def _batched(wanted: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(wanted, Mapping):
        return [("Get", {"Key": key}) for key in wanted["Keys"]]
    return [(kind.removesuffix("Request"), one) for entry in wanted for kind, one in entry.items()]


def _item(verb: str, parameters: Mapping[str, Any]) -> Call:
    index = parameters.get("IndexName")
    found: Call = {"verb": verb, "TableName": parameters["TableName"]}
    if index is not None:
        found["IndexName"] = index
    leading = _leading_key(parameters, PARTITION_KEYS.get(index))
    return found if leading is None else found | {"leading": leading}


def _leading_key(parameters: Mapping[str, Any], attribute: str | None) -> str | None:
    """The partition key's value; None when the operation names none, as a scan."""
    if attribute is None:
        return None
    key = parameters.get("Key") or parameters.get("Item")
    if key is not None:
        return _plain(key[attribute])
    expression = parameters.get("KeyConditionExpression")
    if expression is None:
        return None
    names = parameters.get("ExpressionAttributeNames") or {}
    for name, value in re.findall(r"([#\w]+)\s*=\s*(:\w+)", expression):
        if names.get(name, name) == attribute:
            return _plain(parameters["ExpressionAttributeValues"][value])
    return None


def _plain(value: Any) -> str:
    """The text of an attribute value, typed as the API has it or plain as resources take it."""
    if isinstance(value, Mapping):
        ((_, value),) = value.items()
    return str(value)


def appended(folder: Path, function: str) -> Callable[[Call], None]:
    """What appends lines to a file of its own.

    Args:
        folder: Where the file goes.
        function: The function's name.
    """
    path = folder / f"{function}-{os.getpid()}-{os.urandom(4).hex()}.jsonl"
    # Unbuffered appends of whole lines: threads do not mix theirs, and a kill loses none.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(line: Call) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = json.dumps({"function": function, **line, "at": at})
        os.write(file, f"{text}\n".encode())

    append({"recording": True})
    return append


class Recorder:
    """Hands on what is kept of each call.

    Args:
        write: Takes a line, on the thread that makes the call.
    """

    def __init__(self, write: Callable[[Call], None]) -> None:
        self._write = write

    def keep(
        self,
        service: str,
        operation: str,
        parameters: Mapping[str, Any] | None,
        outcome: str,
        **facts: Any,
    ) -> None:
        """Writes one call; what goes wrong here is written down and never raised."""
        try:
            self._write(describe(service, operation, parameters or {}, outcome, **facts))
        except Exception as exc:  # noqa: BLE001 - the function must not feel that it is watched
            fault = f"{service} {operation}: {type(exc).__name__}: {exc}"
            try:
                self._write({"fault": fault})
            except OSError:
                print(f"a call could not be recorded: {fault}", file=sys.stderr)

    def install(self) -> None:
        """Records every botocore client of this process, those made already too."""
        from botocore import client, signers

        calls: Any = client.BaseClient
        calls._make_api_call = self._recorded(calls._make_api_call)
        # Client classes take these two from the module when they are made.
        signing: Any = signers
        signing.generate_presigned_url = self._signed(signing.generate_presigned_url)
        signing.generate_presigned_post = self._posted(signing.generate_presigned_post)
        # urllib3, which botocore sends with, has a `request` of its own.
        connections: Any = http.client.HTTPConnection
        connections.request = self._sent(connections.request)

    def _recorded(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def _make_api_call(made: Any, operation_name: str, api_params: Any) -> Any:
            outcome = "ok"
            try:
                return original(made, operation_name, api_params)
            except Exception as exc:
                outcome = _code(exc)
                raise
            finally:
                self.keep(_service(made), operation_name, api_params, outcome)

        return _make_api_call

    def _sent(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def request(made: Any, *positional: Any, **named: Any) -> Any:
            outcome = "ok"
            try:
                return original(made, *positional, **named)
            except Exception as exc:
                outcome = _code(exc)
                raise
            finally:
                sent = signature.bind(made, *positional, **named).arguments
                headers = {k.lower(): str(v) for k, v in (sent.get("headers") or {}).items()}
                scope = _SCOPE.search(headers.get("authorization", ""))
                if scope is not None:
                    self._keep_sent(scope[1], sent, headers, outcome)

        return request

    def _keep_sent(
        self, service: str, sent: Mapping[str, Any], headers: Mapping[str, str], outcome: str
    ) -> None:
        try:
            operation, parameters = _asked(service, sent, headers)
        except (KeyError, ValueError) as exc:
            self._write({"fault": f"a signed request to {service}: {type(exc).__name__}: {exc}"})
            return
        self.keep(service, operation, parameters, outcome)

    def _signed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def generate_presigned_url(made: Any, *positional: Any, **named: Any) -> Any:
            address = original(made, *positional, **named)
            given = signature.bind(made, *positional, **named).arguments
            operation = made.meta.method_to_api_mapping[given["ClientMethod"]]
            self.keep(_service(made), operation, given.get("Params"), "ok", signed=True)
            return address

        return generate_presigned_url

    def _posted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def generate_presigned_post(made: Any, *positional: Any, **named: Any) -> Any:
            form = original(made, *positional, **named)
            given = signature.bind(made, *positional, **named).arguments
            target = {name: given[name] for name in ("Bucket", "Key")}
            self.keep("s3", "PutObject", target, "ok", signed=True)
            return form

        return generate_presigned_post


_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/[^/]+/([^/]+)/aws4_request")
"""Where a signature names the service it is for."""


def _asked(
    service: str, sent: Mapping[str, Any], headers: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    """Operation and parameters of a request, as botocore would name them.

    Raises:
        KeyError: It is of no kind that is known here.
        ValueError: Its body is not what its kind has.
    """
    if "x-amz-target" in headers:
        return headers["x-amz-target"].rpartition(".")[2], json.loads(sent["body"])
    operation = {("s3", "GET"): "GetObject", ("s3", "HEAD"): "HeadObject"}[service, sent["method"]]
    path = sent["url"].partition("?")[0].lstrip("/")
    bucket, _, rest = headers["host"].partition(".s3")
    if not rest:
        bucket, _, path = path.partition("/")
    return operation, {"Bucket": bucket, "Key": unquote(path)}


def _service(made: Any) -> str:
    return str(made.meta.service_model.service_name)


def _code(exc: Exception) -> str:
    """A service's error code, else the exception's name."""
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):
        return str(response.get("Error", {}).get("Code", "")) or type(exc).__name__
    return type(exc).__name__


def record(folder: str) -> None:
    """Records this function process from here on."""
    Recorder(appended(Path(folder), os.environ["AWS_LAMBDA_FUNCTION_NAME"])).install()
