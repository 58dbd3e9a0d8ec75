"""The one loader of ONNX models: verified, self-contained, on the CPU.

Both rooms that run models, evaluation and serving, load and run them here. A model is bytes whose
SHA-256 was registered; 61 of 300 single-bit flips of an ONNX file still load, so nothing but the
digest shows damage. A model that points at other files (ONNX *external data*) is refused: its
digest would not cover them, and the path is the model's choice.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from millrace.aws.objects import verify_sha256
from millrace.errors import ArtifactError
from millrace.signature import (
    CATEGORICAL_INPUT,
    NUMERIC_INPUT,
    PREDICTION_OUTPUT,
    PROBABILITIES_OUTPUT,
    Signature,
)
from millrace.vocabulary import Task

PROVIDERS: Final = ("CPUExecutionProvider",)
MAX_BATCH_ROWS: Final = 16_384
"""Rows per run: bounds the memory of one-hot encoded inputs; a request is one run below it."""

_ORT_ERRORS: Final = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)


def load_session(body: bytes, sha256: str, what: str) -> onnxruntime.InferenceSession:
    """Loads a model from memory.

    Args:
        body: The ONNX file.
        sha256: The digest that was registered, in hexadecimal.
        what: What the model is called in an error, e.g. ``churn@3``.

    Raises:
        DigestMismatchError: The bytes are not those registered.
        ArtifactError: The bytes are no model, or a model that needs other files.
    """
    verify_sha256(body, sha256, what)
    if body[4:8] == b"ORTM":
        raise ArtifactError(f"{what}: expected an ONNX model, got onnxruntime's own format")
    if refers_to_external_data(body, what):
        raise ArtifactError(
            f"{what}: the model keeps weights in other files (ONNX external data), "
            "which its sha256 does not cover"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: warnings would go to stderr unstructured
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Spinning workers burn a Lambda's CPU share between requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(body, options, providers=list(PROVIDERS))
    except _ORT_ERRORS as exc:
        raise ArtifactError(f"{what}: onnxruntime cannot load the model: {exc}") from exc


def predict(
    session: onnxruntime.InferenceSession,
    signature: Signature,
    numeric: npt.NDArray[np.float32],
    categorical: npt.NDArray[np.object_],
) -> npt.NDArray[np.float32]:
    """Runs the model.

    Args:
        session: From `load_session`.
        signature: The model's signature.
        numeric: [rows, k] in `Signature.numeric` order, missing NaN; k may be 0.
        categorical: [rows, m] of str in `Signature.categorical` order, missing ""; m may be 0.

    Returns:
        Probabilities [rows, classes] of a classification, predictions [rows] of a regression.

    Raises:
        ArtifactError: Model and signature do not fit each other.
    """
    regression = signature.task is Task.REGRESSION
    output = PREDICTION_OUTPUT if regression else PROBABILITIES_OUTPUT
    width = 1 if regression else len(signature.classes)
    inputs: dict[str, npt.NDArray[Any]] = {}
    rows = 0
    if signature.numeric:
        inputs[NUMERIC_INPUT] = np.ascontiguousarray(numeric, dtype=np.float32)
        rows = len(numeric)
    if signature.categorical:
        inputs[CATEGORICAL_INPUT] = categorical
        rows = len(categorical)
    if rows <= MAX_BATCH_ROWS:
        whole = _run(session, output, inputs)
    else:
        whole = np.concatenate(
            [
                _run(
                    session,
                    output,
                    {n: a[start : start + MAX_BATCH_ROWS] for n, a in inputs.items()},
                )
                for start in range(0, rows, MAX_BATCH_ROWS)
            ]
        )
    if whole.size != rows * width:
        raise ArtifactError(
            f"{signature.model}: expected {output} of shape [{rows}, {width}], "
            f"got {list(whole.shape)}"
        )
    return whole.reshape(rows) if regression else whole.reshape(rows, width)


def _run(
    session: onnxruntime.InferenceSession, output: str, inputs: dict[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float32]:
    try:
        (answer,) = session.run([output], inputs)
    except _ORT_ERRORS as exc:
        raise ArtifactError(f"the model does not fit its signature: {exc}") from exc
    if not isinstance(answer, np.ndarray):
        raise ArtifactError(f"output {output}: expected a tensor, got {type(answer).__name__}")
    return answer.astype(np.float32, copy=False)


# ── External data ───────────────────────────────────────────────────────────────────────────────
# The messages of onnx.proto that can hold a TensorProto, and the field numbers that lead there.
# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

_MODEL: Final = "ModelProto"
_TENSOR: Final = "TensorProto"
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    _MODEL: {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR,
        6: "GraphProto",
        10: _TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_EXTERNAL_DATA_FIELD: Final = 13
_DATA_LOCATION_FIELD: Final = 14


def refers_to_external_data(body: bytes, what: str = "the model") -> bool:
    """Whether any tensor of an ONNX model lives outside the file.

    External data needs an entry with the key ``location``; a file without these bytes has none,
    which a search tells at once. Only a file that has them is walked message by message (they may
    be a category's name).

    Raises:
        ArtifactError: The file is no well-formed protobuf message.
    """
    if b"location" not in body:
        return False
    pending = [(_MODEL, 0, len(body))]
    while pending:
        message, position, end = pending.pop()
        while position < end:
            key, position = _varint(body, position, end, what)
            field, wire_type = key >> 3, key & 7
            if message == _TENSOR and field in (_EXTERNAL_DATA_FIELD, _DATA_LOCATION_FIELD):
                if field == _EXTERNAL_DATA_FIELD:
                    return True
                location, position = _varint(body, position, end, what)
                if location != 0:
                    return True
            elif wire_type == 0:
                _, position = _varint(body, position, end, what)
            elif wire_type == 1:
                position += 8
            elif wire_type == 2:
                length, position = _varint(body, position, end, what)
                if position + length > end:
                    raise ArtifactError(f"{what}: the file is truncated or no ONNX model")
                if field in _CHILDREN[message]:
                    pending.append((_CHILDREN[message][field], position, position + length))
                position += length
            elif wire_type == 5:
                position += 4
            else:
                raise ArtifactError(
                    f"{what}: the file is no ONNX model: unknown protobuf wire type"
                )
        if position != end:
            raise ArtifactError(f"{what}: the file is truncated or no ONNX model")
    return False


def _varint(body: bytes, position: int, end: int, what: str) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ArtifactError(f"{what}: the file is truncated or no ONNX model")
