"""The guard before the functions: a caller whose roles do not permit a route is refused.

API Gateway proves who calls. Of an IAM caller it also decides what they may ask, by the caller's own
policies; an API key it only knows or does not know, and a token's policy it may keep for minutes after
the token has expired. So what a key or a token permits is decided here, for every function behind the
API and at every request, from the same table of roles; what is not known is refused.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from millrace.http.roles import (
    Authorizer,
    Roles,
    holders_of,
    permissions_of,
    read_roles,
    write_roles,
)
from millrace.http.routes import ROUTES, Permission

KEY_SECONDS: Final = 60.0
"""How long a key's roles are remembered. A revoked key is refused by API Gateway itself."""
KEYS_REMEMBERED: Final = 1024
LEEWAY_SECONDS: Final = 30
"""How far clocks may differ."""

_PERMISSIONS: Final[Mapping[tuple[str, str], Permission]] = {
    (route.method, route.path): route.permission for route in ROUTES
}
_WORDS: Final = {Authorizer.API_KEY: "API key", Authorizer.JWT: "token"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request goes no further.

    Attributes:
        status: 401 when nobody proved who calls, 403 when they may not.
        code: Stable name, for programs.
        detail: What was expected, for people.
    """

    status: int
    code: str
    detail: str


class Guard:
    """Lets a request of API Gateway through, or says why not.

    Args:
        authorizer: How the deployment knows its callers.
        keys: Roles of the keys that the deployment itself made, by the key's id.
        find: Roles of any other key, by its id; none for a key that nobody gave a role.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        authorizer: Authorizer,
        *,
        keys: Mapping[str, Roles] | None = None,
        find: Callable[[str], Roles] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._authorizer = authorizer
        self._keys = dict(keys or {})
        self._find = find
        self._clock = clock
        self._found: OrderedDict[str, tuple[float, Roles]] = OrderedDict()

    def refusal(self, event: Mapping[str, Any]) -> Refusal | None:
        """Why this proxy event's caller may not ask this; None lets it through.

        Raises:
            RetryableError: The roles of a key cannot be read now.
        """
        if self._authorizer not in _WORDS:
            return None
        route = (str(event.get("httpMethod")), str(event.get("resource")))
        if _PERMISSIONS.get(route) is Permission.LINK:
            return None
        context = event.get("requestContext") or {}
        if self._authorizer is Authorizer.API_KEY:
            key = (context.get("identity") or {}).get("apiKeyId")
            if not key:
                return Refusal(403, "invalid_api_key", "expected a valid API key in x-api-key")
            roles = self._roles_of_key(str(key))
        else:
            claims = context.get("authorizer") or {}
            if not claims.get("subject"):
                return Refusal(401, "unauthenticated", "expected a valid bearer token")
            # Not the other way round: what is no number compares as false.
            if not self._clock() <= _seconds(claims.get("expires_at")) + LEEWAY_SECONDS:
                return Refusal(401, "token_expired", "the token has expired: ask for a new one")
            roles = read_roles(str(claims.get("roles", "")).split())
        return self._forbidden(*route, roles)

    def _forbidden(self, method: str, path: str, roles: Roles) -> Refusal | None:
        permission = _PERMISSIONS.get((method, path))
        if permission in permissions_of(roles):
            return None
        word = _WORDS[self._authorizer]
        held = f"roles {write_roles(roles)}" if roles else "no role of this deployment"
        if permission is None:
            return Refusal(
                403, "access_denied", f"this {word} has {held}: no route {method} {path}"
            )
        wanted = " or ".join(holders_of(permission))
        return Refusal(
            403,
            "access_denied",
            f"this {word} has {held}: {method} {path} takes the permission "
            f"{permission.value}, which comes with {wanted}",
        )

    def _roles_of_key(self, key: str) -> Roles:
        made = self._keys.get(key)
        if made is not None:
            return made
        now = self._clock()
        known = self._found.get(key)
        if known is not None and now - known[0] < KEY_SECONDS:
            return known[1]
        roles = self._find(key) if self._find is not None else frozenset()
        self._found[key] = (now, roles)
        self._found.move_to_end(key)
        while len(self._found) > KEYS_REMEMBERED:
            self._found.popitem(last=False)
        return roles


def _seconds(value: object) -> float:
    """A time of the authorizer's context; what cannot be read has passed long ago."""
    try:
        return float(str(value))
    except ValueError:
        return float("-inf")
