"""Verbs on the registry: `models`, `show`, `promote`, `rollback`."""

from typing import Annotated, Any

import typer

from millrace.errors import InvalidRequestError
from millrace_cli import render
from millrace_cli.console import (
    JsonFlag,
    LimitOption,
    ModelArgument,
    PageTokenOption,
    ReasonOption,
    connect,
    filled_page,
    out,
    print_json,
    print_link,
    print_page,
    reported,
)

app = typer.Typer()


@app.command(epilog="Examples: millrace models | millrace models --no-champion --task binary")
def models(
    context: typer.Context,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Only names that begin so.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="binary, multiclass or regression.")
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Only their models.")] = None,
    champion: Annotated[
        bool | None,
        typer.Option("--champion/--no-champion", help="Only with, or without, a champion."),
    ] = None,
    limit: LimitOption = 50,
    page_token: PageTokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the registered models."""
    with reported(as_json):
        page = filled_page(
            connect(context),
            "/v1/models",
            limit=limit,
            page_token=page_token,
            prefix=prefix,
            task=task,
            owner=owner,
            champion=None if champion is None else str(champion).lower(),
        )
        print_page(page, render.models_table(page["items"]), as_json)


def split_reference(reference: str) -> tuple[str, str | None]:
    """``churn@3`` or ``churn@champion`` into name and version.

    Raises:
        InvalidRequestError: More than one ``@``, or an empty part.
    """
    name, at, version = reference.partition("@")
    if not name or (at and (not version or "@" in version)):
        raise InvalidRequestError(
            f"expected MODEL, MODEL@VERSION or MODEL@ALIAS, got {reference!r}"
        )
    return name, version or None


@app.command(epilog="Examples: millrace show churn | churn@3 | churn@champion")
def show(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="MODEL, MODEL@VERSION or MODEL@ALIAS.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a model with its versions, or one version with metrics, gates and lineage."""
    with reported(as_json):
        api = connect(context)
        name, version = split_reference(reference)
        if version is None:
            model = api.get(f"/v1/models/{name}")
            versions = api.get(f"/v1/models/{name}/versions")
            if as_json:
                print_json({"model": model, "versions": versions["items"]})
                return
            out.print(render.models_table([model]))
            out.print()
            out.print(render.versions_table(versions["items"]))
            return
        document = api.get(f"/v1/models/{name}/versions/{version}")
        if as_json:
            print_json(document)
        else:
            out.print(render.version_panel(document))
            print_link("report", document.get("report_url"))


@app.command(epilog="Example: millrace promote churn@3 --reason 'reviewed with sales'")
def promote(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="MODEL@VERSION.")],
    reason: ReasonOption = "",
    force: Annotated[
        bool,
        typer.Option("--force", help="Promote although its gates failed; needs --reason."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a version the champion."""
    with reported(as_json):
        name, version = split_reference(reference)
        if version is None or not version.isdecimal():
            raise InvalidRequestError(f"expected MODEL@VERSION, got {reference!r}")
        answer = connect(context).post(
            f"/v1/models/{name}/aliases/champion",
            {"action": "promote", "version": int(version), "reason": reason, "force": force},
        )
        _print_promotion(answer, name, as_json)


@app.command(epilog="Examples: millrace rollback churn | millrace rollback churn --to 5")
def rollback(
    context: typer.Context,
    model: ModelArgument,
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="Default: the previous champion.")
    ] = None,
    reason: ReasonOption = "",
    as_json: JsonFlag = False,
) -> None:
    """Bring a former champion back; answers follow within the refresh interval.

    A rollout that is under way is aborted in the same write. To end a rollout and keep the champion:
    millrace rollout MODEL --abort.
    """
    with reported(as_json):
        body: dict[str, Any] = {"action": "rollback", "reason": reason}
        if to is not None:
            body["version"] = to
        answer = connect(context).post(f"/v1/models/{model}/aliases/champion", body)
        _print_promotion(answer, model, as_json)


def _print_promotion(answer: dict[str, Any], model: str, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    previous = f" (was {model}@{answer['previous']})" if answer.get("previous") else ""
    out.print(f"[green]champion[/] is now {model}@{answer['version']}{previous}")
