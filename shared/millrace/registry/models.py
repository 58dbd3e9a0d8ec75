"""Registered models and the versions of their specs."""

from collections.abc import Callable

from millrace.aws.dynamodb import ABSENT, Expected, Item, Put, Update, Write
from millrace.errors import ConflictError, NotFoundError
from millrace.registry import items
from millrace.registry.experiments import Experiment, experiment_writes
from millrace.registry.pages import Page
from millrace.registry.records import AuditEntry, RegisteredModel, SpecVersion
from millrace.registry.writer import Writer, text_of
from millrace.spec import ModelSpec


class Models(Writer):
    """Registered models and their specs."""

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
                "retrain_schedule": spec.retrain.on_schedule or "",
                "monthly_budget": spec.retrain.monthly_budget,
                "updated_at": now,
            }
            champion = None if old is None else old.champion_version
            if old is None:
                created = RegisteredModel.model_validate(
                    {"name": spec.name, "created_at": now, **facts}
                )
                model_writes: list[Write] = [
                    Put("model", items.model_key(spec.name), items.from_model(created), ABSENT),
                    *experiment_writes(
                        Experiment(
                            experiment_id=spec.name, name=spec.name, created_at=now, updated_at=now
                        )
                    ),
                ]
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
                model_writes = [
                    Update(
                        "model",
                        items.model_key(spec.name),
                        {**facts, "updated_at": text_of(now)},
                        when,
                    )
                ]
            serving: list[Write] = []
            if champion is not None:
                # Predictions read this one item, so what the spec says of them stands there, too.
                rate = {"capture_rate": spec.monitor.capture_rate}
                key_of_serving = items.serving_key(spec.name)
                serving = [Update("serving", key_of_serving, rate)]
            self._table.transact(
                [
                    *model_writes,
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
        return self._list_of(
            model, items.model_pk(model), items.to_spec, limit, token, prefix=items.SPEC
        )

    def _list_of[T](
        self,
        model: str,
        pk: str,
        convert: Callable[[Item], T],
        limit: int,
        token: str | None,
        *,
        prefix: str = "",
        index: bool = False,
    ) -> Page[T]:
        """A listing of a model's, the newest first; an unknown model is not an empty listing."""
        page = self._list(pk, convert, limit, token, prefix=prefix, index=index)
        if not page.items and not token:
            self.get_model(model)
        return page
