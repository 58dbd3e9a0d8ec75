"""The tensors of the Open Inference Protocol (v2), and how a model's signature maps to them.

A model takes its features in one of two forms:

* **one tensor per feature**, named as the feature, of shape [n] or [n, 1]. The metadata names the
  datatype that fits: INT64, FP64, BOOL or BYTES. Numbers may come in any numeric datatype: the
  rules are those of the signature, whatever the datatype. A missing value is ``null`` in JSON, NaN
  in floating point, and the empty string in BYTES; integers and booleans in binary have none.
* **two packed tensors**, as the ONNX graph has them: ``numeric`` (FP32 or any numeric datatype,
  [n, k]) with all numbers and booleans, and ``categorical`` (BYTES, [n, m]) with all strings, each
  in the order of the signature, which the metadata's properties name. It is the fast form. A model
  with a feature called like one of the two has only the first form.

It gives ``label`` (BYTES, INT64 or BOOL, [n]) and ``probabilities`` (FP32, [n, classes]) of a
classification, ``prediction`` (FP32, [n]) of a regression.

How tensors come is `inference_request`'s, and the rules for their values are `codec`'s.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from weakref import WeakSet

import numpy as np
import numpy.typing as npt
import orjson

from millrace.errors import InvalidRequestError
from millrace.serving.byte_texts import element
from millrace.serving.codec import SignatureCodec
from millrace.serving.columns import Coded, Column
from millrace.serving.diagnosis import Report
from millrace.serving.features import Batch
from millrace.serving.inference_request import (
    NUMERIC_DATATYPES,
    Form,
    InferenceRequest,
    Tensor,
)
from millrace.serving.packed import Packed
from millrace.signature import (
    CATEGORICAL_INPUT,
    NUMERIC_INPUT,
    PREDICTION_OUTPUT,
    PROBABILITIES_OUTPUT,
    FeatureField,
    Signature,
)
from millrace.vocabulary import ColumnType, Task

LABEL_OUTPUT: Final = "label"

_OF_FEATURE: Final[dict[ColumnType, str]] = {
    ColumnType.INTEGER: "INT64",
    ColumnType.NUMBER: "FP64",
    ColumnType.BOOLEAN: "BOOL",
    ColumnType.STRING: "BYTES",
}


class TensorMap:
    """What a signature is in tensors.

    Args:
        signature: What the model takes and gives.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._features = {f.name: f for f in signature.features}
        self._packed: dict[str, tuple[str, ...]] = {}
        if not {NUMERIC_INPUT, CATEGORICAL_INPUT} & self._features.keys():
            for name, features in (
                (NUMERIC_INPUT, signature.numeric),
                (CATEGORICAL_INPUT, signature.categorical),
            ):
                if features:
                    self._packed[name] = tuple(f.name for f in features)
        self._label_type = {
            ColumnType.INTEGER: "INT64",
            ColumnType.BOOLEAN: "BOOL",
        }.get(signature.target_type, "BYTES")
        self._labels, self._raw_labels = self._known_labels()
        self._fitting: WeakSet[Form] = WeakSet()
        """Forms with a tensor for each feature, all of them as they should be."""

    def _known_labels(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.object_]]:
        """Every class in its datatype, and each as an element of binary BYTES."""
        classes = self.signature.classes
        raw = np.empty(len(classes), dtype=object)
        raw[:] = [element(c) for c in classes]
        if self._label_type == "INT64":
            return np.array([int(c) for c in classes], dtype="<i8"), raw
        if self._label_type == "BOOL":
            return np.array([c.lower() in ("true", "1") for c in classes], dtype=np.bool_), raw
        texts = np.empty(len(classes), dtype=object)
        texts[:] = classes
        return texts, raw

    def metadata(self) -> dict[str, Any]:
        """``inputs``, ``outputs`` and ``properties`` of the model's metadata."""
        signature = self.signature
        outputs: list[dict[str, Any]]
        if signature.task is Task.REGRESSION:
            outputs = [{"name": PREDICTION_OUTPUT, "datatype": "FP32", "shape": [-1]}]
        else:
            outputs = [
                {"name": LABEL_OUTPUT, "datatype": self._label_type, "shape": [-1]},
                {
                    "name": PROBABILITIES_OUTPUT,
                    "datatype": "FP32",
                    "shape": [-1, len(signature.classes)],
                },
            ]
        properties = {"task": signature.task.value, "target": signature.target}
        if signature.classes:
            properties["classes"] = orjson.dumps(signature.classes).decode()
        for name, features in self._packed.items():
            properties[f"packed.{name}"] = orjson.dumps(features).decode()
        return {
            "inputs": [
                {"name": f.name, "datatype": _OF_FEATURE[f.type], "shape": [-1]}
                for f in signature.features
            ],
            "outputs": outputs,
            "properties": properties,
        }

    # ── In ──────────────────────────────────────────────────────────────────────────────────────

    def batch(self, request: InferenceRequest, codec: SignatureCodec) -> Batch:
        """The request's rows as the model takes them.

        Args:
            request: The request.
            codec: Of the same signature.

        Raises:
            RequestTooLargeError: More rows than one request may carry.
            InvalidRequestError: Names what does not fit.
        """
        form = request.form
        if form is not None and form in self._fitting:
            columns = {tensor.name: tensor.values for tensor in request.inputs}
            return codec.decode_columns(columns, rows=request.inputs[0].shape[0])
        packed = self._packed_as_they_are(request)
        batch = None if packed is None else codec.decode_packed(packed)
        if batch is not None:
            return batch
        batch = codec.decode_columns(self.columns(request))
        if form is not None and packed is None and self._are_features(request):
            self._fitting.add(form)
        return batch

    def _are_features(self, request: InferenceRequest) -> bool:
        """Whether the tensors are the signature's features, which have the same number of rows."""
        names = {tensor.name for tensor in request.inputs}
        return names == self._features.keys() and len({t.shape[0] for t in request.inputs}) == 1

    def _packed_as_they_are(self, request: InferenceRequest) -> Packed | None:
        """A request's packed tensors as they are, where their shapes and datatypes fit."""
        given = {tensor.name: tensor for tensor in request.inputs}
        if not given or given.keys() != self._packed.keys():
            return None
        rows = request.inputs[0].shape[0]
        for name, features in self._packed.items():
            if given[name].shape != (rows, len(features)):
                return None
        numeric: Any = np.empty((rows, 0), dtype=np.float32)
        if NUMERIC_INPUT in given:
            values = given[NUMERIC_INPUT].values
            if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
                return None
            numeric = values.reshape(rows, -1)
        categorical = given[CATEGORICAL_INPUT].values if CATEGORICAL_INPUT in given else None
        if isinstance(categorical, np.ndarray):
            return None
        return Packed(rows, numeric, categorical)

    def columns(self, request: InferenceRequest) -> dict[str, Column]:
        """The request's tensors as columns by feature, in either form.

        Raises:
            InvalidRequestError: Names every tensor whose datatype or shape does not fit.
        """
        names = {tensor.name for tensor in request.inputs}
        if names and names <= self._packed.keys():
            return self._unpack(request.inputs)
        report = Report(self.signature.model)
        for name in (n for n in self._packed if n in names):
            report.add(name, "packs all features: it comes with no tensors of single ones")
        report.refuse()
        columns: dict[str, Column] = {}
        for position, tensor in enumerate(request.inputs):
            if len(tensor.shape) == 2 and tensor.shape[1] != 1:
                report.add(
                    tensor.name if tensor.name in self._features else f"inputs[{position}]",
                    f"expected shape [n] or [n, 1], got {list(tensor.shape)}",
                )
            feature = self._features.get(tensor.name)
            if feature is None:
                report.add(f"inputs[{position}]", f"is no feature of model {self.signature.model}")
            elif not _fits(feature, tensor.datatype):
                report.add(feature.name, _wrong_datatype(feature, tensor.datatype))
            columns[tensor.name] = tensor.values
        report.refuse()
        return columns

    def _unpack(self, inputs: Sequence[Tensor]) -> dict[str, Column]:
        report = Report(self.signature.model)
        given = {tensor.name: tensor for tensor in inputs}
        columns: dict[str, Column] = {}
        for name, features in self._packed.items():
            tensor = given.get(name)
            if tensor is None:
                report.add(name, "is missing: the packed form has all its tensors")
                continue
            if name == NUMERIC_INPUT:
                fits, expected = tensor.datatype in NUMERIC_DATATYPES, "FP32"
            else:
                fits, expected = tensor.datatype == "BYTES", "BYTES"
            if not fits:
                report.add(name, f"expected datatype {expected}, got {tensor.datatype}")
            if len(tensor.shape) != 2 or tensor.shape[1] != len(features):
                report.add(name, f"expected shape [n, {len(features)}], got {list(tensor.shape)}")
        lengths = {tensor.shape[0] for tensor in inputs}
        if len(lengths) > 1:
            report.add(NUMERIC_INPUT, "has another number of rows than categorical")
        report.refuse()
        for name, features in self._packed.items():
            values, width = given[name].values, len(features)
            for position, feature in enumerate(features):
                column = _every(values, position, width)
                if self._features[feature].type is ColumnType.BOOLEAN:
                    column = _as_flags(column, feature, report)
                columns[feature] = column
        report.refuse()
        return columns

    # ── Out ─────────────────────────────────────────────────────────────────────────────────────

    def expect_outputs(self, wanted: Mapping[str, bool] | None) -> None:
        """Refuses outputs that the model does not have, before it runs.

        Raises:
            InvalidRequestError: Names the first that is unknown.
        """
        known = self.outputs
        for position, name in enumerate(wanted or ()):
            if name not in known:
                raise InvalidRequestError(
                    f"outputs[{position}] is none of model {self.signature.model}; "
                    f"its outputs are {', '.join(known)}"
                )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        if self.signature.task is Task.REGRESSION:
            return (PREDICTION_OUTPUT,)
        return (LABEL_OUTPUT, PROBABILITIES_OUTPUT)

    def answer(
        self,
        request: InferenceRequest,
        output: npt.NDArray[np.float32],
        *,
        version: int,
        parameters: Mapping[str, str | int | bool],
    ) -> tuple[bytes, int | None]:
        """The response body, and the length of its JSON when binary tensors follow.

        Args:
            request: Says what is wanted, and how.
            output: Probabilities [rows, classes], or predictions [rows] of a regression.
            version: The model version that answered.
            parameters: Parameters of the response.
        """
        wanted = request.outputs
        if wanted is None:
            wanted = dict.fromkeys(self.outputs, request.binary)
        top = output.argmax(axis=1) if LABEL_OUTPUT in wanted else None
        described: list[dict[str, Any]] = []
        parts: list[bytes] = [b""]
        for name, binary in wanted.items():
            entry: dict[str, Any]
            if name == LABEL_OUTPUT and top is not None:
                entry = {"name": name, "datatype": self._label_type, "shape": [len(top)]}
                content: Any = self._label_bytes(top) if binary else self._labels[top].tolist()
            else:
                entry = {"name": name, "datatype": "FP32", "shape": list(output.shape)}
                flat = np.ascontiguousarray(output, dtype="<f4").reshape(-1)
                content = flat.tobytes() if binary else flat
            if binary:
                entry["parameters"] = {"binary_data_size": len(content)}
                parts.append(content)
            else:
                entry["data"] = content
            described.append(entry)
        document: dict[str, Any] = {
            "model_name": self.signature.model,
            "model_version": str(version),
        }
        if request.id is not None:
            document["id"] = request.id
        document["parameters"] = parameters
        document["outputs"] = described
        parts[0] = header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        return (header, None) if len(parts) == 1 else (b"".join(parts), len(header))

    def _label_bytes(self, top: npt.NDArray[np.intp]) -> bytes:
        if self._label_type == "BYTES":
            return b"".join(self._raw_labels[top].tolist())
        picked: bytes = self._labels[top].tobytes()
        return picked


def _every(values: Column, position: int, width: int) -> Column:
    """One column of a tensor; a coded one keeps the texts of all, of which it uses some."""
    if isinstance(values, Coded):
        return Coded(values.codes[position::width], values.values)
    return values[position::width]


def _fits(feature: FeatureField, datatype: str) -> bool:
    if feature.type in (ColumnType.INTEGER, ColumnType.NUMBER):
        return datatype in NUMERIC_DATATYPES
    return datatype == _OF_FEATURE[feature.type]


def _wrong_datatype(feature: FeatureField, came: str) -> str:
    expected = _OF_FEATURE[feature.type]
    other = " or another numeric one" if expected in NUMERIC_DATATYPES else ""
    return f"expected datatype {expected}{other}, got {came}"


def _as_flags(column: Column, feature: str, report: Report) -> Column:
    """A boolean column of the packed numbers: 0, 1, or missing."""
    numbers = np.asarray(column, dtype=np.float64)
    missing = np.isnan(numbers)
    wrong = ~(missing | (numbers == 0) | (numbers == 1))
    for row in np.flatnonzero(wrong).tolist():
        report.add(feature, f"expected 0 or 1 for a boolean in {NUMERIC_INPUT}, got another", row)
    flags: npt.NDArray[np.bool_] = numbers == 1
    if not missing.any():
        return flags
    return [None if gone else flag for flag, gone in zip(flags.tolist(), missing, strict=True)]
