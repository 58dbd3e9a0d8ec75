"""The model signature: what a model version takes and gives, fixed at registration.

The ONNX graph has at most two inputs: ``numeric`` (float32, shape [n, k]) with the numeric feature
columns in `Signature.numeric` order (booleans as 0 and 1, missing as NaN), and ``categorical``
(string, shape [n, m]) with the string feature columns in `Signature.categorical` order (missing as
the empty string). An input without columns is absent from the graph.
Outputs: classification ``probabilities`` (float32, [n, classes], in `Signature.classes` order);
regression ``prediction`` (float32, [n, 1]).
"""

from pydantic import BaseModel, ConfigDict

from millrace.spec import Algorithm, ColumnType, Task

NUMERIC_INPUT = "numeric"
CATEGORICAL_INPUT = "categorical"
PROBABILITIES_OUTPUT = "probabilities"
PREDICTION_OUTPUT = "prediction"
MISSING_CATEGORY = ""


class FeatureField(BaseModel):
    """One feature as the caller sends it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    type: ColumnType
    nullable: bool
    min: float | None = None
    max: float | None = None
    allowed: tuple[str, ...] | None = None
    private: bool = False


class Signature(BaseModel):
    """Inputs and outputs of one model version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    task: Task
    target: str
    features: tuple[FeatureField, ...]
    classes: tuple[str, ...] = ()
    """Class labels as text, in the order of the probabilities; empty for regression."""
    target_type: ColumnType
    """Type the labels are given back in: integer 1, boolean true or string "1"."""
    algorithm: Algorithm
    onnx_opset: int
    null_values: tuple[str, ...] = ()
    """Texts that meant "no value" in the training data, and mean it in requests."""

    @property
    def numeric(self) -> tuple[FeatureField, ...]:
        """Features of the ``numeric`` input, in order."""
        return tuple(f for f in self.features if f.type is not ColumnType.STRING)

    @property
    def categorical(self) -> tuple[FeatureField, ...]:
        """Features of the ``categorical`` input, in order."""
        return tuple(f for f in self.features if f.type is ColumnType.STRING)
