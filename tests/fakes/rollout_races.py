"""Races around rollouts, with the conditions that each of them needs."""

from datetime import timedelta
from typing import Any

from millrace.registry import items
from millrace.registry.records import RunOutcome
from millrace.registry.rollout_records import Judgement, Rollout
from millrace.registry.rollout_states import ACTIVE
from millrace.spec import RolloutSection
from tests.fakes import cases
from tests.fakes.races import M, Race, Scene

CANARY = RolloutSection.model_validate({"strategy": "canary"})
IMPATIENT = RolloutSection.model_validate({"strategy": "canary", "on_conflict": "supersede"})


def _rolled_out(race: Race, *, traffic: bool) -> Rollout:
    """A champion, two versions that passed their gates, and a rollout of the first of them."""
    race.judged(1)
    race.registry.promote(M, 1, actor="pipeline", expected_champion=None)
    race.judged(2, champion=1)
    race.judged(3, champion=1)
    _roll_out(race, "first", 2)
    return race.rollouts.set_traffic("first", 1, 0) if traffic else race.rollouts.get("first")


def _roll_out(race: Race, rollout_id: str, version: int, **how: Any) -> Rollout:
    return race.rollouts.start(
        **{
            "rollout_id": rollout_id,
            "model": M,
            "version": version,
            "plan": CANARY,
            "actor": "ann",
            **how,
        }
    )


def _of_a_training(race: Race) -> str:
    """A rollout that closes the run of its version; gives the run."""
    race.judged(1)
    race.registry.promote(M, 1, actor="pipeline", expected_champion=None)
    task, _ = race.judged(2, champion=1)
    race.judged(3, champion=1)
    _roll_out(race, "first", 2, run_id=task.run_id)
    race.rollouts.set_traffic("first", 1, 0)
    return task.run_id


def _queued(race: Race) -> None:
    """A rollout that waited, and whose turn has come."""
    _rolled_out(race, traffic=False)
    _roll_out(race, "second", 3)
    race.rollouts.abort("first", actor="ann", reason="why")


def _abort(race: Race, rollout_id: str) -> Rollout:
    return race.rollouts.abort(rollout_id, actor="ann", reason="why")


def _told_of_rollouts(race: Race) -> list[str]:
    told = [e for e in race.registry.audit(M, limit=200).items if e.action.startswith("rollout")]
    return [f"{e.subject} {e.after}" for e in reversed(told)]


def _check_traffic(race: Race) -> None:
    """Traffic goes to the active rollout's version, which may have it, or to the champion alone."""
    active = race.registry.get_model(M).rollout_id
    route = race.item(items.serving_key(M)).get("rollout")
    if route is None:
        return
    assert route["rollout_id"] == active, "a rollout that ended has traffic"
    assert race.rollouts.get(str(active)).status in ACTIVE
    assert race.registry.get_version(M, route["version"]).status == "validated"


def same_rollout_twice(race: Race) -> None:
    for number in (1, 2):
        race.judged(number, champion=1 if number > 1 else None)
        if number == 1:
            race.registry.promote(M, 1, actor="pipeline", expected_champion=None)
    race.run(lambda: _roll_out(race, "first", 2), lambda: _roll_out(race, "first", 2))
    assert len(_told_of_rollouts(race)) == 1


def two_rollouts(race: Race) -> None:
    for number in (1, 2, 3):
        race.judged(number, champion=1 if number > 1 else None)
        if number == 1:
            race.registry.promote(M, 1, actor="pipeline", expected_champion=None)
    race.run(lambda: _roll_out(race, "one", 2), lambda: _roll_out(race, "other", 3))
    states = [race.rollouts.get(i).status for i in ("one", "other")]
    assert sum(s in ACTIVE for s in states) == 1


def rollout_and_rejection(race: Race) -> None:
    race.judged(1)
    race.registry.promote(M, 1, actor="pipeline", expected_champion=None)
    task, version = race.judged(2, champion=1)
    race.run(
        lambda: _roll_out(race, "first", 2),
        lambda: race.registry.record_evaluation(
            task, version, cases.evaluated(task.run_id, passed=False, champion=9), automatic=True
        ),
    )
    assert race.registry.get_model(M).rollout_id is None, "a rejected version is rolled out"


def rollout_and_request_for_approval(race: Race) -> None:
    race.judged(1)
    race.registry.promote(M, 1, actor="pipeline", expected_champion=None)
    race.judged(2, champion=1)
    race.run(
        lambda: _roll_out(race, "first", 2),
        lambda: race.approvals.request(M, 2, task_token="one", timeout=timedelta(days=1)),
    )
    assert race.registry.get_model(M).rollout_id is None, "what waits for approval is rolled out"


def rollout_and_another_request_for_approval(race: Race) -> None:
    race.judged(1)
    race.registry.promote(M, 1, actor="pipeline", expected_champion=None)
    task, version = race.judged(2, champion=1)
    race.approvals.request(M, 2, task_token="one", timeout=timedelta(days=1))
    race.approvals.decide(M, 2, "approve", actor="ann")

    def judged_anew() -> None:
        again = {"evaluation_key": "models/churn/again.json"}
        found = cases.evaluated(task.run_id, champion=1).model_copy(update=again)
        race.registry.record_evaluation(task, version, found, automatic=False)
        race.approvals.request(M, 2, task_token="other", timeout=timedelta(days=1))

    race.run(lambda: _roll_out(race, "first", 2), judged_anew)
    assert race.registry.get_model(M).rollout_id is None, "what waits again is rolled out"


def traffic_and_abort(race: Race) -> None:
    _rolled_out(race, traffic=False)
    race.run(
        lambda: race.rollouts.set_traffic("first", 1, 0),
        lambda: race.rollouts.abort("first", actor="ann", reason="why"),
    )
    _check_traffic(race)


def traffic_and_rejection(race: Race) -> None:
    _rolled_out(race, traffic=False)
    version = race.registry.get_version(M, 2)
    task = cases.training_input(race.registry.get_run(version.run_id))
    race.run(
        lambda: race.rollouts.set_traffic("first", 1, 0),
        lambda: race.registry.record_evaluation(
            task, 2, cases.evaluated(task.run_id, passed=False, champion=9), automatic=True
        ),
    )
    _check_traffic(race)


def traffic_and_promotion_of_one_moment(race: Race) -> None:
    _rolled_out(race, traffic=False)
    race.run(
        lambda: race.rollouts.set_traffic("first", 1, 0),
        lambda: race.registry.promote(M, 3, actor="ann", reason="why", force=True),
        late=True,
    )
    _check_traffic(race)


def ends_of_one_moment(race: Race) -> None:
    _rolled_out(race, traffic=True)
    race.run(
        lambda: race.rollouts.abort("first", actor="ann", reason="why"),
        lambda: race.rollouts.roll_back("first", 1, "errors"),
        late=True,
    )
    assert race.rollouts.get("first").status == "rolled_back"
    assert race.registry.get_model(M).rollout_id is None


def pause_and_abort(race: Race) -> None:
    _rolled_out(race, traffic=True)
    race.run(
        lambda: race.rollouts.pause("first", actor="ann", reason="why"),
        lambda: race.rollouts.abort("first", actor="ann", reason="why"),
    )
    assert race.rollouts.get("first").status == "aborted"


def promotion_and_abort_of_a_rollout(race: Race) -> None:
    _rolled_out(race, traffic=True)
    race.run(
        lambda: race.registry.promote(M, 3, actor="ann", reason="why", force=True),
        lambda: race.rollouts.abort("first", actor="ann", reason="why"),
    )
    assert race.rollouts.get("first").status == "aborted", "an end was overwritten"


def rollout_and_abort_of_its_run(race: Race) -> None:
    race.judged(1)
    race.registry.promote(M, 1, actor="pipeline", expected_champion=None)
    task, _ = race.judged(2, champion=1)
    race.run(
        lambda: _roll_out(race, "first", 2, run_id=task.run_id),
        lambda: race.registry.finish_run(task.run_id, RunOutcome.FAILED),
    )
    assert race.registry.get_run(task.run_id).outcome is RunOutcome.FAILED


def rollout_and_end_of_the_one_before(race: Race) -> None:
    _rolled_out(race, traffic=False)
    race.run(lambda: _roll_out(race, "second", 3, plan=IMPATIENT), lambda: _abort(race, "first"))
    assert race.rollouts.get("first").status == "aborted", "an end was overwritten"


def rollout_and_end_of_a_trainings(race: Race) -> None:
    run_id = _of_a_training(race)
    race.run(
        lambda: _roll_out(race, "second", 3, plan=IMPATIENT),
        lambda: race.rollouts.roll_back("first", 1, "errors"),
    )
    assert race.registry.get_run(run_id).outcome is RunOutcome.ROLLED_BACK


def rollout_and_end_of_one_moment(race: Race) -> None:
    _rolled_out(race, traffic=True)
    race.run(
        lambda: _roll_out(race, "second", 3, plan=IMPATIENT),
        lambda: _abort(race, "first"),
        late=True,
    )
    assert race.rollouts.get("first").status == "aborted", "an end was overwritten"


def two_ends_of_a_trainings_rollout(race: Race) -> None:
    run_id = _of_a_training(race)
    race.run(
        lambda: _abort(race, "first"),
        lambda: race.rollouts.roll_back("first", 1, "errors"),
    )
    assert race.registry.get_run(run_id).outcome is RunOutcome.ROLLED_BACK


def promotion_and_end_of_a_trainings_rollout(race: Race) -> None:
    run_id = _of_a_training(race)
    race.run(
        lambda: race.registry.promote(M, 3, actor="ann", reason="why", force=True),
        lambda: race.rollouts.roll_back("first", 1, "errors"),
    )
    assert race.registry.get_run(run_id).outcome is RunOutcome.ROLLED_BACK


def begun_twice(race: Race) -> None:
    _queued(race)
    race.run(lambda: race.rollouts.begin("second", 1), lambda: race.rollouts.begin("second", 1))
    assert _told_of_rollouts(race).count("second running") == 1


def begin_and_rejection(race: Race) -> None:
    _queued(race)
    task = cases.training_input(race.registry.get_run(race.registry.get_version(M, 3).run_id))
    race.run(
        lambda: race.rollouts.begin("second", 1),
        lambda: race.registry.record_evaluation(
            task, 3, cases.evaluated(task.run_id, passed=False, champion=9), automatic=True
        ),
    )
    assert race.registry.get_model(M).rollout_id is None, "a rejected version is rolled out"


def begin_and_abort(race: Race) -> None:
    _queued(race)
    race.run(lambda: race.rollouts.begin("second", 1), lambda: _abort(race, "second"))
    assert race.rollouts.get("second").status == "aborted"


def begin_of_no_use_and_abort(race: Race) -> None:
    _queued(race)
    race.registry.promote(M, 3, actor="pipeline", expected_champion=1)
    race.run(lambda: race.rollouts.begin("second", 1), lambda: _abort(race, "second"))
    assert race.rollouts.get("second").status == "aborted", "an end was overwritten"


def begin_and_abort_while_it_waits(race: Race) -> None:
    _queued(race)
    race.run(lambda: _abort(race, "second"), lambda: race.rollouts.begin("second", 1))
    assert race.rollouts.get("second").status == "aborted"
    assert race.registry.get_model(M).rollout_id is None, "what ended has the model's turn"


def looked_at_twice(race: Race) -> None:
    rollout = _rolled_out(race, traffic=True)

    def look(why: str) -> bool:
        found = Judgement(check=1, step=0, look=1, at=rollout.created_at, decision="wait", why=why)
        return race.rollouts.record_look(rollout, found, "{}")

    race.run(lambda: look("late"), lambda: look("early"), late=True)
    assert [j.why for j in race.rollouts.judgements("first").items] == ["early"]
    judged = race.rollouts.get("first").judgement
    assert judged is not None
    assert judged.why == "early", "a look was overwritten"


def resumed_twice(race: Race) -> None:
    _rolled_out(race, traffic=True)
    race.rollouts.pause("first", actor="ann", reason="why")

    def resume() -> Rollout:
        return race.rollouts.resume("first", actor="ann", reason="why", is_alive=lambda _: True)

    race.run(resume, resume)
    assert race.rollouts.get("first").attempt == 2
    assert _told_of_rollouts(race).count("first running") == 2, "started, and resumed once"


SCENES: list[tuple[Scene, str, tuple[str, ...]]] = [
    (same_rollout_twice, "start rollout", ("rollout", "model")),
    (two_rollouts, "start rollout", ("model",)),
    (rollout_and_rejection, "start rollout", ("version",)),
    (rollout_and_request_for_approval, "start rollout", ("approval",)),
    (rollout_and_another_request_for_approval, "start rollout", ("approval",)),
    (rollout_and_abort_of_its_run, "start rollout", ("run",)),
    (rollout_and_end_of_the_one_before, "start rollout", ("replaced rollout", "model")),
    (rollout_and_end_of_a_trainings, "start rollout", ("replaced run",)),
    (rollout_and_end_of_one_moment, "start rollout", ("serving", "live")),
    (begun_twice, "begin rollout", ("rollout", "model")),
    (begin_and_rejection, "begin rollout", ("version",)),
    (begin_and_abort, "begin rollout", ("rollout", "model")),
    (begin_of_no_use_and_abort, "begin rollout", ("rollout", "model")),
    (traffic_and_abort, "set step", ("rollout", "model")),
    (traffic_and_rejection, "set step", ("version",)),
    (traffic_and_promotion_of_one_moment, "set step", ("rollout", "model", "serving", "live")),
    (looked_at_twice, "record look", ("rollout", "check")),
    (ends_of_one_moment, "end rollout", ("rollout", "model", "serving", "live")),
    (two_ends_of_a_trainings_rollout, "end rollout", ("run of the rollout",)),
    (begin_and_abort_while_it_waits, "end rollout", ("rollout", "model")),
    (pause_and_abort, "move rollout", ("rollout",)),
    (resumed_twice, "move rollout", ("rollout",)),
    (promotion_and_abort_of_a_rollout, "crown", ("rollout",)),
    (promotion_and_end_of_a_trainings_rollout, "crown", ("run of the rollout",)),
]
"""Each race, the kind of change that is late in it, and the conditions that see it alone."""
