"""What happened in a run of `make demo-drift`: kept as JSON, told in the terminal.

Everything in it was read from the deployment: windows from the monitor's reports, what was done from
the models' ledgers. Beside that stands what the demo knows better than the deployment: which rows it
sent, and the real ROC AUC of the answers it got.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

LOANS: Final = "car-loan"
CENSUS: Final = "census"
FALLEN: Final = "performance"
GUESSED: Final = "estimated_performance"
_INPUTS: Final = ("feature_drift", "missing", "unseen", "range")
_CHANCE: Final = 0.01
"""The policy's default, of p-values that are corrected for all that was tested."""
_EXACT: Final = 1e-6
"""Of windows whose labels all came in time."""
_AT_ONCE: Final = timedelta(seconds=20)
_SHOWN: Final = 3
_MARKS: Final = {
    "ok": ("✓ ok", "green"),
    "watch": ("△ watch", "yellow"),
    "alarm": ("✗ alarm", "red"),
    "unknown": ("… unknown", "dim"),
}
TOLD: Final = {
    "alarm_opened": ("alarm", "red"),
    "alarm_closed": ("alarm closed", "green"),
    "alarm_retraining": ("retraining", "cyan"),
    "run_created": ("training", "cyan"),
    "version_registered": ("version", "cyan"),
    "version_validated": ("gates passed", "green"),
    "version_rejected": ("gates failed", "red"),
    "rollout_started": ("canary", "cyan"),
    "rollout_step": ("canary", "cyan"),
    "rollout_rolled_back": ("rolled back", "red"),
    "promoted": ("promoted", "green"),
}
"""What the ledger calls it, and what the timeline does; other entries are left out."""


@dataclass(frozen=True, slots=True)
class Window:
    """What the monitor said of a chunk.

    Attributes:
        version: The version that it judged.
        rows: Its rows.
        labelled: Of those, with a label.
        measured: ROC AUC by labels, with its interval.
        estimated: Without labels.
        threshold: What the AUC falls below when it counts.
        state: ok, watch, alarm or unknown.
        drifted: Inputs that differ from training beyond chance, be it by less than counts.
        alarms: Findings that alarm, as kind and subject.
    """

    version: int
    rows: int
    labelled: int
    measured: tuple[float, float, float] | None
    estimated: tuple[float, float, float] | None
    threshold: float | None
    state: str
    drifted: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()

    @classmethod
    def of_report(cls, report: Mapping[str, Any]) -> Self:
        """What a report says of its own window."""
        series = next((s for s in report["performance"] if s["metric"] == "roc_auc"), None)
        points = [p for p in series["points"] if p["since"] == report["since"]] if series else []
        point = points[-1] if points else None
        findings = report["findings"]
        return cls(
            version=report["version"],
            rows=report["traffic"]["rows"],
            labelled=point["labelled"] if point else 0,
            measured=_interval(point and point["realised"]),
            estimated=_interval(point and point["estimated"]),
            threshold=series["threshold_low"] if series else None,
            state=report["state"],
            drifted=tuple(sorted({f["subject"] for f in findings if _moved(f)})),
            alarms=tuple(
                f"{f['kind']} {f['subject']}" for f in findings if f["verdict"] == "alarm"
            ),
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that were sent within one hour of monitoring.

    Attributes:
        model: Whose.
        number: Its place in the stream, from 0.
        since: When that hour began.
        rows: Rows sent.
        requests: In so many requests.
        answered: Rows by the version that answered.
        real: ROC AUC of the answers, by version, computed by the demo itself.
        window: What the monitor said.
    """

    model: str
    number: int
    since: datetime
    rows: int
    requests: int
    answered: Mapping[int, int]
    real: Mapping[int, float]
    window: Window


@dataclass(frozen=True, slots=True)
class Happening:
    """An entry of a model's ledger.

    Attributes:
        at: When.
        model: Whose ledger.
        action: What, in the ledger's words.
        subject: Of what.
        actor: By whom.
        text: More about it.
    """

    at: datetime
    model: str
    action: str
    subject: str
    actor: str
    text: str


@dataclass(slots=True)
class Record:
    """A run of the demo.

    Attributes:
        chunks: In the order they were sent.
        happenings: The oldest first.
        trainings: Runs by model: id, cause, outcome, version, rows.
        alarms: Alarms by model: kind, subject, when they opened and closed, and their retraining.
        phases: Seconds of each.
    """

    chunks: list[Chunk] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    trainings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    alarms: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)

    def of(self, model: str) -> list[Chunk]:
        """A model's chunks."""
        return [chunk for chunk in self.chunks if chunk.model == model]

    def to_json(self) -> str:
        """As a document for machines, with what the loop came to."""
        document = asdict(self) | {"broken": broken(self)}
        return json.dumps(document, indent=1, default=lambda at: at.isoformat())

    @classmethod
    def read(cls, path: Path) -> Self:
        """A run that was kept."""
        kept = json.loads(path.read_text("utf-8"))
        return cls(
            [_chunk(one) for one in kept["chunks"]],
            [
                Happening(**one | {"at": datetime.fromisoformat(one["at"])})
                for one in kept["happenings"]
            ],
            kept["trainings"],
            kept["alarms"],
            kept["phases"],
        )


def _chunk(kept: dict[str, Any]) -> Chunk:
    window = kept["window"]
    for name in ("measured", "estimated", "drifted", "alarms"):
        window[name] = None if window[name] is None else tuple(window[name])
    return Chunk(
        **kept
        | {
            "since": datetime.fromisoformat(kept["since"]),
            "answered": {int(version): rows for version, rows in kept["answered"].items()},
            "real": {int(version): auc for version, auc in kept["real"].items()},
            "window": Window(**window),
        }
    )


def _moved(finding: Mapping[str, Any]) -> bool:
    """Whether an input differs from training by more than chance, however little that is."""
    p_value = finding["adjusted_p"]
    return (
        finding["kind"] in _INPUTS
        and finding["against"] == "training"
        and p_value is not None
        and p_value <= _CHANCE
    )


def _interval(told: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    if told is None:
        return None
    value = told["value"]
    low, high = told["low"], told["high"]
    return value, value if low is None else low, value if high is None else high


def happenings_of(model: str, entries: Iterable[Mapping[str, Any]]) -> list[Happening]:
    """What of a ledger the timeline shows, the oldest first."""
    found = []
    for entry in sorted(entries, key=lambda one: int(one["sequence"])):
        if entry["action"] not in TOLD:
            continue
        found.append(
            Happening(
                datetime.fromisoformat(entry["at"]),
                model,
                entry["action"],
                entry["subject"],
                entry["actor"],
                entry["reason"],
            )
        )
    return found


# ── Whether the loop closed ─────────────────────────────────────────────────────────────────────


def broken(record: Record) -> list[str]:
    """What of the loop did not happen, in words; nothing when it closed."""
    faults = []
    fallen = [a for a in record.alarms.get(LOANS, ()) if a["kind"] == FALLEN]
    if not fallen:
        faults.append(f"expected an alarm on the performance of {LOANS}, and none opened")
    faults += [
        f"expected alarm {alarm['id']} ({alarm['subject']}) to close by itself: it is {alarm['state']}"
        for alarm in fallen
        if alarm["state"] != "closed"
    ]
    drift = [run for run in record.trainings.get(LOANS, ()) if run["cause"] == "drift"]
    if len(drift) != 1:
        faults.append(
            f"expected one training of {LOANS} because of drift, and there are {len(drift)}"
        )
    faults += [
        f"expected run {run['run_id']} to be promoted: it is {run['outcome']}"
        for run in drift
        if run["outcome"] != "promoted"
    ]
    first = next((c.number for c in record.of(LOANS) if c.window.state == "alarm"), None)
    half = (1 + max((c.number for c in record.of(LOANS)), default=0)) // 2
    if first is not None and first < half:
        faults.append(f"expected no alarm before chunk {half}, and chunk {first} alarms")
    for chunk in record.chunks:
        auc, real = chunk.window.measured, chunk.real.get(chunk.window.version)
        if auc is None or real is None:
            faults.append(
                f"expected a measured AUC of {chunk.model}, chunk {chunk.number}: none came"
            )
        elif chunk.window.labelled == chunk.answered.get(chunk.window.version) and (
            abs(auc[0] - real) > _EXACT
        ):
            faults.append(
                f"expected the monitor to measure an AUC of {real:.6f} for {chunk.model}, chunk "
                f"{chunk.number}, and it says {auc[0]:.6f}"
            )
    if record.of(CENSUS):
        if not any(chunk.window.drifted for chunk in record.of(CENSUS)):
            faults.append(f"expected inputs of {CENSUS} to drift, and none did")
        others = [run for run in record.trainings.get(CENSUS, ()) if run["cause"] != "upload"]
        if others:
            faults.append(f"expected no retraining of {CENSUS}, and there are {len(others)}")
    return faults


# ── In the terminal ─────────────────────────────────────────────────────────────────────────────


def chunk_line(chunk: Chunk) -> Text:
    """A chunk in one line, as soon as it is judged."""
    window = chunk.window
    mark, style = _MARKS[window.state]
    line = Text.assemble(
        f"  {chunk.since:%H:%M}  ",
        (f"{chunk.model:<9}", "bold"),
        f"chunk {chunk.number:<2} {window.labelled:>6,} labelled rows of version {window.version}  ",
        f"AUC {_auc(window.measured)}  estimated {_auc(window.estimated, short=True)}  ",
        (f"{mark:<8}", style),
    )
    if window.alarms:
        line.append(f"  {len(window.alarms)} findings: {_subjects(window.alarms)}", style)
    elif window.drifted:
        line.append(f"  inputs moved: {len(window.drifted)}", "dim")
    return line


def _subjects(alarms: Iterable[str]) -> str:
    """What alarms are about, each once."""
    return ", ".join(dict.fromkeys(alarm.partition(" ")[2] for alarm in alarms))


def _auc(told: tuple[float, float, float] | None, *, short: bool = False) -> str:
    if told is None:
        return "none"
    value, low, high = told
    return f"{value:.4f}" if short else f"{value:.4f} [{low:.4f}, {high:.4f}]"


def summary(record: Record) -> RenderableType:
    """The whole run: chunks, what happened when, and the versions."""
    return Group(
        _chunks_table(record.chunks),
        Text(""),
        _timeline(record),
    )


def _chunks_table(chunks: Sequence[Chunk]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("hour", "model", "chunk"):
        table.add_column(name, no_wrap=True)
    table.add_column("rows", justify="right")
    table.add_column("answered by")
    table.add_column("AUC measured", no_wrap=True)
    table.add_column("estimated")
    table.add_column("falls below")
    table.add_column("state", no_wrap=True)
    table.add_column("inputs moved", justify="right")
    for chunk in chunks:
        window = chunk.window
        mark, style = _MARKS[window.state]
        table.add_row(
            f"{chunk.since:%H:%M}",
            chunk.model,
            str(chunk.number),
            f"{chunk.rows:,}",
            ", ".join(f"@{version}: {rows:,}" for version, rows in sorted(chunk.answered.items())),
            _auc(window.measured),
            _auc(window.estimated, short=True),
            "" if window.threshold is None else f"{window.threshold:.4f}",
            Text(mark, style=style),
            str(len(window.drifted) or ""),
        )
    return table


def _timeline(record: Record) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for some in together(record.happenings):
        words, style = TOLD[some[0].action]
        table.add_row(
            f"{some[0].at:%H:%M:%S}",
            some[0].model,
            Text(words, style=style),
            Text(_told(some)),
        )
    return table


def together(happenings: Iterable[Happening]) -> list[list[Happening]]:
    """What happened, the oldest first; what happened to several alarms at once in one."""
    groups: list[list[Happening]] = []
    for one in sorted(happenings, key=lambda happening: happening.at):
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and (last.model, last.action) == (one.model, one.action)
            and one.action.startswith("alarm_")
            and one.at - last.at < _AT_ONCE
        ):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _told(some: Sequence[Happening]) -> str:
    first = some[0]
    if not first.action.startswith("alarm_"):
        return f"{first.subject}  by {first.actor}{': ' if first.text else ''}{first.text}"
    shown = "; ".join(dict.fromkeys(one.text for one in some[:_SHOWN]))
    more = f"; and {len(some) - _SHOWN} more" if len(some) > _SHOWN and ";" in shown else ""
    return f"{len(some)} alarm{'s' if len(some) > 1 else ''}: {shown}{more}"
