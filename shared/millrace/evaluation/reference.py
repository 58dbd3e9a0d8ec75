"""Makes the baseline of a version (`monitoring.baseline`) from its evaluated test split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.evaluation.document import Importance, Measured
from millrace.evaluation.metrics import Codes, Floats, Outcome, compute
from millrace.evaluation.slices import (
    MAX_DISTINCT,
    MAX_GROUPS,
    MIN_ROWS,
    columns_to_slice,
    group_facts,
)
from millrace.monitoring.baseline import (
    MAX_BYTES,
    Baseline,
    CategoricalBaseline,
    EncodedColumn,
    FeatureBaseline,
    Loss,
    NumericBaseline,
    PrincipalComponents,
    ReferenceMetric,
    ScoreBaseline,
    Segment,
    SegmentGroup,
)
from millrace.monitoring.encoding import (
    MAX_CATEGORIES,
    MAX_COLUMNS,
    bins_of,
    encode,
    score_bins,
)
from millrace.monitoring.estimation import (
    LOSS_FEATURES,
    MAX_CALIBRATED,
    MIN_SKILL,
    Binned,
    calibrated,
    estimate,
    fit_calibration,
    fit_losses,
)
from millrace.monitoring.segments import codes_of
from millrace.monitoring.spread import group_spread
from millrace.signature import FeatureField, Signature
from millrace.spec import ColumnType, ModelSpec, Task

CHUNKS: Final = 10
MIN_CHUNK_ROWS: Final = 30
"""Rows of a chunk below which a metric of it says nothing."""
COMPONENT_ROWS: Final = 20_000
EXPLAINED: Final = 0.65
"""Share of the variance that the components keep: NannyML's default for data reconstruction."""
MAX_COMPONENTS: Final = 50
SEGMENTS: Final = 5
"""Important features that live rows are cut by, besides those of the spec's gates."""


@dataclass(frozen=True, slots=True)
class _Detail:
    """How much of each column is kept."""

    bins: int
    top: int
    rest: int


_DETAILS: Final = (_Detail(20, 50, 200), _Detail(10, 20, 50), _Detail(10, 5, 0), _Detail(4, 2, 0))
"""The first that the document fits into `MAX_BYTES` with; the last in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A version on its test split.

    Attributes:
        spec: The spec of its run.
        signature: What it takes and gives.
        version: Its number.
        run_id: Its run.
        dataset_version: What it was made from.
        inputs: Its two inputs, as `scoring.model_inputs` gives them.
        outcome: Truth and output.
        classes: What the outcome's columns are.
        metrics: Its metrics with their intervals.
        importance: Of its features.
        moments: When each row was, where a column tells; else the rows' order is taken.
    """

    spec: ModelSpec
    signature: Signature
    version: int
    run_id: str
    dataset_version: str
    inputs: tuple[npt.NDArray[np.float32], npt.NDArray[np.object_]]
    outcome: Outcome
    classes: tuple[str, ...]
    metrics: Mapping[str, Measured]
    importance: Importance
    moments: Floats | None = None

    def column(self, feature: FeatureField) -> npt.NDArray[Any]:
        """A feature's values: float32 with NaN, or texts with ""."""
        numeric, categorical = self.inputs
        if feature.type is ColumnType.STRING:
            return categorical[:, self.signature.categorical.index(feature)]
        return numeric[:, self.signature.numeric.index(feature)]


def describe(judged: Judged) -> Baseline:
    """The baseline; the same for the same arguments."""
    for detail in _DETAILS:
        baseline = _describe(judged, detail)
        if len(baseline.to_bytes()) <= MAX_BYTES:
            break
    return baseline


def _describe(judged: Judged, detail: _Detail) -> Baseline:
    outcome, spec = _in_order_of_classes(judged), judged.spec
    classes = _classes(judged)
    features = tuple(_feature(judged, f, detail) for f in judged.signature.features)
    regression = outcome.task is Task.REGRESSION
    scores = _scores_of(outcome)
    segments, uncaptured = _segments(judged, outcome)
    maps = () if regression else _calibration(outcome)
    told = _losses(outcome, _binned(judged, features, scores)) if regression else None
    losses, refused = _usable(told) if told is not None else ((), "")
    return Baseline(
        model=spec.name,
        version=judged.version,
        run_id=judged.run_id,
        dataset_version=judged.dataset_version,
        task=outcome.task,
        rows=outcome.rows,
        metric=spec.training_metric,
        confidence=spec.evaluate.confidence,
        classes=classes,
        features=features,
        scores=_score_baseline(outcome, classes, scores),
        predicted=() if regression else _tally(outcome.labels, len(classes)),
        actual=() if regression else _tally(outcome.truth, len(classes)),
        calibration=maps,
        losses=losses,
        losses_refused=refused,
        performance=_performance(judged, outcome, told),
        components=_components(judged, features),
        segments=segments,
        uncaptured_segments=uncaptured,
    )


# ── Classes and scores ──────────────────────────────────────────────────────────────────────────


def _classes(judged: Judged) -> tuple[str, ...]:
    known = judged.signature.classes
    return (*known, *(label for label in judged.classes if label not in known))


def _in_order_of_classes(judged: Judged) -> Outcome:
    """The outcome with its columns as the model answers: captured outputs have no other names."""
    outcome, wanted = judged.outcome, _classes(judged)
    if outcome.task is Task.REGRESSION or wanted == judged.classes:
        return outcome
    places = [judged.classes.index(label) for label in wanted]
    codes = np.argsort(places).astype(np.int64)
    return Outcome(outcome.task, codes[outcome.truth], outcome.output[:, places])


def _scores_of(outcome: Outcome) -> Floats:
    match outcome.task:
        case Task.BINARY:
            return outcome.scores
        case Task.MULTICLASS:
            top: Floats = outcome.output.max(axis=1)
            return top
        case Task.REGRESSION:
            return outcome.output


def _score_baseline(outcome: Outcome, classes: tuple[str, ...], scores: Floats) -> ScoreBaseline:
    edges = _edges(scores.astype(np.float32), _DETAILS[0].bins)
    place = score_bins(edges, scores)
    bins = len(edges) - 1
    by_class = {}
    if outcome.task is not Task.REGRESSION and len(classes) <= MAX_CALIBRATED:
        by_class = {
            label: _tally(place[outcome.truth == code], bins) for code, label in enumerate(classes)
        }
    return ScoreBaseline(
        edges=edges,
        counts=_tally(place, bins),
        mean=_short(scores.mean()),
        std=_short(scores.std()),
        by_class=by_class,
    )


def _calibration(outcome: Outcome) -> tuple[Any, ...]:
    classes = outcome.output.shape[1]
    if classes > MAX_CALIBRATED:
        return ()
    codes = (1,) if outcome.task is Task.BINARY else range(classes)
    return tuple(fit_calibration(outcome.output[:, c], outcome.truth == c) for c in codes)


# ── Features ────────────────────────────────────────────────────────────────────────────────────


def _feature(judged: Judged, feature: FeatureField, detail: _Detail) -> FeatureBaseline:
    values = judged.column(feature)
    missing = values == "" if feature.type is ColumnType.STRING else np.isnan(values)
    known = values[~missing]
    numeric = categorical = None
    if len(known) and not feature.private:
        if feature.type is ColumnType.STRING:
            categorical = _categories(known, feature, detail)
        else:
            numeric = _numbers(known, detail.bins)
    return FeatureBaseline(
        name=feature.name,
        type=feature.type,
        private=feature.private,
        missing=int(missing.sum()),
        numeric=numeric,
        categorical=categorical,
    )


def _numbers(values: npt.NDArray[np.float32], bins: int) -> NumericBaseline:
    edges = _edges(values, bins)
    wide = values.astype(np.float64)
    return NumericBaseline(
        edges=edges,
        counts=_tally(score_bins(edges, wide), len(edges) - 1),
        mean=_short(wide.mean()),
        std=_short(wide.std()),
    )


def _categories(
    values: npt.NDArray[np.object_], feature: FeatureField, detail: _Detail
) -> CategoricalBaseline:
    present, counts = np.unique(values.astype(str), return_counts=True)
    ranked = sorted(
        zip(present.tolist(), counts.tolist(), strict=True), key=lambda p: (-p[1], p[0])
    )
    kept = ranked[: detail.top]
    named = {name for name, _ in kept}
    known = None if feature.categories is None else {*present.tolist(), *feature.categories}
    rest = None if known is None else tuple(sorted(known - named))
    return CategoricalBaseline(
        categories=tuple(name for name, _ in kept),
        counts=tuple(count for _, count in kept),
        other=sum(count for _, count in ranked[detail.top :]),
        rest=rest if rest is not None and len(rest) <= detail.rest else None,
    )


def _edges(values: npt.NDArray[np.float32], bins: int) -> tuple[float, ...]:
    """Edges at quantiles, or around each value where there are few; each as it would be captured.

    An edge at a quantile is a value itself, so that rows of equal values never part.
    """
    ordered = np.sort(values)
    distinct = np.unique(ordered)
    if len(distinct) <= bins:
        wide = distinct.astype(np.float64)
        middles = (wide[:-1] / 2 + wide[1:] / 2).astype(np.float32)
        edges = np.concatenate((distinct[:1], middles, distinct[-1:]))
    else:
        edges = np.unique(np.quantile(ordered, np.linspace(0, 1, bins + 1), method="lower"))
    return tuple(_captured(edge) for edge in edges)


def _captured(value: np.float32) -> float:
    """A 32-bit float as the capture record tells it: the shortest decimal that is it."""
    return float(str(value))


def _tally(codes: npt.NDArray[Any], size: int) -> tuple[int, ...]:
    return tuple(np.bincount(codes, minlength=size).tolist())


def _short(value: Any) -> float:
    return float(f"{float(value):.9g}")


# ── Performance ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Told:
    """Models of the losses, and each row's loss by a model of other rows, by metric."""

    models: dict[str, Loss]
    held_out: dict[str, Floats]


def _performance(
    judged: Judged, outcome: Outcome, losses: _Told | None
) -> dict[str, ReferenceMetric]:
    order = np.arange(outcome.rows)
    if judged.moments is not None:
        order = np.argsort(judged.moments, kind="stable")
    chunks = [c for c in np.array_split(order, CHUNKS) if len(c) >= MIN_CHUNK_ROWS]
    if losses is None:
        estimates = list(_held_out_estimates(outcome, chunks, tuple(judged.metrics)))
    else:
        estimates = list(_held_out_losses(chunks, losses))
    found = {}
    for name, metric in judged.metrics.items():
        values = np.asarray([compute(name, outcome.take(chunk)) for chunk in chunks])
        estimated = np.asarray([e.get(name, np.nan) for e in estimates])
        known, errors = values[~np.isnan(values)], estimated - values[: len(estimated)]
        told = errors[~np.isnan(errors)]
        found[name] = ReferenceMetric(
            value=metric.value,
            low=metric.low,
            high=metric.high,
            row_deviation=_row_deviation(metric, outcome.rows, judged.spec.evaluate.confidence),
            chunks=len(known),
            chunk_rows=len(chunks[0]) if chunks else 0,
            chunk_std=_short(known.std(ddof=1)) if len(known) > 1 else None,
            estimate_bias=_short(told.mean()) if len(told) > 1 else None,
            estimate_std=_short(told.std(ddof=1)) if len(told) > 1 else None,
        )
    return found


def _row_deviation(metric: Measured, rows: int, confidence: float) -> float | None:
    """The bootstrap's deviation as its interval tells it, for one row."""
    if metric.low is None or metric.high is None:
        return None
    width = 2 * NormalDist().inv_cdf((1 + confidence) / 2)
    return _short((metric.high - metric.low) / width * np.sqrt(rows))


def _held_out_estimates(
    outcome: Outcome, chunks: list[Codes], names: tuple[str, ...]
) -> Iterator[dict[str, float]]:
    """What would have been estimated of each chunk, had only the others been labelled."""
    if len(chunks) < 2:
        return
    for chunk in chunks:
        others = np.ones(outcome.rows, dtype=bool)
        others[chunk] = False
        maps = _calibration(outcome.take(others))
        yield estimate(
            outcome.task, calibrated(maps, outcome.output[chunk]), outcome.output[chunk], names
        )


def _binned(judged: Judged, features: tuple[FeatureBaseline, ...], scores: Floats) -> Binned:
    """The rows by the baseline's bins, of the most important captured features."""
    fields = {f.name: f for f in judged.signature.features}
    ranked = {f.feature: place for place, f in enumerate(judged.importance.features)}
    captured = sorted(
        (f for f in features if f.numeric is not None or f.categorical is not None),
        key=lambda f: ranked.get(f.name, len(ranked)),
    )
    edges = _edges(scores.astype(np.float32), _DETAILS[0].bins)
    return Binned(
        (score_bins(edges, scores), len(edges) - 1),
        {
            f.name: bins_of(f, _plain(judged.column(fields[f.name])))
            for f in captured[:LOSS_FEATURES]
        },
    )


def _losses(outcome: Outcome, bins: Binned) -> _Told:
    error = np.abs(outcome.output - outcome.truth)
    absolute, told = fit_losses("absolute", error, bins)
    squared, told_squared = fit_losses("squared", error**2, bins)
    return _Told({"mae": absolute, "rmse": squared}, {"mae": told, "rmse": told_squared})


def _usable(told: _Told) -> tuple[tuple[Loss, ...], str]:
    """The losses that can be told from a row, and why the others are not estimated."""
    weak = [name for name, loss in told.models.items() if loss.skill < MIN_SKILL]
    reasons = ["r2 is not estimated: without labels the spread of the truth is not known"]
    if weak:
        reasons.insert(
            0,
            f"{' and '.join(weak)} not estimated: on the test split the inputs tell less than "
            f"{MIN_SKILL:.0%} of how the error varies, so an estimate would only repeat the reference",
        )
    return tuple(m for name, m in told.models.items() if name not in weak), "; ".join(reasons)


def _held_out_losses(chunks: list[Codes], told: _Told) -> Iterator[dict[str, float]]:
    """What would have been estimated of each chunk, had only every second other row been labelled."""
    for chunk in chunks:
        yield {
            "mae": float(told.held_out["mae"][chunk].mean()),
            "rmse": float(np.sqrt(told.held_out["rmse"][chunk].mean())),
        }


# ── Multivariate ────────────────────────────────────────────────────────────────────────────────


def _components(
    judged: Judged, features: tuple[FeatureBaseline, ...]
) -> PrincipalComponents | None:
    rows = len(judged.outcome.truth)
    some = np.unique(np.linspace(0, rows - 1, min(rows, COMPONENT_ROWS)).astype(np.int64))
    fields = {f.name: f for f in judged.signature.features}
    wanted = [(f.name, c) for f in features for c in _dimensions(f)][:MAX_COLUMNS]
    inputs = {name: _plain(judged.column(fields[name])[some]) for name in {n for n, _ in wanted}}
    columns = []
    for name, category in wanted:
        raw = EncodedColumn(feature=name, category=category, mean=0.0, scale=1.0)
        if category is None:
            known = np.asarray([v for v in inputs[name] if v is not None], dtype=np.float64)
        else:
            texts = [v for v in inputs[name] if v != ""]
            known = np.asarray([v == category for v in texts], dtype=np.float64)
        if len(known) and known.std() > 1e-9 * max(1.0, abs(float(known.mean()))):
            columns.append(
                raw.model_copy(update={"mean": _short(known.mean()), "scale": _short(known.std())})
            )
    if len(columns) < 2:
        return None
    encoded = encode(columns, inputs)
    variances, axes = np.linalg.eigh(encoded.T @ encoded / len(encoded))
    shares = (variances[::-1] / variances.sum()).cumsum()
    kept = min(int(np.searchsorted(shares, EXPLAINED)) + 1, MAX_COMPONENTS, len(columns) - 1)
    chosen = axes[:, ::-1][:, :kept].T
    chosen *= np.where(chosen[np.arange(kept), np.abs(chosen).argmax(axis=1)] < 0, -1, 1)[:, None]
    errors = np.linalg.norm(encoded - (encoded @ chosen.T) @ chosen, axis=1)
    return PrincipalComponents(
        columns=tuple(columns),
        components=tuple(tuple(_short(v) for v in axis) for axis in chosen),
        explained=_short(shares[kept - 1]),
        rows=len(encoded),
        error_mean=_short(errors.mean()),
        error_std=_short(errors.std()),
    )


def _dimensions(feature: FeatureBaseline) -> Iterator[str | None]:
    if feature.numeric is not None:
        yield None
    if feature.categorical is not None:
        yield from feature.categorical.categories[:MAX_CATEGORIES]


def _plain(values: npt.NDArray[Any]) -> list[Any]:
    """Values as captured: numbers with None for missing, texts as they are."""
    if values.dtype == object:
        return list(values)
    return [None if v != v else v for v in values.astype(np.float64).tolist()]


# ── Segments ────────────────────────────────────────────────────────────────────────────────────


def _segments(judged: Judged, outcome: Outcome) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    spec = judged.spec
    captured = {f.name: f for f in judged.signature.features if not f.private}
    gated = columns_to_slice(spec)
    important = [f.feature for f in judged.importance.features if f.mean > 0]
    more = [name for name in important if name in captured and name not in gated][:SEGMENTS]
    found = []
    for name in [*(n for n in gated if n in captured), *more]:
        gate = gated.get(name)
        bare = Segment(
            column=name,
            type=captured[name].type,
            metric=gate.metric if gate else spec.training_metric,
            min_rows=gate.min_rows if gate else MIN_ROWS,
            min=gate.min if gate else None,
            max=gate.max if gate else None,
            max_gap=gate.max_gap if gate else None,
            gate=gate is not None,
            groups=(),
        )
        found.append(_with_groups(judged, outcome, bare, _plain(judged.column(captured[name]))))
    return tuple(found), tuple(name for name in gated if name not in captured)


def _with_groups(judged: Judged, outcome: Outcome, bare: Segment, values: list[Any]) -> Segment:
    segment = bare.model_copy(update=_cuts(bare.type, values))
    names, codes = codes_of(segment, values)
    groups = []
    for code, name in enumerate(names):
        rows = np.flatnonzero(codes == code)
        part, found = outcome.take(rows), None
        if part.rows >= segment.min_rows:
            found = group_spread(segment.metric, part, judged.spec.evaluate.confidence)
        interval = None if found is None else found.interval
        groups.append(
            SegmentGroup(
                name=name,
                rows=len(rows),
                value=None if interval is None else interval.value,
                low=None if interval is None else interval.low,
                high=None if interval is None else interval.high,
                facts=group_facts(part) if len(rows) >= segment.min_rows else {},
            )
        )
    return segment.model_copy(update={"groups": tuple(groups)})


def _cuts(kind: ColumnType, values: list[Any]) -> dict[str, Any]:
    """How the test split's values are cut into groups, as the gate's slices are."""
    if kind is ColumnType.STRING:
        present, counts = np.unique([v for v in values if v != ""], return_counts=True)
        ranked = sorted(zip(present.tolist(), counts.tolist(), strict=True), key=lambda p: -p[1])
        return {"values": tuple(sorted(name for name, _ in ranked[:MAX_GROUPS]))}
    known = np.asarray([v for v in values if v is not None], dtype=np.float32)
    distinct = np.unique(known)
    if len(distinct) <= MAX_DISTINCT:
        return {"values": tuple(_captured(v) for v in distinct)}
    cuts = np.unique(np.quantile(known, [0.2, 0.4, 0.6, 0.8], method="lower"))
    return {"cuts": tuple(_captured(cut) for cut in cuts)}
