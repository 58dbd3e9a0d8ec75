"""Captured predictions: what the line of a request says, read from the log and kept in S3.

The predict function prints one line per answered request. Facts about the request stand at its top
level, where metrics are read from; a sampled request has the part ``capture`` besides::

    {"_aws": {"Timestamp": 1795285200123, "CloudWatchMetrics": […]}, "service": "millrace",
     "level": "INFO", "message": "predicted", "correlation_id": "…",
     "model": "churn", "version": 3, "prediction_id": "01983f…", "row_count": 2,
     "PredictionLatency": 1.42, "Predictions": 2, "warnings": {"age": 1},
     "capture": {"schema": 1, "process": "5f0e…", "sequence": 17, "rate": 1.0,
                 "inputs": {"age": [41, null], "plan": ["basic", ""]},
                 "outputs": {"probabilities": [[0.9, 0.1], [0.4, 0.6]]},
                 "rows": [0, 1]}}

``process`` is random per process and ``sequence`` numbers its captured lines of the model from 1
without a gap, so that a line that never arrived shows (`missing_lines`). ``rows`` names the request's rows that
the columns hold, when only some fit. Inputs are what the model was given (`journal`): a missing number
is null, a missing text "". Private features are never in ``inputs``.

Of many rows the inputs are packed, which costs the request a fifth of what digits do and makes the
line shorter. Then ``schema`` is 2, and beside ``inputs`` stand::

    "numbers": {"features": ["age", "tenure"], "float32": "…"},
    "texts": {"features": ["plan"], "values": ["basic", "team"], "uint8": "…"}

Either is a matrix row by row, little-endian in base64, with a column for each feature: of 32-bit
floats, NaN for missing, or of places among the values, in the least of 8, 16 and 32 bits that has
room. A feature in neither has its list in ``inputs``, as ever. In place of a list of outputs stands
``{"float32": "…"}``, of probabilities with ``"width": 2``, how many a row has.

Kept is one JSON object per line with the fields of `CapturedPrediction`.
"""

import re
import struct
import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from millrace import base64_text
from millrace.errors import InvalidEventError
from millrace.serving.identity import is_prediction_id, predicted_at
from millrace.vocabulary import MODEL_NAME_PATTERN

SCHEMA: Final = 1
"""Of a line whose inputs are columns, and of what is kept of any."""
PACKED_SCHEMA: Final = 2
"""Of a line with packed inputs, which who knows the first alone would take for none."""
_CODES: Final = {"uint8": "B", "uint16": "H", "uint32": "I"}
_FLOAT32: Final = struct.Struct("f")
_NAME: Final = re.compile(MODEL_NAME_PATTERN)
OUTPUTS: Final = ("probabilities", "prediction")
_MOST: Final = 10**9
"""No line of ours tells a larger whole number, and sums of such are numbers of DynamoDB's."""
_LEAST_RATE: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedPrediction:
    """One sampled request: what went in and what came out, column by column.

    Attributes:
        model: The model.
        version: The version that answered.
        prediction_id: The id that labels will name; it tells when the prediction was made.
        row_count: Rows of the request.
        latency_ms: How long the answer took.
        rate: The share of requests that were sampled; its inverse weighs the record.
        process: The predict process that answered.
        sequence: Number of the line among its process's captured lines of the model, from 1.
        rows: The request's rows that ``inputs`` and ``outputs`` hold, 0-based; None for all.
        inputs: Values of each public feature.
        outputs: ``probabilities``, a list per row, or ``prediction``, a number per row.
        warnings: Rows with a value outside the contract, by feature.
    """

    model: str
    version: int
    prediction_id: str
    row_count: int
    latency_ms: float
    rate: float
    process: str
    sequence: int
    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]
    rows: tuple[int, ...] | None = None
    warnings: dict[str, int]

    @property
    def at(self) -> datetime:
        """When the prediction was made, by its id."""
        return predicted_at(self.prediction_id)

    @property
    def kept_rows(self) -> range | tuple[int, ...]:
        """The request's rows that are here, in the order of the columns."""
        return range(self.row_count) if self.rows is None else self.rows


def of_line(line: Mapping[str, Any]) -> CapturedPrediction:
    """The captured request that a line of the predict function tells of.

    Raises:
        InvalidEventError: It tells of none; the message names the field and no value.
    """
    part = line.get("capture")
    if not isinstance(part, Mapping):
        raise InvalidEventError("capture: expected an object")
    if part.get("schema") not in (SCHEMA, PACKED_SCHEMA):
        raise InvalidEventError(f"capture.schema: expected {SCHEMA} or {PACKED_SCHEMA}")
    return _checked(
        {
            "model": line.get("model"),
            "version": line.get("version"),
            "prediction_id": line.get("prediction_id"),
            "row_count": line.get("row_count"),
            "latency_ms": line.get("PredictionLatency"),
            "rate": part.get("rate"),
            "process": part.get("process"),
            "sequence": part.get("sequence"),
            "inputs": _inputs(part),
            "outputs": _unpacked(part.get("outputs"), "outputs"),
            "rows": part.get("rows"),
            "warnings": line.get("warnings") or {},
        }
    )


def to_document(record: CapturedPrediction) -> dict[str, Any]:
    """What is kept of a captured request, ready for JSON."""
    document: dict[str, Any] = {"schema": SCHEMA}
    document |= {name: getattr(record, name) for name in record.__slots__}
    if record.rows is None:
        del document["rows"]
    return document


def of_document(document: Mapping[str, Any]) -> CapturedPrediction:
    """The reverse of `to_document`.

    Raises:
        InvalidEventError: It is no such document; the message names the field and no value.
    """
    if document.get("schema") != SCHEMA:
        raise InvalidEventError(f"schema: expected {SCHEMA}")
    names = CapturedPrediction.__slots__
    return _checked({name: document.get(name) for name in names})


def missing_lines(records: Iterable[CapturedPrediction]) -> int:
    """How many captured lines never arrived, as the gaps in their processes' numbering tell.

    A line lost before a process's first or after its last seen here leaves no gap; the metrics
    ``CapturedRequests`` and ``CapturedRecords`` tell of those.
    """
    seen: dict[tuple[str, str], set[int]] = {}
    for record in records:
        seen.setdefault((record.process, record.model), set()).add(record.sequence)
    return sum(max(numbers) - min(numbers) + 1 - len(numbers) for numbers in seen.values())


def _inputs(part: Mapping[str, Any]) -> Any:
    """The inputs of a capture record as a list for each feature."""
    inputs = _unpacked(part.get("inputs"), "inputs")
    if not isinstance(inputs, dict):
        return inputs
    for name, read in (("numbers", _float_columns), ("texts", _text_columns)):
        matrix = part.get(name)
        if matrix is None:
            continue
        if not isinstance(matrix, Mapping):
            raise InvalidEventError(f"{name}: expected an object")
        features = matrix.get("features")
        if (
            not isinstance(features, list)
            or not features
            or not all(isinstance(feature, str) for feature in features)
            or len(inputs.keys() | features) < len(inputs) + len(features)
        ):
            raise InvalidEventError(f"{name}.features: expected names, each given once")
        values = read(matrix)
        if len(values) % len(features):
            raise InvalidEventError(f"{name}: expected a value of each feature in every row")
        for place, feature in enumerate(features):
            inputs[feature] = values[place :: len(features)]
    return inputs


def _float_columns(matrix: Mapping[str, Any]) -> list[Any]:
    return _numbers({"float32": matrix.get("float32")}, "numbers")


def _text_columns(matrix: Mapping[str, Any]) -> list[Any]:
    values = matrix.get("values")
    if not isinstance(values, list):
        raise InvalidEventError("texts.values: expected a list")
    for name, kind in _CODES.items():
        if name in matrix:
            try:
                return [values[code] for code in _array(kind, matrix[name])]
            except (IndexError, TypeError, ValueError) as exc:
                raise InvalidEventError(f"texts.{name}: expected places of values") from exc
    raise InvalidEventError(f"texts: expected {' or '.join(_CODES)}")


def _unpacked(columns: Any, part: str) -> Any:
    """Columns with lists in place of packed numbers."""
    if not isinstance(columns, Mapping):
        return columns
    return {
        name: _numbers(column, f"{part}.{name}") if isinstance(column, Mapping) else column
        for name, column in columns.items()
    }


def _numbers(packed: Mapping[str, Any], name: str) -> list[Any]:
    """Packed numbers as a list; of rows of several, a list of lists."""
    width = packed.get("width")
    try:
        values = _array("f", packed["float32"])
        if width is not None and (not _whole(width, 1) or len(values) % width):
            raise ValueError(name)
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidEventError(f"{name}: expected 32-bit floats in base64") from exc
    numbers = list(map(_shortest, values))
    if width is None:
        return numbers
    return [numbers[start : start + width] for start in range(0, len(numbers), width)]


def _array(kind: str, text: Any) -> "array[Any]":
    """Numbers from base64.

    Raises:
        TypeError: It is no text.
        ValueError: It is no base64, or not of a whole number of them.
    """
    values = array(kind, base64_text.decode(text))
    if sys.byteorder != "little":
        values.byteswap()
    return values


def _shortest(value: float) -> float | None:
    """A 32-bit float as the shortest decimal that tells it, as in JSON; None for NaN."""
    if value != value:
        return None
    for digits in (7, 8):
        told = float(f"{value:.{digits}g}")
        try:
            if _FLOAT32.unpack(_FLOAT32.pack(told))[0] == value:
                return told
        except OverflowError:  # rounded up beyond the largest
            continue
    return float(f"{value:.9g}")


def _checked(values: dict[str, Any]) -> CapturedPrediction:
    for name, wanted in _EXPECTED.items():
        if not wanted[0](values[name]):
            raise InvalidEventError(f"{name}: expected {wanted[1]}")
    if values["rows"] is not None:
        values["rows"] = tuple(values["rows"])
    record = CapturedPrediction(**values)
    kept = len(record.kept_rows)
    parts: dict[str, dict[str, Any]] = {"inputs": values["inputs"], "outputs": values["outputs"]}
    for part, columns in parts.items():
        for name, column in columns.items():
            if not isinstance(column, list) or len(column) != kept:
                raise InvalidEventError(
                    f"{part}.{name}: expected a list of {kept} values, one for each row kept"
                )
    if not record.outputs or not set(record.outputs) <= set(OUTPUTS):
        raise InvalidEventError(f"outputs: expected {' or '.join(OUTPUTS)}")
    return record


def _whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value <= _MOST


def _number(value: Any) -> bool:
    return type(value) in (int, float)


_EXPECTED: Final[dict[str, tuple[Any, str]]] = {
    "model": (lambda v: isinstance(v, str) and _NAME.fullmatch(v), "the name of a model"),
    "version": (lambda v: _whole(v, 1), "a version number"),
    "prediction_id": (
        lambda v: isinstance(v, str) and is_prediction_id(v),
        "a UUID of version 7",
    ),
    "row_count": (lambda v: _whole(v, 1), "a number of rows"),
    "latency_ms": (_number, "milliseconds"),
    "rate": (lambda v: _number(v) and _LEAST_RATE <= v <= 1, "a share above 0 and at most 1"),
    "process": (lambda v: isinstance(v, str) and 0 < len(v) <= 64, "a text"),
    "sequence": (lambda v: _whole(v, 1), "a number from 1"),
    "inputs": (lambda v: isinstance(v, dict), "an object of columns"),
    "outputs": (lambda v: isinstance(v, dict), "an object of columns"),
    "rows": (
        lambda v: v is None or (isinstance(v, list | tuple) and all(_whole(i) for i in v)),
        "row numbers from 0, or nothing",
    ),
    "warnings": (
        lambda v: isinstance(v, dict) and all(_whole(n) for n in v.values()),
        "numbers of rows by feature",
    ),
}
