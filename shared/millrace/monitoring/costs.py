"""What a model costs, from what it used and public prices: predictions, trainings, the month so far.

Measured are the requests and the time of each (`hours`), and the time of a training's steps, which
the registry keeps with the run. Assumed are the few things nobody counts by model: kilobytes of log
a request, capture's time a request, state transitions and requests of a training. Cold starts,
storage and the alarms of the stack are in no model's bill; docs/costs.md has those.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol

from millrace.aws.table import Item, Key, Put, Write
from millrace.monitoring import prices
from millrace.monitoring.counting import latency_edge
from millrace.monitoring.hours import CountsTable, WindowCounts, read_hours
from millrace.registry.pages import Page
from millrace.registry.records import Run
from millrace.settings import EnvironmentSettings

LOG_KB: Final = Decimal("2.1")
"""Of a request: the line with its capture, and the access log's."""
CAPTURE_SECONDS: Final = Decimal("0.06")
"""Of a request, where each is a delivery of its own: the most that it can be."""
CAPTURE_GB: Final = Decimal("0.5")
TRANSITIONS: Final = 20
"""Of a training of six trials."""
TRAINING_WRITES: Final = 300
"""Write units of the registry for a training."""
TRAINING_OBJECTS: Final = 14
_STEP: Final = timedelta(seconds=1)
"""Hours begin on whole seconds."""
_GB: Final = Decimal(1024)
_SETTLED: Final = timedelta(days=2)
"""After a day's end: no delivery of its predictions is expected any more."""


class Sizes(EnvironmentSettings):
    """Memory of the functions in MB; the template's defaults."""

    predict_memory: int = 1024
    ingest_memory: int = 2048
    train_memory: int = 3008
    evaluate_memory: int = 2048


@dataclass(frozen=True, slots=True)
class CostLine:
    """One thing that is paid for.

    Attributes:
        name: What.
        usd: US dollars.
    """

    name: str
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Usage:
    """What was predicted.

    Attributes:
        requests: Requests that were answered or failed.
        rows: Rows that they asked about.
        seconds: What answering took.
    """

    requests: int = 0
    rows: int = 0
    seconds: Decimal = Decimal(0)

    def __add__(self, more: "Usage") -> "Usage":
        return Usage(
            self.requests + more.requests, self.rows + more.rows, self.seconds + more.seconds
        )


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """What a run cost.

    Attributes:
        run_id: The run.
        began: When it began.
        usd: US dollars.
        seconds: Measured time of its steps.
    """

    run_id: str
    began: datetime
    usd: Decimal
    seconds: float


@dataclass(frozen=True, slots=True)
class MonthCost:
    """What a model cost in a calendar month so far.

    Attributes:
        month: Its first moment, in UTC.
        usage: Predictions.
        lines: What it is made of.
        trainings: Its runs, the newest first.
        sizes: Memory of the functions.
    """

    month: datetime
    usage: Usage
    lines: tuple[CostLine, ...]
    trainings: tuple[TrainingCost, ...]
    sizes: Sizes

    @property
    def usd(self) -> Decimal:
        """All of it."""
        return total(self.lines)

    @property
    def per_thousand(self) -> Decimal | None:
        """A thousand predicted rows; None when nothing was predicted."""
        if not self.usage.rows:
            return None
        return total(predictions(self.usage, self.sizes)) * 1_000 / self.usage.rows


def total(lines: Iterable[CostLine]) -> Decimal:
    """The sum of some lines."""
    return sum((line.usd for line in lines), Decimal(0))


def predictions(usage: Usage, sizes: Sizes) -> tuple[CostLine, ...]:
    """What predictions cost.

    Args:
        usage: The predictions.
        sizes: Memory of the functions.
    """
    requests = Decimal(usage.requests)
    memory = Decimal(sizes.predict_memory) / _GB
    return (
        CostLine("API requests", requests * prices.API_REQUEST),
        CostLine(
            "predict function",
            requests * prices.LAMBDA_REQUEST + usage.seconds * memory * prices.LAMBDA_SECOND,
        ),
        CostLine(
            "capture",
            requests
            * (
                prices.LAMBDA_REQUEST
                + CAPTURE_SECONDS * CAPTURE_GB * prices.LAMBDA_SECOND
                + prices.S3_WRITE
            ),
        ),
        CostLine("logs", requests * LOG_KB / 1_000_000 * prices.LOG_GB),
    )


def training(run: Run, sizes: Sizes) -> TrainingCost:
    """What a run cost, from the measured time of its steps.

    Args:
        run: The run.
        sizes: Memory of the functions.
    """
    steps = (
        (run.ingest_seconds, sizes.ingest_memory),
        (run.train_seconds, sizes.train_memory),
        (run.evaluate_seconds, sizes.evaluate_memory),
    )
    gigabytes = sum((Decimal(str(seconds)) * memory / _GB for seconds, memory in steps), Decimal(0))
    usd = gigabytes * prices.LAMBDA_SECOND
    if gigabytes:
        usd += (
            TRANSITIONS * (prices.TRANSITION + prices.LAMBDA_REQUEST)
            + TRAINING_WRITES * prices.DYNAMODB_WRITE
            + TRAINING_OBJECTS * prices.S3_WRITE
        )
    return TrainingCost(run.run_id, run.started_at, usd, sum(seconds for seconds, _ in steps))


def usage_of(windows: Iterable[WindowCounts]) -> Usage:
    """What the counts of some windows say was used.

    Latencies are counted in bins; the middle of a bin stands for those in it. Where a share of the
    requests is captured, each stands for as many as its rate says.

    Args:
        windows: Counts of any versions.
    """
    used = Usage()
    for window in windows:
        weight = window.weighed / window.requests if window.requests else 1.0
        milliseconds = sum((_middle(place) * count for place, count in window.latency.items()), 0.0)
        rows = sum(hour.rows for hour in window.hours.values())
        used += Usage(
            round(window.requests * weight) + window.errors,
            round(rows * weight),
            Decimal(str(round(milliseconds * weight / 1_000, 6))),
        )
    return used


def counted_from(
    table: CountsTable,
) -> Callable[[str, datetime, datetime], list[WindowCounts]]:
    """Reads the counts of the hours that began in a span of time, one that is not over included.

    What a model cost so far knows nothing of windows: it does not matter how long an hour lasts.

    Args:
        table: The registry's table.
    """

    def read(model: str, since: datetime, until: datetime) -> list[WindowCounts]:
        return read_hours(table, model, since, until, hour=_STEP)

    return read


def _middle(place: int) -> float:
    return (latency_edge(place) + latency_edge(place + 1)) / 2


# ── The month so far ────────────────────────────────────────────────────────────────────────────


class RunLister(Protocol):
    """Lists runs: `registry.registry.Registry` is one."""

    def list_runs(self, model: str, *, limit: int = 50, token: str | None = None) -> Page[Run]:
        """Runs of a model, the newest first."""
        ...


class UsageTable(Protocol):
    """What is needed of DynamoDB: `aws.dynamodb.DynamoTable` is one."""

    def get(self, key: Key) -> Item | None:
        """The item as it is now, or None."""
        ...

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """All writes or none."""
        ...


@dataclass(frozen=True, slots=True)
class Spending:
    """Reads what models cost.

    A day whose deliveries are all in is added up once and kept; `settle` does so. What is not kept
    yet is read from the hours, so that what is kept never changes an answer.

    Attributes:
        table: Where days are kept.
        runs: Lists runs.
        windows: Counts of a model in a span of time, of each version that answered in it.
        sizes: Memory of the functions.
    """

    table: UsageTable
    runs: RunLister
    windows: Callable[[str, datetime, datetime], Iterable[WindowCounts]]
    sizes: Sizes

    def of_month(self, model: str, moment: datetime) -> MonthCost:
        """What a model cost from the first of the moment's month to the moment.

        Args:
            model: The model.
            moment: Aware.
        """
        month = _month_of(moment)
        kept = self._kept(model, month)
        usage = sum(
            (
                kept[day.day] if day.day in kept else self._read(model, day, moment)
                for day in _days(month, moment)
            ),
            Usage(),
        )
        trainings = tuple(self._trainings(model, month, moment))
        lines = (
            *predictions(usage, self.sizes),
            CostLine("trainings", sum((t.usd for t in trainings), Decimal(0))),
        )
        return MonthCost(month, usage, lines, trainings, self.sizes)

    def settle(self, model: str, moment: datetime) -> None:
        """Keeps the days of the moment's month that no delivery can change any more. Idempotent."""
        month = _month_of(moment)
        kept = self._kept(model, month)
        done = {
            day.day: self._read(model, day, moment)
            for day in _days(month, moment)
            if day.day not in kept and moment >= day + timedelta(days=1) + _SETTLED
        }
        if not done:
            return
        days = {f"{day:02d}": _stored(usage) for day, usage in sorted((kept | done).items())}
        self.table.transact(
            [Put("usage", _usage_key(model, month), {"days": days})],
            f"keep what {model} used",
        )

    def _kept(self, model: str, month: datetime) -> dict[int, Usage]:
        item = self.table.get(_usage_key(model, month))
        return {int(day): _usage(held) for day, held in (item or {}).get("days", {}).items()}

    def _read(self, model: str, day: datetime, moment: datetime) -> Usage:
        return usage_of(self.windows(model, day, min(day + timedelta(days=1), moment)))

    def _trainings(self, model: str, month: datetime, moment: datetime) -> Iterable[TrainingCost]:
        token: str | None = None
        while True:
            page = self.runs.list_runs(model, token=token)
            for run in page.items:
                if run.started_at < month:
                    return
                if run.started_at <= moment:
                    yield training(run, self.sizes)
            token = page.token
            if token is None:
                return


def _month_of(moment: datetime) -> datetime:
    day = moment.astimezone(UTC)
    return day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _days(month: datetime, moment: datetime) -> Iterable[datetime]:
    day = month
    while day < moment:
        yield day
        day += timedelta(days=1)


def _usage_key(model: str, month: datetime) -> Key:
    return Key(f"MONITOR#{model}", f"USAGE#{month:%Y-%m}")


def _stored(usage: Usage) -> dict[str, Any]:
    return {"requests": usage.requests, "rows": usage.rows, "seconds": str(usage.seconds)}


def _usage(item: Mapping[str, Any]) -> Usage:
    return Usage(int(item["requests"]), int(item["rows"]), Decimal(str(item["seconds"])))
