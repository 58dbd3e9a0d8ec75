"""Contributions and intervals of pipelines that are really trained, through what is served."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from millrace.learning.features import Rows
from millrace.serving.explanation import contributions
from millrace.serving.features import Batch
from millrace.serving.intervals import intervals
from millrace.spec import Algorithm, Task
from tests.unit.serving.pipelines import CITIES, PLANS, Pipeline, rows, trained


@cache
def pipeline(task: Task, algorithm: Algorithm) -> Pipeline:
    """One pipeline, fitted once."""
    return trained(task, algorithm)


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    yield
    pipeline.cache_clear()


def fresh(task: Task, count: int, seed: int = 9) -> tuple[Batch, npt.NDArray[Any]]:
    """Rows no pipeline has seen, and their targets."""
    made = rows(task, count, seed)
    numbers = ["visits", "age", "ratio", "income", "member", "agreed"]
    categorical = np.empty((count, 2), dtype=object)
    for place, (name, known) in enumerate((("city", CITIES), ("plan", PLANS))):
        categorical[:, place] = np.array([*known, ""], dtype=object)[made[name]]
    numeric = np.column_stack([made[name] for name in numbers]).astype(np.float32)
    return Batch(rows=count, numeric=numeric, categorical=categorical), made["y"]


def as_rows(numeric: npt.NDArray[np.float32], texts: npt.NDArray[np.object_]) -> Rows:
    """What the pipeline's own encoder reads."""
    known = tuple(tuple(sorted(set(column) - {""})) for column in texts.T)
    codes = [
        [-1 if text == "" else known[place].index(text) for place, text in enumerate(row)]
        for row in texts
    ]
    return Rows(numeric, np.array(codes, dtype=np.int32), known)


def test_a_linear_pipelines_contributions_are_its_coefficients() -> None:
    made = pipeline(Task.REGRESSION, Algorithm.LINEAR)
    batch, _ = fresh(Task.REGRESSION, 20)
    reference = made.signature.reference
    assert reference is not None

    told = contributions(made.loaded, batch)

    encoder = made.fit.model.encoder
    typical = as_rows(
        np.array([reference.numeric], dtype=np.float32),
        np.array([reference.categorical], dtype=object),
    )
    moved = encoder.transform(as_rows(batch.numeric, batch.categorical)).astype(np.float64)
    moved -= encoder.transform(typical)
    moved *= made.fit.model.estimator.coef_
    for place, feature in enumerate(made.signature.features):
        columns = _columns_of(made, feature.name)
        expected = moved[:, columns].sum(axis=1)
        np.testing.assert_allclose(
            told.values[:, place], expected, atol=made.tolerance, err_msg=feature.name
        )


def _columns_of(made: Pipeline, feature: str) -> list[int]:
    """The encoded columns that one feature has."""
    encoder = made.fit.model.encoder
    numbers = [f.name for f in made.signature.numeric]
    if feature in numbers:
        place = numbers.index(feature)
        flags = [encoder.numbers + i for i, f in enumerate(encoder.flagged) if f == place]
        return [place, *flags]
    start = encoder.numbers + len(encoder.flagged)
    for text, kept in zip(made.signature.categorical, encoder.vocabulary, strict=True):
        if text.name == feature:
            return list(range(start, start + len(kept)))
        start += len(kept)
    raise AssertionError(feature)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_base_and_contributions_add_up_to_what_is_answered(
    task: Task, algorithm: Algorithm
) -> None:
    made = pipeline(task, algorithm)
    batch, _ = fresh(task, 50)
    answers = made.loaded.run(batch).astype(np.float64)

    told = contributions(made.loaded, batch)

    if told.classes is not None:
        answers = answers[np.arange(batch.rows), told.classes]
    added = told.base + told.values.sum(axis=1)
    np.testing.assert_allclose(added, answers, rtol=1e-6, atol=1e-6 * made.fit.target_scale)


@pytest.mark.parametrize("task", list(Task))
def test_the_truth_is_inside_as_often_as_promised(task: Task) -> None:
    made = pipeline(task, Algorithm.HIST_GRADIENT_BOOSTING)
    batch, truth = fresh(task, 3_000)
    output = made.loaded.run(batch)
    conformal = made.signature.conformal
    assert conformal is not None
    assert conformal.rows == 120

    for level in conformal.levels:
        around = intervals(made.signature, output, level)
        if around.inside is not None:
            inside = around.inside[np.arange(batch.rows), truth]
        else:
            assert around.lower is not None
            assert around.upper is not None
            inside = (around.lower <= truth) & (truth <= around.upper)
        spread = np.sqrt(level * (1 - level) * (1 / 120 + 1 / 3_000))
        assert inside.mean() > level - 3.5 * spread
