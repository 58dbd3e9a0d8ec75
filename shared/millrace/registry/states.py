"""The state table of model versions: pure data, one function, and its drawing for the docs.

A transaction of the registry asserts the ``before`` it read, so a version only ever moves along
an edge of this table.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from millrace.errors import InvalidTransitionError
from millrace.registry.records import VersionStatus

_CANDIDATE = VersionStatus.CANDIDATE
_VALIDATED = VersionStatus.VALIDATED
_REJECTED = VersionStatus.REJECTED
_CHAMPION = VersionStatus.CHAMPION
_ARCHIVED = VersionStatus.ARCHIVED


class Event(StrEnum):
    """What can happen to a model version."""

    REGISTER = "register"
    """Its run made it."""
    PASS_GATES = "pass_gates"  # noqa: S105  # gates, not a password
    FAIL_GATES = "fail_gates"
    REJECT = "reject"
    """A person turned it down."""
    EXPIRE = "expire"
    """Nobody answered in time."""
    PROMOTE = "promote"
    """It passed its gates and becomes champion."""
    FORCE_PROMOTE = "force_promote"
    """A named person makes it champion in spite of its state."""
    DEMOTE = "demote"
    """Another version became champion."""
    RESTORE = "restore"
    """A rollback brings it back."""


TABLE: Final[Mapping[tuple[VersionStatus | None, Event], VersionStatus]] = MappingProxyType(
    {
        (None, Event.REGISTER): _CANDIDATE,
        (_CANDIDATE, Event.PASS_GATES): _VALIDATED,
        (_VALIDATED, Event.PASS_GATES): _VALIDATED,
        (_CANDIDATE, Event.FAIL_GATES): _REJECTED,
        (_VALIDATED, Event.FAIL_GATES): _REJECTED,
        (_VALIDATED, Event.REJECT): _REJECTED,
        (_VALIDATED, Event.EXPIRE): _REJECTED,
        (_VALIDATED, Event.PROMOTE): _CHAMPION,
        (_CANDIDATE, Event.FORCE_PROMOTE): _CHAMPION,
        (_REJECTED, Event.FORCE_PROMOTE): _CHAMPION,
        (_ARCHIVED, Event.FORCE_PROMOTE): _CHAMPION,
        (_CHAMPION, Event.DEMOTE): _ARCHIVED,
        (_ARCHIVED, Event.RESTORE): _CHAMPION,
    }
)
"""Every edge there is: (state, event) to the next state; None is "not registered yet"."""

_ADVICE: Final[Mapping[tuple[VersionStatus | None, Event], str]] = MappingProxyType(
    {
        (_CANDIDATE, Event.PROMOTE): "it has not passed its gates yet; wait for its evaluation",
        (_REJECTED, Event.PROMOTE): "it was rejected; force the promotion, with a reason, if you "
        "take responsibility for it",
        (_ARCHIVED, Event.PROMOTE): "it was champion before; roll back to it",
        (_CHAMPION, Event.PROMOTE): "it is the champion already",
        (_CHAMPION, Event.FORCE_PROMOTE): "it is the champion already",
        (_CHAMPION, Event.RESTORE): "it is the champion already",
        (_VALIDATED, Event.RESTORE): "it never was champion; promote it",
        (_CANDIDATE, Event.RESTORE): "it never was champion, and has not passed its gates",
        (_REJECTED, Event.RESTORE): "it was rejected",
    }
)


def transition(before: VersionStatus | None, event: Event, subject: str) -> VersionStatus:
    """The state after an event.

    Args:
        before: The state now, None for a version that is being registered.
        event: What happens.
        subject: The version for the error's text, e.g. ``churn@3``.

    Raises:
        InvalidTransitionError: The table has no such edge.
    """
    after = TABLE.get((before, event))
    if after is None:
        state = "not registered" if before is None else before.value
        advice = _ADVICE.get((before, event))
        raise InvalidTransitionError(
            f"cannot {event.value.replace('_', ' ')} {subject}: it is {state}"
            + (f"; {advice}" if advice else "")
        )
    return after


def as_mermaid() -> str:
    """The table as a Mermaid state diagram; ``docs/registry.md`` holds exactly this text."""
    lines = ["stateDiagram-v2"]
    for (before, event), after in TABLE.items():
        lines.append(f"    {before.value if before else '[*]'} --> {after.value}: {event.value}")
    return "\n".join(lines)


def as_table() -> str:
    """The table in Markdown; ``docs/registry.md`` holds exactly this text."""
    lines = ["| state | event | next state |", "|---|---|---|"]
    for (before, event), after in TABLE.items():
        lines.append(f"| {before.value if before else '(none)'} | {event.value} | {after.value} |")
    return "\n".join(lines)
