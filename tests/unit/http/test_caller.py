"""Who asks, and under which id."""

from typing import Any

import pytest

from millrace.http.caller import actor, correlation_id

ARN = "arn:aws:sts::123456789012:assumed-role/data-science/ada"


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({"identity": {"userArn": ARN, "apiKeyId": "k1"}}, ARN),
        ({"identity": {"userArn": None, "apiKeyId": "k1"}}, "key:k1"),
        ({"identity": {}, "authorizer": {"claims": {"sub": "u-1"}}}, "user:u-1"),
        ({"identity": {"userArn": None, "apiKeyId": None}}, "anonymous"),
        ({"identity": None, "authorizer": None}, "anonymous"),
        ({}, "anonymous"),
    ],
    ids=["iam", "api key", "token", "nobody", "nulls", "nothing"],
)
def test_the_actor_is_read_from_the_gateway_s_context(
    context: dict[str, Any], expected: str
) -> None:
    assert actor({"aws.event": {"requestContext": context}}) == expected


def test_a_request_without_a_gateway_is_anonymous_and_keeps_its_own_id() -> None:
    scope: dict[str, Any] = {"type": "http"}

    assert actor(scope) == "anonymous"
    assert correlation_id(scope) == correlation_id(scope)
    assert correlation_id(scope) != correlation_id({"type": "http"})


def test_the_gateway_s_request_id_is_the_correlation_id() -> None:
    assert correlation_id({"aws.event": {"requestContext": {"requestId": "req-9"}}}) == "req-9"
