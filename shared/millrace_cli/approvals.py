"""Verbs on versions that wait for a person: `approve`, `reject`."""

import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from millrace.errors import InvalidRequestError
from millrace_cli.client import ApiClient
from millrace_cli.console import (
    JsonFlag,
    ReasonOption,
    connect,
    out,
    print_json,
    print_link,
    reported,
)
from millrace_cli.models import split_reference

app = typer.Typer()

POLL_SECONDS = 1.0
PATIENCE = 60.0
"""Seconds that a decision is followed until its run says what came of it."""

Reference = Annotated[str, typer.Argument(help="MODEL@VERSION.")]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for machines.")]


@app.command(
    epilog="Examples: millrace approve churn@7 | churn@7 --show | churn@7 --yes --reason 'reviewed'"
)
def approve(
    context: typer.Context,
    reference: Reference,
    reason: ReasonOption = "",
    show: Annotated[
        bool, typer.Option("--show", help="Show the evidence and decide nothing.")
    ] = False,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the evidence on a version that waits, and let it go live."""
    with reported(as_json):
        _decide(context, "approve", reference, reason, show=show, yes=yes, as_json=as_json)


@app.command(epilog="Example: millrace reject churn@7 --reason 'worse for new customers'")
def reject(
    context: typer.Context,
    reference: Reference,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn a version down; whoever trained it reads the reason."""
    with reported(as_json):
        if not reason.strip():
            raise InvalidRequestError("expected --reason WHY: whoever trained the version reads it")
        _decide(context, "reject", reference, reason, show=False, yes=yes, as_json=as_json)


def _decide(
    context: typer.Context,
    verb: str,
    reference: str,
    reason: str,
    *,
    show: bool,
    yes: bool,
    as_json: bool,
) -> None:
    name, version = split_reference(reference)
    if version is None or not version.isdecimal():
        raise InvalidRequestError(f"expected MODEL@VERSION, got {reference!r}")
    api = connect(context)
    path = f"/v1/models/{name}/versions/{version}"
    evidence = api.get(f"{path}/approval")
    request = evidence["request"]
    if show:
        if as_json:
            print_json(evidence)
        else:
            _print_evidence(evidence)
        return
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InvalidRequestError(
                f"nobody can be asked here: look with --show, then pass --yes to {verb}"
            )
        _print_evidence(evidence)
        if request["status"] == "pending":
            typer.confirm(f"{verb} {name}@{version}?", abort=True)
    body = {"reason": reason, "request_id": request["request_id"]}
    answer = api.post(f"{path}/{verb}", body)
    run = settled(api, answer["run_id"])
    if as_json:
        print_json({"request": answer, "run": run})
        return
    style = "green" if answer["status"] == "approved" else "yellow"
    out.print(
        Text.assemble(
            (answer["status"], style), f" {name}@{version} by {answer['decided_by']}", no_wrap=False
        )
    )
    out.print(_what_came(run, name, version), soft_wrap=True)


def settled(
    api: ApiClient,
    run_id: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """The run once the decision took effect, or as it is when patience ends."""
    end = clock() + PATIENCE
    while True:
        run = api.get(f"/v1/runs/{run_id}")
        if run["outcome"] is not None or clock() > end:
            return run
        pause(POLL_SECONDS)


def _what_came(run: dict[str, Any], name: str, version: str) -> str:
    match run["outcome"]:
        case "promoted":
            return f"champion is now {name}@{version}"
        case "rolling_out":
            return f"its rollout has begun: millrace rollout {name} --follow"
        case "rejected":
            return "the champion stands"
        case None:
            return f"it takes effect now: millrace status {run['run_id']} --follow"
        case other:
            return f"its run ended as {other}: millrace show {name}@{version}"


# ── What a person sees ──────────────────────────────────────────────────────────────────────────


def _print_evidence(evidence: dict[str, Any]) -> None:
    out.print(evidence_panel(evidence))
    print_link("report", evidence.get("report_url"))


def evidence_panel(evidence: dict[str, Any]) -> RenderableType:
    """What there is to know before a version is approved."""
    request, training = evidence["request"], evidence["training"]
    model = request["model"]
    subject = f"{model}@{request['version']}"
    champion = f"{model}@{evidence['champion']}" if evidence["champion"] else None
    parts: list[RenderableType] = [Text(evidence["reason"])]
    if evidence["champion"] != evidence["champion_now"]:
        parts.append(
            Text(
                f"the champion changed since: {subject} was compared with {champion or 'none'}, "
                f"and {model}@{evidence['champion_now']} answers now",
                style="yellow",
            )
        )
    parts += [_heading("against the champion"), _metrics(evidence, subject, champion)]
    parts += [_heading("gates"), _gates(evidence["gates"])]
    parts += [_heading("who trained it, from what"), _training(training)]
    changes = evidence["spec_changes"]
    if changes is not None:
        parts.append(_heading(f"what the spec says otherwise than {champion}'s"))
        parts.append(_changes(changes) if changes else Text("nothing: it is the same"))
    parts += [_heading("the request"), _request(evidence)]
    return Panel(Group(*parts), title=subject, title_align="left", border_style="dim")


def _heading(words: str) -> RenderableType:
    return Padding(Text(words, style="bold"), (1, 0, 0, 0))


def _facts(rows: list[tuple[str, str | Text]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _metrics(evidence: dict[str, Any], subject: str, champion: str | None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("metric", subject, *((champion, "difference") if champion else ())):
        table.add_column(name)
    for row in evidence["metrics"]:
        cells = [row["metric"], _number(row["version"])]
        if champion:
            cells += [_number(row["champion"]), _number(row["difference"], signed=True)]
        table.add_row(*cells)
    return table


def _number(metric: dict[str, Any] | None, *, signed: bool = False) -> str:
    if metric is None:
        return ""
    form = "+.4f" if signed else ".4f"
    text = format(metric["value"], form)
    if metric.get("low") is None or metric.get("high") is None:
        return text
    return f"{text} ({format(metric['low'], form)} to {format(metric['high'], form)})"


def _gates(gates: list[dict[str, Any]]) -> RenderableType:
    if not gates:
        return Text("the spec has no gates", style="dim")
    table = Table.grid(padding=(0, 2, 0, 0))
    for gate in gates:
        mark = Text("✓", style="green") if gate["passed"] else Text("✗", style="red")
        table.add_row(mark, Text(gate["gate"]), Text(f"{gate['expected']}: {gate['actual']}"))
    return table


def _training(training: dict[str, Any]) -> Table:
    rows, upload = training["dataset_rows"], training["upload"]
    asked = training["requested_by"] or "an upload (S3 does not say whose)"
    if training["reason"]:
        asked += f": {training['reason']}"
    params = ", ".join(f"{k}={v}" for k, v in sorted(training["params"].items()))
    own = training["champion_dataset_version"] == training["dataset_version"]
    counted = (
        f"{rows['accepted']:,} rows, {rows['quarantined']:,} quarantined"
        if rows
        else "where it comes from"
    )
    code, other = training["code_version"], training["champion_code_version"]
    return _facts(
        [
            ("asked for by", asked),
            (
                "upload",
                f"{upload['key']} (version {upload['version_id']})"
                if upload["version_id"]
                else "none here: imported",
            ),
            (
                "dataset",
                f"{training['dataset_version']}, {counted}"
                + ("; the champion's own" if own else ""),
            ),
            (
                "spec",
                f"version {training['spec_version']}, applied by {training['spec_applied_by']}",
            ),
            (
                "algorithm",
                f"{training['algorithm']}: {params}" if params else training["algorithm"],
            ),
            ("code", f"{code} (the champion's: {other})" if other not in (None, code) else code),
            ("run", training["run_id"]),
            ("artifact", f"sha256 {training['sha256']}"),
        ]
    )


def _changes(changes: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("key", "before", "now"):
        table.add_column(name, overflow="fold")
    for change in changes:
        before, after = change["before"], change["after"]
        table.add_row(
            Text(change["field"]),
            Text("–" if before is None else before),
            Text("–" if after is None else after),
        )
    return table


def _request(evidence: dict[str, Any]) -> Table:
    request = evidence["request"]
    rows: list[tuple[str, str | Text]] = [
        ("asked", _moment(request["requested_at"])),
        ("expires", _moment(request["expires_at"])),
        ("status", request["status"]),
    ]
    if request["decided_by"]:
        when = _moment(request["decided_at"])
        rows.append(("decided", f"by {request['decided_by']}, {when}: {request['reason']}"))
    if request["four_eyes"]:
        barred = "; ".join(f"{p['who']} {p['what']}" for p in request["taking_part"])
        rows.append(("four eyes", f"not by {barred}"))
    if request["approvers"]:
        rows.append(("approvers", ", ".join(request["approvers"])))
    if evidence["why_not"]:
        rows.append(("you", Text(evidence["why_not"], style="yellow")))
    return _facts(rows)


def _moment(text: str) -> str:
    return f"{text[:10]} {text[11:16]} UTC"
