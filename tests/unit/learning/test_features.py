"""The encoder: equal to scikit-learn's own steps, and to its ONNX operators to the bit."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from millrace.errors import TrainingError
from millrace.learning.features import (
    CLIP_DEVIATIONS,
    MAX_CATEGORIES,
    MAX_ONE_HOT_WIDTH,
    Encoder,
    Recipe,
    Rows,
)
from millrace.learning.parity import hostile_rows
from millrace.onnx_graph import FEATURES
from millrace.spec import Task
from tests.unit.learning.tables import bundled, make_table

ALL = Recipe(impute=True, scale=True)
RANKED = Recipe(impute=False, scale=False, rank=True)
RECIPES = (ALL, Recipe(impute=True, scale=False), Recipe(impute=False, scale=False), RANKED)


def run_onnx(encoder: Encoder, rows: Rows) -> np.ndarray:
    nodes, constants = encoder.onnx_nodes()
    inputs = []
    if encoder.numbers:
        inputs.append(
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, encoder.numbers])
        )
    if encoder.vocabulary:
        inputs.append(
            helper.make_tensor_value_info(
                "categorical", TensorProto.STRING, [None, len(encoder.vocabulary)]
            )
        )
    graph = helper.make_graph(
        nodes,
        "encoder",
        inputs,
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [None, encoder.width])],
        initializer=constants,
    )
    model = helper.make_model(
        graph,
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run([FEATURES], rows.inputs())[0])


def test_encoding_equals_scikit_learns_own_steps() -> None:
    _, table = bundled("breast_cancer")
    rows = Rows.of_table(table)

    encoded = Encoder.fit(rows, ALL).transform(rows)

    imputed = SimpleImputer(strategy="median").fit_transform(rows.numeric)
    scaled = StandardScaler().fit_transform(imputed.astype(np.float64))
    flags = MissingIndicator(features="missing-only").fit_transform(rows.numeric)
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit_transform(
        rows.strings()
    )
    expected = np.hstack((scaled.clip(-CLIP_DEVIATIONS, CLIP_DEVIATIONS), flags, one_hot))
    np.testing.assert_allclose(encoded, expected, atol=2e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=("scaled", "imputed", "raw", "ranked"))
def test_graph_encodes_hostile_rows_to_the_same_bits(recipe: Recipe) -> None:
    _, table = bundled("wine")
    rows = Rows.of_table(table)
    encoder = Encoder.fit(rows, recipe, np.arange(len(rows), dtype=np.float64))
    hostile = hostile_rows(rows, {0: np.array([12.5, 13.0], np.float32)}, count=500, seed=1)

    np.testing.assert_array_equal(run_onnx(encoder, hostile), encoder.transform(hostile))


finite = st.one_of(
    st.just(float("nan")), st.floats(width=32, allow_nan=False, allow_infinity=False)
)
words = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@settings(max_examples=60)
@given(
    numeric=hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(2)), elements=finite),
    known=st.lists(words, min_size=1, max_size=6, unique=True),
    recipe=st.sampled_from(RECIPES),
    data=st.data(),
)
def test_any_rows_encode_to_the_same_bits(
    numeric: np.ndarray, known: list[str], recipe: Recipe, data: st.DataObject
) -> None:
    codes = data.draw(
        hnp.arrays(np.int32, (len(numeric), 1), elements=st.integers(-1, len(known) - 1))
    )
    rows = Rows(numeric, codes, (tuple(sorted(known)),))

    encoder = Encoder.fit(rows, recipe, np.arange(len(rows), dtype=np.float64))

    encoded = encoder.transform(rows)
    np.testing.assert_array_equal(run_onnx(encoder, rows), encoded)
    if recipe.impute:
        assert np.isfinite(encoded).all()


def test_column_without_any_value_becomes_zero_without_a_flag() -> None:
    rows = Rows(np.full((6, 1), np.nan, np.float32), np.empty((6, 0), np.int32), ())

    encoded = Encoder.fit(rows, ALL).transform(rows)

    np.testing.assert_array_equal(encoded, np.zeros((6, 1), np.float32))


def test_rare_categories_share_the_code_of_unseen_ones() -> None:
    codes = np.array([0] * 20 + [1] * 2 + [-1] * 6, np.int32).reshape(-1, 1)
    rows = Rows(np.empty((28, 0), np.float32), codes, (("common", "rare"),))

    encoder = Encoder.fit(rows, ALL)

    assert encoder.vocabulary == (("", "common"),)
    assert encoder.transform(rows)[20].tolist() == [0.0, 0.0]


def test_most_frequent_category_is_kept_however_rare() -> None:
    rows = Rows(
        np.empty((3, 0), np.float32), np.array([[0], [1], [1]], np.int32), (("one", "two"),)
    )

    assert Encoder.fit(rows, ALL).vocabulary == (("two",),)


def test_many_categories_are_capped_by_frequency() -> None:
    random = np.random.default_rng(0)
    values = tuple(f"v{i:04d}" for i in range(500))
    codes = np.minimum(random.geometric(0.01, (20_000, 1)) - 1, 499).astype(np.int32)
    rows = Rows(np.empty((20_000, 0), np.float32), codes, (values,))

    (kept,) = Encoder.fit(rows, ALL).vocabulary

    assert len(kept) == MAX_CATEGORIES
    counts = np.bincount(codes[:, 0], minlength=500)
    least = min(counts[values.index(v)] for v in kept)
    assert all(counts[i] <= least for i, v in enumerate(values) if v not in kept)


def test_many_category_columns_share_the_width() -> None:
    codes = np.tile(np.arange(60, dtype=np.int32).repeat(5).reshape(-1, 1), (1, 100))
    rows = Rows(
        np.empty((300, 0), np.float32), codes, (tuple(f"v{i:02d}" for i in range(60)),) * 100
    )

    assert Encoder.fit(rows, ALL).width <= MAX_ONE_HOT_WIDTH


def test_category_with_nul_gets_no_feature() -> None:
    codes = np.array([[0]] * 10 + [[1]] * 10, np.int32)
    rows = Rows(np.empty((20, 0), np.float32), codes, (("a", "a\x00b"),))

    assert Encoder.fit(rows, ALL).vocabulary == (("a",),)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e39], ids=("inf", "minus_inf", "too_large"))
def test_infinite_number_is_refused_with_its_column(value: float) -> None:
    numeric = np.zeros((30, 2))
    numeric[4, 1] = value
    _, table = make_table(Task.BINARY, numeric, np.arange(30) % 2)

    with pytest.raises(TrainingError, match=r"'n1'.*1 rows beyond"):
        Rows.of_table(table)


def test_features_are_those_of_the_table() -> None:
    _, table = bundled("iris")

    rows = Rows.of_table(table)

    numeric, categorical = table.features()
    np.testing.assert_array_equal(rows.numeric, numeric)
    np.testing.assert_array_equal(rows.strings(), categorical)


def test_categories_are_ranked_by_the_target_and_the_rest_is_missing() -> None:
    codes = np.array([0] * 20 + [1] * 20 + [-1] * 20 + [2] * 2, np.int32).reshape(-1, 1)
    rows = Rows(np.empty((62, 0), np.float32), codes, (("high", "low", "rare"),))
    leaning = np.repeat([0.9, 0.1, 0.5, 1.0], [20, 20, 20, 2])

    encoder = Encoder.fit(rows, RANKED, leaning)

    assert encoder.vocabulary == (("low", "", "high"),)
    assert encoder.transform(rows)[[0, 20, 40], 0].tolist() == [2.0, 0.0, 1.0]
    assert np.isnan(encoder.transform(rows)[60:]).all()
