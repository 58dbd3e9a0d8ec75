"""Plans: CloudFormation's change sets in plain words, with nothing left behind."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from infra.delivery import screens
from infra.delivery.place import Place
from infra.delivery.plan import Plan, make_plan
from infra.delivery.records import Deployment
from infra.delivery.release import Artifact, OnDisk, Release
from infra.delivery.stages import Stage
from millrace.errors import FinalError, InvalidRequestError, ServiceUnavailableError

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
STAGE = Stage(name="staging", section="staging", stack="millrace-staging")
TEMPLATE = """
Parameters:
  Stage: {Type: String, Default: dev}
  CodeVersion: {Type: String, Default: unversioned}
  ApiAuthorizer: {Type: String, Default: IAM}
  Secret: {Type: String, Default: "", NoEcho: true}
Resources:
  Bucket: {Type: AWS::S3::Bucket, DeletionPolicy: RetainExceptOnCreate, UpdateReplacePolicy: Retain}
  Loose: {Type: AWS::S3::Bucket}
"""


def _missing() -> ClientError:
    return ClientError(
        {"Error": {"Code": "ValidationError", "Message": "Stack with id x does not exist"}}, "D"
    )


@dataclass
class FakeCloudFormation:
    """A stack, or none, and the change set that it is told to describe."""

    changes: list[Any] = field(default_factory=list)
    parameters: dict[str, str] | None = None
    status: str = "CREATE_COMPLETE"
    reason: str = ""
    statuses: list[str] = field(default_factory=list)
    template: str = TEMPLATE
    made: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    review: bool = False

    def describe_stacks(self, StackName: str) -> Any:  # noqa: N803 - boto3's names
        if self.parameters is None and not self.review:
            raise _missing()
        return {
            "Stacks": [
                {
                    "StackName": "millrace-staging",
                    "StackId": "arn:stack",
                    "StackStatus": "REVIEW_IN_PROGRESS" if self.review else "UPDATE_COMPLETE",
                    "CreationTime": NOON,
                    "Parameters": [
                        {"ParameterKey": k, "ParameterValue": v}
                        for k, v in (self.parameters or {}).items()
                    ],
                }
            ]
        }

    def get_template(self, **_: Any) -> Any:
        return {"TemplateBody": self.template}

    def create_change_set(self, **asked: Any) -> Any:
        self.made.append(asked)
        self.review = self.parameters is None
        return {"Id": "arn:set", "StackId": "arn:stack"}

    def describe_change_set(self, NextToken: str | None = None, **_: Any) -> Any:  # noqa: N803
        if self.statuses:
            return {"Status": self.statuses.pop(0)}
        half = len(self.changes) // 2
        page = self.changes[half:] if NextToken else self.changes[:half]
        return {
            "Status": self.status,
            "StatusReason": self.reason,
            "Changes": [{"ResourceChange": c} for c in page],
            **({} if NextToken else {"NextToken": "more"}),
        }

    def delete_change_set(self, **asked: Any) -> None:
        self.deleted.append("change set")

    def delete_stack(self, **asked: Any) -> None:
        self.deleted.append("stack")


def _plan(
    tmp_path: Path, fake: FakeCloudFormation, last: Deployment | None = None, **given: str
) -> Plan:
    place = Place(environment={"AWS_REGION": "eu-central-1"})
    place.__dict__["cloudformation"] = fake
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    artifact = Artifact(name="template.yaml", key="t", sha256="0" * 64, size=1)
    release = Release(
        version="2.0",
        commit="",
        dirty=False,
        created=NOON,
        region="eu-central-1",
        bucket="b",
        template=artifact,
        artifacts=(),
    )
    return make_plan(
        place=place,
        stage=STAGE,
        on_disk=OnDisk(release, tmp_path),
        given=given,
        last=last,
        clock=iter(range(0, 10_000, 100)).__next__,
        pause=lambda _: None,
    )


def _shown(plan: Plan) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(screens.plan(plan))
    return console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above


def _change(action: str, name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"Action": action, "LogicalResourceId": name, "ResourceType": kind, **more}


def _detail(name: str, recreation: str = "Never", **more: Any) -> dict[str, Any]:
    target = {"Attribute": "Properties", "Name": name, "RequiresRecreation": recreation}
    return {"Target": target, "Evaluation": "Static", "ChangeSource": "DirectModification", **more}


DEPLOYED = {"Stage": "staging", "CodeVersion": "1.0", "ApiAuthorizer": "IAM", "Secret": "****"}


def test_a_first_deployment_is_planned_and_leaves_no_stack_behind(tmp_path: Path) -> None:
    fake = FakeCloudFormation([_change("Add", "Bucket", "AWS::S3::Bucket")] * 2)

    plan = _plan(tmp_path, fake, Stage="staging")

    assert plan.first
    assert fake.made[0]["ChangeSetType"] == "CREATE"
    assert fake.deleted == ["change set", "stack"]
    assert "the first deployment of stack millrace-staging" in _shown(plan)
    assert (plan.loses_data, plan.interrupts) == ("no", "no")


def test_every_parameter_but_a_secret_is_sent_as_it_was_planned(tmp_path: Path) -> None:
    fake = FakeCloudFormation(parameters={**DEPLOYED, "ApiAuthorizer": "API_KEY"})

    plan = _plan(tmp_path, fake, CodeVersion="2.0")

    sent = {p["ParameterKey"]: p.get("ParameterValue") for p in fake.made[0]["Parameters"]}
    assert sent == {
        "Stage": "staging",
        "CodeVersion": "2.0",
        "ApiAuthorizer": "API_KEY",
        "Secret": None,
    }
    assert "Secret" not in plan.given
    assert fake.deleted == ["change set"]


def test_a_change_set_without_changes_is_an_empty_plan(tmp_path: Path) -> None:
    fake = FakeCloudFormation(
        parameters=DEPLOYED,
        status="FAILED",
        reason="The submitted information didn't contain changes. Submit different information",
        statuses=["CREATE_PENDING", "CREATE_IN_PROGRESS"],
    )

    plan = _plan(tmp_path, fake)

    assert plan.empty
    assert "nothing would change" in _shown(plan)


def test_a_change_set_that_is_refused_says_why_and_is_deleted(tmp_path: Path) -> None:
    fake = FakeCloudFormation(parameters=DEPLOYED, status="FAILED", reason="Template error: no")

    with pytest.raises(
        FinalError, match="refuses this deployment of stack millrace-staging: Templ"
    ):
        _plan(tmp_path, fake)
    assert fake.deleted == ["change set"]


def test_a_change_set_that_never_ends_is_given_up_and_deleted(tmp_path: Path) -> None:
    fake = FakeCloudFormation(parameters=DEPLOYED, statuses=["CREATE_PENDING"] * 20)

    with pytest.raises(ServiceUnavailableError, match="within 10 minutes"):
        _plan(tmp_path, fake)
    assert fake.deleted == ["change set"]


@pytest.mark.parametrize(
    ("change", "loses", "interrupts", "said"),
    [
        (
            _change("Remove", "Bucket", "AWS::S3::Bucket", PolicyAction="Retain"),
            "no",
            "no",
            "it leaves the stack and stays, with everything in it",
        ),
        (
            _change("Remove", "Loose", "AWS::S3::Bucket"),
            "yes",
            "yes",
            "the bucket and everything in it is deleted",
        ),
        (
            _change(
                "Modify",
                "T",
                "AWS::DynamoDB::Table",
                Replacement="True",
                PolicyAction="ReplaceAndRetain",
                Details=[_detail("TableName", "Always")],
            ),
            "no",
            "yes",
            "the stack starts over with an empty table; the old one stays",
        ),
        (
            _change(
                "Modify",
                "Loose",
                "AWS::S3::Bucket",
                Replacement="Conditional",
                Details=[_detail("BucketName", "Conditionally")],
            ),
            "possible",
            "possible",
            "if it is replaced, the bucket and everything in it is deleted",
        ),
        (
            _change(
                "Modify",
                "Api",
                "AWS::ApiGateway::RestApi",
                Replacement="True",
                Details=[_detail("EndpointConfiguration", "Always")],
            ),
            "no",
            "yes",
            "its address changes: every caller has to follow",
        ),
        (_change("Remove", "L", "AWS::Logs::LogGroup"), "yes", "no", "the logs in it are deleted"),
        (
            _change(
                "Modify",
                "F",
                "AWS::Lambda::Function",
                Replacement="False",
                Details=[_detail("MemorySize")],
            ),
            "no",
            "no",
            "MemorySize",
        ),
    ],
    ids=["kept", "deleted", "replaced", "perhaps", "api", "logs", "function"],
)
def test_a_change_says_what_it_means(
    tmp_path: Path, change: dict[str, Any], loses: str, interrupts: str, said: str
) -> None:
    plan = _plan(tmp_path, FakeCloudFormation([change], parameters=DEPLOYED))

    assert (plan.loses_data, plan.interrupts) == (loses, interrupts)
    assert said in _shown(plan)


def test_a_resource_that_only_refers_to_a_changed_one_is_no_change(tmp_path: Path) -> None:
    refers = {
        "ChangeSource": "ResourceAttribute",
        "CausingEntity": "F.Arn",
        "Evaluation": "Dynamic",
    }
    changes = [
        _change(
            "Modify", "F", "AWS::Lambda::Function", Replacement="False", Details=[_detail("Code")]
        ),
        _change(
            "Modify",
            "Api",
            "AWS::ApiGateway::RestApi",
            Replacement="Conditional",
            Details=[_detail("Body", "Conditionally", **refers)],
        ),
    ]

    plan = _plan(tmp_path, FakeCloudFormation(changes, parameters=DEPLOYED))

    assert [c.name for c in plan.changes] == ["F"]
    assert [c.name for c in plan.follows] == ["Api"]
    assert plan.interrupts == "no"


def test_a_resource_that_refers_to_a_replaced_one_changes(tmp_path: Path) -> None:
    refers = {"ChangeSource": "ResourceReference", "CausingEntity": "T", "Evaluation": "Dynamic"}
    changes = [
        _change(
            "Modify",
            "T",
            "AWS::DynamoDB::Table",
            Replacement="True",
            PolicyAction="ReplaceAndRetain",
            Details=[_detail("KeySchema", "Always")],
        ),
        _change(
            "Modify",
            "F",
            "AWS::Lambda::Function",
            Replacement="False",
            Details=[_detail("Environment", **refers)],
        ),
    ]

    plan = _plan(tmp_path, FakeCloudFormation(changes, parameters=DEPLOYED))

    assert [(c.name, c.action) for c in plan.changes] == [("T", "replace"), ("F", "change")]


def test_the_alarming_comes_first_and_values_are_shown(tmp_path: Path) -> None:
    detail = _detail("MemorySize")
    detail["Target"] |= {"BeforeValue": "1024", "AfterValue": "2048"}
    changes = [
        _change("Add", "New", "AWS::SQS::Queue"),
        _change("Modify", "F", "AWS::Lambda::Function", Replacement="False", Details=[detail]),
        _change("Remove", "Loose", "AWS::S3::Bucket"),
    ]

    plan = _plan(tmp_path, FakeCloudFormation(changes, parameters=DEPLOYED))

    assert [c.name for c in plan.changes] == ["Loose", "F", "New"]
    assert "MemorySize 1024 → 2048" in _shown(plan)


def test_a_new_snapshot_of_the_same_api_is_no_change(tmp_path: Path) -> None:
    changes = [
        _change("Add", "ApiDeploymentnew", "AWS::ApiGateway::Deployment"),
        _change("Remove", "ApiDeploymentold", "AWS::ApiGateway::Deployment"),
        _change(
            "Modify",
            "ApiliveStage",
            "AWS::ApiGateway::Stage",
            Replacement="False",
            Details=[
                _detail(
                    "DeploymentId",
                    ChangeSource="ResourceReference",
                    CausingEntity="ApiDeploymentnew",
                )
            ],
        ),
    ]

    plan = _plan(tmp_path, FakeCloudFormation(changes, parameters=DEPLOYED))

    assert plan.empty
    assert len(plan.routine) == 3


def test_parameters_are_shown_old_and_new_and_another_authorizer_as_an_interruption(
    tmp_path: Path,
) -> None:
    change = _change("Modify", "F", "AWS::Lambda::Function", Details=[_detail("Environment")])
    fake = FakeCloudFormation([change], parameters={**DEPLOYED, "Former": "x"})

    plan = _plan(tmp_path, fake, ApiAuthorizer="API_KEY", Secret="hush")

    changed = {p.name: (p.before, p.after) for p in plan.parameters}
    assert changed == {
        "ApiAuthorizer": ("IAM", "API_KEY"),
        "Secret": ("***", "***"),
        "Former": ("x", None),
    }
    assert plan.interrupts == "yes"
    assert "hush" not in _shown(plan)


def test_what_was_changed_by_hand_is_told(tmp_path: Path) -> None:
    last = Deployment(
        stack="millrace-staging",
        stage="staging",
        kind="deploy",
        version="1.0",
        previous="",
        commit="",
        parameters={"ApiAuthorizer": "API_KEY", "Stage": "staging"},
        by="me",
        started=NOON,
        outcome="succeeded",
    )

    plan = _plan(tmp_path, FakeCloudFormation(parameters=DEPLOYED), last)

    assert [(p.name, p.before, p.after) for p in plan.by_hand] == [
        ("ApiAuthorizer", "API_KEY", "IAM")
    ]
    assert "changed by hand since the last recorded deployment" in _shown(plan)


def test_parameters_that_do_not_fit_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    fake = FakeCloudFormation(parameters=DEPLOYED)

    with pytest.raises(InvalidRequestError, match="nothing was sent"):
        _plan(tmp_path, fake, Nope="1")
    assert fake.made == []
