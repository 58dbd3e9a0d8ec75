"""The ledger's entries as events for others: one schema, versioned, written down in docs/events.md.

The ledger is the outbox: an event is made of a stored entry and nothing else, so every change has its
event, and the same entry delivered twice is the same event twice, known by model and sequence.
"""

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from millrace.registry.records import AuditEntry
from millrace.vocabulary import MODEL_NAME_PATTERN

SOURCE: Final = "millrace.registry"
SCHEMA_VERSION: Final = "1"
"""Raised only when a reader of the version before would misread: new fields do not raise it."""


class RegistryEvent(BaseModel):
    """``detail`` of an event from ``millrace.registry``: one change of one model."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="millrace.registry, version 1")

    schema_version: Literal["1"] = Field(description="Of this schema.")
    model: str = Field(pattern=MODEL_NAME_PATTERN, description="The registered model.")
    sequence: int = Field(
        ge=1, description="Place in the model's ledger; with the model, the event's identity."
    )
    hash: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the entry: SHA-256.")
    previous_hash: str = Field(
        pattern=r"^([0-9a-f]{64})?$", description="Of the entry before; empty for the first."
    )
    entry_id: str = Field(min_length=1, description="The change's own id.")
    action: str = Field(
        pattern=r"^[a-z][a-z_]{1,63}$",
        description="What happened, such as promoted or approval_requested; docs/events.md lists "
        "them. Readers pass over those they do not know.",
    )
    subject: str = Field(
        description="What changed: churn@3, spec churn/2, a run, a dataset version."
    )
    before: str
    after: str
    actor: str = Field(description="Who did it: user:…, key:…, an ARN, link:NAME, pipeline.")
    reason: str
    at: datetime = Field(description="When, in UTC.")
    correlation_id: str = Field(description="Joins it to logs of what caused it.")
    facts: dict[str, Any] = Field(description="What else the change decided, by action.")


def event_of(entry: AuditEntry) -> RegistryEvent:
    """The event of a stored entry."""
    return RegistryEvent(schema_version=SCHEMA_VERSION, **entry.model_dump())


def detail_type(action: str) -> str:
    """``detail-type`` of an action: its words, such as ``Approval Requested``."""
    return action.replace("_", " ").title()
