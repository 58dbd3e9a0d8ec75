"""What the command line sends to prove who calls."""

from typing import Any, cast

import httpx
import pytest
from botocore.credentials import Credentials

from millrace.errors import AccessDeniedError, ConfigurationError
from millrace_cli.client import API_KEY_VARIABLE, TOKEN_VARIABLE, ApiClient
from millrace_cli.target import StackOutputs, Target


class Deployment:
    """A target without an account."""

    region = "eu-central-1"

    def __init__(self, authorizer: str, credentials: Credentials | None = None) -> None:
        raw = {"JwtIssuer": "https://issuer.example.org"}
        self.outputs = StackOutputs("https://api.example.org/live", "", "", authorizer, raw)
        self.session = self
        self._credentials = credentials

    def get_credentials(self) -> Credentials | None:
        return self._credentials


def sent(target: Deployment, monkeypatch: pytest.MonkeyPatch, **given: Any) -> httpx.Headers:
    """Headers of a request."""
    seen: list[httpx.Headers] = []

    def answer(_self: Any, _method: str, _url: Any, *, headers: Any, **_: Any) -> httpx.Response:
        seen.append(httpx.Headers(headers))
        return httpx.Response(200, json={})

    monkeypatch.setattr(httpx.Client, "request", answer)
    ApiClient(cast("Target", target), **given).get("/v1/models")
    return seen[0]


def test_a_key_or_a_token_is_sent_as_the_stack_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    key = sent(Deployment("API_KEY"), monkeypatch, api_key="k-1", token="t-1")
    token = sent(Deployment("JWT"), monkeypatch, api_key="k-1", token="t-1")

    assert (key.get("x-api-key"), key.get("authorization")) == ("k-1", None)
    assert (token.get("x-api-key"), token.get("authorization")) == (None, "Bearer t-1")


def test_the_environment_has_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "k-2")
    monkeypatch.setenv(TOKEN_VARIABLE, "t-2")

    assert sent(Deployment("API_KEY"), monkeypatch)["x-api-key"] == "k-2"
    assert sent(Deployment("JWT"), monkeypatch)["authorization"] == "Bearer t-2"


def test_a_signature_covers_the_request_and_an_open_stack_gets_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signed = sent(Deployment("IAM", Credentials("AKIA", "secret", "session")), monkeypatch)
    bare = sent(Deployment("NONE"), monkeypatch, api_key="k-1", token="t-1")

    assert signed["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIA/")
    assert "/eu-central-1/execute-api/aws4_request" in signed["authorization"]
    assert signed["x-amz-security-token"] == "session"
    assert not {"authorization", "x-api-key"} & set(bare)


@pytest.mark.parametrize(
    ("authorizer", "error", "message"),
    [
        ("API_KEY", ConfigurationError, "pass --api-key or set MILLRACE_API_KEY"),
        ("JWT", ConfigurationError, "a token of https://issuer.example.org: pass --token or set"),
        ("IAM", AccessDeniedError, "no AWS credentials were found"),
        ("MAGIC", ConfigurationError, "unknown authorizer 'MAGIC'"),
    ],
)
def test_what_is_missing_is_named(
    authorizer: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error, match=message):
        sent(Deployment(authorizer), monkeypatch)
