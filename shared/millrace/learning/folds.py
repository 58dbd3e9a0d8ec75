"""Cross-validation folds that honour the spec's split strategy.

What must not leak between splits must not leak between folds: groups stay whole, and with the time
strategy a fold is scored only on rows after those it learnt from.
"""

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, TimeSeriesSplit

from millrace.datasets.table import Table
from millrace.errors import TrainingError
from millrace.learning.features import Indices
from millrace.spec import ModelSpec, Role, Task


def make_folds(spec: ModelSpec, table: Table, count: int) -> list[tuple[Indices, Indices]]:
    """Pairs of row indices: to learn from, to score on.

    Args:
        spec: Its split strategy and training seed decide.
        table: The train split.
        count: Number of folds.

    Raises:
        TrainingError: There are too few rows or groups, or the needed column is not stored.
    """
    if table.rows < 2 * count:
        raise TrainingError(
            f"train.folds: {count} folds need {2 * count} rows, the train split has {table.rows}"
        )
    match spec.split_strategy:
        case "group":
            return _group_folds(spec, table, count)
        case "time":
            return _time_folds(spec, table, count)
        case "hash" | "stratified":
            return _dealt_folds(spec, table, count)


def _dealt_folds(spec: ModelSpec, table: Table, count: int) -> list[tuple[Indices, Indices]]:
    """Shuffles the rows and deals them out, class by class for a classification.

    Unlike scikit-learn's stratified folds this neither warns nor fails on a class with fewer rows
    than there are folds.
    """
    shuffled = np.random.default_rng(spec.train.seed).permutation(table.rows)
    if spec.task is not Task.REGRESSION:
        shuffled = shuffled[np.argsort(table.target[shuffled], kind="stable")]
    fold = np.empty(table.rows, dtype=np.int64)
    fold[shuffled] = np.arange(table.rows) % count
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)]


def _group_folds(spec: ModelSpec, table: Table, count: int) -> list[tuple[Indices, Indices]]:
    groups = _column(spec, table, Role.GROUP)
    _, codes = np.unique(groups, return_inverse=True)
    found = int(codes.max()) + 1
    if found < count:
        raise TrainingError(
            f"train.folds: {count} folds need {count} groups, the train split has {found}"
        )
    if spec.task is Task.REGRESSION:
        splitter = GroupKFold(n_splits=count)
    else:
        sizes = np.unique(table.target, return_counts=True)[1]
        # Stratifying warns about, and by groups cannot do justice to, a class this rare.
        stratify = sizes.min() >= count
        splitter = (StratifiedGroupKFold if stratify else GroupKFold)(n_splits=count)
    return list(splitter.split(np.empty(table.rows), table.target, codes))


def _time_folds(spec: ModelSpec, table: Table, count: int) -> list[tuple[Indices, Indices]]:
    """Growing windows over time; rows of one moment never stand on both sides."""
    times = _column(spec, table, Role.TIME)
    order = np.lexsort((table.row, times))
    pairs: list[tuple[Indices, Indices]] = []
    for before, after in TimeSeriesSplit(n_splits=count).split(order):
        learn, judge = order[before], order[after]
        learn = learn[times[learn] < times[judge].min()]
        if not len(learn):
            raise TrainingError(
                f"train.folds: {count} folds in time order need more distinct moments than the "
                f"train split has ({len(np.unique(times))})"
            )
        pairs.append((learn, judge))
    return pairs


def _column(spec: ModelSpec, table: Table, role: Role) -> npt.NDArray[np.generic]:
    name = spec.columns_with(role)[0].name
    if name not in table.arrays:
        raise TrainingError(
            f"split strategy {spec.split_strategy} needs column {name!r}, "
            "which the stored splits do not hold"
        )
    return table.arrays[name]
