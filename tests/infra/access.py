"""What each role of the deployment may do, as a table for people and for review.

`tests/infra/iam.yaml` and the table in `docs/security.md` are written by
`python -m tests.infra.access` and compared with the template by a test, so that a right that is added
shows in the diff. Why each right is there is said in `tests/infra/why.yaml`.
"""

import re
from typing import Any

import yaml

from tests.infra.deployment import EVERY, ROOT, Resolver, as_list, statements

TABLE = ROOT / "tests" / "infra" / "iam.yaml"
REASONS = ROOT / "tests" / "infra" / "why.yaml"
EVERYWHERE = "everywhere"
DOCUMENT = ROOT / "docs" / "security.md"
BEGIN = "<!-- roles: written by `python -m tests.infra.access` -->"
END = "<!-- end of roles -->"
KEY = "arn:aws:kms:us-east-1:123456789012:key/customer"

type Rights = dict[str, dict[str, Any]]


def rights() -> dict[str, dict[str, Any]]:
    """Role to whose it is, what it grants and why; rights that hang on a parameter are in it."""
    found: dict[str, dict[str, Any]] = {}
    why = reasons()
    deployed = _deployed()
    for name, role in deployed.items():
        if role["Type"] != "AWS::IAM::Role":
            continue
        [trust] = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        grants: Rights = {}
        for statement in statements(role):
            grant = {
                "actions": sorted(as_list(statement["Action"])),
                "resources": sorted(plain(r) for r in as_list(statement["Resource"])),
            }
            if "Condition" in statement:
                grant["condition"] = statement["Condition"]
            grants[statement["Sid"]] = grant | {"why": why.get((name, statement["Sid"]), "")}
        found[name] = {
            "assumed_by": trust["Principal"]["Service"],
            "used_by": _users(name, deployed),
            "may": grants,
        }
        managed = [arn.rsplit("/", 1)[1] for arn in role["Properties"].get("ManagedPolicyArns", ())]
        if managed:
            found[name]["managed"] = {p: why.get((name, p), "") for p in managed}
    return found


def _deployed() -> dict[str, dict[str, Any]]:
    """Every resource that has a role, whatever the parameters; a role with the rights of any of them."""
    further = {"KmsKeyArn": KEY, "TraceMode": "Active", "SignArtifacts": "require"}
    found = Resolver(**EVERY, **further).resources()
    for authorizer in ("IAM", "API_KEY"):
        beating = {"ApiAuthorizer": authorizer, "HeartbeatMinutes": "5", **further}
        [policy] = found["HeartbeatRole"]["Properties"]["Policies"]
        granted = policy["PolicyDocument"]["Statement"]
        there = {statement["Sid"] for statement in granted}
        also = statements(Resolver(**beating).resources()["HeartbeatRole"])
        granted += [statement for statement in also if statement["Sid"] not in there]
    return found


def _users(role: str, deployed: dict[str, Any]) -> str:
    """The function, or what else, that takes a role."""
    [user] = [
        name
        for name, resource in deployed.items()
        for field in ("Role", "RoleArn", "CloudWatchRoleArn")
        if resource["Properties"].get(field) == f"${{{role}.Arn}}"
    ]
    return user


class _Once(yaml.SafeLoader):
    """YAML in which a key may stand once."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
    pairs = loader.construct_pairs(node, deep=True)
    if len(dict(pairs)) != len(pairs):
        raise ValueError(f"{REASONS.name}, line {node.start_mark.line + 1}: a name stands twice")
    return dict(pairs)


_Once.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def reasons() -> dict[tuple[str, str], str]:
    """Role and right to why it is granted; what holds everywhere is spread over the roles."""
    written: dict[str, dict[str, str]] = yaml.load(REASONS.read_text(), _Once)  # noqa: S506  # safe
    shared = written.pop(EVERYWHERE)
    names = {
        name: [s["Sid"] for s in statements(role)]
        for name, role in _deployed().items()
        if role["Type"] == "AWS::IAM::Role"
    }
    spread = {
        (role, right): shared[right] for role in names for right in names[role] if right in shared
    }
    unspread = shared.keys() - {right for _, right in spread}
    return (
        {(EVERYWHERE, right): shared[right] for right in unspread}
        | spread
        | {(role, right): why for role, given in written.items() for right, why in given.items()}
    )


def as_yaml() -> str:
    """The checked-in table."""
    head = "# Written by `python -m tests.infra.access`; a test compares it with template.yaml.\n"
    return head + yaml.safe_dump(rights(), sort_keys=True, width=100, allow_unicode=True)


def as_markdown() -> str:
    """The table of docs/security.md."""
    lines = ["| for | right | actions | on | why |", "|---|---|---|---|---|"]
    for _, described in sorted(rights().items()):
        user = described["used_by"]
        for right, grant in described["may"].items():
            actions = ", ".join(f"`{a}`" for a in grant["actions"])
            resources = "<br>".join(f"`{r}`" for r in grant["resources"])
            if "condition" in grant:
                resources += "<br>only " + ", ".join(_conditions(grant["condition"]))
            lines.append(f"| {user} | {right} | {actions} | {resources} | {grant['why']} |")
        lines += [
            f"| {user} | managed policy | `{policy}` | log groups of API Gateway | {why} |"
            for policy, why in described.get("managed", {}).items()
        ]
    return "\n".join(lines)


def _conditions(condition: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"`{key}` = `{', '.join(as_list(value))}`"
        for tests in condition.values()
        for key, value in tests.items()
    ]


def plain(resource: str) -> str:
    """``${DataBucket.Arn}/incoming/*`` as ``DataBucket/incoming/*``."""
    if resource == KEY:
        return "KmsKeyArn (when given)"
    if resource.startswith("arn:"):
        return re.sub(r"^arn:.*?:(?=execution:)", "", resource).replace("${", "").replace("}", "")
    return re.sub(r"\$\{(\w+)(\.Arn)?\}", r"\1", resource)


def shown() -> str:
    """The part of docs/security.md between the marks."""
    return DOCUMENT.read_text().split(BEGIN, 1)[1].split(END, 1)[0].strip()


if __name__ == "__main__":
    TABLE.write_text(as_yaml())
    text = DOCUMENT.read_text()
    before, after = text.split(BEGIN, 1)[0], text.split(END, 1)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{as_markdown()}\n{END}{after}")
