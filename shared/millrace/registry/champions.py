"""Who may become champion: the rules, apart from the transaction that writes it."""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from millrace.aws.dynamodb import Item
from millrace.errors import (
    ChampionChangedError,
    ConcurrentWriteError,
    ConflictError,
    InvalidEventError,
    NoChampionError,
)
from millrace.messages import Promotion
from millrace.registry.records import (
    ANONYMOUS,
    PIPELINE,
    ModelVersion,
    RegisteredModel,
    VersionStatus,
)
from millrace.registry.states import Event, transition

_NAMELESS: Final = frozenset({"", ANONYMOUS, PIPELINE})


class AnyChampion(Enum):
    """The caller did not say which champion it expects."""

    ANY = "any"


ANY_CHAMPION: Final = AnyChampion.ANY

CROWNINGS: Final[Mapping[Event, str]] = {
    Event.PROMOTE: "promoted",
    Event.FORCE_PROMOTE: "forced_promotion",
    Event.RESTORE: "rolled_back",
}
"""What the audit calls each way to the crown."""


def is_repeated(
    alias: Item,
    change_id: str,
    target: int | None,
    expected: int | AnyChampion | None,
    restore: bool,
) -> bool:
    """Whether the champion is already what the caller wants it to be.

    Args:
        alias: The stored alias of the champion.
        change_id: Of this change: its own commit may be what is found.
        target: The version wanted, None for a step back.
        expected: The champion the decision was made against.
        restore: Whether it is a rollback.
    """
    if alias["change_id"] == change_id:
        return True
    if isinstance(expected, AnyChampion):
        return False
    if target is not None:
        return bool(alias["version"] == target)
    return restore and bool(alias["restored"]) and alias.get("previous") == expected


def promotion_of(alias: Item) -> Promotion:
    """The promotion that made the stored alias."""
    return Promotion(version=alias["version"], previous=alias.get("previous"))


def step_back(meta: RegisteredModel) -> int:
    """The version a rollback without a target leads to.

    Raises:
        NoChampionError: There is no champion to roll back from.
        ConflictError: The champion replaced none.
    """
    if meta.champion_version is None:
        raise NoChampionError(f"model {meta.name!r} has no champion to roll back from")
    if meta.previous_champion_version is None:
        raise ConflictError(
            f"{meta.name}@{meta.champion_version} replaced no champion: there is nothing to roll "
            "back to; name a version"
        )
    return meta.previous_champion_version


def crowning_event(
    meta: RegisteredModel, version: ModelVersion, *, restore: bool, force: bool
) -> Event:
    """What makes the version champion.

    Raises:
        InvalidTransitionError: Its state does not allow it.
        ConflictError: It never passed its gates, and a rollback to it is not forced.
        ConcurrentWriteError: Model and version were read from two different moments.
    """
    subject = f"{meta.name}@{version.version}"
    if (meta.champion_version == version.version) != (version.status is VersionStatus.CHAMPION):
        raise ConcurrentWriteError(f"{subject}: the champion changed between two reads")
    if restore:
        event = Event.RESTORE
    elif force and version.status is not VersionStatus.VALIDATED:
        event = Event.FORCE_PROMOTE
    else:
        event = Event.PROMOTE
    transition(version.status, event, subject)
    if restore and version.verdict != "passed" and not force:
        raise ConflictError(
            f"{subject} never passed its gates: going back to it needs force and a reason"
        )
    return event


def name_of(meta: RegisteredModel, number: int | None) -> str:
    """A version as people call it: ``churn@3``, or ``no champion``."""
    return "no champion" if number is None else f"{meta.name}@{number}"


def check_expectation(
    meta: RegisteredModel,
    version: ModelVersion,
    event: Event,
    expected: int | AnyChampion | None,
    force: bool,
) -> None:
    """Refuses a change that was decided against another champion.

    Raises:
        ChampionChangedError: The champion is not the expected one, or not the compared one.
    """
    champion = meta.champion_version
    if not isinstance(expected, AnyChampion):
        if champion != expected:
            raise ChampionChangedError(
                f"expected {name_of(meta, expected)} as champion of {meta.name}, "
                f"found {name_of(meta, champion)}"
            )
    elif event is Event.PROMOTE and not force and champion != version.compared_with:
        raise ChampionChangedError(
            f"{meta.name}@{version.version} was compared with "
            f"{name_of(meta, version.compared_with)}, and now the champion is "
            f"{name_of(meta, champion)}: retrain, or promote it with the expected champion named"
        )


def check_answerable(actor: str, reason: str, what: str) -> None:
    """Asks for a name and a reason.

    Raises:
        InvalidEventError: One is missing.
    """
    if actor.strip() in _NAMELESS:
        raise InvalidEventError(f"to {what}, the actor must be a named person, got {actor!r}")
    if not reason.strip():
        raise InvalidEventError(f"to {what}, a reason is required")
