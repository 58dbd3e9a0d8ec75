"""IAM's verdict on a request, for the part of its language that the template uses.

After AWS's documentation: "Policy evaluation logic" (an explicit deny wins; within one account an
allow of the role's policy or of the resource's policy suffices; a service as principal has only the
latter), "IAM JSON policy elements: Condition operators" and "Multivalued context keys". What is not
known here is an error and never a pass.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

type Context = tuple[tuple[str, tuple[str, ...]], ...]


class UnknownPolicyElementError(Exception):
    """A policy uses something whose meaning is not known here."""


@dataclass(frozen=True, slots=True)
class Request:
    """One thing that AWS authorizes.

    Attributes:
        principal: Logical name of a role, or a service such as ``events.amazonaws.com``.
        action: ``s3:GetObject``.
        resource: The ARN, or ``*`` where the action takes none.
        context: Condition keys, in lower case, with their values.
    """

    principal: str
    action: str
    resource: str
    context: Context = ()

    @property
    def is_service(self) -> bool:
        """Whether an AWS service asks for itself and not with a role."""
        return self.principal.endswith(".amazonaws.com")

    def __str__(self) -> str:
        shown = ", ".join(f"{key}={'|'.join(values)}" for key, values in self.context)
        return f"{self.action} on {self.resource}" + (f" ({shown})" if shown else "")


@dataclass(frozen=True, slots=True)
class Pattern:
    """An action or a resource of a statement.

    Attributes:
        text: With the deployment's names; may hold ``*`` and ``?``.
        written: As the table of rights shows it.
    """

    text: str
    written: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The smallest part of a policy: one action pattern on one resource pattern of one statement."""

    owner: str
    sid: str
    action: str
    resource: str

    def __str__(self) -> str:
        return f"{self.owner} {self.sid}: {self.action} on {self.resource}"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a role's policy, or of a resource's.

    Attributes:
        owner: Logical name of the role or of the resource that defines the policy.
        sid: Its name.
        allows: Allow, else Deny.
        principals: None in a role's policy; else services and ``*``.
        actions: Action patterns.
        resources: Resource patterns.
        conditions: Operator, key and values.
    """

    owner: str
    sid: str
    allows: bool
    principals: tuple[str, ...] | None
    actions: tuple[str, ...]
    resources: tuple[Pattern, ...]
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()

    def grants(self) -> Iterator[Grant]:
        """Its smallest parts."""
        for action in self.actions:
            for resource in self.resources:
                yield Grant(self.owner, self.sid, action, resource.written)

    def matching(self, request: Request) -> Iterator[Grant]:
        """Its parts that apply to a request; none when its principal or condition does not."""
        if self._is_about(request) and all(
            holds(operator, key, values, request.context)
            for operator, key, values in self.conditions
        ):
            for action in self.actions:
                if matches(action.lower(), request.action.lower()):
                    for resource in self.resources:
                        if matches(resource.text, request.resource):
                            yield Grant(self.owner, self.sid, action, resource.written)

    def _is_about(self, request: Request) -> bool:
        if self.principals is None:
            return request.principal == self.owner
        return "*" in self.principals or (
            request.is_service and request.principal in self.principals
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a request.

    Attributes:
        allowed: Whether AWS would let it pass.
        by: The grants that allow it, or the denials that forbid it; empty when nothing grants it.
    """

    allowed: bool
    by: tuple[Grant, ...]


class Policies:
    """Every policy of a deployment.

    Args:
        statements: Of roles and of resources.
    """

    def __init__(self, statements: Iterable[Statement]) -> None:
        self.statements = tuple(statements)

    def verdict(self, request: Request) -> Verdict:
        """What AWS would say."""
        denials = self._matching(request, allows=False)
        if denials:
            return Verdict(False, denials)
        grants = self._matching(request, allows=True)
        return Verdict(bool(grants), grants)

    def _matching(self, request: Request, *, allows: bool) -> tuple[Grant, ...]:
        return tuple(
            grant
            for statement in self.statements
            if statement.allows is allows
            for grant in statement.matching(request)
        )

    def grants(self) -> list[Grant]:
        """Every part that allows something."""
        return [g for s in self.statements if s.allows for g in s.grants()]

    def nearest(self, request: Request) -> list[Grant]:
        """What its principal may do that comes closest: the same action, else the same service."""
        service = request.action.split(":")[0]
        own = [
            g
            for s in self.statements
            if s.allows and (request.principal in (s.owner, *(s.principals or ())))
            for g in s.grants()
        ]
        same = [g for g in own if matches(g.action.lower(), request.action.lower())]
        return same or [g for g in own if g.action.split(":")[0] == service]

    def without(self, grant: Grant) -> "Policies":
        """The same policies but for one part; what else its statement grants stays."""
        left: list[Statement] = []
        for statement in self.statements:
            if not statement.allows or grant not in set(statement.grants()):
                left.append(statement)
                continue
            rest = tuple(a for a in statement.actions if a != grant.action)
            others = tuple(r for r in statement.resources if r.written != grant.resource)
            if rest:
                left.append(replace(statement, actions=rest))
            if others:
                left.append(replace(statement, actions=(grant.action,), resources=others))
        return Policies(left)


# ── Matching ────────────────────────────────────────────────────────────────────────────────────


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    if "${" in pattern:
        raise UnknownPolicyElementError(f"policy variables are not known here: {pattern}")
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL)


def matches(pattern: str, text: str) -> bool:
    """IAM's wildcards: ``*`` stands for any characters, slashes and colons too, ``?`` for one."""
    return _compiled(pattern).fullmatch(text) is not None


def _matches_arn(pattern: str, text: str) -> bool:
    """ARNs are compared part by part: a wildcard does not reach over one of the first colons."""
    ours, theirs = pattern.split(":", 5), text.split(":", 5)
    return len(ours) == len(theirs) and all(map(matches, ours, theirs))


def _number(test: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    return lambda expected, actual: test(float(actual), float(expected))


_OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda expected, actual: expected == actual,
    "StringEqualsIgnoreCase": lambda expected, actual: expected.lower() == actual.lower(),
    "StringLike": matches,
    "ArnEquals": _matches_arn,
    "ArnLike": _matches_arn,
    "Bool": lambda expected, actual: expected.lower() == actual.lower(),
    "NumericEquals": _number(lambda actual, expected: actual == expected),
    "NumericLessThan": _number(lambda actual, expected: actual < expected),
    "NumericLessThanEquals": _number(lambda actual, expected: actual <= expected),
    "NumericGreaterThan": _number(lambda actual, expected: actual > expected),
    "NumericGreaterThanEquals": _number(lambda actual, expected: actual >= expected),
}
_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
}


def holds(operator: str, key: str, expected: Sequence[str], context: Context) -> bool:
    """Whether one line of a condition holds.

    Args:
        operator: With its set qualifier and ``IfExists``, if any.
        key: Condition key; its case does not matter.
        expected: Values of the policy, of which one must fit.
        context: The request's.

    Raises:
        UnknownPolicyElementError: The operator is not known here.
    """
    qualifier, _, name = operator.rpartition(":")
    base = name.removesuffix("IfExists")
    negated = base in _NEGATED
    test = _OPERATORS.get(_NEGATED.get(base, base))
    if test is None or qualifier not in ("", "ForAllValues", "ForAnyValue"):
        raise UnknownPolicyElementError(f"condition operator {operator} is not known here")
    actual = dict(context).get(key.lower())
    if actual is None:
        # A missing key: true for all of no values, for IfExists, and for what must not be equal.
        return qualifier == "ForAllValues" or base != name or (negated and not qualifier)
    fits = [any(test(e, a) for e in expected) is not negated for a in actual]
    if qualifier == "ForAnyValue":
        return any(fits)
    if not qualifier and len(actual) != 1:
        raise UnknownPolicyElementError(
            f"{operator} on {key}, which has {len(actual)} values: a set qualifier is missing"
        )
    return all(fits)


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────

_KNOWN = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}


@dataclass(frozen=True, slots=True)
class Reader:
    """Makes statements of policy documents.

    Attributes:
        physical: Puts a deployment's names in.
        shown: Makes a resource readable, as the table of rights shows it.
    """

    physical: Callable[[str], str] = str
    shown: Callable[[str], str] = field(default=str)

    def statement(self, owner: str, document: Mapping[str, Any], number: int = 0) -> Statement:
        """A statement of a policy.

        Raises:
            UnknownPolicyElementError: It has an element that is not known here.
        """
        unknown = document.keys() - _KNOWN
        if unknown:
            raise UnknownPolicyElementError(f"{owner}: {', '.join(sorted(unknown))}")
        sid = str(document.get("Sid", f"statement {number}"))
        principal = document.get("Principal")
        return Statement(
            owner=owner,
            sid=sid,
            allows={"Allow": True, "Deny": False}[document["Effect"]],
            principals=None if principal is None else _principals(owner, principal),
            actions=tuple(_texts(document["Action"])),
            resources=tuple(
                Pattern(self.physical(r), self.shown(r)) for r in _texts(document["Resource"])
            ),
            conditions=tuple(
                (operator, key, tuple(self.physical(v) for v in _texts(values)))
                for operator, lines in document.get("Condition", {}).items()
                for key, values in lines.items()
            ),
        )


def _principals(owner: str, principal: Any) -> tuple[str, ...]:
    if principal == "*":
        return ("*",)
    if set(principal) - {"Service"}:
        raise UnknownPolicyElementError(f"{owner}: principal {principal}")
    return tuple(_texts(principal["Service"]))


def _texts(value: Any) -> list[str]:
    return [str(v) for v in (value if isinstance(value, list) else [value])]
