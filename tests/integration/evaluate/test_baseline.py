"""The baseline that an evaluation leaves for monitoring, of really trained models."""

from typing import Any

import numpy as np
import pytest

from millrace import layout
from millrace.datasets.table import Table, TableSchema
from millrace.errors import ArtifactError, NotFoundError
from millrace.evaluation.document import Evaluation
from millrace.evaluation.reference import describe
from millrace.evaluation.service import evaluate
from millrace.messages import EvaluateTask
from millrace.monitoring.baseline import MAX_BYTES, Baseline, read_baseline
from millrace.monitoring.encoding import reconstruction_errors
from millrace.monitoring.segments import codes_of
from millrace.spec import Task
from tests.fakes.clock import FakeClock
from tests.fakes.store import FakeStore
from tests.integration.evaluate.scenario import (
    ARTIFACTS,
    DATA,
    MODEL,
    Scenario,
    read_document,
    spec_document,
)
from tests.unit.monitoring.judged import judged


def evaluated(scenario: Scenario, task: EvaluateTask) -> tuple[Baseline, Evaluation, Table]:
    store = scenario.store
    result = evaluate(
        task,
        spec=scenario.spec,
        store=store,
        data_bucket=DATA,
        artifact_bucket=ARTIFACTS,
        clock=FakeClock(),
    )
    document = Evaluation.model_validate(read_document(store, result.evaluation_key))
    schema = TableSchema.model_validate_json(store.read(DATA, task.ingest.schema_key))
    split = Table.from_bytes(store.read(DATA, document.provenance.split_key), schema)
    return read_baseline(store, ARTIFACTS, MODEL, task.run_id), document, split


def captured(table: Table, name: str) -> list[Any]:
    """A column as predictions capture it."""
    stored = table.arrays[name]
    if stored.dtype == np.int32:
        return list(table.strings(name))
    return [None if np.isnan(v) else float(str(np.float32(v))) for v in stored]


@pytest.mark.parametrize("task", list(Task))
def test_baseline_describes_the_test_split_that_was_judged(task: Task) -> None:
    scenario = Scenario(FakeStore(), spec_document(task))

    baseline, document, split = evaluated(scenario, scenario.candidate("run-1"))

    assert (baseline.rows, baseline.task) == (split.rows, task)
    assert {n: m.value for n, m in baseline.performance.items()} == {
        n: m.value for n, m in document.metrics.items()
    }
    age = baseline.feature("age")
    assert age is not None
    assert age.numeric is not None
    assert age.missing == np.isnan(split.arrays["age"]).sum()
    assert sum(age.numeric.counts) + age.missing == split.rows
    region = baseline.feature("region")
    assert region is not None
    assert region.categorical is not None
    assert dict(zip(region.categorical.categories, region.categorical.counts, strict=True)) == {
        name: captured(split, "region").count(name) for name in ("east", "north", "south", "west")
    }
    assert sum(baseline.scores.counts) == split.rows
    for counts in (baseline.predicted, baseline.actual):
        assert len(counts) == len(baseline.classes)
        assert sum(counts) == (0 if task is Task.REGRESSION else split.rows)


def test_captured_rows_of_the_split_fall_where_the_baseline_counted_them() -> None:
    scenario = Scenario(FakeStore(), spec_document())

    baseline, _, split = evaluated(scenario, scenario.candidate("run-1"))

    for name in ("age", "calls", "member"):
        feature = baseline.feature(name)
        assert feature is not None
        assert feature.numeric is not None
        values = [v for v in captured(split, name) if v is not None]
        places = [feature.numeric.bin_of(v) for v in values]
        assert np.bincount(places).tolist() == list(feature.numeric.counts)
        assert feature.numeric.edges[0] == min(values)
        assert feature.numeric.edges[-1] == max(values)


def test_segments_of_captured_rows_are_those_of_the_baseline() -> None:
    gates = {"slices": [{"column": "region", "metric": "accuracy", "min": 0.1}]}
    scenario = Scenario(FakeStore(), spec_document(evaluate=gates))

    baseline, _, split = evaluated(scenario, scenario.candidate("run-1"))

    assert baseline.segments[0].column == "region"
    assert baseline.segments[0].gate
    assert {s.column for s in baseline.segments} > {"region"}
    assert baseline.uncaptured_segments == ("sex",)
    for segment in baseline.segments:
        names, codes = codes_of(segment, captured(split, segment.column))
        assert names == tuple(group.name for group in segment.groups)
        counts = np.bincount(codes, minlength=len(names)).tolist()
        assert counts == [group.rows for group in segment.groups]


def test_reconstruction_error_of_the_split_is_the_baselines() -> None:
    scenario = Scenario(FakeStore(), spec_document())

    baseline, _, split = evaluated(scenario, scenario.candidate("run-1"))

    assert baseline.components is not None
    inputs = {n: captured(split, n) for n in ("age", "calls", "member", "region")}
    errors = reconstruction_errors(baseline.components, inputs)
    assert errors.mean() == pytest.approx(baseline.components.error_mean, rel=1e-6)
    assert errors.std() == pytest.approx(baseline.components.error_std, rel=1e-6)


def test_no_value_of_a_private_column_is_in_the_baseline() -> None:
    scenario = Scenario(FakeStore(), spec_document(privacy={"never_log": ["region"]}))

    baseline, _, split = evaluated(scenario, scenario.candidate("run-1"))

    region = baseline.feature("region")
    assert region is not None
    assert region.private
    assert (region.numeric, region.categorical) == (None, None)
    assert region.missing == captured(split, "region").count("")
    assert b"north" not in baseline.to_bytes()


def test_evaluating_again_writes_the_same_bytes() -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document())
    task = scenario.candidate("run-1")

    evaluated(scenario, task)
    evaluated(scenario, task)

    key = layout.baseline_key(MODEL, "run-1")
    first, second = store.objects[ARTIFACTS, key]
    assert first == second


def test_a_baseline_of_a_wide_table_keeps_its_size() -> None:
    rng = np.random.default_rng(1)
    names = [f"{text:0>800}" for text in range(60)]
    columns = {f"c{i}": rng.choice(np.asarray(names, dtype=object), 300) for i in range(60)}
    scores = rng.random(300)
    truth = (rng.random(300) < scores).astype(np.int64)

    made = describe(judged(Task.BINARY, columns, truth, np.column_stack([1 - scores, scores])))

    assert len(made.to_bytes()) <= MAX_BYTES
    first = made.feature("c0")
    assert first is not None
    assert first.categorical is not None
    assert len(first.categorical.categories) == 20
    assert sum(first.categorical.counts) + first.categorical.other == 300


def test_what_is_no_baseline_is_refused_with_its_place() -> None:
    store = FakeStore()

    with pytest.raises(NotFoundError):
        read_baseline(store, ARTIFACTS, MODEL, "run-1")
    key = layout.baseline_key(MODEL, "run-1")
    store.write(ARTIFACTS, key, b'{"schema": 2}', content_type="application/json")
    with pytest.raises(ArtifactError, match=r"baseline\.json is no baseline: .*schema"):
        read_baseline(store, ARTIFACTS, MODEL, "run-1")
