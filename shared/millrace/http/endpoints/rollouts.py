"""Rollouts: started, shown, paused, resumed and aborted."""

from functools import partial
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Path
from starlette.requests import Request
from starlette.responses import Response

from millrace.http import problems
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
from millrace.http.rollout_models import (
    RolloutAccepted,
    RolloutDecision,
    RolloutDetail,
    RolloutPage,
    RolloutRequest,
    RolloutView,
    rollout_detail,
    rollout_view,
)
from millrace.rollout.watch import notice_of

RolloutId = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{1,99}$", description="The rollout.")]
LAST_LOOKS = 20
"""Looks that a rollout is shown with."""


def add_rollout_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""
    rollouts = with_.rollouts

    @app.post(
        "/v1/models/{name}/rollouts",
        status_code=202,
        tags=["rollouts"],
        operation_id="start_rollout",
        summary="Let a version take the traffic step by step",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def start_rollout(
        name: Name,
        request: Request,
        response: Response,
        body: Annotated[
            RolloutRequest,
            Body(
                openapi_examples={
                    "as the spec says": {"value": {"version": 7}},
                    "canary": {"value": {"version": 7, "strategy": "canary", "steps": [5, 25, 50]}},
                }
            ),
        ],
        idempotency_key: IdempotencyKey = None,
    ) -> RolloutAccepted:
        with_.registry.get_version(name, body.version)
        answer = with_.rollout_door.ask(
            "start",
            {
                "model": name,
                "version": body.version,
                "changes": body.model_dump(
                    mode="json", exclude_unset=True, exclude={"version", "reason"}
                ),
                "token": idempotency_key or with_.new_token(),
                "actor": actor(request.scope),
                "reason": body.reason,
                "correlation_id": correlation_id(request.scope),
            },
        )
        response.headers["Location"] = f"/v1/rollouts/{answer['rollout_id']}"
        return RolloutAccepted.model_validate(answer)

    @app.get(
        "/v1/models/{name}/rollouts",
        tags=["rollouts"],
        operation_id="list_rollouts",
        summary="A model's rollouts, newest first",
        responses=problems.documented(404),
    )
    async def list_rollouts(
        name: Name, limit: Limit = DEFAULT_PAGE, page_token: PageToken = None
    ) -> RolloutPage:
        items, token = listed(partial(rollouts.list_rollouts, name), limit, page_token)
        return RolloutPage(items=[rollout_view(r) for r in items], next_page_token=token)

    @app.get(
        "/v1/rollouts/{rollout_id}",
        tags=["rollouts"],
        operation_id="get_rollout",
        summary="A rollout with its plan, its steps and its last looks",
        responses=problems.documented(404),
    )
    async def get_rollout(rollout_id: RolloutId) -> RolloutDetail:
        record = rollouts.get(rollout_id)
        looks = rollouts.judgements(rollout_id, limit=LAST_LOOKS).items
        return rollout_detail(record, list(looks))

    @app.post(
        "/v1/rollouts/{rollout_id}/pause",
        tags=["rollouts"],
        operation_id="pause_rollout",
        summary="Keep the traffic where it is; health is watched on",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def pause_rollout(
        rollout_id: RolloutId, request: Request, body: RolloutDecision | None = None
    ) -> RolloutView:
        rollout = rollouts.pause(rollout_id, **_said(request, body))
        by = actor(request.scope)
        with_.notifier.notify(notice_of(rollout, "rollout_paused", f"paused by {by}"))
        return rollout_view(rollout)

    @app.post(
        "/v1/rollouts/{rollout_id}/resume",
        tags=["rollouts"],
        operation_id="resume_rollout",
        summary="Go on where the rollout stands",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def resume_rollout(
        rollout_id: RolloutId, request: Request, body: RolloutDecision | None = None
    ) -> RolloutView:
        rollouts.get(rollout_id)
        with_.rollout_door.ask("resume", {"rollout_id": rollout_id, **_said(request, body)})
        return rollout_view(rollouts.get(rollout_id))

    @app.post(
        "/v1/rollouts/{rollout_id}/abort",
        tags=["rollouts"],
        operation_id="abort_rollout",
        summary="Give the traffic back to the champion, in one write",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def abort_rollout(
        rollout_id: RolloutId, request: Request, body: RolloutDecision | None = None
    ) -> RolloutView:
        rollout = rollouts.abort(rollout_id, **_said(request, body))
        by = actor(request.scope)
        with_.notifier.notify(notice_of(rollout, "rollout_aborted", f"aborted by {by}"))
        return rollout_view(rollout)


def _said(request: Request, body: RolloutDecision | None) -> dict[str, Any]:
    return {
        "actor": actor(request.scope),
        "reason": body.reason if body else "",
        "correlation_id": correlation_id(request.scope),
    }
