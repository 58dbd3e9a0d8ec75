"""A REST API from an inline OpenAPI body, with conditions inside and explicit methods."""

import pytest

from tests.e2e.conformance.conftest import Stack, call_api, send_to_api

pytestmark = pytest.mark.needs("rest-api")


def test_path_and_query_parameters_arrive(stack: Stack) -> None:
    status, request = call_api(stack, "GET", "/v1/models/churn/versions/3?limit=2&token=a%2Fb")

    assert status == 201
    assert request["resource"] == "/v1/models/{name}/versions/{version}"
    assert request["pathParameters"] == {"name": "churn", "version": "3"}
    assert request["queryStringParameters"] == {"limit": "2", "token": "a/b"}


def test_a_body_arrives_as_it_was_sent(stack: Stack) -> None:
    status, request = call_api(stack, "POST", "/v1/things", '{"rows": [{"name": "Zoë"}]}')

    assert status == 201
    assert request["body"] == '{"rows": [{"name": "Zoë"}]}'


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/octet-stream", "Accept": "*/*"},
        {"Content-Type": "application/json", "Accept": "application/json"},
    ],
    ids=["as Triton's client asks", "as httpx asks", "called JSON"],
)
def test_bytes_arrive_and_come_back_whatever_their_type(
    stack: Stack, headers: dict[str, str]
) -> None:
    sent = b'{"length": 2}' + bytes(range(256))

    status, received = send_to_api(stack, "POST", "/v1/bytes", sent, headers)

    assert status == 200
    assert received == sent


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/things"), ("GET", "/v1/nothing"), ("POST", "/v1/models/a")]
)
def test_what_the_body_does_not_list_is_refused(stack: Stack, method: str, path: str) -> None:
    assert call_api(stack, method, path)[0] == 403
