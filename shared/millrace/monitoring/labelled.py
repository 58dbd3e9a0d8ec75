"""Captured inputs with the labels that came for them, as rows that a training can take.

A row is a row of the contract: the features as the model took them (numbers in 32 bits), the target
as it was told. What predictions do not carry is filled in where that is honest: a text id is the
prediction's own, a time is when it was made, an ignored or sensitive column is empty. Where it is
not, the model's labelled predictions are no rows, and `usable.why_not_usable` says why.
"""

import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from millrace.monitoring.captures import ListedObjects, captured, hours
from millrace.monitoring.labels import Label, LabelledRow, RowKey, joined
from millrace.spec import ColumnType, ModelSpec, Role

MAX_ROWS: Final = 1_000_000
"""Labelled rows that one training takes in: the newest, by whole hours."""
PREDICTION: Final = "prediction_id"
ROW: Final = "row"
VALUE: Final = "c:"
"""Before the contract's names in the file of labelled rows, so that none collides with the two."""
_HOUR: Final = timedelta(hours=1)


class LabelsOfSpan(Protocol):
    """Reads labels: `labelbook.LabelBook` is one."""

    def of_span(
        self, model: str, since: datetime, until: datetime
    ) -> Iterator[tuple[RowKey, Label]]:
        """Labels of every prediction that was made in a span of time."""
        ...


@dataclass(frozen=True, slots=True)
class Joined:
    """What a span of predictions came to.

    Attributes:
        captured: Captured rows.
        rows: Those with a label, which were written.
        lacking: Those with a label whose version took another set of features.
        since: From when on, which is later than asked for where there are too many.
    """

    captured: int
    rows: int
    lacking: int
    since: datetime


def write_labelled(
    spec: ModelSpec,
    *,
    objects: ListedObjects,
    bucket: str,
    book: LabelsOfSpan,
    since: datetime,
    until: datetime,
    path: Path,
    most: int = MAX_ROWS,
) -> Joined:
    """Writes every labelled row of a span as gzipped JSON Lines, one hour at a time in memory.

    Args:
        spec: The model's spec; `usable.why_not_usable` says nothing of it.
        objects: Where captured predictions are read.
        bucket: The data bucket.
        book: Where labels are read.
        since: From this moment on.
        until: Before this moment.
        path: The file to write.
        most: Rows to stop at, the newest hours first.
    """
    counts = _Counts()
    with gzip.open(path, "wb", compresslevel=1) as file:
        for hour in reversed(list(hours(since, until))):
            begin, end = max(hour, since), min(hour + _HOUR, until)
            labels = list(book.of_span(spec.name, begin, end))
            if not labels:
                continue
            predictions = captured(objects, bucket, spec.name, begin, end)
            for line in _lines(spec, joined(predictions, labels), counts):
                file.write(line)
            if counts.rows >= most:
                since = begin
                break
    return Joined(counts.captured, counts.rows, counts.lacking, since)


@dataclass(slots=True)
class _Counts:
    captured: int = 0
    rows: int = 0
    lacking: int = 0


def _lines(spec: ModelSpec, rows: Iterable[LabelledRow], counts: _Counts) -> Iterator[bytes]:
    names = {feature.name for feature in spec.features}
    for row in rows:
        counts.captured += 1
        if row.label is None:
            continue
        if not names <= row.prediction.inputs.keys():
            counts.lacking += 1
            continue
        counts.rows += 1
        yield orjson.dumps(_row(spec, row, row.label.value), option=orjson.OPT_APPEND_NEWLINE)


def _row(spec: ModelSpec, row: LabelledRow, label: str) -> dict[str, Any]:
    made = row.prediction
    line: dict[str, Any] = {PREDICTION: made.prediction_id, ROW: row.row}
    for column in spec.data.columns:
        value: str | None = None
        match column.role:
            case Role.FEATURE:
                value = _text(made.inputs[column.name][row.position], column.type)
            case Role.TARGET:
                value = label
            case Role.ID if column.type is ColumnType.STRING:
                value = f"{made.prediction_id}/{row.row}"
            case Role.TIME:
                value = made.at.isoformat()
            case _:
                pass
        line[VALUE + column.name] = value
    return line


def _text(value: Any, kind: ColumnType) -> str | None:
    """A captured value as the contract writes it; None for a missing one."""
    if value is None or value == "":
        return None
    match kind:
        case ColumnType.BOOLEAN:
            return "true" if value else "false"
        case ColumnType.INTEGER if isinstance(value, float) and value.is_integer():
            return str(int(value))
        case _:
            return str(value)
