"""The `millrace` command: its verbs, their options and their exit codes."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from millrace import __version__
from millrace_cli import local, models, predictions, specs, training
from millrace_cli.console import Context, JsonFlag, chosen, out, print_json
from millrace_cli.doctor import diagnose
from millrace_cli.exits import ExitCode

EXIT_CODES = (
    "Exit codes: 0 done, 1 unexpected failure, 2 wrong command line, 3 invalid input, 4 not found, "
    "5 the registry forbids it, 6 a followed run made no champion, 7 no stack, credentials or "
    "answer (try `millrace doctor`)."
)

app = typer.Typer(
    name="millrace",
    help="Upload data to S3, get a governed model behind an HTTPS API.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def project_root(start: Path | None = None) -> Path:
    """The folder with Millrace's template.yaml, searched upwards; else the current one."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "template.yaml").exists() and (folder / "functions").is_dir():
            return folder
    return here


@app.callback()
def _options(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            envvar="MILLRACE_TARGET",
            help="local or aws. Default: the embedded cloud when it runs, else AWS.",
        ),
    ] = None,
    stack: Annotated[
        str | None,
        typer.Option("--stack", envvar="MILLRACE_STACK", help="CloudFormation stack name."),
    ] = None,
    endpoint_url: Annotated[
        str | None,
        typer.Option("--endpoint-url", help="An AWS emulator to talk to."),
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="AWS region.")] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(f"millrace {__version__}")
        raise typer.Exit
    if target not in (None, "local", "aws"):
        raise typer.BadParameter(f"expected local or aws, got {target!r}", param_hint="--target")
    context.obj = Context(
        kind="local" if target == "local" else "aws" if target == "aws" else None,
        stack=stack,
        endpoint_url=endpoint_url,
        region=region,
        project=project_root(),
    )


@app.command(epilog="Example: millrace doctor --json")
def doctor(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Check Python, SAM, credentials, endpoint and stack, and say how to mend what is missing."""
    of = chosen(context)
    findings = diagnose(of.target, of.project)
    if as_json:
        print_json([f.as_dict() for f in findings])
    else:
        for f in findings:
            mark = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "problem": "[red]✗[/]"}[f.level]
            out.print(mark, Text(f"{f.check}: {f.found}"))
            if f.mend:
                out.print(Text(f"    mend: {f.mend}", style="dim"))
    if any(f.level == "problem" for f in findings):
        raise typer.Exit(ExitCode.UNREACHABLE)


for group in (specs.app, training.app, models.app, predictions.app):
    app.registered_commands.extend(group.registered_commands)
app.add_typer(local.app, name="local")


def main() -> None:
    """Entry point of the console script."""
    app()
