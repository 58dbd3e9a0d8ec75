"""A REST API from an inline OpenAPI body, with conditions inside and explicit methods."""

import http.client
import json
from typing import Any

import pytest

from tests.e2e.conformance.conftest import Stack


def _call(stack: Stack, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", stack.info.port, timeout=10)
    try:
        base = f"/restapis/{stack.outputs['Api']}/live/_user_request_"
        payload = body.encode() if body is not None else None
        connection.request(method, base + path, payload, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_path_and_query_parameters_arrive(stack: Stack) -> None:
    status, request = _call(stack, "GET", "/v1/models/churn/versions/3?limit=2&token=a%2Fb")

    assert status == 201
    assert request["resource"] == "/v1/models/{name}/versions/{version}"
    assert request["pathParameters"] == {"name": "churn", "version": "3"}
    assert request["queryStringParameters"] == {"limit": "2", "token": "a/b"}


def test_a_body_arrives_as_it_was_sent(stack: Stack) -> None:
    status, request = _call(stack, "POST", "/v1/things", '{"rows": [{"name": "Zoë"}]}')

    assert status == 201
    assert request["body"] == '{"rows": [{"name": "Zoë"}]}'


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/things"), ("GET", "/v1/nothing"), ("POST", "/v1/models/a")]
)
def test_what_the_body_does_not_list_is_refused(stack: Stack, method: str, path: str) -> None:
    assert _call(stack, method, path)[0] == 403
