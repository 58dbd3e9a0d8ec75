"""What a window costs the monitor: the same for ten thousand predictions and for a hundred million.

Counts are of bins, so a window of a hundred million is made of histograms that say so. What is looked
at of rows is bounded by `sample.MAX_READ`, whatever the traffic, and left out here.
"""

import random
import time
import tracemalloc
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millrace.aws.sns import Notice
from millrace.monitoring import hours
from millrace.monitoring.baseline import Baseline, FeatureBaseline, NumericBaseline, ScoreBaseline
from millrace.monitoring.binning import HOUR, Bins, begin_of
from millrace.monitoring.document import Cost
from millrace.monitoring.episodes import Episodes
from millrace.monitoring.hours import FeatureCounts, HourCounts, WindowCounts
from millrace.monitoring.monitor import Looked, Models, Monitor
from millrace.monitoring.report import conclude
from millrace.monitoring.windows import WindowBook
from millrace.registry.serving import ServingRecord
from millrace.vocabulary import ColumnType, Task
from tests.bench.measure import keep as keep_figures
from tests.fakes import cases
from tests.fakes.store import FakeStore
from tests.fakes.table import FakeTable

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEEP = timedelta(days=90)
FEATURES = 20
BINS = 20
SIZES = (10_000, 1_000_000, 100_000_000)


def baseline() -> Baseline:
    """Twenty features of twenty bins."""
    edges = tuple(float(n) for n in range(BINS + 1))
    even = (1_000,) * BINS
    return Baseline(
        schema=1,
        model="churn",
        version=1,
        run_id="run",
        dataset_version="d",
        task=Task.BINARY,
        rows=sum(even),
        metric="accuracy",
        confidence=0.95,
        classes=("false", "true"),
        features=tuple(
            FeatureBaseline(
                name=f"feature_{n}",
                type=ColumnType.NUMBER,
                private=False,
                missing=0,
                numeric=NumericBaseline(edges=edges, counts=even, mean=10, std=5.8),
            )
            for n in range(FEATURES)
        ),
        scores=ScoreBaseline(edges=edges, counts=even, mean=10, std=5.8),
        predicted=(10_000, 10_000),
        performance={},
    )


def counts(rows: int, at: datetime) -> WindowCounts:
    """An hour of so many rows, each bin with about as many."""
    draw = random.Random(rows)

    def spread() -> FeatureCounts:
        bins = {n: round(rows / BINS * draw.uniform(0.99, 1.01)) for n in range(BINS)}
        return FeatureCounts(rows=sum(bins.values()), bins=Counter(bins))

    return WindowCounts(
        "churn",
        1,
        at,
        at + HOUR,
        requests=rows,
        rows=rows,
        weighed=float(rows),
        latency=Counter({17: rows // 2, 20: rows - rows // 2}),
        features={f"feature_{n}": spread() for n in range(FEATURES)},
        scores=spread(),
        classes=Counter({"false": rows // 2, "true": rows - rows // 2}),
        hours={at: HourCounts(at, rows, rows, 0, Counter({17: rows}))},
    )


class Silent:
    """Tells nobody."""

    def notify(self, notice: Notice) -> None:
        """Nothing is to be done."""


class Counting(FakeStore):
    """A store that counts its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        self.asked += 1
        return super().read(*args, **kwargs)

    def write(self, *args: Any, **kwargs: Any) -> None:
        self.asked += 1
        super().write(*args, **kwargs)


def monitored(rows: int) -> tuple[float, int, int, int]:
    """Seconds, peak bytes, table and object requests of one window with a week before it."""
    table, store, base = FakeTable(), Counting(), baseline()
    layout = Bins.of(base).layout
    for back in (0, 24, 7 * 24):
        one = counts(rows, NOON - back * HOUR)
        hours.add(
            table, f"{back:032x}", [one], {("churn", 1): layout}, [],
            now=NOON, keep=KEEP, begin_of=begin_of,
        )  # fmt: skip
    now = NOON + 1.2 * HOUR
    episodes = Episodes(table, clock=lambda: now, ids=lambda: "id")
    serving = ServingRecord(
        model="churn", version=1, run_id="run", model_key="", sha256="", signature_key="",
        signature_sha256="", updated_at=NOON,
    )  # fmt: skip
    cost = Cost(
        window=0, per_thousand_predictions=None, month_to_date=0, last_training=None,
        monthly_budget=None, budget_state="none",
    )  # fmt: skip
    monitor = Monitor(
        table=table,
        book=WindowBook(table, KEEP),
        models=Models(
            serving=lambda _model: serving,
            spec=lambda _model: cases.spec(),
            baseline=lambda _model, _version: base,
            widened=episodes.widened,
            newest=lambda _model: None,
            actions=lambda _model: (),
            cost=lambda _spec, _window, _now: cost,
        ),
        rows=lambda *_: Looked(),
        conclude=lambda report, clear: conclude(
            report,
            episodes=episodes,
            objects=store,
            bucket="b",
            notifier=Silent(),
            link=str,
            clear_windows=clear,
        ),
        consider=lambda _spec, _alarms: None,
        settle=lambda _spec, _now: None,
        stage="bench",
        hour=HOUR,
    )
    table.calls.clear()
    tracemalloc.start()
    began = time.perf_counter()
    outcome = monitor.watch("churn", now)
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(one.rows for one in outcome.windows) >= rows
    windows = len(outcome.windows)
    return seconds / windows, peak, len(table.calls), store.asked


def test_a_windows_cost_is_flat_in_its_traffic(capsys: pytest.CaptureFixture[str]) -> None:
    monitored(SIZES[0])  # imports and templates
    found = {size: monitored(size) for size in SIZES}

    with capsys.disabled():
        for size, (seconds, peak, table, objects) in found.items():
            print(
                f"  {size:>11,} predictions an hour: {seconds * 1e3:.0f} ms a window, "
                f"{peak / 1e6:.1f} MB, {table} table and {objects} object requests in all"
            )
    keep_figures(
        "monitor window",
        {f"{size}_ms": seconds * 1e3 for size, (seconds, *_) in found.items()},
    )
    small, large = found[SIZES[0]], found[SIZES[-1]]
    assert large[0] < 3 * small[0]
    assert large[1] < 2 * small[1]
    assert large[2:] == small[2:]
