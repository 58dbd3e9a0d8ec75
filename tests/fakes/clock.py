"""Time and ids that a test can foresee."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass
class FakeClock:
    """A clock that moves on by a second at each look."""

    now: datetime = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time; it moves on."""
        self.now += timedelta(seconds=1)
        return self.now


def counting_ids(prefix: str = "id") -> Callable[[], str]:
    """Ids ``id-1``, ``id-2``, …; safe to call from several threads."""
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"
