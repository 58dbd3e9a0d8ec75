"""Where a version came from and where it went, as a graph.

Uploads, and predictions whose labels came, lead to a dataset version, that and a spec to a run, the
run to the version, and the version through rollouts and promotions to the requests it answered.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import Field

from millrace import layout
from millrace.aws.table import Item, Table
from millrace.graphs import Arrow, Box, Style, draw
from millrace.messages import Cause, SourceObject
from millrace.questions.moments import minute
from millrace.registry import items
from millrace.registry.changes import LOOK
from millrace.registry.live import LIVE, Live, to_live
from millrace.registry.records import DatasetVersion, ModelVersion, Record, Run
from millrace.registry.registry import Registry
from millrace.registry.rollout_records import Rollout, rollouts_index_pk, to_rollout

CHANGES: Final = 200
"""Changes of traffic after the version's registration that are looked at."""

DRAWN: Final = 6
"""Rollouts and reigns that are drawn one by one; the picture counts the others."""


class Kind(StrEnum):
    """What a node is; also its order from left to right."""

    UPLOAD = "upload"
    LABELLED = "labelled"
    """Predictions whose labels came, as rows beside those of an upload."""
    ALARM = "alarm"
    """What a training was started by."""
    DATASET = "dataset"
    SPEC = "spec"
    RUN = "run"
    COMPARED = "compared"
    VERSION = "version"
    ROLLOUT = "rollout"
    REIGN = "reign"
    REQUESTS = "requests"


class Node(Record):
    """One thing of the graph."""

    id: str
    kind: Kind
    name: str
    at: datetime | None = None
    facts: dict[str, Any] = Field(default_factory=dict)


class Edge(Record):
    """One thing led to another."""

    source: str
    target: str
    how: str


class Lineage(Record):
    """Where a version came from and where it went."""

    model: str
    version: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    traffic_seen_until: datetime | None = None
    """None when every change of traffic was looked at; else the last one that was."""


def lineage(
    model: str, version: int | str, *, registry: Registry, table: Table, data_bucket: str
) -> Lineage:
    """The lineage of a version, in ten requests at most.

    Args:
        model: The model.
        version: A number or an alias.
        registry: The registry.
        table: Its table.
        data_bucket: Where predictions are captured.

    Raises:
        NotFoundError: There is no such model, version or alias.
    """
    record = registry.get_version(model, version)
    run = _run(table, record.run_id)
    stored = table.get(items.dataset_key(model, record.dataset_version))
    dataset = None if stored is None else items.to_dataset(stored, ())
    first = None
    if dataset is not None and dataset.created_by_run != record.run_id:
        first = _run(table, dataset.created_by_run)
    spec = table.get(items.spec_key(model, record.spec_version))
    rollouts = table.query(
        rollouts_index_pk(model),
        index=True,
        limit=LOOK,
        where={"version": record.version},
    )
    changes = table.query(
        items.model_pk(model),
        since=f"{LIVE}{items.sortable(record.created_at)}",
        until=f"{LIVE}9999",
        limit=CHANGES + 1,
    )
    traffic = [to_live(i) for i in changes.items]
    more = len(traffic) > CHANGES
    graph = _Graph()
    alarms: tuple[Item, ...] = ()
    if run is not None and run.cause is Cause.DRIFT:
        found = table.query(
            f"MONITOR#{model}",
            prefix="EPISODE#",
            newest_first=True,
            limit=LOOK,
            where={"run_id": run.run_id},
        )
        alarms = found.items
    _origins(
        graph, record, run, first, dataset, None if spec is None else items.to_spec(spec), alarms
    )
    _destinations(
        graph,
        record,
        [to_rollout(i) for i in rollouts.items],
        traffic[:CHANGES],
        traffic[CHANGES:],
        data_bucket,
    )
    return Lineage(
        model=model,
        version=record.version,
        nodes=tuple(graph.nodes.values()),
        edges=tuple(graph.edges),
        traffic_seen_until=traffic[CHANGES - 1].at if more else None,
    )


class _Graph:
    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []

    def add(
        self, kind: Kind, key: str, name: str, at: datetime | None = None, /, **facts: Any
    ) -> str:
        node = Node(
            id=f"{kind}:{key}",
            kind=kind,
            name=name,
            at=at,
            facts={k: v for k, v in facts.items() if v not in (None, "")},
        )
        self.nodes.setdefault(node.id, node)
        return node.id

    def join(self, source: str, target: str, how: str) -> None:
        edge = Edge(source=source, target=target, how=how)
        if edge not in self.edges:
            self.edges.append(edge)


def _run(table: Table, run_id: str) -> Run | None:
    item = table.get(items.run_key(run_id))
    return None if item is None else items.to_run(item)


# ── Where it came from ──────────────────────────────────────────────────────────────────────────


def _origins(
    graph: _Graph,
    record: ModelVersion,
    run: Run | None,
    first: Run | None,
    dataset: DatasetVersion | None,
    spec: Any,
    alarms: Sequence[Item],
) -> None:
    subject = f"{record.model}@{record.version}"
    version = graph.add(
        Kind.VERSION,
        subject,
        subject,
        record.created_at,
        status=record.status.value,
        algorithm=record.algorithm.value,
        sha256=record.sha256,
        verdict=record.verdict,
        gates=f"{sum(g.passed for g in record.gates)} of {len(record.gates)} gates passed"
        if record.gates
        else "",
        model_key=record.model_key,
        report_key=record.report_key,
        code_version=record.code_version,
    )
    trained = graph.add(
        Kind.RUN,
        record.run_id,
        record.run_id,
        run.started_at if run else None,
        cause=run.cause.value if run else "",
        reason=run.reason if run else "",
        outcome=run.outcome.value if run and run.outcome else "",
        requested_by=run.requested_by if run else "",
        seconds=_seconds(run),
        seed=record.seed,
        correlation_id=record.correlation_id,
    )
    data = graph.add(
        Kind.DATASET,
        record.dataset_version,
        record.dataset_version,
        dataset.created_at if dataset else None,
        rows=dataset.rows.accepted if dataset else None,
        quarantined=dataset.rows.quarantined if dataset else None,
        splits=dict(dataset.split_rows) if dataset else None,
        data_key=dataset.data_key if dataset else "",
    )
    configured = graph.add(
        Kind.SPEC,
        f"{record.model}/{record.spec_version}",
        f"{record.model}/{record.spec_version}",
        spec.created_at if spec else None,
        digest=record.spec_digest,
        applied_by=spec.created_by if spec else "",
    )
    graph.join(data, trained, "trained on")
    graph.join(configured, trained, "configured by")
    graph.join(trained, version, "made")
    if record.compared_with is not None:
        other = f"{record.model}@{record.compared_with}"
        graph.join(graph.add(Kind.COMPARED, other, other), version, "compared with")
    if dataset is not None:
        _upload(graph, dataset.source, data, first or run, "became")
        _labelled(graph, record.model, dataset, data)
    for alarm in alarms:
        rang = graph.add(
            Kind.ALARM,
            alarm["id"],
            f"{alarm['kind'].replace('_', ' ')}: {alarm['subject']}",
            datetime.fromisoformat(alarm["opened_at"]),
            alarm=alarm["id"],
            version=alarm["version"],
            state=alarm["state"],
            text=alarm["text"],
        )
        graph.join(rang, trained, "started")
    if run is not None and (dataset is None or _differ(run.source, dataset.source)):
        _upload(graph, run.source, data, run, "held the same rows")


def _upload(graph: _Graph, source: SourceObject, dataset: str, run: Run | None, how: str) -> None:
    upload = graph.add(
        Kind.UPLOAD,
        f"{source.bucket}/{source.key}@{source.version_id}",
        source.key.rpartition("/")[2],
        run.started_at if run else None,
        key=f"s3://{source.bucket}/{source.key}",
        object_version=source.version_id,
        bytes=source.size,
        by=run.requested_by if run else "",
    )
    graph.join(upload, dataset, how)


def _labelled(graph: _Graph, model: str, dataset: DatasetVersion, data: str) -> None:
    """The labelled predictions in a dataset version, and the version whose rows they stand beside."""
    taken = dataset.labelled
    if taken is None:
        return
    rows = graph.add(
        Kind.LABELLED,
        taken.key,
        f"{taken.rows:,} labelled predictions",
        taken.until,
        rows=taken.rows,
        new=taken.new,
        of_earlier_trainings=taken.rows - taken.new,
        left_out=taken.lacking,
        since=taken.since,
        until=taken.until,
        # Ids begin with their time.
        new_ids_from=_id_at(taken.since),
        new_ids_before=_id_at(taken.until),
        labels=f"LABELS#{model}#<day>",
        key=taken.key,
    )
    graph.join(rows, data, "joined in")
    if taken.base_version != dataset.dataset_version:
        base = graph.add(Kind.DATASET, taken.base_version, taken.base_version, None)
        graph.join(base, data, "stayed in")


def _id_at(moment: datetime) -> str:
    """How ids of predictions of a moment begin."""
    text = f"{round(moment.timestamp() * 1_000):012x}"
    return f"{text[:8]}-{text[8:]}"


def _differ(one: SourceObject, other: SourceObject) -> bool:
    return (one.bucket, one.key, one.version_id) != (other.bucket, other.key, other.version_id)


def _seconds(run: Run | None) -> float | None:
    if run is None or run.ended_at is None:
        return None
    return round((run.ended_at - run.started_at).total_seconds(), 1)


# ── Where it went ───────────────────────────────────────────────────────────────────────────────


def _destinations(
    graph: _Graph,
    record: ModelVersion,
    rollouts: Sequence[Rollout],
    traffic: Sequence[Live],
    after: Sequence[Live],
    data_bucket: str,
) -> None:
    version = f"{Kind.VERSION}:{record.model}@{record.version}"
    answered: list[str] = []
    ends = [*(live.at for live in traffic[1:]), after[0].at if after else None]
    for group in _reigns(record.version, zip(traffic, ends, strict=False)):
        node = graph.add(
            Kind.REIGN,
            str(group[0][0].sequence),
            "champion",
            group[0][0].at,
            until=group[-1][1],
            changes=len(group),
            approval=group[0][0].approval,
        )
        graph.join(version, node, "promoted")
        answered.append(node)
    for rollout in rollouts:
        node = graph.add(
            Kind.ROLLOUT,
            rollout.rollout_id,
            rollout.rollout_id,
            rollout.created_at,
            strategy=rollout.plan.strategy,
            weights=[s.weight for s in rollout.steps],
            status=rollout.status.value,
            why=rollout.why,
            by=rollout.created_by,
            ended_at=rollout.ended_at,
        )
        graph.join(version, node, "rolled out")
        if rollout.steps:
            answered.append(node)
    if not answered:
        return
    requests = graph.add(
        Kind.REQUESTS,
        f"{record.model}@{record.version}",
        "predictions",
        captured=f"s3://{data_bucket}/{layout.CAPTURE}{record.model}/",
        version=record.version,
    )
    for node in answered:
        graph.join(node, requests, "answered")


def _reigns(
    version: int, traffic: Iterable[tuple[Live, datetime | None]]
) -> list[list[tuple[Live, datetime | None]]]:
    """Runs of changes through which a version stayed champion."""
    found: list[list[tuple[Live, datetime | None]]] = []
    going = False
    for live, end in traffic:
        if live.version == version:
            if not going:
                found.append([])
            found[-1].append((live, end))
        going = live.version == version
    return found


# ── As a picture ────────────────────────────────────────────────────────────────────────────────

_COLUMNS: Final[dict[Kind, tuple[int, Style]]] = {
    Kind.UPLOAD: (0, "data"),
    Kind.LABELLED: (0, "data"),
    Kind.ALARM: (1, "muted"),
    Kind.DATASET: (1, "data"),
    Kind.SPEC: (1, "work"),
    Kind.RUN: (2, "work"),
    Kind.COMPARED: (2, "muted"),
    Kind.VERSION: (3, "model"),
    Kind.ROLLOUT: (4, "traffic"),
    Kind.REIGN: (4, "traffic"),
    Kind.REQUESTS: (5, "muted"),
}

_WORDS: Final = {
    Kind.UPLOAD: "upload",
    Kind.LABELLED: "feedback",
    Kind.ALARM: "alarm",
    Kind.DATASET: "dataset version",
    Kind.SPEC: "spec",
    Kind.RUN: "run",
    Kind.COMPARED: "champion then",
    Kind.VERSION: "model version",
    Kind.ROLLOUT: "rollout",
    Kind.REIGN: "traffic",
    Kind.REQUESTS: "requests",
}


def picture(of: Lineage) -> str:
    """The lineage as SVG."""
    ends = [n for n in of.nodes if n.kind in (Kind.REIGN, Kind.ROLLOUT)]
    hidden = {n.id for n in ends[:-DRAWN]}
    boxes = [_box(n) for n in of.nodes if n.id not in hidden]
    arrows = [
        Arrow(e.source, e.target, dashed=e.how == "compared with")
        for e in of.edges
        if not {e.source, e.target} & hidden
    ]
    if hidden:
        version = f"{Kind.VERSION}:{of.model}@{of.version}"
        column, style = _COLUMNS[Kind.REIGN]
        boxes.append(Box("earlier", column, "traffic", f"{len(hidden)} before that", style=style))
        arrows.append(Arrow(version, "earlier"))
    name = f"{of.model}@{of.version}"
    kinds = ", ".join(f"{_WORDS[n.kind]} {n.name}" for n in of.nodes)
    return draw(
        boxes, arrows, title=f"Lineage of {name}", description=f"From left to right: {kinds}."
    )


def _box(node: Node) -> Box:
    column, style = _COLUMNS[node.kind]
    name = node.name[:16] if node.kind is Kind.DATASET else node.name
    return Box(
        node.id,
        column,
        _WORDS[node.kind],
        name,
        lines_of(node),
        style,
        whole=" · ".join((node.name, *(f"{k} {v}" for k, v in node.facts.items()))),
    )


def lines_of(node: Node) -> tuple[str, ...]:
    """What is worth a line below a node's name."""
    facts = node.facts
    since = minute(node.at) if node.at else ""
    match node.kind:
        case Kind.UPLOAD:
            lines = [f"{facts.get('bytes', 0):,} bytes", since]
        case Kind.LABELLED:
            lines = [
                f"{facts['new']:,} of them new,",
                f"{minute(facts['since'])}",
                f"to {minute(facts['until'])}",
            ]
        case Kind.ALARM:
            lines = [since, facts.get("state", "")]
        case Kind.DATASET:
            rows = f"{facts['rows']:,} rows" if "rows" in facts else ""
            lines = [rows, f"{facts['quarantined']:,} quarantined" if rows else ""]
        case Kind.SPEC:
            lines = [f"digest {facts['digest'][:12]}"]
        case Kind.RUN:
            lines = [facts.get("cause", ""), since]
        case Kind.VERSION:
            lines = [
                f"{facts['algorithm']}, {facts['status']}",
                f"sha256 {facts['sha256'][:12]}…",
                facts.get("gates", ""),
            ]
        case Kind.REIGN:
            until = facts.get("until")
            lines = [f"from {since}", f"to {minute(until)}" if until else "to now"]
        case Kind.ROLLOUT:
            weights = " → ".join(f"{w:g}" for w in facts["weights"][-6:])
            steps = f" {weights} %" if weights else ""
            lines = [f"{facts['strategy']}{steps}", facts["status"], f"from {since}"]
        case Kind.REQUESTS:
            lines = [facts["captured"]]
        case _:
            lines = []
    return tuple(line for line in lines if line)
