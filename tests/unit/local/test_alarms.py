"""When a local alarm rings."""

from collections.abc import Mapping
from typing import Any

import pytest

from infra.local.alarms import (
    AlarmState,
    Points,
    Series,
    UnsupportedAlarmError,
    evaluation_range,
    judge,
)

NOW = 10_000.0


def _alarm(**changes: Any) -> dict[str, Any]:
    return {
        "AlarmName": "errors",
        "Namespace": "AWS/Lambda",
        "MetricName": "Errors",
        "Dimensions": [{"Name": "FunctionName", "Value": "one"}],
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 0.0,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        "StateValue": "OK",
    } | changes


def _series(**metrics: Points) -> Series:
    """Points by metric name, all of the function ``one``."""

    def points(namespace: str, name: str, dimensions: Mapping[str, str]) -> Points:
        return metrics.get(name, ()) if dimensions == {"FunctionName": "one"} else ()

    return points


def test_a_scaled_period_forgets_a_breach_sooner() -> None:
    breach = _series(Errors=[(NOW - 5, 1.0)])

    assert judge(_alarm(), breach, NOW, period_scale=0.1).state == "ALARM"
    assert judge(_alarm(), breach, NOW + 2, period_scale=0.1).state == "OK"
    assert judge(_alarm(), breach, NOW + 2).state == "ALARM"


def test_a_breach_rings() -> None:
    verdict = judge(_alarm(), _series(Errors=[(NOW - 5, 1.0)]), NOW)

    assert verdict.state == "ALARM"
    assert "[1]" in verdict.reason


def test_another_dimension_does_not_ring() -> None:
    alarm = _alarm(Dimensions=[{"Name": "FunctionName", "Value": "two"}])

    assert judge(alarm, _series(Errors=[(NOW - 5, 1.0)]), NOW).state == "OK"


def test_an_old_breach_is_over() -> None:
    assert judge(_alarm(), _series(Errors=[(NOW - 61, 1.0)]), NOW).state == "OK"


@pytest.mark.parametrize(
    ("treat", "state", "expected"),
    [
        ("notBreaching", "ALARM", "OK"),
        ("breaching", "OK", "ALARM"),
        ("ignore", "ALARM", "ALARM"),
        ("missing", "OK", "INSUFFICIENT_DATA"),
        (None, "OK", "INSUFFICIENT_DATA"),
    ],
)
def test_missing_data_is_treated_as_told(
    treat: str | None, state: AlarmState, expected: AlarmState
) -> None:
    assert judge(_alarm(TreatMissingData=treat, StateValue=state), _series(), NOW).state == expected


@pytest.mark.parametrize(
    ("needed", "expected"), [(None, "OK"), (3, "OK"), (2, "ALARM"), (1, "ALARM")]
)
def test_as_many_periods_must_breach_as_the_alarm_says(
    needed: int | None, expected: AlarmState
) -> None:
    points = [(NOW - 5, 1.0), (NOW - 65, 0.0), (NOW - 125, 1.0)]
    alarm = _alarm(EvaluationPeriods=3, DatapointsToAlarm=needed)

    assert judge(alarm, _series(Errors=points), NOW).state == expected


@pytest.mark.parametrize(
    ("statistic", "threshold", "expected"),
    [
        ("Average", 49, "ALARM"),
        ("Average", 51, "OK"),
        ("Minimum", 0, "ALARM"),
        ("Maximum", 99, "ALARM"),
        ("Maximum", 100, "OK"),
        ("SampleCount", 99, "ALARM"),
        ("SampleCount", 100, "OK"),
        ("p95", 94, "ALARM"),
        ("p95", 95, "OK"),
        ("p99.9", 99, "ALARM"),
    ],
)
def test_statistics(statistic: str, threshold: float, expected: AlarmState) -> None:
    points = [(NOW - 1, float(value)) for value in range(1, 101)]
    alarm = _alarm(Statistic=None, ExtendedStatistic=statistic, Threshold=threshold)

    assert judge(alarm, _series(Errors=points), NOW).state == expected


def _on_math(expression: str) -> dict[str, Any]:
    def metric(identifier: str, name: str) -> dict[str, Any]:
        measured = {
            "Namespace": "AWS/Lambda",
            "MetricName": name,
            "Dimensions": [{"Name": "FunctionName", "Value": "one"}],
        }
        stat = {"Metric": measured, "Period": 60, "Stat": "Sum"}
        return {"Id": identifier, "ReturnData": False, "MetricStat": stat}

    queries = [
        {"Id": "all", "Expression": expression, "ReturnData": True},
        metric("errors", "Errors"),
        metric("throttles", "Throttles"),
    ]
    alarm = _alarm(Metrics=queries)
    for single in ("Namespace", "MetricName", "Dimensions", "Statistic", "Period"):
        del alarm[single]
    return alarm


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("errors + throttles", "ALARM"),
        ("errors - throttles", "OK"),
        ("errors / (throttles - 1) + 5", "OK"),
        ("errors * -1", None),
        ("FILL(errors, 0) + FILL(throttles, 0)", "ALARM"),
        ("SUM(METRICS())", None),
        ("errors + nothing", None),
        ("errors +", None),
    ],
)
def test_metric_math(expression: str, expected: AlarmState | None) -> None:
    series = _series(Errors=[(NOW - 5, 1.0)], Throttles=[(NOW - 5, 1.0)])

    if expected is None:
        with pytest.raises(UnsupportedAlarmError):
            judge(_on_math(expression), series, NOW)
    else:
        assert judge(_on_math(expression), series, NOW).state == expected


def test_math_on_a_missing_metric_is_missing() -> None:
    series = _series(Errors=[(NOW - 5, 1.0)])

    assert judge(_on_math("errors + throttles"), series, NOW).state == "OK"
    assert judge(_on_math("errors + FILL(throttles, 0)"), series, NOW).state == "ALARM"


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({"Period": 300, "EvaluationPeriods": 3}, 900),
        (
            {
                "EvaluationPeriods": 2,
                "Metrics": [
                    {"Id": "a", "MetricStat": {"Period": 60}},
                    {"Id": "b", "MetricStat": {"Period": 600}},
                    {"Id": "c", "Expression": "a / b", "Period": 60},
                ],
            },
            1_200,
        ),
    ],
    ids=["a metric", "metric math"],
)
def test_an_alarm_looks_back_over_its_longest_periods(more: dict[str, Any], seconds: float) -> None:
    assert evaluation_range(more) == seconds
