"""The hot route: ``POST …/predict`` as an ASGI application of its own, which no framework touches.

FastAPI describes the route, answers every other one, and would answer this one by the same code; a
request that is dispatched here costs a fifth of it. Nothing waits in it, so it needs no thread.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from millrace.errors import MillraceError, NotFoundError
from millrace.http import bodies
from millrace.http.caller import correlation_id
from millrace.http.problem_details import PROBLEM_MEDIA_TYPE, refusal, shown
from millrace.serving import telemetry
from millrace.serving.codec import Limits
from millrace.serving.prediction import Predictor
from millrace.serving.store import LoadedModel
from millrace.vocabulary import MODEL_NAME_PATTERN

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

VERSION_HEADER: Final = "X-Millrace-Model-Version"
PREDICTION_HEADER: Final = "X-Millrace-Prediction-Id"

_NAME: Final = re.compile(MODEL_NAME_PATTERN)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
_BEGINNING: Final = "/v1/models/"
_ENDING: Final = "/predict"
_VERSIONS: Final = "versions"


class Models(Protocol):
    """What the routes need of a model store."""

    def get(self, model: str) -> LoadedModel:
        """The champion, in memory."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class HotRoute:
    """Answers prediction requests.

    Args:
        store: Gives loaded models.
        predictor: Runs them.
        limits: How much one request may carry.
    """

    def __init__(self, store: Models, predictor: Predictor, limits: Limits) -> None:
        self._store = store
        self._predictor = predictor
        self._limits = limits

    @staticmethod
    def matches(scope: Scope) -> bool:
        """Whether a request is for this route."""
        return (
            scope["method"] == "POST"
            and scope["path"].startswith(_BEGINNING)
            and asked(scope["path"]) is not None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one ASGI request."""
        reply = await self.reply(scope, receive)
        telemetry.flush()
        await send(
            {"type": "http.response.start", "status": reply.status, "headers": reply.headers}
        )
        await send({"type": "http.response.body", "body": reply.body})

    async def reply(self, scope: Scope, receive: Receive) -> Reply:
        """The answer to a request, whatever happens."""
        started = self._predictor.clock()
        correlation = correlation_id(scope)
        path: str = scope["path"]
        loaded: LoadedModel | None = None
        try:
            name, _ = _named(path)
            headers = _headers(scope["headers"])
            came = bodies.bare_type(headers.get(b"content-type", b"").decode("latin-1"))
            if not bodies.reads_as_json(came):
                raise bodies.unsupported_type(came, "application/json")
            body = bodies.inflated(
                await received(receive, self._limits.body_bytes),
                headers.get(b"content-encoding", b"").decode("latin-1"),
                self._limits.body_bytes,
            )
            loaded = self._store.get(name)
            batch = loaded.codec.decode(body)
            prediction = self._predictor.run(loaded, batch)
            content = loaded.codec.answer(
                prediction.output,
                version=prediction.version,
                prediction_id=prediction.prediction_id,
                warnings=batch.warnings,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            if isinstance(error, MillraceError):
                self._predictor.refused(
                    error, loaded=loaded, started=started, correlation_id=correlation
                )
            told = refusal(error, instance=path, correlation=correlation)
            return Reply(
                told.status,
                told.body,
                (
                    (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
                    (b"content-length", b"%d" % len(told.body)),
                    *((k.lower().encode(), v.encode()) for k, v in told.headers),
                ),
            )
        self._predictor.answered(prediction, started=started, correlation_id=correlation)
        return Reply(
            200,
            content,
            (
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(content)),
                (_VERSION_KEY, b"%d" % prediction.version),
                (_PREDICTION_KEY, prediction.prediction_id.encode()),
            ),
        )


def asked(path: str) -> tuple[str, str | None] | None:
    """Model and version as a path names them, or None for another route's path."""
    if not (path.startswith(_BEGINNING) and path.endswith(_ENDING)):
        return None
    parts = path[len(_BEGINNING) : -len(_ENDING)].split("/")
    if len(parts) == 1 and parts[0]:
        return parts[0], None
    return None


async def received(receive: Receive, most: int) -> bytes:
    """The body, as it comes in; reading ends when it is too long.

    Raises:
        RequestTooLargeError: The body is longer than `most` bytes.
    """
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise bodies.too_large(most, "got more")
        parts.append(part)
    return b"".join(parts)


def _named(path: str) -> tuple[str, int | None]:
    """Model and version that a path asks for.

    Raises:
        NotFoundError: No model or version can have such a name.
    """
    name, version = asked(path) or ("", None)
    if not _NAME.match(name):
        raise NotFoundError(f"there is no model {shown(name)}")
    if version is None:
        return name, None
    if not _VERSION.fullmatch(version):
        raise NotFoundError(f"there is no version {shown(version)} of model {name}")
    return name, int(version)


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name in lower case, as ASGI has them."""
    return dict(pairs)


_VERSION_KEY: Final = VERSION_HEADER.lower().encode()
_PREDICTION_KEY: Final = PREDICTION_HEADER.lower().encode()
