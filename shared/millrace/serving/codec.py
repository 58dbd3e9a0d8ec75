"""Between a request's JSON and the model's arrays, whole columns at a time.

A request is checked against the signature in bulk: one pass over the values' types, then NumPy.
No row becomes an object of its own. Only when a check fails are the values walked one by one, to
name every wrong row and field (`diagnosis`).

What is refused is what the model could not read the way it was trained: a missing or unknown
feature, a wrong type (a boolean is no integer, ``"41"`` no number), null where the contract has
none, NaN and infinities, integers beyond 2^53 and numbers beyond 32-bit floats. The contract's
``min``, ``max`` and ``allowed`` are facts about the training data: a value outside is answered,
and said so in ``warnings``. Texts are cleaned as ingest cleaned them: surrounding whitespace is
cut, and the spec's ``null_values`` mean "no value".
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from millrace.errors import (
    ArtifactError,
    FieldProblem,
    InvalidRequestError,
    MalformedRequestError,
    RequestTooLargeError,
)
from millrace.serving.columns import Column, numbers_of, texts_of
from millrace.serving.diagnosis import (
    ABSENT,
    MAX_INTEGER,
    MAX_PROBLEMS,
    Report,
    kind_of,
    nearest,
    wrong_shape,
    wrong_value,
)
from millrace.signature import MISSING_CATEGORY, FeatureField, Signature
from millrace.vocabulary import WHITESPACE, ColumnType, Task, null_texts

_PAIR: Final = re.compile(rb'"\s*:')

_NUMBERS: Final[frozenset[type]] = frozenset({int, float, type(None)})
_BOOLEANS: Final[frozenset[type]] = frozenset({bool, type(None)})
_STRINGS: Final[frozenset[type]] = frozenset({str, type(None)})
_NULL: Final = type(None)
_INT64_DIGITS: Final = 20
_TWICE: Final = "is given twice in one object"

type _Getter = Callable[[Mapping[str, Any]], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one request may carry.

    Attributes:
        rows: Most rows.
        body_bytes: Most bytes of the body, after decompression.
        answer_bytes: Most bytes of the answer; Lambda's own limit is 6 MB.
    """

    rows: int = 5_000
    body_bytes: int = 6_000_000
    answer_bytes: int = 5_900_000


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class ContractWarning:
    """Values of one feature that lie outside what the model was trained on.

    Attributes:
        field: The feature.
        message: What the training data was bound to.
        count: How many rows are outside.
        first_row: The first of them, 0-based.
    """

    field: str
    message: str
    count: int
    first_row: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one request, ready for the model.

    Attributes:
        rows: Number of rows.
        numeric: float32 [rows, k], missing NaN.
        categorical: object [rows, m] of str, missing the empty string.
        warnings: Features with values outside the training contract.
        unknown_categories: Values that the model was not trained on.
    """

    rows: int
    numeric: npt.NDArray[np.float32]
    categorical: npt.NDArray[np.object_]
    warnings: tuple[ContractWarning, ...] = ()
    unknown_categories: int = 0


class SignatureCodec:
    """Reads requests for, and writes answers of, one model signature.

    Args:
        signature: What the model takes and gives.
        limits: How much one request may carry.
    """

    def __init__(self, signature: Signature, limits: Limits = DEFAULT_LIMITS) -> None:
        self.signature = signature
        self.limits = limits
        self._by_name = {f.name: f for f in signature.features}
        self._numeric = signature.numeric
        self._categorical = signature.categorical
        plain = [i for i, f in enumerate(self._numeric) if f.type is not ColumnType.BOOLEAN]
        flags = [i for i, f in enumerate(self._numeric) if f.type is ColumnType.BOOLEAN]
        self._groups = tuple(
            _NumericGroup(tuple(self._numeric[i] for i in positions), np.array(positions), types)
            for positions, types in ((plain, _NUMBERS), (flags, _BOOLEANS))
            if positions
        )
        self._null_texts = null_texts(signature.null_values)
        self._strings = _getter([f.name for f in self._categorical])
        self._string_required = np.array([not f.nullable for f in self._categorical], dtype=bool)
        self._low = np.array([-np.inf if f.min is None else f.min for f in self._numeric])
        self._high = np.array([np.inf if f.max is None else f.max for f in self._numeric])
        self._bounded = any(f.min is not None or f.max is not None for f in self._numeric)
        self._allowed = tuple(
            (i, f, frozenset(f.allowed) | ({MISSING_CATEGORY} if f.nullable else frozenset()))
            for i, f in enumerate(self._categorical)
            if f.allowed is not None
        )
        self._labels = np.empty(len(signature.classes), dtype=object)
        self._labels[:] = [_label(c, signature.target_type) for c in signature.classes]

    # ── Requests ────────────────────────────────────────────────────────────────────────────────

    def decode(self, body: bytes) -> Batch:
        """Reads a request body.

        Args:
            body: JSON, ``{"rows": [{feature: value}]}`` or ``{"columns": {feature: [value]}}``.

        Raises:
            MalformedRequestError: The body is no JSON.
            RequestTooLargeError: More rows or bytes than one request may carry.
            InvalidRequestError: Names every row and field that does not fit.
        """
        if len(body) > self.limits.body_bytes:
            raise RequestTooLargeError(
                f"expected a body of at most {self.limits.body_bytes:,} bytes, "
                f"got {len(body):,}: divide the rows over several requests"
            )
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            self._refuse_non_finite(body)
            raise MalformedRequestError(f"the body is not JSON: {exc}") from exc
        batch = self._read(document, finite=True)
        self._refuse_duplicate_keys(body, document)
        return batch

    def encode(self, document: Any) -> Batch:
        """The arrays of a request that is parsed already.

        Raises:
            RequestTooLargeError: More rows than one request may carry.
            InvalidRequestError: Names every row and field that does not fit.
        """
        return self._read(document, finite=False)

    def decode_columns(self, columns: Mapping[str, Column]) -> Batch:
        """The arrays of typed columns: of CSV, Arrow, tensors and files.

        The rules are those of JSON, in every row: integers, unsigned or floating-point numbers for
        numeric features, booleans for boolean ones, texts for strings. A masked value, NaN and None
        are missing.

        Args:
            columns: Every feature of the signature by name, all of one length.

        Raises:
            RequestTooLargeError: More rows than one request may carry.
            InvalidRequestError: Names every row and field that does not fit.
        """
        rows = self._column_rows(columns)
        report = Report(self.signature.model)
        numbers = [numbers_of(f, columns[f.name], report) for f in self._numeric]
        texts = [texts_of(f, columns[f.name], self._cleaned, report) for f in self._categorical]
        report.refuse()
        numeric = np.empty((rows, len(numbers)), dtype=np.float64)
        for position, values in enumerate(numbers):
            numeric[:, position] = values
        categorical = np.empty((rows, len(texts)), dtype=object)
        for position, labels in enumerate(texts):
            categorical[:, position] = labels
        return Batch(
            rows=rows,
            numeric=numeric.astype(np.float32),
            categorical=categorical,
            warnings=self._outside_contract(numeric, categorical),
        )

    def _column_rows(self, columns: Mapping[str, Column]) -> int:
        """How many rows the columns have, when names and lengths are right."""
        report = Report(self.signature.model)
        self._check_names(columns, report)
        lengths = {name: len(column) for name, column in columns.items()}
        self._check_lengths(lengths, report)
        report.refuse()
        rows = lengths[self.signature.features[0].name]
        self._check_rows(rows, "columns")
        return rows

    def _check_names(self, columns: Mapping[str, Any], report: Report) -> None:
        for name in (f.name for f in self.signature.features if f.name not in columns):
            report.add(name, "is missing")
        self._refuse_unknown(columns, "columns", report)

    def _check_lengths(self, lengths: Mapping[str, int], report: Report) -> None:
        if len(set(lengths.values())) > 1:
            longest = max(lengths.values())
            for name in (n for n, length in lengths.items() if length != longest):
                report.add(
                    name if name in self._by_name else "columns",
                    f"has {lengths[name]} values where the longest column has {longest}",
                )

    def _check_rows(self, rows: int, form: str) -> None:
        if rows == 0:
            raise InvalidRequestError(
                "expected at least one row, got none", [FieldProblem(form, "is empty")]
            )
        if rows > self.limits.rows:
            raise RequestTooLargeError(
                f"expected at most {self.limits.rows:,} rows, got {rows:,}: divide them over "
                "several requests",
                [FieldProblem(form, f"has more than {self.limits.rows:,} rows")],
            )

    def _read(self, document: Any, *, finite: bool) -> Batch:
        """Checks and converts; ``finite`` says that no float can be NaN or infinite."""
        form = _form_of(document)
        data = document[form]
        by_column = form == "columns"
        columns = self._columns_of(data) if by_column else None
        rows = len(columns[0]) if columns is not None else len(data)
        self._check_rows(rows, form)
        converted = self._convert(data, rows, by_column=by_column) if finite else None
        if converted is None:
            self._diagnose(data, by_column=by_column)
            converted = self._convert(data, rows, by_column=by_column, checked=True)
        if converted is None:
            raise InvalidRequestError("the rows do not fit the signature")
        numeric, categorical = converted
        return Batch(
            rows=rows,
            numeric=numeric.astype(np.float32),
            categorical=categorical,
            warnings=self._outside_contract(numeric, categorical),
        )

    def _columns_of(self, data: Any) -> list[list[Any]]:
        """The columns in signature order, when names and lengths are right."""
        if not isinstance(data, dict):
            raise wrong_shape("columns", "an object of arrays", data)
        report = Report(self.signature.model)
        self._check_names(data, report)
        lists = {name: v for name, v in data.items() if isinstance(v, list)}
        for name in self._by_name:
            if name in data and name not in lists:
                report.add(name, f"expected an array of values, got {kind_of(data[name])}")
        self._check_lengths({name: len(v) for name, v in lists.items()}, report)
        report.refuse()
        return [lists[f.name] for f in self.signature.features]

    def _convert(
        self, data: Any, rows: int, *, by_column: bool, checked: bool = False
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.object_]] | None:
        """The arrays, or None when some value needs a closer look."""
        if not by_column and not checked:
            # dict lookups below find a missing feature; equal lengths then exclude unknown ones
            if set(map(type, data)) != {dict}:
                return None
            if set(map(len, data)) != {len(self._by_name)}:
                return None
        try:
            numeric = np.empty((rows, len(self._numeric)), dtype=np.float64)
            for group in self._groups:
                values = group.take(data, by_column=by_column)
                matrix = group.convert(values, by_column=by_column, checked=checked)
                if matrix is None:
                    return None
                if len(self._groups) == 1:
                    numeric = matrix
                else:
                    numeric[:, group.positions] = matrix
            categorical = self._convert_strings(data, rows, by_column=by_column)
        except KeyError:
            return None
        return None if categorical is None else (numeric, categorical)

    def _convert_strings(
        self, data: Any, rows: int, *, by_column: bool
    ) -> npt.NDArray[np.object_] | None:
        if not self._categorical:
            return np.empty((rows, 0), dtype=object)
        values = (
            [data[f.name] for f in self._categorical]
            if by_column
            else list(map(self._strings, data))
        )
        flat = list(chain.from_iterable(values))
        if not set(map(type, flat)) <= _STRINGS:
            return None
        # Categories repeat: each distinct text is looked at once.
        cleaned = {text: self._cleaned(text) for text in set(flat)}
        if any("\0" in text for text in cleaned.values()):
            return None
        if any(clean != text for text, clean in cleaned.items()):
            flat = [cleaned[text] for text in flat]
        matrix = np.array(flat, dtype=object)
        if by_column:
            matrix = np.ascontiguousarray(matrix.reshape(-1, rows).T)
        else:
            matrix = matrix.reshape(rows, -1)
        if (
            MISSING_CATEGORY in cleaned.values()
            and ((matrix == MISSING_CATEGORY).any(axis=0) & self._string_required).any()
        ):
            return None
        return matrix

    def _cleaned(self, text: str | None) -> str:
        """A category as ingest would have cleaned it."""
        if text is None:
            return MISSING_CATEGORY
        text = text.strip(WHITESPACE)
        return MISSING_CATEGORY if text in self._null_texts else text

    # ── Naming what is wrong ────────────────────────────────────────────────────────────────────

    def _diagnose(self, data: Any, *, by_column: bool) -> None:
        """Walks every value and raises with all that is wrong; returns when nothing is."""
        report = Report(self.signature.model)
        broken: set[int] = set()
        if not by_column:
            for index, row in enumerate(data):
                if not isinstance(row, dict):
                    broken.add(index)
                    report.add("rows", f"expected an object, got {kind_of(row)}", index)
                    continue
                self._refuse_unknown(row, "rows", report, index)
        for feature in self.signature.features:
            values = (
                enumerate(data[feature.name])
                if by_column
                else (
                    (index, row.get(feature.name, ABSENT))
                    for index, row in enumerate(data)
                    if index not in broken
                )
            )
            for index, value in values:
                message = wrong_value(
                    feature, self._cleaned(value) if isinstance(value, str) else value
                )
                if message:
                    report.add(feature.name, message, index)
        report.refuse()

    def _refuse_unknown(
        self, given: Iterable[str], form: str, report: Report, row: int | None = None
    ) -> None:
        """Names keys that are no features, by place when they resemble none: see `nearest`."""
        model = self.signature.model
        for place, name in enumerate(given, start=1):
            if name in self._by_name:
                continue
            meant = nearest(name, list(self._by_name))
            if meant is None:
                report.add(form, f"key {place} is no feature of model {model}", row)
            else:
                report.add(name, f"is no feature of model {model}; did you mean {meant!r}?", row)

    def _refuse_non_finite(self, body: bytes) -> None:
        """Names the row and field of NaN and infinities, which strict JSON cannot write."""
        try:
            document = json.loads(body, parse_int=_integer)
        except (ValueError, RecursionError):
            return
        self._read(document, finite=False)

    def _refuse_duplicate_keys(self, body: bytes, document: dict[str, Any]) -> None:
        """A key given twice would silently lose one value.

        The text holds one pair per key, so a count of pairs that equals the keys read proves that
        none is lost; only a count above needs a slow second parse (it may come from a string).
        """
        (data,) = document.values()
        inner = len(data) if isinstance(data, dict) else len(data) * len(self._by_name)
        expected = len(document) + inner
        if body.count(b":") == expected or len(_PAIR.findall(body)) == expected:
            return
        twice: set[str] = set()

        def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            seen: set[str] = set()
            for name, _ in pairs:
                (twice if name in seen else seen).add(name)
            return {}

        json.loads(body, object_pairs_hook=note)
        report = Report(self.signature.model)
        for name in sorted(twice):
            known = name in self._by_name
            report.add(name if known else "body", _TWICE if known else f"a key {_TWICE}")
        report.refuse()

    # ── Outside the training contract ───────────────────────────────────────────────────────────

    def _outside_contract(
        self, numeric: npt.NDArray[np.float64], categorical: npt.NDArray[np.object_]
    ) -> tuple[ContractWarning, ...]:
        found: list[ContractWarning] = []
        if self._bounded:
            outside = (numeric < self._low) | (numeric > self._high)
            if outside.any():
                for position in np.flatnonzero(outside.any(axis=0)).tolist():
                    feature = self._numeric[position]
                    bounds = " and ".join(
                        f"{word} {bound:g}"
                        for word, bound in (("min", feature.min), ("max", feature.max))
                        if bound is not None
                    )
                    found.append(_warning(feature, outside[:, position], bounds))
        for column, feature, allowed in self._allowed:
            values = categorical[:, column].tolist()
            if not allowed.issuperset(values):
                unseen = np.array([v not in allowed for v in values])
                found.append(_warning(feature, unseen, "the allowed values"))
        return tuple(found)

    # ── Answers ─────────────────────────────────────────────────────────────────────────────────

    def answer(
        self,
        output: npt.NDArray[np.float32],
        *,
        version: int,
        prediction_id: str,
        warnings: Sequence[ContractWarning] = (),
    ) -> bytes:
        """The response body.

        Args:
            output: Probabilities [rows, classes], or predictions [rows] of a regression.
            version: The model version that answered.
            prediction_id: The prediction's id.
            warnings: Features with values outside the training contract.

        Raises:
            ArtifactError: The model gave a value that is not finite.
            RequestTooLargeError: The answer is longer than one response may be.
        """
        if not np.isfinite(output).all():
            raise ArtifactError(
                f"{self.signature.model}@{version}: the model gave a value that is not finite"
            )
        predictions: list[dict[str, Any]]
        if self.signature.task is Task.REGRESSION:
            predictions = [{"value": v} for v in output.tolist()]
        else:
            labels = self._labels[output.argmax(axis=1)].tolist()
            classes = self.signature.classes
            predictions = [
                {"label": label, "probabilities": dict(zip(classes, row, strict=True))}
                for label, row in zip(labels, output.tolist(), strict=True)
            ]
        body = orjson.dumps(
            {
                "model": self.signature.model,
                "version": version,
                "prediction_id": prediction_id,
                "predictions": predictions,
                "warnings": warnings,
            }
        )
        if len(body) > self.limits.answer_bytes:
            raise RequestTooLargeError(
                f"the answer to {len(output):,} rows has {len(body):,} bytes and may have "
                f"{self.limits.answer_bytes:,}: divide the rows over several requests"
            )
        return body


class _NumericGroup:
    """Numeric features that accept the same JSON types: numbers, or booleans."""

    def __init__(
        self,
        features: tuple[FeatureField, ...],
        positions: npt.NDArray[np.intp],
        types: frozenset[type],
    ) -> None:
        self.positions = positions
        self._names = [f.name for f in features]
        self._types = types
        self._getter = _getter(self._names)
        self._required = np.array([not f.nullable for f in features], dtype=bool)
        self._integers = np.array([f.type is ColumnType.INTEGER for f in features], dtype=bool)

    def take(self, data: Any, *, by_column: bool) -> list[Any]:
        """The group's values, by row or by column as they came."""
        return [data[n] for n in self._names] if by_column else list(map(self._getter, data))

    def convert(
        self, values: list[Any], *, by_column: bool, checked: bool
    ) -> npt.NDArray[np.float64] | None:
        """The values as [rows, features], or None when some value needs a closer look."""
        kinds = set(map(type, chain.from_iterable(values)))
        if not kinds <= self._types:
            return None
        try:
            matrix = np.array(values, dtype=np.float64)
        except OverflowError:
            return None
        if by_column:
            matrix = np.ascontiguousarray(matrix.T)
        if checked:
            return matrix
        if not np.fmax.reduce(np.abs(matrix), axis=None, initial=0.0) < MAX_INTEGER:
            return None
        if _NULL in kinds and (np.isnan(matrix).any(axis=0) & self._required).any():
            return None
        if float in kinds and self._integers.any():
            integers = matrix[:, self._integers]
            if (np.abs(integers - np.trunc(integers)) > 0).any():
                return None
        return matrix


def _integer(digits: str) -> int | float:
    """An integer as orjson reads it: beyond 64 bits the nearest double."""
    value = int(digits) if len(digits) <= _INT64_DIGITS else None
    return value if value is not None and -(2**63) <= value < 2**64 else float(digits)


def _form_of(document: Any) -> str:
    """``rows`` or ``columns``, whichever the request is in."""
    if not isinstance(document, dict):
        raise wrong_shape("body", 'an object {"rows": […]} or {"columns": {…}}', document)
    problems = [
        FieldProblem("body", "unknown key; known: rows, columns")
        for name in document
        if name not in ("rows", "columns")
    ][:MAX_PROBLEMS]
    if len(document) != 1 or problems:
        raise InvalidRequestError("expected exactly one of rows and columns", problems)
    (form,) = document
    if form == "rows" and not isinstance(document["rows"], list):
        raise wrong_shape("rows", "an array of objects", document["rows"])
    return str(form)


def _getter(names: Sequence[str]) -> _Getter:
    """Takes the named values of a row as a tuple; raises KeyError when one is missing."""
    if len(names) == 1:
        (name,) = names
        return lambda row: (row[name],)
    return itemgetter(*names) if names else lambda _: ()


def _warning(feature: FeatureField, outside: npt.NDArray[np.bool_], bound: str) -> ContractWarning:
    return ContractWarning(
        field=feature.name,
        message=f"outside the training contract ({bound})",
        count=int(outside.sum()),
        first_row=int(outside.argmax()),
    )


def _label(text: str, kind: ColumnType) -> str | int | bool:
    """A class label in the target's own type."""
    match kind:
        case ColumnType.INTEGER:
            return int(text)
        case ColumnType.BOOLEAN:
            return text.lower() in ("true", "1")
        case _:
            return text
