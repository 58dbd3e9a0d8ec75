"""The authorizer function, asked as API Gateway asks it, with an issuer on this machine."""

from collections.abc import Iterator
from typing import Any

import pytest

from functions.authorizer import handler as authorizer
from millrace.errors import ServiceUnavailableError, UnauthenticatedError
from millrace.http.guard import Guard
from millrace.http.roles import PERMISSIONS, Authorizer, Role
from millrace.http.routes import ROUTES
from tests.access.policies import Policies, Reader, Request
from tests.fakes.cloud import LambdaContext
from tests.fakes.issuer import AUDIENCE, Issuer, issuer

STAGE = "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3d4e5/live"


@pytest.fixture(scope="module")
def listening() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


@pytest.fixture(autouse=True)
def deployed(monkeypatch: pytest.MonkeyPatch, listening: Issuer) -> Iterator[None]:
    listening.down = False
    monkeypatch.setenv("MILLRACE_JWT_ISSUER", listening.url)
    monkeypatch.setenv("MILLRACE_JWT_AUDIENCE", f"others, {AUDIENCE}")
    authorizer.verifier.cache_clear()
    yield
    authorizer.verifier.cache_clear()


def asked(token: str, method: str = "GET", path: str = "/v1/models") -> dict[str, Any]:
    event = {
        "type": "TOKEN",
        "authorizationToken": token,
        "methodArn": f"{STAGE}/{method}{path}",
    }
    return authorizer.handler(event, LambdaContext())


def policies(answer: dict[str, Any]) -> Policies:
    statements = answer["policyDocument"]["Statement"]
    return Policies(Reader().statement("bearer", {"Sid": "Call", **s}) for s in statements)


@pytest.mark.parametrize("role", Role)
def test_the_policy_covers_all_that_the_role_permits_and_nothing_else(
    listening: Issuer, role: Role
) -> None:
    answer = asked(f"Bearer {listening.token(role.value)}")

    allowed = policies(answer)
    for route in ROUTES:
        path = route.path
        for name, value in (("name", "churn"), ("version", "3"), ("run_id", "r-1")):
            path = path.replace(f"{{{name}}}", value)
        request = Request("bearer", "execute-api:Invoke", f"{STAGE}/{route.method}{path}")
        assert allowed.verdict(request).allowed == (route.permission in PERMISSIONS[role]), path
    other = Request(
        "bearer", "execute-api:Invoke", STAGE.replace("a1b2", "z9z9") + "/GET/v1/models"
    )
    assert not allowed.verdict(other).allowed


def test_what_it_says_is_what_the_guard_behind_it_reads(listening: Issuer) -> None:
    answer = asked(f"bearer {listening.token('viewer approver', sub='ada')}")

    assert answer["principalId"] == "ada"
    assert answer["context"]["roles"] == "viewer approver"
    assert all(isinstance(value, str) for value in answer["context"].values())
    event = {
        "httpMethod": "GET",
        "resource": "/v1/models",
        "requestContext": {"authorizer": answer["context"]},
    }
    assert Guard(Authorizer.JWT).refusal(event) is None
    assert Guard(Authorizer.JWT).refusal(event | {"httpMethod": "POST"}) is not None


def test_a_bearer_without_a_role_is_known_and_gets_nowhere(listening: Issuer) -> None:
    answer = asked(f"Bearer {listening.token('openid')}")

    assert answer["policyDocument"]["Statement"] == [
        {"Effect": "Deny", "Action": "execute-api:Invoke", "Resource": f"{STAGE}/*"}
    ]


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "Basic YWRhOmFkYQ==", "Bearer a.b.c"])
def test_what_is_no_token_ends_in_the_one_word_that_becomes_401(given: str) -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        asked(given)

    assert str(refused.value) == "Unauthorized"


def test_an_expired_token_is_refused_and_its_bearer_stays_out_of_the_log(
    listening: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    token = listening.token("admin", exp=1, sub="canary-of-ada")

    with pytest.raises(UnauthenticatedError, match="^Unauthorized$"):
        asked(f"Bearer {token}")

    logged = [vars(record) for record in caplog.records]
    [reason] = [line["reason"] for line in logged if "reason" in line]
    assert reason == "the token does not hold: ExpiredSignatureError"
    assert "canary" not in str(logged)
    assert token[:20] not in str(logged)


def test_an_issuer_that_is_away_is_no_fault_of_the_bearer(listening: Issuer) -> None:
    listening.down = True

    with pytest.raises(ServiceUnavailableError):
        asked(f"Bearer {listening.token('admin')}")


def test_keys_change_while_the_function_is_warm(
    listening: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.http.tokens.COOLDOWN_SECONDS", 0.0)
    asked(f"Bearer {listening.token('viewer')}")

    listening.rotate(algorithm="ES256")

    assert asked(f"Bearer {listening.token('viewer')}")["context"]["roles"] == "viewer"
