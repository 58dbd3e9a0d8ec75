"""Which windows are due, and which are judged again."""

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from millrace.monitoring.findings import Against, Finding, Policy, Verdict
from millrace.monitoring.hours import HourCounts, WindowCounts
from millrace.monitoring.windows import (
    Judged,
    Plan,
    Unseen,
    WindowBook,
    due,
    labels_told,
    outdated,
)
from millrace.spec import ModelSpec, MonitorSection
from tests import samples
from tests.fakes.table import FakeTable

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PLAN = Plan(2 * HOUR, 8 * HOUR, 200)


def hours(*rows: int) -> list[WindowCounts]:
    """So many rows in each hour from noon; hours without any have no counts."""
    return [
        WindowCounts(
            "churn",
            1,
            NOON + n * HOUR,
            NOON + (n + 1) * HOUR,
            requests=count,
            rows=count,
            hours={NOON + n * HOUR: HourCounts(NOON + n * HOUR, count)},
        )
        for n, count in enumerate(rows)
        if count
    ]


def spans(
    *rows: int, closed: int = 100, judged: Sequence[tuple[int, int]] = ()
) -> list[tuple[int, int]]:
    """Windows due as hours from noon."""
    before = [(NOON + since * HOUR, NOON + until * HOUR) for since, until in judged]
    found = due(hours(*rows), NOON + closed * HOUR, PLAN, before)
    return [(int((a - NOON) / HOUR), int((b - NOON) / HOUR)) for a, b in found]


@pytest.mark.parametrize(
    ("rows", "closed", "expected"),
    [
        ((), 9, []),
        ((300, 300, 300, 300), 9, [(0, 2), (2, 4)]),
        ((300, 300), 1, []),
        ((300,), 9, [(0, 2)]),
        ((90, 0, 90, 0, 90), 9, [(0, 5)]),
        ((90,), 7, []),
        ((90,), 8, [(0, 8)]),
        ((90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 300), 20, [(0, 8), (11, 13)]),
        ((0, 0, 300), 9, [(2, 4)]),
    ],
)
def test_windows_are_cut_where_there_is_enough(
    rows: tuple[int, ...], closed: int, expected: list[tuple[int, int]]
) -> None:
    assert spans(*rows, closed=closed) == expected


def test_what_was_judged_is_not_due_again() -> None:
    assert spans(300, 300, 300, 300, judged=[(0, 2)]) == [(2, 4)]


@pytest.mark.parametrize(
    ("rows", "judged", "expected"),
    [
        ((300, 300, 300, 300), [(2, 4)], [(0, 2)]),
        ((300, 50, 0, 300, 300), [(0, 1), (3, 5)], [(1, 3)]),
        ((0, 300, 0, 0, 300, 300, 300), [(0, 1), (2, 4)], [(1, 2), (4, 6), (6, 8)]),
    ],
)
def test_hours_that_came_after_later_ones_are_a_window_between_those_that_were_judged(
    rows: tuple[int, ...], judged: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    assert spans(*rows, judged=judged) == expected


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(0, 60), st.integers(0, 60))
def test_windows_do_not_depend_on_when_they_are_looked_for(
    rows: list[int], early: int, late: int
) -> None:
    early, late = sorted((early, late))
    first = spans(*rows, closed=early)

    assert first + spans(*rows, closed=late, judged=first) == spans(*rows, closed=late)
    for since, until in first:
        assert until <= early
        assert 2 <= until - since <= 8


def judged(since: int, until: int, requests: int) -> Judged:
    """A window as it was judged."""
    a, b = NOON + since * HOUR, NOON + until * HOUR
    verdict = Verdict("churn", 1, a, b, requests, "ok")
    return Judged(a, b, 1, requests, 0, b, "ok", verdict, 1)


def test_a_window_of_which_more_was_counted_is_judged_again() -> None:
    before = [judged(0, 2, 600), judged(2, 4, 500)]

    assert outdated(before, hours(300, 300, 300, 300)) == [before[1]]
    assert outdated(before, hours(300)) == [], "counts that expired are none that came late"


def test_days_of_late_labels_are_judged_again_less_and_less_often() -> None:
    book = WindowBook(table := FakeTable(), timedelta(days=90))
    day = NOON.replace(hour=0)

    def told(labels: int) -> None:
        for write in labels_told("churn", {day: labels}, timedelta(days=90)):
            table.update(write)

    assert book.unseen_labels("churn", NOON) == {}
    told(5)
    unseen = book.unseen_labels("churn", NOON)
    assert unseen == {day: Unseen(5, NOON)}
    book.note_labels("churn", unseen, lambda _: True)
    assert book.unseen_labels("churn", NOON) == {}
    told(1)
    assert book.unseen_labels("churn", NOON + HOUR) == {}, "judged an hour ago"
    assert book.unseen_labels("churn", NOON + 2 * HOUR) == {day: Unseen(6, NOON + 2 * HOUR)}


def test_a_day_that_was_judged_in_part_goes_on_where_it_was_left() -> None:
    book = WindowBook(table := FakeTable(), timedelta(days=90))
    day = NOON.replace(hour=0)
    for write in labels_told("churn", {day: 5}, timedelta(days=90)):
        table.update(write)

    begun = book.unseen_labels("churn", NOON)
    book.note_labels("churn", begun, lambda _: False)
    for write in labels_told("churn", {day: 2}, timedelta(days=90)):
        table.update(write)

    assert book.unseen_labels("churn", NOON + HOUR) == begun
    book.note_labels("churn", begun, lambda _: True)
    later = NOON + 3 * HOUR
    assert book.unseen_labels("churn", later) == {day: Unseen(7, later)}, "two came meanwhile"


def test_a_window_comes_back_as_it_was_kept() -> None:
    book = WindowBook(FakeTable(), timedelta(days=90))
    verdict = Verdict("churn", 1, NOON, NOON + HOUR, 300, "watch", "something")
    counts = hours(300)[0]

    kept = book.record(verdict, counts, None, NOON + 2 * HOUR)

    assert book.judged("churn", NOON, NOON) == [kept]
    assert book.judged("churn", NOON + HOUR, NOON + 9 * HOUR) == []
    assert kept.verdict == verdict
    assert book.record(verdict, counts, kept, NOON + 3 * HOUR).revision == 2


def moved(number: int, draw: random.Random, against: Against = "training") -> Finding:
    """A finding of one of very many features, with all that is told of it."""
    return Finding(
        kind="feature_drift",
        subject=f"a feature with quite a long name {number}",
        statistic="psi",
        value=draw.random(),
        effect=draw.random(),
        p_value=draw.random(),
        threshold=draw.random(),
        against=against,
        rows=300,
        first_seen=NOON - HOUR,
        persisted=2,
        verdict="alarm" if against == "training" else "watch",
        parameters={"direction": ",".join(str(draw.randint(-99, 99)) for _ in range(51))},
        text="x" * 500,
    )


def test_a_window_in_which_thousands_of_features_moved_fits_its_item() -> None:
    book = WindowBook(table := FakeTable(), timedelta(days=90))
    draw = random.Random(6)
    findings = tuple(
        moved(number, draw, against) for number in range(3_000) for against in get_args(Against)
    )
    verdict = Verdict("churn", 1, NOON, NOON + HOUR, 300, "alarm", "y" * 90_000, findings)

    kept = book.record(verdict, hours(300)[0], None, NOON + 2 * HOUR)

    (item,) = table.query("MONITOR#churn").items
    assert len(json.dumps(item)) < 300_000
    assert item["findings"] == {"feature_drift": {"alarm": 3_000, "watch": 6_000}}
    (found,) = book.judged("churn", NOON, NOON)
    assert found == kept
    assert {f.against for f in found.verdict.findings} == {"training"}
    largest = max(findings, key=lambda f: f.effect or 0.0 if f.against == "training" else 0.0)
    (again,) = [f for f in found.verdict.findings if f.key == largest.key]
    assert (again.first_seen, again.persisted, again.verdict, again.parameters) == (
        largest.first_seen,
        largest.persisted,
        largest.verdict,
        largest.parameters,
    )


def test_a_spec_that_says_nothing_is_judged_by_the_policy_of_the_curves() -> None:
    section, policy = MonitorSection(), Policy()

    for name in ("min_rows", "significance", "min_drift", "persistence"):
        assert getattr(section, name) == getattr(policy, name), name


@pytest.mark.parametrize(
    "wrong", [{"window": "90m"}, {"window": "32d"}, {"window": "2d", "max_window": "1d"}]
)
def test_windows_are_of_whole_hours_and_can_grow(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        MonitorSection.model_validate(wrong)


def test_a_spec_keeps_its_digest_where_it_says_nothing_of_windows() -> None:
    silent, sampled = samples.spec(), samples.spec(monitor={"capture_rate": 0.5})

    assert "monitor" not in json.loads(silent.to_json())
    assert json.loads(sampled.to_json())["monitor"] == {"capture_rate": 0.5}
    longer = samples.spec(monitor={"window": "24h"})
    assert json.loads(longer.to_json())["monitor"] == {"capture_rate": 1.0, "window": "24h"}
    assert ModelSpec.from_yaml(longer.to_json()).digest == longer.digest
