"""From a prediction's id to the version that answered."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millrace.aws.table import Update
from millrace.errors import InvalidRequestError, MillraceError, NotFoundError
from millrace.questions.predictions import Prediction, prediction
from millrace.registry import items
from millrace.registry.ledger import Ledger
from millrace.registry.live import Live, list_live, live_write
from millrace.registry.records import AuditEntry
from millrace.registry.registry import Registry
from millrace.serving.identity import Role, new_prediction_id
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

Made = Callable[[Role, int, datetime], str]


@pytest.fixture
def table() -> FakeTable:
    """churn@1, churn@2, and a rollback to the first."""
    table = FakeTable()
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    cases.champion(registry, 1)
    cases.champion(registry, 2)
    registry.rollback("churn", actor="ann", reason="complaints")
    return table


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Makes an id as the predict function did at a moment."""

    def make(role: Role, number: int, at: datetime) -> str:
        monkeypatch.setattr("time.time_ns", lambda: int(at.timestamp() * 1e9))
        return new_prediction_id(role, number)

    return make


def traffic(table: FakeTable) -> list[Live]:
    """Changes of traffic, the oldest first."""
    return list(reversed(list_live(table, "churn").items))


def ask(table: FakeTable, prediction_id: str, model: str = "churn", **how: Any) -> Prediction:
    now = datetime(2026, 12, 1, tzinfo=UTC)
    return prediction(model, prediction_id, table=table, data_bucket="data", **{"now": now, **how})


def test_each_answer_leads_to_the_version_that_gave_it(table: FakeTable, made: Made) -> None:
    for live, action in zip(traffic(table), ("promoted", "promoted", "rolled_back"), strict=True):
        found = ask(table, made(Role.CHAMPION, live.sequence, live.at + timedelta(seconds=1)))

        assert (found.role, found.version, found.sha256) == ("champion", live.version, live.sha256)
        assert (found.since, found.run_id) == (live.at, live.run_id)
        assert found.decision is not None
        assert (found.decision.action, found.decision.sequence) == (action, live.sequence)
        assert found.gates[0].passed
        assert found.report_key


def test_it_takes_four_requests_however_much_happened_since(table: FakeTable, made: Made) -> None:
    first = traffic(table)[0]
    prediction_id = made(Role.CHAMPION, first.sequence, first.at)
    registry = Registry(table, clock=FakeClock(), ids=counting_ids("later"))

    counts = []
    for number in (3, 4):
        table.calls.clear()
        ask(table, prediction_id)
        counts.append(list(table.calls))
        cases.champion(registry, number)

    assert counts[0] == counts[1] == ["get", "get", "query", "get"]


def test_an_answer_after_the_next_change_says_by_how_much(table: FakeTable, made: Made) -> None:
    first, second, _ = traffic(table)

    found = ask(table, made(Role.CHAMPION, first.sequence, second.at + timedelta(seconds=4)))

    assert found.version == 1
    assert found.until == second.at
    assert "answered 4.0 s after" in found.note


def test_a_challenger_leads_to_its_rollout_and_approval(table: FakeTable, made: Made) -> None:
    last = traffic(table)[-1]
    at = last.at + timedelta(minutes=1)
    approval = {"by": "eve", "at": "2026-11-01T12:00:00Z"}
    appended = Ledger(table).append(_step(at))
    sequence = appended.entries[0].sequence
    rollout = {
        "rollout_id": "churn-rollout-1",
        "step": 1,
        "strategy": "canary",
        "weight": 25.0,
        "version": 2,
        "sha256": "ab" * 32,
    }
    change = live_write(
        "churn",
        at=at,
        sequence=sequence,
        version=last.version,
        sha256=last.sha256,
        run_id=last.run_id,
        rollout=rollout,
    )
    approved = Update("version", items.version_key("churn", 2), {"approval": approval})
    table.transact([*appended.writes, change, approved], "a step")

    challenger = ask(table, made(Role.CHALLENGER, sequence, at))
    champion = ask(table, made(Role.CHAMPION, sequence, at))

    assert (challenger.role, challenger.version, champion.version) == ("challenger", 2, 1)
    assert challenger.rollout is not None
    assert (challenger.rollout.step, challenger.rollout.weight) == (1, 25.0)
    assert challenger.approval == approval
    assert champion.approval is None


def _step(at: datetime) -> AuditEntry:
    return AuditEntry(
        model="churn",
        at=at,
        entry_id="step",
        actor="rollout",
        action="traffic_set",
        subject="churn@2",
    )


def test_a_version_asked_for_by_number_needs_no_decision(table: FakeTable, made: Made) -> None:
    found = ask(table, made(Role.PINNED, 2, datetime(2026, 11, 2, tzinfo=UTC)))

    assert (found.role, found.version, found.decision, found.since) == ("pinned", 2, None, None)
    assert "by number" in found.note


def test_another_digest_in_the_registry_is_told(table: FakeTable, made: Made) -> None:
    live = traffic(table)[-1]
    table.transact(
        [Update("version", items.version_key("churn", 1), {"sha256": "ee" * 32})], "tamper"
    )

    found = ask(table, made(Role.CHAMPION, live.sequence, live.at))

    assert found.sha256 == live.sha256
    assert "another than the one that was served" in found.note


FIRST = 6
"""The ledger's entry of the first promotion."""

NOON = datetime(2026, 11, 1, 13, tzinfo=UTC)


@pytest.mark.parametrize(
    ("role", "number", "at", "error", "message"),
    [
        (Role.CHAMPION, 10_000, NOON, NotFoundError, "leads to nothing"),
        (Role.CHAMPION, 1, NOON, NotFoundError, "leads to nothing"),
        (Role.CHALLENGER, FIRST, NOON, NotFoundError, "leads to nothing"),
        (Role.PINNED, 9, NOON, NotFoundError, "leads to nothing"),
        (Role.UNREGISTERED, 0, NOON, NotFoundError, "outside a registry"),
        (
            Role.CHAMPION,
            FIRST,
            datetime(2026, 10, 1, tzinfo=UTC),
            NotFoundError,
            "leads to nothing",
        ),
        (Role.CHAMPION, FIRST, datetime(2027, 1, 1, tzinfo=UTC), InvalidRequestError, "has come"),
    ],
    ids=["no entry", "no traffic", "no rollout", "no version", "bundle", "before it", "future"],
)
def test_what_leads_nowhere_is_said_so(
    table: FakeTable,
    made: Made,
    role: Role,
    number: int,
    at: datetime,
    error: type[MillraceError],
    message: str,
) -> None:
    assert traffic(table)[0].sequence == FIRST

    with pytest.raises(error, match=message):
        ask(table, made(role, number, at))


@pytest.mark.parametrize("text", ["", "x", "01983f5e-6c00-4a10-8b3c-0123456789ab", "🦆" * 36])
def test_what_is_no_id_is_refused(table: FakeTable, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="UUID of version 7"):
        ask(table, text)


def test_an_unknown_model_is_not_found(table: FakeTable, made: Made) -> None:
    live = traffic(table)[-1]

    with pytest.raises(NotFoundError, match="no model 'other'"):
        ask(table, made(Role.CHAMPION, live.sequence, live.at), model="other")
