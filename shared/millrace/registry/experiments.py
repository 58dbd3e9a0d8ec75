"""Experiments and what their runs log, as records and items, in MLflow's shape.

Each param, tag and metric point is a small item of its own, as a run may have any number of them.
A metric has an item for each point, and one beside them for its latest. Latest values stand in the
index under their experiment and key, in order of value, so that a search such as
``metrics.auc > 0.9`` is a range of one partition (docs/registry.md).
"""

import math
import struct
from datetime import datetime
from typing import Final

from millrace.aws.dynamodb import ABSENT, INDEX_PK, INDEX_SK, Key, Put, Write
from millrace.registry import items
from millrace.registry.records import Record

HISTORY: Final = "HISTORY#"
INPUT: Final = "INPUT#"
OUTPUT: Final = "OUTPUT#"
EXPERIMENTS: Final = "EXPERIMENTS"

OFFSET: Final = 2**63
"""Added to steps, which may be negative, so that their text is in their order."""


class Experiment(Record):
    """What runs belong to. Every model has one of its own name."""

    experiment_id: str
    name: str
    lifecycle_stage: str = "active"
    created_at: datetime
    updated_at: datetime


class MetricPoint(Record):
    """One value of a metric, at a step and a time."""

    key: str
    value: float
    timestamp: int
    """Milliseconds since 1970, as MLflow has it."""
    step: int = 0


class DatasetInput(Record):
    """A dataset that a run read."""

    name: str
    digest: str
    source_type: str
    source: str
    context: str
    """MLflow's tag ``mlflow.data.context``."""


class LoggedModel(Record):
    """The model that a run logged, before and apart from its registration."""

    model_id: str
    experiment_id: str
    name: str
    source_run_id: str
    status: str = "READY"
    model_type: str = ""
    artifact_key: str
    sha256: str
    created_at: datetime


# ── Keys ────────────────────────────────────────────────────────────────────────────────────────


def experiment_key(experiment_id: str) -> Key:
    """An experiment."""
    return Key(f"EXPERIMENT#{experiment_id}", items.META)


def experiment_name_key(name: str) -> Key:
    """That an experiment's name is taken, and by which."""
    return Key(f"EXPERIMENT_NAME#{name}", items.META)


def logged_model_key(model_id: str) -> Key:
    """A logged model."""
    return Key(f"LOGGED_MODEL#{model_id}", items.META)


def logged_models_index_pk(experiment_id: str) -> str:
    """Index partition of an experiment's logged models."""
    return f"EXPERIMENT#{experiment_id}#LOGGED_MODELS"


def value_index_pk(experiment_id: str, kind: str, key: str) -> str:
    """Index partition of the values that an experiment's runs have for a key.

    Args:
        experiment_id: The experiment.
        kind: `items.PARAM`, `items.METRIC` or `items.TAG`.
        key: The key.
    """
    return f"EXPERIMENT#{experiment_id}#{kind}{key}"


def sortable_number(value: float) -> str:
    """Text in the order of the numbers: the bits of a double, so that they compare as text does.

    Not-a-number comes before everything, as in MLflow's order of metrics.
    """
    if math.isnan(value):
        return "0" * 16
    (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))
    flipped = ~bits & (2**64 - 1) if bits >> 63 else bits | 1 << 63
    return f"{flipped:016x}"


def place_of(point: MetricPoint) -> str:
    """Where a point stands in its metric's history: by step, time and value, as MLflow orders."""
    return f"{point.step + OFFSET:020d}#{point.timestamp:015d}#{sortable_number(point.value)}"


def history_prefix(key: str) -> str:
    """What sort keys of a metric's points begin with."""
    return f"{HISTORY}{key}#"


# ── Writes ──────────────────────────────────────────────────────────────────────────────────────


def experiment_writes(experiment: Experiment) -> list[Write]:
    """A new experiment, and that its name is taken."""
    document = experiment.model_dump(mode="json")
    index = {INDEX_PK: EXPERIMENTS, INDEX_SK: experiment.name}
    taken = {"experiment_id": experiment.experiment_id}
    return [
        Put("experiment", experiment_key(experiment.experiment_id), document | index, ABSENT),
        Put("experiment name", experiment_name_key(experiment.name), taken, ABSENT),
    ]


def input_write(run_id: str, given: DatasetInput) -> Put:
    """That a run read a dataset."""
    key = Key(items.run_pk(run_id), f"{INPUT}{given.digest}")
    return Put("input", key, given.model_dump(mode="json"), ABSENT)


def logged_model_writes(model: LoggedModel) -> list[Write]:
    """A logged model, and that its run made it."""
    index = {
        INDEX_PK: logged_models_index_pk(model.experiment_id),
        INDEX_SK: f"{items.sortable(model.created_at)}#{model.model_id}",
    }
    made = Key(items.run_pk(model.source_run_id), OUTPUT + model.model_id)
    return [
        Put(
            "logged model",
            logged_model_key(model.model_id),
            model.model_dump(mode="json") | index,
            ABSENT,
        ),
        Put("output", made, {"model_id": model.model_id}, ABSENT),
    ]
