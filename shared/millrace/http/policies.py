"""IAM policies over the API's routes, for the roles: exact ``execute-api`` ARNs, one per route.

IAM's ``*`` matches slashes too, so a pattern may cover more than its route: a test asks the policy of
every role about every route, and fails when a role gets further than its permissions.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from millrace.http.roles import Role, routes_of
from millrace.http.routes import Route

INVOKE: Final = "execute-api:Invoke"
VERSION: Final = "2012-10-17"
_VARIABLE: Final = re.compile(r"\{[^/}]+\}")


def resource_of(route: Route) -> str:
    """The end of a route's ARN after the stage: ``POST/v1/models/*/predict``."""
    return f"{route.method}{_VARIABLE.sub('*', route.path)}"


def stage_of(method_arn: str) -> str:
    """The stage's ARN, out of the ARN of a method below it."""
    return "/".join(method_arn.split("/")[:2])


def policy_of(roles: Iterable[Role], stage_arn: str) -> dict[str, Any]:
    """The policy of a caller with these roles; with none of them, one that refuses everything.

    Args:
        roles: The caller's roles.
        stage_arn: ``arn:aws:execute-api:REGION:ACCOUNT:API/STAGE``.
    """
    allowed = [f"{stage_arn}/{resource_of(route)}" for route in routes_of(roles)]
    statement = (
        {"Effect": "Allow", "Action": INVOKE, "Resource": allowed}
        if allowed
        else {"Effect": "Deny", "Action": INVOKE, "Resource": f"{stage_arn}/*"}
    )
    return {"Version": VERSION, "Statement": [statement]}
