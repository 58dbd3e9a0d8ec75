"""The Open Inference Protocol (v2) over HTTP: what Triton's, KServe's and other clients ask.

An ASGI application of its own beside the native routes, without a framework: inference is a hot
route. Errors are ``{"error": …}`` as the protocol has them, with the code, the correlation id and the
wrong fields of our problem details beside it. Statuses are those of `problem_details`, but for
requests that do not fit the model: the protocol knows 400 for them, not 422.

A model is *ready* when it can answer now. One that is unknown or has no champion is not (404), nor
is a version that has not passed its gates (409), nor one that cannot be loaded (503).
"""

import gzip
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import orjson

import millrace
from millrace.errors import (
    ArtifactError,
    InvalidRequestError,
    MalformedRequestError,
    MillraceError,
    NotFoundError,
    RequestTooLargeError,
    ServiceUnavailableError,
)
from millrace.http import bodies
from millrace.http.asgi import Header, HotASGI, Reply, Scope, nothing
from millrace.http.caller import correlation_id
from millrace.http.hot_route import entity_of
from millrace.http.problem_details import refusal, shown
from millrace.serving.codec import Limits, SignatureCodec
from millrace.serving.inference_request import InferenceRequest, RequestReader
from millrace.serving.prediction import Prediction, Predictor
from millrace.serving.routing import Chosen
from millrace.serving.store import LoadedModel, ModelState
from millrace.serving.tensors import TensorMap
from millrace.vocabulary import MODEL_NAME_PATTERN

PLATFORM: Final = "onnxruntime_onnx"
EXTENSIONS: Final = ("binary_tensor_data", "model_repository(index)")
HEADER_LENGTH: Final = "Inference-Header-Content-Length"
COMPRESSED_FROM: Final = 4_096
"""Bytes from which an answer is worth compressing for whoever accepts it."""

_NAME: Final = re.compile(MODEL_NAME_PATTERN)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
_PREFIX: Final = "/v2"
_BELOW: Final = f"{_PREFIX}/"
_LENGTH_KEY: Final = HEADER_LENGTH.lower().encode()
_JSON: Final = b"application/json"
_BINARY: Final = b"application/octet-stream"
_REJECTED: Final = 422
_BAD_REQUEST: Final = 400


class Models(Protocol):
    """What the protocol needs of a model store."""

    def get(self, model: str, version: int | None = None) -> LoadedModel:
        """A version in memory, the champion by default."""
        ...

    def choose(self, model: str, version: int | None = None, entity: bytes | None = None) -> Chosen:
        """A version in memory; without one, what answers to that entity."""
        ...

    def models(self) -> Sequence[ModelState]:
        """Every registered model."""
        ...


class _Answer(NamedTuple):
    """An answer before it is compressed; ``tell`` counts and captures it once it is sent."""

    body: bytes
    headers: tuple[Header, ...] = ()
    content_type: bytes = _JSON
    status: int = 200
    tell: Callable[[], None] = nothing


class _Asked(NamedTuple):
    """What a path asks of a model."""

    model: str
    version: int | None
    verb: str
    """``ready``, ``infer``, or nothing for the metadata."""


class _NoSuchRouteError(NotFoundError):
    """The protocol has no such route, or not with this method."""


class _NotReadyError(ServiceUnavailableError):
    """A model cannot answer now; of all errors of 500 and above, this one may say so."""


class Inference(HotASGI):
    """The application.

    Args:
        predictor: Runs models.
        store: Gives loaded models.
        limits: How much one request may carry.
    """

    def __init__(self, predictor: Predictor, store: Models, limits: Limits) -> None:
        super().__init__(predictor.clock, limits.body_bytes)
        self._predictor = predictor
        self._store = store
        self._limits = limits
        self._requests = RequestReader()
        self._maps: WeakKeyDictionary[SignatureCodec, TensorMap] = WeakKeyDictionary()
        self._of_server: dict[tuple[str, str], Callable[[bytes], _Answer]] = {
            ("GET", _PREFIX): self._describe_server,
            ("GET", "/v2/health/live"): lambda _: _json({"live": True}),
            ("GET", "/v2/health/ready"): self._server_ready,
            ("POST", "/v2/repository/index"): self._index,
        }

    @staticmethod
    def matches(path: str) -> bool:
        """Whether a request is for this application."""
        return path == _PREFIX or path.startswith(_BELOW)

    def reply(self, scope: Scope, body: bytes, started: float) -> Reply:
        """See `HotASGI.reply`."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        return _reply(self._answer(scope, headers, body, started), headers)

    def refusal(self, scope: Scope, error: Exception, started: float) -> Reply:  # noqa: ARG002 - it counts nowhere
        """See `HotASGI.refusal`."""
        answer = _failure(error, scope["path"], correlation_id(scope))
        return _reply(answer, dict(scope["headers"]))

    def _answer(
        self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes, started: float
    ) -> _Answer:
        """The answer, whatever happens."""
        method, path = scope["method"], scope["path"]
        try:
            encoding = headers.get(b"content-encoding", b"").decode("latin-1")
            body = bodies.inflated(body, encoding, self._most)
            of_server = self._of_server.get((method, path.rstrip("/")))
            if of_server is not None:
                return of_server(body)
            asked = _asked(method, path)
            if asked.verb == "infer":
                return self._infer(
                    asked,
                    body,
                    headers,
                    (scope.get("query_string") or b"").decode("latin-1"),
                    started=started,
                    correlation=correlation_id(scope),
                )
            if asked.verb == "ready":
                return self._model_ready(asked)
            return self._describe_model(asked)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            return _failure(error, path, correlation_id(scope))

    # ── The server ──────────────────────────────────────────────────────────────────────────────

    def _describe_server(self, _: bytes) -> _Answer:
        return _json(
            {"name": "millrace", "version": millrace.__version__, "extensions": EXTENSIONS}
        )

    def _server_ready(self, _: bytes) -> _Answer:
        """Ready is a server that can learn what to serve; a single model has its own readiness."""
        self._store.models()
        return _json({"ready": True})

    def _index(self, body: bytes) -> _Answer:
        ready = False
        if body:
            try:
                document = orjson.loads(body)
            except orjson.JSONDecodeError as exc:
                raise MalformedRequestError(f"the body is not JSON: {exc.msg}") from exc
            wanted = document.get("ready", False) if isinstance(document, dict) else None
            if not isinstance(wanted, bool):
                raise InvalidRequestError(
                    "expected an object, in which ready may be true or false: "
                    'with {"ready": true} only models that are ready are listed'
                )
            ready = wanted
        return _json(
            [
                {
                    "name": state.name,
                    **({} if state.version is None else {"version": str(state.version)}),
                    "state": state.state,
                    "reason": state.reason,
                }
                for state in self._store.models()
                if state.state == "READY" or not ready
            ]
        )

    # ── Models ──────────────────────────────────────────────────────────────────────────────────

    def _model_ready(self, asked: _Asked) -> _Answer:
        try:
            self._store.get(asked.model, asked.version)
        except ArtifactError as exc:
            raise _NotReadyError(f"model {asked.model} cannot be loaded; the log says why") from exc
        return _json({"name": asked.model, "ready": True})

    def _describe_model(self, asked: _Asked) -> _Answer:
        loaded = self._store.get(asked.model, asked.version)
        return _json(
            {
                "name": asked.model,
                "versions": [str(loaded.version)],
                "platform": PLATFORM,
                **self._map_of(loaded.codec).metadata(),
            }
        )

    def _infer(
        self,
        asked: _Asked,
        body: bytes,
        headers: Mapping[bytes, bytes],
        query: str,
        *,
        started: float,
        correlation: str,
    ) -> _Answer:
        chosen: Chosen | None = None
        try:
            request = self._requests.read(body, _header_length(headers))
            chosen = self._store.choose(
                asked.model, asked.version, entity_of(headers, query) or request.entity
            )
            try:
                prediction, content, header_length = self._answer_by(chosen, request)
            except Exception as error:
                if chosen.instead is None:
                    raise
                failed, chosen = chosen, chosen.fallback()
                prediction, content, header_length = self._answer_by(chosen, request)
                self._predictor.refused(
                    error, chosen=failed, started=started, correlation_id=correlation
                )
        except MillraceError as error:
            self._predictor.refused(
                error, chosen=chosen, started=started, correlation_id=correlation
            )
            raise
        tell = self._predictor.telling(prediction, started=started, correlation_id=correlation)
        if header_length is None:
            return _Answer(content, tell=tell)
        return _Answer(content, ((_LENGTH_KEY, b"%d" % header_length),), _BINARY, tell=tell)

    def _answer_by(
        self, chosen: Chosen, request: InferenceRequest
    ) -> tuple[Prediction, bytes, int | None]:
        """What a version answers: the prediction, and as `TensorMap.answer` has them, body and header.

        Raises:
            MillraceError: The request does not fit the version, or the version fails.
        """
        loaded = chosen.loaded
        tensors = self._map_of(loaded.codec)
        tensors.expect_outputs(request.outputs)
        batch = tensors.batch(request, loaded.codec)
        prediction = self._predictor.run(
            chosen,
            batch,
            None
            if chosen.shadow is None
            else lambda other: self._map_of(other).batch(request, other),
        )
        parameters = {"prediction_id": prediction.prediction_id}
        if batch.warnings:
            parameters["warnings"] = orjson.dumps(batch.warnings).decode()
        content, header_length = tensors.answer(
            request, prediction.output, version=prediction.version, parameters=parameters
        )
        # Lambda answers in text, so that bytes leave it as base64.
        size = len(content) if header_length is None else -(-len(content) // 3) * 4
        if size > self._limits.answer_bytes:
            raise RequestTooLargeError(
                f"the answer to {batch.rows:,} rows has {size:,} bytes and may have "
                f"{self._limits.answer_bytes:,}: divide the rows over several requests"
            )
        return prediction, content, header_length

    def _map_of(self, codec: SignatureCodec) -> TensorMap:
        found = self._maps.get(codec)
        if found is None:
            found = self._maps[codec] = TensorMap(codec.signature)
        return found


# ── Requests ────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=256)
def _asked(method: str, path: str) -> _Asked:
    """What a path below ``/v2/models`` asks.

    Raises:
        NotFoundError: There is no such route, or no model or version can have such a name.
    """
    version: str | None = None
    verb = ""
    match path.rstrip("/").split("/")[2:]:
        case ["models", name]:
            pass
        case ["models", name, ("ready" | "infer") as verb]:
            pass
        case ["models", name, "versions", version]:
            pass
        case ["models", name, "versions", version, ("ready" | "infer") as verb]:
            pass
        case _:
            raise _NoSuchRouteError(f"no route {method} {path}")
    if method != ("POST" if verb == "infer" else "GET"):
        raise _NoSuchRouteError(f"no route {method} {path}")
    if not _NAME.match(name):
        raise NotFoundError(f"there is no model {shown(name)}")
    if version is None:
        return _Asked(name, None, verb)
    if not _VERSION.fullmatch(version):
        raise NotFoundError(f"there is no version {shown(version)} of model {name}")
    return _Asked(name, int(version), verb)


def _header_length(headers: Mapping[bytes, bytes]) -> int | None:
    value = headers.get(_LENGTH_KEY)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12:
        raise MalformedRequestError(f"{HEADER_LENGTH}: expected a number of bytes")
    return int(value)


# ── Answers ─────────────────────────────────────────────────────────────────────────────────────


def _reply(answer: _Answer, headers: Mapping[bytes, bytes]) -> Reply:
    """An answer as it is sent: compressed, if it is worth that and the caller accepts it."""
    body = answer.body
    extra: tuple[Header, ...] = ()
    encoding = _encoding(headers) if len(body) >= COMPRESSED_FROM else None
    if encoding is not None:
        body = _COMPRESS[encoding](body)
        extra = ((b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding"))
    return Reply.of(answer.status, body, answer.content_type, answer.headers + extra, answer.tell)


def _json(document: Any) -> _Answer:
    return _Answer(orjson.dumps(document))


def _failure(error: Exception, path: str, correlation: str) -> _Answer:
    """Any error as the protocol has it."""
    told = refusal(error, instance=path, correlation=correlation)
    problem = orjson.loads(told.body)
    status = _BAD_REQUEST if told.status == _REJECTED else told.status
    body = orjson.dumps(
        {
            "error": str(error) if isinstance(error, _NotReadyError) else problem["detail"],
            "code": problem["code"],
            "correlation_id": problem["correlation_id"],
            "errors": problem["errors"],
        }
    )
    headers = tuple((k.lower().encode(), v.encode()) for k, v in told.headers)
    return _Answer(body, headers, status=status)


def _encoding(headers: Mapping[bytes, bytes]) -> str | None:
    """The encoding to answer in: of those that the caller accepts, the first that is known here."""
    accepted = headers.get(b"accept-encoding")
    if accepted is None:
        return None
    for offer in accepted.decode("latin-1").lower().split(","):
        name, _, quality = offer.partition(";")
        if name.strip() in _COMPRESS and quality.strip() not in ("q=0", "q=0.0"):
            return name.strip()
    return None


def _gzipped(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=1, mtime=0)


def _deflated(body: bytes) -> bytes:
    # HTTP's "deflate" is the zlib format (RFC 9110, 8.4.1.2).
    return zlib.compress(body, 1)


_COMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {"gzip": _gzipped, "deflate": _deflated}
