"""Batch jobs: started and shown."""

from functools import partial
from typing import Annotated

from fastapi import Body, Depends, FastAPI, Path
from starlette.requests import Request
from starlette.responses import Response

from millrace import layout
from millrace.http import operations, problems
from millrace.http.caller import actor, correlation_id
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.parameters import (
    DEFAULT_PAGE,
    IdempotencyKey,
    Limit,
    Name,
    PageToken,
    json_only,
    listed,
)
from millrace.http.models import (
    BatchAccepted,
    BatchDetail,
    BatchPage,
    BatchRequest,
    BatchUploadRequest,
    batch_detail,
    batch_view,
)
from millrace.registry.records import Batch, RunStatus

BatchId = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{1,99}$", description="The batch job.")]


def add_batch_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""

    @app.post(
        "/v1/models/{name}/batch",
        status_code=202,
        tags=["batches"],
        operation_id="start_batch",
        summary="Score a file",
        dependencies=[Depends(json_only)],
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
                trigger=with_.trigger,
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
        items, token = listed(partial(with_.batches.list, name), limit, page_token)
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
            f"{name}_url": with_.link(with_.data_bucket, getattr(record, f"{name}_key"))
            for name in ("predictions", "manifest", "summary", "quarantine", "report")
        }
        return batch_detail(record, _scored(with_, record), links)


def _scored(with_: Collaborators, record: Batch) -> int:
    """Chunks that are scored: while it runs, what lies there."""
    if record.status is RunStatus.FINISHED or not record.chunks:
        return record.chunks if record.predictions_key else 0
    prefix = layout.batch_scores_prefix(record.model, record.batch_id)
    return min(record.chunks, with_.objects.count(with_.data_bucket, prefix))
