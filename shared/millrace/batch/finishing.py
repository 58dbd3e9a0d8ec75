"""Finish: the chunks' scores become one file in the input's order, with a summary and a manifest.

Every chunk of the plan must have its scores: what the Map says of itself is not relied on. The manifest
is written last and once: a job that has one is finished, and asking again gives the same answer.
"""

# ruff: noqa: S608  # SQL is put together from class positions and numbers; names, values and paths
# go in through engine.identifier and engine.literal.

import hashlib
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
from pydantic import BaseModel, ConfigDict

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.batch.chunks import RefusedRow, Scores
from millrace.batch.splitting import CSV, JSON, PARQUET, Plan, read_plan
from millrace.datasets.contract import SQL_TYPES
from millrace.datasets.engine import Limits, engine, identifier, literal
from millrace.datasets.rules import Refusal
from millrace.documents import read_signature, read_spec
from millrace.errors import ArtifactError, NotFoundError
from millrace.messages import (
    BatchInput,
    FieldFault,
    FieldWarning,
    FinishResult,
    FinishTask,
    RowCounts,
)
from millrace.signature import Signature
from millrace.spec import Task

FORMAT: Final = 1
"""Version of the manifest's and the summary's form."""
QUANTILES: Final = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
SIGNATURE_RULE: Final = "signature"
"""The rule of a row that could be read and that the model's signature refuses."""
_FIXED: Final = ("row", "status", "version", "label", "value")


class ResultFile(BaseModel):
    """One file of a job's results.

    Attributes:
        name: Below the job's prefix.
        key: In the data bucket.
        media_type: What it is.
        bytes: Its size.
        sha256: Of its bytes, in hexadecimal.
        rows: Its rows, for those that have any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    key: str
    media_type: str
    bytes: int
    sha256: str
    rows: int | None = None


class Manifest(BaseModel):
    """What a job made of what, with digests; written last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    batch_id: str
    model: str
    version: int
    model_sha256: str
    signature_sha256: str
    spec_version: int
    spec_digest: str
    source: dict[str, Any]
    created_at: str
    chunks: int
    rows: RowCounts
    files: tuple[ResultFile, ...]
    result: FinishResult


def finish(
    task: FinishTask,
    *,
    store: ObjectStore,
    data_bucket: str,
    artifact_bucket: str,
    scratch: Path,
    limits: Limits,
) -> FinishResult:
    """Puts a job's results together.

    Args:
        task: The job and how it was split.
        store: Objects.
        data_bucket: Where scores lie and results go.
        artifact_bucket: Where the signature and the spec lie.
        scratch: A directory in which a temporary one may be made; nothing stays in it.
        limits: What may be used.

    Raises:
        ArtifactError: A chunk has no scores, or something that is stored cannot be understood.
    """
    prefix = layout.batch_results(task.model, task.batch_id)
    try:
        stored = store.read(data_bucket, prefix + "manifest.json")
        return Manifest.model_validate_json(stored).result
    except NotFoundError:
        pass  # not finished yet
    began = time.monotonic()
    plan = read_plan(task, store, data_bucket)
    spec = read_spec(store, artifact_bucket, task.spec_key, task.spec_digest)
    what = f"{task.model}@{task.version}"
    signature = read_signature(
        store, artifact_bucket, task.signature_key, task.signature_sha256, what
    )
    with (
        tempfile.TemporaryDirectory(prefix="millrace-batch-", dir=scratch) as directory,
        engine(Path(directory), limits) as connection,
    ):
        finishing = _Finishing(
            task, plan, signature, store, data_bucket, Path(directory), connection
        )
        result = finishing.run(spec.batch_max_quarantined)
        result = result.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
        finishing.seal(result)
    return result


class _Finishing:
    """The steps over one connection."""

    def __init__(
        self,
        task: BatchInput,
        plan: Plan,
        signature: Signature,
        store: ObjectStore,
        bucket: str,
        workspace: Path,
        connection: duckdb.DuckDBPyConnection,
    ) -> None:
        self._task = task
        self._plan = plan
        self._signature = signature
        self._store = store
        self._bucket = bucket
        self._workspace = workspace
        self._connection = connection
        self._prefix = layout.batch_results(task.model, task.batch_id)
        self._outputs = (
            ["value"]
            if signature.task is Task.REGRESSION
            else [f"p{i}" for i in range(len(signature.classes))]
        )
        self._files: list[ResultFile] = []

    def run(self, max_quarantined: float) -> FinishResult:
        """Gathers, checks, writes."""
        rows_path = self._workspace / "rows.parquet"
        rows_key = layout.batch_rows_key(self._task.model, self._task.batch_id)
        self._store.download(self._bucket, rows_key, rows_path)
        warnings, refused = self._gather()
        rows = self._counted(refused)
        problems = _with_refused(self._plan.split.problems, refused)
        share = rows.quarantined / rows.read
        if share > max_quarantined or rows.accepted == 0:
            code = Refusal.TOO_MANY_QUARANTINED if rows.accepted else Refusal.NO_GOOD_ROWS
            return FinishResult(
                outcome="refused",
                code=str(code),
                reason=f"{rows.quarantined:,} of {rows.read:,} rows cannot be scored "
                f"({share:.1%}) and the spec allows {max_quarantined:.1%} "
                "(batch.max_quarantined)",
                rows=rows,
                problems=problems,
                report_key=self._plan.split.report_key,
                quarantine_key=self._write_quarantine(refused),
            )
        quarantine = self._write_quarantine(refused)
        predictions = self._write_predictions(rows_path, rows)
        warned = tuple(
            FieldWarning(field=field, message=message, count=count)
            for (field, message), count in warnings.most_common()
        )
        summary = self._write_summary(rows, warned, problems)
        return FinishResult(
            outcome="scored",
            rows=rows,
            problems=problems,
            warnings=warned,
            predictions_key=predictions,
            summary_key=summary,
            quarantine_key=quarantine,
            report_key=self._plan.split.report_key,
            manifest_key=self._prefix + "manifest.json",
        )

    def seal(self, result: FinishResult) -> None:
        """Writes the manifest, which says that the job is finished."""
        task = self._task
        manifest = Manifest(
            batch_id=task.batch_id,
            model=task.model,
            version=task.version,
            model_sha256=task.sha256,
            signature_sha256=task.signature_sha256,
            spec_version=task.spec_version,
            spec_digest=task.spec_digest,
            source=task.source.model_dump(mode="json"),
            created_at=task.created_at,
            chunks=len(self._plan.split.chunks),
            rows=result.rows,
            files=tuple(self._files),
            result=result,
        )
        body = manifest.model_dump_json(indent=2).encode()
        self._store.write_once(
            self._bucket, self._prefix + "manifest.json", body, content_type=JSON
        )

    # ── Scores ──────────────────────────────────────────────────────────────────────────────────

    def _gather(self) -> tuple[Counter[tuple[str, str]], list[RefusedRow]]:
        """Fills table ``scores(row, code, p0…)`` from the chunks, one in memory at a time."""
        task = self._task
        columns = ", ".join(f"{identifier(name)} FLOAT" for name in self._outputs)
        self._connection.execute(f"CREATE TEMP TABLE scores (row BIGINT, code INTEGER, {columns})")
        warnings: Counter[tuple[str, str]] = Counter()
        refused: list[RefusedRow] = []
        for chunk in self._plan.split.chunks:
            key = layout.batch_scores_key(task.model, task.batch_id, chunk)
            where = f"s3://{self._bucket}/{key}"
            try:
                body = self._store.read(self._bucket, key)
            except NotFoundError as exc:
                raise ArtifactError(
                    f"chunk {chunk} of batch job {task.batch_id} has not been scored: {where} is "
                    "not there; resume the job"
                ) from exc
            scores = Scores.from_bytes(body, where)
            refused.extend(scores.notes.refused)
            for field, message, count in scores.notes.warnings:
                warnings[field, message] += count
            if len(scores.row):
                self._keep(scores)
        return warnings, refused

    def _keep(self, scores: Scores) -> None:
        regression = self._signature.task is Task.REGRESSION
        output = scores.output.reshape(len(scores.row), len(self._outputs))
        code = np.zeros(len(output)) if regression else output.argmax(axis=1)
        arrays = {"row": scores.row, "code": code.astype(np.int32)}
        for position, name in enumerate(self._outputs):
            arrays[name] = np.ascontiguousarray(output[:, position])
        self._connection.register("chunk", arrays)
        self._connection.execute("INSERT INTO scores SELECT * FROM chunk")
        self._connection.unregister("chunk")

    def _counted(self, refused: list[RefusedRow]) -> RowCounts:
        before = self._plan.split.rows
        scored = self._connection.execute("SELECT count(*) FROM scores").fetchall()[0][0]
        also = len({r.row for r in refused})
        if scored + also != before.accepted:
            raise ArtifactError(
                f"batch job {self._task.batch_id}: expected scores of {before.accepted:,} rows, "
                f"got {scored:,}, and {also:,} refused"
            )
        return RowCounts(read=before.read, accepted=scored, quarantined=before.quarantined + also)

    # ── Files ───────────────────────────────────────────────────────────────────────────────────

    def _write_predictions(self, rows_path: Path, rows: RowCounts) -> str:
        parquet = self._plan.format == "parquet"
        name = "predictions.parquet" if parquet else "predictions.csv"
        how = "FORMAT parquet, COMPRESSION zstd" if parquet else "FORMAT csv, HEADER"
        path = self._workspace / name
        self._connection.execute(
            f"COPY (SELECT r.row AS row, {self._id()}"
            "CASE WHEN s.row IS NULL THEN 'quarantined' ELSE 'scored' END AS status, "
            f"CASE WHEN s.row IS NOT NULL THEN {int(self._task.version)} END AS version, "
            f"{self._answer()} FROM read_parquet({literal(str(rows_path))}) r "
            f"LEFT JOIN scores s ON r.row = s.row ORDER BY r.row) TO {literal(str(path))} ({how})"
        )
        return self._put(name, path, PARQUET if parquet else CSV, rows.read)

    def _id(self) -> str:
        """SQL of the id column, if the file has one; never named like a column of ours."""
        name = self._plan.id_column
        if not name:
            return ""
        taken = {*_FIXED, *self.probability_names().values()}
        while name in taken:
            name += "_id"
        return f"r.id AS {identifier(name)}, "

    def probability_names(self) -> dict[str, str]:
        """Column of each class's probability."""
        return {label: f"probability_{label}" for label in self._signature.classes}

    def _answer(self) -> str:
        if self._signature.task is Task.REGRESSION:
            return "s.value AS value"
        labels = ", ".join(literal(label) for label in self._signature.classes)
        kind = SQL_TYPES[self._signature.target_type]
        probabilities = ", ".join(
            f"s.p{i} AS {identifier(name)}"
            for i, name in enumerate(self.probability_names().values())
        )
        return f"([{labels}][s.code + 1])::{kind} AS label, {probabilities}"

    def _write_quarantine(self, refused: list[RefusedRow]) -> str:
        """The rows that the signature refused join those that could not be read."""
        key = self._plan.split.quarantine_key
        path = self._workspace / "quarantine.csv"
        if key:
            self._store.download(self._bucket, key, path)
        if refused:
            self._add_refused(path, refused, merge=bool(key))
        if not key and not refused:
            return ""
        return self._put("quarantine.csv", path, CSV, None)

    def _add_refused(self, path: Path, refused: list[RefusedRow], *, merge: bool) -> None:
        self._connection.execute(
            "CREATE TEMP TABLE also AS SELECT unnest($row) AS row, unnest($field) AS field, "
            "$rule AS rule, unnest($expected) AS expected, '' AS came",
            {
                "row": [r.row for r in refused],
                "field": [r.field for r in refused],
                "rule": SIGNATURE_RULE,
                "expected": [r.message for r in refused],
            },
        )
        both = "SELECT *, 1 AS part FROM also"
        if merge:
            read = (
                f"read_csv({literal(str(path))}, header = true, columns = {{'row': 'BIGINT', "
                "'field': 'VARCHAR', 'rule': 'VARCHAR', 'expected': 'VARCHAR', 'came': 'VARCHAR'}) "
                # A finish that is repeated finds those it added before.
                f"WHERE rule <> {literal(SIGNATURE_RULE)}"
            )
            both += f" UNION ALL SELECT *, 0 AS part FROM {read}"
        merged = path.with_suffix(".merged")
        self._connection.execute(
            f"COPY (SELECT row, field, rule, expected, came FROM ({both}) ORDER BY row, part) "
            f"TO {literal(str(merged))} (FORMAT csv, HEADER)"
        )
        merged.replace(path)

    def _write_summary(
        self, rows: RowCounts, warnings: tuple[FieldWarning, ...], problems: tuple[FieldFault, ...]
    ) -> str:
        task = self._task
        document = {
            "format": FORMAT,
            "batch_id": task.batch_id,
            "model": task.model,
            "version": task.version,
            "task": str(self._signature.task),
            "rows": {"read": rows.read, "scored": rows.accepted, "quarantined": rows.quarantined},
            **self._described(),
            "warnings": [w.model_dump() for w in warnings],
            "problems": [p.model_dump() for p in problems],
        }
        path = self._workspace / "summary.json"
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
        return self._put("summary.json", path, JSON, None)

    def _described(self) -> dict[str, Any]:
        if self._signature.task is Task.REGRESSION:
            return {"value": self._distribution("value")}
        counts = dict(
            self._connection.execute("SELECT code, count(*) FROM scores GROUP BY code").fetchall()
        )
        return {
            "labels": {label: counts.get(i, 0) for i, label in enumerate(self._signature.classes)},
            "probabilities": {
                label: self._distribution(f"p{i}")
                for i, label in enumerate(self._signature.classes)
            },
        }

    def _distribution(self, column: str) -> dict[str, Any]:
        shares = ", ".join(map(str, QUANTILES))
        mean, quantiles = self._connection.execute(
            f"SELECT avg({column}::DOUBLE), quantile_cont({column}::DOUBLE, [{shares}]) FROM scores"
        ).fetchall()[0]
        names = [f"p{share * 100:g}" for share in QUANTILES]
        return {"mean": mean, "quantiles": dict(zip(names, quantiles, strict=True))}

    def _put(self, name: str, path: Path, media_type: str, rows: int | None) -> str:
        key = self._prefix + name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._store.upload(self._bucket, key, path, content_type=media_type)
        self._files.append(
            ResultFile(
                name=name,
                key=key,
                media_type=media_type,
                bytes=path.stat().st_size,
                sha256=digest,
                rows=rows,
            )
        )
        return key


def _with_refused(
    problems: tuple[FieldFault, ...], refused: list[RefusedRow]
) -> tuple[FieldFault, ...]:
    """The faults of the file, and those of rows that the signature refused."""
    counted = Counter((r.field, r.message) for r in refused)
    first: dict[tuple[str, str], int] = {}
    for r in refused:
        about = (r.field, r.message)
        first[about] = min(first.get(about, r.row), r.row)
    return (
        *problems,
        *(
            FieldFault(
                field=field,
                rule=SIGNATURE_RULE,
                expected=message,
                count=count,
                first_row=first[field, message],
            )
            for (field, message), count in counted.most_common(20)
        ),
    )
