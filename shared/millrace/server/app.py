"""The server's ASGI application: the prediction service behind a door, with metrics beside it.

The service is the one that runs on Lambda. Added here is what API Gateway and CloudWatch are for
there: API keys, a bound on how long a body may take, health, the OpenAPI document, and metrics.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson

import millrace
from millrace.bundle import Bundle, Shelf
from millrace.errors import MillraceError, RequestTimeoutError
from millrace.http.asgi import Message, Receive, Reply, Scope, Send, sent
from millrace.http.caller import CORRELATION_KEY, correlation_id
from millrace.http.inference import Inference
from millrace.http.problem_details import PROBLEM_MEDIA_TYPE, problem_body
from millrace.http.routes import ROUTES
from millrace.http.service import Service, create_service
from millrace.observability import logger
from millrace.public_key import attestation_by
from millrace.server.journals import LaterJournal, MeteredJournal, Together
from millrace.server.keys import digest, read_keys
from millrace.server.lines import LineWriter
from millrace.server.metrics import Meters
from millrace.server.settings import OFF, STDOUT, ServerSettings
from millrace.serving import telemetry
from millrace.serving.codec import Limits
from millrace.serving.identity import new_prediction_id
from millrace.serving.journal import PredictionLog
from millrace.serving.store import ModelStore

API_KEY_HEADER: Final = b"x-api-key"
_JSON: Final = b"application/json"
_OPEN: Final = ("/v1/health", "/v2/health/", "/metrics")
"""What needs no key: probes and scrapers have none, and nothing there is anybody's data."""


def create() -> "Server":
    """The application of this environment, for uvicorn."""
    return build(ServerSettings.from_environment())


def build(settings: ServerSettings) -> "Server":
    """The application and everything it works with.

    Args:
        settings: The server's settings.

    Raises:
        ConfigurationError: The file of API keys is not one, or that of the public key.
    """
    meters = Meters()
    shelf = Shelf(settings.bundles, on_damage=partial(_note_damage, meters))
    shelf.look()
    meters.describe(shelf.bundles)
    telemetry.observe(meters)
    limits = Limits(rows=settings.max_rows, body_bytes=int(settings.max_body_mb * 1e6))
    store = ModelStore(
        shelf,
        shelf,
        "",
        refresh_seconds=settings.refresh_seconds,
        limits=limits,
        capacity_bytes=settings.model_cache_mb * 2**20,
        attestation=attestation_by(settings.public_key) if settings.public_key else None,
    )
    lines: PredictionLog | None = None
    together: Together = nullcontext
    if settings.capture != OFF:
        file = None if settings.capture == STDOUT else Path(settings.capture)
        turns = settings.run_folder / "lines.lock" if settings.run_folder else None
        writer = LineWriter(file, turns=turns if settings.workers > 1 else None)
        lines, together = PredictionLog(writer), writer.together
    journal = LaterJournal(MeteredJournal(meters, lines), together)
    service = create_service(store, new_id=new_prediction_id, limits=limits, journal=journal)
    keys = None if settings.api_key_file is None else read_keys(settings.api_key_file)
    return Server(
        service,
        meters=meters,
        journal=journal,
        shelf=shelf,
        store=store,
        keys=keys,
        request_seconds=settings.request_seconds,
    )


def _note_damage(meters: Meters, path: Path, kept: Bundle | None, error: MillraceError) -> None:
    model = None if kept is None else kept.manifest.model
    logger.error(
        "bundle cannot be served",
        extra={
            "file": path.name,
            "error": type(error).__name__,
            "reason": str(error),
            "still_serving": None if kept is None else f"{model}@{kept.manifest.version}",
        },
    )
    with telemetry.harmless():
        meters.load_failed(model)


class Server:
    """The application.

    Args:
        service: The prediction service.
        meters: Count.
        journal: Is told of the service's answers.
        shelf: The bundles.
        store: Loads them.
        keys: Digests of the API keys that are let in; None lets everybody in.
        request_seconds: How long a body may take to arrive.
    """

    def __init__(
        self,
        service: Service,
        *,
        meters: Meters,
        journal: LaterJournal,
        shelf: Shelf,
        store: ModelStore,
        keys: frozenset[bytes] | None,
        request_seconds: float,
    ) -> None:
        self._service = service
        self.meters = meters
        self._journal = journal
        self._shelf = shelf
        self._store = store
        self._keys = keys
        self._request_seconds = request_seconds
        # Unique without asking the system for randomness at each request.
        self._process = uuid4().hex
        self._requests = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one ASGI request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        started = self._begin(scope)
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            reply = self._without_service(scope)
            if reply is not None:
                await sent(reply, noted)
            else:
                await self._service(scope, _within(receive, self._request_seconds), noted)
        finally:
            self._end(scope, status, started)

    def never_waits(self, method: str, path: str) -> bool:
        """Whether `answer` answers a request, its body being there."""
        return Service.never_waits(method, path) or (method == "GET" and path in _OWN)

    def answer(self, scope: Scope, body: bytes, write: Callable[[Reply], None]) -> None:
        """Answers a request that never waits, by one call in the place of many.

        Args:
            scope: ASGI's, of the request.
            body: As it came.
            write: Sends the reply.
        """
        started = self._begin(scope)
        reply = self._without_service(scope) or self._service.reply(scope, body)
        try:
            write(reply)
        finally:
            self._service.told(reply)
            self._end(scope, reply.status, started)

    def _begin(self, scope: Scope) -> float:
        scope[CORRELATION_KEY] = f"{self._process}-{next(self._requests):x}"
        return time.perf_counter()

    def _end(self, scope: Scope, status: int, started: float) -> None:
        with telemetry.harmless():
            seconds = time.perf_counter() - started
            self.meters.responded(route_of(scope["path"]), status, seconds)

    def _without_service(self, scope: Scope) -> Reply | None:
        """The reply to who is not let in, and to what the server answers itself."""
        path: str = scope["path"]
        if self._keys is not None and not path.startswith(_OPEN) and not self._knows(scope):
            return _refused(scope)
        if path in _OWN and scope["method"] == "GET":
            return self._own(path, scope)
        return None

    def _knows(self, scope: Scope) -> bool:
        key = _header(scope, API_KEY_HEADER)
        return key is not None and digest(key) in (self._keys or ())

    def _own(self, path: str, scope: Scope) -> Reply:
        if path == "/metrics":
            self._journal.flush()
            accept = _header(scope, b"accept") or b""
            body, content_type = self.meters.exposition(accept.decode("latin-1"))
            return Reply.of(200, body, content_type.encode())
        if path == "/v1/health":
            health = {
                "status": "ok",
                "stage": "on-premises",
                "version": millrace.__version__,
                "code_version": "",
                "checks": {},
            }
            return Reply.of(200, orjson.dumps(health), _JSON)
        return Reply.of(200, openapi_document(with_keys=self._keys is not None), _JSON)

    # ── Start and stop ──────────────────────────────────────────────────────────────────────────

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._load_all()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._journal.flush()
        self.meters.write()
        await send({"type": "lifespan.shutdown.complete"})

    def _load_all(self) -> None:
        """Loads every champion before the first request; one that fails is told as not ready."""
        for model in self._shelf.models():
            try:
                self._store.get(model)
            except MillraceError as exc:
                logger.error("model is not ready", extra={"model": model, "reason": str(exc)})


_OWN: Final = frozenset({"/metrics", "/v1/health", "/v1/openapi.json"})


def route_of(path: str) -> str:
    """The route of a path, as metrics name it."""
    if path.endswith("/predict"):
        return "predict"
    if path.endswith("/infer"):
        return "infer"
    if path == "/metrics":
        return "metrics"
    if path == "/v1/health" or path.startswith("/v2/health/"):
        return "health"
    return "metadata" if Inference.matches(path) else "other"


def openapi_document(*, with_keys: bool) -> bytes:
    """The committed OpenAPI document, of the routes that this server has."""
    folder = Path(millrace.__file__).parent / "http"
    document: dict[str, Any] = json.loads((folder / "openapi.json").read_bytes())
    here = {r.path for r in ROUTES if r.function == "predict"} | _OWN
    document["paths"] = {p: o for p, o in document["paths"].items() if p in here}
    document["servers"] = [{"url": "/"}]
    document["security"] = [{"api_key": []}] if with_keys else [{}]
    schemes = document["components"]["securitySchemes"]
    document["components"]["securitySchemes"] = {"api_key": schemes["api_key"]}
    used = {tag for o in document["paths"].values() for m in o.values() for tag in m["tags"]}
    document["tags"] = [t for t in document.get("tags", ()) if t["name"] in used]
    return orjson.dumps(document)


def _header(scope: Scope, name: bytes) -> bytes | None:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return next((value for key, value in headers if key == name), None)


def _within(receive: Receive, seconds: float) -> Receive:
    """Bounds how long a body may take to arrive, so that slow senders hold nothing up.

    uvicorn's request knows whether its body is there already, as it mostly is; then nothing can take
    long, and a timer would cost more than the rest of this application.
    """
    if getattr(getattr(receive, "__self__", None), "more_body", True) is False:
        return receive
    deadline = asyncio.get_running_loop().time() + seconds
    arrived = False

    async def bounded() -> Message:
        nonlocal arrived
        if arrived:
            return await receive()  # waits for the caller to go away
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as exc:
            raise RequestTimeoutError(
                f"expected the whole body within {seconds:g} seconds of the headers"
            ) from exc
        arrived = not message.get("more_body", False)
        return message

    return bounded


def _refused(scope: Scope) -> Reply:
    path: str = scope["path"]
    detail = "expected a valid API key in the header x-api-key"
    if Inference.matches(path):
        return Reply.of(401, orjson.dumps({"error": detail}), _JSON)
    body = problem_body(
        status=401,
        code="unauthorized",
        detail=detail,
        instance=path,
        correlation=correlation_id(scope),
    )
    return Reply.of(401, body, PROBLEM_MEDIA_TYPE.encode())
