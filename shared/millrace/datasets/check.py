"""One examination of one file against one spec: the same code for ingest and for offline checks.

`check_file` answers what the cloud would say to a file. `prepare` does the same and also leaves in
a workspace what ingest stores: the quarantine, the rows, the profile and the splits.
"""

# ruff: noqa: S608  # SQL is put together from positions (c0, v0, …); names, values and paths of
# the user's go in as parameters, or through engine.identifier and engine.literal where SQL takes none.

import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import duckdb
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from millrace.datasets import contract, profiles, reading, splits, versions
from millrace.datasets.engine import Limits, engine, literal
from millrace.datasets.rules import (
    MAX_CLASSES,
    ROW_COLUMN,
    SHOWN_CHARACTERS,
    Refusal,
    Rule,
)
from millrace.datasets.table import SPLITS, ColumnSchema, TableSchema
from millrace.errors import UploadRefusedError
from millrace.messages import ColumnProblem, RowCounts
from millrace.spec import Column, ColumnType, ModelSpec, Role, Task

PROBLEMS_SHOWN: Final = 20
SAMPLES_SHOWN: Final = 1_000
_STORED_ROLES: Final = (Role.FEATURE, Role.TARGET, Role.TIME, Role.GROUP, Role.SENSITIVE)


class RowProblem(BaseModel):
    """One bad cell, or one bad row.

    Attributes:
        row: 1-based number among the data rows (neither header nor blank lines count).
        column: The contract's column, or ``(row)``.
        rule: Which rule was broken.
        expected: What the contract asks for.
        came: What came, cut to 80 characters; empty for private columns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: int
    column: str
    rule: str
    expected: str
    came: str


class CheckReport(BaseModel):
    """What becomes of a file under a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: Literal["accepted", "refused"]
    code: str = ""
    reason: str = ""
    rows: RowCounts = RowCounts(read=0, accepted=0, quarantined=0)
    problems: tuple[ColumnProblem, ...] = ()
    samples: tuple[RowProblem, ...] = ()
    """The first 1,000 problems in row order."""
    dataset_version: str = ""
    classes: dict[str, int] = {}
    split_rows: dict[str, int] = {}
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What a dataset version is made of, in a workspace.

    Attributes:
        data: Parquet of the good rows.
        profile: The profile.
        schema: What the splits hold.
        splits: ``.npz`` file per split name.
    """

    data: Path
    profile: profiles.Profile
    schema: TableSchema
    splits: dict[str, Path]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A report and the files that go with it.

    Attributes:
        report: What becomes of the upload.
        quarantine: Parquet of the bad rows, None when there are none or they were never read.
        kept: What a dataset version is made of; None when refused or not kept.
    """

    report: CheckReport
    quarantine: Path | None = None
    kept: Kept | None = None

    @classmethod
    def refusal(cls, exc: UploadRefusedError) -> "Prepared":
        """The answer to an upload that was refused before it was read."""
        return cls(CheckReport(outcome="refused", code=str(exc.code), reason=str(exc)))


def check_file(path: Path, spec: ModelSpec, *, limits: Limits | None = None) -> CheckReport:
    """What the cloud would say to a file; nothing is kept and nothing leaves the machine.

    Args:
        path: A file with one of the supported suffixes.
        spec: The model's spec.
        limits: Memory and sizes.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-") as workspace:
        return prepare(
            path,
            path.name,
            spec,
            workspace=Path(workspace),
            limits=limits or Limits(),
            keep=False,
        ).report


def prepare(
    path: Path,
    name: str,
    spec: ModelSpec,
    *,
    workspace: Path,
    limits: Limits,
    keep: bool = True,
) -> Prepared:
    """Examines a file and leaves in the workspace what a dataset version is made of.

    Args:
        path: The file.
        name: Its name as uploaded, which tells the format.
        spec: The model's spec.
        workspace: An empty directory; the caller removes it.
        limits: Memory and sizes.
        keep: Whether to write files; without, only the report is made.
    """
    began = time.monotonic()
    examination = _Examination(spec, workspace, keep)
    try:
        size = path.stat().st_size
        if size > limits.max_upload_mb * 1024 * 1024:
            raise too_large(size, limits)
        with engine(workspace, limits, path) as connection:
            made = examination.run(connection, path, name, limits)
    except UploadRefusedError as exc:
        made = examination.refused(exc)
    seconds = round(time.monotonic() - began, 3)
    report = made.report.model_copy(update={"seconds": seconds})
    return Prepared(report, made.quarantine, made.kept)


def too_large(size: int, limits: Limits) -> UploadRefusedError:
    """The refusal of a file beyond the limit."""
    return UploadRefusedError(
        f"the file has {size:,} bytes; ingest accepts at most {limits.max_upload_mb} MB: "
        "split it, or upload it as Parquet or gzip",
        Refusal.TOO_LARGE,
    )


class _Examination:
    """The steps over one connection; holds what is known so far for a refusal half-way."""

    def __init__(self, spec: ModelSpec, workspace: Path, keep: bool) -> None:
        self._spec = spec
        self._workspace = workspace
        self._keep = keep
        self._rows = RowCounts(read=0, accepted=0, quarantined=0)
        self._problems: tuple[ColumnProblem, ...] = ()
        self._samples: tuple[RowProblem, ...] = ()
        self._quarantine: Path | None = None

    def refused(self, exc: UploadRefusedError) -> Prepared:
        """The answer to a refused upload."""
        report = self._report(outcome="refused", code=str(exc.code), reason=str(exc))
        return Prepared(report, self._quarantine)

    def _report(self, **fields: Any) -> CheckReport:
        return CheckReport(
            rows=self._rows, problems=self._problems, samples=self._samples, **fields
        )

    def run(
        self, connection: duckdb.DuckDBPyConnection, path: Path, name: str, limits: Limits
    ) -> Prepared:
        """Reads, judges and stores."""
        spec = self._spec
        self._judge_rows(connection, path, name, limits)
        self._refuse_share()
        versions.store_rows(connection, spec, splits.unit_column(spec), splits.salt(spec.split))
        classes = self._classes(connection)
        version = versions.version_of(connection, spec.data.columns)
        assigned = self._assign(connection, tuple(classes))
        report = self._report(
            outcome="accepted",
            dataset_version=version,
            classes={} if spec.target.name in spec.private_columns else classes,
            split_rows=splits.counts(assigned),
        )
        if not self._keep:
            return Prepared(report)
        data = self._workspace / "data.parquet"
        versions.write_parquet(connection, spec.data.columns, data)
        schema, described, files = _write_columns(
            connection, spec, version, assigned, tuple(classes), self._workspace
        )
        return Prepared(report, self._quarantine, Kept(data, described, schema, files))

    def _judge_rows(
        self, connection: duckdb.DuckDBPyConnection, path: Path, name: str, limits: Limits
    ) -> None:
        spec = self._spec
        cells = reading.open_cells(
            connection,
            path,
            name,
            workspace=self._workspace,
            delimiter=spec.data.delimiter,
            expected=[column.name for column in spec.data.columns],
            max_unpacked_mb=limits.max_unpacked_mb,
        )
        sources = reading.match_columns(cells, spec)
        with reading.refused_if_unreadable(cells.format):
            contract.check_cells(connection, cells, spec, sources)
        rejected = reading.collect_rejects(connection, cells)
        duplicates = contract.mark_duplicates(connection, spec)
        held, bad = connection.execute(
            "SELECT count(*), count(*) FILTER (bad) FROM checked"
        ).fetchall()[0]
        reading.refuse_lost_rows(cells, held + rejected)
        quarantined = bad + duplicates + rejected
        self._rows = RowCounts(
            read=held + rejected,
            accepted=held + rejected - quarantined,
            quarantined=quarantined,
        )
        if quarantined:
            self._describe_problems(connection)
        if self._rows.read == 0:
            raise UploadRefusedError("the file has a header and no rows", Refusal.HEADER_ONLY)

    def _describe_problems(self, connection: duckdb.DuckDBPyConnection) -> None:
        spec = self._spec
        contract.collect_problems(connection, spec)
        # Whole rows cannot be shown at all when any of their columns is private.
        hidden = [k for k, c in enumerate(spec.data.columns) if c.name in spec.private_columns]
        if hidden:
            hidden.append(-1)
        connection.execute(
            "CREATE TEMP TABLE shown AS SELECT row, k, rule, CASE WHEN list_contains($hidden, k) "
            "THEN '' ELSE coalesce(left(came, $most), '') END AS came FROM problems",
            {"hidden": hidden, "most": SHOWN_CHARACTERS},
        )
        summary = connection.execute(
            "SELECT k, rule, count(*), min(row), arg_min(came, row) FROM shown "
            f"GROUP BY k, rule ORDER BY 3 DESC, 1, 2 LIMIT {PROBLEMS_SHOWN}"
        ).fetchall()
        self._problems = tuple(
            ColumnProblem(
                column=self._name(k), rule=rule, count=count, first_row=first, example=came or ""
            )
            for k, rule, count, first, came in summary
        )
        samples = connection.execute(
            f"SELECT row, k, rule, came FROM shown ORDER BY row, k LIMIT {SAMPLES_SHOWN}"
        ).fetchall()
        self._samples = tuple(
            RowProblem(
                row=row,
                column=self._name(k),
                rule=rule,
                expected=expectation(spec.data.columns[k] if k >= 0 else None, Rule(rule)),
                came=came or "",
            )
            for row, k, rule, came in samples
        )
        if self._keep:
            self._quarantine = self._workspace / "rows.parquet"
            connection.execute(
                "CREATE TEMP TABLE column_names AS SELECT $names AS names",
                {"names": [column.name for column in spec.data.columns]},
            )
            connection.execute(
                "COPY (SELECT b.row, p.reasons, "
                "CASE WHEN b.cells IS NOT NULL THEN map(n.names, b.cells) END AS cells, b.line "
                "FROM bad_rows b JOIN (SELECT row, list({'column': CASE WHEN k < 0 "
                f"THEN {literal(ROW_COLUMN)} ELSE names[k + 1] END, 'rule': rule, 'came': came}} "
                "ORDER BY k) AS reasons FROM shown, column_names GROUP BY row) p ON b.row = p.row, "
                f"column_names n ORDER BY b.row) TO {literal(str(self._quarantine))} "
                "(FORMAT parquet, COMPRESSION zstd)"
            )

    def _name(self, k: int) -> str:
        return self._spec.data.columns[k].name if k >= 0 else ROW_COLUMN

    def _refuse_share(self) -> None:
        rows, data = self._rows, self._spec.data
        share = rows.quarantined / rows.read
        if share > data.max_quarantined:
            top = "; ".join(
                f"{p.column}: {p.rule} in {p.count:,} rows, first row {p.first_row}"
                for p in self._problems[:5]
            )
            raise UploadRefusedError(
                f"{rows.quarantined:,} of {rows.read:,} rows are bad ({share:.1%}) and the spec "
                f"allows {data.max_quarantined:.1%}: {top}",
                Refusal.TOO_MANY_QUARANTINED,
            )
        if rows.accepted < data.min_rows:
            raise UploadRefusedError(
                f"{rows.accepted:,} good rows of {rows.read:,}; "
                f"the spec asks for at least {data.min_rows:,} (data.min_rows)",
                Refusal.TOO_FEW_ROWS,
            )

    def _classes(self, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        spec = self._spec
        v = f"v{spec.data.columns.index(spec.target)}"
        labels = connection.execute(f"SELECT count(DISTINCT {v}) FROM good").fetchall()[0][0]
        versions.refuse_target(spec, labels, self._rows.accepted, MAX_CLASSES)
        if spec.task is Task.REGRESSION:
            return {}
        return versions.read_classes(connection, spec)

    def _assign(
        self, connection: duckdb.DuckDBPyConnection, labels: tuple[str, ...]
    ) -> splits.Assignment:
        spec = self._spec
        shares = {"validation": spec.split.validation, "test": spec.split.test}
        codes = None
        if spec.task is not Task.REGRESSION:
            codes = _class_codes(connection, spec, labels)
        if spec.split_strategy == "time":
            position = spec.data.columns.index(spec.columns_with(Role.TIME)[0])
            value = f"v{position}"
            if spec.data.columns[position].type is ColumnType.TIMESTAMP:
                value = f"epoch_us({value})"
            assigned = splits.by_time(_fetch(connection, value), **shares)
        else:
            keys = _fetch(connection, "split_key")
            if spec.split_strategy == "stratified" and codes is not None:
                assigned = splits.by_class(keys, codes, **shares)
            else:
                assigned = splits.by_key(keys, **shares)
        splits.refuse_unusable(spec, assigned, codes, labels)
        return assigned


def expectation(column: Column | None, rule: Rule) -> str:
    """What the contract asks for, in words."""
    if column is None:
        return {
            Rule.TOO_FEW_FIELDS: "as many fields as the header",
            Rule.TOO_MANY_FIELDS: "as many fields as the header",
            Rule.ENCODING: "UTF-8 text",
            Rule.QUOTING: "closed quotes",
            Rule.OVERSIZE: "a shorter line",
            Rule.BROKEN_JSON: "one JSON object",
        }.get(rule, "a readable row")
    match rule:
        case Rule.MISSING:
            return "a value"
        case Rule.BELOW_MIN:
            return f"at least {column.min:g}"
        case Rule.ABOVE_MAX:
            return f"at most {column.max:g}"
        case Rule.NOT_ALLOWED:
            allowed = column.allowed or ()
            more = f" or {len(allowed) - 5} more" if len(allowed) > 5 else ""
            return f"one of {', '.join(repr(a) for a in allowed[:5])}{more}"
        case Rule.NOT_FINITE:
            return "a finite number"
        case Rule.DUPLICATE_ID:
            return "an id no earlier row has"
        case _:
            return {
                ColumnType.BOOLEAN: "true, false, 1, 0, yes or no",
                ColumnType.TIMESTAMP: "an ISO 8601 date or time",
                ColumnType.INTEGER: "an integer of at most 64 bits",
            }.get(column.type, f"a {column.type}")


# ── Arrays ──────────────────────────────────────────────────────────────────────────────────────


def _fetch(connection: duckdb.DuckDBPyConnection, value: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = connection.execute(f"SELECT {value} AS x FROM good").fetchnumpy()["x"]
    return array


def _numbers(connection: duckdb.DuckDBPyConnection, k: int, column: Column) -> npt.NDArray[Any]:
    value = f"v{k}"
    if column.type is ColumnType.TIMESTAMP:
        value = f"epoch_us({value}) / 1e6"
    elif column.type is ColumnType.BOOLEAN:
        value = f"{value}::TINYINT"
    return _fetch(connection, f"coalesce(({value})::DOUBLE, 'nan'::DOUBLE)")


def _class_codes(
    connection: duckdb.DuckDBPyConnection, spec: ModelSpec, labels: tuple[str, ...]
) -> npt.NDArray[np.int32]:
    value = f"v{spec.data.columns.index(spec.target)}"
    return _codes(connection, "class_label", value, labels)


def _codes(
    connection: duckdb.DuckDBPyConnection, enum: str, value: str, labels: Sequence[str]
) -> npt.NDArray[np.int32]:
    if not labels:
        rows = connection.execute("SELECT count(*) FROM good").fetchall()[0][0]
        return np.full(rows, -1, dtype=np.int32)
    connection.execute(
        f"CREATE TYPE IF NOT EXISTS {enum} AS ENUM (SELECT unnest($labels))",
        {"labels": list(labels)},
    )
    codes = f"coalesce(enum_code({value}::VARCHAR::{enum})::INTEGER, -1)"
    return _fetch(connection, codes).astype(np.int32)


def _write_columns(
    connection: duckdb.DuckDBPyConnection,
    spec: ModelSpec,
    version: str,
    assigned: splits.Assignment,
    labels: tuple[str, ...],
    workspace: Path,
) -> tuple[TableSchema, profiles.Profile, dict[str, Path]]:
    """Profile and splits in one pass, one column in memory at a time."""
    chosen = [np.flatnonzero(assigned == i) for i in range(len(SPLITS))]
    files = {name: workspace / f"{name}.npz" for name in SPLITS}
    schemas: list[ColumnSchema] = []
    described: list[profiles.ColumnProfile] = []
    with ExitStack() as stack:
        archives = [stack.enter_context(zipfile.ZipFile(files[n], "w")) for n in SPLITS]

        def save(name: str, array: npt.NDArray[Any]) -> None:
            for archive, rows in zip(archives, chosen, strict=True):
                # A fixed date makes the bytes a function of the content.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array[rows], allow_pickle=False)

        for k, column in enumerate(spec.data.columns):
            array, categories, about = _column(connection, spec, k, column)
            described.append(about)
            if column.role not in _STORED_ROLES:
                continue
            if column.role is Role.TARGET and spec.task is not Task.REGRESSION:
                array, categories = _class_codes(connection, spec, labels), ()
            schemas.append(
                ColumnSchema(
                    name=column.name, type=column.type, role=column.role, categories=categories
                )
            )
            save(f"c{len(schemas) - 1}", array)
        save("row", _fetch(connection, "h0"))
    schema = TableSchema(
        task=spec.task,
        target=spec.target.name,
        classes=labels,
        columns=tuple(schemas),
        rows=splits.counts(assigned),
    )
    whole = profiles.Profile(
        model=spec.name, dataset_version=version, rows=len(assigned), columns=tuple(described)
    )
    return schema, whole, files


def _column(
    connection: duckdb.DuckDBPyConnection, spec: ModelSpec, k: int, column: Column
) -> tuple[npt.NDArray[Any], tuple[str, ...], profiles.ColumnProfile]:
    private = column.name in spec.private_columns
    facts: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "role": column.role,
        "private": private,
    }
    if column.type is ColumnType.STRING:
        tallies = connection.execute(
            f"SELECT v{k}, count(*) FROM good WHERE v{k} IS NOT NULL GROUP BY v{k} ORDER BY v{k}"
        ).fetchall()
        categories = tuple(str(value) for value, _ in tallies)
        array: npt.NDArray[Any] = np.empty(0)
        if column.role in _STORED_ROLES:
            array = _codes(connection, f"category{k}", f"v{k}", categories)
        rows = connection.execute("SELECT count(*) FROM good").fetchall()[0][0]
        present = sum(count for _, count in tallies)
        facts |= {"count": present, "missing": rows - present, "distinct": len(tallies)}
        if not private:
            top = sorted(tallies, key=lambda pair: (-pair[1], pair[0]))[: profiles.TOP_CATEGORIES]
            facts["categories"] = tuple(
                profiles.CategoryCount(value=value, count=count) for value, count in top
            )
            facts["other"] = present - sum(count for _, count in top)
        return array, categories, profiles.ColumnProfile(**facts)
    array = _numbers(connection, k, column)
    values = array[~np.isnan(array)]
    distinct, described = profiles.numeric_profile(values)
    facts |= {"count": len(values), "missing": len(array) - len(values), "distinct": distinct}
    if not private and column.type is ColumnType.BOOLEAN:
        facts["categories"] = tuple(
            profiles.CategoryCount(value=label, count=int((values == number).sum()))
            for label, number in (("false", 0), ("true", 1))
        )
    elif not private:
        facts["numeric"] = described
    return array, (), profiles.ColumnProfile(**facts)
