"""Which version answers a request while a rollout shares the traffic between two.

Sticky: a caller's key, the *entity*, is hashed with the rollout's id to a number from 0 to below 1,
and the challenger answers when that is below its weight. So an entity stays with its version for as
long as the weight does, a higher weight moves only the entities between the two, and another rollout
divides them anew. Without a key each request is drawn by itself.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from millrace.registry.serving import RolloutRoute, RolloutStrategy
from millrace.serving.identity import Role

if TYPE_CHECKING:
    from millrace.serving.store import LoadedModel

ENTITY_HEADER: Final = "X-Millrace-Entity"
ENTITY: Final = "entity"
"""The same as a parameter of the query, or of a request of the Open Inference Protocol."""
_SEPARATOR: Final = b"\x1f"
_HUNDRED: Final = 100.0
_BITS: Final = 53
"""As many as a float tells apart, so that no share rounds up to one."""


class Chosen(NamedTuple):
    """What answers a request.

    Attributes:
        loaded: The version.
        role: What it is.
        number: What leads to the registry's record of it; see `identity.Role`.
        route: The rollout that the model is in, if any.
        instead: The champion, which answers when a challenger fails.
        shadow: A challenger that is to score the same rows, unseen by the caller.
        lacking: Whether a challenger should have answered and is not in memory.
    """

    loaded: "LoadedModel"
    role: Role
    number: int
    route: RolloutRoute | None = None
    instead: "LoadedModel | None" = None
    shadow: "LoadedModel | None" = None
    lacking: bool = False

    def fallback(self) -> "Chosen":
        """The champion in a challenger's place."""
        if self.instead is None:
            raise ValueError("expected a challenger")
        return Chosen(self.instead, Role.CHAMPION, self.number, self.route)


def alone(loaded: "LoadedModel", version: int | None = None) -> Chosen:
    """A version that shares its traffic with no other.

    Args:
        loaded: The version.
        version: Its number, if the caller named it.
    """
    if version is not None:
        return Chosen(loaded, Role.PINNED, version)
    sequence = loaded.record.sequence
    return Chosen(loaded, Role.CHAMPION if sequence else Role.UNREGISTERED, sequence)


def shared(
    champion: "LoadedModel",
    challenger: "LoadedModel | None",
    route: RolloutRoute,
    sequence: int,
    entity: bytes | None,
    chance: Callable[[], float],
) -> Chosen:
    """The version that answers one request of a rollout.

    Args:
        champion: In memory.
        challenger: None while it is not in memory: the champion answers for it.
        route: The rollout.
        sequence: The ledger's, of the change that last set traffic.
        entity: The caller's key.
        chance: A number from 0 to below 1, anew at each call.
    """
    shadow = route.strategy is RolloutStrategy.SHADOW
    # What is shadowed is a sample of requests: no entity need stay with it.
    place = chance() if shadow or not entity else fraction(route.rollout_id, entity)
    if not place < route.weight / _HUNDRED:
        return Chosen(champion, Role.CHAMPION, sequence, route)
    if challenger is None:
        return Chosen(champion, Role.CHAMPION, sequence, route, lacking=True)
    if shadow:
        return Chosen(champion, Role.CHAMPION, sequence, route, shadow=challenger)
    return Chosen(challenger, Role.CHALLENGER, sequence, route, instead=champion)


def fraction(rollout_id: str, entity: bytes) -> float:
    """Where an entity stands in a rollout, from 0 to below 1."""
    digest = hashlib.sha256(rollout_id.encode() + _SEPARATOR + entity).digest()
    return (int.from_bytes(digest[:8]) >> (64 - _BITS)) / (1 << _BITS)
