"""Model versions, from their registration to their verdict."""

from typing import Any

from millrace.attestation import statement_digest
from millrace.aws.dynamodb import ABSENT, Put, Update, Write
from millrace.errors import NoChampionError, NotFoundError
from millrace.messages import (
    ChampionRef,
    EvaluationResult,
    FitResult,
    IngestResult,
    Registration,
    TrainingInput,
    Verdict,
)
from millrace.registry import items
from millrace.registry.experiments import LoggedModel, logged_model_writes
from millrace.registry.pages import Page
from millrace.registry.records import (
    CHALLENGER,
    CHAMPION,
    PIPELINE,
    AuditEntry,
    ModelVersion,
    Provenance,
    Run,
    RunOutcome,
)
from millrace.registry.runs import OPEN, Runs, closed, closing, run_finished
from millrace.registry.states import Event, transition
from millrace.registry.writer import text_of


class Versions(Runs):
    """Model versions and where aliases point."""

    def register_version(
        self,
        task: TrainingInput,
        ingest: IngestResult,
        fit: FitResult,
        *,
        provenance: Provenance | None = None,
        train_seconds: float = 0.0,
    ) -> Registration:
        """Gives the run's model the next version number. Idempotent by run: one version per run.

        Args:
            task: The run's input.
            ingest: Its dataset version.
            fit: The fitted and exported winner.
            provenance: Where it was imported from, if it was not trained here.
            train_seconds: What trials and fit took together.

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
                "parity_max_difference": fit.parity.max_difference,
                # What a bundle does not carry is not known of an imported version.
                **({} if provenance is not None else _fitted_metrics(fit)),
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
                raise closed(run)
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
                provenance=provenance,
                created_at=now,
                updated_at=now,
            )
            if self._sign is not None:
                # After the number is known: a signature names its version.
                seal = self._sign(statement_digest(version))
                version = version.model_copy(
                    update={"kms_signature": seal.kms_signature, "kms_key_id": seal.kms_key_id}
                )
            appended = self._ledger.append(
                AuditEntry(
                    model=task.model,
                    at=now,
                    entry_id=entry_id,
                    actor=PIPELINE if provenance is None else provenance.imported_by,
                    action="version_registered",
                    subject=subject,
                    after=version.status.value,
                    correlation_id=task.correlation_id,
                    facts=_registered_facts(version),
                )
            )
            self._table.transact(
                [
                    Put(
                        "version",
                        items.version_key(task.model, number),
                        {**items.from_version(version), **told_by(appended.entries[0])},
                        ABSENT,
                    ),
                    Update(
                        "model",
                        items.model_key(task.model),
                        {"latest_version": number, "updated_at": text_of(now)},
                        {"latest_version": latest},
                    ),
                    Update(
                        "run",
                        items.run_key(task.run_id),
                        {"model_version": number, "train_seconds": train_seconds},
                        {"status": OPEN, "model_version": None},
                    ),
                    *logged_model_writes(
                        LoggedModel(
                            model_id=f"m-{task.run_id}",
                            experiment_id=task.model,
                            name=task.model,
                            source_run_id=task.run_id,
                            model_type=fit.algorithm.value,
                            artifact_key=fit.model_key,
                            sha256=fit.sha256,
                            created_at=now,
                        )
                    ),
                    *appended.writes,
                ],
                what,
            )
            return number

        number = self._with_fresh_reads(what, change)
        return self.registration(task.model, number)

    def registration(self, model: str, version: int) -> Registration:
        """A version as it was registered, and the champion as it is now.

        Raises:
            NotFoundError: There is no such model or version.
        """
        record = self.get_version(model, version)
        return Registration(
            version=version,
            champion=self.champion_ref(model),
            kms_signature=record.kms_signature,
            kms_key_id=record.kms_key_id,
        )

    def approval_of(self, model: str, version: int) -> dict[str, Any] | None:
        """Who approved a version, when and why; None when nobody did."""
        item = self._table.get(items.version_key(model, version))
        approval = None if item is None else item.get("approval")
        return None if approval is None else dict(approval)

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
        return self._list_of(
            model, items.model_pk(model), items.to_version, limit, token, prefix=items.VERSION
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
        self, task: TrainingInput, version: int, evaluation: EvaluationResult, *, automatic: bool
    ) -> Verdict:
        """Attaches an evaluation to a version and moves it along the state table.

        A version that fails its gates is rejected, which closes the run; one that passes waits for
        a person unless promotion is automatic. Idempotent by the evaluation's key, which is one per
        attempt.

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
        self.log(task.run_id, metrics={f"test_{k}": v.value for k, v in evaluation.metrics.items()})
        now = self._clock()
        entry_id, closed_id = self._ids(), self._ids()

        def change() -> Verdict:
            current = self.get_version(task.model, version)
            if current.verdict and current.evaluation_key == evaluation.evaluation_key:
                return verdict
            run = self._run(task.run_id)
            if run.outcome is not None:
                raise closed(run)
            event = Event.PASS_GATES if passed else Event.FAIL_GATES
            after = transition(current.status, event, subject)
            judged = evaluation.model_dump(mode="json")
            facts: dict[str, Any] = {
                "report_key": evaluation.report_key,
                "evaluate_seconds": evaluation.seconds,
            }
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
            if verdict.decision == "reject":
                outcome = RunOutcome.GATES_FAILED
                facts |= closing(outcome, evaluation.reason, "", now)
                told.append(run_finished(run, outcome, evaluation.reason, now, closed_id))
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
                        "updated_at": text_of(now),
                        **told_by(appended.entries[0]),
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

    def _by_alias(self, model: str, alias: str) -> ModelVersion:
        if alias == CHALLENGER:
            challenger = self.get_model(model).challenger_version
            if challenger is None:
                raise NotFoundError(f"model {model!r} has no challenger: no rollout is under way")
            return self.get_version(model, challenger)
        item = self._table.get(items.alias_key(model, alias))
        if item is not None and "version" in item:
            return self.get_version(model, int(item["version"]))
        self.get_model(model)
        if alias == CHAMPION:
            raise NoChampionError(f"model {model!r} has no champion yet")
        raise NotFoundError(f"model {model!r} has no version or alias of that name")

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


def told_by(entry: AuditEntry) -> dict[str, Any]:
    """What a version's item says of the entry that told of its state."""
    return {"ledger_sequence": entry.sequence}


def _fitted_metrics(fit: FitResult) -> dict[str, float]:
    return {
        f"cv_{fit.metric}_std": fit.cv_score_std,
        f"validation_{fit.metric}": fit.validation_score,
    }


def _registered_facts(version: ModelVersion) -> dict[str, Any]:
    """What the ledger keeps of a registration: what was made, who signed it, where it came from."""
    facts: dict[str, Any] = {
        "sha256": version.sha256,
        "signature_sha256": version.signature_sha256,
    }
    if version.kms_key_id:
        facts["signed_by"] = version.kms_key_id
    if version.provenance is not None:
        facts["imported_from"] = version.provenance.environment
        facts["imported_version"] = version.provenance.version
        facts["bundle_sha256"] = version.provenance.bundle_sha256
    return facts
