"""The registry's changes and queries on one DynamoDB table.

Every change reads what it builds on, then writes once: one transaction that carries the change, a
condition for each thing read, and the audit entry. A lost race is repeated with a fresh read, a
bounded number of times. A change that was committed although its answer was lost is recognised
when it is repeated; the docstrings say by what.
"""

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from millrace.aws.dynamodb import (
    ABSENT,
    MAX_WRITES,
    Check,
    DynamoTable,
    Expected,
    Item,
    Key,
    OneOf,
    Put,
    Table,
    Update,
    Write,
)
from millrace.errors import (
    ConditionFailedError,
    ConflictError,
    NoChampionError,
    NotFoundError,
)
from millrace.messages import (
    ChampionRef,
    DatasetDecision,
    EvaluationResult,
    FitResult,
    IngestResult,
    Promotion,
    Registration,
    TrainingInput,
    TrialResult,
    Verdict,
)
from millrace.registry import items
from millrace.registry.champions import (
    ANY_CHAMPION,
    CROWNINGS,
    AnyChampion,
    check_answerable,
    check_expectation,
    crowning_event,
    is_repeated,
    name_of,
    promotion_of,
    step_back,
)
from millrace.registry.changes import BACKOFF, Backoff, list_page, with_fresh_reads
from millrace.registry.ledger import AUDIT, Ledger, to_entry
from millrace.registry.live import live_write
from millrace.registry.pages import Page
from millrace.registry.records import (
    CHAMPION,
    PIPELINE,
    AuditEntry,
    DatasetVersion,
    ModelVersion,
    RegisteredModel,
    Run,
    RunOutcome,
    RunStatus,
    ServingRecord,
    SpecVersion,
    TrialRecord,
    VersionStatus,
)
from millrace.registry.serving import ServingReader
from millrace.registry.states import Event, transition
from millrace.spec import ModelSpec

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

_OPEN: Final = OneOf((RunStatus.SCHEDULED.value, RunStatus.RUNNING.value))
_MAX_TEXT: Final = 2_000


def open_registry(client: "DynamoDBClient", table_name: str) -> "Registry":
    """The registry on a real table, with the real clock and ids."""
    return Registry(
        DynamoTable(client, table_name),
        clock=lambda: datetime.now(UTC),
        ids=lambda: uuid.uuid4().hex,
    )


class Registry:
    """Registered models, their versions, runs, dataset versions and audit entries.

    Args:
        table: The table.
        clock: Gives the time of a change, aware and in UTC.
        ids: Gives the ids of audit entries and changes, never the same twice.
        backoff: How long a change that lost a race waits.
    """

    def __init__(
        self,
        table: Table,
        *,
        clock: Callable[[], datetime],
        ids: Callable[[], str],
        backoff: Backoff = BACKOFF,
    ) -> None:
        self._table = table
        self._ledger = Ledger(table)
        self._backoff = backoff
        self._clock = clock
        self._ids = ids

    # ── Models and specs ────────────────────────────────────────────────────────────────────────

    def get_model(self, model: str) -> RegisteredModel:
        """The registered model.

        Raises:
            NotFoundError: There is no such model.
        """
        item = self._table.get(items.model_key(model))
        if item is None:
            raise NotFoundError(f"there is no model {model!r}; apply its spec first")
        return items.to_model(item)

    def list_models(self, *, limit: int = 50, token: str | None = None) -> Page[RegisteredModel]:
        """Registered models by name."""
        return self._list(items.MODELS, items.to_model, limit, token, index=True, descending=False)

    def apply_spec(
        self, spec: ModelSpec, *, key: str, actor: str, correlation_id: str = ""
    ) -> SpecVersion:
        """Makes a spec the model's current one, creating the model if it is new.

        Idempotent by the spec's digest: applying the current spec again writes nothing.

        Args:
            spec: The validated spec.
            key: Where its canonical JSON lies in the artifact bucket.
            actor: Who applies it.
            correlation_id: The request's id.

        Raises:
            ConflictError: The task changed although versions of the old task exist.
        """
        now = self._clock()
        entry_id = self._ids()

        def change() -> SpecVersion:
            item = self._table.get(items.model_key(spec.name))
            old = None if item is None else items.to_model(item)
            if old is not None and old.spec_digest == spec.digest:
                return self.get_spec(spec.name)
            applied = SpecVersion(
                model=spec.name,
                version=1 if old is None else old.spec_version + 1,
                digest=spec.digest,
                key=key,
                created_at=now,
                created_by=actor,
            )
            facts = {
                "task": spec.task.value,
                "description": spec.description,
                "owner": spec.owner,
                "spec_version": applied.version,
                "spec_digest": applied.digest,
                "spec_key": applied.key,
                "capture_rate": spec.monitor.capture_rate,
                "updated_at": now,
            }
            champion = None if old is None else old.champion_version
            if old is None:
                created = RegisteredModel.model_validate(
                    {"name": spec.name, "created_at": now, **facts}
                )
                model_write: Write = Put(
                    "model", items.model_key(spec.name), items.from_model(created), ABSENT
                )
            else:
                when: dict[str, Expected] = {
                    "spec_version": old.spec_version,
                    "champion_version": champion,
                }
                if old.task is not spec.task:
                    if old.latest_version:
                        raise ConflictError(
                            f"model {spec.name!r} has versions of task {old.task}; "
                            f"task {spec.task} needs a model of another name"
                        )
                    when["latest_version"] = 0
                model_write = Update(
                    "model", items.model_key(spec.name), {**facts, "updated_at": _text(now)}, when
                )
            serving: list[Write] = []
            if champion is not None:
                # Predictions read this one item, so what the spec says of them stands there, too.
                rate = {"capture_rate": spec.monitor.capture_rate}
                key_of_serving = items.serving_key(spec.name)
                serving = [Update("serving", key_of_serving, rate, {"version": champion})]
            self._table.transact(
                [
                    model_write,
                    *serving,
                    Put(
                        "spec",
                        items.spec_key(spec.name, applied.version),
                        applied.model_dump(mode="json"),
                        ABSENT,
                    ),
                    *self._audit(
                        AuditEntry(
                            model=spec.name,
                            at=now,
                            entry_id=entry_id,
                            actor=actor,
                            action="spec_applied",
                            subject=f"spec {spec.name}/{applied.version}",
                            before="" if old is None else old.spec_digest,
                            after=applied.digest,
                            correlation_id=correlation_id,
                        )
                    ),
                ],
                f"apply spec {spec.name}/{applied.version}",
            )
            return applied

        return self._with_fresh_reads(f"apply the spec of {spec.name}", change)

    def get_spec(self, model: str, version: int | None = None) -> SpecVersion:
        """A version of the spec, the current one by default.

        Raises:
            NotFoundError: There is no such model or version.
        """
        number = self.get_model(model).spec_version if version is None else version
        item = self._table.get(items.spec_key(model, number))
        if item is None:
            raise NotFoundError(f"there is no spec version {number} of model {model!r}")
        return items.to_spec(item)

    def list_specs(
        self, model: str, *, limit: int = 50, token: str | None = None
    ) -> Page[SpecVersion]:
        """Versions of the spec, the newest first."""
        return self._list(
            items.model_pk(model), items.to_spec, limit, token, prefix=items.SPEC, model=model
        )

    # ── Runs ────────────────────────────────────────────────────────────────────────────────────

    def create_run(self, run: Run) -> bool:
        """Records a run of a model that exists. Idempotent by run id.

        Returns:
            False when the run was there already; it is left as it is.

        Raises:
            NotFoundError: There is no such model.
        """
        entry = AuditEntry(
            model=run.model,
            at=run.started_at,
            entry_id=self._ids(),
            actor=run.requested_by or PIPELINE,
            action="run_created",
            subject=run.run_id,
            after=str(run.outcome or run.status),
            reason=run.reason,
            correlation_id=run.correlation_id,
        )

        def change() -> bool:
            if self._table.get(items.run_key(run.run_id)) is not None:
                return False
            self.get_model(run.model)
            self._table.transact(
                [
                    Put("run", items.run_key(run.run_id), items.from_run(run), ABSENT),
                    Check("model", items.model_key(run.model)),
                    *self._audit(entry),
                ],
                f"create run {run.run_id}",
            )
            return True

        return self._with_fresh_reads(f"create run {run.run_id}", change)

    def start_run(self, run_id: str) -> bool:
        """Marks a scheduled run as running.

        Returns:
            False when it was running or closed already.
        """
        return self._move_run(
            run_id,
            {"status": RunStatus.RUNNING.value},
            when={"status": RunStatus.SCHEDULED.value},
        )

    def get_run(self, run_id: str) -> Run:
        """A run with its params, metrics, tags and trials.

        Raises:
            NotFoundError: There is no such run.
        """
        # From META on: metric histories, which may be long, sort before it (docs/registry.md).
        found = self._table.query(items.run_pk(run_id), since=items.META).items
        meta = next((i for i in found if i["SK"] == items.META), None)
        if meta is None:
            raise NotFoundError(f"there is no run {run_id!r}")
        return items.to_run(meta, (i for i in found if i is not meta))

    def list_runs(self, model: str, *, limit: int = 50, token: str | None = None) -> Page[Run]:
        """Runs of a model, the newest first, without params, metrics and trials."""
        return self._list(
            items.runs_index_pk(model), items.to_run, limit, token, index=True, model=model
        )

    def finish_run(
        self,
        run_id: str,
        outcome: RunOutcome,
        *,
        reason: str = "",
        error: str = "",
        actor: str = PIPELINE,
        correlation_id: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> bool:
        """Closes an open run; a closed one keeps its outcome, so a late failure changes nothing.

        Args:
            run_id: The run.
            outcome: How it ended.
            reason: Why, for people.
            error: The error's name, if it failed.
            actor: Who closed it.
            correlation_id: The upload's or request's id; the run's own by default.
            facts: More attributes of the run's item.

        Returns:
            False when it was closed before.

        Raises:
            NotFoundError: There is no such run.
        """
        now = self._clock()
        entry_id = self._ids()

        def change() -> bool:
            run = self._run(run_id)
            if run.outcome is not None:
                return False
            closing = _closing(outcome, reason, error, now)
            self._table.transact(
                [
                    self._run_update(run_id, {**(facts or {}), **closing}),
                    *self._audit(
                        _run_finished(run, outcome, reason, now, entry_id, actor, correlation_id)
                    ),
                ],
                f"close run {run_id}",
            )
            return True

        return self._with_fresh_reads(f"close run {run_id}", change)

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Logs params (written once), metrics (the latest wins) and tags on a run.

        One item each, so that a run never outgrows an item. Repeating it changes nothing.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: A param was logged before with another value.
        """
        now = _text(self._clock())
        pk = items.run_pk(run_id)
        run_exists = Check("run", items.run_key(run_id))
        writes: list[Write] = [
            Put(
                f"param {k}",
                Key(pk, items.PARAM + k),
                {"key": k, "value": v},
                {"value": OneOf((None, v))},
            )
            for k, v in (params or {}).items()
        ]
        writes += [
            # nosemgrep: registry-write-without-assumption -- the latest wins; the run must exist
            Put(
                f"metric {k}",
                Key(pk, items.METRIC + k),
                {"key": k, "value": v, "step": 0, "timestamp": now},
            )
            for k, v in (metrics or {}).items()
        ]
        writes += [
            # nosemgrep: registry-write-without-assumption -- the latest wins; the run must exist
            Put(f"tag {k}", Key(pk, items.TAG + k), {"key": k, "value": v})
            for k, v in (tags or {}).items()
        ]
        step = MAX_WRITES - 1
        for begin in range(0, len(writes), step):
            part = [run_exists, *writes[begin : begin + step]]
            try:
                self._table.transact(part, f"log on run {run_id}")
            except ConditionFailedError as exc:
                if run_exists.name in exc.failed:
                    raise NotFoundError(f"there is no run {run_id!r}") from exc
                raise ConflictError(
                    f"run {run_id}: {', '.join(exc.failed)} was logged with another value before"
                ) from exc

    def record_trial(self, run_id: str, trial: TrialResult) -> bool:
        """Records a trial. Idempotent by its number; only a failed trial is replaced.

        Returns:
            False when it was recorded before.
        """
        record = TrialRecord.model_validate(trial.model_dump())
        try:
            self._table.transact(
                [
                    Put(
                        "trial",
                        items.trial_key(run_id, trial.trial_id),
                        items.from_trial(record),
                        {"status": OneOf((None, "failed"))},
                    )
                ],
                f"record trial {trial.trial_id} of run {run_id}",
            )
        except ConditionFailedError:
            return False
        return True

    def record_refusal(self, run_id: str, ingest: IngestResult) -> bool:
        """Closes the run of a refused upload with what was wrong.

        Returns:
            False when the run was closed before.
        """
        return self.finish_run(
            run_id,
            RunOutcome.REFUSED,
            reason=ingest.reason,
            error=ingest.code,
            facts=_upload_facts(ingest),
        )

    # ── Dataset versions ────────────────────────────────────────────────────────────────────────

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
                raise _closed(run)
            trained = self._table.get(
                items.trained_key(task.model, ingest.dataset_version, task.spec_digest)
            )
            decision = _decide(task, ingest, trained, stored is None, train_on_upload)
            told: list[AuditEntry] = []
            writes: list[Write] = [
                Update(
                    "model",
                    items.model_key(task.model),
                    {"latest_dataset_version": ingest.dataset_version, "updated_at": _text(now)},
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
            facts = {
                "status": RunStatus.RUNNING.value,
                "dataset_version": ingest.dataset_version,
                **_upload_facts(ingest),
            }
            if decision.decision != "train":
                outcome = RunOutcome(decision.decision)
                facts |= _closing(outcome, decision.reason, "", now)
                told.append(_run_finished(run, outcome, decision.reason, now, closed_id))
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
        return self._list(
            items.datasets_index_pk(model),
            lambda item: items.to_dataset(item, ()),
            limit,
            token,
            index=True,
            model=model,
        )

    # ── Model versions ──────────────────────────────────────────────────────────────────────────

    def register_version(
        self, task: TrainingInput, ingest: IngestResult, fit: FitResult
    ) -> Registration:
        """Gives the run's model the next version number. Idempotent by run: one version per run.

        Args:
            task: The run's input.
            ingest: Its dataset version.
            fit: The fitted and exported winner.

        Returns:
            The version, and the champion to compare it with.

        Raises:
            ConflictError: The run is closed without a version.
            ConcurrentWriteError: Too many others registered at the same time.
        """
        self.log(
            task.run_id,
            params={
                "algorithm": fit.algorithm.value,
                **{k: items.param_value(v) for k, v in fit.params.items()},
                "seed": str(fit.seed),
                "code_version": fit.code_version,
            },
            metrics={
                f"cv_{fit.metric}": fit.cv_score,
                f"cv_{fit.metric}_std": fit.cv_score_std,
                f"validation_{fit.metric}": fit.validation_score,
                "parity_max_difference": fit.parity.max_difference,
            },
            tags={"dataset_version": ingest.dataset_version, "spec_digest": task.spec_digest},
        )
        now = self._clock()
        entry_id = self._ids()
        what = f"register the model of run {task.run_id}"

        def change() -> int:
            run = self._run(task.run_id)
            if run.model_version is not None:
                return run.model_version
            if run.outcome is not None:
                raise _closed(run)
            latest = self.get_model(task.model).latest_version
            number = latest + 1
            subject = f"{task.model}@{number}"
            version = ModelVersion(
                model=task.model,
                version=number,
                status=transition(None, Event.REGISTER, subject),
                run_id=task.run_id,
                correlation_id=task.correlation_id,
                algorithm=fit.algorithm,
                params=fit.params,
                model_key=fit.model_key,
                sha256=fit.sha256,
                size_bytes=fit.size_bytes,
                signature_key=fit.signature_key,
                signature_sha256=fit.signature_sha256,
                environment_key=fit.environment_key,
                dataset_version=ingest.dataset_version,
                spec_version=task.spec_version,
                spec_digest=task.spec_digest,
                code_version=fit.code_version,
                seed=fit.seed,
                cv_metric=fit.metric,
                cv_score=fit.cv_score,
                parity=fit.parity,
                created_at=now,
                updated_at=now,
            )
            appended = self._ledger.append(
                AuditEntry(
                    model=task.model,
                    at=now,
                    entry_id=entry_id,
                    actor=PIPELINE,
                    action="version_registered",
                    subject=subject,
                    after=version.status.value,
                    correlation_id=task.correlation_id,
                )
            )
            self._table.transact(
                [
                    Put(
                        "version",
                        items.version_key(task.model, number),
                        {**items.from_version(version), **_told_by(appended.entries[0])},
                        ABSENT,
                    ),
                    Update(
                        "model",
                        items.model_key(task.model),
                        {"latest_version": number, "updated_at": _text(now)},
                        {"latest_version": latest},
                    ),
                    Update(
                        "run",
                        items.run_key(task.run_id),
                        {"model_version": number},
                        {"status": _OPEN, "model_version": None},
                    ),
                    *appended.writes,
                ],
                what,
            )
            return number

        number = self._with_fresh_reads(what, change)
        return Registration(version=number, champion=self.champion_ref(task.model))

    def get_version(self, model: str, version: int | str) -> ModelVersion:
        """A model version by number, by a number in text, or by alias.

        Raises:
            NotFoundError: There is no such model, version or alias.
            NoChampionError: The alias is ``champion`` and the model has none.
        """
        if isinstance(version, str) and not version.isdecimal():
            return self._by_alias(model, version)
        number = int(version)
        item = self._table.get(items.version_key(model, number)) if number < 10**6 else None
        if item is None:
            self.get_model(model)
            raise NotFoundError(f"model {model!r} has no version {number}")
        return items.to_version(item)

    def list_versions(
        self, model: str, *, limit: int = 50, token: str | None = None
    ) -> Page[ModelVersion]:
        """Model versions, the newest first."""
        return self._list(
            items.model_pk(model), items.to_version, limit, token, prefix=items.VERSION, model=model
        )

    def champion(self, model: str) -> ModelVersion | None:
        """The model's champion, None when it has none.

        Raises:
            NotFoundError: There is no such model.
        """
        try:
            return self._by_alias(model, CHAMPION)
        except NoChampionError:
            return None

    def champion_ref(self, model: str) -> ChampionRef | None:
        """The champion as a candidate is compared with it, None when there is none."""
        item = self._table.get(items.serving_key(model))
        return None if item is None else items.to_champion_ref(item)

    def record_evaluation(
        self,
        task: TrainingInput,
        version: int,
        evaluation: EvaluationResult,
        *,
        automatic: bool,
    ) -> Verdict:
        """Attaches an evaluation to a version and moves it along the state table.

        A version that fails its gates is rejected; one that passes waits for a person unless
        promotion is automatic. In both cases this closes the run. Idempotent by the evaluation's
        key, which is one per attempt.

        Args:
            task: The run's input.
            version: The version that was evaluated.
            evaluation: Metrics, gates and verdict.
            automatic: The spec's ``approve.mode``.

        Raises:
            InvalidTransitionError: The version is in no state to be judged.
            ConflictError: The run is closed.
        """
        passed = evaluation.verdict == "passed"
        verdict = Verdict(
            decision=("promote" if automatic else "await_approval") if passed else "reject",
            reason=evaluation.reason,
        )
        subject = f"{task.model}@{version}"
        self.log(
            task.run_id,
            metrics={f"test_{k}": v.value for k, v in evaluation.metrics.items()},
        )
        now = self._clock()
        entry_id, closed_id = self._ids(), self._ids()

        def change() -> Verdict:
            current = self.get_version(task.model, version)
            if current.verdict and current.evaluation_key == evaluation.evaluation_key:
                return verdict
            run = self._run(task.run_id)
            if run.outcome is not None:
                raise _closed(run)
            event = Event.PASS_GATES if passed else Event.FAIL_GATES
            after = transition(current.status, event, subject)
            judged = evaluation.model_dump(mode="json")
            facts: dict[str, Any] = {"report_key": evaluation.report_key}
            told = [
                AuditEntry(
                    model=task.model,
                    at=now,
                    entry_id=entry_id,
                    actor=PIPELINE,
                    action="version_validated" if passed else "version_rejected",
                    subject=subject,
                    before=current.status.value,
                    after=after.value,
                    reason=evaluation.reason,
                    correlation_id=task.correlation_id,
                    facts={
                        "report_key": evaluation.report_key,
                        "evaluation_key": evaluation.evaluation_key,
                    },
                )
            ]
            outcome: RunOutcome | None = None
            if verdict.decision != "promote":
                outcome = RunOutcome.AWAITING_APPROVAL if passed else RunOutcome.GATES_FAILED
                facts |= _closing(outcome, evaluation.reason, "", now)
                told.append(_run_finished(run, outcome, evaluation.reason, now, closed_id))
            appended = self._ledger.append(*told)
            writes: list[Write] = [
                Update(
                    "version",
                    items.version_key(task.model, version),
                    {
                        "status": after.value,
                        "verdict": evaluation.verdict,
                        "reason": evaluation.reason,
                        "metrics": judged["metrics"],
                        "gates": judged["gates"],
                        "compared_with": evaluation.champion_version,
                        "evaluation_key": evaluation.evaluation_key,
                        "report_key": evaluation.report_key,
                        "updated_at": _text(now),
                        **_told_by(appended.entries[0]),
                    },
                    {"status": current.status.value, "run_id": task.run_id},
                ),
                *appended.writes,
            ]
            if outcome is not None:
                writes.append(self._trained(run, current, outcome))
            writes.append(self._run_update(task.run_id, facts))
            self._table.transact(writes, f"record the evaluation of {subject}")
            return verdict

        return self._with_fresh_reads(f"record the evaluation of {subject}", change)

    # ── The champion ────────────────────────────────────────────────────────────────────────────

    def promote(
        self,
        model: str,
        version: int,
        *,
        actor: str,
        reason: str = "",
        expected_champion: int | AnyChampion | None = ANY_CHAMPION,
        force: bool = False,
        correlation_id: str = "",
        finishing_run: str | None = None,
    ) -> Promotion:
        """Makes a version the champion and archives the one before, in one transaction.

        Idempotent with an expectation: when the version is champion already, the same promotion is
        given again.

        Args:
            model: The model.
            version: The version.
            actor: Who promotes it.
            reason: Why; needed with ``force``.
            expected_champion: The champion the decision was made against, None for no champion.
                By default the one the version was compared with; with ``force``, whoever is
                champion now.
            force: Promote a version that did not pass its gates; needs a named actor and a reason.
            correlation_id: The request's or upload's id.
            finishing_run: A run that this closes as promoted, in the same transaction.

        Raises:
            NotFoundError: There is no such model or version.
            InvalidTransitionError: The version's state does not allow it.
            ChampionChangedError: The champion is not the expected one.
            ConflictError: The version is champion already, and no expectation was given; or the
                run to finish is closed.
            InvalidEventError: ``force`` without a named actor or a reason.
        """
        if force:
            check_answerable(actor, reason, f"promote {model}@{version} by force")

        return self._crown(
            model,
            version,
            restore=False,
            actor=actor,
            reason=reason,
            expected_champion=expected_champion,
            force=force,
            correlation_id=correlation_id,
            finishing_run=finishing_run,
        )

    def rollback(
        self,
        model: str,
        *,
        actor: str,
        reason: str,
        to: int | None = None,
        expected_champion: int | AnyChampion | None = ANY_CHAMPION,
        force: bool = False,
        correlation_id: str = "",
    ) -> Promotion:
        """Brings an archived version back as champion.

        By default the one that the champion replaced when it was promoted, so that two rollbacks
        go two steps back. Idempotent with an expectation.

        Args:
            model: The model.
            actor: Who rolls back.
            reason: Why.
            to: The version to go back to.
            expected_champion: The champion to get rid of; without it, whoever is champion now.
            force: Go back to a version that failed its gates; needs a named actor and a reason.
            correlation_id: The request's id.

        Raises:
            NotFoundError: There is no such model or version.
            NoChampionError: The model has no champion to roll back from.
            ConflictError: There is nowhere to go back to, or the version failed its gates.
            InvalidTransitionError: The version never was champion.
            ChampionChangedError: The champion is not the expected one.
            InvalidEventError: ``force`` without a named actor or a reason.
        """
        if force:
            check_answerable(actor, reason, f"roll {model} back by force")

        return self._crown(
            model,
            to,
            restore=True,
            actor=actor,
            reason=reason,
            expected_champion=expected_champion,
            force=force,
            correlation_id=correlation_id,
            finishing_run=None,
        )

    def get_serving(self, model: str, version: int | None = None) -> ServingRecord:
        """See `ServingReader.get_serving`."""
        return ServingReader(self._table).get_serving(model, version)

    def audit(self, model: str, *, limit: int = 50, token: str | None = None) -> Page[AuditEntry]:
        """Audit entries of a model, the newest first."""
        return self._list(items.model_pk(model), to_entry, limit, token, prefix=AUDIT, model=model)

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────

    def _crown(
        self,
        model: str,
        target: int | None,
        *,
        restore: bool,
        actor: str,
        reason: str,
        expected_champion: int | AnyChampion | None,
        force: bool,
        correlation_id: str,
        finishing_run: str | None,
    ) -> Promotion:
        """The one way a champion changes. Without a target a rollback goes one step back."""
        now = self._clock()
        change_id, closed_id = self._ids(), self._ids()
        what = f"roll {model} back" if restore else f"promote {model}@{target}"

        def change() -> Promotion:
            meta = self.get_model(model)
            alias = self._table.get(items.alias_key(model, CHAMPION))
            run = None if finishing_run is None else self._run(finishing_run)
            if alias is not None and is_repeated(
                alias, change_id, target, expected_champion, restore
            ):
                if run is not None and run.outcome is None:
                    self._close_promoted(run, reason, now, closed_id, what)
                return promotion_of(alias)
            if run is not None and run.outcome is RunOutcome.PROMOTED and target is not None:
                stored = self._table.get(items.version_key(model, target)) or {}
                return Promotion(version=target, previous=stored.get("predecessor"))
            if run is not None and run.outcome is not None:
                raise _closed(run)
            number = step_back(meta) if target is None else target
            item = self._table.get(items.version_key(model, number))
            if item is None:
                raise NotFoundError(f"model {model!r} has no version {number}")
            version = items.to_version(item)
            event = crowning_event(meta, version, restore=restore, force=force)
            check_expectation(meta, version, event, expected_champion, force)
            entry = AuditEntry(
                model=model,
                at=now,
                entry_id=change_id,
                actor=actor,
                action=CROWNINGS[event],
                subject=f"{model}@{number}",
                before=name_of(meta, meta.champion_version),
                after=f"{model}@{number}",
                reason=reason,
                correlation_id=correlation_id or version.correlation_id,
                facts={"sha256": version.sha256, "run_id": version.run_id},
            )
            closing = (
                []
                if run is None
                else [_run_finished(run, RunOutcome.PROMOTED, reason, now, closed_id)]
            )
            appended = self._ledger.append(entry, *closing)
            predecessor = item.get("predecessor") if restore else meta.champion_version
            writes = self._crowning_writes(
                meta, version, event, predecessor, appended.entries[0], item.get("approval")
            )
            if run is not None:
                writes += self._promoted_writes(run, version, reason, now)
            self._table.transact([*writes, *appended.writes], what)
            return Promotion(version=number, previous=meta.champion_version)

        return self._with_fresh_reads(what, change)

    def _crowning_writes(
        self,
        meta: RegisteredModel,
        version: ModelVersion,
        event: Event,
        predecessor: int | None,
        entry: AuditEntry,
        approval: Mapping[str, Any] | None,
    ) -> list[Write]:
        """Alias, serving item, model and both versions: all name the same champion, or none does.

        Args:
            meta: The model as it was read.
            version: The version that becomes champion.
            event: By what.
            predecessor: Where a rollback from it leads.
            entry: The change's audit entry, as it stands in the ledger.
            approval: Who approved the version, if somebody did.
        """
        model, number, champion = meta.name, version.version, meta.champion_version
        now = _text(entry.at)
        serving = ServingRecord.model_validate(
            {
                **version.model_dump(exclude={"updated_at"}),
                "updated_at": entry.at,
                "capture_rate": meta.capture_rate,
                "sequence": entry.sequence,
            }
        )
        after = transition(version.status, event, entry.subject)
        writes: list[Write] = [
            Put(
                "alias",
                items.alias_key(model, CHAMPION),
                {
                    "model": model,
                    "alias": CHAMPION,
                    "version": number,
                    "run_id": version.run_id,
                    "previous": champion,
                    "restored": event is Event.RESTORE,
                    "change_id": entry.entry_id,
                    "actor": entry.actor,
                    "updated_at": now,
                },
                {"version": champion},
            ),
            Put(
                "serving",
                items.serving_key(model),
                serving.model_dump(mode="json"),
                {"version": champion},
            ),
            Update(
                "model",
                items.model_key(model),
                {
                    "champion_version": number,
                    "previous_champion_version": predecessor,
                    "updated_at": now,
                },
                {"champion_version": champion, "spec_version": meta.spec_version},
            ),
            Update(
                "version",
                items.version_key(model, number),
                {
                    "status": after.value,
                    "predecessor": predecessor,
                    "updated_at": now,
                    **_told_by(entry),
                },
                {"status": version.status.value},
            ),
            live_write(
                model,
                at=entry.at,
                sequence=entry.sequence,
                version=number,
                sha256=version.sha256,
                run_id=version.run_id,
                approval=approval,
            ),
        ]
        if champion is not None:
            demoted = transition(VersionStatus.CHAMPION, Event.DEMOTE, f"{model}@{champion}")
            writes.append(
                Update(
                    "old champion",
                    items.version_key(model, champion),
                    {"status": demoted.value, "updated_at": now, **_told_by(entry)},
                    {"status": VersionStatus.CHAMPION.value},
                )
            )
        return writes

    def _promoted_writes(
        self, run: Run, version: ModelVersion, reason: str, now: datetime
    ) -> list[Write]:
        outcome = RunOutcome.PROMOTED
        return [
            self._run_update(run.run_id, _closing(outcome, reason, "", now)),
            self._trained(run, version, outcome),
        ]

    def _close_promoted(
        self, run: Run, reason: str, now: datetime, entry_id: str, what: str
    ) -> None:
        if run.model_version is None:
            raise ConflictError(f"run {run.run_id} made no version that could be promoted")
        version = self.get_version(run.model, run.model_version)
        entry = _run_finished(run, RunOutcome.PROMOTED, reason, now, entry_id)
        self._table.transact(
            [*self._promoted_writes(run, version, reason, now), *self._audit(entry)], what
        )

    def _by_alias(self, model: str, alias: str) -> ModelVersion:
        item = self._table.get(items.alias_key(model, alias))
        if item is not None:
            return self.get_version(model, int(item["version"]))
        self.get_model(model)
        if alias == CHAMPION:
            raise NoChampionError(f"model {model!r} has no champion yet")
        raise NotFoundError(f"model {model!r} has no version or alias {alias!r}")

    def _run(self, run_id: str) -> Run:
        item = self._table.get(items.run_key(run_id))
        if item is None:
            raise NotFoundError(f"there is no run {run_id!r}")
        return items.to_run(item)

    def _decided(self, run: Run, stored: Item) -> DatasetDecision:
        """The decision taken before, from what it left behind."""
        if run.outcome not in (None, RunOutcome.UNCHANGED, RunOutcome.STORED):
            raise _closed(run)
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

    def _move_run(
        self, run_id: str, values: Mapping[str, Any], *, when: Mapping[str, Expected]
    ) -> bool:
        try:
            self._table.transact(
                [Update("run", items.run_key(run_id), values, when)], f"update run {run_id}"
            )
        except ConditionFailedError:
            self._run(run_id)
            return False
        return True

    def _run_update(self, run_id: str, values: Mapping[str, Any]) -> Update:
        return Update("run", items.run_key(run_id), values, {"status": _OPEN})

    def _trained(self, run: Run, version: ModelVersion, outcome: RunOutcome) -> Put:
        """That the run's training came to an end; in the transaction that closes the run."""
        # nosemgrep: registry-write-without-assumption -- the latest wins; the run's close has conditions
        return Put(
            "trained",
            items.trained_key(run.model, version.dataset_version, version.spec_digest),
            {
                "spec_digest": version.spec_digest,
                "run_id": run.run_id,
                "version": version.version,
                "outcome": outcome.value,
            },
        )

    def _audit(self, *entries: AuditEntry) -> list[Write]:
        """The writes that put entries at the end of their model's ledger."""
        return self._ledger.append(*entries).writes

    def _list[T](
        self,
        pk: str,
        convert: Callable[[Item], T],
        limit: int,
        token: str | None,
        *,
        prefix: str = "",
        index: bool = False,
        descending: bool = True,
        model: str | None = None,
    ) -> Page[T]:
        page = list_page(
            self._table,
            pk,
            convert,
            limit,
            token,
            prefix=prefix,
            index=index,
            descending=descending,
        )
        if not page.items and not token and model is not None:
            self.get_model(model)
        return page

    def _with_fresh_reads[T](self, what: str, change: Callable[[], T]) -> T:
        return with_fresh_reads(what, change, self._backoff)


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


def _upload_facts(ingest: IngestResult) -> dict[str, Any]:
    """What a run's item says of its upload."""
    facts = ingest.model_dump(mode="json", include={"rows", "problems", "quarantine_prefix"})
    return {k: v for k, v in facts.items() if v}


def _closing(outcome: RunOutcome, reason: str, error: str, now: datetime) -> dict[str, Any]:
    """Attributes that close a run."""
    status = RunStatus.FAILED if outcome is RunOutcome.FAILED else RunStatus.FINISHED
    return {
        "status": status.value,
        "outcome": outcome.value,
        "reason": reason[:_MAX_TEXT],
        "error": error[:_MAX_TEXT],
        "ended_at": _text(now),
    }


def _run_finished(
    run: Run,
    outcome: RunOutcome,
    reason: str,
    now: datetime,
    entry_id: str,
    actor: str = PIPELINE,
    correlation_id: str = "",
) -> AuditEntry:
    return AuditEntry(
        model=run.model,
        at=now,
        entry_id=entry_id,
        actor=actor,
        action="run_finished",
        subject=run.run_id,
        before=run.status.value,
        after=outcome.value,
        reason=reason,
        correlation_id=correlation_id or run.correlation_id,
    )


def _told_by(entry: AuditEntry) -> dict[str, Any]:
    """What a version's item says of the entry that told of its state."""
    return {"ledger_sequence": entry.sequence}


def _closed(run: Run) -> ConflictError:
    return ConflictError(f"run {run.run_id} is closed: {run.outcome}")


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
