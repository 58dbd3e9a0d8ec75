"""Who asks, and under which id: read from API Gateway's event, which the ASGI scope carries."""

from collections.abc import Mapping, MutableMapping
from typing import Any, Final
from uuid import uuid4

from millrace.vocabulary import ANONYMOUS

CORRELATION_KEY: Final = "millrace.correlation_id"
"""Where an ASGI scope carries it."""


def correlation_id(scope: MutableMapping[str, Any]) -> str:
    """The id on every log line of this request: API Gateway's, or one made for the request."""
    known = scope.get(CORRELATION_KEY)
    if known is None:
        known = scope[CORRELATION_KEY] = request_id(scope.get("aws.event") or {})
    return str(known)


def request_id(event: Mapping[str, Any]) -> str:
    """API Gateway's id of the request, or a new one."""
    context = event.get("requestContext")
    identifier = context.get("requestId") if isinstance(context, dict) else None
    return str(identifier or uuid4())


def actor(scope: Mapping[str, Any]) -> str:
    """Who asks: an IAM ARN, ``user:`` with a token's subject, ``key:`` with an API key's id.

    A token's subject comes from Millrace's own authorizer, or from a Cognito authorizer of API Gateway.

    Without an authorizer, ``anonymous``.
    """
    event = scope.get("aws.event") or {}
    context = event.get("requestContext") or {}
    identity = context.get("identity") or {}
    authorizer = context.get("authorizer") or {}
    claims = authorizer.get("claims") or {}
    if identity.get("userArn"):
        return str(identity["userArn"])
    subject = authorizer.get("subject") or claims.get("sub")
    if subject:
        return f"user:{subject}"
    if identity.get("apiKeyId"):
        return f"key:{identity['apiKeyId']}"
    return ANONYMOUS
