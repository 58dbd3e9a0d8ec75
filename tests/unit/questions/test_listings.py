"""Listings that filter: honest about where they stopped, and bounded in what they ask."""

import pytest

from millrace.errors import InvalidEventError
from millrace.questions.history import History
from millrace.questions.lineage import lineage
from millrace.questions.listings import Listings
from millrace.registry import changes
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable


@pytest.fixture
def table() -> FakeTable:
    """Six champions of churn, one after another."""
    table = FakeTable()
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    for number in range(1, 7):
        cases.champion(registry, number)
    return table


def test_a_filtered_page_may_be_short_and_carries_on(
    table: FakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK", 2)
    listings, seen, sizes, token = Listings(table), [], [], None
    for _ in range(50):
        table.calls.clear()
        page = listings.audit("churn", action="promoted", limit=3, token=token)
        assert len(table.calls) <= changes.LOOKS + (token is None)
        seen += [e.subject for e in page.items]
        sizes.append(len(page.items))
        token = page.token
        if token is None:
            break

    assert token is None
    assert seen == [f"churn@{n}" for n in range(6, 0, -1)]
    assert 0 in sizes or 1 in sizes


def test_a_page_that_is_full_goes_on_behind_its_last_item(table: FakeTable) -> None:
    listings = Listings(table)

    first = listings.audit("churn", action="promoted", limit=2)
    rest = listings.audit("churn", action="promoted", limit=9, token=first.token)

    assert [e.subject for e in first.items + rest.items] == [f"churn@{n}" for n in range(6, 0, -1)]
    assert rest.token is None


def test_a_span_of_time_is_read_from_its_key(table: FakeTable) -> None:
    listings = Listings(table)
    whole = listings.audit("churn", limit=100).items
    table.calls.clear()

    part = listings.audit("churn", since=whole[9].at, until=whole[4].at, limit=100).items

    assert table.calls == ["query"]
    assert [e.sequence for e in part] == [
        e.sequence for e in whole if whole[9].at <= e.at <= whole[4].at
    ]


def test_a_token_from_outside_the_span_is_refused(table: FakeTable) -> None:
    listings = Listings(table)
    whole = listings.audit("churn", limit=100).items
    token = listings.audit("churn", since=whole[-1].at, limit=1).token

    with pytest.raises(InvalidEventError, match="token"):
        listings.audit("churn", until=whole[-1].at, limit=1, token=token)


def test_questions_cost_the_same_however_much_happened(table: FakeTable) -> None:
    registry = Registry(table, clock=FakeClock(), ids=counting_ids("more"))

    def asked() -> list[list[str]]:
        counts = []
        for question in (
            lambda: Listings(table).audit("churn", limit=5),
            lambda: Listings(table).models(prefix="ch", limit=5),
            lambda: History(table).changes("churn", limit=3),
            lambda: lineage("churn", 2, registry=registry, table=table, data_bucket="d"),
        ):
            table.calls.clear()
            question()
            counts.append(list(table.calls))
        return counts

    before = asked()
    for number in range(7, 12):
        cases.champion(registry, number)

    assert asked() == before
