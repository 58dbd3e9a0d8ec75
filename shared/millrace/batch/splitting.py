"""Split: a file to be scored becomes chunks of features, or a refusal with its reasons.

It is read as ingest reads uploads, by the signature of the version that will score it: every feature
must be there and be of its type. Bounds of the training data are no reason to refuse a row, as they
are none for a request. Idempotent by job: every object has one name and one content, the plan is
written last, and a job that has a plan is not read again.
"""

# ruff: noqa: S608  # SQL is put together from positions (v0, …) and numbers; names, values and paths
# go in as parameters, or through engine.identifier and engine.literal where SQL takes none.

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import duckdb
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.batch import chunks
from millrace.datasets import contract, reading
from millrace.datasets.check import PROBLEMS_SHOWN, expectation, too_large
from millrace.datasets.engine import Limits, engine, literal
from millrace.datasets.rules import ROW_COLUMN, SHOWN_CHARACTERS, Refusal, Rule
from millrace.documents import read_signature, read_spec
from millrace.errors import ServiceUnavailableError, UploadRefusedError
from millrace.messages import BatchInput, FieldFault, RowCounts, SplitResult
from millrace.signature import FeatureField, Signature
from millrace.spec import Column, ColumnType, ModelSpec, Role

JSON: Final = "application/json"
CSV: Final = "text/csv"
PARQUET: Final = "application/vnd.apache.parquet"

CHUNK_ROWS: Final = 50_000
"""Most rows of a chunk: about a second of a gradient boosting model with 100 trees."""
CHUNK_CELLS: Final = 5_000_000
"""Most cells of a chunk, so that a wide table's chunk is no larger than a narrow one's."""
SAMPLES_SHOWN: Final = 1_000
_INTEGERS_END: Final = 2**53


class Plan(BaseModel):
    """How a file was split: written last, so that what it names is there.

    Attributes:
        format: What the file is, and so what the results are.
        id_column: The column that names the rows, empty when the file has none.
        split: What the step answered.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: reading.Format
    id_column: str
    split: SplitResult


@dataclass(frozen=True, slots=True)
class _Columns:
    """`rules.ContractData` of a signature."""

    columns: tuple[Column, ...]
    null_values: tuple[str, ...]
    unknown_columns: Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True)
class ScoringContract:
    """What a file must be like to be scored: a signature's features, and the id if it has one."""

    data: _Columns

    def columns_with(self, role: Role) -> tuple[Column, ...]:
        """The columns of a role, in order."""
        return tuple(c for c in self.data.columns if c.role is role)

    @classmethod
    def of(cls, spec: ModelSpec, signature: Signature, names: tuple[str, ...]) -> "ScoringContract":
        """The contract of a file.

        Args:
            spec: Says which column is the id, and what becomes of columns it does not name.
            signature: Of the version that scores.
            names: The file's columns: an id that is not there is not asked for.
        """
        only_known = signature.unknown_categories == "refuse"
        features = tuple(_column(f, only_known=only_known) for f in signature.features)
        ids = tuple(c for c in spec.columns_with(Role.ID) if c.name in names)
        columns = _Columns((*features, *ids), signature.null_values, spec.data.unknown_columns)
        return cls(columns)


def _column(feature: FeatureField, *, only_known: bool) -> Column:
    """The feature as a column; bounds are those that a request has, not those of the training data."""
    exact = feature.type is ColumnType.INTEGER
    return Column(
        name=feature.name,
        type=feature.type,
        nullable=feature.nullable,
        min=-_INTEGERS_END if exact else None,
        max=_INTEGERS_END if exact else None,
        allowed=feature.categories if only_known else None,
    )


def split(
    task: BatchInput,
    *,
    store: ObjectStore,
    data_bucket: str,
    artifact_bucket: str,
    scratch: Path,
    limits: Limits,
    chunk_rows: int = CHUNK_ROWS,
) -> SplitResult:
    """Splits one file.

    Args:
        task: Which object, which version, which spec.
        store: Objects.
        data_bucket: Where the file lies, and chunks and results go.
        artifact_bucket: Where signatures and specs lie.
        scratch: A directory in which a temporary one may be made; nothing stays in it.
        limits: What may be used.
        chunk_rows: Most rows of a chunk.

    Raises:
        NotFoundError: The object's version, the signature or the spec is not there.
        DigestMismatchError: Signature or spec is not the one that was registered.
        ArtifactError: A stored document cannot be understood.
    """
    plan_key = layout.batch_plan_key(task.model, task.batch_id)
    if store.exists(data_bucket, plan_key):
        return read_plan(task, store, data_bucket).split
    began = time.monotonic()
    spec = read_spec(store, artifact_bucket, task.spec_key, task.spec_digest)
    signature = read_signature(
        store,
        artifact_bucket,
        task.signature_key,
        task.signature_sha256,
        f"{task.model}@{task.version}",
    )
    with tempfile.TemporaryDirectory(prefix="millrace-batch-", dir=scratch) as directory:
        splitting = _Splitting(
            task, spec, signature, store, data_bucket, Path(directory), limits, chunk_rows
        )
        result = splitting.run()
    result = result.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
    if result.outcome == "accepted":
        plan = Plan(format=splitting.format, id_column=splitting.id_column, split=result)
        store.write_once(data_bucket, plan_key, _document(plan), content_type=JSON)
    return result


def read_plan(task: BatchInput, store: ObjectStore, data_bucket: str) -> Plan:
    """How the job's file was split.

    Raises:
        NotFoundError: It was not.
    """
    return Plan.model_validate_json(
        store.read(data_bucket, layout.batch_plan_key(task.model, task.batch_id))
    )


def _document(model: BaseModel) -> bytes:
    return model.model_dump_json(indent=2).encode()


class _Splitting:
    """The steps over one file; holds what is known so far for a refusal half-way."""

    def __init__(
        self,
        task: BatchInput,
        spec: ModelSpec,
        signature: Signature,
        store: ObjectStore,
        bucket: str,
        workspace: Path,
        limits: Limits,
        chunk_rows: int,
    ) -> None:
        self.format: reading.Format = "csv"
        self.id_column = ""
        self._task = task
        self._spec = spec
        self._signature = signature
        self._store = store
        self._bucket = bucket
        self._workspace = workspace
        self._limits = limits
        width = len(signature.features)
        self._chunk_rows = max(1, min(chunk_rows, CHUNK_CELLS // width))
        self._results = layout.batch_results(task.model, task.batch_id)
        self._rows = RowCounts(read=0, accepted=0, quarantined=0)
        self._problems: tuple[FieldFault, ...] = ()
        self._samples: tuple[dict[str, Any], ...] = ()
        self._quarantine = ""

    def run(self) -> SplitResult:
        """Reads, judges and stores."""
        path = self._workspace / "upload"
        source = self._task.source
        try:
            # Known from the event before a byte is fetched; checked again on the file itself.
            self._refuse_large(source.size)
            version = source.version_id or None
            self._store.download(source.bucket, source.key, path, version_id=version)
            size = path.stat().st_size
            if source.size and size != source.size:
                raise ServiceUnavailableError(
                    f"s3://{source.bucket}/{source.key}: expected {source.size:,} bytes, got {size:,}"
                )
            self._refuse_large(size)
            with engine(self._workspace, self._limits, path) as connection:
                made = self._examine(connection, path)
        except UploadRefusedError as exc:
            return self._result(
                outcome="refused", code=str(exc.code), reason=str(exc), report_key=self._report(exc)
            )
        return made

    def _refuse_large(self, size: int) -> None:
        if size > self._limits.max_upload_mb * 1024 * 1024:
            raise too_large(size, self._limits)

    def _result(self, **fields: Any) -> SplitResult:
        return SplitResult(
            rows=self._rows,
            problems=self._problems,
            quarantine_key=self._quarantine,
            **fields,
        )

    def _report(self, refusal: UploadRefusedError | None = None) -> str:
        """Writes what was wrong with the file; returns the report's key."""
        key = self._results + "report.json"
        document = {
            "batch_id": self._task.batch_id,
            "model": self._task.model,
            "version": self._task.version,
            "source": self._task.source.model_dump(mode="json"),
            "outcome": "accepted" if refusal is None else "refused",
            "code": "" if refusal is None else str(refusal.code),
            "reason": "" if refusal is None else str(refusal),
            "rows": self._rows.model_dump(),
            "problems": [p.model_dump() for p in self._problems],
            "samples": list(self._samples),
        }
        body = json.dumps(document, indent=2, ensure_ascii=False).encode()
        self._store.write_once(self._bucket, key, body, content_type=JSON)
        return key

    def _examine(self, connection: duckdb.DuckDBPyConnection, path: Path) -> SplitResult:
        spec = self._spec
        cells = reading.open_cells(
            connection,
            path,
            PurePosixPath(self._task.source.key).name,
            workspace=self._workspace,
            delimiter=spec.data.delimiter,
            expected=[f.name for f in self._signature.features],
            max_unpacked_mb=self._limits.max_unpacked_mb,
        )
        self.format = cells.format
        wanted = ScoringContract.of(spec, self._signature, cells.names)
        self.id_column = "".join(c.name for c in wanted.columns_with(Role.ID))
        sources = reading.match_columns(
            cells, wanted, ignored=[column.name for column in spec.data.columns]
        )
        with reading.refused_if_unreadable(cells.format):
            contract.check_cells(connection, cells, wanted, sources)
        rejected = reading.collect_rejects(connection, cells)
        duplicates = contract.mark_duplicates(connection, wanted)
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
            self._keep_problems(connection, wanted)
        _number_rows(connection, wanted, any_wrong=bool(quarantined))
        self._refuse_share()
        report_key = self._report()
        self._keep_rows(connection)
        return self._result(
            outcome="accepted", chunks=self._keep_chunks(connection, held), report_key=report_key
        )

    def _refuse_share(self) -> None:
        rows, most = self._rows, self._spec.batch_max_quarantined
        share = rows.quarantined / rows.read
        if share > most:
            top = "; ".join(
                f"{p.field}: {p.rule} in {p.count:,} rows, first row {p.first_row}"
                for p in self._problems[:5]
            )
            raise UploadRefusedError(
                f"{rows.quarantined:,} of {rows.read:,} rows cannot be scored ({share:.1%}) and "
                f"the spec allows {most:.1%} (batch.max_quarantined): {top}",
                Refusal.TOO_MANY_QUARANTINED,
            )
        if rows.accepted == 0:
            raise UploadRefusedError(
                f"none of the {rows.read:,} rows can be scored", Refusal.NO_GOOD_ROWS
            )

    # ── What was wrong ──────────────────────────────────────────────────────────────────────────

    def _keep_problems(
        self, connection: duckdb.DuckDBPyConnection, wanted: ScoringContract
    ) -> None:
        """Writes every wrong cell with its row, and keeps the counts and the first ones."""
        contract.collect_problems(connection, wanted)
        columns = wanted.data.columns
        private = self._spec.private_columns | {
            f.name for f in self._signature.features if f.private
        }
        # A whole line cannot be shown when any of its columns is private.
        hidden = [k for k, c in enumerate(columns) if c.name in private] or [-2]
        hidden.append(-1 if private else -2)
        words = connection.execute("SELECT DISTINCT k, rule FROM problems").fetchall()
        connection.execute(
            "CREATE TEMP TABLE words (k BIGINT, rule VARCHAR, field VARCHAR, expected VARCHAR)"
        )
        connection.executemany(
            "INSERT INTO words VALUES ($1, $2, $3, $4)",
            [
                (
                    k,
                    rule,
                    columns[k].name if k >= 0 else ROW_COLUMN,
                    expectation(columns[k] if k >= 0 else None, Rule(rule)),
                )
                for k, rule in words
            ],
        )
        connection.execute(
            "CREATE TEMP TABLE told AS SELECT p.row - 1 AS row, w.field, w.rule, w.expected, p.k, "
            "CASE WHEN list_contains($hidden, p.k) THEN '' "
            "ELSE coalesce(left(p.came, $most), '') END AS came "
            "FROM problems p JOIN words w ON p.k = w.k AND p.rule = w.rule",
            {"hidden": hidden, "most": SHOWN_CHARACTERS},
        )
        self._problems = tuple(
            FieldFault(
                field=field,
                rule=rule,
                expected=expected,
                count=count,
                first_row=first,
                example=came,
            )
            for field, rule, expected, count, first, came in connection.execute(
                "SELECT field, rule, expected, count(*), min(row), arg_min(came, row) FROM told "
                f"GROUP BY ALL ORDER BY 4 DESC, 1, 2 LIMIT {PROBLEMS_SHOWN}"
            ).fetchall()
        )
        self._samples = tuple(
            {"row": row, "field": field, "rule": rule, "expected": expected, "came": came}
            for row, field, rule, expected, came in connection.execute(
                "SELECT row, field, rule, expected, came FROM told "
                f"ORDER BY row, k LIMIT {SAMPLES_SHOWN}"
            ).fetchall()
        )
        path = self._workspace / "quarantine.csv"
        connection.execute(
            "COPY (SELECT row, field, rule, expected, came FROM told ORDER BY row, k) "
            f"TO {literal(str(path))} (FORMAT csv, HEADER)"
        )
        self._quarantine = self._results + "quarantine.csv"
        self._store.upload(self._bucket, self._quarantine, path, content_type=CSV)

    # ── What is scored ──────────────────────────────────────────────────────────────────────────

    def _keep_rows(self, connection: duckdb.DuckDBPyConnection) -> None:
        path = self._workspace / "rows.parquet"
        connection.execute(
            "COPY (SELECT row, id, wrong FROM numbered ORDER BY row) "
            f"TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
        )
        key = layout.batch_rows_key(self._task.model, self._task.batch_id)
        self._store.upload(self._bucket, key, path, content_type=PARQUET)

    def _keep_chunks(self, connection: duckdb.DuckDBPyConnection, held: int) -> tuple[int, ...]:
        """Writes the good rows, some at a time; returns the numbers of the chunks with any."""
        values = ", ".join(_stored(k, f.type) for k, f in enumerate(self._signature.features))
        numbers = []
        for number, start in enumerate(range(0, held, self._chunk_rows)):
            fetched = connection.execute(
                f"SELECT n.row, {values} FROM checked c JOIN numbered n ON n.row_id = c.rowid "
                "WHERE c.rowid >= $start AND c.rowid < $end AND n.row_id >= $start "
                "AND n.row_id < $end AND NOT n.wrong ORDER BY n.row",
                {"start": start, "end": start + self._chunk_rows},
            ).fetchnumpy()
            if not len(fetched["row"]):
                continue
            self._store.write_once(
                self._bucket,
                layout.batch_chunk_key(self._task.model, self._task.batch_id, number),
                chunks.pack(_arrays(fetched, self._signature)),
                content_type=chunks.MEDIA_TYPE,
            )
            numbers.append(number)
        return tuple(numbers)


def _number_rows(
    connection: duckdb.DuckDBPyConnection, wanted: ScoringContract, *, any_wrong: bool
) -> None:
    """Fills ``numbered(row, row_id, id, wrong)``: every row of the file by its 0-based number.

    ``row_id`` is its place in ``checked``, NULL for a line that could not be read at all.
    """
    ids = wanted.columns_with(Role.ID)
    name = f"c.v{wanted.data.columns.index(ids[0])}::VARCHAR" if ids else "NULL::VARCHAR"
    if not any_wrong:
        connection.execute(
            "CREATE TEMP TABLE numbered AS "
            f"SELECT c.rowid AS row, c.rowid AS row_id, {name} AS id, false AS wrong FROM checked c"
        )
        return
    connection.execute(
        f"CREATE TEMP TABLE numbered AS SELECT c.rowid + coalesce(g.n, 0) AS row, "
        f"c.rowid AS row_id, {name} AS id, c.bad OR d.row_id IS NOT NULL AS wrong "
        "FROM (SELECT *, rowid FROM checked) c ASOF LEFT JOIN gaps g ON c.rowid >= g.start "
        "LEFT JOIN duplicates d ON d.row_id = c.rowid "
        "UNION ALL SELECT row - 1, NULL, NULL, true FROM rejected"
    )


def _stored(k: int, kind: ColumnType) -> str:
    """SQL of a feature as a chunk keeps it."""
    match kind:
        case ColumnType.STRING:
            return f"c.v{k}"
        case ColumnType.BOOLEAN:
            return f"coalesce(c.v{k}::TINYINT, -1)::TINYINT AS v{k}"
        case _:
            return f"coalesce(c.v{k}::DOUBLE, 'nan'::DOUBLE) AS v{k}"


def _arrays(fetched: dict[str, Any], signature: Signature) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {"row": np.asarray(fetched["row"], dtype=np.int64)}
    for k, feature in enumerate(signature.features):
        values = fetched[f"v{k}"]
        match feature.type:
            case ColumnType.STRING:
                # tolist() gives None where a value is masked; filled(None) would give "?".
                arrays |= chunks.encode_strings(k, values.tolist())
            case ColumnType.BOOLEAN:
                arrays[f"b{k}"] = np.asarray(values, dtype=np.int8)
            case _:
                arrays[f"n{k}"] = np.asarray(values, dtype=np.float64)
    return arrays
