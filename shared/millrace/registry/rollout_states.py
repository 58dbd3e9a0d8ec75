"""The state table of rollouts: pure data, one function, and its drawing for the docs.

As with model versions (`registry.states`), a transaction asserts the state it read, so a rollout
only ever moves along an edge of this table.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from millrace.errors import InvalidTransitionError


class RolloutStatus(StrEnum):
    """States of a rollout."""

    WAITING = "waiting"
    """Another rollout of the model comes first."""
    RUNNING = "running"
    """Goes from step to step by itself."""
    PAUSED = "paused"
    """A person keeps the traffic where it is; a breach still rolls it back."""
    HELD = "held"
    """It cannot go on by itself: too little traffic, or the spec asks for a person at the end."""
    STALLED = "stalled"
    """Its machinery failed; the traffic stays where it was."""
    PROMOTED = "promoted"
    """The version is champion."""
    ROLLED_BACK = "rolled_back"
    """A condition was breached; the champion answers everything again."""
    ABORTED = "aborted"
    """A person ended it; the champion answers everything again."""
    SUPERSEDED = "superseded"
    """A newer rollout took its place."""
    OVERTAKEN = "overtaken"
    """A person made another version champion meanwhile."""


class RolloutEvent(StrEnum):
    """What can happen to a rollout."""

    START = "start"
    QUEUE = "queue"
    BEGIN = "begin"
    """Its turn has come."""
    ADVANCE = "advance"
    PAUSE = "pause"
    RESUME = "resume"
    HOLD = "hold"
    STALL = "stall"
    RENEW = "renew"
    """A new execution goes on where a long one ends."""
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    ABORT = "abort"
    SUPERSEDE = "supersede"
    OVERTAKE = "overtake"


_S = RolloutStatus
_E = RolloutEvent

WATCHED: Final = (_S.RUNNING, _S.PAUSED, _S.HELD)
"""States in which health is judged."""
ACTIVE: Final = (*WATCHED, _S.STALLED)
"""States in which the rollout may have traffic: at most one per model."""
OPEN: Final = (_S.WAITING, *ACTIVE)
"""States that are no end."""


def _table() -> dict[tuple[RolloutStatus | None, RolloutEvent], RolloutStatus]:
    table: dict[tuple[RolloutStatus | None, RolloutEvent], RolloutStatus] = {
        (None, _E.START): _S.RUNNING,
        (None, _E.QUEUE): _S.WAITING,
        (_S.WAITING, _E.BEGIN): _S.RUNNING,
        (_S.WAITING, _E.RENEW): _S.WAITING,
        (_S.RUNNING, _E.ADVANCE): _S.RUNNING,
        (_S.RUNNING, _E.PAUSE): _S.PAUSED,
        (_S.RUNNING, _E.HOLD): _S.HELD,
        (_S.HELD, _E.PAUSE): _S.PAUSED,
        (_S.PAUSED, _E.RESUME): _S.RUNNING,
        (_S.HELD, _E.RESUME): _S.RUNNING,
        (_S.STALLED, _E.RESUME): _S.RUNNING,
        (_S.WAITING, _E.ABORT): _S.ABORTED,
        (_S.WAITING, _E.SUPERSEDE): _S.SUPERSEDED,
        (_S.WAITING, _E.OVERTAKE): _S.OVERTAKEN,
    }
    for watched in WATCHED:
        table[watched, _E.RENEW] = watched
        table[watched, _E.STALL] = _S.STALLED
        table[watched, _E.ROLL_BACK] = _S.ROLLED_BACK
    for active in ACTIVE:
        table[active, _E.PROMOTE] = _S.PROMOTED
        table[active, _E.ABORT] = _S.ABORTED
        table[active, _E.SUPERSEDE] = _S.SUPERSEDED
        table[active, _E.OVERTAKE] = _S.OVERTAKEN
    return table


TABLE: Final[Mapping[tuple[RolloutStatus | None, RolloutEvent], RolloutStatus]] = MappingProxyType(
    _table()
)
"""Every edge there is: (state, event) to the next state; None is "not recorded yet"."""

_ADVICE: Final[Mapping[tuple[RolloutStatus | None, RolloutEvent], str]] = MappingProxyType(
    {
        (_S.PAUSED, _E.PAUSE): "nothing is to be done",
        (_S.WAITING, _E.PAUSE): "it has no traffic yet; abort it if it shall not begin",
        (_S.STALLED, _E.PAUSE): "it does not go on by itself; resume or abort it",
        (_S.WAITING, _E.RESUME): "it begins when the rollout before it has ended",
        (_S.RUNNING, _E.RESUME): "nothing is to be done",
    }
)


def transition(before: RolloutStatus | None, event: RolloutEvent, rollout_id: str) -> RolloutStatus:
    """The state after an event.

    Args:
        before: The state now, None for a rollout that is being recorded.
        event: What happens.
        rollout_id: The rollout for the error's text.

    Raises:
        InvalidTransitionError: The table has no such edge.
    """
    after = TABLE.get((before, event))
    if after is None:
        state = "not recorded" if before is None else before.value.replace("_", " ")
        advice = _ADVICE.get((before, event), "")
        if before is not None and before not in OPEN:
            advice = "it has ended; start another one"
        raise InvalidTransitionError(
            f"cannot {event.value.replace('_', ' ')} rollout {rollout_id}: it is {state}"
            + (f"; {advice}" if advice else "")
        )
    return after


def as_mermaid() -> str:
    """The table as a Mermaid state diagram; ``docs/rollouts.md`` holds exactly this text."""
    lines = ["stateDiagram-v2"]
    for (before, event), after in TABLE.items():
        lines.append(f"    {before.value if before else '[*]'} --> {after.value}: {event.value}")
    lines += [f"    {state.value} --> [*]" for state in RolloutStatus if state not in OPEN]
    return "\n".join(lines)


def as_table() -> str:
    """The table in Markdown; ``docs/rollouts.md`` holds exactly this text."""
    lines = ["| state | what can happen | next state |", "|---|---|---|"]
    for (before, event), after in TABLE.items():
        lines.append(f"| {before.value if before else '(none)'} | {event.value} | {after.value} |")
    return "\n".join(lines)
