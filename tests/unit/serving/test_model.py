"""A model that is given ranks answers as the whole file does, to the bit, whatever the rows."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from math import inf, nan

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from millrace.errors import ArtifactError
from millrace.onnx_graph import FEATURES, behind_ranks
from millrace.onnx_session import load_session, predict
from millrace.serving.columns import Coded
from millrace.serving.features import Batch
from millrace.serving.model import load_model
from millrace.signature import CATEGORICAL_INPUT, NUMERIC_INPUT, PROBABILITIES_OUTPUT
from millrace.spec import Algorithm, Task
from tests.unit.serving.pipelines import CITIES, NAME, PLANS, trained

pipeline = cache(trained)

BOOSTED = [(task, Algorithm.HIST_GRADIENT_BOOSTING) for task in Task]


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    yield
    pipeline.cache_clear()


NUMBERS = st.sampled_from([nan, inf, -inf, 0.0, -0.0, 1e-45, 3.4e38]) | st.floats(
    -1e3, 1e3, width=32
)
TEXTS = st.sampled_from([*CITIES, *PLANS, "", "unheard of", "\x00", "ü", "\ud800"])
ROWS = st.lists(
    st.tuples(st.lists(NUMBERS, min_size=6, max_size=6), st.lists(TEXTS, min_size=2, max_size=2)),
    min_size=1,
    max_size=60,
)


def forms(numeric: np.ndarray, texts: list[list[str]]) -> list[Batch]:
    """The same rows in each of the ways that texts come in."""
    rows = len(numeric)
    categorical = np.empty((rows, 2), dtype=object)
    categorical[:] = texts
    flat = [text for row in texts for text in row]
    values = sorted(set(flat))
    codes = np.array([values.index(text) for text in flat])
    return [
        Batch(rows, numeric, categorical),
        Batch(rows, numeric, texts=list(zip(*texts, strict=True))),
        Batch(rows, numeric, coded=Coded(codes, values)),
        Batch(rows, np.asfortranarray(numeric), categorical),
    ]


@pytest.mark.parametrize(("task", "algorithm"), BOOSTED)
@settings(max_examples=60)
@given(rows=ROWS)
def test_ranks_in_place_of_texts_give_the_same_answers(
    task: Task, algorithm: Algorithm, rows: list[tuple[list[float], list[str]]]
) -> None:
    made = pipeline(task, algorithm)
    numeric = np.array([numbers for numbers, _ in rows], dtype=np.float32)
    # ONNX Runtime has no lone surrogates, and no text with one is known to a model.
    texts = [[t if t != "\ud800" else "none of them" for t in row] for _, row in rows]
    whole = load_session(made.fit.onnx, sha(made.fit.onnx), NAME)
    categorical = np.empty((len(rows), 2), dtype=object)
    categorical[:] = texts
    expected = predict(whole, made.signature, numeric, categorical)
    model = load_model(made.fit.onnx, sha(made.fit.onnx), NAME, made.signature)

    for batch in forms(numeric, [row for _, row in rows]):
        np.testing.assert_array_equal(model.run(batch), expected)


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("task", Task)
def test_boosted_trees_are_what_is_behind_the_ranks(task: Task) -> None:
    made = pipeline(task, Algorithm.HIST_GRADIENT_BOOSTING)

    ranked = behind_ranks(made.fit.onnx)

    assert ranked is not None
    encoder = made.fit.model.encoder
    assert ranked.ranks == tuple(
        {text: float(rank) for rank, text in enumerate(known)} for known in encoder.vocabulary
    )
    whole, part = onnx.load_from_string(made.fit.onnx), onnx.load_from_string(ranked.body)
    onnx.checker.check_model(part, full_check=True)
    (given_,) = part.graph.input
    assert given_.name == FEATURES
    assert [d.dim_value for d in given_.type.tensor_type.shape.dim] == [0, encoder.width]
    trees = [n for n in whole.graph.node if "Tree" in n.op_type]
    assert [n for n in part.graph.node if "Tree" in n.op_type] == trees
    # All but the graph is as it was.
    for each in (whole, part):
        each.ClearField("graph")
    assert part == whole


@pytest.mark.parametrize("algorithm", [a for a in Algorithm if a is not BOOSTED[0][1]])
def test_models_with_a_feature_for_every_category_are_taken_whole(algorithm: Algorithm) -> None:
    made = pipeline(Task.BINARY, algorithm)

    assert behind_ranks(made.fit.onnx) is None
    model = load_model(made.fit.onnx, sha(made.fit.onnx), NAME, made.signature)

    numeric = np.ones((3, 6), dtype=np.float32)
    texts = np.array([["Graz", "basic"]] * 3, dtype=object)
    whole = load_session(made.fit.onnx, sha(made.fit.onnx), NAME)
    np.testing.assert_array_equal(
        model.run(Batch(3, numeric, texts)), predict(whole, made.signature, numeric, texts)
    )


# ── Graphs of another make ──────────────────────────────────────────────────────────────────────


def ranking() -> onnx.ModelProto:
    """A small graph as ours are: ranks of two texts after one number, and their product."""
    encoders = [
        helper.make_node(
            "LabelEncoder",
            [f"c{place}"],
            [f"r{place}"],
            domain="ai.onnx.ml",
            keys_strings=["a", "b"],
            values_floats=[0.0, 1.0],
            default_float=nan,
        )
        for place in range(2)
    ]
    nodes = [
        helper.make_node("Split", [CATEGORICAL_INPUT], ["c0", "c1"], axis=1),
        *encoders,
        helper.make_node("Concat", [NUMERIC_INPUT, "r0", "r1"], [FEATURES], axis=1),
        helper.make_node("Identity", [FEATURES], [PROBABILITIES_OUTPUT]),
    ]
    shapes = [
        helper.make_tensor_value_info(NUMERIC_INPUT, TensorProto.FLOAT, ["rows", 1]),
        helper.make_tensor_value_info(CATEGORICAL_INPUT, TensorProto.STRING, ["rows", 2]),
    ]
    answer = helper.make_tensor_value_info(PROBABILITIES_OUTPUT, TensorProto.FLOAT, ["rows", 3])
    return helper.make_model(
        helper.make_graph(nodes, "g", shapes, [answer]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=8,
    )


def test_the_small_graph_is_of_our_make() -> None:
    ranked = behind_ranks(ranking().SerializeToString())

    assert ranked is not None
    assert ranked.ranks == ({"a": 0.0, "b": 1.0},) * 2


def attribute(graph: onnx.GraphProto, name: str) -> onnx.AttributeProto:
    """One of the first encoder's."""
    return next(a for a in graph.node[1].attribute if a.name == name)


def _another_default(graph: onnx.GraphProto) -> None:
    attribute(graph, "default_float").f = 7.0


def _no_default(graph: onnx.GraphProto) -> None:
    graph.node[1].attribute.remove(attribute(graph, "default_float"))


def _other_values(graph: onnx.GraphProto) -> None:
    attribute(graph, "values_floats").name = "values_int64s"


def _fewer_values(graph: onnx.GraphProto) -> None:
    attribute(graph, "values_floats").floats.pop()


def _a_text_twice(graph: onnx.GraphProto) -> None:
    attribute(graph, "keys_strings").strings[1] = b"a"


def _joined_in_another_order(graph: onnx.GraphProto) -> None:
    graph.node[3].input[1:] = ["r1", "r0"]


def _one_is_left_out(graph: onnx.GraphProto) -> None:
    graph.node[3].input.pop()


def _ranked_in_another_order(graph: onnx.GraphProto) -> None:
    graph.node[1].input[0], graph.node[2].input[0] = "c1", "c0"


def _ranks_are_used_elsewhere(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Identity", ["r0"], ["more"]))


def _numbers_are_used_elsewhere(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Identity", [NUMERIC_INPUT], ["more"]))


def _something_before(graph: onnx.GraphProto) -> None:
    graph.node.insert(0, helper.make_node("Identity", [NUMERIC_INPUT], ["same"]))


def _numbers_of_any_width(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_param = "k"


@pytest.mark.parametrize(
    "change",
    [
        _another_default,
        _no_default,
        _other_values,
        _fewer_values,
        _a_text_twice,
        _joined_in_another_order,
        _one_is_left_out,
        _ranked_in_another_order,
        _ranks_are_used_elsewhere,
        _numbers_are_used_elsewhere,
        _something_before,
        _numbers_of_any_width,
    ],
)
def test_a_graph_of_another_make_is_left_alone(change: object) -> None:
    assert callable(change)
    model = ranking()
    change(model.graph)

    assert behind_ranks(model.SerializeToString()) is None


@given(data=st.data())
def test_a_file_that_was_cut_or_altered_is_no_fault_of_ours(data: st.DataObject) -> None:
    body = bytearray(ranking().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(1, len(body)))])

    with suppress(ArtifactError):
        ranked = behind_ranks(cut)
        assert ranked is None or all(isinstance(text, str) for r in ranked.ranks for text in r)


def test_a_signature_with_other_texts_is_refused_at_loading() -> None:
    body = ranking().SerializeToString()
    made = pipeline(Task.BINARY, Algorithm.HIST_GRADIENT_BOOSTING)
    features = [f for f in made.signature.features if f.name != "city"]
    other = replace(made.signature, features=tuple(features))

    with pytest.raises(ArtifactError, match="1 features that are texts, and the model 2"):
        load_model(body, sha(body), "tiny@1", other)


def test_a_signature_with_other_numbers_cannot_run() -> None:
    body = ranking().SerializeToString()
    made = pipeline(Task.BINARY, Algorithm.HIST_GRADIENT_BOOSTING)
    model = load_model(body, sha(body), "tiny@1", made.signature)

    with pytest.raises(ArtifactError, match="does not fit its signature"):
        model.run(Batch(1, np.ones((1, 6), dtype=np.float32), texts=[["a"], ["b"]]))
