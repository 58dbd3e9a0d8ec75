"""What a window's differences mean: significance, size, persistence and season, each by itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from millrace.monitoring.baseline import Baseline
from millrace.monitoring.findings import Finding, Policy, StatisticValue, Verdict
from millrace.monitoring.hours import FeatureCounts, WindowCounts
from millrace.monitoring.judging import judge
from tests.unit.monitoring.streams import DAY, START, World, baseline, window

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
POLICY = Policy()
CALM = World()
MOVED = World(shift={0: 0.6})


@pytest.fixture
def draw() -> np.random.Generator:
    """Dice with a seed."""
    return np.random.default_rng(5)


@pytest.fixture
def trained(draw: np.random.Generator) -> Baseline:
    """A baseline of ten thousand rows."""
    return baseline(CALM, 10_000, draw)


def of(verdict: Verdict, kind: str, subject: str, against: str | None = "training") -> Finding:
    """The one finding of a key."""
    (found,) = (f for f in verdict.findings if f.key == (kind, subject, against))
    return found


def judged(
    trained: Baseline, windows: Sequence[WindowCounts], policy: Policy = POLICY, **more: Any
) -> list[Verdict]:
    """Verdicts of windows one after the other, each knowing those before."""
    verdicts: list[Verdict] = []
    for seen in windows:
        verdicts.append(judge(trained, seen, (), verdicts, policy, **more))
    return verdicts


def days(
    trained: Baseline, worlds: Sequence[World], draw: np.random.Generator, rows: int = 2_000
) -> list[WindowCounts]:
    """A window a day."""
    return [
        window(trained, world, rows, draw, since=START + number * DAY)
        for number, world in enumerate(worlds)
    ]


def test_a_window_of_few_rows_is_refused_with_the_reason(
    trained: Baseline, draw: np.random.Generator
) -> None:
    (verdict,) = judged(trained, [window(trained, MOVED, 199, draw)])

    assert (verdict.state, verdict.findings) == ("unknown", ())
    assert "199 rows" in verdict.reason
    assert "200" in verdict.reason


def test_a_window_like_training_is_in_order(trained: Baseline, draw: np.random.Generator) -> None:
    (verdict,) = judged(trained, [window(trained, CALM, 2_000, draw)])

    assert verdict.state == "ok"
    assert {f.kind for f in verdict.findings} >= {
        "feature_drift", "score_drift", "class_drift", "missing", "unseen", "range", "errors",
        "capture_gap",
    }  # fmt: skip


def test_a_difference_is_watched_until_a_second_window_shows_it(
    trained: Baseline, draw: np.random.Generator
) -> None:
    first, second, third = judged(trained, days(trained, [MOVED] * 3, draw))

    assert (first.state, second.state, third.state) == ("watch", "alarm", "alarm")
    found = of(third, "feature_drift", "n0")
    assert (found.first_seen, found.persisted) == (START, 3)
    assert {f.subject for f in second.alarms} == {"n0"}
    assert "n0" in second.reason


def test_a_finding_tells_the_least_effect_that_counts(
    trained: Baseline, draw: np.random.Generator
) -> None:
    widened = replace(POLICY, thresholds={"feature_drift:n0": 0.4})
    (verdict,) = judged(trained, [window(trained, MOVED, 2_000, draw)], widened)

    for name, least in (("n0", 0.4), ("n1", POLICY.min_drift)):
        found = of(verdict, "feature_drift", name)
        assert found.parameters["least"] == least
        assert found.threshold == pytest.approx(least + float(found.parameters["chance"]))


def test_a_window_between_that_is_in_order_begins_anew(
    trained: Baseline, draw: np.random.Generator
) -> None:
    verdicts = judged(trained, days(trained, [MOVED, CALM, MOVED], draw))

    assert [v.state for v in verdicts] == ["watch", "ok", "watch"]
    assert of(verdicts[2], "feature_drift", "n0").persisted == 1


def test_a_refused_window_between_changes_nothing(
    trained: Baseline, draw: np.random.Generator
) -> None:
    one, other = days(trained, [MOVED] * 2, draw)
    empty = window(trained, CALM, 0, draw, since=START + DAY)
    last = replace(other, since=START + 2 * DAY, until=START + 3 * DAY)

    verdicts = judged(trained, [one, empty, last])

    assert [v.state for v in verdicts] == ["watch", "unknown", "alarm"]


def test_windows_that_overlap_are_one_for_persistence(
    trained: Baseline, draw: np.random.Generator
) -> None:
    hourly = [window(trained, MOVED, 2_000, draw, since=START + n * HOUR) for n in range(25)]

    verdicts = judged(trained, hourly)

    assert {v.state for v in verdicts[:24]} == {"watch"}
    assert verdicts[24].state == "alarm"


def test_the_same_window_again_gives_the_same_verdict(
    trained: Baseline, draw: np.random.Generator
) -> None:
    windows = days(trained, [MOVED] * 3, draw)
    verdicts = judged(trained, windows)

    again = judge(trained, windows[1], (), verdicts, POLICY)

    assert again == verdicts[1]


def test_a_value_as_long_as_a_book_is_cut_in_what_is_said_of_it(
    trained: Baseline, draw: np.random.Generator
) -> None:
    colours = trained.feature("c0")
    assert colours is not None
    assert colours.categorical is not None
    known = tuple(name + " and so on" * 9_000 for name in colours.categorical.categories)
    long = colours.model_copy(
        update={"categorical": colours.categorical.model_copy(update={"categories": known})}
    )
    seen = window(trained, CALM, 2_000, draw)
    seen.features["c0"].bins = Counter({0: 2_000})

    verdict = judge(trained.model_copy(update={"features": (long,)}), seen, (), (), POLICY)

    said = of(verdict, "feature_drift", "c0").text
    assert "…" in said
    assert len(said) < 400


def test_history_may_be_what_moved_alone(trained: Baseline, draw: np.random.Generator) -> None:
    one, other = days(trained, [MOVED] * 2, draw)
    first = judge(trained, one, (), (), POLICY)
    kept = Verdict.of_document(first.to_memory(first.moved))

    assert judge(trained, other, (), [kept], POLICY) == judge(trained, other, (), [first], POLICY)


def test_among_many_rows_a_small_difference_is_significant_and_does_not_count(
    trained: Baseline, draw: np.random.Generator
) -> None:
    exact = baseline(CALM, 400_000, draw)
    verdicts = judged(exact, days(exact, [World(shift={0: 0.05})] * 3, draw, rows=100_000))

    found = of(verdicts[-1], "feature_drift", "n0")
    assert found.adjusted_p is not None
    assert found.adjusted_p < 1e-9
    assert (found.verdict, verdicts[-1].state) == ("ok", "ok")


def test_the_threshold_grows_as_rows_get_fewer(
    trained: Baseline, draw: np.random.Generator
) -> None:
    few, many = (
        of(judge(trained, window(trained, CALM, n, draw), (), (), POLICY), "feature_drift", "n0")
        for n in (200, 20_000)
    )

    assert few.threshold == pytest.approx(POLICY.min_drift + 19 * (1 / 200 + 1 / 10_000))
    assert many.threshold == pytest.approx(POLICY.min_drift + 19 * (1 / 20_000 + 1 / 10_000))


def test_p_values_are_corrected_for_the_number_of_features(draw: np.random.Generator) -> None:
    world = World(numeric=20, categorical=0)
    many = baseline(world, 10_000, draw)

    verdict = judge(many, window(many, world, 2_000, draw), (), (), POLICY)

    drifts = [f for f in verdict.findings if f.kind == "feature_drift"]
    assert len(drifts) == 20
    for found in drifts:
        assert found.p_value is not None
        assert found.adjusted_p is not None
        assert found.adjusted_p >= found.p_value
    smallest = min(drifts, key=lambda f: f.p_value or 0)
    assert (smallest.adjusted_p or 0) > 2 * (smallest.p_value or 0)


@pytest.mark.parametrize(
    ("change", "kind", "subject"),
    [
        (lambda w: w.features.__setitem__("n1", replace(w.features["n1"], missing=900)),
         "missing", "n1"),
        (lambda w: w.features.__setitem__("n1", replace(w.features["n1"], above=300)),
         "range", "n1"),
        (lambda w: w.features.__setitem__("c0", replace(w.features["c0"], unseen=300)),
         "unseen", "c0"),
        (lambda w: setattr(w, "classes", Counter({"yes": 2_000})), "class_drift", "classes"),
        (lambda w: setattr(w, "scores", FeatureCounts(2_000, bins=Counter({19: 2_000}))),
         "score_drift", "scores"),
    ],
    ids=["missing values", "values out of range", "unseen categories", "classes", "scores"],
)  # fmt: skip
def test_each_kind_of_change_is_found_by_its_own_name(
    trained: Baseline, draw: np.random.Generator, change: Any, kind: str, subject: str
) -> None:
    one, other = days(trained, [CALM] * 2, draw)
    change(one)
    change(other)

    _, verdict = judged(trained, [one, other])

    assert of(verdict, kind, subject).verdict == "alarm"


def test_rare_categories_that_are_new_are_none_of_concern_where_training_had_many(
    trained: Baseline, draw: np.random.Generator
) -> None:
    colour = trained.features[-1]
    assert colour.categorical is not None
    long_tail = colour.model_copy(
        update={"categorical": colour.categorical.model_copy(update={"other": 3_000})}
    )
    of_tail = trained.model_copy(update={"features": (*trained.features[:-1], long_tail)})
    seen = window(trained, CALM, 2_000, draw)
    seen.features["c0"] = replace(seen.features["c0"], rows=2_500, unseen=500)

    assert of(judge(of_tail, seen, (), (), POLICY), "unseen", "c0").verdict == "ok"
    assert of(judge(trained, seen, (), (), POLICY), "unseen", "c0").verdict == "watch"


# ── Season ──────────────────────────────────────────────────────────────────────────────────────


def nights(
    trained: Baseline, draw: np.random.Generator, numbers: Sequence[int], world: World
) -> list[WindowCounts]:
    """Windows of an hour."""
    return [
        window(trained, world, 2_000, draw, since=START + n * HOUR, length=HOUR) for n in numbers
    ]


def season(like: WindowCounts, trained: Baseline, world: World, draw: Any) -> list[WindowCounts]:
    """The same hour of two earlier weeks."""
    return [
        window(
            trained, world, 2_000, draw, since=like.since - n * WEEK, length=HOUR,
            against="same_hour",
        )
        for n in (1, 2)
    ]  # fmt: skip


def run_hours(
    trained: Baseline, windows: Sequence[WindowCounts], usual: World | None, draw: Any
) -> list[Verdict]:
    """Verdicts of hours that know the same hour of earlier weeks."""
    verdicts: list[Verdict] = []
    for seen in windows:
        references = [] if usual is None else season(seen, trained, usual, draw)
        verdicts.append(judge(trained, seen, references, verdicts[-1:], POLICY))
    return verdicts


def test_what_the_same_hours_of_earlier_weeks_show_as_well_is_no_alarm(
    trained: Baseline, draw: np.random.Generator
) -> None:
    verdicts = run_hours(trained, nights(trained, draw, range(6), MOVED), MOVED, draw)

    assert {v.state for v in verdicts} == {"watch"}
    assert "earlier weeks look alike" in of(verdicts[-1], "feature_drift", "n0").text
    assert of(verdicts[-1], "feature_drift", "n0", "same_hour").verdict == "ok"


def test_what_the_same_hours_of_earlier_weeks_do_not_show_alarms_in_the_second_hour(
    trained: Baseline, draw: np.random.Generator
) -> None:
    first, second = run_hours(trained, nights(trained, draw, range(2), MOVED), CALM, draw)

    assert (first.state, second.state) == ("watch", "alarm")
    assert of(second, "feature_drift", "n0", "same_hour").verdict == "watch"


def test_what_lasts_a_whole_week_is_no_season(trained: Baseline, draw: np.random.Generator) -> None:
    (last,) = nights(trained, draw, [7 * 24], MOVED)
    (earlier,) = nights(trained, draw, [7 * 24 - 1], MOVED)
    references = season(last, trained, MOVED, draw)

    def state(first_seen: datetime) -> str:
        before = judge(trained, earlier, (), (), POLICY)
        lasting = [
            replace(f, first_seen=first_seen, persisted=9) if f.verdict == "watch" else f
            for f in before.findings
        ]
        return judge(
            trained, last, references, [replace(before, findings=tuple(lasting))], POLICY
        ).state

    assert state(START + 2 * HOUR) == "watch"
    assert state(START) == "alarm"


def test_a_single_hour_that_strays_from_earlier_weeks_is_no_alarm(
    trained: Baseline, draw: np.random.Generator
) -> None:
    verdicts: list[Verdict] = []
    for seen, usual in zip(
        nights(trained, draw, range(4), MOVED), [MOVED, MOVED, CALM, MOVED], strict=True
    ):
        references = season(seen, trained, usual, draw)
        verdicts.append(judge(trained, seen, references, verdicts, POLICY))

    assert [v.state for v in verdicts] == ["watch"] * 4
    assert of(verdicts[2], "feature_drift", "n0", "same_hour").persisted == 1
    assert of(verdicts[3], "feature_drift", "n0").persisted == 4


def test_differences_to_opposite_sides_are_none_that_lasts(
    trained: Baseline, draw: np.random.Generator
) -> None:
    other = World(shift={0: -0.6, 3: -1.0}, missing={1: 0.2})
    worlds = [MOVED, other, replace(MOVED, missing={1: 0.2}), replace(other, missing={})]

    verdicts = judged(trained, days(trained, worlds, draw))

    assert [of(v, "feature_drift", "n0").persisted for v in verdicts] == [1, 1, 1, 1]
    assert of(verdicts[2], "missing", "n1").verdict == "alarm"
    assert {f.kind for v in verdicts for f in v.alarms} == {"missing"}


def test_without_an_earlier_week_a_difference_must_last_a_day(
    trained: Baseline, draw: np.random.Generator
) -> None:
    verdicts = run_hours(trained, nights(trained, draw, range(24), MOVED), None, draw)

    assert {v.state for v in verdicts[:23]} == {"watch"}
    assert verdicts[23].state == "alarm"


def test_an_alarm_stays_one_when_earlier_weeks_begin_to_look_alike(
    trained: Baseline, draw: np.random.Generator
) -> None:
    one, two, three = nights(trained, draw, range(3), MOVED)
    alarmed = run_hours(trained, [one, two], CALM, draw)

    later = judge(trained, three, season(three, trained, MOVED, draw), alarmed, POLICY)

    assert of(later, "feature_drift", "n0").verdict == "alarm"


def test_a_difference_from_last_week_alone_is_watched(
    trained: Baseline, draw: np.random.Generator
) -> None:
    last_week = window(
        trained, MOVED, 20_000, draw, since=START - WEEK, length=WEEK, against="last_week"
    )
    verdicts: list[Verdict] = []
    for seen in days(trained, [CALM] * 3, draw):
        verdicts.append(judge(trained, seen, [last_week], verdicts, POLICY))

    assert [v.state for v in verdicts] == ["watch"] * 3
    assert of(verdicts[-1], "feature_drift", "n0", "last_week").persisted == 3


# ── Traffic, multivariate, further findings, policy ─────────────────────────────────────────────


def test_failures_slow_requests_and_lost_captures_are_held_against_earlier_weeks(
    trained: Baseline, draw: np.random.Generator
) -> None:
    verdicts: list[Verdict] = []
    for seen in nights(trained, draw, range(2), CALM):
        references = season(seen, trained, CALM, draw)
        worse = replace(
            seen, errors=100, missing_lines=200, latency=Counter({20: 1_000, 60: 1_000})
        )
        verdicts.append(judge(trained, worse, references, verdicts, POLICY))

    assert {(f.kind, f.against) for f in verdicts[-1].alarms} == {
        ("errors", "same_hour"),
        ("latency", "same_hour"),
        ("capture_gap", None),
    }


def test_without_a_baseline_traffic_alone_is_judged(
    trained: Baseline, draw: np.random.Generator
) -> None:
    seen = replace(window(trained, CALM, 2_000, draw), features={}, binned=False, errors=60)

    verdict = judge(None, seen, (), (), POLICY)

    assert {f.kind for f in verdict.findings} == {"errors", "capture_gap"}
    assert verdict.state == "watch"


def test_features_that_no_longer_go_together_are_found(
    trained: Baseline, draw: np.random.Generator
) -> None:
    odd = StatisticValue(
        "reconstruction_error",
        1.5,
        1e-12,
        parameters={"baseline": 1.0, "baseline_std": 1.0, "effect": 0.5, "rows": 2_000},
    )

    verdicts = judged(trained, days(trained, [CALM] * 2, draw), multivariate=odd)

    found = of(verdicts[-1], "multivariate", "inputs")
    assert found.verdict == "alarm"
    assert found.threshold == pytest.approx(1.2)


def test_findings_made_elsewhere_keep_their_verdict_and_learn_how_long_they_lasted(
    trained: Baseline, draw: np.random.Generator
) -> None:
    fell = Finding(
        kind="performance", subject="roc_auc", statistic="roc_auc", value=0.8, verdict="alarm"
    )

    first, second = judged(trained, days(trained, [CALM] * 2, draw), further=[fell])

    assert (first.state, second.state) == ("alarm", "alarm")
    assert of(second, "performance", "roc_auc", None).persisted == 2
    assert of(second, "performance", "roc_auc", None).first_seen == START


def test_a_widened_threshold_ends_an_alarm(trained: Baseline, draw: np.random.Generator) -> None:
    wide = Policy(thresholds={"feature_drift:n0": 1.0})

    verdicts = judged(trained, days(trained, [MOVED] * 2, draw), wide)

    assert of(verdicts[-1], "feature_drift", "n0").verdict == "ok"


def test_an_alarm_says_what_moved(trained: Baseline, draw: np.random.Generator) -> None:
    tilted = World(shift={3: 1.0})

    *_, verdict = judged(trained, days(trained, [tilted] * 2, draw))

    found = of(verdict, "feature_drift", "c0")
    assert found.text.startswith("c0: PSI 0.")
    assert "; red 39.7% → 20.3%, grey" in found.text
    assert found.parameters["jensen_shannon_base"] == 2.0
    assert found.parameters["bins"] == 4
