"""Live rows in the groups of the baseline's segments."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.monitoring.baseline import Segment
from millrace.spec import ColumnType

_MAX_NAME: Final = 100
MISSING: Final = "(missing)"
OTHERS: Final = "(all others)"


def codes_of(
    segment: Segment, values: Sequence[Any]
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Cuts captured values of a segment's column into its groups.

    Args:
        segment: Of the baseline.
        values: Numbers with None for missing, or texts with "" for missing.

    Returns:
        What the groups are called, and each row's group among them. The last two groups are of
        values that the baseline has no group for, and of missing ones.
    """
    names = (*_names(segment), OTHERS, MISSING)
    others, missing = len(names) - 2, len(names) - 1
    if segment.type is ColumnType.STRING:
        places: dict[Any, int] = {value: code for code, value in enumerate(segment.values)}
        places[""] = missing
        return names, np.asarray([places.get(value, others) for value in values], dtype=np.int64)
    known = np.asarray([np.nan if v is None else v for v in values], dtype=np.float32)
    absent = np.isnan(known)
    codes: npt.NDArray[Any]
    if segment.cuts:
        codes = np.searchsorted(np.asarray(segment.cuts, np.float32), known, side="right")
    else:
        listed = np.asarray(segment.values, dtype=np.float32)
        codes = np.searchsorted(listed, known).clip(0, max(len(listed) - 1, 0))
        same = listed[codes] == known if len(listed) else np.zeros(len(known), dtype=bool)
        codes = np.where(same, codes, others)
    return names, np.where(absent, missing, codes).astype(np.int64)


def _names(segment: Segment) -> tuple[str, ...]:
    if segment.cuts:
        cuts = [f"{cut:g}" for cut in segment.cuts]
        between = [f"{low} to below {high}" for low, high in pairwise(cuts)]
        return (f"below {cuts[0]}", *between, f"{cuts[-1]} and more")
    if segment.type is ColumnType.BOOLEAN:
        return tuple("true" if value else "false" for value in segment.values)
    return tuple(group_name(v) if isinstance(v, str) else f"{v:g}" for v in segment.values)


def group_name(value: str) -> str:
    """A text as the name of its group; a very long one is cut, and told apart by its digest."""
    if len(value) <= _MAX_NAME:
        return value
    return f"{value[:_MAX_NAME]}…{hashlib.sha256(value.encode()).hexdigest()[:8]}"
