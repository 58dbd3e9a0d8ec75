"""The verb `audit`: who changed what, and whether the record is still what was written."""

from typing import Annotated, Any

import typer
from rich.text import Text

from millrace_cli import render
from millrace_cli.client import ApiClient
from millrace_cli.console import (
    JsonFlag,
    LimitOption,
    ModelArgument,
    PageTokenOption,
    SinceOption,
    UntilOption,
    connect,
    filled_page,
    moment_of,
    out,
    print_csv,
    print_json,
    print_page,
    reported,
)
from millrace_cli.exits import ExitCode

app = typer.Typer()

_SHOWN = 100
"""Faults that are told one by one."""


@app.command(
    epilog="Examples: millrace audit churn --actor ada --since 2026-11-01 | "
    "millrace audit churn --verify | "
    "millrace audit churn --verify --anchor 120:9f2c…"
)
def audit(
    context: typer.Context,
    model: ModelArgument,
    action: Annotated[
        str | None, typer.Option("--action", help="Only this, e.g. promoted or rolled_back.")
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="Only what they did.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Only of this, e.g. churn@3 or a run.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, every column.")] = False,
    limit: LimitOption = 50,
    page_token: PageTokenOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every entry of the ledger, and the registry.")
    ] = False,
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor",
            metavar="SEQ:HASH",
            help="With --verify: what an earlier check printed, and you kept.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show who changed what, the newest first; --verify checks that nobody edited it since."""
    if as_csv and (as_json or verify):
        raise typer.BadParameter("--csv goes without --json and --verify")
    if anchor and not verify:
        raise typer.BadParameter("--anchor goes with --verify")
    with reported(as_json):
        api = connect(context)
        if verify:
            _verify(api, model, anchor or [], as_json)
            return
        page = filled_page(
            api,
            f"/v1/models/{model}/audit",
            limit=limit,
            page_token=page_token,
            action=action,
            actor=actor,
            subject=subject,
            since=moment_of(since, "--since"),
            until=moment_of(until, "--until"),
        )
        if as_csv:
            print_csv(page)
            return
        print_page(page, render.audit_table(page["items"]), as_json)


def check_ledger(api: ApiClient, model: str, anchors: list[str]) -> dict[str, Any]:
    """The whole check of a model's ledger, request after request."""
    path = f"/v1/models/{model}/audit/verify"
    faults: list[dict[str, Any]] = []
    count = entries = 0
    token: str | None = None
    while True:
        part = api.get(path, anchor=anchors if token is None else None, page_token=token)
        entries += part["entries"]
        count += part["fault_count"]
        faults += part["faults"][: max(0, _SHOWN - len(faults))]
        token = part["next_page_token"]
        if token is None:
            return {
                "model": model,
                "sound": count == 0,
                "entries": entries,
                "anchor": part["anchor"],
                "fault_count": count,
                "faults": faults,
            }


def _verify(api: ApiClient, model: str, anchors: list[str], as_json: bool) -> None:
    checked = check_ledger(api, model, anchors)
    if as_json:
        print_json(checked)
    else:
        _print(checked)
    if not checked["sound"]:
        raise typer.Exit(ExitCode.OUTCOME)


def _print(checked: dict[str, Any]) -> None:
    entries = f"{checked['entries']:,} {'entry' if checked['entries'] == 1 else 'entries'}"
    if checked["sound"]:
        out.print(
            Text.assemble(
                ("sound: ", "green"),
                f"{entries} of {checked['model']} follow one another, and the registry is what "
                "they tell",
            )
        )
    else:
        count = checked["fault_count"]
        out.print(
            Text.assemble(
                (f"{count:,} {'fault' if count == 1 else 'faults'}", "bold red"),
                f" in {entries} of {checked['model']}",
            )
        )
        for fault in checked["faults"]:
            out.print(Text(f"  {fault['kind']:<9}  {fault['message']}"), soft_wrap=True)
        if count > len(checked["faults"]):
            out.print(f"  … and {count - len(checked['faults']):,} more", style="dim")
    if checked["anchor"] and checked["sound"]:
        out.print(
            Text.assemble(("anchor to keep elsewhere: ", "dim"), checked["anchor"]), soft_wrap=True
        )
