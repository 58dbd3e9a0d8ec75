"""Building and deploying the real template with SAM CLI, for the embedded cloud."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from millrace.errors import ConfigurationError, FinalError
from millrace_cli import cloud
from millrace_cli.packing import packed_template
from millrace_cli.target import DEFAULT_STACK

BUILD_FOLDER = ".aws-sam/build"
DEPLOY_BUCKET = "millrace-deployments"

Progress = Callable[[str], None]

_LOCAL_PARAMETERS = {
    "Stage": "local",
    "ApiAuthorizer": "NONE",
    "ApiAccessLogs": "off",
    "Alarms": "on",
    "TraceMode": "PassThrough",
    "RefreshSeconds": "5",
}


def sam_executable(project: Path) -> Path:
    """SAM CLI: the project's own, else the one on PATH.

    Raises:
        ConfigurationError: There is none.
    """
    own = project / ".tools" / "sam" / "bin" / "sam"
    if own.exists():
        return own
    found = shutil.which("sam")
    if found:
        return Path(found)
    raise ConfigurationError("SAM CLI was not found: run `make setup`")


def build(project: Path, progress: Progress) -> None:
    """Runs the project's ``make build`` (``sam build``); unchanged functions are reused.

    Raises:
        FinalError: The build failed; the message ends with its output.
    """
    run_tool(["make", "--no-print-directory", "build"], project, dict(os.environ), progress)


def deploy_local(
    project: Path,
    info: "cloud.CloudInfo",
    progress: Progress,
    *,
    stack: str = DEFAULT_STACK,
    **parameters: str,
) -> None:
    """Deploys the built template to the embedded cloud with ``sam deploy``.

    Args:
        project: The checkout.
        info: The cloud.
        progress: Told each line that SAM prints.
        stack: The stack's name.
        parameters: Parameters of the template that differ from those of a local stack.

    Raises:
        FinalError: The deployment failed; the message ends with SAM's output.
    """
    environment = info.environment()
    command = [
        str(sam_executable(project)),
        "deploy",
        "--template-file",
        str(packed_template(project / BUILD_FOLDER, project / ".millrace" / "packages")),
        "--config-file",
        str(project / "samconfig.toml"),
        "--config-env",
        "local",
        "--stack-name",
        stack,
        "--no-progressbar",
        "--parameter-overrides",
        # In quotes, as a value may have a space: `rate(1 minute)`.
        *(f'{name}="{value}"' for name, value in (_LOCAL_PARAMETERS | parameters).items()),
        f"CodeVersion={code_version(project)}",
    ]
    run_tool(command, project, environment, progress)


def code_version(project: Path) -> str:
    """The commit a model version will name as its code, ``-dirty`` when files were changed."""
    return ask_git(project, "describe", "--always", "--tags", "--dirty") or "unversioned"


def ask_git(project: Path, *question: str) -> str:
    """What git answers about the checkout, nothing where there is no git or no answer."""
    git = shutil.which("git")
    if git is None:
        return ""
    answer = subprocess.run(
        [git, *question], cwd=project, check=False, capture_output=True, text=True
    )
    return answer.stdout.strip() if answer.returncode == 0 else ""


def run_tool(
    command: list[str], folder: Path, environment: dict[str, str], progress: Progress
) -> None:
    """Runs a program that tells its progress line by line.

    Raises:
        FinalError: It failed; the message ends with its last lines.
    """
    tail: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            tail = [*tail[-39:], line.rstrip()]
            if line.strip():
                progress(line.strip())
    if process.returncode != 0:
        shown = "\n".join(tail)
        raise FinalError(f"{Path(command[0]).name} {command[1]} failed:\n{shown}")
