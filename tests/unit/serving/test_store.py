"""Which version answers, how often the registry is asked, and what survives a bad artifact."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import orjson
import pytest

from millrace import layout
from millrace.errors import (
    ArtifactError,
    ConflictError,
    DigestMismatchError,
    MillraceError,
    NoChampionError,
    NotFoundError,
    ServiceUnavailableError,
    ThrottledError,
)
from millrace.observability import METRICS, metrics
from millrace.registry.serving import Offer, RolloutRoute, RolloutStrategy, ServingRecord
from millrace.serving import store as store_module
from millrace.serving import telemetry
from millrace.serving.store import AHEAD, ModelState, ModelStore, footprint
from tests.fakes.onnx_models import StoredModel, churn_signature, stored
from tests.fakes.store import FakeStore
from tests.until import until

BUCKET = "artifacts"
REFRESH = 30.0
ROW = {"age": 41, "plan": "basic", "tenure": None, "active": True, "city": "Graz"}


@dataclass
class FakeSource:
    """Says what to serve, and counts how often it is asked."""

    records: dict[str, ServingRecord | MillraceError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    listed: int = 0

    def get_serving(self, model: str, version: int | None = None) -> ServingRecord:
        name = model if version is None else f"{model}@{version}"
        self.asked.append(name)
        answer = self.records.get(name) or NotFoundError(f"there is no model {name!r}")
        if isinstance(answer, MillraceError):
            raise answer
        return answer

    def list_serving(self) -> list[Offer]:
        self.listed += 1
        return [
            Offer(name, None if isinstance(record, MillraceError) else record.version)
            for name, record in sorted(self.records.items())
            if "@" not in name
        ]


@dataclass
class World:
    """A store with its surroundings."""

    source: FakeSource = field(default_factory=FakeSource)
    objects: FakeStore = field(default_factory=FakeStore)
    now: float = 1000.0
    capacity: int = 8 * 2**20
    store: ModelStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = ModelStore(
            self.source,
            self.objects,
            BUCKET,
            refresh_seconds=REFRESH,
            clock=lambda: self.now,
            capacity_bytes=self.capacity,
        )

    def publish(
        self, version: int, model: StoredModel | None = None, **changes: str
    ) -> StoredModel:
        """Makes a version the champion."""
        model = model or stored(f"run-{version}", bias=float(version))
        self.objects.write(BUCKET, model.model_key, model.onnx, content_type="x")
        self.objects.write(BUCKET, model.signature_key, model.signature_body, content_type="x")
        self.source.records[model.signature.model] = ServingRecord(
            model=model.signature.model,
            version=version,
            run_id=f"run-{version}",
            model_key=model.model_key,
            sha256=changes.get("sha256", model.sha256),
            signature_key=model.signature_key,
            signature_sha256=changes.get("signature_sha256", model.signature_sha256),
            updated_at=datetime(2026, 11, 1, tzinfo=UTC),
        )
        return model

    def damage(self, key: str) -> None:
        """Flips one bit of a stored object."""
        body = bytearray(self.objects.read(BUCKET, key))
        body[len(body) // 2] ^= 1
        self.objects.write(BUCKET, key, bytes(body), content_type="x")


@dataclass
class Loads:
    """Counts loads, as a server on premises does."""

    count: int = 0

    def loaded(self, model: str) -> None:
        self.count += 1

    def load_failed(self, model: str | None) -> None:
        """Counted by the metric."""


LOADS = Loads()


@pytest.fixture(autouse=True)
def loads() -> Iterator[None]:
    LOADS.count = 0
    telemetry.observe(LOADS)
    yield
    telemetry.unobserve()


@pytest.fixture
def world() -> World:
    metrics.provider.clear_metrics()
    return World()


def counted(metric: str) -> float:
    if metric == METRICS.MODEL_LOADS:
        return LOADS.count
    held = metrics.provider.metric_set.get(metric)
    return float(sum(held["Value"])) if held else 0.0


def test_the_champion_answers(world: World) -> None:
    world.publish(1)

    loaded = world.store.get("churn")
    batch = loaded.codec.decode(orjson.dumps({"rows": [ROW]}))

    # age gives 0.41, active 0.5, plan basic minus one, the bias one
    assert loaded.run(batch)[0, 1] == pytest.approx(1 / (1 + 2.718281828**-0.91), abs=1e-6)
    assert loaded.version == 1
    assert counted(METRICS.MODEL_LOADS) == 1


def test_the_warm_path_asks_nobody_within_the_interval(world: World) -> None:
    world.publish(1)
    first = world.store.get("churn")
    world.objects.objects.clear()
    world.now += REFRESH * (1 - AHEAD) - 0.1

    assert all(world.store.get("churn") is first for _ in range(5))
    assert world.source.asked == ["churn"]


def test_an_unchanged_champion_is_not_loaded_again(world: World) -> None:
    world.publish(1)
    first = world.store.get("churn")
    world.objects.objects.clear()
    world.now += REFRESH

    assert world.store.get("churn") is first
    assert world.source.asked == ["churn", "churn"]


def test_a_promotion_is_visible_after_the_interval_and_not_before(world: World) -> None:
    world.publish(1)
    world.store.get("churn")
    world.publish(2)

    world.now += REFRESH - 0.1
    assert world.store.get("churn").version == 1
    world.now += 0.2
    assert world.store.get("churn").version == 2


def test_a_rollback_to_a_version_in_memory_loads_nothing(world: World) -> None:
    world.publish(1)
    first = world.store.get("churn")
    before = world.source.records["churn"]
    world.publish(2)
    world.now += REFRESH
    world.store.get("churn")
    world.source.records["churn"] = before
    world.objects.objects.clear()
    world.now += REFRESH

    assert world.store.get("churn") is first


@pytest.mark.parametrize("what", ["model_key", "signature_key"])
def test_a_damaged_artifact_leaves_the_last_good_version_answering(world: World, what: str) -> None:
    world.publish(1)
    world.store.get("churn")
    bad = world.publish(2)
    world.damage(getattr(bad, what))
    world.now += REFRESH

    assert world.store.get("churn").version == 1
    assert counted(METRICS.MODEL_LOAD_FAILURES) == 1
    assert world.store.get("churn").version == 1
    assert counted(METRICS.MODEL_LOAD_FAILURES) == 1


def test_a_mended_version_is_taken_at_the_next_refresh(world: World) -> None:
    world.publish(1)
    world.store.get("churn")
    bad = world.publish(2)
    world.damage(bad.model_key)
    world.now += REFRESH
    world.store.get("churn")
    world.objects.write(BUCKET, bad.model_key, bad.onnx, content_type="x")

    assert world.store.get("churn").version == 1
    world.now += REFRESH
    assert world.store.get("churn").version == 2


@pytest.mark.parametrize("what", ["model_key", "signature_key"])
def test_a_damaged_first_version_is_refused_and_not_read_at_every_request(
    world: World, what: str
) -> None:
    bad = world.publish(1)
    world.damage(getattr(bad, what))

    for _ in range(3):
        with pytest.raises(DigestMismatchError, match="churn@1"):
            world.store.get("churn")

    assert world.source.asked == ["churn"]
    assert counted(METRICS.MODEL_LOAD_FAILURES) == 1


def test_a_registered_artifact_that_is_gone_is_no_missing_model(world: World) -> None:
    model = world.publish(1)
    del world.objects.objects[BUCKET, model.model_key]

    with pytest.raises(ArtifactError, match="does not exist"):
        world.store.get("churn")


def test_a_signature_of_another_model_is_refused(world: World) -> None:
    other = stored("run-1", signature=churn_signature("other"))
    world.publish(1, other)
    world.source.records["churn"] = replace(
        world.source.records["other"],  # type: ignore[type-var]  # a record, no error
        model="churn",
    )

    with pytest.raises(ArtifactError, match="expected model churn, got other"):
        world.store.get("churn")


def test_an_unreachable_registry_leaves_the_last_version_answering(world: World) -> None:
    world.publish(1)
    world.store.get("churn")
    world.source.records["churn"] = ServiceUnavailableError("down")
    world.now += REFRESH

    assert world.store.get("churn").version == 1
    assert world.store.get("churn").version == 1
    assert len(world.source.asked) == 2


def test_an_unreachable_registry_is_asked_again_while_nothing_is_loaded(world: World) -> None:
    world.source.records["churn"] = ServiceUnavailableError("down")
    with pytest.raises(ServiceUnavailableError):
        world.store.get("churn")
    world.publish(1)

    assert world.store.get("churn").version == 1


def test_an_unreachable_bucket_is_asked_again_while_nothing_is_loaded(world: World) -> None:
    class Down(FakeStore):
        def read(self, bucket: str, key: str, *, version_id: str | None = None) -> bytes:
            raise ThrottledError("slow down")

    world.publish(1)
    good, world.store._objects = world.store._objects, Down()
    with pytest.raises(ThrottledError):
        world.store.get("churn")
    world.store._objects = good

    assert world.store.get("churn").version == 1


def test_a_model_without_champion_is_said_so_and_noticed_later(world: World) -> None:
    world.source.records["churn"] = NoChampionError("model 'churn' has no champion yet")
    for _ in range(3):
        with pytest.raises(NoChampionError):
            world.store.get("churn")
    world.publish(1)
    world.now += REFRESH

    assert world.store.get("churn").version == 1
    assert len(world.source.asked) == 2


def test_a_champion_that_is_taken_away_stops_answering(world: World) -> None:
    world.publish(1)
    world.store.get("churn")
    world.source.records["churn"] = NoChampionError("model 'churn' has no champion yet")
    world.now += REFRESH

    with pytest.raises(NoChampionError):
        world.store.get("churn")


def test_unknown_names_are_remembered_within_bounds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_ABSENT", 5)
    for _ in range(3):
        for number in range(4):
            with pytest.raises(NotFoundError):
                world.store.get(f"name-{number}")
    assert len(world.source.asked) == 4

    for number in range(50):
        with pytest.raises(NotFoundError):
            world.store.get(f"other-{number}")
    assert len(world.store._absent) == 5


def test_invented_names_do_not_hammer_the_registry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_LOOKUPS_PER_INTERVAL", 10)
    world.publish(1)
    world.store.get("churn")
    outcomes = []
    for number in range(30):
        with pytest.raises((NotFoundError, ThrottledError)) as caught:
            world.store.get(f"invented-{number}")
        outcomes.append(caught.type)

    assert len(world.source.asked) == 10
    assert outcomes.count(ThrottledError) == 21
    assert world.store.get("churn").version == 1
    world.now += REFRESH
    with pytest.raises(NotFoundError):
        world.store.get("invented-99")


def test_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    models = [stored("run-1", name=name) for name in ("model-a", "model-b", "model-c")]
    world = World(capacity=2 * footprint(len(models[0].onnx)) + 10)
    for model in models:
        world.publish(1, model)
    first, second = world.store.get("model-a"), world.store.get("model-b")

    world.store.get("model-c")

    assert len(world.store._loaded) == 2
    assert world.store.get("model-b") is second
    assert world.store.get("model-a") is not first


def test_one_hot_model_among_a_hundred_is_never_loaded_twice() -> None:
    models = [stored("run-1", name=f"model-{number:03d}") for number in range(100)]
    world = World(capacity=10 * footprint(len(models[0].onnx)))
    for model in models:
        world.publish(1, model)
    hot = world.store.get("model-000")

    for turn in range(2):
        for number in range(1, 100):
            world.store.get(f"model-{number:03d}")
            assert world.store.get("model-000") is hot, turn

    assert len(world.store._loaded) == 10
    assert world.source.asked.count("model-000") == 1


def test_a_model_larger_than_the_memory_still_answers() -> None:
    world = World(capacity=1)
    world.publish(1)

    assert world.store.get("churn") is world.store.get("churn")


def in_threads(count: int, action: Callable[[], None]) -> None:
    threads = [threading.Thread(target=action) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert not any(t.is_alive() for t in threads)


def test_one_thread_loads_for_all(world: World) -> None:
    world.publish(1)
    got: list[int] = []

    in_threads(8, lambda: got.append(world.store.get("churn").version))

    assert got == [1] * 8
    assert world.source.asked == ["churn"]


@dataclass
class Gate:
    """Holds a source's answers back until it is opened."""

    world: World
    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    threads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.quick = self.world.source.get_serving
        self.world.source.get_serving = self.get_serving  # type: ignore[method-assign]

    def get_serving(self, model: str, version: int | None = None) -> ServingRecord:
        self.threads.append(threading.current_thread().name)
        self.entered.set()
        assert self.opened.wait(10)
        return self.quick(model, version)

    def open(self) -> None:
        """Lets the answers out, and waits for the thread that reads behind an answer."""
        reading = self.world.store._entries["churn", None].reading
        self.opened.set()
        if reading is not None:
            assert reading.done.wait(10)


def test_a_new_champion_is_loaded_behind_the_answer(world: World) -> None:
    world.publish(1)
    world.store.get("churn")
    world.publish(2)
    gate = Gate(world)
    world.now += REFRESH - 0.1

    assert [world.store.get("churn").version for _ in range(3)] == [1, 1, 1]
    assert gate.entered.wait(10)
    assert threading.current_thread().name not in gate.threads
    gate.open()

    assert world.store.get("churn").version == 2
    assert len(gate.threads) == 1
    assert counted(METRICS.MODEL_LOADS) == 2


def test_no_answer_is_older_than_the_interval_however_slow_the_load(world: World) -> None:
    world.publish(1)
    world.store.get("churn")
    world.publish(2)
    gate = Gate(world)
    world.now += REFRESH - 0.1
    assert world.store.get("churn").version == 1
    world.now += 0.2
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.append(world.store.get("churn").version))
    waiting.start()
    assert gate.entered.wait(10)
    assert not got

    gate.open()
    waiting.join(timeout=10)

    assert got == [2]
    assert len(gate.threads) == 1


def test_a_reading_that_slept_in_a_frozen_environment_is_done_again(world: World) -> None:
    world.publish(1)
    world.store.get("churn")
    world.publish(2)
    gate = Gate(world)
    world.now += REFRESH - 0.1
    world.store.get("churn")
    gate.open()
    world.publish(3)
    world.now += 600

    assert world.store.get("churn").version == 3
    assert len(gate.threads) == 2


def test_a_reading_that_broke_in_a_frozen_environment_rings_no_alarm(world: World) -> None:
    world.publish(1)
    world.store.get("churn")
    bad = world.publish(2)
    good = world.objects.read(BUCKET, bad.model_key)
    world.damage(bad.model_key)
    gate = Gate(world)
    world.now += REFRESH - 0.1
    world.store.get("churn")
    gate.open()
    world.objects.write(BUCKET, bad.model_key, good, content_type="x")
    world.now += 600

    assert world.store.get("churn").version == 2
    assert counted(METRICS.MODEL_LOAD_FAILURES) == 0


def test_a_load_that_hangs_leaves_the_last_version_answering(world: World) -> None:
    world.publish(1)
    world.store.get("churn")
    world.publish(2)
    gate = Gate(world)
    world.store._patience = 0.05
    world.now += REFRESH - 0.1
    world.store.get("churn")
    world.now += 1

    assert world.store.get("churn").version == 1
    gate.open()
    assert world.store.get("churn").version == 2


def test_a_restored_snapshot_asks_anew_and_loads_nothing(world: World) -> None:
    world.publish(1)
    first = world.store.get("churn")
    world.objects.objects.clear()

    world.store.expire()

    assert world.store.get("churn") is first
    assert world.source.asked == ["churn", "churn"]


def test_changed_facts_of_the_same_version_are_taken_without_a_load(world: World) -> None:
    world.publish(1)
    first = world.store.get("churn")
    record = world.source.records["churn"]
    assert isinstance(record, ServingRecord)
    later = record.updated_at.replace(year=2027)
    world.source.records["churn"] = replace(record, updated_at=later)
    world.objects.objects.clear()
    world.now += REFRESH

    second = world.store.get("churn")

    assert second.record.updated_at == later
    assert second.model is first.model


# ── Named versions ──────────────────────────────────────────────────────────────────────────────


def test_a_named_version_answers_beside_the_champion(world: World) -> None:
    world.publish(1)
    world.source.records["churn@1"] = world.source.records["churn"]
    world.publish(2)

    assert world.store.get("churn", 1).version == 1
    assert world.store.get("churn").version == 2
    assert world.source.asked == ["churn@1", "churn"]


def test_a_champion_asked_for_by_its_number_is_loaded_once(world: World) -> None:
    world.publish(1)
    world.source.records["churn@1"] = world.source.records["churn"]

    assert world.store.get("churn", 1) is world.store.get("churn")
    assert counted(METRICS.MODEL_LOADS) == 1


def test_a_version_that_is_rejected_stops_answering(world: World) -> None:
    world.publish(1)
    world.source.records["churn@1"] = world.source.records["churn"]
    world.store.get("churn", 1)
    world.source.records["churn@1"] = ConflictError("churn@1 is rejected")
    world.now += REFRESH

    for _ in range(2):
        with pytest.raises(ConflictError, match="rejected"):
            world.store.get("churn", 1)
    assert world.source.asked == ["churn@1", "churn@1"]
    assert world.store.get("churn").version == 1


# ── The index ───────────────────────────────────────────────────────────────────────────────────


def test_the_index_names_every_model_and_whether_it_can_answer(world: World) -> None:
    for name in ("churn", "model-a"):
        world.publish(1, stored("run-1", name=name))
    world.source.records["fresh"] = NoChampionError("none yet")
    world.damage(layout.model_key("model-a", "run-1"))
    with pytest.raises(ArtifactError):
        world.store.get("model-a")

    assert world.store.models() == (
        ModelState("churn", 1, "READY"),
        ModelState("fresh", None, "UNAVAILABLE", "it has no champion"),
        ModelState("model-a", 1, "UNAVAILABLE", "DigestMismatchError"),
    )


def test_the_index_is_read_once_per_interval(world: World) -> None:
    world.publish(1)
    for _ in range(3):
        world.store.models()
    world.now += REFRESH
    world.store.models()

    assert world.source.listed == 2


def test_readiness_loads_the_model_and_tells_absence_from_trouble(world: World) -> None:
    world.publish(1)
    bad = world.publish(1, stored("run-1", name="model-a"))
    world.damage(bad.model_key)

    assert world.store.is_ready("churn")
    assert not world.store.is_ready("model-a")
    with pytest.raises(NotFoundError):
        world.store.is_ready("nobody")
    assert counted(METRICS.MODEL_LOADS) == 1


def test_preloading_stops_when_memory_is_full() -> None:
    models = [stored("run-1", name=f"model-{letter}") for letter in "abcd"]
    world = World(capacity=2 * footprint(len(models[0].onnx)))
    for model in models:
        world.publish(1, model)
    world.damage(models[0].model_key)

    assert world.store.preload() == 2
    assert world.source.asked == ["model-a", "model-b", "model-c"]


def test_telemetry_that_fails_harms_no_load(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("metrics are down")

    monkeypatch.setattr(metrics, "add_metric", broken)
    world.publish(1)

    assert world.store.get("churn").version == 1


def rolling_out(world: World) -> str:
    """A champion with a rollout of version 2, whose artifact is damaged; gives its key."""
    world.publish(1)
    other = stored("run-2", bias=2.0)
    for key, body in (
        (other.model_key, other.onnx),
        (other.signature_key, other.signature_body),
    ):
        world.objects.write(BUCKET, key, body, content_type="x")
    record = world.source.records["churn"]
    assert isinstance(record, ServingRecord)
    route = RolloutRoute(
        rollout_id="churn-2-x",
        step=0,
        strategy=RolloutStrategy.CANARY,
        weight=100.0,
        version=2,
        run_id="run-2",
        model_key=other.model_key,
        sha256=other.sha256,
        signature_key=other.signature_key,
        signature_sha256=other.signature_sha256,
    )
    world.source.records["churn"] = replace(record, rollout=route, sequence=1)
    return other.model_key


@pytest.mark.parametrize("lost", ["champion", "challenger", "pinned"])
def test_the_line_of_a_failed_load_names_the_role_and_the_version(
    world: World, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr(
        "millrace.observability.logger.error", lambda *_, extra, **__: told.append(extra)
    )
    challenger = rolling_out(world)
    champion = world.source.records["churn"]
    assert isinstance(champion, ServingRecord)
    if lost == "challenger":
        world.damage(challenger)
        assert world.store.choose("churn").loaded.version == 1
        until(lambda: told or None)
    else:
        world.damage(champion.model_key)
        world.source.records["churn@1"] = replace(champion, rollout=None)
        with pytest.raises(ArtifactError):
            world.store.get("churn", 1 if lost == "pinned" else None)

    version = 2 if lost == "challenger" else 1
    assert [(line["role"], line["version"]) for line in told] == [(lost, version)]
    assert counted(METRICS.MODEL_LOAD_FAILURES) == 1
