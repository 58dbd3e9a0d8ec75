"""Groups of rows: how columns are cut, what is listed and what is kept back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.evaluation.metrics import Outcome, compute
from millrace.evaluation.slices import (
    MAX_GROUPS,
    columns_to_slice,
    group_facts,
    group_rows,
    judge,
    slice_table,
)
from millrace.spec import ColumnType, Role, SliceGate, Task
from tests.unit.evaluation import cases


def test_strings_are_cut_by_value_with_missing_apart() -> None:
    split = cases.table(b=cases.strings(["x", None, "y", "x"]))

    groups = group_rows(split, "b")

    assert [groups.names[c] for c in groups.codes] == ["x", "(missing)", "y", "x"]


def test_few_numbers_are_cut_by_value() -> None:
    split = cases.table(a=cases.numbers([3, 1, np.nan, 1.5, 1]))

    groups = group_rows(split, "a")

    assert [groups.names[c] for c in groups.codes] == ["3", "1", "(missing)", "1.5", "1"]


def test_many_numbers_are_cut_into_quintiles() -> None:
    split = cases.table(a=cases.numbers([*range(100), np.nan]))

    groups = group_rows(split, "a")

    assert groups.names[-1] == "(missing)"
    assert np.bincount(groups.codes).tolist() == [20, 20, 20, 20, 20, 1]


def test_booleans_are_named() -> None:
    split = cases.table(a=(ColumnType.BOOLEAN, Role.FEATURE, np.array([0.0, 1.0]), ()))

    assert group_rows(split, "a").names == ("false", "true")


@given(st.lists(st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6)), min_size=1, max_size=60))
def test_every_row_is_in_exactly_one_group(values: list[float]) -> None:
    split = cases.table(a=cases.numbers(values))

    groups = group_rows(split, "a")

    assert len(groups.codes) == len(values)
    assert 0 <= groups.codes.min() <= groups.codes.max() < len(groups.names)


def test_judging_equals_the_metric_of_the_group() -> None:
    split = cases.table(b=cases.strings(["x", "y", "y"] * 40))
    outcome = cases.random_binary(120, 3)

    found = judge(group_rows(split, "b"), outcome, "roc_auc", 10)

    y = np.arange(120) % 3 != 0
    assert found.values["y"] == pytest.approx(compute("roc_auc", outcome.take(y)))


def test_sensitive_columns_always_have_a_table() -> None:
    spec = cases.spec(slices=[{"column": "b", "metric": "f1", "min": 0.1}])

    columns = columns_to_slice(spec)

    assert list(columns) == ["s", "b"]
    assert columns["s"] is None
    assert columns["b"] is not None


def test_small_groups_of_a_sensitive_column_are_not_listed() -> None:
    split = cases.table(s=cases.strings(["x"] * 200 + ["rare"] * 30, Role.SENSITIVE))
    outcome = cases.random_binary(230, 3)

    shown = slice_table(cases.spec(), split, outcome, "s", None, 7)

    assert [s.value for s in shown.slices] == ["x"]
    assert (shown.hidden_groups, shown.hidden_rows) == (1, 30)
    assert "rare" not in shown.model_dump_json()


def test_small_groups_of_a_plain_column_are_listed_and_not_judged() -> None:
    split = cases.table(b=cases.strings(["x"] * 200 + ["rare"] * 30))
    outcome = cases.random_binary(230, 3)

    shown = slice_table(cases.spec(), split, outcome, "b", None, 7)

    assert [(s.value, s.judged) for s in shown.slices] == [("rare", False), ("x", True)]
    assert shown.gap == 0


def test_groups_of_a_column_never_to_be_shown_have_no_names() -> None:
    split = cases.table(p=cases.strings(["ann", "bob"] * 100))
    outcome = cases.random_binary(200, 3)
    gate = SliceGate(column="p", metric="accuracy", min=0.1)

    shown = slice_table(cases.spec(), split, outcome, "p", gate, 7)

    assert [s.value for s in shown.slices] == ["group 1", "group 2"]
    assert "ann" not in shown.model_dump_json()


def test_at_most_fifty_groups_are_listed_the_largest() -> None:
    values = [f"v{i:03d}" for i in range(60) for _ in range(i + 1)]
    split = cases.table(b=cases.strings(values))
    outcome = cases.random_binary(len(values), 3)

    shown = slice_table(cases.spec(), split, outcome, "b", None, 7)

    assert len(shown.slices) == MAX_GROUPS
    assert shown.hidden_groups == 10
    assert shown.slices[0].value == "v010"


def test_fairness_figures_of_a_binary_group() -> None:
    facts = group_facts(cases.binary_outcome([1, 1, 0, 0, 0], [0.9, 0.1, 0.8, 0.2, 0.3]))

    assert facts == {
        "share positive": pytest.approx(0.4),
        "selection rate": pytest.approx(0.4),
        "true positive rate": pytest.approx(0.5),
        "false positive rate": pytest.approx(1 / 3),
    }


def test_a_rate_without_rows_is_empty() -> None:
    facts = group_facts(cases.binary_outcome([0, 0], [0.9, 0.1]))

    assert facts["true positive rate"] is None


def test_fairness_figures_of_a_regression_group() -> None:
    outcome = Outcome(Task.REGRESSION, np.array([1.0, 3.0]), np.array([2.0, 5.0]))

    assert group_facts(outcome) == {"mean actual": 2.0, "mean predicted": 3.5, "bias": 1.5}
