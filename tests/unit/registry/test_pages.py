"""Listings: pages that join up, newest first, and tokens nobody can bend."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import InvalidEventError, NotFoundError
from millrace.registry.pages import Page, decode_token, encode_token
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL


@pytest.fixture(scope="module")
def table() -> FakeTable:
    """A model with 5 runs, versions and dataset versions, and two more models."""
    table = FakeTable()
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    for number in range(1, 6):
        cases.champion(registry, number)
    for name in ("aaa", "zzz"):
        cases.apply(registry, cases.spec(name))
    return table


@pytest.fixture
def registry(table: FakeTable) -> Registry:
    table.calls.clear()
    return Registry(table, clock=FakeClock(), ids=counting_ids("more"))


@pytest.mark.parametrize("limit", [1, 2, 5, 50])
def test_pages_join_and_the_newest_is_first(registry: Registry, limit: int) -> None:
    seen: list[int] = []
    token = None
    for _ in range(10):
        items, token = registry.list_versions(M, limit=limit, token=token)
        seen += [v.version for v in items]
        if token is None:
            break

    assert seen == [5, 4, 3, 2, 1]


def test_every_listing_pages(registry: Registry) -> None:
    first: list[Page] = [
        registry.list_models(limit=2),
        registry.list_runs(M, limit=2),
        registry.list_datasets(M, limit=2),
        registry.audit(M, limit=2),
    ]

    assert [m.name for m in first[0].items] == ["aaa", "churn"]
    assert [r.correlation_id for r in first[1].items] == ["event-5", "event-4"]
    assert [d.dataset_version for d in first[2].items] == ["d5", "d4"]
    assert first[3].items[0].at >= first[3].items[1].at
    second = registry.list_models(limit=2, token=first[0].token)
    assert [m.name for m in second.items] == ["zzz"]
    assert second.token is None
    assert [
        r.correlation_id for r in registry.list_runs(M, limit=2, token=first[1].token).items
    ] == [
        "event-3",
        "event-2",
    ]
    assert registry.list_specs(M).items[0].version == 1


def test_a_page_costs_one_request_however_much_there_is(
    registry: Registry, table: FakeTable
) -> None:
    registry.list_versions(M, limit=1)
    registry.list_runs(M, limit=1)
    registry.audit(M, limit=1)
    registry.get_serving(M)

    assert table.calls == ["query", "query", "query", "get"]


def test_listing_of_an_unknown_model_says_so(registry: Registry) -> None:
    for listing in (
        registry.list_versions,
        registry.list_runs,
        registry.list_datasets,
        registry.list_specs,
        registry.audit,
    ):
        with pytest.raises(NotFoundError, match="'nobody'"):
            listing("nobody")


@pytest.mark.parametrize("limit", [0, -1, 201])
def test_limit_out_of_range_is_refused(registry: Registry, limit: int) -> None:
    with pytest.raises(InvalidEventError, match="limit: expected 1 to 200"):
        registry.list_models(limit=limit)


def made(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "not base64!",
        "ÿ",
        made([]),
        made("text"),
        made({}),
        made({"PK": "MODEL#churn"}),
        made({"PK": "MODEL#churn", "SK": 3}),
        made({"PK": "MODEL#churn", "SK": ""}),
        made({"PK": "MODEL#churn", "SK": "VERSION#" + "9" * 2000}),
        made({"PK": "MODEL#other", "SK": "VERSION#000001"}),
        made({"PK": "MODEL#churn", "SK": "AUDIT#2026"}),
        made({"PK": "MODEL#churn", "SK": "VERSION#000001", "GSI1PK": "MODELS"}),
        made({"PK": "MODEL#churn", "SK": "VERSION#\ud800"}),
        base64.urlsafe_b64encode(b"[" * 50_000).decode(),
    ],
)
def test_token_that_was_not_given_is_refused(registry: Registry, token: str) -> None:
    with pytest.raises(InvalidEventError, match="expected the token of this listing"):
        registry.list_versions(M, token=token)


def test_token_of_another_listing_is_refused(registry: Registry) -> None:
    token = registry.audit(M, limit=1).token

    with pytest.raises(InvalidEventError):
        registry.list_versions(M, token=token)
    with pytest.raises(InvalidEventError):
        registry.list_models(token=token)


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_refused(token: str) -> None:
    with pytest.raises(InvalidEventError):
        decode_token(token, pk="MODEL#churn", prefix="VERSION#", index=False)


@given(st.text(min_size=1, max_size=50), st.text(max_size=50))
def test_token_leads_back_to_its_item(pk: str, rest: str) -> None:
    item = {"PK": pk, "SK": "VERSION#" + rest, "other": 1}
    token = encode_token(item, index=False)

    assert decode_token(token, pk=pk, prefix="VERSION#", index=False) == {
        "PK": pk,
        "SK": "VERSION#" + rest,
    }
