"""The model signature: what a model version takes and gives, fixed at registration.

The ONNX graph has at most two inputs: ``numeric`` (float32, shape [n, k]) with the numeric feature
columns in `Signature.numeric` order (booleans as 0 and 1, missing as NaN), and ``categorical``
(string, shape [n, m]) with the string feature columns in `Signature.categorical` order (missing as
the empty string). An input without columns is absent from the graph.
Outputs: classification ``probabilities`` (float32, [n, classes], in `Signature.classes` order);
regression ``prediction`` (float32, [n, 1]).
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal

from millrace.typed import make
from millrace.vocabulary import Algorithm, ColumnType, Task

NUMERIC_INPUT = "numeric"
CATEGORICAL_INPUT = "categorical"
PROBABILITIES_OUTPUT = "probabilities"
PREDICTION_OUTPUT = "prediction"
MISSING_CATEGORY = ""

_CLOSED: Final = {"extra": "forbid"}
"""What pydantic is told of these dataclasses where they are part of its models."""


@dataclass(frozen=True, kw_only=True)
class FeatureField:
    """One feature as the caller sends it."""

    __pydantic_config__: ClassVar = _CLOSED

    name: str
    type: ColumnType
    nullable: bool
    min: float | None = None
    max: float | None = None
    allowed: tuple[str, ...] | None = None
    private: bool = False
    categories: tuple[str, ...] | None = None
    """The values the model was fitted on, sorted. None when that is not known: a feature that is no
    text, a private one (its values are nobody's to read), one with too many different values, or a
    version made before this was kept."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One typical row, which contributions are measured from.

    Every value is an aggregate over the rows of the fit, and missing for a private feature: no
    person's row is in it.
    """

    __pydantic_config__: ClassVar = _CLOSED

    numeric: tuple[float | None, ...]
    """The median of each feature of the ``numeric`` input; None: missing."""
    categorical: tuple[str, ...]
    """The most frequent value of each feature of the ``categorical`` input; "": missing."""


@dataclass(frozen=True, kw_only=True)
class Conformal:
    """What split conformal prediction learned from the rows held back for it."""

    __pydantic_config__: ClassVar = _CLOSED

    method: Literal["absolute_residual", "lac"]
    """``absolute_residual``: |value - prediction| of a regression (Lei et al. 2018). ``lac``: one
    minus the probability of the true class (least ambiguous sets, Sadinle et al. 2019)."""
    rows: int
    """Rows held back: neither fitted on nor chosen by."""
    levels: tuple[float, ...]
    """Coverages that so many rows can promise, ascending."""
    quantiles: tuple[float, ...]
    """Per level the largest score that is still inside."""
    exchangeable: bool = True
    """False for a split by time: then coverage is promised only as far as the future is like the
    past."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Inputs and outputs of one model version."""

    __pydantic_config__: ClassVar = _CLOSED

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
    unknown_categories: Literal["serve", "refuse"] = "serve"
    """What becomes of a request with a value that is not among a feature's `categories`."""
    reference: Reference | None = None
    """None: the version was made before contributions were."""
    conformal: Conformal | None = None
    """None: too few rows to promise anything, or a version made before intervals were."""

    @cached_property
    def numeric(self) -> tuple[FeatureField, ...]:
        """Features of the ``numeric`` input, in order."""
        return tuple(f for f in self.features if f.type is not ColumnType.STRING)

    @cached_property
    def categorical(self) -> tuple[FeatureField, ...]:
        """Features of the ``categorical`` input, in order."""
        return tuple(f for f in self.features if f.type is ColumnType.STRING)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Signature":
        """The signature of a stored document.

        Raises:
            ValueError: It is no JSON.
            WrongValue: A field is wrong, missing or unknown.
        """
        return make(cls, json.loads(text))

    def document(self) -> dict[str, Any]:
        """The signature as it is stored: a JSON document."""
        return dataclasses.asdict(self)

    def to_json(self) -> bytes:
        """The document as canonical JSON: the one text that its digest is over."""
        return json.dumps(
            self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()
