"""Intervals and label sets around answers."""

from dataclasses import replace

import numpy as np
import pytest

from millrace.errors import InvalidRequestError
from millrace.serving.intervals import intervals
from millrace.signature import Conformal
from millrace.spec import Task
from tests.fakes.onnx_models import churn_signature

LABELS = np.array([0, 1], dtype=object)


def test_a_regression_is_surrounded_on_both_sides() -> None:
    signature = replace(
        churn_signature(task=Task.REGRESSION),
        conformal=Conformal(
            method="absolute_residual", rows=20, levels=(0.5, 0.9), quantiles=(1.5, 4.0)
        ),
    )
    output = np.array([10.0, -1.0], dtype=np.float32)

    assert intervals(signature, output).told(LABELS) == [
        {"coverage": 0.9, "lower": 6.0, "upper": 14.0},
        {"coverage": 0.9, "lower": -5.0, "upper": 3.0},
    ]
    assert intervals(signature, output, 0.5).told(LABELS)[0]["upper"] == 11.5


def test_a_classification_is_a_set_of_labels_that_is_never_empty() -> None:
    signature = replace(
        churn_signature(),
        conformal=Conformal(method="lac", rows=20, levels=(0.5, 0.9), quantiles=(0.25, 0.625)),
    )
    output = np.array([[0.5, 0.5], [0.125, 0.875], [0.375, 0.625]], dtype=np.float32)

    wide = intervals(signature, output, 0.9).told(LABELS)
    narrow = intervals(signature, output, 0.5).told(LABELS)

    assert [row["labels"] for row in wide] == [[0, 1], [1], [0, 1]]
    assert [row["labels"] for row in narrow] == [[0], [1], [1]]


def test_a_version_without_intervals_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="has no intervals") as refused:
        intervals(churn_signature(), np.zeros((1, 2), dtype=np.float32))

    assert refused.value.problems[0].field == "outputs"


@pytest.mark.parametrize("coverage", [0.99, 0.0, 1.0, -1.0, float("nan")])
def test_a_coverage_that_the_rows_cannot_promise_is_refused(coverage: float) -> None:
    signature = replace(
        churn_signature(),
        conformal=Conformal(method="lac", rows=20, levels=(0.9,), quantiles=(0.5,)),
    )

    with pytest.raises(InvalidRequestError, match="20 calibration rows") as refused:
        intervals(signature, np.zeros((1, 2), dtype=np.float32), coverage)

    assert (refused.value.problems[0].field, refused.value.problems[0].message) == (
        "coverage",
        "expected one of 0.9",
    )
