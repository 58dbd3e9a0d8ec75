"""What each role of the deployment may do, as a table for people and for review.

`tests/infra/iam.yaml` and the table in `docs/security.md` are written by
`python -m tests.infra.access` and compared with the template by a test, so that a right that is added
shows in the diff.
"""

import re
from typing import Any

import yaml

from tests.infra.deployment import ROOT, Resolver, as_list, statements

TABLE = ROOT / "tests" / "infra" / "iam.yaml"
DOCUMENT = ROOT / "docs" / "security.md"
BEGIN = "<!-- roles: written by `python -m tests.infra.access` -->"
END = "<!-- end of roles -->"
KEY = "arn:aws:kms:us-east-1:123456789012:key/customer"

type Rights = dict[str, dict[str, Any]]


def rights() -> dict[str, dict[str, Any]]:
    """Role to who may take it and what it grants; rights that need a customer key are in it."""
    found: dict[str, dict[str, Any]] = {}
    for name, role in Resolver(KmsKeyArn=KEY).resources().items():
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
            grants[statement["Sid"]] = grant
        found[name] = {"assumed_by": trust["Principal"]["Service"], "may": grants}
        managed = role["Properties"].get("ManagedPolicyArns")
        if managed:
            found[name]["managed"] = [arn.rsplit("/", 1)[1] for arn in managed]
    return found


def as_yaml() -> str:
    """The checked-in table."""
    head = "# Written by `python -m tests.infra.access`; a test compares it with template.yaml.\n"
    return head + yaml.safe_dump(rights(), sort_keys=True, width=100)


def as_markdown() -> str:
    """The table of docs/security.md."""
    lines = ["| role | right | actions | on |", "|---|---|---|---|"]
    for role, described in sorted(rights().items()):
        for right, grant in described["may"].items():
            actions = ", ".join(f"`{a}`" for a in grant["actions"])
            resources = "<br>".join(f"`{r}`" for r in grant["resources"])
            if "condition" in grant:
                resources += "<br>only " + ", ".join(_conditions(grant["condition"]))
            lines.append(f"| {role} | {right} | {actions} | {resources} |")
        lines += [
            f"| {role} | managed policy | `{policy}` | log groups of API Gateway |"
            for policy in described.get("managed", ())
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
