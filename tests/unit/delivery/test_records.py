"""Who deployed what, and where a rollback leads."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from infra.delivery.records import Deployment, actor, line_of_succession, unfinished


def _record(
    version: str,
    minute: int,
    kind: Literal["deploy", "rollback"] = "deploy",
    outcome: Literal["running", "succeeded", "failed"] = "succeeded",
) -> Deployment:
    return Deployment(
        stack="s",
        stage="staging",
        kind=kind,
        version=version,
        previous="",
        commit="",
        parameters={},
        by="arn:me",
        started=datetime(2026, 11, 21, 12, tzinfo=UTC) + timedelta(minutes=minute),
        outcome=outcome,
    )


def _line(*records: Deployment) -> list[str]:
    return [r.version for r in line_of_succession(records)]


def test_releases_stand_behind_each_other() -> None:
    assert _line(_record("1", 0), _record("2", 1), _record("3", 2)) == ["1", "2", "3"]


def test_what_failed_never_ran() -> None:
    assert _line(_record("1", 0), _record("2", 1, outcome="failed")) == ["1"]


def test_the_same_release_again_is_one_step_with_its_newest_parameters() -> None:
    line = line_of_succession([_record("1", 0), _record("2", 1), _record("2", 2)])

    assert [r.version for r in line] == ["1", "2"]
    assert line[-1].started.minute == 2


def test_rolling_back_twice_leads_two_back_and_never_forth() -> None:
    three = [_record("1", 0), _record("2", 1), _record("3", 2)]
    once = [*three, _record("2", 3, "rollback")]
    twice = [*once, _record("1", 4, "rollback")]

    assert _line(*once) == ["1", "2"]
    assert _line(*twice) == ["1"]
    assert _line(*twice, _record("4", 5)) == ["1", "4"]


def test_a_rollback_to_a_release_that_is_no_more_in_line_is_a_step_forward() -> None:
    line = [
        _record("1", 0),
        _record("2", 1),
        _record("1", 2, "rollback"),
        _record("2", 3, "rollback"),
    ]

    assert _line(*line) == ["1", "2"]


def test_a_deployment_that_was_cut_off_is_known() -> None:
    assert unfinished([_record("1", 0), _record("2", 1, outcome="running")]) is not None
    assert unfinished([_record("1", 0)]) is None
    assert unfinished([]) is None


def test_keys_sort_by_time() -> None:
    assert _record("9", 0).key < _record("10", 1).key


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GITLAB_USER_LOGIN": "ana", "CI_JOB_URL": "https://ci/1"}, "ana https://ci/1"),
        (
            {
                "GITHUB_ACTOR": "ana",
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_REPOSITORY": "me/it",
                "GITHUB_RUN_ID": "7",
            },
            "ana https://github.com/me/it/actions/runs/7",
        ),
        ({"BUILD_URL": "https://jenkins/3"}, "https://jenkins/3"),
    ],
    ids=["gitlab", "github", "jenkins"],
)
def test_a_pipeline_names_its_person_and_its_job(
    environment: dict[str, str], expected: str
) -> None:
    assert actor(environment) == expected
