"""The parity check catches conversions that succeed and are wrong."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from millrace.errors import ArtifactError, ParityError
from millrace.learning.features import Rows
from millrace.learning.parity import check_parity, hostile_rows, tree_thresholds
from millrace.spec import Task
from tests.unit.learning.tables import bundled

type Predict = Callable[[Rows], np.ndarray]


def numbers(values: np.ndarray) -> Rows:
    return Rows(values.astype(np.float32), np.empty((len(values), 0), np.int32), ())


def converted(model: object, width: int, *, classifier: bool = True) -> bytes:
    made = convert_sklearn(
        model,
        name="model",
        initial_types=[("numeric", FloatTensorType([None, width]))],
        target_opset={"": 17, "ai.onnx.ml": 3},
        options={"zipmap": False} if classifier else None,
    )
    output = made.graph.output[-1]
    wanted = "probabilities" if classifier else "prediction"
    for node in made.graph.node:
        for index, name in enumerate(node.output):
            if name == output.name:
                node.output[index] = wanted
    output.name = wanted
    return bytes(made.SerializeToString())


def constant(output: np.ndarray, name: str = "probabilities") -> bytes:
    """A model that answers every row with the same numbers."""
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["numeric"], ["rows"], start=0, end=1),
            helper.make_node("Concat", ["rows", "width"], ["shape"], axis=0),
            helper.make_node("Expand", ["answer", "shape"], [name]),
        ],
        "constant",
        [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, len(output)])],
        initializer=[
            numpy_helper.from_array(np.array([len(output)], np.int64), "width"),
            numpy_helper.from_array(output.astype(np.float32).reshape(1, -1), "answer"),
        ],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def answering(output: np.ndarray) -> Predict:
    return lambda rows: np.tile(output.astype(np.float64), (len(rows), 1))


SMALL = numbers(np.linspace(0, 1, 40).reshape(20, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_native_categories_of_boosting_are_caught() -> None:
    random = np.random.default_rng(0)
    values = np.column_stack((random.integers(0, 12, 2_000), random.normal(size=2_000)))
    target = (np.isin(values[:, 0], (1, 4, 7, 10)) ^ (values[:, 1] > 1)).astype(int)
    model = HistGradientBoostingClassifier(
        categorical_features=[0], max_iter=20, early_stopping=False
    ).fit(values, target)

    with pytest.raises(ParityError, match=r"differ by 0\.\d+, more than the tolerance of 0\.0001"):
        check_parity(
            converted(model, 2),
            lambda rows: model.predict_proba(np.clip(rows.numeric, 0, 11)),
            numbers(values),
            task=Task.BINARY,
            tolerance=1e-4,
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scaler_before_boosting_is_caught() -> None:
    _, table = bundled("diabetes")
    values = np.round(Rows.of_table(table).numeric * 1_000).astype(np.float32)
    model: Pipeline = make_pipeline(
        SimpleImputer(strategy="median"),
        StandardScaler(),
        HistGradientBoostingRegressor(max_iter=60, min_samples_leaf=3, early_stopping=False),
    ).fit(values.astype(np.float64), table.target)

    with pytest.raises(ParityError, match="differ by"):
        check_parity(
            converted(model, values.shape[1], classifier=False),
            lambda rows: model.predict(rows.numeric.astype(np.float64)),
            numbers(values),
            task=Task.REGRESSION,
            tolerance=1e-4,
            target_scale=float(table.target.std()),
        )


def test_forest_with_missing_values_is_caught() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(1_000, 3))
    target = (values[:, 0] > 0).astype(int)
    values[random.random(values.shape) < 0.3] = np.nan
    model = RandomForestClassifier(20, max_depth=5, random_state=0).fit(values, target)

    with pytest.raises(ParityError, match="clear labels"):
        check_parity(
            converted(model, 3),
            lambda rows: model.predict_proba(rows.numeric),
            numbers(values),
            task=Task.BINARY,
            tolerance=1e-4,
        )


def test_difference_within_the_tolerance_passes_with_its_size() -> None:
    parity = check_parity(
        constant(np.array([0.30005, 0.69995])),
        answering(np.array([0.3, 0.7])),
        SMALL,
        task=Task.BINARY,
        tolerance=1e-4,
    )

    assert parity.max_difference == pytest.approx(5e-5, rel=0.01)
    assert (parity.rows, parity.label_mismatches) == (20, 0)


def test_difference_beyond_the_tolerance_is_an_error_with_the_numbers() -> None:
    with pytest.raises(ParityError, match=r"differ by 0\.0002, more than the tolerance of 0\.0001"):
        check_parity(
            constant(np.array([0.3002, 0.6998])),
            answering(np.array([0.3, 0.7])),
            SMALL,
            task=Task.BINARY,
            tolerance=1e-4,
        )


@pytest.mark.parametrize(
    ("served", "mismatches"), [([0.5005, 0.4995], False), ([0.52, 0.48], True)], ids=["tie", "flip"]
)
def test_labels_count_where_the_choice_is_clear(served: list[float], mismatches: bool) -> None:
    pipeline = answering(np.array([0.4995, 0.5005] if not mismatches else [0.48, 0.52]))
    tolerance = 0.01

    if mismatches:
        with pytest.raises(ParityError, match=r"in [1-9]\d* clear labels"):
            check_parity(
                constant(np.array(served)), pipeline, SMALL, task=Task.BINARY, tolerance=tolerance
            )
    else:
        parity = check_parity(
            constant(np.array(served)), pipeline, SMALL, task=Task.BINARY, tolerance=tolerance
        )
        assert parity.label_mismatches == 0


def test_regression_is_relative_to_the_targets_spread() -> None:
    model = constant(np.array([1_000.5]), "prediction")

    def pipeline(rows: Rows) -> np.ndarray:
        return np.full(len(rows), 1_000.0)

    parity = check_parity(
        model, pipeline, SMALL, task=Task.REGRESSION, tolerance=1e-3, target_scale=1_000.0
    )
    assert parity.max_difference == pytest.approx(5e-4)
    with pytest.raises(ParityError):
        check_parity(model, pipeline, SMALL, task=Task.REGRESSION, tolerance=1e-3)


@pytest.mark.parametrize("side", ["onnx", "pipeline"])
def test_nan_never_passes(side: str) -> None:
    good, bad = np.array([0.5, 0.5]), np.array([np.nan, 0.5])

    with pytest.raises(ParityError, match="differ by inf"):
        check_parity(
            constant(bad if side == "onnx" else good),
            answering(bad if side == "pipeline" else good),
            SMALL,
            task=Task.BINARY,
            tolerance=0.01,
        )


def test_wrong_number_of_classes_is_caught() -> None:
    with pytest.raises(ParityError, match="shape"):
        check_parity(
            constant(np.array([0.2, 0.3, 0.5])),
            answering(np.array([0.5, 0.5])),
            SMALL,
            task=Task.MULTICLASS,
            tolerance=0.01,
        )


def test_bytes_that_are_no_model_are_an_error() -> None:
    with pytest.raises(ArtifactError):
        check_parity(b"no model", answering(np.ones(2)), SMALL, task=Task.BINARY, tolerance=0.01)


def test_hostile_rows_hold_what_breaks_models() -> None:
    _, table = bundled("iris")
    rows = Rows.of_table(table)
    threshold = np.float32(5.1)

    hostile = hostile_rows(rows, {0: np.array([threshold])}, count=500, seed=0)

    first = hostile.numeric[:, 0]
    for value in (threshold, np.nextafter(threshold, np.float32(9)), np.finfo(np.float32).max):
        assert (first == value).any()
    assert np.isnan(hostile.numeric[0]).all()
    assert not np.isinf(hostile.numeric).any()
    words = set(hostile.strings()[:, 0])
    known = set(rows.categories[0])
    assert "" in words
    assert len(words - known) >= 5
    assert "blue " in words - known
    assert len(hostile) == 500


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_thresholds_are_read_from_the_graph() -> None:
    values = np.repeat([1.0, 2.0, 4.0], 20).reshape(-1, 1)
    model = HistGradientBoostingRegressor(max_iter=1, min_samples_leaf=5, early_stopping=False).fit(
        values, np.repeat([0.0, 1.0, 5.0], 20)
    )

    found = tree_thresholds(converted(model, 1, classifier=False))

    assert {column: points.tolist() for column, points in found.items()} == {0: [1.5, 3.0]}
