"""A pipeline being fitted and predicting: the encoder and one scikit-learn estimator."""

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

from millrace.errors import TrainingError
from millrace.learning.candidates import RECIPES, build_estimator
from millrace.learning.features import Encoder, Rows
from millrace.messages import Trial
from millrace.spec import Algorithm, Task

THREADS = 1
"""Threads of BLAS and OpenMP in one fit.

BLAS splits its sums by the number of threads: one makes them repeatable. OpenMP's threads spin at
every barrier: with two of them on a processor that others use too (a Lambda's share, or trials side
by side) boosting was measured 6 to 80 times slower than with one. The Map over trials is the
parallelism.
"""

type Values = npt.NDArray[np.float64]


@cache
def _threads() -> ThreadpoolController:
    # Looking for the loaded libraries takes longer than a small fit: done once.
    return ThreadpoolController()


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A fitted pipeline.

    Attributes:
        task: What it predicts.
        algorithm: The candidate.
        encoder: From rows to features.
        estimator: The fitted scikit-learn estimator.
        classes: Number of classes of the dataset version, 0 for regression; the estimator may have
            seen fewer.
        rows: Rows it was fitted on.
    """

    task: Task
    algorithm: Algorithm
    encoder: Encoder
    estimator: Any
    classes: int
    rows: int

    def predict(self, rows: Rows) -> Values:
        """Probabilities [n, classes] in the order of the class codes, or numbers [n]."""
        features = self.encoder.transform(rows)
        with _threads().limit(limits=THREADS):
            if self.task is Task.REGRESSION:
                predicted: Values = self.estimator.predict(features).astype(np.float64)
                return predicted
            seen = self.estimator.predict_proba(features)
        probabilities = np.zeros((len(rows), self.classes), dtype=np.float64)
        probabilities[:, self.estimator.classes_] = seen
        return probabilities


def _leaning(task: Task, target: npt.NDArray[np.generic]) -> Values:
    """What categories are ranked by: the number, the second class, or the most frequent one."""
    if task is Task.REGRESSION:
        return target.astype(np.float64)
    codes = target.astype(np.int64)
    told = 1 if task is Task.BINARY else int(np.bincount(codes).argmax())
    leaning: Values = np.equal(codes, told).astype(np.float64)
    return leaning


def fit_model(
    trial: Trial, task: Task, rows: Rows, target: npt.NDArray[np.generic], classes: int
) -> FittedModel:
    """Fits one trial's pipeline; the same arguments give the same model.

    Args:
        trial: Algorithm, hyperparameters and seed.
        task: What is predicted.
        rows: The rows to learn from.
        target: Class codes, or numbers for regression.
        classes: Number of classes of the dataset version, 0 for regression.

    Raises:
        TrainingError: The rows hold one class only, or scikit-learn could not fit them.
    """
    found = np.unique(target)
    if task is not Task.REGRESSION and len(found) < 2:
        raise TrainingError(
            f"the rows to learn from hold {len(found)} of {classes} classes: two are needed"
        )
    encoder = Encoder.fit(rows, RECIPES[trial.algorithm], _leaning(task, target))
    features = encoder.transform(rows)
    # A column without any value says nothing; as a constant no tree splits on it, whatever comes
    # when serving. (Boosting fails on a column that is all NaN.)
    features[:, np.isnan(features).all(axis=0)] = 0.0
    linear = trial.algorithm is Algorithm.LINEAR
    try:
        estimator: Any = build_estimator(
            trial.algorithm,
            task,
            trial.params,
            seed=trial.seed,
            rows=len(rows),
            width=encoder.width,
            classes=classes,
        )
        with _threads().limit(limits=THREADS), warnings.catch_warnings():
            # A linear model a little short of its optimum is still a candidate: its score decides.
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(features.astype(np.float64) if linear else features, target)
    except (ValueError, KeyError, np.linalg.LinAlgError, MemoryError) as exc:
        raise TrainingError(
            f"trial {trial.trial_id} ({trial.algorithm}) cannot be fitted on {len(rows)} rows × "
            f"{encoder.width} features: {type(exc).__name__}: {exc}"
        ) from exc
    return FittedModel(task, trial.algorithm, encoder, estimator, classes, len(rows))
