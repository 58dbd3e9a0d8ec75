"""The verbs `monitor` and `alarms`: how a model is, and what rings."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, cast

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from millrace.errors import InvalidRequestError, NotFoundError
from millrace.spec import seconds_of
from millrace_cli.client import ApiClient
from millrace_cli.console import (
    JsonFlag,
    LimitOption,
    ModelArgument,
    PageTokenOption,
    ReasonOption,
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
from millrace_cli.exits import ExitCode

app = typer.Typer()

type Action = Literal["acknowledge", "silence", "widen", "show"]

_ACTIONS: Final = ("acknowledge", "silence", "widen", "show")
_STATES: Final = {
    "ok": ("✓ as expected", "green"),
    "watch": ("△ something moved", "yellow"),
    "alarm": ("✗ needs attention", "red"),
    "unknown": ("… too little to say", "dim"),
}
_MARKS: Final = {
    "ok": ("✓", "green"),
    "watch": ("△", "yellow"),
    "alarm": ("✗", "red"),
    "unknown": ("…", "dim"),
}
_EPISODES: Final = {
    "open": "red",
    "acknowledged": "yellow",
    "silenced": "dim",
    "closed": "green",
}
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_MAX_FEATURES: Final = 12
_METRICS: Final = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "f1_macro": "macro F1",
    "log_loss": "log loss",
    "brier": "Brier score",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
}


@app.command(
    epilog="Examples: millrace monitor churn | millrace monitor churn --window 2026-11-21T06:00Z | "
    "millrace monitor churn --windows --since 2026-11-01 | millrace monitor churn --json"
)
def monitor(
    context: typer.Context,
    model: ModelArgument,
    window: Annotated[
        str | None,
        typer.Option("--window", help="Begin of the window, ISO 8601. Default: the newest."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every feature, not only those that moved most.")
    ] = False,
    windows: Annotated[
        bool,
        typer.Option("--windows", "--history", help="List the windows so far, the newest first."),
    ] = False,
    since: SinceOption = None,
    until: UntilOption = None,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Only windows of this version.")
    ] = None,
    limit: LimitOption = 50,
    page_token: PageTokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show how a model is: traffic, cost, performance, drift, what changed first, what was done.

    Exit code 6 when it needs attention; never with --windows, which lists what was.
    """
    with reported(as_json):
        if windows:
            if window is not None or everything:
                raise InvalidRequestError("--window and --all do not go with --windows")
            page = filled_page(
                connect(context),
                f"/v1/models/{model}/monitor/windows",
                limit=limit,
                page_token=page_token,
                since=moment_of(since, "--since"),
                until=moment_of(until, "--until"),
                version=None if version is None else str(version),
            )
            print_page(page, windows_view(model, page["items"]), as_json)
            return
        if since or until or version or page_token:
            raise InvalidRequestError(
                "--since, --until, --version and --page-token go with --windows"
            )
        api = connect(context)
        at = moment_of(window, "--window")
        answer = api.get(f"/v1/models/{model}/monitor", window=at)
        report = answer["report"]
        if as_json:
            print_json(answer)
        else:
            out.print(monitor_view(report, everything=everything))
            print_link("report", answer["report_url"])
        if report["state"] == "alarm":
            raise typer.Exit(ExitCode.OUTCOME)


@app.command(
    epilog="Examples: millrace alarms churn | millrace alarms churn show | millrace alarms churn "
    "acknowledge --reason 'looking into it' | millrace alarms churn silence --for 3d | millrace "
    "alarms churn widen --to 0.3 --reason 'a campaign'"
)
def alarms(
    context: typer.Context,
    model: ModelArgument,
    action: Annotated[
        str | None, typer.Argument(help="acknowledge, silence, widen or show. Default: list.")
    ] = None,
    alarm: Annotated[
        str | None, typer.Argument(help="The alarm's id. Default: the one that is open.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="silence: until this moment, ISO 8601.")
    ] = None,
    lasting: Annotated[
        str | None, typer.Option("--for", help="silence: for so long: 12h, 3d.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="widen: the effect to tolerate, or `spec` to take it back."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Closed ones, too.")] = False,
    reason: ReasonOption = "",
    limit: LimitOption = 50,
    page_token: PageTokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List a model's alarms; acknowledge, silence or widen one; show one with its history."""
    with reported(as_json):
        path = f"/v1/models/{model}/alarms"
        if action is None:
            if until or lasting or to:
                raise InvalidRequestError("--until, --for and --to need an action before them")
            api = connect(context)
            page = api.get(path, limit=limit, page_token=page_token)
            if not everything and not as_json:
                page = {**page, "items": [a for a in page["items"] if a["state"] != "closed"]}
            print_page(page, alarms_view(model, page["items"], everything), as_json)
            return
        if action not in _ACTIONS:
            raise InvalidRequestError(
                f"action: expected one of {', '.join(_ACTIONS)}, got {action!r}"
            )
        body = _body(cast("Action", action), until, lasting, to, reason)
        api = connect(context)
        chosen = alarm or _only(api, model)
        if action == "show":
            document = api.get(f"{path}/{chosen}")
        else:
            document = api.post(f"{path}/{chosen}/{action}", body)
        if as_json:
            print_json(document)
        else:
            out.print(alarm_view(document))
            print_link("report", document["report_url"])


def _body(
    action: Action, until: str | None, lasting: str | None, to: str | None, reason: str
) -> dict[str, Any]:
    """What is sent; options of other actions are refused."""
    if action != "silence" and (until or lasting):
        raise InvalidRequestError("--until and --for belong to silence")
    if action != "widen" and to is not None:
        raise InvalidRequestError("--to belongs to widen")
    match action:
        case "silence":
            return {"until": _end_of_silence(until, lasting), "reason": reason}
        case "widen":
            return {"to": _tolerated(to), "reason": reason}
        case _:
            return {"reason": reason}


def _end_of_silence(until: str | None, lasting: str | None) -> str:
    if (until is None) == (lasting is None):
        raise InvalidRequestError("silence: give one of --until and --for")
    if lasting is None:
        return str(moment_of(until, "--until"))
    if not (lasting[:-1].isdecimal() and lasting[:-1] != "0" and lasting[-1:] in "smhd"):
        raise InvalidRequestError(
            f"--for: expected a number with s, m, h or d, such as 3d, got {lasting!r}"
        )
    end = datetime.now(UTC) + timedelta(seconds=seconds_of(lasting))
    return end.isoformat(timespec="seconds").replace("+00:00", "Z")


def _tolerated(to: str | None) -> float | None:
    if to == "spec":
        return None
    try:
        return float(to or "")
    except ValueError:
        raise InvalidRequestError(
            "widen: give --to with the effect to tolerate, such as 0.3, or with `spec`"
        ) from None


def _only(api: ApiClient, model: str) -> str:
    """The one alarm that is open.

    Raises:
        NotFoundError: None is.
        InvalidRequestError: Several are.
    """
    page = api.get(f"/v1/models/{model}/alarms", limit=100)
    found = [a for a in page["items"] if a["state"] != "closed"]
    if not found:
        raise NotFoundError(f"model {model!r} has no open alarm")
    if len(found) > 1:
        named = "; ".join(f"{a['id']} ({_about(a)})" for a in found[:8])
        raise InvalidRequestError(f"{len(found)} alarms are open, name one: {named}")
    return str(found[0]["id"])


# ── Alarms shown ────────────────────────────────────────────────────────────────────────────────


def _about(alarm: dict[str, Any]) -> str:
    return f"{alarm['kind'].replace('_', ' ')}: {_named(alarm['subject'])}"


def _named(subject: str) -> str:
    return _METRICS.get(subject, subject)


def alarms_view(model: str, items: list[dict[str, Any]], everything: bool) -> RenderableType:
    """Alarms one below the other, the newest first: a table of them is wider than a terminal."""
    if not items:
        return Text(
            f"{model} had no alarm"
            if everything
            else f"no alarm of {model} is open (--all: closed)"
        )
    lines: list[RenderableType] = []
    for one in items:
        windows = one["windows"]
        lines += [
            Text.assemble(
                (one["id"], "dim"),
                "  ",
                (_about(one), "bold"),
                "  ",
                (one["state"], _EPISODES[one["state"]]),
            ),
            Text(
                f"    since {_when(one['opened_at'])}, {windows} window{'s' * (windows != 1)}, "
                f"effect {_number(one['effect'])}",
                style="dim",
            ),
            Padding(Text(one["text"]), (0, 0, 0, 4)),
        ]
    return Group(*lines)


def alarm_view(alarm: dict[str, Any]) -> RenderableType:
    """One alarm: what, why, what to do, and its history."""
    head = Text.assemble(
        (f"{alarm['model']}@{alarm['version']}", "bold"),
        f"  {_about(alarm)}  ",
        (alarm["state"], f"bold {_EPISODES[alarm['state']]}"),
        (f"  {alarm['id']}", "dim"),
    )
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    said = [
        ("", alarm["text"]),
        ("size", _size(alarm)),
        ("likely cause", alarm["likely_cause"]),
        ("next step", alarm["next_step"] if alarm["state"] != "closed" else ""),
        ("silent until", _when(alarm["silenced_until"])),
        ("tolerated", _number(alarm["widened_to"]) if alarm["widened_to"] is not None else ""),
        ("retraining", alarm["run_id"] or _no_training(alarm.get("training"))),
    ]
    for name, text in said:
        if text:
            facts.add_row(f"  {name}", Text(text))
    history = Table.grid(padding=(0, 2, 0, 0))
    for step in alarm["history"]:
        history.add_row(
            Text(f"  {_when(step['at'])}", style="dim"),
            Text(step["event"], style="bold"),
            Text(step["by"], style="dim"),
            Text(step["text"]),
        )
    return Group(head, facts, Text(), history)


def _no_training(training: dict[str, Any] | None) -> str:
    """Why an alarm started none; nothing where it is not decided, or about to start."""
    return f"none: {training['reason']}" if training and training["outcome"] == "refuse" else ""


def _size(alarm: dict[str, Any]) -> str:
    parts = []
    if alarm["effect"] is not None:
        parts.append(f"effect {_number(alarm['effect'])}")
    if alarm["value"] is not None:
        parts.append(f"{alarm['statistic']} {_number(alarm['value'])}")
    if alarm["threshold"] is not None:
        parts.append(f"counts from {_number(alarm['threshold'])}")
    parts.append(f"{alarm['rows']:,} rows")
    count = alarm["windows"]
    parts.append(f"{count} window{'' if count == 1 else 's'}")
    return ", ".join(parts)


# ── Windows shown ───────────────────────────────────────────────────────────────────────────────


def windows_view(model: str, items: list[dict[str, Any]]) -> RenderableType:
    """Windows one below the other, the newest first, each with what moved in it."""
    if not items:
        return Text(f"no window of {model} was judged in this time")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("")
    table.add_column("window (UTC)", no_wrap=True)
    table.add_column("version", justify="right")
    table.add_column("rows", justify="right")
    table.add_column("labels", justify="right")
    table.add_column(f"{_named(_metric_of(items))} measured", no_wrap=True)
    table.add_column("estimated", no_wrap=True)
    table.add_column("what moved", overflow="fold")
    for one in items:
        mark, style = _MARKS[one["state"]]
        table.add_row(
            Text(mark, style=style),
            _span(one["since"], one["until"]),
            str(one["version"]),
            f"{one['rows']:,}",
            _labelled(one),
            Text("–", "dim") if one["realised"] is None else _interval(one["realised"]),
            Text("–", "dim") if one["estimated"] is None else _interval(one["estimated"]),
            Text(_moved(one), style="" if one["findings"] else "dim"),
        )
    return table


def _metric_of(items: list[dict[str, Any]]) -> str:
    """What all that were measured are judged by; its name is left out where they differ."""
    metrics = {one["metric"] for one in items if one["metric"]}
    return metrics.pop() if len(metrics) == 1 else ""


def _span(since: str, until: str) -> str:
    """A window's begin and end; the day once, where both are of one."""
    same = since[:10] == until[:10]
    return f"{_when(since)} – {_when(until)[11:] if same else _when(until)}"


def _labelled(window: dict[str, Any]) -> str:
    if not window["sampled"]:
        return "–"
    return f"{window['labelled'] / window['sampled']:.0%}"


def _moved(window: dict[str, Any]) -> str:
    """Kinds of findings, those that alarm first; of a refused window, why."""
    if window["state"] == "unknown":
        return str(window["reason"].split(",")[0])
    parts = []
    for state in ("alarm", "watch"):
        kinds = [
            f"{kind.replace('_', ' ')}{f' ×{n[state]}' if n[state] > 1 else ''}"
            for kind, n in sorted(window["findings"].items())
            if n[state]
        ]
        if kinds:
            parts.append(f"{'rings' if state == 'alarm' else 'watched'}: {', '.join(kinds)}")
    return "; ".join(parts) or "nothing"


# ── A report shown ──────────────────────────────────────────────────────────────────────────────


def monitor_view(report: dict[str, Any], *, everything: bool = False) -> RenderableType:
    """The report of a window for a terminal."""
    words, style = _STATES[report["state"]]
    title = Text.assemble(
        (f"{report['model']}@{report['version']}", "bold"),
        "  ",
        (words, f"bold {style}"),
        (f"  {_when(report['since'])} to {_when(report['until'])} UTC", "dim"),
    )
    parts: list[RenderableType] = [title, Text(f"  {report['summary']}")]
    if report["refused"]:
        parts.append(Text(f"  not judged: {report['refused']}", style="yellow"))
    parts += [Text(), _traffic(report)]
    for name, shown in (
        ("performance", _performance(report)),
        ("segments that suffer", _segments(report)),
        ("drift", _drift(report, everything)),
        ("alarms", _open_alarms(report)),
        ("what changed first", _changes(report)),
        ("what was done", _actions(report)),
    ):
        if shown is not None:
            parts += [Text(), Text(name, style="bold"), shown]
    return Panel(Group(*parts), border_style=style, padding=(1, 2))


def _traffic(report: dict[str, Any]) -> RenderableType:
    traffic, cost = report["traffic"], report["cost"]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    asked = f"{traffic['requests']:,}"
    if traffic["last_week"]:
        asked += f" ({traffic['requests'] / traffic['last_week'] - 1:+.0%} on last week)"
    bars = sparkline([h["requests"] + h["errors"] for h in traffic["hours"]][-48:])
    grid.add_row("  requests", Text.assemble(asked, "  ", (bars, "cyan")))
    total = traffic["requests"] + traffic["errors"]
    failed = f"{traffic['errors']:,}"
    if total:
        failed += f" ({traffic['errors'] / total:.2%})"
    grid.add_row("  failed", failed)
    late = [f"{n} {_ms(traffic[f'{n}_ms'])}" for n in ("p50", "p95", "p99")]
    grid.add_row("  latency", ", ".join(late))
    if cost is not None:
        text = f"{_usd(cost['month_to_date'])} this month"
        if cost["per_thousand_predictions"] is not None:
            text += f", {_usd(cost['per_thousand_predictions'])} a thousand predictions"
        if cost["last_training"] is not None:
            text += f", {_usd(cost['last_training'])} the last training"
        if cost["monthly_budget"] is not None:
            text += f"; budget {_usd(cost['monthly_budget'])} {cost['budget_state']}"
        grid.add_row("  cost", text)
    if traffic["lost"]:
        grid.add_row(
            "  lost", Text(f"{traffic['lost']:,} captured predictions never arrived", "yellow")
        )
    return grid


def _performance(report: dict[str, Any]) -> RenderableType | None:
    if not report["performance"]:
        return None
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(6):
        table.add_column(no_wrap=True)
    caveats: list[str] = []
    for series in report["performance"]:
        points = series["points"]
        measured = [p for p in points if p["realised"]]
        reference = series["reference"]
        last = points[-1] if points else None
        line = sparkline([p["realised"]["value"] for p in measured][-24:], from_zero=False)
        mark, style = _MARKS[last["verdict"]] if last else _MARKS["unknown"]
        table.add_row(
            Text(f"  {mark}", style=style),
            Text(_named(series["metric"]), style="bold"),
            Text.assemble(("measured ", "dim"), _interval(measured[-1]["realised"]))
            if measured
            else Text("no labels", style="dim"),
            Text(
                "" if not measured or measured[-1] is last else f"({_when(measured[-1]['since'])})",
                style="dim",
            ),
            Text.assemble(("estimated ", "dim"), _interval(last["estimated"]))
            if last and last["estimated"]
            else Text("no estimate", style="dim"),
            Text(f"in training {_number(reference['value'])}" if reference else "", style="dim"),
            Text(line, style="cyan"),
        )
        if series["caveat"] and series["caveat"] not in caveats:
            caveats.append(series["caveat"])
    parts: list[RenderableType] = [table]
    labels = report["labels"]
    if labels is not None:
        share = f" ({labels['labelled'] / labels['rows']:.0%})" if labels["rows"] else ""
        parts.append(
            Text(f"  labels of {labels['labelled']:,} of {labels['rows']:,} rows{share}", "dim")
        )
        if labels["warning"]:
            parts.append(Padding(Text(labels["warning"], style="yellow"), (0, 0, 0, 2)))
    parts += [Padding(Text(caveat, style="dim italic"), (0, 0, 0, 2)) for caveat in caveats]
    return Group(*parts)


def _segments(report: dict[str, Any]) -> RenderableType | None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for one in report["segments"]:
        for group in one["segments"]:
            if group["verdict"] not in ("alarm", "watch"):
                continue
            mark, style = _MARKS[group["verdict"]]
            value = group["realised"] or group["estimated"]
            how = "measured" if group["realised"] else "estimated"
            table.add_row(
                Text(f"  {mark}", style=style),
                Text(f"{one['column']} = {group['value']}", style="bold"),
                Text(f"{_named(one['metric'])} {_interval(value)} {how}" if value else ""),
                Text(
                    f"in training {_number(group['reference'])}"
                    if group["reference"] is not None
                    else "",
                    style="dim",
                ),
                Text(f"{group['rows']:,} rows", style="dim"),
            )
    return table if table.row_count else None


def _drift(report: dict[str, Any], everything: bool) -> RenderableType | None:
    order = ("alarm", "watch", "unknown", "ok")
    found = [f for f in report["findings"] if f["against"] in ("training", None)]
    found = [f for f in found if f["kind"] not in ("performance", "estimated_performance")]
    found.sort(key=lambda f: (order.index(f["verdict"]), -abs(f["effect"] or 0.0)))
    if not everything:
        moved = [f for f in found if f["verdict"] in ("alarm", "watch")]
        found = moved[:_MAX_FEATURES]
        more = len(moved) - len(found)
        calm = len({f["subject"] for f in report["findings"]} - {f["subject"] for f in moved})
    else:
        more = calm = 0
    shapes = {f["name"]: f["distribution"] for f in report["features"]}
    shapes |= {"scores": report["scores"], "classes": report["classes"]}
    table = Table.grid(padding=(0, 2, 0, 0))
    for one in found:
        mark, style = _MARKS[one["verdict"]]
        shape = shapes.get(one["subject"]) if one["kind"].endswith("_drift") else None
        then = sparkline(shape["training"]) if shape else ""
        now = sparkline(shape["window"]) if shape else ""
        table.add_row(
            Text(f"  {mark}", style=style),
            Text(_named(one["subject"]), style="bold"),
            Text(one["kind"].replace("_", " "), style="dim"),
            Text(_number(one["effect"])),
            Text.assemble((then, "dim"), " → " if then else "", (now, "cyan")),
            Text(one["text"], style="dim"),
        )
    rest = [f"{more} more moved"] if more else []
    rest += (
        [f"{calm} as expected" if table.row_count else "nothing moved by enough"] if calm else []
    )
    if not table.row_count and not rest:
        return None
    return Group(table, *([Text(f"  {', '.join(rest)}", style="dim")] if rest else []))


def _open_alarms(report: dict[str, Any]) -> RenderableType | None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for one in report["episodes"]:
        if one["state"] != "closed":
            table.add_row(
                Text(f"  {one['state']}", style=_EPISODES[one["state"]]),
                Text(_about(one), style="bold"),
                Text(f"since {_when(one['opened_at'])}", style="dim"),
                Text(one["likely_cause"]),
            )
    if not table.row_count:
        return None
    hint = f"  millrace alarms {report['model']} show | acknowledge | silence | widen"
    return Group(table, Text(hint, style="dim"))


def _changes(report: dict[str, Any]) -> RenderableType | None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for one in report["changes"][:8]:
        mark, style = _MARKS[one["verdict"]]
        table.add_row(
            Text(f"  {_when(one['at'])}", style="dim"),
            Text(mark, style=style),
            Text(f"{one['kind'].replace('_', ' ')}: {_named(one['subject'])}", style="bold"),
            Text(one["text"], style="dim"),
        )
    return table if table.row_count else None


def _actions(report: dict[str, Any]) -> RenderableType | None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for one in report["actions"][:8]:
        table.add_row(
            Text(f"  {_when(one['at'])}", style="dim"),
            Text(one["text"]),
            Text(one["by"], style="dim"),
            Text(one["reference"], style="dim"),
        )
    return table if table.row_count else None


# ── Words ───────────────────────────────────────────────────────────────────────────────────────


def sparkline(values: list[float] | list[int], *, from_zero: bool = True) -> str:
    """Values as a row of blocks, from zero or from the least to the greatest."""
    if not values or max(values) == min(values) == 0:
        return ""
    low = 0.0 if from_zero else min(values)
    span = (max(values) - low) or 1.0
    return "".join(_BLOCKS[1 + round((v - low) / span * (len(_BLOCKS) - 2))] for v in values)


def _when(text: str | None) -> str:
    return "" if text is None else text[:16].replace("T", " ")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    size = abs(value)
    if size >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if size >= 0.001 or not size else f"{value:.2g}"


def _interval(value: dict[str, Any]) -> str:
    if value["low"] is None or value["high"] is None:
        return _number(value["value"])
    return f"{_number(value['value'])} [{_number(value['low'])}, {_number(value['high'])}]"


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1_000:.1f} s" if value >= 1_000 else f"{value:.1f} ms"


def _usd(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.01 or not amount else f"${amount:.2g}"
