"""What a person sees of the record: comparisons, histories, lineages and predictions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from millrace_cli.render import approval_words, facts_grid, gates_table, listing, when

_SHOWN = 20
"""Changes of a part that are told one by one; --json has them all."""


# ── Comparisons ─────────────────────────────────────────────────────────────────────────────────


def comparison(found: dict[str, Any]) -> RenderableType:
    """Two versions side by side."""
    model, before, after = found["model"], found["before"], found["after"]
    names = (f"{model}@{before['version']}", f"{model}@{after['version']}")
    parts: list[RenderableType] = [_sides(before, after, names)]
    parts += [_title("params"), _changes(found["params"], names)]
    parts += [_title("metrics"), Text(found["measured"], style="dim")]
    if found["metrics"]:
        parts.append(_metrics(found["metrics"], names))
    if found["gates"]:
        parts += [_title("gates"), _gates(found["gates"], names)]
    parts += [_title("spec"), _changes(found["spec"], names)]
    parts += [_title("data"), *_data(found["dataset"], names)]
    parts += [_title("environment"), _changes(found["environment"], names)]
    if found["missing"]:
        parts.append(_title("not compared"))
        parts += [Text(f"  {m}", style="yellow") for m in found["missing"]]
    return Group(*parts)


def _title(name: str) -> Text:
    return Text(f"\n{name}", style="bold")


def _sides(before: Mapping[str, Any], after: Mapping[str, Any], names: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(name, overflow="fold")
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "status": lambda s: ", ".join(f"@{a}" for a in s["aliases"]) or s["status"],
        "algorithm": lambda s: s["algorithm"],
        "cross-validated": lambda s: f"{s['cv_metric']} {s['cv_score']:.4f}",
        "verdict": lambda s: s["verdict"],
        "data": lambda s: s["dataset_version"][:16],
        "spec": lambda s: str(s["spec_version"]),
        "code": lambda s: s["code_version"],
        "seed": lambda s: str(s["seed"]),
        "sha256": lambda s: s["sha256"][:16],
        "size": lambda s: f"{s['size_bytes']:,} bytes",
        "registered": lambda s: when(s["created_at"]),
        "run": lambda s: s["run_id"],
    }
    for label, shown in rows.items():
        one, two = shown(before), shown(after)
        style = "" if one == two else "bold"
        table.add_row(Text(label, style="dim"), Text(one), Text(two, style=style))
    return table


def _changes(changes: dict[str, Any] | None, names: Sequence[str]) -> RenderableType:
    if changes is None:
        return Text("  cannot be compared, see below", style="yellow")
    if changes["same"]:
        return Text("  the same", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(name, overflow="fold")
    items = changes["items"]
    for c in items[:_SHOWN]:
        table.add_row(
            Text(c["path"]),
            Text("–" if c["kind"] == "added" else _value(c["before"])),
            Text("–" if c["kind"] == "removed" else _value(c["after"])),
        )
    more = len(items) - _SHOWN + changes["left_out"]
    if more > 0:
        return Group(table, Text(f"  … and {more:,} more (--json has them)", style="dim"))
    return table


def _value(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case list():
            return ", ".join(_value(v) for v in value) or "none"
        case dict():
            return ", ".join(f"{k}={_value(v)}" for k, v in value.items()) or "none"
        case _:
            return str(value)


def _metrics(metrics: Iterable[dict[str, Any]], names: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in (*names, "difference"):
        table.add_column(name)
    for m in metrics:
        table.add_row(
            m["metric"],
            _measured(m["before"]),
            _measured(m["after"]),
            _difference(m["difference"]),
        )
    return table


def _measured(metric: dict[str, Any] | None) -> Text:
    if metric is None:
        return Text("–", style="dim")
    return Text.assemble(f"{metric['value']:.4f}", (_interval(metric, ""), "dim"))


def _difference(metric: dict[str, Any] | None) -> Text:
    if metric is None:
        return Text("–", style="dim")
    low, high = metric["low"], metric["high"]
    style = ""
    if low is not None and high is not None:
        style = "green" if low > 0 else "red" if high < 0 else ""
    return Text.assemble((f"{metric['value']:+.4f}", style), (_interval(metric, "+"), "dim"))


def _interval(metric: dict[str, Any], sign: str) -> str:
    low, high = metric["low"], metric["high"]
    return "" if low is None or high is None else f" [{low:{sign}.4f}, {high:{sign}.4f}]"


def _gates(gates: Iterable[dict[str, Any]], names: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", *names):
        table.add_column(name)
    for g in gates:
        table.add_row(
            g["gate"],
            _gate(g["before"], g["before_actual"]),
            _gate(g["after"], g["after_actual"]),
        )
    return table


def _gate(verdict: str, actual: str) -> Text:
    words = {"passed": ("pass", "green"), "failed": ("FAIL", "bold red")}
    return Text.assemble(words.get(verdict, ("not asked", "dim")), (f"  {actual}", "dim"))


def _data(found: dict[str, Any], names: Sequence[str]) -> list[RenderableType]:
    if found["same"]:
        return [Text("  the same dataset version", style="dim")]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in names:
        table.add_column(name, overflow="fold")
    sides = (found["before"], found["after"])

    def row(label: str, shown: Any) -> None:
        table.add_row(label, *(Text("not recorded" if s is None else shown(s)) for s in sides))

    row("version", lambda s: s["dataset_version"][:16])
    row("rows", lambda s: f"{s['rows']['accepted']:,} of {s['rows']['read']:,} read")
    row("split", lambda s: ", ".join(f"{k} {v:,}" for k, v in s["split_rows"].items()))
    row("upload", lambda s: s["source"]["key"])
    row("recorded", lambda s: when(s["created_at"]))
    return [table, _changes(found["columns"], names)]


# ── History ─────────────────────────────────────────────────────────────────────────────────────


def history_table(periods: list[dict[str, Any]]) -> RenderableType:
    """What answered when, newest first."""
    rows = [
        (
            when(p["from"]),
            when(p["to"]) or "now",
            f"@{p['version']}",
            rollout_words(p["rollout"]),
            str((p["decision"] or {}).get("action", "")).replace("_", " "),
            (p["decision"] or {}).get("actor", ""),
        )
        for p in periods
    ]
    notes = [(p["decision"] or {}).get("reason", "") for p in periods]
    return listing(("from (UTC)", "to", "champion", "rollout", "change", "by"), rows, notes)


def rollout_words(rollout: dict[str, Any] | None) -> str:
    """The share of the traffic that a rollout had."""
    if rollout is None:
        return ""
    kind = "shadows" if rollout["strategy"] == "shadow" else "takes"
    return f"@{rollout['version']} {kind} {rollout['weight']:g} %"


def live_panel(period: dict[str, Any], at: str) -> RenderableType:
    """What was live at a moment."""
    decision = period["decision"] or {}
    grid = facts_grid(
        {
            "champion": f"{period['model']}@{period['version']}",
            "sha256": period["sha256"],
            "run": period["run_id"],
            "rollout": _rollout_line(period["rollout"]),
            "from": f"{when(period['from'])} UTC",
            "to": f"{when(period['to'])} UTC" if period["to"] else "now",
            "change": _decision_line(decision),
            "reason": decision.get("reason", ""),
            "approval": approval_words(period["approval"]),
        }
    )
    return Panel(grid, title=f"[bold]live at {when(at)} UTC", title_align="left")


def _rollout_line(rollout: dict[str, Any] | None) -> str:
    if rollout is None:
        return ""
    return (
        f"{rollout_words(rollout)} ({rollout['strategy']}, step {rollout['step']} of "
        f"{rollout['rollout_id']})"
    )


def _decision_line(decision: Mapping[str, Any]) -> str:
    if not decision:
        return "its entry is not in the ledger"
    action = str(decision["action"]).replace("_", " ")
    return f"{action} by {decision['actor']}, ledger entry {decision['sequence']}"


# ── Lineage ─────────────────────────────────────────────────────────────────────────────────────

_KINDS = {
    "upload": "upload",
    "dataset": "dataset version",
    "spec": "spec",
    "run": "run",
    "compared": "the champion then,",
    "rollout": "rollout",
    "reign": "champion",
    "requests": "predictions",
}


def lineage_tree(found: dict[str, Any]) -> RenderableType:
    """Where a version came from and where it went, as a tree from the version on."""
    nodes = {n["id"]: n for n in found["nodes"]}
    version = next(n for n in found["nodes"] if n["kind"] == "version")
    tree = Tree(Text.assemble((version["name"], "bold"), "  ", _facts_of(version)))
    before = tree.add(Text("came from", style="dim"))
    _grow(before, version["id"], nodes, found["edges"], "target", "source")
    after = tree.add(Text("went to", style="dim"))
    _grow(after, version["id"], nodes, found["edges"], "source", "target")
    if not after.children:
        after.add(Text("no traffic so far", style="dim"))
    parts: list[RenderableType] = [tree]
    if found["traffic_seen_until"]:
        parts.append(
            Text(
                f"changes of traffic after {when(found['traffic_seen_until'])} UTC are not in it: "
                "see `millrace history`",
                style="dim",
            )
        )
    return Group(*parts)


def _grow(
    branch: Tree,
    of: str,
    nodes: Mapping[str, dict[str, Any]],
    edges: Sequence[dict[str, Any]],
    here: str,
    there: str,
) -> None:
    for edge in edges:
        if edge[here] != of:
            continue
        node = nodes[edge[there]]
        name = "" if node["kind"] in ("reign", "requests") else f" {node['name']}"
        words = Text.assemble((_KINDS[node["kind"]], ""), (name, "bold"), "  ", _facts_of(node))
        _grow(branch.add(words), node["id"], nodes, edges, here, there)


def _facts_of(node: dict[str, Any]) -> Text:
    facts = node["facts"]
    words: list[str]
    match node["kind"]:
        case "upload":
            words = [facts["key"], f"{facts.get('bytes', 0):,} bytes", f"at {when(node['at'])}"]
        case "dataset":
            words = [
                f"{facts['rows']:,} rows, {facts['quarantined']:,} quarantined"
                if "rows" in facts
                else "not recorded",
            ]
        case "spec":
            words = [f"digest {facts['digest'][:12]}", f"applied by {facts.get('applied_by', '')}"]
        case "run":
            words = [facts.get("cause", ""), facts.get("outcome", ""), when(node["at"])]
        case "version":
            words = [
                facts["status"],
                facts["algorithm"],
                facts.get("gates", ""),
                f"sha256 {facts['sha256'][:16]}",
            ]
        case "rollout":
            weights = " → ".join(f"{w:g}" for w in facts["weights"])
            words = [
                facts["strategy"] + (f" {weights} %" if weights else ", no traffic"),
                facts["status"],
                f"from {when(node['at'])}",
                facts.get("why", ""),
            ]
        case "reign":
            until = when(str(facts.get("until", ""))) or "now"
            words = [f"{when(node['at'])} to {until}", _approved(facts.get("approval"))]
        case "requests":
            words = [f"captured below {facts['captured']}"]
        case _:
            words = []
    return Text(", ".join(w for w in words if w), style="dim")


def _approved(approval: dict[str, Any] | None) -> str:
    return f"approved {approval_words(approval)}" if approval else ""


# ── Predictions ─────────────────────────────────────────────────────────────────────────────────


def prediction_panel(found: dict[str, Any]) -> RenderableType:
    """Which model answered, who put it there, and on what evidence."""
    decision = found["decision"] or {}
    grid = facts_grid(
        {
            "predicted": f"{when(found['predicted_at'])} UTC",
            "answered by": f"{found['model']}@{found['version']}, {found['role']}",
            "sha256": found["sha256"],
            "artifact": found["model_key"],
            "run": found["run_id"],
            "dataset version": found["dataset_version"],
            "rollout": _rollout_line(found["rollout"]),
            "change": _decision_line(decision) if found["role"] != "pinned" else "",
            "reason": decision.get("reason", ""),
            "approval": approval_words(found["approval"]),
            "verdict": f"{found['verdict']}: {found['verdict_reason']}" if found["verdict"] else "",
            "captured": found["captured"],
            "note": found["note"],
        }
    )
    parts: list[RenderableType] = [grid]
    if found["gates"]:
        parts.append(Padding(gates_table(found["gates"]), (1, 0, 0, 0)))
    return Panel(Group(*parts), title=f"[bold]{found['prediction_id']}", title_align="left")
