"""The verbs `millrace local …`: the embedded cloud of this project."""

from typing import Annotated

import typer
from rich.text import Text

from millrace_cli import cloud
from millrace_cli.console import JsonFlag, chosen, out, print_json, reported
from millrace_cli.deploy import build, deploy_local
from millrace_cli.exits import ExitCode
from millrace_cli.target import cloud_record, cloud_was_killed

app = typer.Typer(help="The embedded cloud on this machine.", no_args_is_help=True)


@app.command(epilog="Example: millrace local up --port 4566")
def up(
    context: typer.Context,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Default: a free port.")
    ] = None,
    deploy: Annotated[
        bool, typer.Option("--deploy/--no-deploy", help="Build and deploy the template too.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Start the embedded cloud and deploy the template; what is built and running is reused."""
    with reported(as_json):
        project = chosen(context).project
        killed = cloud_was_killed(project)
        if killed and not as_json:
            out.print(
                "[yellow]the cloud's last life ended without `local down`[/]: what its registry "
                "held since the clean stop before is lost; `millrace local reset` starts afresh"
            )
        with out.status("starting the embedded cloud") as spinner:
            if as_json:
                spinner.stop()
            info = cloud.up(project, port=port)
            if deploy:
                spinner.update("building (the first time takes a minute)")
                build(project, lambda line: spinner.update(Text(line[:100])))
                spinner.update("deploying template.yaml")
                deploy_local(project, info, lambda line: spinner.update(Text(line[:100])))
        if as_json:
            print_json({"endpoint": info.endpoint, "pid": info.pid, "deployed": deploy})
            return
        out.print(f"[green]up[/] the embedded cloud answers at {info.endpoint}")
        if deploy:
            out.print("next: millrace status;  stop it: millrace local down")
        else:
            out.print("nothing was deployed; do it: millrace local up;  stop: millrace local down")


@app.command()
def down(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Stop the embedded cloud; its state is kept."""
    with reported(as_json):
        project = chosen(context).project
        stopped = cloud.down(project)
        if cloud_was_killed(project):
            cloud_record(project).unlink(missing_ok=True)
        if as_json:
            print_json({"stopped": stopped})
        else:
            out.print("[green]down[/], state kept" if stopped else "it was not running")


@app.command()
def status(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show whether the embedded cloud runs, and where."""
    with reported(as_json):
        info = cloud.status(chosen(context).project)
        if as_json:
            print_json(
                {"running": False}
                if info is None
                else {"running": True, "endpoint": info.endpoint, "pid": info.pid}
            )
        elif info is None:
            out.print("not running; start it: millrace local up")
        else:
            out.print(f"[green]running[/] at {info.endpoint}, process {info.pid}")
        if info is None:
            raise typer.Exit(ExitCode.UNREACHABLE)


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
        cloud.reset(chosen(context).project)
        if as_json:
            print_json({"reset": True})
        else:
            out.print("[green]reset[/]: nothing is left of it")
