"""Made-up baselines and windows for the tests and benches of monitoring's judgement."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.monitoring.baseline import (
    Baseline,
    CategoricalBaseline,
    FeatureBaseline,
    NumericBaseline,
    ScoreBaseline,
)
from millrace.monitoring.drift import counted
from millrace.monitoring.hours import FeatureCounts, WindowCounts
from millrace.spec import ColumnType, Task

START: Final = datetime(2026, 11, 2, tzinfo=UTC)
"""A Monday."""
DAY: Final = timedelta(days=1)
BINS: Final = 20
COLOURS: Final = ("red", "green", "blue", "grey")
type Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class World:
    """Where rows come from.

    Attributes:
        numeric: Standard normal features.
        categorical: Features of four colours.
        shift: By how many standard deviations features have moved, by number; the scores at -1.
        missing: Share of missing values, by number of the feature.
    """

    numeric: int = 3
    categorical: int = 1
    shift: Mapping[int, float] | None = None
    missing: Mapping[int, float] | None = None

    def names(self) -> list[str]:
        """Of the numeric features, then of the categorical."""
        return [f"n{i}" for i in range(self.numeric)] + [f"c{i}" for i in range(self.categorical)]

    def numbers(self, rows: int, draw: np.random.Generator, which: int) -> Floats:
        """Rows of a numeric feature, missing ones NaN."""
        values = draw.normal((self.shift or {}).get(which, 0.0), 1, rows)
        share = (self.missing or {}).get(which, 0.0)
        return np.where(draw.random(rows) < share, np.nan, values) if share else values

    def colours(self, rows: int, draw: np.random.Generator, which: int) -> npt.NDArray[np.int64]:
        """Rows of a categorical feature; a shift tilts the colours' shares."""
        tilt = (self.shift or {}).get(self.numeric + which, 0.0)
        weights = np.array([0.4, 0.3, 0.2, 0.1]) * np.exp(tilt * np.array([0.0, 0.5, 1.0, 1.5]))
        return draw.multinomial(rows, weights / weights.sum()).astype(np.int64)

    def scores(self, rows: int, draw: np.random.Generator) -> Floats:
        """Probabilities of the positive class."""
        logits = draw.normal(-1 + (self.shift or {}).get(-1, 0.0), 1, rows)
        return np.asarray(1 / (1 + np.exp(-logits)))


def baseline(world: World, rows: int, draw: np.random.Generator) -> Baseline:
    """A version's baseline of so many held-out rows; edges are quantiles of the rows themselves."""
    features = []
    for i in range(world.numeric):
        values = world.numbers(rows, draw, i)
        present = values[~np.isnan(values)]
        edges = np.quantile(present, np.linspace(0, 1, BINS + 1))
        features.append(
            FeatureBaseline(
                name=f"n{i}",
                type=ColumnType.NUMBER,
                private=False,
                missing=int(np.isnan(values).sum()),
                numeric=NumericBaseline(
                    edges=tuple(edges.tolist()),
                    counts=tuple(counted(present, edges).tolist()),
                    mean=float(present.mean()),
                    std=float(present.std()),
                ),
            )
        )
    features += [
        FeatureBaseline(
            name=f"c{i}",
            type=ColumnType.STRING,
            private=False,
            missing=0,
            categorical=CategoricalBaseline(
                categories=COLOURS, counts=tuple(world.colours(rows, draw, i).tolist()), other=0
            ),
        )
        for i in range(world.categorical)
    ]
    scores = world.scores(rows, draw)
    edges = np.quantile(scores, np.linspace(0, 1, BINS + 1))
    return Baseline(
        model="churn",
        version=3,
        run_id="run-1",
        dataset_version="d1",
        task=Task.BINARY,
        rows=rows,
        metric="roc_auc",
        confidence=0.95,
        classes=("no", "yes"),
        features=tuple(features),
        scores=ScoreBaseline(
            edges=tuple(edges.tolist()),
            counts=tuple(counted(scores, edges).tolist()),
            mean=float(scores.mean()),
            std=float(scores.std()),
        ),
        predicted=(int((scores < 0.5).sum()), int((scores >= 0.5).sum())),
        performance={},
    )


def numeric_counts(values: Floats, edges: tuple[float, ...]) -> FeatureCounts:
    """What capture counts of a numeric column."""
    present = values[~np.isnan(values)]
    tallies = counted(present, np.asarray(edges))
    return FeatureCounts(
        rows=len(values),
        missing=len(values) - len(present),
        below=int((present < edges[0]).sum()),
        above=int((present > edges[-1]).sum()),
        bins=Counter({i: int(n) for i, n in enumerate(tallies) if n}),
    )


def window(
    of: Baseline,
    world: World,
    rows: int,
    draw: np.random.Generator,
    *,
    since: datetime = START,
    length: timedelta = DAY,
    **parts: Any,
) -> WindowCounts:
    """What capture would have counted of rows of a world."""
    features = {}
    for i in range(world.numeric):
        numeric = of.features[i].numeric
        assert numeric is not None
        features[f"n{i}"] = numeric_counts(world.numbers(rows, draw, i), numeric.edges)
    for i in range(world.categorical):
        tallies = world.colours(rows, draw, i)
        features[f"c{i}"] = FeatureCounts(
            rows=rows, bins=Counter({k: int(n) for k, n in enumerate(tallies) if n})
        )
    scores = world.scores(rows, draw)
    yes = int((scores >= 0.5).sum())
    made: dict[str, Any] = {
        "requests": rows,
        "rows": rows,
        "weighed": float(rows),
        "latency": Counter({20: rows - rows // 50, 30: rows // 50}),
        "features": features,
        "scores": numeric_counts(scores, of.scores.edges),
        "classes": Counter({"no": rows - yes, "yes": yes}),
    }
    return WindowCounts(
        model=of.model, version=of.version, since=since, until=since + length, **(made | parts)
    )
