"""Contributions: against their definition, a linear model's closed form, and what always holds."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from millrace.errors import InvalidRequestError, RequestTooLargeError
from millrace.serving import explanation
from millrace.serving.explanation import contributions
from millrace.serving.features import Batch
from millrace.signature import FeatureField, Reference, Signature
from millrace.spec import Algorithm, ColumnType, Task

type Function = Callable[[npt.NDArray[np.float64], npt.NDArray[np.object_]], npt.NDArray[Any]]


@dataclass(frozen=True)
class Model:
    """A model that is a Python function of its arrays."""

    signature: Signature
    function: Function

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        answer = self.function(batch.numeric.astype(np.float64), batch.categorical)
        return answer.astype(np.float32)


def _model(
    function: Function,
    reference: Reference | None,
    *,
    task: Task = Task.REGRESSION,
    classes: tuple[str, ...] = (),
    features: tuple[int, int] | None = None,
) -> Model:
    numbers, texts = features or (
        len(reference.numeric) if reference else 0,
        len(reference.categorical) if reference else 0,
    )
    # Text first, so that the order of the inputs is not that of the signature.
    fields = [
        FeatureField(name=f"t{i}", type=ColumnType.STRING, nullable=True) for i in range(texts)
    ] + [FeatureField(name=f"n{i}", type=ColumnType.NUMBER, nullable=True) for i in range(numbers)]
    return Model(
        Signature(
            model="m",
            task=task,
            target="y",
            features=tuple(fields),
            classes=classes,
            target_type=ColumnType.NUMBER if task is Task.REGRESSION else ColumnType.STRING,
            algorithm=Algorithm.LINEAR,
            onnx_opset=17,
            reference=reference,
        ),
        function,
    )


def _batch(numeric: Any, categorical: list[list[str]] | None = None) -> Batch:
    numbers = np.array(numeric, dtype=np.float32)
    texts = np.empty((len(numbers), len(categorical[0]) if categorical else 0), dtype=object)
    texts[:] = categorical or texts
    return Batch(rows=len(numbers), numeric=numbers, categorical=texts)


def _by_definition(model: Model, reference: Reference, batch: Batch) -> npt.NDArray[np.float64]:
    """The average over every order of the features, one model call at a time."""
    texts = len(reference.categorical)
    count = texts + len(reference.numeric)
    total = np.zeros(count)
    orders = list(permutations(range(count)))
    for order in orders:
        numeric = np.array([reference.numeric], dtype=np.float32)
        categorical = np.array([reference.categorical], dtype=object).reshape(1, texts)
        before = float(model.run(Batch(1, numeric, categorical))[0])
        for feature in order:
            if feature < texts:
                categorical[0, feature] = batch.categorical[0, feature]
            else:
                numeric[0, feature - texts] = batch.numeric[0, feature - texts]
            after = float(model.run(Batch(1, numeric, categorical))[0])
            total[feature] += after - before
            before = after
    return total / len(orders)


def _tangled(numeric: npt.NDArray[np.float64], text: npt.NDArray[np.object_]) -> npt.NDArray[Any]:
    red = (text[:, 0] == "red").astype(float)
    missing = np.isnan(numeric[:, 2])
    third = np.where(missing, -1.0, numeric[:, 2])
    answer: npt.NDArray[Any] = (
        numeric[:, 0] * numeric[:, 1] + 3 * red * numeric[:, 0] - np.maximum(third, red) ** 2
    )
    return answer


def test_few_features_are_what_the_definition_says() -> None:
    reference = Reference(numeric=(1.0, 2.0, None), categorical=("blue",))
    model = _model(_tangled, reference)
    batch = _batch([[3.0, -1.0, 4.0]], [["red"]])

    told = contributions(model, batch)

    assert told.features == ("t0", "n0", "n1", "n2")
    np.testing.assert_allclose(told.values[0], _by_definition(model, reference, batch), atol=1e-6)


@pytest.mark.parametrize("features", [3, 10, 11, 40, 700])
def test_a_linear_model_is_its_weights_times_the_distance(features: int) -> None:
    random = np.random.default_rng(features)
    weights = random.normal(size=features)
    typical = random.normal(size=features).astype(np.float32)
    rows = random.normal(size=(3, features)).astype(np.float32)
    model = _model(
        lambda numeric, _: numeric @ weights,
        Reference(numeric=tuple(typical.tolist()), categorical=()),
    )

    told = contributions(model, _batch(rows))

    distance = rows.astype(np.float64) - typical.astype(np.float64)
    np.testing.assert_allclose(told.values, weights * distance, atol=1e-4)


def test_sampled_contributions_come_close_to_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    weights = random.normal(size=(12, 12)) / 12
    model = _model(
        lambda numeric, _: 1 / (1 + np.exp(-np.sum((numeric @ weights) * numeric, axis=1))),
        Reference(numeric=(0.0,) * 12, categorical=()),
    )
    batch = _batch(random.normal(size=(8, 12)))
    sampled = contributions(model, batch).values
    monkeypatch.setattr(explanation, "EXACT_FEATURES", 12)

    exact = contributions(model, batch).values

    assert not np.array_equal(sampled, exact)
    assert np.abs(sampled - exact).mean() < 0.1 * np.abs(exact).mean()


@given(
    rows=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.just(13)),
        elements=st.one_of(st.floats(-1e3, 1e3, width=32), st.just(np.float32("nan"))),
    ),
    text=st.text(max_size=3),
)
def test_base_and_contributions_add_up_to_the_answer(
    rows: npt.NDArray[np.float32], text: str
) -> None:
    def steep(numeric: npt.NDArray[np.float64], texts: npt.NDArray[np.object_]) -> Any:
        filled = np.where(np.isnan(numeric), 7.0, numeric)
        long = np.array([len(t) for t in texts[:, 0]])
        return np.tanh(filled[:, :5].sum(axis=1)) + (filled[:, 5:].max(axis=1) > long) * 2.0

    model = _model(steep, Reference(numeric=(0.0,) * 12 + (None,), categorical=("ab",)))
    batch = _batch(rows, [[text]] * len(rows))

    told = contributions(model, batch)

    added = told.base + told.values.sum(axis=1)
    np.testing.assert_allclose(added, model.run(batch), rtol=1e-9, atol=1e-9)


def test_a_row_has_the_same_contributions_in_any_request() -> None:
    random = np.random.default_rng(1)
    model = _model(
        lambda numeric, _: numeric.prod(axis=1), Reference(numeric=(1.0,) * 14, categorical=())
    )
    rows = random.normal(size=(5, 14))

    together = contributions(model, _batch(rows)).values
    alone = contributions(model, _batch(rows[3:4])).values

    np.testing.assert_array_equal(together[3], alone[0])


def test_a_typical_value_contributes_nothing() -> None:
    model = _model(_tangled, Reference(numeric=(1.0, 2.0, None), categorical=("blue",)))

    told = contributions(model, _batch([[1.0, 2.0, np.nan], [1.0, 5.0, np.nan]], [["blue"]] * 2))

    assert told.values[0].tolist() == [0.0] * 4
    assert np.flatnonzero(told.values[1]).tolist() == [2]


def test_binary_is_explained_for_the_second_class_and_more_classes_for_the_most_probable() -> None:
    def binary(numeric: npt.NDArray[np.float64], _: Any) -> npt.NDArray[Any]:
        return np.column_stack((1 - numeric[:, 0], numeric[:, 0]))

    def three(numeric: npt.NDArray[np.float64], _: Any) -> npt.NDArray[Any]:
        return np.column_stack((numeric[:, 0], 0.5 - numeric[:, 0], np.full(len(numeric), 0.5)))

    reference = Reference(numeric=(0.25,), categorical=())
    two = _model(binary, reference, task=Task.BINARY, classes=("no", "yes"))
    more = _model(three, reference, task=Task.MULTICLASS, classes=("a", "b", "c"))
    rows = _batch([[0.125], [0.75]])

    assert contributions(two, rows).told(np.array(["no", "yes"], dtype=object)) == [
        {"label": "yes", "base": 0.25, "values": {"n0": -0.125}},
        {"label": "yes", "base": 0.25, "values": {"n0": 0.5}},
    ]
    assert contributions(more, rows).told(np.array(["a", "b", "c"], dtype=object)) == [
        {"label": "c", "base": 0.5, "values": {"n0": 0.0}},
        {"label": "a", "base": 0.25, "values": {"n0": 0.5}},
    ]


def test_a_version_without_a_typical_row_says_so() -> None:
    model = _model(lambda numeric, _: numeric[:, 0], None, features=(1, 0))

    with pytest.raises(InvalidRequestError, match="has no contributions") as refused:
        contributions(model, _batch([[1.0]]))

    assert refused.value.problems[0].field == "outputs"


@pytest.mark.parametrize(("features", "most"), [(2, 100), (14, 100), (200, 50), (2_000, 1)])
def test_so_many_rows_are_explained_at_once(features: int, most: int) -> None:
    model = _model(
        lambda numeric, _: numeric.sum(axis=1),
        Reference(numeric=(0.0,) * features, categorical=()),
    )

    with pytest.raises(RequestTooLargeError, match=f"at most {most} rows"):
        contributions(model, _batch(np.zeros((most + 1, features))))

    assert not contributions(model, _batch(np.zeros((most, features)))).values.any()
