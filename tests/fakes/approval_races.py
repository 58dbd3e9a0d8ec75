"""Races around requests for approval, with the conditions that each of them needs."""

from datetime import timedelta

from millrace.registry.approvals import Decision
from millrace.registry.records import Approval, ApprovalStatus, RunOutcome
from tests.fakes.races import M, Race, Scene


def _ask(race: Race, version: int = 1, machine: str = "one") -> Approval:
    return race.approvals.request(M, version, task_token=machine, timeout=timedelta(days=1))


def _decide(race: Race, decision: Decision, actor: str, version: int = 1) -> Approval:
    return race.approvals.decide(M, version, decision, actor=actor, reason="why")


def _told(race: Race, version: int = 1) -> list[str]:
    """What the ledger says became of the version's requests."""
    entries = race.registry.audit(M, limit=200).items
    return [
        e.after
        for e in reversed(entries)
        if e.action.startswith("approval_") and e.subject == f"{M}@{version}"
    ]


def asked_twice_at_once(race: Race) -> None:
    race.judged(1)
    race.run(lambda: _ask(race, machine="one"), lambda: _ask(race, machine="other"))
    assert _told(race) == ["pending"], "people were asked twice"


def asked_and_promoted(race: Race) -> None:
    race.judged(1)
    race.run(
        lambda: _ask(race),
        lambda: race.registry.promote(M, 1, actor="ann", reason="why", expected_champion=None),
    )
    assert race.approvals.find(M, 1) is None, "people are asked about a champion"


def asked_and_aborted(race: Race) -> None:
    task, _ = race.judged(1)
    race.run(lambda: _ask(race), lambda: race.registry.finish_run(task.run_id, RunOutcome.FAILED))
    assert race.approvals.find(M, 1) is None, "people are asked about a training that failed"


def handed_over_after_the_answer(race: Race) -> None:
    race.judged(1)
    _ask(race)
    waiting: list[Approval] = []
    race.run(
        lambda: waiting.append(_ask(race, machine="other")),
        lambda: _decide(race, "approve", "ann"),
        late=True,
    )
    assert waiting == [], "a machine waits for an answer that was given"


def approved_and_rejected(race: Race) -> None:
    race.judged(1)
    _ask(race)
    race.run(lambda: _decide(race, "approve", "ann"), lambda: _decide(race, "reject", "bob"))
    assert _told(race) == ["pending", "rejected"]


def approved_and_overtaken(race: Race) -> None:
    race.judged(1)
    race.judged(2)
    _ask(race)
    race.run(
        lambda: _decide(race, "approve", "ann"),
        lambda: race.registry.promote(M, 2, actor="bob", reason="why", expected_champion=None),
    )
    assert race.approvals.get(M, 1).status is ApprovalStatus.SUPERSEDED


def rejected_and_promoted(race: Race) -> None:
    race.judged(1)
    _ask(race)
    race.run(
        lambda: _decide(race, "reject", "ann"),
        lambda: race.registry.promote(M, 1, actor="bob", reason="why", expected_champion=None),
    )
    assert _told(race) == ["pending", "approved"]


def expired_and_approved(race: Race) -> None:
    race.judged(1)
    _ask(race)
    race.run(lambda: race.approvals.expire(M, 1), lambda: _decide(race, "approve", "ann"))
    assert _told(race) == ["pending", "approved"]


def replaced_and_rejected(race: Race) -> None:
    race.judged(1)
    race.judged(2)
    _ask(race)
    race.registry.promote(M, 2, actor="bob", reason="why", expected_champion=None)
    race.run(lambda: _decide(race, "approve", "ann"), lambda: _decide(race, "reject", "bob"))
    assert _told(race) == ["pending", "rejected"]


def promoted_by_hand_and_rejected(race: Race) -> None:
    race.judged(1)
    _ask(race)
    race.run(
        lambda: race.registry.promote(M, 1, actor="ann", reason="why", expected_champion=None),
        lambda: _decide(race, "reject", "bob"),
    )
    assert _told(race) == ["pending", "rejected"]


SCENES: list[tuple[Scene, str, tuple[str, ...]]] = [
    (asked_twice_at_once, "ask", ("approval",)),
    (asked_and_promoted, "ask", ("version",)),
    (asked_and_aborted, "ask", ("run",)),
    (handed_over_after_the_answer, "hand over", ("approval",)),
    (approved_and_rejected, "approve", ("approval", "version")),
    (approved_and_overtaken, "approve", ("model",)),
    (rejected_and_promoted, "turn down", ("approval", "version")),
    (expired_and_approved, "turn down", ("approval",)),
    (replaced_and_rejected, "supersede", ("approval",)),
    (promoted_by_hand_and_rejected, "crown", ("approval", "version")),
]
"""Each race, the kind of change that is late in it, and the conditions that see it alone."""
