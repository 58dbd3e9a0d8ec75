"""Takes labels: from requests, all or nothing, and from files, line by line.

A request is small, and whoever sends it can mend it: one wrong entry refuses it whole, by entry and
field. A file is large and nobody waits for it: its good lines are taken, its bad ones are kept with
their reasons beside a report.
"""

import csv
import gzip
import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import batched
from typing import Any, Final, Protocol

import orjson

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.aws.sns import Notice, Notifier
from millrace.documents import read_signature
from millrace.errors import (
    FieldProblem,
    InvalidRequestError,
    MalformedRequestError,
    NotFoundError,
    RequestTooLargeError,
)
from millrace.messages import SourceObject
from millrace.monitoring.labelbook import LabelBook
from millrace.monitoring.labels import Counts, LabelReader, Told, WrongLabelError
from millrace.observability import METRICS, count
from millrace.registry.records import ServingRecord

MAX_LABELS: Final = 1_000
"""Of one request."""
MAX_BODY_BYTES: Final = 1_000_000
MAX_LINES: Final = 300_000
"""Of one file: what a function takes in by far less than the time it has."""
MAX_FILE_BYTES: Final = 64_000_000
MAX_PROBLEMS: Final = 100
_READERS: Final = 16
_CHUNK: Final = 1_000
_REQUIRED: Final = frozenset({"prediction_id", "label"})
_OPTIONAL: Final = frozenset({"row", "observed_at"})


class Format(StrEnum):
    """How entries are written."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


SUFFIXES: Final[dict[str, Format]] = {
    ".csv": Format.CSV,
    ".jsonl": Format.NDJSON,
    ".ndjson": Format.NDJSON,
}


class Serving(Protocol):
    """Tells what answers for a model: `registry.registry.Registry` is one."""

    def get_serving(self, model: str) -> ServingRecord:
        """What answers predictions.

        Raises:
            NotFoundError: There is no such model, or it has no champion.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line of a file that could not be taken.

    Attributes:
        line: Its number, from 1, the header of a CSV included.
        field: The field that is wrong; empty when all of it is.
        reason: What was expected.
        text: The line.
    """

    line: int
    field: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of a file.

    Attributes:
        model: The model.
        lines: Lines with an entry.
        counts: What its entries came to.
        rejected: Lines that could not be taken.
        refused: Why nothing of the file could be taken; empty when some could.
        report_key: Where the report lies in the data bucket.
        repeated: Whether the same version of the file was taken before, and so nothing was done.
    """

    model: str
    lines: int = 0
    counts: Counts = field(default_factory=Counts)
    rejected: int = 0
    refused: str = ""
    report_key: str = ""
    repeated: bool = False


class RefusedFileError(ValueError):
    """No line of a file can be taken."""


@dataclass(slots=True)
class Feedback:
    """Labels on their way from outside into the book.

    Attributes:
        serving: Tells the champion.
        objects: Where signatures and files are read, and reports are written.
        artifact_bucket: Where signatures lie.
        book: Where labels are kept.
        clock: Now, in UTC.
        link: The address of an object that people are pointed to, by its bucket and key.
    """

    serving: Serving
    objects: ObjectStore
    artifact_bucket: str
    book: LabelBook
    clock: Callable[[], datetime]
    link: Callable[[str, str], str] = lambda bucket, key: f"s3://{bucket}/{key}"
    _readers: OrderedDict[str, LabelReader] = field(default_factory=OrderedDict)

    def take(self, model: str, body: bytes, form: Format) -> Counts:
        """Takes the labels of a request, or none of them.

        Args:
            model: The model.
            body: The request's body.
            form: How it is written.

        Raises:
            NotFoundError: There is no such model, or it has no champion.
            MalformedRequestError: The body cannot be decoded.
            RequestTooLargeError: It has more labels than a request may.
            InvalidRequestError: ``problems`` names entry and field.
        """
        reader = self._reader(model)
        now = self.clock()
        told: list[Told] = []
        problems: list[FieldProblem] = []
        for number, entry in enumerate(_entries(body, form)):
            if number >= MAX_LABELS:
                raise RequestTooLargeError(
                    f"expected at most {MAX_LABELS:,} labels in a request: divide them over several, "
                    f"or put a file under {layout.feedback_key(model, '')} in the data bucket"
                )
            try:
                told.append(_told(reader, entry, form, now))
            except WrongLabelError as exc:
                problems.append(FieldProblem(exc.field or "entry", str(exc), number))
        if problems:
            first = problems[0]
            raise InvalidRequestError(
                f"{len(problems)} of the labels cannot be taken, so none was: entry {first.row}, "
                f"{first.field}: {first.message}",
                problems[:MAX_PROBLEMS],
            )
        if not told:
            raise InvalidRequestError(
                "expected at least one label", [FieldProblem("labels", "expected at least one")]
            )
        counts = self.book.record(model, told)
        note(model, counts)
        return counts

    def take_file(
        self, source: SourceObject, received_at: datetime, notifier: Notifier
    ) -> FileOutcome:
        """Takes the good lines of a file, and keeps the bad ones with a report.

        Idempotent by the object's version: its report is written last, and a file with a report is
        not looked at again. A run that was cut off is done anew, and what it had taken is duplicate.

        Args:
            source: The file.
            received_at: When the file came, the same at every attempt.
            notifier: Told of files with lines that could not be taken.

        Raises:
            InvalidEventError: The key is not ``feedback/<model>/<file>``.
        """
        model = layout.model_of_feedback(source.key)
        report_key = layout.feedback_report_key(
            model, source.bucket, source.key, source.version_id or source.etag
        )
        if self.objects.exists(source.bucket, report_key):
            return FileOutcome(model, report_key=report_key, repeated=True)
        counts, lines, refused = Counts(), 0, ""
        rejected: list[Rejected] = []
        try:
            reader = self._reader(model)
            entries = _lines(source.key, self._file(source))
            for some in batched(entries, _CHUNK, strict=False):
                told = []
                for line, entry, form, text in some:
                    lines += 1
                    try:
                        told.append(_told(reader, entry, form, received_at))
                    except WrongLabelError as exc:
                        rejected.append(Rejected(line, exc.field, str(exc), text))
                counts += self.book.record(model, told)
        except (RefusedFileError, NotFoundError) as exc:
            refused = str(exc)
        outcome = FileOutcome(model, lines, counts, len(rejected), refused, report_key)
        self._report(source, received_at, outcome, rejected)
        note(model, counts, rejected=outcome.rejected or bool(refused))
        if refused or rejected:
            address = self.link(source.bucket, outcome.report_key)
            notifier.notify(_notice(source, outcome, rejected, address))
        return outcome

    def _reader(self, model: str) -> LabelReader:
        record = self.serving.get_serving(model)
        known = self._readers.get(record.signature_sha256)
        if known is None:
            what = f"{record.model}@{record.version}"
            signature = read_signature(
                self.objects,
                self.artifact_bucket,
                record.signature_key,
                record.signature_sha256,
                what,
            )
            known = self._readers[record.signature_sha256] = LabelReader(signature)
        self._readers.move_to_end(record.signature_sha256)
        while len(self._readers) > _READERS:
            self._readers.popitem(last=False)
        return known

    def _file(self, source: SourceObject) -> bytes:
        if source.size > MAX_FILE_BYTES:
            raise RefusedFileError(f"expected at most {MAX_FILE_BYTES:,} bytes: divide the file")
        return self.objects.read(source.bucket, source.key, version_id=source.version_id or None)

    def _report(
        self,
        source: SourceObject,
        received_at: datetime,
        outcome: FileOutcome,
        rejected: list[Rejected],
    ) -> None:
        kept_key = ""
        if rejected:
            kept_key = outcome.report_key.removesuffix("report.json") + "lines.jsonl.gz"
            lines = b"\n".join([orjson.dumps(asdict(one)) for one in rejected])
            body = gzip.compress(lines + b"\n", mtime=0)
            self.objects.write(source.bucket, kept_key, body, content_type="application/gzip")
        document = {
            "model": outcome.model,
            "source": source.model_dump(mode="json"),
            "received_at": received_at.isoformat(),
            "refused": outcome.refused,
            "lines": outcome.lines,
            **asdict(outcome.counts),
            "rejected": outcome.rejected,
            "rejected_lines": kept_key,
            "problems": [
                {"line": one.line, "field": one.field, "reason": one.reason}
                for one in rejected[:MAX_PROBLEMS]
            ],
        }
        self.objects.write_once(
            source.bucket,
            outcome.report_key,
            json.dumps(document, indent=2).encode(),
            content_type="application/json",
        )


def note(model: str, counts: Counts, rejected: int = 0) -> None:
    """Counts what came of labels."""
    for metric, value in (
        (METRICS.LABELS_ACCEPTED, counts.accepted),
        (METRICS.LABELS_CORRECTED, counts.corrected),
        (METRICS.LABELS_DUPLICATE, counts.duplicate + counts.outdated),
        (METRICS.LABELS_REJECTED, rejected),
    ):
        if value:
            count(metric, value, model=model)


def _notice(
    source: SourceObject, outcome: FileOutcome, rejected: list[Rejected], address: str
) -> Notice:
    name = source.key.rpartition("/")[2]
    subject = (
        f"{outcome.model}: the labels in {name} were refused"
        if outcome.refused
        else f"{outcome.model}: {outcome.rejected:,} of {outcome.lines:,} labels in {name} were wrong"
    )
    return Notice(
        outcome.model,
        "feedback_refused" if outcome.refused else "feedback_rejected",
        subject,
        {
            "key": source.key,
            "reason": outcome.refused,
            "lines": outcome.lines,
            **asdict(outcome.counts),
            "rejected": outcome.rejected,
            "first": [f"line {r.line}: {r.field}: {r.reason}" for r in rejected[:5]],
            "report": address,
            "report_key": outcome.report_key,
        },
    )


# ── Decoding ────────────────────────────────────────────────────────────────────────────────────


def _told(reader: LabelReader, entry: Any, form: Format, received_at: datetime) -> Told:
    if isinstance(entry, WrongLabelError):
        raise entry
    if form is Format.CSV:
        return reader.of_texts(entry, received_at)
    return reader.of_json(entry, received_at)


def _entries(body: bytes, form: Format) -> Iterable[Any]:
    """Entries of a request: objects, or what is wrong with one."""
    if form is Format.JSON:
        return _of_json(body)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise MalformedRequestError(
            f"expected UTF-8, got another encoding at byte {exc.start}"
        ) from None
    try:
        return [entry for _, entry, _ in _split(text, form)]
    except RefusedFileError as exc:
        raise MalformedRequestError(str(exc)) from None


def _of_json(body: bytes) -> list[Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedRequestError(f"the body is not JSON: {exc}") from None
    if isinstance(document, dict) and "labels" in document:
        labels = document["labels"]
        if not isinstance(labels, list) or len(document) > 1:
            raise InvalidRequestError(
                "labels: expected a list of entries and nothing beside it",
                [FieldProblem("labels", "expected a list of entries and nothing beside it")],
            )
        return labels
    return [document]


def _split(text: str, form: Format) -> Iterator[tuple[int, Any, str]]:
    """Line numbers from 1, entries, and the lines themselves."""
    if form is Format.CSV:
        yield from _of_csv(text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            entry = WrongLabelError("", "expected a JSON object")
        yield number, entry, line


def _of_csv(text: str) -> Iterator[tuple[int, Any, str]]:
    # Kept beside the parser, so that a rejected line can be shown as it was.
    lines = text.splitlines(keepends=True)
    rows = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        columns = set(header)
        if (
            not columns >= _REQUIRED
            or columns - _REQUIRED - _OPTIONAL
            or len(columns) < len(header)
        ):
            raise RefusedFileError(
                "expected a CSV whose header names prediction_id and label, and may name row and "
                "observed_at"
            )
        before = rows.line_num
        for row in rows:
            raw = "".join(lines[before : rows.line_num])
            number, before = before + 1, rows.line_num
            if not row:
                continue
            if len(row) != len(header):
                yield number, WrongLabelError("", f"expected {len(header)} cells"), raw
                continue
            yield number, dict(zip(header, row, strict=True)), raw
    except csv.Error as exc:
        raise RefusedFileError(f"line {rows.line_num}: expected CSV: {exc}") from None


def _lines(key: str, body: bytes) -> Iterator[tuple[int, Any, Format, str]]:
    name = key.lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        body = _inflated(body)
    form = next((form for suffix, form in SUFFIXES.items() if name.endswith(suffix)), None)
    if form is None:
        raise RefusedFileError(f"expected a file that ends in {', '.join(SUFFIXES)}, or .gz of one")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise RefusedFileError(
            f"expected UTF-8, got another encoding at byte {exc.start}"
        ) from None
    for count_, (number, entry, raw) in enumerate(_split(text, form), 1):
        if count_ > MAX_LINES:
            raise RefusedFileError(
                f"expected at most {MAX_LINES:,} lines; those before were taken: divide the rest"
            )
        yield number, entry, form, raw


def _inflated(body: bytes) -> bytes:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = inflater.decompress(body, MAX_FILE_BYTES + 1)
    except zlib.error:
        raise RefusedFileError("expected gzip: the file is damaged") from None
    if len(plain) > MAX_FILE_BYTES:
        raise RefusedFileError(f"expected at most {MAX_FILE_BYTES:,} bytes: divide the file")
    if not inflater.eof:
        raise RefusedFileError("expected gzip: the file is cut off")
    return plain
