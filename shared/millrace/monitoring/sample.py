"""Captured rows of a window with their labels: as many as tell enough, however many there are.

What is read is bounded: `MAX_READ` rows, `MAX_OBJECTS` objects, and `MAX_LABELS` labels. Of more
traffic a part is read, by chance and always the same part: objects are named by a digest, so those
whose names begin low are a random choice; and of the rows in them an even part is kept, chosen by a
hash of the prediction's id. Labelled rows are worth more and are all kept, so what concerns all rows is
told from the even part alone (`Sample.even`).
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import batched, chain, islice, zip_longest
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from millrace import layout
from millrace.errors import NotFoundError
from millrace.monitoring.baseline import Baseline
from millrace.monitoring.binning import category_text
from millrace.monitoring.captures import ListedObjects, hours, read_object
from millrace.monitoring.labels import Label, RowKey
from millrace.serving.capture import CapturedPrediction
from millrace.spec import Task

MAX_READ: Final = 50_000
"""Rows that are read of a window."""
MAX_ROWS: Final = 10_000
"""Rows that are kept of those, and again as many that are labelled."""
MAX_OBJECTS: Final = 1_000
MAX_LABELS: Final = 50_000
"""Labels that are read of a window at once; where there are more, those of the kept rows are."""
_READERS: Final = 16
_ATTEMPTS: Final = 3

type Floats = npt.NDArray[np.float64]


class Labels(Protocol):
    """What reading takes: `labelbook.LabelBook` is one."""

    def of_span(
        self, model: str, since: datetime, until: datetime
    ) -> Iterator[tuple[RowKey, Label]]:
        """Labels of every prediction that was made in a span of time."""
        ...

    def of_rows(self, model: str, rows: Sequence[RowKey]) -> dict[RowKey, Label]:
        """Labels of those rows that have one."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of one version in one window.

    Attributes:
        since: Begin of the window.
        until: Its end; not part of it.
        inputs: Public features as captured: numbers with None for missing, texts with "" for missing.
        output: Probabilities in the order of the baseline's classes, or predictions of a regression.
        labels: What is known of each row, as labels are kept; None where nothing is.
        even: Rows that every row had the same chance to be among.
        share: What that chance was.
        objects: Objects that were read.
    """

    since: datetime
    until: datetime
    inputs: Mapping[str, Sequence[Any]]
    output: Floats
    labels: Sequence[str | None]
    even: npt.NDArray[np.bool_]
    share: float
    objects: int

    @property
    def rows(self) -> int:
        """Rows that are here."""
        return len(self.labels)

    def take(self, rows: npt.NDArray[Any]) -> "Sample":
        """Some of the rows, given by position or mask."""
        places = (np.flatnonzero(rows) if rows.dtype == np.bool_ else rows).tolist()
        return Sample(
            self.since,
            self.until,
            {name: [values[i] for i in places] for name, values in self.inputs.items()},
            self.output[places],
            [self.labels[i] for i in places],
            self.even[places],
            self.share,
            self.objects,
        )


def read_sample(
    *,
    objects: ListedObjects,
    bucket: str,
    labels: Labels,
    baseline: Baseline,
    since: datetime,
    until: datetime,
    expected: int,
    most: int = MAX_ROWS,
) -> Sample:
    """Reads what was captured of the baseline's version in a window, and what became of it.

    Args:
        objects: Where the data bucket is read.
        bucket: The data bucket.
        labels: What is known.
        baseline: Of the version whose rows are wanted.
        since: From this moment on.
        until: Before this moment.
        expected: Captured rows of the window, of all versions, as they were counted: says how large
            a part is read.
        most: Rows to keep, and again as many that are labelled.

    Raises:
        ArtifactError: A stored object is damaged or of a schema that this version does not read.
        NotFoundError: Objects kept vanishing.
    """
    model = baseline.model
    told = dict(islice(labels.of_span(model, since, until), MAX_LABELS + 1))
    known = told if len(told) <= MAX_LABELS else None
    budget = MAX_READ if known is not None else most
    part = min(1.0, budget / max(expected, 1))
    keys, records = _read(objects, bucket, baseline, since, until, part)
    read = sum(len(record.kept_rows) for record in records)
    kept = min(1.0, most / max(read, 1))
    reading = _Reading(baseline, kept, most)
    for record in records:
        reading.take(record, known)
    if known is None:
        reading.label(labels.of_rows(model, reading.rows))
    return reading.sample(since, until, part * kept, len(keys))


def _read(
    objects: ListedObjects,
    bucket: str,
    baseline: Baseline,
    since: datetime,
    until: datetime,
    part: float,
) -> tuple[list[str], list[CapturedPrediction]]:
    """Objects and what they hold; listed again when one was put together with others meanwhile."""
    left = _ATTEMPTS
    while True:
        left -= 1
        keys = _keys(objects, bucket, baseline.model, since, until, part)
        try:
            return keys, _records(objects, bucket, keys, baseline, since, until)
        except NotFoundError:
            if not left:
                raise


def _keys(
    objects: ListedObjects, bucket: str, model: str, since: datetime, until: datetime, part: float
) -> list[str]:
    """Objects of the window whose digest is among the lowest part; one of each hour at least.

    Hours take turns, and in each turn their order is by chance: whatever is left unread, because there
    is too much, is left unread of every hour.
    """
    by_hour: list[list[tuple[int, str]]] = []
    for hour in hours(since, until):
        prefix = layout.capture_prefix(model, hour)
        found: list[tuple[int, str]] = []
        for key in objects.keys(bucket, prefix):
            digest = int(key[len(prefix) : len(prefix) + 8], 16)
            if len(found) == MAX_OBJECTS or (found and digest / 16**8 >= part):
                break  # keys come in order
            found.append((digest, key))
        by_hour.append(found)
    turns = (sorted(filter(None, turn)) for turn in zip_longest(*by_hour))
    return [key for _, key in islice(chain.from_iterable(turns), MAX_OBJECTS)]


def _records(
    objects: ListedObjects,
    bucket: str,
    keys: Sequence[str],
    baseline: Baseline,
    since: datetime,
    until: datetime,
) -> list[CapturedPrediction]:
    """The version's captured predictions, each once, in the order of their ids."""
    found: dict[str, CapturedPrediction] = {}
    rows = 0
    with ThreadPoolExecutor(_READERS) as pool:
        for some in batched(keys, _READERS, strict=False):
            for body, key in zip(
                pool.map(lambda k: objects.read(bucket, k), some), some, strict=True
            ):
                for record in read_object(body, f"s3://{bucket}/{key}"):
                    if record.version == baseline.version and since <= record.at < until:
                        rows += len(record.kept_rows)
                        found[record.prediction_id] = record
            if rows >= 2 * MAX_READ:
                break
    return [found[name] for name in sorted(found)]


class _Reading:
    """Rows as they are read."""

    def __init__(self, baseline: Baseline, kept: float, most: int) -> None:
        self.rows: list[RowKey] = []
        self._kept = kept
        self._most = most
        self._labelled = 0
        self._texts = {f.name: f.type == "string" for f in baseline.features if not f.private}
        self._columns: dict[str, list[Any]] = {name: [] for name in self._texts}
        self._output: list[Any] = []
        self._labels: list[str | None] = []
        self._even: list[bool] = []
        self._regression = baseline.task is Task.REGRESSION
        self._classes = len(baseline.classes)

    def take(self, record: CapturedPrediction, known: Mapping[RowKey, Label] | None) -> None:
        """Keeps the rows of a record that are chosen or labelled."""
        (output,) = record.outputs.values()
        for position, number in enumerate(record.kept_rows):
            row = RowKey(record.prediction_id, number)
            even = _chance(row) < self._kept
            label = None if known is None else known.get(row)
            if not even and (label is None or self._labelled >= self._most):
                continue
            answer = self._answer(output[position])
            if answer is None:
                continue  # no answer of this version: its counts left it out as well
            self._labelled += label is not None
            self.rows.append(row)
            self._even.append(even)
            self._labels.append(None if label is None else label.value)
            self._output.append(answer)
            for name, text in self._texts.items():
                column = record.inputs.get(name)
                value = None if column is None else column[position]
                self._columns[name].append(category_text(value) if text else _number(value))

    def _answer(self, output: Any) -> Any:
        """What the version answered; None if that is none of its answers."""
        if self._regression:
            return _number(output)
        if not isinstance(output, list) or not 0 < len(output) <= self._classes:
            return None
        if any(_number(p) is None for p in output):
            return None
        return [*output, *[0.0] * (self._classes - len(output))]  # classes that it lacks come last

    def label(self, known: Mapping[RowKey, Label]) -> None:
        """Fills in what is known of the rows."""
        for place, row in enumerate(self.rows):
            label = known.get(row)
            self._labels[place] = None if label is None else label.value

    def sample(self, since: datetime, until: datetime, share: float, objects: int) -> Sample:
        """What was read."""
        return Sample(
            since,
            until,
            self._columns,
            self._outputs(),
            self._labels,
            np.asarray(self._even, dtype=bool),
            share,
            objects,
        )

    def _outputs(self) -> Floats:
        if self._regression:
            return np.asarray(self._output, dtype=np.float64)
        return np.asarray(self._output, dtype=np.float64).reshape(-1, self._classes)


def _number(value: Any) -> Any:
    """A captured number; None for what is none, as for a missing one."""
    return value if type(value) in _NUMBERS and math.isfinite(value) else None


_NUMBERS: Final = frozenset({int, float, bool})


def _chance(row: RowKey) -> float:
    return zlib.crc32(f"{row.prediction_id}#{row.row}".encode()) / 2**32
