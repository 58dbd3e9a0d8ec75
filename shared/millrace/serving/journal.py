"""The one line that a prediction leaves on the log: what happened, its metrics, what to keep of it.

Log line, metrics and capture record are one JSON object, written by hand: it is valid CloudWatch
embedded metric format, so that CloudWatch takes the metrics out of it, and a log subscription
carries the rest on. With a logger and a metrics library the same took longer than a prediction.

Keys, beside those of every log line (``level``, ``message``, ``timestamp``, ``service``,
``correlation_id``): ``model``, ``version``, ``prediction_id``, ``row_count``, ``warnings`` (rows
outside the contract, by feature) and, for the share of requests that the spec's
``monitor.capture_rate`` asks for, ``capture``::

    {"schema": 1, "process": "5f0e…", "sequence": 17, "rate": 0.1,
     "inputs": {"age": [41.0, null], "plan": ["basic", ""]},
     "outputs": {"probabilities": [[0.25, 0.75], …]}}       # or {"prediction": [12.5, …]}

`capture` reads it again and says what ``process`` and ``sequence`` are for. Inputs are what the model was given: numbers in 32 bits, booleans as 0 and 1, missing null or "".
Private features are not among them. A line never passes `MAX_LINE_BYTES`: of more rows than it
carries, some are kept, evenly spread, and ``rows`` names them.
"""

import os
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from millrace.observability import METRICS, NAMESPACE, SERVICE
from millrace.serving.capture import SCHEMA
from millrace.serving.prediction import Prediction
from millrace.vocabulary import Task

MAX_LINE_BYTES: Final = 200_000
"""CloudWatch takes events of 256 kB, and a subscription packs several into one invocation."""

_ROOM: Final = MAX_LINE_BYTES - 4_000
_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_TRACE_VARIABLE: Final = "_X_AMZN_TRACE_ID"

type _Write = Callable[[str], object]


class PredictionLog:
    """Writes one line for each answer and each refusal.

    Args:
        write: Takes a line with its end; standard output by default.
        now: Seconds since the epoch.
        chance: A number from 0 to below 1, anew at each call.
    """

    def __init__(
        self,
        write: _Write | None = None,
        *,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._write = write or _to_stdout
        self._now = now
        self._chance = chance
        self._process = ""
        self._sequences: dict[str, int] = {}
        self._metadata: dict[tuple[str | None, tuple[str, ...]], str] = {}

    def answered(self, prediction: Prediction, *, seconds: float, correlation_id: str) -> None:
        """Writes the line of an answer."""
        batch = prediction.batch
        fields: dict[str, Any] = {
            "correlation_id": correlation_id,
            "version": prediction.version,
            "prediction_id": prediction.prediction_id,
            "row_count": batch.rows,
            METRICS.PREDICTIONS: batch.rows,
            METRICS.PREDICTION_LATENCY: round(seconds * 1e3, 3),
        }
        metrics: tuple[str, ...] = _ANSWERED
        if batch.warnings:
            fields["warnings"] = {w.field: w.count for w in batch.warnings}
        if batch.unknown_categories:
            fields[METRICS.UNKNOWN_CATEGORIES] = batch.unknown_categories
            metrics = _ANSWERED_UNKNOWN
        rate = prediction.loaded.record.capture_rate
        record = b""
        if rate > 0 and (rate >= 1 or self._chance() < rate):
            record = self._captured(prediction, rate)
        if record:
            fields[METRICS.CAPTURED_REQUESTS] = 1
            metrics = (*metrics, METRICS.CAPTURED_REQUESTS)
        self._line("predicted", prediction.model, metrics, fields, record)

    def refused(
        self, error: Exception, *, model: str | None, seconds: float, correlation_id: str
    ) -> None:
        """Writes the line of a refusal; neither values nor invented names are on it."""
        fields: dict[str, Any] = {
            "correlation_id": correlation_id,
            "error": type(error).__name__,
            "fields": len(getattr(error, "problems", ())),
            "milliseconds": round(seconds * 1e3, 3),
            METRICS.PREDICTIONS_REFUSED: 1,
        }
        self._line("prediction refused", model, _REFUSED, fields, b"")

    def _captured(self, prediction: Prediction, rate: float) -> bytes:
        """The capture record of a prediction, of as many rows as a line carries."""
        if not self._process:
            # Not at construction: processes restored from one snapshot must not share it.
            self._process = os.urandom(8).hex()
        sequence = self._sequences.get(prediction.model, 0) + 1
        about = {
            "schema": SCHEMA,
            "process": self._process,
            "sequence": sequence,
            "rate": rate,
        }
        rows = prediction.batch.rows
        whole = _record(prediction, about, None)
        while len(whole) > _ROOM and rows > 1:
            rows = max(1, min(rows - 1, int(rows * _ROOM / len(whole) * 0.95)))
            whole = _record(prediction, about, np.arange(rows) * prediction.batch.rows // rows)
        if len(whole) > _ROOM:
            return b""
        # Only now: a line that is not written leaves no gap in the numbers.
        self._sequences[prediction.model] = sequence
        return whole

    def _line(
        self,
        message: str,
        model: str | None,
        metrics: tuple[str, ...],
        fields: dict[str, Any],
        record: bytes,
    ) -> None:
        now = self._now()
        # nosemgrep: environment-read-in-the-domain -- Lambda sets it anew for each invocation
        trace = os.environ.get(_TRACE_VARIABLE)
        if trace:
            fields["xray_trace_id"] = trace.partition(";")[0].removeprefix("Root=")
        key = (model, metrics)
        beginning = self._metadata.get(key)
        if beginning is None:
            beginning = self._metadata[key] = _beginning(message, model, metrics)
        timestamp = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        rest = orjson.dumps(fields).decode()
        kept = f',"capture":{record.decode()}' if record else ""
        self._write(
            f'{{"level":"INFO","timestamp":"{timestamp}","_aws":{{"Timestamp":{int(now * 1e3)},'
            f"{beginning},{rest[1:-1]}{kept}}}\n"
        )


def _record(
    prediction: Prediction, about: dict[str, Any], kept: npt.NDArray[np.intp] | None
) -> bytes:
    batch, signature = prediction.batch, prediction.loaded.signature
    numeric, categorical, output = batch.numeric, batch.categorical, prediction.output
    if kept is not None:
        numeric, categorical, output = numeric[kept], categorical[kept], output[kept]
    inputs: dict[str, Any] = {}
    for position, feature in enumerate(signature.numeric):
        if not feature.private:
            inputs[feature.name] = np.ascontiguousarray(numeric[:, position])
    for position, feature in enumerate(signature.categorical):
        if not feature.private:
            inputs[feature.name] = categorical[:, position].tolist()
    name = "prediction" if signature.task is Task.REGRESSION else "probabilities"
    record = about | {"inputs": inputs, "outputs": {name: np.ascontiguousarray(output)}}
    if kept is not None:
        record["rows"] = kept.tolist()
    return orjson.dumps(record, option=_NUMPY)


# ── Embedded metrics ────────────────────────────────────────────────────────────────────────────

_UNITS: Final = {METRICS.PREDICTION_LATENCY: "Milliseconds"}
_ANSWERED: Final = (METRICS.PREDICTIONS, METRICS.PREDICTION_LATENCY)
_ANSWERED_UNKNOWN: Final = (*_ANSWERED, METRICS.UNKNOWN_CATEGORIES)
_REFUSED: Final = (METRICS.PREDICTIONS_REFUSED,)


def _beginning(message: str, model: str | None, metrics: tuple[str, ...]) -> str:
    """The part of a line that is the same for every request of a model."""
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["service"], *([["service", "model"]] if model else [])],
        "Metrics": [{"Name": m, "Unit": _UNITS.get(m, "Count")} for m in metrics],
    }
    facts = {"message": message, "service": SERVICE, **({"model": model} if model else {})}
    return (
        f'"CloudWatchMetrics":[{orjson.dumps(directive).decode()}]}},'
        f"{orjson.dumps(facts).decode()[1:-1]}"
    )


def _to_stdout(line: str) -> None:
    # Looked up at each line: Lambda's runtime replaces the stream after import.
    # nosemgrep: printed-in-a-function -- this is the log: one line, written by hand for its speed
    sys.stdout.write(line)
    sys.stdout.flush()
