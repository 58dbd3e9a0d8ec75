"""The registry's app: everything but predictions.

Endpoints decode, call one operation and encode. They are ``async`` although they wait on AWS in
the foreground: a Lambda environment answers one request at a time, and a plain ``def`` would pay
a hop to a thread.
"""

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

import millrace
from millrace.http import problems
from millrace.http.bodies import is_unspecific
from millrace.http.endpoints.approvals import add_approval_routes
from millrace.http.endpoints.batches import add_batch_routes
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.costs import add_cost_routes
from millrace.http.endpoints.feedback import add_feedback_route
from millrace.http.endpoints.ledger import add_ledger_routes
from millrace.http.endpoints.models import add_model_routes
from millrace.http.endpoints.monitoring import add_monitoring_routes
from millrace.http.endpoints.questions import add_question_routes
from millrace.http.endpoints.rollouts import add_rollout_routes
from millrace.http.endpoints.runs import add_run_routes
from millrace.http.endpoints.service import add_service_routes
from millrace.http.endpoints.specs import add_spec_routes


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
    add_service_routes(app, with_)
    add_model_routes(app, with_)
    add_ledger_routes(app, with_)
    add_question_routes(app, with_)
    add_approval_routes(app, with_)
    add_spec_routes(app, with_)
    add_run_routes(app, with_)
    add_batch_routes(app, with_)
    add_rollout_routes(app, with_)
    add_monitoring_routes(app, with_)
    add_cost_routes(app, with_)
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
