"""Promotion and rollback: one champion, never an unproven one, every race a clear answer."""

import pytest

from millrace.errors import (
    ChampionChangedError,
    ConflictError,
    InvalidEventError,
    InvalidTransitionError,
    NoChampionError,
    NotFoundError,
)
from millrace.registry.records import RunOutcome, RunStatus, VersionStatus
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL


@pytest.fixture
def registry() -> Registry:
    return Registry(FakeTable(), clock=FakeClock(), ids=counting_ids())


def test_first_champion_serves_and_is_aliased(registry: Registry) -> None:
    cases.champion(registry, 1)

    assert registry.get_serving(M).version == 1
    assert registry.get_version(M, "champion").version == 1
    assert registry.get_version(M, 1).aliases == ("champion",)
    assert registry.get_model(M).champion_version == 1
    assert registry.get_model(M).previous_champion_version is None


def test_promotion_archives_the_champion_before(registry: Registry) -> None:
    cases.champion(registry, 1)
    cases.champion(registry, 2)

    assert registry.get_version(M, 1).status is VersionStatus.ARCHIVED
    assert registry.get_version(M, 1).aliases == ()
    assert registry.get_version(M, 2).status is VersionStatus.CHAMPION
    assert registry.get_model(M).previous_champion_version == 1


def test_promotion_closes_its_run_and_marks_the_dataset_as_trained(registry: Registry) -> None:
    cases.champion(registry, 1)

    (run,) = registry.list_runs(M).items
    dataset = registry.get_dataset(M, "d1")

    assert (run.status, run.outcome) == (RunStatus.FINISHED, RunOutcome.PROMOTED)
    assert dataset.trained == {cases.spec().digest: run.run_id}


def test_promoting_against_another_champion_is_refused(registry: Registry) -> None:
    cases.champion(registry, 1)
    task = cases.candidate(registry, 2)
    registry.record_evaluation(task, 2, cases.evaluated(task.run_id, champion=1), automatic=True)
    other = cases.candidate(registry, 3)
    registry.record_evaluation(other, 3, cases.evaluated(other.run_id, champion=1), automatic=True)
    registry.promote(M, 3, actor="pipeline", expected_champion=1)

    with pytest.raises(ChampionChangedError, match=r"expected churn@1 .* found churn@3"):
        registry.promote(M, 2, actor="pipeline", expected_champion=1)

    assert registry.get_serving(M).version == 3


def test_promoting_by_hand_stands_on_the_comparison_that_was_made(registry: Registry) -> None:
    cases.champion(registry, 1)
    task = cases.candidate(registry, 2)
    registry.record_evaluation(task, 2, cases.evaluated(task.run_id, champion=1), automatic=False)
    cases.champion(registry, 3)

    with pytest.raises(ChampionChangedError, match="churn@2 was compared with churn@1"):
        registry.promote(M, 2, actor="ann")
    promotion = registry.promote(M, 2, actor="ann", expected_champion=3)

    assert (promotion.version, promotion.previous) == (2, 3)


def test_same_promotion_twice_is_one(registry: Registry) -> None:
    task = cases.candidate(registry, 1)
    registry.record_evaluation(task, 1, cases.evaluated(task.run_id), automatic=True)

    first = registry.promote(M, 1, actor="pipeline", expected_champion=None)
    again = registry.promote(M, 1, actor="pipeline", expected_champion=None)

    assert first == again
    assert [e.action for e in registry.audit(M).items].count("promoted") == 1


def test_promoting_the_champion_again_by_hand_says_so(registry: Registry) -> None:
    cases.champion(registry, 1)

    with pytest.raises(ConflictError, match="churn@1: it is champion; it is the champion already"):
        registry.promote(M, 1, actor="ann")


@pytest.mark.parametrize(
    ("passed", "text"),
    [(None, "has not passed its gates yet"), (False, "it was rejected")],
    ids=["candidate", "rejected"],
)
def test_unproven_version_is_promoted_only_by_force(
    registry: Registry, passed: bool | None, text: str
) -> None:
    task = cases.candidate(registry, 1)
    if passed is not None:
        registry.record_evaluation(
            task, 1, cases.evaluated(task.run_id, passed=passed), automatic=True
        )

    with pytest.raises(InvalidTransitionError, match=text):
        registry.promote(M, 1, actor="ann")
    registry.promote(M, 1, actor="ann", reason="the gate is wrong", force=True)

    newest = registry.audit(M).items[0]
    assert (newest.action, newest.actor, newest.reason) == (
        "forced_promotion",
        "ann",
        "the gate is wrong",
    )
    assert registry.get_serving(M).version == 1


@pytest.mark.parametrize(
    ("actor", "reason"),
    [("anonymous", "why"), ("", "why"), ("pipeline", "why"), ("ann", ""), ("ann", "  ")],
)
def test_force_needs_a_named_person_and_a_reason(
    registry: Registry, actor: str, reason: str
) -> None:
    cases.candidate(registry, 1)

    with pytest.raises(InvalidEventError, match="force"):
        registry.promote(M, 1, actor=actor, reason=reason, force=True)


def test_rollbacks_go_back_one_promotion_each(registry: Registry) -> None:
    for number in (1, 2, 3):
        cases.champion(registry, number)

    first = registry.rollback(M, actor="ann", reason="worse")
    second = registry.rollback(M, actor="ann", reason="still worse")

    assert (first.version, first.previous) == (2, 3)
    assert (second.version, second.previous) == (1, 2)
    with pytest.raises(ConflictError, match="churn@1 replaced no champion"):
        registry.rollback(M, actor="ann", reason="more")


def test_rollback_to_a_named_version(registry: Registry) -> None:
    for number in (1, 2, 3):
        cases.champion(registry, number)

    registry.rollback(M, to=1, actor="ann", reason="known good")

    assert registry.get_serving(M).version == 1
    assert registry.get_version(M, 3).status is VersionStatus.ARCHIVED
    newest = registry.audit(M).items[0]
    assert (newest.action, newest.before, newest.after) == ("rolled_back", "churn@3", "churn@1")


def test_rollback_repeated_with_its_expectation_goes_back_once(registry: Registry) -> None:
    for number in (1, 2, 3):
        cases.champion(registry, number)

    first = registry.rollback(M, actor="ann", reason="worse", expected_champion=3)
    again = registry.rollback(M, actor="ann", reason="worse", expected_champion=3)

    assert first == again
    assert registry.get_serving(M).version == 2


def test_rollback_to_a_version_that_never_was_champion_is_refused(registry: Registry) -> None:
    cases.champion(registry, 1)
    task = cases.candidate(registry, 2)
    registry.record_evaluation(task, 2, cases.evaluated(task.run_id, champion=1), automatic=False)

    with pytest.raises(InvalidTransitionError, match="never was champion; promote it"):
        registry.rollback(M, to=2, actor="ann", reason="oops")


def test_rollback_to_a_version_that_failed_its_gates_needs_force(registry: Registry) -> None:
    task = cases.candidate(registry, 1)
    registry.record_evaluation(task, 1, cases.evaluated(task.run_id, passed=False), automatic=True)
    registry.promote(M, 1, actor="ann", reason="must ship", force=True)
    cases.champion(registry, 2)

    with pytest.raises(ConflictError, match="churn@1 never passed its gates"):
        registry.rollback(M, actor="ann", reason="worse")
    registry.rollback(M, actor="ann", reason="worse", force=True)

    assert registry.get_serving(M).version == 1


def test_no_champion_is_told_from_no_model(registry: Registry) -> None:
    cases.candidate(registry, 1)

    with pytest.raises(NoChampionError):
        registry.get_serving(M)
    with pytest.raises(NoChampionError):
        registry.get_version(M, "champion")
    with pytest.raises(NoChampionError):
        registry.rollback(M, actor="ann", reason="worse")
    assert registry.champion(M) is None
    with pytest.raises(NotFoundError, match="'nobody'") as found:
        registry.get_serving("nobody")
    assert not isinstance(found.value, NoChampionError)


def test_unknown_versions_are_not_found(registry: Registry) -> None:
    cases.champion(registry, 1)

    for version in (2, "2", "challenger", 10**7):
        with pytest.raises(NotFoundError):
            registry.get_version(M, version)
    with pytest.raises(NotFoundError):
        registry.promote(M, 9, actor="ann")
    with pytest.raises(NotFoundError):
        registry.rollback(M, to=9, actor="ann", reason="x")
