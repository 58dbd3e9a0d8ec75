"""Permutation importance: finds what matters, ignores what does not, repeats."""

from typing import Any

import numpy as np
import pytest

from millrace.evaluation import importance
from millrace.evaluation.importance import permutation_importance
from millrace.evaluation.metrics import Outcome
from millrace.signature import FeatureField, Signature
from millrace.spec import Algorithm, ColumnType, Task

SIGNATURE = Signature(
    model="tiny",
    task=Task.REGRESSION,
    target="y",
    features=(
        FeatureField(name="noise", type=ColumnType.NUMBER, nullable=True),
        FeatureField(name="word", type=ColumnType.STRING, nullable=True),
        FeatureField(name="strong", type=ColumnType.NUMBER, nullable=True),
    ),
    target_type=ColumnType.NUMBER,
    algorithm=Algorithm.LINEAR,
    onnx_opset=17,
)


def model(_session: Any, _signature: Any, numeric: Any, categorical: Any) -> Any:
    """Three times ``strong``, and one more where ``word`` is set."""
    return (3 * numeric[:, 1] + (categorical[:, 0] == "x")).astype(np.float32)


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Outcome]:
    monkeypatch.setattr(importance, "predict", model)
    rng = np.random.default_rng(1)
    numeric = rng.normal(size=(3_000, 2)).astype(np.float32)
    categorical = rng.choice(np.array(["", "x"], dtype=object), (3_000, 1))
    answer = model(None, None, numeric, categorical).astype(np.float64)
    truth = answer + rng.normal(scale=0.1, size=3_000)
    return (numeric, categorical), Outcome(Task.REGRESSION, truth, answer)


def measure(case: tuple[Any, Outcome], seed: int = 7) -> Any:
    inputs, outcome = case
    return permutation_importance(None, SIGNATURE, inputs, outcome, "rmse", seed)


def test_features_are_ranked_by_what_they_tell(case: tuple[Any, Outcome]) -> None:
    found = measure(case)

    assert [f.feature for f in found.features] == ["strong", "word", "noise"]
    assert found.features[0].mean > 2
    assert found.features[2].mean == 0
    assert (found.metric, found.rows, found.repeats) == ("rmse", 2_000, 3)


def test_inputs_are_left_as_they_were(case: tuple[Any, Outcome]) -> None:
    before = case[0][0].copy()

    measure(case)

    assert np.array_equal(case[0][0], before)


def test_same_seed_gives_the_same_importance(case: tuple[Any, Outcome]) -> None:
    assert measure(case) == measure(case)
    assert measure(case) != measure(case, seed=8)


def test_wide_models_are_sampled_on_fewer_rows(
    case: tuple[Any, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importance, "MAX_PREDICTIONS", 3_600)

    assert measure(case).rows == 400


def test_a_metric_without_a_value_on_the_sample_gives_no_importance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importance, "predict", model)
    numeric, categorical = np.zeros((50, 2), np.float32), np.full((50, 1), "", dtype=object)
    constant = Outcome(Task.REGRESSION, np.zeros(50), np.zeros(50))

    found = permutation_importance(None, SIGNATURE, (numeric, categorical), constant, "r2", 7)

    assert found.features == ()
