"""Would AWS let it happen? IAM's rules for identity policies, as far as our policies go."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from tests.infra.deployment import as_list

type Statement = Mapping[str, Any]


def allows(
    statements: Iterable[Statement],
    action: str,
    resource: str,
    context: Mapping[str, str] | None = None,
) -> bool:
    """Whether a statement allows the action and none denies it.

    Args:
        statements: Of all policies that apply.
        action: As ``service:Operation``.
        resource: ARN of what is acted on.
        context: Condition keys of the request.
    """
    applying = [s for s in statements if _applies(s, action, resource, context or {})]
    effects = {statement["Effect"] for statement in applying}
    return effects == {"Allow"}


def _applies(statement: Statement, action: str, resource: str, context: Mapping[str, str]) -> bool:
    return (
        any(fnmatchcase(action.lower(), p.lower()) for p in as_list(statement["Action"]))
        and any(fnmatchcase(resource, p) for p in as_list(statement["Resource"]))
        and all(
            _holds(operator, context.get(key), as_list(wanted))
            for operator, tests in statement.get("Condition", {}).items()
            for key, wanted in tests.items()
        )
    )


def _holds(operator: str, value: str | None, wanted: list[str]) -> bool:
    match operator:
        case "StringEquals" | "ArnEquals":
            return value in wanted
        case "StringLike" | "ArnLike":
            return value is not None and any(fnmatchcase(value, w) for w in wanted)
    raise NotImplementedError(f"condition operator {operator}")
