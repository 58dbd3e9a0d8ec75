"""Baselines made up of counts."""

from typing import Any

from millrace.monitoring.baseline import (
    Baseline,
    CategoricalBaseline,
    FeatureBaseline,
    NumericBaseline,
    ScoreBaseline,
)
from millrace.vocabulary import ColumnType, Task


def number(
    name: str, counts: tuple[int, ...], *, edges: tuple[float, ...], missing: int = 0, **more: Any
) -> FeatureBaseline:
    """A numeric feature; ``more`` are its mean and standard deviation."""
    spread = NumericBaseline(edges=edges, counts=counts, **more)
    return FeatureBaseline(
        name=name, type=ColumnType.NUMBER, private=False, missing=missing, numeric=spread
    )


def text(name: str, counts: dict[str, int], **more: Any) -> FeatureBaseline:
    """A categorical feature: rows of each category; ``more`` are those beyond."""
    spread = CategoricalBaseline(
        categories=tuple(counts), counts=tuple(counts.values()), **{"other": 0, **more}
    )
    return FeatureBaseline(
        name=name, type=ColumnType.STRING, private=False, missing=0, categorical=spread
    )


def private(name: str, missing: int) -> FeatureBaseline:
    """A feature of which nothing but its missing values is known."""
    return FeatureBaseline(name=name, type=ColumnType.STRING, private=True, missing=missing)


def baseline(*features: FeatureBaseline, scores: ScoreBaseline, **changes: Any) -> Baseline:
    """Of a binary model."""
    made: dict[str, Any] = {
        "model": "churn",
        "version": 3,
        "run_id": "churn-run",
        "dataset_version": "d1",
        "task": Task.BINARY,
        "rows": sum(scores.counts),
        "metric": "roc_auc",
        "confidence": 0.95,
        "classes": ("false", "true"),
        "performance": {},
    }
    return Baseline(features=features, scores=scores, **{**made, **changes})
