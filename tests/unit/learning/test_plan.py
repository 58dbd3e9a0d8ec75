"""The plan: deterministic, spread over the candidates, sound defaults first."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.datasets.table import TableSchema
from millrace.errors import TrainingError
from millrace.learning.candidates import MAX_LEAF_VALUES, build_estimator, default_params
from millrace.learning.search import plan
from millrace.messages import Plan
from millrace.spec import HIGHER_IS_BETTER, Algorithm, ModelSpec, Task, metrics_for
from tests.unit.learning.tables import bundled, make_table

train_sections = st.fixed_dictionaries(
    {
        "candidates": st.lists(st.sampled_from(Algorithm), min_size=1, max_size=3, unique=True),
        "trials": st.integers(1, 40),
        "folds": st.integers(2, 10),
        "seed": st.integers(0, 2**31 - 1),
    }
)


def shape(task: Task, rows: int, classes: int) -> tuple[ModelSpec, TableSchema]:
    target = np.zeros(30) if task is Task.REGRESSION else np.arange(30) % 2
    spec, table = make_table(task, np.zeros((30, 1)), target)
    names = () if task is Task.REGRESSION else tuple(str(c) for c in range(classes))
    return spec, table.schema.model_copy(update={"rows": {"train": rows}, "classes": names})


@settings(max_examples=80)
@given(
    task=st.sampled_from(Task),
    train=train_sections,
    rows=st.integers(12, 2_000_000),
    classes=st.integers(3, 400),
)
def test_plan_is_sound(task: Task, train: dict[str, Any], rows: int, classes: int) -> None:
    classes = {Task.BINARY: 2, Task.MULTICLASS: classes, Task.REGRESSION: 0}[task]
    spec, schema = shape(task, rows, classes)
    spec = ModelSpec.from_document({**spec.model_dump(mode="json"), "train": train})

    made = plan(spec, schema)

    assert made == plan(spec, schema)
    assert Plan.model_validate(json.loads(made.model_dump_json())) == made
    assert [t.trial_id for t in made.trials] == list(range(train["trials"]))
    assert made.metric == metrics_for(task)[0]
    assert made.higher_is_better == HIGHER_IS_BETTER[made.metric]
    counts = [sum(t.algorithm is a for t in made.trials) for a in train["candidates"]]
    assert max(counts) - min(counts) <= 1
    for trial in made.trials:
        if trial.trial_id < len(train["candidates"]):
            assert trial.params == default_params(trial.algorithm, task, rows, classes)
        build_estimator(
            trial.algorithm,
            task,
            trial.params,
            seed=trial.seed,
            rows=rows,
            width=10,
            classes=classes,
        )._validate_params()
        if trial.algorithm is not Algorithm.LINEAR:
            ways = classes if classes > 2 or trial.algorithm is Algorithm.RANDOM_FOREST else 1
            size = trial.params["trees"] * trial.params["max_leaf_nodes"] * max(1, ways)
            assert size <= max(MAX_LEAF_VALUES, 10 * 4 * max(1, ways))


@settings(max_examples=30)
@given(few=st.integers(1, 20), more=st.integers(0, 20), seed=st.integers(0, 2**31 - 1))
def test_more_trials_keep_the_earlier_ones(few: int, more: int, seed: int) -> None:
    spec, schema = shape(Task.BINARY, 10_000, 2)
    document = spec.model_dump(mode="json")

    short, long = (
        plan(ModelSpec.from_document({**document, "train": {"trials": n, "seed": seed}}), schema)
        for n in (few, few + more)
    )

    assert long.trials[:few] == short.trials


def test_seed_changes_the_sampled_trials_and_not_the_defaults() -> None:
    spec, schema = shape(Task.BINARY, 10_000, 2)
    document = spec.model_dump(mode="json")

    one, other = (
        plan(ModelSpec.from_document({**document, "train": {"seed": seed}}), schema)
        for seed in (1, 2)
    )

    assert [t.params for t in one.trials[:3]] == [t.params for t in other.trials[:3]]
    assert [t.params for t in one.trials[3:]] != [t.params for t in other.trials[3:]]


def test_target_with_one_class_is_refused() -> None:
    spec, schema = shape(Task.BINARY, 100, 1)

    with pytest.raises(TrainingError, match="'y': expected two classes or more, got 1"):
        plan(spec, schema)


def test_splits_of_another_target_are_refused() -> None:
    spec, _ = bundled("iris")
    _, schema = shape(Task.BINARY, 100, 2)

    with pytest.raises(TrainingError, match="expected splits for task multiclass"):
        plan(spec, schema)
