"""What the demos share: their folder, times, the deployment, and an upload that is followed."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.rule import Rule
from rich.text import Text

from millrace.errors import ConfigurationError
from millrace_cli import cloud, render
from millrace_cli.client import ApiClient
from millrace_cli.console import out
from millrace_cli.deploy import deploy_local
from millrace_cli.target import DEFAULT_STACK, Target
from millrace_cli.training import follow_to_end, upload_file, version_of

PROJECT = Path(__file__).resolve().parents[2]
WORK = PROJECT / ".millrace" / "demo"


class Clock:
    """Times a demo's phases.

    Attributes:
        phases: Name and seconds of every phase that ended, in order.
    """

    def __init__(self) -> None:
        self.phases: list[tuple[str, float]] = []

    @contextmanager
    def phase(self, name: str, words: str) -> Iterator[None]:
        """Prints a heading, runs the block and keeps its time."""
        out.print()
        out.print(Rule(Text(words, style="bold"), align="left", style="dim"))
        begun = time.monotonic()
        yield
        self.phases.append((name, time.monotonic() - begun))

    def __str__(self) -> str:
        """The phases' times in a line."""
        return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.phases)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A stack on the embedded cloud.

    Attributes:
        info: The cloud.
        target: The stack.
    """

    info: cloud.CloudInfo
    target: Target


@contextmanager
def deployed(*, own: bool = False, **parameters: str) -> Iterator[Deployed]:
    """The real template, deployed with ``sam deploy``: to the cloud that runs, else to one that ends with us.

    Args:
        own: Never to the cloud that runs.
        parameters: Parameters of the template that differ from those of a local stack.
    """
    info = None if own else cloud.status(PROJECT)
    if info is not None:
        out.print(f"  the one of `millrace local up` at {info.endpoint}; it stays up")
        yield _deploy(info, parameters)
        return
    with cloud.ephemeral(PROJECT) as started:
        out.print(f"  started at {started.endpoint}; it stops when the demo ends")
        yield _deploy(started, parameters)


def _deploy(info: cloud.CloudInfo, parameters: dict[str, str]) -> Deployed:
    with out.status("sam deploy") as spinner:
        deploy_local(PROJECT, info, lambda line: spinner.update(Text(line[:100])), **parameters)
    target = Target(kind="local", stack=DEFAULT_STACK, endpoint_url=info.endpoint, region=None)
    out.print(f"  deployed; the API answers at {target.outputs.api_url}")
    return Deployed(info, target)


def upload(api: ApiClient, model: str, path: Path, *, brief: bool = False) -> dict[str, Any]:
    """Uploads a file and follows its run to the end; the run.

    Args:
        api: The deployment.
        model: The model.
        path: The file.
        brief: Say in a line what came of it.
    """
    location, run_id, _ = upload_file(api.target, model, path, path.name)
    out.print(f"  uploaded to s3://{location}", soft_wrap=True)
    return follow(api, run_id, brief=brief)


def follow(api: ApiClient, run_id: str, *, brief: bool = False) -> dict[str, Any]:
    """Follows a run to its end and shows what came of it; the run."""
    begun = time.monotonic()
    run = follow_to_end(api, run_id, quiet=brief)
    if brief:
        with_version = f", {run['model']}@{run['model_version']}" if run["model_version"] else ""
        out.print(
            f"  {run_id}: {run['outcome']}{with_version} in {time.monotonic() - begun:.0f} s; "
            f"{run.get('reason', '')}",
            soft_wrap=True,
        )
        return run
    version = version_of(api, run)
    out.print(render.run_summary({k: v for k, v in run.items() if k != "report_url"}, version))
    return run


def uv() -> Path:
    """The program that fetches the data.

    Raises:
        ConfigurationError: It is not there.
    """
    own = Path(sys.executable).with_name("uv")
    if own.exists():
        return own
    found = shutil.which("uv")
    if found is None:
        raise ConfigurationError("uv was not found: run `make setup`")
    return Path(found)
