"""What monitoring's judgement says of two streams whose truth is known (`infra.demo.streams`).

Ten windows of each: the loans' inputs drift from the sixth on, those of the census in each by so little
that it is significant and nothing to be told of.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.demo.streams import Name, Part, Stream, read_stream
from millrace.datasets.profiles import numeric_profile
from millrace.monitoring.baseline import (
    Baseline,
    CategoricalBaseline,
    FeatureBaseline,
    NumericBaseline,
    ScoreBaseline,
)
from millrace.monitoring.binning import CategoryBins, NumericBins
from millrace.monitoring.findings import Policy, Verdict
from millrace.monitoring.hours import WindowCounts
from millrace.monitoring.judging import judge
from millrace.spec import ColumnType, Task
from tests.bench.conftest import PROJECT
from tests.bench.measure import keep
from tests.unit.monitoring.streams import DAY, START

FREQUENT = 50


def numeric(values: npt.NDArray[Any]) -> NumericBaseline:
    """Bins of numbers, as a profile has them."""
    _, found = numeric_profile(values[~np.isnan(values)])
    assert found is not None
    return NumericBaseline(
        edges=found.histogram.edges,
        counts=found.histogram.counts,
        mean=found.mean,
        std=found.std,
    )


def feature(name: str, kind: ColumnType, values: npt.NDArray[Any]) -> FeatureBaseline:
    """One column of the reference."""
    if kind is not ColumnType.STRING:
        missing = int(np.isnan(values.astype(np.float64)).sum())
        return FeatureBaseline(
            name=name, type=kind, private=False, missing=missing, numeric=numeric(values)
        )
    seen = Counter(values.tolist())
    missing = seen.pop("", 0)
    top = seen.most_common(FREQUENT)
    return FeatureBaseline(
        name=name,
        type=kind,
        private=False,
        missing=missing,
        categorical=CategoricalBaseline(
            categories=tuple(text for text, _ in top),
            counts=tuple(rows for _, rows in top),
            other=seen.total() - sum(rows for _, rows in top),
            rest=None,
        ),
    )


def baseline(stream: Stream) -> Baseline:
    """A baseline of the whole reference."""
    part = stream.reference
    scores = numeric(part.scores)
    yes = int((part.scores >= 0.5).sum())
    return Baseline(
        model=stream.name,
        version=1,
        run_id="run-1",
        dataset_version="d1",
        task=Task.BINARY,
        rows=part.rows,
        metric="roc_auc",
        confidence=0.95,
        classes=("0", "1"),
        features=tuple(feature(n, k, part.inputs[n]) for n, k in stream.features.items()),
        scores=ScoreBaseline(
            edges=scores.edges, counts=scores.counts, mean=scores.mean, std=scores.std
        ),
        predicted=(part.rows - yes, yes),
        performance={},
    )


def window(trained: Baseline, part: Part, number: int) -> WindowCounts:
    """What capture counts of a chunk."""
    features = {}
    for one in trained.features:
        if one.numeric is not None:
            bins: NumericBins | CategoryBins = NumericBins(one.numeric.edges)
        else:
            assert one.categorical is not None
            places = {text: i for i, text in enumerate(one.categorical.categories)}
            bins = CategoryBins(places, None)
        features[one.name] = bins.count(part.inputs[one.name].tolist())
    yes = int((part.scores >= 0.5).sum())
    since = START + number * DAY
    return WindowCounts(
        model=trained.model,
        version=trained.version,
        since=since,
        until=since + DAY,
        requests=part.rows,
        rows=part.rows,
        weighed=float(part.rows),
        features=features,
        scores=NumericBins(trained.scores.edges).count(part.scores.tolist()),
        classes=Counter({"0": part.rows - yes, "1": yes}),
    )


def verdicts(name: Name) -> list[Verdict]:
    """Of ten chunks, one after the other."""
    folder = PROJECT / ".millrace" / "demo"
    stream = read_stream(name, folder, Path(PROJECT / ".venv" / "bin" / "uv"))
    trained = baseline(stream)
    found: list[Verdict] = []
    for number, part in enumerate(stream.analysis.chunks(10)):
        found.append(judge(trained, window(trained, part, number), (), found, Policy()))
    figures = {
        str(number): {
            "state": verdict.state,
            "rows": verdict.rows,
            "significant": len(significant(verdict)),
            "greatest_effect": max(f.effect or 0.0 for f in drifts(verdict)),
            "alarms": [f.subject for f in verdict.alarms],
        }
        for number, verdict in enumerate(found)
    }
    print(name, figures)
    keep(f"drift of {name}", {"chunks": figures})
    return found


def drifts(verdict: Verdict) -> list[Any]:
    """Findings of distributions."""
    return [f for f in verdict.findings if f.statistic == "psi"]


def significant(verdict: Verdict) -> list[Any]:
    """Findings that are no chance."""
    return [
        f
        for f in verdict.findings
        if f.adjusted_p is not None and f.adjusted_p <= Policy().significance
    ]


def test_the_loans_alarm_from_where_they_drift_and_not_before() -> None:
    found = verdicts("car-loan")

    assert [v.state for v in found] == ["ok"] * 5 + ["watch"] + ["alarm"] * 4
    assert found[-1].moved[0].first_seen == START + 5 * DAY
    assert {f.subject for f in found[-1].alarms} >= {"car_value", "scores"}


def test_the_census_drifts_in_every_window_and_never_by_as_much_as_counts() -> None:
    found = verdicts("census")

    assert {v.state for v in found} == {"ok"}
    assert all(significant(v) for v in found)
