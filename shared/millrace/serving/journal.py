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
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import orjson

from millrace import base64_text
from millrace.observability import METRICS, NAMESPACE, SERVICE
from millrace.registry.serving import RolloutRoute
from millrace.serving.capture import SCHEMA
from millrace.serving.codec import SignatureCodec
from millrace.serving.features import TextColumns
from millrace.serving.identity import Role
from millrace.serving.prediction import Prediction, Shadowed
from millrace.serving.routing import Chosen
from millrace.signature import Signature
from millrace.vocabulary import Task

MAX_LINE_BYTES: Final = 200_000
"""CloudWatch takes events of 256 kB, and a subscription packs several into one invocation."""

_ROOM: Final = MAX_LINE_BYTES - 4_000
PACKED_FROM: Final = 64
"""Rows from which numbers are written as base64 instead of digits."""
_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_TRACE_VARIABLE: Final = "_X_AMZN_TRACE_ID"
_dumps: Final = orjson.dumps

PREDICTION: Final = b"prediction"
PROBABILITIES: Final = b"probabilities"

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
        self._forms: WeakKeyDictionary[SignatureCodec, _Form] = WeakKeyDictionary()
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
        rate = prediction.loaded.record.capture_rate
        if rate > 0 and (rate >= 1 or self._chance() < rate):
            shadow = None if prediction.shadow is None else prediction.shadow()
            record = self._captured(prediction, rate, shadow)
            if record:
                fields += [f',"{METRICS.CAPTURED_REQUESTS}":1,"capture":', record]
                metrics = _CAPTURED[metrics]
            if shadow is not None and shadow.error:
                fields.append(f',"{METRICS.CHALLENGER_FAILURES}":1')
                metrics = (*metrics, METRICS.CHALLENGER_FAILURES)
        if prediction.lacking:
            fields.append(f',"{METRICS.CHALLENGER_LACKING}":1')
            metrics = (*metrics, METRICS.CHALLENGER_LACKING)
        self._line("predicted", prediction.model, metrics, fields)

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

    def _captured(self, prediction: Prediction, rate: float, shadow: Shadowed | None) -> str:
        """The capture record of a prediction, of as many rows as a line carries."""
        if not self._process:
            # Not at construction: processes restored from one snapshot must not share it.
            self._process = os.urandom(8).hex()
        sequence = self._sequences.get(prediction.model, 0) + 1
        codec = prediction.loaded.codec
        form = self._forms.get(codec)
        if form is None:
            form = self._forms[codec] = _Form(prediction.loaded.signature)
        begin = (
            f'{{"schema":{SCHEMA},"process":"{self._process}","sequence":{sequence},"rate":{rate},'
        )
        whole = form.record(begin, prediction, None, shadow)
        rows = prediction.batch.rows
        while len(whole) > _ROOM and rows > 1:
            rows = max(1, min(rows - 1, int(rows * _ROOM / len(whole) * 0.95)))
            kept = np.arange(rows) * prediction.batch.rows // rows
            whole = form.record(begin, prediction, kept, shadow)
        if len(whole) > _ROOM:
            return ""
        # Only now: a line that is not written leaves no gap in the numbers.
        self._sequences[prediction.model] = sequence
        return whole.decode()

    def _line(
        self, message: str, model: str | None, metrics: tuple[str, ...], fields: list[str]
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
        self._write(
            "".join(  # a line may be long, and is put together once
                (
                    f'{{"level":"INFO","timestamp":"{self._stamp}.{fraction:03}+00:00",'
                    f'"_aws":{{"Timestamp":{milliseconds},{beginning},',
                    *fields,
                    "}\n",
                )
            )
        )


# ── Capture ─────────────────────────────────────────────────────────────────────────────────────


class _Form:
    """How records of one signature are written.

    Args:
        signature: The signature.
    """

    def __init__(self, signature: Signature) -> None:
        public = [(p, f.name) for p, f in enumerate(signature.numeric) if not f.private]
        self._numbers = tuple(p for p, _ in public)
        # Keys stand ready, with places for the values: a column of its own each, as bytes.
        keys = [orjson.dumps(name).replace(b"%", b"%%") + b":" for _, name in public]
        self._columns = b",".join(key + b"%b" for key in keys)
        self._lists = b",".join(key + b"[%b]" for key in keys)
        texts = [(p, f.name) for p, f in enumerate(signature.categorical) if not f.private]
        self._texts = tuple(p for p, _ in texts)
        self._text_names = tuple(name for _, name in texts)
        keys += [orjson.dumps(name).replace(b"%", b"%%") + b":" for _, name in texts]
        self._row = b",".join(key + b"[%b]" for key in keys)
        regression = signature.task is Task.REGRESSION
        self._output = PREDICTION if regression else PROBABILITIES

    def record(
        self,
        begin: str,
        prediction: Prediction,
        kept: npt.NDArray[np.intp] | None,
        shadow: Shadowed | None,
    ) -> bytes:
        """The record of a prediction.

        Args:
            begin: What stands before the columns.
            prediction: The prediction.
            kept: Rows, if not all.
            shadow: What a challenger said to the same rows.
        """
        batch = prediction.batch
        numeric, texts, output = batch.numeric, batch.texts, prediction.output
        end = b"}"
        if kept is not None:
            places = kept.tolist()
            numeric, output = numeric[kept], output[kept]
            texts = [[column[place] for place in places] for column in texts]
            end = b',"rows":%b}' % _dumps(places)
        if shadow is not None:
            end = b',"shadow":%b%b' % (self._shadow(shadow, kept), end)
        inputs = self._inputs(numeric, texts, packed=len(output) >= PACKED_FROM)
        written = _packed(output) if len(output) >= PACKED_FROM else _numbers(output)
        return b'%b"inputs":{%b},"outputs":{"%b":%b}%b' % (
            begin.encode(),
            inputs,
            self._output,
            written,
            end,
        )

    def _shadow(self, shadow: Shadowed, kept: npt.NDArray[np.intp] | None) -> bytes:
        begin = b'{"version":%d,"latency_ms":%.3f' % (shadow.version, shadow.seconds * 1e3)
        if shadow.output is None:
            return b'%b,"error":%b}' % (begin, _dumps(shadow.error))
        output = shadow.output if kept is None else shadow.output[kept]
        return b'%b,"outputs":{"%b":%b}}' % (begin, self._output, _numbers(output))

    def _inputs(
        self,
        numeric: npt.NDArray[np.float32],
        texts: TextColumns,
        *,
        packed: bool,
    ) -> bytes:
        if len(numeric) == 1:
            return self._of_one(numeric, texts)
        parts: list[bytes] = []
        if self._numbers:
            if packed:
                content, size = _bytes_of(numeric.T), 4 * len(numeric)
                packs = [_coded(content[p * size : (p + 1) * size]) for p in self._numbers]
                parts.append(self._columns % tuple(packs))
            else:
                every = _numbers(numeric.T)[2:-2].split(b"],[")
                parts.append(self._lists % tuple([every[place] for place in self._numbers]))
        if self._texts:
            named = {name: texts[p] for name, p in zip(self._text_names, self._texts, strict=True)}
            parts.append(_dumps(named)[1:-1])
        return b",".join(parts)

    def _of_one(self, numeric: npt.NDArray[np.float32], texts: TextColumns) -> bytes:
        """One row is its own columns, and is spared the turning."""
        values: list[bytes] = []
        if self._numbers:
            every = _numbers(numeric)[2:-2].split(b",")
            values = [every[place] for place in self._numbers]
        if self._texts:
            values += [_dumps(texts[place][0]) for place in self._texts]
        return self._row % tuple(values)


def _numbers(values: npt.NDArray[np.float32]) -> bytes:
    return _dumps(np.ascontiguousarray(values), option=_NUMPY)


def _packed(values: npt.NDArray[np.float32]) -> bytes:
    """An array as `capture` reads it back: a fifth of the time that digits take."""
    width = b"" if values.ndim == 1 else b',"width":%d' % values.shape[1]
    return _coded(_bytes_of(values), width)


def _bytes_of(values: npt.NDArray[np.float32]) -> bytes:
    return values.astype("<f4", order="C", copy=False).tobytes()


def _coded(content: bytes, width: bytes = b"") -> bytes:
    return b'{"float32":"%b"%b}' % (base64_text.encode_bytes(content), width)


def _json(value: Any) -> str:
    return _dumps(value).decode()


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


def _to_stdout(line: str) -> None:
    # Looked up at each line: Lambda's runtime replaces the stream after import.
    # nosemgrep: printed-in-a-function -- this is the log: one line, written by hand for its speed
    sys.stdout.write(line)
    sys.stdout.flush()
