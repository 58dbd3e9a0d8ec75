"""The model spec: what it accepts, what it names when it is wrong, and its digests."""

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import InvalidSpecError
from millrace.spec import HIGHER_IS_BETTER, ModelSpec, Task, metrics_for

GOOD: dict[str, Any] = {
    "name": "churn",
    "task": "binary",
    "data": {
        "columns": [
            {"name": "customer", "type": "integer", "role": "id"},
            {"name": "age", "type": "integer", "min": 0, "max": 120},
            {"name": "plan", "type": "string", "allowed": ["a", "b"]},
            {"name": "sex", "type": "string", "role": "sensitive"},
            {"name": "churned", "type": "boolean", "role": "target"},
        ]
    },
}


def _with(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    *folders, last = path.split(".")
    place: Any = document
    for part in folders:
        place = place[int(part)] if part.isdecimal() else place.setdefault(part, {})
    place[int(last) if last.isdecimal() else last] = value
    return document


def test_defaults_are_worked_out_by_task() -> None:
    spec = ModelSpec.from_document(GOOD)

    assert spec.split_strategy == "stratified"
    assert spec.training_metric == "roc_auc"
    assert [c.name for c in spec.features] == ["age", "plan"]
    assert spec.private_columns == {"customer", "sex"}


@pytest.mark.parametrize(
    ("path", "value", "field", "said"),
    [
        ("surprise", 1, "surprise", "unknown key"),
        ("train.trails", 3, "train.trails", "unknown key"),
        ("name", "Churn", "name", "lower-case"),
        ("task", "binry", "task", "'binry'"),
        ("data.columns.1.type", "int", "data.columns[1].type", "'int'"),
        ("data.columns.1.min", 130, "data.columns[1]", "min 130 is above max 120"),
        ("data.columns.2.min", 1, "data.columns[2]", "integer or number"),
        ("data.columns.1.name", "PLAN", "data", "named twice"),
        ("data.columns.3.role", "target", "data", "role target is given to sex, churned"),
        ("data.columns.4.role", "ignore", "data", "no column has role target"),
        ("train.metric", "rmse", "spec", "no metric of task binary"),
        ("split", {"strategy": "time"}, "spec", "needs a column of that role"),
        (
            "evaluate.slices",
            [{"column": "region", "metric": "accuracy", "min": 0.5}],
            "spec",
            "no column 'region'",
        ),
        ("evaluate.metrics", [{"metric": "roc_auc"}], "evaluate.metrics[0]", "give min or max"),
        ("rollout", {"strategy": "blue-green"}, "rollout.strategy", "'all-at-once', 'canary'"),
        ("rollout", {"strategy": "canary", "steps": [50, 25]}, "rollout", "25 % follows 50 %"),
        ("rollout", {"strategy": "canary", "steps": [5, 5]}, "rollout", "steps must rise"),
        ("rollout", {"strategy": "canary", "steps": [0]}, "rollout.steps[0]", "greater than 0"),
        ("rollout", {"strategy": "canary", "steps": [120]}, "rollout.steps[0]", "equal to 100"),
        ("rollout", {"strategy": "canary", "steps": []}, "rollout.steps", "at least 1 item"),
        ("rollout", {"steps": [50]}, "rollout", "all-at-once has no steps"),
        ("rollout", {"strategy": "canary", "bake": "soon"}, "rollout.bake", "'soon'"),
        (
            "rollout",
            {"strategy": "canary", "bake": "2h", "max_wait": "1h"},
            "rollout",
            "max_wait 1h is shorter than bake 2h",
        ),
        ("data.columns.1.type", "timestamp", "data.columns[1]", "min and max"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(
    path: str, value: Any, field: str, said: str
) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        ModelSpec.from_document(_with(path, value))

    found = {p.field: p.message for p in caught.value.problems}
    assert field in found, found
    assert said in found[field]


@pytest.mark.parametrize("text", ["[1, 2", "name: [", "\t- a"])
def test_text_that_is_no_yaml_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InvalidSpecError, match="not valid YAML at line"):
        ModelSpec.from_yaml(text)


@pytest.mark.parametrize("text", ["", "42", "- a"])
def test_yaml_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpecError, match="mapping"):
        ModelSpec.from_yaml(text)


def test_the_digest_is_that_of_the_stored_document_and_reading_it_back_is_the_same_spec() -> None:
    spec = ModelSpec.from_document(GOOD)

    assert hashlib.sha256(spec.to_json().encode()).hexdigest() == spec.digest
    assert ModelSpec.from_yaml(spec.to_json()) == spec


@given(seed=st.integers(0, 2**31 - 1), trials=st.integers(1, 100))
def test_what_decides_splits_is_all_that_changes_their_digest(seed: int, trials: int) -> None:
    base = ModelSpec.from_document(GOOD)

    searched = ModelSpec.from_document(_with("train", {"trials": trials}))
    split = ModelSpec.from_document(_with("split", {"seed": seed}))

    assert searched.data_digest == base.data_digest
    assert (split.data_digest == base.data_digest) == (seed == base.split.seed)


def test_every_metric_of_every_task_has_a_direction() -> None:
    for task in Task:
        assert set(metrics_for(task)) <= set(HIGHER_IS_BETTER)


@pytest.mark.parametrize("section", ["serve", "monitor"])
def test_a_section_that_says_nothing_leaves_the_digest_as_it_was_before_there_was_one(
    section: str,
) -> None:
    before = ModelSpec.from_document(GOOD)

    assert section not in json.loads(before.to_json())
    assert ModelSpec.from_document(_with(section, {})).digest == before.digest
    assert hashlib.sha256(before.to_json().encode()).hexdigest() == before.digest


def test_a_section_that_says_something_is_stored_and_read_back() -> None:
    spec = ModelSpec.from_document(_with("serve.unknown_categories", "refuse"))

    assert spec.digest != ModelSpec.from_document(GOOD).digest
    assert ModelSpec.from_document(json.loads(spec.to_json())) == spec


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_capture_rate_is_a_share(rate: float) -> None:
    with pytest.raises(InvalidSpecError, match=r"monitor\.capture_rate"):
        ModelSpec.from_document(_with("monitor.capture_rate", rate))


def test_a_rollout_that_says_nothing_new_leaves_the_stored_document_as_it_was() -> None:
    stored = json.loads(ModelSpec.from_document(GOOD).to_json())

    assert stored["rollout"] == {"strategy": "all-at-once"}


def test_a_rollout_works_its_defaults_out() -> None:
    spec = ModelSpec.from_document(_with("rollout", {"strategy": "canary", "bake": "1h"}))

    assert spec.rollout.weights == (5.0, 25.0, 50.0)
    assert (spec.rollout.look_seconds, spec.rollout.max_looks) == (600, 144)
    assert ModelSpec.from_yaml(spec.to_json()) == spec
