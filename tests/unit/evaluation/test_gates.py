"""Gates: what passes, what fails closed, and the words they use."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.evaluation.document import Comparison, Measured
from millrace.evaluation.gates import (
    absolute_gate,
    apply_gates,
    champion_gate,
    parity_gate,
    slice_gate,
    verdict_reason,
)
from millrace.messages import GateResult, MetricValue
from millrace.spec import AbsoluteGate, ChampionGate, Role, SliceGate
from tests.unit.evaluation import cases


def measured(value: float, low: float | None = None, high: float | None = None) -> Measured:
    return Measured(value=value, low=low, high=high, resamples=100)


def compared(difference: Measured, metric: str = "roc_auc") -> Comparison:
    return Comparison(
        version=2,
        comparable=True,
        metrics={metric: measured(0.8)},
        differences={metric: difference},
    )


@pytest.mark.parametrize(
    ("gate", "value", "passed", "expected"),
    [
        ({"min": 0.85}, 0.912, True, "roc_auc ≥ 0.85"),
        ({"min": 0.85}, 0.85, True, "roc_auc ≥ 0.85"),
        ({"min": 0.85}, 0.849, False, "roc_auc ≥ 0.85"),
        ({"max": 0.2}, 0.1, True, "roc_auc ≤ 0.2"),
        ({"min": 0.1, "max": 0.2}, 0.3, False, "roc_auc between 0.1 and 0.2"),
    ],
)
def test_absolute_gate_judges_the_value(
    gate: dict[str, float], value: float, passed: bool, expected: str
) -> None:
    result = absolute_gate(
        0, AbsoluteGate.model_validate({"metric": "roc_auc", **gate}), measured(value, 0.05, 0.95)
    )

    assert result.passed is passed
    assert result.gate == "metrics[0]"
    assert result.expected == expected
    assert result.actual == f"{value:.3f} [0.050, 0.950]"


def test_without_champion_the_champion_gate_passes() -> None:
    result = champion_gate(ChampionGate(), "roc_auc", None)

    assert result.passed
    assert result.actual == "no champion yet"


def test_champion_that_cannot_be_scored_fails_closed() -> None:
    comparison = Comparison(version=2, comparable=False, reason="it needs 'x', which is gone")

    result = champion_gate(ChampionGate(min_improvement=-1), "roc_auc", comparison)

    assert not result.passed
    assert result.actual == (
        "cannot be compared with champion version 2: it needs 'x', which is gone"
    )


@pytest.mark.parametrize(
    ("gate", "difference", "passed"),
    [
        ({}, measured(0.0, 0.0, 0.0), True),
        ({}, measured(-0.001, -0.01, 0.01), False),
        ({"min_improvement": 0.01}, measured(0.009, 0.008, 0.01), False),
        ({"min_improvement": 0.01}, measured(0.011, -0.01, 0.02), True),
        ({"min_improvement": -0.01}, measured(-0.009, -0.02, 0.02), True),
        ({"significant": True}, measured(0.02, -0.001, 0.03), False),
        ({"significant": True}, measured(0.02, 0.001, 0.03), True),
        ({"significant": True}, measured(0.02), False),
        ({"significant": True, "min_improvement": -0.01}, measured(0.0, -0.009, 0.01), True),
        ({"significant": True, "min_improvement": -0.01}, measured(0.0, -0.011, 0.01), False),
        ({"significant": True, "min_improvement": 0.01}, measured(0.02, 0.001, 0.03), True),
    ],
)
def test_champion_gate_judges_the_paired_difference(
    gate: dict[str, Any], difference: Measured, passed: bool
) -> None:
    result = champion_gate(ChampionGate(**gate), "roc_auc", compared(difference))

    assert result.passed is passed


def test_champion_gate_says_what_it_wants() -> None:
    gate = ChampionGate(min_improvement=0.01, significant=True)

    result = champion_gate(gate, "roc_auc", compared(measured(0.021, 0.015, 0.027)))

    assert result.expected == (
        "roc_auc better than champion version 2's by ≥ 0.01, with the whole interval ≥ 0"
    )
    assert result.actual == "+0.021 [0.015, 0.027]"


def sliced(
    sizes: dict[str, int], errors: dict[str, float], role: Role = Role.FEATURE
) -> tuple[Any, Any]:
    """A split of column ``b`` in groups of given sizes and shares of wrong rows."""
    values = [name for name, size in sizes.items() for _ in range(size)]
    split = cases.table(b=cases.strings(values, role))
    truth = split.target
    wrong = np.concatenate(
        [np.arange(size) < round(errors[name] * size) for name, size in sizes.items()]
    )
    return split, cases.binary_outcome(truth, np.where(wrong, 1 - truth, truth))


def gate(**fields: Any) -> SliceGate:
    return SliceGate.model_validate({"column": "b", "metric": "accuracy", "min_rows": 10, **fields})


def test_slice_gate_names_the_worst_slice() -> None:
    split, outcome = sliced({"x": 100, "y": 50}, {"x": 0.1, "y": 0.3})

    result = slice_gate(1, gate(min=0.75), split, outcome, private=False)

    assert not result.passed
    assert result.gate == "slices[1]"
    assert result.expected == "accuracy ≥ 0.75 in every slice of b"
    assert result.actual == "worst 0.700 (b = y), best 0.900, gap 0.200 over 2 slices"


def test_slice_gate_of_a_private_column_tells_no_value() -> None:
    split, outcome = sliced({"x": 100, "secret": 50}, {"x": 0.1, "secret": 0.3}, Role.SENSITIVE)

    result = slice_gate(0, gate(max_gap=0.1), split, outcome, private=True)

    assert not result.passed
    assert "secret" not in result.model_dump_json()


@pytest.mark.parametrize(("max_gap", "passed"), [(0.25, True), (0.15, False)])
def test_slice_gate_judges_the_gap(max_gap: float, passed: bool) -> None:
    split, outcome = sliced({"x": 100, "y": 50}, {"x": 0.1, "y": 0.3})

    assert slice_gate(0, gate(max_gap=max_gap), split, outcome, private=False).passed is passed


def test_small_slices_are_not_judged() -> None:
    split, outcome = sliced({"x": 100, "y": 9}, {"x": 0.1, "y": 1.0})

    result = slice_gate(0, gate(min=0.8), split, outcome, private=False)

    assert result.passed
    assert result.actual.endswith("over 1 slice; not judged: 1 of fewer than 10 rows")


def test_slices_of_one_class_are_not_judged() -> None:
    split = cases.table(b=cases.strings(["x", "y"] * 50))  # y alternates with b
    outcome = cases.random_binary(100, 1)
    outcome = cases.binary_outcome(split.target, outcome.scores)

    result = slice_gate(0, gate(metric="roc_auc", min=0.5), split, outcome, private=False)

    assert not result.passed
    assert result.actual == "no slice can be judged; not judged: 2 of one class"


def test_parity_is_shown_as_a_gate() -> None:
    result = parity_gate(cases.PARITY)

    assert result.passed
    assert result.expected == "ONNX and scikit-learn differ by ≤ 0.0001"
    assert result.actual == "3.0e-07 over 500 rows and 200 hostile rows"


def test_every_gate_of_the_spec_is_applied_in_order() -> None:
    spec = cases.spec(
        metrics=[{"metric": "accuracy", "min": 0.5}, {"metric": "brier", "max": 0.3}],
        slices=[{"column": "b", "metric": "accuracy", "min": 0.1}],
    )
    split, outcome = sliced({"x": 100, "y": 60}, {"x": 0.1, "y": 0.3})

    results = apply_gates(
        spec,
        parity=cases.PARITY,
        metrics={"accuracy": measured(0.8), "brier": measured(0.4)},
        comparison=None,
        table=split,
        outcome=outcome,
    )

    assert [(r.gate, r.passed) for r in results] == [
        ("parity", True),
        ("metrics[0]", True),
        ("metrics[1]", False),
        ("against_champion", True),
        ("slices[0]", True),
    ]


PASSED = GateResult(gate="parity", passed=True, metric="m", expected="a", actual="b")
FAILED = GateResult(
    gate="against_champion", passed=False, metric="m", expected="no loss", actual="-0.1"
)


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (measured(0.021, 0.015, 0.027), "is 0.021 better than churn@2 (difference [0.015, 0.027])"),
        (measured(-0.02, -0.03, 0.01), "is 0.020 worse than churn@2 (difference [-0.030, 0.010])"),
        (measured(0.0), "equals churn@2"),
    ],
)
def test_verdict_says_how_it_compares(difference: Measured, sentence: str) -> None:
    value = measured(0.912, 0.905, 0.919)

    reason = verdict_reason("churn", (PASSED,) * 4, "roc_auc", value, compared(difference))

    assert reason == f"all 4 gates passed; roc_auc 0.912 [0.905, 0.919] {sentence}"


def test_verdict_names_the_failed_gates() -> None:
    reason = verdict_reason("churn", (PASSED, FAILED), "roc_auc", measured(0.9), None)

    assert reason == "failed 1 of 2 gates: against_champion: expected no loss, got -0.1"


def test_verdict_of_many_failures_stays_short() -> None:
    reason = verdict_reason("churn", (FAILED,) * 40, "roc_auc", measured(0.9), None)

    assert reason.endswith("; and 37 more")
    assert len(reason) < 400


@given(value=st.floats(-1e9, 1e9), low=st.floats(-1e9, 1e9))
def test_any_number_can_be_worded(value: float, low: float) -> None:
    result = absolute_gate(
        0, AbsoluteGate(metric="rmse", max=1.0), MetricValue(value=value, low=low, high=value)
    )

    assert "-0.000" not in result.actual.split()
    assert "e" not in result.actual or abs(value) < 1 or abs(low) < 1
