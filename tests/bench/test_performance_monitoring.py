"""Whether monitored performance tells the truth: on streams whose truth is known, and beside NannyML.

The streams lie in a wheel that is fetched once (`infra.demo.streams`). What needs the oracles' environment
(`make setup-oracles`) says so and is skipped without it. ``PERFORMANCE_RUNS`` says how many windows without
any change are judged for the rate of false alarms (100 by default; docs/monitoring.md says of how many its
figures are).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import pytest

from infra.demo.data import fetch_tables
from infra.demo.streams import Name, Part, Stream, read_stream
from millrace.evaluation.metrics import Outcome, compute
from millrace.evaluation.reference import describe
from millrace.monitoring.baseline import Baseline
from millrace.monitoring.encoding import bins_of, score_bins
from millrace.monitoring.estimation import calibrated, estimate, estimate_loss
from millrace.monitoring.findings import Finding, Policy, Verdict
from millrace.monitoring.hours import FeatureCounts, WindowCounts
from millrace.monitoring.judging import judge
from millrace.monitoring.performance import PerformanceWindow, findings, measure
from millrace.spec import Task, metrics_for
from tests.bench.measure import keep
from tests.bench.oracle import ask
from tests.unit.monitoring.judged import BEGIN, captured, judged, sample

PROJECT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = PROJECT / ".millrace" / "demo"
UV: Final = PROJECT / ".venv" / "bin" / "uv"
RUNS: Final = int(os.environ.get("PERFORMANCE_RUNS", "100"))
CHUNKS: Final = 10
MOST: Final = 10_000
"""Rows of a chunk that are looked at, as `monitoring.sample` keeps so many."""
POLICY: Final = Policy()
NAMES: Final = metrics_for(Task.BINARY)

type Floats = npt.NDArray[np.float64]


def output_of(scores: Floats) -> Floats:
    """Both classes' probabilities."""
    return np.column_stack([1 - scores, scores])


def outcome_of(part: Part) -> Outcome:
    """Rows with their truth."""
    return Outcome(Task.BINARY, part.labels, output_of(part.scores))


def baseline_of(stream: Stream, part: Part) -> Baseline:
    """What a training would have left, had it judged the stored model on these rows."""
    made = judged(
        Task.BINARY,
        part.inputs,
        part.labels,
        output_of(part.scores),
        classes=("0", "1"),
        types=stream.features,
        resamples=200,
    )
    return describe(made)


@dataclass(frozen=True)
class Judged:
    """One chunk of a stream, judged."""

    part: Part
    performance: PerformanceWindow
    found: tuple[Finding, ...]
    verdict: Verdict

    def alarms(self, kind: str) -> set[str]:
        """Subjects that alarm."""
        return {f.subject for f in self.found if f.kind == kind and f.verdict == "alarm"}

    def drifted(self) -> set[str]:
        """Features that differ from training by more than chance, however little."""
        return {
            f.subject
            for f in self.verdict.findings
            if f.kind == "feature_drift"
            and f.against == "training"
            and f.adjusted_p is not None
            and f.adjusted_p <= POLICY.significance
        }


def judged_chunks(stream: Stream, baseline: Baseline) -> Iterator[Judged]:
    """The analysis part, chunk by chunk, each a day, as the monitor judges it."""
    history: list[Verdict] = []
    for number, part in enumerate(stream.analysis.chunks(CHUNKS)):
        some = part.take(np.linspace(0, part.rows - 1, min(part.rows, MOST)).astype(np.int64))
        since = BEGIN + timedelta(days=number)
        rows = sample(some.inputs, output_of(some.scores), [str(v) for v in some.labels], since)
        window = measure(baseline, replace(rows, until=since + timedelta(days=1)), POLICY)
        found = findings(window, history, POLICY)
        verdict = judge(
            baseline, counts(baseline, part, window), (), history, POLICY, further=found
        )
        history.append(verdict)
        yield Judged(part, window, found, verdict)


def counts(baseline: Baseline, part: Part, window: PerformanceWindow) -> WindowCounts:
    """All of a chunk's rows, counted as the capture function counts them."""
    inputs = captured(part.inputs)
    counted = WindowCounts(
        "churn", 1, window.since, window.until, requests=part.rows, rows=part.rows
    )
    for feature in baseline.features:
        codes, bins = bins_of(feature, inputs[feature.name])
        tally = np.bincount(codes, minlength=bins).tolist()
        told = counted.features[feature.name] = FeatureCounts(rows=part.rows, missing=tally.pop())
        if feature.categorical is not None:
            told.other = tally.pop()
        told.bins.update(dict(enumerate(tally)))
    edges = baseline.scores.edges
    places = np.bincount(score_bins(edges, part.scores), minlength=len(edges) - 1)
    counted.scores = FeatureCounts(rows=part.rows)
    counted.scores.bins.update(dict(enumerate(places.tolist())))
    codes = np.bincount((part.scores > 0.5).astype(np.int64), minlength=2)
    counted.classes.update({"0": int(codes[0]), "1": int(codes[1])})
    return counted


@dataclass(frozen=True)
class Followed:
    """A stream and what monitoring said of it."""

    stream: Stream
    baseline: Baseline
    chunks: tuple[Judged, ...]


def follow(name: Name) -> Followed:
    """Judges a stream."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    stream = read_stream(name, FOLDER, UV)
    baseline = baseline_of(stream, stream.reference)
    return Followed(stream, baseline, tuple(judged_chunks(stream, baseline)))


@pytest.fixture(scope="module")
def car_loan() -> Followed:
    return follow("car-loan")


@pytest.fixture(scope="module")
def census() -> Followed:
    return follow("census")


def figures(followed: Followed) -> list[dict[str, Any]]:
    """What to publish of each chunk."""
    return [
        {
            "rows": one.part.rows,
            "labelled": one.performance.rows_labelled,
            "real": round(compute("roc_auc", outcome_of(one.part)), 4),
            "measured": _interval(one.performance.metrics[0].realised),
            "estimated": _interval(one.performance.metrics[0].estimated),
            "threshold": one.performance.metrics[0].threshold_low,
            "alarms": sorted(one.alarms("performance")),
            "estimated_alarms": sorted(one.alarms("estimated_performance")),
            "drifted": len(one.drifted()),
            "drift_that_counts": len(
                {f.subject for f in one.verdict.moved if f.kind == "feature_drift"}
            ),
        }
        for one in followed.chunks
    ]


def _interval(found: Any) -> list[float]:
    return [round(found.value, 4), round(found.low, 4), round(found.high, 4)]


def tell(name: str, told: list[dict[str, Any]]) -> None:
    """Prints and keeps the figures."""
    for number, one in enumerate(told):
        print(f"\n{name} {number}: {one}", end="")
    keep(f"performance {name}", {"chunks": told})


# ── The streams ─────────────────────────────────────────────────────────────────────────────────


def test_performance_alarms_from_where_the_loans_change_and_not_before(car_loan: Followed) -> None:
    tell("car-loan", figures(car_loan))

    alarmed = [n for n, one in enumerate(car_loan.chunks) if one.alarms("performance")]
    estimated = [n for n, one in enumerate(car_loan.chunks) if one.alarms("estimated_performance")]
    real = [compute("roc_auc", outcome_of(one.part)) for one in car_loan.chunks]
    of_auc = [n for n, one in enumerate(car_loan.chunks) if "roc_auc" in one.alarms("performance")]
    assert alarmed == estimated == of_auc == [5, 6, 7, 8, 9]
    assert np.mean(real[:5]) == pytest.approx(0.970, abs=0.002)
    assert np.mean(real[5:]) == pytest.approx(0.960, abs=0.002)


def test_inputs_of_the_census_drift_and_its_performance_does_not_fall(census: Followed) -> None:
    tell("census", figures(census))

    whole = outcome_of(census.stream.analysis)
    past = outcome_of(census.stream.reference)
    assert compute("roc_auc", past) == pytest.approx(0.903, abs=0.001)
    assert compute("roc_auc", whole) == pytest.approx(0.904, abs=0.001)
    for one in census.chunks:
        assert one.drifted(), "inputs drift in every chunk"
        assert not one.alarms("performance") | one.alarms("estimated_performance")
        for metric in one.performance.metrics:
            assert metric.verdict == metric.estimated_verdict == "ok"


@pytest.mark.parametrize("name", ["car_loan", "census"])
def test_estimates_are_near_the_truth_and_within_their_intervals(
    name: str, request: pytest.FixtureRequest
) -> None:
    followed: Followed = request.getfixturevalue(name)
    errors: dict[str, list[float]] = {metric: [] for metric in NAMES}
    inside = []
    for one in followed.chunks:
        real = {metric: compute(metric, outcome_of(one.part)) for metric in NAMES}
        for metric in one.performance.metrics:
            found = metric.estimated
            assert found is not None
            assert found.low is not None
            assert found.high is not None
            errors[metric.metric].append(found.value - real[metric.metric])
            inside.append(found.low <= real[metric.metric] <= found.high)

    told = {metric: float(np.abs(e).mean()) for metric, e in errors.items()}
    print(f"\n{name}: mean absolute error of the estimates {told}, inside {np.mean(inside):.0%}")
    keep(f"estimates {name}", {**told, "inside": float(np.mean(inside))})
    assert told["roc_auc"] < 0.005
    assert np.mean(inside) > 0.9


@pytest.mark.parametrize("rows", [500, 2_000, 10_000])
def test_estimates_err_no_more_than_so_many_labels_would(census: Followed, rows: int) -> None:
    """With the labels withheld: against what they tell in the end, and what as many would have told."""
    truth = compute("roc_auc", outcome_of(census.stream.analysis))
    rng = np.random.default_rng(rows)
    estimated, measured_ = [], []
    for _ in range(30):
        part = census.stream.analysis.take(
            rng.choice(census.stream.analysis.rows, rows, replace=False)
        )
        output = output_of(part.scores)
        found = estimate(
            Task.BINARY, calibrated(census.baseline.calibration, output), output, ("roc_auc",)
        )
        estimated.append(abs(found["roc_auc"] - truth))
        measured_.append(abs(compute("roc_auc", outcome_of(part)) - truth))

    told = {"estimated": float(np.mean(estimated)), "measured": float(np.mean(measured_))}
    print(f"\n{rows} rows: mean distance from the AUC of all {census.stream.analysis.rows}: {told}")
    keep(f"estimates withheld {rows}", {**told})
    assert told["estimated"] < 0.005
    assert told["estimated"] < max(told["measured"], 0.0025) * 1.5


def test_windows_without_any_change_rarely_alarm(car_loan: Followed) -> None:
    """Windows of rows that the baseline was not made of, drawn anew from the same past."""
    rng = np.random.default_rng(11)
    past = car_loan.stream.reference
    order = rng.permutation(past.rows)
    baseline = baseline_of(car_loan.stream, past.take(order[:20_000]))
    fresh = past.take(order[20_000:])
    states = []
    for run in range(RUNS):
        rows = (200, 500, 1_000)[run % 3]
        part = fresh.take(rng.choice(fresh.rows, rows, replace=False))
        labels = [str(v) for v in part.labels]
        window = measure(baseline, sample(part.inputs, output_of(part.scores), labels), POLICY)
        states.append(
            {m.verdict for m in window.metrics} | {m.estimated_verdict for m in window.metrics}
        )

    alarms = sum("alarm" in s for s in states)
    watched = sum("watch" in s for s in states)
    print(f"\nof {RUNS} windows without change {alarms} alarm and {watched} are watched")
    keep("performance false alarms", {"runs": RUNS, "alarms": alarms, "watched": watched})
    assert alarms <= RUNS * 0.01
    assert watched <= RUNS * 0.06


# ── NannyML ─────────────────────────────────────────────────────────────────────────────────────


def beside(name: str, real: Any, ours: Any, theirs: Any) -> tuple[float, float, float]:
    """Mean absolute errors of both, and how far they are apart."""
    told = (
        float(np.abs(np.asarray(ours) - real).mean()),
        float(np.abs(np.asarray(theirs) - real).mean()),
        float(np.abs(np.asarray(ours) - theirs).mean()),
    )
    print(f"\n{name}: ours errs by {told[0]:.5f}, NannyML by {told[1]:.5f}, apart {told[2]:.5f}")
    keep(f"nannyml {name}", dict(zip(("ours", "nannyml", "apart"), told, strict=True)))
    return told


@pytest.mark.parametrize("name", ["car_loan", "census"])
def test_estimates_are_as_good_as_nannymls(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    followed: Followed = request.getfixturevalue(name)
    stream = followed.stream
    later = stream.analysis.take(np.arange(stream.analysis.rows // CHUNKS * CHUNKS))
    said = ask(
        "estimates",
        tmp_path,
        {
            "chunks": CHUNKS,
            "reference_scores": stream.reference.scores,
            "reference_labels": stream.reference.labels,
            # Of chunks that do not come out even it makes one more.
            "scores": stream.analysis.scores[: later.rows],
        },
    )
    for metric in ("roc_auc", "accuracy", "f1"):
        real, ours = [], []
        for part in later.chunks(CHUNKS):
            output = output_of(part.scores)
            chances = calibrated(followed.baseline.calibration, output)
            ours.append(estimate(Task.BINARY, chances, output, (metric,))[metric])
            real.append(compute(metric, outcome_of(part)))
        mine, theirs, apart = beside(f"{name} {metric}", real, ours, said[metric])
        assert apart < 0.004
        assert mine < theirs + 0.001


def table(folder: Path, reference: str, analysis: str, labels: str) -> tuple[Any, Any]:
    """Two tables of the wheel, the later one with its labels, as columns."""
    tables = fetch_tables(folder, UV)
    with duckdb.connect() as db:
        past = db.read_csv(str(tables / reference)).order("id").fetchnumpy()
        later = db.read_csv(str(tables / analysis))
        joined = later.join(db.read_csv(str(tables / labels)), "id").order("id").fetchnumpy()
    return past, joined


def test_estimates_of_several_classes_are_as_good_as_nannymls(tmp_path: Path) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    past, later = table(FOLDER, "mc_reference.csv", "mc_analysis.csv", "mc_analysis_gt.csv")
    classes = ("highstreet_card", "prepaid_card", "upmarket_card")

    def arrays(rows: Any) -> tuple[Any, Any]:
        output = np.column_stack([rows[f"y_pred_proba_{c}"] for c in classes]).astype(np.float64)
        return output, np.asarray([classes.index(str(v)) for v in rows["y_true"]], dtype=np.int64)

    (output, truth), (now, labels) = arrays(past), arrays(later)
    score = {"score": np.asarray(past["app_behavioral_score"], dtype=np.float64)}
    baseline = describe(judged(Task.MULTICLASS, score, truth, output, classes=classes))
    said = ask(
        "estimates",
        tmp_path,
        {"chunks": CHUNKS, "reference_scores": output, "reference_labels": truth, "scores": now},
    )
    for ours_name, theirs_name in (("accuracy", "accuracy"), ("f1_macro", "f1")):
        real, ours = [], []
        for rows in np.array_split(np.arange(len(labels)), CHUNKS):
            chances = calibrated(baseline.calibration, now[rows])
            told = estimate(Task.MULTICLASS, chances, now[rows], (ours_name,))
            ours.append(told[ours_name])
            real.append(compute(ours_name, Outcome(Task.MULTICLASS, labels[rows], now[rows])))
        mine, theirs, apart = beside(f"mc {ours_name}", real, ours, said[theirs_name])
        assert apart < 0.01
        assert mine < theirs + 0.003


def test_errors_of_a_regression_are_estimated_as_well_as_by_nannymls_trees(tmp_path: Path) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    past, later = table(
        FOLDER,
        "regression_synthetic_reference.csv",
        "regression_synthetic_analysis.csv",
        "regression_synthetic_analysis_targets.csv",
    )
    numeric = ("car_age", "km_driven", "price_new", "accident_count", "door_count")

    def columns(rows: Any) -> dict[str, Any]:
        numbers = {name: np.asarray(rows[name], dtype=np.float64) for name in numeric}
        texts = {name: np.asarray(rows[name], dtype=object) for name in ("fuel", "transmission")}
        return numbers | texts

    before, now = columns(past), columns(later)
    truth, output = (np.asarray(past[n], dtype=np.float64) for n in ("y_true", "y_pred"))
    real_truth, predicted = (np.asarray(later[n], dtype=np.float64) for n in ("y_true", "y_pred"))
    baseline = describe(judged(Task.REGRESSION, before, truth, output))
    said = ask(
        "estimates",
        tmp_path,
        {
            "chunks": CHUNKS,
            "reference_truth": truth,
            "reference_output": output,
            "output": predicted,
            "features": np.asarray(list(before)),
            **{
                f"reference_{n}": v.astype(str) if v.dtype == object else v
                for n, v in before.items()
            },
            **{f"analysis_{n}": v.astype(str) if v.dtype == object else v for n, v in now.items()},
        },
    )
    assert {loss.loss for loss in baseline.losses} == {"absolute", "squared"}
    for loss, metric in zip(baseline.losses, ("mae", "rmse"), strict=True):
        real, ours = [], []
        for rows in np.array_split(np.arange(len(predicted)), CHUNKS):
            inputs = captured({name: values[rows] for name, values in now.items()})
            ours.append(estimate_loss(loss, baseline, inputs, predicted[rows]))
            real.append(
                compute(metric, Outcome(Task.REGRESSION, real_truth[rows], predicted[rows]))
            )
        mine, theirs, _ = beside(f"regression {metric}", real, ours, said[metric])
        stale = float(np.abs(np.asarray(real) - baseline.performance[metric].value).mean())
        print(
            f"  (repeating the test split's {metric} errs by {stale:.5f}; skill {loss.skill:.2f})"
        )
        assert mine < stale / 2
        assert mine < 2 * theirs
