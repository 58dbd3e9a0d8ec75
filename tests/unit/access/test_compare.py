"""Requests against policies: what is missing, what is idle, what is explained."""

from pathlib import Path

import pytest

from tests.access.compare import (
    denied,
    reasons,
    unchanged_by_mutation,
    unexplained,
    unnoticed,
    unused,
)
from tests.access.policies import Grant, Policies, Reader, Request

READ = {"Sid": "Read", "Effect": "Allow", "Action": "s3:GetObject"}
MODEL = "arn:aws:s3:::artifacts/models/a"


def _policies(*documents: dict) -> Policies:
    return Policies(Reader().statement("TrainRole", d) for d in documents)


def _asked(action: str = "s3:GetObject", resource: str = MODEL) -> Request:
    return Request("TrainRole", action, resource)


def test_a_refusal_names_who_what_where_why_and_the_nearest_grants() -> None:
    policies = _policies({**READ, "Resource": ["arn:aws:s3:::artifacts/specs/*"]})

    [refused] = denied({_asked(): ["s3 GetObject {…}", "s3 GetObject {…}"]}, policies)

    assert str(refused).splitlines() == [
        f"TrainRole may not s3:GetObject on {MODEL}",
        "    needed by s3 GetObject {…}",
        "    granted is TrainRole Read: s3:GetObject on arn:aws:s3:::artifacts/specs/*",
    ]


def test_what_is_granted_is_not_refused() -> None:
    policies = _policies({**READ, "Resource": "arn:aws:s3:::artifacts/models/*"})

    assert denied({_asked(): []}, policies) == []


def test_grants_are_idle_by_action_and_by_resource() -> None:
    policies = _policies(
        {
            **READ,
            "Action": ["s3:GetObject", "s3:PutObject"],
            "Resource": ["arn:aws:s3:::artifacts/models/*", "arn:aws:s3:::artifacts/specs/*"],
        }
    )

    idle = unused([_asked()], policies)

    assert [(g.action, g.resource.rsplit("/", 2)[1]) for g in idle] == [
        ("s3:GetObject", "specs"),
        ("s3:PutObject", "models"),
        ("s3:PutObject", "specs"),
    ]


def test_a_grant_that_another_covers_would_be_missed_by_nobody() -> None:
    wide = {**READ, "Sid": "Wide", "Resource": "arn:aws:s3:::artifacts/*"}
    narrow = {**READ, "Sid": "Narrow", "Resource": "arn:aws:s3:::artifacts/models/*"}

    assert unnoticed([_asked()], _policies(wide)) == []
    assert {g.sid for g in unnoticed([_asked()], _policies(wide, narrow))} == {"Wide", "Narrow"}


def test_a_statement_that_may_be_changed_unnoticed_is_named() -> None:
    leading = {"StringLike": {"dynamodb:LeadingKeys": "MODEL#*"}}
    get = {"Effect": "Allow", "Action": "dynamodb:GetItem", "Resource": "arn:table"}
    request = Request(
        "TrainRole", "dynamodb:GetItem", "arn:table", (("dynamodb:leadingkeys", ("MODEL#a",)),)
    )
    narrow, wide = {**get, "Sid": "Narrow", "Condition": leading}, {**get, "Sid": "Wide"}

    assert unchanged_by_mutation([request], _policies(narrow)) == []
    assert unchanged_by_mutation([request], _policies(narrow, wide)) == [
        "TrainRole Narrow: resources",
        "TrainRole Narrow: condition",
        "TrainRole Wide: resources",
    ]


def test_an_idle_grant_needs_a_reason_and_a_reason_an_idle_grant() -> None:
    policies = _policies(
        {**READ, "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::a/*"}
    )
    busy, idle, gone = (
        Grant("TrainRole", "Read", action, "arn:aws:s3:::a/*")
        for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject")
    )
    requests = [_asked(resource="arn:aws:s3:::a/b")]

    assert unexplained(requests, policies, {idle: "only a failure does"}) == []
    [never] = unexplained(requests, policies, {})
    assert str(idle) in never
    assert "was never used" in never
    [used] = unexplained(requests, policies, {idle: "rare", busy: "rare"})
    assert str(busy) in used
    assert "is used: delete it" in used
    [absent] = unexplained(requests, policies, {idle: "rare", gone: "rare"})
    assert str(gone) in absent
    assert "is not granted" in absent


ENTRY = """
TrainRole:
  - right: KeepModels
    action: s3:GetObject
    resource: ArtifactBucket/models/*
"""


def test_reasons_are_read_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "reasons.yaml"
    path.write_text(f"{ENTRY}    reason: A fit that runs again compares its bytes.\n")

    [(grant, reason)] = reasons(path).items()

    assert grant == Grant("TrainRole", "KeepModels", "s3:GetObject", "ArtifactBucket/models/*")
    assert reason == "A fit that runs again compares its bytes."


@pytest.mark.parametrize("said", ["", "    reason: needed\n", "    reason: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"])  # fmt: skip
def test_a_reason_that_says_nothing_is_refused(tmp_path: Path, said: str) -> None:
    path = tmp_path / "reasons.yaml"
    path.write_text(f"{ENTRY}{said}")

    with pytest.raises(ValueError, match="give a reason"):
        reasons(path)
