"""What roles and resource policies of a new template allow that those of the old one did not."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_RESOURCE_POLICIES = {
    "AWS::S3::BucketPolicy": "PolicyDocument",
    "AWS::SQS::QueuePolicy": "PolicyDocument",
    "AWS::SNS::TopicPolicy": "PolicyDocument",
    "AWS::KMS::Key": "KeyPolicy",
    "AWS::IAM::ManagedPolicy": "PolicyDocument",
    "AWS::IAM::Policy": "PolicyDocument",
}
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Widening:
    """Something that may be done after a deployment and not before.

    Attributes:
        holder: The role or the resource whose policy it is.
        allows: What, in words.
    """

    holder: str
    allows: str


@dataclass(frozen=True, slots=True)
class _Grant:
    """One action on one resource under one condition."""

    action: str
    on: str
    to: str
    when: str

    @property
    def words(self) -> str:
        to = f" to {self.to}" if self.to else ""
        when = f" when {self.when}" if self.when else ""
        return f"{self.action} on {self.on}{to}{when}" if self.on else f"{self.action}{to}{when}"


def widenings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Widening]:
    """Compares two templates; roles that are new as a whole count as well.

    A refusal that is taken away widens, too.

    Args:
        old: The deployed template, empty before the first deployment.
        new: The template to deploy.
    """
    found: list[Widening] = []
    before = old.get("Resources", _NOTHING)
    for name, resource in new.get("Resources", _NOTHING).items():
        allowed, denied = _grants(before.get(name, _NOTHING))
        allows, denies = _grants(resource)
        found += [Widening(name, g.words) for g in allows if g not in allowed]
        found += [
            Widening(name, f"do what was refused: {g.words}") for g in denied if g not in denies
        ]
    return found


def _grants(resource: Mapping[str, Any]) -> tuple[list[_Grant], list[_Grant]]:
    """What a resource of a template allows, and what it refuses."""
    properties = resource.get("Properties", _NOTHING)
    allowed: list[_Grant] = []
    denied: list[_Grant] = []
    match resource.get("Type"):
        case "AWS::IAM::Role":
            documents = [
                properties.get("AssumeRolePolicyDocument", _NOTHING),
                *(p.get("PolicyDocument", _NOTHING) for p in _each(properties.get("Policies"))),
            ]
            allowed += [
                _Grant(f"do everything in {_text(arn)}", "", "", "")
                for arn in _each(properties.get("ManagedPolicyArns"))
            ]
            if "PermissionsBoundary" in properties:
                denied.append(
                    _Grant(f"outside of {_text(properties['PermissionsBoundary'])}", "", "", "")
                )
        case "AWS::Lambda::Permission":
            allowed.append(
                _Grant(
                    _text(properties.get("Action")),
                    _text(properties.get("FunctionName")),
                    _text(properties.get("Principal")),
                    _text(properties.get("SourceArn", "")),
                )
            )
            documents = []
        case kind if kind in _RESOURCE_POLICIES:
            documents = [properties.get(_RESOURCE_POLICIES[kind], _NOTHING)]
        case _:
            documents = []
    for document in documents:
        for effect, grant in _statements(document):
            (allowed if effect == "Allow" else denied).append(grant)
    return allowed, denied


def _statements(document: Mapping[str, Any]) -> Iterator[tuple[str, _Grant]]:
    for statement, only_if in _unfolded(document.get("Statement")):
        actions = [_text(a) for a in _each(statement.get("Action"))] or [
            f"everything but {_text(statement.get('NotAction'))}"
        ]
        resources = [_text(r) for r in _each(statement.get("Resource"))] or [""]
        principal = _text(statement["Principal"]) if "Principal" in statement else ""
        condition = _text(statement["Condition"]) if "Condition" in statement else ""
        condition = " and ".join(c for c in (only_if, condition) if c)
        for action in actions:
            for resource in resources:
                yield statement["Effect"], _Grant(action, resource, principal, condition)


def _unfolded(statements: object) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Statements, and the conditions of the template under which they are there."""
    for statement in _each(statements):
        match statement:
            case {"Fn::If": [str(name), then, otherwise]}:
                for branch, words in (
                    (then, f"{name} holds"),
                    (otherwise, f"{name} does not hold"),
                ):
                    for inner, deeper in _unfolded(branch):
                        yield inner, " and ".join(c for c in (words, deeper) if c)
            case {"Effect": _}:
                yield statement, ""


def _each(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _text(value: object) -> str:
    """A value of a template as a person reads it: intrinsics become names."""
    match value:
        case str():
            return value
        case {"Ref": str(name)}:
            return name
        case {"Fn::GetAtt": [str(name), str(attribute)]}:
            return name if attribute == "Arn" else f"{name}.{attribute}"
        case {"Fn::GetAtt": str(name)}:
            return name.removesuffix(".Arn")
        case {"Fn::Sub": str(text)}:
            return text
        case {"Fn::Join": [str(between), list(parts)]}:
            return between.join(_text(p) for p in parts)
        case {"Service": service}:
            return " and ".join(_text(s) for s in _each(service))
        case _:
            return json.dumps(value, sort_keys=True, default=str)
