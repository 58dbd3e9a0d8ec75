"""The lineage of a version as OpenLineage events, for catalogues that collect them.

https://openlineage.io/spec/2-0-2/OpenLineage.json. Every run is told by a START event and, when it
ended, by one that says how. Ids are made of ours, so that the same events come again however often
they are asked for:

========  ================================  ===================================
job       inputs                            outputs
========  ================================  ===================================
ingest    the upload                        the dataset version
train     the dataset version               the model, and its report
batch     the file, the model               the predictions
rollout   the model, the one before         what answers predictions
========  ================================  ===================================
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from millrace import __version__
from millrace.aws.table import Table
from millrace.registry import items
from millrace.registry.changes import LOOK
from millrace.registry.records import Batch, DatasetVersion, ModelVersion, Run, RunStatus
from millrace.registry.registry import Registry
from millrace.registry.rollout_records import Rollout, rollouts_index_pk, to_rollout
from millrace.registry.rollout_states import RolloutStatus
from millrace.registry.writer import text_of
from millrace.signature import Signature

type Event = dict[str, Any]
type Facets = dict[str, dict[str, Any]]

PRODUCER: Final = f"urn:millrace:{__version__}"
"""A URI that names who tells, as the specification demands."""

_CORE: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/"
_FACETS: Final = "https://openlineage.io/spec/facets/"
_SCHEMAS: Final[Mapping[str, str]] = {
    "dataQualityMetrics": "1-0-3/DataQualityMetricsInputDatasetFacet",
    "datasetType": "1-0-1/DatasetTypeDatasetFacet",
    "documentation": "1-1-0/DocumentationJobFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
    "ownership": "1-0-1/OwnershipJobFacet",
    "parent": "1-2-0/ParentRunFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
    "schema": "1-2-0/SchemaDatasetFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
}
"""Facets of the specification, by the name that they stand under."""

_ENDS: Final[Mapping[RolloutStatus, str]] = {
    RolloutStatus.PROMOTED: "COMPLETE",
    RolloutStatus.ROLLED_BACK: "FAIL",
}
"""How a rollout that is over ended; all others were aborted."""


def events_of(
    model: str,
    version: int | str,
    *,
    registry: Registry,
    table: Table,
    data_bucket: str,
    artifact_bucket: str,
    signature: Signature | None = None,
) -> list[Event]:
    """Every event about a version, in the order of time.

    Args:
        model: The model.
        version: A number or an alias.
        registry: The registry.
        table: Its table.
        data_bucket: Where uploads, datasets and predictions lie.
        artifact_bucket: Where the model lies.
        signature: What the version takes and gives, when it can be read.

    Raises:
        NotFoundError: There is no such model, version or alias.
    """
    record = registry.get_version(model, version)
    teller = Teller(data_bucket=data_bucket, artifact_bucket=artifact_bucket)
    owner = registry.get_model(model).owner
    stored = table.get(items.run_key(record.run_id))
    run = None if stored is None else items.to_run(stored)
    kept = table.get(items.dataset_key(model, record.dataset_version))
    dataset = None if kept is None else items.to_dataset(kept, ())
    batches = table.query(
        items.batches_index_pk(model), index=True, limit=LOOK, where={"version": record.version}
    )
    rollouts = table.query(
        rollouts_index_pk(model), index=True, limit=LOOK, where={"version": record.version}
    )
    found: list[Event] = []
    if dataset is not None:
        found += teller.ingest(dataset, signature, owner)
    found += teller.training(record, run, dataset, signature, owner)
    for batch in (items.to_batch(i) for i in batches.items):
        found += teller.batch(batch, record, owner)
    for rollout in (to_rollout(i) for i in rollouts.items):
        found += teller.rollout(rollout, record, owner)
    return sorted(found, key=lambda e: e["eventTime"])


class Teller:
    """Tells of the records of one environment; pure.

    Args:
        data_bucket: Where uploads, datasets and predictions lie; also names the environment.
        artifact_bucket: Where models lie.
    """

    def __init__(self, *, data_bucket: str, artifact_bucket: str) -> None:
        self._data = f"s3://{data_bucket}"
        self._artifacts = f"s3://{artifact_bucket}"
        self._namespace = f"millrace://{data_bucket}"

    def ingest(
        self, dataset: DatasetVersion, signature: Signature | None, owner: str = ""
    ) -> Iterator[Event]:
        """An upload became a dataset version."""
        upload = self._dataset(
            f"s3://{dataset.source.bucket}", dataset.source.key, version=dataset.source.version_id
        )
        rows = dataset.rows
        upload["inputFacets"] = {
            "dataQualityMetrics": _facet(
                "dataQualityMetrics",
                rowCount=rows.read,
                bytes=dataset.source.size,
                columnMetrics={},
            )
        }
        made = self._rows_of(dataset, signature)
        made["outputFacets"] = {
            "outputStatistics": _facet("outputStatistics", rowCount=rows.accepted)
        }
        yield from self._told(
            job=f"{dataset.model}.ingest",
            what="Checks an upload against its contract and keeps what holds to it.",
            owner=owner,
            run=f"{dataset.created_by_run}/ingest",
            parent=(f"{dataset.model}.training", dataset.created_by_run),
            began=dataset.created_at,
            ended=dataset.created_at,
            end="COMPLETE",
            inputs=[upload, *self._labelled(dataset)],
            outputs=[made],
        )

    def _labelled(self, dataset: DatasetVersion) -> list[Event]:
        """The predictions whose labels came, as a dataset beside the upload."""
        taken = dataset.labelled
        return [] if taken is None else [self._dataset(self._data, taken.key)]

    def training(
        self,
        record: ModelVersion,
        run: Run | None,
        dataset: DatasetVersion | None,
        signature: Signature | None,
        owner: str = "",
    ) -> Iterator[Event]:
        """A run made a version of a dataset version, or brought it from elsewhere."""
        inputs = [
            self._dataset(self._data, f"datasets/{record.model}", version=record.dataset_version)
            if dataset is None
            else self._rows_of(dataset, signature)
        ]
        if dataset is not None:
            inputs[0]["inputFacets"] = {
                "dataQualityMetrics": _facet(
                    "dataQualityMetrics", rowCount=dataset.rows.accepted, columnMetrics={}
                )
            }
        made = self._model(record)
        made["outputFacets"] = {
            "outputStatistics": _facet("outputStatistics", size=record.size_bytes, fileCount=1)
        }
        outputs = [made]
        if record.report_key:
            outputs.append(self._dataset(self._artifacts, record.report_key))
        yield from self._told(
            job=f"{record.model}.training",
            what="Searches, fits, exports and judges a model.",
            owner=owner,
            run=record.run_id,
            began=run.started_at if run else record.created_at,
            ended=(run.ended_at if run else None) or record.updated_at,
            end="FAIL" if run is not None and run.status is RunStatus.FAILED else "COMPLETE",
            error=run.error and (run.reason or run.error) if run else "",
            inputs=inputs,
            outputs=outputs,
        )

    def batch(self, batch: Batch, record: ModelVersion, owner: str = "") -> Iterator[Event]:
        """A file was scored by a version."""
        file = self._dataset(
            f"s3://{batch.source.bucket}", batch.source.key, version=batch.source.version_id
        )
        outputs = []
        if batch.predictions_key:
            made = self._dataset(self._data, batch.predictions_key)
            rows = {} if batch.rows is None else {"rowCount": batch.rows.accepted}
            made["outputFacets"] = {"outputStatistics": _facet("outputStatistics", **rows)}
            outputs = [made]
        yield from self._told(
            job=f"{batch.model}.batch",
            what="Scores a file with one version.",
            owner=owner,
            run=batch.batch_id,
            began=batch.created_at,
            ended=batch.ended_at,
            end="FAIL" if batch.status is RunStatus.FAILED else "COMPLETE",
            error=batch.error and (batch.reason or batch.error),
            inputs=[file, self._model(record)],
            outputs=outputs,
        )

    def rollout(self, rollout: Rollout, record: ModelVersion, owner: str = "") -> Iterator[Event]:
        """A version took the traffic, or did not."""
        answers = self._dataset(self._namespace, f"{rollout.model}/predictions")
        yield from self._told(
            job=f"{rollout.model}.rollout",
            what="Gives a version the traffic, step by step.",
            owner=owner,
            run=rollout.rollout_id,
            began=rollout.created_at,
            ended=rollout.ended_at,
            end=_ENDS.get(rollout.status, "ABORT"),
            error=rollout.why if rollout.status is RolloutStatus.ROLLED_BACK else "",
            inputs=[self._model(record)],
            outputs=[answers],
        )

    # ── Parts ───────────────────────────────────────────────────────────────────────────────────

    def _told(
        self,
        *,
        job: str,
        what: str,
        owner: str,
        run: str,
        began: datetime,
        ended: datetime | None,
        end: str,
        inputs: Sequence[Event],
        outputs: Sequence[Event],
        parent: tuple[str, str] | None = None,
        error: str = "",
    ) -> Iterator[Event]:
        run_facets: Facets = {
            "processing_engine": _facet("processing_engine", name="millrace", version=__version__)
        }
        if parent is not None:
            run_facets["parent"] = _facet(
                "parent",
                run={"runId": self._run_id(parent[1])},
                job={"namespace": self._namespace, "name": parent[0]},
            )
        job_facets: Facets = {
            "jobType": _facet(
                "jobType", processingType="BATCH", integration="MILLRACE", jobType="TASK"
            ),
            "documentation": _facet("documentation", description=what),
        }
        if owner:
            job_facets["ownership"] = _facet("ownership", owners=[{"name": owner}])

        def event(kind: str, at: datetime, made: Iterable[Event], more: Facets) -> Event:
            return {
                "eventType": kind,
                "eventTime": text_of(at),
                "producer": PRODUCER,
                "schemaURL": f"{_CORE}RunEvent",
                "run": {"runId": self._run_id(run), "facets": run_facets | more},
                "job": {"namespace": self._namespace, "name": job, "facets": job_facets},
                "inputs": list(inputs),
                "outputs": list(made),
            }

        yield event("START", began, (), {})
        if ended is not None:
            failed: Facets = {}
            if error:
                failed["errorMessage"] = _facet(
                    "errorMessage", message=error, programmingLanguage="PYTHON"
                )
            yield event(end, ended, outputs, failed)

    def _run_id(self, ours: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._namespace}/{ours}"))

    def _dataset(self, namespace: str, name: str, *, version: str = "") -> Event:
        facets: Facets = {}
        if version:
            facets["version"] = _facet("version", datasetVersion=version)
        return {"namespace": namespace, "name": name, "facets": facets}

    def _rows_of(self, dataset: DatasetVersion, signature: Signature | None) -> Event:
        made = self._dataset(
            self._data, f"datasets/{dataset.model}", version=dataset.dataset_version
        )
        made["facets"]["datasetType"] = _facet("datasetType", datasetType="TABLE")
        if signature is not None:
            fields = [{"name": f.name, "type": f.type.value} for f in signature.features]
            fields.append({"name": signature.target, "type": signature.target_type.value})
            made["facets"]["schema"] = _facet("schema", fields=fields)
        return made

    def _model(self, record: ModelVersion) -> Event:
        made = self._dataset(self._artifacts, record.model_key, version=record.sha256)
        made["facets"]["datasetType"] = _facet("datasetType", datasetType="MODEL")
        # A facet of our own, under our own prefix, as the specification asks.
        made["facets"]["millrace_modelVersion"] = {
            "_producer": PRODUCER,
            "_schemaURL": f"{_CORE}DatasetFacet",
            "name": record.model,
            "version": record.version,
            "status": record.status.value,
            "algorithm": record.algorithm.value,
            "sha256": record.sha256,
            "codeVersion": record.code_version,
            "specDigest": record.spec_digest,
            "metrics": {n: m.value for n, m in record.metrics.items()},
        }
        return made


def _facet(name: str, /, **fields: Any) -> dict[str, Any]:
    place = _SCHEMAS[name]
    defined = place.rpartition("/")[2]
    return {
        "_producer": PRODUCER,
        "_schemaURL": f"{_FACETS}{place}.json#/$defs/{defined}",
        **fields,
    }
