"""The evaluation of really trained models, on a store in memory."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from sklearn.metrics import roc_auc_score

from millrace.datasets.table import Table, TableSchema
from millrace.errors import ArtifactError, DigestMismatchError, NotFoundError, TrainingError
from millrace.evaluation.document import Evaluation
from millrace.evaluation.service import evaluate
from millrace.messages import EvaluateTask, EvaluationResult
from millrace.spec import Task
from tests.fakes.clock import FakeClock
from tests.fakes.store import FakeStore
from tests.integration.evaluate.scenario import (
    ARTIFACTS,
    DATA,
    Scenario,
    champion_ref,
    read_document,
    spec_document,
)


def run(scenario: Scenario, task: EvaluateTask, clock: FakeClock | None = None) -> EvaluationResult:
    return evaluate(
        task,
        spec=scenario.spec,
        store=scenario.store,
        data_bucket=DATA,
        artifact_bucket=ARTIFACTS,
        clock=clock or FakeClock(),
    )


def with_champion(task: EvaluateTask, champion: EvaluateTask) -> EvaluateTask:
    registration = task.registration.model_copy(update={"champion": champion_ref(champion)})
    return task.model_copy(update={"registration": registration})


def failed(result: EvaluationResult) -> list[str]:
    return [gate.gate for gate in result.gates if not gate.passed]


def test_first_candidate_passes_without_a_champion() -> None:
    scenario = Scenario(FakeStore(), spec_document(evaluate={"bootstrap": 60}))

    result = run(scenario, scenario.candidate("run-1"))

    assert result.verdict == "passed"
    assert result.reason.startswith("all 2 gates passed; roc_auc 0.7")
    assert result.reason.endswith("; no champion yet")
    assert result.champion_version is None
    assert result.difference is None
    assert result.evaluation_key.endswith("evaluation-0.json")
    assert len(result.model_dump_json()) < 4_000


def test_metrics_are_those_of_the_test_split_by_scikit_learn() -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document())
    task = scenario.candidate("run-1")

    result = run(scenario, task)

    schema = TableSchema.model_validate_json(store.read(DATA, task.ingest.schema_key))
    document = Evaluation.model_validate(read_document(store, result.evaluation_key))
    split = Table.from_bytes(store.read(DATA, document.provenance.split_key), schema)
    session = onnxruntime.InferenceSession(
        store.read(ARTIFACTS, task.fit.model_key), providers=["CPUExecutionProvider"]
    )
    numeric, categorical = split.features()
    answers = session.run(["probabilities"], {"numeric": numeric, "categorical": categorical})
    expected = roc_auc_score(split.target, np.asarray(answers[0])[:, 1])
    assert result.metrics["roc_auc"].value == pytest.approx(expected, rel=1e-5)
    assert result.rows == split.rows == 300


@pytest.mark.parametrize("task", list(Task))
def test_coverage_that_was_promised_is_measured_on_the_test_split(task: Task) -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document(task), rows=3_000)

    result = run(scenario, scenario.candidate("run-1"))

    coverage = Evaluation.model_validate(read_document(store, result.evaluation_key)).coverage
    assert coverage is not None
    assert coverage.calibration_rows == 500
    assert len(coverage.levels) == 10
    for level in coverage.levels:
        spread = np.sqrt(level.promised * (1 - level.promised) * (1 / 500 + 1 / 1_000))
        assert level.low <= level.covered <= level.high
        assert level.covered > level.promised - 3 * spread
        # A set of labels always holds the likeliest one, and may so hold more than promised.
        assert task is not Task.REGRESSION or level.covered < level.promised + 3 * spread
        assert level.size > 0


def test_a_version_without_intervals_has_no_coverage() -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document(serve={"intervals": False}))

    result = run(scenario, scenario.candidate("run-1"))

    assert read_document(store, result.evaluation_key)["coverage"] is None


def test_same_candidate_evaluated_twice_gives_the_same_figures_and_keys() -> None:
    scenario = Scenario(FakeStore(), spec_document())
    task = scenario.candidate("run-1")

    first = run(scenario, task)
    second = run(scenario, task)

    assert first == second
    assert isinstance(scenario.store, FakeStore)
    one, two = scenario.store.objects[ARTIFACTS, first.report_key]
    assert one == two


@pytest.mark.parametrize("task", list(Task))
def test_better_candidate_beats_the_champion_on_the_same_rows(task: Task) -> None:
    scenario = Scenario(
        FakeStore(), spec_document(task, evaluate={"against_champion": {"significant": True}})
    )
    champion = scenario.candidate("run-1", signal=-1.0, dataset="e" * 64)

    result = run(scenario, scenario.candidate("run-2", version=2, champion=champion))

    assert result.verdict == "passed"
    assert result.champion_version == 1
    assert result.difference is not None
    assert result.difference.value > 0
    assert result.difference.low is not None
    assert result.difference.low > 0
    assert "better than churn@1" in result.reason
    assert set(result.champion_metrics) == set(result.metrics)
    assert result.evaluation_key.endswith("evaluation-1.json")


def test_worse_candidate_fails_and_says_by_how_much() -> None:
    scenario = Scenario(FakeStore(), spec_document())
    champion = scenario.candidate("run-1")
    worse = Scenario(scenario.store, spec_document(), seed=1)
    candidate = worse.candidate("run-2", version=2, signal=-1.0, dataset="e" * 64)
    judged = candidate.model_copy(update={"ingest": champion.ingest})

    result = run(scenario, with_champion(judged, champion))

    assert result.verdict == "failed"
    assert failed(result) == ["against_champion"]
    assert result.reason.startswith(
        "failed 1 of 2 gates: against_champion: "
        "expected roc_auc no worse than champion version 1's, got -0."
    )


def test_champion_against_itself_is_equal() -> None:
    scenario = Scenario(FakeStore(), spec_document())
    champion = scenario.candidate("run-1")

    result = run(scenario, with_champion(champion, champion))

    assert result.difference is not None
    assert (result.difference.low, result.difference.value, result.difference.high) == (0, 0, 0)
    assert result.reason.endswith("equals churn@1")


def test_champion_with_fewer_features_is_compared() -> None:
    document = spec_document()
    document["data"]["columns"] = [c for c in document["data"]["columns"] if c["name"] != "age"]
    narrow = Scenario(FakeStore(), document)
    champion = narrow.candidate("run-1", dataset="e" * 64)
    scenario = Scenario(narrow.store, spec_document())

    result = run(scenario, scenario.candidate("run-2", version=2, champion=champion))

    assert result.verdict == "passed"
    assert result.difference is not None


def test_champion_whose_feature_is_gone_fails_the_gate_closed() -> None:
    wide = Scenario(FakeStore(), spec_document())
    champion = wide.candidate("run-1")
    document = spec_document()
    document["data"]["columns"] = [c for c in document["data"]["columns"] if c["name"] != "age"]
    scenario = Scenario(wide.store, document)

    result = run(
        scenario, scenario.candidate("run-2", version=2, champion=champion, dataset="e" * 64)
    )

    assert failed(result) == ["against_champion"]
    assert "it needs 'age', which this dataset version does not have" in result.reason
    assert result.champion_version == 1
    assert result.difference is None
    report = scenario.store.read(ARTIFACTS, result.report_key).decode()
    assert "cannot be compared" in report


def test_gates_of_the_spec_are_judged() -> None:
    scenario = Scenario(
        FakeStore(),
        spec_document(
            evaluate={
                "metrics": [{"metric": "roc_auc", "min": 0.999}, {"metric": "brier", "max": 0.9}],
                "slices": [
                    {"column": "sex", "metric": "accuracy", "max_gap": 0.9},
                    {"column": "age", "metric": "accuracy", "min": 0.99, "min_rows": 20},
                ],
            }
        ),
    )

    result = run(scenario, scenario.candidate("run-1"))

    assert failed(result) == ["metrics[0]", "slices[1]"]
    assert [g.gate for g in result.gates] == [
        "parity",
        "metrics[0]",
        "metrics[1]",
        "against_champion",
        "slices[0]",
        "slices[1]",
    ]


def test_report_and_document_hold_no_row_and_no_id() -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document())

    result = run(scenario, scenario.candidate("run-1"))

    assert store.content_types[ARTIFACTS, result.report_key] == "text/html; charset=utf-8"
    document = read_document(store, result.evaluation_key)
    assert [t["column"] for t in document["slices"]] == ["sex"]
    assert "customer" not in document["features"]


def test_rows_of_one_group_are_resampled_together() -> None:
    document = spec_document(split={"strategy": "group"})
    for column in document["data"]["columns"]:
        if column["name"] == "region":
            column["role"] = "group"
    scenario = Scenario(FakeStore(), document)

    result = run(scenario, scenario.candidate("run-1"))

    assert result.verdict == "passed"
    report = scenario.store.read(ARTIFACTS, result.report_key).decode()
    assert "resamples of whole groups" in report


def corrupt(store: FakeStore, bucket: str, key: str) -> None:
    body = bytearray(store.read(bucket, key))
    body[len(body) // 2] ^= 1
    store.write(bucket, key, bytes(body), content_type="application/octet-stream")


@pytest.mark.parametrize("which", ["model_key", "signature_key"])
def test_candidate_whose_bytes_changed_is_refused(which: str) -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document())
    task = scenario.candidate("run-1")
    corrupt(store, ARTIFACTS, getattr(task.fit, which))

    with pytest.raises(DigestMismatchError):
        run(scenario, task)


@pytest.mark.parametrize("which", ["model_key", "signature_key"])
def test_champion_whose_bytes_changed_stops_the_evaluation(which: str) -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document())
    champion = scenario.candidate("run-1")
    task = scenario.candidate("run-2", version=2, champion=champion)
    corrupt(store, ARTIFACTS, getattr(champion.fit, which))

    with pytest.raises(DigestMismatchError):
        run(scenario, task)


def test_missing_split_is_named() -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document())
    task = scenario.candidate("run-1")
    gone = task.ingest.model_copy(update={"dataset_version": "f" * 64})

    with pytest.raises(NotFoundError, match="f" * 64):
        run(scenario, task.model_copy(update={"ingest": gone}))


def test_schema_that_is_none_is_an_artifact_error() -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document())
    task = scenario.candidate("run-1")
    store.write(DATA, task.ingest.schema_key, b'{"task": 1}', content_type="application/json")

    with pytest.raises(ArtifactError, match="is no split schema"):
        run(scenario, task)


def one_class(store: FakeStore, key: str, schema_key: str) -> None:
    schema = TableSchema.model_validate_json(store.read(DATA, schema_key))
    table = Table.from_bytes(store.read(DATA, key), schema)
    arrays: dict[str, Any] = {**table.arrays, schema.target: np.ones_like(table.target)}
    body = Table(schema=schema, arrays=arrays, row=table.row).to_bytes()
    store.write(DATA, key, body, content_type="application/octet-stream")


@pytest.mark.parametrize("task", list(Task))
def test_test_split_of_one_class_or_value_is_refused(task: Task) -> None:
    store = FakeStore()
    scenario = Scenario(store, spec_document(task))
    candidate = scenario.candidate("run-1")
    document = read_document(store, run(scenario, candidate).evaluation_key)
    one_class(store, document["provenance"]["split_key"], candidate.ingest.schema_key)

    with pytest.raises(TrainingError, match="nothing can be judged on it"):
        run(scenario, candidate)
