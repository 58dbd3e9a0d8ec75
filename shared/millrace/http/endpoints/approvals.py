"""Requests for approval: by callers who are known, and by whoever holds the link of a notice.

A GET changes nothing: scanners of mail open every link they see. The page's form decides, with a
typed name and a reason, and the ledger says that it was the link.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qs

import orjson
from fastapi import Depends, FastAPI, Path
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from millrace.errors import (
    FieldProblem,
    GoneError,
    InvalidRequestError,
    MalformedRequestError,
    MillraceError,
    NotApproverError,
    NotFoundError,
)
from millrace.http import problems
from millrace.http.bodies import read_body
from millrace.http.caller import actor, correlation_id
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.parameters import Name, json_only
from millrace.http.models import ApprovalEvidence, ApprovalView, DecisionRequest, approval_view
from millrace.http.problem_details import status_of
from millrace.registry import links
from millrace.registry.approvals import Decision
from millrace.registry.records import Approval, ApprovalStatus

MAX_FORM_BYTES: Final = 10_000

Version = Annotated[int, Path(ge=1, le=999_999, description="The version's number.")]
Link = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9_-]{1,300}\.[A-Za-z0-9_-]{1,64}$",
        description="The signed part of the link in a notice.",
    ),
]

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
}


class LinkDecision(BaseModel):
    """What the form of the link's page sends."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    decision: Literal["approve", "reject"]
    name: Annotated[
        str, StringConstraints(min_length=2, max_length=100, pattern=r"^[^\x00-\x1f]+$")
    ]
    reason: Annotated[str, StringConstraints(min_length=3, max_length=1_000)]


_LINK_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "The decision, the name of who decides, and why.",
        "content": {
            kind: {"schema": LinkDecision.model_json_schema()}
            for kind in ("application/x-www-form-urlencoded", "application/json")
        },
    }
}
_PAGE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": ApprovalEvidence,
        "description": "The evidence: a page for browsers, JSON for programs.",
        "content": {"text/html": {"schema": {"type": "string"}}},
    }
}
_DECIDED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": ApprovalView,
        "description": "The answer was recorded.",
        "content": {"text/html": {"schema": {"type": "string"}}},
    }
}


def add_approval_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""
    _add_known_routes(app, with_)
    _add_link_routes(app, with_)


def _add_known_routes(app: FastAPI, with_: Collaborators) -> None:
    @app.get(
        "/v1/models/{name}/versions/{version}/approval",
        tags=["approvals"],
        operation_id="get_approval",
        summary="The request for approval of a version, with its evidence",
        responses=problems.documented(404),
    )
    async def get_approval(name: Name, version: Version, request: Request) -> ApprovalEvidence:
        return with_.desk.evidence(name, version, actor=actor(request.scope))

    def decide(
        decision: Decision, name: str, version: int, request: Request, body: DecisionRequest | None
    ) -> ApprovalView:
        answer = body or DecisionRequest()
        return with_.desk.decide(
            name,
            version,
            decision,
            actor=actor(request.scope),
            reason=answer.reason,
            via="api",
            request_id=answer.request_id,
            correlation_id=correlation_id(request.scope),
        )

    @app.post(
        "/v1/models/{name}/versions/{version}/approve",
        tags=["approvals"],
        operation_id="approve_version",
        summary="Approve a version that waits",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 403, 404, 409, 410, 415),
    )
    async def approve(
        name: Name, version: Version, request: Request, body: DecisionRequest | None = None
    ) -> ApprovalView:
        return decide("approve", name, version, request, body)

    @app.post(
        "/v1/models/{name}/versions/{version}/reject",
        tags=["approvals"],
        operation_id="reject_version",
        summary="Turn a version down; it needs a reason",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 403, 404, 409, 410, 415),
    )
    async def reject(
        name: Name, version: Version, request: Request, body: DecisionRequest | None = None
    ) -> ApprovalView:
        return decide("reject", name, version, request, body)


# ── Links ───────────────────────────────────────────────────────────────────────────────────────


def _add_link_routes(app: FastAPI, with_: Collaborators) -> None:
    @app.get(
        "/v1/approvals/{link}",
        tags=["approvals"],
        operation_id="show_approval_link",
        summary="What a link asks to approve; changes nothing",
        response_class=Response,
        responses=_PAGE | problems.documented(404, 410),
    )
    async def show(link: Link, request: Request) -> Response:
        def answer() -> Response:
            asked = _asked(with_, link)
            evidence = with_.desk.evidence(asked.model, asked.version)
            if _wants_page(request):
                return _page("ask.html.j2", evidence=evidence, decides=asked.link_decides)
            return _json(evidence)

        return _told(request, answer)

    @app.post(
        "/v1/approvals/{link}",
        tags=["approvals"],
        operation_id="answer_approval_link",
        summary="Approve or reject by a link, once",
        response_class=Response,
        responses=_DECIDED | problems.documented(400, 403, 404, 409, 410, 413),
        openapi_extra=_LINK_BODY,
    )
    async def answer_link(link: Link, request: Request) -> Response:
        body = await read_body(request, MAX_FORM_BYTES)

        def answer() -> Response:
            asked = _asked(with_, link)
            if not asked.link_decides:
                raise NotApproverError(
                    f"{asked.subject} is approved by a person who proves a name, and a link proves "
                    f"none: millrace approve {asked.subject}"
                )
            given = _form(body)
            decided = with_.desk.decide(
                asked.model,
                asked.version,
                given.decision,
                actor=f"link:{given.name}",
                reason=given.reason,
                via="link",
                request_id=asked.request_id,
                correlation_id=correlation_id(request.scope),
            )
            return (
                _page("done.html.j2", request=decided) if _wants_page(request) else _json(decided)
            )

        return _told(request, answer)


def _asked(with_: Collaborators, link: str) -> Approval:
    """The request a link is of, if the link is good.

    Raises:
        NotFoundError: It is not one of ours, or links are turned off.
        GoneError: Its time is over, it was used, or a newer request replaced its own.
    """
    if not with_.approval_links:
        raise NotFoundError(
            "links are turned off in this deployment (ApprovalLinks=off): millrace approve"
        )
    claim = links.read(link)
    asked = with_.desk.approvals.find(claim.model, claim.version)
    if asked is None or not links.is_signed(link, asked):
        raise links.unknown_link()
    if asked.request_id != claim.request_id:
        raise GoneError(
            f"this link is of an older request: {asked.subject} was evaluated again since, and a "
            "newer notice has the newer link"
        )
    if asked.status is not ApprovalStatus.PENDING:
        told = approval_view(asked)
        when = f"{told.decided_at:%Y-%m-%d %H:%M} UTC" if told.decided_at else "an unknown time"
        raise GoneError(f"{asked.subject} was {asked.status} by {asked.decided_by} at {when}")
    if links.is_over(claim, with_.clock()):
        raise GoneError(
            f"this link ended at {asked.deadline:%Y-%m-%d %H:%M} UTC: nobody answered in time"
        )
    return asked


def _form(body: bytes) -> LinkDecision:
    """The decision in a form, or in JSON.

    Raises:
        MalformedRequestError: It is neither.
        InvalidRequestError: Names every wrong field.
    """
    try:
        fields: Any = (
            orjson.loads(body)
            if body.lstrip()[:1] == b"{"
            else {k: v[-1] for k, v in parse_qs(body.decode(), max_num_fields=10).items()}
        )
        return LinkDecision.model_validate(fields)
    except ValidationError as exc:
        wrong = [
            FieldProblem(str(e["loc"][0]) if e["loc"] else "body", _EXPECTED.get(e["loc"][:1], ""))
            for e in exc.errors(include_input=False, include_url=False)
        ]
        told = [p if p.message else FieldProblem("body", "has an unknown key") for p in wrong]
        raise InvalidRequestError(f"{told[0].field}: {told[0].message}", told) from exc
    except ValueError as exc:
        raise MalformedRequestError("expected a form, or a JSON object, in UTF-8") from exc


_EXPECTED: Final[dict[tuple[Any, ...], str]] = {
    ("decision",): "expected approve or reject",
    ("name",): "expected your name, 2 to 100 characters",
    ("reason",): "expected why, 3 to 1,000 characters",
}


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _told(request: Request, answer: Callable[[], Response]) -> Response:
    """The answer; for a browser also an error is a page."""
    try:
        return answer()
    except MillraceError as exc:
        told = problems.respond(request, exc)
        for name, value in _HEADERS.items():
            told.headers[name] = value
        if not _wants_page(request):
            return told
        status = status_of(exc)
        words = str(exc) if status < 500 else "something failed inside: try again shortly"
        return _page("refused.html.j2", status=status, gone=status == 410, words=words)


def _json(document: BaseModel) -> Response:
    return Response(document.model_dump_json(), media_type="application/json", headers=_HEADERS)


def _page(template: str, *, status: int = 200, **facts: Any) -> Response:
    # Jinja is loaded by the few requests that need it.
    from millrace.http.pages.rendering import policy, render

    headers = {**_HEADERS, "Content-Security-Policy": policy()}
    return Response(
        render(template, **facts), status, media_type="text/html; charset=utf-8", headers=headers
    )
