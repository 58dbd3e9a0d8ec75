"""What was live when: one item per change of traffic, written in the change's own transaction.

Keys stand in the order of time, so "what answered at noon" is one query backwards.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ConfigDict

from millrace.aws.table import ABSENT, Item, Key, Put, Table
from millrace.registry.changes import list_page
from millrace.registry.pages import Page
from millrace.registry.records import Record
from millrace.registry.serving import model_pk

LIVE: Final = "LIVE#"


class LiveRollout(Record):
    """The rollout that shared the traffic, at one of its steps."""

    rollout_id: str
    step: int
    strategy: str
    weight: float
    version: int
    sha256: str = ""


class Live(Record):
    """What answered from a moment on."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    model: str
    sequence: int
    """Of the ledger's entry that tells of the change."""
    at: datetime
    version: int
    sha256: str
    run_id: str
    rollout: LiveRollout | None = None
    approval: dict[str, Any] | None = None


def live_key(model: str, at: datetime, sequence: int) -> Key:
    """A change of traffic: in the order of time, and of the ledger within a moment."""
    return Key(model_pk(model), f"{LIVE}{_sortable(at)}#{sequence:012d}")


def live_write(
    model: str,
    *,
    at: datetime,
    sequence: int,
    version: int,
    sha256: str,
    run_id: str,
    rollout: Mapping[str, Any] | None = None,
    approval: Mapping[str, Any] | None = None,
) -> Put:
    """The write that tells of a change of traffic; it stands in the change's transaction.

    Args:
        model: The model.
        at: The time of the ledger's entry (as the ledger gave it back).
        sequence: Its number.
        version: The champion from now on.
        sha256: The digest of its artifact.
        run_id: The run that made it.
        rollout: The rollout that shares the traffic from now on, as `LiveRollout` has it.
        approval: The version's approval, if somebody approved it.
    """
    record = Live(
        model=model,
        sequence=sequence,
        at=at,
        version=version,
        sha256=sha256,
        run_id=run_id,
        rollout=None if rollout is None else LiveRollout.model_validate(rollout),
        approval=None if approval is None else dict(approval),
    )
    return Put("live", live_key(model, at, sequence), record.model_dump(mode="json"), ABSENT)


def to_live(item: Item) -> Live:
    """The record of an item."""
    return Live.model_validate(item)


def live_at(table: Table, model: str, moment: datetime) -> Live | None:
    """What answered at a moment: one query. None before the first promotion."""
    page = table.query(
        model_pk(model),
        since=LIVE,
        until=f"{LIVE}{_sortable(moment)}#~",
        newest_first=True,
        limit=1,
    )
    return to_live(page.items[0]) if page.items else None


def list_live(table: Table, model: str, *, limit: int = 50, token: str | None = None) -> Page[Live]:
    """Changes of a model's traffic, the newest first."""
    return list_page(table, model_pk(model), to_live, limit, token, prefix=LIVE)


def _sortable(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
