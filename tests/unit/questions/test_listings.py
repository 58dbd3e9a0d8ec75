"""Listings that filter: honest about where they stopped, and bounded in what they ask."""

from datetime import UTC, datetime, timedelta

import pytest

from millrace.errors import InvalidEventError
from millrace.messages import Cause, LabelledRows
from millrace.monitoring.episodes import Episodes
from millrace.questions.history import History
from millrace.questions.lineage import Kind, lineage, picture
from millrace.questions.listings import Listings
from millrace.registry import changes
from millrace.registry.registry import Registry
from millrace.serving.identity import predicted_at
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.monitoring import finding, window
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


def test_lineage_shows_the_labelled_predictions_of_a_retraining_and_the_alarm_that_asked_for_it() -> (
    None
):
    table = FakeTable()
    clock = FakeClock()
    registry = Registry(table, clock=clock, ids=counting_ids())
    cases.champion(registry, 1)
    spec = cases.spec()
    run = cases.run(2, spec, cause=Cause.DRIFT, reason="roc_auc fell")
    registry.create_run(run)
    task = cases.training_input(run)
    until = datetime(2026, 11, 21, 12, tzinfo=UTC)
    taken = LabelledRows(
        base_version="d1",
        base_key="datasets/churn/d1.parquet",
        key="datasets/churn/labelled/run-2.parquet",
        rows=1_700,
        new=1_200,
        lacking=3,
        since=until - timedelta(days=4),
        until=until,
    )
    ingest = cases.ingested("d2").model_copy(update={"labelled": taken})
    registry.record_dataset(task, ingest, train_on_upload=True)
    registry.register_version(task, ingest, cases.fitted(run.run_id))
    episodes = Episodes(table, clock=clock, ids=counting_ids("alarm"))
    report = window(0, finding("performance", "roc_auc"), finding())
    rang, drifted = sorted(episodes.observe(report).episodes, key=lambda e: e.kind != "performance")
    episodes.note_retraining("churn", rang.id, run.run_id, text="it started it")

    found = lineage("churn", 2, registry=registry, table=table, data_bucket="data")

    nodes = {node.kind: node for node in found.nodes if node.name != "d1"}
    labelled, alarm = nodes[Kind.LABELLED], nodes[Kind.ALARM]
    assert labelled.name == "1,700 labelled predictions"
    assert labelled.facts["of_earlier_trainings"] == 500
    ids = labelled.facts["new_ids_from"], labelled.facts["new_ids_before"]
    assert [predicted_at(f"{begin}-7000-8000-000000000000") for begin in ids] == [
        taken.since,
        taken.until,
    ]
    assert alarm.facts["alarm"] == rang.id != drifted.id
    joined = {(e.source, e.target, e.how) for e in found.edges}
    data, trained = nodes[Kind.DATASET].id, nodes[Kind.RUN].id
    assert {
        (labelled.id, data, "joined in"),
        (f"{Kind.DATASET}:d1", data, "stayed in"),
        (alarm.id, trained, "started"),
    } <= joined
    drawn = picture(found)
    assert "1,200 of them new" in drawn
    assert "performance: roc_auc" in drawn
