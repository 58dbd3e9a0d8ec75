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
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import orjson

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.errors import ArtifactError, InvalidEventError, NotFoundError
from millrace.monitoring.binning import Failure, begin_of
from millrace.serving.capture import CapturedPrediction, of_document, of_line, to_document
from millrace.serving.identity import CALENDAR_ENDS
from millrace.vocabulary import MODEL_NAME_PATTERN

CONTENT_TYPE: Final = "application/gzip"
_LEVEL: Final = 6
"""Of gzip: nine tenths of level 9's size at a third of its time, on captured lines."""
_HOUR: Final = timedelta(hours=1)
_VERSIONS: Final = 10**6


class WrittenObjects(Protocol):
    """What writing takes: `aws.s3.S3ObjectStore` is one."""

    def write_once(self, bucket: str, key: str, body: bytes, *, content_type: str) -> bool:
        """Writes an immutable object; returns False when it was there already."""
        ...


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


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the lines of one delivery say.

    Attributes:
        records: Captured predictions.
        failures: Requests that a version failed.
        rejected: Lines that are none of these, each with its reason.
    """

    records: tuple[CapturedPrediction, ...]
    failures: tuple[Failure, ...]
    rejected: tuple[dict[str, str], ...]


def read(messages: Iterable[str]) -> Delivered:
    """Reads the lines of one delivery.

    Args:
        messages: Lines of the predict function's log.
    """
    records: list[CapturedPrediction] = []
    failures: list[Failure] = []
    rejected: list[dict[str, str]] = []
    for message in messages:
        try:
            line = _object(message)
            if line.get("failed") == 1:
                failures.append(_failure(line))
            elif "capture" in line or not isinstance(line.get("rollout"), dict):
                records.append(of_line(line))
        except InvalidEventError as exc:
            rejected.append({"reason": str(exc), "line": message})
    return Delivered(tuple(records), tuple(failures), tuple(rejected))


def _object(message: str) -> dict[str, Any]:
    try:
        line = orjson.loads(message)
    except orjson.JSONDecodeError:
        raise InvalidEventError("line: expected JSON") from None
    if not isinstance(line, dict):
        raise InvalidEventError("line: expected a JSON object")
    return line


def _failure(line: Mapping[str, Any]) -> Failure:
    """The request that a line says a version failed; it has no id, so the line's own time counts."""
    model, version, aws = line.get("model"), line.get("version"), line.get("_aws")
    if not isinstance(model, str) or not re.fullmatch(MODEL_NAME_PATTERN, model):
        raise InvalidEventError("model: expected the name of a model")
    if type(version) is not int or not 1 <= version < _VERSIONS:
        raise InvalidEventError("version: expected a version number")
    at = aws.get("Timestamp") if isinstance(aws, Mapping) else None
    if type(at) is not int or not 0 <= at < CALENDAR_ENDS:
        raise InvalidEventError("_aws.Timestamp: expected milliseconds since 1970")
    return Failure(model, version, datetime.fromtimestamp(at / 1_000, UTC))


def keep(delivered: Delivered, *, objects: ObjectStore, bucket: str, logged: datetime) -> Kept:
    """Writes the captured predictions of one delivery where they belong.

    Args:
        delivered: What its lines say.
        objects: Where the data bucket is written.
        bucket: The data bucket.
        logged: When the first line was logged; files the lines that tell no time of their own.
    """
    parts: dict[tuple[str, datetime], list[CapturedPrediction]] = defaultdict(list)
    for record in delivered.records:
        parts[record.model, begin_of(record.at)].append(record)
    captured: dict[str, int] = defaultdict(int)
    written = 0
    for (model, hour), records in parts.items():
        captured[model] += len(records)
        key, body = _object_of(model, hour, records)
        written += objects.write_once(bucket, key, body, content_type=CONTENT_TYPE)
    objects_made = len(parts)
    if delivered.rejected:
        objects_made += 1
        key = layout.rejected_capture_key(
            logged, _digest(one["line"] for one in delivered.rejected)
        )
        body = _packed(delivered.rejected)
        written += objects.write_once(bucket, key, body, content_type=CONTENT_TYPE)
    return Kept(dict(captured), len(delivered.rejected), written, objects_made - written)


def write_records(
    objects: WrittenObjects,
    bucket: str,
    model: str,
    hour: datetime,
    records: list[CapturedPrediction],
    *,
    compacted: bool,
) -> str:
    """Writes captured predictions of one hour as one object; the same again is not written.

    Args:
        objects: Where the data bucket is written.
        bucket: The data bucket.
        model: Their model.
        hour: Their hour.
        records: The predictions.
        compacted: Whether they were in several objects before.

    Returns:
        The object's key.
    """
    key, body = _object_of(model, hour, records, compacted=compacted)
    objects.write_once(bucket, key, body, content_type=CONTENT_TYPE)
    return key


def _object_of(
    model: str, hour: datetime, records: list[CapturedPrediction], *, compacted: bool = False
) -> tuple[str, bytes]:
    """An object's key and bytes, the same for the same predictions in any order."""
    records.sort(key=lambda one: (one.prediction_id, one.sequence))
    digest = _digest(one.prediction_id for one in records)
    key = layout.capture_key(model, hour, digest, len(records) if compacted else None)
    return key, _packed([to_document(one) for one in records])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def _packed(documents: Sequence[Mapping[str, Any]]) -> bytes:
    lines = b"\n".join([*map(orjson.dumps, documents), b""])
    # No time in the header: the same lines are the same bytes.
    return gzip.compress(lines, _LEVEL, mtime=0)


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
        for key, body in _bodies(objects, bucket, layout.capture_prefix(model, hour)):
            for record in read_object(body, f"s3://{bucket}/{key}"):
                if record.prediction_id not in seen and since <= record.at < until:
                    seen.add(record.prediction_id)
                    yield record


def _bodies(objects: ListedObjects, bucket: str, prefix: str) -> Iterator[tuple[str, bytes]]:
    """What lies under a prefix. What is put together meanwhile (`compaction`) is listed once more."""
    done: set[str] = set()
    again = True
    while again:
        again = False
        for key in list(objects.keys(bucket, prefix)):
            if key in done:
                continue
            done.add(key)
            try:
                yield key, objects.read(bucket, key)
            except NotFoundError:
                again = True


def hours(since: datetime, until: datetime) -> Iterator[datetime]:
    """The hours (UTC) that a span of time touches."""
    hour = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    while hour < until:
        yield hour
        hour += _HOUR


def read_object(body: bytes, what: str) -> Iterator[CapturedPrediction]:
    """The captured predictions of one stored object.

    Args:
        body: The object.
        what: What it is called in an error.

    Raises:
        ArtifactError: It is damaged or of a schema that this version does not read.
    """
    try:
        for line in gzip.decompress(body).splitlines():
            yield of_document(orjson.loads(line))
    except (OSError, EOFError, orjson.JSONDecodeError, InvalidEventError) as exc:
        raise ArtifactError(f"captured predictions {what} cannot be read: {exc}") from None
