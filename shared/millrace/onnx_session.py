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
from millrace.onnx_graph import FEATURES, behind_ranks, refers_to_external_data
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
    _verify(body, sha256, what)
    return _opened(body, what)


def load_ranked(
    body: bytes, sha256: str, what: str
) -> tuple[onnxruntime.InferenceSession, tuple[dict[str, float], ...] | None]:
    """Loads a model from memory, without its encoding of categories where they are ranked.

    Args:
        body: As `load_session`.
        sha256: Of the whole file.
        what: As `load_session`.

    Returns:
        The session, and of each categorical feature the ranks of its categories: `predict_ranked` runs
        it. With None in their place it is the whole model, which `predict` runs.

    Raises:
        DigestMismatchError: As `load_session`.
        ArtifactError: As `load_session`.
    """
    _verify(body, sha256, what)
    ranked = behind_ranks(body, what)
    if ranked is None:
        return _opened(body, what), None
    return _opened(ranked.body, what), ranked.ranks


def _verify(body: bytes, sha256: str, what: str) -> None:
    verify_sha256(body, sha256, what)
    if body[4:8] == b"ORTM":
        raise ArtifactError(f"{what}: expected an ONNX model, got onnxruntime's own format")
    if refers_to_external_data(body, what):
        raise ArtifactError(
            f"{what}: the model keeps weights in other files (ONNX external data), "
            "which its sha256 does not cover"
        )


def _opened(body: bytes, what: str) -> onnxruntime.InferenceSession:
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
    inputs: dict[str, npt.NDArray[Any]] = {}
    rows = 0
    if signature.numeric:
        inputs[NUMERIC_INPUT] = np.ascontiguousarray(numeric, dtype=np.float32)
        rows = len(numeric)
    if signature.categorical:
        inputs[CATEGORICAL_INPUT] = categorical
        rows = len(categorical)
    return _answer(session, signature, inputs, rows)


def predict_ranked(
    session: onnxruntime.InferenceSession,
    signature: Signature,
    features: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Runs a model from `load_ranked`; what comes and what is raised is as `predict` has it.

    Args:
        session: The session.
        signature: The model's signature.
        features: [rows, k + m]: the numbers, and of each text its rank, NaN where it has none.
    """
    return _answer(session, signature, {FEATURES: features}, len(features))


def _answer(
    session: onnxruntime.InferenceSession,
    signature: Signature,
    inputs: dict[str, npt.NDArray[Any]],
    rows: int,
) -> npt.NDArray[np.float32]:
    regression = signature.task is Task.REGRESSION
    output = PREDICTION_OUTPUT if regression else PROBABILITIES_OUTPUT
    width = 1 if regression else len(signature.classes)
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
