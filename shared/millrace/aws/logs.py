"""What a CloudWatch Logs subscription delivers to a function."""

import base64
import binascii
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from millrace.errors import InvalidEventError

_CONTROL: Final = "CONTROL_MESSAGE"
_DATA: Final = "DATA_MESSAGE"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LogEvents:
    """One delivery: lines of one log stream.

    Attributes:
        group: The log group.
        stream: The log stream.
        logged: When the first of them was logged.
        messages: The lines, as they were printed; none for CloudWatch's own check of the function.
    """

    group: str
    stream: str
    logged: datetime
    messages: tuple[str, ...]


def unpack(event: Mapping[str, Any]) -> LogEvents:
    """The lines of a delivery: ``awslogs.data`` is gzipped JSON in base64.

    Raises:
        InvalidEventError: It is no delivery of a subscription; no value is told.
    """
    packed = event.get("awslogs")
    data = packed.get("data") if isinstance(packed, Mapping) else None
    if not isinstance(data, str):
        raise InvalidEventError("awslogs.data: expected what a log subscription delivers")
    try:
        delivery = orjson.loads(gzip.decompress(base64.b64decode(data, validate=True)))
    except (binascii.Error, OSError, EOFError, zlib.error, orjson.JSONDecodeError) as exc:
        raise InvalidEventError(
            f"awslogs.data: expected gzipped JSON in base64 ({type(exc).__name__})"
        ) from None
    kind = delivery.get("messageType") if isinstance(delivery, dict) else None
    if kind == _CONTROL:
        return LogEvents("", "", _EPOCH, ())
    events = delivery.get("logEvents") if kind == _DATA else None
    if not isinstance(events, list) or not events:
        raise InvalidEventError(f"awslogs.data: expected a {_DATA} with logEvents")
    try:
        return LogEvents(
            group=str(delivery["logGroup"]),
            stream=str(delivery["logStream"]),
            logged=_EPOCH + timedelta(milliseconds=events[0]["timestamp"]),
            messages=tuple([one["message"] for one in events]),
        )
    except (KeyError, TypeError, OverflowError):
        raise InvalidEventError(
            "awslogs.data: expected logGroup, logStream, and each event's timestamp and message"
        ) from None
