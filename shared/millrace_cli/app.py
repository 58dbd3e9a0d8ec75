"""The `millrace` command: its verbs, their options and their exit codes."""

import getpass
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer._click.exceptions import ClickException
from typer.core import TyperGroup

from millrace import __version__
from millrace_cli import (
    approvals,
    audit,
    backups,
    batches,
    bundles,
    costs,
    dead_letters,
    feedback,
    imports,
    keys,
    local,
    models,
    monitoring,
    predictions,
    questions,
    rollouts,
    serve,
    specs,
    training,
)
from millrace_cli.agreement import compare_registry
from millrace_cli.client import API_KEY_VARIABLE, TOKEN_VARIABLE
from millrace_cli.console import (
    Context,
    JsonFlag,
    chosen,
    out,
    print_json,
    print_json_error,
    reported,
)
from millrace_cli.doctor import diagnose
from millrace_cli.exits import ExitCode

EXIT_CODES = (
    "Exit codes: 0 done, 1 unexpected failure, 2 wrong command line, 3 invalid input, 4 not found, "
    "5 the registry forbids it, 6 a followed run made no champion, a batch job no predictions, a "
    "ledger has faults, or a model needs attention, 7 no stack, credentials or answer (try `millrace doctor`), 130 stopped with Ctrl-C."
)


class JsonGroup(TyperGroup):
    """With ``--json``, stdout gets exactly one JSON document, however the command ends."""

    def main(  # type: ignore[override]  # Typer's overloads say no more than this
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Runs the command line; usage errors and surprises become JSON where it is asked for."""
        given = list(sys.argv[1:] if args is None else args)
        if "--json" not in given or not standalone_mode:
            return super().main(given, standalone_mode=standalone_mode, **extra)
        try:
            code = super().main(given, standalone_mode=False, **extra)
        except ClickException as exc:
            print_json_error("UsageError", exc.format_message())
            sys.exit(exc.exit_code)
        except typer.Abort:
            print_json_error("Aborted", "nothing was done")
            sys.exit(ExitCode.FAILED)
        except Exception as exc:  # noqa: BLE001 - told on both streams, then the process ends
            traceback.print_exc()
            print_json_error(type(exc).__name__, str(exc))
            sys.exit(ExitCode.FAILED)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)


app = typer.Typer(
    name="millrace",
    cls=JsonGroup,
    help="Upload data to S3, get a governed model behind an HTTPS API.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def project_root(start: Path | None = None) -> Path:
    """The checkout: around the current folder, else the one this command was installed from."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "template.yaml").exists() and (folder / "functions").is_dir():
            return folder
    return here


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"millrace {__version__}")
        raise typer.Exit


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
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar=API_KEY_VARIABLE,
            show_envvar=True,
            help="Key of a stack with ApiAuthorizer=API_KEY.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar=TOKEN_VARIABLE,
            show_envvar=True,
            help="Bearer token for a stack with ApiAuthorizer=JWT.",
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    if target not in (None, "local", "aws"):
        raise typer.BadParameter(f"expected local or aws, got {target!r}", param_hint="--target")
    context.obj = Context(
        kind="local" if target == "local" else "aws" if target == "aws" else None,
        stack=stack,
        endpoint_url=endpoint_url,
        region=region,
        project=project_root(),
        api_key=api_key,
        token=token,
    )


@app.command(epilog="Example: millrace doctor --json")
def doctor(
    context: typer.Context,
    registry: Annotated[
        bool,
        typer.Option(
            "--registry",
            help="Compare registry and artifacts instead; needs AWS credentials for both.",
        ),
    ] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="With --registry: mend what can be mended.")
    ] = False,
    actor: Annotated[
        str | None,
        typer.Option("--actor", help="Who mends, for the ledger. Default: you, on this machine."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check Python, SAM, credentials, endpoint and stack, and say how to mend what is missing.

    With --registry: whether artifacts are what was registered, what answers is the champion, and
    ledgers are sound. Changes nothing without --mend; each mend is an entry of the ledger.
    """
    if registry or mend:
        with reported(as_json, hint="docs/operations.md says more"):
            target = chosen(context).target()
            context.call_on_close(target.close)
            if not compare_registry(target, actor or getpass.getuser(), mend, as_json):
                raise typer.Exit(ExitCode.OUTCOME)
        return
    with reported(as_json):
        of = chosen(context)
        findings = diagnose(of.target, of.project, api_key=of.api_key, token=of.token)
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


for group in (
    specs.app,
    training.app,
    models.app,
    rollouts.app,
    monitoring.app,
    costs.app,
    audit.app,
    approvals.app,
    predictions.app,
    questions.app,
    feedback.app,
    batches.app,
    bundles.app,
    imports.app,
    backups.app,
    serve.app,
    keys.policies,
):
    app.registered_commands.extend(group.registered_commands)
app.add_typer(local.app, name="local")
app.add_typer(keys.app, name="keys")
app.add_typer(dead_letters.app, name="dlq")


def main() -> None:
    """Entry point of the console script."""
    app()
