"""Captured predictions in S3: written by the delivery, read by model and time.

``capture/<model>/date=YYYY-MM-DD/<HH>-<digest>.jsonl.gz`` holds predictions that were made in that
hour (UTC), whenever they arrived: a late or reordered delivery lands where it belongs. The digest is
of the prediction ids in the object, which is the idempotency key: a batch delivered twice is the
same object, and is written once. A line that is no captured prediction never holds up the others;
it goes to ``capture-rejected/`` with its reason.

A subscription may deliver a line again in another batch. So readers take each prediction once.
"""

import gzip
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import orjson

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.errors import ArtifactError, InvalidEventError
from millrace.serving.capture import CapturedPrediction, of_document, of_line, to_document

CONTENT_TYPE: Final = "application/gzip"
_LEVEL: Final = 6
"""Of gzip: nine tenths of level 9's size at a third of its time, on captured lines."""
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of one delivery.

    Attributes:
        captured: Captured predictions by model.
        rejected: Lines that are none.
        written: Objects that were not there before.
        repeated: Objects that were there already, from the same delivery before.
    """

    captured: dict[str, int]
    rejected: int
    written: int
    repeated: int


def keep(messages: Iterable[str], *, objects: ObjectStore, bucket: str, logged: datetime) -> Kept:
    """Writes the captured predictions of one delivery where they belong.

    Args:
        messages: Lines of the predict function's log.
        objects: Where the data bucket is written.
        bucket: The data bucket.
        logged: When the first line was logged; files the lines that tell no time of their own.
    """
    parts: dict[tuple[str, datetime], list[CapturedPrediction]] = defaultdict(list)
    rejected: list[dict[str, Any]] = []
    for message in messages:
        try:
            record = _read(message)
            if record is None:
                continue
        except InvalidEventError as exc:
            rejected.append({"reason": str(exc), "line": message})
            continue
        hour = record.at.replace(minute=0, second=0, microsecond=0)
        parts[record.model, hour].append(record)
    captured: dict[str, int] = defaultdict(int)
    written = 0
    for (model, hour), records in parts.items():
        captured[model] += len(records)
        records.sort(key=lambda one: (one.prediction_id, one.sequence))
        key = layout.capture_key(model, hour, _digest(one.prediction_id for one in records))
        written += _write(objects, bucket, key, [to_document(one) for one in records])
    objects_made = len(parts)
    if rejected:
        objects_made += 1
        key = layout.rejected_capture_key(logged, _digest(one["line"] for one in rejected))
        written += _write(objects, bucket, key, rejected)
    return Kept(dict(captured), len(rejected), written, objects_made - written)


def _read(message: str) -> CapturedPrediction | None:
    """The captured prediction of a line; None for a rollout's line that only counts."""
    try:
        line = orjson.loads(message)
    except orjson.JSONDecodeError:
        raise InvalidEventError("line: expected JSON") from None
    if not isinstance(line, dict):
        raise InvalidEventError("line: expected a JSON object")
    if "capture" not in line and isinstance(line.get("rollout"), dict):
        return None
    return of_line(line)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def _write(
    objects: ObjectStore, bucket: str, key: str, documents: Sequence[dict[str, Any]]
) -> bool:
    lines = b"\n".join([*map(orjson.dumps, documents), b""])
    # No time in the header: the same lines are the same bytes.
    body = gzip.compress(lines, _LEVEL, mtime=0)
    return objects.write_once(bucket, key, body, content_type=CONTENT_TYPE)


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────


class ListedObjects(Protocol):
    """What reading takes: `aws.s3.S3ObjectStore` is one."""

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Keys that begin so, in order."""
        ...

    def read(self, bucket: str, key: str) -> bytes:
        """The object's bytes."""
        ...


def captured(
    objects: ListedObjects, bucket: str, model: str, since: datetime, until: datetime
) -> Iterator[CapturedPrediction]:
    """Every captured prediction of a model in a span of time, hour by hour, each once.

    Only the hours of the span are listed and read; one hour at a time is held in memory.

    Args:
        objects: Where the data bucket is read.
        bucket: The data bucket.
        model: The model.
        since: From this moment on.
        until: Before this moment.

    Raises:
        ArtifactError: A stored object is damaged or of a schema that this version does not read.
    """
    for hour in hours(since, until):
        seen: set[str] = set()
        for key in objects.keys(bucket, layout.capture_prefix(model, hour)):
            for record in _of_object(objects.read(bucket, key), f"s3://{bucket}/{key}"):
                if record.prediction_id not in seen and since <= record.at < until:
                    seen.add(record.prediction_id)
                    yield record


def hours(since: datetime, until: datetime) -> Iterator[datetime]:
    """The hours (UTC) that a span of time touches."""
    hour = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    while hour < until:
        yield hour
        hour += _HOUR


def _of_object(body: bytes, what: str) -> Iterator[CapturedPrediction]:
    try:
        for line in gzip.decompress(body).splitlines():
            yield of_document(orjson.loads(line))
    except (OSError, EOFError, orjson.JSONDecodeError, InvalidEventError) as exc:
        raise ArtifactError(f"captured predictions {what} cannot be read: {exc}") from None
