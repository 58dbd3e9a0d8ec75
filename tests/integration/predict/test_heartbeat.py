"""The heartbeat against the real predict function: judged rightly, and never counted as traffic."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions.heartbeat import handler as heartbeat
from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.execute_api import Answered
from millrace.errors import ServiceUnavailableError
from millrace.known_rows import known_row
from millrace.monitoring.heartbeat import Heartbeat
from millrace.observability import metrics
from millrace.registry.heartbeats import HEADER, heartbeat_key
from millrace.registry.serving import ServingReader
from millrace.signature import Reference, Signature
from tests.fakes import cases, cloud
from tests.fakes.onnx_models import churn_signature
from tests.integration.predict.conftest import ROW, Serving


class Door:
    """The API in front of the predict function; what passes may be changed on its way."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.sent: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.seconds = 0.05
        self.change: Callable[[dict[str, Any]], object] = lambda answer: None
        self.health = 200

    def call(
        self,
        method: str,
        route: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float,
    ) -> Answered:
        """See `ApiCaller.call`."""
        assert seconds == 10
        self.sent.append((route, body, headers or {}))
        if method == "GET":
            return Answered(self.health, b"{}", self.seconds)
        made = {"content-type": "application/json", **(headers or {})}
        reply = self.serving.call(method, route, body, headers=made)
        answer = reply.json
        self.change(answer)
        return Answered(reply.status, json.dumps(answer).encode(), self.seconds)


@pytest.fixture
def door(serving: Serving) -> Door:
    return Door(serving)


@pytest.fixture
def look(serving: Serving, door: Door) -> Heartbeat:
    """The heartbeat on the stack's table; it believes whatever signature the test crowned."""
    marks = iter(f"mark-{number}" for number in range(1_000))
    table = DynamoTable(client("dynamodb"), cloud.TABLE)
    return Heartbeat(
        table=table,
        serving=ServingReader(table).get_serving,
        signature=lambda record: Signature.from_json(
            client("s3")
            .get_object(Bucket=cases.ARTIFACT_BUCKET, Key=record.signature_key)["Body"]
            .read()
        ),
        api=door,
        now=lambda: datetime.now(UTC) + timedelta(hours=1),
        new_mark=lambda: next(marks),
        refresh=timedelta(seconds=30),
        deadline=10,
    )


@pytest.fixture
def today(serving: Serving, look: Heartbeat) -> Heartbeat:
    """The same by the clock that predictions go by, so that its marks prove something."""
    look._now = lambda: datetime.now(UTC)
    return look


def test_a_known_row_is_answered_and_is_no_traffic(
    serving: Serving, door: Door, today: Heartbeat, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.crown(1)
    serving.predict({"rows": [ROW]})
    capsys.readouterr()

    beat = today.model("churn")

    assert (beat.reason, beat.version, beat.skipped) == ("", 1, False)
    assert beat.seconds == 0.05
    [(route, body, headers)] = door.sent
    assert route == "/v1/models/churn/predict"
    assert json.loads(body)["rows"] == [known_row(churn_signature())]
    assert headers == {HEADER.lower(): "mark-0"}
    assert capsys.readouterr().out == ""


def test_a_refused_heartbeat_is_no_refused_prediction(
    serving: Serving, today: Heartbeat, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.crown(1)
    today._signature = lambda record: dataclasses.replace(
        churn_signature(), features=churn_signature().features[:1]
    )

    beat = today.model("churn")

    assert beat.reason == "expected status 200, got 422 (invalid_request)"
    assert "PredictionsRefused" not in capsys.readouterr().out


@pytest.mark.parametrize("mark", ["mark-9", "", "x" * 200], ids=["invented", "empty", "long"])
def test_a_client_cannot_hide_behind_an_invented_mark(
    serving: Serving, today: Heartbeat, capsys: pytest.CaptureFixture[str], mark: str
) -> None:
    serving.crown(1)
    today.model("churn")
    capsys.readouterr()

    serving.predict({"rows": [ROW]}, headers={HEADER: mark})

    [line] = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert line["Predictions"] == 1
    assert line["capture"]["sequence"] == 1


def test_a_mark_proves_nothing_of_another_model_or_after_a_minute(
    serving: Serving, look: Heartbeat, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.crown(1)
    look._now = lambda: datetime.now(UTC) - timedelta(minutes=2)
    look.model("churn")
    lines = capsys.readouterr().out.splitlines()

    assert [json.loads(line)["Predictions"] for line in lines if "Predictions" in line] == [1]


def test_an_answer_that_changes_under_a_version_is_found(
    serving: Serving, door: Door, look: Heartbeat
) -> None:
    serving.crown(1)
    assert look.model("churn").reason == ""
    assert look.model("churn").reason == ""

    def otherwise(answer: dict[str, Any]) -> None:
        for row in answer["predictions"]:
            row["probabilities"] = {k: v * 0.99 for k, v in row["probabilities"].items()}

    door.change = otherwise

    assert look.model("churn").reason == (
        "churn@1 answers its known row otherwise than it did before"
    )


def test_answers_of_new_versions_are_learned_and_few_are_kept(
    serving: Serving, look: Heartbeat
) -> None:
    for number in range(1, 7):
        serving.crown(number)
        serving.now += 60
        assert look.model("churn").reason == ""

    item = DynamoTable(client("dynamodb"), cloud.TABLE).get(heartbeat_key("churn"))

    assert item is not None
    assert set(json.loads(item["answers"])) == {"3", "4", "5", "6"}
    assert "mark-5" not in json.dumps(item, default=str)


def test_a_version_that_should_not_answer_is_told_and_a_former_one_may_for_a_while(
    serving: Serving, door: Door, look: Heartbeat
) -> None:
    serving.crown(1)
    look.model("churn")
    serving.crown(2)

    late = look.model("churn")
    look._now = lambda: datetime.now(UTC)
    soon = look.model("churn")

    assert late.reason == "expected churn@2 to answer, got churn@1"
    assert (soon.reason, soon.version) == ("", 1)


def test_a_late_answer_and_none_at_all_are_told(
    serving: Serving, door: Door, look: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.crown(1)
    door.seconds = 11.0
    late = look.model("churn")

    def broken(*_: Any, **__: Any) -> Answered:
        raise ServiceUnavailableError("POST /v1/models/churn/predict: timed out")

    monkeypatch.setattr(door, "call", broken)

    assert late.reason == "expected an answer within 10 s, got one in 11.0 s"
    assert look.model("churn").reason == "POST /v1/models/churn/predict: timed out"
    assert look.api().reason == "POST /v1/models/churn/predict: timed out"
    assert "NotFoundError" in look.model("nobody").reason


def test_two_heartbeats_at_once_are_one(serving: Serving, door: Door, look: Heartbeat) -> None:
    serving.crown(1)
    look.model("churn")
    second = look._new_mark

    def meanwhile() -> str:
        look._new_mark = second
        look.model("churn")
        return second()

    look._new_mark = meanwhile

    assert look.model("churn").skipped


def test_private_columns_stay_out_of_the_known_row() -> None:
    signature = churn_signature()
    private = [f.name for f in signature.features if f.private]
    assert private == ["city"]
    typical = Reference(
        numeric=tuple(1.6 for _ in signature.numeric),
        categorical=tuple("Graz" for _ in signature.categorical),
    )

    row = known_row(dataclasses.replace(signature, reference=typical))

    assert row.keys() == {f.name for f in signature.features}
    assert "Graz" not in {row[name] for name in private}
    assert row["active"] is True
    assert all(isinstance(row[f.name], int) for f in signature.numeric if f.type.value == "integer")


def test_a_known_row_without_a_reference_is_made_of_the_contract() -> None:
    signature = churn_signature()
    known = tuple(
        dataclasses.replace(f, nullable=False, categories=("basic", "pro"))
        if f.name == "plan"
        else f
        for f in signature.features
    )

    row = known_row(dataclasses.replace(signature, features=known))

    assert row["plan"] == "basic"
    assert all(row[f.name] is None for f in known if f.nullable)
    assert all(row[f.name] is not None for f in known if not f.nullable)


# ── The function ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def beats(
    serving: Serving, door: Door, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Invokes the function, whose calls go through the door."""
    monkeypatch.setenv("MILLRACE_API_URL", "https://api1.execute-api.us-east-1.amazonaws.com/live")
    monkeypatch.setenv("MILLRACE_AUTHORIZER", "IAM")
    monkeypatch.setattr(heartbeat, "caller", lambda: door)
    for made in (heartbeat.settings, heartbeat.reader, heartbeat.heartbeat):
        made.cache_clear()
    metrics.provider.clear_metrics()

    def invoke(remaining_ms: int = 200_000) -> dict[str, Any]:
        return heartbeat.handler({}, cloud.LambdaContext(remaining_ms=remaining_ms))

    return invoke


def figures(text: str) -> dict[str, list[float]]:
    """The metrics on the log."""
    lines = [json.loads(line) for line in text.splitlines() if "CloudWatchMetrics" in line]
    return {k: v for line in lines for k, v in line.items() if k.startswith("Heartbeat")}


def test_every_champion_is_asked_and_one_figure_tells(
    serving: Serving,
    door: Door,
    beats: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    serving.crown(1)
    well = beats()
    assert figures(capsys.readouterr().out) == {
        "HeartbeatSuccess": [1.0],
        "HeartbeatLatency": [50.0],
    }
    door.seconds = 12.0

    ill = beats()

    assert (well["models"], well["failed"], ill["failed"]) == (1, 0, 1)
    assert ill["beats"][0]["reason"].startswith("expected an answer within 10 s")
    assert figures(capsys.readouterr().out) == {
        "HeartbeatSuccess": [0.0],
        "HeartbeatLatency": [12_000.0],
    }


def test_without_a_champion_the_api_itself_is_asked(
    door: Door, beats: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert beats()["failed"] == 0
    assert figures(capsys.readouterr().out)["HeartbeatSuccess"] == [1.0]
    door.health = 503

    assert beats()["beats"][0]["reason"] == "expected status 200, got 503 (no problem details)"
    assert [route for route, _, _ in door.sent] == ["/v1/health", "/v1/health"]


def test_models_that_there_is_no_time_for_fail_the_beat(
    serving: Serving, beats: Callable[..., dict[str, Any]]
) -> None:
    serving.crown(1)

    assert beats(remaining_ms=20_000)["failed"] == 1
