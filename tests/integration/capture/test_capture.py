"""The capture function on moto's S3: what the log's subscription delivers is kept once."""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions.capture import handler as function
from millrace import layout
from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.table import ABSENT, Put
from millrace.errors import InvalidEventError
from millrace.monitoring import hours, tallies
from millrace.monitoring.baseline import (
    Baseline,
    ScoreBaseline,
)
from millrace.monitoring.captures import captured
from millrace.registry.serving import version_key
from millrace.serving.capture import CapturedPrediction
from tests.fakes import baselines, cases, cloud
from tests.samples import capture_line

MOMENT = datetime(2026, 11, 21, 18, 20, tzinfo=UTC)


@pytest.fixture(autouse=True)
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    function.settings.cache_clear()
    function._known_bins.cache_clear()
    with cloud.stack(monkeypatch):
        yield
    function.settings.cache_clear()
    function._known_bins.cache_clear()


def line(sequence: int, *, minutes: float = 0, model: str = "churn") -> dict[str, Any]:
    """A captured line of so many minutes after the moment."""
    at_ms = int((MOMENT + timedelta(minutes=minutes)).timestamp() * 1000)
    return capture_line(model=model, at_ms=at_ms, sequence=sequence)


def delivery(lines: Sequence[dict[str, Any] | str], kind: str = "DATA_MESSAGE") -> dict[str, Any]:
    """The event that CloudWatch Logs sends for these lines."""
    content = {
        "messageType": kind,
        "owner": "123456789012",
        "logGroup": "/aws/lambda/millrace-predict",
        "logStream": "2026/11/21/[$LATEST]0123456789abcdef",
        "subscriptionFilters": ["captured"],
        "logEvents": [
            {
                "id": f"{number:056d}",
                "timestamp": int(MOMENT.timestamp() * 1000),
                "message": one if isinstance(one, str) else json.dumps(one) + "\n",
            }
            for number, one in enumerate(lines)
        ],
    }
    packed = gzip.compress(json.dumps(content).encode())
    return {"awslogs": {"data": base64.b64encode(packed).decode()}}


def deliver(*lines: dict[str, Any] | str) -> dict[str, Any]:
    """Runs the handler."""
    return function.handler(delivery(lines), cloud.LambdaContext())


def told(**counts: int) -> dict[str, int]:
    """The handler's answer; what is not said is 0."""
    names = ("records", "rejected", "written", "repeated", "counted", "counted_by_hour")
    return {name: counts.get(name, 0) for name in names}


def keys() -> list[str]:
    """Every version of every object of the data bucket."""
    listed = client("s3").list_object_versions(Bucket=cases.DATA_BUCKET).get("Versions", [])
    return sorted(v["Key"] for v in listed)


def kept(
    since: datetime = MOMENT - timedelta(days=2),
    until: datetime = MOMENT + timedelta(days=2),
    model: str = "churn",
) -> list[CapturedPrediction]:
    """What a reader finds."""
    return list(captured(S3ObjectStore(client("s3")), cases.DATA_BUCKET, model, since, until))


def test_captured_lines_are_kept_by_model_and_hour() -> None:
    answer = deliver(line(1), line(2), line(3, minutes=45), line(4, model="fraud"))

    assert answer == told(records=4, written=3, counted_by_hour=4)
    assert [key.rpartition("-")[0] for key in keys()] == [
        "capture/churn/date=2026-11-21/18",
        "capture/churn/date=2026-11-21/19",
        "capture/fraud/date=2026-11-21/18",
    ]
    assert [one.sequence for one in kept()] == [1, 2, 3]
    assert [one.sequence for one in kept(model="fraud")] == [4]


def test_a_delivery_that_comes_twice_is_written_once() -> None:
    deliver(line(1), line(2))
    before = keys()

    answer = deliver(line(1), line(2))

    assert answer == told(records=2, repeated=1)
    assert keys() == before


def test_the_order_within_a_delivery_changes_nothing() -> None:
    deliver(line(1), line(2), line(3))
    before = keys()

    deliver(line(3), line(1), line(2))

    assert keys() == before


def test_lines_of_yesterday_land_in_yesterdays_partition() -> None:
    deliver(line(7, minutes=-24 * 60))

    assert keys()[0].startswith("capture/churn/date=2026-11-20/18-")


def test_a_prediction_in_two_batches_is_read_once() -> None:
    deliver(line(1), line(2))
    deliver(line(2), line(3))

    assert sorted(one.sequence for one in kept()) == [1, 2, 3]


def test_a_reader_gets_the_span_it_asked_for() -> None:
    deliver(*[line(n, minutes=30 * n) for n in range(1, 6)])

    found = kept(MOMENT + timedelta(minutes=60), MOMENT + timedelta(minutes=120))

    assert [one.sequence for one in found] == [2, 3]


def test_a_bad_line_is_kept_with_its_reason_and_holds_up_no_other() -> None:
    wrong = line(2)
    wrong["capture"]["schema"] = 9

    answer = deliver(line(1), "START RequestId: 1", wrong, "[1]", line(3))

    assert answer == told(records=2, rejected=3, written=2, counted_by_hour=2)
    assert [one.sequence for one in kept()] == [1, 3]
    rejected = keys()[0]
    assert rejected.startswith("capture-rejected/date=2026-11-21/")
    body = client("s3").get_object(Bucket=cases.DATA_BUCKET, Key=rejected)["Body"].read()
    found = [json.loads(one) for one in gzip.decompress(body).splitlines()]
    assert [one["reason"] for one in found] == [
        "line: expected JSON",
        "capture.schema: expected 1 or 2",
        "line: expected a JSON object",
    ]
    assert json.loads(found[1]["line"]) == wrong


def test_what_was_kept_and_rejected_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    deliver(line(1), line(2, model="fraud"), line(3, model="fraud"), "no JSON")

    told = [json.loads(one) for one in capsys.readouterr().out.splitlines() if "_aws" in one]
    figures = [
        {k: v for k, v in one.items() if k in ("model", "CapturedRecords", "CaptureRejected")}
        for one in told
    ]
    assert figures == [
        {"CapturedRecords": [1.0], "model": "churn"},
        {"CapturedRecords": [2.0], "model": "fraud"},
        {"CaptureRejected": [1.0]},
    ]


def test_no_value_of_a_line_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = line(2)
    wrong["capture"]["inputs"]["plan"] = "canary-5e1f"

    deliver(line(1), wrong, "canary-5e1f")

    told = capsys.readouterr()
    assert "canary" not in told.out + told.err
    assert "basic" not in told.out + told.err


def test_cloudwatchs_check_of_the_function_writes_nothing() -> None:
    check = delivery(
        ["CWL CONTROL MESSAGE: Checking health of destination Lambda"], "CONTROL_MESSAGE"
    )

    answer = function.handler(check, cloud.LambdaContext())

    assert answer == told()
    assert keys() == []


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"awslogs": {"data": 5}}, id="a number"),
        pytest.param({"awslogs": {"data": "canary"}}, id="no base64"),
        pytest.param({"awslogs": {"data": "Y2FuYXJ5"}}, id="no gzip"),
        pytest.param(
            {"awslogs": {"data": base64.b64encode(gzip.compress(b"canary")).decode()}}, id="no JSON"
        ),
        pytest.param(delivery(["canary"], "CANARY"), id="another kind of message"),
        pytest.param(delivery([]), id="no lines"),
    ],
)
def test_what_is_no_delivery_fails_and_is_handed_to_the_dead_letters(event: Any) -> None:
    with pytest.raises(InvalidEventError, match=r"awslogs\.data") as caught:
        function.handler(event, cloud.LambdaContext())

    assert "canary" not in str(caught.value)


def test_lines_of_a_rollout_are_counted_once_and_need_nothing_captured() -> None:
    named = {"role": "champion", "rollout": {"id": "churn-7-abc", "step": 0}}
    failed = {k: v for k, v in line(3).items() if k != "capture"} | named
    failed |= {"role": "challenger", "version": 7, "error": "RuntimeError"}
    lines = [line(1) | named, line(2) | named, failed]

    first, again = deliver(*lines), deliver(*lines)

    assert (first["counted"], again["counted"]) == (3, 0)
    assert (first["records"], first["rejected"]) == (2, 0)
    table = DynamoTable(client("dynamodb"), cloud.TABLE)
    champion, challenger = tallies.read(table, "churn-7-abc", 0)
    assert (champion.requests, champion.errors, champion.scores.total()) == (2, 0, 2)
    assert (challenger.requests, challenger.errors, challenger.version) == (1, 1, 7)


# ── Counts by the hour ──────────────────────────────────────────────────────────────────────────

HOUR = timedelta(hours=1)


def hour_counts() -> hours.WindowCounts:
    """What was counted of the hour of the moment."""
    since = MOMENT.replace(minute=0)
    return hours.read_window(table(), "churn", 3, since, since + HOUR)


def table() -> DynamoTable:
    """The registry's table."""
    return DynamoTable(client("dynamodb"), cloud.TABLE)


def register(body: bytes | None) -> None:
    """Version 3 as its training left it: with a run, and a baseline if that has a body."""
    table().put(Put("version", version_key("churn", 3), {"run_id": "run-1"}, ABSENT))
    if body is not None:
        client("s3").put_object(
            Bucket=cases.ARTIFACT_BUCKET, Key=layout.baseline_key("churn", "run-1"), Body=body
        )


def baseline() -> Baseline:
    """Of the features of a captured line, and of a private one."""
    return baselines.baseline(
        baselines.number("age", (500, 500), edges=(18, 30, 90), mean=40, std=9),
        baselines.text("plan", {"basic": 1_000}),
        baselines.private("income", missing=7),
        scores=ScoreBaseline(edges=(0, 0.5, 1), counts=(500, 500), mean=0.5, std=0.2),
        run_id="run-1",
    )


def test_predictions_are_counted_in_the_bins_of_their_versions_baseline() -> None:
    register(baseline().to_bytes())

    deliver(line(1), line(2, minutes=5), line(3, minutes=70))
    deliver(line(2, minutes=5), line(1), line(3, minutes=70))

    found = hour_counts()
    assert (found.requests, found.rows, found.errors, found.missing_lines) == (2, 4, 0, 0)
    assert found.features["age"].counts(2) == [2, 2]
    assert found.features["plan"].counts(1) == [2]
    assert found.features["plan"].missing == 2
    assert set(found.features) == {"age", "plan"}
    assert found.scores.counts(2) == [2, 2]
    assert found.classes == {"false": 2, "true": 2}


def test_nothing_of_a_private_column_is_counted() -> None:
    register(baseline().to_bytes())
    leaking = line(1)
    leaking["capture"]["inputs"]["income"] = [1e6, 2e6]

    deliver(leaking)

    assert set(hour_counts().features) == {"age", "plan"}


@pytest.mark.parametrize("body", [None, b"no baseline"], ids=["absent", "damaged"])
def test_without_a_baseline_traffic_is_counted_all_the_same(body: bytes | None) -> None:
    register(body)

    deliver(line(1), line(2))

    found = hour_counts()
    assert (found.requests, found.binned, found.features) == (2, False, {})


def test_requests_that_a_version_failed_are_counted_as_errors() -> None:
    failed = {k: v for k, v in line(1).items() if k not in ("capture", "prediction_id")}

    answer = deliver(line(1), failed | {"failed": 1, "error": "RuntimeError"})

    assert answer == told(records=1, written=1, counted_by_hour=1)
    assert (hour_counts().requests, hour_counts().errors) == (1, 1)


def test_lines_that_were_lost_show_in_their_hour() -> None:
    deliver(line(1), line(2))
    deliver(line(7))
    deliver(line(4))

    assert hour_counts().missing_lines == 3


def test_a_baseline_that_comes_later_counts_from_then_on_beside_what_came_before() -> None:
    register(None)
    deliver(line(1), line(2))
    body = baseline().to_bytes()
    key = layout.baseline_key("churn", "run-1")
    client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)
    deliver(line(3))
    client("s3").delete_object(Bucket=cases.ARTIFACT_BUCKET, Key=key)
    function._known_bins.cache_clear()  # as in a process of its own

    deliver(line(4))

    found = hour_counts()
    assert (found.requests, found.missing_lines, found.binned) == (4, 0, False)
    assert found.features["age"].rows == 2


_LAST_MS = 253_402_300_799_999
_POISON: dict[str, dict[str, Any]] = {
    "rows": {"row_count": 10**18},
    "version": {"version": 10**18},
    "sequence": {"sequence": 10**18},
    "rate": {"rate": 1e-300},
    "time": {"prediction_id": "e677d21f-dbff-7000-8000-000000000000"},
    "failed-time": {"failed": 1, "_aws": {"Timestamp": _LAST_MS}},
    "failed-version": {"failed": 1, "version": 10**18},
    "tallied-rows": {
        "row_count": 10**18,
        "rollout": {"id": "rollout-1", "step": 1},
        "role": "champion",
    },
    "tallied-version": {
        "version": 10**18,
        "rollout": {"id": "rollout-1", "step": 1},
        "role": "champion",
    },
}


@pytest.mark.parametrize("wrong", _POISON.values(), ids=_POISON)
def test_a_line_that_no_server_writes_holds_up_no_other(wrong: dict[str, Any]) -> None:
    poison = line(2)
    for name, value in wrong.items():
        (poison["capture"] if name in poison["capture"] else poison)[name] = value

    answer = deliver(line(1), poison, line(3))

    assert (answer["rejected"], answer["records"], answer["counted_by_hour"]) == (1, 2, 2)
    assert hour_counts().requests == 2
