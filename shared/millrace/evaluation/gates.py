"""The gates to deployment: every gate gives a verdict in words a person understands.

Rules that the spec's field descriptions leave open, decided here:

* A gate judges the metric's value on the test split, not an end of its interval; the interval is
  shown. Only ``against_champion.significant`` looks at an interval.
* ``against_champion`` passes when there is no champion yet. It **fails closed** when there is one
  that cannot be scored on this dataset version (its contract is another one): a model is not
  replaced unseen, a person may promote by force.
* ``significant`` asks that the paired interval of the difference hold no loss beyond what
  ``min_improvement`` tolerates: its lower end must be at least ``min(0, min_improvement)``.
* A slice gate fails when no slice can be judged (too few rows, or a metric without a value
  everywhere): a promise that cannot be checked is not kept.
"""

from millrace.datasets.table import Table
from millrace.evaluation.document import Comparison
from millrace.evaluation.metrics import Outcome
from millrace.evaluation.slices import group_rows, improvement_key, judge
from millrace.evaluation.wording import bounds, interval, measured, number, signed
from millrace.messages import GateResult, MetricValue, Parity
from millrace.spec import AbsoluteGate, ChampionGate, ModelSpec, SliceGate

PARITY = "parity"
AGAINST_CHAMPION = "against_champion"


def _within(value: float, minimum: float | None, maximum: float | None) -> bool:
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def absolute_gate(index: int, gate: AbsoluteGate, metric: MetricValue) -> GateResult:
    """A metric must reach a bound."""
    return GateResult(
        gate=f"metrics[{index}]",
        passed=_within(metric.value, gate.min, gate.max),
        metric=gate.metric,
        expected=f"{gate.metric} {bounds(gate.min, gate.max)}",
        actual=measured(metric),
    )


def champion_gate(gate: ChampionGate, metric: str, comparison: Comparison | None) -> GateResult:
    """The candidate against the reigning champion; see the module docstring for the rules."""
    if comparison is None:
        return GateResult(
            gate=AGAINST_CHAMPION,
            passed=True,
            metric=metric,
            expected=f"{metric} against the champion's",
            actual="no champion yet",
        )
    champion = f"champion version {comparison.version}"
    expected = _expected_improvement(gate, metric, champion)
    if not comparison.comparable:
        return GateResult(
            gate=AGAINST_CHAMPION,
            passed=False,
            metric=metric,
            expected=expected,
            actual=f"cannot be compared with {champion}: {comparison.reason}",
        )
    difference = comparison.differences[metric]
    passed = difference.value >= gate.min_improvement
    if gate.significant:
        passed = passed and (
            difference.low is not None and difference.low >= min(0.0, gate.min_improvement)
        )
    return GateResult(
        gate=AGAINST_CHAMPION,
        passed=passed,
        metric=metric,
        expected=expected,
        actual=f"{signed(difference.value)} {interval(difference)}".rstrip(),
    )


def _expected_improvement(gate: ChampionGate, metric: str, champion: str) -> str:
    if gate.min_improvement > 0:
        expected = f"{metric} better than {champion}'s by ≥ {gate.min_improvement:g}"
    elif gate.min_improvement < 0:
        expected = f"{metric} worse than {champion}'s by ≤ {-gate.min_improvement:g}"
    else:
        expected = f"{metric} no worse than {champion}'s"
    if gate.significant:
        floor = min(0.0, gate.min_improvement)
        expected += f", with the whole interval ≥ {floor:g}"
    return expected


def slice_gate(
    index: int, gate: SliceGate, table: Table, outcome: Outcome, *, private: bool
) -> GateResult:
    """A metric must hold in every group of a column that has enough rows.

    Args:
        index: The gate's place in the spec.
        gate: The gate.
        table: The test split.
        outcome: The candidate's answers on it.
        private: Whether the groups' names must not be told.
    """
    wanted = []
    if gate.min is not None or gate.max is not None:
        wanted.append(f"{gate.metric} {bounds(gate.min, gate.max)} in every slice of {gate.column}")
    if gate.max_gap is not None:
        wanted.append(f"gap of {gate.metric} between slices of {gate.column} ≤ {gate.max_gap:g}")
    expected = " and ".join(wanted) or f"{gate.metric} has a value in a slice of {gate.column}"
    found = judge(group_rows(table, gate.column), outcome, gate.metric, gate.min_rows)
    common = {"gate": f"slices[{index}]", "metric": gate.metric}
    skipped = []
    if found.too_small:
        skipped.append(f"{found.too_small} of fewer than {gate.min_rows} rows")
    if found.undefined:
        skipped.append(f"{found.undefined} of one class")
    aside = f"; not judged: {', '.join(skipped)}" if skipped else ""
    if not found.values:
        return GateResult(
            **common, passed=False, expected=expected, actual=f"no slice can be judged{aside}"
        )
    ranked = sorted(found.values.items(), key=lambda item: improvement_key(gate.metric, item[1]))
    (worst_name, worst), (_, best) = ranked[0], ranked[-1]
    gap = abs(best - worst)
    within = all(_within(value, gate.min, gate.max) for value in found.values.values())
    where = "" if private else f" ({gate.column} = {worst_name})"
    return GateResult(
        **common,
        passed=within and (gate.max_gap is None or gap <= gate.max_gap),
        expected=expected,
        actual=f"worst {number(worst)}{where}, best {number(best)}, gap {number(gap)} "
        f"over {len(ranked)} {'slice' if len(ranked) == 1 else 'slices'}{aside}",
    )


def parity_gate(parity: Parity) -> GateResult:
    """ONNX against scikit-learn: enforced when the model was fitted, shown here."""
    return GateResult(
        gate=PARITY,
        passed=parity.max_difference <= parity.tolerance,
        metric="max_difference",
        expected=f"ONNX and scikit-learn differ by ≤ {parity.tolerance:g}",
        actual=f"{parity.max_difference:.1e} over {parity.rows:,} rows "
        f"and {parity.hostile_rows:,} hostile rows",
    )


def apply_gates(
    spec: ModelSpec,
    *,
    parity: Parity,
    metrics: dict[str, MetricValue],
    comparison: Comparison | None,
    table: Table,
    outcome: Outcome,
) -> tuple[GateResult, ...]:
    """Every gate of the spec, and parity, in the order a reader expects them."""
    gate = spec.evaluate.against_champion
    return (
        parity_gate(parity),
        *(absolute_gate(i, g, metrics[g.metric]) for i, g in enumerate(spec.evaluate.metrics)),
        champion_gate(gate, gate.metric or spec.training_metric, comparison),
        *(
            slice_gate(i, g, table, outcome, private=g.column in spec.private_columns)
            for i, g in enumerate(spec.evaluate.slices)
        ),
    )


def verdict_reason(
    model: str,
    gates: tuple[GateResult, ...],
    metric: str,
    value: MetricValue,
    comparison: Comparison | None,
) -> str:
    """The verdict in one sentence.

    Args:
        model: The model's name.
        gates: Every gate's result.
        metric: The training metric.
        value: The candidate's value of it.
        comparison: The champion on the same rows, if there is one.
    """
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        shown = "; ".join(f"{g.gate}: expected {g.expected}, got {g.actual}" for g in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        return f"failed {len(failed)} of {len(gates)} gates: {shown}{more}"
    passed = f"all {len(gates)} gates passed; {metric} {measured(value)}"
    if comparison is None:
        return f"{passed}; no champion yet"
    champion = f"{model}@{comparison.version}"
    difference = comparison.differences[metric]
    if difference.value == 0:
        return f"{passed} equals {champion}"
    word = "better" if difference.value > 0 else "worse"
    size = number(abs(difference.value))
    return f"{passed} is {size} {word} than {champion} (difference {interval(difference)})"
