"""The monitor on moto: deliveries of the log become counts, counts a verdict, a verdict a report and an alarm."""

import base64
import gzip
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from functions.capture import handler as capture
from functions.monitor import handler as function
from millrace import layout
from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.s3 import S3ObjectStore
from millrace.errors import RetryableError
from millrace.monitoring import compaction
from millrace.monitoring.archive import latest, of_window
from millrace.monitoring.baseline import (
    Baseline,
    ReferenceMetric,
    ScoreBaseline,
)
from millrace.monitoring.captures import captured, keep, read
from millrace.monitoring.compaction import compact
from millrace.monitoring.episodes import open_episodes
from millrace.monitoring.labelbook import LabelBook
from millrace.monitoring.labels import Assertion, RowKey, Told
from millrace.monitoring.monitor import Monitor, Outcome
from millrace.registry.approvals import open_approvals
from millrace.registry.registry import open_registry
from millrace.spec import ModelSpec
from tests.fakes import baselines, cases, cloud
from tests.fakes.crashes import Crash, Killed, When, uninstall_all
from tests.samples import capture_line

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROWS = 300


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[cloud.Cloud]:
    def forget() -> None:
        for made in (
            capture.settings,
            capture._known_bins,
            function.settings,
            function.monitor,
            function.baseline,
        ):
            made.cache_clear()

    forget()
    monkeypatch.setenv("MILLRACE_STAGE", "test")
    monkeypatch.setenv("MILLRACE_TRIGGER_FUNCTION", "trigger")
    with cloud.stack(monkeypatch) as made:
        cases.champion(made.registry, 1)
        apply(made, cases.spec())
        run_id = made.registry.get_version("churn", 1).run_id
        put(layout.baseline_key("churn", run_id), baseline(run_id).to_bytes())
        yield made
    forget()


def apply(stack: cloud.Cloud, spec: ModelSpec) -> None:
    """Makes a spec the current one."""
    cases.apply(stack.registry, spec)
    put(layout.spec_key(spec.name, spec.digest), spec.to_json().encode())


def put(key: str, body: bytes) -> None:
    client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)


def baseline(run_id: str) -> Baseline:
    """Ages from 20 to 60, evenly, and scores from 0 to 1."""
    return baselines.baseline(
        baselines.number("age", (1_000,) * 4, edges=(20, 30, 40, 50, 60), mean=40, std=11.5),
        scores=ScoreBaseline(
            edges=(0, 0.25, 0.5, 0.75, 1), counts=(1_000,) * 4, mean=0.5, std=0.29
        ),
        version=1,
        run_id=run_id,
        metric="accuracy",
        predicted=(2_000, 2_000),
        performance={
            "accuracy": ReferenceMetric(value=0.75, low=0.74, high=0.76, row_deviation=0.433)
        },
    )


def lines(
    hour: int, *, shift: float = 0.0, rows: int = ROWS, start: int = 0
) -> list[dict[str, Any]]:
    """Requests of an hour after noon; ages may be older by so much."""
    draw = random.Random(1_000 * hour + start)
    at_ms = int((NOON + hour * HOUR).timestamp() * 1000)
    found = []
    for number in range(start, start + rows):
        line = capture_line(
            at_ms=at_ms + number * 10_000, process=f"p{hour:03d}", sequence=number + 1
        )
        score = draw.random()
        line |= {"version": 1, "row_count": 1, "warnings": {}}
        line["capture"]["inputs"] = {"age": [round(draw.uniform(20, 60) + shift, 3)]}
        line["capture"]["outputs"] = {"probabilities": [[1 - score, score]]}
        found.append(line)
    return found


def deliver(told: list[dict[str, Any]]) -> None:
    """Delivers lines of the log to the capture function."""
    content = {
        "messageType": "DATA_MESSAGE",
        "logGroup": "predict",
        "logStream": "one",
        "logEvents": [
            {"id": str(n), "timestamp": 1, "message": json.dumps(one)} for n, one in enumerate(told)
        ],
    }
    packed = base64.b64encode(gzip.compress(json.dumps(content).encode())).decode()
    capture.handler({"awslogs": {"data": packed}}, cloud.LambdaContext())


def look(hour: float) -> list[dict[str, Any]]:
    """Runs the monitor so many hours after noon; the windows that it judged."""
    event = {"model": "churn", "now": (NOON + hour * HOUR).isoformat()}
    answer = function.handler(event, cloud.LambdaContext(remaining_ms=600_000))
    (outcome,) = answer["outcomes"]
    windows: list[dict[str, Any]] = outcome["windows"]
    return windows


def report() -> Any:
    """The newest report."""
    found = latest("churn", objects=S3ObjectStore(client("s3")), bucket=cases.ARTIFACT_BUCKET)
    assert found is not None
    return found


def table() -> DynamoTable:
    """The registry's table."""
    return DynamoTable(client("dynamodb"), cloud.TABLE)


@pytest.mark.usefixtures("stack")
def test_a_window_is_judged_once_it_is_over_and_only_once() -> None:
    deliver(lines(0))

    assert look(0.9) == []
    (window,) = look(1.2)
    assert (window["rows"], window["version"], window["state"]) == (ROWS, 1, "ok")
    assert look(1.3) == []
    assert look(3) == []
    made = report()
    assert (made.since, made.until) == (NOON, NOON + HOUR)
    assert made.traffic.requests == ROWS
    assert [f.name for f in made.features] == ["age"]
    page = layout.latest_monitor_report_key("churn", "html")
    body = client("s3").get_object(Bucket=cases.ARTIFACT_BUCKET, Key=page)["Body"].read()
    assert b"age" in body


def test_drift_that_lasts_opens_one_alarm(stack: cloud.Cloud) -> None:
    apply(stack, cases.spec(monitor={"window": "24h"}))
    for day in range(3):
        deliver(lines(24 * day, shift=15.0, rows=210))
    episodes = open_episodes(client("dynamodb"), cloud.TABLE)

    states = [w["state"] for hour in (25, 49, 73) for w in look(hour)]

    assert states[0] == "watch"
    assert states[-1] == "alarm"
    (drifted,) = [e for e in episodes.open_of("churn") if e.kind == "feature_drift"]
    assert (drifted.subject, drifted.state) == ("age", "open")
    assert drifted.id in {e.id for e in report().episodes}


@pytest.mark.usefixtures("stack")
def test_a_window_grows_until_it_has_enough_rows() -> None:
    for hour in range(4):
        deliver(lines(hour, rows=60))

    assert look(3.2) == []
    (window,) = look(4.2)

    assert (window["rows"], window["until"]) == (240, (NOON + 4 * HOUR).isoformat())


@pytest.mark.usefixtures("stack")
def test_counts_that_come_late_are_judged_with_their_window() -> None:
    deliver(lines(0, rows=250))
    look(1.2)

    deliver(lines(0, rows=50, start=250))
    (again,) = look(2.2)

    assert (again["rows"], again["since"]) == (300, NOON.isoformat())
    assert report().traffic.captured == 300
    assert look(2.5) == []


@pytest.mark.usefixtures("stack")
def test_labels_that_come_late_are_judged_with_their_window() -> None:
    told = lines(0)
    deliver(told)
    look(1.2)
    assert report().labels.labelled == 0

    tell(told, NOON + 2 * HOUR)
    (again,) = look(2.2)

    assert again["since"] == NOON.isoformat()
    made = report()
    assert made.labels.labelled == ROWS
    (series,) = made.performance
    assert series.points[-1].realised.value == 1.0
    assert look(2.5) == []


@pytest.mark.usefixtures("stack")
def test_what_was_captured_is_put_together_and_reads_the_same() -> None:
    told = lines(0, rows=40)
    for line in told:
        deliver([line])
    store = S3ObjectStore(client("s3"))

    def read() -> list[str]:
        found = captured(store, cases.DATA_BUCKET, "churn", NOON, NOON + HOUR)
        return sorted(one.prediction_id for one in found)

    before = read()
    assert len(list(store.keys(cases.DATA_BUCKET, "capture/"))) == 40

    done = compact(store, cases.DATA_BUCKET, "churn", NOON + 2.5 * HOUR)

    assert (done.objects, done.into) == (40, 1)
    assert read() == before
    assert len(list(store.keys(cases.DATA_BUCKET, "capture/"))) == 1
    deliver([told[0]])
    deliver(lines(0, rows=1, start=40))
    assert read() == sorted({*before, lines(0, rows=1, start=40)[0]["prediction_id"]})
    compact(store, cases.DATA_BUCKET, "churn", NOON + 8.5 * HOUR)
    assert len(list(store.keys(cases.DATA_BUCKET, "capture/"))) == 1
    assert len(read()) == 41


@pytest.mark.usefixtures("stack")
def test_a_crash_at_any_write_of_putting_together_loses_nothing_and_doubles_nothing(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Seven deliveries of an hour become an object of five and one of two: writes and deletions."""
    request.addfinalizer(uninstall_all)
    monkeypatch.setattr(compaction, "MAX_REQUESTS", 5)
    monkeypatch.setattr(compaction, "_FULL", 5)
    store = S3ObjectStore(client("s3"))

    def play(day: int, crash: Crash) -> None:
        """On a day of its own, far from what others compact."""
        told = lines(48 * day, rows=7)
        hour = NOON + 48 * day * HOUR
        for line in told:
            delivered = read([json.dumps(line)])
            keep(delivered, objects=store, bucket=cases.DATA_BUCKET, logged=hour)
        crash.install()
        with suppress(Killed):
            compact(store, cases.DATA_BUCKET, "churn", hour + 2.5 * HOUR)
        uninstall_all()

        for later in (0.0, 8.5):
            if later:
                compact(store, cases.DATA_BUCKET, "churn", hour + later * HOUR)
            found = list(captured(store, cases.DATA_BUCKET, "churn", hour, hour + HOUR))
            assert sorted(one.prediction_id for one in found) == sorted(
                line["prediction_id"] for line in told
            )
        keys = store.keys(cases.DATA_BUCKET, layout.capture_prefix("churn", hour))
        assert len(list(keys)) == 2

    counting = Crash(services=("s3",))
    play(0, counting)
    assert counting.calls == ["PutObject", "DeleteObjects"] * 2
    whens: tuple[When, ...] = ("before", "after")
    crashes = product(range(len(counting.calls)), whens)
    for day, (at, when) in enumerate(crashes, 1):
        crash = Crash(at, when, services=("s3",))
        play(day, crash)
        assert not crash.armed


@pytest.mark.usefixtures("stack")
def test_what_lost_lines_come_to_is_in_the_report() -> None:
    told = lines(0)
    deliver(told[:100] + told[110:])

    look(1.2)

    assert report().traffic.lost == 10


def test_a_model_without_traffic_costs_one_query(stack: cloud.Cloud) -> None:
    asked: list[str] = []
    client("dynamodb").meta.events.register(
        "before-call.dynamodb.*", lambda model, **_: asked.append(model.name)
    )

    answer = function.handler({}, cloud.LambdaContext(remaining_ms=600_000))

    assert answer["outcomes"][0]["windows"] == []
    assert asked == ["Query"] * 3, "the list of models, one for the model, requests that are due"
    assert stack.registry.get_model("churn").champion_version == 1


@pytest.mark.usefixtures("stack")
def test_one_model_that_cannot_be_judged_holds_up_no_other_and_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases.champion(open_registry(client("dynamodb"), cloud.TABLE), 9, cases.spec("broken"))
    deliver(lines(0))
    stray = lines(0)
    for line in stray:
        line["model"] = "broken"
    deliver(stray)

    with pytest.raises(Exception, match="specs/broken"):
        function.handler(
            {"now": (NOON + 1.2 * HOUR).isoformat()}, cloud.LambdaContext(remaining_ms=600_000)
        )

    assert report().traffic.requests == ROWS
    assert '"ModelsNotMonitored":[1.0]' in capsys.readouterr().out


def tell(told: list[dict[str, Any]], received: datetime) -> None:
    """Says of each request what the model would have said, so that it was always right."""
    LabelBook(table(), timedelta(days=90)).record(
        "churn",
        [
            Told(
                RowKey(line["prediction_id"], 0),
                Assertion(
                    "true" if line["capture"]["outputs"]["probabilities"][0][1] > 0.5 else "false",
                    received,
                ),
            )
            for line in told
        ],
    )


@pytest.mark.usefixtures("stack")
def test_hours_that_come_after_later_ones_are_judged_too() -> None:
    deliver(lines(1))
    assert [w["since"] for w in look(2.2)] == [(NOON + HOUR).isoformat()]

    deliver(lines(0))

    assert [w["since"] for w in look(3.2)] == [NOON.isoformat()]
    assert report().since == NOON + HOUR, "the newest report stays the newest"
    assert look(4.2) == []


@pytest.mark.usefixtures("stack")
def test_labels_of_many_windows_do_not_keep_new_ones_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("millrace.monitoring.monitor.MAX_WINDOWS", 2)
    told = [lines(hour, rows=200) for hour in range(4)]
    for hour in range(4):
        deliver(told[hour])
        look(hour + 1.2)
    tell([line for hour in told for line in hour], NOON + 5 * HOUR)
    deliver(lines(4, rows=200))

    judged = [[w["since"] for w in look(5.2 + n)] for n in range(5)]

    first, *later = judged
    assert first[0] == (NOON + 4 * HOUR).isoformat()
    again = [begun for found in judged for begun in found][1:]
    assert again == [(NOON + hour * HOUR).isoformat() for hour in range(4)], "each of them once"
    assert later[-1] == []


def test_labels_of_an_earlier_champion_complete_its_report_and_ring_no_more(
    stack: cloud.Cloud,
) -> None:
    told = lines(0)
    deliver(told)
    look(1.2)
    cases.champion(stack.registry, 2)
    run_id = stack.registry.get_version("churn", 2).run_id
    again = baseline(run_id).model_copy(update={"version": 2})
    put(layout.baseline_key("churn", run_id), again.to_bytes())
    deliver([line | {"version": 2} for line in lines(1)])
    look(2.2)

    tell(told, NOON + 3 * HOUR)
    windows = look(3.2)

    assert [(w["since"], w["version"]) for w in windows] == [
        (NOON.isoformat(), 1),
        ((NOON + HOUR).isoformat(), 2),
    ]
    store = S3ObjectStore(client("s3"))
    made = of_window("churn", NOON, objects=store, bucket=cases.ARTIFACT_BUCKET)
    assert made is not None
    realised = made.performance[0].points[-1].realised
    assert (made.version, realised and realised.value) == (1, 1.0)
    assert report().version == 2
    assert look(4.2) == []


def test_what_a_challenger_was_asked_takes_the_place_of_no_window(stack: cloud.Cloud) -> None:
    deliver(lines(0))
    asked = [line | {"version": 2} for line in lines(0)]
    for line in asked:
        line["capture"]["process"] = "another"
    deliver(asked)
    look(1.2)
    cases.champion(stack.registry, 2)

    assert look(2.2) == []
    assert report().version == 1
    assert {v.version: v.role for v in report().traffic.versions} == {
        1: "champion",
        2: "challenger",
    }


@pytest.mark.usefixtures("stack")
def test_a_report_that_cannot_be_read_is_replaced() -> None:
    put(layout.latest_monitor_report_key("churn", "json"), b'{"format": 9}')
    deliver(lines(0))

    (window,) = look(1.2)

    assert window["state"] == "ok"
    assert report().since == NOON


def test_whatever_one_model_fails_of_the_others_are_judged(
    stack: cloud.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.champion(stack.registry, 9, cases.spec("another"))
    deliver(lines(0))
    watch = Monitor.watch

    def watched(self: Any, model: str, *arguments: Any, **named: Any) -> Any:
        if model == "another":
            raise ZeroDivisionError("a fault of ours")
        return watch(self, model, *arguments, **named)

    monkeypatch.setattr(Monitor, "watch", watched)
    with pytest.raises(ZeroDivisionError):
        function.handler(
            {"now": (NOON + 1.2 * HOUR).isoformat()}, cloud.LambdaContext(remaining_ms=600_000)
        )

    assert report().traffic.requests == ROWS


def test_a_request_that_no_machine_waits_for_expires_with_the_hour(stack: cloud.Cloud) -> None:
    task = cases.candidate(stack.registry, 2)
    judged = cases.evaluated(task.run_id, champion=1)
    stack.registry.record_evaluation(task, 2, judged, automatic=False)
    approvals = open_approvals(client("dynamodb"), cloud.TABLE)
    approvals.request("churn", 2, task_token="", timeout=timedelta(seconds=-1))

    function.handler({}, cloud.LambdaContext(remaining_ms=600_000))
    function.handler({}, cloud.LambdaContext(remaining_ms=600_000))

    assert approvals.get("churn", 2).status == "expired"
    assert stack.registry.get_version("churn", 2).status == "rejected"
    assert stack.registry.get_run(task.run_id).outcome == "expired"
    told = [e.action for e in stack.registry.audit("churn").items]
    assert told.count("approval_expired") == 1


def test_models_take_turns_where_time_is_short_and_those_that_wait_are_told(
    stack: cloud.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("alpha", "beta"), 7):
        cases.champion(stack.registry, number, cases.spec(name))
    seen: list[str] = []

    def watched(_: Any, model: str, *__: Any, **___: Any) -> Outcome:
        seen.append(model)
        return Outcome(model)

    monkeypatch.setattr(Monitor, "watch", watched)
    for hour in range(3):
        with pytest.raises(RetryableError, match="no time is left for"):
            function.handler(
                {"now": (NOON + hour * HOUR).isoformat()}, cloud.LambdaContext(remaining_ms=50_000)
            )

    assert sorted(seen) == ["alpha", "beta", "churn"]
