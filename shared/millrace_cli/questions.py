"""Questions of the record: `compare`, `history`, `lineage`, `prediction`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from millrace.errors import InvalidRequestError
from millrace.serving.identity import is_prediction_id
from millrace_cli import answers
from millrace_cli.console import (
    AtOption,
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
    print_json,
    print_link,
    print_page,
    reported,
)
from millrace_cli.models import split_reference

app = typer.Typer()


@app.command(epilog="Examples: millrace compare churn@3 churn@7 | millrace compare churn@3 churn")
def compare(
    context: typer.Context,
    before: Annotated[str, typer.Argument(help="MODEL@VERSION or MODEL@ALIAS.")],
    after: Annotated[str, typer.Argument(help="The same; MODEL alone is its champion.")],
    as_json: JsonFlag = False,
) -> None:
    """Put two versions side by side: params, metrics, gates, spec, data, environment."""
    with reported(as_json):
        (model, one), (other, two) = split_reference(before), split_reference(after)
        if model != other:
            raise InvalidRequestError(
                f"expected two versions of one model, got versions of {model} and of {other}"
            )
        path = f"/v1/models/{model}/compare"
        api = connect(context)
        found = api.get(path, **{"from": one or "champion", "to": two or "champion"})
        if as_json:
            print_json(found)
        else:
            out.print(answers.comparison(found))


@app.command(
    epilog="Examples: millrace history churn | millrace history churn --at 2026-11-01T12:00Z"
)
def history(
    context: typer.Context,
    model: ModelArgument,
    at: AtOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 20,
    page_token: PageTokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what answered predictions when, and by whose decision; --at: what was live then."""
    if at and (since or until or page_token):
        raise typer.BadParameter("--at goes without --since, --until and --page-token")
    with reported(as_json):
        api, path = connect(context), f"/v1/models/{model}/history"
        moment = moment_of(at, "--at")
        if moment is None:
            page = filled_page(
                api,
                path,
                limit=limit,
                page_token=page_token,
                since=moment_of(since, "--since"),
                until=moment_of(until, "--until"),
            )
            print_page(page, answers.history_table(page["items"]), as_json)
            return
        found = api.get(path, at=moment)
        if as_json:
            print_json(found)
        else:
            out.print(answers.live_panel(found["items"][0], found["at"]))


@app.command(
    epilog="Examples: millrace lineage churn@7 | millrace lineage churn --svg lineage.svg | "
    "millrace lineage churn@7 --openlineage events.jsonl"
)
def lineage(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(help="MODEL@VERSION or MODEL@ALIAS; MODEL alone is its champion.")
    ],
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write the graph as a picture.", dir_okay=False)
    ] = None,
    openlineage: Annotated[
        Path | None,
        typer.Option(
            "--openlineage",
            help="Write OpenLineage events instead, one JSON document a line; - for standard output.",
            allow_dash=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show where a version came from and where it went: uploads, data, run, rollouts, requests."""
    with reported(as_json):
        model, version = split_reference(reference)
        api, path = connect(context), f"/v1/models/{model}/lineage"
        if openlineage is not None:
            told = api.get_text(path, version=version or "champion", format="openlineage")
            _write_events(json.loads(told), openlineage, as_json)
            return
        found = api.get(path, version=version or "champion")
        if svg is not None:
            picture = api.get_text(path, version=str(found["version"]), format="svg")
            svg.write_text(picture, encoding="utf-8")
        if as_json:
            print_json(found)
            return
        out.print(answers.lineage_tree(found))
        if svg is not None:
            out.print(f"[green]saved[/] {svg}", soft_wrap=True)


def _write_events(events: Sequence[dict[str, Any]], path: Path, as_json: bool) -> None:
    """One event a line: what collectors of OpenLineage take one by one."""
    lines = "".join(json.dumps(event) + "\n" for event in events)
    if str(path) == "-":
        sys.stdout.write(lines)
        return
    path.write_text(lines, encoding="utf-8")
    if as_json:
        print_json({"path": str(path), "events": len(events)})
    else:
        out.print(f"[green]saved[/] {path} ({len(events)} events)", soft_wrap=True)


@app.command(
    epilog="Example: millrace prediction churn 01983f5e-6c00-7a10-8b3c-0123456789ab",
)
def prediction(
    context: typer.Context,
    model: ModelArgument,
    prediction_id: Annotated[str, typer.Argument(help="As the answer named it.")],
    as_json: JsonFlag = False,
) -> None:
    """Show which version answered a prediction, who put it there, and on what evidence."""
    with reported(as_json):
        if not is_prediction_id(prediction_id.lower()):
            raise InvalidRequestError(
                "expected a prediction's id as an answer names it: a UUID of version 7"
            )
        found = connect(context).get(f"/v1/models/{model}/predictions/{prediction_id}")
        if as_json:
            print_json(found)
        else:
            out.print(answers.prediction_panel(found))
            print_link("report", found.get("report_url"))
