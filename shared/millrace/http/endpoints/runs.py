"""Training runs: shown, and asked for."""

from functools import partial
from typing import Annotated

from fastapi import Depends, FastAPI, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from millrace.aws.stepfunctions import StepProgress
from millrace.errors import MillraceError
from millrace.http import operations, problems
from millrace.http.caller import actor, correlation_id
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.parameters import (
    DEFAULT_PAGE,
    IdempotencyKey,
    Limit,
    Name,
    PageToken,
    Since,
    Until,
    json_only,
    listed,
    moment,
)
from millrace.http.models import (
    RetrainAccepted,
    RetrainRequest,
    RunDetail,
    RunPage,
    run_detail,
    run_view,
)
from millrace.messages import Cause
from millrace.observability import logger
from millrace.questions.listings import Listings
from millrace.registry.records import RunOutcome, RunStatus

RunId = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{1,99}$", description="The run.")]


def add_run_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""

    @app.get(
        "/v1/models/{name}/runs",
        tags=["runs"],
        operation_id="list_runs",
        summary="A model's runs, newest first",
        responses=problems.documented(404),
    )
    async def list_runs(
        name: Name,
        status: Annotated[RunStatus | None, Query(description="Their status.")] = None,
        outcome: Annotated[RunOutcome | None, Query(description="How they ended.")] = None,
        cause: Annotated[Cause | None, Query(description="What started them.")] = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = DEFAULT_PAGE,
        page_token: PageToken = None,
    ) -> RunPage:
        listing = partial(
            Listings(with_.table).runs,
            name,
            status=status,
            outcome=outcome,
            cause=cause,
            since=moment(since, "since"),
            until=moment(until, "until"),
        )
        items, token = listed(listing, limit, page_token)
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
            report_url=with_.link(with_.artifact_bucket, run.report_key),
            quarantine_url=with_.link(with_.data_bucket, quarantine),
        )

    @app.post(
        "/v1/models/{name}/retrain",
        status_code=202,
        tags=["runs"],
        operation_id="retrain",
        summary="Train again on the newest dataset version",
        dependencies=[Depends(json_only)],
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
            labelled=body.labelled if body else False,
            token=idempotency_key,
            registry=with_.registry,
            trigger=with_.trigger,
            actor=actor(request.scope),
            correlation_id=correlation_id(request.scope),
            new_token=with_.new_token,
        )
        response.headers["Location"] = f"/v1/runs/{accepted.run_id}"
        return accepted


def _steps(with_: Collaborators, execution_arn: str) -> tuple[StepProgress, ...]:
    """The run's steps; none once Step Functions forgot the execution or cannot say."""
    if not execution_arn:
        return ()
    try:
        return with_.steps(execution_arn)
    except MillraceError as exc:
        logger.warning("execution history unavailable", extra={"error": type(exc).__name__})
        return ()
