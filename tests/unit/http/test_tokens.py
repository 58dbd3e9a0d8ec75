"""Whose tokens hold, and what they say of their bearer."""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from millrace.errors import (
    ConfigurationError,
    ServiceUnavailableError,
    UnauthenticatedError,
)
from millrace.http.roles import Role
from millrace.http.tokens import (
    COOLDOWN_SECONDS,
    FRESH_SECONDS,
    STALE_SECONDS,
    TOKEN_CHARACTERS,
    IssuerKeys,
    TokenRules,
    Verifier,
    fetch_document,
    read_mapping,
)
from tests.fakes.issuer import AUDIENCE, Issuer, new_key

URL = "https://issuer.example.org"
NOW = int(time.time())


class Clock:
    """Monotonic seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def keys_of_module() -> Issuer:
    return Issuer(URL)


@pytest.fixture
def issuer(keys_of_module: Issuer) -> Issuer:
    keys_of_module.down, keys_of_module.asked = False, 0
    return keys_of_module


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fetch_of(issuer: Issuer) -> Callable[[str], Mapping[str, Any]]:
    def fetch(url: str) -> Mapping[str, Any]:
        status, document = issuer.answer(url.removeprefix(URL))
        if status != 200:
            raise jwt.PyJWKClientConnectionError("no answer")
        return document

    return fetch


def verifier(issuer: Issuer, clock: Clock | None = None, **rules: Any) -> Verifier:
    defaults: dict[str, Any] = {
        "issuer": URL,
        "audiences": frozenset({AUDIENCE}),
        "claim": "scope",
        "mapping": read_mapping(""),
    }
    keys = IssuerKeys(URL, fetch=fetch_of(issuer), clock=clock or Clock())
    return Verifier(TokenRules(**(defaults | rules)), keys)


def test_a_token_names_its_bearer_their_roles_and_its_end(issuer: Issuer) -> None:
    identity = verifier(issuer).identity(issuer.token("viewer openid operator", sub="ada"))

    assert identity.subject == "ada"
    assert identity.roles == {Role.VIEWER, Role.OPERATOR}
    assert identity.expires_at == pytest.approx(time.time() + 3600, abs=10)


@pytest.mark.parametrize(
    ("claims", "claim", "mapping"),
    [
        ({"scope": "openid millrace/predict"}, "scope", "millrace/predict=predictor"),
        ({"cognito:groups": ["apps", "other"]}, "cognito:groups", "apps=predictor"),
        ({"realm_access": {"roles": ["predictor"]}}, "realm_access.roles", ""),
        ({"https://example.org/roles": ["predictor"]}, "https://example.org/roles", ""),
    ],
    ids=["scope", "groups", "path", "namespaced"],
)
def test_roles_stand_where_the_deployment_says(
    issuer: Issuer, claims: dict[str, Any], claim: str, mapping: str
) -> None:
    checked = verifier(issuer, claim=claim, mapping=read_mapping(mapping))

    assert checked.identity(issuer.token(**claims)).roles == {Role.PREDICTOR}


@pytest.mark.parametrize("value", [None, 7, {"admin": True}, [["admin"]], "Admin", "admins"])
def test_what_is_no_role_gives_none(issuer: Issuer, value: object) -> None:
    assert verifier(issuer).identity(issuer.token(scope=value)).roles == frozenset()  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 120},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": [NOW + 60]},
        {"nbf": NOW + 86_400},
        {"iat": NOW + 86_400},
        {"iss": "https://other.example.org"},
        {"iss": None},
        {"aud": "others"},
        {"aud": None},
        {"aud": ["others", 7]},
        {"aud": None, "client_id": AUDIENCE},
        {"token_use": "id"},
        {"sub": None},
        {"sub": ""},
        {"sub": "a" * 257},
        {"sub": "a\nb"},
    ],
    # Two workers collect in different seconds, and must find the same names.
    ids=lambda claims: " ".join(
        f"{k}-{re.sub(r'[0-9]{10}', 'time', str(v))[:12]!r}" for k, v in claims.items()
    ),
)
def test_claims_that_do_not_hold_are_refused(issuer: Issuer, claims: dict[str, Any]) -> None:
    with pytest.raises(UnauthenticatedError):
        verifier(issuer).identity(issuer.token("admin", **claims))


def test_clocks_may_differ_a_little(issuer: Issuer) -> None:
    token = issuer.token("viewer", exp=int(time.time()) - 5, nbf=int(time.time()) + 5)

    assert verifier(issuer).identity(token).roles == {Role.VIEWER}


def test_cognito_s_access_tokens_name_their_client_in_place_of_an_audience(issuer: Issuer) -> None:
    access = issuer.token("viewer", aud=None, client_id=AUDIENCE, token_use="access")
    identity = issuer.token("viewer", token_use="id")

    assert verifier(issuer).identity(access).roles == {Role.VIEWER}
    assert verifier(issuer, use="id").identity(identity).roles == {Role.VIEWER}
    with pytest.raises(UnauthenticatedError, match="whose use is id"):
        verifier(issuer, use="id").identity(access)


def test_elliptic_keys_are_taken(issuer: Issuer) -> None:
    other = Issuer(URL)
    other.rotate(algorithm="ES256")

    assert verifier(other).identity(other.token("viewer")).roles == {Role.VIEWER}


# ── Signatures ──────────────────────────────────────────────────────────────────────────────────


def _forged(issuer: Issuer, algorithm: str, secret: bytes) -> str:
    """A token signed with what is public, by hand: PyJWT itself refuses to make one."""

    def part(document: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")

    claims = {"iss": URL, "aud": AUDIENCE, "sub": "eve", "exp": NOW + 600, "scope": "admin"}
    signed = part({"alg": algorithm, "kid": issuer.kid, "typ": "JWT"}) + b"." + part(claims)
    mac = hmac.new(secret, signed, hashlib.sha256).digest() if secret else b""
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def test_a_public_key_is_no_secret_to_sign_with(issuer: Issuer) -> None:
    pem = issuer.public_key(issuer.kid).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    for secret in (pem, b"guess"):
        with pytest.raises(UnauthenticatedError, match="an algorithm of RS256, ES256"):
            verifier(issuer).identity(_forged(issuer, "HS256", secret))


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "RS512", "PS256", ""])
def test_other_algorithms_are_refused(issuer: Issuer, algorithm: str) -> None:
    with pytest.raises(UnauthenticatedError):
        verifier(issuer).identity(_forged(issuer, algorithm, b""))


def test_the_key_decides_on_the_algorithm_and_not_the_token(issuer: Issuer) -> None:
    token = issuer.token("admin", key=new_key("ES256"), algorithm="ES256")

    with pytest.raises(UnauthenticatedError, match="InvalidAlgorithmError"):
        verifier(issuer).identity(token)


def test_another_s_signature_under_a_known_key_id_is_refused(issuer: Issuer) -> None:
    with pytest.raises(UnauthenticatedError, match="InvalidSignatureError"):
        verifier(issuer).identity(issuer.token("admin", key=new_key()))


@pytest.mark.parametrize(
    "headers",
    [
        {"kid": None},
        {"kid": ""},
        {"kid": "unknown"},
        {"crit": ["b64"], "b64": True},
        {"kid": "../../dev/null"},
    ],
    ids=["none", "empty", "unknown", "critical", "path"],
)
def test_headers_that_lead_nowhere_are_refused(issuer: Issuer, headers: dict[str, Any]) -> None:
    token = issuer.token("admin")
    head, *rest = token.split(".")
    document = json.loads(base64.urlsafe_b64decode(head + "==")) | headers
    document = {k: v for k, v in document.items() if v is not None}
    forged = base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    with pytest.raises(UnauthenticatedError):
        verifier(issuer).identity(".".join([forged, *rest]))


def test_keys_that_a_token_brings_along_are_ignored(issuer: Issuer) -> None:
    own = Issuer("https://evil.example.org")
    token = own.token("admin", iss=URL, headers={"jwk": own.published()["keys"][0], "jku": own.url})

    with pytest.raises(UnauthenticatedError, match="no key with the token's key id"):
        verifier(issuer).identity(token)


@pytest.mark.parametrize(
    "token",
    ["", "a", "a.b", "a.b.c", "....", "é.é.é", "e30.e30.", "bnVsbA.bnVsbA.bnVsbA", "[" * 4000],
)
def test_what_is_no_token_is_refused(issuer: Issuer, token: str) -> None:
    with pytest.raises(UnauthenticatedError):
        verifier(issuer).identity(token)


def test_huge_tokens_are_refused_unread(issuer: Issuer) -> None:
    token = issuer.token("admin", padding="x" * TOKEN_CHARACTERS)

    with pytest.raises(UnauthenticatedError, match="at most 8192 characters"):
        verifier(issuer).identity(token)
    assert issuer.asked == 0


def test_deeply_nested_claims_are_refused(issuer: Issuer) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 4000 + b"]" * 4000).rstrip(b"=").decode()

    with pytest.raises(UnauthenticatedError):
        verifier(issuer).identity(f"{deep}.e30.e30"[:8000])


# ── The issuer's keys ───────────────────────────────────────────────────────────────────────────


def test_keys_are_asked_for_once(issuer: Issuer, clock: Clock) -> None:
    checked = verifier(issuer, clock)

    for _ in range(20):
        checked.identity(issuer.token("viewer"))

    assert issuer.asked == 1


def test_a_new_key_is_found_at_its_first_token_and_a_withdrawn_one_refused(clock: Clock) -> None:
    issuer = Issuer(URL)
    checked = verifier(issuer, clock)
    old = issuer.token("viewer")
    checked.identity(old)

    clock.now += COOLDOWN_SECONDS
    issuer.rotate()

    assert checked.identity(issuer.token("viewer")).roles == {Role.VIEWER}
    with pytest.raises(UnauthenticatedError, match="no key"):
        checked.identity(old)


def test_a_withdrawn_key_works_no_longer_than_ten_minutes(clock: Clock) -> None:
    issuer = Issuer(URL)
    checked = verifier(issuer, clock)
    old = issuer.token("viewer")
    checked.identity(old)
    issuer.rotate()

    clock.now += FRESH_SECONDS - 1
    assert checked.identity(old).roles == {Role.VIEWER}
    clock.now += 2
    with pytest.raises(UnauthenticatedError, match="no key"):
        checked.identity(old)


def test_strangers_cannot_make_it_knock_at_the_issuer_s_door(issuer: Issuer, clock: Clock) -> None:
    checked = verifier(issuer, clock)
    checked.identity(issuer.token("viewer"))

    for number in range(50):
        with pytest.raises(UnauthenticatedError):
            checked.identity(issuer.token("admin", headers={"kid": f"made-up-{number}"}))

    assert issuer.asked == 1


def test_known_keys_serve_on_while_the_issuer_is_away(issuer: Issuer, clock: Clock) -> None:
    checked = verifier(issuer, clock)
    checked.identity(issuer.token("viewer"))
    issuer.down = True

    clock.now += FRESH_SECONDS + 1
    assert checked.identity(issuer.token("viewer")).roles == {Role.VIEWER}
    clock.now += STALE_SECONDS
    with pytest.raises(ServiceUnavailableError, match="cannot be reached"):
        checked.identity(issuer.token("viewer"))


def test_without_any_key_nobody_is_let_in_and_nobody_is_called_a_liar(
    issuer: Issuer, clock: Clock
) -> None:
    issuer.down = True
    checked = verifier(issuer, clock)

    with pytest.raises(ServiceUnavailableError):
        checked.identity(issuer.token("viewer"))
    issuer.down = False
    with pytest.raises(ServiceUnavailableError):
        checked.identity(issuer.token("viewer"))
    clock.now += COOLDOWN_SECONDS
    assert checked.identity(issuer.token("viewer")).roles == {Role.VIEWER}


def test_a_discovery_document_of_another_issuer_is_not_believed(clock: Clock) -> None:
    issuer = Issuer(URL)
    issuer.claims_issuer = "https://other.example.org"

    with pytest.raises(ServiceUnavailableError):
        verifier(issuer, clock).identity(issuer.token("viewer"))


def test_short_keys_and_keys_for_encryption_are_not_used(clock: Clock) -> None:
    issuer = Issuer(URL)
    issuer._keys[issuer.kid] = new_key(bits=1024)
    with pytest.raises(ServiceUnavailableError):
        verifier(issuer, clock).identity(Issuer(URL).token("viewer"))

    issuer = Issuer(URL)
    published = issuer.published()
    published["keys"][0]["use"] = "enc"
    documents = {
        "/.well-known/openid-configuration": {"issuer": URL, "jwks_uri": f"{URL}/keys"},
        "/keys": published,
    }
    keys = IssuerKeys(URL, fetch=lambda url: documents[url.removeprefix(URL)], clock=clock)
    with pytest.raises(ServiceUnavailableError):
        keys.key(issuer.kid)


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example.org/keys",
        "file:///etc/passwd",
        "ftp://issuer.example.org/keys",
        "http://169.254.169.254/latest/meta-data",
        "",
    ],
)
def test_keys_come_over_https_alone(url: str) -> None:
    with pytest.raises(ValueError, match="expected an https address"):
        fetch_document(url)


# ── The mapping ─────────────────────────────────────────────────────────────────────────────────


def test_without_a_mapping_roles_have_their_own_names() -> None:
    assert read_mapping("") == {role.value: role for role in Role}


def test_values_may_hold_any_sign_but_the_separators() -> None:
    assert read_mapping("https://api/ops=operator, team:ml=viewer") == {
        "https://api/ops": Role.OPERATOR,
        "team:ml": Role.VIEWER,
    }


@pytest.mark.parametrize("text", ["viewer", "a=", "=viewer", "a=owner", "a=viewer,,b=viewer"])
def test_what_is_no_mapping_says_so(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected value=role pairs"):
        read_mapping(text)
