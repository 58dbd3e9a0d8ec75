"""Specs: shown and applied."""

from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from starlette.requests import Request
from starlette.responses import Response

from millrace.documents import read_spec
from millrace.errors import ArtifactError, NotFoundError
from millrace.http import operations, problems
from millrace.http.bodies import expect_media_type, media_type, read_body
from millrace.http.caller import actor, correlation_id
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.parameters import Name
from millrace.http.models import SpecView, spec_view
from millrace.registry.records import SpecVersion

YAML_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")

_SPEC_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "The model spec, as JSON or YAML; at most 1 MB, without YAML aliases.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ModelSpec"}},
            "application/yaml": {"schema": {"$ref": "#/components/schemas/ModelSpec"}},
        },
    }
}


def add_spec_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""

    @app.get(
        "/v1/specs/{name}",
        tags=["specs"],
        operation_id="get_spec",
        summary="A model's spec",
        responses=problems.documented(404),
    )
    async def get_spec(
        name: Name,
        version: Annotated[int | None, Query(ge=1, description="Default: the current one.")] = None,
    ) -> SpecView:
        record = with_.registry.get_spec(name, version)
        return spec_view(record, _spec_document(with_, record))

    @app.put(
        "/v1/specs/{name}",
        tags=["specs"],
        operation_id="put_spec",
        summary="Apply a spec",
        responses={
            200: {"model": SpecView, "description": "This is the current spec already."},
            201: {"model": SpecView, "description": "A new version of the spec."},
            **problems.documented(400, 404, 409, 413, 415),
        },
        openapi_extra=_SPEC_BODY,
    )
    async def put_spec(name: Name, request: Request, response: Response) -> SpecView:
        expect_media_type(request, "application/json", *YAML_TYPES)
        body = await read_body(request, operations.MAX_SPEC_BYTES)
        kind = media_type(request)
        spec = operations.parse_spec(body, as_json=kind.endswith(("/json", "+json")))
        applied, new = operations.apply_spec(
            name,
            spec,
            registry=with_.registry,
            objects=with_.objects,
            bucket=with_.artifact_bucket,
            actor=actor(request.scope),
            correlation_id=correlation_id(request.scope),
        )
        response.status_code = 201 if new else 200
        response.headers["Location"] = f"/v1/specs/{name}?version={applied.version}"
        return spec_view(applied, spec.model_dump(mode="json"))


def _spec_document(with_: Collaborators, record: SpecVersion) -> dict[str, Any]:
    try:
        spec = read_spec(with_.objects, with_.artifact_bucket, record.key, record.digest)
    except NotFoundError as exc:
        raise ArtifactError(f"spec {record.model}@{record.version} is not stored") from exc
    # Whole, also when the stored document is from before a section existed.
    return spec.model_dump(mode="json")
