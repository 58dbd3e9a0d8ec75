"""Episodes as records and items: what an alarm is, where it stands, and the table of its states.

An *episode* is one alarm from its opening to its end: of one model, one kind of finding, one subject
(a feature, a metric, a segment). A *standing* is what is known of a kind and subject through all its
episodes: which one is open, how it was found in the last windows, and how far it was widened.

::

    MONITOR#<model> / EPISODE#<id>                  an episode with its history
    MONITOR#<model> / STANDING#<kind>#<subject>     at most one open episode for each
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

from millrace.aws.table import Item, Key
from millrace.errors import InvalidTransitionError
from millrace.monitoring.document import EpisodeView, State
from millrace.registry.records import Record

EPISODE: Final = "EPISODE#"
STANDING: Final = "STANDING#"

SEEN: Final = 60
"""Windows that a standing remembers."""
STEPS: Final = 100
"""Steps that an episode remembers; the ledger has all of them."""

type Happened = Literal[
    "opened", "acknowledged", "silenced", "woken", "widened", "narrowed", "retraining", "closed"
]

type Untold = Literal["opened", "woken", "closed"]
"""What people are still to be told of an episode."""

_MAX_SUBJECT: Final = 300
"""Characters of a subject in a key; a longer one is cut, and told apart by its digest."""


class EpisodeState(StrEnum):
    """States of an episode."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    """A person knows of it; nobody is told again."""
    SILENCED = "silenced"
    """Nobody is told until a moment that a person chose."""
    CLOSED = "closed"


class EpisodeEvent(StrEnum):
    """What can happen to an episode."""

    OPEN = "open"
    ACKNOWLEDGE = "acknowledge"
    SILENCE = "silence"
    WAKE = "wake"
    """The silence is over, and it is still found."""
    WIDEN = "widen"
    """A person tolerates more from now on."""
    CLOSE = "close"
    """It was not found for some windows."""


_S = EpisodeState
_E = EpisodeEvent

TABLE: Final[Mapping[tuple[EpisodeState | None, EpisodeEvent], EpisodeState]] = MappingProxyType(
    {
        (None, _E.OPEN): _S.OPEN,
        (_S.OPEN, _E.ACKNOWLEDGE): _S.ACKNOWLEDGED,
        (_S.OPEN, _E.SILENCE): _S.SILENCED,
        (_S.OPEN, _E.WIDEN): _S.ACKNOWLEDGED,
        (_S.OPEN, _E.CLOSE): _S.CLOSED,
        (_S.ACKNOWLEDGED, _E.ACKNOWLEDGE): _S.ACKNOWLEDGED,
        (_S.ACKNOWLEDGED, _E.SILENCE): _S.SILENCED,
        (_S.ACKNOWLEDGED, _E.WIDEN): _S.ACKNOWLEDGED,
        (_S.ACKNOWLEDGED, _E.CLOSE): _S.CLOSED,
        (_S.SILENCED, _E.ACKNOWLEDGE): _S.ACKNOWLEDGED,
        (_S.SILENCED, _E.SILENCE): _S.SILENCED,
        (_S.SILENCED, _E.WAKE): _S.OPEN,
        (_S.SILENCED, _E.WIDEN): _S.ACKNOWLEDGED,
        (_S.SILENCED, _E.CLOSE): _S.CLOSED,
    }
)
"""Every edge there is; None is "not there yet"."""


def transition(state: EpisodeState | None, event: EpisodeEvent, episode_id: str) -> EpisodeState:
    """The state after an event.

    Raises:
        InvalidTransitionError: There is no such edge.
    """
    after = TABLE.get((state, event))
    if after is None:
        raise InvalidTransitionError(
            f"alarm {episode_id} is {state}, and cannot be changed by {event}: expected one that "
            "is open; `millrace alarms MODEL` lists them"
        )
    return after


class EpisodeStep(Record):
    """Something that happened to an episode."""

    at: datetime
    event: Happened
    by: str
    text: str = ""


class Episode(Record):
    """One alarm; all down to ``opened_window`` is fixed when it opens."""

    id: str
    model: str
    kind: str
    subject: str
    statistic: str
    against: str = ""
    opened_at: datetime
    opened_window: datetime
    state: EpisodeState
    version: int
    """The version that was found so, last."""
    windows: int = 1
    """Windows in which it was found."""
    last_window: datetime
    """The newest of them."""
    value: float | None = None
    effect: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    rows: int = 0
    text: str = ""
    """What moved, and by how much."""
    likely_cause: str = ""
    next_step: str = ""
    silenced_until: datetime | None = None
    widened_to: float | None = None
    run_id: str = ""
    """The retraining that it started."""
    closed_at: datetime | None = None
    history: tuple[EpisodeStep, ...] = ()
    """The oldest first."""
    revision: int = 1
    """Counts its writes: a write assumes the one that was read."""


class Seen(Record):
    """How a kind and subject was found in one window."""

    window: datetime
    verdict: State


class Standing(Record):
    """A kind and subject through all its episodes."""

    model: str
    kind: str
    subject: str
    episode_id: str = ""
    """The open one; empty when none is."""
    closed_through: datetime | None = None
    """The newest window that the last episode's end was decided on."""
    seen: tuple[Seen, ...] = ()
    """The last windows of the open episode, the oldest first."""
    widened_to: float | None = None
    """The effect that a person tolerates; outlives the episode."""
    untold: Untold | None = None
    untold_of: str = ""
    """The episode that people are still to be told of."""
    revision: int = 0


def monitor_pk(model: str) -> str:
    """Partition of what monitoring keeps of a model."""
    return f"MONITOR#{model}"


def episode_key(model: str, episode_id: str) -> Key:
    """An episode; ids begin with a time, so keys stand in its order."""
    return Key(monitor_pk(model), EPISODE + episode_id)


def standing_key(model: str, kind: str, subject: str) -> Key:
    """The standing of a kind and subject."""
    name = subject
    if len(subject) > _MAX_SUBJECT:
        name = f"{subject[:_MAX_SUBJECT]}…{hashlib.sha256(subject.encode()).hexdigest()[:16]}"
    return Key(monitor_pk(model), f"{STANDING}{kind}#{name}")


def episode_id(model: str, kind: str, subject: str, window: datetime) -> str:
    """The id of the episode that a window opens: the same window opens the same one."""
    digest = hashlib.sha256("\x1f".join((model, kind, subject)).encode()).hexdigest()
    return f"{window.astimezone(UTC):%Y%m%dT%H%M}-{digest[:10]}"


def from_episode(episode: Episode) -> Item:
    """The item of an episode."""
    return episode.model_dump(mode="json")


def to_episode(item: Item) -> Episode:
    """The episode of an item."""
    return Episode.model_validate(item)


def from_standing(standing: Standing) -> Item:
    """The item of a standing."""
    return standing.model_dump(mode="json")


def to_standing(item: Item) -> Standing:
    """The standing of an item."""
    return Standing.model_validate(item)


def episode_view(episode: Episode) -> EpisodeView:
    """An episode as the report and the API show it."""
    return EpisodeView(
        id=episode.id,
        kind=episode.kind,
        subject=episode.subject,
        state=episode.state.value,
        opened_at=episode.opened_at,
        closed_at=episode.closed_at,
        windows=episode.windows,
        value=episode.value,
        threshold=episode.threshold,
        effect=episode.effect,
        widened_to=episode.widened_to,
        silenced_until=episode.silenced_until,
        by=episode.history[-1].by if episode.history else "",
        text=episode.text,
        likely_cause=episode.likely_cause,
        next_step=episode.next_step,
        run_id=episode.run_id,
    )
