"""The door between API Gateway's proxy events and an ASGI app: Mangum, made to hold.

Three things Mangum 0.22 leaves to its user are settled here:

* it runs the app on the thread's *current* event loop, and after ``asyncio.run`` a thread of
  Python 3.13 has none: each gateway owns a loop and sets it before every request;
* only ``application/json`` and its like count as text: problem details would go out as base64;
* an event it cannot read (bad base64, an impossible ``Host``) raises before the app starts and
  would end as API Gateway's bare 502: it is answered as a problem.
"""

import asyncio
import json
import weakref
from typing import Any, Final

from mangum import Mangum
from mangum.types import ASGI

from millrace.errors import MillraceError
from millrace.http.caller import request_id
from millrace.http.guard import Guard, Refusal
from millrace.http.problem_details import PROBLEM_MEDIA_TYPE, RETRY_AFTER_SECONDS, problem_body
from millrace.observability import logger

_TEXT: Final = ["text/", "application/json", PROBLEM_MEDIA_TYPE, "application/yaml"]


class Gateway:
    """A Lambda handler for an ASGI app behind a REST API.

    Args:
        app: The application.
        guard: Says whom to refuse; without one, API Gateway alone does.
    """

    def __init__(self, app: ASGI, guard: Guard | None = None) -> None:
        self._guard = guard
        self._loop = asyncio.new_event_loop()
        weakref.finalize(self, self._loop.close)
        asyncio.set_event_loop(self._loop)
        self._mangum = Mangum(app, lifespan="off", text_mime_types=_TEXT)

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answers one proxy event."""
        identifier = request_id(event)
        logger.set_correlation_id(identifier)
        asyncio.set_event_loop(self._loop)
        refused = self._refused(event, identifier)
        if refused is not None:
            return refused
        try:
            return self._mangum(event, context)
        except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as exc:
            # Mangum answers whatever the app raises; what comes out of it is the event's fault.
            logger.warning("event cannot be read", exc_info=exc)
            detail = (
                "the request cannot be read: expected an API Gateway proxy event with a valid Host "
                "header and a body in the encoding it names"
            )
            return _answer(event, identifier, Refusal(400, "malformed_request", detail))

    def _refused(self, event: dict[str, Any], identifier: str) -> dict[str, Any] | None:
        """The answer to a caller who may not ask this; None lets the request through."""
        if self._guard is None:
            return None
        try:
            refusal = self._guard.refusal(event)
        except MillraceError as exc:
            logger.error("roles of the caller cannot be read", exc_info=exc)
            busy = "who you are cannot be looked up now; try again shortly"
            return _answer(event, identifier, Refusal(503, "roles_unavailable", busy))
        if refusal is None:
            return None
        logger.info("caller refused", extra={"code": refusal.code, "status": refusal.status})
        return _answer(event, identifier, refusal)


def _answer(event: dict[str, Any], identifier: str, refusal: Refusal) -> dict[str, Any]:
    """A refusal as problem details; below /v2 as the Open Inference Protocol writes errors."""
    path = str(event.get("path", ""))
    headers: dict[str, str] = {}
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refusal.status == 503:
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    if path == "/v2" or path.startswith("/v2/"):
        headers["content-type"] = "application/json"
        body = json.dumps(
            {"error": refusal.detail, "code": refusal.code, "correlation_id": identifier}
        )
    else:
        headers["content-type"] = PROBLEM_MEDIA_TYPE
        body = problem_body(
            status=refusal.status,
            code=refusal.code,
            detail=refusal.detail,
            instance=path,
            correlation=identifier,
        ).decode()
    return {
        "statusCode": refusal.status,
        "headers": headers,
        "body": body,
        "isBase64Encoded": False,
    }
