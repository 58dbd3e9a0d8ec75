"""The token authorizer of the API: a bearer token becomes a policy over the API's routes.

API Gateway keeps the answer for a few minutes per token and asks it about every route, so the policy
covers all that the token's roles permit, and nothing else. A token that does not hold ends in 401; an
issuer that cannot be reached while none of its keys is known, in 503.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from millrace.errors import UnauthenticatedError
from millrace.http.policies import policy_of, stage_of
from millrace.http.roles import write_roles
from millrace.http.tokens import IssuerKeys, TokenRules, Verifier, read_mapping
from millrace.observability import logger, tracer
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

REFUSED = "Unauthorized"
"""The one message that API Gateway answers with 401."""
_SCHEME = "bearer "


class AuthorizerSettings(EnvironmentSettings):
    """Environment of the authorizer function."""

    jwt_issuer: str
    jwt_audience: str
    jwt_roles_claim: str = "scope"
    jwt_role_mapping: str = ""
    jwt_token_use: str = "access"  # noqa: S105 - a kind of token, and no secret


@cache
def verifier() -> Verifier:
    """The checks of this environment, and the issuer's keys once they were asked for."""
    settings = AuthorizerSettings.from_environment()
    rules = TokenRules(
        issuer=settings.jwt_issuer,
        audiences=frozenset(a.strip() for a in settings.jwt_audience.split(",") if a.strip()),
        claim=settings.jwt_roles_claim,
        mapping=read_mapping(settings.jwt_role_mapping),
        use=settings.jwt_token_use,
    )
    return Verifier(rules, IssuerKeys(settings.jwt_issuer))


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:  # noqa: ARG001  # Lambda's signature
    """Answers one question of API Gateway's: may the bearer of this token do that?"""
    given = str(event.get("authorizationToken", ""))
    try:
        if not given.lower().startswith(_SCHEME):
            raise UnauthenticatedError("expected a bearer token")
        identity = verifier().identity(given[len(_SCHEME) :].strip())
    except UnauthenticatedError as exc:
        logger.info("token refused", extra={"reason": str(exc)})
        raise UnauthenticatedError(REFUSED) from None
    return {
        "principalId": identity.subject,
        "policyDocument": policy_of(identity.roles, stage_of(str(event["methodArn"]))),
        "context": {
            "subject": identity.subject,
            "roles": write_roles(identity.roles),
            "expires_at": str(int(identity.expires_at)),
        },
    }
