"""Words that specs, signatures and requests share, apart from the spec that explains them.

A prediction's cold start reads this and not `spec`, whose models take longer to build than the
prediction's own model takes to load.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

MODEL_NAME_PATTERN = r"^[a-z][a-z0-9-]{0,38}[a-z0-9]$"

WHITESPACE: Final = " \t\r\n\v\f\u00a0\u2007\u202f\u3000\ufeff"
"""Cut from both ends of every text, whether it comes in an upload or in a request."""


class Task(StrEnum):
    """What the model predicts."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class ColumnType(StrEnum):
    """How a column's values are read and checked."""

    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    STRING = "string"
    TIMESTAMP = "timestamp"


class Algorithm(StrEnum):
    """Candidate algorithms; for regression the linear twin of logistic regression is ridge."""

    LINEAR = "linear"
    RANDOM_FOREST = "random_forest"
    HIST_GRADIENT_BOOSTING = "hist_gradient_boosting"


def null_texts(null_values: Iterable[str]) -> frozenset[str]:
    """The texts that mean "no value" once whitespace is cut; the empty one always does."""
    return frozenset({"", *(text.strip(WHITESPACE) for text in null_values)})


ANONYMOUS: Final = "anonymous"
"""Actor of a request that nobody signed."""
