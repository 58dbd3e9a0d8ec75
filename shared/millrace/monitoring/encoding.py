"""Captured rows as a matrix: one column for each number, one for each frequent category.

The principal components of a baseline and those who look at live rows encode alike, here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.monitoring.baseline import EncodedColumn, FeatureBaseline, PrincipalComponents

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


def bins_of(feature: FeatureBaseline, values: Sequence[Any]) -> tuple[npt.NDArray[np.int64], int]:
    """Captured values as numbers of bins, and how many bins there are.

    A category that the baseline does not name is in the last bin but one; a missing value is in the
    last one, as is every value of a feature that has no bins.
    """
    if feature.numeric is not None:
        edges = np.asarray(feature.numeric.edges[1:-1], dtype=np.float32)
        plain = numbers(values).astype(np.float32)
        bins = len(feature.numeric.counts)
        codes = np.searchsorted(edges, plain, side="right")
        return np.where(np.isnan(plain), bins, codes).astype(np.int64), bins + 1
    if feature.categorical is not None:
        names = feature.categorical.categories
        places = {name: place for place, name in enumerate(names)} | {"": len(names) + 1}
        return np.asarray([places.get(v, len(names)) for v in values], np.int64), len(names) + 2
    return np.zeros(len(values), dtype=np.int64), 1


def score_bins(edges: Sequence[float], scores: Floats) -> npt.NDArray[np.int64]:
    """Scores as numbers of the baseline's bins."""
    inner = np.asarray(edges[1:-1], dtype=np.float32)
    return np.searchsorted(inner, scores.astype(np.float32), side="right").astype(np.int64)
