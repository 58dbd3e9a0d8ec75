"""What a model was asked and answered, in the bins of its baseline, for Prometheus.

Scores are a histogram with the baseline's edges; the values of each public feature are counters by
bin. Beside them stands what the baseline has on the same bins, so that a query alone tells how far a
distribution moved. Counts add up over workers, servers and time.

Bounded: of each request `MAX_ROWS` rows are looked at, evenly spread over it; of each version the
first `MAX_FEATURES` features in at most `MAX_BINS` bins each. ``/metrics`` asks for no key, so bins of
features are numbered, and no value of a column is a label.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from millrace.bundle import Bundle
from millrace.monitoring.baseline import Baseline
from millrace.monitoring.binning import Bins, CategoryBins, NumericBins
from millrace.server.tallies import Observations, Tallied
from millrace.serving import telemetry
from millrace.serving.prediction import Prediction
from millrace.signature import Signature
from millrace.vocabulary import ColumnType, Task

MAX_ROWS: Final = 20
MAX_FEATURES: Final = 50
MAX_BINS: Final = 10
MISSING: Final = "missing"
OTHER: Final = "other"
UNSEEN: Final = "unseen"
SCORES: Final = "millrace_prediction_score"
VALUES: Final = "millrace_feature_values"
BASELINE_SCORES: Final = "millrace_baseline_score"
BASELINE_VALUES: Final = "millrace_baseline_feature_values"
_SCORES_HELP: Final = (
    "Scores of the answers: of two classes the probability of the second, of more that of the "
    "predicted one, of a regression the number."
)
_BINARY: Final = 2

type Places = Callable[[Any], int]


@dataclass(slots=True)
class _Feature:
    """Where values of a feature fall.

    Attributes:
        name: The feature.
        text: Whether it is one of the batch's texts.
        position: Its place among them.
        bin_of: The place of a value among the labels.
        labels: Of the bins.
        baseline: Rows of the baseline in each bin.
        counted: Rows that were counted in each bin and are not written yet.
    """

    name: str
    text: bool
    position: int
    bin_of: Places
    labels: tuple[str, ...]
    baseline: Mapping[str, int]
    counted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing is counted yet."""
        self.counted = [0] * len(self.labels)


@dataclass(slots=True)
class _Version:
    """What is counted of one version.

    Attributes:
        labels: Its model and number.
        scores: The histogram of its scores.
        observed: Its scores that are not written yet.
        features: Those that are counted.
    """

    labels: tuple[str, str]
    scores: Tallied
    observed: Observations
    features: tuple[_Feature, ...]


class Distributions:
    """Counts of every version that has a baseline.

    Args:
        registry: Where they are collected from; None where workers share their values in files.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._values = prometheus_client.Counter(
            VALUES,
            "Rows with a value of a feature in a bin of the version's baseline.",
            ("model", "version", "feature", "bin"),
            registry=registry,
        )
        self._bundles: Callable[[], Iterable[Bundle]] = tuple
        self._versions: dict[tuple[str, int], _Version | None] = {}
        if registry is not None:
            registry.register(_Scores(self._versions))

    def describe(self, bundles: Callable[[], Iterable[Bundle]]) -> Collector:
        """Says which bundles are served; gives what collects their baselines."""
        self._bundles = bundles
        return _Baselines(bundles)

    def answered(self, prediction: Prediction) -> None:
        """Counts some rows of a prediction."""
        key = (prediction.model, prediction.version)
        if key not in self._versions:
            self._versions[key] = None  # what cannot be read is read once
            self._versions[key] = self._version(key)
        version = self._versions[key]
        if version is None:
            return
        batch = prediction.batch
        output, numeric, texts = prediction.output, batch.numeric, batch.texts
        if batch.rows > MAX_ROWS:
            some = np.arange(MAX_ROWS) * batch.rows // MAX_ROWS
            output, numeric = output[some], numeric[some]
            texts = [[column[row] for row in some.tolist()] for column in texts]
        for score in _scores(output):
            version.observed.observe(score)
        numbers = numeric.T.tolist()
        for feature in version.features:
            counted, bin_of = feature.counted, feature.bin_of
            for value in (texts if feature.text else numbers)[feature.position]:
                counted[bin_of(value)] += 1

    def write(self) -> None:
        """Writes what was counted."""
        for version in self._versions.values():
            if version is not None:
                self._write(version)

    def _write(self, version: _Version) -> None:
        version.observed.write()
        for feature in version.features:
            for place, rows in enumerate(feature.counted):
                if rows:
                    name = feature.labels[place]
                    self._values.labels(*version.labels, feature.name, name).inc(rows)
                    feature.counted[place] = 0

    def _version(self, key: tuple[str, int]) -> _Version | None:
        for bundle in self._bundles():
            if (bundle.manifest.model, bundle.manifest.version) == key:
                baseline = baseline_of(bundle)
                if baseline is None:
                    return None
                signature = Signature.from_json(bundle.read_role("signature"))
                labels = (key[0], str(key[1]))
                scores = Tallied(
                    SCORES,
                    _SCORES_HELP,
                    ("model", "version"),
                    buckets=_bounds(baseline),
                    registry=None,  # each version has bounds of its own: `_Scores` puts them together
                ).labels(*labels)
                return _Version(
                    labels, scores, Observations(scores), _features(baseline, signature)
                )
        return None


def baseline_of(bundle: Bundle) -> Baseline | None:
    """The baseline in a bundle; None when it has none.

    Raises:
        ArtifactError: It is none that this version reads.
    """
    if bundle.manifest.of_role("baseline") is None:
        return None
    return Baseline.from_bytes(bundle.read_role("baseline"), f"{bundle.path}: baseline.json")


def _scores(output: Any) -> Sequence[float]:
    """The score of each row, as the baseline's."""
    if output.ndim == 1:
        found = output
    else:
        found = output[:, 1] if output.shape[1] == _BINARY else output.max(axis=1)
    scores: list[float] = found.tolist()
    return [score for score in scores if score == score]


def _bounds(baseline: Baseline) -> tuple[float, ...]:
    """Upper bounds of the histogram's buckets: the baseline's edges between its bins."""
    inner = baseline.scores.edges[1:-1]
    if baseline.task is not Task.REGRESSION:
        inner = tuple(edge for edge in inner if 0 < edge < 1)
    return inner or baseline.scores.edges[:1] or (0.0,)


def _features(baseline: Baseline, signature: Signature) -> tuple[_Feature, ...]:
    texts = {one.name: place for place, one in enumerate(signature.categorical)}
    numbers = {one.name: place for place, one in enumerate(signature.numeric)}
    bins = Bins.of(baseline).features
    found: list[_Feature] = []
    for one in baseline.features:
        is_text = one.type is ColumnType.STRING
        position = (texts if is_text else numbers).get(one.name)
        if position is None or one.name not in bins or len(found) == MAX_FEATURES:
            continue
        of = bins[one.name]
        counts: Counter[str] = Counter({MISSING: one.missing})
        if isinstance(of, NumericBins):
            for place, rows in enumerate(one.numeric.counts if one.numeric else ()):
                counts[_NUMBERED[_number_place(place, of.size)]] += rows
            found.append(_Feature(one.name, False, position, _of_number(of), _NUMBERED, counts))
        else:
            for place, rows in enumerate(one.categorical.counts if one.categorical else ()):
                counts[_NAMED[_category_place(place)]] += rows
            counts[OTHER] += one.categorical.other if one.categorical else 0
            found.append(_Feature(one.name, True, position, _of_text(of), _NAMED, counts))
    return tuple(found)


_NUMBERED: Final = (*map(str, range(MAX_BINS)), MISSING)
_NAMED: Final = (*map(str, range(MAX_BINS)), OTHER, UNSEEN, MISSING)


def _number_place(place: int, size: int) -> int:
    """The bin that is told of; neighbours share one where there are more than `MAX_BINS`."""
    return place if size <= MAX_BINS else place * MAX_BINS // size


def _category_place(place: int) -> int:
    return min(place, MAX_BINS)  # the one after them is of the others


def _of_number(bins: NumericBins) -> Places:
    # In 32 bits, as the model is given them: what equals an edge falls where it fell in the baseline.
    inner = [float(np.float32(edge)) for edge in bins.edges[1:-1]]
    places = [_number_place(place, bins.size) for place in range(bins.size)]
    missing = _NUMBERED.index(MISSING)

    def bin_of(value: Any) -> int:
        return places[bisect_right(inner, value)] if value == value else missing

    return bin_of


def _of_text(bins: CategoryBins) -> Places:
    places = {name: _category_place(place) for name, place in bins.places.items()}
    missing, other, unseen = (_NAMED.index(name) for name in (MISSING, OTHER, UNSEEN))
    places |= dict.fromkeys(bins.known or (), other) | {"": missing}
    strange = other if bins.known is None else unseen

    def bin_of(value: Any) -> int:
        return places.get(value, strange)

    return bin_of


class _Scores(Collector):
    """The histograms of all versions as one metric, where one process counts."""

    def __init__(self, versions: Mapping[tuple[str, int], _Version | None]) -> None:
        self._versions = versions

    def describe(self) -> Iterable[Metric]:
        """Which metrics there will be."""
        return (Metric(SCORES, _SCORES_HELP, "histogram"),)

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        whole = Metric(SCORES, _SCORES_HELP, "histogram")
        for version in list(self._versions.values()):
            if version is None:
                continue
            named = dict(zip(("model", "version"), version.labels, strict=True))
            for metric in version.scores.collect():
                for sample in metric.samples:
                    whole.add_sample(sample.name, named | sample.labels, sample.value)
        return (whole,)


class _Baselines(Collector):
    """What baselines have, on the bins that are counted; constant as long as a version is served."""

    def __init__(self, bundles: Callable[[], Iterable[Bundle]]) -> None:
        self._bundles = bundles
        self._known: dict[str, tuple[Baseline, tuple[_Feature, ...]] | None] = {}

    def describe(self) -> Iterable[Metric]:
        """Which metrics there will be."""
        return _families()

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        scores, values = _families()
        for bundle in self._bundles():
            found = self._of(bundle)
            if found is None:
                continue
            labels = [bundle.manifest.model, str(bundle.manifest.version)]
            scores.add_metric(labels, *_baseline_buckets(found[0]))
            for feature in found[1]:
                for name, rows in feature.baseline.items():
                    values.add_metric([*labels, feature.name, name], rows)
        return (scores, values)

    def _of(self, bundle: Bundle) -> tuple[Baseline, tuple[_Feature, ...]] | None:
        file = bundle.manifest.of_role("baseline")
        if file is None:
            return None
        if file.sha256 not in self._known:
            self._known[file.sha256] = None  # what cannot be read is read once
            with telemetry.harmless():
                baseline = baseline_of(bundle)
                signature = Signature.from_json(bundle.read_role("signature"))
                if baseline is not None:
                    self._known[file.sha256] = baseline, _features(baseline, signature)
        return self._known[file.sha256]


def _families() -> tuple[HistogramMetricFamily, GaugeMetricFamily]:
    return (
        HistogramMetricFamily(
            BASELINE_SCORES,
            "Scores of the rows that the version was tested on.",
            labels=("model", "version"),
        ),
        GaugeMetricFamily(
            BASELINE_VALUES,
            "Rows that the version was tested on, by bin of a feature.",
            labels=("model", "version", "feature", "bin"),
        ),
    )


def _baseline_buckets(baseline: Baseline) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts of the baseline under the histogram's bounds, and the sum of its scores."""
    scores = baseline.scores
    buckets: list[tuple[str, float]] = []
    for bound in _bounds(baseline):
        below = sum(
            rows
            for edge, rows in zip(scores.edges[1:], scores.counts, strict=False)
            if edge <= bound
        )
        buckets.append((floatToGoString(bound), float(below)))  # type: ignore[no-untyped-call]
    total = float(sum(scores.counts))
    return [*buckets, ("+Inf", total)], scores.mean * total
