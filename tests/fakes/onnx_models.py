"""Small real models, built by hand: no trainer needed, and the answer can be worked out."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from millrace.layout import model_key, signature_key
from millrace.registry.registry import Registry
from millrace.signature import (
    CATEGORICAL_INPUT,
    NUMERIC_INPUT,
    PREDICTION_OUTPUT,
    PROBABILITIES_OUTPUT,
    FeatureField,
    Signature,
)
from millrace.spec import Algorithm, ColumnType, Task
from tests.fakes import cases

PLAN_WEIGHTS = {"basic": -1.0, "premium": 1.0}


@dataclass(frozen=True)
class StoredModel:
    """A model and its signature as they lie in S3."""

    signature: Signature
    onnx: bytes
    model_key: str
    signature_key: str

    @property
    def sha256(self) -> str:
        """Digest of the model."""
        return hashlib.sha256(self.onnx).hexdigest()

    @property
    def signature_body(self) -> bytes:
        """The signature as stored."""
        return self.signature.to_json()

    @property
    def signature_sha256(self) -> str:
        """Digest of the stored signature."""
        return hashlib.sha256(self.signature_body).hexdigest()


def churn_signature(name: str = "churn", task: Task = Task.BINARY) -> Signature:
    """Five features of every type: tenure, age, active, plan, city."""
    return Signature(
        model=name,
        task=task,
        target="left",
        features=(
            FeatureField(name="age", type=ColumnType.INTEGER, nullable=False, min=18, max=120),
            FeatureField(
                name="plan", type=ColumnType.STRING, nullable=True, allowed=("basic", "premium")
            ),
            FeatureField(name="tenure", type=ColumnType.NUMBER, nullable=True),
            FeatureField(name="active", type=ColumnType.BOOLEAN, nullable=False),
            FeatureField(name="city", type=ColumnType.STRING, nullable=False, private=True),
        ),
        classes=() if task is Task.REGRESSION else ("0", "1"),
        target_type=ColumnType.NUMBER if task is Task.REGRESSION else ColumnType.INTEGER,
        algorithm=Algorithm.LINEAR,
        onnx_opset=17,
        null_values=("NA",),
    )


def stored(
    run_id: str,
    *,
    name: str = "churn",
    task: Task = Task.BINARY,
    bias: float = 0.0,
    signature: Signature | None = None,
) -> StoredModel:
    """A linear model: ``0.01 age + 0.1 tenure (0 if missing) + 0.5 active + plan's weight + bias``.

    Its probability of class 1 is the sigmoid of that; its regression is that.
    """
    signature = signature or churn_signature(name, task)
    return StoredModel(
        signature=signature,
        onnx=_linear(signature, bias),
        model_key=model_key(name, run_id),
        signature_key=signature_key(name, run_id),
    )


def crown(
    registry: Registry,
    put: Callable[[str, bytes], None],
    number: int,
    model: StoredModel | None = None,
    *,
    promoted: bool = True,
) -> StoredModel:
    """Trains one more version, as the pipeline does, and makes it champion.

    Args:
        registry: The registry.
        put: Writes an artifact under a key.
        number: Which upload it is trained on, and the bias of the default model.
        model: The model; one called churn by default.
        promoted: False leaves it a version that passed its gates.
    """
    name = model.signature.model if model else cases.MODEL
    spec = cases.spec(name)
    cases.apply(registry, spec)
    run = cases.run(number, spec)
    registry.create_run(run)
    task = cases.training_input(run)
    ingest = cases.ingested(f"d{number}", name)
    registry.record_dataset(task, ingest, train_on_upload=True)
    model = model or stored(run.run_id, bias=float(number))
    put(model.model_key, model.onnx)
    put(model.signature_key, model.signature_body)
    registration = registry.register_version(
        task,
        ingest,
        cases.fitted(
            run.run_id,
            name,
            model_key=model.model_key,
            sha256=model.sha256,
            signature_key=model.signature_key,
            signature_sha256=model.signature_sha256,
        ),
    )
    before = registration.champion.version if registration.champion else None
    registry.record_evaluation(
        task,
        registration.version,
        cases.evaluated(run.run_id, champion=before, model=name),
        automatic=True,
    )
    if promoted:
        registry.promote(name, registration.version, actor="ada", expected_champion=before)
    return model


def _linear(signature: Signature, bias: float) -> bytes:
    weights = np.array([[0.01], [0.1], [0.5]], dtype=np.float32)
    nodes = [
        helper.make_node(
            "Imputer",
            [NUMERIC_INPUT],
            ["full"],
            domain="ai.onnx.ml",
            imputed_value_floats=[0.0],
            replaced_value_float=float("nan"),
        ),
        helper.make_node("MatMul", ["full", "weights"], ["scored"]),
        helper.make_node("Gather", [CATEGORICAL_INPUT, "first"], ["plan"], axis=1),
        helper.make_node(
            "LabelEncoder",
            ["plan"],
            ["plan_score"],
            domain="ai.onnx.ml",
            keys_strings=list(PLAN_WEIGHTS),
            values_floats=list(PLAN_WEIGHTS.values()),
            default_float=0.0,
        ),
        helper.make_node("Add", ["scored", "plan_score"], ["sum"]),
    ]
    if signature.task is Task.REGRESSION:
        nodes.append(helper.make_node("Add", ["sum", "bias"], [PREDICTION_OUTPUT]))
        output = helper.make_tensor_value_info(PREDICTION_OUTPUT, TensorProto.FLOAT, [None, 1])
    else:
        nodes += [
            helper.make_node("Add", ["sum", "bias"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["positive"]),
            helper.make_node("Sub", ["one", "positive"], ["negative"]),
            helper.make_node("Concat", ["negative", "positive"], [PROBABILITIES_OUTPUT], axis=1),
        ]
        output = helper.make_tensor_value_info(PROBABILITIES_OUTPUT, TensorProto.FLOAT, [None, 2])
    graph = helper.make_graph(
        nodes,
        signature.model,
        [
            helper.make_tensor_value_info(NUMERIC_INPUT, TensorProto.FLOAT, [None, 3]),
            helper.make_tensor_value_info(CATEGORICAL_INPUT, TensorProto.STRING, [None, 2]),
        ],
        [output],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([bias], dtype=np.float32), "bias"),
            numpy_helper.from_array(np.array([1.0], dtype=np.float32), "one"),
            numpy_helper.from_array(np.array([0], dtype=np.int64), "first"),
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=9,
    )
    content: bytes = model.SerializeToString()
    return content
