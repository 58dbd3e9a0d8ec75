"""Typed columns into the model's arrays, with the rules of JSON and the same problems.

CSV, Arrow, binary tensors and batch files come here: whole columns, each as NumPy has it. Missing is
what its source calls so: a masked value, NaN among numbers, None among objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.serving.diagnosis import (
    BEYOND_FLOAT32,
    BEYOND_INTEGER,
    EXPECTED,
    FRACTION,
    MAX_FLOAT32,
    MAX_INTEGER,
    MAX_PROBLEMS,
    Report,
    wrong_value,
)
from millrace.serving.texts import Texts
from millrace.signature import FeatureField
from millrace.vocabulary import ColumnType


@dataclass(frozen=True, slots=True)
class Coded:
    """Texts by code, as Arrow's dictionaries have them.

    Attributes:
        codes: Integers; row i has the text ``values[codes[i]]``, or none where the code is negative.
        values: The different texts; None is missing.
        lasting: Whether other requests have the same values, as one and the same object.
    """

    codes: npt.NDArray[np.integer[Any]]
    values: Sequence[str | None]
    lasting: bool = False

    def __len__(self) -> int:
        return len(self.codes)


type Column = npt.NDArray[Any] | Coded | Sequence[Any]

_KIND_WORDS: Final[dict[str, str]] = {
    "b": "booleans",
    "i": "integers",
    "u": "integers",
    "f": "numbers",
    "U": "strings",
    "T": "strings",
    "S": "bytes",
    "M": "timestamps",
    "m": "durations",
    "c": "complex numbers",
    "V": "records",
}


def listed(column: Column) -> Sequence[Any]:
    """A column's values as Python has them.

    Raises:
        IndexError: A code is beyond its dictionary.
    """
    if isinstance(column, Coded):
        return [None if c < 0 else column.values[c] for c in column.codes.tolist()]
    values: Sequence[Any] = column.tolist() if isinstance(column, np.ndarray) else column
    return values


def numbers_of(
    feature: FeatureField, column: Column, report: Report
) -> npt.NDArray[np.float64] | None:
    """A numeric or boolean feature's values, missing NaN; what is wrong goes to the report.

    Args:
        feature: The feature.
        column: Its values.
        report: Collects what is wrong.
    """
    if isinstance(column, Coded):
        _refuse_kind(feature, "strings", report)
        return None
    array = column if isinstance(column, np.ndarray) else _objects(column)
    kind = array.dtype.kind
    if kind == "O":
        return _from_objects(feature, array, report)
    accepted = "b" if feature.type is ColumnType.BOOLEAN else "iuf"
    if kind not in accepted:
        _refuse_kind(feature, _KIND_WORDS.get(kind, str(array.dtype)), report)
        return None
    mask = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
    values = np.asarray(array.data if isinstance(array, np.ma.MaskedArray) else array)
    expected = EXPECTED[feature.type]
    bad: list[tuple[npt.NDArray[np.bool_], str]] = []
    if kind in "iu" and values.dtype.itemsize == 8:
        beyond = values > MAX_INTEGER
        if kind == "i":
            beyond |= values < -MAX_INTEGER
        bad.append((beyond, BEYOND_INTEGER))
    floats = values.astype(np.float64)
    missing: npt.NDArray[np.bool_] | None = mask
    if kind == "f":
        nan = np.isnan(floats)
        missing = nan if mask is None else nan | mask
        size = np.abs(floats)
        bad.append((np.isinf(floats), f"expected {expected}, got an infinite one"))
        if feature.type is ColumnType.INTEGER:
            bad.append((np.isfinite(floats) & (floats != np.trunc(floats)), FRACTION))
            bad.append((np.isfinite(floats) & (size > MAX_INTEGER), BEYOND_INTEGER))
        else:
            bad.append((np.isfinite(floats) & (size > MAX_FLOAT32), BEYOND_FLOAT32))
    if mask is not None:
        floats[mask] = np.nan
    if not feature.nullable and missing is not None:
        bad.append((missing, f"expected {expected}, got none"))
    for wrong, message in bad:
        where = wrong if mask is None or wrong is missing else wrong & ~mask
        _add_rows(feature.name, where, message, report)
    return floats


def texts_of(texts: Texts, column: Column, report: Report) -> tuple[Sequence[str], bool] | None:
    """A string feature's values, cleaned, missing the empty string; and whether some are remarkable.

    Args:
        texts: The feature's.
        column: Its values.
        report: Collects what is wrong.
    """
    if isinstance(column, Coded):
        return _from_codes(texts, column, report)
    feature = texts.feature
    values: Sequence[Any] = column if not isinstance(column, np.ndarray) else ()
    if isinstance(column, np.ndarray):
        if column.dtype.kind not in "OUT":
            _refuse_kind(feature, _KIND_WORDS.get(column.dtype.kind, str(column.dtype)), report)
            return None
        values = (_unmasked(column) if isinstance(column, np.ma.MaskedArray) else column).tolist()
    read = texts.column(values)
    if read is None:
        for row, value in enumerate(values):
            message = texts.wrong(value)
            if message:
                report.add(feature.name, message, row)
    return read


def _from_codes(texts: Texts, column: Coded, report: Report) -> tuple[list[str], bool] | None:
    name = texts.feature.name
    codes = np.asarray(column.codes)
    count = len(column.values)
    cleaned = texts.plain(column.values)
    if cleaned is not None and codes.size and int(codes.min()) >= 0 and int(codes.max()) < count:
        return [cleaned[code] for code in codes.tolist()], False
    if codes.size and int(codes.max()) >= count:
        _add_rows(name, codes >= count, "has a code beyond its dictionary", report)
        return None
    codes = np.where(codes < 0, count, codes)
    used = np.bincount(codes, minlength=count + 1) > 0
    different = [*column.values, None]
    lookup = np.empty(count + 1, dtype=object)
    odd = wrong = False
    for code in np.flatnonzero(used).tolist():
        message = texts.wrong(different[code])
        if message:
            _add_rows(name, codes == code, message, report)
            wrong = True
        else:
            lookup[code], is_odd = texts.one(different[code])
            odd = odd or is_odd
    if wrong:
        return None
    taken: list[str] = lookup[codes].tolist()
    return taken, odd


def _from_objects(
    feature: FeatureField, array: npt.NDArray[Any], report: Report
) -> npt.NDArray[np.float64] | None:
    if isinstance(array, np.ma.MaskedArray):
        array = _unmasked(array)
    made = np.empty(len(array), dtype=np.float64)
    for row, value in enumerate(array.tolist()):
        missing = value is None or (isinstance(value, float) and value != value)
        message = wrong_value(feature, None if missing else value)
        if message:
            report.add(feature.name, message, row)
        else:
            made[row] = np.nan if missing else value
    return made


def _unmasked(array: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """A masked array's values as objects, None where they are missing."""
    made = np.asarray(np.ma.getdata(array)).astype(object)
    made[np.ma.getmaskarray(array)] = None
    return made


def _objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _refuse_kind(feature: FeatureField, came: str, report: Report) -> None:
    report.add(feature.name, f"expected {EXPECTED[feature.type]} in every row, got {came}")


def _add_rows(name: str, wrong: npt.NDArray[np.bool_], message: str, report: Report) -> None:
    rows = np.flatnonzero(wrong)
    for row in rows[:MAX_PROBLEMS].tolist():
        report.add(name, message, row)
    report.add_untold(max(0, len(rows) - MAX_PROBLEMS))
