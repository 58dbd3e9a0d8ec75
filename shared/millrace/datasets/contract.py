"""The contract as SQL: every cell is cleaned, typed and judged in one pass over the upload.

How a cell is read (the same in every format):

* Whitespace around it is cut; the empty cell and the spec's ``null_values`` mean "no value".
* ``integer``: an optional sign and digits within 64 bits. ``3.0`` is the integer 3, because tools
  that know no missing integers write them so; ``3.5`` and ``3e2`` are not integers.
* ``number``: decimal or scientific. ``NaN`` and infinities break the rule ``not_finite``, unless
  ``null_values`` says that ``NaN`` means "no value"; so do features and targets beyond the range of
  float32, in which models compute. Minus zero is zero.
* ``boolean``: true, false, 1, 0, yes, no, in any case.
* ``timestamp``: ISO 8601 date, or date and time with optional seconds, fraction (to microseconds)
  and offset; without an offset it is UTC; stored as UTC.
* ``string``: any text.

A cell breaks at most one rule, a row as many as it has cells.
"""

# ruff: noqa: S608  # SQL is put together from positions (c0, v0, …); names, values and paths of
# the user's go in as parameters, or through engine.identifier and engine.literal where SQL takes none.

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb

from millrace.datasets.reading import Cells
from millrace.datasets.rules import CODE, Contract, Rule
from millrace.spec import WHITESPACE, Column, ColumnType, Role, null_texts

SQL_TYPES: Final = {
    ColumnType.INTEGER: "BIGINT",
    ColumnType.NUMBER: "DOUBLE",
    ColumnType.BOOLEAN: "BOOLEAN",
    ColumnType.STRING: "VARCHAR",
    ColumnType.TIMESTAMP: "TIMESTAMP",
}
_INTEGERS: Final = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
)
_TIMESTAMP: Final = (
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}(:\d{2})?)?)?"
)
_MODEL_MAX: Final = 3.4028234663852886e38
"""Largest float32."""

_INTEGER: Final = r"[+-]?\d+(\.0*)?"
_TRUE: Final = "('true', '1', 'yes', '1.0')"
_FALSE: Final = "('false', '0', 'no', '0.0')"


WIDE: Final = 64
"""Tables with more columns are judged in chunks: DuckDB keeps a vector of 2,048 values for every
intermediate result of every column, and plans such statements in quadratic time."""

CHUNK: Final = 16
"""Columns of a chunk."""


@dataclass(slots=True)
class _Query:
    """One cell's SQL, and the parameters it needs."""

    parameters: dict[str, Any] = field(default_factory=dict)

    def bind(self, name: str, value: Any) -> str:
        self.parameters[name] = value
        return f"${name}"


@dataclass(frozen=True, slots=True)
class _Cell:
    """The four layers of one column's SQL over ``c<source>``."""

    number: str
    """What a plain cast to a number gives for the uncleaned cell, or NULL."""
    text: str
    """Cleaned text or native value, NULL when there is none; may use ``n<k>``."""
    value: str
    """Typed value over ``t<k>``, NULL when it cannot be typed."""
    code: str
    """Rule code over ``t<k>`` and ``v<k>``."""


def check_cells(
    connection: duckdb.DuckDBPyConnection, cells: Cells, spec: Contract, sources: Sequence[int]
) -> None:
    """Fills table ``checked(v0…, bad, fault, codes, raw)``, one row per readable row of the file.

    ``codes`` and ``raw`` (rule codes and text of every contract column) are NULL in good rows.

    Args:
        connection: Where to work.
        cells: The upload.
        spec: The contract.
        sources: Position in the file of each contract column.
    """
    count = len(spec.data.columns)
    line = ", line" if cells.format == "jsonl" else ""
    whole = "CASE WHEN fault IS NOT NULL THEN [line] ELSE" if line else ""
    raw = ", ".join(f"c{source}::VARCHAR" for source in sources)
    used = ", ".join(f"c{source}" for source in dict.fromkeys(sources))
    if count <= WIDE:
        relation, parameters = cells.relation, cells.parameters
        judged, query = _judged(connection, cells, spec, sources, range(count), relation)
        parameters = {**parameters, **query.parameters}
        broken = " OR ".join(f"p{k} <> 0" for k in range(count))
        codes = f"[{_each(range(count), lambda k: f'p{k}')}]"
        chunks = 0
    else:
        connection.execute(
            f"CREATE TEMP TABLE cells AS SELECT {used}, fault{line} FROM ({cells.relation})",
            cells.parameters,
        )
        chunks = _judge_in_chunks(connection, cells, spec, sources)
        judged = "SELECT * FROM cells" + "".join(
            f" POSITIONAL JOIN chunk{i}" for i in range(chunks)
        )
        parameters = {}
        broken = " OR ".join(f"bad{i}" for i in range(chunks))
        codes = f"flatten([{_each(range(chunks), lambda i: f'codes{i}')}])"
    connection.execute(
        "CREATE TEMP TABLE checked AS "
        f"SELECT {_each(range(count), lambda k: f'v{k}')}, bad, fault, "
        f"CASE WHEN bad AND fault IS NULL THEN {codes} END AS codes, "
        f"CASE WHEN bad THEN {whole} [{raw}] {'END' if whole else ''} END AS raw "
        f"FROM (SELECT *, fault IS NOT NULL OR {broken} AS bad FROM ({judged}))",
        parameters,
    )
    for i in range(chunks):
        connection.execute(f"DROP TABLE chunk{i}")
    if chunks:
        connection.execute("DROP TABLE cells")


def _judge_in_chunks(
    connection: duckdb.DuckDBPyConnection, cells: Cells, spec: Contract, sources: Sequence[int]
) -> int:
    """Fills ``chunk<i>(v…, bad<i>, codes<i>)`` from table ``cells``; returns how many."""
    starts = range(0, len(sources), CHUNK)
    for i, start in enumerate(starts):
        ks = range(start, min(start + CHUNK, len(sources)))
        used = ", ".join(dict.fromkeys(f"c{sources[k]}" for k in ks))
        judged, query = _judged(connection, cells, spec, sources, ks, f"SELECT {used} FROM cells")
        broken = " OR ".join(f"p{k} <> 0" for k in ks)
        connection.execute(
            f"CREATE TEMP TABLE chunk{i} AS SELECT {_each(ks, lambda k: f'v{k}')}, "
            f"{broken} AS bad{i}, [{_each(ks, lambda k: f'p{k}')}] AS codes{i} FROM ({judged})",
            query.parameters,
        )
    return len(starts)


def _judged(
    connection: duckdb.DuckDBPyConnection,
    cells: Cells,
    spec: Contract,
    sources: Sequence[int],
    ks: Sequence[int],
    relation: str,
) -> tuple[str, _Query]:
    """SQL that adds the typed value ``v<k>`` and the rule code ``p<k>`` of some columns."""
    query = _Query()
    tokens = sorted(null_texts(spec.data.null_values))
    nulls = {f"null{i}": token for i, token in enumerate(tokens)}
    named = ", ".join(f"${name}" for name in nulls)
    parts = {
        k: _cell(
            connection,
            k,
            spec.data.columns[k],
            cells.types[sources[k]],
            f"c{sources[k]}",
            named,
            tokens,
            query,
        )
        for k in ks
    }
    # Each layer is computed once and used by the next: SQL has no other way to name a value.
    layers = f"SELECT *, {_each(ks, lambda k: f'{parts[k].number} AS n{k}')} FROM ({relation})"
    layers = f"SELECT *, {_each(ks, lambda k: f'{parts[k].text} AS t{k}')} FROM ({layers})"
    # Only texts are cleaned, and a statement refuses parameters that it does not use.
    if "$white" in layers:
        query.parameters |= {**nulls, "white": WHITESPACE}
    layers = f"SELECT *, {_each(ks, lambda k: f'{parts[k].value} AS v{k}')} FROM ({layers})"
    codes = _each(ks, lambda k: f"({parts[k].code})::UTINYINT AS p{k}")
    return f"SELECT *, {codes} FROM ({layers})", query


def _each(ks: Sequence[int], expression: Any) -> str:
    return ", ".join(expression(k) for k in ks)


def _cell(
    connection: duckdb.DuckDBPyConnection,
    k: int,
    column: Column,
    sql_type: str,
    c: str,
    nulls: str,
    tokens: Sequence[str],
    query: _Query,
) -> _Cell:
    t, v = f"t{k}", f"v{k}"
    if sql_type != "VARCHAR" and _is_native(column.type, sql_type):
        number = "NULL"
        shaped, value, typed = _native(column.type, sql_type, c, t, v, tokens)
    else:
        text = c if sql_type == "VARCHAR" else f"{c}::VARCHAR"
        number, shaped, value, typed = _textual(column.type, text, k, nulls, tokens)
    checks = [typed]
    if column.type is ColumnType.NUMBER and column.role in (Role.FEATURE, Role.TARGET):
        checks.append(f"WHEN abs({v}) > {_MODEL_MAX!r}::DOUBLE THEN {CODE[Rule.NOT_FINITE]}")
    for bound, rule, sign in (
        (column.min, Rule.BELOW_MIN, "<"),
        (column.max, Rule.ABOVE_MAX, ">"),
    ):
        if bound is not None and math.isfinite(bound):
            name = query.bind(f"{rule}{k}", float(bound))
            checks.append(f"WHEN {v} {sign} {name} THEN {CODE[rule]}")
    if column.allowed is not None:
        connection.execute(
            f"CREATE TYPE allowed{k} AS ENUM (SELECT DISTINCT unnest($values))",
            {"values": list(column.allowed)},
        )
        checks.append(f"WHEN TRY_CAST({v} AS allowed{k}) IS NULL THEN {CODE[Rule.NOT_ALLOWED]}")
    missing = CODE[Rule.MISSING] if column.required_value else 0
    code = f"CASE WHEN {t} IS NULL THEN {missing} {' '.join(checks)} ELSE 0 END"
    return _Cell(number=number, text=shaped, value=value, code=code)


def _is_native(wanted: ColumnType, sql_type: str) -> bool:
    match wanted:
        case ColumnType.INTEGER:
            return sql_type in _INTEGERS or sql_type == "DOUBLE"
        case ColumnType.NUMBER:
            return sql_type in _INTEGERS or sql_type == "DOUBLE"
        case ColumnType.BOOLEAN:
            return sql_type == "BOOLEAN"
        case ColumnType.TIMESTAMP:
            return sql_type.startswith("TIMESTAMP") or sql_type == "DATE"
        case ColumnType.STRING:
            return False


def _native(
    wanted: ColumnType, sql_type: str, c: str, t: str, v: str, tokens: Sequence[str]
) -> tuple[str, str, str]:
    bad_type = CODE[Rule.TYPE]
    not_finite = f"WHEN NOT isfinite({t}) THEN {CODE[Rule.NOT_FINITE]}"
    if wanted is ColumnType.TIMESTAMP:
        if sql_type == "TIMESTAMP WITH TIME ZONE":
            shaped = f"make_timestamp(epoch_us({c}))"
        else:
            shaped = f"{c}::TIMESTAMP"
        return shaped, t, f"WHEN NOT isfinite({t}) THEN {bad_type}"
    if sql_type != "DOUBLE":
        return c, f"{t}::{SQL_TYPES[wanted]}", ""
    nan_is_null = "nan" in {token.casefold() for token in tokens}
    shaped = f"CASE WHEN NOT isnan({c}) THEN {c} END" if nan_is_null else c
    if wanted is ColumnType.NUMBER:
        return shaped, f"CASE WHEN {t} = 0 THEN 0 ELSE {t} END", not_finite
    # Beyond 2**53 a double no longer tells neighbouring integers apart: such an id is refused.
    value = f"CASE WHEN abs({t}) <= 9007199254740992 AND {t} = trunc({t}) THEN {t}::BIGINT END"
    return shaped, value, f"{not_finite} WHEN {v} IS NULL THEN {bad_type}"


def _textual(
    wanted: ColumnType, c: str, k: int, nulls: str, tokens: Sequence[str]
) -> tuple[str, str, str, str]:
    n, t, v = f"n{k}", f"t{k}", f"v{k}"
    untyped = f"WHEN {v} IS NULL THEN {CODE[Rule.TYPE]}"
    clean = cleaned(c, nulls)
    match wanted:
        case ColumnType.STRING:
            return "NULL", clean, t, ""
        case ColumnType.BOOLEAN:
            value = (
                f"CASE WHEN lower({t}) IN {_TRUE} THEN true "
                f"WHEN lower({t}) IN {_FALSE} THEN false END"
            )
            return "NULL", clean, value, untyped
        case ColumnType.TIMESTAMP:
            value = (
                f"CASE WHEN regexp_full_match({t}, '{_TIMESTAMP}') "
                f"THEN make_timestamp(epoch_us(TRY_CAST({t} AS TIMESTAMPTZ))) END"
            )
            return "NULL", clean, value, untyped
        case ColumnType.INTEGER:
            # The plain form is recognised by its round trip, which spares most cells the regex.
            plain = f"TRY_CAST({c} AS BIGINT)"
            number = f"CASE WHEN {plain}::VARCHAR = {c} THEN {plain} END"
            value = (
                f"CASE WHEN {n} IS NOT NULL THEN {n} "
                f"WHEN regexp_full_match({t}, '{_INTEGER}') THEN TRY_CAST({t} AS BIGINT) END"
            )
        case ColumnType.NUMBER:
            number = f"TRY_CAST({c} AS DOUBLE)"
            value = (
                f"CASE WHEN {_no_number(t)} THEN NULL WHEN {n} IS NULL THEN TRY_CAST({t} AS DOUBLE) "
                f"WHEN {n} = 0 THEN 0 ELSE {n} END"
            )
            untyped += f" WHEN NOT isfinite({v}) THEN {CODE[Rule.NOT_FINITE]}"
    if any(_reads_as_number(token) for token in tokens):
        return number, clean, f"CASE WHEN {t} IS NOT NULL THEN {value} END", untyped
    return number, f"CASE WHEN {n} IS NOT NULL THEN {c} ELSE {clean} END", value, untyped


def cleaned(c: str, nulls: str) -> str:
    """SQL of a text cell without the whitespace around it, NULL when it means "no value".

    Args:
        c: SQL of the cell; the statement needs the parameter ``white``.
        nulls: SQL of the values that mean "no value", separated by commas, or of one list of them.
    """
    trimmed = _trimmed(c)
    return f"CASE WHEN {trimmed} NOT IN ({nulls}) THEN {trimmed} END"


def reads_as(wanted: ColumnType, t: str) -> str:
    """SQL of whether a cleaned text is a good value of a type, by the rules of this module.

    Args:
        wanted: Any type; every text is a string.
        t: SQL of the text.
    """
    match wanted:
        case ColumnType.STRING:
            return "true"
        case ColumnType.BOOLEAN:
            return f"lower({t}) IN {_TRUE} OR lower({t}) IN {_FALSE}"
        case ColumnType.TIMESTAMP:
            return f"regexp_full_match({t}, '{_TIMESTAMP}') AND TRY_CAST({t} AS TIMESTAMPTZ) IS NOT NULL"
        case ColumnType.INTEGER:
            return f"regexp_full_match({t}, '{_INTEGER}') AND TRY_CAST({t} AS BIGINT) IS NOT NULL"
        case ColumnType.NUMBER:
            return f"NOT ({_no_number(t)}) AND isfinite(TRY_CAST({t} AS DOUBLE))"


def _no_number(t: str) -> str:
    """SQL of whether a text is one that the engine casts to a number although it is none."""
    return f"contains({t}, '_') OR starts_with({t}, '+-')"


def _trimmed(c: str) -> str:
    """Trims only cells that begin or end outside visible ASCII: the full trim is ten times dearer."""
    last = f"right({c}, 1)"
    plain = f"{c} >= '!' AND {c} < '\u0080' AND {last} >= '!' AND {last} < '\u0080'"
    return f"CASE WHEN {plain} THEN {c} ELSE trim({c}, $white) END"


def _reads_as_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


# ── Problems ────────────────────────────────────────────────────────────────────────────────────


def mark_duplicates(connection: duckdb.DuckDBPyConnection, spec: Contract) -> int:
    """Fills table ``duplicates(row_id)``: good rows whose id an earlier good row has.

    Returns:
        How many there are.
    """
    connection.execute("CREATE TEMP TABLE duplicates (row_id BIGINT)")
    ids = spec.columns_with(Role.ID)
    if not ids:
        return 0
    v = f"v{spec.data.columns.index(ids[0])}"
    connection.execute(
        f"INSERT INTO duplicates SELECT c.rowid FROM checked c JOIN ("
        f" SELECT {v} AS id, min(rowid) AS first FROM checked WHERE NOT bad "
        f" GROUP BY {v} HAVING count(*) > 1) d ON c.{v} = d.id "
        "WHERE NOT c.bad AND c.rowid > d.first"
    )
    return _count(connection, "duplicates")


def collect_problems(connection: duckdb.DuckDBPyConnection, spec: Contract) -> None:
    """Fills ``bad_rows(row, cells, line)`` and ``problems(row, k, rule, came)``.

    ``row`` is the 1-based number among the file's data rows, blank lines not counted; ``k`` the
    position of the contract column, or -1 for the row as a whole; ``came`` is not masked here.
    """
    count = len(spec.data.columns)
    ids = spec.columns_with(Role.ID)
    id_position = spec.data.columns.index(ids[0]) if ids else -1
    # Rejected rows are absent from `checked`: each shifts the numbers of the rows after it.
    connection.execute(
        "CREATE TEMP TABLE gaps AS SELECT start, max(n) AS n FROM ("
        "SELECT row - row_number() OVER (ORDER BY row) AS start, "
        "row_number() OVER (ORDER BY row) AS n FROM rejected) GROUP BY start"
    )
    typed = ", ".join(f"c.v{k}::VARCHAR" for k in range(count))
    connection.execute(
        "CREATE TEMP TABLE faulty AS "
        "SELECT r.row_id + 1 + coalesce(g.n, 0) AS row, r.codes, r.raw, r.fault FROM ("
        " SELECT rowid AS row_id, codes, raw, fault FROM checked WHERE bad "
        f" UNION ALL SELECT c.rowid, [CASE WHEN k = $id THEN $code ELSE 0 END FOR k IN "
        f"  range({count})]::UTINYINT[], [{typed}], NULL FROM checked c "
        "  JOIN duplicates d ON c.rowid = d.row_id) r "
        "ASOF LEFT JOIN gaps g ON r.row_id >= g.start",
        {"id": id_position, "code": CODE[Rule.DUPLICATE_ID]},
    )
    names = ", ".join(f"'{rule}'" for rule in CODE)
    connection.execute(
        "CREATE TEMP TABLE problems AS "
        f"SELECT row, k, [{names}][code::INTEGER] AS rule, came FROM ("
        f" SELECT row, unnest(range({count})) AS k, unnest(codes) AS code, unnest(raw) AS came "
        " FROM faulty WHERE fault IS NULL) WHERE code <> 0 "
        "UNION ALL SELECT row, -1, fault, raw[1] FROM faulty WHERE fault IS NOT NULL "
        "UNION ALL SELECT row, -1, rule, line FROM rejected"
    )
    connection.execute(
        "CREATE TEMP TABLE bad_rows AS "
        "SELECT row, CASE WHEN fault IS NULL THEN raw END AS cells, "
        "CASE WHEN fault IS NOT NULL THEN raw[1] END AS line FROM faulty "
        "UNION ALL SELECT row, NULL, line FROM rejected"
    )


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(row[0]) if row else 0
