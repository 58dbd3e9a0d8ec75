"""Records as items of the one table: keys, and the conversion both ways.

``docs/registry.md`` explains the design. Hyperparameters are stored as JSON text, because a number
in DynamoDB does not tell ``1`` from ``1.0`` and scikit-learn does.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from millrace.aws.dynamodb import INDEX_PK, INDEX_SK, SK, Item, Key
from millrace.messages import ChampionRef
from millrace.registry.records import (
    CHAMPION,
    Batch,
    DatasetVersion,
    ModelVersion,
    RegisteredModel,
    Run,
    SpecVersion,
    TrialRecord,
    VersionStatus,
)
from millrace.registry.serving import META as META
from millrace.registry.serving import MODELS as MODELS
from millrace.registry.serving import VERSION as VERSION
from millrace.registry.serving import model_key as model_key
from millrace.registry.serving import model_pk as model_pk
from millrace.registry.serving import serving_key as serving_key
from millrace.registry.serving import version_key as version_key
from millrace.spec import canonical_json

SPEC: Final = "SPEC#"
DATASET: Final = "DATASET#"
TRAINED: Final = "TRAINED#"
TRIAL: Final = "TRIAL#"
PARAM: Final = "PARAM#"
METRIC: Final = "METRIC#"
TAG: Final = "TAG#"

_APART = {"params", "metrics", "tags", "trials"}
"""Fields of a run that are items of their own, as in MLflow."""


# ── Keys ────────────────────────────────────────────────────────────────────────────────────────


def run_pk(run_id: str) -> str:
    """Partition of everything about a run."""
    return f"RUN#{run_id}"


def runs_index_pk(model: str) -> str:
    """Index partition of the runs of an experiment; a model's experiment has its name."""
    return f"EXPERIMENT#{model}#RUNS"


def datasets_index_pk(model: str) -> str:
    """Index partition of a model's dataset versions."""
    return f"MODEL#{model}#DATASETS"


def batch_key(batch_id: str) -> Key:
    """A batch job."""
    return Key(f"BATCH#{batch_id}", META)


def batches_index_pk(model: str) -> str:
    """Index partition of a model's batch jobs."""
    return f"MODEL#{model}#BATCHES"


def audit_index_pk(model: str) -> str:
    """Index partition of a model's audit entries, in the order of time."""
    return f"MODEL#{model}#AUDIT"


def spec_key(model: str, version: int) -> Key:
    """A version of the spec."""
    return Key(model_pk(model), f"{SPEC}{version:06d}")


def alias_key(model: str, alias: str) -> Key:
    """Where an alias points."""
    return Key(model_pk(model), f"ALIAS#{alias}")


def dataset_key(model: str, dataset_version: str) -> Key:
    """A dataset version."""
    return Key(model_pk(model), f"{DATASET}{dataset_version}")


def trained_key(model: str, dataset_version: str, spec_digest: str) -> Key:
    """That a dataset version was trained on with a spec."""
    return Key(model_pk(model), f"{TRAINED}{dataset_version}#{spec_digest}")


def run_key(run_id: str) -> Key:
    """A run."""
    return Key(run_pk(run_id), META)


def trial_key(run_id: str, trial_id: int) -> Key:
    """A trial of a run."""
    return Key(run_pk(run_id), f"{TRIAL}{trial_id:04d}")


def sortable(moment: datetime) -> str:
    """A moment as text whose order is that of time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# ── Records to items and back ───────────────────────────────────────────────────────────────────


def from_model(model: RegisteredModel) -> Item:
    """The item of a registered model."""
    return {**model.model_dump(mode="json"), INDEX_PK: MODELS, INDEX_SK: model.name}


def to_model(item: Item) -> RegisteredModel:
    """The registered model of an item."""
    return RegisteredModel.model_validate(item)


def to_spec(item: Item) -> SpecVersion:
    """The spec version of an item."""
    return SpecVersion.model_validate(item)


def from_run(run: Run) -> Item:
    """The item of a run: small, whatever was logged on it."""
    return {
        **run.model_dump(mode="json", exclude=_APART),
        "experiment_id": run.model,
        "lifecycle_stage": "active",
        INDEX_PK: runs_index_pk(run.model),
        INDEX_SK: f"{sortable(run.started_at)}#{run.run_id}",
    }


def to_run(item: Item, parts: Iterable[Item] = ()) -> Run:
    """The run of an item and of the items logged on it."""
    params: dict[str, str] = {}
    metrics: dict[str, Any] = {}
    tags: dict[str, str] = {}
    trials: list[TrialRecord] = []
    for part in parts:
        kind = str(part[SK]).split("#", 1)[0] + "#"
        if kind == PARAM:
            params[part["key"]] = part["value"]
        elif kind == METRIC:
            metrics[part["key"]] = part["value"]
        elif kind == TAG:
            tags[part["key"]] = part["value"]
        elif kind == TRIAL:
            trials.append(to_trial(part))
    return Run.model_validate(
        {**item, "params": params, "metrics": metrics, "tags": tags, "trials": trials}
    )


def from_batch(batch: Batch) -> Item:
    """The item of a batch job."""
    return {
        **batch.model_dump(mode="json"),
        INDEX_PK: batches_index_pk(batch.model),
        INDEX_SK: f"{sortable(batch.created_at)}#{batch.batch_id}",
    }


def to_batch(item: Item) -> Batch:
    """The batch job of an item."""
    return Batch.model_validate(item)


def from_trial(trial: TrialRecord) -> Item:
    """The item of a trial."""
    return {**trial.model_dump(mode="json"), "params": canonical_json(trial.params)}


def to_trial(item: Item) -> TrialRecord:
    """The trial of an item."""
    return TrialRecord.model_validate(
        {"score": None, "score_std": None, **item, "params": json.loads(item["params"])}
    )


def from_version(version: ModelVersion) -> Item:
    """The item of a model version; its aliases follow from its status."""
    return {
        **version.model_dump(mode="json", exclude={"aliases"}),
        "params": canonical_json(version.params),
    }


def to_version(item: Item) -> ModelVersion:
    """The model version of an item."""
    aliases = (CHAMPION,) if item["status"] == VersionStatus.CHAMPION else ()
    return ModelVersion.model_validate(
        {**item, "params": json.loads(item["params"]), "aliases": aliases}
    )


def from_dataset(dataset: DatasetVersion) -> Item:
    """The item of a dataset version; what was trained on it are items of their own."""
    return {
        **dataset.model_dump(mode="json", exclude={"trained"}),
        INDEX_PK: datasets_index_pk(dataset.model),
        INDEX_SK: f"{sortable(dataset.created_at)}#{dataset.dataset_version}",
    }


def to_dataset(item: Item, trained: Iterable[Item]) -> DatasetVersion:
    """The dataset version of an item."""
    return DatasetVersion.model_validate(
        {**item, "trained": {t["spec_digest"]: t["run_id"] for t in trained}}
    )


def to_champion_ref(item: Item) -> ChampionRef:
    """The champion, as a candidate is compared with it, of the serving item."""
    return ChampionRef.model_validate(item)


def param_value(value: Any) -> str:
    """A hyperparameter as MLflow shows it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
