"""Deployments on moto, with SAM's part played: what is refused, and what is written down."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.delivery import deployment, records
from infra.delivery.deployment import Delivery, Prepared, carry_out, parameters_for, prepare
from infra.delivery.place import Place
from infra.delivery.plan import Plan, moment_of
from infra.delivery.release import Artifact, OnDisk, Release
from infra.delivery.stack import find_stack
from infra.delivery.stages import stage_named
from infra.delivery.store import ArtifactStore, sha256_of
from millrace.errors import ConflictError, FinalError, InvalidRequestError
from millrace_cli.console import Interrupted
from tests.integration.delivery.conftest import BUCKET

PROJECT = Path(__file__).resolve().parents[3]
NAME = "millrace-staging"
TEMPLATE: dict[str, Any] = {
    "Parameters": {
        "Stage": {"Type": "String", "Default": "dev"},
        "CodeVersion": {"Type": "String", "Default": "none"},
        "PermissionsBoundaryArn": {"Type": "String", "Default": ""},
        "Password": {"Type": "String", "Default": "hush", "NoEcho": True},
    },
    "Resources": {"T": {"Type": "AWS::SNS::Topic"}},
}


@pytest.fixture
def delivery(place: Place, store: ArtifactStore) -> Delivery:
    return Delivery(
        project=PROJECT,
        place=place,
        stage=stage_named(PROJECT / "samconfig.toml", "staging"),
        store=store,
        say=lambda _: None,
    )


@pytest.fixture
def on_disk(tmp_path: Path, delivery: Delivery) -> OnDisk:
    file = tmp_path / "template.yaml"
    file.write_text(json.dumps(TEMPLATE))
    digest = sha256_of(file)
    delivery.store.put_file("releases/2.0/template.yaml", file, digest)
    release = Release(
        version="2.0",
        commit="c",
        dirty=False,
        created=datetime(2026, 11, 21, tzinfo=UTC),
        region="us-east-1",
        bucket=BUCKET,
        template=Artifact(
            name="template.yaml",
            key="releases/2.0/template.yaml",
            sha256=digest,
            size=file.stat().st_size,
        ),
        artifacts=(),
    )
    return OnDisk(release, tmp_path)


def _deploy(place: Place, template: dict[str, Any], version: str) -> None:
    place.cloudformation.create_stack(
        StackName=NAME,
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": "CodeVersion", "ParameterValue": version}]
        if "Parameters" in template
        else [],
    )


def _prepared(place: Place, on_disk: OnDisk, *, seen: str | None = None) -> Prepared:
    plan = Plan(
        stack=NAME,
        stage="staging",
        version="2.0",
        deployed="1.0",
        first=False,
        seen=moment_of(find_stack(place, NAME)) if seen is None else seen,
        given={"Stage": "staging", "CodeVersion": "2.0"},
    )
    return Prepared(on_disk, plan, "1.0")


def _sam(monkeypatch: pytest.MonkeyPatch, act: Callable[[Delivery], None] = lambda _: None) -> None:
    monkeypatch.setattr(deployment, "_sam_deploy", lambda delivery, *_: act(delivery))


def _no_event(_: Any) -> None:
    return None


def test_a_stack_that_is_not_millraces_is_left_alone(delivery: Delivery, on_disk: OnDisk) -> None:
    _deploy(delivery.place, {"Resources": TEMPLATE["Resources"]}, "")

    with pytest.raises(ConflictError, match="is not Millrace's .* choose another name with STACK="):
        prepare(delivery, on_disk, {})


def test_a_stack_that_changed_since_the_plan_is_left_alone_and_told_by_whom(
    delivery: Delivery, on_disk: OnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sam(monkeypatch)
    _deploy(delivery.place, TEMPLATE, "1.0")
    monkeypatch.setattr(records, "actor", lambda: "ana")
    carry_out(delivery, _prepared(delivery.place, on_disk), kind="deploy", event=_no_event)

    with pytest.raises(
        ConflictError, match=r"changed after this plan was made by ana .* with 2\.0"
    ):
        carry_out(
            delivery,
            _prepared(delivery.place, on_disk, seen="earlier"),
            kind="deploy",
            event=_no_event,
        )


def test_a_deployment_is_written_down_with_its_parameters_but_no_secret(
    delivery: Delivery, on_disk: OnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    _sam(monkeypatch, lambda d: seen.append(records.history(d.store, NAME)[-1].outcome))
    _deploy(delivery.place, TEMPLATE, "1.0")

    carry_out(delivery, _prepared(delivery.place, on_disk), kind="deploy", event=_no_event)

    [record] = records.history(delivery.store, NAME)
    assert seen == ["running"]
    assert (record.outcome, record.version, record.previous) == ("succeeded", "2.0", "1.0")
    assert record.finished is not None
    assert "Stage" in record.parameters
    assert "Password" not in record.parameters
    assert record.by.startswith("arn:aws:")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Stack:arn:aws:cloudformation:us-east-1:1:stack/x/1 is in UPDATE_IN_PROGRESS state and can "
            "not be updated",
            "somebody else began to change stack",
        ),
        ("An error occurred (InvalidChangeSetStatus)", "was changed while this deployment began"),
        ("Error: no idea", "SAM said:\nError: no idea"),
    ],
    ids=["busy", "stale", "other"],
)
def test_a_failure_is_told_and_written_down(
    delivery: Delivery,
    on_disk: OnDisk,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    told: str,
) -> None:
    def fail(_: Delivery) -> None:
        raise FinalError(said)

    _sam(monkeypatch, fail)
    _deploy(delivery.place, TEMPLATE, "1.0")

    with pytest.raises(FinalError, match=told):
        carry_out(delivery, _prepared(delivery.place, on_disk), kind="deploy", event=_no_event)

    [record] = records.history(delivery.store, NAME)
    assert record.outcome == "failed"
    assert told in record.reason
    assert records.last_good([record]) is None


def test_stopping_to_watch_says_that_it_goes_on_and_the_next_look_closes_it(
    delivery: Delivery, on_disk: OnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Delivery) -> None:
        raise KeyboardInterrupt

    _deploy(delivery.place, TEMPLATE, "1.0")
    _sam(monkeypatch, interrupt)
    with pytest.raises(Interrupted, match="CloudFormation goes on with stack millrace-staging"):
        carry_out(delivery, _prepared(delivery.place, on_disk), kind="deploy", event=_no_event)
    assert records.unfinished(records.history(delivery.store, NAME)) is not None

    _sam(monkeypatch)
    carry_out(delivery, _prepared(delivery.place, on_disk), kind="deploy", event=_no_event)

    assert [r.outcome for r in records.history(delivery.store, NAME)] == ["failed", "succeeded"]


def test_parameters_come_from_the_stage_the_bootstrap_the_release_and_the_caller(
    delivery: Delivery, on_disk: OnDisk
) -> None:
    boundary = "arn:aws:iam::123456789012:policy/boundary"
    delivery.place.cloudformation.create_stack(
        StackName="millrace-ci-staging",
        TemplateBody=json.dumps(
            {
                "Resources": TEMPLATE["Resources"],
                "Outputs": {"PermissionsBoundaryArn": {"Value": boundary}},
            }
        ),
    )

    chosen = parameters_for(delivery, on_disk.release, TEMPLATE["Parameters"], {"Password": "x"})

    assert chosen == {
        "Stage": "staging",
        "CodeVersion": "2.0",
        "PermissionsBoundaryArn": boundary,
        "Password": "x",
    }
    with pytest.raises(InvalidRequestError, match="CodeVersion=9, and the release is 2.0"):
        parameters_for(delivery, on_disk.release, TEMPLATE["Parameters"], {"CodeVersion": "9"})
