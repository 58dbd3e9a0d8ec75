"""The functions behind one door: what API Gateway does, as an ASGI application.

Requests go to the function that the list of routes names, as proxy events; a path or method that is
no route is answered as API Gateway answers it, without asking a function.
"""

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from millrace.http.routes import ROUTES, Route
from tests.fakes.cloud import LambdaContext
from tests.fakes.gateway import Handler

type Scope = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_UNKNOWN: Final = json.dumps({"message": "Missing Authentication Token"}).encode()


class Front:
    """API Gateway with the functions of this process behind it.

    Args:
        handlers: The functions, by their names in the list of routes.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._count = 0
        # One request at a time, as one Lambda environment has it, and in no thread that runs a loop.
        self._thread = ThreadPoolExecutor(1)
        self._templates = [(_pattern(route.path), route) for route in ROUTES]

    def route_of(self, method: str, path: str) -> Route | None:
        """The route that takes a request; one without parameters comes first."""
        fitting = [
            r for pattern, r in self._templates if r.method == method and pattern.fullmatch(path)
        ]
        return min(fitting, key=lambda r: r.path.count("{"), default=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one ASGI request."""
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        loop = asyncio.get_running_loop()
        status, headers, answer = await loop.run_in_executor(
            self._thread, self._answer, scope, body
        )
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, scope: Scope, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        raw_path = scope.get("raw_path") or scope["path"].encode()
        route = self.route_of(scope["method"], raw_path.decode("latin-1"))
        if route is None:
            kind = [(b"content-type", b"application/json")]
            return 403, kind, _UNKNOWN
        self._count += 1
        raw = self._handlers[route.function](self._event(scope, raw_path, body), LambdaContext())
        headers = {
            **{k: [v] for k, v in raw.get("headers", {}).items()},
            **raw.get("multiValueHeaders", {}),
        }
        told = raw["body"]
        content = base64.b64decode(told) if raw["isBase64Encoded"] else told.encode()
        pairs = [(k.lower().encode(), v.encode()) for k, vs in headers.items() for v in vs]
        return raw["statusCode"], pairs, content

    def _event(self, scope: Scope, raw_path: bytes, body: bytes) -> dict[str, Any]:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        pairs = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
        path = unquote(raw_path.decode("latin-1"))
        try:
            text, encoded = body.decode(), False
        except UnicodeDecodeError:
            text, encoded = base64.b64encode(body).decode(), True
        return {
            "resource": "/{proxy+}",
            "path": path,
            "httpMethod": scope["method"],
            "headers": dict(pairs),
            "multiValueHeaders": {k: [v for n, v in pairs if n == k] for k, _ in pairs},
            "queryStringParameters": dict(query) or None,
            "multiValueQueryStringParameters": {
                k: [v for n, v in query if n == k] for k, _ in query
            }
            or None,
            "pathParameters": None,
            "stageVariables": None,
            "requestContext": {
                "requestId": f"req-{self._count}",
                "stage": "live",
                "path": f"/live{path}",
                "httpMethod": scope["method"],
                "identity": {"userArn": None, "apiKeyId": None, "sourceIp": "127.0.0.1"},
            },
            "body": text or None,
            "isBase64Encoded": encoded,
        }


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{[^}]+\\\}", "[^/]+", re.escape(path)))
