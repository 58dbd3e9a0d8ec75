"""Scores by name, and undefined scores as errors."""

import numpy as np
import pytest

from millrace.errors import TrainingError
from millrace.learning.scoring import score
from millrace.spec import HIGHER_IS_BETTER, Task, metrics_for

PERFECT = {name: 1.0 if higher else 0.0 for name, higher in HIGHER_IS_BETTER.items()}


@pytest.mark.parametrize(
    ("task", "metric"), [(task, metric) for task in Task for metric in metrics_for(task)]
)
def test_every_metric_of_a_task_tells_good_from_bad(task: Task, metric: str) -> None:
    if task is Task.REGRESSION:
        actual = np.array([1.0, 2.0, 3.0, 4.0])
        perfect, poor = actual.copy(), actual[::-1].copy()
    else:
        classes = 2 if task is Task.BINARY else 3
        actual = np.arange(12) % classes
        perfect = np.eye(classes)[actual]
        poor = np.eye(classes)[(actual + 1) % classes] * 0.8 + 0.2 / classes

    best, worst = (score(metric, task, actual, values) for values in (perfect, poor))

    assert best == pytest.approx(PERFECT[metric], abs=1e-9)
    assert (worst < best) == HIGHER_IS_BETTER[metric]


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_score_undefined_on_one_class_is_an_error(metric: str) -> None:
    with pytest.raises(TrainingError, match=f"{metric} is undefined on 5 rows with 1 classes"):
        score(metric, Task.BINARY, np.zeros(5, int), np.full((5, 2), 0.5))


def test_prediction_of_a_class_not_in_the_rows_is_no_warning() -> None:
    predicted = np.eye(3)[[0, 1, 2]]

    assert score("balanced_accuracy", Task.MULTICLASS, np.array([0, 1, 1]), predicted) == 0.75


@pytest.mark.parametrize("task", [Task.BINARY, Task.REGRESSION])
def test_unknown_metric_is_an_error(task: Task) -> None:
    predicted = np.full((3, 2), 0.5) if task is Task.BINARY else np.zeros(3)

    with pytest.raises(TrainingError, match="'gini' is no metric"):
        score("gini", task, np.array([0, 1, 0]), predicted)


def test_nan_prediction_is_an_error() -> None:
    with pytest.raises(TrainingError, match="rmse cannot be computed on 2 rows"):
        score("rmse", Task.REGRESSION, np.zeros(2), np.array([np.nan, 0.0]))
