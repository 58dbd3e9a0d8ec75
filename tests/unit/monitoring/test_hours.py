"""Hour counts: what deliveries add up to, each once, whatever their order, and what of them is lost."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.aws.dynamodb import DynamoTable
from millrace.aws.table import Write
from millrace.errors import ConcurrentWriteError
from millrace.monitoring import hours
from millrace.monitoring.binning import (
    HOUR,
    Bins,
    CategoryBins,
    Failure,
    NumericBins,
    begin_of,
    count,
)
from millrace.monitoring.counting import MAX_ADDS, digest_of
from millrace.monitoring.hours import HourCounts, Layout, WindowCounts, read_hours, read_window
from millrace.serving.capture import CapturedPrediction, missing_lines
from tests.fakes.table import FakeTable

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEEP = timedelta(days=90)
BINS = Bins(
    {
        "age": NumericBins((18.0, 30.0, 45.0, 90.0)),
        "plan": CategoryBins({"basic": 0, "plus": 1}, frozenset({"rare"})),
    },
    NumericBins((0.0, 0.25, 0.5, 1.0)),
    ("false", "true"),
)
LAYOUT = Layout.of({name: one.size for name, one in BINS.features.items()}, 3, BINS.classes)


def record(
    number: int,
    *,
    minutes: float = 0.0,
    ages: Sequence[Any] = (40.0,),
    plans: Sequence[Any] = ("basic",),
    scores: Sequence[float] = (0.7,),
    version: int = 3,
    process: str = "5f0e8c1d2b3a4f60",
    rate: float = 1.0,
) -> CapturedPrediction:
    """A captured request of so many minutes after noon."""
    at_ms = int((NOON + timedelta(minutes=minutes)).timestamp() * 1000)
    moment = f"{at_ms:012x}"
    return CapturedPrediction(
        model="churn",
        version=version,
        prediction_id=f"{moment[:8]}-{moment[8:]}-7000-8000-{number:012x}",
        row_count=len(ages),
        latency_ms=2.0,
        rate=rate,
        process=process,
        sequence=number,
        inputs={"age": list(ages), "plan": list(plans)},
        outputs={"probabilities": [[1 - p, p] for p in scores]},
        warnings={},
    )


def deliver(
    table: Any,
    records: Sequence[CapturedPrediction],
    failures: Sequence[Failure] = (),
    *,
    waited: list[float] | None = None,
) -> int:
    """Counts a delivery as the capture function does."""
    return hours.add(
        table,
        digest_of(
            [one.prediction_id + one.process for one in records] + [str(f) for f in failures]
        ),
        count(records, failures, lambda _model, _version: BINS),
        {("churn", version): LAYOUT for version in (3, 4)},
        records,
        now=NOON,
        keep=KEEP,
        begin_of=begin_of,
        wait=([] if waited is None else waited).append,
    )


def window(table: Any, *, since: int = -2, until: int = 6, version: int = 3) -> WindowCounts:
    """The counts from so many hours after noon up to so many."""
    return read_window(table, "churn", version, NOON + since * HOUR, NOON + until * HOUR)


# ── Bins ────────────────────────────────────────────────────────────────────────────────────────


def test_numbers_fall_into_the_bins_of_the_baseline() -> None:
    values = [18, 29.9, 30.0, 44, 90.0, 17.0, 91.0, None, math.nan, math.inf, -math.inf, "x"]

    counted = BINS.features["age"].count(values)

    assert counted.rows == 12
    assert counted.missing == 3
    assert (counted.below, counted.above) == (2, 2)
    assert counted.counts(3) == [4, 2, 3]


def test_categories_fall_into_their_bins_beside_rare_unseen_and_missing_ones() -> None:
    counted = BINS.features["plan"].count(["basic", "plus", "basic", "rare", "new", "", None])

    assert counted.counts(2) == [2, 1]
    assert (counted.rows, counted.other, counted.unseen, counted.missing) == (7, 1, 1, 2)


def test_a_category_without_a_bin_is_other_where_training_had_more_than_are_known() -> None:
    counted = CategoryBins({"basic": 0}, None).count(["basic", "who knows"])

    assert (counted.other, counted.unseen) == (1, 0)


@given(st.lists(st.floats(allow_nan=True) | st.none(), max_size=40))
def test_every_value_is_in_one_bin_or_missing(values: list[float | None]) -> None:
    counted = BINS.features["age"].count(values)

    assert counted.missing + counted.bins.total() == len(values)
    assert set(counted.bins) <= {0, 1, 2}


def test_scores_and_classes_are_those_of_the_outputs() -> None:
    (counts,) = count(
        [record(1, ages=(20, 40, 60), plans=("basic",) * 3, scores=(0.1, 0.6, 0.9))],
        (),
        lambda _model, _version: BINS,
    )

    assert counts.scores.counts(3) == [1, 0, 2]
    assert counts.classes == Counter({"true": 2, "false": 1})
    assert (counts.requests, counts.rows) == (1, 3)


def test_a_column_that_the_baseline_does_not_name_is_not_counted() -> None:
    private = replace(record(1), inputs={"age": [30], "income": [1e6]})

    (counts,) = count([private], (), lambda _model, _version: BINS)

    assert set(counts.features) == {"age"}


def test_a_version_without_a_baseline_is_counted_by_its_traffic_alone() -> None:
    table = FakeTable()
    counted = count([record(1)], (), lambda _model, _version: None)
    hours.add(
        table,
        "0" * 32,
        counted,
        {("churn", 3): Layout.of({}, 0)},
        [record(1)],
        now=NOON,
        keep=KEEP,
        begin_of=begin_of,
    )

    found = window(table)

    assert (found.requests, found.binned, found.features) == (1, False, {})


def test_an_hour_may_last_less() -> None:
    minute = timedelta(minutes=1)

    found = count(
        [record(n, minutes=n / 2) for n in range(4)], (), lambda _m, _v: BINS, hour=minute
    )

    assert [(one.since, one.requests) for one in found] == [(NOON, 2), (NOON + minute, 2)]


# ── Exactly once ────────────────────────────────────────────────────────────────────────────────


def test_a_delivery_is_counted_by_hour_version_and_bin() -> None:
    table = FakeTable()
    failure = Failure("churn", 3, NOON + timedelta(minutes=70))

    added = deliver(
        table,
        [record(1, rate=0.5), record(2, minutes=61, ages=(None,)), record(3, version=4)],
        [failure],
    )

    found = window(table)
    assert added == 3
    assert (found.requests, found.rows, found.errors) == (2, 2, 1)
    assert found.weighed == pytest.approx(3.0)
    assert found.features["age"].missing == 1
    assert found.features["age"].counts(3) == [0, 1, 0]
    assert found.latency == Counter({17: 2})
    assert {at: (one.requests, one.errors) for at, one in found.hours.items()} == {
        NOON: (1, 0),
        NOON + HOUR: (1, 1),
    }
    assert window(table, version=4).requests == 1
    assert window(table, since=1, until=2).requests == 1
    assert all(
        item["expires_at"] >= (NOON + KEEP).timestamp()
        for item in table.items()
        if item["PK"].startswith(("HOURS#", "LINES#"))
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[CapturedPrediction]], list[int]]:
    """Deliveries that each line is in one of, and the order in which they arrive: each at least once."""
    lines = [
        record(
            number,
            minutes=draw(st.integers(-60, 300)),
            ages=(draw(st.sampled_from([None, 5.0, 20.0, 33.0, 77.0, 120.0, math.inf])),),
            plans=(draw(st.sampled_from(["basic", "plus", "rare", "new", ""])),),
            scores=(draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),),
            version=draw(st.sampled_from([3, 4])),
            process=process,
            rate=draw(st.sampled_from([1.0, 0.25])),
        )
        for process in ("a", "b")
        for number in range(1, draw(st.integers(1, 8)) + 1)
    ]
    draw(st.randoms(use_true_random=False)).shuffle(lines)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(lines) - 1)), max_size=4)))
    edges = [0, *cuts, len(lines)]
    deliveries = [lines[a:b] for a, b in pairwise(edges) if lines[a:b]]
    order = draw(
        st.lists(st.sampled_from(range(len(deliveries))), max_size=6).map(
            lambda more: [*range(len(deliveries)), *more]
        )
    )
    return deliveries, draw(st.permutations(order))


@given(histories())
@settings(deadline=None, max_examples=40)
def test_late_repeated_and_reordered_deliveries_change_nothing(
    history: tuple[list[list[CapturedPrediction]], list[int]],
) -> None:
    deliveries, order = history
    at_once, as_it_came = FakeTable(), FakeTable()
    deliver(at_once, [line for some in deliveries for line in some])

    for number in order:
        lines = list(deliveries[number])
        random.Random(number).shuffle(lines)
        deliver(as_it_came, lines)

    for version in (3, 4):
        expected, found = (window(t, version=version) for t in (at_once, as_it_came))
        assert replace(found, weighed=0) == replace(expected, weighed=0)
        assert found.weighed == pytest.approx(expected.weighed)
    assert sum(window(as_it_came, version=v).rows for v in (3, 4)) == sum(map(len, deliveries))


@given(histories(), st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_lines_that_never_arrive_are_missed(
    history: tuple[list[list[CapturedPrediction]], list[int]], data: st.DataObject
) -> None:
    lines = [line for some in history[0] for line in some]
    # As predict numbers them: later lines have greater numbers.
    numbered = [
        replace(line, sequence=place)
        for process in ("a", "b")
        for place, line in enumerate(
            sorted((x for x in lines if x.process == process), key=lambda x: x.at), 1
        )
    ]
    lost = data.draw(st.sets(st.sampled_from(range(len(numbered)))))
    table = FakeTable()
    arrived = [line for place, line in enumerate(numbered) if place not in lost]
    data.draw(st.randoms(use_true_random=False)).shuffle(arrived)

    for line in arrived:
        deliver(table, [line])

    first_lost = {
        p: min((x.sequence for x in arrived if x.process == p), default=1) - 1 for p in ("a", "b")
    }
    expected = missing_lines(arrived) + sum(first_lost.values())
    assert window(table).missing_lines == expected


def test_a_process_that_answered_before_the_window_is_followed_into_it() -> None:
    table = FakeTable()
    deliver(table, [record(n, minutes=-50) for n in (1, 2, 3)])
    deliver(table, [record(n, minutes=10) for n in (4, 6)])

    assert window(table, since=0, until=1).missing_lines == 1
    assert window(table, since=-1, until=0).missing_lines == 0


# ── Limits of DynamoDB ──────────────────────────────────────────────────────────────────────────


class Recording:
    """Stands for boto3's client and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []

    def transact_write_items(self, **request: Any) -> None:
        self.asked.append(request["TransactItems"])


def test_a_wide_model_stays_within_what_dynamodb_takes() -> None:
    width, kinds = 2_000, 300
    bins = Bins(
        {f"feature-{n}": NumericBins(tuple(map(float, range(21)))) for n in range(width)},
        NumericBins(tuple(n / 20 for n in range(21))),
        tuple(f"class-{n}" for n in range(kinds)),
    )
    layout = Layout.of(dict.fromkeys(bins.features, 20), 20, bins.classes)
    wide = [
        replace(
            record(n),
            row_count=1,
            inputs={name: [float(n % 25 - 2) if n % 7 else None] for name in bins.features},
            outputs={"probabilities": [[float(n % kinds == k) for k in range(kinds)]]},
            latency_ms=float(2 ** (n % 20)),
        )
        for n in range(1, 60)
    ]
    client = Recording()

    added = hours.add(
        DynamoTable(client, "t"),  # type: ignore[arg-type]  # as much of it as is asked
        "0" * 32,
        count(wide, (), lambda _model, _version: bins),
        {("churn", 3): layout},
        wide,
        now=NOON,
        keep=KEEP,
        begin_of=begin_of,
    )

    assert added == 59
    assert len(client.asked) > 1
    for items in client.asked:
        assert len(items) <= 100
        assert "Put" in items[0]
    updates = [one["Update"] for items in client.asked for one in items[1:]]
    expressions = [one["UpdateExpression"] for one in updates]
    assert max(len(text.encode()) for text in expressions) <= 4_096
    assert max(text.count(":a") for text in expressions) <= MAX_ADDS
    keys = [str(one["Key"]) for one in updates]
    assert len(set(keys)) == len(keys)


def test_a_wide_models_counts_come_back_as_they_were() -> None:
    bins = Bins(
        {f"feature-{n}": NumericBins((0.0, 1.0, 2.0)) for n in range(900)},
        NumericBins((0.0, 1.0)),
        tuple(f"class-{n}" for n in range(300)),
    )
    layout = Layout.of(dict.fromkeys(bins.features, 2), 1, bins.classes)
    one = replace(
        record(1),
        inputs={name: [1.5] for name in bins.features},
        outputs={"probabilities": [[float(k == 299) for k in range(300)]]},
    )
    counted = count([one], (), lambda _model, _version: bins)
    table = FakeTable()
    hours.add(
        table,
        "1" * 32,
        counted,
        {("churn", 3): layout},
        [one],
        now=NOON,
        keep=KEEP,
        begin_of=begin_of,
    )

    found = window(table)

    assert found.features == counted[0].features
    assert found.classes == Counter({"class-299": 1})


class Contended(FakeTable):
    """A table on which others win so many times."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses

    def transact(self, writes: Sequence[Write], what: str) -> None:
        if self.losses:
            self.losses -= 1
            raise ConcurrentWriteError(what)
        super().transact(writes, what)


def test_contended_counts_spread_over_shards_and_read_as_one() -> None:
    table = Contended(0)
    waited: list[float] = []
    for number in range(1, 30):
        table.losses = number % 6
        assert deliver(table, [record(number)], waited=waited) == 1

    found = window(table)

    assert found.requests == 29
    assert found.missing_lines == 0
    assert len(read_hours(table, "churn", NOON, NOON + HOUR, hour=HOUR)) == 1
    shards = {i["SK"].rpartition("#")[2] for i in table.items() if i["PK"].startswith("HOURS#")}
    assert len(shards) > 3
    assert len(waited) == sum(n % 6 for n in range(1, 30))


def test_a_delivery_that_keeps_losing_is_left_to_be_sent_again() -> None:
    table = Contended(100)
    waited: list[float] = []

    with pytest.raises(ConcurrentWriteError):
        deliver(table, [record(1)], waited=waited)

    table.losses = 0
    assert deliver(table, [record(1)]) == 1
    assert window(table).requests == 1
    assert len(waited) == 6


def test_counts_of_other_versions_do_not_add_up() -> None:
    one = WindowCounts("churn", 3, NOON, NOON + HOUR)

    with pytest.raises(ValueError, match="do not add up"):
        _ = one + replace(one, version=4)


def test_very_many_classes_fit_their_items() -> None:
    names = tuple(
        f"a class with a long name, of which there are many: {n:05d}" for n in range(9_000)
    )
    layout = Layout.of({"age": 4}, 10, names)
    counts = WindowCounts("churn", 3, NOON, NOON + HOUR, requests=9_000, rows=9_000)
    counts.hours = {NOON: HourCounts(NOON, 9_000, 9_000)}
    counts.classes = Counter(names)
    table = FakeTable()

    hours.add(
        table,
        "0" * 32,
        [counts],
        {("churn", 3): layout},
        [],
        now=NOON,
        keep=timedelta(days=90),
        begin_of=begin_of,
    )

    assert read_window(table, "churn", 3, NOON, NOON + HOUR).classes == counts.classes
