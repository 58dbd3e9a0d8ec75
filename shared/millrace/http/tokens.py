"""Tokens of any OpenID Connect issuer, Cognito's among them: who calls, and with which roles.

Signatures are checked with the issuer's published keys alone (RS256 and ES256, chosen by the key and
never by the token), found by the issuer's discovery document. Keys are kept for a bounded time; an
unknown key id fetches them anew, at most once in half a minute, so that strangers cannot make this
function knock at the issuer's door; and when the issuer cannot be reached, known keys serve on.
After RFC 7519, RFC 8725 (JWT best practices) and Cognito's "Verifying JSON web tokens".
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
from jwt.api_jwk import PyJWK, PyJWKSet

from millrace.errors import ConfigurationError, ServiceUnavailableError, UnauthenticatedError
from millrace.http.roles import Role, Roles
from millrace.observability import logger

ALGORITHMS: Final = ("RS256", "ES256")
RSA_BITS: Final = 2048
TOKEN_CHARACTERS: Final = 8192
SUBJECT_CHARACTERS: Final = 256
LEEWAY_SECONDS: Final = 30
FETCH_SECONDS: Final = 3.0
"""How long the issuer may take for one document."""
FRESH_SECONDS: Final = 600.0
"""How long keys are used without asking again: a withdrawn key works no longer than that."""
STALE_SECONDS: Final = 24 * 3600.0
"""How long known keys serve while the issuer cannot be reached."""
COOLDOWN_SECONDS: Final = 30.0
"""Least time between two fetches."""
_DISCOVERY: Final = "/.well-known/openid-configuration"

type Fetch = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls.

    Attributes:
        subject: The token's ``sub``.
        roles: What they are to this deployment.
        expires_at: When the token ends, in seconds since the epoch.
    """

    subject: str
    roles: Roles
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a token must be.

    Attributes:
        issuer: Its ``iss``, exactly.
        audiences: One of them is in ``aud``; in Cognito's access tokens, which have none, it is
            ``client_id``.
        claim: Where roles stand: a claim, or a dotted path such as ``realm_access.roles``; a list,
            or a text with spaces such as ``scope``.
        mapping: Value of the claim to role.
        use: What Cognito's ``token_use`` must be, when a token has one.
    """

    issuer: str
    audiences: frozenset[str]
    claim: str
    mapping: Mapping[str, Role]
    use: str = "access"


def read_mapping(text: str) -> dict[str, Role]:
    """Values of the claim and their roles, from ``value=role,value=role``; empty: roles by name.

    Raises:
        ConfigurationError: A part is no pair, or names no role.
    """
    if not text.strip():
        return {role.value: role for role in Role}
    mapping: dict[str, Role] = {}
    for part in text.split(","):
        value, equals, role = part.strip().rpartition("=")
        if not equals or not value or role not in {r.value for r in Role}:
            raise ConfigurationError(
                "JwtRoleMapping: expected value=role pairs with commas between, a role being one of "
                f"{', '.join(Role)}; got {part.strip()!r}"
            )
        mapping[value] = Role(role)
    return mapping


class IssuerKeys:
    """The issuer's signing keys, by key id.

    Args:
        issuer: The issuer's URL.
        fetch: Reads a JSON document from a URL.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        issuer: str,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch or fetch_document
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, PyJWK] = {}
        self._fetched = float("-inf")
        self._asked = float("-inf")

    def key(self, kid: str) -> PyJWK | None:
        """The key with this id, None when the issuer publishes none.

        Raises:
            ServiceUnavailableError: No usable keys are known and the issuer cannot be reached.
        """
        with self._lock:
            age = self._clock() - self._fetched
            if age < FRESH_SECONDS and kid in self._keys:
                return self._keys[kid]
            if self._clock() - self._asked >= COOLDOWN_SECONDS:
                self._asked = self._clock()
                try:
                    self._keys = self._published()
                    self._fetched = self._clock()
                except (jwt.PyJWTError, ValueError, OSError) as exc:
                    logger.warning(
                        "keys of the issuer cannot be read", extra={"error": type(exc).__name__}
                    )
            if self._clock() - self._fetched >= STALE_SECONDS:
                self._keys = {}
                raise ServiceUnavailableError(
                    f"no signing keys of {self._issuer}: it cannot be reached, or publishes none"
                )
            return self._keys.get(kid)

    def _published(self) -> dict[str, PyJWK]:
        about = self._fetch(self._issuer.rstrip("/") + _DISCOVERY)
        if about.get("issuer") != self._issuer:
            raise ValueError("the discovery document is of another issuer")
        keys = PyJWKSet.from_dict(dict(self._fetch(str(about.get("jwks_uri", "")))))
        usable = {key.key_id: key for key in keys if key.key_id and _usable(key)}
        if not usable:
            raise ValueError("the issuer publishes no usable keys")
        return usable


class Verifier:
    """Checks tokens.

    Args:
        rules: What a token must be.
        keys: The issuer's keys.
    """

    def __init__(self, rules: TokenRules, keys: IssuerKeys) -> None:
        self._rules = rules
        self._keys = keys

    def identity(self, token: str) -> Identity:
        """Who a token names.

        Raises:
            UnauthenticatedError: The token is not valid here; the message says why, without it.
            ServiceUnavailableError: The issuer's keys cannot be read.
        """
        if len(token) > TOKEN_CHARACTERS:
            raise UnauthenticatedError(f"expected at most {TOKEN_CHARACTERS} characters")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise UnauthenticatedError(f"expected an algorithm of {', '.join(ALGORITHMS)}")
            if "crit" in header or not header.get("kid"):
                raise UnauthenticatedError("expected a key id and no critical extensions")
            key = self._keys.key(header["kid"])
            if key is None:
                raise UnauthenticatedError("the issuer publishes no key with the token's key id")
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                issuer=self._rules.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "sub"], "verify_aud": False},
            )
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as exc:
            raise UnauthenticatedError(f"the token does not hold: {type(exc).__name__}") from exc
        self._check_audience(claims)
        subject = claims["sub"]
        if not 0 < len(subject) <= SUBJECT_CHARACTERS or not subject.isprintable():
            raise UnauthenticatedError(
                f"expected a subject of 1 to {SUBJECT_CHARACTERS} characters"
            )
        return Identity(subject, self._roles(claims), float(claims["exp"]))

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        use = claims.get("token_use")
        if use is not None and use != self._rules.use:
            raise UnauthenticatedError(f"expected a token whose use is {self._rules.use}")
        named = claims.get("aud")
        if named is None and use == "access":
            named = claims.get("client_id")
        found = {named} if isinstance(named, str) else _texts(named)
        if not found & self._rules.audiences:
            raise UnauthenticatedError("the token is for another audience")

    def _roles(self, claims: Mapping[str, Any]) -> Roles:
        value: Any = claims.get(self._rules.claim)
        if value is None:
            value = claims
            for step in self._rules.claim.split("."):
                value = value.get(step) if isinstance(value, Mapping) else None
        words = set(value.split()) if isinstance(value, str) else _texts(value)
        return frozenset(role for word, role in self._rules.mapping.items() if word in words)


def fetch_document(url: str) -> Mapping[str, Any]:
    """A JSON object from an HTTPS address, or from this machine; redirects are not followed.

    Raises:
        ValueError: The address is of another kind, or no JSON comes.
        PyJWTError: There is no answer in time, or no JSON object comes.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) != ("http", "127.0.0.1"):
        raise ValueError("expected an https address")
    # PyJWT's own client: bounded in time, no redirects, HTTP alone. It fetches and nothing more here,
    # because its cache forgets the keys while the issuer is away.
    client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=FETCH_SECONDS)
    document: Mapping[str, Any] = client.fetch_data()
    return document


def _usable(key: PyJWK) -> bool:
    large = key.key_type != "RSA" or key.key.key_size >= RSA_BITS
    return key.algorithm_name in ALGORITHMS and key.public_key_use in ("sig", None) and large


def _texts(value: object) -> set[str]:
    return {word for word in value if isinstance(word, str)} if isinstance(value, list) else set()
