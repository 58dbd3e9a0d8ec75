"""Answers as bytes: JSON by row or by column, CSV, Arrow; whole columns at a time.

A JSON answer by row repeats the same keys around different numbers. So all numbers of the answer
are written at once, and put between the keys' bytes: no row becomes an object of its own. Numbers
have as many digits as tell a 32-bit float apart, which is what the model gave.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from millrace.errors import (
    FieldProblem,
    InvalidRequestError,
    NotAcceptableError,
    RequestTooLargeError,
)
from millrace.serving.codec import Form, SignatureCodec
from millrace.serving.explanation import contributions
from millrace.serving.intervals import DEFAULT_COVERAGE, intervals
from millrace.serving.prediction import Prediction
from millrace.vocabulary import Task

type Values = npt.NDArray[np.float32] | npt.NDArray[np.float64] | list[Any]

_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY


class Output(StrEnum):
    """What an answer can tell of each row."""

    LABELS = "labels"
    PROBABILITIES = "probabilities"
    CONTRIBUTIONS = "contributions"
    INTERVALS = "intervals"


class Format(StrEnum):
    """What an answer is written in, by its media type."""

    JSON = "application/json"
    CSV = "text/csv"
    ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What an answer tells, and in which form.

    Attributes:
        outputs: What is told of each row; a regression always tells its value.
        coverage: The share of rows whose truth an interval promises to hold.
        form: JSON by row or by column, the faster form of many rows.
    """

    outputs: frozenset[Output] = frozenset({Output.LABELS, Output.PROBABILITIES})
    coverage: float = DEFAULT_COVERAGE
    form: Form = "rows"


DEFAULT_OPTIONS: Final = AnswerOptions()
_IN_COLUMNS: Final = AnswerOptions(form="columns")
_COLUMNS_ASKED: Final = {"form": "columns"}
_COSTLY: Final = frozenset({Output.CONTRIBUTIONS, Output.INTERVALS})


def read_options(given: Mapping[str, Any]) -> AnswerOptions:
    """Options as a body names them.

    Args:
        given: Keys among ``outputs``, ``coverage`` and ``form``, and their values in JSON.

    Raises:
        InvalidRequestError: Names the key that is wrong.
    """
    if given == _COLUMNS_ASKED:
        return _IN_COLUMNS
    outputs: Any = DEFAULT_OPTIONS.outputs
    if "outputs" in given:
        outputs = given["outputs"]
        known = [str(o) for o in Output]
        if not isinstance(outputs, list) or not outputs or any(o not in known for o in outputs):
            raise _wrong("outputs", f"an array of one or more of {', '.join(known)}")
    coverage: Any = given.get("coverage", DEFAULT_COVERAGE)
    if type(coverage) not in (int, float) or not 0 < coverage < 1:
        raise _wrong("coverage", "a number between 0 and 1")
    form: Any = given.get("form", "rows")
    if form not in ("rows", "columns"):
        raise _wrong("form", "rows or columns")
    return AnswerOptions(frozenset(map(Output, outputs)), coverage, form)


def _wrong(key: str, expected: str) -> InvalidRequestError:
    message = f"expected {expected}"
    return InvalidRequestError(f"{key}: {message}", [FieldProblem(key, message)])


# ── Which format ────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=256)
def acceptable(accept: str) -> Format:
    """The best format by an ``Accept`` header; JSON where nothing else is preferred.

    Raises:
        NotAcceptableError: None of the formats there are.
    """
    best, most = None, 0.0
    ranges = [_range(part) for part in accept.lower().split(",") if part.strip()]
    if not ranges:
        return Format.JSON
    for offered in Format:
        # The most specific range that fits decides about a format (RFC 9110, 12.5.1).
        fitting = [(s, q) for pattern, s, q in ranges if _fits(pattern, s, offered)]
        quality = max(fitting)[1] if fitting else 0.0
        if quality > most:
            best, most = offered, quality
    if best is None:
        raise NotAcceptableError(f"expected to be asked for one of {', '.join(Format)}")
    return best


def _range(part: str) -> tuple[str, int, float]:
    """A media range: its pattern, how specific it is, and its quality."""
    pattern, *parameters = (word.strip() for word in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    kind, _, subtype = pattern.partition("/")
    return pattern, (kind != "*") + (subtype != "*"), quality


def _fits(pattern: str, specific: int, offered: Format) -> bool:
    if specific == 0:
        return True
    if specific == 1:
        return offered.partition("/")[0] == pattern.partition("/")[0]
    return pattern == offered or (offered is Format.JSON and pattern.endswith("+json"))


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────


class Writer:
    """Writes the answers of one signature.

    Args:
        codec: Of the signature.
    """

    def __init__(self, codec: SignatureCodec) -> None:
        signature = codec.signature
        self.signature = signature
        self.labels = codec.labels
        self._answer_bytes = codec.limits.answer_bytes
        self._regression = signature.task is Task.REGRESSION
        self._keys = [orjson.dumps(c) for c in signature.classes]
        written = [orjson.dumps(label) for label in codec.labels.tolist()]
        first = [b'{"label":%b,"probabilities":{%b:' % (w, self._keys[0]) for w in written]
        self._start_list = [b"}}," + f for f in first]
        self._starts = _objects(self._start_list)
        self._label_rows = _objects([b'{"label":%b}' % w for w in written])
        self._between = [b",%b:" % key for key in self._keys[1:]]

    def write(self, prediction: Prediction, options: AnswerOptions, written_in: Format) -> bytes:
        """The answer's body.

        Args:
            prediction: The answer.
            options: What it tells.
            written_in: The format.

        Raises:
            InvalidRequestError: The version cannot give an output that is asked for.
            RequestTooLargeError: More rows than are explained at once.
        """
        if written_in is Format.JSON:
            return self.json(prediction, options)
        columns = self.table(prediction, options)
        if written_in is Format.CSV:
            return csv_of(columns)
        # Loaded when it is needed: few callers speak Arrow.
        from millrace.serving.arrow import arrow_of

        return arrow_of(columns)

    def json(self, prediction: Prediction, options: AnswerOptions) -> bytes:
        """The answer as JSON.

        Raises:
            RequestTooLargeError: The answer is longer than one response may be.
        """
        if options.form == "columns":
            told = b'"columns":%b' % self._json_columns(prediction, options)
        elif options.outputs & _COSTLY:
            told = b'"predictions":%b' % orjson.dumps(self._rows(prediction, options))
        else:
            told = b'"predictions":[%b]' % self.json_rows(prediction.output, options)
        warnings = prediction.batch.warnings
        body = b'{"model":"%b","version":%d,"prediction_id":"%b",%b,"warnings":%b}' % (
            prediction.model.encode(),
            prediction.version,
            prediction.prediction_id.encode(),
            told,
            orjson.dumps(warnings) if warnings else b"[]",
        )
        if len(body) > self._answer_bytes:
            rows = prediction.batch.rows
            raise RequestTooLargeError(
                f"the answer to {rows:,} rows has {len(body):,} bytes and may have "
                f"{self._answer_bytes:,}: divide the rows over several requests, ask for it by "
                "column, or score them as a batch"
            )
        return body

    def json_rows(self, output: npt.NDArray[np.float32], options: AnswerOptions) -> bytes:
        """The objects of all rows, between which and around whose numbers the keys' bytes are put."""
        rows = len(output)
        if self._regression:
            starts = [b'},{"value":'] * rows
            ends, between = b"}", []
        elif Output.PROBABILITIES not in options.outputs:
            chosen: list[bytes] = self._label_rows[output.argmax(axis=1)].tolist()
            return b",".join(chosen)
        else:
            if Output.LABELS in options.outputs:
                starts = (
                    self._starts[output.argmax(axis=1)].tolist()
                    if rows > 1
                    else [self._start_list[(row := output[0].tolist()).index(max(row))]]
                )
            else:
                starts = [b'}},{"probabilities":{%b:' % self._keys[0]] * rows
            ends, between = b"}}", self._between
        if len(between) == 1:
            return _around_pairs(output, starts, between[0], ends)
        numbers = _numbers(output)
        stride = 2 + 2 * len(between)
        parts: list[bytes] = [b""] * (rows * stride)
        parts[0::stride] = starts
        parts[1::2] = numbers
        for position, key in enumerate(between, 1):
            parts[2 * position :: stride] = [key] * rows
        parts[0] = parts[0][len(ends) + 1 :]
        parts.append(ends)
        return b"".join(parts)

    def _rows(self, prediction: Prediction, options: AnswerOptions) -> list[dict[str, Any]]:
        """One object per row, where outputs are asked for that cost much more than objects."""
        rows: list[dict[str, Any]]
        if self._regression or options.outputs & DEFAULT_OPTIONS.outputs:
            rows = orjson.loads(b"[%b]" % self.json_rows(prediction.output, options))
        else:
            rows = [{} for _ in range(prediction.batch.rows)]
        if Output.CONTRIBUTIONS in options.outputs:
            parts = contributions(prediction.loaded, prediction.batch)
            for row, told in zip(rows, parts.told(self.labels), strict=True):
                row["contributions"] = told
        if Output.INTERVALS in options.outputs:
            around = intervals(self.signature, prediction.output, options.coverage)
            for row, told in zip(rows, around.told(self.labels), strict=True):
                row["interval"] = told
        return rows

    def _json_columns(self, prediction: Prediction, options: AnswerOptions) -> bytes:
        output = prediction.output
        columns: dict[str, Any] = {}
        if self._regression:
            columns["value"] = output
        else:
            if Output.LABELS in options.outputs:
                columns["label"] = self.labels[output.argmax(axis=1)].tolist()
            if Output.PROBABILITIES in options.outputs:
                each = np.ascontiguousarray(output.T)
                columns["probabilities"] = dict(zip(self.signature.classes, each, strict=True))
        if Output.CONTRIBUTIONS in options.outputs:
            parts = contributions(prediction.loaded, prediction.batch)
            each = np.ascontiguousarray(parts.values.T)
            columns["contributions"] = {
                **({} if parts.classes is None else {"label": self.labels[parts.classes].tolist()}),
                "base": parts.base,
                "values": dict(zip(parts.features, each, strict=True)),
            }
        if Output.INTERVALS in options.outputs:
            around = intervals(self.signature, output, options.coverage)
            columns["interval"] = {"coverage": around.coverage}
            if around.inside is not None:
                columns["interval"]["labels"] = [self.labels[r].tolist() for r in around.inside]
            else:
                columns["interval"] |= {"lower": around.lower, "upper": around.upper}
        return orjson.dumps(columns, option=_NUMPY)

    def table(self, prediction: Prediction, options: AnswerOptions) -> dict[str, Values]:
        """The answer as one table, for formats that know no nesting."""
        output = prediction.output
        columns: dict[str, Values] = {}
        if self._regression:
            columns["value"] = output
        else:
            if Output.LABELS in options.outputs:
                columns["label"] = self.labels[output.argmax(axis=1)].tolist()
            if Output.PROBABILITIES in options.outputs:
                for name, values in zip(self.signature.classes, output.T, strict=True):
                    columns[f"probability_{name}"] = np.ascontiguousarray(values)
        if Output.CONTRIBUTIONS in options.outputs:
            parts = contributions(prediction.loaded, prediction.batch)
            if parts.classes is not None:
                columns["contributions_label"] = self.labels[parts.classes].tolist()
            columns["contributions_base"] = parts.base
            for name, values in zip(parts.features, parts.values.T, strict=True):
                columns[f"contribution_{name}"] = np.ascontiguousarray(values)
        if Output.INTERVALS in options.outputs:
            around = intervals(self.signature, output, options.coverage)
            if around.inside is not None:
                columns["interval_labels"] = [
                    orjson.dumps(self.labels[row].tolist()).decode() for row in around.inside
                ]
            elif around.lower is not None and around.upper is not None:
                columns |= {"interval_lower": around.lower, "interval_upper": around.upper}
        return columns


def _around_pairs(
    output: npt.NDArray[np.float32], starts: list[bytes], between: bytes, end: bytes
) -> bytes:
    """The objects of rows of two numbers: what is between two is put there for all rows at once."""
    written = orjson.dumps(np.ascontiguousarray(output), option=_NUMPY)[2:-2]
    # No JSON text has the end of a line in it.
    pairs = written.replace(b"],[", b"\n").replace(b",", between).split(b"\n")
    parts: list[bytes] = [b""] * (2 * len(pairs))
    parts[0::2] = starts
    parts[1::2] = pairs
    parts[0] = parts[0][len(end) + 1 :]
    parts.append(end)
    return b"".join(parts)


def csv_of(columns: Mapping[str, Values]) -> bytes:
    """A table as CSV with a header (RFC 4180)."""
    names = ",".join(_quoted(name) for name in columns)
    written = [
        _numbers(values) if isinstance(values, np.ndarray) else [_cell(v) for v in values]
        for values in columns.values()
    ]
    lines = [names.encode(), *map(b",".join, zip(*written, strict=True)), b""]
    return b"\r\n".join(lines)


def _numbers(values: npt.NDArray[Any]) -> list[bytes]:
    """Finite numbers, each as JSON writes it."""
    return orjson.dumps(np.ascontiguousarray(values).reshape(-1), option=_NUMPY)[1:-1].split(b",")


def _cell(value: str | int | bool) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return _quoted(str(value)).encode()


def _quoted(text: str) -> str:
    if _NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


_NEEDS_QUOTES: Final = re.compile(r'[",\r\n]')


def _objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made
