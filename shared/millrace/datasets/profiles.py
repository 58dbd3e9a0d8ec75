"""The profile of a dataset version: what its columns look like, and the later drift baseline.

Private columns show counts only, never a value. Histogram edges lie at quantiles, so that every
bin of the baseline holds about as many rows; a column with few distinct values has a bin each.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from millrace.spec import ColumnType, Role

BINS: Final = 20
TOP_CATEGORIES: Final = 50
QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Histogram(_Frozen):
    """Counts per bin; bin i is [edges[i], edges[i+1]), the last one closed."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class NumericProfile(_Frozen):
    """A column of numbers; a timestamp is seconds since 1970 UTC."""

    min: float
    max: float
    mean: float
    std: float
    quantiles: dict[str, float]
    """Keys such as ``0.25``."""
    histogram: Histogram


class CategoryCount(_Frozen):
    """One value of a string or boolean column and its rows."""

    value: str
    count: int


class ColumnProfile(_Frozen):
    """One column."""

    name: str
    type: ColumnType
    role: Role
    private: bool
    count: int
    """Rows with a value."""
    missing: int
    distinct: int
    numeric: NumericProfile | None = None
    categories: tuple[CategoryCount, ...] | None = None
    """The most frequent values; `other` counts the rows of the rest."""
    other: int = 0


class Profile(_Frozen):
    """A dataset version."""

    model: str
    dataset_version: str
    rows: int
    columns: tuple[ColumnProfile, ...]


def numeric_profile(
    values: npt.NDArray[np.floating[Any]],
) -> tuple[int, NumericProfile | None]:
    """Describes numbers.

    Args:
        values: Shape [n], finite, no missing values.

    Returns:
        The number of distinct values, and the description, or None without values.
    """
    if not len(values):
        return 0, None
    ordered = np.sort(values).astype(np.float64)
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    # Scaled to [-1, 1]: the sum and the squares of large numbers are not finite.
    scale = float(np.abs(ordered[[0, -1]]).max()) or 1.0
    scaled = ordered / scale
    return len(starts), NumericProfile(
        min=float(ordered[0]),
        max=float(ordered[-1]),
        mean=float(scaled.mean()) * scale,
        std=float(scaled.std()) * scale,
        quantiles={str(q): float(_at(ordered, q)) for q in QUANTILES},
        histogram=_histogram(ordered, starts),
    )


def _at(ordered: npt.NDArray[np.float64], q: float) -> float:
    """Linear interpolation between closest ranks of sorted values (NumPy's default)."""
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    part = place - low
    return float(ordered[low] * (1 - part) + ordered[high] * part)


def _histogram(ordered: npt.NDArray[np.float64], starts: npt.NDArray[np.intp]) -> Histogram:
    if len(starts) <= BINS:
        values = ordered[starts]
        # Halves first: the sum of two large numbers may not be finite.
        middles = values[:-1] / 2 + values[1:] / 2
        edges = np.concatenate((values[:1], middles, values[-1:]))
        tallies = np.diff(np.concatenate((starts, [len(ordered)])))
    else:
        edges = np.unique([_at(ordered, q) for q in np.linspace(0, 1, BINS + 1)])
        inner = np.searchsorted(ordered, edges[1:-1], side="left")
        tallies = np.diff(np.concatenate(([0], inner, [len(ordered)])))
    return Histogram(edges=tuple(float(e) for e in edges), counts=tuple(int(c) for c in tallies))
