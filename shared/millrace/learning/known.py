"""What a signature keeps of the rows a model was fitted on: aggregates, and never a row."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from millrace.errors import TrainingError
from millrace.learning.features import Rows
from millrace.signature import MISSING_CATEGORY, Reference
from millrace.spec import Column, ColumnType, ModelSpec

MAX_CATEGORIES: Final = 1_000
"""Most categories of one feature that a signature names."""

MAX_REFUSABLE_CATEGORIES: Final = 10_000
"""The same where the spec has others refused: as many as `allowed` may name."""


def known_categories(spec: ModelSpec, seen: Rows) -> dict[str, tuple[str, ...]]:
    """The values of each text feature, sorted; a feature with too many has none.

    The values of a private feature are not kept: whoever may look at a model may read its
    signature.

    Args:
        spec: The run's spec.
        seen: The rows the model was fitted on.

    Raises:
        TrainingError: The spec has unknown categories refused, and they cannot be told.
    """
    refused = spec.serve.unknown_categories == "refuse"
    most = MAX_REFUSABLE_CATEGORIES if refused else MAX_CATEGORIES
    known: dict[str, tuple[str, ...]] = {}
    for index, column in enumerate(_texts(spec.features)):
        codes = np.unique(seen.codes[:, index])
        values = {seen.categories[index][code] for code in codes.tolist() if code >= 0}
        values = {value for value in values if value != MISSING_CATEGORY and "\0" not in value}
        private = column.name in spec.private_columns
        if refused and (private or len(values) > most):
            what = "is private" if private else f"has {len(values):,} different values"
            raise TrainingError(
                f"serve.unknown_categories is refuse, and feature {column.name!r} {what}: expected "
                f"at most {most:,} values that may be kept with the model; serve unknown "
                "categories, or do without the feature"
            )
        if not private and len(values) <= most:
            known[column.name] = tuple(sorted(values))
    return known


def typical_row(spec: ModelSpec, seen: Rows) -> Reference:
    """Medians and most frequent values; a private feature is missing.

    Args:
        spec: The run's spec.
        seen: The rows the model was fitted on.
    """
    numbers = [c for c in spec.features if c.type is not ColumnType.STRING]
    medians: list[float | None] = []
    for index, column in enumerate(numbers):
        values = seen.numeric[:, index].astype(np.float64)
        values = values[~np.isnan(values)]
        if column.name in spec.private_columns or not values.size:
            medians.append(None)
        elif column.type is ColumnType.NUMBER:
            medians.append(float(np.float32(np.median(values))))
        else:
            # The lower median: half an integer, or half a truth, is no value of such a feature.
            medians.append(float(np.quantile(values, 0.5, method="lower")))
    modes: list[str] = []
    for index, column in enumerate(_texts(spec.features)):
        counts = np.bincount(seen.codes[:, index] + 1, minlength=len(seen.categories[index]) + 1)
        mode = (MISSING_CATEGORY, *seen.categories[index])[int(counts.argmax())]
        private = column.name in spec.private_columns
        modes.append(MISSING_CATEGORY if private or "\0" in mode else mode)
    return Reference(numeric=tuple(medians), categorical=tuple(modes))


def _texts(features: Iterable[Column]) -> list[Column]:
    return [column for column in features if column.type is ColumnType.STRING]
