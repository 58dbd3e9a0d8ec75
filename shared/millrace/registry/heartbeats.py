"""What proves that a request is the heartbeat's own, and not traffic.

The heartbeat writes the digest of a fresh random mark into the registry before it calls, and sends the
mark with the call. Whoever can write the registry may so be left out of what is counted and captured, and
nobody else: a client's invented mark proves nothing, and its request counts like any other.

Stands apart, and stays as light, as `registry.serving` does: a prediction's cold start imports it.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Final, Protocol

from millrace.aws.table import Item, Key
from millrace.errors import MillraceError
from millrace.registry.serving import model_pk

HEADER: Final = "X-Millrace-Heartbeat"
SECONDS: Final = 60.0
"""How long a mark proves anything: its own call is over by then."""
_LONGEST: Final = 128


class Marks(Protocol):
    """What is needed of the registry's table."""

    def get(self, key: Key) -> Item | None:
        """The item with this key."""
        ...


def heartbeat_key(model: str) -> Key:
    """What the heartbeat knows of a model."""
    return Key(model_pk(model), "HEARTBEAT")


def digest_of(mark: str) -> str:
    """What is kept of a mark."""
    return hashlib.sha256(mark.encode()).hexdigest()


class HeartbeatMarks:
    """Tells the heartbeat's requests by their marks.

    Args:
        table: The registry's table.
        clock: Seconds since 1970.
    """

    def __init__(self, table: Marks, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._clock = clock

    def proves(self, model: str, mark: bytes) -> bool:
        """Whether a request with this mark is the heartbeat's: one read.

        A registry that cannot be read proves nothing: then the request counts.
        """
        if not 0 < len(mark) <= _LONGEST:
            return False
        try:
            item = self._table.get(heartbeat_key(model))
        except MillraceError:
            return False
        if item is None or not self._clock() < float(item.get("valid_until", 0)):
            return False
        return hmac.compare_digest(digest_of(mark.decode("latin-1")), str(item.get("mark", "")))
