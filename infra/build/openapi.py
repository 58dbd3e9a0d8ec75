"""Writes what is made from the table of routes, or checks that it is current.

    python infra/build/openapi.py [--check]

That is the committed OpenAPI document, packaged beside the code that serves it at
``shared/millrace/http/openapi.json``; the roles' IAM policies in ``template.yaml``, between the marks
``BEGIN policies`` and ``END policies``; and the table of roles and routes in ``docs/security.md``.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from millrace.http.openapi import render
from millrace.http.policies import INVOKE, resource_of
from millrace.http.roles import PERMISSIONS, Role, routes_of
from millrace.http.routes import ROUTES

DOCUMENT = Path(__file__).resolve().parents[2] / "shared/millrace/http/openapi.json"
TEMPLATE: Final = Path(__file__).resolve().parents[2] / "template.yaml"
PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "security.md"
_TABLE: Final = re.compile(
    r"(?<=<!-- routes: written by `make openapi` -->\n).*?(?=<!-- end of routes -->)", re.DOTALL
)
_MARKED: Final = re.compile(r"(?<=  # BEGIN policies\n).*?(?=  # END policies\n)", re.DOTALL)
_STAGE: Final = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/live"


def policy(role: Role) -> str:
    """The resource of one role's policy, as YAML."""
    lines = [
        f"  {role.capitalize()}Policy:",
        "    Type: AWS::IAM::ManagedPolicy",
        "    Condition: WritePolicies",
        "    Properties:",
        f'      Description: !Sub "${{AWS::StackName}}: {role} of the API"',
        "      PolicyDocument:",
        '        Version: "2012-10-17"',
        "        Statement:",
        "          - Sid: Call",
        "            Effect: Allow",
        f"            Action: {INVOKE}",
        "            Resource:",
    ]
    lines += [
        f'              - !Sub "{_STAGE}/{resource_of(route)}"' for route in routes_of([role])
    ]
    return "\n".join(lines) + "\n\n"


def with_policies(template: str) -> str:
    """The template with the policies as the routes want them."""
    return _MARKED.sub(lambda _: "\n" + "".join(policy(role) for role in Role), template, count=1)


def with_table(page: str) -> str:
    """The page with the table of who may ask which route."""
    lines = [
        f"| route | permission | {' | '.join(Role)} |",
        f"|---|---|{':-:|' * len(Role)}",
        *(
            f"| `{route.method} {route.path}` | {route.permission} | "
            + " | ".join("✓" if route.permission in PERMISSIONS[role] else "" for role in Role)
            + " |"
            for route in ROUTES
        ),
    ]
    return _TABLE.sub(lambda _: "\n".join(lines) + "\n", page, count=1)


def main() -> int:
    """Writes or checks; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the OpenAPI document of the API.")
    parser.add_argument("--check", action="store_true", help="fail when the document is stale")
    arguments = parser.parse_args()
    made = {
        DOCUMENT: render(),
        TEMPLATE: with_policies(TEMPLATE.read_text(encoding="utf-8")),
        PAGE: with_table(PAGE.read_text(encoding="utf-8")),
    }
    if not arguments.check:
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [p.name for p, text in made.items() if not p.exists() or p.read_text("utf-8") != text]
    if stale:
        sys.stderr.write(f"{' and '.join(stale)} stale: run `make openapi`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
