"""Where a version stands now: its aliases, its share of the traffic, its rollouts, its approval."""

from datetime import datetime
from typing import Any

from millrace.aws.table import Table
from millrace.registry import items
from millrace.registry.changes import LOOK
from millrace.registry.records import CHALLENGER, CHAMPION, ModelVersion, Record
from millrace.registry.rollout_records import rollouts_index_pk, to_rollout
from millrace.registry.serving import ServingRecord, serving_key


class Traffic(Record):
    """A version's share of the requests, from the last change of traffic on."""

    role: str
    """``champion`` or ``challenger``."""
    percent: float
    """Of the requests that it answers; of those it answers in the shadow, with ``shadow``."""
    shadow: bool = False
    sequence: int
    """Of the ledger's entry that set it."""


class RolloutBrief(Record):
    """A rollout of the version."""

    rollout_id: str
    strategy: str
    status: str
    weights: tuple[float, ...]
    why: str
    created_by: str
    created_at: datetime
    ended_at: datetime | None


class Standing(Record):
    """Where a version stands."""

    aliases: tuple[str, ...]
    traffic: Traffic | None
    rollouts: tuple[RolloutBrief, ...]
    """The newest first."""
    approval: dict[str, Any] | None


def standing(version: ModelVersion, table: Table) -> Standing:
    """Where a version stands, in three requests.

    Args:
        version: The version.
        table: The registry's table.
    """
    model = version.model
    served = table.get(serving_key(model))
    serving = None if served is None else ServingRecord.from_item(served)
    item = table.get(items.version_key(model, version.version)) or {}
    rollouts = table.query(
        rollouts_index_pk(model),
        index=True,
        newest_first=True,
        limit=LOOK,
        where={"version": version.version},
    )
    traffic = _traffic(version.version, serving)
    aliases = {CHAMPION: traffic is not None and traffic.role == CHAMPION}
    route = serving.rollout if serving else None
    aliases[CHALLENGER] = route is not None and route.version == version.version
    return Standing(
        aliases=tuple(name for name, points in aliases.items() if points),
        traffic=traffic,
        rollouts=tuple(_brief(i) for i in rollouts.items),
        approval=item.get("approval"),
    )


def _traffic(version: int, serving: ServingRecord | None) -> Traffic | None:
    if serving is None:
        return None
    route = serving.rollout
    shadow = route is not None and route.strategy == "shadow"
    if route is not None and route.version == version:
        return Traffic(
            role=CHALLENGER, percent=route.weight, shadow=shadow, sequence=serving.sequence
        )
    if serving.version != version:
        return None
    given = 0.0 if route is None or shadow else route.weight
    return Traffic(role=CHAMPION, percent=100.0 - given, sequence=serving.sequence)


def _brief(item: Any) -> RolloutBrief:
    rollout = to_rollout(item)
    return RolloutBrief(
        rollout_id=rollout.rollout_id,
        strategy=rollout.plan.strategy,
        status=rollout.status.value,
        weights=tuple(s.weight for s in rollout.steps),
        why=rollout.why,
        created_by=rollout.created_by,
        created_at=rollout.created_at,
        ended_at=rollout.ended_at,
    )
