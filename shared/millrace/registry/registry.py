"""The registry on one DynamoDB table: every query and every change, in parts by purpose.

Every change reads what it builds on, then writes once: one transaction that carries the change, a
condition for each thing read, and its entries in the ledger. A lost race is repeated with a fresh
read, until a deadline. A change that was committed although its answer was lost is recognised when
it is repeated; the docstrings say by what.

``models`` ◄ ``tracking`` ◄ ``runs`` ◄ ``datasets``, and ``runs`` ◄ ``versions`` ◄ ``crown`` and
``aliases``: each part builds on the part it points to.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from millrace.attestation import Sign
from millrace.aws.dynamodb import DynamoTable
from millrace.errors import NoChampionError
from millrace.registry import items
from millrace.registry.aliases import Aliases
from millrace.registry.crown import Crown
from millrace.registry.datasets import Datasets
from millrace.registry.ledger import AUDIT, Anchor, to_entry
from millrace.registry.live import Live, list_live, live_at
from millrace.registry.pages import Page
from millrace.registry.records import AuditEntry, ServingRecord
from millrace.registry.serving import ServingReader
from millrace.registry.verification import Verification, verify
from millrace.registry.writer import text_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient


def open_registry(
    client: "DynamoDBClient", table_name: str, *, sign: Sign | None = None
) -> "Registry":
    """The registry on a real table, with the real clock and ids; `sign` as `Writer` takes it."""
    return Registry(
        DynamoTable(client, table_name),
        clock=lambda: datetime.now(UTC),
        ids=lambda: uuid.uuid4().hex,
        sign=sign,
    )


class Registry(Datasets, Crown, Aliases):
    """Registered models, their versions, runs, dataset versions and audit entries."""

    def get_serving(self, model: str, version: int | None = None) -> ServingRecord:
        """See `ServingReader.get_serving`."""
        return ServingReader(self._table).get_serving(model, version)

    def audit(self, model: str, *, limit: int = 50, token: str | None = None) -> Page[AuditEntry]:
        """Audit entries of a model, the newest first."""
        return self._list_of(model, items.model_pk(model), to_entry, limit, token, prefix=AUDIT)

    def live_at(self, model: str, moment: datetime) -> Live:
        """What answered predictions at a moment.

        Raises:
            NotFoundError: There is no such model.
            NoChampionError: Nothing answered yet.
        """
        live = live_at(self._table, model, moment)
        if live is None:
            self.get_model(model)
            raise NoChampionError(f"model {model!r} had no champion at {text_of(moment)}")
        return live

    def list_live(self, model: str, *, limit: int = 50, token: str | None = None) -> Page[Live]:
        """What answered predictions from when on, the newest first."""
        page = list_live(self._table, model, limit=limit, token=token)
        if not page.items and not token:
            self.get_model(model)
        return page

    def verify(
        self,
        model: str,
        *,
        anchors: Sequence[Anchor] = (),
        limit: int | None = None,
        token: str | None = None,
    ) -> Verification:
        """See `verification.verify`."""
        return verify(self._table, model, anchors=anchors, limit=limit, token=token)
