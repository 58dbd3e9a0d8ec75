"""A rollout from its start to its end, task by task, as the machine asks for them."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from millrace.aws.sns import Notice
from millrace.aws.stepfunctions import Started
from millrace.errors import (
    ConcurrentWriteError,
    InvalidRequestError,
    InvalidTransitionError,
    NoChampionError,
)
from millrace.messages import Registration, TaskFailure
from millrace.monitoring.tallies import Tally
from millrace.observability import publish
from millrace.registry.records import RunOutcome
from millrace.registry.registry import Registry
from millrace.registry.rollout_records import Rollout
from millrace.registry.rollout_states import RolloutStatus
from millrace.registry.rollouts import Rollouts
from millrace.rollout import watch
from millrace.rollout.messages import (
    Asked,
    BeginTask,
    CheckHealthTask,
    FinishTask,
    RecordStallTask,
    ResumeTask,
    RollBackTask,
    RollOutTask,
    SetTrafficTask,
    StartTask,
    Turn,
)
from millrace.rollout.watch import Watcher, planned, rollout_id_of
from millrace.spec import ModelSpec, RolloutSection
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL
S = RolloutStatus
PLAN = {"strategy": "canary", "steps": [10, 50], "bake": "10m", "looks": 3, "min_requests": 50}


@pytest.fixture(autouse=True)
def nothing_is_left_to_publish() -> Iterator[None]:
    yield
    publish()


class FakeExecutions:
    """Executions by name; they run until they are taken."""

    def __init__(self) -> None:
        self.started: dict[str, dict[str, Any]] = {}
        self.alive: set[str] = set()

    def start(self, name: str, payload: str) -> Started:
        new = name not in self.started
        if new:
            self.started[name] = json.loads(payload)
            self.alive.add(name)
        return Started(name, new)

    def execution_arn(self, name: str) -> str:
        return name

    def status(self, execution_arn: str) -> str | None:
        if execution_arn not in self.started:
            return None
        return "RUNNING" if execution_arn in self.alive else "FAILED"


class World:
    """A model with champion 1, candidate 2 and 3, and a machine that walks."""

    def __init__(self, **plan: Any) -> None:
        self.table = FakeTable()
        self.clock = FakeClock()
        ids = counting_ids()
        self.registry = Registry(self.table, clock=self.clock, ids=ids)
        self.rollouts = Rollouts(self.table, self.registry, clock=self.clock, ids=ids)
        self.executions = FakeExecutions()
        self.notices: list[Notice] = []
        self.traffic = (Tally(), Tally())
        self.grows: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self.alarm_states: dict[str, str | None] = {}
        self.spec = cases.spec(rollout={**PLAN, **plan})
        self.tasks: list[str] = []
        self.watcher = Watcher(
            rollouts=self.rollouts,
            executions=self.executions,
            tallies=self._counted,
            alarms=self._alarms,
            feedback=lambda _: None,
            read_spec=self._read,
            notifier=self,
            clock=self.clock,
        )
        cases.champion(self.registry, 1, self.spec)
        for number in (2, 3):
            self.run_id = self.candidate(number)

    def candidate(self, number: int) -> str:
        task = cases.candidate(self.registry, number, self.spec)
        self.registry.record_evaluation(
            task, number, cases.evaluated(task.run_id, champion=1), automatic=True
        )
        self.task = task
        return task.run_id

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    def _read(self, _: str, __: RollOutTask | None) -> ModelSpec:
        return self.spec

    def _alarms(self, names: Sequence[str]) -> Mapping[str, str | None]:
        return {name: self.alarm_states.get(name) for name in names}

    def _counted(self, _: str, step: int) -> tuple[Tally, Tally]:
        for tally, more in zip(self.traffic, self.grows, strict=True):
            for name, value in more.items():
                setattr(tally, name, getattr(tally, name) + value)
            tally.latency = Counter({10: tally.requests - tally.errors})
        return self.traffic

    def flow(self, champion: int, challenger: int, *, errors: int = 0) -> None:
        """What comes between two looks from now on."""
        self.grows = ({"requests": champion}, {"requests": challenger, "errors": errors})

    def start(self, version: int = 2, **changes: Any) -> Asked:
        return self.watcher.start(
            StartTask(
                action="start", model=M, version=version, changes=changes, token="t", actor="ann"
            )
        )

    def rollout(self, version: int = 2) -> Rollout:
        return self.rollouts.get(rollout_id_of(M, version, "t"))

    def walk(self, execution: str, most: int = 200, *, until: str = "") -> str:
        """Runs an execution as the machine does, each task twice, as if its answer were lost."""
        payload = self.executions.started[execution]
        state, turn = "begin", Turn(decision="wait")
        for _ in range(most):
            if state == until:
                return state
            self.tasks.append(state)
            for _ in range(2):
                answer = self._task(state, payload, turn)
            turn = answer
            match (state, turn.decision):
                case ("begin", "proceed"):
                    state = "set_traffic"
                case ("begin", "wait"):
                    return "waiting"
                case (_, "bake"):
                    if state == "check_health":
                        self.baked = True
                    state = "check_health"
                case (_, "advance"):
                    state = "set_traffic"
                case (_, "finish" | "roll_back"):
                    state = turn.decision
                case _:
                    self.executions.alive.discard(execution)
                    return "over"
        return state

    def _task(self, state: str, payload: dict[str, Any], turn: Turn) -> Turn:
        given = {**payload, "action": state, "turn": turn}
        match state:
            case "begin":
                return self.watcher.begin(BeginTask(**given))
            case "set_traffic":
                return self.watcher.set_traffic(SetTrafficTask(**given))
            case "check_health":
                return self.watcher.check_health(CheckHealthTask(**given))
            case "finish":
                return self.watcher.finish(FinishTask(**given))
            case _:
                return self.watcher.roll_back(RollBackTask(**given))

    def told(self) -> list[str]:
        return list(dict.fromkeys(n.event for n in self.notices))


def test_a_healthy_canary_is_promoted_by_itself() -> None:
    world = World()
    asked = world.start()
    world.flow(200, 40)

    assert world.walk(f"{asked.rollout_id}-1") == "over"

    assert world.rollout().status is S.PROMOTED
    assert world.registry.get_serving(M).version == 2
    assert [s.weight for s in world.rollout().steps] == [10.0, 50.0]
    assert world.rollout().checks == 6
    assert world.told() == ["rollout_started", "rollout_promoted"]


def test_a_breach_rolls_back_and_says_why_with_the_figures() -> None:
    world = World()
    asked = world.start()
    world.flow(200, 40, errors=20)

    world.walk(f"{asked.rollout_id}-1")

    ended = world.rollout()
    assert ended.status is S.ROLLED_BACK
    assert "50.00% of its requests failed" in ended.why
    assert world.registry.get_serving(M).rollout is None
    entry = next(e for e in world.registry.audit(M).items if e.action == "rollout_rolled_back")
    (errors,) = [f for f in entry.facts["findings"] if f["condition"] == "errors"]
    assert errors["evidence"] >= errors["threshold"]
    assert errors["figures"]["challenger_hits"] > 0
    notice = next(n for n in world.notices if n.event == "rollout_rolled_back")
    assert "50.00% of its requests failed" in notice.subject
    assert notice.details["findings"]


def test_a_ringing_alarm_is_a_breach_at_the_next_look() -> None:
    world = World(health={"alarms": ["checkout"]})
    world.alarm_states = {"checkout": "OK"}
    asked = world.start()
    world.flow(200, 40)
    world.walk(f"{asked.rollout_id}-1", 4)
    world.alarm_states = {"checkout": "ALARM"}

    world.walk(f"{asked.rollout_id}-1")

    assert world.rollout().status is S.ROLLED_BACK
    assert world.rollout().why == "alarm checkout is ringing"


def test_a_rollout_that_names_no_alarm_of_the_account_is_refused() -> None:
    world = World(health={"alarms": ["chekout"]})

    with pytest.raises(InvalidRequestError, match="there is no CloudWatch alarm chekout"):
        world.start()


@pytest.mark.parametrize(
    ("then", "status"),
    [("hold", S.HELD), ("roll_back", S.ROLLED_BACK), ("promote", S.PROMOTED)],
)
def test_too_little_traffic_waits_and_then_does_what_the_plan_says(
    then: str, status: RolloutStatus
) -> None:
    world = World(steps=[10], max_wait="30m", when_short_of_traffic=then)
    asked = world.start()
    world.flow(200, 1)

    world.walk(f"{asked.rollout_id}-1", 30)

    rollout = world.rollout()
    assert rollout.status is status
    assert rollout.judgement is not None
    assert rollout.judgement.look == rollout.plan.max_looks if then != "hold" else True
    if then == "hold":
        assert "after 30m: 9 requests of the challenger" in rollout.why
        assert "rollout_held" in world.told()
        assert world.registry.get_serving(M).rollout is not None


def test_a_held_rollout_goes_on_when_a_person_says_so() -> None:
    world = World(steps=[10], max_wait="10m")
    asked = world.start()
    world.flow(200, 1)
    world.walk(f"{asked.rollout_id}-1", 12)
    assert world.rollout().status is S.HELD

    world.flow(200, 100)
    again = world.watcher.resume(
        ResumeTask(action="resume", rollout_id=asked.rollout_id, actor="ann")
    )
    assert again.status == "running"
    world.walk(f"{asked.rollout_id}-1", 5)
    world.walk(f"{asked.rollout_id}-2")

    assert world.rollout().status is S.PROMOTED


def test_a_plan_may_ask_for_a_person_before_the_promotion() -> None:
    world = World(strategy="shadow", steps=[100], finish="hold")
    asked = world.start()
    world.flow(200, 200)
    world.grows[1]["compared"] = 200
    world.walk(f"{asked.rollout_id}-1", 10)
    assert world.rollout().status is S.HELD
    assert "asks for a person" in world.rollout().why

    world.watcher.resume(ResumeTask(action="resume", rollout_id=asked.rollout_id, actor="ann"))
    world.walk(f"{asked.rollout_id}-2")

    assert world.rollout().status is S.PROMOTED


def test_a_paused_rollout_bakes_on_and_rolls_back_on_a_breach() -> None:
    world = World()
    asked = world.start()
    world.flow(200, 40)
    world.walk(f"{asked.rollout_id}-1", until="check_health")
    world.rollouts.pause(asked.rollout_id, actor="ann", reason="")
    world.walk(f"{asked.rollout_id}-1", 20)
    paused = world.rollout()
    assert (paused.status, paused.step, paused.looks) == (S.PAUSED, 0, 0)
    assert paused.checks > 3

    world.flow(200, 40, errors=30)
    world.walk(f"{asked.rollout_id}-1")

    assert world.rollout().status is S.ROLLED_BACK


def test_an_aborted_rollout_ends_its_execution() -> None:
    world = World()
    asked = world.start()
    world.walk(f"{asked.rollout_id}-1", 3)
    world.rollouts.abort(asked.rollout_id, actor="ann", reason="")

    assert world.walk(f"{asked.rollout_id}-1") == "over"
    assert world.rollout().status is S.ABORTED


def test_the_next_in_line_begins_when_the_first_has_ended() -> None:
    world = World()
    first, second = world.start(2), world.start(3)
    assert second.status == "waiting"
    assert "waits for rollout" in second.why
    world.flow(200, 40)
    assert world.walk(f"{second.rollout_id}-1") == "waiting"

    world.rollouts.abort(first.rollout_id, actor="ann", reason="")
    world.walk(f"{second.rollout_id}-1")

    assert world.rollout(3).status is S.PROMOTED


def test_a_failing_machine_leaves_the_traffic_and_another_goes_on() -> None:
    world = World()
    asked = world.start()
    world.flow(200, 40)
    world.walk(f"{asked.rollout_id}-1", until="check_health")
    failure = TaskFailure(Error="Lambda.Unknown", Cause="out of memory")
    stall = RecordStallTask(
        **world.executions.started[f"{asked.rollout_id}-1"], action="record_stall", failure=failure
    )

    world.watcher.record_stall(stall)
    world.watcher.record_stall(stall)

    assert world.rollout().status is S.STALLED
    assert world.rollout().weight == 10.0
    serving = world.registry.get_serving(M)
    assert serving.rollout is not None
    assert serving.rollout.weight == 10.0
    assert [n.event for n in world.notices].count("rollout_stalled") == 1
    world.watcher.resume(ResumeTask(action="resume", rollout_id=asked.rollout_id, actor="ann"))
    world.walk(f"{asked.rollout_id}-2")
    assert world.rollout().status is S.PROMOTED


@pytest.mark.parametrize("status", ["FAILED", "TIMED_OUT", "ABORTED"])
def test_an_execution_that_could_not_say_so_is_noted_from_outside(status: str) -> None:
    world = World()
    asked = world.start()
    said = {"status": status, "error": "", "cause": ""}

    noted = world.watcher.execution_ended_badly(execution=f"{asked.rollout_id}-1", **said)
    again = world.watcher.execution_ended_badly(execution=f"{asked.rollout_id}-1", **said)
    other = world.watcher.execution_ended_badly(execution="churn-9-abc-1", **said)
    foreign = world.watcher.execution_ended_badly(execution="something", **said)

    assert (noted, again, other, foreign) == (True, False, False, False)
    assert world.rollout().status is S.STALLED


def test_resuming_what_runs_is_refused_and_what_lost_its_execution_is_taken_up() -> None:
    world = World()
    asked = world.start()
    task = ResumeTask(action="resume", rollout_id=asked.rollout_id, actor="ann")

    with pytest.raises(InvalidTransitionError, match="it is running; nothing is to be done"):
        world.watcher.resume(task)
    world.executions.alive.clear()
    world.watcher.resume(task)

    assert f"{asked.rollout_id}-2" in world.executions.started


def test_an_execution_that_was_replaced_wakes_its_successor_and_ends() -> None:
    world = World()
    asked = world.start()
    world.flow(200, 40)
    world.walk(f"{asked.rollout_id}-1", until="check_health")
    # A renewal that was killed between its record and the start of its execution.
    world.rollouts.renew(asked.rollout_id, 1)
    assert f"{asked.rollout_id}-2" not in world.executions.started

    assert world.walk(f"{asked.rollout_id}-1") == "over"

    assert f"{asked.rollout_id}-2" in world.executions.started


def test_a_long_rollout_goes_on_in_a_new_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RENEW_AFTER", 4)
    world = World(max_wait="60m", steps=[10])
    asked = world.start()
    world.flow(200, 1)

    assert world.walk(f"{asked.rollout_id}-1") == "over"
    assert world.rollout().attempt == 2
    assert world.rollout().status is S.RUNNING
    world.flow(200, 100)
    world.walk(f"{asked.rollout_id}-2")
    assert world.rollout().status is S.PROMOTED


def test_a_version_that_is_turned_down_meanwhile_is_taken_back() -> None:
    world = World()
    asked = world.start()
    world.walk(f"{asked.rollout_id}-1", until="check_health")
    world.registry.record_evaluation(
        cases.training_input(world.registry.get_run(_run_of(world, 2))),
        2,
        cases.evaluated(_run_of(world, 2), passed=False, champion=5),
        automatic=True,
    )

    world.walk(f"{asked.rollout_id}-1")

    assert world.rollout().status is S.ROLLED_BACK
    assert "churn@2 is rejected" in world.rollout().why


def _run_of(world: World, version: int) -> str:
    return world.registry.get_version(M, version).run_id


def test_a_training_hands_its_version_over_once() -> None:
    world = World()
    task = RollOutTask(
        **world.task.model_dump(),
        action="roll_out",
        registration=Registration(version=3),
        evaluation=cases.evaluated(world.run_id, champion=1),
    )

    first, again = world.watcher.roll_out(task), world.watcher.roll_out(task)

    assert first == again
    assert world.registry.get_run(world.run_id).outcome is RunOutcome.ROLLING_OUT
    world.flow(200, 40)
    world.walk(f"{first.rollout_id}-1")
    assert world.registry.get_run(world.run_id).outcome is RunOutcome.PROMOTED


def test_a_look_that_lost_a_race_is_taken_again() -> None:
    world = World()
    asked = world.start()
    world.flow(200, 40)
    world.walk(f"{asked.rollout_id}-1", until="check_health")
    rival = world.rollouts.pause
    counted = world.watcher._tallies

    def paused_meanwhile(rollout_id: str, step: int) -> tuple[Tally, Tally]:
        world.watcher._tallies = counted
        rival(rollout_id, actor="bob", reason="")
        return counted(rollout_id, step)

    world.watcher._tallies = paused_meanwhile
    given = {**world.executions.started[f"{asked.rollout_id}-1"], "action": "check_health"}
    task = CheckHealthTask(**given, turn=Turn(decision="bake", check=1))

    with pytest.raises(ConcurrentWriteError, match="look again"):
        world.watcher.check_health(task)

    assert world.watcher.check_health(task).decision == "bake"
    assert world.rollout().looks == 0


# ── Plans ───────────────────────────────────────────────────────────────────────────────────────


def test_a_person_lays_a_plan_over_the_specs() -> None:
    section = RolloutSection(strategy="canary", steps=(5.0, 50.0), bake="1h")

    assert planned(section, {"steps": [10, 20]}).weights == (10.0, 20.0)
    assert planned(section, {"steps": [10, 20]}).bake == "1h"
    assert planned(section, {"strategy": "linear"}).weights[:2] == (10.0, 20.0)
    assert planned(RolloutSection(), {"strategy": "shadow"}).weights == (100.0,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": [50, 25]}, "25 % follows 50 %"),
        ({"steps": [25, 100]}, "leaves the champion no traffic"),
        ({"steps": [0]}, "greater than 0"),
        ({"strategy": "all-at-once"}, "all-at-once is a promotion"),
        ({"strategy": "blue-green"}, "'canary'"),
        ({"bake": "soon"}, "bake"),
        ({"weights": [5]}, "weights: Extra inputs"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_its_field(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        planned(RolloutSection(strategy="canary"), changes)


def test_a_model_without_a_champion_has_nothing_to_roll_out_against() -> None:
    world = World()
    world.registry = Registry(FakeTable(), clock=FakeClock(), ids=counting_ids())
    world.watcher._rollouts = Rollouts(
        world.registry._table, world.registry, clock=world.clock, ids=counting_ids("x")
    )
    task = cases.candidate(world.registry, 1)
    world.registry.record_evaluation(task, 1, cases.evaluated(task.run_id), automatic=True)

    with pytest.raises(NoChampionError, match="promote it"):
        world.start(1)
