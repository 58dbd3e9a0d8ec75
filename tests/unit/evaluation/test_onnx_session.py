"""The loader of ONNX models: what it refuses, and that it gives what the graph computes."""

import hashlib
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from millrace.errors import ArtifactError, DigestMismatchError
from millrace.onnx_graph import refers_to_external_data
from millrace.onnx_session import (
    MAX_BATCH_ROWS,
    load_session,
    predict,
)
from millrace.signature import FeatureField, Signature
from millrace.spec import Algorithm, ColumnType, Task


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def feature(name: str, kind: ColumnType = ColumnType.NUMBER) -> FeatureField:
    return FeatureField(name=name, type=kind, nullable=True)


def signature(
    task: Task, features: tuple[FeatureField, ...], classes: tuple[str, ...] = ()
) -> Signature:
    return Signature(
        model="tiny",
        task=task,
        target="y",
        features=features,
        classes=classes,
        target_type=ColumnType.NUMBER,
        algorithm=Algorithm.LINEAR,
        onnx_opset=17,
    )


REGRESSION = signature(Task.REGRESSION, (feature("a"), feature("b")))


def linear_model(name: str = "weights", *, doc: str = "") -> onnx.ModelProto:
    """prediction = numeric @ [[1], [10]]."""
    weights = numpy_helper.from_array(np.array([[1.0], [10.0]], dtype=np.float32), name)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["numeric", name], ["prediction"])],
        "linear",
        [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
        [weights],
        doc_string=doc,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def make_external(tensor: TensorProto, location: str = "weights.bin") -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location


def test_model_is_loaded_and_run() -> None:
    body = linear_model().SerializeToString()

    session = load_session(body, sha(body), "tiny@1")
    numeric = np.array([[1, 2], [3, 4]], dtype=np.float32)
    answer = predict(session, REGRESSION, numeric, np.empty((2, 0), dtype=object))

    assert answer.tolist() == [21.0, 43.0]


def test_rows_beyond_one_batch_keep_their_order() -> None:
    body = linear_model().SerializeToString()
    session = load_session(body, sha(body), "tiny@1")
    rows = MAX_BATCH_ROWS * 2 + 3
    numeric = np.column_stack([np.arange(rows), np.zeros(rows)]).astype(np.float32)

    answer = predict(session, REGRESSION, numeric, np.empty((rows, 0), dtype=object))

    assert np.array_equal(answer, np.arange(rows, dtype=np.float32))


def test_strings_and_numbers_are_fed_by_name() -> None:
    compare = helper.make_graph(
        [
            helper.make_node(
                "LabelEncoder",
                ["categorical"],
                ["code"],
                domain="ai.onnx.ml",
                keys_strings=["yes", "no"],
                values_floats=[1.0, 0.0],
                default_float=0.5,
            ),
            helper.make_node("Sub", ["one", "code"], ["rest"]),
            helper.make_node("Concat", ["rest", "code"], ["probabilities"], axis=1),
        ],
        "labels",
        [helper.make_tensor_value_info("categorical", TensorProto.STRING, [None, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(np.array([[1.0]], dtype=np.float32), "one")],
    )
    model = helper.make_model(
        compare,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
    )
    model.ir_version = 9
    body = model.SerializeToString()
    session = load_session(body, sha(body), "tiny@1")

    answer = predict(
        session,
        signature(Task.BINARY, (feature("c", ColumnType.STRING),), ("0", "1")),
        np.empty((3, 0), dtype=np.float32),
        np.array([["yes"], ["no"], [""]], dtype=object),
    )

    assert answer.tolist() == [[0, 1], [1, 0], [0.5, 0.5]]


def test_bytes_other_than_registered_are_refused() -> None:
    body = linear_model().SerializeToString()
    flipped = bytearray(body)
    flipped[len(body) // 2] ^= 1

    with pytest.raises(DigestMismatchError, match=r"tiny@1: expected sha256 [0-9a-f]{64}, got"):
        load_session(bytes(flipped), sha(body), "tiny@1")


def test_any_flipped_bit_is_refused() -> None:
    body = linear_model().SerializeToString()
    registered = sha(body)

    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DigestMismatchError):
            load_session(bytes(flipped), registered, "tiny@1")


@pytest.mark.parametrize(
    "body",
    [b"", b"not a model", b"\x00\x00\x00\x00ORTM1234", linear_model().SerializeToString()[:-9]],
    ids=["empty", "text", "ort-format", "truncated"],
)
def test_bytes_that_are_no_model_are_an_artifact_error(body: bytes) -> None:
    with pytest.raises(ArtifactError, match="tiny@1"):
        load_session(body, sha(body), "tiny@1")


def test_external_initializer_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "weights.bin"
    secret.write_bytes(np.array([5.0, 5.0], dtype=np.float32).tobytes())
    model = linear_model()
    make_external(model.graph.initializer[0], str(secret))
    body = model.SerializeToString()

    with pytest.raises(ArtifactError, match="external data"):
        load_session(body, sha(body), "tiny@1")


def test_pointer_to_process_memory_is_refused() -> None:
    model = linear_model()
    make_external(model.graph.initializer[0], "*/_ORT_MEM_ADDR_/*")
    body = model.SerializeToString()

    with pytest.raises(ArtifactError, match="external data"):
        load_session(body, sha(body), "tiny@1")


def _in_constant_node() -> onnx.ModelProto:
    model = linear_model()
    tensor = numpy_helper.from_array(np.ones(3, dtype=np.float32), "k")
    make_external(tensor)
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))
    return model


def _in_subgraph() -> onnx.ModelProto:
    model = linear_model()
    inner = _in_constant_node().graph
    node = helper.make_node("If", ["numeric"], ["z"], then_branch=inner, else_branch=inner)
    model.graph.node.append(node)
    return model


def _in_function() -> onnx.ModelProto:
    model = linear_model()
    node = _in_constant_node().graph.node[-1]
    model.functions.append(
        helper.make_function("own", "F", [], ["k"], [node], [helper.make_opsetid("", 17)])
    )
    return model


def _in_sparse_initializer() -> onnx.ModelProto:
    model = linear_model()
    values = numpy_helper.from_array(np.ones(1, dtype=np.float32), "s")
    make_external(values)
    indices = numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return model


def _without_location_flag() -> onnx.ModelProto:
    model = linear_model()
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    return model


@pytest.mark.parametrize(
    "make",
    [_in_constant_node, _in_subgraph, _in_function, _in_sparse_initializer, _without_location_flag],
)
def test_external_data_is_found_wherever_a_tensor_can_be(make: object) -> None:
    assert callable(make)
    assert refers_to_external_data(make().SerializeToString())


@pytest.mark.parametrize("name", ["location", "external_data location"])
def test_a_feature_called_location_is_no_external_data(name: str) -> None:
    body = linear_model(name, doc="location").SerializeToString()

    session = load_session(body, sha(body), "tiny@1")

    assert session.get_inputs()[0].name == "numeric"


def test_a_large_model_is_walked_in_bounded_time() -> None:
    model = linear_model(doc="location")
    model.graph.node.append(
        helper.make_node("Fake", [], ["k"], floats=[0.5] * 300_000, strings=["BRANCH_LEQ"] * 50_000)
    )
    body = model.SerializeToString()

    start = time.perf_counter()
    assert not refers_to_external_data(body)

    assert time.perf_counter() - start < 5


def test_a_signature_of_another_width_is_an_artifact_error() -> None:
    body = linear_model().SerializeToString()
    session = load_session(body, sha(body), "tiny@1")
    three = signature(Task.REGRESSION, (feature("a"), feature("b"), feature("c")))

    with pytest.raises(ArtifactError, match="does not fit its signature"):
        predict(session, three, np.zeros((2, 3), dtype=np.float32), np.empty((2, 0), dtype=object))


def test_a_signature_of_another_task_is_an_artifact_error() -> None:
    body = linear_model().SerializeToString()
    session = load_session(body, sha(body), "tiny@1")
    binary = signature(Task.BINARY, (feature("a"), feature("b")), ("0", "1"))

    with pytest.raises(ArtifactError):
        predict(session, binary, np.zeros((2, 2), dtype=np.float32), np.empty((2, 0), dtype=object))
