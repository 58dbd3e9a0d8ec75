"""Rollouts in the registry: one at a time, one write for each change of traffic, and no lost race."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.aws.dynamodb import Write
from millrace.errors import (
    ChampionChangedError,
    ConflictError,
    FinalError,
    InvalidTransitionError,
    NoChampionError,
    NotFoundError,
    ServiceUnavailableError,
)
from millrace.registry.live import list_live
from millrace.registry.records import RunOutcome
from millrace.registry.registry import Registry
from millrace.registry.rollout_records import Judgement, Rollout
from millrace.registry.rollout_states import (
    ACTIVE,
    OPEN,
    TABLE,
    RolloutEvent,
    RolloutStatus,
    as_mermaid,
    as_table,
    transition,
)
from millrace.registry.rollouts import Rollouts
from millrace.spec import RolloutSection
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL
DOCS = Path(__file__).parents[3] / "docs" / "rollouts.md"
S = RolloutStatus


class Losing(FakeTable):
    """Fails at the n-th transaction: before it is done, or after, when only the answer is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.at: int | None = None
        self.after = False
        self.seen = 0

    def transact(self, writes: Sequence[Write], what: str) -> None:
        self.seen += 1
        hit = self.at is not None and self.seen == self.at
        if hit and not self.after:
            raise ServiceUnavailableError("lost before")
        super().transact(writes, what)
        if hit:
            raise ServiceUnavailableError("lost after")


class Room:
    """A model with champion 1 and candidates that passed their gates."""

    def __init__(self, candidates: int = 2) -> None:
        self.table = Losing()
        self.clock = FakeClock()
        ids = counting_ids()
        self.registry = Registry(self.table, clock=self.clock, ids=ids)
        self.rollouts = Rollouts(self.table, self.registry, clock=self.clock, ids=ids)
        cases.champion(self.registry, 1)
        for number in range(2, 2 + candidates):
            self.candidate(number)

    def candidate(self, number: int) -> str:
        task = cases.candidate(self.registry, number)
        champion = self.registry.get_model(M).champion_version
        self.registry.record_evaluation(
            task, number, cases.evaluated(task.run_id, champion=champion), automatic=True
        )
        return task.run_id

    def start(self, version: int = 2, rollout_id: str = "r1", **plan: Any) -> Rollout:
        return self.rollouts.start(
            rollout_id=rollout_id,
            model=M,
            version=version,
            plan=RolloutSection.model_validate({"strategy": "canary", "steps": [10, 50], **plan}),
            actor="ann",
        )

    def at_step(self, step: int = 0, **plan: Any) -> Rollout:
        rollout = self.start(**plan)
        for number in range(step + 1):
            rollout = self.rollouts.set_traffic(rollout.rollout_id, rollout.attempt, number)
        return rollout

    def check(self) -> None:
        """What always holds of rollouts and traffic."""
        meta = self.registry.get_model(M)
        serving = self.registry.get_serving(M)
        found = self.rollouts.list_rollouts(M, limit=100).items
        active = [r for r in found if r.status in ACTIVE]
        assert [r.rollout_id for r in active] == ([meta.rollout_id] if meta.rollout_id else [])
        if active and active[0].step is not None:
            assert serving.rollout is not None
            assert (serving.rollout.rollout_id, serving.rollout.step) == (
                active[0].rollout_id,
                active[0].step,
            )
            assert serving.rollout.weight == active[0].weight
            assert meta.challenger_version == active[0].version == serving.rollout.version
        else:
            assert serving.rollout is None
        (live, *_) = list_live(self.table, M).items
        assert live.version == serving.version
        assert live.sequence == serving.sequence
        assert (live.rollout and live.rollout.rollout_id) == (
            serving.rollout and serving.rollout.rollout_id
        )
        for rollout in found:
            assert (rollout.ended_at is None) == (rollout.status in OPEN)
        told = {
            e.subject: e.after
            for e in reversed(self.registry.audit(M, limit=100).items)
            if e.action.startswith("rollout_") and e.action != "rollout_step"
        }
        assert told == {r.rollout_id: r.status.value for r in found}


@pytest.fixture
def room() -> Room:
    return Room()


# ── The table ───────────────────────────────────────────────────────────────────────────────────


@given(st.none() | st.sampled_from(S), st.sampled_from(RolloutEvent))
def test_an_edge_leads_on_and_anything_else_is_refused(
    before: RolloutStatus | None, event: RolloutEvent
) -> None:
    if (before, event) in TABLE:
        assert transition(before, event, "r1") is TABLE[before, event]
        return
    with pytest.raises(InvalidTransitionError, match="r1"):
        transition(before, event, "r1")


def test_what_has_ended_stays_so_and_every_state_is_reachable() -> None:
    assert {before for before, _ in TABLE if before is not None} == set(OPEN)
    assert set(TABLE.values()) == set(S)
    for state in OPEN:
        assert TABLE[state, RolloutEvent.ABORT] is S.ABORTED


def test_the_page_shows_the_table_of_the_code() -> None:
    page = DOCS.read_text()

    assert as_mermaid() in page
    assert as_table() in page


# ── A rollout's way ─────────────────────────────────────────────────────────────────────────────


def test_steps_set_the_traffic_and_the_last_crowns(room: Room) -> None:
    room.start()
    room.check()
    assert room.registry.get_version(M, "challenger").version == 2

    for step, weight in enumerate((10.0, 50.0)):
        rollout = room.rollouts.set_traffic("r1", 1, step)
        assert (rollout.step, rollout.weight) == (step, weight)
        room.check()
    done = room.rollouts.finish("r1", 1)

    assert done.status is S.PROMOTED
    assert room.registry.get_serving(M).version == 2
    with pytest.raises(NotFoundError, match="no challenger"):
        room.registry.get_version(M, "challenger")
    room.check()


def test_a_breach_takes_the_traffic_back_in_one_write(room: Room) -> None:
    rollout = room.at_step()
    judgement = Judgement(
        check=1, step=0, look=1, at=room.clock(), decision="roll_back", why="3 % errors"
    )
    assert room.rollouts.record_look(rollout, judgement, "{}")
    before = room.table.calls.count("transact")

    ended = room.rollouts.roll_back("r1", 1, "3 % errors")

    assert room.table.calls.count("transact") == before + 1
    assert (ended.status, ended.why) == (S.ROLLED_BACK, "3 % errors")
    assert room.registry.get_serving(M).version == 1
    entry = room.registry.audit(M).items[0]
    assert (entry.action, entry.facts["check"]) == ("rollout_rolled_back", 1)
    room.check()


def test_the_training_hears_what_became_of_its_version(room: Room) -> None:
    run_id = room.candidate(4)
    plan = RolloutSection(strategy="canary", steps=(50.0,))
    room.rollouts.start(
        rollout_id="r4", model=M, version=4, plan=plan, actor="pipeline", run_id=run_id
    )
    assert room.registry.get_run(run_id).outcome is RunOutcome.ROLLING_OUT
    room.rollouts.set_traffic("r4", 1, 0)

    room.rollouts.roll_back("r4", 1, "slow")

    assert room.registry.get_run(run_id).outcome is RunOutcome.ROLLED_BACK
    assert "slow" in room.registry.get_run(run_id).reason


def test_every_write_may_fail_before_and_after_and_repeating_heals() -> None:
    def way(room: Room) -> None:
        room.start()
        room.rollouts.set_traffic("r1", 1, 0)
        room.rollouts.hold("r1", 1, "short")
        room.rollouts.resume("r1", actor="ann", reason="go", is_alive=lambda _: False)
        room.rollouts.set_traffic("r1", 2, 1)
        room.rollouts.finish("r1", 2)

    clean = Room()
    begun = clean.table.seen
    way(clean)
    writes = clean.table.seen - begun
    assert writes == 6
    steps = [
        lambda r: r.start(),
        lambda r: r.rollouts.set_traffic("r1", 1, 0),
        lambda r: r.rollouts.hold("r1", 1, "short"),
        lambda r: r.rollouts.resume("r1", actor="a", reason="", is_alive=lambda _: True),
        lambda r: r.rollouts.set_traffic("r1", 2, 1),
        lambda r: r.rollouts.finish("r1", 2),
    ]
    for at in range(writes):
        for after in (False, True):
            room = Room()
            room.table.at, room.table.after = room.table.seen + at + 1, after
            for step in steps:
                try:
                    step(room)
                except ServiceUnavailableError:
                    room.check()
                    # A resume that was done says so; everything else is simply done once.
                    if not (after and at == 3):
                        step(room)
                room.check()
            assert room.rollouts.get("r1").status is S.PROMOTED
            entries = [e.action for e in room.registry.audit(M, limit=100).items]
            assert entries.count("rollout_promoted") == entries.count("rollout_started") == 1
            assert entries.count("rollout_step") == 2


# ── People ──────────────────────────────────────────────────────────────────────────────────────


def test_a_paused_rollout_keeps_its_traffic_and_its_machine_changes_none(room: Room) -> None:
    room.at_step()
    room.rollouts.pause("r1", actor="ann", reason="lunch")

    assert room.rollouts.set_traffic("r1", 1, 1).step == 0
    assert room.rollouts.finish("r1", 1).status is S.PAUSED
    room.check()


def test_a_paused_rollout_still_rolls_back(room: Room) -> None:
    room.at_step()
    room.rollouts.pause("r1", actor="ann", reason="lunch")

    assert room.rollouts.roll_back("r1", 1, "errors").status is S.ROLLED_BACK
    room.check()


def test_resuming_hands_over_to_a_new_execution(room: Room) -> None:
    room.at_step()
    room.rollouts.pause("r1", actor="ann", reason="")
    resumed = room.rollouts.resume("r1", actor="ann", reason="", is_alive=lambda _: True)

    assert (resumed.status, resumed.attempt, resumed.step) == (S.RUNNING, 2, 0)
    assert room.rollouts.set_traffic("r1", 1, 1).step == 0
    assert room.rollouts.roll_back("r1", 1, "an execution of yesterday").status is S.RUNNING
    assert room.rollouts.set_traffic("r1", 2, 1).step == 1
    room.check()


def test_a_stall_leaves_the_traffic_and_is_resumed(room: Room) -> None:
    room.at_step()

    assert room.rollouts.stall("r1", 1, "out of time") is not None
    assert room.rollouts.stall("r1", 1, "out of time") is None
    room.check()
    assert room.rollouts.get("r1").status is S.STALLED
    resumed = room.rollouts.resume("r1", actor="ann", reason="", is_alive=lambda _: False)
    assert resumed.status is S.RUNNING
    room.check()


def test_a_running_rollout_whose_execution_is_gone_is_taken_up(room: Room) -> None:
    room.at_step()

    with pytest.raises(InvalidTransitionError, match="it is running; nothing is to be done"):
        room.rollouts.resume("r1", actor="ann", reason="", is_alive=lambda _: True)
    taken = room.rollouts.resume("r1", actor="ann", reason="", is_alive=lambda _: False)

    assert (taken.status, taken.attempt) == (S.RUNNING, 2)


def test_abort_gives_everything_back_to_the_champion(room: Room) -> None:
    room.at_step(1)

    ended = room.rollouts.abort("r1", actor="ann", reason="complaints")

    assert (ended.status, ended.changed_by) == (S.ABORTED, "ann")
    assert room.registry.get_serving(M).version == 1
    room.check()


@pytest.mark.parametrize("verb", ["pause", "abort", "resume"])
def test_what_has_ended_says_so(room: Room, verb: str) -> None:
    room.at_step()
    room.rollouts.abort("r1", actor="ann", reason="")
    more = {"is_alive": lambda _: False} if verb == "resume" else {}

    with pytest.raises(InvalidTransitionError, match=f"cannot {verb} rollout r1: it is aborted"):
        getattr(room.rollouts, verb)("r1", actor="bob", reason="", **more)


def test_two_people_at_once_get_one_change_and_one_answer(room: Room) -> None:
    room.at_step()
    room.rollouts.pause("r1", actor="ann", reason="")

    with pytest.raises(InvalidTransitionError, match="it is paused; nothing is to be done"):
        room.rollouts.pause("r1", actor="bob", reason="")
    room.check()


# ── What it must not be ─────────────────────────────────────────────────────────────────────────


def test_only_a_version_that_passed_its_gates_is_rolled_out(room: Room) -> None:
    task = cases.candidate(room.registry, 4)
    room.registry.record_evaluation(
        task, 4, cases.evaluated(task.run_id, passed=False, champion=1), automatic=True
    )

    with pytest.raises(InvalidTransitionError, match="churn@4: it is rejected"):
        room.start(4)
    with pytest.raises(NotFoundError, match="no version 9"):
        room.start(9)
    with pytest.raises(ConflictError, match="churn@1 is the champion already"):
        room.start(1)
    with pytest.raises(ConflictError, match="all-at-once is a promotion"):
        room.rollouts.start(rollout_id="r", model=M, version=2, plan=RolloutSection(), actor="ann")
    room.check()


def test_without_a_champion_there_is_nothing_to_compare_with() -> None:
    registry = Registry(FakeTable(), clock=FakeClock(), ids=counting_ids())
    task = cases.candidate(registry, 1)
    registry.record_evaluation(task, 1, cases.evaluated(task.run_id), automatic=True)
    rollouts = Rollouts(registry._table, registry, clock=FakeClock(), ids=counting_ids("x"))

    with pytest.raises(NoChampionError, match="promote it"):
        rollouts.start(
            rollout_id="r",
            model=M,
            version=1,
            plan=RolloutSection(strategy="canary"),
            actor="ann",
        )


def test_a_champion_that_changed_since_the_comparison_is_told(room: Room) -> None:
    with pytest.raises(ChampionChangedError, match="expected churn@7"):
        room.rollouts.start(
            rollout_id="r",
            model=M,
            version=2,
            plan=RolloutSection(strategy="canary"),
            actor="ann",
            expected_champion=7,
        )


def test_the_same_version_is_rolled_out_once(room: Room) -> None:
    room.start(2)

    with pytest.raises(ConflictError, match="rolled out already, by rollout r1, which is running"):
        room.start(2, "r2")
    assert room.start(2).rollout_id == "r1"


# ── One at a time ───────────────────────────────────────────────────────────────────────────────


def test_a_newer_rollout_waits_for_its_turn(room: Room) -> None:
    room.at_step()
    waiting = room.start(3, "r2")
    assert waiting.status is S.WAITING
    assert room.rollouts.begin("r2", 1).status is S.WAITING
    room.check()

    room.rollouts.abort("r1", actor="ann", reason="")
    begun = room.rollouts.begin("r2", 1)

    assert (begun.status, begun.champion) == (S.RUNNING, 1)
    room.check()


def test_a_newer_rollout_supersedes_where_the_plan_says_so(room: Room) -> None:
    room.at_step()
    newer = room.start(3, "r2", on_conflict="supersede")

    assert newer.status is S.RUNNING
    assert room.rollouts.get("r1").status is S.SUPERSEDED
    assert room.registry.get_serving(M).rollout is None
    room.check()
    assert room.rollouts.set_traffic("r1", 1, 1).status is S.SUPERSEDED
    assert room.rollouts.set_traffic("r2", 1, 0).step == 0
    room.check()


def test_only_the_newest_waits(room: Room) -> None:
    room.candidate(4)
    room.at_step()
    room.start(3, "r2")
    room.start(4, "r3")

    assert room.rollouts.get("r2").status is S.SUPERSEDED
    assert room.rollouts.get("r3").status is S.WAITING
    room.check()


def test_a_waiting_rollout_can_be_aborted_and_leaves_the_other_alone(room: Room) -> None:
    room.at_step()
    room.start(3, "r2")

    assert room.rollouts.abort("r2", actor="ann", reason="").status is S.ABORTED
    assert room.registry.get_model(M).waiting_rollout_id is None
    assert room.rollouts.get("r1").status is S.RUNNING
    room.check()


# ── Champions that change by hand ───────────────────────────────────────────────────────────────


def test_a_manual_rollback_aborts_in_the_same_write(room: Room) -> None:
    room.registry.promote(M, 2, actor="ann", expected_champion=1)
    room.start(3, "r1")
    room.rollouts.set_traffic("r1", 1, 0)
    before = room.table.calls.count("transact")

    room.registry.rollback(M, actor="ann", reason="complaints")

    assert room.table.calls.count("transact") == before + 1
    assert room.registry.get_serving(M).version == 1
    assert room.rollouts.get("r1").status is S.ABORTED
    room.check()
    assert room.rollouts.finish("r1", 1).status is S.ABORTED


def test_a_promotion_of_another_version_overtakes(room: Room) -> None:
    room.at_step()

    room.registry.promote(M, 3, actor="ann", expected_champion=1)

    assert room.rollouts.get("r1").status is S.OVERTAKEN
    assert room.rollouts.set_traffic("r1", 1, 1).status is S.OVERTAKEN
    room.check()


def test_a_promotion_of_the_challenger_ends_the_rollout_as_promoted(room: Room) -> None:
    room.at_step()
    room.rollouts.pause("r1", actor="ann", reason="")

    room.registry.promote(M, 2, actor="ann", reason="good enough", expected_champion=1)

    assert room.rollouts.get("r1").status is S.PROMOTED
    room.check()


def test_a_pause_between_the_decision_and_the_promotion_wins(room: Room) -> None:
    rollout = room.at_step(1)
    room.rollouts.pause("r1", actor="ann", reason="")

    with pytest.raises(FinalError, match="was running, and now rollout r1 is paused"):
        room.registry.promote(M, 2, actor="rollout", expected_champion=1, by_rollout=rollout)
    assert room.registry.get_serving(M).version == 1
    room.check()


def test_a_look_is_kept_once(room: Room) -> None:
    rollout = room.at_step()
    judgement = Judgement(check=1, step=0, look=1, at=room.clock(), decision="wait", why="early")

    assert room.rollouts.record_look(rollout, judgement, '{"a":1}')
    assert not room.rollouts.record_look(rollout, judgement, '{"a":2}')
    assert room.rollouts.evidence("r1") == '{"a":1}'
    assert [j.check for j in room.rollouts.judgements("r1").items] == [1]
