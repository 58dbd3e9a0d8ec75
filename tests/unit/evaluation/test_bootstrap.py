"""Bootstrap intervals: repeatable, bounded, paired, honest about resamples without a value."""

import time

import numpy as np
import pytest

from millrace.evaluation import bootstrap
from millrace.evaluation.bootstrap import Draws, draw, measured, paired_difference, resamples
from millrace.evaluation.metrics import Outcome, compute, prepare
from millrace.spec import Task, metrics_for


def noisy_binary(rows: int, seed: int, noise: float = 1.0) -> Outcome:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    scores = 1 / (1 + np.exp(-(2 * truth - 1 + noise * rng.normal(size=rows))))
    return Outcome(Task.BINARY, truth, np.column_stack([1 - scores, scores]))


def test_same_seed_gives_the_same_resamples_whatever_the_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = np.concatenate(list(resamples(50, 20, 7)))

    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", 150)
    chunked = list(resamples(50, 20, 7))

    assert [len(c) for c in chunked] == [3] * 6 + [2]
    assert np.array_equal(whole, np.concatenate(chunked))
    assert np.array_equal(whole.sum(axis=1), np.full(20, 50))


def test_another_seed_gives_other_resamples() -> None:
    assert not np.array_equal(next(resamples(50, 20, 7)), next(resamples(50, 20, 8)))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(300):
        values = np.random.default_rng(seed + 1_000).uniform(0, 2, size=120)
        outcome = Outcome(Task.REGRESSION, np.zeros(120), values)
        draws = draw({"mae": prepare("mae", outcome)}, 120, 200, seed)
        interval = draws["mae"].interval(0.9)
        assert interval is not None
        covered += interval[0] <= 1.0 <= interval[1]

    assert 0.85 <= covered / 300 <= 0.95


def test_rows_of_one_cluster_are_drawn_together() -> None:
    clusters = np.repeat(np.arange(20), 5)

    weights = np.concatenate(list(resamples(100, 30, 7, clusters)))

    assert np.array_equal(weights[:, ::5], weights[:, 4::5])
    assert np.array_equal(weights.sum(axis=1), np.full(30, 100))


def test_clustered_rows_give_wider_intervals() -> None:
    cluster_error = np.random.default_rng(5).normal(size=40)
    clusters = np.repeat(np.arange(40), 25)
    outcome = Outcome(Task.REGRESSION, np.zeros(1_000), np.abs(cluster_error[clusters]))
    prepared = {"mae": prepare("mae", outcome)}

    alone = draw(prepared, 1_000, 200, 7)["mae"].values.std()
    together = draw(prepared, 1_000, 200, 7, clusters)["mae"].values.std()

    assert together > 3 * alone


def test_interval_holds_the_value_and_shrinks_with_rows() -> None:
    widths = []
    for rows in (200, 5_000):
        outcome = noisy_binary(rows, seed=1)
        value = compute("roc_auc", outcome)
        draws = draw({"roc_auc": prepare("roc_auc", outcome)}, rows, 200, 1)
        metric = measured(value, draws["roc_auc"], 0.95)
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low < value < metric.high
        widths.append(metric.high - metric.low)

    assert widths[1] < widths[0] / 2


def test_pairing_removes_what_both_models_share() -> None:
    candidate, rng = noisy_binary(2_000, seed=1), np.random.default_rng(2)
    worse = np.clip(candidate.scores + 0.02 * rng.normal(size=2_000), 0, 1)
    champion = Outcome(Task.BINARY, candidate.truth, np.column_stack([1 - worse, worse]))
    prepared = {"new": prepare("roc_auc", candidate), "old": prepare("roc_auc", champion)}

    draws = draw(prepared, 2_000, 300, 7)
    difference = paired_difference("roc_auc", draws["new"], draws["old"])

    assert difference.values.std() < draws["new"].values.std() / 3


def test_difference_is_positive_when_a_loss_falls() -> None:
    low, high = Draws(np.array([0.2, 0.3])), Draws(np.array([0.4, 0.6]))

    assert np.all(paired_difference("log_loss", low, high).values > 0)
    assert np.all(paired_difference("roc_auc", low, high).values < 0)


def test_a_model_against_itself_differs_by_nothing() -> None:
    outcome = noisy_binary(500, seed=4)
    prepared = {name: prepare("f1", outcome) for name in ("a", "b")}

    draws = draw(prepared, 500, 100, 7)

    assert paired_difference("f1", draws["a"], draws["b"]).interval(0.95) == (0.0, 0.0)


def test_resamples_of_one_class_are_skipped_and_counted() -> None:
    truth = np.zeros(40, dtype=np.int64)
    truth[:2] = 1
    scores = np.linspace(1, 0, 40)
    outcome = Outcome(Task.BINARY, truth, np.column_stack([1 - scores, scores]))

    draws = draw({"roc_auc": prepare("roc_auc", outcome)}, 40, 400, 7)["roc_auc"]

    assert 20 < draws.skipped < 110  # (38/40)^40 is 13 %
    assert draws.interval(0.95) is not None


def test_no_interval_when_most_resamples_have_no_value() -> None:
    draws = Draws(np.array([np.nan, np.nan, np.nan, 1.0]))

    assert draws.interval(0.95) is None
    assert measured(0.5, draws, 0.95).low is None


def test_two_models_on_15000_rows_take_seconds() -> None:
    models = {name: noisy_binary(15_000, seed) for seed, name in enumerate(("new", "old"))}
    prepared = {
        (model, metric): prepare(metric, outcome)
        for model, outcome in models.items()
        for metric in metrics_for(Task.BINARY)
    }

    start = time.perf_counter()
    draws = draw(prepared, 15_000, 200, 7)

    assert time.perf_counter() - start < 20  # about 2 s on an idle core
    assert all(len(d.values) == 200 for d in draws.values())
