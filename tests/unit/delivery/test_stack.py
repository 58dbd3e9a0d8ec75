"""States of a stack that a deployment cannot begin with, and templates as they are read."""

from datetime import UTC, datetime

import pytest

from infra.delivery.stack import Stack, parse_template, refuse_unready
from millrace.errors import ConflictError, FinalError


def _stack(status: str, reason: str = "") -> Stack:
    return Stack(
        name="millrace-staging",
        arn="arn:stack",
        status=status,
        reason=reason,
        changed=datetime(2026, 11, 21, 12, 4, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    "status",
    [
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_ROLLBACK_COMPLETE",
        "REVIEW_IN_PROGRESS",
        "IMPORT_COMPLETE",
    ],
)
def test_a_stack_at_rest_can_be_deployed_to(status: str) -> None:
    refuse_unready(_stack(status), "eu-central-1")
    refuse_unready(None, "eu-central-1")


@pytest.mark.parametrize(
    ("status", "waits"),
    [
        ("CREATE_IN_PROGRESS", "stack-create-complete"),
        ("UPDATE_IN_PROGRESS", "stack-update-complete"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "stack-update-complete"),
        ("UPDATE_ROLLBACK_IN_PROGRESS", "stack-update-complete"),
        ("DELETE_IN_PROGRESS", "stack-delete-complete"),
    ],
)
def test_a_stack_somebody_changes_names_who_and_how_to_wait(status: str, waits: str) -> None:
    with pytest.raises(ConflictError) as caught:
        refuse_unready(_stack(status), "eu-central-1", started_by="ana (arn) at noon with v1")

    said = str(caught.value)
    assert f"{status} since 12:04 UTC, started by ana" in said
    assert f"aws cloudformation wait {waits} --stack-name millrace-staging" in said
    assert ("cancel-update-stack" in said) == (status == "UPDATE_IN_PROGRESS")


def test_a_first_deployment_that_failed_offers_the_command_and_the_variable() -> None:
    with pytest.raises(ConflictError) as caught:
        refuse_unready(_stack("ROLLBACK_COMPLETE"), "eu-central-1", stuck=["TrainRole: no right"])

    said = str(caught.value)
    assert (
        "aws cloudformation delete-stack --stack-name millrace-staging --region eu-central-1"
        in said
    )
    assert "REPLACE_FAILED=1" in said
    assert said.endswith("TrainRole: no right")


def test_a_way_back_that_failed_says_how_to_finish_it() -> None:
    with pytest.raises(ConflictError) as caught:
        refuse_unready(_stack("UPDATE_ROLLBACK_FAILED", "a queue is gone"), "eu-central-1")

    assert "aws cloudformation continue-update-rollback --stack-name" in str(caught.value)
    assert "a queue is gone" in str(caught.value)


@pytest.mark.parametrize("status", ["DELETE_FAILED", "IMPORT_ROLLBACK_FAILED"])
def test_other_broken_states_are_refused(status: str) -> None:
    with pytest.raises(ConflictError, match=status):
        refuse_unready(_stack(status), "eu-central-1")


def test_templates_are_read_in_every_form_they_come_in() -> None:
    short = (
        "Resources:\n  A: {Type: T, Properties: {P: !GetAtt B.Arn, Q: !Ref C, R: !Sub 'x${C}'}}\n"
    )
    long = {
        "Resources": {
            "A": {
                "Type": "T",
                "Properties": {
                    "P": {"Fn::GetAtt": ["B", "Arn"]},
                    "Q": {"Ref": "C"},
                    "R": {"Fn::Sub": "x${C}"},
                },
            }
        }
    }

    assert parse_template(short) == parse_template(long) == long


@pytest.mark.parametrize("body", ["[]", "Outputs: {}", "just words"])
def test_what_is_no_template_is_refused(body: str) -> None:
    with pytest.raises(FinalError, match="expected a CloudFormation template with Resources"):
        parse_template(body)
