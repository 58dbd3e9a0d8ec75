"""Rollouts as records and items, and the writes that end one.

A rollout's item ``ROLLOUT#<id>`` / ``META`` says where it is; ``CHECK#`` items beside it keep what
each look found, and ``TALLY#`` items what was counted (`monitoring.tallies`). The model's item names
the one rollout that may have traffic (``rollout_id``), its version (``challenger_version``), and the
one that waits for it (``waiting_rollout_id``).
"""

import json
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from pydantic import Field

from millrace.aws.table import INDEX_PK, INDEX_SK, Item, ItemReader, Key, Update, Write
from millrace.errors import ConflictError, NotFoundError
from millrace.registry.items import run_key, sortable
from millrace.registry.records import AuditEntry, Record, RegisteredModel, RunOutcome
from millrace.registry.rollout_states import RolloutEvent, RolloutStatus, transition
from millrace.registry.serving import META
from millrace.spec import RolloutSection, canonical_json

CHECK: Final = "CHECK#"
MAX_WHY: Final = 2_000

type Found = Literal["healthy", "breach", "short", "ignored"]


class Finding(Record):
    """What one condition says after a look, with the figures behind it."""

    condition: str
    """``errors``, ``latency``, ``scores``, ``disagreement``, ``feedback`` or ``alarm <name>``."""
    found: Found
    """``short``: there is not enough to judge by; ``ignored``: it can say nothing here."""
    text: str
    """For people."""
    test: str = ""
    evidence: float | None = None
    """The e-value: how much likelier the data are under a breach than under health."""
    threshold: float | None = None
    """The e-value from which on it is a breach."""
    figures: dict[str, float | int | str] = Field(default_factory=dict)


class Judgement(Record):
    """What a look at a rollout's step found."""

    check: int
    """Number of the look in its rollout, from 1."""
    step: int
    look: int
    """Number of the look in its step, from 1."""
    at: datetime
    decision: str
    why: str
    findings: tuple[Finding, ...] = ()


class RolloutStep(Record):
    """A step that was set."""

    step: int
    weight: float
    at: datetime
    sequence: int


class Rollout(Record):
    """One rollout; all down to ``created_at`` is fixed when it is recorded."""

    rollout_id: str
    model: str
    version: int
    plan: RolloutSection
    run_id: str = ""
    """The training that asked for it."""
    created_by: str
    reason: str = ""
    correlation_id: str = ""
    created_at: datetime
    status: RolloutStatus
    champion: int | None = None
    """The version it is compared with; none while it waits."""
    attempt: int = 1
    """Number of the execution that works on it; what an earlier one still says changes nothing."""
    step: int | None = None
    """None before it has traffic."""
    steps: tuple[RolloutStep, ...] = ()
    looks: int = 0
    """Looks at this step, from 0; a paused rollout's are not counted."""
    checks: int = 0
    """Looks at all."""
    checks_before: int = 0
    """Of which by earlier executions."""
    asks: bool = False
    """It was held after its last step: only the promotion is left."""
    go_ahead: bool = False
    """A person resumed it after its last step: the promotion needs no other."""
    judgement: Judgement | None = None
    """The last look."""
    why: str = ""
    """Of its state, for people."""
    changed_by: str = ""
    changed_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def weight(self) -> float:
        """Percent of the traffic that the step gives it."""
        return 0.0 if self.step is None else self.plan.weights[self.step]

    @property
    def last_step(self) -> int:
        """Number of the last step."""
        return len(self.plan.weights) - 1

    @property
    def execution(self) -> str:
        """Name of the execution that works on it."""
        return execution_name(self.rollout_id, self.attempt)


class Ending(NamedTuple):
    """The writes that end a rollout, and what the ledger says of it."""

    writes: list[Write]
    entry: AuditEntry
    after: RolloutStatus


def execution_name(rollout_id: str, attempt: int) -> str:
    """The execution of an attempt."""
    return f"{rollout_id}-{attempt}"


def rollout_pk(rollout_id: str) -> str:
    """Partition of everything about a rollout."""
    return f"ROLLOUT#{rollout_id}"


def rollout_key(rollout_id: str) -> Key:
    """A rollout."""
    return Key(rollout_pk(rollout_id), META)


def check_key(rollout_id: str, check: int) -> Key:
    """What a look found."""
    return Key(rollout_pk(rollout_id), f"{CHECK}{check:06d}")


def rollouts_index_pk(model: str) -> str:
    """Index partition of a model's rollouts."""
    return f"MODEL#{model}#ROLLOUTS"


def from_rollout(rollout: Rollout) -> Item:
    """The item of a rollout."""
    return {
        **rollout.model_dump(mode="json", exclude={"plan", "judgement"}),
        "plan": canonical_json(rollout.plan.model_dump(mode="json")),
        INDEX_PK: rollouts_index_pk(rollout.model),
        INDEX_SK: f"{sortable(rollout.created_at)}#{rollout.rollout_id}",
    }


def to_rollout(item: Item) -> Rollout:
    """The rollout of an item."""
    read = {**item, "plan": json.loads(item["plan"])}
    if item.get("judgement"):
        read["judgement"] = json.loads(item["judgement"])
    return Rollout.model_validate(read)


def from_judgement(judgement: Judgement) -> str:
    """A judgement as it stands in an item: as text, whose numbers DynamoDB leaves alone."""
    return canonical_json(judgement.model_dump(mode="json"))


def to_judgement(item: Item) -> Judgement:
    """The judgement of a ``CHECK#`` item."""
    return Judgement.model_validate_json(item["judgement"])


def text_of(moment: datetime) -> str:
    """A moment as items have it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


_OUTCOMES: Final = {
    RolloutStatus.PROMOTED: RunOutcome.PROMOTED,
    RolloutStatus.ROLLED_BACK: RunOutcome.ROLLED_BACK,
    RolloutStatus.ABORTED: RunOutcome.NOT_PROMOTED,
    RolloutStatus.SUPERSEDED: RunOutcome.NOT_PROMOTED,
    RolloutStatus.OVERTAKEN: RunOutcome.NOT_PROMOTED,
}
"""What became of the training whose version was rolled out."""


def ending(
    rollout: Rollout,
    event: RolloutEvent,
    *,
    at: datetime,
    entry_id: str,
    actor: str,
    why: str,
    correlation_id: str = "",
    facts: dict[str, Any] | None = None,
) -> Ending:
    """The writes that end a rollout, for the transaction that takes its traffic away.

    They assume the state and the attempt that were read. The model's item is the caller's.

    Args:
        rollout: The rollout as it was read.
        event: What ends it.
        at: When.
        entry_id: Of the ledger's entry.
        actor: Who ends it.
        why: For people.
        correlation_id: Of the request; the rollout's own by default.
        facts: More for the ledger.

    Raises:
        InvalidTransitionError: It has ended before.
    """
    after = transition(rollout.status, event, rollout.rollout_id)
    moment = text_of(at)
    writes: list[Write] = [
        Update(
            "rollout",
            rollout_key(rollout.rollout_id),
            {
                "status": after.value,
                "why": why[:MAX_WHY],
                "changed_by": actor,
                "changed_at": moment,
                "ended_at": moment,
            },
            {"status": rollout.status.value, "attempt": rollout.attempt},
        )
    ]
    if rollout.run_id:
        outcome = _OUTCOMES[after]
        writes.append(
            Update(
                "run of the rollout",
                run_key(rollout.run_id),
                {
                    "outcome": outcome.value,
                    "reason": f"rollout {after.value.replace('_', ' ')}: {why}"[:MAX_WHY],
                },
                {"outcome": RunOutcome.ROLLING_OUT.value},
            )
        )
    return Ending(
        writes,
        entry_of(
            rollout,
            f"rollout_{after.value}",
            after=after.value,
            at=at,
            entry_id=entry_id,
            actor=actor,
            why=why,
            correlation_id=correlation_id,
            facts=facts,
        ),
        after,
    )


def ended_by(
    table: ItemReader,
    meta: RegisteredModel,
    number: int,
    restore: bool,
    by_rollout: Rollout | None,
    entry: AuditEntry,
    entry_id: str,
) -> Ending | None:
    """How a change of champion ends the rollout that is under way; None when there is none.

    Args:
        table: The table.
        meta: The model as it was read.
        number: The version that becomes champion.
        restore: Whether it is a rollback.
        by_rollout: The rollout whose last step this is.
        entry: The change's audit entry.
        entry_id: Of the entry that tells of the rollout's end.

    Raises:
        ConflictError: The rollout is not as it was when it decided to promote.
    """
    if meta.rollout_id is None:
        if by_rollout is not None:
            raise ConflictError(f"rollout {by_rollout.rollout_id} is not under way any more")
        return None
    item = table.get(rollout_key(meta.rollout_id))
    if item is None:
        raise NotFoundError(f"there is no rollout {meta.rollout_id!r}")
    rollout = to_rollout(item)
    if by_rollout is not None and (
        (rollout.rollout_id, rollout.status, rollout.attempt)
        != (by_rollout.rollout_id, by_rollout.status, by_rollout.attempt)
    ):
        raise ConflictError(
            f"rollout {by_rollout.rollout_id} was {by_rollout.status}, and now rollout "
            f"{rollout.rollout_id} is {rollout.status}"
        )
    if number == rollout.version:
        event, why = RolloutEvent.PROMOTE, entry.reason or f"{entry.subject} was promoted"
    elif restore:
        event, why = RolloutEvent.ABORT, f"rolled back to {entry.subject}"
    else:
        event, why = RolloutEvent.OVERTAKE, f"{entry.subject} was promoted meanwhile"
    return ending(
        rollout,
        event,
        at=entry.at,
        entry_id=entry_id,
        actor=entry.actor,
        why=why,
        correlation_id=entry.correlation_id,
    )


def entry_of(
    rollout: Rollout,
    action: str,
    *,
    after: str,
    at: datetime,
    entry_id: str,
    actor: str,
    why: str = "",
    before: str | None = None,
    correlation_id: str = "",
    facts: dict[str, Any] | None = None,
) -> AuditEntry:
    """The ledger's entry of a change of a rollout."""
    return AuditEntry(
        model=rollout.model,
        at=at,
        entry_id=entry_id,
        actor=actor,
        action=action,
        subject=rollout.rollout_id,
        before=rollout.status.value if before is None else before,
        after=after,
        reason=why[:MAX_WHY],
        correlation_id=correlation_id or rollout.correlation_id,
        facts={
            "rollout_id": rollout.rollout_id,
            "version": rollout.version,
            "strategy": rollout.plan.strategy,
            **({} if rollout.champion is None else {"champion": rollout.champion}),
            **({} if rollout.step is None else {"step": rollout.step, "weight": rollout.weight}),
            **(facts or {}),
        },
    )
