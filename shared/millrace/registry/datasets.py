"""Dataset versions of a model, and whether to train on one."""

from millrace.aws.dynamodb import ABSENT, Check, Item, Put, Update, Write
from millrace.errors import NotFoundError
from millrace.messages import DatasetDecision, IngestResult, TrainingInput
from millrace.registry import items
from millrace.registry.experiments import DatasetInput, input_write
from millrace.registry.pages import Page
from millrace.registry.records import (
    PIPELINE,
    AuditEntry,
    DatasetVersion,
    Run,
    RunOutcome,
    RunStatus,
)
from millrace.registry.runs import Runs, closed, closing, run_finished, upload_facts
from millrace.registry.writer import text_of
from millrace.spec import canonical_json


class Datasets(Runs):
    """Dataset versions."""

    def record_dataset(
        self, task: TrainingInput, ingest: IngestResult, *, train_on_upload: bool
    ) -> DatasetDecision:
        """Records the run's dataset version and decides whether to train on it.

        A dataset version that was trained with this spec is not trained again, unless forced; the
        run is closed with the outcome ``unchanged``, or ``stored`` when the spec does not train on
        upload. Idempotent by run: repeating it gives the same decision.

        Args:
            task: The run's input.
            ingest: What ingest accepted.
            train_on_upload: The spec's ``retrain.on_upload``.

        Raises:
            ConflictError: The run is closed.
        """
        now = self._clock()
        created_id, closed_id = self._ids(), self._ids()
        what = f"record dataset version {ingest.dataset_version} of {task.model}"

        def change() -> DatasetDecision:
            run = self._run(task.run_id)
            key = items.dataset_key(task.model, ingest.dataset_version)
            stored = self._table.get(key)
            if run.dataset_version == ingest.dataset_version and stored is not None:
                return self._decided(run, stored)
            if run.outcome is not None:
                raise closed(run)
            trained = self._table.get(
                items.trained_key(task.model, ingest.dataset_version, task.spec_digest)
            )
            decision = _decide(task, ingest, trained, stored is None, train_on_upload)
            told: list[AuditEntry] = []
            writes: list[Write] = [
                Update(
                    "model",
                    items.model_key(task.model),
                    {"latest_dataset_version": ingest.dataset_version, "updated_at": text_of(now)},
                )
            ]
            if stored is None:
                dataset = DatasetVersion(
                    model=task.model,
                    dataset_version=ingest.dataset_version,
                    data_key=ingest.data_key,
                    manifest_key=ingest.manifest_key,
                    profile_key=ingest.profile_key,
                    rows=ingest.rows,
                    split_rows=ingest.split_rows,
                    source=task.source,
                    labelled=ingest.labelled,
                    created_at=now,
                    created_by_run=task.run_id,
                )
                writes.append(Put("dataset", key, items.from_dataset(dataset), ABSENT))
                told.append(
                    AuditEntry(
                        model=task.model,
                        at=now,
                        entry_id=created_id,
                        actor=PIPELINE,
                        action="dataset_recorded",
                        subject=ingest.dataset_version,
                        after=f"{ingest.rows.accepted} rows",
                        correlation_id=task.correlation_id,
                    )
                )
            else:
                writes.append(Check("dataset", key))
            writes.append(
                input_write(
                    task.run_id,
                    DatasetInput(
                        name=task.model,
                        digest=ingest.dataset_version,
                        source_type="s3",
                        source=canonical_json(task.source.model_dump(mode="json")),
                        context="training",
                    ),
                )
            )
            facts = {
                "status": RunStatus.RUNNING.value,
                "dataset_version": ingest.dataset_version,
                **upload_facts(ingest),
            }
            if decision.decision != "train":
                outcome = RunOutcome(decision.decision)
                facts |= closing(outcome, decision.reason, "", now)
                told.append(run_finished(run, outcome, decision.reason, now, closed_id))
            writes.append(self._run_update(task.run_id, facts))
            self._table.transact([*writes, *self._audit(*told)], what)
            return decision

        return self._with_fresh_reads(what, change)

    def get_dataset(self, model: str, dataset_version: str) -> DatasetVersion:
        """A dataset version and what was trained on it.

        Raises:
            NotFoundError: There is no such dataset version.
        """
        item = self._table.get(items.dataset_key(model, dataset_version))
        if item is None:
            raise NotFoundError(f"model {model!r} has no dataset version {dataset_version!r}")
        trained = self._table.query(
            items.model_pk(model), prefix=f"{items.TRAINED}{dataset_version}#", limit=100
        )
        return items.to_dataset(item, trained.items)

    def latest_dataset(self, model: str) -> DatasetVersion:
        """The dataset version of the model's last accepted upload.

        Raises:
            NotFoundError: There is no such model, or nothing was accepted for it yet.
        """
        latest = self.get_model(model).latest_dataset_version
        if not latest:
            raise NotFoundError(
                f"model {model!r} has no dataset version yet: no upload was accepted for it; "
                f"upload a file to incoming/{model}/"
            )
        return self.get_dataset(model, latest)

    def list_datasets(
        self, model: str, *, limit: int = 50, token: str | None = None
    ) -> Page[DatasetVersion]:
        """Dataset versions of a model, the newest first, without what was trained on them."""
        return self._list_of(
            model,
            items.datasets_index_pk(model),
            lambda item: items.to_dataset(item, ()),
            limit,
            token,
            index=True,
        )

    def _decided(self, run: Run, stored: Item) -> DatasetDecision:
        """The decision taken before, from what it left behind."""
        if run.outcome not in (None, RunOutcome.UNCHANGED, RunOutcome.STORED):
            raise closed(run)
        trained = self._table.get(
            items.trained_key(run.model, run.dataset_version, run.spec_digest)
        )
        return DatasetDecision.model_validate(
            {
                "decision": "train" if run.outcome is None else run.outcome.value,
                "new_version": stored["created_by_run"] == run.run_id,
                "trained_by_run": (trained or {}).get("run_id", ""),
                "reason": run.reason,
            }
        )


def _decide(
    task: TrainingInput,
    ingest: IngestResult,
    trained: Item | None,
    new_version: bool,
    train_on_upload: bool,
) -> DatasetDecision:
    by_run = "" if trained is None else str(trained["run_id"])
    if trained is not None and not task.force:
        return DatasetDecision(
            decision="unchanged",
            new_version=new_version,
            trained_by_run=by_run,
            reason=f"the same rows were trained with this spec by run {by_run}, which made "
            f"{task.model}@{trained['version']} ({trained['outcome']})",
        )
    if not train_on_upload and not task.force:
        return DatasetDecision(
            decision="stored",
            new_version=new_version,
            trained_by_run=by_run,
            reason=f"stored as dataset version {ingest.dataset_version}; the spec's "
            "retrain.on_upload is false",
        )
    return DatasetDecision(decision="train", new_version=new_version, trained_by_run=by_run)
