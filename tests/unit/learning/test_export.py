"""The exported graph: inputs and outputs of the signature, equal to the pipeline, small, repeatable."""

import hashlib
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.exceptions import ConvergenceWarning

from millrace.datasets.table import Table
from millrace.errors import TrainingError
from millrace.learning import candidates
from millrace.learning.export import ML_OPSET, OPSET, to_onnx
from millrace.learning.features import Rows
from millrace.learning.fitting import fit, make_signature
from millrace.learning.model import FittedModel, fit_model
from millrace.learning.parity import check_parity
from millrace.learning.search import plan, run_trial
from millrace.onnx_session import load_session
from millrace.onnx_session import predict as serve
from millrace.spec import Algorithm, Column, ColumnType, ModelSpec, Task
from tests.unit.learning.tables import bundled, make_table

DATA = ["breast_cancer", "iris", "wine", "diabetes"]


def fitted(spec: ModelSpec, table: Table, algorithm: Algorithm, turn: int = 0) -> FittedModel:
    trial = [t for t in plan(spec, table.schema).trials if t.algorithm is algorithm][turn]
    return fit_model(
        trial, spec.task, Rows.of_table(table), table.target, len(table.schema.classes)
    )


def export(model: FittedModel) -> bytes:
    return to_onnx(model, doc="a test's model", metadata={"run_id": "r-1", "model": "sample"})


def scale_of(spec: ModelSpec, table: Table) -> float:
    return float(np.std(table.target)) if spec.task is Task.REGRESSION else 1.0


@pytest.mark.parametrize("turn", [0, 1], ids=["default", "sampled"])
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("name", DATA)
def test_graph_agrees_with_the_pipeline(name: str, algorithm: Algorithm, turn: int) -> None:
    spec, table = bundled(name)
    model = fitted(spec, table, algorithm, turn)

    parity = check_parity(
        export(model),
        model.predict,
        Rows.of_table(table),
        task=spec.task,
        tolerance=1e-4,
        target_scale=scale_of(spec, table),
    )

    assert parity.max_difference < 1e-5
    assert parity.label_mismatches == 0
    assert parity.rows == table.rows
    assert parity.hostile_rows >= 1_000


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_file_is_self_contained_and_says_what_it_is(name: str, algorithm: Algorithm) -> None:
    spec, table = bundled(name)

    body = export(fitted(spec, table, algorithm))

    model = onnx.load_from_string(body)
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain: o.version for o in model.opset_import} == {"": OPSET, "ai.onnx.ml": ML_OPSET}
    assert model.producer_name == "millrace"
    assert model.doc_string == "a test's model"
    assert {p.key: p.value for p in model.metadata_props} == {"model": "sample", "run_id": "r-1"}
    assert [i.name for i in model.graph.input] == ["numeric", "categorical"]
    expected = "prediction" if name == "diabetes" else "probabilities"
    assert [o.name for o in model.graph.output] == [expected]
    assert not any(t.external_data for t in model.graph.initializer)
    assert "ZipMap" not in {n.op_type for n in model.graph.node}
    assert len(body) < 1_000_000


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("name", ["breast_cancer", "diabetes"])
def test_training_again_gives_the_same_bytes(name: str, algorithm: Algorithm) -> None:
    spec, table = bundled(name)

    bodies = {export(fitted(spec, table, algorithm, 1)) for _ in range(2)}

    assert len(bodies) == 1


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_input_without_columns_is_absent(kind: str, algorithm: Algorithm) -> None:
    random = np.random.default_rng(0)
    codes = random.integers(-1, 3, 200).astype(np.int32)
    numeric = random.normal(size=(200, 2 if kind == "numeric" else 0))
    spec, table = make_table(
        Task.BINARY,
        numeric,
        (codes + random.integers(0, 3, 200)) > 1,
        categorical={"c": (codes, ("x", "y", "z"))} if kind == "categorical" else None,
        classes=2,
    )
    model = fitted(spec, table, algorithm)

    body = export(model)

    assert [i.name for i in onnx.load_from_string(body).graph.input] == [kind]
    check_parity(body, model.predict, Rows.of_table(table), task=spec.task, tolerance=1e-4)


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("seen", [[0, 2], [1, 2, 4]], ids=["two_of_five", "three_of_five"])
def test_classes_the_fit_never_saw_get_probability_zero(
    seen: list[int], algorithm: Algorithm
) -> None:
    random = np.random.default_rng(0)
    target = random.choice(seen, 300)
    spec, table = make_table(
        Task.MULTICLASS, random.normal(size=(300, 3)) + target[:, None], target, classes=5
    )
    model = fitted(spec, table, algorithm)
    body = export(model)
    rows = Rows.of_table(table)

    check_parity(body, model.predict, rows, task=spec.task, tolerance=1e-4)

    probabilities = model.predict(rows)
    assert probabilities.shape == (300, 5)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert not probabilities[:, [c for c in range(5) if c not in seen]].any()


@pytest.mark.parametrize("algorithm", Algorithm)
def test_constant_and_empty_columns_are_no_obstacle(algorithm: Algorithm) -> None:
    random = np.random.default_rng(0)
    numeric = np.column_stack((np.full(200, 7.0), np.full(200, np.nan), random.normal(size=200)))
    spec, table = make_table(
        Task.BINARY,
        numeric,
        numeric[:, 2] > 0,
        categorical={"nothing": (np.full(200, -1, np.int32), ())},
        classes=2,
    )
    model = fitted(spec, table, algorithm)

    check_parity(export(model), model.predict, Rows.of_table(table), task=spec.task, tolerance=1e-4)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_neighbouring_floats_fall_to_the_same_side(algorithm: Algorithm) -> None:
    """Thresholds between two adjacent float32 values: rounding them to nearest flips a row."""
    start = np.float32(16_777_000)
    steps = [start]
    for _ in range(199):
        steps.append(np.nextafter(steps[-1], np.float32(np.inf)))
    values = np.array(steps, np.float64)
    spec, table = make_table(
        Task.BINARY,
        np.tile(values, 5).reshape(-1, 1),
        np.tile(np.arange(200) % 7 < 3, 5),
        classes=2,
    )
    model = fitted(spec, table, algorithm)

    parity = check_parity(
        export(model), model.predict, Rows.of_table(table), task=spec.task, tolerance=1e-4
    )

    assert parity.max_difference < 1e-5


def test_many_classes_stay_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "MAX_LEAF_VALUES", 6_000)
    random = np.random.default_rng(0)
    target = random.integers(0, 60, 300)
    spec, table = make_table(Task.MULTICLASS, random.normal(size=(300, 2)), target, classes=60)
    model = fitted(spec, table, Algorithm.HIST_GRADIENT_BOOSTING)

    body = export(model)

    assert len(body) < 600_000
    check_parity(body, model.predict, Rows.of_table(table), task=spec.task, tolerance=1e-4)


def test_one_class_cannot_be_fitted() -> None:
    spec, table = make_table(Task.BINARY, np.zeros((40, 1)), np.zeros(40), classes=2)

    with pytest.raises(TrainingError, match="hold 1 of 2 classes"):
        fitted(spec, table, Algorithm.LINEAR)


def test_model_that_cannot_be_converted_says_so() -> None:
    spec, table = bundled("iris")
    model = fitted(spec, table, Algorithm.LINEAR)
    unfitted = FittedModel(
        model.task, model.algorithm, model.encoder, type(model.estimator)(), model.classes, 1
    )

    with pytest.raises(TrainingError, match="linear cannot be converted to ONNX"):
        export(unfitted)


def halves(spec: ModelSpec, table: Table) -> tuple[Table, Table]:
    cut = table.rows * 3 // 4
    parts = []
    for part in (slice(0, cut), slice(cut, None)):
        arrays: dict[str, Any] = {name: array[part] for name, array in table.arrays.items()}
        parts.append(Table(table.schema, arrays, table.row[part]))
    return parts[0], parts[1]


@pytest.mark.parametrize("name", ["breast_cancer", "iris", "diabetes"])
def test_fit_serves_what_it_scored(name: str) -> None:
    spec, table = bundled(name)
    train, validation = halves(spec, table)
    proposed = plan(spec, table.schema)
    results = [
        run_trial(spec, train, trial, metric=proposed.metric, folds=proposed.folds)
        for trial in proposed.trials
    ]

    done = fit(spec, train, validation, proposed, results, metadata={})

    best = (max if proposed.higher_is_better else min)(r.score or 0 for r in results)
    assert done.result.score == best
    assert done.rows == train.rows
    assert len(done.calibration) == validation.rows
    assert done.validation_score == pytest.approx(best, rel=0.3)
    signature = make_signature(spec, table.schema, done.trial.algorithm)
    assert [f.name for f in signature.features] == [c.name for c in spec.features]
    session = load_session(done.onnx, hashlib.sha256(done.onnx).hexdigest(), name)
    numeric, categorical = validation.features()
    served = serve(session, signature, numeric, categorical)
    expected = done.model.predict(Rows.of_table(validation))
    np.testing.assert_allclose(served, expected, atol=1e-4 * done.target_scale)


def test_signature_carries_the_contract() -> None:
    spec, table = bundled("iris", sections={"privacy": {"never_log": ["n1"]}})
    columns = list(spec.data.columns)
    columns[0] = Column(name="n0", type=ColumnType.NUMBER, nullable=False, min=0, max=9)
    spec = spec.model_copy(
        update={"data": spec.data.model_copy(update={"columns": tuple(columns)})}
    )

    signature = make_signature(spec, table.schema, Algorithm.LINEAR)

    assert (signature.features[0].min, signature.features[0].nullable) == (0, False)
    assert [f.private for f in signature.features] == [False, True, False, False, False]
    assert [f.name for f in signature.categorical] == ["colour"]
    assert signature.classes == ("0", "1", "2")
    assert signature.target_type is ColumnType.INTEGER


def test_linear_model_short_of_its_optimum_is_still_a_candidate() -> None:
    spec, table = bundled("wine")
    trial = plan(spec, table.schema).trials[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        wide = Rows.of_table(table)
        model = fit_model(
            trial.model_copy(update={"params": {"regularization": 1e-9}}),
            spec.task,
            wide,
            table.target,
            3,
        )

    assert np.isfinite(model.predict(wide)).all()
