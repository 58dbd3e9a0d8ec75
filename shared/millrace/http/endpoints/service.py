"""Health, and the OpenAPI document."""

from importlib import resources
from typing import Annotated

from fastapi import FastAPI, Query
from starlette.responses import Response

import millrace
from millrace.errors import MillraceError
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.models import Health
from millrace.observability import logger


def add_service_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""

    @app.get(
        "/v1/health",
        tags=["service"],
        operation_id="health",
        summary="Whether the API answers",
        responses={503: {"model": Health, "description": "A check failed."}},
    )
    async def health(
        response: Response,
        deep: Annotated[bool, Query(description="Ask the table, too.")] = False,
    ) -> Health:
        health = Health(
            status="ok",
            stage=with_.stage,
            version=millrace.__version__,
            code_version=with_.code_version,
        )
        if not deep:
            return health
        try:
            with_.registry.list_models(limit=1)
        except MillraceError as exc:
            logger.error("health check failed", exc_info=exc, extra={"check": "table"})
            response.status_code = 503
            return health.model_copy(update={"status": "degraded", "checks": {"table": "failed"}})
        return health.model_copy(update={"checks": {"table": "ok"}})

    @app.get(
        "/v1/openapi.json",
        tags=["service"],
        operation_id="openapi",
        summary="This document",
        response_class=Response,
        responses={
            200: {
                "description": "The OpenAPI document of every route.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    )
    async def openapi() -> Response:
        return Response(openapi_document(), media_type="application/json")


def openapi_document() -> bytes:
    """The committed OpenAPI document of both apps."""
    return resources.files("millrace.http").joinpath("openapi.json").read_bytes()
