"""Entries of the ledger as events: the committed schema, the order, and what a bad record does."""

import json
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from millrace.aws.sns import Notice
from millrace.aws.table import to_item
from millrace.errors import ServiceUnavailableError
from millrace.registry import links
from millrace.registry.approvals import Approvals
from millrace.registry.events import RegistryEvent, detail_type, event_of
from millrace.registry.ledger import entry_key, from_entry
from millrace.registry.notices import notice_of
from millrace.registry.publishing import Publisher
from millrace.registry.records import Approval, AuditEntry
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL
PAGE = Path(__file__).parents[3] / "docs" / "events.md"
SCHEMA = json.loads(
    resources.files("millrace.registry").joinpath("event.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=FormatChecker())


class Bus:
    """A bus that remembers; it may refuse some actions."""

    def __init__(self, *, refuses: str = "") -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._refuses = refuses

    def put(self, *, source: str, detail_type: str, detail: str, at: datetime) -> None:
        document = json.loads(detail)
        if document["action"] == self._refuses:
            raise ServiceUnavailableError("the bus is busy")
        assert source == "millrace.registry"
        self.events.append((detail_type, document))


class Told:
    """A notifier that remembers."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)


class World:
    """A registry, what listens to it, and a stream between."""

    def __init__(self, *, refuses: str = "", address: str = "https://api.example.org/live") -> None:
        self.table = FakeTable()
        clock, ids = FakeClock(), counting_ids()
        self.registry = Registry(self.table, clock=clock, ids=ids)
        self.approvals = Approvals(self.table, clock=clock, ids=ids)
        self.bus, self.told = Bus(refuses=refuses), Told()
        self.publisher = Publisher(
            bus=self.bus, notifier=self.told, approvals=self.approvals, address=address
        )

    def asked(self, **rules: Any) -> Approval:
        task = cases.candidate(self.registry, 1)
        judged = cases.evaluated(task.run_id)
        self.registry.record_evaluation(task, 1, judged, automatic=False)
        given = {"task_token": "token", "timeout": timedelta(days=1), **rules}
        return self.approvals.request(M, 1, **given)

    def stream(self) -> list[dict[str, Any]]:
        """What the stream would deliver: every entry, in its order."""
        entries = reversed(self.registry.audit(M, limit=100).items)
        return [record_of(entry) for entry in entries]


def record_of(entry: AuditEntry) -> dict[str, Any]:
    key = entry_key(entry.model, entry.sequence)
    item = to_item({"PK": key.pk, "SK": key.sk, **from_entry(entry)})
    return {
        "eventName": "INSERT",
        "dynamodb": {
            "Keys": {"PK": {"S": key.pk}, "SK": {"S": key.sk}},
            "NewImage": item,
            "SequenceNumber": f"{entry.sequence:021d}",
        },
    }


@pytest.fixture
def world() -> World:
    return World()


def test_the_committed_schema_is_that_of_the_code() -> None:
    made = RegistryEvent.model_json_schema(mode="serialization")

    assert {"$schema": "https://json-schema.org/draft/2020-12/schema", **made} == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)


def test_every_entry_of_a_models_life_is_an_event_of_the_schema(world: World) -> None:
    cases.champion(world.registry, 1)
    cases.champion(world.registry, 2)
    world.registry.rollback(M, actor="ann", reason="complaints")

    assert world.publisher.publish(world.stream()) is None

    assert [e["sequence"] for _, e in world.bus.events] == list(range(1, len(world.bus.events) + 1))
    assert {e["action"] for _, e in world.bus.events} >= {
        "spec_applied",
        "run_created",
        "dataset_recorded",
        "version_registered",
        "version_validated",
        "promoted",
        "run_finished",
        "rolled_back",
    }
    for kind, event in world.bus.events:
        VALIDATOR.validate(event)
        assert kind == detail_type(event["action"])


@pytest.mark.parametrize(
    "broken",
    [{"schema_version": "2"}, {"sequence": 0}, {"hash": "no"}, {"at": "yesterday"}, {"more": 1}],
)
def test_the_schema_refuses_what_is_no_event(world: World, broken: dict[str, Any]) -> None:
    cases.champion(world.registry, 1)
    event = json.loads(event_of(world.registry.audit(M).items[0]).model_dump_json())
    VALIDATOR.validate(event)

    with pytest.raises(ValidationError):
        VALIDATOR.validate({**event, **broken})


def test_the_example_in_the_docs_is_an_event_of_the_schema() -> None:
    text = PAGE.read_text(encoding="utf-8")
    example = json.loads(text.partition("```json\n")[2].partition("```")[0])

    VALIDATOR.validate(example["detail"])
    assert example["source"] == "millrace.registry"
    assert example["detail-type"] == detail_type(example["detail"]["action"])


def test_what_is_no_new_entry_is_passed_over(world: World) -> None:
    cases.champion(world.registry, 1)
    [first, *_] = world.stream()
    others = [
        {**first, "eventName": "REMOVE"},
        {**first, "eventName": "MODIFY"},
        {"eventName": "INSERT", "dynamodb": {"Keys": {"SK": {"S": "META"}}}},
        {},
    ]

    assert world.publisher.publish(others) is None
    assert world.bus.events == []


@pytest.mark.parametrize("damage", ["image", "hash", "sequence"])
def test_a_record_that_cannot_be_read_stops_its_batch_there(world: World, damage: str) -> None:
    cases.champion(world.registry, 1)
    stream = world.stream()
    if damage == "image":
        del stream[2]["dynamodb"]["NewImage"]
    else:
        stream[2]["dynamodb"]["NewImage"][damage] = {"S": "?"}

    failed = world.publisher.publish(stream)

    assert failed == stream[2]["dynamodb"]["SequenceNumber"]
    assert len(world.bus.events) == 2


def test_a_bus_that_is_busy_is_tried_again_from_the_same_entry() -> None:
    world = World(refuses="version_registered")
    cases.champion(world.registry, 1)
    stream = world.stream()

    failed = world.publisher.publish(stream)

    place = next(i for i, r in enumerate(stream) if r["dynamodb"]["SequenceNumber"] == failed)
    assert len(world.bus.events) == place
    assert json.dumps(stream[place]).count("version_registered") == 1


# ── People ──────────────────────────────────────────────────────────────────────────────────────


def test_a_request_brings_its_link_and_what_to_do(world: World) -> None:
    asked = world.asked()

    world.publisher.publish(world.stream())

    [notice] = world.told.notices
    assert notice.event == "approval_requested"
    assert notice.subject == "churn@1 passed its gates and waits for your approval"
    assert f"https://api.example.org/live{links.PATH}{links.sign(asked)}" in notice.next_step
    assert "millrace approve churn@1" in notice.next_step
    assert notice.why == "better than the champion"
    assert all(asked.link_secret not in json.dumps(e) for _, e in world.bus.events)


def test_without_links_a_request_says_how_to_decide() -> None:
    world = World(address="")
    world.asked()

    world.publisher.publish(world.stream())

    [notice] = world.told.notices
    assert "https://" not in notice.next_step
    assert "millrace approve churn@1" in notice.next_step


def test_under_four_eyes_the_link_is_to_look_only(world: World) -> None:
    world.asked(four_eyes=True)

    world.publisher.publish(world.stream())

    assert "signed in as an approver" in world.told.notices[0].next_step


@pytest.mark.parametrize("ending", ["rejected", "expired"])
def test_an_ending_says_why_and_what_to_do(world: World, ending: str) -> None:
    world.asked()
    if ending == "rejected":
        world.approvals.decide(M, 1, "reject", actor="user:ada", reason="an old extract")
    else:
        world.approvals.expire(M, 1)

    world.publisher.publish(world.stream())

    notice = world.told.notices[-1]
    assert notice.event == f"approval_{ending}"
    assert notice.why
    assert notice.next_step
    assert ("an old extract" in notice.why) == (ending == "rejected")


def test_what_others_tell_is_not_told_from_the_ledger_too(world: World) -> None:
    """Recorder, watcher and API tell of these changes themselves: people read each once."""
    for number in (1, 2):
        cases.champion(world.registry, number)
    world.registry.rollback(M, actor="ann", reason="why")
    for action in ("rollout_started", "rollout_promoted", "rollout_rolled_back", "batch_finished"):
        entry = world.registry.audit(M).items[0].model_copy(update={"action": action})
        assert notice_of(entry, lambda: None, lambda _: "") is None

    world.publisher.publish(world.stream())

    assert len(world.bus.events) > 8
    assert world.told.notices == []


def test_an_event_says_when_in_utc(world: World) -> None:
    cases.champion(world.registry, 1)

    event = event_of(world.registry.audit(M).items[0])

    assert event.at.astimezone(UTC) == event.at
