"""What a person sees: runs, models and versions as tables and sentences."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from millrace_cli.follow import Happening

_NAME_WIDTH = len("hist_gradient_boosting")

OUTCOME_WORDS = {
    "promoted": ("promoted to champion", "green"),
    "rolling_out": ("takes the traffic step by step: millrace rollout MODEL --follow", "cyan"),
    "rolled_back": ("its rollout found it worse than the champion and took it back", "red"),
    "not_promoted": ("its rollout ended before it became champion", "yellow"),
    "awaiting_approval": ("passed its gates and waits for approval", "yellow"),
    "rejected": ("a person turned it down: the champion stands", "yellow"),
    "expired": ("nobody approved it in time: the champion stands", "yellow"),
    "gates_failed": ("did not pass its gates: the champion stands", "yellow"),
    "refused": ("the upload was refused", "red"),
    "unchanged": ("nothing new to train on", "yellow"),
    "stored": ("stored as a dataset version; the spec does not train on upload", "yellow"),
    "failed": ("the pipeline failed", "red"),
}


def facts_grid(facts: Mapping[str, str | Text]) -> Table:
    """Facts below each other; those that are empty are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in facts.items():
        if value:
            grid.add_row(label, value if isinstance(value, Text) else Text(value, overflow="fold"))
    return grid


def happening_line(happening: Happening) -> RenderableType:
    """One line of a followed run; long words wrap below themselves."""
    if happening.kind == "started":
        return Text(f"▶ {happening.words}", style="bold")
    indent = 4 if happening.kind == "trial" else 2
    mark = Text("✓" if happening.ok else "✗", style="green" if happening.ok else "red")
    seconds = f"{happening.seconds:.1f} s" if happening.seconds is not None else ""
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(width=indent + 1, justify="right")
    line.add_column(width=7, justify="right", style="dim")
    line.add_column(width=_NAME_WIDTH + 4 - indent, style="bold", no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(mark, seconds, Text(happening.name), Text(happening.words))
    return line


class Now:
    """What a followed run is doing and since when, drawn anew with every turn of the spinner."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._since = time.monotonic()

    def __rich__(self) -> Text:
        return Text.assemble(
            self._words, (f"  {time.monotonic() - self._since:.0f} s", "dim"), overflow="ellipsis"
        )


def run_summary(run: dict[str, Any], version: dict[str, Any] | None = None) -> RenderableType:
    """The outcome of a run in terms a person cares about."""
    parts: list[RenderableType] = []
    facts = facts_grid({})
    words, style = OUTCOME_WORDS.get(_outcome(run), (_outcome(run), "cyan"))
    facts.add_row("outcome", Text(words, style=f"bold {style}"))
    if run.get("reason"):
        facts.add_row("reason", str(run["reason"]))
    if run.get("error") and run.get("outcome") == "refused":
        facts.add_row("rule", Text(str(run["error"])))
    elif run.get("error"):
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
        trials = len(run.get("trials", ()))
        facts.add_row(
            "winner",
            f"{version['algorithm']}, the best of {trials} trials by cross-validation: "
            f"{version['cv_metric']} {version['cv_score']:.4f}"
            if trials
            else str(version["algorithm"]),
        )
        aliases = version.get("aliases", ())
        stands = ", ".join(f"@{a}" for a in aliases) or version["status"]
        facts.add_row(
            "model version",
            f"{version['model']}@{version['version']}, {stands}; "
            f"{version['size_bytes'] / 1024:,.0f} KiB of ONNX",
        )
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
    params = ", ".join(f"{k}={v}" for k, v in sorted(version["params"].items()))
    parity = version["parity"]
    facts = facts_grid(
        {
            "status": version["status"],
            "reason": version.get("reason") or "",
            "traffic": traffic_words(version.get("traffic")),
            "approval": approval_words(version.get("approval")),
            "rollouts": "; ".join(rollout_brief(r) for r in version.get("rollouts") or ()),
            "algorithm": f"{version['algorithm']}  {params}",
            "run": version["run_id"],
            "dataset version": version["dataset_version"],
            "spec version": str(version["spec_version"]),
            "code version": version["code_version"],
            "seed": str(version["seed"]),
            "artifact": f"{version['model_key']}  {version['size_bytes']:,} bytes",
            "sha256": version["sha256"],
            "signed by": version.get("signed_by") or "",
            "imported": imported_words(version.get("provenance")),
            "parity": f"largest difference {parity['max_difference']:.1e} of "
            f"{parity['tolerance']:.0e} allowed, on {parity['rows']:,} held-out and "
            f"{parity['hostile_rows']:,} hostile rows",
            "created": when(version["created_at"]),
            "features": features_words(version.get("signature")),
        }
    )
    parts: list[RenderableType] = [facts]
    if version.get("metrics"):
        parts.append(metrics_table(version["metrics"]))
    if version.get("gates"):
        parts.append(gates_table(version["gates"]))
    alias = "".join(f" @{a}" for a in version.get("aliases", ()))
    title = f"[bold]{version['model']}@{version['version']}{alias}"
    return Panel(Group(*parts), title=title, title_align="left")


def traffic_words(traffic: dict[str, Any] | None) -> str:
    """A version's share of the requests."""
    if traffic is None:
        return ""
    verb = "sees" if traffic["shadow"] else "answers"
    return f"{verb} {traffic['percent']:g} % as {traffic['role']}"


def rollout_brief(rollout: dict[str, Any]) -> str:
    """A rollout in a few words."""
    weights = " → ".join(f"{w:g}" for w in rollout["weights"])
    steps = f" {weights} %" if weights else ""
    return f"{rollout['rollout_id']} {rollout['strategy']}{steps}, {rollout['status']}"


def imported_words(provenance: dict[str, Any] | None) -> str:
    """Where a version was imported from."""
    if provenance is None:
        return ""
    return (
        f"as version {provenance['version']} of {provenance['environment']}, by "
        f"{provenance['imported_by']} at {when(provenance['imported_at'])} UTC"
    )


def approval_words(approval: dict[str, Any] | None) -> str:
    """Who approved, when and why."""
    if not approval:
        return ""
    by, at = str(approval.get("by") or ""), when(str(approval.get("at") or ""))
    reason = str(approval.get("reason") or "")
    words = f"by {by}" if by else "given"
    return f"{words}{f' at {at} UTC' if at else ''}{f': {reason}' if reason else ''}"


def features_words(signature: dict[str, Any] | None) -> str:
    """What a row of a prediction request holds."""
    return ", ".join(
        f"{f['name']} {f['type']}{' or null' if f['nullable'] else ''}"
        for f in (signature or {}).get("features", ())
    )


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


def listing(
    headings: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> RenderableType:
    """Aligned columns, with each row's longer words below it: readable at 80 columns."""
    if not rows:
        return Text("none yet", style="dim")
    widths = [max(cell_len(line[i]) for line in (headings, *rows)) for i in range(len(headings))]

    def line(cells: Sequence[str], style: str = "") -> Text:
        padded = (c + " " * (w - cell_len(c)) for c, w in zip(cells, widths, strict=True))
        return Text("  ".join(padded).rstrip(), style=style)

    parts: list[RenderableType] = [line(headings, "bold")]
    for cells, note in zip(rows, notes, strict=True):
        parts.append(line(cells))
        if note:
            parts.append(Padding(Text(note, style="dim"), (0, 0, 0, 4)))
    return Group(*parts)


def models_table(models: list[dict[str, Any]]) -> RenderableType:
    """All registered models."""
    return listing(
        ("model", "task", "champion", "latest", "spec", "updated"),
        [
            (
                m["name"],
                m["task"],
                f"@{m['champion_version']}" if m.get("champion_version") else "none",
                str(m.get("latest_version") or "none"),
                str(m["spec_version"]),
                when(m.get("updated_at")),
            )
            for m in models
        ],
        [m.get("description") or "" for m in models],
    )


def versions_table(versions: list[dict[str, Any]]) -> RenderableType:
    """Versions of one model, newest first, with the metric that chose them on the test split."""
    rows = []
    for v in versions:
        metric = v.get("metrics", {}).get(v["cv_metric"])
        rows.append(
            (
                str(v["version"]),
                ", ".join(f"@{a}" for a in v.get("aliases", ())) or str(v["status"]),
                str(v["algorithm"]),
                f"{v['cv_metric']} {metric['value']:.4f}" if metric else "",
                when(v.get("created_at"))[:16],
            )
        )
    notes = [
        "; ".join(filter(None, (f"data {v['dataset_version'][:12]}", v.get("reason"))))
        for v in versions
    ]
    return listing(("version", "status", "algorithm", "on the test split", "created"), rows, notes)


def _short(value: str) -> str:
    """A digest by its beginning; anything else as it is."""
    return (
        f"{value[:12]}…" if len(value) == 64 and not set(value) - set("0123456789abcdef") else value
    )


def audit_table(entries: list[dict[str, Any]]) -> RenderableType:
    """Changes of a model, newest first."""
    rows = [
        (
            when(e["at"]),
            str(e["action"]).replace("_", " "),
            str(e["subject"]),
            " → ".join(filter(None, (_short(e["before"]), _short(e["after"])))),
            str(e["actor"]),
        )
        for e in entries
    ]
    return listing(
        ("at", "what", "of", "from → to", "by"), rows, [str(e["reason"]) for e in entries]
    )


def _outcome(run: dict[str, Any]) -> str:
    """How a run ended, or what it is doing."""
    if run.get("outcome"):
        return str(run["outcome"])
    return "awaiting_approval" if run.get("awaiting_approval") else str(run["status"]).lower()


def runs_table(runs: list[dict[str, Any]]) -> RenderableType:
    """Runs of one model, newest first."""
    return listing(
        ("run", "cause", "outcome", "version", "started"),
        [
            (
                r["run_id"],
                r["cause"],
                _outcome(r),
                str(r.get("model_version") or ""),
                when(r.get("started_at"))[:16],
            )
            for r in runs
        ],
        [r.get("reason") or r.get("error") or "" for r in runs],
    )


def when(moment: str | None) -> str:
    """An ISO time to the second, in UTC."""
    return (moment or "")[:19].replace("T", " ")


def _label(label: object) -> str:
    """A label as JSON and the columns of probabilities write it."""
    return str(label).lower() if isinstance(label, bool) else str(label)


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
            table.add_row(str(i), Text(_label(p["label"]), style="bold"), *shown)
    else:
        table.add_column("row", justify="right")
        table.add_column("value", justify="right")
        for i, p in enumerate(predictions):
            table.add_row(str(i), f"{p['value']:.6g}")
    heading = f"{answer['model']}@{answer['version']}  prediction {answer['prediction_id']}"
    return Group(Text(heading, style="bold"), table)
