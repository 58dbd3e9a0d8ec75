"""From the table's stream to everyone who listens: each new entry of the ledger, in its order.

A record that fails stops its batch: it and what follows are delivered again, so events of a model
never overtake each other. At least once, then: readers know a repeated event by model and sequence.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from pydantic import ValidationError

from millrace.aws.sns import Notifier
from millrace.aws.table import PK, SK, from_item
from millrace.errors import InvalidEventError, MillraceError
from millrace.observability import METRICS, count, logger
from millrace.registry import links
from millrace.registry.approvals import Approvals
from millrace.registry.events import SOURCE, RegistryEvent, detail_type, event_of
from millrace.registry.ledger import AUDIT, to_entry
from millrace.registry.notices import notice_of
from millrace.registry.records import Approval, AuditEntry


class EventBus(Protocol):
    """Where events go."""

    def put(self, *, source: str, detail_type: str, detail: str, at: datetime) -> None:
        """Hands one event over.

        Raises:
            MillraceError: It was not taken.
        """
        ...


class Publisher:
    """Publishes what the stream delivers.

    Args:
        bus: Takes the events.
        notifier: Tells people.
        approvals: Reads the requests that notices are about.
        address: Of the API, for links in notices; empty when there are to be none.
    """

    def __init__(
        self, *, bus: EventBus, notifier: Notifier, approvals: Approvals, address: str
    ) -> None:
        self._bus = bus
        self._notifier = notifier
        self._approvals = approvals
        self._address = address.rstrip("/")

    def publish(self, records: Iterable[Mapping[str, Any]]) -> str | None:
        """Publishes the entries of a batch, in their order.

        Args:
            records: ``Records`` of the stream's delivery.

        Returns:
            The sequence number of the first record that failed: Lambda delivers from it again.
        """
        for record in records:
            number = str(record.get("dynamodb", {}).get("SequenceNumber", ""))
            try:
                entry = entry_of(record)
                if entry is not None:
                    self._tell(entry)
            except MillraceError as exc:
                count(METRICS.EVENTS_FAILED)
                logger.error("an entry was not published", error=str(exc), sequence_number=number)
                return number
        return None

    def _tell(self, entry: AuditEntry) -> None:
        made: RegistryEvent = event_of(entry)
        self._bus.put(
            source=SOURCE,
            detail_type=detail_type(entry.action),
            detail=made.model_dump_json(),
            at=entry.at,
        )
        notice = notice_of(entry, lambda: self._request(entry), self._link)
        if notice is not None:
            self._notifier.notify(notice)
        logger.info("event published", action=entry.action, sequence=entry.sequence)

    def _request(self, entry: AuditEntry) -> Approval | None:
        version = entry.subject.rpartition("@")[2]
        return self._approvals.find(entry.model, int(version)) if version.isdecimal() else None

    def _link(self, asked: Approval) -> str:
        return f"{self._address}{links.PATH}{links.sign(asked)}" if self._address else ""


def entry_of(record: Mapping[str, Any]) -> AuditEntry | None:
    """The entry that a record of the stream tells of; None when it tells of something else.

    Raises:
        InvalidEventError: It is an entry that cannot be read.
    """
    change = record.get("dynamodb") or {}
    key = str((change.get("Keys") or {}).get(SK, {}).get("S", ""))
    if record.get("eventName") != "INSERT" or not key.startswith(AUDIT):
        return None
    try:
        image = from_item(change["NewImage"])
        entry = to_entry({k: v for k, v in image.items() if k not in (PK, SK)})
        event_of(entry)
    except (KeyError, TypeError, ValueError, ValidationError) as exc:
        raise InvalidEventError(
            f"expected an entry of the ledger under {key}, got one that cannot be read: "
            f"{type(exc).__name__}"
        ) from exc
    return entry
