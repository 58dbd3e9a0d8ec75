"""Who may do what, over HTTP: every route with every role's key and token, and with none.

Two stacks of their own on a cloud of their own, one that knows its callers by API keys and one that
takes tokens of an issuer on this machine. No model is needed: who is let in is told that there is none.
IAM's side of the matrix is `tests/infra/test_roles.py`: the engines check no signatures.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from millrace.http.roles import PERMISSIONS, Role
from millrace.http.routes import ROUTES, Permission, Route
from millrace.spec import ModelSpec
from millrace_cli.client import ApiClient
from millrace_cli.cloud import CloudInfo
from millrace_cli.deploy import deploy_local
from millrace_cli.keys import Keys
from millrace_cli.target import Target
from tests.e2e.conftest import PROJECT, AnotherCloud, Sample, spec_document
from tests.fakes.issuer import AUDIENCE, Issuer, issuer

pytestmark = pytest.mark.needs("deployment", "rest-api", "authorizers", "disposable")

MODEL = "nothing"
SECONDS = 60.0
REFUSED = {401, 403}


@dataclass(frozen=True)
class Doors:
    """The two stacks and what opens them."""

    keys: Target
    tokens: Target
    issuer: Issuer


@pytest.fixture(scope="module")
def doors(another_cloud: AnotherCloud) -> Iterator[Doors]:
    with ExitStack() as stack:
        listening = stack.enter_context(issuer())
        info = stack.enter_context(another_cloud())
        yield Doors(
            keys=stack.enter_context(closing(_deployed(info, "keys", ApiAuthorizer="API_KEY"))),
            tokens=stack.enter_context(
                closing(
                    _deployed(
                        info,
                        "tokens",
                        ApiAuthorizer="JWT",
                        JwtIssuer=listening.url,
                        JwtAudience=AUDIENCE,
                        JwtRoleMapping=",".join(f"millrace/{r}={r}" for r in Role),
                    )
                )
            ),
            issuer=listening,
        )


def _deployed(info: CloudInfo, stack: str, **parameters: str) -> Target:
    deploy_local(PROJECT, info, print, stack=stack, Alarms="off", **parameters)
    return Target(kind="local", stack=stack, endpoint_url=info.endpoint, region=None)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def keys(doors: Doors) -> Iterator[Keys]:
    with closing(Keys(doors.keys)) as opened:
        yield opened


def ask(
    http: httpx.Client, target: Target, route: Route, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Asks a route for what is not there; a throttled answer is asked again."""
    path = re.sub(r"\{[^}]+\}", lambda m: "1" if m[0] == "{version}" else MODEL, route.path)
    body = {} if route.method == "GET" else {"content": b"{}"}
    for _ in range(20):
        answer = http.request(
            route.method,
            target.outputs.api_url + path,
            headers={"content-type": "application/json", **(headers or {})},
            **body,  # type: ignore[arg-type]  # bytes, or nothing
        )
        if answer.status_code != 429:
            return answer
        time.sleep(0.2)  # what the answer's Retry-After asks for, in the emulator's pace
    return answer


def walk(ask_route: Callable[[Route], httpx.Response]) -> dict[tuple[str, str], httpx.Response]:
    """Every route's answer; links are credentials of their own (tests/e2e/test_approvals.py)."""
    asked = (route for route in ROUTES if route.permission is not Permission.LINK)
    return {(route.method, route.path): ask_route(route) for route in asked}


def permitted(roles: set[Role]) -> set[tuple[str, str]]:
    granted = frozenset[Permission]().union(*(PERMISSIONS[role] for role in roles))
    return {(r.method, r.path) for r in ROUTES if r.permission in granted}


def let_in(answers: dict[tuple[str, str], httpx.Response]) -> set[tuple[str, str]]:
    assert {a.status_code for a in answers.values() if a.status_code >= 500} <= {503}, [
        (route, a.status_code, a.text) for route, a in answers.items() if a.status_code >= 500
    ]
    return {route for route, answer in answers.items() if answer.status_code not in REFUSED}


@pytest.mark.parametrize("role", Role)
def test_a_key_opens_the_routes_of_its_role_and_no_other(
    doors: Doors, keys: Keys, http: httpx.Client, role: Role
) -> None:
    value = keys.value(keys.named(role))

    answers = walk(lambda route: ask(http, doors.keys, route, {"x-api-key": value}))

    assert let_in(answers) == permitted({role})
    for (method, path), answer in answers.items():
        if answer.status_code in REFUSED:
            assert answer.json()["code"] == "access_denied", (method, path)


@pytest.mark.parametrize("role", Role)
def test_a_token_opens_the_routes_of_its_role_and_no_other(
    doors: Doors, http: httpx.Client, role: Role
) -> None:
    token = doors.issuer.token(f"openid millrace/{role}")

    answers = walk(
        lambda route: ask(http, doors.tokens, route, {"authorization": f"Bearer {token}"})
    )

    assert let_in(answers) == permitted({role})


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": "0" * 40}, {"x-api-key": ""}, {"authorization": "Bearer a.b.c"}],
    ids=["nothing", "unknown key", "empty key", "token"],
)
def test_without_a_known_key_every_route_is_closed(
    doors: Doors, http: httpx.Client, headers: dict[str, str]
) -> None:
    answers = walk(lambda route: ask(http, doors.keys, route, headers))

    assert {answer.status_code for answer in answers.values()} == {403}


@pytest.mark.parametrize(
    "of",
    [
        lambda _: {},
        lambda _: {"x-api-key": "0" * 40},
        lambda _: {"authorization": "Basic YWRhOmFkYQ=="},
        lambda _: {"authorization": "Bearer a.b.c"},
        lambda issuer: {"authorization": f"Bearer {issuer.token('millrace/admin', exp=1)}"},
        lambda issuer: {"authorization": f"Bearer {issuer.token('millrace/admin', aud='other')}"},
        lambda issuer: {"authorization": f"Bearer {Issuer(issuer.url).token('millrace/admin')}"},
    ],
    ids=["nothing", "key", "basic", "junk", "expired", "another audience", "another's key"],
)
def test_without_a_valid_token_every_route_is_closed(
    doors: Doors, http: httpx.Client, of: Callable[[Issuer], dict[str, str]]
) -> None:
    headers = of(doors.issuer)

    answers = walk(lambda route: ask(http, doors.tokens, route, headers))

    assert {answer.status_code for answer in answers.values()} == {401}


def test_a_token_without_a_role_is_known_and_gets_nowhere(doors: Doors, http: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {doors.issuer.token('openid')}"}

    answers = walk(lambda route: ask(http, doors.tokens, route, headers))

    assert {answer.status_code for answer in answers.values()} == {403}


def test_keys_of_an_issuer_change_while_it_is_used(doors: Doors, http: httpx.Client) -> None:
    health = ROUTES[0]
    kept = doors.issuer.token("millrace/viewer", sub="kept")
    first = ask(http, doors.tokens, health, {"authorization": f"Bearer {kept}"})

    doors.issuer.down = True
    away = doors.issuer.token("millrace/viewer", sub="away")
    second = ask(http, doors.tokens, health, {"authorization": f"Bearer {away}"})
    doors.issuer.down = False

    assert (first.status_code, second.status_code) == (200, 200)


def test_a_client_s_key_has_its_role_until_it_is_revoked(
    doors: Doors, keys: Keys, http: httpx.Client
) -> None:
    look, predict = ROUTES[2], next(r for r in ROUTES if r.permission is Permission.PREDICT)
    key, value = keys.create("shop", [Role.PREDICTOR])
    headers = {"x-api-key": value}

    assert (key.name, key.roles, key.made_by) == ("shop", "predictor", "command")
    assert ask(http, doors.keys, predict, headers).status_code == 404
    assert ask(http, doors.keys, look, headers).status_code == 403

    keys.revoke(keys.named("shop"))

    assert ask(http, doors.keys, predict, headers).status_code == 403
    assert "shop" not in {k.name for k in keys.all()}


@pytest.mark.needs("rates")
def test_a_client_s_rate_and_quota_are_its_own(
    doors: Doors, keys: Keys, http: httpx.Client
) -> None:
    url = f"{doors.keys.outputs.api_url}/v1/models"

    def answers(value: str, count: int) -> list[httpx.Response]:
        return [http.get(url, headers={"x-api-key": value}) for _ in range(count)]

    fast, slow_value = keys.create("slow", [Role.VIEWER], rate=0.01, burst=2)
    _, few_value = keys.create("few", [Role.VIEWER], quota=3)
    slow, few = answers(slow_value, 5), answers(few_value, 5)

    assert fast.limits == "0.01/s, 2 at once"
    assert [a.status_code for a in slow] == [200, 200, 429, 429, 429]
    assert [a.status_code for a in few] == [200, 200, 200, 429, 429]
    assert answers(keys.value(keys.named("viewer")), 1)[0].status_code == 200
    assert (slow[-1].json()["code"], slow[-1].headers["retry-after"]) == ("throttled", "1")
    assert few[-1].json()["code"] == "quota_exceeded"
    for name in ("slow", "few"):
        keys.revoke(keys.named(name))


@pytest.mark.needs("problems")
def test_refusals_of_the_gateway_are_problem_details(doors: Doors, http: httpx.Client) -> None:
    look = ROUTES[2]

    key = ask(http, doors.keys, look)
    token = ask(http, doors.tokens, look)

    for answer, code in ((key, "invalid_api_key"), (token, "unauthenticated")):
        problem = answer.json()
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert (problem["code"], problem["status"]) == (code, answer.status_code)
        assert problem["error"] == problem["detail"]
    assert token.headers["www-authenticate"] == "Bearer"


def test_the_audit_names_the_key_and_the_bearer(doors: Doors, keys: Keys, cancer: Sample) -> None:
    document: Any = ModelSpec.from_document(spec_document("audited", cancer)).model_dump(
        mode="json"
    )
    operator = keys.named("operator")
    token = doors.issuer.token("millrace/operator millrace/viewer", sub="ada")

    with (
        closing(ApiClient(doors.keys, api_key=keys.value(operator))) as by_key,
        closing(ApiClient(doors.tokens, token=token)) as by_token,
    ):
        by_key.put("/v1/specs/audited", document)
        by_token.put("/v1/specs/audited", document)
        [first] = by_key.get("/v1/models/audited/audit")["items"]
        [second] = by_token.get("/v1/models/audited/audit")["items"]

    assert (first["actor"], second["actor"]) == (f"key:{operator.id}", "user:ada")
