"""What a window costs the monitor: the same for ten thousand predictions and for a hundred million.

The whole look is measured: counts, the sample of rows with their labels, performance and its estimate,
groups, judgement, report, alarms. Counts are of bins, so a window of a hundred million is made of
histograms that say so; its objects are listed and read as if all of them were there, and only those
that are read are made. Times are without the network: each request adds its own, and all are counted.
"""

import gzip
import time
import tracemalloc
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, Final

import numpy as np
import orjson
import pytest

from millrace import layout
from millrace.aws.sns import Notice
from millrace.aws.table import SK, Item, Key, Put, QueryPage, Update
from millrace.evaluation.reference import describe
from millrace.monitoring import hours
from millrace.monitoring.baseline import Baseline
from millrace.monitoring.binning import HOUR, Bins, begin_of, count
from millrace.monitoring.document import Cost
from millrace.monitoring.episodes import Episodes
from millrace.monitoring.hours import FeatureCounts, WindowCounts
from millrace.monitoring.labelbook import LabelBook
from millrace.monitoring.labels import Assertion, RowKey, Told
from millrace.monitoring.monitor import Models, Monitor
from millrace.monitoring.report import conclude, rewrite
from millrace.monitoring.rows import RowReader
from millrace.monitoring.windows import WindowBook
from millrace.registry.serving import ServingRecord
from millrace.serving.capture import CapturedPrediction, to_document
from millrace.vocabulary import Task
from tests.bench.measure import keep as keep_figures
from tests.fakes import cases
from tests.fakes.store import FakeStore
from tests.fakes.table import FakeTable
from tests.unit.monitoring.judged import judged

NOON: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEEP: Final = timedelta(days=90)
NUMBERS, TEXTS = 15, 5
TOWNS: Final = ("north", "south", "east", "west", "middle")
PER_OBJECT: Final = 100
"""Requests of one row each that a delivery brings."""
PAGE: Final = 1_000
"""Keys of one list request."""
SIZES: Final = (10_000, 1_000_000, 100_000_000)
MOST_LABELS: Final = 60_000
"""More labels than are read at once; there may be any number more."""


def rows_of(rows: int, seed: int) -> tuple[dict[str, Any], Any, Any]:
    """Columns, truth and scores of a binary model."""
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=(NUMBERS, rows))
    columns: dict[str, Any] = {f"number_{i}": numbers[i] for i in range(NUMBERS)}
    columns |= {f"text_{i}": draw.choice(np.array(TOWNS, dtype=object), rows) for i in range(TEXTS)}
    chance = 1 / (1 + np.exp(-(numbers[0] + numbers[1])))
    truth = (draw.random(rows) < chance).astype(np.int64)
    return columns, truth, np.column_stack([1 - chance, chance])


@cache
def baseline() -> Baseline:
    """Of twenty features, with groups and principal components."""
    columns, truth, output = rows_of(10_000, 1)
    slices = ({"column": "text_0", "metric": "accuracy", "max_gap": 0.2},)
    return describe(judged(Task.BINARY, columns, truth, output, slices=slices))


def captured_rows(rows: int, at: datetime, seed: int) -> tuple[list[CapturedPrediction], list[str]]:
    """Requests of one row, evenly over an hour, and their truth."""
    columns, truth, output = rows_of(rows, seed)
    records = []
    for n in range(rows):
        milliseconds = int(at.timestamp() * 1_000) + n * 3_600_000 // rows
        moment = f"{milliseconds:012x}"
        records.append(
            CapturedPrediction(
                model="churn",
                version=1,
                prediction_id=f"{moment[:8]}-{moment[8:]}-7000-8000-{seed:04x}{n:08x}",
                row_count=1,
                latency_ms=2.0,
                rate=1.0,
                process=f"process-{n % 7}",
                sequence=n // 7 + 1,
                inputs={
                    name: [v if isinstance(v := values[n], str) else round(float(v), 6)]
                    for name, values in columns.items()
                },
                outputs={"probabilities": [[float(p) for p in output[n]]]},
                warnings={},
            )
        )
    return records, [("no", "yes")[t] for t in truth.tolist()]


def scaled(counts: WindowCounts, times: int) -> WindowCounts:
    """As if each row had come so many times."""

    def of(counted: Counter[Any]) -> Counter[Any]:
        return Counter({place: rows * times for place, rows in counted.items()})

    def feature(one: FeatureCounts) -> FeatureCounts:
        numbers = {
            name: getattr(one, name) * times
            for name in ("rows", "missing", "unseen", "other", "below", "above")
        }
        return FeatureCounts(**numbers, bins=of(one.bins))

    return replace(
        counts,
        requests=counts.requests * times,
        rows=counts.rows * times,
        weighed=counts.weighed * times,
        latency=of(counts.latency),
        features={name: feature(one) for name, one in counts.features.items()},
        scores=feature(counts.scores),
        classes=of(counts.classes),
        hours={
            at: replace(
                one,
                requests=one.requests * times,
                rows=one.rows * times,
                latency=of(one.latency),
            )
            for at, one in counts.hours.items()
        },
    )


class Silent:
    """Tells nobody."""

    def notify(self, notice: Notice) -> None:
        """Nothing is to be done."""


class Deliveries(FakeStore):
    """A store in which an hour's deliveries lie, and that counts its requests.

    Args:
        number: How many objects the hour has.
        made: Those that are read: the first ones, as names are digests and come in order.
    """

    def __init__(self, number: int, made: Sequence[bytes]) -> None:
        super().__init__()
        self.asked = Counter[str]()
        self._number = number
        self._made = made
        self._places: dict[str, int] = {}

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Keys that begin so, in order; a request for each page."""
        self.asked["list"] += 1
        if not prefix.startswith(layout.capture_prefix("churn", NOON)):
            return
        for place in range(self._number):
            if place and not place % PAGE:
                self.asked["list"] += 1
            key = layout.capture_key("churn", NOON, f"{place * 16**32 // self._number:032x}")
            self._places[key] = place
            yield key

    def read(self, bucket: str, key: str, *, version_id: str | None = None) -> bytes:
        self.asked["read"] += 1
        if key in self._places:
            return self._made[self._places[key]]
        return super().read(bucket, key, version_id=version_id)

    def write(self, *args: Any, **kwargs: Any) -> None:
        self.asked["write"] += 1
        super().write(*args, **kwargs)


class Shelves:
    """Labels in order, so that reading them costs the bench what it costs the monitor."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self._shelves: dict[str, dict[str, Item]] = defaultdict(dict)
        self._order: dict[str, list[str]] = {}

    def put(self, write: Put) -> None:
        """Keeps one."""
        self._shelves[write.key.pk][write.key.sk] = {**write.item, SK: write.key.sk}
        self._order.clear()

    def update(self, write: Update) -> None:
        """That a day has more labels is not asked here."""

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """A request for each hundred."""
        self.asked["batch get"] += -(-len(keys) // 100)
        found = {key: self._shelves[key.pk].get(key.sk) for key in keys}
        return {key: item for key, item in found.items() if item is not None}

    def query(
        self,
        pk: str,
        *,
        prefix: str = "",
        since: str = "",
        limit: int | None = None,
        start: Item | None = None,
    ) -> QueryPage:
        """A page."""
        assert not prefix
        self.asked["query"] += 1
        order = self._order.setdefault(pk, sorted(self._shelves[pk]))
        first = bisect_left(order, since) if start is None else bisect_right(order, start[SK])
        last = len(order) if limit is None else first + limit
        items = tuple(self._shelves[pk][sk] for sk in order[first:last])
        return QueryPage(items, items[-1] if items and last < len(order) else None)


@dataclass(frozen=True)
class Hour:
    """What an hour of so many predictions left behind."""

    rows: int
    counts: WindowCounts
    objects: tuple[bytes, ...]
    labels: Shelves


def hour_of(rows: int) -> Hour:
    """An hour with a third of its labels; of many rows, what is looked at of them."""
    objects = rows // PER_OBJECT
    made = min(objects, 1 + 50_000 // PER_OBJECT)
    records, truth = captured_rows(made * PER_OBJECT, NOON, 2)
    packed = tuple(
        gzip.compress(b"\n".join(orjson.dumps(to_document(one)) for one in records[place::made]), 6)
        for place in range(made)
    )
    (counted,) = count(records[:10_000], (), lambda _model, _version: Bins.of(baseline()))
    labels = Shelves()
    told = [
        Told(RowKey(one.prediction_id, 0), Assertion(label, NOON + HOUR))
        for number, (one, label) in enumerate(zip(records, truth, strict=True))
        if number % 3 == 0
    ]
    if objects > made:
        # Those of rows that are not read: as many as it takes for there to be too many.
        told += [
            Told(RowKey(f"{one.prediction_id[:-12]}ffff{n:08x}", 0), Assertion("no", NOON + HOUR))
            for n, one in enumerate(records[: MOST_LABELS - len(told)])
        ]
    LabelBook(labels, KEEP).record("churn", told)
    labels.asked.clear()
    return Hour(rows, scaled(counted, rows // 10_000), packed, labels)


@dataclass(frozen=True)
class Looked:
    """What a look cost.

    Attributes:
        seconds: Without the network.
        peak: Most bytes at once.
        table: Requests to the table.
        labels: Of those, for labels.
        objects: Requests to S3.
        measured: Labelled rows that performance was measured on.
    """

    seconds: float
    peak: int
    table: Counter[str]
    labels: Counter[str]
    objects: Counter[str]
    measured: int


def looked(hour: Hour, *, traced: bool) -> Looked:
    """One look at a window with a day and a week before it."""
    table, base = FakeTable(), baseline()
    store = Deliveries(hour.rows // PER_OBJECT, hour.objects)
    bins = Bins.of(base).layout
    for back in (0, 24, 7 * 24):
        since = NOON - back * HOUR
        counts = replace(
            hour.counts,
            since=since,
            until=since + HOUR,
            hours={since: replace(hour.counts.hours[NOON], at=since)},
        )
        hours.add(
            table, f"{back:032x}", [counts], {("churn", 1): bins}, [],
            now=NOON, keep=KEEP, begin_of=begin_of,
        )  # fmt: skip
    monitor = monitor_of(table, store, LabelBook(hour.labels, KEEP), base)
    monitor.watch("churn", NOON + 0.2 * HOUR)
    for asked in (table.calls, store.asked, hour.labels.asked):
        asked.clear()
    if traced:
        tracemalloc.start()
    began = time.process_time()
    outcome = monitor.watch("churn", NOON + 1.2 * HOUR)
    seconds = time.process_time() - began
    peak = 0
    if traced:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    (verdict,) = outcome.windows
    assert verdict.rows == hour.rows
    (auc,) = [f for f in verdict.findings if (f.kind, f.subject) == ("performance", "roc_auc")]
    return Looked(
        seconds,
        peak,
        Counter(table.calls),
        Counter(hour.labels.asked),
        Counter(store.asked),
        auc.rows,
    )


def monitor_of(table: FakeTable, store: Deliveries, book: LabelBook, base: Baseline) -> Monitor:
    """The monitor, as its function puts it together."""
    episodes = Episodes(table, clock=lambda: NOON + HOUR, ids=lambda: "id")
    serving = ServingRecord(
        model="churn", version=1, run_id="run", model_key="", sha256="", signature_key="",
        signature_sha256="", updated_at=NOON,
    )  # fmt: skip
    cost = Cost(
        window=0, per_thousand_predictions=None, month_to_date=0, last_training=None,
        monthly_budget=None, budget_state="none",
    )  # fmt: skip
    return Monitor(
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
        rows=RowReader(store, "bucket", book),
        conclude=lambda report, clear: conclude(
            report,
            episodes=episodes,
            objects=store,
            bucket="b",
            notifier=Silent(),
            link=str,
            clear_windows=clear,
        ),
        rewrite=partial(rewrite, objects=store, bucket="b"),
        consider=lambda _spec, _alarms: None,
        settle=lambda _spec, _now: None,
        stage="bench",
        hour=HOUR,
    )


@pytest.mark.timeout(900)
def test_a_windows_cost_is_flat_in_its_traffic(capsys: pytest.CaptureFixture[str]) -> None:
    made = {size: hour_of(size) for size in SIZES}
    looked(made[SIZES[0]], traced=False)  # imports and templates
    timed = {size: [looked(hour, traced=False) for _ in range(3)] for size, hour in made.items()}
    traced = {size: looked(hour, traced=True) for size, hour in made.items()}
    seconds = {size: min(one.seconds for one in found) for size, found in timed.items()}

    with capsys.disabled():
        for size, one in traced.items():
            print(
                f"\n  {size:>11,} predictions in an hour: {seconds[size]:.2f} s, "
                f"{one.peak / 1e6:.0f} MB, table {dict(one.table)}, labels {dict(one.labels)}, "
                f"objects {dict(one.objects)}; measured on {one.measured:,} rows"
            )
    keep_figures(
        "monitor window",
        {
            str(size): {
                "seconds": seconds[size],
                "peak_bytes": one.peak,
                "table": dict(one.table),
                "labels": dict(one.labels),
                "objects": dict(one.objects),
            }
            for size, one in traced.items()
        },
    )
    small, middle, large = (traced[size] for size in SIZES)
    assert seconds[SIZES[2]] < 1.5 * seconds[SIZES[1]]
    assert large.peak < 1.2 * middle.peak
    assert large.objects == middle.objects
    assert large.labels == middle.labels
    assert large.table == middle.table == small.table
