"""Requests held against policies, both ways."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tests.access.policies import Grant, Pattern, Policies, Request, Statement

REASONS = Path(__file__).parents[1] / "infra" / "unused_grants.yaml"
SHORTEST_REASON = 25


@dataclass(frozen=True, slots=True)
class Denied:
    """A request that AWS would refuse.

    Attributes:
        request: The request.
        because: What made it: recorded calls, or a service's doing.
        by: The statements that forbid it; empty when none allows it.
        nearest: What its principal may do that comes closest.
    """

    request: Request
    because: tuple[str, ...]
    by: tuple[Grant, ...]
    nearest: tuple[Grant, ...]

    def __str__(self) -> str:
        lines = [f"{self.request.principal} may not {self.request}"]
        lines += [f"    needed by {reason}" for reason in self.because[:3]]
        lines += [f"    forbidden by {grant}" for grant in self.by]
        lines += [f"    granted is {grant}" for grant in self.nearest[:4]]
        if not self.by and not self.nearest:
            lines.append("    granted is nothing of the kind")
        return "\n".join(lines)


def denied(requests: Mapping[Request, Sequence[object]], policies: Policies) -> list[Denied]:
    """Every request that AWS would refuse.

    Args:
        requests: Requests with what made each.
        policies: The deployment's.
    """
    found = []
    for request, because in requests.items():
        verdict = policies.verdict(request)
        if not verdict.allowed:
            nearest = () if verdict.by else tuple(policies.nearest(request))
            reasons = tuple(dict.fromkeys(str(b) for b in because))
            found.append(Denied(request, reasons, verdict.by, nearest))
    return found


def used(requests: Iterable[Request], policies: Policies) -> set[Grant]:
    """Every part of the policies that lets a request pass."""
    verdicts = (policies.verdict(request) for request in requests)
    return {grant for verdict in verdicts if verdict.allowed for grant in verdict.by}


def unused(requests: Iterable[Request], policies: Policies) -> list[Grant]:
    """Every part of the policies that no request needed, in the order of the policies."""
    needed = used(requests, policies)
    return [grant for grant in policies.grants() if grant not in needed]


def unnoticed(requests: Iterable[Request], policies: Policies) -> list[Grant]:
    """Every used part whose removal nobody would notice, because another allows the same."""
    asked = list(requests)
    by_grant: dict[Grant, list[Request]] = {}
    for request in asked:
        verdict = policies.verdict(request)
        if verdict.allowed:
            for grant in verdict.by:
                by_grant.setdefault(grant, []).append(request)
    found = []
    for grant, dependent in by_grant.items():
        fewer = policies.without(grant)
        if all(fewer.verdict(request).allowed for request in dependent):
            found.append(grant)
    return found


def unchanged_by_mutation(requests: Iterable[Request], policies: Policies) -> list[str]:
    """Every used statement that could have other resources, or another condition, unnoticed."""
    dependent: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        verdict = policies.verdict(request)
        if verdict.allowed:
            for named in {(grant.owner, grant.sid) for grant in verdict.by}:
                dependent.setdefault(named, []).append(request)
    found = []
    for number, statement in enumerate(policies.statements):
        asked = dependent.get((statement.owner, statement.sid), [])
        rest = policies.statements[:number] + policies.statements[number + 1 :]
        for what, mutant in _mutants(statement) if asked and statement.allows else ():
            changed = Policies([*rest, mutant])
            if all(changed.verdict(request).allowed for request in asked):
                found.append(f"{statement.owner} {statement.sid}: {what}")
    return found


def _mutants(statement: Statement) -> Iterator[tuple[str, Statement]]:
    """The statement with one letter more in its resources, and in the values of its condition."""
    resources = tuple(Pattern(f"x{r.text}", r.written) for r in statement.resources)
    yield "resources", replace(statement, resources=resources)
    if statement.conditions:
        conditions = tuple(
            (operator, key, tuple(f"x{value}" for value in values))
            for operator, key, values in statement.conditions
        )
        yield "condition", replace(statement, conditions=conditions)


# ── Written reasons ─────────────────────────────────────────────────────────────────────────────


def reasons(path: Path = REASONS) -> dict[Grant, str]:
    """The checked-in reasons why a grant stays though the tests never use it.

    Raises:
        ValueError: A reason is missing or says nothing.
    """
    written: Mapping[str, Any] = yaml.safe_load(path.read_text()) or {}
    found: dict[Grant, str] = {}
    for owner, entries in written.items():
        for entry in entries:
            grant = Grant(owner, entry["right"], entry["action"], entry["resource"])
            reason = " ".join(str(entry.get("reason", "")).split())
            if len(reason) < SHORTEST_REASON or not re.search(r"\w+ \w+ \w+", reason):
                raise ValueError(f"{path.name}: {grant}: give a reason, got {reason!r}")
            if grant in found:
                raise ValueError(f"{path.name}: {grant} stands there twice")
            found[grant] = reason
    return found


def unexplained(
    requests: Iterable[Request], policies: Policies, explained: Mapping[Grant, str]
) -> list[str]:
    """What is wrong between grants, their use and their reasons; empty when all is well."""
    idle = unused(requests, policies)
    there = set(policies.grants())
    wrong = [
        f"{grant}\n    was never used: exercise it, remove it from template.yaml, or give a reason "
        f"in tests/infra/{REASONS.name}"
        for grant in idle
        if grant not in explained
    ]
    for grant, reason in explained.items():
        if grant not in there:
            wrong.append(f"{grant}\n    has a reason ({reason}) but is not granted: delete it")
        elif grant not in idle:
            wrong.append(f"{grant}\n    has a reason ({reason}) but is used: delete it")
    return wrong
