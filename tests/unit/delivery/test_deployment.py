"""Deployments that were cut off, and what a failure is told as."""

from datetime import UTC, datetime
from typing import Literal

import pytest

from infra.delivery.deployment import _BUSY, _EVENT, settled
from infra.delivery.records import Deployment
from infra.delivery.stack import Stack

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def _record(version: str, outcome: Literal["running", "succeeded"]) -> Deployment:
    return Deployment(
        stack="s",
        stage="staging",
        kind="deploy",
        version=version,
        previous="",
        commit="",
        parameters={},
        by="me",
        started=NOON,
        outcome=outcome,
    )


def _stack(status: str, version: str) -> Stack:
    return Stack(
        name="s",
        arn="a",
        status=status,
        reason="",
        changed=NOON,
        parameters={"CodeVersion": version},
    )


@pytest.mark.parametrize(
    ("stack", "outcome"),
    [
        (_stack("UPDATE_COMPLETE", "2"), "succeeded"),
        (_stack("UPDATE_COMPLETE", "1"), "failed"),
        (_stack("UPDATE_ROLLBACK_COMPLETE", "2"), "failed"),
        (_stack("UPDATE_IN_PROGRESS", "2"), "running"),
        (None, "failed"),
    ],
    ids=["arrived", "another-version", "rolled-back", "still-running", "no-stack"],
)
def test_the_stack_says_what_became_of_a_deployment_that_nobody_watched(
    stack: Stack | None, outcome: str
) -> None:
    told = [_record("1", "succeeded"), _record("2", "running")]

    assert [r.outcome for r in settled(told, stack)] == ["succeeded", outcome]


def test_a_deployment_that_was_watched_stays_as_it_is() -> None:
    told = [_record("1", "succeeded")]

    assert settled(told, _stack("UPDATE_COMPLETE", "7")) == told


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "CREATE_COMPLETE      AWS::S3::Bucket      DataBucket      -",
            ("CREATE_COMPLETE", "AWS::S3::Bucket", "DataBucket"),
        ),
        (
            "UPDATE_FAILED   AWS::Lambda::Function   TrainFunction   Resource handler returned: no",
            ("UPDATE_FAILED", "AWS::Lambda::Function", "TrainFunction"),
        ),
        ("Waiting for changeset to be created..", None),
        ("ResourceStatus   ResourceType   LogicalResourceId", None),
    ],
    ids=["complete", "failed", "words", "header"],
)
def test_sams_progress_is_read_line_by_line(
    line: str, expected: tuple[str, str, str] | None
) -> None:
    found = _EVENT.match(line)

    assert (found and (found["status"], found["kind"], found["name"])) == expected


def test_another_deployment_at_the_same_moment_is_recognised() -> None:
    said = (
        "An error occurred (ValidationError) when calling the CreateChangeSet operation: "
        "Stack:arn:aws:cloudformation:eu-central-1:1:stack/s/1 is in UPDATE_IN_PROGRESS state and can "
        "not be updated."
    )

    assert _BUSY.search(said)
    assert not _BUSY.search("UPDATE_ROLLBACK_IN_PROGRESS  AWS::S3::Bucket  the name is in use")
