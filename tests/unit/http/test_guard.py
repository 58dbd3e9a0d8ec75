"""The guard before the functions: every route and every role, for keys and for tokens."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from millrace.aws.dynamodb import Key
from millrace.errors import ConfigurationError, ServiceUnavailableError
from millrace.http.gateway import Gateway
from millrace.http.guard import KEY_SECONDS, KEYS_REMEMBERED, LEEWAY_SECONDS, Guard
from millrace.http.keys import finder, key_item, key_record, open_guard
from millrace.http.problems import Problem
from millrace.http.roles import (
    PERMISSIONS,
    Authorizer,
    Role,
    holders_of,
    read_roles,
    routes_of,
    write_roles,
)
from millrace.http.routes import ROUTES, Permission, Route

NOW = 1_800_000_000.0
EACH_ROLE = pytest.mark.parametrize("role", Role)
EACH_ROUTE = pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")


def asked(route: Route, **context: Any) -> dict[str, Any]:
    """The proxy event of a request for a route."""
    return {
        "httpMethod": route.method,
        "resource": route.path,
        "path": route.path.replace("{name}", "churn"),
        "headers": {"Host": "api.example.org"},
        "requestContext": {"requestId": "req-1", **context},
    }


def with_key(key: str | None) -> dict[str, Any]:
    return {"identity": {"apiKeyId": key}}


def with_token(roles: str, *, expires_at: object = NOW + 60) -> dict[str, Any]:
    return {"authorizer": {"subject": "ada", "roles": roles, "expires_at": str(expires_at)}}


KEYS = {role.value: frozenset({role}) for role in Role}
BY_KEY = Guard(Authorizer.API_KEY, keys=KEYS, clock=lambda: NOW)
BY_TOKEN = Guard(Authorizer.JWT, clock=lambda: NOW)


# ── The matrix ──────────────────────────────────────────────────────────────────────────────────


@EACH_ROUTE
@EACH_ROLE
def test_a_key_opens_what_its_role_permits_and_nothing_else(role: Role, route: Route) -> None:
    refusal = BY_KEY.refusal(asked(route, **with_key(role.value)))

    assert (refusal is None) == (route.permission in {*PERMISSIONS[role], Permission.LINK})
    assert refusal is None or (refusal.status, refusal.code) == (403, "access_denied")


@EACH_ROUTE
@EACH_ROLE
def test_a_token_opens_what_its_roles_permit_and_nothing_else(role: Role, route: Route) -> None:
    refusal = BY_TOKEN.refusal(asked(route, **with_token(role.value)))

    assert (refusal is None) == (route.permission in {*PERMISSIONS[role], Permission.LINK})
    assert refusal is None or (refusal.status, refusal.code) == (403, "access_denied")


@EACH_ROUTE
@pytest.mark.parametrize(
    ("guard", "context", "status"),
    [
        (BY_KEY, {}, 403),
        (BY_KEY, with_key(None), 403),
        (BY_KEY, with_key("unknown"), 403),
        (BY_KEY, with_token("admin"), 403),
        (BY_TOKEN, {}, 401),
        (BY_TOKEN, {"authorizer": None}, 401),
        (BY_TOKEN, with_key("admin"), 401),
        (BY_TOKEN, {"authorizer": {"roles": "admin", "expires_at": str(NOW + 60)}}, 401),
        (BY_TOKEN, with_token("admin", expires_at=NOW - LEEWAY_SECONDS - 1), 401),
        (BY_TOKEN, with_token("admin", expires_at=""), 401),
        (BY_TOKEN, with_token("admin", expires_at="nan"), 401),
        (BY_TOKEN, with_token(""), 403),
        (BY_TOKEN, with_token("administrator"), 403),
    ],
    ids=[
        "key-nothing",
        "key-none",
        "key-unknown",
        "key-token",
        "token-nothing",
        "token-null",
        "token-key",
        "token-subjectless",
        "token-expired",
        "token-endless",
        "token-nan",
        "token-roleless",
        "token-no-role",
    ],
)
def test_strangers_get_nowhere(
    guard: Guard, context: dict[str, Any], status: int, route: Route
) -> None:
    refusal = guard.refusal(asked(route, **context))

    if route.permission is Permission.LINK:
        # The link is the credential, and the endpoint's to judge.
        assert refusal is None
        return
    assert refusal is not None
    assert refusal.status == status


@pytest.mark.parametrize("authorizer", [Authorizer.IAM, Authorizer.NONE])
def test_where_the_gateway_decides_alone_the_guard_says_nothing(authorizer: Authorizer) -> None:
    assert all(Guard(authorizer).refusal(asked(route)) is None for route in ROUTES)


def test_a_route_that_is_in_no_table_is_nobody_s() -> None:
    unknown = Route("DELETE", "/v1/models/{name}", "api", Permission.VIEW)

    refusal = BY_KEY.refusal(asked(unknown, **with_key("admin")))

    assert refusal is not None
    assert refusal.status == 403


def test_a_refusal_names_the_roles_that_would_do() -> None:
    route = next(r for r in ROUTES if r.permission is Permission.APPROVE)

    refusal = BY_KEY.refusal(asked(route, **with_key("operator")))

    assert refusal is not None
    assert refusal.detail == (
        f"this API key has roles operator: {route.method} {route.path} takes the permission approve, "
        "which comes with approver or admin"
    )


# ── Roles ───────────────────────────────────────────────────────────────────────────────────────


def test_predicting_approving_and_looking_are_different_permissions() -> None:
    assert holders_of(Permission.PREDICT) == (Role.PREDICTOR, Role.ADMIN)
    assert holders_of(Permission.APPROVE) == (Role.APPROVER, Role.ADMIN)
    assert holders_of(Permission.OPERATE) == (Role.OPERATOR, Role.ADMIN)
    assert set(holders_of(Permission.VIEW)) == set(Role) - {Role.PREDICTOR}
    assert holders_of(Permission.ANY) == tuple(Role)


def test_several_roles_add_up() -> None:
    both = set(routes_of([Role.PREDICTOR, Role.APPROVER]))

    assert both == set(routes_of([Role.PREDICTOR])) | set(routes_of([Role.APPROVER]))
    assert routes_of([]) == ()


def test_roles_are_written_in_their_order_and_read_back() -> None:
    assert write_roles({Role.ADMIN, Role.VIEWER}) == "viewer admin"
    assert read_roles(["viewer", "admin", "nobody"]) == {Role.VIEWER, Role.ADMIN}


# ── Keys that were made later ───────────────────────────────────────────────────────────────────


class Table:
    """Items by key, and how often they were read."""

    def __init__(self) -> None:
        self.items: dict[Key, dict[str, Any]] = {}
        self.reads = 0
        self.broken = False

    def get(self, key: Key) -> dict[str, Any] | None:
        self.reads += 1
        if self.broken:
            raise ServiceUnavailableError("DynamoDB is away")
        return self.items.get(key)


def later(table: Table, clock: Any = lambda: NOW) -> Guard:
    return Guard(Authorizer.API_KEY, find=finder(lambda: table), clock=clock)


def test_the_role_of_a_later_key_is_read_from_its_record_and_remembered() -> None:
    table = Table()
    table.items[key_item("k1")] = key_record(
        roles=[Role.PREDICTOR], name="shop", actor="ada", at=datetime.now(UTC)
    )
    guard = later(table)
    predict = next(r for r in ROUTES if r.permission is Permission.PREDICT)
    look = next(r for r in ROUTES if r.permission is Permission.VIEW)

    for _ in range(5):
        assert guard.refusal(asked(predict, **with_key("k1"))) is None
        assert guard.refusal(asked(look, **with_key("k1"))) is not None
    assert table.reads == 1


def test_a_role_that_was_taken_is_gone_within_a_minute_and_so_is_one_that_was_given() -> None:
    table, now = Table(), [NOW]
    table.items[key_item("k1")] = {"roles": "admin"}
    guard = later(table, lambda: now[0])
    event = asked(ROUTES[0], **with_key("k1"))
    assert guard.refusal(event) is None

    del table.items[key_item("k1")]
    now[0] += KEY_SECONDS
    assert guard.refusal(event) is not None
    table.items[key_item("k1")] = {"roles": "admin"}
    now[0] += KEY_SECONDS
    assert guard.refusal(event) is None


def test_only_so_many_keys_are_remembered() -> None:
    table = Table()
    guard = later(table)

    for number in range(KEYS_REMEMBERED + 10):
        guard.refusal(asked(ROUTES[0], **with_key(f"k{number}")))

    assert len(guard._found) == KEYS_REMEMBERED


@pytest.mark.parametrize("roles", ["", "owner", "ADMIN", 7, None])
def test_a_record_without_a_role_opens_nothing(roles: object) -> None:
    table = Table()
    table.items[key_item("k1")] = {"roles": roles}

    assert later(table).refusal(asked(ROUTES[0], **with_key("k1"))) is not None


@pytest.mark.parametrize(
    ("authorizer", "keys"), [("OPEN", ""), ("API_KEY", "no json"), ("API_KEY", "[]")]
)
def test_settings_that_cannot_be_read_stop_the_function(authorizer: str, keys: str) -> None:
    with pytest.raises(ConfigurationError, match="MILLRACE_AUTHORIZER"):
        open_guard(authorizer, keys, Table)


def test_the_keys_of_the_template_are_known_without_the_table() -> None:
    table = Table()
    guard = open_guard("API_KEY", '{"k1": "viewer"}', lambda: table)

    assert guard.refusal(asked(ROUTES[0], **with_key("k1"))) is None
    assert table.reads == 0


# ── Answers ─────────────────────────────────────────────────────────────────────────────────────


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_refusal_is_a_problem_and_the_app_is_never_asked() -> None:
    gateway = Gateway(_app, BY_TOKEN)

    answer = gateway(asked(ROUTES[0]), None)

    problem = Problem.model_validate_json(answer["body"])
    assert (answer["statusCode"], problem.status, problem.code) == (401, 401, "unauthenticated")
    assert answer["headers"]["www-authenticate"] == "Bearer"
    assert problem.correlation_id == "req-1"
    assert gateway(asked(ROUTES[0], **with_token("viewer")), None)["statusCode"] == 204


def test_below_v2_a_refusal_is_an_error_of_the_open_inference_protocol() -> None:
    event = asked(ROUTES[0], **with_token("")) | {"path": "/v2/models/churn/infer"}

    answer = Gateway(_app, BY_TOKEN)(event, None)

    assert answer["statusCode"] == 403
    assert answer["headers"]["content-type"] == "application/json"
    document = json.loads(answer["body"])
    assert document["error"] == "this token has no role of this deployment: " + (
        "GET /v1/health takes the permission any, which comes with " + " or ".join(Role)
    )
    assert document["code"] == "access_denied"


def test_while_roles_cannot_be_read_nobody_is_let_in() -> None:
    table = Table()
    table.broken = True

    answer = Gateway(_app, later(table))(asked(ROUTES[0], **with_key("k1")), None)

    assert answer["statusCode"] == 503
    assert answer["headers"]["retry-after"] == "2"
    assert "DynamoDB" not in answer["body"]
