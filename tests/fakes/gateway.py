"""API Gateway REST proxy events, and the answers to them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from millrace.http.problems import Problem
from tests.fakes.cloud import LambdaContext

Handler = Callable[..., dict[str, Any]]

IAM_USER = {"userArn": "arn:aws:iam::123456789012:user/ada"}


def event(
    method: str,
    path: str,
    body: str | bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    identity: Mapping[str, Any] | None = None,
    authorizer: Mapping[str, Any] | None = None,
    base64_encoded: bool = False,
    request_id: str = "req-1",
) -> dict[str, Any]:
    """What API Gateway hands to a function.

    Args:
        method: HTTP method.
        path: Path with its query.
        body: The body; bytes are sent as they are decoded.
        headers: Header names as the client wrote them.
        identity: ``requestContext.identity``.
        authorizer: ``requestContext.authorizer``.
        base64_encoded: Whether `body` is base64.
        request_id: API Gateway's id of the request.
    """
    parts = urlsplit(path)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    sent = {"Host": "abc.execute-api.us-east-1.amazonaws.com", **(headers or {})}
    return {
        "resource": "/{proxy+}",
        "path": parts.path,
        "httpMethod": method,
        "headers": sent,
        "multiValueHeaders": {k: [v] for k, v in sent.items()},
        "queryStringParameters": dict(pairs) or None,
        "multiValueQueryStringParameters": {k: [v for n, v in pairs if n == k] for k, _ in pairs}
        or None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "requestId": request_id,
            "stage": "live",
            "path": f"/live{parts.path}",
            "httpMethod": method,
            "identity": {"userArn": None, "apiKeyId": None, "sourceIp": "127.0.0.1"}
            | dict(identity or {}),
            **({"authorizer": dict(authorizer)} if authorizer else {}),
        },
        "body": body.decode() if isinstance(body, bytes) else body,
        "isBase64Encoded": base64_encoded,
    }


@dataclass(frozen=True)
class Reply:
    """A function's answer."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Caller:
    """Calls a handler as API Gateway does."""

    handler: Handler

    def __call__(self, method: str, path: str, body: Any = None, **how: Any) -> Reply:
        """One request; a body that is no text is sent as JSON."""
        headers = dict(how.pop("headers", {}))
        if body is not None and not isinstance(body, str | bytes):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        raw = self.handler(event(method, path, body, headers=headers, **how), LambdaContext())
        assert raw["isBase64Encoded"] is False
        return Reply(
            raw["statusCode"], {k.lower(): v for k, v in raw["headers"].items()}, raw["body"]
        )


def problem(reply: Reply, status: int, code: str) -> Problem:
    """The problem details of a refusal."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/problem+json"
    told = Problem.model_validate_json(reply.body)
    assert (told.status, told.code) == (status, code)
    assert told.correlation_id == "req-1"
    return told
