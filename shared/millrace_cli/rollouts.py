"""The verb `rollout`: start one, watch it, pause, resume, abort."""

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from millrace.errors import InvalidRequestError, NotFoundError, ServiceUnavailableError
from millrace_cli.client import ApiClient
from millrace_cli.console import (
    Interrupted,
    JsonFlag,
    LimitOption,
    ModelArgument,
    PageTokenOption,
    ReasonOption,
    connect,
    out,
    print_json,
    print_page,
    reported,
)
from millrace_cli.exits import ExitCode

app = typer.Typer()

POLL_SECONDS: Final = 2.0
OPEN: Final = ("waiting", "running", "paused", "held", "stalled")
_STYLES: Final = {
    "waiting": "yellow",
    "running": "cyan",
    "paused": "yellow",
    "held": "yellow",
    "stalled": "red",
    "promoted": "green",
    "rolled_back": "red",
    "aborted": "yellow",
    "superseded": "yellow",
    "overtaken": "yellow",
}
_FOUND: Final = {
    "healthy": ("✓", "green"),
    "breach": ("✗", "red"),
    "short": ("…", "yellow"),
    "ignored": ("·", "dim"),
}


@app.command(
    epilog="Examples: millrace rollout churn | millrace rollout churn --to 7 --strategy canary "
    "--steps 5,25,50 | millrace rollout churn --follow | millrace rollout churn --pause"
)
def rollout(
    context: typer.Context,
    model: ModelArgument,
    to: Annotated[int | None, typer.Option("--to", min=1, help="Start: the version.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", help="canary, linear or shadow. Default: the spec's."),
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", help="Percent of the traffic, rising: 5,25,50.")
    ] = None,
    bake: Annotated[
        str | None, typer.Option("--bake", help="How long each step is watched: 30m, 2h.")
    ] = None,
    on_conflict: Annotated[
        str | None,
        typer.Option("--on-conflict", help="wait or supersede, while another rollout runs."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Watch it until it ends.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Keep the traffic where it is.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on.")] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Give the champion everything back.")
    ] = False,
    everything: Annotated[bool, typer.Option("--list", help="All rollouts of the model.")] = False,
    of: Annotated[
        str | None, typer.Option("--id", help="A rollout. Default: the one under way, or the last.")
    ] = None,
    reason: ReasonOption = "",
    limit: LimitOption = 50,
    page_token: PageTokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a version take the traffic step by step, and watch it; without options, show where it is."""
    with reported(as_json):
        plan = _plan(strategy, steps, bake, on_conflict)
        asked = [n for n, on in (("pause", pause), ("resume", resume), ("abort", abort)) if on]
        if len(asked) + (to is not None) + everything > 1:
            raise InvalidRequestError("give one of --to, --pause, --resume, --abort, --list")
        if plan and to is None:
            raise InvalidRequestError("--strategy, --steps, --bake and --on-conflict need --to")
        api = connect(context)
        if everything:
            page = api.get(f"/v1/models/{model}/rollouts", limit=limit, page_token=page_token)
            print_page(page, rollouts_table(page["items"]), as_json)
            return
        if to is not None:
            body = {"version": to, "reason": reason, **plan}
            chosen = api.post(f"/v1/models/{model}/rollouts", body)["rollout_id"]
        else:
            chosen = of or _newest(api, model)
        if asked:
            api.post(f"/v1/rollouts/{chosen}/{asked[0]}", {"reason": reason})
        if follow:
            _follow(api, chosen, as_json)
            return
        document = api.get(f"/v1/rollouts/{chosen}")
        if as_json:
            print_json(document)
        else:
            out.print(rollout_panel(document))


def _plan(
    strategy: str | None, steps: str | None, bake: str | None, on_conflict: str | None
) -> dict[str, Any]:
    plan: dict[str, Any] = {"strategy": strategy, "bake": bake, "on_conflict": on_conflict}
    if steps is not None:
        plan["steps"] = parse_steps(steps)
    return {name: value for name, value in plan.items() if value is not None}


def parse_steps(text: str) -> list[float]:
    """``5,25,50`` as numbers.

    Raises:
        InvalidRequestError: One of them is none.
    """
    try:
        return [float(part.strip().removesuffix("%")) for part in text.split(",")]
    except ValueError:
        raise InvalidRequestError(
            f"--steps: expected percents with commas between, such as 5,25,50, got {text!r}"
        ) from None


def _newest(api: ApiClient, model: str) -> str:
    """The rollout under way, else the last one."""
    found = api.get(f"/v1/models/{model}/rollouts", limit=20)["items"]
    if not found:
        raise NotFoundError(
            f"model {model!r} has had no rollout; start one: millrace rollout {model} --to VERSION "
            "--strategy canary"
        )
    under_way = [r for r in found if r["status"] in OPEN]
    active = [r for r in under_way if r["status"] != "waiting"]
    return str((active or under_way or found)[0]["rollout_id"])


# ── Watching ────────────────────────────────────────────────────────────────────────────────────


def _follow(api: ApiClient, rollout_id: str, as_json: bool) -> None:
    document: dict[str, Any] = {}
    try:
        for seen, news in follow_rollout(api, rollout_id):
            document = seen
            for line in news:
                if not as_json:
                    out.print(line)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped watching; rollout {rollout_id} goes on by itself: millrace rollout "
            f"{document.get('model', 'MODEL')}"
        ) from None
    if as_json:
        print_json(document)
    else:
        out.print(rollout_panel(document))
    if document["status"] != "promoted":
        raise typer.Exit(ExitCode.OUTCOME)


def follow_rollout(
    api: ApiClient, rollout_id: str, *, pause: Callable[[float], None] = time.sleep
) -> Iterator[tuple[dict[str, Any], list[Text]]]:
    """Polls a rollout until it ends.

    Yields:
        Its document and a line for each thing that is new: its state, a step, a look.

    Raises:
        ServiceUnavailableError: The API was unreachable for several polls in a row.
    """
    told: set[str] = set()
    failures = 0
    while True:
        try:
            document = api.get(f"/v1/rollouts/{rollout_id}")
            failures = 0
        except ServiceUnavailableError:
            failures += 1
            if failures > 5:
                raise
            pause(POLL_SECONDS * failures)
            continue
        yield document, [line for key, line in _news(document) if _new(key, told)]
        if document["status"] not in OPEN:
            return
        pause(POLL_SECONDS)


def _new(key: str, told: set[str]) -> bool:
    if key in told:
        return False
    told.add(key)
    return True


def _news(document: dict[str, Any]) -> Iterator[tuple[str, Text]]:
    moments: list[tuple[str, str, Text]] = []
    for step in document["steps"]:
        words = f"step {step['step'] + 1} of {len(document['weights'])}: {step['weight']:g} %"
        line = Text.assemble(("▶ ", "bold"), (_time(step["at"]), "dim"), f"  {words}")
        moments.append((step["at"], f"step {step['step']}", line))
    for look in document["judgements"]:
        style = {"roll_back": "red", "advance": "green", "finish": "green"}.get(
            look["decision"], ""
        )
        line = Text.assemble("  ", (_time(look["at"]), "dim"), "  ", (look["why"], style))
        moments.append((look["at"], f"look {look['check']}", line))
    for _, key, line in sorted(moments, key=lambda m: m[0]):
        yield key, line
    if document["status"] not in ("running", *(() if document["status"] in OPEN else ("",))):
        style = _STYLES.get(document["status"], "")
        words = document["status"].replace("_", " ")
        line = Text.assemble("  ", (words, style), f": {document['why'] or 'waiting'}")
        yield f"{document['status']} {document['changed_at']}", line


def _time(text: str) -> str:
    return text[11:19]


# ── Shown ───────────────────────────────────────────────────────────────────────────────────────


def rollouts_table(items: list[dict[str, Any]]) -> RenderableType:
    """Rollouts as a table, newest first."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("rollout", "version", "strategy", "state", "traffic", "since", "why"):
        table.add_column(column, overflow="fold")
    for one in items:
        state = Text(one["status"].replace("_", " "), style=_STYLES.get(one["status"], ""))
        table.add_row(
            one["rollout_id"],
            f"{one['model']}@{one['version']}",
            one["strategy"],
            state,
            f"{one['weight']:g} %" if one["status"] in OPEN else "",
            one["created_at"][:16].replace("T", " "),
            one["why"],
        )
    return table


def rollout_panel(document: dict[str, Any]) -> RenderableType:
    """One rollout: where it is, why, and what its last look found."""
    status = document["status"]
    style = _STYLES.get(status, "")
    champion = (
        f" against {document['model']}@{document['champion']}" if document["champion"] else ""
    )
    head = Text.assemble(
        (f"{document['model']}@{document['version']}", "bold"),
        f" {document['strategy']}{champion}: ",
        (status.replace("_", " "), f"bold {style}"),
        (f"  {document['rollout_id']}", "dim"),
    )
    parts: list[RenderableType] = [head]
    if document["why"]:
        parts.append(Text(f"  {document['why']}", style=style))
    parts.append(_steps_line(document))
    last = document["judgement"]
    if last:
        looked = f"  look {last['check']} at {_time(last['at'])}: {last['why']}"
        parts += [Text(looked, style="dim"), _findings(last["findings"])]
    hints = {
        "paused": f"go on: millrace rollout {document['model']} --resume",
        "held": f"go on: millrace rollout {document['model']} --resume, or --abort",
        "stalled": f"go on: millrace rollout {document['model']} --resume, or --abort",
    }
    if status in hints:
        parts.append(Text(f"  {hints[status]}", style="dim"))
    return Group(*parts)


def _steps_line(document: dict[str, Any]) -> Text:
    line = Text("  ")
    for number, weight in enumerate(document["weights"]):
        at = document["step"]
        if at is not None and number < at:
            mark, style = "●", "green"
        elif number == at and document["status"] in OPEN:
            mark, style = "◉", "bold cyan"
        elif number == at:
            mark, style = "●", "green" if document["status"] == "promoted" else "red"
        else:
            mark, style = "○", "dim"
        line.append(f"{mark} {weight:g} %  ", style=style)
    line.append("champion" if document["status"] == "promoted" else "→ champion", style="dim")
    if document["status"] == "running":
        line.append(f"   look {document['looks']} of {document['looks_needed']}", style="dim")
    return line


def _findings(findings: list[dict[str, Any]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=4, justify="right")
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    table.add_column(justify="right", style="dim", no_wrap=True)
    for one in findings:
        mark, style = _FOUND.get(one["found"], ("?", ""))
        evidence = ""
        if one["evidence"] is not None:
            evidence = f"evidence {one['evidence']:.3g} of {one['threshold']:,.0f}"
        table.add_row(Text(mark, style=style), one["condition"], Text(one["text"]), evidence)
    return table
