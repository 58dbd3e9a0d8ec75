"""Rows held back from the fit, and what is learned from them."""

import numpy as np
import pytest

from millrace.datasets.table import Table
from millrace.learning import conformal
from millrace.learning.conformal import calibrate, hold_back
from millrace.learning.export import to_onnx
from millrace.learning.features import Rows
from millrace.learning.model import fit_model
from millrace.messages import Trial
from millrace.spec import Algorithm, ModelSpec, Role, Task
from tests.unit.learning.tables import make_table

RIDGE = Trial(trial_id=0, algorithm=Algorithm.LINEAR, params={"regularization": 1.0}, seed=1)


def _noisy(rows: int, seed: int, **sections: object) -> tuple[ModelSpec, Table]:
    random = np.random.default_rng(seed)
    numeric = random.normal(size=(rows, 3))
    target = numeric @ [3.0, -2.0, 1.0] + random.normal(size=rows)
    group = np.repeat(np.arange(rows // 4 + 1), 4)[:rows].astype(float)
    return make_table(
        Task.REGRESSION,
        numeric,
        target,
        extra={"who": (Role.GROUP, group)},
        sections=dict(sections),
    )


def test_a_small_validation_split_is_held_back_whole() -> None:
    assert hold_back(*_noisy(40, 0)).all()


def test_nothing_is_held_back_when_the_spec_wants_no_intervals() -> None:
    assert not hold_back(*_noisy(40, 0, serve={"intervals": False})).any()


def test_a_large_one_gives_most_rows_to_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformal, "MAX_ROWS", 10)
    spec, table = _noisy(41, 0)

    held = hold_back(spec, table)

    assert held.sum() == 10
    assert (held == hold_back(spec, table)).all()


def test_no_group_is_both_fitted_on_and_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformal, "MAX_ROWS", 10)
    spec, table = _noisy(41, 0, split={"strategy": "group"})

    held = hold_back(spec, table)

    groups = table.arrays["who"]
    assert 4 <= held.sum() <= 10
    assert not set(groups[held]) & set(groups[~held])


def test_levels_are_those_that_the_rows_can_promise() -> None:
    spec, table = _noisy(400, 1)
    rows = Rows.of_table(table)
    model = fit_model(RIDGE, spec.task, rows, table.target, 0)
    onnx = to_onnx(model, doc="", metadata={})
    some = rows.take(np.arange(9))

    nine = calibrate(onnx, spec, some, table.target[:9])

    # ceil(10 * 0.9) = 9 rows are there, ceil(10 * 0.95) = 10 are not.
    assert nine is not None
    assert nine.levels == (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
    largest = np.abs(table.target[:9] - model.predict(some)).max()
    assert nine.quantiles[-1] == pytest.approx(largest, rel=1e-5)
    assert calibrate(onnx, spec, rows.take(np.arange(0)), table.target[:0]) is None


def test_coverage_on_new_rows_is_what_was_promised() -> None:
    spec, fitted = _noisy(300, 2)
    _, held = _noisy(1_000, 3)
    _, fresh = _noisy(20_000, 4)
    model = fit_model(RIDGE, spec.task, Rows.of_table(fitted), fitted.target, 0)
    found = calibrate(to_onnx(model, doc="", metadata={}), spec, Rows.of_table(held), held.target)

    assert found is not None
    errors = np.abs(fresh.target - model.predict(Rows.of_table(fresh)))
    for level, quantile in zip(found.levels, found.quantiles, strict=True):
        # Three deviations of the Beta distribution of the coverage of one calibration.
        assert abs((errors <= quantile).mean() - level) < 3 * np.sqrt(level * (1 - level) / 1_000)
