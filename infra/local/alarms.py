"""When a CloudWatch alarm rings, as a pure function of its definition and the metric's points.

After "Evaluating an alarm" and "Configuring how CloudWatch alarms treat missing data" in the
CloudWatch user guide, with simplifications: periods end now instead of on the clock's full
minutes, so that a local alarm rings at once; they may last a part of what the alarm says, so that
it is soon quiet again; and a missing period is never looked up further back than the evaluation
range. Of metric math it knows ids, numbers, ``+ - * /`` and ``FILL``.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

AlarmState = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
Points = Sequence[tuple[float, float]]
"""Time in seconds and value."""
Series = Callable[[str, str, Mapping[str, str]], Points]
"""The points of a metric, by namespace, name and dimensions."""

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class UnsupportedAlarmError(ValueError):
    """The alarm uses something that is not evaluated here."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state an alarm should have, and why."""

    state: AlarmState
    reason: str


def evaluation_range(alarm: Mapping[str, Any]) -> float:
    """Seconds that an alarm looks back, its periods unscaled."""
    queries = [query.get("MetricStat") or query for query in alarm.get("Metrics") or ()]
    periods = [float(one["Period"]) for one in (alarm, *queries) if one.get("Period")]
    return max(periods, default=0.0) * int(alarm["EvaluationPeriods"])


def judge(
    alarm: Mapping[str, Any], series: Series, now: float, *, period_scale: float = 1.0
) -> Verdict:
    """Evaluates an alarm given as ``DescribeAlarms`` shows it.

    Args:
        alarm: The alarm.
        series: Gives the points of a metric.
        now: The time, in seconds.
        period_scale: How long a period lasts, as a part of what the alarm says. Below one, an alarm
            is quiet again in seconds, which a test can wait for.

    Raises:
        UnsupportedAlarmError: Comparison, statistic or expression is not known here.
    """
    compare = COMPARISONS.get(alarm["ComparisonOperator"])
    if compare is None:
        raise UnsupportedAlarmError(f"comparison {alarm['ComparisonOperator']}")
    periods = int(alarm["EvaluationPeriods"])
    needed = int(alarm.get("DatapointsToAlarm") or periods)
    values = [_value(alarm, series, now, back, period_scale) for back in range(periods)]
    threshold = float(alarm["Threshold"])
    found = [value for value in values if value is not None]
    breaching = sum(compare(value, threshold) for value in found)
    missing = periods - len(found)
    treat = alarm.get("TreatMissingData") or "missing"
    if not found and treat == "ignore":
        return Verdict(alarm["StateValue"], "no data: the state is kept")
    if not found and treat == "missing":
        return Verdict("INSUFFICIENT_DATA", "no data")
    if treat == "breaching":
        breaching += missing
    shown = ", ".join("missing" if value is None else f"{value:g}" for value in values)
    reason = (
        f"{breaching} of the last {periods} datapoints [{shown}] crossed the threshold "
        f"{threshold:g} ({alarm['ComparisonOperator']}); {needed} are needed"
    )
    return Verdict("ALARM" if breaching >= needed else "OK", reason)


def _value(
    alarm: Mapping[str, Any], series: Series, now: float, back: int, scale: float
) -> float | None:
    """The alarm's number in the period that ended ``back`` periods ago."""
    queries = alarm.get("Metrics")
    if not queries:
        dimensions = {d["Name"]: d["Value"] for d in alarm.get("Dimensions") or ()}
        points = series(alarm["Namespace"], alarm["MetricName"], dimensions)
        stat = alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average"
        return _statistic(points, stat, now, int(alarm["Period"]) * scale, back)
    by_id = {query["Id"]: query for query in queries}

    def of_query(identifier: str) -> float | None:
        query = by_id.get(identifier)
        if query is None:
            raise UnsupportedAlarmError(f"metric math names {identifier}, which is not there")
        if query.get("Expression"):
            return _calculate(query["Expression"], of_query)
        stat = query["MetricStat"]
        metric = stat["Metric"]
        dimensions = {d["Name"]: d["Value"] for d in metric.get("Dimensions") or ()}
        points = series(metric["Namespace"], metric["MetricName"], dimensions)
        return _statistic(points, stat["Stat"], now, int(stat["Period"]) * scale, back)

    shown = [query["Id"] for query in queries if query.get("ReturnData", True)]
    if len(shown) != 1:
        raise UnsupportedAlarmError(f"{len(shown)} metrics return data, one must")
    return of_query(shown[0])


def _statistic(points: Points, stat: str, now: float, period: float, back: int) -> float | None:
    end = now - back * period
    values = sorted(value for at, value in points if end - period < at <= end)
    if not values:
        return None
    match stat:
        case "Sum":
            return sum(values)
        case "Average":
            return sum(values) / len(values)
        case "Minimum":
            return values[0]
        case "Maximum":
            return values[-1]
        case "SampleCount":
            return float(len(values))
    if stat.startswith("p"):
        rank = math.ceil(float(stat[1:]) / 100 * len(values))
        return values[max(rank, 1) - 1]
    raise UnsupportedAlarmError(f"statistic {stat}")


def _calculate(expression: str, value_of: Callable[[str], float | None]) -> float | None:
    """Metric math; an operation on a missing value is missing."""

    def walk(node: ast.expr) -> float | None:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name):
                return value_of(name)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                first, second = walk(left), walk(right)
                if first is None or second is None or (isinstance(op, ast.Div) and second == 0):
                    return None
                return OPERATORS[type(op)](first, second)
            case ast.Call(func=ast.Name(id="FILL"), args=[filled, with_]):
                found = walk(filled)
                return walk(with_) if found is None else found
        raise UnsupportedAlarmError(f"metric math: {ast.unparse(node)}")

    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as exc:
        raise UnsupportedAlarmError(f"metric math: {expression}") from exc
    return walk(tree.body)
