"""Prediction ids: UUIDs of version 7 (RFC 9562), so that an id tells when its prediction was made.

Labels come days later and bring nothing but the id; its time says which day's captured predictions
they belong to, without an index and without a search.
"""

import os
import re
import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

PREDICTION_ID_PATTERN: Final = (
    r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
)
_FORM: Final = re.compile(PREDICTION_ID_PATTERN)
_VERSION_AND_VARIANT: Final = (7 << 76) | (2 << 62)
_RANDOM_A: Final = 0xFFF << 64
_RANDOM_B: Final = (1 << 62) - 1
_CALENDAR_ENDS: Final = 253_402_300_800_000
"""The year 10000, in milliseconds."""


def new_prediction_id() -> str:
    """A new id of this moment.

    Its 74 random bits come from the operating system, which a restored snapshot shares with no
    other.
    """
    random = int.from_bytes(os.urandom(10))
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | _VERSION_AND_VARIANT
    return str(UUID(int=value | ((random << 2) & _RANDOM_A) | (random & _RANDOM_B)))


def is_prediction_id(text: str) -> bool:
    """Whether a text has the form of the ids made here, of a time that a calendar knows."""
    return _FORM.fullmatch(text) is not None and predicted_ms(text) < _CALENDAR_ENDS


def predicted_at(prediction_id: str) -> datetime:
    """When a prediction was made, to the millisecond.

    Args:
        prediction_id: An id for which `is_prediction_id` holds.
    """
    return datetime.fromtimestamp(predicted_ms(prediction_id) / 1000, UTC)


def predicted_ms(prediction_id: str) -> int:
    """The same in milliseconds since 1970."""
    return int(prediction_id[:8] + prediction_id[9:13], 16)
