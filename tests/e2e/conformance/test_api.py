"""A REST API from an inline OpenAPI body, with conditions inside and explicit methods."""

import json
from typing import Any

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


# ── Who calls ───────────────────────────────────────────────────────────────────────────────────


def _with(stack: Stack, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    status, content = send_to_api(stack, "GET", path, None, sent)
    answer: dict[str, Any] = json.loads(content)
    return status, answer


def _value(stack: Stack, key: str) -> str:
    gateway = stack.client("apigateway")
    return str(gateway.get_api_key(apiKey=stack.outputs[key], includeValue=True)["value"])


@pytest.mark.needs("authorizers")
def test_a_function_is_told_which_api_key_was_used(stack: Stack) -> None:
    status, request = _with(stack, "/v1/keyed", x_api_key=_value(stack, "Key"))

    assert status == 201
    assert request["key"] == stack.outputs["Key"]


@pytest.mark.needs("authorizers")
def test_a_key_that_no_plan_lets_in_opens_nothing(stack: Stack) -> None:
    assert _with(stack, "/v1/keyed")[0] == 403
    assert _with(stack, "/v1/keyed", x_api_key="0" * 40)[0] == 403
    assert _with(stack, "/v1/keyed", x_api_key=_value(stack, "Idle"))[0] == 403


@pytest.mark.needs("rates")
def test_a_quota_ends(stack: Stack) -> None:
    value = _value(stack, "Key")

    answers = [_with(stack, "/v1/keyed", x_api_key=value)[0] for _ in range(6)]

    assert answers[-1] == 429


@pytest.mark.needs("authorizers")
def test_a_token_s_policy_decides_for_each_method_and_its_context_arrives(stack: Stack) -> None:
    status, request = _with(stack, "/v1/guarded", Authorization="Bearer ada")

    assert status == 201
    assert request["caller"]["subject"] == "ada"
    assert request["caller"]["principalId"] == "ada"
    assert _with(stack, "/v1/guarded/deep", Authorization="Bearer ada")[0] == 403


@pytest.mark.needs("authorizers")
def test_an_authorizer_s_answer_is_kept_for_its_token(stack: Stack) -> None:
    first, second = (
        _with(stack, "/v1/guarded", Authorization="Bearer bob")[1]["caller"]["asked"]
        for _ in range(2)
    )

    assert first == second
    other = _with(stack, "/v1/guarded", Authorization="Bearer carol")[1]["caller"]["asked"]
    assert other != first


@pytest.mark.needs("authorizers")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Basic ada"}, 401),
        ({"Authorization": "Bearer stranger"}, 401),
        ({"Authorization": "Bearer denied"}, 403),
        ({"Authorization": "Bearer trouble"}, 500),
    ],
    ids=["nothing", "no bearer", "stranger", "denied", "trouble"],
)
def test_whom_the_authorizer_does_not_let_in_stays_out(
    stack: Stack, headers: dict[str, str], status: int
) -> None:
    assert _with(stack, "/v1/guarded", **headers)[0] == status


@pytest.mark.needs("problems")
def test_errors_of_the_gateway_have_the_form_that_the_body_gives_them(stack: Stack) -> None:
    assert _with(stack, "/v1/guarded") == (401, {"code": "unauthenticated"})
