"""Reads an upload into one DuckDB relation of cells, and refuses files that are wrong as a whole.

A text file is first scanned once as bytes. That scan is what makes the rest safe: it unpacks gzip
within a limit, proves the encoding, finds the longest line and counts records, so that nothing the
CSV parser might skip in silence (it does skip lines longer than its buffer) is ever lost.
"""

# ruff: noqa: S608  # SQL is put together from positions (c0, v0, …); names, values and paths of
# the user's go in as parameters, or through engine.identifier and engine.literal where SQL takes none.

import codecs
import csv
import difflib
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import duckdb
import numpy as np
import numpy.typing as npt

from millrace.datasets.engine import identifier, literal, reason_of
from millrace.datasets.rules import MAX_LINE_BYTES, Contract, Refusal, Rule
from millrace.errors import UploadRefusedError
from millrace.layout import SUPPORTED_SUFFIXES
from millrace.spec import MAX_COLUMNS, Column

Connection = duckdb.DuckDBPyConnection
Format = Literal["csv", "jsonl", "parquet"]

MAX_PARSER_ERRORS: Final = 300_000
"""Most errors the CSV parser may list: it keeps each in about 1 KB of memory, outside its limit,
and a line that lacks k fields has k."""

_BLOCK: Final = 1024 * 1024
_DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
_PARSER_LINE_BYTES: Final = 2 * MAX_LINE_BYTES + 1024
_REJECT_RULES: Final = {
    "MISSING COLUMNS": Rule.TOO_FEW_FIELDS,
    "TOO MANY COLUMNS": Rule.TOO_MANY_FIELDS,
    "INVALID ENCODING": Rule.ENCODING,
    "UNQUOTED VALUE": Rule.QUOTING,
    "LINE SIZE OVER MAXIMUM": Rule.OVERSIZE,
}


@dataclass(frozen=True, slots=True)
class Cells:
    """An upload as DuckDB sees it.

    Attributes:
        format: What the file is.
        names: Column names as in the file, in the file's order.
        relation: SQL of a relation with one column ``c<i>`` per name, text unless Parquet,
            and ``fault``: NULL, or the rule that makes the whole row unreadable.
        parameters: Named parameters of `relation`.
        types: SQL types of the columns.
        skipped: Header and leading blank lines of a text file.
        blanks: Byte positions of blank lines after the header.
        path: The file as it is read: unpacked, with one kind of line break.
        rows_expected: Rows that must be accounted for, or None when the format counts itself.
    """

    format: Format
    names: tuple[str, ...]
    relation: str
    parameters: dict[str, Any]
    types: tuple[str, ...]
    path: Path
    skipped: int = 0
    blanks: tuple[int, ...] = ()
    rows_expected: int | None = None


@dataclass(slots=True)
class _TextFacts:
    size: int = 0
    lines: int = 0
    records: int = 0
    blank: int = 0
    bad_lines: int = 0
    multibyte: bool = False
    first_bad_line: int = 0
    line_feeds: int = 0
    carriage_returns: int = 0
    both: int = 0
    ragged: int = 0
    parser_errors: int = 0


def format_of(name: str) -> Format:
    """The format a file's name promises.

    Raises:
        UploadRefusedError: The suffix is not supported.
    """
    lowered = name.lower()
    if lowered.endswith((".csv", ".csv.gz")):
        return "csv"
    if lowered.endswith((".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")):
        return "jsonl"
    if lowered.endswith(".parquet"):
        return "parquet"
    raise UploadRefusedError(
        f"expected a file named *{', *'.join(SUPPORTED_SUFFIXES)}, got {name!r}",
        Refusal.UNSUPPORTED_FORMAT,
    )


def open_cells(
    connection: Connection,
    path: Path,
    name: str,
    *,
    workspace: Path,
    delimiter: str,
    expected: Sequence[str],
    max_unpacked_mb: int,
) -> Cells:
    """Looks at the whole file and prepares it to be read.

    Args:
        connection: Where the relation will be run.
        path: The file.
        name: Its name as uploaded, which tells the format.
        workspace: Where to unpack.
        delimiter: The CSV separator the spec states.
        expected: Column names that would make sense, to recognise a wrong delimiter.
        max_unpacked_mb: Largest text.

    Raises:
        UploadRefusedError: The file is wrong as a whole; ``code`` says how.
    """
    kind = format_of(name)
    if path.stat().st_size == 0:
        raise UploadRefusedError(
            "the file is empty: it has 0 bytes; expected a header and rows"
            if kind == "csv"
            else "the file is empty: it has 0 bytes; expected rows",
            Refusal.EMPTY_FILE,
        )
    if kind == "parquet":
        return _open_parquet(connection, path)
    packed = name.lower().endswith(".gz")
    _refuse_other_formats(path, packed=packed)
    text = workspace / "upload.txt" if packed else path
    facts = _scan(
        path,
        packed=packed,
        unpack_to=text if packed else None,
        delimiter=delimiter if kind == "csv" else "",
        max_bytes=max_unpacked_mb * 1024 * 1024,
    )
    _refuse_wrong_text(facts)
    if (facts.both and facts.both != facts.line_feeds) or (
        not facts.both and facts.carriage_returns and facts.line_feeds
    ):
        text = _with_one_line_break(text, workspace / "upload-lf.txt")
    if kind == "jsonl":
        return _open_jsonl(connection, text, facts)
    return _open_csv(text, facts, delimiter=delimiter, expected=expected)


# ── Bytes ───────────────────────────────────────────────────────────────────────────────────────


def _refuse_other_formats(path: Path, *, packed: bool) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    if packed and not head.startswith(b"\x1f\x8b"):
        raise UploadRefusedError(
            "the name ends in .gz and the content is not gzip; "
            "compress it with gzip or drop the .gz",
            Refusal.NOT_GZIP,
        )
    if packed:
        return
    for magic, what in (
        (b"\x1f\x8b", "gzip: name it .csv.gz or .jsonl.gz"),
        (b"PK\x03\x04", "a ZIP archive or an Excel workbook: export it as CSV"),
        (b"PAR1", "Parquet: name it .parquet"),
    ):
        if head.startswith(magic):
            raise UploadRefusedError(
                f"expected text and the content is {what}", Refusal.UNSUPPORTED_FORMAT
            )


def _blocks(path: Path, *, packed: bool, unpack_to: Path | None, max_bytes: int) -> Iterator[bytes]:
    """Blocks that end at a line break, the last one excepted."""
    carry = b""
    total = 0
    target: IO[bytes] | None = unpack_to.open("wb") if unpack_to is not None else None
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as source:
            while block := _read(source, packed=packed):
                total += len(block)
                if total > max_bytes:
                    raise UploadRefusedError(
                        f"the text is larger than {max_bytes // (1024 * 1024)} MB unpacked; "
                        "split the upload",
                        Refusal.TOO_LARGE,
                    )
                if target is not None:
                    target.write(block)
                cut = block.rfind(b"\n") + 1
                if cut == 0 and b"\n" not in carry:
                    cut = block.rfind(b"\r", 0, -1) + 1  # never between CR and LF
                if cut == 0:
                    carry += block
                    if len(carry) > MAX_LINE_BYTES + _BLOCK:
                        yield carry  # the scan refuses it: no line may be this long
                        return
                    continue
                yield carry + block[:cut]
                carry = block[cut:]
        if carry:
            yield carry
    finally:
        if target is not None:
            target.close()


def _read(source: IO[bytes] | gzip.GzipFile, *, packed: bool) -> bytes:
    try:
        return source.read(_BLOCK)
    except EOFError as exc:
        raise UploadRefusedError(
            "the gzip file ends too early: it was cut off, upload it again",
            Refusal.TRUNCATED_GZIP,
        ) from exc
    except (gzip.BadGzipFile, zlib.error) as exc:
        if not packed:
            raise
        raise UploadRefusedError(
            f"the gzip file is damaged ({exc}); compress and upload it again", Refusal.NOT_GZIP
        ) from exc


def _scan(
    path: Path, *, packed: bool, unpack_to: Path | None, delimiter: str, max_bytes: int
) -> _TextFacts:
    """Reads a text once as bytes; ``delimiter`` is empty when quotes mean nothing."""
    facts = _TextFacts()
    odd = False
    width = 0
    for block in _blocks(path, packed=packed, unpack_to=unpack_to, max_bytes=max_bytes):
        first = facts.size == 0
        if first:
            _refuse_foreign_encoding(block)
            width = _width(block, delimiter)
        data = np.frombuffer(block, dtype=np.uint8)
        breaks = np.flatnonzero(data == 10)
        if not len(breaks) and b"\r" in block:
            breaks = np.flatnonzero(data == 13)
        last = np.array([] if _ends(block) else [len(block)], dtype=breaks.dtype)
        bounds = np.concatenate((np.array([-1], dtype=breaks.dtype), breaks, last))
        lengths = np.diff(bounds) - 1
        longest = int(lengths.max(initial=0))
        if longest > MAX_LINE_BYTES:
            number = facts.lines + int(lengths.argmax()) + 1
            raise UploadRefusedError(
                f"line {number} is longer than {MAX_LINE_BYTES:,} bytes; "
                "expected one row per line: are the line breaks missing?",
                Refusal.LINE_TOO_LONG,
            )
        if not block.isascii():
            _check_encoding(block, facts)
        inside = np.zeros(len(breaks), dtype=bool)
        marks = np.empty(0, dtype=breaks.dtype)
        if delimiter and (b'"' in block or odd):
            marks = np.flatnonzero(data == 34)
            inside = (np.searchsorted(marks, breaks) + odd) % 2 == 1
            odd = (len(marks) + odd) % 2 == 1
        ended = lengths[: len(breaks)]
        empty = ended == 0
        one = np.flatnonzero(ended == 1)
        empty[one] = data[breaks[one] - 1] == 13
        open_end = len(lengths) - len(breaks)
        if width > 1:
            _count_ragged(block, data, bounds, marks, delimiter, width, facts)
        facts.size += len(block)
        facts.lines += len(lengths)
        facts.records += int((~inside).sum()) + open_end
        facts.blank += int((empty & ~inside).sum())
        facts.line_feeds += block.count(b"\n")
        facts.carriage_returns += block.count(b"\r")
        facts.both += block.count(b"\r\n")
    return facts


def _width(block: bytes, delimiter: str) -> int:
    """Fields of the header, or 0 when they cannot be told from the bytes."""
    if not delimiter or not delimiter.isascii():
        return 0
    line = block.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n").splitlines()[:1]
    return fields_of(b"".join(line).decode("utf-8", errors="replace"), delimiter)


def fields_of(line: str, delimiter: str) -> int:
    """Fields of one line; 0 when it cannot be read that way."""
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 0


def _count_ragged(
    block: bytes,
    data: npt.NDArray[np.uint8],
    bounds: npt.NDArray[np.intp],
    marks: npt.NDArray[np.intp],
    delimiter: str,
    width: int,
    facts: _TextFacts,
) -> None:
    """Counts lines with a wrong number of fields, where quotes leave no doubt about it."""
    per_line = np.zeros(len(bounds) - 1, dtype=np.intp)
    filled = np.diff(bounds) > 1
    if not len(marks) and block.count(delimiter.encode()) == int(filled.sum()) * (width - 1):
        return
    if len(marks):
        in_line = np.bincount(np.searchsorted(bounds, marks) - 1, minlength=len(per_line))
        if (in_line % 2).any():
            return
    separators = np.flatnonzero(data == ord(delimiter))
    if len(marks):
        separators = separators[np.searchsorted(marks, separators) % 2 == 0]
    per_line += np.bincount(np.searchsorted(bounds, separators) - 1, minlength=len(per_line))
    short = filled & (per_line + 1 < width)
    long = filled & (per_line + 1 > width)
    facts.ragged += int(short.sum() + long.sum())
    facts.parser_errors += int((width - 1 - per_line)[short].sum() + long.sum())


def _ends(block: bytes) -> bool:
    return block.endswith(b"\n") or (b"\n" not in block and block.endswith(b"\r"))


def _check_encoding(block: bytes, facts: _TextFacts) -> None:
    if _is_utf8(block):
        facts.multibyte = facts.multibyte or not block.removeprefix(codecs.BOM_UTF8).isascii()
        return
    for number, line in enumerate(block.split(b"\n"), start=facts.lines + 1):
        if _is_utf8(line):
            facts.multibyte = facts.multibyte or not line.isascii()
        else:
            facts.bad_lines += 1
            facts.first_bad_line = facts.first_bad_line or number


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refuse_foreign_encoding(block: bytes) -> None:
    looks = ""
    if block.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        looks = "UTF-32"
    elif block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        looks = "UTF-16"
    else:
        head = block[:4096]
        if head.count(0) * 4 > len(head):
            looks = "UTF-16 without a byte order mark"
    if looks:
        raise UploadRefusedError(
            f"expected UTF-8 text, and the file looks like {looks}; save it as UTF-8",
            Refusal.WRONG_ENCODING,
        )


def _refuse_wrong_text(facts: _TextFacts) -> None:
    if facts.lines == facts.blank or facts.size == 0:
        raise UploadRefusedError(
            f"the file has no content: {facts.size} bytes of blank lines", Refusal.EMPTY_FILE
        )
    # A few damaged lines among good UTF-8 are quarantined one by one. A file in which nothing
    # beyond ASCII is UTF-8 was written in another encoding: dropping those rows would drop
    # everyone with an accent in the name.
    share = facts.bad_lines / facts.lines
    other = not facts.multibyte and facts.bad_lines >= 2 and share >= 0.001
    if facts.first_bad_line == 1 or other or share > 0.2:
        raise UploadRefusedError(
            f"expected UTF-8 text, and line {facts.first_bad_line} is not "
            f"({facts.bad_lines:,} of {facts.lines:,} lines); the file looks like "
            "Latin-1 or Windows-1252: save it as UTF-8",
            Refusal.WRONG_ENCODING,
        )


def _with_one_line_break(path: Path, target: Path) -> Path:
    with path.open("rb") as source, target.open("wb") as out:
        held = b""
        while block := source.read(_BLOCK):
            block = held + block
            held = b"\r" if block.endswith(b"\r") else b""
            out.write(block[: len(block) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        out.write(b"\n" if held else b"")
    return target


def _blank_positions(path: Path, start: int) -> tuple[int, ...]:
    """Byte positions of blank lines at or after ``start``."""
    positions: list[int] = []
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if offset >= start and line.strip(b"\r\n") == b"":
                positions.append(offset)
            offset += len(line)
    return tuple(positions)


# ── CSV ─────────────────────────────────────────────────────────────────────────────────────────


def _open_csv(path: Path, facts: _TextFacts, *, delimiter: str, expected: Sequence[str]) -> Cells:
    head, leading, start = _head_of(path)
    names, header_records = _header(head, delimiter)
    _refuse_wrong_delimiter(head, names, delimiter, expected)
    _refuse_bad_names(names)
    rows = facts.records - facts.blank - header_records
    if facts.lines - facts.blank <= 1 or rows < 1:
        raise UploadRefusedError(
            f"the file has a header of {len(names)} columns and no rows", Refusal.HEADER_ONLY
        )
    if facts.parser_errors + facts.bad_lines > MAX_PARSER_ERRORS:
        raise UploadRefusedError(
            f"{facts.ragged + facts.bad_lines:,} of {rows:,} rows cannot be read: they do not have "
            f"the {len(names)} fields of the header, or are not UTF-8; that is more than Millrace "
            "lists one by one",
            Refusal.TOO_MANY_QUARANTINED,
        )
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(names)))
    # The path is ours or the operator's, the delimiter one character of the spec: both quoted.
    relation = (
        f"SELECT *, NULL::VARCHAR AS fault FROM read_csv({literal(str(path))}, "
        f"auto_detect = false, columns = {{{columns}}}, header = true, skip = {leading}, "
        f"delim = {literal(delimiter)}, quote = '\"', escape = '\"', encoding = 'utf-8', "
        "store_rejects = true, rejects_limit = 0, "
        f"max_line_size = {_PARSER_LINE_BYTES})"
    )
    return Cells(
        format="csv",
        names=names,
        relation=relation,
        parameters={},
        types=("VARCHAR",) * len(names),
        path=path,
        skipped=leading + 1,
        blanks=_blank_positions(path, start) if facts.blank > leading else (),
        rows_expected=min(rows, facts.lines - facts.blank - 1),
    )


def _head_of(path: Path) -> tuple[str, int, int]:
    """The text from the header on, and how many blank lines and bytes come before it."""
    with path.open("rb") as file:
        data = file.read(2 * MAX_LINE_BYTES)
    text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    stripped = text.lstrip("\n")
    start = len(data) - len(data.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n"))
    return stripped, len(text) - len(stripped), start


def _header(head: str, delimiter: str) -> tuple[tuple[str, ...], int]:
    try:
        names = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration) as exc:
        raise UploadRefusedError(
            f"the header line cannot be read: {exc}", Refusal.UNREADABLE_CSV
        ) from exc
    return tuple(name.strip() for name in names), 1


def _refuse_wrong_delimiter(
    head: str, names: Sequence[str], delimiter: str, expected: Sequence[str]
) -> None:
    wanted = set(expected)
    line = head.split("\n", 1)[0]
    found = len(wanted.intersection(names))
    best, best_score = delimiter, (found, len(names))
    for other in _DELIMITERS:
        if other == delimiter or other not in line:
            continue
        try:
            parts = [p.strip() for p in next(csv.reader([line], delimiter=other))]
        except csv.Error:
            continue
        if wanted:
            score = (len(wanted.intersection(parts)), len(parts))
            better = score[0] > best_score[0] and score[0] >= 2
        else:
            score = (0, len(parts))
            better = score[1] > best_score[1]
        if better or (len(names) == 1 and len(parts) > max(1, best_score[1])):
            best, best_score = other, score
    if best != delimiter:
        raise UploadRefusedError(
            f"expected columns separated by {_named(delimiter)}, and the header reads as "
            f"{len(names)} column{'s' if len(names) != 1 else ''} that way; "
            f"it looks separated by {_named(best)} ({best_score[1]} columns): "
            f"set data.delimiter to {best!r} in the spec or convert the file",
            Refusal.WRONG_DELIMITER,
        )


def _named(delimiter: str) -> str:
    return f"{_DELIMITERS.get(delimiter, 'character')} ({delimiter!r})"


def _refuse_bad_names(names: Sequence[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise UploadRefusedError(
            f"the file has {len(names):,} columns; Millrace accepts at most {MAX_COLUMNS:,}",
            Refusal.TOO_MANY_COLUMNS,
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        shown = ", ".join(repr(n) for n in twice[:5])
        raise UploadRefusedError(
            f"the header names a column twice: {shown}; expected every name once",
            Refusal.DUPLICATE_COLUMNS,
        )


# ── JSON Lines ──────────────────────────────────────────────────────────────────────────────────


def _open_jsonl(connection: Connection, path: Path, facts: _TextFacts) -> Cells:
    with path.open("rb") as file:
        head = file.read(MAX_LINE_BYTES).lstrip(codecs.BOM_UTF8).lstrip()
    if head.startswith(b"["):
        raise UploadRefusedError(
            "expected JSON Lines, one object per line, and the file is one JSON array; "
            "write one object per line without the surrounding [ ]",
            Refusal.JSON_ARRAY,
        )
    # A JSON text holds no bare control character, so this separator never splits a valid line.
    connection.execute(
        "CREATE TEMP TABLE json_lines AS SELECT line, "
        "CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' ELSE false END AS readable "
        f"FROM read_csv({literal(str(path))}, auto_detect = false, "
        "columns = {'line': 'VARCHAR'}, header = false, delim = '\x01', quote = '', escape = '', "
        f"store_rejects = true, rejects_limit = 0, max_line_size = {_PARSER_LINE_BYTES}) "
    )
    first = connection.execute(
        "SELECT readable FROM json_lines WHERE trim(line) <> '' ORDER BY rowid LIMIT 1"
    ).fetchone()
    if first is None or not first[0]:
        raise UploadRefusedError(
            "expected JSON Lines, and line 1 is not one whole JSON object; "
            "a pretty-printed or cut-off document must become one object per line",
            Refusal.BROKEN_JSON,
        )
    names = tuple(
        row[0]
        for row in connection.execute(
            "SELECT key, min(position) FROM (SELECT unnest(keys) AS key, "
            "generate_subscripts(keys, 1) AS position FROM (SELECT DISTINCT json_keys(line) AS keys "
            f"FROM json_lines WHERE readable)) GROUP BY key ORDER BY 2, 1 LIMIT {MAX_COLUMNS + 1}"
        ).fetchall()
    )
    if len(names) > MAX_COLUMNS:
        raise UploadRefusedError(
            f"the file has more than {MAX_COLUMNS:,} different keys; Millrace accepts at most that",
            Refusal.TOO_MANY_COLUMNS,
        )
    cells = ", ".join(f"{_json_text(f'j[{i + 1}]')} AS c{i}" for i in range(len(names)))
    relation = (
        f"SELECT {cells or 'NULL AS none'}, fault, line FROM ("
        "SELECT line, CASE WHEN readable THEN json_extract(line, $json_paths) END AS j, "
        f"CASE WHEN readable THEN NULL ELSE '{Rule.BROKEN_JSON}' END AS fault "
        "FROM json_lines WHERE trim(coalesce(line, '')) <> '')"
    )
    return Cells(
        format="jsonl",
        names=names,
        relation=relation,
        parameters={"json_paths": [_pointer(name) for name in names]},
        types=("VARCHAR",) * len(names),
        path=path,
        rows_expected=facts.lines - facts.blank,
    )


def _pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _json_text(value: str) -> str:
    text = f"({value})::VARCHAR"
    return (
        f"CASE WHEN {value} IS NULL OR {text} = 'null' THEN NULL "
        f"WHEN ({text})[1] <> '\"' THEN {text} "
        # Only a string with an escape in it needs to be parsed again.
        f"WHEN contains({text}, '\\') THEN json_extract_string({value}, '$') "
        f"ELSE substring({text}, 2, length({text}) - 2) END"
    )


# ── Parquet ─────────────────────────────────────────────────────────────────────────────────────


def _open_parquet(connection: Connection, path: Path) -> Cells:
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        tail = file.read(4)
    if head != b"PAR1":
        raise UploadRefusedError(
            "the name ends in .parquet and the content is not Parquet: it does not begin with PAR1",
            Refusal.NOT_PARQUET,
        )
    if tail != b"PAR1":
        raise UploadRefusedError(
            "the Parquet file has no footer: it was cut off, upload it again",
            Refusal.NOT_PARQUET,
        )
    source = f"read_parquet({literal(str(path))})"
    with refused_if_unreadable("parquet"):
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        counted = connection.execute(f"SELECT count(*) FROM {source}").fetchone()
    if not counted or counted[0] == 0:
        raise UploadRefusedError(
            f"the Parquet file has {len(described)} columns and no rows", Refusal.HEADER_ONLY
        )
    stored = tuple(str(row[0]) for row in described)
    names = tuple(name.strip() for name in stored)
    _refuse_bad_names(names)
    cells = ", ".join(f"{identifier(name)} AS c{i}" for i, name in enumerate(stored))
    return Cells(
        format="parquet",
        names=names,
        relation=f"SELECT {cells}, NULL::VARCHAR AS fault FROM {source}",
        parameters={},
        types=tuple(str(row[1]) for row in described),
        path=path,
    )


# ── Columns against the contract ────────────────────────────────────────────────────────────────


def match_columns(
    cells: Cells, spec: Contract, *, ignored: Collection[str] = ()
) -> tuple[int, ...]:
    """For each contract column, its position in the file.

    Args:
        cells: The upload.
        spec: The contract.
        ignored: Columns that the file may have beside the contract's.

    Raises:
        UploadRefusedError: Columns are missing, unknown (when the spec refuses them) or nested.
    """
    position = {name: i for i, name in enumerate(cells.names)}
    contract = [c.name for c in spec.data.columns]
    missing = [name for name in contract if name not in position]
    known = {*contract, *ignored}
    unknown = [name for name in cells.names if name not in known]
    hints = _rename_hints(unknown, missing, contract)
    if missing:
        raise UploadRefusedError(
            f"missing {_listed('column', missing)} of the contract; the file has "
            f"{len(cells.names)} columns{hints}",
            Refusal.MISSING_COLUMNS,
        )
    if unknown and spec.data.unknown_columns == "refuse":
        raise UploadRefusedError(
            f"the contract does not name {_listed('column', unknown)}{hints}; add it to the spec, "
            "remove it from the file, or set data.unknown_columns to drop",
            Refusal.UNKNOWN_COLUMNS,
        )
    for column in spec.data.columns:
        _refuse_nested(column, cells.types[position[column.name]])
    return tuple(position[name] for name in contract)


def _rename_hints(unknown: Sequence[str], missing: Sequence[str], contract: Sequence[str]) -> str:
    folded = {name.casefold(): name for name in contract}
    hints = []
    for name in unknown[:50]:
        pool = list(missing) or list(contract)
        close = difflib.get_close_matches(name, pool, n=1, cutoff=0.6)
        same = folded.get(name.casefold())
        guess = same if same in pool else (close[0] if close else None)
        if guess is not None:
            hints.append(f"column {name!r} is unknown; did you mean {guess!r}?")
        elif len(missing) == len(unknown) == 1:
            hints.append(f"column {name!r} is unknown; was {missing[0]!r} renamed?")
        elif missing:
            hints.append(f"column {name!r} is unknown")
    return ": " + " ".join(hints[:5]) if hints else ""


def _listed(noun: str, names: Sequence[str]) -> str:
    shown = ", ".join(repr(n) for n in names[:10])
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {shown}{more}"


def _refuse_nested(column: Column, sql_type: str) -> None:
    if sql_type.endswith("]") or sql_type.startswith(("STRUCT", "MAP", "UNION", "BLOB")):
        raise UploadRefusedError(
            f"column {column.name!r} holds {sql_type.split('(')[0].lower()} values; "
            f"expected plain values of type {column.type}",
            Refusal.NESTED_COLUMN,
        )


@contextmanager
def refused_if_unreadable(kind: Format) -> Iterator[None]:
    """Turns what the parser gives up on into a refusal, and leaves other faults alone.

    Raises:
        UploadRefusedError: The file is damaged.
    """
    try:
        yield
    except duckdb.Error as exc:
        # A damaged Parquet page raises the base class itself; a full disk is no fault of the file.
        damaged = type(exc) is duckdb.Error or isinstance(
            exc, duckdb.InvalidInputException | duckdb.ConversionException | duckdb.IOException
        )
        if not damaged or "No space left" in str(exc):
            raise
        code = {
            "csv": Refusal.UNREADABLE_CSV,
            "jsonl": Refusal.BROKEN_JSON,
            "parquet": Refusal.NOT_PARQUET,
        }[kind]
        raise UploadRefusedError(
            f"the file is not readable as {kind}: {reason_of(exc)}", code
        ) from None


# ── Rejected lines ──────────────────────────────────────────────────────────────────────────────


def collect_rejects(connection: Connection, cells: Cells) -> int:
    """Fills table ``rejected(row, rule, message, line)`` after the relation was read.

    Returns:
        How many rows were rejected.

    Raises:
        UploadRefusedError: A quote was never closed, so that unknown rows were swallowed.
    """
    connection.execute(
        "CREATE TEMP TABLE rejected (row BIGINT, rule VARCHAR, message VARCHAR, line VARCHAR)"
    )
    if cells.format == "parquet":
        return 0
    connection.execute("CREATE TEMP TABLE blanks (position BIGINT, before BIGINT)")
    if cells.blanks:
        connection.execute(
            "INSERT INTO blanks SELECT unnest($at), unnest($before)",
            {"at": list(cells.blanks), "before": list(range(1, len(cells.blanks) + 1))},
        )
    mapping = " ".join(f"WHEN '{k}' THEN '{v}'" for k, v in _REJECT_RULES.items())
    connection.execute(
        "INSERT INTO rejected "
        "SELECT row, CASE kind " + mapping + f" ELSE '{Rule.UNPARSABLE}' END, message, "
        "ltrim(text, chr(10) || chr(13)) FROM ("
        " SELECT e.line - $skipped - coalesce(b.before, 0) AS row, e.kind, e.message, e.text FROM ("
        "  SELECT line, arg_min(error_type, byte_position) AS kind, "
        "  arg_min(error_message, byte_position) AS message, "
        "  arg_min(csv_line, byte_position) AS text, "
        "  min(line_byte_position) AS position FROM reject_errors GROUP BY line) e "
        " ASOF LEFT JOIN blanks b ON e.position >= b.position)",
        {"skipped": cells.skipped},
    )
    swallowed = connection.execute(
        "SELECT row FROM rejected WHERE rule = $rule AND contains(rtrim(line, chr(10) || chr(13)),"
        " chr(10)) ORDER BY row LIMIT 1",
        {"rule": str(Rule.QUOTING)},
    ).fetchone()
    if swallowed is not None:
        raise UploadRefusedError(
            f'data row {swallowed[0]} opens a quote (") that is not closed on its line, which '
            "swallows the rows after it; close it or double the quote inside the value",
            Refusal.UNCLOSED_QUOTE,
        )
    counted = connection.execute("SELECT count(*) FROM rejected").fetchone()
    return int(counted[0]) if counted else 0


def refuse_lost_rows(cells: Cells, accounted: int) -> None:
    """Refuses a file of which the parser did not account for every row.

    Raises:
        UploadRefusedError: Rows are missing.
    """
    if cells.rows_expected is not None and accounted < cells.rows_expected:
        raise UploadRefusedError(
            f"only {accounted:,} of {cells.rows_expected:,} rows could be told apart; "
            "check the quotes and line breaks of the file",
            Refusal.UNREADABLE_CSV if cells.format == "csv" else Refusal.BROKEN_JSON,
        )
