"""What a deployment would do, from a change set that is made, read and deleted again."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid4

from infra.delivery.permissions import Widening, widenings
from infra.delivery.place import Place, asked
from infra.delivery.records import Deployment
from infra.delivery.release import OnDisk
from infra.delivery.stack import Stack, find_stack, parse_template, template_of
from infra.delivery.stages import Stage, check_parameters
from millrace.errors import (
    AccessDeniedError,
    FieldProblem,
    FinalError,
    InvalidRequestError,
    NotFoundError,
    ServiceUnavailableError,
)

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import (
        DescribeChangeSetOutputTypeDef,
        ParameterTypeDef,
        ResourceChangeTypeDef,
    )

CHANGE_SET_SECONDS = 600.0
POLL_SECONDS = 0.5

Likelihood = Literal["no", "possible", "yes"]
Action = Literal["add", "change", "replace", "may replace", "remove", "import"]

WORDS: Final = {
    "AWS::ApiGateway::Account": "API log setting of the account",
    "AWS::ApiGateway::ApiKey": "API key",
    "AWS::ApiGateway::Deployment": "API snapshot",
    "AWS::ApiGateway::RestApi": "API",
    "AWS::ApiGateway::Stage": "API stage",
    "AWS::ApiGateway::UsagePlan": "usage plan",
    "AWS::ApiGateway::UsagePlanKey": "key of the usage plan",
    "AWS::CloudFormation::Stack": "stack",
    "AWS::CloudWatch::Alarm": "alarm",
    "AWS::DynamoDB::Table": "table",
    "AWS::Events::Rule": "event rule",
    "AWS::IAM::ManagedPolicy": "policy",
    "AWS::IAM::Role": "role",
    "AWS::Lambda::EventInvokeConfig": "retry setting",
    "AWS::Lambda::Function": "function",
    "AWS::Lambda::Permission": "permission to invoke",
    "AWS::Logs::LogGroup": "log group",
    "AWS::S3::Bucket": "bucket",
    "AWS::S3::BucketPolicy": "bucket policy",
    "AWS::SNS::Subscription": "subscription",
    "AWS::SNS::Topic": "topic",
    "AWS::SNS::TopicPolicy": "topic policy",
    "AWS::SQS::Queue": "queue",
    "AWS::SQS::QueuePolicy": "queue policy",
    "AWS::StepFunctions::StateMachine": "state machine",
    "AWS::WAFv2::WebACL": "firewall",
    "AWS::WAFv2::WebACLAssociation": "place of the firewall",
}

_DATA: Final = frozenset({"AWS::S3::Bucket", "AWS::DynamoDB::Table"})
_KEEPS_SOMETHING: Final = {
    "AWS::Logs::LogGroup": "the logs in it",
    "AWS::SQS::Queue": "the messages waiting in it",
}
_KEPT: Final = frozenset({"Retain", "RetainExceptOnCreate", "ReplaceAndRetain"})
_INTERRUPTS: Final = {
    "AWS::ApiGateway::RestApi": "its address changes: every caller has to follow",
    "AWS::ApiGateway::Stage": "the API does not answer until the new stage is there",
    "AWS::ApiGateway::ApiKey": "callers need the new key",
    "AWS::IAM::ManagedPolicy": "whom it was attached to cannot call until they have the new one",
    "AWS::Lambda::Function": "its work stops until the new one is there",
    "AWS::StepFunctions::StateMachine": "running trainings are stopped",
    "AWS::SNS::Topic": "subscribers have to confirm again, and hear nothing until then",
    "AWS::Events::Rule": "",
}
PARAMETER_INTERRUPTS: Final = {
    "ApiAuthorizer": "callers have to authenticate in another way",
    "JwtIssuer": "callers need tokens of the new issuer",
    "JwtAudience": "tokens for the former audience are refused",
}


@dataclass(frozen=True, slots=True)
class PropertyChange:
    """One property that changes; values where CloudFormation tells them."""

    name: str
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to one resource.

    Attributes:
        action: What happens.
        name: Its name in the template.
        kind: CloudFormation's type.
        identifier: What it is called in the account, empty for a new one.
        properties: What changes about it.
        meaning: What that means for people, empty where nothing is to be said.
        loses_data: Whether something stored is gone afterwards.
        interrupts: Whether callers or runs notice.

    Both are certain unless the resource only may be replaced.
    """

    action: Action
    name: str
    kind: str
    identifier: str = ""
    properties: tuple[PropertyChange, ...] = ()
    meaning: str = ""
    loses_data: bool = False
    interrupts: bool = False

    @property
    def word(self) -> str:
        """The type in words."""
        return WORDS.get(self.kind, self.kind.removeprefix("AWS::"))

    @property
    def alarming(self) -> bool:
        """Whether a person has to look before it happens."""
        return self.loses_data or self.interrupts or (bool(self.meaning) and self.kind in _DATA)


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """A parameter's old and new value; None where there is none."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a deployment would do.

    Attributes:
        stack: The stack.
        stage: The stage.
        version: The release.
        deployed: The version that is deployed, empty before the first.
        first: Whether the stack would be new.
        changes: What happens to resources, the alarming first.
        routine: What every deployment does, even of the same release: the API takes a new snapshot.
        follows: Resources that CloudFormation looks at again because of those; nothing is known to
            change about them.
        parameters: What changes of the parameters.
        by_hand: Parameters that were changed since the last recorded deployment, by other means.
        widenings: What roles and policies allow that they did not.
        seen: When the stack was changed last before this plan, to notice another deployment.
        given: The parameters' values that the change set was made with.
    """

    stack: str
    stage: str
    version: str
    deployed: str
    first: bool
    changes: tuple[Change, ...] = ()
    routine: tuple[Change, ...] = ()
    follows: tuple[Change, ...] = ()
    parameters: tuple[ParameterChange, ...] = ()
    by_hand: tuple[ParameterChange, ...] = ()
    widenings: tuple[Widening, ...] = ()
    seen: str = ""
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing would change."""
        return not self.changes

    @property
    def loses_data(self) -> Likelihood:
        """Whether something stored would be gone."""
        return _likelihood([c for c in self.changes if c.loses_data])

    @property
    def interrupts(self) -> Likelihood:
        """Whether callers or runs would notice."""
        if any(p.name in PARAMETER_INTERRUPTS and p.before is not None for p in self.parameters):
            return "yes"
        return _likelihood([c for c in self.changes if c.interrupts])

    def as_document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "stack": self.stack,
            "stage": self.stage,
            "version": self.version,
            "deployed_version": self.deployed,
            "first_deployment": self.first,
            "changes": [asdict(c) for c in self.changes],
            "routine": [c.name for c in self.routine],
            "may_follow": [c.name for c in self.follows],
            "parameters": [asdict(p) for p in self.parameters],
            "changed_by_hand": [asdict(p) for p in self.by_hand],
            "permissions_widened": [asdict(w) for w in self.widenings],
            "has_changes": not self.empty,
            "loses_data": self.loses_data,
            "interrupts": self.interrupts,
        }


def make_plan(
    *,
    place: Place,
    stage: Stage,
    on_disk: OnDisk,
    given: Mapping[str, str],
    last: Deployment | None,
    role: str | None = None,
    tidy: bool = True,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Plan:
    """Asks CloudFormation what a deployment would do, and leaves nothing behind.

    Args:
        place: Account and region.
        stage: The stage.
        on_disk: The release.
        given: Parameters given for this deployment.
        last: The last recorded deployment that succeeded.
        role: The role that CloudFormation deploys with, None for the caller's rights.
        tidy: Whether to take away the empty stack that a first change set leaves; a deployment that
            follows would only make it anew.
        clock: Monotonic seconds.
        pause: Waits.

    Raises:
        InvalidRequestError: Parameters do not fit the template.
        FinalError: CloudFormation cannot make a change set of it.
    """
    template = parse_template(on_disk.template.read_text(encoding="utf-8"))
    declared = template.get("Parameters", {})
    stack = find_stack(place, stage.stack)
    current = stack if stack is not None and stack.exists else None
    check_parameters(declared, given)
    _refuse_missing(declared, given, current)
    whole = _whole(declared, given, current)
    described = _change_set(place, stage, on_disk, declared, whole, stack, role, tidy, clock, pause)
    old = template_of(place, current) if current else {}
    changes = [c["ResourceChange"] for c in described if "ResourceChange" in c]
    policies = {**old.get("Resources", {}), **template["Resources"]}
    firm, loose = _sorted_out(changes, policies)
    routine = [c for c in firm if current and _is_routine(c)]
    return Plan(
        stack=stage.stack,
        stage=stage.name,
        version=on_disk.release.version,
        deployed=current.parameters.get("CodeVersion", "") if current else "",
        first=current is None,
        changes=tuple(sorted((c for c in firm if c not in routine), key=_alarm)),
        routine=tuple(routine),
        follows=tuple(loose),
        parameters=tuple(_parameter_changes(declared, given, current)),
        by_hand=tuple(_by_hand(current, last)),
        widenings=tuple(widenings(old, template)),
        seen=moment_of(stack),
        given=whole,
    )


def _likelihood(changes: Sequence[Change]) -> Likelihood:
    if not changes:
        return "no"
    return "possible" if all(c.action == "may replace" for c in changes) else "yes"


def _is_routine(change: Change) -> bool:
    """Whether it is what the API's AlwaysDeploy does with every change set."""
    if change.kind == "AWS::ApiGateway::Deployment":
        return change.action in ("add", "remove")
    # LocalStack's change sets do not say what changes about a resource.
    return change.kind == "AWS::ApiGateway::Stage" and {p.name for p in change.properties} <= {
        "DeploymentId"
    }


def moment_of(stack: Stack | None) -> str:
    """Which state of a stack somebody looked at."""
    if stack is None or not stack.exists:
        return ""
    return f"{stack.arn} {stack.status} {stack.changed.isoformat()}"


def _whole(
    declared: Mapping[str, Mapping[str, Any]], given: Mapping[str, str], stack: Stack | None
) -> dict[str, str]:
    """A value for every parameter, so that what was planned is what is deployed.

    Left out are secrets that nobody gave: CloudFormation alone knows them.
    """
    known = stack.parameters if stack else {}
    values = {
        name: known.get(name, str(declaration.get("Default", "")))
        for name, declaration in declared.items()
        if not declaration.get("NoEcho")
    }
    return values | dict(given)


def _refuse_missing(
    declared: Mapping[str, Mapping[str, Any]], given: Mapping[str, str], stack: Stack | None
) -> None:
    known = stack.parameters if stack else {}
    missing = [
        name
        for name, declaration in declared.items()
        if name not in given and name not in known and "Default" not in declaration
    ]
    if missing:
        raise InvalidRequestError(
            "nothing was sent: parameters without a default need a value "
            f'(PARAMETERS="{missing[0]}=…")',
            [FieldProblem(name, "expected a value, got none") for name in missing],
        )


def _change_set(
    place: Place,
    stage: Stage,
    on_disk: OnDisk,
    declared: Mapping[str, Any],
    given: Mapping[str, str],
    stack: Stack | None,
    role: str | None,
    tidy: bool,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> list[Any]:
    """The changes of a change set that is deleted again."""
    exists = stack is not None and stack.exists
    known = stack.parameters if stack is not None and exists else {}
    parameters: list[ParameterTypeDef] = [
        {"ParameterKey": name, "ParameterValue": given[name]}
        if name in given
        else {"ParameterKey": name, "UsePreviousValue": True}
        for name in declared
        if name in given or name in known
    ]
    handed: dict[str, Any] = {"RoleARN": role} if role else {}
    name = f"millrace-plan-{uuid4().hex[:12]}"
    with asked(f"make a change set for stack {stage.stack}", place):
        made = place.cloudformation.create_change_set(
            StackName=stage.stack,
            ChangeSetName=name,
            ChangeSetType="UPDATE" if exists else "CREATE",
            TemplateURL=place.object_url(on_disk.release.bucket, on_disk.release.template.key),
            Parameters=parameters,
            Capabilities=list(stage.capabilities),  # type: ignore[arg-type]  # from samconfig.toml
            Tags=[{"Key": k, "Value": v} for k, v in stage.tags.items()],
            Description="What a deployment would do; nobody executes it",
            **handed,
        )
    try:
        return _read_change_set(place, stage.stack, made["Id"], clock, pause)
    finally:
        with asked(f"delete the change set of stack {stage.stack}", place):
            place.cloudformation.delete_change_set(StackName=stage.stack, ChangeSetName=made["Id"])
        if stack is None and tidy:
            _delete_empty(place, made["StackId"])


def _read_change_set(
    place: Place,
    stack: str,
    change_set: str,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> list[Any]:
    deadline = clock() + CHANGE_SET_SECONDS
    while True:
        page = _described(place, stack, change_set)
        if page["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
            break
        if clock() > deadline:
            raise ServiceUnavailableError(
                f"CloudFormation has not finished the change set of stack {stack} within "
                f"{CHANGE_SET_SECONDS / 60:.0f} minutes: try again"
            )
        pause(POLL_SECONDS)
    if page["Status"] == "FAILED":
        reason = page.get("StatusReason", "")
        if "didn't contain changes" in reason or "No updates are to be performed" in reason:
            return []
        raise FinalError(f"CloudFormation refuses this deployment of stack {stack}: {reason}")
    changes: list[Any] = list(page.get("Changes", ()))
    while page.get("NextToken"):
        page = _described(place, stack, change_set, page["NextToken"])
        changes += page.get("Changes", ())
    return changes


def _described(
    place: Place, stack: str, change_set: str, token: str | None = None
) -> "DescribeChangeSetOutputTypeDef":
    more: dict[str, Any] = {"NextToken": token} if token else {}
    with asked(f"read the change set of stack {stack}", place):
        return place.cloudformation.describe_change_set(
            StackName=stack, ChangeSetName=change_set, IncludePropertyValues=True, **more
        )


def _delete_empty(place: Place, arn: str) -> None:
    """A change set for a stack that is not there leaves its name behind, with nothing in it."""
    try:
        stack = find_stack(place, arn)
    except NotFoundError:
        return
    if stack is not None and stack.status == "REVIEW_IN_PROGRESS":
        # A pipeline's role may not delete stacks; a deployment takes an empty one over.
        with (
            contextlib.suppress(AccessDeniedError),
            asked(f"delete the empty stack {stack.name}", place),
        ):
            place.cloudformation.delete_stack(StackName=arn)


def _sorted_out(
    changes: Sequence["ResourceChangeTypeDef"], resources: Mapping[str, Any]
) -> tuple[list[Change], list[Change]]:
    """Changes that happen, and those that only might because something they refer to does.

    CloudFormation lists each resource that refers to a changed one. Its reference changes only if
    the other gets a new identity, which is if it is added, removed or replaced.
    """
    by_name = {c["LogicalResourceId"]: c for c in changes}
    renewed = {
        name
        for name, change in by_name.items()
        if change["Action"] != "Modify" or change.get("Replacement") == "True"
    }
    firm: set[str] = {n for n, c in by_name.items() if n in renewed or not c.get("Details")}
    while True:
        more = {
            name
            for name, change in by_name.items()
            if name not in firm and any(_is_firm(d, renewed) for d in change.get("Details", ()))
        }
        if not more:
            break
        firm |= more
        renewed |= {n for n in more if _action(by_name[n], renewed) == "replace"}
    told = [_told(c, renewed, resources) for n, c in by_name.items() if n in firm]
    rest = [_told(c, renewed, resources) for n, c in by_name.items() if n not in firm]
    return told, rest


def _is_firm(detail: Any, renewed: set[str]) -> bool:
    cause = str(detail.get("CausingEntity", "")).split(".")[0]
    if detail.get("ChangeSource") in ("ResourceReference", "ResourceAttribute"):
        return cause in renewed
    return detail.get("Evaluation", "Static") == "Static" or not cause


def _action(change: "ResourceChangeTypeDef", renewed: set[str]) -> Action:
    match change["Action"]:
        case "Add":
            return "add"
        case "Remove":
            return "remove"
        case "Import":
            return "import"
    if change.get("Replacement") == "True":
        return "replace"
    needed = {
        d.get("Target", {}).get("RequiresRecreation", "Never")
        for d in change.get("Details", ())
        if _is_firm(d, renewed)
    }
    if "Always" in needed:
        return "replace"
    return "may replace" if "Conditionally" in needed else "change"


def _told(
    change: "ResourceChangeTypeDef", renewed: set[str], resources: Mapping[str, Any]
) -> Change:
    name, kind = change["LogicalResourceId"], change["ResourceType"]
    action = _action(change, renewed)
    policy = str(change.get("PolicyAction") or "")
    if not policy:
        attribute = "DeletionPolicy" if action == "remove" else "UpdateReplacePolicy"
        policy = str(resources.get(name, {}).get(attribute, "Delete"))
    meaning, loses, interrupts = _meaning(action, kind, kept=policy in _KEPT)
    return Change(
        action=action,
        name=name,
        kind=kind,
        identifier=change.get("PhysicalResourceId", ""),
        properties=tuple(_properties(change, renewed)) if action != "add" else (),
        meaning=meaning,
        loses_data=loses,
        interrupts=interrupts,
    )


def _meaning(action: Action, kind: str, *, kept: bool) -> tuple[str, bool, bool]:
    """What a change means, whether data is lost, and whether anybody notices."""
    if action in ("add", "change", "import"):
        return "", False, False
    word = WORDS.get(kind, kind)
    perhaps = "if it is replaced, " if action == "may replace" else ""
    if kind in _DATA:
        if action == "remove":
            if kept:
                return "it leaves the stack and stays, with everything in it", False, False
            return f"the {word} and everything in it is deleted", True, True
        if kept:
            return (
                f"{perhaps}the stack starts over with an empty {word}; the old one stays, with "
                "everything in it, and nothing reads it",
                False,
                True,
            )
        return (
            f"{perhaps}the {word} and everything in it is deleted; a new one is empty",
            True,
            True,
        )
    if kind in _KEEPS_SOMETHING and not kept:
        return f"{perhaps}{_KEEPS_SOMETHING[kind]} are deleted", True, False
    if _INTERRUPTS.get(kind):
        if action == "remove":
            return f"there is no such {word} any more", False, True
        return f"{perhaps}{_INTERRUPTS[kind]}", False, True
    return "", False, False


def _properties(change: "ResourceChangeTypeDef", renewed: set[str]) -> list[PropertyChange]:
    found: dict[str, PropertyChange] = {}
    for detail in change.get("Details", ()):
        target = detail.get("Target", {})
        name = target.get("Name") or target.get("Attribute") or ""
        if not name or not _is_firm(detail, renewed):
            continue
        before, after = target.get("BeforeValue"), target.get("AfterValue")
        if name not in found or before is not None or after is not None:
            found[name] = PropertyChange(name, before, after)
    return list(found.values())


def _alarm(change: Change) -> tuple[bool, bool, int, str]:
    order: tuple[Action, ...] = ("remove", "replace", "may replace", "change", "add", "import")
    return (not change.loses_data, not change.alarming, order.index(change.action), change.name)


def _parameter_changes(
    declared: Mapping[str, Mapping[str, Any]], given: Mapping[str, str], stack: Stack | None
) -> list[ParameterChange]:
    known = stack.parameters if stack else {}
    found = []
    for name, declaration in declared.items():
        before = known.get(name)
        after = given.get(name, before if name in known else str(declaration.get("Default", "")))
        # On a first deployment the defaults are no news.
        if after != before and (stack is not None or name in given):
            hidden = bool(declaration.get("NoEcho"))
            found.append(
                ParameterChange(name, "***", "***")
                if hidden
                else ParameterChange(name, before, after)
            )
    found += [ParameterChange(n, v, None) for n, v in known.items() if n not in declared]
    return found


def _by_hand(stack: Stack | None, last: Deployment | None) -> list[ParameterChange]:
    if stack is None or last is None:
        return []
    return [
        ParameterChange(name, before, stack.parameters[name])
        for name, before in last.parameters.items()
        if name in stack.parameters and stack.parameters[name] != before
    ]
