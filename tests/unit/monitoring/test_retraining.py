"""A drift episode starts one training at most, whatever happens on the way, and never without cause."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import layout
from millrace.aws.sns import Notice
from millrace.aws.table import Item, Key, Write
from millrace.errors import NotFoundError
from millrace.monitoring.retraining import (
    Alarmed,
    Code,
    Decision,
    Retraining,
    Standing,
    of_episode,
)
from millrace.observability import publish
from millrace.spec import ModelSpec
from tests.fakes import cases
from tests.fakes.table import FakeTable

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
CALM = Standing(labelled_since=NOON - timedelta(days=9), training_began=None, training_runs="")


class Killed(BaseException):
    """The process is gone."""


@dataclass
class World:
    """Everything around the decision, with a switch that kills the process at a chosen call."""

    table: FakeTable = field(default_factory=FakeTable)
    standing: Standing = CALM
    labelled: int = 10_000
    usd: float = 0.0
    now: datetime = NOON
    runs: dict[str, list[str]] = field(default_factory=dict)
    """Run id to the episodes of the claim that it was asked for with."""
    began: list[datetime] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    kill_at: int | None = None
    after: bool = False
    calls: int = 0
    meanwhile: Callable[[], object] | None = None

    # ── Ports ───────────────────────────────────────────────────────────────────────────────────

    def get(self, key: Key) -> Item | None:
        return self.table.get(key)

    def transact(self, writes: list[Write], what: str) -> None:
        self._call(lambda: self.table.transact(writes, what))

    def ask(self, detail: Mapping[str, Any]) -> Mapping[str, Any]:
        answer: dict[str, Any] = {}
        self._call(lambda: answer.update(self._door(detail)))
        return answer

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    def _door(self, detail: Mapping[str, Any]) -> dict[str, Any]:
        """The one door: the same token is the same run."""
        assert (detail["cause"], detail["labelled"]) == ("drift", True)
        run_id = layout.run_id_for_retrain(detail["model"], detail["token"])
        claim = of_episode(self.table, detail["model"], detail["token"])
        assert claim is not None, "asked for without a claim"
        started = run_id not in self.runs
        if started:
            self.runs[run_id] = list(claim.episodes)
            self.began.append(self.now)
        return {
            "run_id": run_id,
            "status": "started" if started else "duplicate",
            "started": started,
        }

    def _call(self, do: Callable[[], object]) -> None:
        number, self.calls = self.calls, self.calls + 1
        if number == self.kill_at and not self.after:
            raise Killed
        do()
        if number == self.kill_at:
            raise Killed

    def _counted(self, _model: str, _since: datetime, limit: int) -> int:
        if self.meanwhile is not None:
            other, self.meanwhile = self.meanwhile, None
            other()
        return min(self.labelled, limit)

    def monitor(self) -> Retraining:
        """A monitor of the world."""
        return Retraining(
            table=self,  # type: ignore[arg-type]  # FakeTable's part of it, with a switch
            standing=lambda _: self.standing,
            labelled=self._counted,
            spent=lambda _model, _moment: self.usd,
            ask=self.ask,
            notifier=self,
            clock=lambda: self.now,
        )

    def consider(self, *episodes: Alarmed, spec: ModelSpec | None = None) -> Decision:
        """One look at the open episodes."""
        return self.monitor().consider(spec or SPEC, episodes)


@pytest.fixture(autouse=True)
def _nothing_is_left_to_publish() -> Iterator[None]:
    yield
    publish()


def policy(**retrain: Any) -> ModelSpec:
    return cases.spec(retrain={"on_drift": True, **retrain})


SPEC = policy()


def episode(name: str = "e1", kind: str = "performance", minutes: int = 0) -> Alarmed:
    return Alarmed(
        NOON + timedelta(minutes=minutes), name, kind, "roc_auc", "fell from 0.970 to 0.958"
    )


def test_a_worse_model_with_enough_labels_is_trained_again() -> None:
    world = World()

    decision = world.consider(episode())

    assert (decision.outcome, decision.code) == ("start", Code.STARTED)
    assert list(world.runs) == [decision.run_id]
    assert decision.reason == "drift episode e1: roc_auc: fell from 0.970 to 0.958"
    assert [notice.event for notice in world.notices] == ["retraining_started"]


def test_the_same_episode_never_starts_another_however_often_and_long_it_is_seen() -> None:
    world = World()
    first = world.consider(episode())

    for days in range(1, 40):
        world.now = NOON + timedelta(days=days)
        again = world.consider(episode())

        assert (again.outcome, again.code) == ("refuse", Code.ALREADY_STARTED)
        assert again.run_id == first.run_id
    assert len(world.runs) == 1


@pytest.mark.parametrize(
    "kind",
    ["feature_drift", "score_drift", "class_drift", "multivariate", "missing", "unseen", "range"],
)
def test_inputs_that_drift_alone_never_start_a_training(kind: str) -> None:
    world = World()

    decision = world.consider(*(episode(f"e{n}", kind) for n in range(20)))

    assert decision.code is Code.INPUT_DRIFT_ONLY
    assert world.runs == {}


def test_one_training_serves_every_metric_that_fell() -> None:
    world = World()

    world.consider(episode("auc"), episode("f1", minutes=5), episode("age", "feature_drift"))
    world.now += timedelta(days=30)
    again = world.consider(episode("auc"), episode("f1", minutes=5))

    assert list(world.runs.values()) == [["auc", "f1"]]
    assert again.code is Code.ALREADY_STARTED


def test_an_alarm_of_a_former_version_starts_no_training_of_the_one_that_mends_it() -> None:
    world = World(standing=replace(CALM, champion=2))
    former, found = replace(episode(), version=1), replace(episode(), version=2)

    refused = world.consider(former)
    world.now += timedelta(days=1)
    again = world.consider(found)

    assert refused.code is Code.FORMER_VERSION
    assert refused.reason == "it was found of version 1, and version 2 answers now"
    assert again.code is Code.STARTED


def test_what_labels_tell_is_named_before_what_is_estimated() -> None:
    world = World()

    decision = world.consider(
        replace(episode("a", "estimated_performance"), text="roc_auc 0.95, estimated"),
        replace(episode("b", minutes=1), text="roc_auc 0.95, measured"),
    )

    assert decision.reason == "drift episode a: roc_auc 0.95, measured; roc_auc 0.95, estimated"


CLOSED = [
    pytest.param(
        {}, {"on_drift": False}, Code.SWITCHED_OFF, "on_drift is false", id="switched off"
    ),
    pytest.param({"labelled": 499}, {}, Code.TOO_FEW_ROWS, "499 rows", id="too few labels"),
    pytest.param(
        {"standing": replace(CALM, training_runs="churn-1")},
        {},
        Code.TRAINING_RUNS,
        "churn-1 is under way",
        id="one runs",
    ),
    pytest.param(
        {"standing": replace(CALM, training_began=NOON - timedelta(hours=23))},
        {},
        Code.COOLDOWN,
        "retrain.cooldown is 24h",
        id="cooldown",
    ),
    pytest.param(
        {"usd": 5.0}, {"monthly_budget": 5}, Code.BUDGET, "predictions go on", id="budget spent"
    ),
]


@pytest.mark.parametrize(("around", "retrain", "code", "said"), CLOSED)
def test_a_refusal_names_its_reason_is_kept_and_is_taken_back_when_the_reason_is_gone(
    around: dict[str, Any], retrain: dict[str, Any], code: Code, said: str
) -> None:
    world = World(**around)

    refused = world.consider(episode(), spec=policy(**retrain))
    kept = of_episode(world.table, "churn", "e1")
    world.labelled, world.standing, world.usd = 10_000, CALM, 0.0
    later = world.consider(episode())

    assert (refused.outcome, refused.code) == ("refuse", code)
    assert said in refused.reason
    assert kept is not None
    assert (kept.code, kept.reason) == (code, refused.reason)
    assert later.code is Code.STARTED


def test_a_refusal_is_told_once() -> None:
    world = World(labelled=3)

    for _ in range(5):
        world.consider(episode())

    assert [notice.event for notice in world.notices] == ["retraining_refused"]
    assert "millrace feedback churn" in world.notices[0].next_step


def test_a_model_whose_inputs_are_not_captured_is_refused_with_the_column() -> None:
    hidden = SPEC.model_copy(
        update={"privacy": SPEC.privacy.model_copy(update={"never_log": ("age",)})}
    )

    decision = World().consider(episode(), spec=hidden)

    assert decision.code is Code.NOT_CAPTURED
    assert "private column 'age'" in decision.reason


def test_a_model_without_data_is_refused() -> None:
    world = World()

    def nothing(_: str) -> Standing:
        raise NotFoundError("model 'churn' has no dataset version yet")

    decision = replace(world.monitor(), standing=nothing).consider(SPEC, [episode()])

    assert decision.code is Code.NO_DATASET


def test_two_monitors_at_once_start_one_training() -> None:
    world = World()
    world.meanwhile = lambda: world.consider(episode())

    decision = world.consider(episode())

    assert len(world.runs) == 1
    assert decision.run_id in world.runs


def test_a_budget_is_told_when_it_is_near_and_when_it_is_spent_and_each_once() -> None:
    world, spec = World(), policy(monthly_budget=10)
    told = []

    for usd in (7.9, 8.0, 8.1, 9.9, 10.0, 12.0):
        world.usd = usd
        told.append(world.monitor().watch_budget(spec).state)

    assert told == ["within", "warned", "warned", "warned", "exhausted", "exhausted"]
    assert [notice.event for notice in world.notices] == ["budget_warning", "budget_exhausted"]


# ── Whatever happens ────────────────────────────────────────────────────────────────────────────

KINDS = ("performance", "estimated_performance", "feature_drift", "missing")
EPISODES = [episode(f"e{n}", KINDS[n % len(KINDS)], minutes=n) for n in range(8)]

looks = st.fixed_dictionaries(
    {
        "seen": st.lists(st.sampled_from(EPISODES), max_size=6),
        "hours": st.integers(0, 40),
        "kill_at": st.none() | st.integers(0, 8),
        "after": st.booleans(),
        "meanwhile": st.none() | st.lists(st.sampled_from(EPISODES), max_size=6),
        "labelled": st.sampled_from([0, 499, 500, 9_000]),
        "runs": st.booleans(),
    }
)


@settings(max_examples=300, deadline=None)
@given(looks=st.lists(looks, min_size=1, max_size=12))
def test_an_episode_starts_one_training_at_most_whatever_happens(
    looks: list[dict[str, Any]],
) -> None:
    """Duplicated, reordered and concurrent windows; a crash before or after any call."""
    world = World()
    for look in looks:
        world.now += timedelta(hours=look["hours"])
        world.labelled = look["labelled"]
        world.standing = replace(CALM, training_runs="churn-9" if look["runs"] else "")
        world.calls, world.kill_at, world.after = 0, look["kill_at"], look["after"]
        other = look["meanwhile"]
        world.meanwhile = None if other is None else lambda seen=other: world.consider(*seen)
        before = len(world.runs)
        try:
            decision = world.consider(*look["seen"])
        except Killed:
            continue
        if decision.outcome == "start":
            assert decision.run_id in world.runs
        assert len(world.runs) - before <= 2

    served = [name for episodes in world.runs.values() for name in episodes]
    assert len(served) == len(set(served)), "an episode started two trainings"
    causes = {one.id for one in EPISODES if one.kind in KINDS[:2]}
    assert set(served) <= causes, "inputs alone started a training"


@given(kill_at=st.integers(0, 6), after=st.booleans())
def test_a_training_that_a_crash_prevented_is_started_at_the_next_look(
    kill_at: int, after: bool
) -> None:
    world = World(kill_at=kill_at, after=after)
    try:
        world.consider(episode("e1"), episode("e2", minutes=1))
    except Killed:
        world.kill_at = None
        world.consider(episode("e1"), episode("e2", minutes=1))

    assert list(world.runs.values()) == [["e1", "e2"]]
    for name in ("e1", "e2"):
        decided = of_episode(world.table, "churn", name)
        assert decided is not None
        assert decided.run_id in world.runs
