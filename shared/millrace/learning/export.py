"""A fitted pipeline as one ONNX graph, from the inputs of `millrace.signature` to its outputs."""

import warnings
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType

from millrace.errors import TrainingError
from millrace.learning.features import ONNX_ML
from millrace.learning.model import FittedModel
from millrace.onnx_graph import FEATURES
from millrace.signature import (
    CATEGORICAL_INPUT,
    NUMERIC_INPUT,
    PREDICTION_OUTPUT,
    PROBABILITIES_OUTPUT,
)
from millrace.spec import Algorithm, Task

OPSET = 17
"""Understood by every ONNX Runtime since 1.12 (2022), edge builds included."""

ML_OPSET = 3
IR_VERSION = 8


def to_onnx(model: FittedModel, *, doc: str, metadata: Mapping[str, str]) -> bytes:
    """Converts a fitted pipeline; the same model and metadata give the same bytes.

    Args:
        model: The fitted pipeline.
        doc: One sentence on what the model is.
        metadata: Goes into the file's metadata properties.

    Raises:
        TrainingError: The estimator cannot be converted.
    """
    if model.algorithm is Algorithm.HIST_GRADIENT_BOOSTING:
        _round_thresholds(model)
    try:
        # protobuf warns that skl2onnx puts booleans into integer attributes; they are 0 and 1.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            converted = convert_sklearn(
                model.estimator,
                name="estimator",
                initial_types=[(FEATURES, FloatTensorType([None, model.encoder.width]))],
                target_opset={"": OPSET, ONNX_ML: ML_OPSET},
                options=None if model.task is Task.REGRESSION else {"zipmap": False},
            )
    except (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError) as exc:
        # skl2onnx puts whole trees into its messages.
        reason = str(exc)[:200]
        raise TrainingError(
            f"{model.algorithm} cannot be converted to ONNX: {type(exc).__name__}: {reason}"
        ) from exc
    graph = _whole_graph(model, converted.graph)
    whole = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(ONNX_ML, ML_OPSET)],
        producer_name="millrace",
        ir_version=IR_VERSION,
        doc_string=doc,
    )
    helper.set_model_props(whole, dict(sorted(metadata.items())))
    onnx.checker.check_model(whole, full_check=True)
    body: bytes = whole.SerializeToString(deterministic=True)
    return body


def _whole_graph(model: FittedModel, estimator: onnx.GraphProto) -> onnx.GraphProto:
    nodes, constants = model.encoder.onnx_nodes()
    _set_apart(estimator)
    nodes += estimator.node
    constants += estimator.initializer
    if model.task is Task.REGRESSION:
        wanted, columns = PREDICTION_OUTPUT, 1
        given = estimator.output[0].name
    else:
        wanted, columns = PROBABILITIES_OUTPUT, model.classes
        given = estimator.output[1].name
        seen = model.estimator.classes_
        if len(seen) < model.classes:
            # Classes the fit never saw get probability 0, so that columns stay class codes.
            place = np.zeros((len(seen), model.classes), dtype=np.float32)
            place[np.arange(len(seen)), seen] = 1.0
            constants.append(numpy_helper.from_array(place, "class_places"))
            nodes.append(
                helper.make_node("MatMul", [given, "class_places"], ["all_classes"], "place")
            )
            given = "all_classes"
    nodes = _needed(nodes, given)
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == given:
                    names[index] = wanted
    used = {name for node in nodes for name in node.input}
    inputs = []
    if model.encoder.numbers:
        inputs.append(
            helper.make_tensor_value_info(
                NUMERIC_INPUT, TensorProto.FLOAT, ["rows", model.encoder.numbers]
            )
        )
    if model.encoder.vocabulary:
        inputs.append(
            helper.make_tensor_value_info(
                CATEGORICAL_INPUT, TensorProto.STRING, ["rows", len(model.encoder.vocabulary)]
            )
        )
    return helper.make_graph(
        nodes,
        "millrace",
        inputs,
        [helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["rows", columns])],
        initializer=[constant for constant in constants if constant.name in used],
    )


def _set_apart(estimator: onnx.GraphProto) -> None:
    """Prefixes the names skl2onnx gave, so that none meets one of ours."""

    def renamed(name: str) -> str:
        return name if name in ("", FEATURES) else f"estimator/{name}"

    for node in estimator.node:
        node.name = renamed(node.name)
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed(name)
    for named in (*estimator.initializer, *estimator.output):
        named.name = renamed(named.name)


def _needed(nodes: list[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """The nodes an output depends on, in order: drops what computes the label."""
    needed = {output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]


def _round_thresholds(model: FittedModel) -> None:
    """Rounds the thresholds of boosted trees down to float32, in place.

    skl2onnx 1.20 rounds them to the nearest float32, which may be the next value above: that value
    then falls to the other side. Rounded down, a float32 input compares the same in both.
    """
    for iteration in model.estimator._predictors:
        for tree in iteration:
            exact = tree.nodes["num_threshold"]
            with np.errstate(over="ignore"):
                rounded = exact.astype(np.float32)
            above = rounded > exact
            rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
            tree.nodes["num_threshold"] = rounded
