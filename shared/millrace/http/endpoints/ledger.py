"""The check of a model's ledger."""

from typing import Annotated

from fastapi import FastAPI, Query

from millrace.errors import FieldProblem, InvalidEventError, InvalidRequestError
from millrace.http import problems
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.parameters import Name, PageToken
from millrace.http.models import LedgerVerification, ledger_verification
from millrace.registry.ledger import parse_anchor

_DEFAULT = 5_000
_MOST = 10_000
"""Entries that one request checks well within API Gateway's 29 seconds."""


def add_ledger_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds it to the app."""

    @app.get(
        "/v1/models/{name}/audit/verify",
        tags=["models"],
        operation_id="verify_audit",
        summary="Check a model's ledger, and that the registry is what it tells",
        responses=problems.documented(404),
    )
    async def verify_audit(
        name: Name,
        anchor: Annotated[
            list[str] | None,
            Query(
                max_length=10,
                description="`sequence:hash` of an entry, kept elsewhere: the ledger must still "
                "have it. May be given several times.",
            ),
        ] = None,
        limit: Annotated[
            int, Query(ge=1, le=_MOST, description="Most entries to check in this request.")
        ] = _DEFAULT,
        page_token: PageToken = None,
    ) -> LedgerVerification:
        field = "anchor"
        try:
            anchors = [parse_anchor(a) for a in anchor or ()]
            field = "page_token"
            found = with_.registry.verify(name, anchors=anchors, limit=limit, token=page_token)
        except InvalidEventError as exc:
            raise InvalidRequestError(str(exc), [FieldProblem(field, str(exc))]) from exc
        return ledger_verification(found)
