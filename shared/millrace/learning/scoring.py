"""The metrics of `spec.HIGHER_IS_BETTER`, computed by scikit-learn."""

import warnings

import numpy as np
import numpy.typing as npt
from sklearn import metrics
from sklearn.exceptions import UndefinedMetricWarning

from millrace.errors import TrainingError
from millrace.spec import Task

type Values = npt.NDArray[np.float64]


def score(metric: str, task: Task, actual: npt.NDArray[np.generic], predicted: Values) -> float:
    """One metric of some predictions.

    Args:
        metric: A name of `spec.metrics_for(task)`.
        task: What was predicted.
        actual: Class codes, or numbers for regression.
        predicted: Probabilities [n, classes] in the order of the codes, or numbers [n].

    Raises:
        TrainingError: The metric is undefined on these rows.
    """
    with warnings.catch_warnings():
        # An undefined metric is an error of ours below, with the reason; not a warning.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.filterwarnings("ignore", message=".*y_pred contains classes not in y_true")
        try:
            value = (
                _regression(metric, actual, predicted)
                if task is Task.REGRESSION
                else _classification(metric, actual, predicted)
            )
        except ValueError as exc:
            raise TrainingError(
                f"{metric} cannot be computed on {len(actual)} rows: {exc}"
            ) from exc
    if not np.isfinite(value):
        classes = "" if task is Task.REGRESSION else f" with {len(np.unique(actual))} classes"
        raise TrainingError(f"{metric} is undefined on {len(actual)} rows{classes}: got {value}")
    return value


def _regression(metric: str, actual: npt.NDArray[np.generic], predicted: Values) -> float:
    match metric:
        case "rmse":
            return float(metrics.root_mean_squared_error(actual, predicted))
        case "mae":
            return float(metrics.mean_absolute_error(actual, predicted))
        case "r2":
            return float(metrics.r2_score(actual, predicted))
    raise TrainingError(f"{metric!r} is no metric of regression")


def _classification(metric: str, actual: npt.NDArray[np.generic], predicted: Values) -> float:
    classes = predicted.shape[1]
    labels = predicted.argmax(axis=1)
    match metric:
        case "roc_auc":
            return float(metrics.roc_auc_score(actual, predicted[:, 1]))
        case "average_precision":
            if not (actual == 1).any():
                return float("nan")
            return float(metrics.average_precision_score(actual, predicted[:, 1]))
        case "accuracy":
            return float(metrics.accuracy_score(actual, labels))
        case "balanced_accuracy":
            return float(metrics.balanced_accuracy_score(actual, labels))
        case "f1":
            return float(metrics.f1_score(actual, labels, zero_division=0.0))
        case "f1_macro":
            return float(metrics.f1_score(actual, labels, average="macro", zero_division=0.0))
        case "log_loss":
            return float(metrics.log_loss(actual, predicted, labels=np.arange(classes)))
        case "brier":
            return float(metrics.brier_score_loss(actual, predicted[:, 1], pos_label=1))
    raise TrainingError(f"{metric!r} is no metric of classification")
