"""What a model costs: the prices that are published, times what was measured."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from infra.build.expansion import source
from infra.costs.prices import price_list
from millrace.aws.table import Key, Put
from millrace.monitoring import prices
from millrace.monitoring.costs import (
    Sizes,
    Spending,
    counted_from,
    predictions,
    total,
    training,
    usage_of,
)
from millrace.monitoring.counting import latency_bin
from millrace.monitoring.hours import HourCounts, WindowCounts, hour_text
from millrace.registry.pages import Page
from millrace.registry.records import Run
from tests.fakes import cases
from tests.fakes.table import FakeTable

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SIZES = Sizes()


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (prices.LAMBDA_SECOND, "lambda-time"),
        (prices.LAMBDA_REQUEST, "lambda-requests"),
        (prices.API_REQUEST, "api-requests"),
        (prices.TRANSITION, "transitions"),
        (prices.LOG_GB, "logs-ingest"),
        (prices.S3_WRITE, "s3-write"),
        (prices.DYNAMODB_WRITE, "dynamodb-write"),
    ],
)
def test_prices_are_those_of_the_bill(ours: Decimal, name: str) -> None:
    assert ours == price_list().prices[name].cost(Decimal(1))


def test_the_date_is_that_of_the_price_that_makes_most_of_a_bill() -> None:
    assert price_list().date_of("lambda-time") == prices.READ


@pytest.mark.parametrize("step", ["predict", "ingest", "train", "evaluate"])
def test_memory_is_the_templates(step: str) -> None:
    default = source()["Parameters"][f"{step.title()}Memory"]["Default"]

    assert getattr(SIZES, f"{step}_memory") == default


def window(day: datetime, requests: int, *, rows: int = 1, ms: float = 10.0) -> WindowCounts:
    """A window in which every request asked about so many rows and took as long."""
    hour = HourCounts(day, requests, requests * rows)
    counted = Counter({latency_bin(ms): requests})
    return WindowCounts(
        "churn",
        3,
        day,
        day + timedelta(hours=1),
        requests=requests,
        rows=requests * rows,
        weighed=float(requests),
        latency=counted,
        hours={day: hour},
    )


def test_a_thousand_predictions_cost_requests_time_capture_and_logs() -> None:
    usage = usage_of([window(NOON, 1_000)])

    lines = {line.name: line.usd for line in predictions(usage, SIZES)}

    assert (usage.requests, usage.rows) == (1_000, 1_000)
    assert float(usage.seconds) == pytest.approx(10, rel=0.1)
    assert lines["API requests"] == Decimal("0.0035")
    assert lines["predict function"] == Decimal("0.0002") + usage.seconds * prices.LAMBDA_SECOND
    assert Decimal("0.01") < total(predictions(usage, SIZES)) < Decimal("0.02")


def test_a_captured_request_stands_for_as_many_as_its_rate_says() -> None:
    half = window(NOON, 500)
    half.weighed = 1_000.0

    whole = usage_of([window(NOON, 1_000)])

    assert usage_of([half]).requests == whole.requests
    assert usage_of([half]).rows == whole.rows


def test_a_training_costs_the_measured_time_of_its_steps() -> None:
    run = cases.run(1, cases.spec()).model_copy(
        update={"ingest_seconds": 2.5, "train_seconds": 40.0, "evaluate_seconds": 1.5}
    )

    cost = training(run, SIZES)

    gigabyte_seconds = (2.5 * 2048 + 40 * 3008 + 1.5 * 2048) / 1024
    assert cost.seconds == 44.0
    assert float(cost.usd) == pytest.approx(gigabyte_seconds * 0.0000166667 + 0.00076, rel=0.01)


def test_a_run_in_which_nothing_was_measured_costs_nothing() -> None:
    assert training(cases.run(1, cases.spec()), SIZES).usd == 0


# ── The month so far ────────────────────────────────────────────────────────────────────────────


@dataclass
class World:
    """Runs and hours, with a count of how many spans were read."""

    table: FakeTable = field(default_factory=FakeTable)
    runs: list[Run] = field(default_factory=list)
    read: list[datetime] = field(default_factory=list)

    def list_runs(self, model: str, *, limit: int = 50, token: str | None = None) -> Page[Run]:
        start = int(token or 0)
        more = start + 2 < len(self.runs)
        return Page(tuple(self.runs[start : start + 2]), str(start + 2) if more else None)

    def windows(self, _: str, since: datetime, until: datetime) -> Iterable[WindowCounts]:
        self.read.append(since)
        return [window(since, 100, rows=5)]

    def spending(self) -> Spending:
        return Spending(self.table, self, self.windows, SIZES)


def test_a_month_is_its_predictions_and_its_trainings_and_no_others() -> None:
    world = World()
    spec = cases.spec()
    for number, day in enumerate((20, 10, 2), 1):
        world.runs.append(
            cases.run(number, spec, started_at=f"2026-11-{day:02d}T03:00:00Z", train_seconds=60.0)
        )
    world.runs.append(cases.run(9, spec, started_at="2026-10-31T23:00:00Z", train_seconds=60.0))

    month = world.spending().of_month("churn", NOON)

    assert (month.usage.requests, month.usage.rows) == (2_100, 10_500)
    assert [one.began.day for one in month.trainings] == [20, 10, 2]
    assert month.usd == total(month.lines)
    assert month.per_thousand is not None
    assert float(month.per_thousand) == pytest.approx(
        float(total(predictions(month.usage, SIZES))) / 10.5
    )


def test_days_that_are_kept_are_not_read_again_and_change_no_answer() -> None:
    world = World()
    spending = world.spending()
    before = spending.of_month("churn", NOON)

    spending.settle("churn", NOON)
    spending.settle("churn", NOON)
    world.read.clear()
    after = spending.of_month("churn", NOON)

    assert after == before
    assert [day.day for day in world.read] == [19, 20, 21]


def test_nothing_predicted_has_no_price_a_thousand() -> None:
    silent = Spending(FakeTable(), World(), lambda *_: (), SIZES)

    assert silent.of_month("churn", NOON).per_thousand is None


@pytest.mark.parametrize("hour", [timedelta(minutes=1), timedelta(hours=1)])
def test_what_was_predicted_within_the_hour_is_counted_however_long_an_hour_is(
    hour: timedelta,
) -> None:
    table = FakeTable()
    midnight = datetime(2026, 11, 21, tzinfo=UTC)
    for begin in (midnight - hour, midnight, midnight + 3 * hour, midnight + timedelta(days=1)):
        key = Key("HOURS#churn", f"{hour_text(begin)}#000003#000#00")
        table.put(Put("counts", key, {"sections": [], "binned": True}))

    read = counted_from(table)("churn", midnight, midnight + 3.5 * hour)
    day = counted_from(table)("churn", midnight, midnight + timedelta(days=1))

    assert [one.since for one in read] == [midnight, midnight + 3 * hour]
    assert [one.since for one in day] == [midnight, midnight + 3 * hour]
