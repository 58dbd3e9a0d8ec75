"""Groups of the test rows: does a model that is good on average fail some of them?

A column is cut into groups by its values; a number with many values by the quintiles of the test
split. Sensitive columns always get a table. What a private column's groups are called never leaves
the report: gates, which travel through messages and logs, tell figures only, and groups of a
private column below the row limit are not listed at all.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.datasets.table import Table
from millrace.evaluation.bootstrap import draw, measured
from millrace.evaluation.document import Slice, SliceTable
from millrace.evaluation.metrics import Codes, Outcome, compute, prepare
from millrace.spec import HIGHER_IS_BETTER, ColumnType, ModelSpec, Role, SliceGate, Task

MIN_ROWS: Final = 50
"""Rows below which a group of a column without a gate is not judged."""
MAX_GROUPS: Final = 50
MAX_DISTINCT: Final = 12
"""Numbers with more values are cut into quintiles."""
MISSING: Final = "(missing)"


@dataclass(frozen=True, slots=True)
class Groups:
    """A column's groups.

    Attributes:
        names: What the groups are called.
        codes: Each row's group.
    """

    names: tuple[str, ...]
    codes: Codes


def group_rows(table: Table, column: str) -> Groups:
    """Cuts the rows into groups by a column's values."""
    schema = table.schema.columns[table.schema.position(column)]
    stored = table.arrays[column]
    if schema.type is ColumnType.STRING:
        present, codes = np.unique(stored, return_inverse=True)
        names = tuple(MISSING if c < 0 else schema.categories[c] for c in present)
        return Groups(names, codes.astype(np.int64))
    missing = np.isnan(stored)
    values = np.unique(stored[~missing])
    if len(values) <= MAX_DISTINCT:
        names = tuple(_value_name(float(v), schema.type) for v in values)
        codes = np.searchsorted(values, stored)
    else:
        cuts = np.unique(np.quantile(stored[~missing], [0.2, 0.4, 0.6, 0.8]))
        edges = [float(values[0]), *(float(c) for c in cuts), float(values[-1])]
        names = tuple(
            f"{edges[i]:g} to {'' if i == len(cuts) else 'below '}{edges[i + 1]:g}"
            for i in range(len(cuts) + 1)
        )
        codes = np.searchsorted(cuts, stored, side="right")
    if missing.any():
        codes = np.where(missing, len(names), codes)
        names = (*names, MISSING)
    return Groups(names, codes.astype(np.int64))


def _value_name(value: float, kind: ColumnType) -> str:
    if kind is ColumnType.BOOLEAN:
        return "true" if value else "false"
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Judged:
    """What a slice gate looks at: the metric of every group that can be judged."""

    values: dict[str, float]
    too_small: int
    undefined: int


def judge(groups: Groups, outcome: Outcome, metric: str, min_rows: int) -> Judged:
    """A metric in every group of enough rows in which it has a value."""
    values: dict[str, float] = {}
    too_small = undefined = 0
    for name, rows in _members(groups):
        if len(rows) < min_rows:
            too_small += 1
            continue
        value = compute(metric, outcome.take(rows))
        if np.isnan(value):
            undefined += 1
        else:
            values[name] = value
    return Judged(values, too_small, undefined)


def _members(groups: Groups) -> list[tuple[str, npt.NDArray[Any]]]:
    order = np.argsort(groups.codes, kind="stable")
    cuts = np.searchsorted(groups.codes[order], np.arange(len(groups.names) + 1))
    return [
        (name, order[cuts[code] : cuts[code + 1]])
        for code, name in enumerate(groups.names)
        if cuts[code] < cuts[code + 1]
    ]


def columns_to_slice(spec: ModelSpec) -> dict[str, SliceGate | None]:
    """Sensitive columns and those of slice gates, each with the first gate on it."""
    columns: dict[str, SliceGate | None] = {c.name: None for c in spec.columns_with(Role.SENSITIVE)}
    for gate in spec.evaluate.slices:
        columns[gate.column] = columns.get(gate.column) or gate
    return columns


def slice_table(
    spec: ModelSpec,
    table: Table,
    outcome: Outcome,
    column: str,
    gate: SliceGate | None,
    seed: int,
    clusters: Codes | None = None,
) -> SliceTable:
    """The figures of every group of a column.

    Args:
        spec: Says which columns are private and how many resamples to draw.
        table: The test split.
        outcome: The candidate's answers on it.
        column: The column.
        gate: Its first gate, which names the metric and the row limit.
        seed: Names the resamples.
        clusters: See `bootstrap.resamples`.
    """
    metric = gate.metric if gate is not None else spec.training_metric
    min_rows = gate.min_rows if gate is not None else MIN_ROWS
    role = table.schema.columns[table.schema.position(column)].role
    nameless = column in spec.privacy.never_log
    private = column in spec.private_columns
    members = _members(group_rows(table, column))
    shown = [(n, r) for n, r in members if not private or len(r) >= min_rows]
    kept = {n for n, _ in sorted(shown, key=lambda m: -len(m[1]))[:MAX_GROUPS]}
    listed = [(n, r) for n, r in shown if n in kept]
    slices = []
    for index, (name, rows) in enumerate(listed):
        part = outcome.take(rows)
        value = compute(metric, part)
        metric_value = None
        if not np.isnan(value):
            together = None
            if clusters is not None:
                together = np.unique(clusters[rows], return_inverse=True)[1].astype(np.int64)
            prepared = {metric: prepare(metric, part)}
            draws = draw(prepared, part.rows, spec.evaluate.bootstrap, seed, together)[metric]
            metric_value = measured(value, draws, spec.evaluate.confidence)
        slices.append(
            Slice(
                value=f"group {index + 1}" if nameless else name,
                rows=part.rows,
                judged=part.rows >= min_rows and metric_value is not None,
                metric=metric_value,
                facts={k: v for k, v in group_facts(part).items() if k != metric},
            )
        )
    judged = [s.metric.value for s in slices if s.judged and s.metric is not None]
    ranked = sorted(judged, key=lambda v: improvement_key(metric, v))
    return SliceTable(
        column=column,
        role=role,
        metric=metric,
        min_rows=min_rows,
        slices=tuple(slices),
        hidden_groups=len(members) - len(listed),
        hidden_rows=outcome.rows - sum(s.rows for s in slices),
        worst=ranked[0] if ranked else None,
        best=ranked[-1] if ranked else None,
        gap=abs(ranked[-1] - ranked[0]) if ranked else None,
        judged=len(judged),
    )


def group_facts(part: Outcome) -> dict[str, float | None]:
    """Fairness figures of one group: Hardt, Price and Srebro, NeurIPS 2016, for the two rates.

    Binary: share of positives, selection rate (share predicted positive), true and false positive
    rate. Multiclass: accuracy. Regression: mean of the truth, of the predictions, and their bias.
    """
    if part.task is Task.REGRESSION:
        return {
            "mean actual": float(part.truth.mean()),
            "mean predicted": float(part.output.mean()),
            "bias": float((part.output - part.truth).mean()),
        }
    if part.task is Task.MULTICLASS:
        return {"accuracy": compute("accuracy", part)}
    positive, selected = part.truth == 1, part.labels == 1

    def rate(of: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> float | None:
        return float(of[among].mean()) if among.any() else None

    return {
        "share positive": float(positive.mean()),
        "selection rate": float(selected.mean()),
        "true positive rate": rate(selected, positive),
        "false positive rate": rate(selected, ~positive),
    }


def improvement_key(metric: str, value: float) -> float:
    """Sorts values of a metric from worst to best."""
    return value if HIGHER_IS_BETTER[metric] else -value
