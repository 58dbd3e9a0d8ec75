"""CSV bodies: a header of features, and one line per row; read by the rules that ingest reads by.

Cells are cleaned first: whitespace around them is cut, and the spec's ``null_values`` mean "no
value". What is left is read by its feature's type, and strictly: ``1_000``, ``nan`` and ``0x10`` are
no numbers.
"""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.errors import FieldProblem, InvalidRequestError, MalformedRequestError
from millrace.serving.codec import SignatureCodec
from millrace.serving.columns import Column
from millrace.serving.diagnosis import MAX_PROBLEMS
from millrace.signature import FeatureField
from millrace.vocabulary import WHITESPACE, ColumnType

_TRUE: Final = frozenset({"true", "1", "yes", "1.0"})
_FALSE: Final = frozenset({"false", "0", "no", "0.0"})
_NUMBER: Final = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_INTEGER: Final = r"[+-]?[0-9]{1,18}"
_INTEGRAL: Final = re.compile(r"[+-]?[0-9]+(?:\.0*)?")
_ONE_NUMBER: Final = re.compile(_NUMBER)
_NUMBERS: Final = re.compile(rf"(?:{_NUMBER}\n)*+")
_INTEGERS: Final = re.compile(rf"(?:{_INTEGER}\n)*+")
_MANY_DIGITS: Final = 40
_BEYOND: Final = 10**_MANY_DIGITS


def read_csv(body: bytes, codec: SignatureCodec) -> dict[str, Column]:
    """The columns of a CSV body by name, typed by the signature.

    A cell that cannot be read by its feature's type is left as the text it is, for the codec to
    refuse by row and field.

    Args:
        body: UTF-8, separated by commas, quoted as in RFC 4180, with a header.
        codec: Of the model that is asked.

    Raises:
        MalformedRequestError: The body is no UTF-8, or no CSV.
        InvalidRequestError: A line has more or fewer cells than the header, or a name comes twice.
    """
    try:
        reader = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        lines = list(reader)
    except UnicodeDecodeError as exc:
        raise MalformedRequestError("the body is not UTF-8") from exc
    except csv.Error as exc:
        raise MalformedRequestError(f"the body is not CSV: line {reader.line_num}: {exc}") from exc
    if not lines:
        raise MalformedRequestError("expected CSV with a header, got an empty body")
    header, rows = lines[0], lines[1:]
    if len(header) == 1:
        # Of a single column, an empty line is a row without a value.
        rows = [row or [""] for row in rows]
    elif [] in rows:
        rows = [row for row in rows if row]
    if rows and set(map(len, rows)) != {len(header)}:
        raise _ragged(rows, len(header))
    names = [name.strip() for name in header]
    codec.refuse_twice(names, "header")
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return {
        name: _typed(codec.feature(name), values, codec.null_texts)
        for name, values in zip(names, cells, strict=True)
    }


def _ragged(rows: Sequence[Sequence[str]], width: int) -> InvalidRequestError:
    wrong = [(i, len(row)) for i, row in enumerate(rows) if len(row) != width]
    problems = [
        FieldProblem("row", f"expected {width} cells as in the header, got {came}", index)
        for index, came in wrong[:MAX_PROBLEMS]
    ]
    more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
    return InvalidRequestError(f"row {wrong[0][0]}: {problems[0].message}{more}", problems)


def _typed(feature: FeatureField | None, cells: Sequence[str], nulls: frozenset[str]) -> Column:
    """The cells of a feature by its type; those of no feature as they are."""
    if feature is None or feature.type is ColumnType.STRING:
        return _objects(cells)
    if feature.type is ColumnType.BOOLEAN:
        words = [_boolean(cell.strip(WHITESPACE), nulls) for cell in cells]
        return np.array(words, dtype=np.bool_) if {*map(type, words)} == {bool} else _objects(words)
    present = [cell for cell in cells if cell not in nulls]
    text = "\n".join(present) + "\n" if present else ""
    integer = feature.type is ColumnType.INTEGER
    if not (_INTEGERS if integer else _NUMBERS).fullmatch(text):
        return _objects([_number(cell.strip(WHITESPACE), nulls, integer=integer) for cell in cells])
    read: npt.NDArray[Any] = (
        np.array(list(map(int, present)), dtype=np.int64)
        if integer
        else np.array(list(map(float, present)), dtype=np.float64)
    )
    if len(present) == len(cells):
        return read
    missing = np.array([cell in nulls for cell in cells])
    values = np.zeros(len(cells), dtype=read.dtype)
    values[~missing] = read
    return np.ma.MaskedArray(values, missing)


def _number(cell: str, nulls: frozenset[str], *, integer: bool) -> float | int | str | None:
    if cell in nulls:
        return None
    if integer:
        if not _INTEGRAL.fullmatch(cell):
            number = float(cell) if _ONE_NUMBER.fullmatch(cell) else None
            # 1e3 is whole, and ingest takes it for no integer either.
            return cell if number is None or number.is_integer() else number
        digits = cell.partition(".")[0]
        return int(digits) if len(digits) < _MANY_DIGITS else _BEYOND
    return float(cell) if _ONE_NUMBER.fullmatch(cell) else cell


def _boolean(cell: str, nulls: frozenset[str]) -> bool | str | None:
    if cell in nulls:
        return None
    word = cell.lower()
    if word in _TRUE:
        return True
    return False if word in _FALSE else cell


def _objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made
