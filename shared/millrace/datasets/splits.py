"""Train, validation and test: a pure function of the rows' content, the spec and its seed.

Rows arrive sorted by digest, so no strategy depends on the order of the upload.

* ``hash``: a row's key is the first 64 bits of SHA-256 over ``millrace-split;<seed>;`` and the
  canonical id (or, without an id column, the row's digest in hex). Key / 2**64 below ``test`` is
  test, below ``test + validation`` validation, the rest train. A row stays where it is when other
  rows come or go.
* ``stratified``: in each class of n rows, in ascending order of the same key, the first
  round(n * test) rows (half up, at least one, never all) are test, the next round(n * validation)
  validation, the rest train.
* ``time``: oldest to train, newest to test. The cuts lie at the ideal row counts, moved to the
  nearer end of a run of equal times: rows of one moment are never in two splits.
* ``group``: as ``hash``, keyed by the group's canonical value: a group is never in two splits.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.datasets.rules import Refusal
from millrace.datasets.table import SPLITS
from millrace.errors import UploadRefusedError
from millrace.spec import ModelSpec, Role, SplitSection

TRAIN: Final = 0
VALIDATION: Final = 1
TEST: Final = 2

type Assignment = npt.NDArray[np.uint8]
"""Per row 0, 1 or 2: the position in `SPLITS`."""


def salt(section: SplitSection) -> str:
    """What the keys are hashed with."""
    return f"millrace-split;{section.seed};"


def unit_column(spec: ModelSpec) -> str:
    """The column whose value is hashed into the key; empty for the whole row."""
    role = Role.GROUP if spec.split_strategy == "group" else Role.ID
    columns = spec.columns_with(role)
    return columns[0].name if columns else ""


def by_key(keys: npt.NDArray[np.uint64], *, validation: float, test: float) -> Assignment:
    """Strategies ``hash`` and ``group``.

    Args:
        keys: Keyed hash per row, shape [rows].
        validation: Share of the validation split.
        test: Share of the test split.
    """
    assigned = np.full(len(keys), TRAIN, dtype=np.uint8)
    assigned[keys < np.uint64(int((test + validation) * 2**64))] = VALIDATION
    assigned[keys < np.uint64(int(test * 2**64))] = TEST
    return assigned


def by_class(
    keys: npt.NDArray[np.uint64],
    classes: npt.NDArray[np.integer[Any]],
    *,
    validation: float,
    test: float,
) -> Assignment:
    """Strategy ``stratified``.

    Args:
        keys: Keyed hash per row, shape [rows].
        classes: Class code per row, shape [rows].
        validation: Share of the validation split.
        test: Share of the test split.
    """
    assigned = np.full(len(keys), TRAIN, dtype=np.uint8)
    order = np.lexsort((keys, classes))
    bounds = np.flatnonzero(np.diff(classes[order])) + 1
    for members in np.split(order, bounds):
        n = len(members)
        tested = min(max(1, int(n * test + 0.5)), n - 1)
        validated = min(int(n * validation + 0.5), n - 1 - tested) if n > 1 else 0
        assigned[members[:tested]] = TEST
        assigned[members[tested : tested + validated]] = VALIDATION
    return assigned


def by_time(times: npt.NDArray[Any], *, validation: float, test: float) -> Assignment:
    """Strategy ``time``.

    Args:
        times: A number that grows with time, per row, shape [rows].
        validation: Share of the validation split.
        test: Share of the test split.
    """
    n = len(times)
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    newest = _cut(ordered, n - int(n * test + 0.5), n)
    older = _cut(ordered, n - int(n * test + 0.5) - int(n * validation + 0.5), newest)
    assigned = np.full(n, VALIDATION, dtype=np.uint8)
    assigned[order[:older]] = TRAIN
    assigned[order[newest:]] = TEST
    return assigned


def _cut(ordered: npt.NDArray[Any], ideal: int, end: int) -> int:
    """The boundary between different values nearest to ``ideal``, inside ``(0, end)`` if any."""
    if end <= 0:
        return 0
    at = min(max(ideal, 0), end - 1)
    low = int(np.searchsorted(ordered, ordered[at], side="left"))
    high = int(np.searchsorted(ordered, ordered[at], side="right"))
    inside = [cut for cut in (low, high) if 0 < cut < end] or [low]
    return min(inside, key=lambda cut: (abs(cut - ideal), cut))


def counts(assigned: Assignment) -> dict[str, int]:
    """Rows per split."""
    found = np.bincount(assigned, minlength=3)
    return {name: int(found[i]) for i, name in enumerate(SPLITS)}


def refuse_unusable(
    spec: ModelSpec,
    assigned: Assignment,
    classes: npt.NDArray[np.integer[Any]] | None,
    labels: tuple[str, ...],
) -> None:
    """Refuses splits on which nothing can be learnt or judged.

    Args:
        spec: The spec.
        assigned: The split of each row.
        classes: Class codes, or None for regression.
        labels: Class labels in code order.

    Raises:
        UploadRefusedError: A split is empty, or a class is absent from train or test.
    """
    rows = counts(assigned)
    empty = [name for name, count in rows.items() if count == 0]
    if empty:
        reason = {
            "time": "the time column needs at least 3 different values",
            "group": "there are too few groups",
        }.get(spec.split_strategy, "there are too few rows")
        raise UploadRefusedError(
            f"split {' and '.join(empty)} would be empty of {len(assigned):,} rows with strategy "
            f"{spec.split_strategy}: {reason}",
            Refusal.EMPTY_SPLIT,
        )
    if classes is None:
        return
    private = spec.target.name in spec.private_columns
    for split in (TRAIN, TEST):
        present = np.bincount(classes[assigned == split], minlength=len(labels))
        absent = [label for label, count in zip(labels, present, strict=True) if count == 0]
        if absent:
            shown = "" if private else f" ({', '.join(repr(a[:40]) for a in absent[:5])})"
            raise UploadRefusedError(
                f"{len(absent)} of {len(labels)} classes of {spec.target.name!r}{shown} would be "
                f"absent from the {SPLITS[split]} split with strategy {spec.split_strategy}; "
                "add rows of that class, merge it, or choose another strategy",
                Refusal.CLASS_ABSENT,
            )
