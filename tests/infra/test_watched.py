"""What may fail unseen has an alarm: every part that nobody waits for, or a reason why another tells."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from tests.infra.deployment import EVERY, Resolver, Resource

STATES_FAIL = ("ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted")


class Elsewhere(NamedTuple):
    """Which alarm tells of a part that has none of its own, and why."""

    alarm: str
    why: str


OF_TRAINING = Elsewhere("TrainingFailedAlarm", "a state of TRAINING, which fails with it")
OF_BATCH = Elsewhere(
    "BatchFailedAlarm", "a state of BATCH, whose job the registry closes as failed"
)
OF_API = Elsewhere("ApiServerErrorsAlarm", "its callers are answered 5xx when it fails")

ELSEWHERE: dict[str, Elsewhere] = {
    "IngestFunction": OF_TRAINING,
    "TrainFunction": OF_TRAINING,
    "EvaluateFunction": OF_TRAINING,
    "BatchFunction": OF_BATCH,
    "ScoreFunction": OF_BATCH,
    "RolloutFunction": Elsewhere("RolloutStalledAlarm", "what it fails stalls a rollout"),
    "ApiFunction": OF_API,
    "AuthorizerFunction": OF_API,
    "PredictFunction": OF_API,
    "HeartbeatFunction": Elsewhere("HeartbeatAlarm", "what it fails is a beat that is missing"),
    "HeartbeatRule": Elsewhere("HeartbeatAlarm", "no beat without it"),
    "MonitorRule": Elsewhere("MonitorStaleAlarm", "the monitor's silence, whatever its cause"),
    "BatchStateMachine": Elsewhere(
        "BatchFailedAlarm", "a rule tells the registry of each that fails"
    ),
    "RolloutStateMachine": Elsewhere("RolloutStalledAlarm", "a rule tells the rollout function"),
}
"""Parts whose failure shows in another part's figure."""


def deployed() -> Mapping[str, Resource]:
    """Every resource of the template."""
    return Resolver(**EVERY).resources()


def of(kind: str) -> dict[str, dict[str, Any]]:
    """Properties of the resources of a type."""
    return {n: r["Properties"] for n, r in deployed().items() if r["Type"] == kind}


def watched() -> set[tuple[str, str]]:
    """Metric and dimension that some alarm looks at."""
    return {
        (metric["MetricName"], dimension["Value"])
        for alarm in of("AWS::CloudWatch::Alarm").values()
        for metric in (
            [m["MetricStat"]["Metric"] for m in alarm["Metrics"] if "MetricStat" in m]
            if "Metrics" in alarm
            else [alarm]
        )
        for dimension in metric["Dimensions"]
    }


def wanted() -> dict[str, set[tuple[str, str]]]:
    """Figures in which the failure of each part would show, by its logical id."""
    found: dict[str, set[tuple[str, str]]] = {}
    for kind in ("AWS::Events::Rule", "AWS::Scheduler::Schedule"):
        for name, rule in of(kind).items():
            if "ScheduleExpression" in rule:
                found[name] = {("FailedInvocations", f"${{{name}}}")}
    for name in of("AWS::SQS::Queue"):
        found[name] = {("ApproximateNumberOfMessagesVisible", f"${{{name}.QueueName}}")}
    for name in of("AWS::Lambda::Function"):
        found[name] = {(metric, f"${{{name}}}") for metric in ("Errors", "Throttles")}
    for name in of("AWS::StepFunctions::StateMachine"):
        found[name] = {(metric, f"${{{name}}}") for metric in STATES_FAIL}
    return found


WANTED = wanted()


@pytest.mark.parametrize("part", WANTED)
def test_every_part_that_may_fail_unseen_has_an_alarm(part: str) -> None:
    if part in ELSEWHERE:
        assert not WANTED[part] <= watched(), f"{part} has an alarm of its own: take it out"
        assert ELSEWHERE[part].alarm in of("AWS::CloudWatch::Alarm")
        assert len(ELSEWHERE[part].why.split()) > 3
    else:
        assert WANTED[part] <= watched(), part


def test_no_reason_is_given_for_a_part_that_is_gone() -> None:
    assert ELSEWHERE.keys() <= WANTED.keys()


def test_what_cannot_be_delivered_ends_in_a_queue_that_rings() -> None:
    """Of rules on events, of event-source mappings, and of functions that are called and left."""
    queues = {f"${{{name}.Arn}}" for name in of("AWS::SQS::Queue")}
    letters = {
        **{
            name: target.get("DeadLetterConfig", {}).get("Arn")
            for name, rule in of("AWS::Events::Rule").items()
            for target in rule["Targets"]
        },
        **{
            name: source["DestinationConfig"]["OnFailure"]["Destination"]
            for name, source in of("AWS::Lambda::EventSourceMapping").items()
        },
        **{
            name: config.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
            for name, config in of("AWS::Lambda::EventInvokeConfig").items()
        },
    }

    assert len(letters) > 12
    # A beat that comes late is worth nothing; its absence rings.
    without = {name for name, queue in letters.items() if queue not in queues}
    assert without == {"HeartbeatRule", "HeartbeatFunctionEventInvokeConfig"}


def test_who_is_sent_records_is_watched_too() -> None:
    """Mappings and log subscriptions: nobody waits for what they call."""
    called = {
        *(one["FunctionName"] for one in of("AWS::Lambda::EventSourceMapping").values()),
        *(
            one["DestinationArn"].replace(".Arn}", "}")
            for one in of("AWS::Logs::SubscriptionFilter").values()
        ),
    }

    assert called == {"${EventsFunction}", "${CaptureFunction}"}
    assert {(metric, name) for name in called for metric in ("Errors", "Throttles")} <= watched()


def test_captures_that_never_arrive_and_a_monitor_that_stops_ring() -> None:
    figures = {metric for metric, _ in watched()}

    assert {"CapturedRequests", "CapturedRecords", "CaptureRejected"} <= figures
    assert ("Invocations", "${MonitorFunction}") in watched()
    stale = of("AWS::CloudWatch::Alarm")["MonitorStaleAlarm"]
    assert stale["InsufficientDataActions"] == ["${NotificationTopic}"]
