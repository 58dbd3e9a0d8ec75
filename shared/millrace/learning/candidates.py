"""The candidate algorithms: how each is prepared, sampled, bounded and built.

Every size is bounded so that a model stays small: a session of 0.1 MB opens in 2 ms, one of 96 MB
in 1.9 s, and the predict function pays that on every cold start.
"""

import math
from random import Random
from typing import Any, Final

from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge

from millrace.learning.features import Recipe
from millrace.spec import Algorithm, Task

RECIPES: Final = {
    Algorithm.LINEAR: Recipe(impute=True, scale=True),
    Algorithm.RANDOM_FOREST: Recipe(impute=True, scale=False),
    Algorithm.HIST_GRADIENT_BOOSTING: Recipe(impute=False, scale=False, rank=True),
}

SIMPLICITY: Final = {
    Algorithm.LINEAR: 0,
    Algorithm.RANDOM_FOREST: 1,
    Algorithm.HIST_GRADIENT_BOOSTING: 2,
}
"""Which algorithm wins a tie: the lowest."""

MAX_FOREST_ROWS = 10_000
"""Rows each tree of a forest is grown on; more change little and cost linearly."""

MAX_LEAF_VALUES = 60_000
"""Bound on trees × leaves × classes of one model: about 5 MB of ONNX."""

MAX_NEWTON_WIDTH = 600
"""Widest Hessian (features × classes) worth factorising; wider ones take L-BFGS."""


def default_params(algorithm: Algorithm, task: Task, rows: int, classes: int) -> dict[str, Any]:
    """A sound setting: the first trial of each candidate.

    Args:
        algorithm: The candidate.
        task: What the model predicts.
        rows: Rows of the train split.
        classes: Number of classes, 0 for regression.
    """
    leaf_rows = max(2, min(20, rows // 40))
    match algorithm:
        case Algorithm.LINEAR:
            return {"regularization": 1.0}
        case Algorithm.RANDOM_FOREST:
            params: dict[str, Any] = {
                "trees": 100,
                "max_leaf_nodes": 128,
                "min_samples_leaf": min(5, leaf_rows),
                "max_features": 0.33 if task is Task.REGRESSION else "sqrt",
            }
        case Algorithm.HIST_GRADIENT_BOOSTING:
            params = {
                "trees": 100,
                "learning_rate": 0.1,
                "max_leaf_nodes": 31,
                "min_samples_leaf": leaf_rows,
                "l2_regularization": 0.0,
            }
    return _bounded(params, algorithm, classes)


def sampled_params(algorithm: Algorithm, rows: int, classes: int, random: Random) -> dict[str, Any]:
    """One random point of the algorithm's search space; arguments as in `default_params`."""
    leaf_rows = [n for n in (2, 5, 10, 20, 50) if n <= max(2, rows // 20)]
    match algorithm:
        case Algorithm.LINEAR:
            return {"regularization": _log_uniform(random, 1e-2, 1e3)}
        case Algorithm.RANDOM_FOREST:
            params: dict[str, Any] = {
                "trees": random.choice((60, 80, 100, 120)),
                "max_leaf_nodes": random.choice((32, 64, 128, 256)),
                "min_samples_leaf": random.choice(leaf_rows),
                "max_features": random.choice(("sqrt", 0.2, 0.33, 0.5)),
            }
        case Algorithm.HIST_GRADIENT_BOOSTING:
            params = {
                "trees": random.choice((60, 100, 150)),
                "learning_rate": _log_uniform(random, 0.03, 0.3),
                "max_leaf_nodes": random.choice((7, 15, 31, 47)),
                "min_samples_leaf": random.choice(leaf_rows),
                "l2_regularization": _log_uniform(random, 1e-3, 10.0),
            }
    return _bounded(params, algorithm, classes)


def build_estimator(
    algorithm: Algorithm,
    task: Task,
    params: dict[str, Any],
    *,
    seed: int,
    rows: int,
    width: int,
    classes: int,
) -> BaseEstimator:
    """An unfitted scikit-learn estimator.

    Args:
        algorithm: The candidate.
        task: What the model predicts.
        params: From `default_params` or `sampled_params`.
        seed: Of everything random in the fit.
        rows: Rows it will be fitted on.
        width: Features it will be fitted on.
        classes: Number of classes, 0 for regression.
    """
    regression = task is Task.REGRESSION
    match algorithm:
        case Algorithm.LINEAR if regression:
            return Ridge(alpha=params["regularization"])
        case Algorithm.LINEAR:
            small = width * (classes if classes > 2 else 1) <= MAX_NEWTON_WIDTH
            return LogisticRegression(
                C=1.0 / params["regularization"],
                solver="newton-cholesky" if small else "lbfgs",
                max_iter=100 if small else 300,
                tol=1e-4,
            )
        case Algorithm.RANDOM_FOREST:
            forest = RandomForestRegressor if regression else RandomForestClassifier
            return forest(
                n_estimators=params["trees"],
                max_leaf_nodes=params["max_leaf_nodes"],
                min_samples_leaf=params["min_samples_leaf"],
                max_features=params["max_features"],
                max_samples=MAX_FOREST_ROWS if rows > MAX_FOREST_ROWS else None,
                # One job: threads add up the trees' votes in whatever order they finish.
                n_jobs=1,
                random_state=seed,
            )
        case Algorithm.HIST_GRADIENT_BOOSTING:
            boosting = (
                HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
            )
            return boosting(
                max_iter=params["trees"],
                learning_rate=params["learning_rate"],
                max_leaf_nodes=params["max_leaf_nodes"],
                min_samples_leaf=params["min_samples_leaf"],
                l2_regularization=params["l2_regularization"],
                # Its own random validation rows would split groups and look into the future.
                early_stopping=False,
                # None: native categories convert to a wrong graph, silently.
                categorical_features=None,
                random_state=seed,
            )


def _log_uniform(random: Random, low: float, high: float) -> float:
    drawn = math.exp(random.uniform(math.log(low), math.log(high)))
    return float(f"{drawn:.4g}")


def _bounded(params: dict[str, Any], algorithm: Algorithm, classes: int) -> dict[str, Any]:
    """Fewer trees, then fewer leaves, when many classes would make the model too large."""
    # Boosting grows one tree a class; a forest keeps one weight a class in each leaf.
    ways = classes if classes > 2 or algorithm is Algorithm.RANDOM_FOREST else 1
    budget = MAX_LEAF_VALUES // max(1, ways)
    trees = max(10, min(params["trees"], budget // params["max_leaf_nodes"]))
    leaves = max(4, min(params["max_leaf_nodes"], budget // trees))
    return params | {"trees": trees, "max_leaf_nodes": leaves}
