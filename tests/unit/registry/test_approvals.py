"""Requests for approval: asked once, answered once, by whoever may, in time."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from millrace.errors import (
    AlreadyDecidedError,
    ConditionFailedError,
    ConflictError,
    GoneError,
    InvalidEventError,
    NotApproverError,
    NotFoundError,
)
from millrace.registry.approvals import Approvals, approved
from millrace.registry.records import (
    Approval,
    ApprovalStatus,
    RunOutcome,
    VersionStatus,
)
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL
OPERATOR, APPROVER = "user:olga", "user:ada"


class Desk:
    """A registry and its requests on one table, with one clock."""

    def __init__(self) -> None:
        self.table = FakeTable()
        self.clock = FakeClock()
        ids = counting_ids()
        self.registry = Registry(self.table, clock=self.clock, ids=ids)
        self.approvals = Approvals(self.table, clock=self.clock, ids=ids)

    def validated(self, number: int, *, champion: int | None = None) -> str:
        """A version that passed its gates; gives its run."""
        task = cases.candidate(self.registry, number)
        judged = cases.evaluated(task.run_id, champion=champion)
        self.registry.record_evaluation(task, number, judged, automatic=False)
        return task.run_id

    def asked(self, number: int = 1, **rules: object) -> Approval:
        """A version that waits."""
        self.validated(number)
        return self.request(number, **rules)

    def request(self, number: int = 1, **rules: object) -> Approval:
        given = {"task_token": "token-1", "timeout": timedelta(days=1), **rules}
        return self.approvals.request(M, number, **given)  # type: ignore[arg-type]

    def actions(self) -> list[str]:
        return [e.action for e in self.registry.audit(M).items]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_request_leaves_the_run_open_and_says_so(desk: Desk) -> None:
    asked = desk.asked()

    run = desk.registry.get_run(asked.run_id)
    assert asked.status is ApprovalStatus.PENDING
    assert (run.outcome, run.awaiting_approval) == (None, True)
    assert desk.actions()[0] == "approval_requested"
    assert desk.registry.get_dataset(M, "d1").trained


def test_asking_again_hands_over_the_machine_and_asks_nobody_anew(desk: Desk) -> None:
    first = desk.asked()

    again = desk.request(task_token="token-2")

    assert (again.request_id, again.link_secret) == (first.request_id, first.link_secret)
    assert desk.approvals.get(M, 1).task_token == "token-2"
    assert desk.actions().count("approval_requested") == 1


def test_no_secret_of_a_request_reaches_the_ledger(desk: Desk) -> None:
    asked = desk.asked()
    desk.approvals.decide(M, 1, "approve", actor=APPROVER)

    told = "".join(e.model_dump_json() for e in desk.registry.audit(M).items)

    assert asked.link_secret not in told
    assert asked.task_token not in told
    assert asked.link_secret not in repr(asked)


def test_an_approval_is_recorded_with_its_evidence(desk: Desk) -> None:
    asked = desk.asked()

    decided = desk.approvals.decide(M, 1, "approve", actor=APPROVER, reason="reviewed")

    newest = desk.registry.audit(M).items[0]
    assert (decided.status, decided.decided_by) == (ApprovalStatus.APPROVED, APPROVER)
    assert (newest.action, newest.actor, newest.reason) == (
        "approval_approved",
        APPROVER,
        "reviewed",
    )
    assert newest.facts["request_id"] == asked.request_id
    assert newest.facts["report_key"] == asked.report_key
    assert desk.registry.get_version(M, 1).status is VersionStatus.VALIDATED


def test_a_rejection_turns_the_version_down(desk: Desk) -> None:
    desk.asked()

    decided = desk.approvals.decide(M, 1, "reject", actor=APPROVER, reason="worse for the young")

    version = desk.registry.get_version(M, 1)
    assert decided.status is ApprovalStatus.REJECTED
    assert (version.status, version.reason) == (VersionStatus.REJECTED, "worse for the young")
    with pytest.raises(ConflictError, match="it was rejected"):
        desk.registry.promote(M, 1, actor=APPROVER)


@pytest.mark.parametrize("reason", ["", "   "])
def test_a_rejection_needs_a_reason(desk: Desk, reason: str) -> None:
    desk.asked()

    with pytest.raises(InvalidEventError, match="a reason is required"):
        desk.approvals.decide(M, 1, "reject", actor=APPROVER, reason=reason)

    assert desk.approvals.get(M, 1).status is ApprovalStatus.PENDING


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_the_same_answer_again_is_the_same_answer(desk: Desk, decision: str) -> None:
    desk.asked()
    first = desk.approvals.decide(M, 1, decision, actor=APPROVER, reason="because")  # type: ignore[arg-type]

    again = desk.approvals.decide(M, 1, decision, actor=APPROVER, reason="because")  # type: ignore[arg-type]

    assert again == first
    assert desk.actions().count(f"approval_{first.status}") == 1


@pytest.mark.parametrize(
    ("decision", "actor"), [("approve", "user:bob"), ("reject", APPROVER), ("reject", "user:bob")]
)
def test_the_second_to_decide_reads_who_decided(desk: Desk, decision: str, actor: str) -> None:
    desk.asked()
    desk.approvals.decide(M, 1, "approve", actor=APPROVER)

    with pytest.raises(AlreadyDecidedError, match=f"churn@1 was approved by {APPROVER} at 20"):
        desk.approvals.decide(M, 1, decision, actor=actor, reason="no")  # type: ignore[arg-type]


def test_of_two_people_at_once_one_decides(desk: Desk) -> None:
    desk.asked()
    beaten: list[Callable[[], object]] = [
        lambda: desk.approvals.decide(M, 1, "reject", actor="user:bob", reason="no")
    ]
    real = desk.table.transact

    def overtaken(writes: object, what: str) -> None:
        if beaten:
            beaten.pop()()
        real(writes, what)  # type: ignore[arg-type]

    desk.table.transact = overtaken  # type: ignore[method-assign]

    with pytest.raises(AlreadyDecidedError, match="was rejected by user:bob"):
        desk.approvals.decide(M, 1, "approve", actor=APPROVER)

    assert desk.actions().count("approval_rejected") == 1
    assert "approval_approved" not in desk.actions()


# ── Who may ─────────────────────────────────────────────────────────────────────────────────────


def test_four_eyes_refuse_who_took_part_and_say_what_they_did(desk: Desk) -> None:
    desk.asked(four_eyes=True, barred={OPERATOR: "asked for the training"})

    with pytest.raises(NotApproverError, match=f"four eyes: {OPERATOR} asked for the training"):
        desk.approvals.decide(M, 1, "approve", actor=OPERATOR)

    assert desk.approvals.decide(M, 1, "approve", actor=APPROVER).decided_by == APPROVER


def test_one_may_turn_down_what_one_trained_oneself(desk: Desk) -> None:
    desk.asked(four_eyes=True, barred={OPERATOR: "asked for the training"})

    decided = desk.approvals.decide(M, 1, "reject", actor=OPERATOR, reason="a wrong upload")

    assert decided.status is ApprovalStatus.REJECTED


@pytest.mark.parametrize("actor", ["anonymous", ""])
def test_four_eyes_need_callers_with_names(desk: Desk, actor: str) -> None:
    desk.asked(four_eyes=True)

    with pytest.raises(NotApproverError, match="lets anyone in"):
        desk.approvals.decide(M, 1, "approve", actor=actor)


@pytest.mark.parametrize(
    ("actor", "may"),
    [
        ("user:ada", True),
        ("arn:aws:sts::1:assumed-role/Approvers/ada", True),
        ("user:adam", False),
        ("arn:aws:sts::1:assumed-role/Others/ada", False),
    ],
)
def test_approvers_of_the_spec_alone_decide(desk: Desk, actor: str, may: bool) -> None:
    desk.asked(approvers=("user:ada", "arn:aws:sts::1:assumed-role/Approvers/*"))

    if may:
        assert desk.approvals.decide(M, 1, "approve", actor=actor).decided_by == actor
    else:
        for decision in ("approve", "reject"):
            with pytest.raises(NotApproverError, match="is not among them"):
                desk.approvals.decide(M, 1, decision, actor=actor, reason="x")


# ── Time ────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_that_nobody_answered_expires(desk: Desk) -> None:
    desk.asked()

    expired = desk.approvals.expire(M, 1)
    again = desk.approvals.expire(M, 1)

    assert (expired.status, expired.via) == (ApprovalStatus.EXPIRED, "timeout")
    assert again == expired
    assert desk.registry.get_version(M, 1).status is VersionStatus.REJECTED
    assert desk.actions().count("approval_expired") == 1
    with pytest.raises(GoneError, match="expired at"):
        desk.approvals.decide(M, 1, "approve", actor=APPROVER)


def test_an_answer_at_the_last_moment_stands(desk: Desk) -> None:
    desk.asked()
    decided = desk.approvals.decide(M, 1, "approve", actor=APPROVER)

    assert desk.approvals.expire(M, 1) == decided


def test_an_answer_after_the_deadline_is_too_late_though_no_machine_said_so(desk: Desk) -> None:
    asked = desk.asked()
    desk.clock.now = asked.deadline

    late = desk.approvals.decide(M, 1, "approve", actor=APPROVER)

    assert late.status is ApprovalStatus.EXPIRED
    assert desk.registry.get_version(M, 1).status is VersionStatus.REJECTED


# ── What changed meanwhile ──────────────────────────────────────────────────────────────────────


def test_a_champion_that_changed_asks_for_a_new_comparison(desk: Desk) -> None:
    cases.champion(desk.registry, 1)
    task = cases.candidate(desk.registry, 2)
    judged = cases.evaluated(task.run_id, champion=1)
    desk.registry.record_evaluation(task, 2, judged, automatic=False)
    old = desk.request(2)
    cases.champion(desk.registry, 3)

    found = desk.approvals.decide(M, 2, "approve", actor=APPROVER)

    assert found.status is ApprovalStatus.SUPERSEDED
    assert found.reason == "churn@2 was compared with churn@1, and the champion is churn@3 now"
    with pytest.raises(AlreadyDecidedError, match="evaluated again"):
        desk.approvals.decide(M, 2, "approve", actor=APPROVER)

    anew = cases.evaluated(task.run_id, champion=3)
    anew = anew.model_copy(update={"evaluation_key": "models/churn/again.json"})
    desk.registry.record_evaluation(task, 2, anew, automatic=False)
    new = desk.request(2, task_token="token-2")

    assert new.request_id != old.request_id
    with pytest.raises(GoneError, match="a newer request asks for it"):
        desk.approvals.decide(M, 2, "approve", actor=APPROVER, request_id=old.request_id)
    decided = desk.approvals.decide(M, 2, "approve", actor=APPROVER, request_id=new.request_id)
    assert decided.status is ApprovalStatus.APPROVED


@pytest.mark.parametrize("verdict", ["passed", "failed"])
def test_a_version_that_was_evaluated_anew_meanwhile_is_not_approved_and_says_why_at_once(
    desk: Desk, verdict: str
) -> None:
    task = cases.candidate(desk.registry, 1)
    desk.registry.record_evaluation(task, 1, cases.evaluated(task.run_id), automatic=False)
    desk.request()
    anew = cases.evaluated(task.run_id).model_copy(
        update={"evaluation_key": "models/churn/again.json", "verdict": verdict}
    )
    desk.registry.record_evaluation(task, 1, anew, automatic=False)
    before = desk.clock.now

    expected = GoneError if verdict == "passed" else AlreadyDecidedError
    told = "was evaluated again since" if verdict == "passed" else "waits no more, it is rejected"
    with pytest.raises(expected, match=told):
        desk.approvals.decide(M, 1, "approve", actor=APPROVER)

    assert desk.clock.now - before < timedelta(seconds=5), "without another attempt"


def test_requests_that_no_machine_waits_for_expire_when_they_are_over(desk: Desk) -> None:
    by_import, by_machine, later = (
        desk.asked(1, task_token="", timeout=timedelta(hours=2)),
        desk.asked(2, timeout=timedelta(hours=2)),
        desk.asked(3, task_token="", timeout=timedelta(days=20)),
    )
    assert desk.approvals.expire_due() == []

    desk.clock.now = by_import.deadline + timedelta(minutes=1)
    (first,), (again,) = desk.approvals.expire_due(), desk.approvals.expire_due()

    assert (first.subject, first.status, first.via) == (
        "churn@1",
        ApprovalStatus.EXPIRED,
        "timeout",
    )
    assert again == first
    assert desk.actions().count("approval_expired") == 1
    for asked in (by_machine, later):
        assert desk.approvals.get(M, asked.version).status is ApprovalStatus.PENDING


def test_a_request_that_was_answered_does_not_expire(desk: Desk) -> None:
    asked = desk.asked(1, task_token="")
    desk.approvals.decide(M, 1, "approve", actor=APPROVER)

    desk.clock.now = asked.deadline + timedelta(hours=1)

    assert desk.approvals.expire_due() == []
    assert desk.approvals.get(M, 1).status is ApprovalStatus.APPROVED


def test_promoting_by_hand_answers_the_request_and_closes_the_run(desk: Desk) -> None:
    asked = desk.asked()

    desk.registry.promote(M, 1, actor=APPROVER, reason="looks right")

    found = desk.approvals.get(M, 1)
    assert (found.status, found.via, found.decided_by) == (
        ApprovalStatus.APPROVED,
        "promotion",
        APPROVER,
    )
    assert desk.registry.get_run(asked.run_id).outcome is RunOutcome.PROMOTED
    assert {"promoted", "approval_approved", "run_finished"} <= set(desk.actions()[:3])


def test_promoting_by_hand_and_by_force_is_held_to_four_eyes(desk: Desk) -> None:
    desk.asked(four_eyes=True, barred={OPERATOR: "asked for the training"})

    for force in (False, True):
        with pytest.raises(NotApproverError, match="four eyes"):
            desk.registry.promote(M, 1, actor=OPERATOR, reason="mine", force=force)

    assert desk.registry.champion(M) is None


def test_a_request_for_a_version_that_was_promoted_before_it_is_none(desk: Desk) -> None:
    desk.validated(1)
    desk.registry.promote(M, 1, actor=APPROVER)

    with pytest.raises(AlreadyDecidedError, match="found it champion"):
        desk.request(1)


def test_a_request_of_a_closed_run_is_none(desk: Desk) -> None:
    run_id = desk.validated(1)
    desk.registry.finish_run(run_id, RunOutcome.FAILED)

    with pytest.raises(ConflictError, match="is closed: failed"):
        desk.request(1)


@pytest.mark.parametrize("number", [0, 7, 10**6])
def test_what_nobody_asked_for_is_not_found(desk: Desk, number: int) -> None:
    desk.asked()

    with pytest.raises(NotFoundError):
        desk.approvals.decide(M, number, "approve", actor=APPROVER)


def test_a_version_that_needs_no_approval_says_why_there_is_no_request(desk: Desk) -> None:
    cases.champion(desk.registry, 1)

    with pytest.raises(NotFoundError, match="it is champion; a request is made when"):
        desk.approvals.get(M, 1)


def test_deadlines_count_from_the_request(desk: Desk) -> None:
    asked = desk.asked(timeout=timedelta(hours=12))

    assert isinstance(asked.deadline, datetime)
    assert asked.deadline - asked.requested_at == timedelta(hours=12)


@pytest.mark.parametrize("ended", ["reject", "expire"])
def test_what_was_not_approved_takes_no_traffic(desk: Desk, ended: str) -> None:
    desk.asked()
    with pytest.raises(ConflictError, match="waits for approval"):
        approved(desk.table, M, 1)

    if ended == "expire":
        desk.clock.now += timedelta(days=2)
        desk.approvals.expire(M, 1)
    else:
        desk.approvals.decide(M, 1, "reject", actor=APPROVER, reason="no")

    with pytest.raises(ConflictError, match="was not approved"):
        approved(desk.table, M, 1)


def test_an_answer_that_changes_meanwhile_stops_what_needs_it(desk: Desk) -> None:
    unasked = approved(desk.table, M, 1)
    desk.asked()
    with pytest.raises(ConditionFailedError):
        desk.table.transact([unasked], "take traffic")

    desk.approvals.decide(M, 1, "approve", actor=APPROVER)

    desk.table.transact([approved(desk.table, M, 1)], "take traffic")
