"""Writes the capture record of a request: the part ``capture`` of a prediction's line.

What it says stands in `capture`, which reads it. Here it is written by hand, from the arrays that the
model was given: digits for few rows, and matrices in base64 for many.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from millrace import base64_text
from millrace.serving.capture import PACKED_SCHEMA, SCHEMA
from millrace.serving.features import Batch
from millrace.serving.prediction import Prediction, Shadowed
from millrace.signature import FeatureField, Signature
from millrace.vocabulary import Task

PACKED_FROM: Final = 64
"""Rows from which inputs and outputs are packed."""
MAX_VALUES: Final = 256
"""Values up to which those that do not occur are written as well."""

_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_dumps: Final = orjson.dumps


class CaptureForm:
    """How records of one signature are written.

    Args:
        signature: The signature.
    """

    def __init__(self, signature: Signature) -> None:
        self._numbers = _Public(signature.numeric)
        self._texts = _Public(signature.categorical)
        # Keys stand ready, with places for the values.
        keys = [
            _dumps(name).replace(b"%", b"%%") + b":[%b]"
            for name in (*self._numbers.names, *self._texts.names)
        ]
        self._lists = b",".join(keys[: len(self._numbers.names)])
        self._row = b",".join(keys)
        self._output = b"prediction" if signature.task is Task.REGRESSION else b"probabilities"

    def record(
        self,
        begin: str,
        prediction: Prediction,
        kept: npt.NDArray[np.intp] | None,
        shadow: Shadowed | None,
    ) -> list[bytes]:
        """The record of a prediction, in pieces: it may be long, and is best put together once.

        Args:
            begin: What stands before the inputs, beside the schema.
            prediction: The prediction.
            kept: Rows, if not all.
            shadow: What a challenger said to the same rows.
        """
        batch, output = prediction.batch, prediction.output
        end = b"}"
        if kept is not None:
            batch, output = batch.of_rows(kept), output[kept]
            end = b',"rows":%b}' % _dumps(kept.tolist())
        if shadow is not None:
            end = b',"shadow":%b%b' % (self._shadow(shadow, kept), end)
        beginning = begin.encode()
        if batch.rows < PACKED_FROM:
            return [
                b'{"schema":%d,%b,"inputs":{%b},"outputs":{"%b":%b}%b'
                % (SCHEMA, beginning, self._columns(batch), self._output, _digits(output), end)
            ]
        return [
            b'{"schema":%d,%b,' % (PACKED_SCHEMA, beginning),
            *self._matrices(batch),
            b'"outputs":{"%b":{"float32":"' % self._output,
            _base64(output, "<f4"),
            b'"}}' if output.ndim == 1 else b'","width":%d}}' % output.shape[1],
            end,
        ]

    def _shadow(self, shadow: Shadowed, kept: npt.NDArray[np.intp] | None) -> bytes:
        begin = b'{"version":%d,"latency_ms":%.3f' % (shadow.version, shadow.seconds * 1e3)
        if shadow.output is None:
            return b'%b,"error":%b}' % (begin, _dumps(shadow.error))
        output = shadow.output if kept is None else shadow.output[kept]
        return b'%b,"outputs":{"%b":%b}}' % (begin, self._output, _digits(output))

    def _columns(self, batch: Batch) -> bytes:
        numbers, texts = self._numbers, self._texts
        if batch.rows == 1:  # one row is its own columns, and is spared the turning
            values: list[bytes] = []
            if numbers.names:
                every = _digits(batch.numeric)[2:-2].split(b",")
                values = [every[place] for place in numbers.places]
            if texts.names:
                values += [_dumps(batch.texts[place][0]) for place in texts.places]
            return self._row % tuple(values)
        parts: list[bytes] = []
        if numbers.names:
            every = _digits(batch.numeric.T)[2:-2].split(b"],[")
            parts.append(self._lists % tuple([every[place] for place in numbers.places]))
        if texts.names:
            parts.append(texts.lists(batch.texts))
        return b",".join(parts)

    def _matrices(self, batch: Batch) -> list[bytes]:
        numbers, texts = self._numbers, self._texts
        columns = b""
        parts: list[bytes] = []
        if numbers.names:
            content = _base64(numbers.columns_of(batch.numeric), "<f4")
            parts += [b'"numbers":{"features":%b,"float32":"' % numbers.listed, content, b'"},']
        if texts.names and batch.coded is not None:
            codes = texts.columns_of(batch.coded.codes.reshape(batch.rows, -1))
            values = batch.coded.values
            # Those of private features alone are nobody's business.
            if not texts.all or len(values) > MAX_VALUES:
                codes, values = _occurring(codes, values)
            bits = next(bits for bits in (8, 16, 32) if len(values) <= 2**bits)
            parts += [
                b'"texts":{"features":%b,"values":%b,"uint%d":"'
                % (texts.listed, _dumps(values), bits),
                _base64(codes, f"<u{bits // 8}"),
                b'"},',
            ]
        elif texts.names:
            columns = texts.lists(batch.texts)
        return [b'"inputs":{%b},' % columns, *parts]


class _Public:
    """The features of one kind that may be captured.

    Args:
        features: All of the kind, in the order of the signature.
    """

    def __init__(self, features: Sequence[FeatureField]) -> None:
        public = [(place, f.name) for place, f in enumerate(features) if not f.private]
        self.places = tuple(place for place, _ in public)
        self.names = tuple(name for _, name in public)
        self.listed = _dumps(self.names)
        self.all = len(public) == len(features)

    def columns_of[T: np.generic](self, matrix: npt.NDArray[T]) -> npt.NDArray[T]:
        """Their columns of a matrix of all."""
        return matrix if self.all else matrix.take(self.places, axis=1)

    def lists(self, columns: Sequence[Sequence[str]]) -> bytes:
        """Their columns of those of all, as an object's members."""
        named = {n: columns[place] for n, place in zip(self.names, self.places, strict=True)}
        return _dumps(named)[1:-1]


def _digits(values: npt.NDArray[np.float32]) -> bytes:
    return _dumps(np.ascontiguousarray(values), option=_NUMPY)


def _base64(values: npt.NDArray[Any], dtype: str) -> bytes:
    return base64_text.encode_bytes(values.astype(dtype, order="C", copy=False).data.cast("B"))


def _occurring(
    codes: npt.NDArray[np.integer[Any]], values: Sequence[str | None]
) -> tuple[npt.NDArray[np.integer[Any]], list[str | None]]:
    """Codes of the values that occur, and those alone."""
    used = np.flatnonzero(np.bincount(codes.reshape(-1), minlength=len(values)))
    anew = np.zeros(len(values), dtype=np.intp)
    anew[used] = np.arange(len(used))
    return anew.take(codes), [values[place] for place in used.tolist()]
