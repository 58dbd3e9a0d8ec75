"""The rows of a retraining: an upload's, as its dataset version keeps them, and labelled predictions."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.datasets.engine import Limits
from millrace.datasets.labelled import Merged, add_labelled, count_labelled, merge_labelled
from millrace.datasets.rules import Refusal
from millrace.errors import UploadRefusedError
from millrace.messages import Cause, LabelledRows, LabelledSpan, TrainingInput
from millrace.monitoring.captures import ListedObjects
from millrace.monitoring.labelled import LabelsOfSpan, write_labelled
from millrace.monitoring.usable import why_not_usable
from millrace.spec import ModelSpec

PARQUET: Final = "application/vnd.apache.parquet"


class Objects(ObjectStore, ListedObjects, Protocol):
    """What gathering takes: `aws.s3.S3ObjectStore` is one."""


def span_of(task: TrainingInput, spec: ModelSpec) -> LabelledSpan | None:
    """The labelled predictions that a run takes in; None when it trains on its upload alone.

    A training by the calendar does without new ones where they cannot be had.

    Raises:
        UploadRefusedError: The run was asked for because of them, and they cannot be rows.
    """
    span = task.labelled
    if span is None or span.since >= span.until:
        return span
    reason = why_not_usable(spec)
    if not reason:
        return span
    if task.cause is not Cause.SCHEDULE:
        raise UploadRefusedError(reason, Refusal.NOT_CAPTURED)
    return span.model_copy(update={"since": span.until}) if span.previous_key else None


@dataclass(frozen=True, slots=True)
class Gatherer:
    """Gathers the rows of retrainings.

    Attributes:
        store: Objects.
        bucket: The data bucket.
        book: Where labels are read.
        keep: How long captured predictions are kept.
    """

    store: Objects
    bucket: str
    book: LabelsOfSpan
    keep: timedelta

    def gather(
        self,
        task: TrainingInput,
        span: LabelledSpan,
        spec: ModelSpec,
        workspace: Path,
        limits: Limits,
    ) -> tuple[LabelledRows, Path]:
        """Writes the labelled rows once for the run, and a file with all rows for this call.

        Idempotent by run: labels that come while a run is tried again are for the next.

        Args:
            task: The run's input.
            span: Its labelled predictions.
            spec: The contract.
            workspace: Holds all files.
            limits: Memory.

        Raises:
            UploadRefusedError: The newest dataset version does not fit the contract.
        """
        key = layout.labelled_rows_key(task.model, task.run_id)
        labelled = workspace / "labelled.parquet"
        previous = self._fetched(span.previous_key, workspace / "previous.parquet")
        lacking = 0
        if self.store.exists(self.bucket, key):
            self.store.download(self.bucket, key, labelled)
            merged = count_labelled(
                workspace=workspace, limits=limits, labelled=labelled, previous=previous
            )
        else:
            lacking, merged = self._join(span, spec, workspace, limits, previous, labelled)
            self.store.write_once(self.bucket, key, labelled.read_bytes(), content_type=PARQUET)
        base = self._fetched(span.base_key, workspace / "base.parquet")
        out = workspace / "rows.parquet"
        if base is None:
            raise UploadRefusedError(
                "the run names no dataset version to stand beside", Refusal.MISSING_COLUMNS
            )
        add_labelled(
            spec, workspace=workspace, limits=limits, base=base, labelled=labelled, out=out
        )
        rows = LabelledRows(
            base_version=span.base_version,
            base_key=span.base_key,
            key=key,
            rows=merged.rows,
            new=merged.new,
            lacking=lacking,
            since=span.since,
            until=span.until,
        )
        return rows, out

    def _join(
        self,
        span: LabelledSpan,
        spec: ModelSpec,
        workspace: Path,
        limits: Limits,
        previous: Path | None,
        out: Path,
    ) -> tuple[int, Merged]:
        lines = workspace / "labelled.jsonl.gz"
        joined = write_labelled(
            spec,
            objects=self.store,
            bucket=self.bucket,
            book=self.book,
            since=max(span.since, span.until - self.keep),
            until=span.until,
            path=lines,
        )
        merged = merge_labelled(
            spec, workspace=workspace, limits=limits, lines=lines, previous=previous, out=out
        )
        return joined.lacking, merged

    def _fetched(self, key: str, path: Path) -> Path | None:
        if not key:
            return None
        self.store.download(self.bucket, key, path)
        return path
