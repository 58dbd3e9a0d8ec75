"""A CloudFormation stack as it is, and what its state means to someone who wants to deploy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import yaml

from infra.delivery.place import Place, asked
from millrace.errors import ConflictError, FinalError, NotFoundError

GONE = "DELETE_COMPLETE"
NEVER_WORKED = ("ROLLBACK_COMPLETE", "CREATE_FAILED", "ROLLBACK_FAILED")
"""A first deployment that failed: CloudFormation can only delete it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What CloudFormation says of a stack.

    Attributes:
        name: Its name.
        arn: Its id, which names it after it is gone, too.
        status: CloudFormation's status.
        reason: Why it is in that status, where CloudFormation says so.
        changed: When it was changed last.
        parameters: Their values.
        outputs: Their values.
        protected: Whether termination protection is on.
    """

    name: str
    arn: str
    status: str
    reason: str
    changed: datetime
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    protected: bool = False

    @property
    def exists(self) -> bool:
        """Whether anything of it was ever deployed: an unexecuted plan leaves a name only."""
        return self.status not in (GONE, "REVIEW_IN_PROGRESS")

    @property
    def busy(self) -> bool:
        """Whether somebody is changing it right now."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of a stack."""

    name: str
    kind: str
    identifier: str
    status: str


def find_stack(place: Place, name: str) -> Stack | None:
    """The stack of that name, or None."""
    try:
        with asked(f"describe stack {name}", place):
            found = place.cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except NotFoundError:
        return None
    except FinalError as exc:
        if "does not exist" not in str(exc):
            raise
        return None
    if found["StackStatus"] == GONE:
        return None
    return Stack(
        name=found["StackName"],
        arn=found.get("StackId", name),
        status=found["StackStatus"],
        reason=found.get("StackStatusReason", ""),
        changed=found.get("LastUpdatedTime", found["CreationTime"]).astimezone(UTC),
        parameters={
            p["ParameterKey"]: p.get("ParameterValue", "") for p in found.get("Parameters", ())
        },
        outputs={o["OutputKey"]: o["OutputValue"] for o in found.get("Outputs", ())},
        protected=bool(found.get("EnableTerminationProtection", False)),
    )


def outputs_of(place: Place, name: str) -> dict[str, str]:
    """A stack's outputs.

    Raises:
        NotFoundError: There is no such stack.
    """
    stack = find_stack(place, name)
    if stack is None:
        raise NotFoundError(f"there is no stack {name} in {place.words}")
    return dict(stack.outputs)


def resources_of(place: Place, stack: Stack) -> list[Resource]:
    """What a stack is made of; what it has left behind already is left out."""
    with asked(f"list the resources of stack {stack.name}", place):
        pages = place.cloudformation.get_paginator("list_stack_resources").paginate(
            StackName=stack.arn
        )
        return [
            Resource(
                name=found["LogicalResourceId"],
                kind=found["ResourceType"],
                identifier=found.get("PhysicalResourceId", ""),
                status=found["ResourceStatus"],
            )
            for page in pages
            for found in page["StackResourceSummaries"]
            if found["ResourceStatus"] not in (GONE, "DELETE_SKIPPED")
        ]


def template_of(place: Place, stack: Stack) -> dict[str, Any]:
    """The template a stack was deployed with, before its transform."""
    with asked(f"read the template of stack {stack.name}", place):
        body = place.cloudformation.get_template(StackName=stack.arn, TemplateStage="Original")[
            "TemplateBody"
        ]
    return parse_template(body)


def parse_template(body: object) -> dict[str, Any]:
    """A template as a mapping, from YAML with CloudFormation's tags, JSON, or boto3's reading."""
    if not isinstance(body, str):
        body = yaml.safe_dump(_plain(body))
    # nosemgrep: yaml-that-builds-objects -- _loader() is SafeLoader with CloudFormation's tags
    parsed = yaml.load(body, Loader=_loader())  # noqa: S506
    if not isinstance(parsed, dict) or "Resources" not in parsed:
        raise FinalError("expected a CloudFormation template with Resources")
    return parsed


@cache
def _loader() -> type[yaml.SafeLoader]:
    class Loader(yaml.SafeLoader):
        """SafeLoader that reads CloudFormation's short forms."""

    def intrinsic(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> object:
        if isinstance(node, yaml.ScalarNode):
            value: object = loader.construct_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            assert isinstance(node, yaml.MappingNode)  # noqa: S101 - YAML has no fourth kind
            value = loader.construct_mapping(node, deep=True)
        if tag == "GetAtt" and isinstance(value, str):
            value = value.split(".", 1)
        return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}

    Loader.add_multi_constructor("!", intrinsic)
    return Loader


def _plain(value: object) -> object:
    """Ordered mappings as plain ones, which YAML can write."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def failures_since(place: Place, stack: str, since: datetime, limit: int = 5) -> list[str]:
    """What failed in a stack since a moment, the first failure first: it is the cause."""
    found: list[str] = []
    with asked(f"read the events of stack {stack}", place):
        for page in place.cloudformation.get_paginator("describe_stack_events").paginate(
            StackName=stack
        ):
            for event in page["StackEvents"]:
                if event["Timestamp"] < since:
                    return found[::-1][:limit]
                reason = event.get("ResourceStatusReason", "")
                if event.get("ResourceStatus", "").endswith("FAILED") and (
                    "cancelled" not in reason.lower()
                ):
                    found.append(f"{event.get('LogicalResourceId', '')}: {reason or 'no reason'}")
    return found[::-1][:limit]


def refuse_unready(
    stack: Stack | None, region: str, *, started_by: str = "", stuck: Sequence[str] = ()
) -> None:
    """Says what to do about a stack that cannot be deployed to now.

    Args:
        stack: The stack, None where there is none yet.
        region: For the commands.
        started_by: Who is deploying, where the records know.
        stuck: What failed, where known.

    Raises:
        ConflictError: Somebody is deploying, or the stack is in a state that needs a person.
    """
    if stack is None or not stack.exists:
        return
    name, status = stack.name, stack.status
    at = f"--stack-name {name} --region {region}"
    why = "".join(f"\n  {line}" for line in stuck)
    if stack.busy:
        since = f" since {stack.changed:%H:%M} UTC"
        who = f", started by {started_by}" if started_by else ""
        kind = {"CREATE": "create", "DELETE": "delete"}.get(status.split("_")[0], "update")
        cancel = (
            f", or stop it (`aws cloudformation cancel-update-stack {at}`)"
            if status == "UPDATE_IN_PROGRESS"
            else ""
        )
        raise ConflictError(
            f"stack {name} is being changed: {status}{since}{who}. Two deployments at once would "
            f"undo each other: wait (`aws cloudformation wait stack-{kind}-complete {at}`){cancel}, "
            "then look at the plan again"
        )
    if status in NEVER_WORKED:
        raise ConflictError(
            f"stack {name} is in {status}: its first deployment failed and never served anyone. "
            "CloudFormation can only delete it: do it yourself "
            f"(`aws cloudformation delete-stack {at}`), or say REPLACE_FAILED=1 and it is deleted "
            f"before this deployment{why}"
        )
    if status == "UPDATE_ROLLBACK_FAILED":
        raise ConflictError(
            f"stack {name} is in UPDATE_ROLLBACK_FAILED: an update failed, and so did going back. "
            "Mend what is named below, then finish going back "
            f"(`aws cloudformation continue-update-rollback {at}`), and deploy after that"
            f"{why or f' ({stack.reason})' if stack.reason else why}"
        )
    if status == "DELETE_FAILED":
        raise ConflictError(
            f"stack {name} is in DELETE_FAILED: its removal stopped half-way. Finish it "
            f"(`make destroy STAGE=…`), then deploy{why}"
        )
    if status.endswith("_FAILED") and status != "UPDATE_FAILED":
        raise ConflictError(f"stack {name} is in {status} and cannot be deployed to{why}")
