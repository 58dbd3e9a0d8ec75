"""Roles against the table that people review."""

import yaml

from tests.infra.access import TABLE, as_markdown, as_yaml, reasons, rights, shown

REWRITE = "run `python -m tests.infra.access` and look at the diff"


def test_roles_grant_what_the_checked_in_table_says() -> None:
    assert rights() == yaml.safe_load(TABLE.read_text()), REWRITE
    assert as_yaml() == TABLE.read_text(), REWRITE


def test_every_right_says_why_and_no_reason_is_left_over() -> None:
    granted = {
        (role, right)
        for role, described in rights().items()
        for right in (*described["may"], *described.get("managed", ()))
    }

    assert granted == reasons().keys()
    for right, why in reasons().items():
        assert len(why.split()) > 3, f"{right}: {why!r} is no reason"


def test_security_page_shows_the_table() -> None:
    assert shown() == as_markdown(), REWRITE


def test_only_those_who_change_or_serve_from_the_registry_touch_it() -> None:
    touching = {
        role
        for role, described in rights().items()
        for grant in described["may"].values()
        if any(a.startswith("dynamodb:") for a in grant["actions"])
    }

    assert touching == {
        "TriggerRole",
        "IngestRole",
        "RegistryRole",
        "ApiRole",
        "PredictRole",
        "CaptureRole",
        "FeedbackRole",
        "MonitorRole",
        "RolloutRole",
        "EventsRole",
        "HeartbeatRole",
    }


def test_ingest_reads_labels_of_the_table_and_nothing_else() -> None:
    [grant] = [
        grant
        for grant in rights()["IngestRole"]["may"].values()
        if any(a.startswith("dynamodb:") for a in grant["actions"])
    ]

    assert grant["actions"] == ["dynamodb:Query"]
    assert grant["resources"] == ["RegistryTable"]
    assert grant["condition"] == {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["LABELS#*"]}}


def test_predict_reads_and_writes_nothing() -> None:
    actions = {
        action
        for right, grant in rights()["PredictRole"]["may"].items()
        if right not in ("WriteLogs", "WriteTraces")
        for action in grant["actions"]
    }

    assert actions == {
        "dynamodb:GetItem",
        "dynamodb:Query",
        "s3:GetObject",
        "s3:ListBucket",
        "kms:Decrypt",
        "kms:Verify",
    }


def test_nobody_deletes_objects_or_changes_the_deployment() -> None:
    for role, described in rights().items():
        for right, grant in described["may"].items():
            for action in grant["actions"]:
                if (role, right, action) == ("MonitorRole", "CompactCaptures", "s3:DeleteObject"):
                    # What was put together is deleted in its small pieces, and their versions are kept a day.
                    assert grant["resources"] == ["DataBucket/capture/*"]
                    continue
                service, verb = action.split(":")
                assert service not in ("iam", "cloudformation", "sts"), action
                assert not verb.startswith(("Delete", "PutBucket", "Create")) or action in (
                    "dynamodb:DeleteItem",
                    "logs:CreateLogStream",
                    "logs:CreateLogDelivery",
                    "logs:DeleteLogDelivery",
                ), action
