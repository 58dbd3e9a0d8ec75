"""The state table: its edges, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import InvalidTransitionError
from millrace.registry.records import VersionStatus
from millrace.registry.states import TABLE, Event, as_mermaid, as_table, transition

DOCS = Path(__file__).parents[3] / "docs" / "registry.md"

states = st.none() | st.sampled_from(VersionStatus)
events = st.sampled_from(Event)


@given(states, events)
def test_an_edge_leads_on_and_anything_else_is_refused(
    before: VersionStatus | None, event: Event
) -> None:
    if (before, event) in TABLE:
        assert transition(before, event, "churn@3") is TABLE[before, event]
        return
    with pytest.raises(InvalidTransitionError, match="churn@3"):
        transition(before, event, "churn@3")


@given(st.lists(events, max_size=30))
def test_a_champion_got_there_by_gates_or_by_force(history: list[Event]) -> None:
    state: VersionStatus | None = None
    earned = False
    for event in history:
        try:
            state = transition(state, event, "m@1")
        except InvalidTransitionError:
            continue
        earned = earned or event in (Event.PASS_GATES, Event.FORCE_PROMOTE)
        if state is VersionStatus.CHAMPION:
            assert earned


def test_every_state_is_reachable_and_none_is_a_dead_end_but_by_choice() -> None:
    reached = set(TABLE.values())
    left = {before for before, _ in TABLE if before is not None}

    assert reached == set(VersionStatus)
    assert left == set(VersionStatus)


def test_only_registration_begins_and_nothing_registers_twice() -> None:
    assert [e for b, e in TABLE if b is None] == [Event.REGISTER]
    assert [b for b, e in TABLE if e is Event.REGISTER] == [None]


def test_refusal_says_what_to_do() -> None:
    with pytest.raises(
        InvalidTransitionError,
        match=r"cannot promote churn@3: it is archived; it was champion before; roll back to it",
    ):
        transition(VersionStatus.ARCHIVED, Event.PROMOTE, "churn@3")


def test_docs_draw_this_table() -> None:
    page = DOCS.read_text(encoding="utf-8")

    assert as_mermaid() in page
    assert as_table() in page
