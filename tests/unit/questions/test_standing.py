"""Where a version stands: aliases, share of the traffic, rollouts, approval."""

import pytest

from millrace.aws.table import Update
from millrace.questions.standing import standing
from millrace.registry import items
from millrace.registry.registry import Registry
from millrace.registry.serving import serving_key
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable


@pytest.fixture
def table() -> FakeTable:
    """churn@1, and churn@2 the champion."""
    table = FakeTable()
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    cases.champion(registry, 1)
    cases.champion(registry, 2)
    return table


def registry(table: FakeTable) -> Registry:
    return Registry(table, clock=FakeClock(), ids=counting_ids("more"))


def route(table: FakeTable, strategy: str, weight: float) -> None:
    """Lets a rollout of churn@1 share the traffic."""
    version = registry(table).get_version("churn", 1)
    shared = {
        "rollout_id": "churn-rollout-1",
        "step": 0,
        "strategy": strategy,
        "weight": weight,
        "version": 1,
        "run_id": version.run_id,
        "model_key": version.model_key,
        "sha256": version.sha256,
        "signature_key": version.signature_key,
        "signature_sha256": version.signature_sha256,
    }
    table.transact([Update("serving", serving_key("churn"), {"rollout": shared})], "a step")


def test_a_champion_alone_answers_everything(table: FakeTable) -> None:
    champion, former = (registry(table).get_version("churn", n) for n in (2, 1))

    stands, was = standing(champion, table), standing(former, table)

    assert stands.aliases == ("champion",)
    assert stands.traffic is not None
    assert (stands.traffic.percent, stands.traffic.shadow) == (100.0, False)
    assert (was.aliases, was.traffic, was.rollouts) == ((), None, ())


@pytest.mark.parametrize(
    ("strategy", "champion", "challenger"),
    [("canary", 75.0, 25.0), ("shadow", 100.0, 25.0)],
)
def test_a_rollout_shares_the_traffic(
    table: FakeTable, strategy: str, champion: float, challenger: float
) -> None:
    route(table, strategy, 25.0)

    one, two = (standing(registry(table).get_version("churn", n), table) for n in (1, 2))

    assert one.aliases == ("challenger",)
    assert one.traffic is not None
    assert two.traffic is not None
    assert (one.traffic.percent, one.traffic.shadow) == (challenger, strategy == "shadow")
    assert two.traffic.percent == champion


def test_an_approval_is_shown_and_it_takes_three_requests(table: FakeTable) -> None:
    approval = {"by": "eve", "at": "2026-11-01T12:00:00Z", "reason": "reviewed"}
    table.transact(
        [Update("version", items.version_key("churn", 2), {"approval": approval})], "approve"
    )
    version = registry(table).get_version("churn", 2)
    table.calls.clear()

    assert standing(version, table).approval == approval
    assert table.calls == ["get", "get", "query"]


def test_a_version_without_any_champion_has_no_traffic() -> None:
    table = FakeTable()
    cases.candidate(registry(table), 1)

    assert standing(registry(table).get_version("churn", 1), table).traffic is None
