"""Questions of the record: who changed what, what was live when, how versions differ, where one
came from and where it went."""

import json
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Path, Query
from pydantic import Field
from starlette.responses import Response

from millrace.errors import FieldProblem, InvalidRequestError
from millrace.http import problems
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.models import signature_of
from millrace.http.endpoints.parameters import (
    DEFAULT_PAGE,
    VERSION_OR_ALIAS,
    At,
    Limit,
    Name,
    PageToken,
    Since,
    Until,
    listed,
    moment,
)
from millrace.http.models import AuditPage, TrafficPage, audit_view, traffic_view
from millrace.questions.comparison import Comparison, compare
from millrace.questions.history import History
from millrace.questions.lineage import Lineage, lineage, picture
from millrace.questions.listings import Listings
from millrace.questions.openlineage import events_of
from millrace.questions.predictions import Prediction, prediction

PredictionId = Annotated[
    str,
    Path(max_length=100, description="As the answer named it."),
]

SVG: Final = "image/svg+xml"

_Exact = Query(max_length=200, description="Exactly this; other entries are left out.")
_Version = Query(
    pattern=VERSION_OR_ALIAS, description="The version's number, or an alias such as `champion`."
)
OPENLINEAGE: Final = "application/vnd.openlineage+json"

_PICTURE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The graph, as JSON or as a picture; or its OpenLineage events.",
        "content": {
            SVG: {"schema": {"type": "string"}},
            OPENLINEAGE: {"schema": {"type": "array", "items": {"type": "object"}}},
        },
    }
}


class PredictionFound(Prediction):
    """What the record says of a prediction."""

    report_url: str | None = Field(
        None, description="The evaluation report; the link holds for 15 minutes."
    )


def add_question_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""

    history = History(with_.table)

    @app.get(
        "/v1/models/{name}/audit",
        tags=["record"],
        operation_id="list_audit",
        summary="Who changed what, newest first",
        responses=problems.documented(404),
    )
    async def list_audit(
        name: Name,
        action: Annotated[str | None, _Exact] = None,
        actor: Annotated[str | None, _Exact] = None,
        subject: Annotated[str | None, _Exact] = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = DEFAULT_PAGE,
        page_token: PageToken = None,
    ) -> AuditPage:
        listing = partial(
            Listings(with_.table).audit,
            name,
            action=action,
            actor=actor,
            subject=subject,
            since=moment(since, "since"),
            until=moment(until, "until"),
        )
        items, token = listed(listing, limit, page_token)
        return AuditPage(items=[audit_view(a) for a in items], next_page_token=token)

    @app.get(
        "/v1/models/{name}/history",
        tags=["record"],
        operation_id="list_history",
        summary="What answered predictions when, newest first",
        responses=problems.documented(404),
    )
    async def list_history(
        name: Name,
        at: At = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = DEFAULT_PAGE,
        page_token: PageToken = None,
    ) -> TrafficPage:
        then = moment(at, "at")
        if then is not None:
            if since or until or page_token:
                message = "expected it alone, without since, until and page_token"
                raise InvalidRequestError(f"at: {message}", [FieldProblem("at", message)])
            period = history.at(name, then, now=with_.now())
            return TrafficPage(at=then, items=[traffic_view(period)], next_page_token=None)
        listing = partial(
            history.changes, name, since=moment(since, "since"), until=moment(until, "until")
        )
        items, token = listed(listing, limit, page_token)
        return TrafficPage(at=None, items=[traffic_view(p) for p in items], next_page_token=token)

    @app.get(
        "/v1/models/{name}/compare",
        tags=["record"],
        operation_id="compare_versions",
        summary="Two versions side by side",
        responses=problems.documented(404),
    )
    async def compare_versions(
        name: Name,
        before: Annotated[str, Query(alias="from", pattern=VERSION_OR_ALIAS)],
        after: Annotated[str, Query(alias="to", pattern=VERSION_OR_ALIAS)],
    ) -> Comparison:
        return compare(
            name,
            before,
            after,
            registry=with_.registry,
            objects=with_.objects,
            artifact_bucket=with_.artifact_bucket,
            data_bucket=with_.data_bucket,
        )

    @app.get(
        "/v1/models/{name}/lineage",
        tags=["record"],
        operation_id="get_lineage",
        summary="Where a version came from, and where it went",
        response_model=Lineage,
        responses=_PICTURE | problems.documented(404),
    )
    async def get_lineage(
        name: Name,
        version: Annotated[str, _Version] = "champion",
        form: Annotated[
            Literal["json", "svg", "openlineage"],
            Query(
                alias="format",
                description="`svg` for a picture, `openlineage` for a list of OpenLineage events.",
            ),
        ] = "json",
    ) -> Lineage | Response:
        if form == "openlineage":
            record = with_.registry.get_version(name, version)
            events = events_of(
                name,
                record.version,
                registry=with_.registry,
                table=with_.table,
                data_bucket=with_.data_bucket,
                artifact_bucket=with_.artifact_bucket,
                signature=signature_of(with_, record),
            )
            return Response(json.dumps(events), media_type=OPENLINEAGE)
        found = lineage(
            name,
            version,
            registry=with_.registry,
            table=with_.table,
            data_bucket=with_.data_bucket,
        )
        if form == "svg":
            return Response(picture(found), media_type=SVG)
        return found

    @app.get(
        "/v1/models/{name}/predictions/{prediction_id}",
        tags=["record"],
        operation_id="get_prediction",
        summary="Which version answered, who put it there, and on what evidence",
        responses=problems.documented(404),
    )
    async def get_prediction(name: Name, prediction_id: PredictionId) -> PredictionFound:
        found = prediction(
            name,
            prediction_id,
            table=with_.table,
            data_bucket=with_.data_bucket,
            now=with_.now(),
        )
        return PredictionFound(
            **dict(found), report_url=with_.link(with_.artifact_bucket, found.report_key)
        )
