"""A model trains once in each slot of its calendar, whenever and however often the rule ticks."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import InvalidEventError, ServiceUnavailableError
from millrace.registry.calendar import slot_of
from millrace.registry.door import Door
from millrace.registry.records import RunOutcome
from tests.fakes import cases, cloud

Deliver = Callable[..., dict[str, Any]]
numbers = itertools.count(100)


def tick(moment: str, event_id: str = "tick-1") -> dict[str, Any]:
    """EventBridge's event of the calendar's rule."""
    return {
        "version": "0",
        "id": event_id,
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": moment,
        "region": "us-east-1",
        "resources": ["arn:aws:events:us-east-1:123456789012:rule/calendar"],
        "detail": {},
    }


def learnt(stack: cloud.Cloud, name: str = "churn", **retrain: Any) -> None:
    """A model with a dataset version, whose training ended long ago."""
    spec = cases.spec(name, retrain=retrain)
    stack.apply(spec)
    run = cases.run(next(numbers), spec)
    stack.registry.create_run(run)
    ingested = cases.ingested(f"d-{name}", name)
    stack.registry.record_dataset(cases.training_input(run), ingested, train_on_upload=True)
    stack.registry.finish_run(run.run_id, RunOutcome.PROMOTED)


def statuses(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["model"], one["status"]) for one in answer["admissions"]]


def test_each_slot_trains_once_however_often_the_rule_ticks(
    stack: cloud.Cloud, deliver: Deliver
) -> None:
    learnt(stack, on_schedule="weekly")

    first = deliver(tick("2030-01-07T03:00:00Z"))
    again = [deliver(tick(f"2030-01-{day:02d}T03:00:00Z")) for day in (7, 8, 13)]

    assert statuses(first) == [("churn", "started")]
    assert all(
        statuses(answer) in ([("churn", "duplicate")], [("churn", "ignored")]) for answer in again
    )
    [run_id] = stack.executions()
    run = stack.registry.get_run(run_id)
    assert (run.cause, run.requested_by) == ("schedule", "calendar")
    assert run.reason == "the weekly training of 2030-W02"
    assert run.labelled is not None


def test_a_training_that_began_in_the_slot_already_is_enough(
    stack: cloud.Cloud, deliver: Deliver
) -> None:
    learnt(stack, on_schedule="quarterly")
    today = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    deliver(
        {
            "source": "millrace.api",
            "detail-type": "Retrain Requested",
            "detail": {"model": "churn", "token": "by-hand"},
        }
    )

    answer = deliver(tick(today))

    assert statuses(answer) == [("churn", "ignored")]
    assert "already" in answer["admissions"][0]["reason"]


def test_models_without_a_calendar_or_data_are_left_alone(
    stack: cloud.Cloud, deliver: Deliver
) -> None:
    learnt(stack, "quiet")
    stack.apply(cases.spec("empty", retrain={"on_schedule": "daily"}))

    answer = deliver(tick("2030-01-07T03:00:00Z"))

    assert statuses(answer) == [("empty", "ignored")]
    assert "upload a file" in answer["admissions"][0]["reason"]
    assert stack.executions() == []


def test_a_model_over_its_budget_is_not_trained_by_the_calendar(
    stack: cloud.Cloud, deliver: Deliver
) -> None:
    learnt(stack, on_schedule="daily", monthly_budget=0.0001)
    run = cases.run(next(numbers), cases.spec(retrain={"on_schedule": "daily"})).model_copy(
        update={"started_at": datetime(2030, 1, 6, tzinfo=UTC), "train_seconds": 600.0}
    )
    stack.registry.create_run(run)
    stack.registry.finish_run(run.run_id, RunOutcome.GATES_FAILED)

    answer = deliver(tick("2030-01-07T03:00:00Z"))

    assert statuses(answer) == [("churn", "ignored")]
    assert "retrain.monthly_budget" in answer["admissions"][0]["reason"]


def test_one_models_failure_holds_up_no_other_and_is_told(
    stack: cloud.Cloud, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt(stack, "aa", on_schedule="daily")
    learnt(stack, "bb", on_schedule="daily")
    admit = Door.admit_slot

    def failing(self: Door, model: Any, *rest: Any) -> Any:
        if model.name == "aa":
            raise ServiceUnavailableError("no answer")
        return admit(self, model, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Door, "admit_slot", failing)
        with pytest.raises(ServiceUnavailableError, match="no answer"):
            deliver(tick("2030-01-07T03:00:00Z"))

    assert len(stack.executions()) == 1
    assert statuses(deliver(tick("2030-01-07T03:05:00Z"))) == [
        ("aa", "started"),
        ("bb", "duplicate"),
    ]


# ── Slots ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("schedule", "name", "begins"),
    [
        ("daily", "2027-01-01", "2027-01-01"),
        ("weekly", "2026-W53", "2026-12-28"),
        ("monthly", "2027-01", "2027-01-01"),
        ("quarterly", "2027-Q1", "2027-01-01"),
    ],
)
def test_a_slot_has_a_name_and_a_beginning(schedule: str, name: str, begins: str) -> None:
    slot = slot_of(schedule, datetime(2027, 1, 1, 3, tzinfo=UTC))

    assert slot.name == name
    assert slot.begins == datetime.fromisoformat(begins).replace(tzinfo=UTC)


@given(
    st.sampled_from(["daily", "weekly", "monthly", "quarterly"]),
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # made aware beside
)
def test_slots_follow_each_other_without_a_gap(schedule: str, moment: datetime) -> None:
    slot = slot_of(schedule, moment)

    assert slot.begins <= moment
    assert slot_of(schedule, slot.begins) == slot
    assert slot_of(schedule, slot.begins - timedelta(microseconds=1)).name != slot.name


def test_an_unknown_calendar_is_refused() -> None:
    with pytest.raises(InvalidEventError, match="daily, weekly, monthly or quarterly"):
        slot_of("yearly", datetime(2027, 1, 1, tzinfo=UTC))
