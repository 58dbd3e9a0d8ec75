"""The door between API Gateway's proxy events and an ASGI app: Mangum, made to hold, and lighter.

What Mangum 0.22 leaves to its user is settled here:

* it runs the app on the thread's *current* event loop, and after ``asyncio.run`` a thread of
  Python 3.13 has none: each gateway owns a loop and sets it before every request;
* an event loop turns a few times to run a coroutine that never waits, which took longer than a
  prediction: for paths where the app says that it never does, the coroutine is only run to its end;
* only ``application/json`` and its like count as text: problem details would go out as base64;
* an event is read through handlers that know every kind of gateway; ours, Mangum's own extension
  point, knows API Gateway's REST events and falls back on Mangum's for what is rare in them;
* an event it cannot read (bad base64, an impossible ``Host``) raises before the app starts and
  would end as API Gateway's bare 502: it is answered as a problem.
"""

import asyncio
import json
import logging
import weakref
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

from mangum import Mangum
from mangum.handlers import APIGateway
from mangum.handlers.utils import get_server_and_port
from mangum.types import ASGI, LambdaConfig, Message, Response, Scope

from millrace import base64_text, observability
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
            return base64_text.decode(body)
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
        came = response["headers"]
        headers = {name.decode(): value.decode() for name, value in came}
        if len(headers) != len(came):
            return super().__call__(response)
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
            "body": base64_text.encode(body),
            "isBase64Encoded": bool(body),
        }


class _Exchange:
    """One request and its answer, with an application that never waits.

    What Mangum's own does on an event loop and with a queue.
    """

    __slots__ = ("_body", "body", "headers", "status")

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.status = 0
        self.headers: Any = ()
        self.body = b""

    async def receive(self) -> Message:
        """The request's body, and after it that the caller is gone."""
        body, self._body = self._body, None
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Takes a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = message["headers"]
        else:
            self.body += message["body"]


class Door(Mangum):
    """Mangum, which runs what never waits without an event loop."""

    def straight(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answers one event by an application that never waits."""
        handler = _handler_of(event, context, self.config) or self.infer(event, context)
        exchange = _Exchange(handler.body)
        coroutine: Any = self.app(handler.scope, exchange.receive, exchange.send)
        try:
            coroutine.send(None)
        except StopIteration:
            pass
        except Exception:  # the answer is the one that Mangum gives
            logging.getLogger("mangum.http").exception("An error occurred running the application.")
            exchange = _crashed()
        else:
            coroutine.close()
            raise AssertionError("expected an application that never waits, and it does")
        return handler(
            {"status": exchange.status, "headers": exchange.headers, "body": exchange.body}
        )


def _handler_of(event: dict[str, Any], context: Any, config: LambdaConfig) -> RestEvent | None:
    """Of a REST API's event; None for any other."""
    if RestEvent.infer(event, context, config):
        return RestEvent(event, context, config)
    return None


def _crashed() -> _Exchange:
    exchange = _Exchange(b"")
    exchange.status = 500
    exchange.headers = ((b"content-type", b"text/plain; charset=utf-8"),)
    exchange.body = b"Internal Server Error"
    return exchange


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
        self._never_waits = never_waits
        self._mangum = Door(
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
            if self._never_waits(event["httpMethod"], event["path"]):
                return self._mangum.straight(event, context)
            asyncio.set_event_loop(self._loop)
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
