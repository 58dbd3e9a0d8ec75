"""One function that does what its event says, to see what the embedded cloud makes of it."""

import base64
import gzip
import importlib
import json
import logging
import os
import sys
import time
from typing import Any

import boto3

logging.getLogger().setLevel("INFO")


class DocumentedError(Exception):
    """An error whose name a state machine catches."""


class PassingError(Exception):
    """An error that a retry heals."""


def handler(event: dict[str, Any], context: Any) -> Any:
    """Answers an API request, or does ``event["do"]``."""
    if "httpMethod" in event:
        return _answer(event)
    if event.get("type") == "TOKEN":
        return _authorize(event)
    if "awslogs" in event:
        return _hear(event)
    return ACTIONS[event.get("do", "echo")](event, context)


def _answer(event: dict[str, Any]) -> dict[str, Any]:
    """The request as JSON; bytes come back as bytes."""
    content = event.get("body") or ""
    body = base64.b64decode(content) if event["isBase64Encoded"] else content.encode()
    if event["resource"] == "/v1/bytes":
        return {
            "statusCode": 200,
            "headers": {"content-type": "application/octet-stream"},
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }
    kept = ("resource", "path", "httpMethod", "pathParameters", "queryStringParameters")
    request = {key: event.get(key) for key in kept} | {"body": body.decode()}
    if event["resource"] == "/v1/keyed":
        request["key"] = event["requestContext"]["identity"].get("apiKeyId")
    if event["resource"].startswith("/v1/guarded"):
        request["caller"] = event["requestContext"].get("authorizer")
    return {"statusCode": 201, "body": json.dumps(request)}


def _authorize(event: dict[str, Any]) -> dict[str, Any]:
    """What the token's second word asks for."""
    wish = event["authorizationToken"].removeprefix("Bearer ")
    if wish == "stranger":
        raise PermissionError("Unauthorized")
    if wish == "trouble":
        raise DocumentedError("as documented")
    stage = "/".join(event["methodArn"].split("/")[:2])
    effect, path = ("Deny", "*") if wish == "denied" else ("Allow", "GET/v1/guarded")
    statement = {"Effect": effect, "Action": "execute-api:Invoke", "Resource": f"{stage}/{path}"}
    return {
        "principalId": wish,
        "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        "context": {"subject": wish, "asked": str(time.monotonic_ns())},
    }


def _hear(event: dict[str, Any]) -> Any:
    """Keeps what a log subscription delivered, under each line's mark; fails when a line says so."""
    delivery = json.loads(gzip.decompress(base64.b64decode(event["awslogs"]["data"])))
    for line in delivery["logEvents"]:
        said = json.loads(line["message"])
        boto3.client("dynamodb").put_item(
            TableName=os.environ["TABLE"],
            Item={
                "PK": {"S": said["mark"]},
                "SK": {"S": "heard"},
                "delivery": {"S": json.dumps(delivery)},
            },
        )
        if said["heard"].get("fail"):
            raise DocumentedError("a line said so")


def _say(event: dict[str, Any], context: Any) -> Any:
    for line in event["lines"]:
        print(line if isinstance(line, str) else json.dumps(line))


def _echo(event: dict[str, Any], context: Any) -> Any:
    return {"event": event, "request_id": context.aws_request_id}


def _identify(event: dict[str, Any], context: Any) -> Any:
    time.sleep(event.get("seconds", 0))
    return {
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "path": sys.path,
        "remaining": context.get_remaining_time_in_millis(),
    }


def _raise(event: dict[str, Any], context: Any) -> Any:
    raise DocumentedError("as documented")


def _raise_times(event: dict[str, Any], context: Any) -> Any:
    """Fails until it was called ``times`` with the same ``key``; the count is kept in the table."""
    answer = boto3.client("dynamodb").update_item(
        TableName=os.environ["TABLE"],
        Key={"PK": {"S": event["key"]}, "SK": {"S": "count"}},
        UpdateExpression="ADD calls :one",
        ExpressionAttributeValues={":one": {"N": "1"}},
        ReturnValues="ALL_NEW",
    )
    calls = int(answer["Attributes"]["calls"]["N"])
    if calls <= event["times"]:
        raise PassingError(f"call {calls}")
    return {"calls": calls}


def _print(event: dict[str, Any], context: Any) -> Any:
    logging.getLogger("conformance").info("an information %s", event["mark"])
    print(json.dumps({"status": "ok", "result": "printed, not returned"}))
    return {"returned": event["mark"]}


def _measure(event: dict[str, Any], context: Any) -> Any:
    directive = {
        "Namespace": "Conformance",
        "Dimensions": [["service"]],
        "Metrics": [{"Name": event["metric"], "Unit": "Count"}],
    }
    metadata = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
    document = {"_aws": metadata, "service": event["service"], event["metric"]: event["value"]}
    print(json.dumps(document))
    return None


def _import(event: dict[str, Any], context: Any) -> Any:
    return importlib.import_module(event["module"]).__file__


def _exit(event: dict[str, Any], context: Any) -> Any:
    os._exit(7)


def _square(event: dict[str, Any], context: Any) -> Any:
    if event["number"] < 0:
        raise DocumentedError(f"{event['number']} is negative")
    return {"number": event["number"], "square": event["number"] ** 2, "of": event["of"]}


ACTIONS = {
    "echo": _echo,
    "exit": _exit,
    "identify": _identify,
    "import": _import,
    "measure": _measure,
    "print": _print,
    "say": _say,
    "raise": _raise,
    "raise_times": _raise_times,
    "square": _square,
}
