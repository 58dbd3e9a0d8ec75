"""Registered models, their versions and their champions."""

from functools import partial
from typing import Annotated

from fastapi import Body, Depends, FastAPI, Query
from starlette.requests import Request

from millrace.errors import ArtifactError, NotFoundError
from millrace.http import operations, problems
from millrace.http.caller import actor, correlation_id
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.parameters import (
    DEFAULT_PAGE,
    Limit,
    Name,
    PageToken,
    VersionOrAlias,
    json_only,
    listed,
)
from millrace.http.models import (
    ChampionChanged,
    ChampionRequest,
    ModelPage,
    ModelView,
    VersionDetail,
    VersionPage,
    model_view,
    version_detail,
    version_view,
)
from millrace.observability import logger
from millrace.questions.listings import Listings
from millrace.questions.standing import standing
from millrace.registry.records import ModelVersion, VersionStatus
from millrace.signature import Signature
from millrace.signature_file import read_signature
from millrace.spec import Algorithm, Task


def add_model_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""

    registry = with_.registry
    listings = Listings(with_.table)

    @app.get("/v1/models", tags=["models"], operation_id="list_models", summary="Registered models")
    async def list_models(
        prefix: Annotated[
            str, Query(pattern=r"^[a-z0-9-]{0,40}$", description="What names begin with.")
        ] = "",
        task: Annotated[Task | None, Query(description="Their task.")] = None,
        owner: Annotated[str | None, Query(max_length=200, description="Their owner.")] = None,
        champion: Annotated[bool | None, Query(description="Whether they have one.")] = None,
        limit: Limit = DEFAULT_PAGE,
        page_token: PageToken = None,
    ) -> ModelPage:
        listing = partial(listings.models, prefix=prefix, task=task, owner=owner, champion=champion)
        items, token = listed(listing, limit, page_token)
        return ModelPage(items=[model_view(m) for m in items], next_page_token=token)

    @app.get(
        "/v1/models/{name}",
        tags=["models"],
        operation_id="get_model",
        summary="A registered model",
        responses=problems.documented(404),
    )
    async def get_model(name: Name) -> ModelView:
        return model_view(registry.get_model(name))

    @app.get(
        "/v1/models/{name}/versions",
        tags=["models"],
        operation_id="list_versions",
        summary="A model's versions, newest first",
        responses=problems.documented(404),
    )
    async def list_versions(
        name: Name,
        status: Annotated[VersionStatus | None, Query(description="Their status.")] = None,
        algorithm: Annotated[Algorithm | None, Query(description="Their algorithm.")] = None,
        dataset_version: Annotated[
            str | None, Query(max_length=64, description="What they were trained on.")
        ] = None,
        limit: Limit = DEFAULT_PAGE,
        page_token: PageToken = None,
    ) -> VersionPage:
        listing = partial(
            listings.versions,
            name,
            status=status,
            algorithm=algorithm,
            dataset_version=dataset_version,
        )
        items, token = listed(listing, limit, page_token)
        return VersionPage(items=[version_view(v) for v in items], next_page_token=token)

    @app.get(
        "/v1/models/{name}/versions/{version}",
        tags=["models"],
        operation_id="get_version",
        summary="A model version, by number or alias",
        responses=problems.documented(404),
    )
    async def get_version(name: Name, version: VersionOrAlias) -> VersionDetail:
        record = registry.get_version(name, version)
        return version_detail(
            record,
            signature_of(with_, record),
            standing(record, with_.table),
            report_url=with_.link(with_.artifact_bucket, record.report_key),
        )

    @app.post(
        "/v1/models/{name}/aliases/champion",
        tags=["models"],
        operation_id="change_champion",
        summary="Promote a version, or roll back",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def change_champion(
        name: Name,
        request: Request,
        body: Annotated[
            ChampionRequest,
            Body(
                openapi_examples={
                    "promote": {
                        "value": {"action": "promote", "version": 3, "reason": "approved by Ada"}
                    },
                    "rollback": {"value": {"action": "rollback", "reason": "complaints"}},
                }
            ),
        ],
    ) -> ChampionChanged:
        promotion = operations.change_champion(
            name,
            body,
            registry=with_.registry,
            notifier=with_.notifier,
            promoted=with_.desk.tell_of_promotion,
            actor=actor(request.scope),
            correlation_id=correlation_id(request.scope),
        )
        return ChampionChanged(model=name, version=promotion.version, previous=promotion.previous)


def signature_of(with_: Collaborators, record: ModelVersion) -> Signature | None:
    """The version's signature; none when it is not what was registered.

    Whoever looks into a damaged version must be able to see the rest of it.
    """
    try:
        return read_signature(
            with_.objects,
            with_.artifact_bucket,
            record.signature_key,
            record.signature_sha256,
            f"{record.model}@{record.version}",
        )
    except (NotFoundError, ArtifactError) as exc:
        logger.error(
            "signature cannot be shown",
            exc_info=exc,
            extra={"model": record.model, "version": record.version},
        )
        return None
