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
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

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


class _Places(NamedTuple):
    """Where among the inputs the packed tensors are, None for one that the model has not."""

    numeric: int | None
    categorical: int | None


_OF_FEATURES: Final = _Places(None, None)
"""Of inputs that are single features."""


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
        self._answer = (
            b'{"model_name":%b,"model_version":"%%d",%%b"parameters":%%b,"outputs":[%%b]}'
            % orjson.dumps(signature.model)
        )
        self._beginnings = {
            LABEL_OUTPUT: b'{"name":"label","datatype":"%b","shape":[%%d],'
            % self._label_type.encode(),
            PREDICTION_OUTPUT: b'{"name":"prediction","datatype":"FP32","shape":[%d],',
            PROBABILITIES_OUTPUT: b'{"name":"probabilities","datatype":"FP32","shape":[%%d,%d],'
            % len(signature.classes),
        }
        """Of each output what stands before its data, but for the number of rows."""
        self._labels, self._raw_labels = self._known_labels()
        self._known: WeakKeyDictionary[Form, _Places] = WeakKeyDictionary()
        """Forms that fit, and where their tensors are."""

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
        places = None if form is None else self._known.get(form)
        if places == _OF_FEATURES:
            columns = {tensor.name: tensor.values for tensor in request.inputs}
            return codec.decode_columns(columns, rows=request.inputs[0].shape[0])
        if places is None:
            places = self._packed_places(request.inputs)
        batch = None if places is None else codec.decode_packed(_packed(request.inputs, places))
        if batch is None:
            batch = codec.decode_columns(self.columns(request))
            if places is None and self._are_features(request.inputs):
                places = _OF_FEATURES
        if form is not None and places is not None:
            self._known[form] = places
            if batch.coded is not None:
                form.vocabulary = codec.vocabulary
        return batch

    def _are_features(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the tensors are the signature's features, which have the same number of rows."""
        names = {tensor.name for tensor in inputs}
        return names == self._features.keys() and len({t.shape[0] for t in inputs}) == 1

    def _packed_places(self, inputs: Sequence[Tensor]) -> _Places | None:
        """Where the packed tensors are, where they can be taken as they are."""
        place_of = {tensor.name: place for place, tensor in enumerate(inputs)}
        if not place_of or place_of.keys() != self._packed.keys():
            return None
        rows = inputs[0].shape[0]
        for name, features in self._packed.items():
            if inputs[place_of[name]].shape != (rows, len(features)):
                return None
        places = _Places(place_of.get(NUMERIC_INPUT), place_of.get(CATEGORICAL_INPUT))
        if places.numeric is not None:
            values = inputs[places.numeric].values
            if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
                return None
        if places.categorical is not None and isinstance(
            inputs[places.categorical].values, np.ndarray
        ):
            return None
        return places

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
        rows = len(output)
        # Written by hand: there is no document that JSON would be made of.
        described: list[bytes] = []
        parts: list[bytes] = [b""]
        for name, binary in wanted.items():
            if name == LABEL_OUTPUT:
                top = output.argmax(axis=1)
                content: Any = self._label_bytes(top) if binary else self._labels[top].tolist()
            else:
                content = np.ascontiguousarray(output, dtype="<f4").reshape(-1)
                if binary:
                    content = content.tobytes()
            if binary:
                data = b'"parameters":{"binary_data_size":%d}}' % len(content)
                parts.append(content)
            else:
                data = b'"data":%b}' % orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
            described.append(self._beginnings[name] % rows + data)
        parts[0] = header = self._answer % (
            version,
            b"" if request.id is None else b'"id":%b,' % orjson.dumps(request.id),
            orjson.dumps(parameters),
            b",".join(described),
        )
        return (header, None) if len(parts) == 1 else (b"".join(parts), len(header))

    def _label_bytes(self, top: npt.NDArray[np.intp]) -> bytes:
        if self._label_type == "BYTES":
            return b"".join(self._raw_labels[top].tolist())
        picked: bytes = self._labels[top].tobytes()
        return picked


def _packed(inputs: Sequence[Tensor], places: _Places) -> Packed:
    rows = inputs[0].shape[0]
    numeric: Any = np.empty((rows, 0), dtype=np.float32)
    if places.numeric is not None:
        numeric = inputs[places.numeric].values
        numeric = numeric.reshape(rows, -1)
    categorical: Any = None if places.categorical is None else inputs[places.categorical].values
    return Packed(rows, numeric, categorical)


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
