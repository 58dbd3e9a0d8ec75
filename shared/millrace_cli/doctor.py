"""`millrace doctor`: what is there, what is missing, and how to mend it."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from millrace.aws.translate import translated
from millrace.errors import AccessDeniedError, ConfigurationError, MillraceError
from millrace_cli import cloud
from millrace_cli.client import ApiClient
from millrace_cli.deploy import sam_executable
from millrace_cli.target import Target

REQUIRED_PYTHON = (3, 13)

_CREDENTIAL = {
    "IAM": "attach a role's policy to your identity: the stack's outputs name them, or `millrace "
    "policy viewer` prints one",
    "API_KEY": "millrace keys list; export MILLRACE_API_KEY=$(millrace keys show viewer)",
    "JWT": "ask the issuer for a token whose claim names a role, and set MILLRACE_TOKEN",
}
"""How to get in, by what the stack asks for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        check: What was looked at.
        level: ``ok``, ``warning`` (something will not work) or ``problem`` (nothing will).
        found: What came.
        mend: What to do, empty when nothing.
    """

    check: str
    level: Literal["ok", "warning", "problem"]
    found: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return asdict(self)


def diagnose(
    target_of: Callable[[], Target],
    project: Path,
    *,
    api_key: str | None = None,
    token: str | None = None,
) -> list[Finding]:
    """Runs every check; later ones are left out when an earlier one makes them moot.

    Args:
        target_of: Finds the deployment.
        project: The checkout.
        api_key: The API key that commands would send.
        token: The bearer token that commands would send.
    """
    return [*_tools(project), *_deployment(target_of, project, api_key, token)]


def _tools(project: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == REQUIRED_PYTHON:
        yield Finding("Python", "ok", version)
    else:
        yield Finding(
            "Python", "problem", version, "install Python 3.13 and run `make setup` again"
        )
    if (project / "template.yaml").exists():
        yield Finding("project", "ok", "template.yaml found")
    else:
        yield Finding(
            "project", "warning", "no template.yaml here or above", "run it inside a clone"
        )
    try:
        sam = sam_executable(project)
        answer = subprocess.run(
            [sam, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
        yield Finding("SAM CLI", "ok", answer.stdout.strip())
    except MillraceError as exc:
        yield Finding("SAM CLI", "warning", str(exc), "make setup")
    except (OSError, subprocess.SubprocessError) as exc:
        yield Finding("SAM CLI", "warning", f"does not run: {exc}", "make setup")
    if shutil.which("make") is None:
        yield Finding("make", "warning", "not on PATH", "install GNU make")
    if (project / ".aws-sam" / "build" / "template.yaml").exists():
        yield Finding("build", "ok", ".aws-sam/build")
    else:
        yield Finding("build", "warning", "nothing is built yet", "make build")


def _deployment(
    target_of: Callable[[], Target], project: Path, api_key: str | None, token: str | None
) -> Iterator[Finding]:
    info = cloud.status(project)
    if cloud.killed(project) is not None:
        yield Finding(
            "embedded cloud",
            "warning",
            "ended without being stopped",
            "millrace local up, or millrace local down to forget it",
        )
    elif info is not None and not cloud.healthy(info):
        yield Finding(
            "embedded cloud",
            "problem",
            f"{info.title} runs (process {info.pid}) but does not answer at {info.endpoint}",
            "millrace local down, then millrace local up",
        )
    else:
        yield Finding(
            "embedded cloud",
            "ok",
            "not running" if info is None else f"{info.title}, running at {info.endpoint}",
            "" if info else "millrace local up, unless AWS is meant",
        )
    try:
        target = target_of()
        yield Finding("target", "ok", f"{target.kind}, stack {target.stack}")
    except MillraceError as exc:
        yield Finding("target", "problem", str(exc))
        return
    try:
        credentials = target.session.get_credentials()
        if credentials is None:
            yield Finding(
                "credentials",
                "problem",
                "none found",
                "aws configure sso, or set AWS_PROFILE; or start the embedded cloud",
            )
            return
        sts = target.session.client(
            "sts", endpoint_url=target.endpoint_url, region_name=target.region
        )
        with translated("ask who I am"):
            identity = sts.get_caller_identity()
        sts.close()
        yield Finding("credentials", "ok", identity["Arn"])
    except MillraceError as exc:
        yield Finding("credentials", "problem", str(exc), "renew the credentials, or set a region")
        return
    try:
        outputs = target.outputs
        yield Finding("stack", "ok", f"{target.stack}: {outputs.api_url}")
    except MillraceError as exc:
        mend = "millrace local up" if target.kind == "local" else "sam build && sam deploy"
        yield Finding("stack", "problem", str(exc), mend)
        return
    if target.kind == "aws" and outputs.authorizer == "NONE":
        yield Finding(
            "authorizer",
            "warning",
            "the API is open to everyone",
            "deploy with ApiAuthorizer=IAM, API_KEY or JWT",
        )
    api = ApiClient(target, api_key=api_key, token=token)
    try:
        health = api.get("/v1/health", deep="true")
        yield Finding("API", "ok", f"status {health['status']}, version {health.get('version')}")
    except ConfigurationError as exc:
        yield Finding("API", "problem", str(exc), _CREDENTIAL.get(outputs.authorizer, ""))
    except AccessDeniedError as exc:
        mend = _CREDENTIAL.get(outputs.authorizer, "")
        yield Finding("API", "problem", f"refuses you ({outputs.authorizer}): {exc}", mend)
    except MillraceError as exc:
        yield Finding("API", "problem", str(exc), "see the api function's log group")
    finally:
        api.close()
