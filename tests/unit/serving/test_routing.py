"""A rollout shares the traffic of two versions, and never at an answer's cost."""

import asyncio
import json
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.http.service import Service, create_service
from millrace.observability import METRICS, metrics
from millrace.registry.serving import Offer, RolloutRoute, RolloutStrategy, ServingRecord
from millrace.serving import prediction
from millrace.serving.capture import of_line
from millrace.serving.identity import Role, describe, new_prediction_id
from millrace.serving.journal import PredictionLog
from millrace.serving.routing import ENTITY_HEADER, fraction
from millrace.serving.store import LoadedModel, ModelStore
from tests.fakes.onnx_models import StoredModel, churn_signature, stored
from tests.fakes.store import FakeStore
from tests.until import until

ROW: dict[str, Any] = {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"}
ENTITIES = st.binary(min_size=1, max_size=40)


# ── Who belongs to whom ─────────────────────────────────────────────────────────────────────────


@given(ENTITIES, st.text(min_size=1, max_size=30))
def test_an_entity_stands_at_one_place_of_a_rollout(entity: bytes, rollout: str) -> None:
    place = fraction(rollout, entity)

    assert 0.0 <= place < 1.0
    assert fraction(rollout, entity) == place


@given(st.lists(ENTITIES, unique=True), st.floats(0, 100), st.floats(0, 100))
def test_raising_the_weight_moves_only_those_it_must(
    entities: list[bytes], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    before = {e for e in entities if fraction("churn-7", e) < low / 100}
    after = {e for e in entities if fraction("churn-7", e) < high / 100}

    assert before <= after
    assert all(low / 100 <= fraction("churn-7", e) < high / 100 for e in after - before)


def test_the_challenger_gets_its_share_of_entities() -> None:
    entities = [f"customer-{n}".encode() for n in range(20_000)]

    for weight in (1, 5, 25, 50):
        share = sum(fraction("churn-7", e) < weight / 100 for e in entities) / len(entities)
        # Four standard deviations of a binomial share.
        assert abs(share - weight / 100) < 4 * (weight / 100 / len(entities)) ** 0.5


def test_another_rollout_divides_the_entities_anew() -> None:
    entities = [f"customer-{n}".encode() for n in range(4_000)]
    one, other = ([fraction(r, e) < 0.5 for e in entities] for r in ("churn-7", "churn-8"))

    both = sum(a and b for a, b in zip(one, other, strict=True)) / len(entities)
    assert 0.2 < both < 0.3


# ── Requests ────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Source:
    """The registry's serving item."""

    record: ServingRecord
    pinned: dict[int, ServingRecord] = field(default_factory=dict)

    def get_serving(self, model: str, version: int | None = None) -> ServingRecord:
        return self.record if version is None else self.pinned[version]

    def list_serving(self) -> list[Offer]:
        return [Offer(self.record.model, self.record.version)]


def record_of(model: StoredModel, version: int) -> ServingRecord:
    return ServingRecord(
        model=model.signature.model,
        version=version,
        run_id=f"run-{version}",
        model_key=model.model_key,
        sha256=model.sha256,
        signature_key=model.signature_key,
        signature_sha256=model.signature_sha256,
        updated_at=datetime(2026, 11, 1, tzinfo=UTC),
    )


@dataclass
class Rollout:
    """A service whose model is being rolled out: version 1 answers, version 2 comes."""

    challenger: StoredModel = field(default_factory=lambda: stored("run-2", bias=2.0))
    champion: StoredModel = field(default_factory=lambda: stored("run-1", bias=1.0))
    chances: list[float] = field(default_factory=list)
    now: float = 1_000.0

    def __post_init__(self) -> None:
        metrics.provider.clear_metrics()
        self.objects = FakeStore()
        self.put(self.champion)
        self.put(self.challenger)
        self.source = Source(replace(record_of(self.champion, 1), sequence=17))
        self.source.pinned = {1: record_of(self.champion, 1), 2: record_of(self.challenger, 2)}
        self.store = ModelStore(
            self.source,
            self.objects,
            "artifacts",
            refresh_seconds=30.0,
            clock=lambda: self.now,
            chance=lambda: self.chances.pop(0),
        )
        self.written: list[bytes] = []
        self.app: Service = create_service(
            self.store, new_id=new_prediction_id, journal=PredictionLog(self.written.append)
        )

    def put(self, model: StoredModel) -> None:
        for key, body in (
            (model.model_key, model.onnx),
            (model.signature_key, model.signature_body),
        ):
            self.objects.write("artifacts", key, body, content_type="x")

    def route(self, weight: float, strategy: str = "canary", step: int = 0, **how: Any) -> None:
        """Sets the traffic, as a rollout does, and lets a reading of it pass."""
        of = record_of(self.challenger, 2)
        route = RolloutRoute(
            rollout_id="churn-7",
            step=step,
            strategy=RolloutStrategy(strategy),
            weight=weight,
            version=2,
            run_id=of.run_id,
            model_key=of.model_key,
            sha256=how.get("sha256", of.sha256),
            signature_key=of.signature_key,
            signature_sha256=of.signature_sha256,
        )
        self.source.record = replace(self.source.record, rollout=route, sequence=18 + step)
        self.refresh()

    def refresh(self) -> None:
        """Lets the interval pass, and what is loaded behind the answers be there."""
        self.now += 60.0
        self.store.get("churn")
        entry = self.store._entries["churn", None]
        until(lambda: not entry.loading, pause=0.005)

    def ask(
        self, entity: str = "", *, path: str = "predict", rows: int = 1, **changes: Any
    ) -> "Answer":
        """One request, and what it left on the log."""
        body = json.dumps({"rows": [{**ROW, **changes}] * rows}).encode()
        headers = [(b"content-type", b"application/json")]
        if entity:
            headers.append((ENTITY_HEADER.lower().encode(), entity.encode()))
        return self.send(f"/v1/models/churn/{path}", body, headers)

    def send(
        self, path: str, body: bytes, headers: list[tuple[bytes, bytes]], query: bytes = b""
    ) -> "Answer":
        del self.written[:]
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": headers,
            "query_string": query,
        }
        asyncio.run(self.app(scope, receive, send))
        document = json.loads(sent[1]["body"])
        return Answer(sent[0]["status"], document, [json.loads(line) for line in self.written])


@dataclass(frozen=True)
class Answer:
    """An answer and its lines."""

    status: int
    body: dict[str, Any]
    lines: list[dict[str, Any]]

    @property
    def version(self) -> int:
        assert self.status == 200, self.body
        found = self.body.get("version") or self.body["model_version"]
        return int(found)

    @property
    def line(self) -> dict[str, Any]:
        """The line of the answer itself, the last."""
        return self.lines[-1]


def entities(count: int) -> list[str]:
    return [f"customer-{n}" for n in range(count)]


def test_an_entity_sees_one_version_through_a_whole_rollout() -> None:
    world = Rollout()
    world.ask()
    seen: dict[str, list[int]] = {entity: [] for entity in entities(40)}

    for step, weight in enumerate((5, 25, 50, 100)):
        world.route(weight, step=step)
        for entity, versions in seen.items():
            versions += [world.ask(entity).version for _ in range(2)]

    for entity, versions in seen.items():
        assert versions == sorted(versions), f"{entity} went back"
        assert versions[0::2] == versions[1::2], f"{entity} changed within a step"
        first = versions[::2].index(2)
        weights = (0, 5, 25, 50, 100)
        assert weights[first] <= 100 * fraction("churn-7", entity.encode()) < weights[first + 1]


def test_answer_id_and_line_tell_which_version_answered_and_why() -> None:
    world = Rollout()
    assert world.ask().line["role"] == "champion"
    assert "rollout" not in world.ask().line
    world.route(50, step=1)
    by_role = {"champion": 1, "challenger": 2}

    for entity in entities(12):
        answer = world.ask(entity)
        told = describe(answer.body["prediction_id"])
        assert by_role[answer.line["role"]] == answer.version == answer.line["version"]
        assert answer.line["rollout"] == {"id": "churn-7", "step": 1}
        assert (told.role.name.lower(), told.number) == (answer.line["role"], 19)
    assert len({world.ask(entity).version for entity in entities(12)}) == 2


def test_the_key_may_come_in_the_query_and_in_the_open_protocol() -> None:
    world = Rollout()
    world.ask()
    world.route(50)
    body = json.dumps({"rows": [ROW]}).encode()
    kinds = {"age": "INT64", "tenure": "FP64", "active": "BOOL", "plan": "BYTES", "city": "BYTES"}
    tensors = [
        {"name": name, "datatype": kinds[name], "shape": [1], "data": [value]}
        for name, value in ROW.items()
    ]

    for entity in entities(12):
        expected = world.ask(entity).version
        query = f"outputs=labels&entity={entity}".encode()
        assert world.send("/v1/models/churn/predict", body, [], query).version == expected
        asked = {"inputs": tensors, "parameters": {"entity": entity}}
        content = json.dumps(asked).encode()
        assert world.send("/v2/models/churn/infer", content, []).version == expected
        bare = json.dumps({"inputs": tensors}).encode()
        header = [(ENTITY_HEADER.lower().encode(), entity.encode())]
        assert world.send("/v2/models/churn/infer", bare, header).version == expected


def test_without_a_key_each_request_is_drawn() -> None:
    world = Rollout()
    world.ask()
    world.route(25)
    world.chances = [0.0, 0.2499, 0.25, 0.99]

    assert [world.ask().version for _ in range(4)] == [2, 2, 1, 1]


def test_a_version_asked_for_by_number_is_not_routed() -> None:
    world = Rollout()
    world.ask()
    world.route(100)

    pinned = world.ask("customer-1", path="versions/1/predict")

    assert pinned.version == 1
    assert (pinned.line["role"], "rollout" in pinned.line) == ("pinned", False)
    told = describe(pinned.body["prediction_id"])
    assert (told.role, told.number) == (Role.PINNED, 1)
    # Asking for it by number has not made the champion forget its rollout.
    assert world.ask("customer-1").version == 2


def test_when_a_rollout_ends_the_champion_answers_all() -> None:
    world = Rollout()
    world.ask()
    world.route(100)
    assert world.ask("customer-1").version == 2

    world.source.record = replace(world.source.record, rollout=None)
    world.refresh()

    assert world.ask("customer-1").version == 1


# ── What must not hurt an answer ────────────────────────────────────────────────────────────────


def counted(name: str) -> float:
    held = metrics.provider.metric_set.get(name)
    return float(sum(held["Value"])) if held else 0.0


def test_while_the_challenger_is_loaded_the_champion_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Rollout()
    world.ask()
    opened = threading.Event()
    read = world.objects.read

    def held(bucket: str, key: str, **how: Any) -> bytes:
        if key == world.challenger.model_key:
            assert opened.wait(10)
        return read(bucket, key, **how)

    monkeypatch.setattr(world.objects, "read", held)
    route = threading.Thread(target=world.route, args=(100,))
    route.start()
    until(lambda: world.store._entries["churn", None].loading, pause=0.005)

    answer = world.ask("customer-1")
    opened.set()
    route.join(10)

    assert (answer.version, answer.line["role"]) == (1, "champion")
    assert answer.line[METRICS.CHALLENGER_LACKING] == 1
    assert world.ask("customer-1").version == 2


def test_a_challenger_that_cannot_be_loaded_leaves_the_champion_answering() -> None:
    world = Rollout()
    world.ask()
    world.route(100, sha256="0" * 64)

    first = counted(METRICS.MODEL_LOAD_FAILURES)
    answer = world.ask("customer-1")
    told = counted(METRICS.MODEL_LOAD_FAILURES)
    world.refresh()

    assert answer.version == 1
    assert answer.line[METRICS.CHALLENGER_LACKING] == 1
    assert describe(answer.body["prediction_id"]).role is Role.CHAMPION
    # An alarm watches it; the next reading tries again.
    assert (first, told, counted(METRICS.MODEL_LOAD_FAILURES)) == (1, 0, 1)


def unsound(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """Makes a version answer what is no probability."""
    run = LoadedModel.run

    def broken(self: Any, batch: Any) -> Any:
        output = run(self, batch)
        return output * np.float32(np.nan) if self.version == version else output

    monkeypatch.setattr(LoadedModel, "run", broken)


def test_when_a_challenger_fails_the_champion_answers_and_the_failure_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Rollout()
    world.ask()
    world.route(100, step=2)
    unsound(monkeypatch, 2)

    answer = world.ask("customer-1")

    assert (answer.version, answer.line["role"]) == (1, "champion")
    assert describe(answer.body["prediction_id"]).role is Role.CHAMPION
    failed, answered = answer.lines
    assert failed["message"] == "challenger failed"
    assert (failed["version"], failed["role"], failed["error"]) == (
        2,
        "challenger",
        "ArtifactError",
    )
    assert failed["rollout"] == answered["rollout"] == {"id": "churn-7", "step": 2}
    assert failed[METRICS.CHALLENGER_FAILURES] == 1
    assert METRICS.PREDICTIONS_REFUSED not in failed


def test_a_challenger_that_does_not_take_the_request_does_not_refuse_it() -> None:
    signature = churn_signature()
    stricter = replace(
        signature,
        features=tuple(
            replace(f, nullable=False) if f.name == "tenure" else f for f in signature.features
        ),
    )
    world = Rollout(challenger=stored("run-2", bias=2.0, signature=stricter))
    world.ask()
    world.route(100)

    missing = world.ask("customer-1", tenure=None)
    wrong = world.ask("customer-1", age="forty")

    assert missing.version == 1
    assert [line.get("error") for line in missing.lines] == ["InvalidRequestError", None]
    # What neither takes is the caller's fault, and no version's.
    assert wrong.status == 422
    assert [line.get("role") for line in wrong.lines] == [None]


def test_a_champion_that_fails_is_told_with_its_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Rollout()
    world.ask()
    world.route(10)
    unsound(monkeypatch, 1)
    entity = next(e for e in entities(99) if fraction("churn-7", e.encode()) > 0.1)

    answer = world.ask(entity)

    assert answer.status == 500
    told = answer.line
    assert (told["version"], told["role"], told["error"]) == (1, "champion", "ArtifactError")
    assert told["rollout"] == {"id": "churn-7", "step": 0}


# ── Shadows ─────────────────────────────────────────────────────────────────────────────────────


def test_a_shadow_scores_the_same_rows_and_the_champion_answers() -> None:
    world = Rollout()
    world.ask()
    world.route(100, "shadow")
    world.chances = [0.5]

    answer = world.ask("customer-1", rows=3)

    assert (answer.version, answer.line["role"]) == (1, "champion")
    shadow = answer.line["capture"]["shadow"]
    assert shadow["version"] == 2
    assert shadow["latency_ms"] >= 0
    own = world.ask("customer-1", path="versions/2/predict", rows=3)
    [(first, *_)] = [own.line["capture"]["outputs"]["probabilities"]]
    assert shadow["outputs"]["probabilities"] == [first] * 3
    assert shadow["outputs"] != answer.line["capture"]["outputs"]
    assert of_line(answer.line).outputs == answer.line["capture"]["outputs"]


def test_a_share_of_requests_is_shadowed() -> None:
    world = Rollout()
    world.ask()
    world.route(25, "shadow")
    world.chances = [0.1, 0.24, 0.3, 0.9]

    shadowed = ["shadow" in world.ask("same").line["capture"] for _ in range(4)]

    assert shadowed == [True, True, False, False]


def test_a_failing_shadow_is_told_and_hurts_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Rollout()
    world.ask()
    before = world.ask("customer-1").body["predictions"]
    world.route(100, "shadow")
    world.chances = [0.5]
    unsound(monkeypatch, 2)

    answer = world.ask("customer-1")

    assert answer.version == 1
    assert answer.body["predictions"] == before
    shadow = answer.line["capture"]["shadow"]
    assert (shadow["version"], shadow["error"], "outputs" in shadow) == (2, "ArtifactError", False)
    assert answer.line[METRICS.CHALLENGER_FAILURES] == 1


def test_a_shadow_of_another_signature_reads_the_rows_by_its_own() -> None:
    signature = churn_signature()
    reordered = replace(signature, null_values=("NA", "basic"))
    world = Rollout(challenger=stored("run-2", bias=1.0, signature=reordered))
    world.ask()
    world.route(100, "shadow")
    world.chances = [0.5, 0.5]

    basic, premium = world.ask(plan="basic"), world.ask(plan="premium")

    assert basic.line["capture"]["shadow"]["outputs"] != basic.line["capture"]["outputs"]
    assert premium.line["capture"]["shadow"]["outputs"] == premium.line["capture"]["outputs"]


def test_a_large_request_is_not_scored_twice() -> None:
    world = Rollout()
    world.ask()
    world.route(100, "shadow")
    world.chances = [0.5]

    answer = world.ask(rows=prediction.MAX_SHADOW_ROWS + 1)

    assert answer.version == 1
    assert "shadow" not in answer.line["capture"]


def test_what_a_slow_shadow_adds_is_bounded_in_the_mean() -> None:
    world = Rollout()
    world.ask()
    world.route(100, "shadow")
    loaded = world.store.get("churn")
    ticks = iter(range(10_000))
    chances = iter(np.linspace(0, 1, 200, endpoint=False).tolist())
    shadows = prediction.Shadows(lambda: float(next(ticks)), lambda: next(chances))
    batch = loaded.codec.encode({"rows": [ROW]})

    # Each takes a whole second of the clock, where the mean may take a twentieth.
    scored = [shadows.score(loaded, loaded, batch, None) is not None for _ in range(200)]

    assert Counter(scored)[True] == pytest.approx(200 * prediction.SHADOW_SECONDS, abs=2)
