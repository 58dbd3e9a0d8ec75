"""Gaps ``metrics``, ``states``, ``alarms`` and ``alarm-math``: what is measured, and what rings."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.conformance.conftest import Stack, call_api
from tests.e2e.measured import total
from tests.until import until

pytestmark = pytest.mark.needs("embedded-metrics", "service-metrics", "alarms")


def test_embedded_metrics_are_extracted_from_logs(stack: Stack) -> None:
    stack.invoke({"do": "measure", "metric": "Rows", "value": [2, 3], "service": "extracted"})

    dimensions = {"service": "extracted"}
    until(lambda: total(stack.client, "Conformance", "Rows", dimensions) == 5)


def test_invocations_by_a_state_machine_are_counted(stack: Stack) -> None:
    """Gap ``metrics``."""
    dimensions = {"FunctionName": stack.outputs["Function"]}
    before = total(stack.client, "AWS/Lambda", "Invocations", dimensions)

    stack.execute({"route": "map", "key": "k", "numbers": [1, 2]})

    assert total(stack.client, "AWS/Lambda", "Invocations", dimensions) == before + 2


def test_metrics_of_one_call_are_all_stored_whatever_their_form(stack: Stack) -> None:
    now = datetime.now(UTC)
    about = {
        "MetricName": f"Together{time.time_ns()}",
        "Timestamp": now,
        "Dimensions": [{"Name": "b", "Value": "2"}, {"Name": "a", "Value": "1"}],
    }
    whole = {"SampleCount": 2.0, "Sum": 10.0, "Minimum": 4.0, "Maximum": 6.0}
    data = [
        *({**about, "Value": float(value), "Unit": "Count"} for value in range(100)),
        {**about, "Values": [200.0, 300.0], "Counts": [1.0, 2.0], "Unit": "Count"},
        {**about, "StatisticValues": whole, "Unit": "Count"},
    ]

    stack.client("cloudwatch").put_metric_data(Namespace="Conformance", MetricData=data)

    [point] = stack.client("cloudwatch").get_metric_statistics(
        Namespace="Conformance",
        MetricName=about["MetricName"],
        Dimensions=about["Dimensions"],
        StartTime=now - timedelta(minutes=5),
        EndTime=now + timedelta(minutes=5),
        Period=3600,
        Statistics=["Sum", "Maximum", "SampleCount"],
    )["Datapoints"]
    assert point["Sum"] == sum(range(100)) + 200 + 2 * 300 + 10
    assert (point["Maximum"], point["SampleCount"]) == (300, 105)


def test_an_alarm_minds_its_dimensions(stack: Stack) -> None:
    """Gap ``alarms``: another function's error does not ring it."""
    # A new alarm has no state until it is evaluated for the first time.
    until(lambda: stack.alarm("QuietErrorsAlarm")["StateValue"] == "OK")
    dimensions = {"FunctionName": stack.outputs["Function"]}
    before = total(stack.client, "AWS/Lambda", "Errors", dimensions)

    stack.invoke({"do": "raise"})

    until(lambda: total(stack.client, "AWS/Lambda", "Errors", dimensions) > before)
    assert stack.alarm("QuietErrorsAlarm")["StateValue"] == "OK"


def test_an_alarm_on_an_embedded_metric_rings_and_notifies(stack: Stack) -> None:
    """Gap ``alarms``: it is evaluated although no client put a metric."""
    quiet = {"do": "measure", "metric": "Pressure", "value": 99, "service": "quiet"}
    until(lambda: stack.alarm("MeasuredAlarm")["StateValue"] == "OK")
    stack.invoke(quiet)
    until(lambda: total(stack.client, "Conformance", "Pressure", {"service": "quiet"}) >= 99)
    assert stack.alarm("MeasuredAlarm")["StateValue"] == "OK"

    stack.invoke(quiet | {"service": "loud"})

    until(lambda: stack.alarm("MeasuredAlarm")["StateValue"] == "ALARM")
    name = stack.outputs["MeasuredAlarm"]
    notice = stack.received("Heard", lambda m: m.get("AlarmName") == name)
    assert notice["NewStateValue"] == "ALARM"


def test_an_alarm_on_metric_math_rings(stack: Stack) -> None:
    """Gaps ``alarm-math`` and ``states``."""
    alarm = stack.alarm("FailedExecutionsAlarm")
    assert [query["Id"] for query in alarm["Metrics"]] == ["all", "failed", "aborted"]

    stack.execute({"route": "nowhere"})

    until(lambda: stack.alarm("FailedExecutionsAlarm")["StateValue"] == "ALARM")


def test_an_alarm_on_waiting_messages_rings(stack: Stack) -> None:
    """Gap ``queues``."""
    assert stack.alarm("DeadLettersAlarm")["StateValue"] == "OK"

    stack.client("sqs").send_message(QueueUrl=stack.outputs["Forgotten"], MessageBody="{}")

    until(lambda: stack.alarm("DeadLettersAlarm")["StateValue"] == "ALARM")


def test_an_alarm_on_server_errors_of_the_api_rings(stack: Stack) -> None:
    """Gap ``gateway``: a function that cannot start is a 502, and is counted."""
    assert call_api(stack, "GET", "/v1/things")[0] == 403
    assert stack.alarm("ServerErrorsAlarm")["StateValue"] == "OK"

    assert call_api(stack, "GET", "/v1/broken")[0] == 502

    until(lambda: stack.alarm("ServerErrorsAlarm")["StateValue"] == "ALARM")
