"""A first spec from a sample of the data: every guess is written down, with what it rests on.

Nothing is guessed in silence: `infer_spec` gives each column a sentence that says what was seen
and why it got its type and role, and `render_yaml` writes it beside the column.
"""

# ruff: noqa: S608  # SQL is put together from positions (c0, c1, …); see contract.py.

import difflib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import yaml
from pydantic import BaseModel

from millrace.datasets import reading
from millrace.datasets.contract import cleaned, reads_as
from millrace.datasets.engine import Limits, engine
from millrace.datasets.rules import MAX_CLASSES, MAX_LINE_BYTES, Refusal
from millrace.errors import InvalidSpecError, UploadRefusedError
from millrace.spec import WHITESPACE, ColumnType, DataSection, ModelSpec, Role, Task

SAMPLE_ROWS: Final = 200_000
TOLERATED: Final = 0.01
"""Share of values that may not fit a type: those rows would be quarantined."""

MAX_CATEGORIES: Final = 100
"""Text with more different values than this is not made a feature."""

MAX_INTEGER_CLASSES: Final = 20
"""An integer target with more different values than this is taken for a quantity."""

_ID_NAME: Final = re.compile(
    r"^(id|uuid|guid|key|index|rowid|row_?number|.*[_ -](id|uuid|key)|.*Id|.*ID)$"
)
_SENSITIVE_NAME: Final = re.compile(
    r"(^|[_ -])(sex|gender|race|rac1p|ethnic\w*|religion|disab\w*|nationality)($|[_ -])",
    re.IGNORECASE,
)
_DELIMITERS: Final = (",", ";", "\t", "|")

_NANS: Final = "('NaN', 'nan')"

type Commentary = Mapping[str, str]
"""Per column a sentence: what was seen, and why the column is read as it is."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the sample shows of one column."""

    name: str
    rows: int
    count: int
    distinct: int
    fits: dict[ColumnType, int]
    zero_padded: int
    nans: int
    low: float | None
    high: float | None
    values: tuple[str, ...]
    """The most frequent values."""

    @property
    def missing(self) -> int:
        return self.rows - self.count

    @property
    def unique(self) -> bool:
        return self.count == self.rows == self.distinct


def infer_spec(
    path: Path,
    *,
    name: str,
    target: str,
    task: Task | None = None,
    limits: Limits | None = None,
) -> tuple[ModelSpec, Commentary]:
    """Proposes a spec for a data file.

    Args:
        path: CSV, JSON Lines or Parquet; the first 200,000 rows are looked at.
        name: The model's name.
        target: The column to predict.
        task: What to predict; worked out from the target when None.
        limits: Memory.

    Returns:
        The spec, and a sentence per column.

    Raises:
        UploadRefusedError: The file cannot be read.
        InvalidSpecError: There is no such target, or it is nothing Millrace can predict.
    """
    limits = limits or Limits()
    delimiter = _delimiter_of(path)
    with tempfile.TemporaryDirectory(prefix="millrace-") as directory:
        workspace = Path(directory)
        with engine(workspace, limits, path) as connection:
            cells = reading.open_cells(
                connection,
                path,
                path.name,
                workspace=workspace,
                delimiter=delimiter,
                expected=(),
                max_unpacked_mb=limits.max_unpacked_mb,
            )
            seen = _look(connection, cells)
    _require_target(target, cells.names)
    return _propose(seen, name=name, target=target, task=task, delimiter=delimiter)


def _delimiter_of(path: Path) -> str:
    if not path.name.lower().endswith(".csv"):
        return ","
    with path.open("rb") as file:
        line = file.read(MAX_LINE_BYTES).lstrip(b"\xef\xbb\xbf\r\n").split(b"\n", 1)[0]
    text = line.decode("utf-8", errors="replace").rstrip("\r")
    widths = {d: reading.fields_of(text, d) for d in _DELIMITERS}
    return max(_DELIMITERS, key=lambda d: widths[d])


def _require_target(target: str, names: Sequence[str]) -> None:
    if target in names:
        return
    close = difflib.get_close_matches(target, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InvalidSpecError(
        f"the file has no column {target!r} to predict{hint}; it has: "
        f"{', '.join(names[:20])}{' …' if len(names) > 20 else ''}"
    )


# ── Looking ─────────────────────────────────────────────────────────────────────────────────────


def _look(connection: duckdb.DuckDBPyConnection, cells: reading.Cells) -> list[_Seen]:
    nulls = {f"null{i}": token for i, token in enumerate(_default_nulls())}
    given = ", ".join(f"${name}" for name in nulls)
    texts = ", ".join(
        f"{cleaned(f'c{i}::VARCHAR', given)} AS t{i}" for i in range(len(cells.names))
    )
    with reading.refused_if_unreadable(cells.format):
        connection.execute(
            f"CREATE TEMP TABLE sample AS SELECT {texts} FROM "
            f"(SELECT * FROM ({cells.relation}) WHERE fault IS NULL LIMIT {SAMPLE_ROWS})",
            {**cells.parameters, **nulls, "white": WHITESPACE},
        )
    return [_look_at(connection, i, name) for i, name in enumerate(cells.names)]


def _look_at(connection: duckdb.DuckDBPyConnection, i: int, name: str) -> _Seen:
    t = f"t{i}"
    kinds = (ColumnType.INTEGER, ColumnType.NUMBER, ColumnType.BOOLEAN, ColumnType.TIMESTAMP)
    fits = ", ".join(f"count(*) FILTER ({reads_as(kind, t)})" for kind in kinds)
    number = f"TRY_CAST({t} AS DOUBLE)"
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW looked AS SELECT {t} IN {_NANS} AS nan, "
        f"CASE WHEN {t} NOT IN {_NANS} THEN {t} END AS {t} FROM sample"
    )
    rows, count, distinct, low, high, padded, nans, *fitting = connection.execute(
        f"SELECT count(*), count({t}), count(DISTINCT {t}), "
        f"min({number}) FILTER (isfinite({number})), max({number}) FILTER (isfinite({number})), "
        rf"count(*) FILTER (regexp_full_match({t}, '0\d+')), count(*) FILTER (nan), {fits} FROM looked"
    ).fetchall()[0]
    values = connection.execute(
        f"SELECT {t} FROM looked WHERE {t} IS NOT NULL GROUP BY {t} "
        f"ORDER BY count(*) DESC, {t} LIMIT 5"
    ).fetchall()
    return _Seen(
        name=name,
        rows=rows,
        count=count,
        distinct=distinct,
        fits=dict(zip(kinds, fitting, strict=True)),
        zero_padded=padded,
        nans=nans,
        low=low,
        high=high,
        values=tuple(str(v[0]) for v in values),
    )


# ── Proposing ───────────────────────────────────────────────────────────────────────────────────


def _propose(
    seen: Sequence[_Seen], *, name: str, target: str, task: Task | None, delimiter: str
) -> tuple[ModelSpec, Commentary]:
    rows = max((column.rows for column in seen), default=0)
    if not rows:
        raise UploadRefusedError("the file has no rows to look at", Refusal.HEADER_ONLY)
    task = task or _task_of(next(c for c in seen if c.name == target))
    commentary: dict[str, str] = {}
    columns: list[dict[str, Any]] = []
    has_id = False
    for column in seen:
        kind, about = _type_of(column)
        if column.name == target:
            role, why = Role.TARGET, "to be predicted"
            kind = _target_type(kind, task)
        else:
            role, why = _role_of(column, kind, has_id=has_id)
        has_id = has_id or role is Role.ID
        entry: dict[str, Any] = {"name": column.name, "type": kind, "role": role}
        if role is Role.FEATURE:
            entry["nullable"] = column.missing > 0
        columns.append(entry)
        commentary[column.name] = _sentence(column, kind, (about, why))
    document: dict[str, Any] = {
        "name": name,
        "task": task,
        "data": {
            "columns": columns,
            "delimiter": delimiter,
            "min_rows": min(100, max(20, rows // 2)),
        },
    }
    if any(column.nans for column in seen):
        # Written by tools whose "no value" is a NaN; without this those rows would be bad.
        document["data"]["null_values"] = [*_default_nulls(), "NaN", "nan"]
    return ModelSpec.from_document(document), commentary


def _default_nulls() -> tuple[str, ...]:
    tokens: tuple[str, ...] = DataSection.model_fields["null_values"].default
    return tokens


def _task_of(target: _Seen) -> Task:
    kind, _ = _type_of(target)
    if target.distinct < 2:
        raise InvalidSpecError(
            f"target {target.name!r} has {target.distinct} different values in "
            f"{target.rows:,} rows: there is nothing to predict"
        )
    if kind is ColumnType.NUMBER or (
        kind is ColumnType.INTEGER and target.distinct > MAX_INTEGER_CLASSES
    ):
        return Task.REGRESSION
    if kind is ColumnType.TIMESTAMP or target.distinct > MAX_CLASSES:
        raise InvalidSpecError(
            f"target {target.name!r} has {target.distinct:,} different values of type {kind}: "
            f"expected a number, or at most {MAX_CLASSES} classes"
        )
    return Task.BINARY if target.distinct == 2 else Task.MULTICLASS


def _target_type(kind: ColumnType, task: Task) -> ColumnType:
    # Labels such as 1.5 and 2.5 are numbers to a reader and classes to a classification.
    if task is not Task.REGRESSION and kind in (ColumnType.NUMBER, ColumnType.TIMESTAMP):
        return ColumnType.STRING
    return kind


def _type_of(column: _Seen) -> tuple[ColumnType, str]:
    """The narrowest type that nearly every value fits, and what to say about it."""
    if not column.count:
        return ColumnType.STRING, "no values"
    if column.zero_padded and column.fits[ColumnType.INTEGER] == column.count:
        return ColumnType.STRING, "digits with leading zeros, kept as text"
    allowed = column.count - int(column.count * TOLERATED)
    words = column.fits[ColumnType.BOOLEAN] == column.count and column.distinct <= 2
    if words and column.fits[ColumnType.INTEGER] < column.count:
        return ColumnType.BOOLEAN, ""
    for kind in (ColumnType.INTEGER, ColumnType.NUMBER, ColumnType.TIMESTAMP):
        if column.fits[kind] >= allowed:
            wrong = column.count - column.fits[kind]
            about = f"{wrong:,} values do not fit and would be quarantined" if wrong else ""
            # A stray decimal makes a column of numbers, not of damaged integers.
            if kind is ColumnType.INTEGER and column.fits[ColumnType.NUMBER] > column.fits[kind]:
                continue
            return kind, about
    return ColumnType.STRING, ""


def _role_of(column: _Seen, kind: ColumnType, *, has_id: bool) -> tuple[Role, str]:
    named_id = bool(_ID_NAME.match(column.name))
    if column.distinct <= 1:
        return Role.IGNORE, "ignored: one value says nothing"
    if named_id and column.unique and kind in (ColumnType.INTEGER, ColumnType.STRING):
        if not has_id:
            return Role.ID, "unique in every row and named like an id"
        return Role.IGNORE, "ignored: another id, unique in every row"
    if named_id and column.distinct > MAX_CATEGORIES:
        return (
            Role.IGNORE,
            "ignored: named like an id and repeated; role group keeps the rows of one together",
        )
    if kind is ColumnType.TIMESTAMP:
        return (
            Role.IGNORE,
            "ignored: give it role time and split.strategy time to test on the newest",
        )
    if kind is ColumnType.STRING and column.distinct > MAX_CATEGORIES:
        return Role.IGNORE, f"ignored: {column.distinct:,} different texts are too many categories"
    if _SENSITIVE_NAME.search(column.name):
        return Role.FEATURE, "may be personal: role sensitive keeps it out of model and logs"
    return Role.FEATURE, ""


def _sentence(column: _Seen, kind: ColumnType, more: Sequence[str]) -> str:
    numeric = kind in (ColumnType.INTEGER, ColumnType.NUMBER)
    parts = []
    if numeric and column.low is not None and column.high is not None:
        parts.append(f"seen {column.low:g} to {column.high:g}, {column.distinct:,} different")
    elif column.distinct <= len(column.values) and column.values:
        parts.append("seen " + ", ".join(repr(v[:20]) for v in column.values))
    else:
        parts.append(f"{column.distinct:,} different values")
    parts.append(
        f"{column.missing:,} of {column.rows:,} empty" if column.missing else "never empty"
    )
    return "; ".join([*parts, *(text for text in more if text)])


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────

_EXPLAINED: Final = {
    "name": "The model's name; uploads go to incoming/<name>/.",
    "description": "What the model is for.",
    "owner": "Who answers for it.",
    "task": "binary, multiclass or regression.",
    "data": "The contract: what an upload must look like. Rows that break it are quarantined.",
    "data.columns": (
        "Types: integer, number, boolean, string, timestamp. Roles: feature, target, id, time, "
        "group, sensitive, ignore.\nOptional: min and max (numbers), allowed (strings), nullable, "
        "description. What was seen stands beside each column."
    ),
    "split": "How rows are divided; a pure function of content and seed.",
    "split.strategy": "hash, stratified, time or group; null: stratified, for regression hash.",
    "split.validation": "Share of the validation split.",
    "split.test": "Share of the test split, on which gates are judged.",
    "split.seed": "Another seed divides differently.",
    "train": "The search for a model.",
    "train.candidates": "Algorithms to try; linear is logistic regression, or ridge.",
    "train.metric": "Metric to optimise; null: roc_auc, f1_macro or rmse by task.",
    "train.seed": "Seed of sampling and fitting.",
    "train.compute": "Where training runs.",
    "evaluate": "The gates: a version that fails one never goes live by itself.",
    "evaluate.metrics": "Bounds on the test split, e.g. {metric: roc_auc, min: 0.7}.",
    "evaluate.against_champion": "The candidate against the model that answers now.",
    "evaluate.slices": "Bounds in every slice, e.g. {column: city, metric: accuracy, min: 0.6}.",
    "evaluate.confidence": "Confidence of the intervals.",
    "approve": "Who lets a model that passed its gates go live.",
    "approve.mode": "automatic or manual.",
    "rollout": "How a new champion takes the traffic.",
    "serve": "How the model answers; fixed with each version.",
    "serve.unknown_categories": (
        "A text the model was not fitted on: serve answers and warns, refuse refuses the request."
    ),
    "serve.intervals": (
        "true holds at most 1,000 validation rows back from the fit, so that intervals and label "
        "sets can be answered."
    ),
    "monitor": "What is kept of the predictions, and how they are judged.",
    "monitor.capture_rate": (
        "Share of requests whose inputs and outputs are kept, 0 to 1. Private columns never are."
    ),
    "monitor.window": (
        "How much is judged at once at least, in whole hours; it grows until it has min_rows."
    ),
    "monitor.max_window": "How long a window may grow before it is given up as too small.",
    "monitor.min_rows": "Fewest captured rows that are judged.",
    "monitor.min_drift": (
        "Least drift that counts, as a population stability index less what chance gives."
    ),
    "monitor.significance": "Largest corrected p-value that counts.",
    "monitor.persistence": "Windows in a row that make an alarm of a difference.",
    "monitor.clear_after": "Windows in a row without it that end an alarm.",
    "retrain": "What starts a training besides a person.",
    "privacy": "What must never leave the data bucket.",
}


def render_yaml(spec: ModelSpec, commentary: Commentary) -> str:
    """A spec as YAML with every field explained; it parses back to the same spec.

    Args:
        spec: The spec.
        commentary: A sentence per column, as `infer_spec` gives.
    """
    lines = [f"# Model spec of {spec.name}. Unknown keys are errors. Only name, task and"]
    lines.append(
        "# data.columns are required: a default stands in for any other line that is removed."
    )
    lines += _section(spec, "", 0, commentary)
    return "\n".join(lines) + "\n"


def _section(model: BaseModel, path: str, depth: int, commentary: Commentary) -> list[str]:
    pad = "  " * depth
    lines: list[str] = []
    for field, info in type(model).model_fields.items():
        where = f"{path}.{field}" if path else field
        value = getattr(model, field)
        if not depth:
            lines.append("")
        lines += [
            f"{pad}# {line}"
            for line in (_EXPLAINED.get(where) or info.description or "").splitlines()
        ]
        if where == "data.columns":
            lines.append(f"{pad}{field}:")
            lines += _columns(value, pad, commentary)
        elif isinstance(value, BaseModel):
            lines.append(f"{pad}{field}:")
            lines += _section(value, where, depth + 1, commentary)
        else:
            lines.append(f"{pad}{field}: {_flow(model.model_dump(mode='json')[field])}")
    return lines


def _columns(columns: Sequence[BaseModel], pad: str, commentary: Commentary) -> list[str]:
    lines: list[str] = []
    for column in columns:
        shown = column.model_dump(mode="json", exclude_defaults=True)
        remark = re.sub(
            r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", commentary.get(shown["name"], "")
        )
        lines.append(f"{pad}  - {_flow(shown)}" + (f"  # {remark}" if remark else ""))
    return lines


def _flow(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**9
    )
    return text.removesuffix("\n").removesuffix("\n...")
