"""What a window's performance comes to: figures, verdicts, groups, warnings."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from millrace.evaluation.metrics import Outcome, compute
from millrace.evaluation.reference import describe
from millrace.evaluation.slices import group_facts
from millrace.monitoring.baseline import Baseline
from millrace.monitoring.estimation import CAVEAT
from millrace.monitoring.findings import Policy, Verdict
from millrace.monitoring.performance import (
    CERTAIN,
    LIKELY,
    PerformanceWindow,
    findings,
    measure,
)
from millrace.monitoring.sample import Sample
from millrace.spec import Task
from tests.unit.monitoring.judged import BEGIN, judged, sample

POLICY = Policy()
SLICES = ({"column": "region", "metric": "accuracy", "min": 0.6, "max_gap": 0.2},)


def rows(count: int, seed: int, *, noise: float = 1.0, bad_region: str = "") -> dict[str, Any]:
    """Rows of a binary model whose scores tell less the more noise there is."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(0, 1.5, count)
    region = rng.choice(np.asarray(["east", "west"], dtype=object), count)
    truth = (rng.random(count) < 1 / (1 + np.exp(-2 * signal))).astype(np.int64)
    if bad_region:
        wrong = (region == bad_region) & (rng.random(count) < 0.45)
        truth = np.where(wrong, 1 - truth, truth)
    seen = signal + rng.normal(0, noise - 1, count) if noise > 1 else signal
    score = 1 / (1 + np.exp(-2 * seen))
    return {
        "columns": {"age": 40 + 10 * signal, "region": region},
        "truth": truth,
        "output": np.column_stack([1 - score, score]),
    }


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return describe(judged(Task.BINARY, **rows(4_000, 1), slices=SLICES))


def live(made: dict[str, Any], labelled: Any = True, **more: Any) -> Sample:
    """Live rows; ``labelled`` says of which the label came."""
    told = np.broadcast_to(labelled, len(made["truth"]))
    labels = [
        ("no", "yes")[t] if known else None for t, known in zip(made["truth"], told, strict=True)
    ]
    return sample(made["columns"], made["output"], labels, **more)


def test_measured_metrics_are_those_of_the_gate(baseline: Baseline) -> None:
    made = rows(1_000, 2)

    window = measure(baseline, live(made), POLICY)

    outcome = Outcome(Task.BINARY, made["truth"], made["output"])
    assert window.metrics[0].metric == "roc_auc"
    for metric in window.metrics:
        assert metric.realised is not None
        assert metric.realised.value == compute(metric.metric, outcome)
        assert metric.realised.low is not None
        assert metric.realised.high is not None
        assert metric.realised.low < metric.realised.value < metric.realised.high
    assert window.share_labelled == 1
    assert window.state == "ok"
    assert window.warnings == ()


def test_a_fall_beyond_doubt_alarms_in_its_first_window(baseline: Baseline) -> None:
    window = measure(baseline, live(rows(2_000, 3, noise=3.0)), POLICY)

    found = {(f.kind, f.subject): f for f in findings(window, (), POLICY)}
    auc = found["performance", "roc_auc"]
    assert auc.verdict == window.state == "alarm"
    assert auc.value is not None
    assert auc.threshold is not None
    assert auc.value < auc.threshold
    assert "measured on 2000 labelled rows, after" in auc.text


def test_estimate_shows_no_concept_change_and_says_so(baseline: Baseline) -> None:
    made = rows(2_000, 4)
    made["truth"] = 1 - made["truth"]

    window = measure(baseline, live(made), POLICY)

    auc = window.metrics[0]
    assert (auc.verdict, auc.estimated_verdict) == ("alarm", "ok")
    assert auc.caveat == CAVEAT


def test_without_labels_there_is_an_estimate_alone(baseline: Baseline) -> None:
    window = measure(baseline, live(rows(1_000, 5), labelled=False), POLICY)

    assert all(m.realised is None and m.verdict == "unknown" for m in window.metrics)
    assert all(m.estimated is not None for m in window.metrics)
    assert {f.kind for f in findings(window, (), POLICY)} == {"estimated_performance"}


def test_windows_of_few_rows_are_refused(baseline: Baseline) -> None:
    window = measure(baseline, live(rows(POLICY.min_rows - 1, 6)), POLICY)

    assert window.state == "unknown"
    assert all(m.realised is None and m.estimated is None for m in window.metrics)
    assert findings(window, (), POLICY) == ()


def test_real_values_lie_within_the_estimates_intervals(baseline: Baseline) -> None:
    """Of 20 windows without any change, at 95 %."""
    inside = []
    for seed in range(100, 120):
        window = measure(baseline, live(rows(300, seed)), POLICY)
        auc = window.metrics[0]
        assert auc.realised is not None
        assert auc.estimated is not None
        assert auc.estimated.low is not None
        assert auc.estimated.high is not None
        inside.append(auc.estimated.low <= auc.realised.value <= auc.estimated.high)
        assert window.state in ("ok", "watch")

    assert np.mean(inside) >= 0.85


def test_thresholds_follow_the_number_of_labelled_rows(baseline: Baseline) -> None:
    few, many = (measure(baseline, live(rows(n, 7)), POLICY).metrics[0] for n in (300, 6_000))

    assert few.threshold_low is not None
    assert many.threshold_low is not None
    assert few.threshold_low < many.threshold_low < few.reference.value


def test_what_is_likely_is_watched_and_alarms_when_it_lasts(baseline: Baseline) -> None:
    window = next(
        w
        for seed in range(200, 400)
        if (w := measure(baseline, live(rows(400, seed, noise=1.9)), POLICY)).metrics[0].verdict
        == "watch"
    )
    [first] = [f for f in findings(window, (), POLICY) if _is_auc(f)]
    before = _verdict(window, replace(first, persisted=1, first_seen=window.since))
    later = replace(window, since=window.until, until=window.until + timedelta(hours=1))

    [second] = [f for f in findings(later, (before,), POLICY) if _is_auc(f)]

    assert (first.verdict, second.verdict) == ("watch", "alarm")


def _is_auc(finding: Any) -> bool:
    return bool(finding.kind == "performance" and finding.subject == "roc_auc")


def _verdict(window: PerformanceWindow, finding: Any) -> Verdict:
    return Verdict("churn", 1, window.since, window.until, window.rows, "watch", "", (finding,))


def test_what_is_likely_alarms_at_once_where_another_metric_is_beyond_doubt(
    baseline: Baseline,
) -> None:
    windows = (measure(baseline, live(rows(800, s, noise=2.0)), POLICY) for s in range(40))
    likely = next(
        (window, metric)
        for window in windows
        if any((m.p_value or 1.0) <= CERTAIN for m in window.metrics)
        for metric in window.metrics
        if CERTAIN < (metric.p_value or 1.0) <= LIKELY
        and abs(metric.reference.value - (metric.realised or metric.reference).value) > 0.05
    )

    window, metric = likely

    found = {f.subject: f for f in findings(window, (), POLICY) if f.kind == "performance"}
    assert metric.verdict == found[metric.metric].verdict == "alarm"


def test_estimate_that_labels_contradict_is_only_watched(baseline: Baseline) -> None:
    """Scores nearer to a half than ever, and yet as often right."""
    made = rows(3_000, 8)
    certain = made["truth"] == 1
    made["output"] = np.column_stack([np.where(certain, 0.49, 0.51), np.where(certain, 0.51, 0.49)])

    window = measure(baseline, live(made), POLICY)

    accuracy = next(m for m in window.metrics if m.metric == "accuracy")
    assert (accuracy.verdict, accuracy.estimated_verdict) == ("ok", "watch")
    [told] = [
        f
        for f in findings(window, (), POLICY)
        if (f.kind, f.subject) == ("estimated_performance", "accuracy")
    ]
    assert told.verdict == "watch"
    assert "labels say that it did not fall" in told.text


def test_partial_labels_are_told_and_selective_ones_warned_of(baseline: Baseline) -> None:
    made = rows(3_000, 9)
    high = made["output"][:, 1] > 0.6
    some = np.random.default_rng(10).random(3_000) < 0.4

    by_score = measure(baseline, live(made, labelled=high), POLICY)
    by_chance = measure(baseline, live(made, labelled=some), POLICY)

    assert by_score.share_labelled == pytest.approx(high.mean())
    assert [w.split(":")[0] for w in by_score.warnings][1] == "selective labels"
    assert len(by_chance.warnings) == 1
    assert by_chance.warnings[0].startswith("labels came for 4")


def test_a_group_that_misses_its_gate_alarms_with_the_gates_figures(baseline: Baseline) -> None:
    made = rows(2_000, 11, bad_region="west")

    window = measure(baseline, live(made), POLICY)

    [region] = [s for s in window.segments if s.column == "region"]
    west = next(g for g in region.groups if g.name == "west")
    among = made["columns"]["region"] == "west"
    part = Outcome(Task.BINARY, made["truth"], made["output"]).take(among)
    assert region.gate
    assert west.realised is not None
    assert west.realised.value == compute("accuracy", part)
    assert west.facts == group_facts(part)
    assert west.verdict == "alarm"
    alarms = {f.subject for f in findings(window, (), POLICY) if f.kind == "fairness"}
    assert {"region=west"} <= alarms


def test_a_group_that_meets_its_gate_again_says_so(baseline: Baseline) -> None:
    """Without a finding that is ok, its alarm would never end."""
    window = measure(baseline, live(rows(2_000, 12)), POLICY)

    told = {f.subject: f.verdict for f in findings(window, (), POLICY) if f.kind == "fairness"}

    assert told["region=west"] == "ok"


def test_gap_of_groups_is_held_against_the_gates(baseline: Baseline) -> None:
    fair = measure(baseline, live(rows(2_000, 12)), POLICY)
    unfair = measure(baseline, live(rows(2_000, 13, bad_region="east")), POLICY)

    gaps = [next(s for s in w.segments if s.column == "region") for w in (fair, unfair)]
    assert [s.gap_verdict for s in gaps] == ["ok", "alarm"]
    assert gaps[1].gap is not None
    assert gaps[1].gap.value > 0.2


def test_columns_that_are_never_captured_are_named_as_unmeasured() -> None:
    made = judged(Task.BINARY, **rows(800, 14), slices=SLICES, private=("region",))
    private = describe(made)

    window = measure(private, live(rows(400, 15)), POLICY)

    assert window.unmeasured == ("region",)
    assert any("fairness by region is not measured" in w for w in window.warnings)
    assert all(s.column != "region" for s in window.segments)


def test_a_widened_threshold_is_what_counts(baseline: Baseline) -> None:
    made = live(rows(2_000, 16, noise=3.0))
    widened = replace(POLICY, thresholds={"performance:roc_auc": 0.5})

    auc = measure(baseline, made, widened).metrics[0]

    assert auc.verdict == "ok"
    assert auc.threshold_low == pytest.approx(auc.reference.value - 0.5)


def test_the_same_rows_give_the_same_figures(baseline: Baseline) -> None:
    made = live(rows(500, 17))

    assert measure(baseline, made, POLICY) == measure(baseline, made, POLICY)


def test_regression_is_measured_and_estimated_by_its_errors() -> None:
    rng = np.random.default_rng(18)

    def houses(count: int, old: float) -> dict[str, Any]:
        noisy = rng.random(count) < old
        area = rng.uniform(50, 200, count)
        return {
            "columns": {"area": area, "kind": np.where(noisy, "old", "new").astype(object)},
            "truth": 3 * area + rng.normal(0, np.where(noisy, 40, 5), count),
            "output": 3 * area,
        }

    reference = describe(judged(Task.REGRESSION, **houses(4_000, 0.2)))
    now = houses(1_000, 0.7)
    given = sample(now["columns"], now["output"], [repr(float(v)) for v in now["truth"]])

    window = measure(reference, given, POLICY)

    by_name = {m.metric: m for m in window.metrics}
    mae = by_name["mae"]
    assert mae.realised is not None
    assert mae.estimated is not None
    assert mae.realised.value == pytest.approx(np.abs(now["output"] - now["truth"]).mean())
    assert mae.estimated.value == pytest.approx(mae.realised.value, rel=0.1)
    assert (mae.verdict, mae.threshold_low) == ("alarm", None)
    assert by_name["r2"].estimated is None
    assert by_name["r2"].caveat.startswith("r2 is not estimated")
    assert window.since == BEGIN
