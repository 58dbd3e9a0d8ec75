"""Captured rows as a matrix: one column for each number, one for each frequent category.

The principal components of a baseline and those who look at live rows encode alike, here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.monitoring.baseline import EncodedColumn, PrincipalComponents

MAX_COLUMNS: Final = 200
"""Columns of the matrix; features beyond take no part in the multivariate view."""
MAX_CATEGORIES: Final = 10
"""Categories of one feature, the most frequent."""

type Floats = npt.NDArray[np.float64]
type Columns = Mapping[str, Sequence[Any]]
"""Captured inputs: numbers with None for missing, or texts with "" for missing."""


def numbers(values: Sequence[Any]) -> Floats:
    """A captured column of numbers; missing ones are NaN."""
    return np.asarray([np.nan if v is None else v for v in values], dtype=np.float64)


def encode(columns: Sequence[EncodedColumn], inputs: Columns) -> Floats:
    """The matrix of some rows, standardised as in the baseline; what is missing is 0.

    Args:
        columns: Of the baseline.
        inputs: The rows, column by column. A feature that they lack counts as missing in all.
    """
    rows = len(next(iter(inputs.values()), ()))
    encoded = np.zeros((rows, len(columns)))
    for index, column in enumerate(columns):
        values = inputs.get(column.feature)
        if values is None:
            continue
        if column.category is None:
            plain = numbers(values)
        else:
            texts = np.asarray(values, dtype=object)
            plain = np.where(texts == "", np.nan, (texts == column.category).astype(np.float64))
        standard = (plain - column.mean) / column.scale
        encoded[:, index] = np.where(np.isnan(standard), 0.0, standard)
    return encoded


def reconstruction_errors(components: PrincipalComponents, inputs: Columns) -> Floats:
    """How far each row lies from the span of the baseline's components (Euclidean distance)."""
    encoded = encode(components.columns, inputs)
    axes = np.asarray(components.components)
    errors: Floats = np.linalg.norm(encoded - (encoded @ axes.T) @ axes, axis=1)
    return errors
