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

`capture` reads it again, says what ``process`` and ``sequence`` are for, and how the inputs of many rows
are packed. Inputs are what the model was given: numbers in 32 bits, booleans as 0 and 1, missing null or
"". Private features are not among them. A line never passes `MAX_LINE_BYTES`: of more rows than it
carries, some are kept, evenly spread, and ``rows`` names them.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import orjson

from millrace.observability import METRICS, NAMESPACE, SERVICE
from millrace.registry.serving import RolloutRoute
from millrace.serving.capture_record import CaptureForm
from millrace.serving.codec import SignatureCodec
from millrace.serving.identity import Role
from millrace.serving.prediction import Prediction, Shadowed
from millrace.serving.routing import Chosen

MAX_LINE_BYTES: Final = 200_000
"""CloudWatch takes events of 256 kB, and a subscription packs several into one invocation."""

_ROOM: Final = MAX_LINE_BYTES - 4_000
_TRACE_VARIABLE: Final = "_X_AMZN_TRACE_ID"
_dumps: Final = orjson.dumps

type _Write = Callable[[bytes], object]


class PredictionLog:
    """Writes one line for each answer and each refusal.

    Args:
        write: Takes a line in UTF-8 with its end; standard output by default.
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
        self._forms: WeakKeyDictionary[SignatureCodec, CaptureForm] = WeakKeyDictionary()
        self._second = 0
        self._stamp = ""

    def answered(self, prediction: Prediction, *, seconds: float, correlation_id: str) -> None:
        """Writes the line of an answer."""
        batch = prediction.batch
        rows = batch.rows
        metrics: tuple[str, ...] = _ANSWERED
        fields = [
            f'"correlation_id":{_json(correlation_id)},"version":{prediction.version},'
            f'"prediction_id":"{prediction.prediction_id}","row_count":{rows},'
            f'"{METRICS.PREDICTIONS}":{rows},"{METRICS.PREDICTION_LATENCY}":{seconds * 1e3:.3f}',
            _ROLES[prediction.role],
        ]
        if prediction.route is not None:
            fields.append(_rollout(prediction.route))
        if batch.warnings:
            fields.append(f',"warnings":{_json({w.field: w.count for w in batch.warnings})}')
        if batch.unknown_categories:
            fields.append(f',"{METRICS.UNKNOWN_CATEGORIES}":{batch.unknown_categories}')
            metrics = _ANSWERED_UNKNOWN
        record: Sequence[bytes] = ()
        rate = prediction.loaded.record.capture_rate
        if rate > 0 and (rate >= 1 or self._chance() < rate):
            shadow = None if prediction.shadow is None else prediction.shadow()
            record = self._captured(prediction, rate, shadow)
            if record:
                fields.append(f',"{METRICS.CAPTURED_REQUESTS}":1')
                metrics = _CAPTURED[metrics]
            if shadow is not None and shadow.error:
                fields.append(f',"{METRICS.CHALLENGER_FAILURES}":1')
                metrics = (*metrics, METRICS.CHALLENGER_FAILURES)
        if prediction.lacking:
            fields.append(f',"{METRICS.CHALLENGER_LACKING}":1')
            metrics = (*metrics, METRICS.CHALLENGER_LACKING)
        self._line("predicted", prediction.model, metrics, fields, record)

    def refused(
        self,
        error: Exception,
        *,
        model: str | None,
        seconds: float,
        correlation_id: str,
        failed: Chosen | None = None,
    ) -> None:
        """Writes the line of a refusal; neither values nor invented names are on it."""
        answered = failed is not None and failed.role is Role.CHALLENGER
        metrics = _FAILED if answered else _REFUSED
        facts: dict[str, Any] = {
            "correlation_id": correlation_id,
            "error": type(error).__name__,
            "fields": len(getattr(error, "problems", ())),
            "milliseconds": round(seconds * 1e3, 3),
            metrics[0]: 1,
        }
        more = []
        if failed is not None:
            facts |= {"version": failed.loaded.version, "failed": 1}
            more.append(_ROLES[failed.role])
            if failed.route is not None:
                more.append(_rollout(failed.route))
        message = "challenger failed" if answered else "prediction refused"
        self._line(message, model, metrics, [_json(facts)[1:-1], *more])

    def _captured(
        self, prediction: Prediction, rate: float, shadow: Shadowed | None
    ) -> Sequence[bytes]:
        """The capture record of a prediction, in pieces, of as many rows as a line carries."""
        if not self._process:
            # Not at construction: processes restored from one snapshot must not share it.
            self._process = os.urandom(8).hex()
        sequence = self._sequences.get(prediction.model, 0) + 1
        codec = prediction.loaded.codec
        form = self._forms.get(codec)
        if form is None:
            form = self._forms[codec] = CaptureForm(prediction.loaded.signature)
        begin = f'"process":"{self._process}","sequence":{sequence},"rate":{rate}'
        record = form.record(begin, prediction, None, shadow)
        rows = prediction.batch.rows
        while (size := sum(map(len, record))) > _ROOM and rows > 1:
            rows = max(1, min(rows - 1, int(rows * _ROOM / size * 0.95)))
            kept = np.arange(rows) * prediction.batch.rows // rows
            record = form.record(begin, prediction, kept, shadow)
        if size > _ROOM:
            return ()
        # Only now: a line that is not written leaves no gap in the numbers.
        self._sequences[prediction.model] = sequence
        return record

    def _line(
        self,
        message: str,
        model: str | None,
        metrics: tuple[str, ...],
        fields: list[str],
        record: Sequence[bytes] = (),
    ) -> None:
        milliseconds = int(self._now() * 1e3)
        second, fraction = divmod(milliseconds, 1000)
        if second != self._second:
            self._stamp = datetime.fromtimestamp(second, UTC).isoformat()[:-6]
            self._second = second
        # nosemgrep: environment-read-in-the-domain -- Lambda sets it anew for each invocation
        trace = os.environ.get(_TRACE_VARIABLE)
        if trace:
            root = trace.partition(";")[0].removeprefix("Root=")
            fields.append(f',"xray_trace_id":{_json(root)}')
        key = (model, metrics)
        beginning = self._metadata.get(key)
        if beginning is None:
            beginning = self._metadata[key] = _beginning(message, model, metrics)
        facts = (
            f'{{"level":"INFO","timestamp":"{self._stamp}.{fraction:03}+00:00",'
            f'"_aws":{{"Timestamp":{milliseconds},{beginning},{"".join(fields)}'
        ).encode()
        if record:
            self._write(b"".join((facts, b',"capture":', *record, b"}\n")))
        else:
            self._write(facts + b"}\n")


# ── Embedded metrics ────────────────────────────────────────────────────────────────────────────

_UNITS: Final = {METRICS.PREDICTION_LATENCY: "Milliseconds"}
_ANSWERED: Final = (METRICS.PREDICTIONS, METRICS.PREDICTION_LATENCY)
_ANSWERED_UNKNOWN: Final = (*_ANSWERED, METRICS.UNKNOWN_CATEGORIES)
_CAPTURED: Final[dict[tuple[str, ...], tuple[str, ...]]] = {
    metrics: (*metrics, METRICS.CAPTURED_REQUESTS) for metrics in (_ANSWERED, _ANSWERED_UNKNOWN)
}
_REFUSED: Final = (METRICS.PREDICTIONS_REFUSED,)
_FAILED: Final = (METRICS.CHALLENGER_FAILURES,)
_ROLES: Final = {role: f',"role":"{role.name.lower()}"' for role in Role}


def _json(value: Any) -> str:
    return _dumps(value).decode()


def _rollout(route: RolloutRoute) -> str:
    return f',"rollout":{{"id":{_json(route.rollout_id)},"step":{route.step}}}'


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


def _to_stdout(line: bytes) -> None:
    # Looked up at each line: Lambda's runtime replaces the stream after import.
    stream = sys.stdout
    binary = getattr(stream, "buffer", None)
    if binary is None:  # a stream of texts alone, as some runtimes have
        # nosemgrep: printed-in-a-function -- this is the log: one line, written by hand for its speed
        stream.write(line.decode())
        stream.flush()
    else:
        binary.write(line)
        binary.flush()
