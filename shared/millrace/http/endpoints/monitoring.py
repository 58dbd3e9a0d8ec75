"""Monitoring: the windows of a model, the report of each, and the alarms."""

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Path, Query
from starlette.requests import Request

from millrace import layout
from millrace.errors import FieldProblem, InvalidRequestError, NotFoundError
from millrace.http import problems
from millrace.http.caller import actor, correlation_id
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.parameters import (
    DEFAULT_PAGE,
    Limit,
    Name,
    PageToken,
    Since,
    Until,
    json_only,
    listed,
    moment,
)
from millrace.http.monitoring_models import (
    AlarmDecision,
    AlarmDetail,
    AlarmPage,
    AlarmSilence,
    AlarmWidening,
    MonitorAnswer,
    MonitorWindowPage,
    alarm_detail,
    alarm_view,
    window_view,
)
from millrace.monitoring.archive import latest, of_window
from millrace.monitoring.episode_records import Episode, EpisodeState
from millrace.monitoring.retraining import of_episode
from millrace.monitoring.windows import list_windows

AlarmId = Annotated[
    str, Path(pattern=r"^[0-9]{8}T[0-9]{4}-[0-9a-f]{10}$", description="The alarm.")
]
Window = Annotated[
    str | None,
    Query(max_length=40, description="Begin of the window, in ISO 8601. Default: the newest."),
]


def add_monitoring_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""
    episodes = with_.episodes

    @app.get(
        "/v1/models/{name}/monitor",
        tags=["monitoring"],
        operation_id="get_monitor",
        summary="How a model is: traffic, drift, performance, alarms, and what was done",
        responses=problems.documented(404),
    )
    async def get_monitor(name: Name, window: Window = None) -> MonitorAnswer:
        at = moment(window, "window")
        kept: dict[str, Any] = {"objects": with_.objects, "bucket": with_.artifact_bucket}
        report = latest(name, **kept) if at is None else of_window(name, at, **kept)
        if report is None:
            with_.registry.get_model(name)
            raise NotFoundError(
                f"model {name!r} has no monitoring report yet: the first comes after its first "
                "whole window with traffic"
                if at is None
                else f"model {name!r} has no report of a window that began at {at.isoformat()}"
            )
        key = layout.monitor_report_key(name, report.since, "html")
        return MonitorAnswer(report=report, report_url=with_.link(with_.artifact_bucket, key))

    @app.get(
        "/v1/models/{name}/monitor/windows",
        tags=["monitoring"],
        operation_id="list_monitor_windows",
        summary="The windows of a model that were judged, newest first",
        responses=problems.documented(404),
    )
    async def list_monitor_windows(
        name: Name,
        since: Since = None,
        until: Until = None,
        version: Annotated[
            int | None, Query(ge=1, lt=10**6, description="Only windows of this version.")
        ] = None,
        limit: Limit = DEFAULT_PAGE,
        page_token: PageToken = None,
    ) -> MonitorWindowPage:
        listing = partial(
            list_windows,
            with_.table,
            name,
            since=moment(since, "since"),
            until=moment(until, "until"),
            version=version,
        )
        items, token = listed(listing, limit, page_token)
        if not items and not page_token:
            with_.registry.get_model(name)
        return MonitorWindowPage(items=[window_view(w) for w in items], next_page_token=token)

    @app.get(
        "/v1/models/{name}/alarms",
        tags=["monitoring"],
        operation_id="list_alarms",
        summary="A model's alarms, newest first",
        responses=problems.documented(404),
    )
    async def list_alarms(
        name: Name,
        state: Annotated[
            Literal["open", "acknowledged", "silenced", "closed"] | None,
            Query(description="Only these."),
        ] = None,
        limit: Limit = DEFAULT_PAGE,
        page_token: PageToken = None,
    ) -> AlarmPage:
        wanted = None if state is None else EpisodeState(state)
        items, token = listed(
            partial(episodes.list_episodes, name, state=wanted), limit, page_token
        )
        if not items and not page_token:
            with_.registry.get_model(name)
        return AlarmPage(items=[alarm_view(e) for e in items], next_page_token=token)

    @app.get(
        "/v1/models/{name}/alarms/{alarm_id}",
        tags=["monitoring"],
        operation_id="get_alarm",
        summary="An alarm with its whole history",
        responses=problems.documented(404),
    )
    async def get_alarm(name: Name, alarm_id: AlarmId) -> AlarmDetail:
        return _detail(episodes.get(name, alarm_id))

    @app.post(
        "/v1/models/{name}/alarms/{alarm_id}/acknowledge",
        tags=["monitoring"],
        operation_id="acknowledge_alarm",
        summary="Say that somebody knows of it; nobody is told again before it is over",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def acknowledge_alarm(
        name: Name, alarm_id: AlarmId, request: Request, body: AlarmDecision | None = None
    ) -> AlarmDetail:
        reason = body.reason if body else ""
        return _detail(episodes.acknowledge(name, alarm_id, **_said(request, reason)))

    @app.post(
        "/v1/models/{name}/alarms/{alarm_id}/silence",
        tags=["monitoring"],
        operation_id="silence_alarm",
        summary="Tell nobody of it until a moment",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def silence_alarm(
        name: Name, alarm_id: AlarmId, request: Request, body: AlarmSilence
    ) -> AlarmDetail:
        if body.until.tzinfo is None:
            message = "expected a time with its zone, such as 2026-11-28T06:00Z"
            raise InvalidRequestError(f"until: {message}", [FieldProblem("until", message)])
        return _detail(episodes.silence(name, alarm_id, body.until, **_said(request, body.reason)))

    @app.post(
        "/v1/models/{name}/alarms/{alarm_id}/widen",
        tags=["monitoring"],
        operation_id="widen_alarm",
        summary="Tolerate more of it, now and later; or take that back",
        dependencies=[Depends(json_only)],
        responses=problems.documented(400, 404, 409, 415),
    )
    async def widen_alarm(
        name: Name, alarm_id: AlarmId, request: Request, body: AlarmWidening
    ) -> AlarmDetail:
        return _detail(episodes.widen(name, alarm_id, body.to, **_said(request, body.reason)))

    def _detail(episode: Episode) -> AlarmDetail:
        key = layout.monitor_report_key(episode.model, episode.last_window, "html")
        decision = of_episode(with_.table, episode.model, episode.id)
        return alarm_detail(episode, with_.link(with_.artifact_bucket, key), decision)


def _said(request: Request, reason: str) -> dict[str, Any]:
    return {
        "actor": actor(request.scope),
        "reason": reason,
        "correlation_id": correlation_id(request.scope),
    }
