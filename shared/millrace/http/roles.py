"""Who may do what: the roles, the permissions each holds, and how a deployment tells them apart.

The one place: IAM policies in ``template.yaml``, the token authorizer's policies, the door before
the functions, the OpenAPI document and docs/security.md are all made from it, or compared with it.

A caller may hold several roles. Whoever operates does not approve, and the other way round, so that
a second person can be made to look at every champion.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from millrace.http.routes import ROUTES, Permission, Route


class Authorizer(StrEnum):
    """How callers prove who they are: the template's parameter ``ApiAuthorizer``."""

    IAM = "IAM"
    API_KEY = "API_KEY"
    JWT = "JWT"
    NONE = "NONE"


class Role(StrEnum):
    """What a caller is to a deployment."""

    PREDICTOR = "predictor"
    """An application: asks models, and tells them ground truth."""
    VIEWER = "viewer"
    """Looks at models, runs and records; changes and asks nothing."""
    OPERATOR = "operator"
    """Looks, applies specs and starts trainings."""
    APPROVER = "approver"
    """Looks, and decides which version is champion."""
    ADMIN = "admin"
    """Everything."""


PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.PREDICTOR: frozenset({Permission.ANY, Permission.PREDICT}),
    Role.VIEWER: frozenset({Permission.ANY, Permission.VIEW}),
    Role.OPERATOR: frozenset({Permission.ANY, Permission.VIEW, Permission.OPERATE}),
    Role.APPROVER: frozenset({Permission.ANY, Permission.VIEW, Permission.APPROVE}),
    Role.ADMIN: frozenset(Permission) - {Permission.LINK},
}

type Roles = frozenset[Role]


def permissions_of(roles: Iterable[Role]) -> frozenset[Permission]:
    """What a caller with these roles may do."""
    return frozenset().union(*(PERMISSIONS[role] for role in roles))


def holders_of(permission: Permission) -> tuple[Role, ...]:
    """The roles that give a permission."""
    return tuple(role for role in Role if permission in PERMISSIONS[role])


def routes_of(roles: Iterable[Role]) -> tuple[Route, ...]:
    """The routes that a caller with these roles may ask, in the table's order."""
    permitted = permissions_of(roles)
    return tuple(route for route in ROUTES if route.permission in permitted)


def read_roles(words: Iterable[str]) -> Roles:
    """The roles among words; others are nobody's and give nothing."""
    known = {role.value: role for role in Role}
    return frozenset(known[word] for word in words if word in known)


def write_roles(roles: Iterable[Role]) -> str:
    """Roles as one text, in their order: ``viewer operator``."""
    held = set(roles)
    return " ".join(role.value for role in Role if role in held)
