"""Whether monitoring cries wolf, what it misses, and whether its statistics are right.

By simulation of the judgement itself (`millrace.monitoring.judging.judge`), window after window, with its
persistence, its correction for many tests and its least effect. The same streams are given to the default
rules of Evidently, NannyML and SageMaker Model Monitor (`drift_rules` has them with their sources).

The simulations are long: ``DRIFT_RUNS`` says how many months are simulated for each figure (10 by default)
and ``DRIFT_DAYS`` of how many windows (30); docs/monitoring.md names how many its figures are of. What needs the oracles' environment
(`make setup-oracles`) says so and is skipped without it.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from millrace.monitoring.baseline import Baseline
from millrace.monitoring.drift import (
    chi2,
    counted,
    jensen_shannon,
    ks,
    psi,
    psi_by_chance,
    wasserstein,
)
from millrace.monitoring.findings import Policy, Verdict
from millrace.monitoring.hours import FeatureCounts, WindowCounts
from millrace.monitoring.judging import judge
from millrace.monitoring.multivariate import reconstruction
from millrace.monitoring.tails import chi2_tail
from tests.bench import drift_rules
from tests.bench.drift_picture import Point, draw_curves
from tests.bench.measure import keep
from tests.bench.oracle import ask
from tests.unit.monitoring.streams import DAY, START, World, baseline

RUNS: Final = int(os.environ.get("DRIFT_RUNS", "10"))
DAYS: Final = int(os.environ.get("DRIFT_DAYS", "30"))
FEATURES: Final = 20
ERRORS: Final = 2_000
"""Rows of a window that are looked at for multivariate drift."""
LONG: Final = 4 * 3_600
"""Seconds that a simulation of a thousand months may take on a busy machine."""
_NORMAL: Final = NormalDist()

type Dice = np.random.Generator
type Floats = npt.NDArray[np.float64]


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z = _NORMAL.inv_cdf(0.975)
    share = hits / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def told(name: str, **figures: Any) -> None:
    """Prints a figure and keeps it."""
    print(json.dumps({"figure": name, **figures}))
    keep(f"drift {name}", figures)


# ── Counts drawn straight from what they would be of samples ────────────────────────────────────


class Months:
    """Windows of a world, of any size, in the time that counts take.

    Counts per bin of independent rows are multinomial, so no row is made.

    Args:
        world: Standard normal features, categories, and scores that are logistic of a normal.
        trained: The baseline, whose edges the bins have.
    """

    def __init__(self, world: World, trained: Baseline) -> None:
        self._world = world
        self._trained = trained
        shifts = world.shift or {}
        self._numeric = {
            f.name: self._cells(f.numeric.edges, shifts.get(i, 0.0))
            for i, f in enumerate(trained.features)
            if f.numeric is not None
        }
        logits = [math.log(e / (1 - e)) for e in trained.scores.edges]
        self._scores = self._cells(logits, -1 + shifts.get(-1, 0.0))

    @staticmethod
    def _cells(edges: Any, mean: float) -> Floats:
        """Probabilities of the cells: below, each bin, above."""
        below = np.array([0.0, *(_NORMAL.cdf(e - mean) for e in edges), 1.0])
        return np.diff(below)

    def window(self, rows: int, draw: Dice, number: int) -> WindowCounts:
        """A day."""
        features = {name: self._counts(cells, rows, draw) for name, cells in self._numeric.items()}
        for i in range(self._world.categorical):
            colours = self._world.colours(rows, draw, i)
            features[f"c{i}"] = FeatureCounts(
                rows=rows, bins=Counter(dict(enumerate(colours.tolist())))
            )
        yes = int(draw.binomial(rows, _NORMAL.cdf(-1 + (self._world.shift or {}).get(-1, 0.0))))
        slow = int(draw.binomial(rows, 0.02))
        return WindowCounts(
            model=self._trained.model,
            version=self._trained.version,
            since=START + number * DAY,
            until=START + (number + 1) * DAY,
            requests=rows,
            rows=rows,
            weighed=float(rows),
            latency=Counter({20: rows - slow, 30: slow}),
            features=features,
            scores=self._counts(self._scores, rows, draw),
            classes=Counter({"no": rows - yes, "yes": yes}),
        )

    @staticmethod
    def _counts(cells: Floats, rows: int, draw: Dice) -> FeatureCounts:
        drawn = draw.multinomial(rows, cells)
        below, above = int(drawn[0]), int(drawn[-1])
        bins = drawn[1:-1].copy()
        bins[0] += below
        bins[-1] += above
        return FeatureCounts(
            rows=rows, below=below, above=above, bins=Counter(dict(enumerate(bins.tolist())))
        )


def month(
    trained: Baseline, months: Months, rows: int, draw: Dice, policy: Policy
) -> Iterator[Verdict]:
    """Verdicts of thirty days, one after the other."""
    before: list[Verdict] = []
    errors = draw.gamma(4, 1, min(trained.rows, 10_000))
    mean, std = float(errors.mean()), float(errors.std(ddof=1))
    for number in range(DAYS):
        found = reconstruction(
            draw.gamma(4, 1, min(rows, ERRORS)), mean=mean, std=std, rows=len(errors)
        )
        verdict = judge(
            trained, months.window(rows, draw, number), (), before, policy, multivariate=found
        )
        before = [verdict]
        yield verdict


def test_counts_that_are_drawn_are_spread_as_counts_of_samples() -> None:
    draw = np.random.default_rng(1)
    world = World(numeric=1, categorical=0, shift={0: 0.3})
    trained = baseline(world, 2_000, draw)
    months = Months(world, trained)
    numeric = trained.features[0].numeric
    assert numeric is not None
    edges = np.asarray(numeric.edges)

    drawn = np.array(
        [months.window(1_000, draw, 0).features["n0"].counts(20) for _ in range(200)]
    ).sum(axis=0)
    sampled = counted(draw.normal(0.3, 1, 200_000), edges)

    assert (chi2(sampled, drawn).p_value or 0) > 0.001


# ── False alarms ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("rows", [200, 1_000, 10_000, 100_000])
def test_hardly_any_month_without_drift_has_an_alarm(rows: int) -> None:
    draw = np.random.default_rng(rows)
    world = World(numeric=15, categorical=5)
    policy = Policy()
    alarmed = watched = 0
    for run in range(RUNS):
        # Held-out splits are small and large.
        trained = baseline(world, (2_000, 10_000, 50_000)[run % 3], draw)
        states = [v.state for v in month(trained, Months(world, trained), rows, draw, policy)]
        alarmed += "alarm" in states
        watched += "watch" in states

    low, high = wilson(alarmed, RUNS)
    told(
        f"false alarms of windows of {rows}",
        runs=RUNS,
        windows=DAYS,
        features=FEATURES,
        alarmed=alarmed,
        interval=[low, high],
        watched=watched,
    )
    # The interval's lower end above 1 % would say, with 97.5 % confidence, that it is exceeded.
    assert low <= 0.01


def test_windows_under_the_least_number_of_rows_are_refused() -> None:
    draw = np.random.default_rng(3)
    world = World(numeric=15, categorical=5)
    trained = baseline(world, 2_000, draw)

    states = {v.state for v in month(trained, Months(world, trained), 199, draw, Policy())}

    assert states == {"unknown"}


# ── The known traps ─────────────────────────────────────────────────────────────────────────────


def test_psi_without_drift_has_the_mean_of_theory_and_exceeds_a_tenth_in_small_windows() -> None:
    draw = np.random.default_rng(5)
    shares, trials = np.full(10, 0.1), 20_000
    exceeding = {}
    for rows in (100, 200, 1_000):
        values = [
            psi(draw.multinomial(10**6, shares), counts, floor=0.0001).value
            for counts in draw.multinomial(rows, shares, trials)
        ]
        told(
            f"psi by chance at {rows} rows",
            mean=float(np.mean(values)),
            theory=psi_by_chance(10, 10**6, rows),
        )
        assert np.mean(values) == pytest.approx(psi_by_chance(10, 10**6, rows), rel=0.08)
        exceeding[rows] = float(np.mean(np.array(values) > 0.1))
    told("windows with a psi over 0.1", **{str(k): v for k, v in exceeding.items()})

    assert exceeding[100] == pytest.approx(0.39, abs=0.05)
    assert exceeding[200] < 0.03
    assert exceeding[1_000] == 0.0


def test_twenty_features_at_five_percent_each_raise_a_false_alarm_in_two_runs_of_three() -> None:
    draw = np.random.default_rng(6)
    world = World(numeric=FEATURES, categorical=0)
    trained = baseline(world, 50_000, draw)
    months = Months(world, trained)
    alone = corrected = 0
    trials = 600
    for number in range(trials):
        verdict = judge(trained, months.window(5_000, draw, number), (), (), Policy())
        drifts = [f for f in verdict.findings if f.kind == "feature_drift"]
        alone += any((f.p_value or 0) < 0.05 for f in drifts)
        corrected += any((f.adjusted_p or 0) < 0.05 for f in drifts)

    told("runs with p below 0.05", alone=alone / trials, corrected=corrected / trials)
    assert alone / trials == pytest.approx(0.64, abs=0.08)
    assert corrected / trials < 0.09


def test_kolmogorov_smirnov_flags_a_twentieth_of_a_deviation_when_there_are_rows_enough() -> None:
    draw = np.random.default_rng(7)
    flagged = {}
    for rows, trials in ((2_000, 400), (100_000, 40)):
        p_values = [
            ks(draw.normal(0, 1, rows), draw.normal(0.05, 1, rows)).p_value or 0.0
            for _ in range(trials)
        ]
        flagged[str(rows)] = float(np.mean(np.array(p_values) < 0.05))
    told("ks flags a twentieth of a deviation", **flagged)

    assert flagged["2000"] == pytest.approx(0.31, abs=0.08)
    assert flagged["100000"] == 1.0


def test_a_reference_taken_for_exact_alarms_five_times_too_often() -> None:
    draw = np.random.default_rng(8)
    trials, rows = 4_000, 1_000
    rates = {}
    for bins in (4, 10):
        shares = np.full(bins, 1 / bins)
        references, windows = (draw.multinomial(rows, shares, trials) for _ in range(2))
        distances = ((windows - references) ** 2 / references).sum(axis=1)
        rates[bins] = (
            float(np.mean([chi2_tail(float(d), bins - 1) < 0.05 for d in distances])),
            float(
                np.mean(
                    [
                        (chi2(one, two).p_value or 0) < 0.05
                        for one, two in zip(references, windows, strict=True)
                    ]
                )
            ),
        )
    told("chi squared at 5 %", **{f"exact and contingency, {b} bins": r for b, r in rates.items()})

    assert rates[4][0] == pytest.approx(0.27, abs=0.03)
    assert rates[10][0] > 0.4
    assert max(rates[4][1], rates[10][1]) < 0.065


# ── The oracles ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def samples() -> tuple[Floats, Floats]:
    """A reference of 5,000 rows and six windows of 500, of four features, some of them moved."""
    draw = np.random.default_rng(9)
    moves = np.array([0.0, 0.08, 0.12, 0.4])
    return draw.normal(size=(5_000, 4)), draw.normal(moves, 1, size=(6, 500, 4))


@pytest.fixture(scope="module")
def answers(
    samples: tuple[Floats, Floats], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What Evidently and NannyML say of them."""
    folder = tmp_path_factory.mktemp("oracles")
    return ask("drift", folder, {"reference": samples[0], "windows": samples[1]})


def test_psi_is_evidentlys_on_equal_bins(
    samples: tuple[Floats, Floats], answers: dict[str, Any]
) -> None:
    reference, windows = samples
    differences = []
    for window, said in zip(windows, answers["evidently"], strict=True):
        for i in range(reference.shape[1]):
            edges = np.array(said[f"n{i}"]["edges"])
            one, two = counted(reference[:, i], edges), counted(window[:, i], edges)
            floor = 0.0001
            if one[one > 0].min() / one.sum() <= floor or two[two > 0].min() / two.sum() <= floor:
                continue  # Evidently then takes another floor for each side.
            ours = psi(one, two, floor=floor).value
            differences.append(abs(ours - said[f"n{i}"]["psi"]))
    told("psi and evidently's", compared=len(differences), greatest=max(differences))

    assert len(differences) > 10
    assert max(differences) < 1e-9


def test_wasserstein_and_jensen_shannon_are_evidentlys_and_nannymls(
    samples: tuple[Floats, Floats], answers: dict[str, Any]
) -> None:
    reference, windows = samples
    greatest = {"wasserstein": 0.0, "jensen_shannon": 0.0}
    for window, evidently, nannyml in zip(
        windows, answers["evidently"], answers["nannyml"], strict=True
    ):
        for i in range(reference.shape[1]):
            column = reference[:, i]
            area = wasserstein(column, window[:, i], scale=float(column.std())).value
            greatest["wasserstein"] = max(
                greatest["wasserstein"], abs(area - evidently[f"n{i}"]["score"])
            )
            edges = np.histogram_bin_edges(column, bins="doane")
            one, two = np.histogram(column, edges)[0], np.histogram(window[:, i], edges)[0]
            left = len(window) - two.sum()
            distance = jensen_shannon(np.append(one, 0), np.append(two, left)).value
            greatest["jensen_shannon"] = max(
                greatest["jensen_shannon"], abs(distance - nannyml[f"n{i}"]["distance"])
            )
    told("wasserstein and jensen shannon", **greatest)

    assert max(greatest.values()) < 1e-12


def test_the_rules_of_others_are_written_out_rightly(
    samples: tuple[Floats, Floats], answers: dict[str, Any]
) -> None:
    reference, windows = samples
    learned = drift_rules.learn(reference.T, windows.shape[1])
    verdicts = Counter[str]()
    for window, evidently, nannyml in zip(
        windows, answers["evidently"], answers["nannyml"], strict=True
    ):
        ordered = np.sort(window.T, axis=1)
        areas = drift_rules.wasserstein_in_deviations(learned, ordered)
        scores = drift_rules.jensen_shannon_in_deviations(learned, ordered)
        for i in range(reference.shape[1]):
            assert areas[i] == pytest.approx(evidently[f"n{i}"]["score"], abs=1e-9)
            assert (areas[i] >= drift_rules.THRESHOLD) == evidently[f"n{i}"]["drifted"]
            threshold = learned.chunk_mean[i] + drift_rules.DEVIATIONS * learned.chunk_std[i]
            assert threshold == pytest.approx(nannyml[f"n{i}"]["threshold"], abs=1e-9)
            assert (scores[i] > drift_rules.DEVIATIONS) == nannyml[f"n{i}"]["alert"]
            verdicts[f"evidently {evidently[f'n{i}']['drifted']}"] += 1
            verdicts[f"nannyml {nannyml[f'n{i}']['alert']}"] += 1
    assert len(verdicts) == 4  # Each said yes and no.


# ── False alarms against time to detect ─────────────────────────────────────────────────────────

REFERENCE: Final = 50_000
SHIFTS: Final = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0)
SWEEP: Final = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Multiples of each rule's own threshold; 1 is its default."""
MILLRACE_SWEEP: Final = (0.25, 0.5, 1.0, 2.0)
"""Of Millrace's least drift; fewer, as its judgement is simulated whole."""
SENSITIVE: Final = 0.25
"""Of Millrace's least drift: what who wants to be told of less may set."""
RULES: Final = {
    "Evidently": drift_rules.THRESHOLD,
    "NannyML": drift_rules.DEVIATIONS,
    "SageMaker, simple": drift_rules.THRESHOLD,
    "SageMaker, robust": drift_rules.THRESHOLD,
}
MILLRACE: Final = "Millrace"


def scores_of(learned: drift_rules.Reference, ordered: Floats) -> dict[str, Floats]:
    """Each rule's score of each feature."""
    differences = drift_rules.greatest_difference(learned, ordered)
    return {
        "Evidently": drift_rules.wasserstein_in_deviations(learned, ordered),
        "NannyML": drift_rules.jensen_shannon_in_deviations(learned, ordered),
        "SageMaker, simple": differences,
        "SageMaker, robust": drift_rules.robust(differences, ordered.shape[1], REFERENCE),
    }


def baseline_of(ordered: Floats, draw: Dice) -> Baseline:
    """A baseline of the same reference."""
    made = baseline(World(numeric=FEATURES, categorical=0), 100, draw)
    features = []
    for feature, row in zip(made.features, ordered, strict=True):
        assert feature.numeric is not None
        edges = np.quantile(row, np.linspace(0, 1, 21))
        numeric = feature.numeric.model_copy(
            update={"edges": tuple(edges), "counts": tuple(counted(row, edges).tolist())}
        )
        features.append(feature.model_copy(update={"numeric": numeric}))
    return made.model_copy(update={"features": tuple(features), "rows": ordered.shape[1]})


def window_of(trained: Baseline, ordered: Floats, number: int) -> WindowCounts:
    """What capture would have counted of samples; the same as each rule looks at."""
    features = {}
    rows = ordered.shape[1]
    for feature, row in zip(trained.features, ordered, strict=True):
        assert feature.numeric is not None
        edges = np.asarray(feature.numeric.edges)
        places = np.searchsorted(row, edges[1:-1])
        bins = np.diff(np.concatenate(([0], places, [rows])))
        features[feature.name] = FeatureCounts(
            rows=rows,
            below=int(np.searchsorted(row, edges[0])),
            above=rows - int(np.searchsorted(row, edges[-1], side="right")),
            bins=Counter(dict(enumerate(bins.tolist()))),
        )
    since = START + number * DAY
    return WindowCounts(
        model=trained.model, version=trained.version, since=since, until=since + DAY,
        requests=rows, rows=rows, weighed=float(rows), features=features,
    )  # fmt: skip


def first(scores: list[Floats], threshold: float, feature: int | None) -> int | None:
    """The first day on which a score exceeds a threshold: of one feature, or of any."""
    for day, found in enumerate(scores, 1):
        if (found.max() if feature is None else found[feature]) > threshold:
            return day
    return None


def first_alarm(
    trained: Baseline, windows: list[WindowCounts], policy: Policy, feature: str | None
) -> int | None:
    """The first day with an alarm of Millrace: of one feature, or of any."""
    before: list[Verdict] = []
    for day, window in enumerate(windows, 1):
        verdict = judge(trained, window, (), before, policy)
        if any(feature in (None, f.subject) for f in verdict.alarms):
            return day
        before = [verdict]
    return None


def stream(draw: Dice, rows: int, shift: float) -> list[Floats]:
    """Thirty days of samples, sorted; the first feature has moved from the first day on."""
    moved = np.zeros((FEATURES, 1))
    moved[0] = shift
    return [np.sort(draw.normal(moved, 1, (FEATURES, rows)), axis=1) for _ in range(DAYS)]


def simulated(rows: int, shift: float, runs: int, multiples: tuple[float, ...]) -> dict[Any, Any]:
    """Days until the first alarm, by rule and multiple of its threshold, of so many months."""
    draw = np.random.default_rng([rows, round(shift * 100)])
    days: dict[tuple[str, float], list[int | None]] = {}
    subject = None if shift == 0 else 0
    for _ in range(runs):
        reference = draw.normal(size=(FEATURES, REFERENCE))
        learned = drift_rules.learn(reference, rows)
        samples = stream(draw, rows, shift)
        scores = [scores_of(learned, ordered) for ordered in samples]
        trained = baseline_of(learned.ordered, draw)
        windows = [window_of(trained, ordered, day) for day, ordered in enumerate(samples)]
        for multiple in multiples:
            for rule, threshold in RULES.items():
                found = first([s[rule] for s in scores], multiple * threshold, subject)
                days.setdefault((rule, multiple), []).append(found)
            if multiple not in MILLRACE_SWEEP:
                continue
            policy = replace(Policy(), min_drift=multiple * Policy().min_drift)
            named = None if subject is None else "n0"
            days.setdefault((MILLRACE, multiple), []).append(
                first_alarm(trained, windows, policy, named)
            )
    return days


def median_day(days: list[int | None]) -> float | None:
    """The median; None when in half of the months there was no alarm."""
    middle = sorted(math.inf if d is None else float(d) for d in days)[(len(days) - 1) // 2]
    return None if math.isinf(middle) else middle


@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("rows", [500, 5_000])
def test_false_alarms_against_time_to_detect(rows: int) -> None:
    calm = simulated(rows, 0.0, RUNS, SWEEP)
    false = {key: sum(d is not None for d in days) / RUNS for key, days in calm.items()}
    runs = max(5, RUNS // 5)
    detected: dict[str, dict[float, float | None]] = {}
    caught: dict[str, dict[float, float]] = {}
    sensitive: dict[float, float | None] = {}
    points: list[Point] = []
    for shift in SHIFTS:
        moved = simulated(rows, shift, runs, SWEEP if shift == 0.25 else (SENSITIVE, 1.0))
        for (rule, multiple), days in moved.items():
            if (rule, multiple) == (MILLRACE, SENSITIVE):
                sensitive[shift] = median_day(days)
            if multiple == 1.0:
                detected.setdefault(rule, {})[shift] = median_day(days)
                caught.setdefault(rule, {})[shift] = sum(d is not None for d in days) / runs
            if shift == 0.25:
                points.append(Point(rule, multiple == 1.0, false[rule, multiple], median_day(days)))
    told(
        f"curves of windows of {rows}",
        runs=RUNS,
        runs_with_drift=runs,
        false_alarm_months={rule: false[rule, 1.0] for rule in (MILLRACE, *RULES)},
        false_alarm_months_by_multiple={
            rule: {m: false[rule, m] for m in SWEEP if (rule, m) in false}
            for rule in (MILLRACE, *RULES)
        },
        median_days_to_detect=detected,
        median_days_of_a_quarter_of_min_drift=sensitive,
        share_detected_in_a_month=caught,
        points=[[p.rule, p.default, p.false_alarms, p.days] for p in points],
    )
    draw_curves(rows, points, {rule: detected[rule] for rule in (MILLRACE, *RULES)}, RUNS)

    assert wilson(round(false[MILLRACE, 1.0] * RUNS), RUNS)[0] <= 0.01
    assert caught[MILLRACE][1.0] == 1.0
    assert detected[MILLRACE][1.0] == Policy().persistence


# ── Season ──────────────────────────────────────────────────────────────────────────────────────

HOUR: Final = timedelta(hours=1)
WEEK: Final = 7 * 24
NIGHT: Final = 8
"""Hours of the day, from midnight on, in which other people come."""


def hour(draw: Dice, number: int, moved: float) -> Floats:
    """A thousand rows of an hour, sorted: five features are other at night; drift moves the last."""
    means = np.zeros((FEATURES, 1))
    means[:5] = 0.6 if number % 24 < NIGHT else 0.0
    means[-1] = moved
    return np.sort(draw.normal(means, 1, (FEATURES, 1_000)), axis=1)


@pytest.mark.timeout(LONG)
def test_what_comes_every_night_is_no_alarm_and_what_comes_once_is() -> None:
    draw = np.random.default_rng(21)
    runs = max(2, RUNS // 50)
    begins = 2 * WEEK + 12
    unseasonal = alarmed = 0
    waited: list[int | None] = []
    for _ in range(runs):
        day = [hour(draw, number, 0.0) for number in range(24)]
        trained = baseline_of(np.sort(np.concatenate(day, axis=1), axis=1), draw)
        seen: list[WindowCounts] = []
        found: list[Verdict] = []
        simple: list[Verdict] = []
        for number in range(begins + 48):
            made = window_of(trained, hour(draw, number, 0.5 if number >= begins else 0.0), 0)
            window = replace(made, since=START + number * HOUR, until=START + (number + 1) * HOUR)
            references = [
                replace(seen[earlier], against="same_hour")
                for earlier in range(number - WEEK, -1, -WEEK)
            ]
            found.append(judge(trained, window, references, found[-1:], Policy()))
            careless = replace(Policy(), unseasoned=timedelta(0))
            simple.append(judge(trained, window, (), simple[-1:], careless))
            seen.append(window)
        alarmed += any(v.alarms for v in found[:begins])
        unseasonal += any(v.alarms for v in simple[:begins])
        after = [
            number
            for number, v in enumerate(found[begins:], 1)
            if any(f.subject == f"n{FEATURES - 1}" for f in v.alarms)
        ]
        waited.append(after[0] if after else None)
    told(
        "a season of every night",
        runs=runs,
        alarmed=alarmed,
        alarmed_without_season=unseasonal,
        hours_until_drift_is_told=waited,
    )

    assert alarmed == 0
    assert unseasonal == runs
    assert median_day(waited) == Policy().persistence
