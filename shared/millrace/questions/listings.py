"""Listings that filter: models, versions, runs and audit entries, page by page.

Ranges (a name's beginning, a span of time) are read from a key and cost what they return. Other
filters look at so many items a page and no more (`registry.changes.list_page`), so that a page may
be short and still carry the token to go on.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from millrace.aws.table import PRESENT, Expected, Item, ItemReader, Table
from millrace.errors import FieldProblem, InvalidRequestError, NotFoundError
from millrace.registry import items
from millrace.registry.changes import list_page
from millrace.registry.ledger import AUDIT, to_entry
from millrace.registry.pages import Page
from millrace.registry.records import AuditEntry, ModelVersion, RegisteredModel, Run

_EARLIEST: Final = "0"
"""Before every sortable time."""

_LATEST: Final = "9999"
"""After every time that has come."""


class Listings:
    """Lists what a table holds.

    Args:
        table: The registry's table.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def models(
        self,
        *,
        prefix: str = "",
        task: str | None = None,
        owner: str | None = None,
        champion: bool | None = None,
        limit: int = 50,
        token: str | None = None,
    ) -> Page[RegisteredModel]:
        """Registered models by name.

        Args:
            prefix: What their names begin with.
            task: Their task.
            owner: Their spec's owner.
            champion: Whether they have one.
            limit: Most of a page.
            token: Where the page before ended.
        """
        where = _given(task=task, owner=owner)
        if champion is not None:
            where["champion_version"] = PRESENT if champion else None
        return list_page(
            self._table,
            items.MODELS,
            items.to_model,
            limit,
            token,
            prefix=prefix,
            index=True,
            descending=False,
            where=where,
        )

    def versions(
        self,
        model: str,
        *,
        status: str | None = None,
        algorithm: str | None = None,
        dataset_version: str | None = None,
        limit: int = 50,
        token: str | None = None,
    ) -> Page[ModelVersion]:
        """Versions of a model, the newest first.

        Raises:
            NotFoundError: There is no such model.
        """
        where = _given(status=status, algorithm=algorithm, dataset_version=dataset_version)
        page = list_page(
            self._table,
            items.model_pk(model),
            items.to_version,
            limit,
            token,
            prefix=items.VERSION,
            where=where,
        )
        return self._of(model, page, token)

    def runs(
        self,
        model: str,
        *,
        status: str | None = None,
        outcome: str | None = None,
        cause: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        token: str | None = None,
    ) -> Page[Run]:
        """Runs of a model, the newest first.

        Args:
            model: The model.
            status: Their status.
            outcome: How they ended.
            cause: What started them.
            since: Started then or later.
            until: Started then or before.
            limit: Most of a page.
            token: Where the page before ended.

        Raises:
            NotFoundError: There is no such model.
        """
        where = _given(status=status, outcome=outcome, cause=cause)
        pk = items.runs_index_pk(model)
        page = self._in_time(pk, items.to_run, where, since, until, limit, token)
        return self._of(model, page, token)

    def audit(
        self,
        model: str,
        *,
        action: str | None = None,
        actor: str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        token: str | None = None,
    ) -> Page[AuditEntry]:
        """Audit entries of a model, the newest first.

        A span of time is read from the index, which follows the table within moments; without one
        the listing is that of the ledger itself.

        Args:
            model: The model.
            action: What was done.
            actor: Who did it.
            subject: To what: ``churn@3``, a run's id, a dataset version.
            since: Then or later.
            until: Then or before.
            limit: Most of a page.
            token: Where the page before ended.

        Raises:
            NotFoundError: There is no such model.
        """
        where = _given(action=action, actor=actor, subject=subject)
        if since is not None or until is not None:
            pk = items.audit_index_pk(model)
            page = self._in_time(pk, to_entry, where, since, until, limit, token)
        else:
            pk = items.model_pk(model)
            page = list_page(self._table, pk, to_entry, limit, token, prefix=AUDIT, where=where)
        return self._of(model, page, token)

    def _in_time[T](
        self,
        pk: str,
        convert: Callable[[Item], T],
        where: Mapping[str, Expected],
        since: datetime | None,
        until: datetime | None,
        limit: int,
        token: str | None,
    ) -> Page[T]:
        """A page of an index partition whose sort keys begin with a time."""
        check_span(since, until)
        return list_page(
            self._table,
            pk,
            convert,
            limit,
            token,
            since=items.sortable(since) if since else _EARLIEST,
            until=f"{items.sortable(until)}#~" if until else _LATEST,
            index=True,
            where=where,
        )

    def _of[T](self, model: str, page: Page[T], token: str | None) -> Page[T]:
        """The page, unless it is empty because there is no such model."""
        if not page.items and not token:
            expect_model(self._table, model)
        return page


def expect_model(table: ItemReader, model: str) -> None:
    """Sees that there is a model.

    Raises:
        NotFoundError: There is none.
    """
    if table.get(items.model_key(model)) is None:
        raise NotFoundError(f"there is no model {model!r}; apply its spec first")


def check_span(since: datetime | None, until: datetime | None) -> None:
    """Sees that a span of time is one.

    Raises:
        InvalidRequestError: It ends before it begins.
    """
    if since is not None and until is not None and until < since:
        message = "expected a time after since"
        raise InvalidRequestError(f"until: {message}", [FieldProblem("until", message)])


def _given(**expected: Any) -> dict[str, Expected]:
    return {name: value for name, value in expected.items() if value is not None}
