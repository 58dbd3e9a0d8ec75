"""The registry's app: everything but predictions.

Endpoints decode, call one operation and encode. They are ``async`` although they wait on AWS in
the foreground: a Lambda environment answers one request at a time, and a plain ``def`` would pay
a hop to a thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Annotated, Any, Final

from fastapi import Body, Depends, FastAPI, Header, Path, Query
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import millrace
from millrace import layout
from millrace.aws.sns import Notifier
from millrace.aws.stepfunctions import StepProgress
from millrace.documents import read_spec
from millrace.errors import (
    ArtifactError,
    FieldProblem,
    InvalidEventError,
    InvalidRequestError,
    MillraceError,
    NotFoundError,
)
from millrace.http import operations, problems
from millrace.http.bodies import expect_media_type, is_unspecific, media_type, read_body
from millrace.http.caller import actor, correlation_id
from millrace.http.feedback import add_feedback_route
from millrace.http.models import (
    AuditPage,
    BatchAccepted,
    BatchDetail,
    BatchPage,
    BatchRequest,
    BatchUploadRequest,
    ChampionChanged,
    ChampionRequest,
    Health,
    ModelPage,
    ModelView,
    RetrainAccepted,
    RetrainRequest,
    RunDetail,
    RunPage,
    SpecView,
    VersionDetail,
    VersionPage,
    audit_view,
    batch_detail,
    batch_view,
    model_view,
    run_detail,
    run_view,
    spec_view,
    version_detail,
    version_view,
)
from millrace.monitoring.feedback import Feedback
from millrace.observability import logger
from millrace.registry.batches import Batches
from millrace.registry.pages import Page
from millrace.registry.records import Batch, ModelVersion, RunStatus, SpecVersion
from millrace.registry.registry import Registry
from millrace.signature import Signature
from millrace.signature_file import read_signature
from millrace.vocabulary import MODEL_NAME_PATTERN

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 100
YAML_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")

Name = Annotated[str, Path(pattern=MODEL_NAME_PATTERN, description="The model.")]
VersionOrAlias = Annotated[
    str,
    Path(
        pattern=r"^([0-9]{1,9}|[a-z][a-z0-9_-]{0,63})$",
        description="The version's number, or an alias such as `champion`.",
        examples=["3", "champion"],
    ),
]
RunId = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{1,99}$", description="The run.")]
BatchId = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{1,99}$", description="The batch job.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most items of the page.")]
PageToken = Annotated[
    str | None,
    Query(max_length=4_000, description="`next_page_token` of the page before."),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,128}$",
        description="The same key again gives the same run instead of a second training.",
    ),
]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """What the app works with.

    Attributes:
        registry: The registry.
        batches: Batch jobs.
        objects: Reads and writes specs, looks at files to be scored.
        artifact_bucket: Where specs and reports lie.
        data_bucket: Where quarantine reports lie.
        presign: Signs an address of an object (bucket, key).
        steps: Tells the steps of an execution by its ARN.
        invoker: Runs the trigger function.
        trigger_function: Its name.
        notifier: Tells people.
        stage: Name of the deployment's stage.
        code_version: Version of the deployed code.
        new_token: Makes an idempotency token.
        feedback: Takes labels.
    """

    registry: Registry
    batches: Batches
    objects: operations.Objects
    artifact_bucket: str
    data_bucket: str
    presign: Callable[[str, str], str]
    steps: Callable[[str], tuple[StepProgress, ...]]
    invoker: operations.Invoker
    trigger_function: str
    notifier: Notifier
    stage: str
    code_version: str
    new_token: Callable[[], str]
    feedback: Feedback


def create_app(with_: Collaborators) -> FastAPI:
    """The app.

    Args:
        with_: What it works with.
    """
    app = FastAPI(
        title="Millrace",
        version=millrace.__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses=problems.documented(422, 500, 502, 503),
    )
    problems.install(app)
    app.add_middleware(AssumeJson)
    _add_service_routes(app, with_)
    _add_model_routes(app, with_)
    _add_spec_routes(app, with_)
    _add_run_routes(app, with_)
    _add_change_routes(app, with_)
    _add_batch_routes(app, with_)
    add_feedback_route(app, with_.feedback)
    return app


class AssumeJson:
    """Takes a POST whose content type says nothing, as ``curl -d`` sends it, for JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "http" and scope["method"] == "POST":
            headers = MutableHeaders(scope=scope)
            if is_unspecific(headers.get("content-type", "")):
                headers["content-type"] = "application/json"
        await self._app(scope, receive, send)


async def _json_only(request: Request) -> None:
    expect_media_type(request, "application/json")


# ── Service ─────────────────────────────────────────────────────────────────────────────────────


def _add_service_routes(app: FastAPI, with_: Collaborators) -> None:
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


# ── Models ──────────────────────────────────────────────────────────────────────────────────────


def _add_model_routes(app: FastAPI, with_: Collaborators) -> None:
    registry = with_.registry

    @app.get("/v1/models", tags=["models"], operation_id="list_models", summary="Registered models")
    async def list_models(limit: Limit = DEFAULT_PAGE, page_token: PageToken = None) -> ModelPage:
        items, token = _page(registry.list_models, limit, page_token)
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
        name: Name, limit: Limit = DEFAULT_PAGE, page_token: PageToken = None
    ) -> VersionPage:
        items, token = _page(partial(registry.list_versions, name), limit, page_token)
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
            _signature(with_, record),
            report_url=_link(with_, with_.artifact_bucket, record.report_key),
        )

    @app.get(
        "/v1/models/{name}/audit",
        tags=["models"],
        operation_id="list_audit",
        summary="Who changed what, newest first",
        responses=problems.documented(404),
    )
    async def list_audit(
        name: Name, limit: Limit = DEFAULT_PAGE, page_token: PageToken = None
    ) -> AuditPage:
        items, token = _page(partial(registry.audit, name), limit, page_token)
        return AuditPage(items=[audit_view(a) for a in items], next_page_token=token)


def _signature(with_: Collaborators, record: ModelVersion) -> Signature | None:
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


def _page[T](listing: Callable[..., Page[T]], limit: int, token: str | None) -> Page[T]:
    """One page of a listing; a forged or foreign token is the caller's field `page_token`."""
    try:
        return listing(limit=limit, token=token)
    except InvalidEventError as exc:
        message = "expected the next_page_token of this listing's last page"
        raise InvalidRequestError(
            f"page_token: {message}", [FieldProblem("page_token", message)]
        ) from exc


def _link(with_: Collaborators, bucket: str, key: str) -> str | None:
    return with_.presign(bucket, key) if key else None


# ── Specs ───────────────────────────────────────────────────────────────────────────────────────


def _add_spec_routes(app: FastAPI, with_: Collaborators) -> None:
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


# ── Runs ────────────────────────────────────────────────────────────────────────────────────────


def _add_run_routes(app: FastAPI, with_: Collaborators) -> None:
    @app.get(
        "/v1/models/{name}/runs",
        tags=["runs"],
        operation_id="list_runs",
        summary="A model's runs, newest first",
        responses=problems.documented(404),
    )
    async def list_runs(
        name: Name, limit: Limit = DEFAULT_PAGE, page_token: PageToken = None
    ) -> RunPage:
        items, token = _page(partial(with_.registry.list_runs, name), limit, page_token)
        return RunPage(items=[run_view(r) for r in items], next_page_token=token)

    @app.get(
        "/v1/runs/{run_id}",
        tags=["runs"],
        operation_id="get_run",
        summary="A run with its steps and trials",
        responses=problems.documented(404),
    )
    async def get_run(run_id: RunId) -> RunDetail:
        run = with_.registry.get_run(run_id)
        quarantine = f"{run.quarantine_prefix}report.json" if run.quarantine_prefix else ""
        return run_detail(
            run,
            _steps(with_, run.execution_arn),
            report_url=_link(with_, with_.artifact_bucket, run.report_key),
            quarantine_url=_link(with_, with_.data_bucket, quarantine),
        )


def _steps(with_: Collaborators, execution_arn: str) -> tuple[StepProgress, ...]:
    """The run's steps; none once Step Functions forgot the execution or cannot say."""
    if not execution_arn:
        return ()
    try:
        return with_.steps(execution_arn)
    except MillraceError as exc:
        logger.warning("execution history unavailable", extra={"error": type(exc).__name__})
        return ()


# ── Changes ─────────────────────────────────────────────────────────────────────────────────────


def _add_change_routes(app: FastAPI, with_: Collaborators) -> None:
    @app.post(
        "/v1/models/{name}/aliases/champion",
        tags=["models"],
        operation_id="change_champion",
        summary="Promote a version, or roll back",
        dependencies=[Depends(_json_only)],
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
            actor=actor(request.scope),
            correlation_id=correlation_id(request.scope),
        )
        return ChampionChanged(model=name, version=promotion.version, previous=promotion.previous)

    @app.post(
        "/v1/models/{name}/retrain",
        status_code=202,
        tags=["runs"],
        operation_id="retrain",
        summary="Train again on the newest dataset version",
        dependencies=[Depends(_json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def retrain(
        name: Name,
        request: Request,
        response: Response,
        body: RetrainRequest | None = None,
        idempotency_key: IdempotencyKey = None,
    ) -> RetrainAccepted:
        accepted = operations.retrain(
            name,
            reason=body.reason if body else "",
            token=idempotency_key,
            registry=with_.registry,
            invoker=with_.invoker,
            trigger_function=with_.trigger_function,
            actor=actor(request.scope),
            correlation_id=correlation_id(request.scope),
            new_token=with_.new_token,
        )
        response.headers["Location"] = f"/v1/runs/{accepted.run_id}"
        return accepted


# ── Batch ───────────────────────────────────────────────────────────────────────────────────────


def _add_batch_routes(app: FastAPI, with_: Collaborators) -> None:
    @app.post(
        "/v1/models/{name}/batch",
        status_code=202,
        tags=["batches"],
        operation_id="start_batch",
        summary="Score a file",
        dependencies=[Depends(_json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def start_batch(
        name: Name,
        request: Request,
        response: Response,
        body: Annotated[
            BatchRequest,
            Body(
                openapi_examples={
                    "a new file": {"value": {"filename": "scores.csv"}},
                    "an object of the data bucket": {"value": {"key": "batch/churn/scores.csv"}},
                }
            ),
        ],
        idempotency_key: IdempotencyKey = None,
    ) -> BatchAccepted:
        if isinstance(body, BatchUploadRequest):
            accepted = operations.offer_batch_upload(
                name,
                body.filename,
                registry=with_.registry,
                objects=with_.objects,
                bucket=with_.data_bucket,
                token=idempotency_key or with_.new_token(),
            )
        else:
            accepted = operations.start_batch(
                name,
                body,
                registry=with_.registry,
                objects=with_.objects,
                bucket=with_.data_bucket,
                invoker=with_.invoker,
                trigger_function=with_.trigger_function,
                actor=actor(request.scope),
                correlation_id=correlation_id(request.scope),
            )
        response.headers["Location"] = f"/v1/batches/{accepted.batch_id}"
        return accepted

    @app.get(
        "/v1/models/{name}/batches",
        tags=["batches"],
        operation_id="list_batches",
        summary="A model's batch jobs, newest first",
        responses=problems.documented(404),
    )
    async def list_batches(
        name: Name, limit: Limit = DEFAULT_PAGE, page_token: PageToken = None
    ) -> BatchPage:
        items, token = _page(partial(with_.batches.list, name), limit, page_token)
        return BatchPage(items=[batch_view(b) for b in items], next_page_token=token)

    @app.get(
        "/v1/batches/{batch_id}",
        tags=["batches"],
        operation_id="get_batch",
        summary="A batch job with its progress and results",
        responses=problems.documented(404),
    )
    async def get_batch(batch_id: BatchId) -> BatchDetail:
        record = with_.batches.get(batch_id)
        links = {
            f"{name}_url": _link(with_, with_.data_bucket, getattr(record, f"{name}_key"))
            for name in ("predictions", "manifest", "summary", "quarantine", "report")
        }
        return batch_detail(record, _scored(with_, record), links)


def _scored(with_: Collaborators, record: Batch) -> int:
    """Chunks that are scored: while it runs, what lies there."""
    if record.status is RunStatus.FINISHED or not record.chunks:
        return record.chunks if record.predictions_key else 0
    prefix = layout.batch_scores_prefix(record.model, record.batch_id)
    return min(record.chunks, with_.objects.count(with_.data_bucket, prefix))
