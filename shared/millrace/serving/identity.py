"""Prediction ids: UUIDs of version 7 (RFC 9562) that tell when and by what a prediction was made.

Labels come days later and bring nothing but the id; its time says which day's captured predictions
they belong to, without an index and without a search. Its role and number lead to the registry's
record of what answered: of 122 bits that are an application's own, 48 are the time in milliseconds,
2 the `Role`, 32 the number, and 40 random, anew in every millisecond.
"""

import os
import re
import time
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, NamedTuple

PREDICTION_ID_PATTERN: Final = (
    r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
)
_FORM: Final = re.compile(PREDICTION_ID_PATTERN)
_VERSION_AND_VARIANT: Final = (7 << 76) | (2 << 62)
_RANDOM_A: Final = 0xFFF << 64
_RANDOM_B: Final = (1 << 28) - 1
_ROLE_SHIFT: Final = 60
_NUMBER_SHIFT: Final = 28
_NUMBER: Final = (1 << 32) - 1
CALENDAR_ENDS: Final = 221_845_392_000_000
"""The year 9000, in milliseconds: what is kept for a while after has a date as well."""


class Role(IntEnum):
    """What a version was when it answered."""

    CHAMPION = 0
    """The number is the ledger's sequence of what served."""
    CHALLENGER = 1
    """Of a rollout; the number is the same."""
    PINNED = 2
    """The caller named the version; the number is the version's."""
    UNREGISTERED = 3
    """Outside a registry, as from a bundle; the number is 0."""


class Described(NamedTuple):
    """What a prediction id tells."""

    at: datetime
    role: Role
    number: int


def new_prediction_id(role: Role = Role.UNREGISTERED, number: int = 0) -> str:
    """A new id of this moment.

    Its random bits come from the operating system, which a restored snapshot shares with no other.

    Args:
        role: What the version that answers is.
        number: Leads to the record of it; see `Role`.
    """
    random = int.from_bytes(os.urandom(5))
    text = "%032x" % (
        (time.time_ns() // 1_000_000 << 80)
        | _VERSION_AND_VARIANT
        | ((random << 36) & _RANDOM_A)
        | (role << _ROLE_SHIFT)
        | ((number & _NUMBER) << _NUMBER_SHIFT)
        | (random & _RANDOM_B)
    )
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def describe(prediction_id: str) -> Described:
    """When a prediction was made, in which role its version answered, and the number to it.

    Args:
        prediction_id: An id for which `is_prediction_id` holds.
    """
    value = int(prediction_id.replace("-", ""), 16)
    return Described(
        predicted_at(prediction_id),
        Role(value >> _ROLE_SHIFT & 3),
        value >> _NUMBER_SHIFT & _NUMBER,
    )


def is_prediction_id(text: str) -> bool:
    """Whether a text has the form of the ids made here, of a time that a calendar knows."""
    return _FORM.fullmatch(text) is not None and predicted_ms(text) < CALENDAR_ENDS


def predicted_at(prediction_id: str) -> datetime:
    """When a prediction was made, to the millisecond.

    Args:
        prediction_id: An id for which `is_prediction_id` holds.
    """
    return datetime.fromtimestamp(predicted_ms(prediction_id) / 1000, UTC)


def predicted_ms(prediction_id: str) -> int:
    """The same in milliseconds since 1970."""
    return int(prediction_id[:8] + prediction_id[9:13], 16)
