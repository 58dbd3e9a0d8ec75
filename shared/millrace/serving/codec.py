"""Between a request's JSON and the model's arrays, whole columns at a time.

A request is checked against the signature in bulk: JSON as it is decoded (`rows`), and what is
remarkable there or comes in another format by whole columns. Only when a check fails are the values
walked one by one, to name every wrong row and field (`diagnosis`).

What is refused is what the model could not read the way it was trained: a missing or unknown
feature, a wrong type (a boolean is no integer, ``"41"`` no number), null where the contract has
none, NaN and infinities, integers beyond 2^53 and numbers beyond 32-bit floats. The contract's
``min``, ``max`` and ``allowed`` are facts about the training data: a value outside is answered,
and said so in ``warnings``. Texts are cleaned as ingest cleaned them: surrounding whitespace is
cut, and the spec's ``null_values`` mean "no value".
"""

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from millrace.errors import (
    FieldProblem,
    InvalidRequestError,
    MalformedRequestError,
    RequestTooLargeError,
)
from millrace.serving.columns import Column, listed, numbers_of, texts_of
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
from millrace.serving.features import Batch, ContractWarning, TextColumns
from millrace.serving.packed import FEW_ROWS, Packed, PackedReader, PlainNumbers
from millrace.serving.text_codes import Vocabulary
from millrace.serving.texts import Texts
from millrace.signature import MISSING_CATEGORY, FeatureField, Signature
from millrace.vocabulary import WHITESPACE, ColumnType, null_texts

if TYPE_CHECKING:
    from millrace.serving.rows import PlainReader, RowReader

_PAIR: Final = re.compile(rb'"\s*:')
_COLON: Final = ord(":")
_SHORT_BODY: Final = 2_048
_FEW_VALUES: Final = 64
"""Up to here the types of a column's values are known sooner than what NumPy has to compare."""
_COLUMNS: Final = b'{"columns":'

_NUMBERS: Final[frozenset[type]] = frozenset({int, float})
_BOOLEANS: Final[frozenset[type]] = frozenset({bool})
_STRINGS: Final[frozenset[type]] = frozenset({str})
_NULL: Final = frozenset({type(None)})
_INT64_DIGITS: Final = 20
_TWICE: Final = "is given twice in one object"
_MAX_REMEMBERED_SHAPES: Final = 4_000

OPTIONS: Final[Mapping[str, Any]] = {"outputs": list[str], "form": str, "coverage": float}
"""Keys of a JSON body beside its rows or columns, and their types; `answers` says what they mean."""
_KEYS: Final = frozenset({"rows", "columns", *OPTIONS})
_SAFE: Final = float(MAX_INTEGER - 1)

type Form = Literal["rows", "columns"]
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


class Asked(NamedTuple):
    """What a JSON body asks for.

    Attributes:
        batch: The rows.
        options: The body's other keys, as they came.
    """

    batch: Batch
    options: Mapping[str, Any]


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
        self._names = [f.name for f in (*self._numeric, *self._categorical)]
        self._getter = _getter(self._names)
        self._width = len(self._numeric)
        self.null_texts = null_texts(signature.null_values)
        """Texts that mean "no value", after cleaning."""
        self._texts = tuple(Texts(f, self._cleaned) for f in self._categorical)
        self._texts_read = tuple(t.read for t in self._texts)
        self._types = tuple(
            (_BOOLEANS if f.type is ColumnType.BOOLEAN else _NUMBERS)
            | (_NULL if f.nullable else set())
            for f in self._numeric
        )
        self._booleans = tuple(f.type is ColumnType.BOOLEAN for f in self._numeric)
        self._integers = np.array([f.type is ColumnType.INTEGER for f in self._numeric], dtype=bool)
        self._any_integers = bool(self._integers.any())
        self._low = np.array([-np.inf if f.min is None else f.min for f in self._numeric])
        self._high = np.array([np.inf if f.max is None else f.max for f in self._numeric])
        self._plain_numbers = PlainNumbers(self._numeric, _SAFE)
        # What a row may hold, value by value, without any need for a closer look.
        self._plain = tuple(
            (types - {float} if f.type is ColumnType.INTEGER else types)
            for types, f in zip(self._types, self._numeric, strict=True)
        ) + tuple(_STRINGS | (_NULL if f.nullable else set()) for f in self._categorical)
        self._packed = PackedReader(self._texts, self._plain_numbers)
        self._plain_shapes: set[tuple[type, ...]] = set()
        self._quick: tuple[PlainReader, RowReader] | None = None
        self._quick_from = 1
        """How many bodies are read without: the first answer of a process waits for no import."""
        self.labels = np.empty(len(signature.classes), dtype=object)
        """The class labels in the target's own type."""
        self.labels[:] = [_label(c, signature.target_type) for c in signature.classes]

    def feature(self, name: str) -> FeatureField | None:
        """The feature of a name."""
        return self._by_name.get(name)

    def refuse_twice(self, names: Sequence[str], place: str) -> None:
        """Refuses columns of which a name comes twice.

        Args:
            names: The columns' names.
            place: What names them, for those that are no features.

        Raises:
            InvalidRequestError: Some do.
        """
        if len(set(names)) == len(names):
            return
        report = Report(self.signature.model)
        for name in sorted({name for name in names if names.count(name) > 1}):
            known = name in self._by_name
            report.add(
                name if known else place, "is given twice" if known else "a name comes twice"
            )
        report.refuse()

    # ── Requests ────────────────────────────────────────────────────────────────────────────────

    def decode(self, body: bytes) -> Batch:
        """The rows of a JSON body; see `read`."""
        return self.read(body).batch

    def read(self, body: bytes) -> Asked:
        """Reads a JSON body.

        Args:
            body: ``{"rows": [{feature: value}]}`` or ``{"columns": {feature: [value]}}``, with the
                keys of `OPTIONS` beside, if any.

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
        quick = self._read_quickly(body)
        if quick is not None:
            return quick
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            self._refuse_non_finite(body)
            raise MalformedRequestError(f"the body is not JSON: {exc}") from exc
        form = _form_of(document)
        batch = self._read(document[form], form, finite=True)
        self._refuse_duplicate_keys(body, document, form)
        options = {} if len(document) == 1 else {k: document[k] for k in document if k != form}
        return Asked(batch, options)

    def _read_quickly(self, body: bytes) -> Asked | None:
        """A body in which nothing is wrong; None when it has to be read thoroughly."""
        if self._quick is None:
            if self._quick_from >= 0:
                self._prepare_quick()
            return None
        plain_reader, row_reader = self._quick
        plain = plain_reader.read(body)
        if plain is not None:
            if plain.rows > self.limits.rows or not _has_pairs(body, plain.pairs):
                return None
            return Asked(Batch(plain.rows, plain.numeric, texts=plain.texts), plain.options)
        if body.startswith(_COLUMNS):
            return None
        read = row_reader.read(body)
        if read is None:
            return None
        rows, options = read
        count = len(rows)
        if not 0 < count <= self.limits.rows:
            return None
        if not _has_pairs(body, 1 + len(options) + count * len(self._names)):
            return None
        batch = self._typed(rows, count)
        return None if batch is None else Asked(batch, options)

    def _prepare_quick(self) -> None:
        self._quick_from -= 1
        if self._quick_from >= 0:
            return
        from millrace.serving.rows import PlainReader, RowReader

        # Of names that cannot be fields', every body is read thoroughly.
        with suppress(ValueError):
            self._quick = (
                PlainReader(self._numeric, self._plain_numbers, self._texts, OPTIONS),
                RowReader((*self._numeric, *self._categorical), OPTIONS),
            )

    def encode(self, document: Any) -> Batch:
        """The arrays of a request that is parsed already.

        Raises:
            RequestTooLargeError: More rows than one request may carry.
            InvalidRequestError: Names every row and field that does not fit.
        """
        form = _form_of(document)
        return self._read(document[form], form, finite=False)

    def decode_columns(self, columns: Mapping[str, Column], rows: int | None = None) -> Batch:
        """The arrays of typed columns: of CSV, Arrow, tensors and files.

        The rules are those of JSON, in every row: integers, unsigned or floating-point numbers for
        numeric features, booleans for boolean ones, texts for strings. A masked value, NaN and None
        are missing.

        Args:
            columns: Every feature of the signature by name, all of one length.
            rows: That length, where names and lengths were looked at before.

        Raises:
            RequestTooLargeError: More rows than one request may carry.
            InvalidRequestError: Names every row and field that does not fit.
        """
        if rows is None:
            rows = self._column_rows(columns)
        else:
            self._check_rows(rows, "columns")
        if rows <= FEW_ROWS:
            try:
                lists = [listed(columns[name]) for name in self._names]
                few = self._few_plain(list(zip(*lists, strict=True)), rows)
            except IndexError:  # a code beyond its dictionary
                few = None
            if few is not None:
                return few
        report = Report(self.signature.model)
        numeric = self._plain_columns(columns, rows)
        plain = numeric is not None
        if numeric is None:
            numeric = self._looked_at(columns, rows, report)
        texts = [texts_of(t, columns[t.feature.name], report) for t in self._texts]
        report.refuse()
        known = [read for read in texts if read is not None]  # all, as nothing was refused
        odd = [position for position, (_, is_odd) in enumerate(known) if is_odd]
        plain = plain or self._plain_numbers.hold(numeric)
        return self._batch(rows, numeric, [values for values, _ in known], odd, plain=plain)

    def _plain_columns(
        self, columns: Mapping[str, Column], rows: int
    ) -> npt.NDArray[np.float64] | None:
        """The numbers [k, rows] of columns, looked at together; None when one needs a closer look."""
        numeric = np.empty((self._width, rows), dtype=np.float64)
        for values, feature in zip(numeric, self._numeric, strict=True):
            column = columns[feature.name]
            if not isinstance(column, np.ndarray):
                return None
            if column.dtype.kind not in ("b" if feature.type is ColumnType.BOOLEAN else "iuf"):
                return None
            values[:] = column.data if isinstance(column, np.ma.MaskedArray) else column
            if isinstance(column, np.ma.MaskedArray):
                values[np.ma.getmaskarray(column)] = np.nan
        return numeric if self._plain_numbers.hold_all(numeric) else None

    def _looked_at(
        self, columns: Mapping[str, Column], rows: int, report: Report
    ) -> npt.NDArray[np.float64]:
        """The same of columns each looked at by itself; what is wrong goes to the report."""
        numeric = np.empty((self._width, rows), dtype=np.float64)
        for values, feature in zip(numeric, self._numeric, strict=True):
            numbers = numbers_of(feature, columns[feature.name], report)
            if numbers is not None:
                values[:] = numbers
        return numeric

    def decode_packed(self, packed: Packed) -> Batch | None:
        """The arrays of packed tensors; None when they are to be read as columns.

        Args:
            packed: In the order of the signature.
        """
        if not 0 < packed.rows <= self.limits.rows:
            return None
        return self._packed.read(packed)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Texts that packed tensors of this model are likely to have."""
        return self._packed.vocabulary

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

    def _read(self, data: Any, form: Form, *, finite: bool) -> Batch:
        """Checks and converts; ``finite`` says that no float can be NaN or infinite."""
        by_column = form == "columns"
        columns: Sequence[Sequence[Any]] | None = self._columns_of(data) if by_column else None
        rows = len(columns[0]) if columns is not None else len(data)
        self._check_rows(rows, form)
        batch: Batch | None = None
        if finite:
            batch = self._of_rows(data, rows) if columns is None else self._many(columns, rows)
        if batch is None:
            self._diagnose(data, by_column=by_column)
            if columns is None:
                columns = list(zip(*map(self._getter, data), strict=True))
            batch = self._many(columns, rows, checked=True)
        if batch is None:
            raise InvalidRequestError("the rows do not fit the signature")
        return batch

    def _columns_of(self, data: Any) -> list[list[Any]]:
        """The columns, numeric ones first, when names and lengths are right."""
        if not isinstance(data, dict):
            raise wrong_shape("columns", "an object of arrays", data)
        if data.keys() == self._by_name.keys():
            columns = [data[name] for name in self._names]
            if set(map(type, columns)) == {list} and len(set(map(len, columns))) == 1:
                return columns
        report = Report(self.signature.model)
        self._check_names(data, report)
        lists = {name: v for name, v in data.items() if isinstance(v, list)}
        for name in self._by_name:
            if name in data and name not in lists:
                report.add(name, f"expected an array of values, got {kind_of(data[name])}")
        self._check_lengths({name: len(v) for name, v in lists.items()}, report)
        report.refuse()
        return [lists[name] for name in self._names]

    def _of_rows(self, data: list[Any], rows: int) -> Batch | None:
        """The arrays of rows, or None when some value needs a closer look."""
        try:
            # A lookup finds a missing feature; equal lengths then exclude unknown ones.
            if set(map(len, data)) != {len(self._names)}:
                return None
            values = list(map(self._getter, data))
        except (KeyError, TypeError, IndexError):
            return None
        return self._many(list(zip(*values, strict=True)), rows)

    def _few_plain(self, values: Sequence[tuple[Any, ...]], rows: int) -> Batch | None:
        """The arrays of a few rows in which nothing is remarkable, else None."""
        if not all(self._is_plain(tuple(map(type, row))) for row in values):
            return None
        width, read, bounds = self._width, self._texts_read, self._plain_numbers.bounds
        numbers: list[Any] = []
        texts: list[list[str]] = []
        for row in values:
            for value, (least, most, whole, _) in zip(row, bounds, strict=False):
                if value is not None and not (
                    least <= value <= most and (not whole or value == int(value))
                ):
                    return None
            numbers += row[:width]
            try:
                texts.append([r[text] for r, text in zip(read, row[width:], strict=True)])
            except KeyError:
                return None
        return Batch(
            rows=rows,
            numeric=np.array(numbers, dtype=np.float32).reshape(rows, width),
            texts=list(zip(*texts, strict=True)),
        )

    def _is_plain(self, shape: tuple[type, ...]) -> bool:
        """Whether values of these types need no closer look but at their size."""
        if shape in self._plain_shapes:
            return True
        if not all(kind in kinds for kind, kinds in zip(shape, self._plain, strict=True)):
            return False
        if len(self._plain_shapes) < _MAX_REMEMBERED_SHAPES:
            self._plain_shapes.add(shape)
        return True

    def _typed(self, values: Sequence[tuple[Any, ...]], rows: int) -> Batch | None:
        """The arrays of rows of the right types, or None when some value needs a closer look."""
        columns = list(zip(*values, strict=True))
        width, pack = self._width, struct.Struct(f"{rows}d").pack
        parts: list[bytes] = []
        for column in columns[:width]:
            try:
                parts.append(pack(*column))
            except struct.error:  # some are missing
                parts.append(_with_missing(column))
        return self._with_texts(_joined(parts, rows), columns[width:], rows)

    def _many(
        self, columns: Sequence[Sequence[Any]], rows: int, *, checked: bool = False
    ) -> Batch | None:
        """The arrays of columns, or None when some value needs a closer look.

        Args:
            columns: In the order of ``_names``.
            rows: Their length.
            checked: Every value was looked at: only texts may still be remarkable.
        """
        width, pack = self._width, struct.Struct(f"{rows}d").pack
        parts: list[bytes] = []
        for position in range(width):
            packed = self._numbers(columns[position], position, pack)
            if packed is None:
                return None
            parts.append(packed)
        return self._with_texts(_joined(parts, rows), columns[width:], rows, checked=checked)

    def _with_texts(
        self,
        numeric: npt.NDArray[np.float64],
        columns: Sequence[Sequence[Any]],
        rows: int,
        *,
        checked: bool = False,
    ) -> Batch | None:
        """The arrays of numbers and columns of texts, or None when some value needs a closer look."""
        cleaned: list[Sequence[str]] = []
        odd: list[int] = []
        for position, (texts, values) in enumerate(zip(self._texts, columns, strict=True)):
            read = texts.column(values)
            if read is None:
                return None
            cleaned.append(read[0])
            if read[1]:
                odd.append(position)
        plain = self._plain_numbers.hold(numeric)
        if not (plain or checked or self._are_readable(numeric)):
            return None
        return self._batch(rows, numeric, cleaned, odd, plain=plain)

    def _numbers(
        self, values: Sequence[Any], position: int, pack: Callable[..., bytes]
    ) -> bytes | None:
        """The values of a numeric feature as 64-bit floats, if they are of its types."""
        try:
            # Half the time of an array's or NumPy's own conversion, and it takes no text and no null.
            packed = pack(*values)
        except struct.error:
            if not set(map(type, values)) <= self._types[position]:
                return None
            return _with_missing(values)
        except OverflowError:
            return None
        if self._booleans[position]:
            return packed if set(map(type, values)) <= self._types[position] else None
        # Booleans pass for 0 and 1 there.
        if len(values) > _FEW_VALUES:
            numbers = np.frombuffer(packed)
            if not ((numbers == 0) | (numbers == 1)).any():
                return packed
        return None if bool in map(type, values) else packed

    def _are_readable(self, numeric: npt.NDArray[np.float64]) -> bool:
        """Whether 64-bit floats, and the model's 32-bit ones, hold all numbers, integers exactly."""
        if len(numeric) and (
            not np.fmax.reduce(numeric, axis=None, initial=0.0) < MAX_INTEGER
            or not np.fmin.reduce(numeric, axis=None, initial=0.0) > -MAX_INTEGER
        ):
            return False
        if self._any_integers:
            integers = numeric[self._integers]
            # Missing is neither whole nor not.
            return not (np.floor(integers) < integers).any()
        return True

    def _batch(
        self,
        rows: int,
        numeric: npt.NDArray[np.float64],
        texts: TextColumns,
        odd: Sequence[int],
        *,
        plain: bool,
    ) -> Batch:
        """The batch of arrays; ``odd`` names texts to look at again.

        Args:
            rows: How many.
            numeric: Feature by feature.
            texts: Feature by feature.
            odd: Positions of text features in which not all values are known.
            plain: Whether no number is outside the training contract.
        """
        warnings: tuple[ContractWarning, ...] = ()
        unknown = 0
        if odd or not plain:
            warnings, unknown = self._remarkable(numeric, texts, odd)
        return Batch(
            rows=rows,
            numeric=numeric.T.astype(np.float32, order="C"),
            texts=texts,
            warnings=warnings,
            unknown_categories=unknown,
        )

    def _cleaned(self, text: str | None) -> str:
        """A category as ingest would have cleaned it."""
        if text is None:
            return MISSING_CATEGORY
        text = text.strip(WHITESPACE)
        return MISSING_CATEGORY if text in self.null_texts else text

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
        form = _form_of(document)
        self._read(document[form], form, finite=False)

    def _refuse_duplicate_keys(self, body: bytes, document: dict[str, Any], form: Form) -> None:
        """A key given twice would silently lose one value.

        The text holds one pair per key, so a count of pairs that equals the keys read proves that
        none is lost; only a count above needs a slow second parse (it may come from a string).
        """
        data = document[form]
        inner = len(data) if form == "columns" else len(data) * len(self._by_name)
        expected = len(document) + inner
        if _has_pairs(body, expected):
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

    def _remarkable(
        self,
        numeric: npt.NDArray[np.float64],
        columns: TextColumns,
        odd: Sequence[int],
    ) -> tuple[tuple[ContractWarning, ...], int]:
        """Warnings, and how many texts the model was not trained on.

        Raises:
            InvalidRequestError: The spec refuses such texts; names row and field.
        """
        found: list[ContractWarning] = []
        if len(numeric):
            # NaN is neither below nor above.
            above = np.fmax.reduce(numeric, axis=1) > self._high
            below = np.fmin.reduce(numeric, axis=1) < self._low
            for position in np.flatnonzero(above | below).tolist():
                feature, values = self._numeric[position], numeric[position]
                bounds = " and ".join(
                    f"{word} {bound:g}"
                    for word, bound in (("min", feature.min), ("max", feature.max))
                    if bound is not None
                )
                outside = (values < self._low[position]) | (values > self._high[position])
                found.append(
                    _warning(feature, outside, f"outside the training contract ({bounds})")
                )
        count = 0
        report = Report(self.signature.model)
        for position in odd:
            texts, values = self._texts[position], columns[position]
            outside = np.array(texts.outside(values))
            unknown = np.array(texts.unknown(values))
            count += int(unknown.sum())
            if self.signature.unknown_categories == "refuse":
                for row in np.flatnonzero(unknown).tolist():
                    report.add(
                        texts.feature.name,
                        f"is none of the {len(texts.known or ()) - 1:,} categories that the model "
                        "was trained on",
                        row,
                    )
            if outside.any():
                found.append(
                    _warning(
                        texts.feature, outside, "outside the training contract (the allowed values)"
                    )
                )
            unknown &= ~outside
            if unknown.any():
                found.append(_warning(texts.feature, unknown, "none that the model was trained on"))
        report.refuse()
        return tuple(found), count


def _has_pairs(body: bytes, expected: int) -> bool:
    """Whether a JSON text holds so many pairs, and no more."""
    colons = (
        body.count(b":")
        if len(body) < _SHORT_BODY
        else np.count_nonzero(np.frombuffer(body, dtype=np.uint8) == _COLON)
    )
    return colons == expected or len(_PAIR.findall(body)) == expected


def _with_missing(values: Sequence[Any]) -> bytes:
    """Numbers of which some are None as 64-bit floats, NaN in their place."""
    return np.array(values, dtype=np.float64).tobytes()


def _joined(columns: Sequence[bytes], rows: int) -> npt.NDArray[np.float64]:
    """Columns of 64-bit floats as one array [columns, rows]: at once, and not line by line."""
    return np.frombuffer(b"".join(columns)).reshape(len(columns), rows)


def _integer(digits: str) -> int | float:
    """An integer as orjson reads it: beyond 64 bits the nearest double."""
    value = int(digits) if len(digits) <= _INT64_DIGITS else None
    return value if value is not None and -(2**63) <= value < 2**64 else float(digits)


def _form_of(document: Any) -> Form:
    """``rows`` or ``columns``, whichever the request is in."""
    if not isinstance(document, dict):
        raise wrong_shape("body", 'an object {"rows": […]} or {"columns": {…}}', document)
    problems = [
        FieldProblem("body", f"unknown key; known: rows, columns, {', '.join(OPTIONS)}")
        for name in document
        if name not in _KEYS
    ][:MAX_PROBLEMS]
    if problems or ("rows" in document) == ("columns" in document):
        raise InvalidRequestError("expected exactly one of rows and columns", problems)
    if "columns" in document:
        return "columns"
    if not isinstance(document["rows"], list):
        raise wrong_shape("rows", "an array of objects", document["rows"])
    return "rows"


def _getter(names: Sequence[str]) -> _Getter:
    """Takes the named values of a row as a tuple; raises KeyError when one is missing."""
    if len(names) == 1:
        (name,) = names
        return lambda row: (row[name],)
    return itemgetter(*names) if names else lambda _: ()


def _warning(
    feature: FeatureField, outside: npt.NDArray[np.bool_], message: str
) -> ContractWarning:
    return ContractWarning(
        field=feature.name,
        message=message,
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
