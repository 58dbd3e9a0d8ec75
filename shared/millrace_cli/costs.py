"""The verb `costs`: what a model costs, by month, by thousand predictions, by training."""

from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from millrace_cli.console import (
    JsonFlag,
    ModelArgument,
    connect,
    moment_of,
    out,
    print_json,
    reported,
)
from millrace_cli.render import facts_grid, listing

app = typer.Typer()

_BUDGET: Final = {
    "none": ("no budget is set (spec: retrain.monthly_budget)", "dim"),
    "within": ("within the budget of ${of:,.2f}", "green"),
    "warned": ("more than four fifths of the budget of ${of:,.2f}", "yellow"),
    "exhausted": (
        "over the budget of ${of:,.2f}: neither drift nor the calendar trains it; predictions go on",
        "red",
    ),
}
_SHOWN: Final = 10


@app.command(
    epilog="Examples: millrace costs churn | millrace costs churn --until 2026-10-31 --json"
)
def costs(
    context: typer.Context,
    model: ModelArgument,
    until: Annotated[
        str | None,
        typer.Option("--until", help="Of the month of this moment, up to it. Default: now."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a model costs: this month, a thousand predictions, each training."""
    with reported(as_json):
        answer = connect(context).get(
            f"/v1/models/{model}/costs", until=moment_of(until, "--until")
        )
        if as_json:
            print_json(answer)
        else:
            out.print(costs_page(answer))


def dollars(usd: float) -> str:
    """As many digits as say something."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.5f}"


def costs_page(costs: dict[str, Any]) -> RenderableType:
    """What a model costs, for people."""
    since = datetime.fromisoformat(costs["since"])
    words, style = _BUDGET[costs["budget_state"]]
    per_thousand = costs["per_thousand_predictions"]
    facts: dict[str, str | Text] = {
        f"{since:%B %Y} so far": dollars(costs["usd"]),
        "budget": Text(words.format(of=costs["monthly_budget"] or 0), style=style),
        "predictions": f"{costs['rows']:,} rows in {costs['requests']:,} requests",
        "a thousand predictions": "none yet" if per_thousand is None else dollars(per_thousand),
    }
    parts = [(part["name"], dollars(part["usd"])) for part in costs["parts"] if part["usd"]]
    runs = [
        (
            run["run_id"],
            run["began"][:16].replace("T", " "),
            f"{run['seconds']:.0f} s",
            dollars(run["usd"]),
        )
        for run in costs["trainings"][:_SHOWN]
    ]
    shown: list[RenderableType] = [facts_grid(facts)]
    if parts:
        shown += [Text(), listing(("what", "cost"), parts, [""] * len(parts))]
    if runs:
        shown += [Text(), listing(("training", "began", "steps", "cost"), runs, [""] * len(runs))]
    more = len(costs["trainings"]) - _SHOWN
    if more > 0:
        shown.append(Text(f"and {more} more", style="dim"))
    note = f"public prices of {costs['prices_of']}, us-east-1, without free tier and tax"
    return Group(*shown, Text(), Text(note, style="dim"))
