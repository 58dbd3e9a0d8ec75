"""What a person sees: runs, models and versions as tables and sentences."""

from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from millrace_cli.follow import Happening

OUTCOME_WORDS = {
    "promoted": ("promoted to champion", "green"),
    "awaiting_approval": ("passed its gates and waits for approval", "yellow"),
    "gates_failed": ("did not pass its gates: the champion stands", "yellow"),
    "refused": ("the upload was refused", "red"),
    "unchanged": ("nothing new to train on", "yellow"),
    "stored": ("stored as a dataset version; the spec does not train on upload", "yellow"),
    "failed": ("the pipeline failed", "red"),
}


def happening_line(happening: Happening) -> Text:
    """One line of a followed run."""
    if happening.kind == "started":
        return Text(f"▶ {happening.words}", style="bold")
    mark = Text("✓ " if happening.ok else "✗ ", style="green" if happening.ok else "red")
    indent = "    " if happening.kind == "trial" else "  "
    seconds = f"{happening.seconds:6.1f} s  " if happening.seconds is not None else " " * 10
    name = f"{happening.name:<22}" if happening.kind == "trial" else f"{happening.name:<26}"
    return Text.assemble(indent, mark, (seconds, "dim"), (name, "bold"), " ", happening.words)


def run_summary(run: dict[str, Any], version: dict[str, Any] | None = None) -> RenderableType:
    """The outcome of a run in terms a person cares about."""
    parts: list[RenderableType] = []
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    words, style = OUTCOME_WORDS.get(str(run.get("outcome")), (str(run.get("status")), "bold"))
    facts.add_row("outcome", Text(words, style=f"bold {style}"))
    if run.get("reason"):
        facts.add_row("reason", str(run["reason"]))
    if run.get("error"):
        facts.add_row("error", Text(str(run["error"]), style="red"))
    rows = run.get("rows")
    if rows:
        facts.add_row(
            "rows",
            f"{rows['accepted']:,} accepted, {rows['quarantined']:,} quarantined "
            f"of {rows['read']:,} read",
        )
    if run.get("dataset_version"):
        facts.add_row("dataset version", str(run["dataset_version"]))
    if version:
        alias = "".join(f" @{a}" for a in version.get("aliases", ()))
        facts.add_row(
            "model version",
            f"{version['model']}@{version['version']}{alias}  {version['algorithm']}, "
            f"{version['size_bytes'] / 1024:,.0f} KiB of ONNX, status {version['status']}",
        )
    if run.get("report_url"):
        facts.add_row("report", Text(str(run["report_url"]), overflow="fold"))
    parts.append(facts)
    if run.get("problems"):
        parts.append(problems_table(run["problems"]))
    if version and version.get("metrics"):
        parts.append(metrics_table(version["metrics"]))
    if version and version.get("gates"):
        parts.append(gates_table(version["gates"]))
    return Panel(Group(*parts), title=f"[bold]{run['run_id']}", title_align="left")


def problems_table(problems: list[dict[str, Any]]) -> Table:
    """What was wrong with the rows of an upload."""
    table = Table(title="what was wrong", title_justify="left", box=None, padding=(0, 2))
    for name, justify in (
        ("column", "left"),
        ("rule", "left"),
        ("rows", "right"),
        ("first row", "right"),
        ("example", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # rich wants a literal
    for p in problems:
        table.add_row(
            Text(str(p["column"])),
            Text(str(p["rule"])),
            f"{p['count']:,}",
            f"{p['first_row']:,}",
            Text(str(p.get("example", ""))),
        )
    return table


def version_panel(version: dict[str, Any]) -> RenderableType:
    """One model version: what it is, how good it is, and where it comes from."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    params = ", ".join(f"{k}={v}" for k, v in sorted(version["params"].items()))
    parity = version["parity"]
    for label, value in (
        ("status", version["status"]),
        ("reason", version.get("reason") or ""),
        ("algorithm", f"{version['algorithm']}  {params}"),
        ("run", version["run_id"]),
        ("dataset version", version["dataset_version"]),
        ("spec version", str(version["spec_version"])),
        ("code version", version["code_version"]),
        ("seed", str(version["seed"])),
        ("artifact", f"{version['model_key']}  {version['size_bytes']:,} bytes"),
        ("sha256", version["sha256"]),
        (
            "parity",
            f"largest difference {parity['max_difference']:.1e} of {parity['tolerance']:.0e} "
            f"allowed, on {parity['rows']:,} held-out and {parity['hostile_rows']:,} hostile rows",
        ),
        ("created", when(version["created_at"])),
        ("report", version.get("report_url") or ""),
    ):
        if value:
            facts.add_row(label, Text(str(value), overflow="fold"))
    parts: list[RenderableType] = [facts]
    if version.get("metrics"):
        parts.append(metrics_table(version["metrics"]))
    if version.get("gates"):
        parts.append(gates_table(version["gates"]))
    alias = "".join(f" @{a}" for a in version.get("aliases", ()))
    title = f"[bold]{version['model']}@{version['version']}{alias}"
    return Panel(Group(*parts), title=title, title_align="left")


def metrics_table(metrics: dict[str, dict[str, float | None]]) -> Table:
    """Held-out metrics with their intervals."""
    table = Table(title="held-out test metrics", title_justify="left", box=None, padding=(0, 2))
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("interval")
    for name, m in metrics.items():
        interval = (
            f"[{m['low']:.4f}, {m['high']:.4f}]"
            if m.get("low") is not None and m.get("high") is not None
            else ""
        )
        table.add_row(name, f"{m['value']:.4f}", Text(interval))
    return table


def gates_table(gates: list[dict[str, Any]]) -> Table:
    """The gates with pass or fail."""
    table = Table(title="gates", title_justify="left", box=None, padding=(0, 2))
    for name in ("", "gate", "expected", "came"):
        table.add_column(name)
    for gate in gates:
        mark = Text("pass", style="green") if gate["passed"] else Text("FAIL", style="bold red")
        table.add_row(mark, gate["gate"], Text(gate["expected"]), Text(gate["actual"]))
    return table


def models_table(models: list[dict[str, Any]]) -> Table:
    """All registered models."""
    table = Table(box=None, padding=(0, 2))
    for name in ("model", "task", "champion", "latest", "spec", "updated", "description"):
        table.add_column(name)
    for m in models:
        champion = m.get("champion_version")
        table.add_row(
            Text(m["name"], style="bold"),
            m["task"],
            f"@{champion}" if champion else "none",
            str(m.get("latest_version") or "none"),
            str(m["spec_version"]),
            when(m.get("updated_at")),
            Text(m.get("description") or ""),
        )
    return table


def versions_table(versions: list[dict[str, Any]]) -> Table:
    """Versions of one model, newest first."""
    table = Table(box=None, padding=(0, 2))
    for name in ("version", "status", "algorithm", "metric", "dataset", "created", "reason"):
        table.add_column(name)
    for v in versions:
        alias = "".join(f" @{a}" for a in v.get("aliases", ()))
        metric = v.get("metrics", {}).get(v["cv_metric"])
        shown = f"{v['cv_metric']} {metric['value']:.4f}" if metric else ""
        table.add_row(
            f"{v['version']}{alias}",
            v["status"],
            v["algorithm"],
            shown,
            v["dataset_version"][:12],
            when(v.get("created_at")),
            Text(v.get("reason") or ""),
        )
    return table


def runs_table(runs: list[dict[str, Any]]) -> Table:
    """Runs of one model, newest first."""
    table = Table(box=None, padding=(0, 2))
    for name in ("run", "cause", "status", "outcome", "version", "started", "reason"):
        table.add_column(name)
    for r in runs:
        table.add_row(
            r["run_id"],
            r["cause"],
            r["status"],
            r.get("outcome") or "",
            str(r.get("model_version") or ""),
            when(r.get("started_at")),
            Text(r.get("reason") or r.get("error") or ""),
        )
    return table


def when(moment: str | None) -> str:
    """An ISO time to the second, in UTC."""
    return (moment or "")[:19].replace("T", " ")


def prediction_table(answer: dict[str, Any]) -> RenderableType:
    """The answer to a prediction."""
    table = Table(box=None, padding=(0, 2))
    predictions = answer["predictions"]
    if predictions and "label" in predictions[0]:
        classes = list(predictions[0].get("probabilities", {}))[:8]
        table.add_column("row", justify="right")
        table.add_column("label")
        for c in classes:
            table.add_column(f"p({c})", justify="right")
        for i, p in enumerate(predictions):
            shown = [f"{p['probabilities'][c]:.4f}" for c in classes]
            table.add_row(str(i), Text(str(p["label"]), style="bold"), *shown)
    else:
        table.add_column("row", justify="right")
        table.add_column("value", justify="right")
        for i, p in enumerate(predictions):
            table.add_row(str(i), f"{p['value']:.6g}")
    heading = f"{answer['model']}@{answer['version']}  prediction {answer['prediction_id']}"
    return Group(Text(heading, style="bold"), table)
