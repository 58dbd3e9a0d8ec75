"""What a stack costs: what bills by the hour, the bill at rest, and estimates of what a use costs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from infra.build.expansion import Resolver, Resource, machine_definition
from infra.costs.kinds import Idle, busy_at_rest, ticks_a_day
from infra.costs.prices import Assumptions, PriceList, assumptions, price_list
from millrace.errors import ConfigurationError

CHAMPION = "Promoted"
"""Where an execution ends that makes a champion: the longest way that goes well."""

STORED = {"DataBucket": "data_gb", "ArtifactBucket": "artifacts_gb"}
"""What each bucket is assumed to hold."""

type Resources = Mapping[str, Resource]

_KB = Decimal(10**6)
"""Kilobytes in a gigabyte, as AWS's traffic and logs count them near enough."""
_MB = Decimal(1024)
"""Megabytes of memory in a gigabyte."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a bill.

    Attributes:
        item: What is paid for.
        formula: How many units that is, and why so many.
        units: The units.
        price: The name of the price.
        usd: Units at that price.
    """

    item: str
    formula: str
    units: Decimal
    price: str
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Bill:
    """The costs of one choice of parameters.

    Attributes:
        parameters: The parameters, defaults included.
        by_the_hour: What bills by the hour or works at rest.
        at_rest: A month in which nothing happens.
        predictions: Estimate of a batch of predictions.
        training: Estimate of a training.
    """

    parameters: dict[str, str]
    by_the_hour: list[Idle]
    at_rest: list[Line]
    predictions: list[Line]
    training: list[Line]


def total(lines: Iterable[Line]) -> Decimal:
    """The sum of a bill's lines."""
    return sum((line.usd for line in lines), Decimal(0))


def bill_of(parameters: Mapping[str, str], assumed: Assumptions | None = None) -> Bill:
    """Works out what a stack with these parameters costs.

    Args:
        parameters: Those that differ from the template's defaults.
        assumed: Other assumptions than those stated.

    Raises:
        ConfigurationError: A parameter or a type of resource is not known.
    """
    try:
        resolver = Resolver(**parameters)
    except KeyError as exc:
        raise ConfigurationError(f"the template has {exc.args[0]}") from exc
    stack = _Stack(resolver, assumed or assumptions(), price_list())
    return Bill(
        parameters=resolver.values,
        by_the_hour=busy_at_rest(stack.resources),
        at_rest=stack.at_rest(),
        predictions=stack.predictions(),
        training=stack.training(),
    )


class _Stack:
    """One choice of parameters, with what its bills are made of."""

    def __init__(self, resolver: Resolver, assumed: Assumptions, prices: PriceList) -> None:
        self.resources: Resources = resolver.resources()
        self._given = resolver.values
        self._assumed = assumed
        self._prices = prices.prices

    # ── At rest ─────────────────────────────────────────────────────────────────────────────────

    def at_rest(self) -> list[Line]:
        """What a month costs in which nothing happens."""
        a = self._assumed
        return [
            *self._stored_objects(),
            self._line(
                "releases in the deployment bucket",
                f"{a['releases']} of {a['release_gb']} GB",
                a["releases"] * a["release_gb"],
                "s3-storage",
            ),
            *self._tables(),
            self._line(
                f"logs, {len(self._of('AWS::Logs::LogGroup'))} groups",
                f"{a['logs_gb']} GB",
                a["logs_gb"],
                "logs-storage",
            ),
            self._alarms(),
            self._counted("dashboards", "AWS::CloudWatch::Dashboard", "dashboard"),
            self._keys(),
            *self._firewalls(),
            *self._clocks(),
            *self._warm(),
            self._counted("secrets", "AWS::SecretsManager::Secret", "secret"),
            self._metrics(),
        ]

    def _stored_objects(self) -> Iterable[Line]:
        for name in self._of("AWS::S3::Bucket"):
            if name not in STORED:
                raise ConfigurationError(
                    f"nobody has said what {name} holds: add it to STORED in infra/costs/bill.py"
                )
            held = self._assumed[STORED[name]]
            yield self._line(f"objects in {name}", f"{held} GB", held, "s3-storage")

    def _tables(self) -> Iterable[Line]:
        table, index = self._assumed["registry_gb"], self._assumed["index_gb"]
        for name, properties in self._of("AWS::DynamoDB::Table").items():
            indexes = len(properties.get("GlobalSecondaryIndexes", ()))
            yield self._line(
                f"items in {name}",
                f"{table} GB and {indexes} index of {index} GB",
                table + indexes * index,
                "dynamodb-storage",
            )
            if properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"]:
                yield self._line(
                    f"recovery of {name}", f"{table} GB, its size", table, "dynamodb-recovery"
                )

    def _alarms(self) -> Line:
        alarms = self._of("AWS::CloudWatch::Alarm")
        metrics = sum(metrics_of(properties) for properties in alarms.values())
        formula = f"{len(alarms)} on {metrics} metrics" if alarms else "none"
        return self._line("alarms", formula, Decimal(metrics), "alarm-metric")

    def _metrics(self) -> Line:
        """Custom metrics that get data while nothing flows: the heartbeat's two."""
        beats = "HeartbeatFunction" in self._of("AWS::Lambda::Function")
        formula = "2 of the heartbeat" if beats else "none gets data while nothing flows"
        return self._line("custom metrics", formula, Decimal(2 * beats), "custom-metric")

    def _keys(self) -> Line:
        own = len(self._of("AWS::KMS::Key"))
        keys = own + bool(self._given["KmsKeyArn"])
        versions = self._assumed["key_versions"]
        formula = f"{keys} of {versions} version" if keys else "S3 and DynamoDB bring theirs"
        return self._line("customer keys", formula, keys * versions, "key")

    def _firewalls(self) -> Iterable[Line]:
        found = self._of("AWS::WAFv2::WebACL")
        rules = sum(len(properties["Rules"]) for properties in found.values())
        count = len(found)
        yield self._line("firewalls", f"{count}" if count else "none", Decimal(count), "web-acl")
        yield self._line(
            "rules of firewalls", f"{rules}" if rules else "none", Decimal(rules), "web-acl-rule"
        )

    def _clocks(self) -> Iterable[Line]:
        """Looks by the clock whether there is anything to do."""
        days = self._assumed["month_hours"] / 24
        ticks, seconds = Decimal(0), Decimal(0)
        for rule in self._of("AWS::Events::Rule").values():
            if rule.get("State") == "DISABLED" or not rule.get("ScheduleExpression"):
                continue
            [target] = rule["Targets"]
            times = ticks_a_day(rule["ScheduleExpression"]) * days
            ticks += times
            seconds += (
                times
                * self._assumed["tick_seconds"]
                * self._memory(target["Arn"].removeprefix("${").removesuffix(".Arn}"))
            )
        yield self._line("looks by the clock", f"{ticks:.0f} a month", ticks, "lambda-requests")
        yield self._line(
            "their time",
            f"{self._assumed['tick_seconds']} s each, with the memory of what is called",
            seconds,
            "lambda-time",
        )

    def _warm(self) -> Iterable[Line]:
        """Snapshots and provisioned environments of the predict function, for a whole month."""
        memory = self._memory("PredictFunction")
        seconds = self._assumed["month_hours"] * 3600
        function = self._of("AWS::Lambda::Function")["PredictFunction"]
        kept = function.get("SnapStart", {}).get("ApplyOn", "None") != "None"
        yield self._line(
            "snapshot of the predict function",
            f"{_plain(memory)} GB" if kept else "none",
            memory * seconds if kept else Decimal(0),
            "lambda-snapshot",
        )
        warm = sum(
            Decimal(settings["ProvisionedConcurrentExecutions"])
            for alias in self._of("AWS::Lambda::Alias").values()
            if (settings := alias.get("ProvisionedConcurrencyConfig"))
        )
        yield self._line(
            "provisioned environments",
            f"{warm} of {_plain(memory)} GB" if warm else "none",
            warm * memory * seconds,
            "lambda-provisioned",
        )

    def _counted(self, item: str, type_: str, price: str) -> Line:
        count = len(self._of(type_))
        return self._line(item, f"{count}" if count else "none", Decimal(count), price)

    # ── Predictions ─────────────────────────────────────────────────────────────────────────────

    def predictions(self) -> list[Line]:
        """An estimate of what a batch of predictions costs."""
        a = self._assumed
        count, hours = a["requests"], a["hours"]
        cold = count * a["cold_share"]
        memory = self._memory("PredictFunction")
        seconds = count * a["predict_ms"] / 1000 + cold * a["cold_seconds"]
        refreshes = hours * 3600 / Decimal(self._given["RefreshSeconds"])
        logged = a["predict_log_kb"] + self._access_log_kb()
        return [
            self._line("API requests", f"{count:,}", count, "api-requests"),
            self._filtered(count),
            self._line("function requests", f"{count:,}", count, "lambda-requests"),
            self._line(
                "function time",
                f"({count:,} × {a['predict_ms']} ms + {cold.normalize():f} × {a['cold_seconds']} s)"
                f" × {_plain(memory)} GB",
                seconds * memory,
                "lambda-time",
            ),
            self._line("logs", f"{count:,} × {logged} kB", count * logged / _KB, "logs-ingest"),
            self._line(
                "custom metrics",
                f"{a['predict_metrics']} for {hours} h of {a['month_hours']} h",
                a["predict_metrics"] * hours / a["month_hours"],
                "custom-metric",
            ),
            *self._captures(),
            *self._monitored(),
            self._traces(count, hours),
            self._line(
                "registry reads",
                f"one each {self._given['RefreshSeconds']} s for {hours} h",
                refreshes,
                "dynamodb-read",
            ),
            self._line(
                "key requests",
                f"{a['key_requests_per_hour']} an hour for {hours} h",
                a["key_requests_per_hour"] * hours,
                "key-requests",
            ),
            self._line(
                "data to the internet",
                f"{count:,} × {a['response_kb']} kB",
                count * a["response_kb"] / _KB,
                "data-out",
            ),
        ]

    def _filtered(self, requests: Decimal) -> Line:
        if not self._of("AWS::WAFv2::WebACL"):
            return self._line("firewall", "WebAcl=off", Decimal(0), "web-acl-requests")
        return self._line("firewall", f"{requests:,}", requests, "web-acl-requests")

    def _captures(self) -> Iterable[Line]:
        """How captured predictions leave the log; the subscription itself has no price."""
        a = self._assumed
        deliveries, hours = a["capture_deliveries"], a["hours"]
        memory = self._memory("CaptureFunction")
        yield self._line(
            "capture, function requests",
            f"{deliveries:,} deliveries",
            deliveries,
            "lambda-requests",
        )
        yield self._line(
            "capture, function time",
            f"{deliveries:,} × {a['capture_ms']} ms × {_plain(memory)} GB",
            deliveries * a["capture_ms"] / 1000 * memory,
            "lambda-time",
        )
        yield self._line(
            "capture, logs",
            f"{deliveries:,} × {a['capture_log_kb']} kB",
            deliveries * a["capture_log_kb"] / _KB,
            "logs-ingest",
        )
        yield self._line(
            "capture, counts",
            f"{deliveries:,} × {a['capture_count_units']} units",
            deliveries * a["capture_count_units"],
            "dynamodb-write",
        )
        yield self._line("capture, objects written", f"{deliveries:,}", deliveries, "s3-write")
        yield self._line(
            "capture, events of the data bucket", f"{deliveries:,}", deliveries, "events"
        )
        yield self._line(
            "capture, custom metrics",
            f"{a['capture_metrics']} for {hours} h of {a['month_hours']} h",
            a["capture_metrics"] * hours / a["month_hours"],
            "custom-metric",
        )

    def _monitored(self) -> Iterable[Line]:
        """What judging the hours costs in which they came: the same however many they are."""
        if self._given["MonitorSchedule"] == "off":
            yield self._line("monitor", "MonitorSchedule=off", Decimal(0), "lambda-time")
            return
        a = self._assumed
        hours, memory = a["hours"], self._memory("MonitorFunction")
        yield self._line(
            "monitor, function time",
            f"{hours} × {a['monitor_seconds']} s × {_plain(memory)} GB",
            hours * a["monitor_seconds"] * memory,
            "lambda-time",
        )
        for item, unit, price in (
            ("counts and labels read", "read_units", "dynamodb-read"),
            ("table writes", "write_units", "dynamodb-write"),
            ("objects read", "objects_read", "s3-read"),
            ("objects written", "objects_written", "s3-write"),
        ):
            each = a[f"monitor_{unit}"]
            yield self._line(f"monitor, {item}", f"{hours} × {each}", hours * each, price)
        yield self._line(
            "monitor, custom metrics",
            f"{a['monitor_metrics']} for {hours} h of {a['month_hours']} h",
            a["monitor_metrics"] * hours / a["month_hours"],
            "custom-metric",
        )

    def _traces(self, requests: Decimal, hours: Decimal) -> Line:
        if not self._traced():
            return self._line("traces", "TraceMode=PassThrough", Decimal(0), "traces")
        first = min(requests, hours * 3600)
        traced = first + (requests - first) * Decimal("0.05")
        return self._line("traces", "first in each second, 5 % of others", traced, "traces")

    # ── A training ──────────────────────────────────────────────────────────────────────────────

    def training(self) -> list[Line]:
        """An estimate of what a training costs that makes a champion."""
        a = self._assumed
        trials = int(a["trials"])
        path = happy_path(trials)
        follow = a["follow_requests"]
        invoked = path.invocations + 1 + follow
        written = a["objects_data"] + a["objects_artifacts"]
        logged = a["training_log_kb"] + follow * self._access_log_kb()
        email = a["notices"] if self._given["NotificationEmail"] else Decimal(0)
        return [
            self._line(
                "state transitions",
                f"{path.transitions} with {trials} trials",
                Decimal(path.transitions),
                "transitions",
            ),
            *(
                self._time(name, a[f"{name.removesuffix('Function').lower()}_seconds"])
                for name in (
                    "TriggerFunction",
                    "IngestFunction",
                    "TrainFunction",
                    "EvaluateFunction",
                    "RegistryFunction",
                )
            ),
            self._disk(a["ingest_seconds"]),
            self._line(
                "function requests",
                f"{path.invocations} steps, the trigger, {follow} that follow it",
                invoked,
                "lambda-requests",
            ),
            self._line("following it, API requests", f"{follow}", follow, "api-requests"),
            self._time("ApiFunction", follow * a["follow_ms"] / 1000),
            self._line("objects written", f"{written}", written, "s3-write"),
            self._line("objects read", f"{a['object_reads']}", a["object_reads"], "s3-read"),
            self._line(
                "events of the data bucket", f"{a['objects_data']}", a["objects_data"], "events"
            ),
            self._line(
                "registry writes", f"{a['write_units']} units", a["write_units"], "dynamodb-write"
            ),
            self._line(
                "registry reads", f"{a['read_units']} units", a["read_units"], "dynamodb-read"
            ),
            self._line("logs", f"{logged} kB", logged / _KB, "logs-ingest"),
            self._line(
                "custom metrics",
                f"{a['training_metrics']} for 1 h of {a['month_hours']} h",
                a["training_metrics"] / a["month_hours"],
                "custom-metric",
            ),
            self._line(
                "traces",
                f"{a['training_traces']}" if self._traced() else "TraceMode=PassThrough",
                a["training_traces"] if self._traced() else Decimal(0),
                "traces",
            ),
            self._line("notices", f"{a['notices']}", a["notices"], "notices"),
            self._line(
                "e-mails", f"{email}" if email else "NotificationEmail is empty", email, "e-mails"
            ),
            self._line(
                "key requests",
                f"{a['training_key_requests']}",
                a["training_key_requests"],
                "key-requests",
            ),
        ]

    def _time(self, function: str, seconds: Decimal) -> Line:
        memory = self._memory(function)
        return self._line(
            f"{function}, time",
            f"{_plain(seconds)} s × {_plain(memory)} GB",
            seconds * memory,
            "lambda-time",
        )

    def _disk(self, seconds: Decimal) -> Line:
        size = self.resources["IngestFunction"]["Properties"]["EphemeralStorage"]["Size"]
        extra = (Decimal(size) - 512) / _MB
        return self._line(
            "IngestFunction, disk",
            f"{_plain(seconds)} s × {extra} GB",
            seconds * extra,
            "lambda-disk",
        )

    # ── What they share ─────────────────────────────────────────────────────────────────────────

    def _of(self, type_: str) -> dict[str, dict[str, Any]]:
        return {n: r["Properties"] for n, r in self.resources.items() if r["Type"] == type_}

    def _memory(self, function: str) -> Decimal:
        return Decimal(str(self.resources[function]["Properties"]["MemorySize"])) / _MB

    def _traced(self) -> bool:
        return self._given["TraceMode"] == "Active"

    def _access_log_kb(self) -> Decimal:
        logged = self._given["ApiAccessLogs"] != "off"
        return self._assumed["access_log_kb"] if logged else Decimal(0)

    def _line(self, item: str, formula: str, units: Decimal, price: str) -> Line:
        return Line(item, formula, units, price, self._prices[price].cost(units))


def metrics_of(alarm: Mapping[str, Any]) -> int:
    """The metrics that an alarm is billed for: those it reads, not the expressions over them.

    Raises:
        ConfigurationError: The alarm is one that AWS bills otherwise.
    """
    if "Metrics" not in alarm:
        periods = [alarm["Period"]]
        expressions = []
    else:
        periods = [m["MetricStat"]["Period"] for m in alarm["Metrics"] if "MetricStat" in m]
        expressions = [m["Expression"] for m in alarm["Metrics"] if "Expression" in m]
    special = [e for e in expressions if "SELECT" in e or "ANOMALY_DETECTION" in e]
    if special or any(int(period) < 60 for period in periods):
        raise ConfigurationError(
            "only alarms of standard resolution on listed metrics cost ten cents a metric: "
            "teach infra/costs/bill.py the price of any other"
        )
    return len(periods)


@dataclass(frozen=True, slots=True)
class Path:
    """What an execution goes through.

    Attributes:
        transitions: State transitions, as AWS bills them: the start, each state, each iteration.
        invocations: Functions invoked.
    """

    transitions: int
    invocations: int


def happy_path(trials: int) -> Path:
    """The shortest way through the TRAINING machine that makes a champion, without retries."""
    found = _walk(machine_definition({}), trials, CHAMPION)
    return Path(found.transitions + 1, found.invocations)


def _walk(machine: Mapping[str, Any], trials: int, end: str | None) -> Path:
    """Breadth first from the start to the named state, or to the first one that ends."""
    states = machine["States"]
    waiting = [(machine["StartAt"], Path(0, 0))]
    seen = set()
    while waiting:
        name, before = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        state = states[name]
        here = Path(before.transitions + 1, before.invocations + (state["Type"] == "Task"))
        if state["Type"] == "Map":
            inner = _walk(state.get("ItemProcessor") or state["Iterator"], trials, None)
            here = Path(
                here.transitions + trials * (inner.transitions + 1),
                here.invocations + trials * inner.invocations,
            )
        if name == end or (end is None and (state.get("End") or state["Type"] == "Succeed")):
            return here
        following = [state.get("Next"), state.get("Default")]
        following += [choice["Next"] for choice in state.get("Choices", ())]
        waiting += [(target, here) for target in following if target]
    raise ConfigurationError(f"no way through the state machine ends in {end or 'its end'}")


def _plain(number: Decimal) -> str:
    return f"{round(number, 2).normalize():f}"
