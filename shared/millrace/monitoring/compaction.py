"""Many small objects of captured predictions become few.

Each delivery of the log writes an object, often of a single prediction. When an hour is over, what lies
in it is written again together: first the new object, then the small ones are deleted. A reader takes
each prediction once, so it sees the same whether it comes before, between or after; what a crash leaves
is put together next time. An object that came late is a small one again, and joins at the next look.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from millrace import layout
from millrace.errors import NotFoundError
from millrace.monitoring.binning import begin_of
from millrace.monitoring.captures import read_object, write_records
from millrace.serving.capture import CapturedPrediction

AGES: Final = (timedelta(hours=2), timedelta(hours=8), timedelta(hours=26))
"""How old an hour is when it is looked at: after its deliveries, after their retries, and for the late."""
MAX_REQUESTS: Final = 5_000
"""Requests of one object: what a reader holds in memory at once."""
_FULL: Final = MAX_REQUESTS // 2
"""From so many requests on an object is left as it is."""
_MAX_OBJECTS: Final = 20_000


class CompactedObjects(Protocol):
    """What compaction needs of S3: `aws.s3.S3ObjectStore` is one."""

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Keys that begin so, in order."""
        ...

    def read(self, bucket: str, key: str) -> bytes:
        """The object's bytes."""
        ...

    def write_once(self, bucket: str, key: str, body: bytes, *, content_type: str) -> bool:
        """Writes an immutable object; returns False when it was there already."""
        ...

    def delete(self, bucket: str, keys: Sequence[str]) -> None:
        """Deletes objects; those that are gone are none to it."""
        ...


@dataclass(frozen=True, slots=True)
class Compacted:
    """What became of a model's hours.

    Attributes:
        objects: Small objects that are gone.
        into: Objects that hold what they held.
    """

    objects: int = 0
    into: int = 0


def compact(
    objects: CompactedObjects,
    bucket: str,
    model: str,
    now: datetime,
    *,
    time_left: Callable[[], bool] = lambda: True,
) -> Compacted:
    """Puts together what lies in the hours that are due.

    Args:
        objects: Where the data bucket is read and written.
        bucket: The data bucket.
        model: The model.
        now: The time.
        time_left: Whether there is time for another object.
    """
    gone, into = 0, 0
    for age in AGES:
        hour = begin_of(now - age)
        small = [
            key
            for key in objects.keys(bucket, layout.capture_prefix(model, hour))
            if _is_small(key)
        ]
        part: list[str] = []
        records: dict[str, CapturedPrediction] = {}
        for key in small[:_MAX_OBJECTS]:
            if not time_left():
                break
            try:
                body = objects.read(bucket, key)
            except NotFoundError:
                continue  # another compaction was faster
            held = {one.prediction_id: one for one in read_object(body, f"s3://{bucket}/{key}")}
            if part and len(records) + len(held) > MAX_REQUESTS:
                gone, into = gone + _join(objects, bucket, model, hour, part, records), into + 1
                part, records = [], {}
            part.append(key)
            records |= held
        if len(part) > 1:
            gone, into = gone + _join(objects, bucket, model, hour, part, records), into + 1
    return Compacted(gone, into)


def _is_small(key: str) -> bool:
    return layout.compacted_requests(key) < _FULL


def _join(
    objects: CompactedObjects,
    bucket: str,
    model: str,
    hour: datetime,
    keys: Sequence[str],
    records: dict[str, CapturedPrediction],
) -> int:
    """Writes one object for many, and only then deletes them."""
    written = write_records(objects, bucket, model, hour, list(records.values()), compacted=True)
    replaced = [key for key in keys if key != written]
    objects.delete(bucket, replaced)
    return len(replaced)
