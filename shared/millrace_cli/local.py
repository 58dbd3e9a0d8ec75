"""The verbs `millrace local …`: the embedded cloud of this project."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from millrace_cli import cloud
from millrace_cli.console import JsonFlag, chosen, out, print_json, reported
from millrace_cli.deploy import build, deploy_local
from millrace_cli.engines import ENGINES, Engine
from millrace_cli.exits import ExitCode

app = typer.Typer(help="The embedded cloud on this machine.", no_args_is_help=True)


class EngineName(StrEnum):
    """Values of ``--engine``."""

    MINISTACK = "ministack"
    LOCALSTACK = "localstack"


class RuntimeName(StrEnum):
    """Values of ``--runtime``."""

    PROCESS = "process"
    DOCKER = "docker"


@app.command(epilog="Example: millrace local up --port 4566")
def up(
    context: typer.Context,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Default: a free port.")
    ] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(
            "--engine", help="Which emulator. Default: the one that runs, else ministack."
        ),
    ] = None,
    runtime: Annotated[
        RuntimeName | None,
        typer.Option(
            "--runtime", help="LocalStack alone: how it runs. Default: in Docker if there is one."
        ),
    ] = None,
    deploy: Annotated[
        bool, typer.Option("--deploy/--no-deploy", help="Build and deploy the template too.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Start the embedded cloud and deploy the template; what is built and running is reused."""
    with reported(as_json):
        project = chosen(context).project
        killed = cloud.killed(project)
        if killed is not None and not as_json:
            out.print(f"[yellow]{_ended(killed)}[/]")
        with out.status("starting the embedded cloud") as spinner:
            if as_json:
                spinner.stop()
            info = cloud.up(
                project,
                port=port,
                engine=ENGINES[engine.value] if engine else None,
                runtime=runtime.value if runtime else None,
            )
            if deploy:
                spinner.update("building (the first time takes a minute)")
                build(project, lambda line: spinner.update(Text(line[:100])))
                spinner.update("deploying template.yaml")
                deploy_local(project, info, lambda line: spinner.update(Text(line[:100])))
        if as_json:
            print_json(_facts(info) | {"deployed": deploy})
            return
        out.print(f"[green]up[/] the embedded cloud answers at {info.endpoint}: {_described(info)}")
        if deploy:
            out.print("next: millrace status;  stop it: millrace local down")
        else:
            out.print("nothing was deployed; do it: millrace local up;  stop: millrace local down")
        if not info.engine.keeps_state:
            out.print(f"{info.engine.title} keeps nothing over a stop: the next start is empty")


@app.command()
def down(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Stop the embedded cloud; MiniStack's state is kept, LocalStack's is not."""
    with reported(as_json):
        project = chosen(context).project
        stopped = cloud.down(project)
        cloud.forget_killed(project)
        if as_json:
            kept = stopped is not None and stopped.engine.keeps_state
            print_json({"stopped": stopped is not None, "state_kept": kept})
        elif stopped is None:
            out.print("it was not running")
        elif stopped.engine.keeps_state:
            out.print("[green]down[/], state kept")
        else:
            out.print(
                f"[green]down[/]; {stopped.engine.title} keeps no state: "
                "`millrace local up` deploys anew, and models are trained again"
            )


@app.command()
def status(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show whether the embedded cloud runs, and where."""
    with reported(as_json):
        info = cloud.status(chosen(context).project)
        answers = info is not None and cloud.healthy(info)
        if as_json:
            print_json(
                {"running": False}
                if info is None
                else {"running": True, "answers": answers} | _facts(info)
            )
        elif info is None:
            out.print("not running; start it: millrace local up")
        elif answers:
            out.print(
                f"[green]running[/] at {info.endpoint}, process {info.pid}: {_described(info)}"
            )
        else:
            out.print(
                f"[red]does not answer[/] at {info.endpoint}, process {info.pid}: "
                f"{_described(info)}; stop it: millrace local down"
            )
        if not answers:
            raise typer.Exit(ExitCode.UNREACHABLE)


def _facts(info: cloud.CloudInfo) -> dict[str, str | int | bool]:
    return {
        "endpoint": info.endpoint,
        "pid": info.pid,
        "engine": info.engine.name,
        "runtime": info.runtime,
        "keeps_state": info.engine.keeps_state,
    }


def _ended(killed: Engine) -> str:
    """What an end without `local down` means."""
    if killed.keeps_state:
        return (
            "the cloud's last life ended without `local down`: what its registry held since the "
            "clean stop before is lost; `millrace local reset` starts afresh"
        )
    return f"{killed.title} ended without `local down`; it keeps nothing, and starts empty"


def _described(info: cloud.CloudInfo) -> str:
    return f"{info.title} ({info.why})" if info.engine.containers else info.engine.title


@app.command()
def logs(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until ^C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")] = 100,
    as_json: JsonFlag = False,
) -> None:
    """Print the embedded cloud's log."""
    if as_json and follow:
        raise typer.BadParameter("one JSON document has an end: leave out --follow")
    with reported(as_json):
        found = cloud.logs(chosen(context).project, lines=lines, follow=follow)
        if as_json:
            print_json({"lines": list(found)})
            return
        for line in found:
            out.print(Text(line), soft_wrap=True)


@app.command()
def reset(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Stop the embedded cloud and delete everything in it."""
    if as_json and not yes:
        raise typer.BadParameter("--json asks nothing: pass --yes to delete the embedded cloud")
    with reported(as_json):
        if not yes:
            typer.confirm(
                "delete the embedded cloud with its buckets, tables and stacks?", abort=True
            )
        gone = cloud.reset(chosen(context).project)
        if as_json:
            print_json({"reset": True, "engines": [engine.name for engine in gone]})
        elif gone:
            titles = " and ".join(engine.title for engine in gone)
            out.print(f"[green]reset[/]: nothing is left of the cloud on {titles}")
        else:
            out.print("[green]reset[/]: there was nothing")
