"""Tallies: what lines of the log add up to, each delivery once."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.monitoring import tallies
from millrace.monitoring.counting import LATENCY_BINS, latency_bin, latency_edge
from millrace.monitoring.tallies import Place, count_lines, disagree, score_bin
from tests import samples
from tests.fakes.table import FakeTable

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def line(
    role: str = "champion", *, step: Any = 0, rollout: Any = "churn-7-abc", **more: Any
) -> str:
    of = samples.capture_line() | {"role": role, "rollout": {"id": rollout, "step": step}} | more
    return json.dumps(of)


def test_requests_errors_latency_and_scores_are_counted_by_role() -> None:
    failed = {k: v for k, v in samples.capture_line().items() if k != "capture"}
    failed |= {"role": "challenger", "rollout": {"id": "churn-7-abc", "step": 0}, "version": 7}
    failed |= {"error": "RuntimeError"}

    found = count_lines([line(), line(PredictionLatency=9.0), json.dumps(failed)])

    champion = found[Place("churn-7-abc", 0, "champion")]
    assert (champion.version, champion.requests, champion.rows, champion.errors) == (3, 2, 4, 0)
    assert champion.latency == Counter({latency_bin(1.42): 1, latency_bin(9.0): 1})
    assert champion.scores == Counter({2: 2})
    challenger = found[Place("churn-7-abc", 0, "challenger")]
    assert (challenger.version, challenger.requests, challenger.errors) == (7, 1, 1)
    assert challenger.latency.total() == 0


def test_a_shadow_counts_for_the_challenger_beside_the_champion() -> None:
    part = samples.capture_line()["capture"]
    agreeing = {"version": 7, "outputs": {"probabilities": [[0.8, 0.2], [0.4, 0.6]]}}
    differing = {"version": 7, "outputs": {"probabilities": [[0.2, 0.8], [0.4, 0.6]]}}
    broken = {"version": 7, "error": "RuntimeError"}
    found = count_lines(
        [line(capture={**part, "shadow": one}) for one in (agreeing, differing, broken)]
    )

    shadow = found[Place("churn-7-abc", 0, "challenger")]
    assert (shadow.version, shadow.requests, shadow.errors) == (7, 3, 1)
    assert (shadow.compared, shadow.disagreements) == (2, 1)
    assert shadow.scores == Counter({4: 1, 16: 1})
    assert found[Place("churn-7-abc", 0, "champion")].requests == 3


@pytest.mark.parametrize(
    "message",
    [
        "not json",
        "[]",
        json.dumps(samples.capture_line()),
        line(role="pinned"),
        line(step="0"),
        line(step=-1),
        line(step=1_000),
        line(rollout="Bad Id"),
        line(rollout=None),
        line(version="3"),
    ],
)
def test_a_line_of_no_rollout_counts_for_nothing(message: str) -> None:
    assert count_lines([message]) == {}


def test_a_delivery_is_added_once_and_others_add_up() -> None:
    table = FakeTable()
    first, second = [line(), line("challenger", version=7)], [line(step=0, correlation_id="b")]

    assert tallies.add(table, first, now=NOW) == 2
    assert tallies.add(table, first, now=NOW) == 0
    assert tallies.add(table, second, now=NOW) == 1

    champion, challenger = tallies.read(table, "churn-7-abc", 0)
    assert (champion.requests, challenger.requests) == (2, 1)
    assert champion.scores == Counter({2: 2})
    assert challenger.version == 7
    markers = [item for item in table.items() if item["PK"].startswith("TALLIED#")]
    assert all(item["expires_at"] > NOW.timestamp() for item in markers)


def test_a_delivery_of_many_rollouts_is_added_in_parts_each_once() -> None:
    table = FakeTable()
    many = [line(rollout=f"churn-{n}-abc") for n in range(150)]

    assert tallies.add(table, many, now=NOW) == 150
    assert tallies.add(table, many, now=NOW) == 0


def test_steps_are_counted_apart_and_nothing_counted_is_nothing() -> None:
    table = FakeTable()
    tallies.add(table, [line(step=0), line(step=1), line(step=1)], now=NOW)

    assert tallies.read(table, "churn-7-abc", 0)[0].requests == 1
    assert tallies.read(table, "churn-7-abc", 1)[0].requests == 2
    assert tallies.read(table, "churn-7-abc", 2)[0].requests == 0


def test_lines_of_no_rollout_cost_no_request() -> None:
    table = FakeTable()

    assert tallies.add(table, [json.dumps(samples.capture_line())], now=NOW) == 0
    assert table.calls == []


# ── Bins ────────────────────────────────────────────────────────────────────────────────────────


@given(st.floats(0, 1e7))
def test_a_latency_lies_in_its_bin(milliseconds: float) -> None:
    number = latency_bin(milliseconds)

    assert 0 <= number < LATENCY_BINS
    if 0 < number < LATENCY_BINS - 1:
        assert latency_edge(number) <= milliseconds * (1 + 1e-9)
        assert milliseconds <= latency_edge(number + 1) * (1 + 1e-9)


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_bins_of_numbers_stand_in_their_order(one: float, other: float) -> None:
    first, second = (score_bin({"prediction": [number]}) for number in sorted((one, other)))

    assert first is not None
    assert second is not None
    assert first <= second


@pytest.mark.parametrize(
    ("outputs", "number"),
    [
        ({"probabilities": [[0.1, 0.9]]}, 18),
        ({"probabilities": [[0.0, 1.0]]}, 19),
        ({"probabilities": [[0.2, 0.5, 0.3]]}, 10),
        ({"probabilities": [[]]}, None),
        ({"probabilities": []}, None),
        ({"probabilities": [["a", "b"]]}, None),
        ({"prediction": [None]}, None),
        ({}, None),
    ],
)
def test_a_score_is_that_of_the_first_row(outputs: dict[str, Any], number: int | None) -> None:
    assert score_bin(outputs) == number


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ({"probabilities": [[0.9, 0.1]]}, {"probabilities": [[0.6, 0.4]]}, False),
        ({"probabilities": [[0.9, 0.1]]}, {"probabilities": [[0.4, 0.6]]}, True),
        ({"prediction": [100.0]}, {"prediction": [105.0]}, False),
        ({"prediction": [100.0]}, {"prediction": [120.0]}, True),
        ({"prediction": [0.0]}, {"prediction": [0.0]}, False),
        ({"prediction": [1.0]}, {"probabilities": [[1.0]]}, None),
        ({"prediction": []}, {"prediction": [1.0]}, None),
    ],
)
def test_disagreement(one: dict[str, Any], other: dict[str, Any], differ: bool | None) -> None:
    assert disagree(one, other) is differ
