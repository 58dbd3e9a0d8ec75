"""The door between API Gateway's proxy events and an ASGI app: Mangum, made to hold, and lighter.

What Mangum 0.22 leaves to its user is settled here:

* it runs the app on the thread's *current* event loop, and after ``asyncio.run`` a thread of
  Python 3.13 has none: each gateway owns a loop and sets it before every request;
* an event loop turns a few times to run a coroutine that never waits, which took longer than a
  prediction: for paths where the app says that it never does, Mangum is given one that only runs it;
* only ``application/json`` and its like count as text: problem details would go out as base64;
* an event is read through handlers that know every kind of gateway; ours, Mangum's own extension
  point, knows API Gateway's REST events and falls back on Mangum's for what is rare in them;
* an event it cannot read (bad base64, an impossible ``Host``) raises before the app starts and
  would end as API Gateway's bare 502: it is answered as a problem.
"""

import asyncio
import base64
import binascii
import json
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast
from urllib.parse import unquote

from mangum import Mangum
from mangum.handlers import APIGateway
from mangum.handlers.utils import get_server_and_port
from mangum.types import ASGI, Response, Scope

from millrace import observability
from millrace.errors import MillraceError
from millrace.http.caller import request_id
from millrace.http.guard import Guard, Refusal
from millrace.http.problem_details import PROBLEM_MEDIA_TYPE, RETRY_AFTER_SECONDS, problem_body

_TEXT: Final = (
    "application/json",
    PROBLEM_MEDIA_TYPE,
    "text/",
    "application/yaml",
    "image/svg+xml",
)
_ASGI_VERSION: Final = {"version": "3.0", "spec_version": "2.0"}


class RestEvent(APIGateway):
    """Mangum's handler of REST API events, in fewer steps."""

    @property
    def body(self) -> bytes:
        """The request's body."""
        body = self.event.get("body") or b""
        if self.event.get("isBase64Encoded"):
            return binascii.a2b_base64(body)
        return body if isinstance(body, bytes) else body.encode()

    @property
    def scope(self) -> Scope:
        """The request as ASGI has it."""
        event = self.event
        many = event.get("multiValueHeaders")
        if many:
            headers = {k.lower(): v[0] if len(v) == 1 else ", ".join(v) for k, v in many.items()}
        else:
            headers = {k.lower(): v for k, v in (event.get("headers") or {}).items()}
        path = event["path"] or "/"
        query = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters")
        return {
            "type": "http",
            "http_version": "1.1",
            "method": event["httpMethod"],
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            "path": unquote(path) if "%" in path else path,
            "raw_path": None,
            "root_path": "",
            "scheme": headers.get("x-forwarded-proto", "https"),
            "query_string": super().scope["query_string"] if query else b"",
            "server": get_server_and_port(headers),
            "client": (event["requestContext"].get("identity", {}).get("sourceIp"), 0),
            "asgi": _ASGI_VERSION,
            "aws.event": event,
            "aws.context": self.context,
        }

    def __call__(self, response: Response) -> dict[str, Any]:
        """The answer as API Gateway takes it."""
        headers: dict[str, str] = {}
        for name, value in response["headers"]:
            key = name.decode()
            if key in headers:
                return super().__call__(response)
            headers[key] = value.decode()
        body = response["body"]
        if headers.get("content-type", "").startswith(_TEXT):
            return {
                "statusCode": response["status"],
                "headers": headers,
                "body": body.decode(),
                "isBase64Encoded": False,
            }
        return {
            "statusCode": response["status"],
            "headers": headers,
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": bool(body),
        }


class Straight(asyncio.AbstractEventLoop):
    """An event loop for applications that never wait: it runs a coroutine to its end."""

    def create_task(self, coro: Any, **_: Any) -> Any:
        """The coroutine itself."""
        return coro

    def run_until_complete(self, future: Any) -> Any:
        """Runs the coroutine.

        Raises:
            AssertionError: It waits for something.
        """
        coroutine = cast("Coroutine[Any, Any, Any]", future)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        coroutine.close()
        raise AssertionError("expected an application that never waits, and it does")


class Gateway:
    """A Lambda handler for an ASGI app behind a REST API.

    Args:
        app: The application.
        guard: Says whom to refuse; without one, API Gateway alone does.
        never_waits: Tells by method and path whether the app answers without waiting for anything.
    """

    def __init__(
        self,
        app: ASGI,
        guard: Guard | None = None,
        *,
        never_waits: Callable[[str, str], bool] = lambda _method, _path: False,
    ) -> None:
        self._guard = guard
        self._loop = asyncio.new_event_loop()
        weakref.finalize(self, self._loop.close)
        asyncio.set_event_loop(self._loop)
        # Typeshed takes every method of the class for abstract; at run time none is.
        self._straight = Straight()  # type: ignore[abstract]
        self._never_waits = never_waits
        self._mangum = Mangum(
            app, lifespan="off", text_mime_types=[*_TEXT], custom_handlers=[RestEvent]
        )

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answers one proxy event."""
        identifier = request_id(event)
        observability.correlate(identifier)
        refused = self._refused(event, identifier)
        if refused is not None:
            return refused
        try:
            straight = self._never_waits(event["httpMethod"], event["path"])
            asyncio.set_event_loop(self._straight if straight else self._loop)
            return self._mangum(event, context)
        except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as exc:
            # Mangum answers whatever the app raises; what comes out of it is the event's fault.
            observability.logger.warning("event cannot be read", exc_info=exc)
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
            observability.logger.error("roles of the caller cannot be read", exc_info=exc)
            busy = "who you are cannot be looked up now; try again shortly"
            return _answer(event, identifier, Refusal(503, "roles_unavailable", busy))
        if refusal is None:
            return None
        observability.logger.info(
            "caller refused", extra={"code": refusal.code, "status": refusal.status}
        )
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
