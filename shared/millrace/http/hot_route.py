"""The hot route: ``POST …/predict`` as an ASGI application of its own, which no framework touches.

FastAPI describes the route, answers every other one, and would answer this one by the same code; a
request that is dispatched here costs a fifth of it. Nothing waits in it, so it needs no thread.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from millrace.errors import (
    FieldProblem,
    InvalidRequestError,
    MalformedRequestError,
    MillraceError,
    NotFoundError,
    RequestTooLargeError,
)
from millrace.http import bodies
from millrace.http.asgi import HotASGI, Reply, Scope, nothing
from millrace.http.caller import correlation_id
from millrace.http.problem_details import PROBLEM_MEDIA_TYPE, refusal, shown
from millrace.registry.heartbeats import HEADER as HEARTBEAT_HEADER
from millrace.serving.answers import (
    DEFAULT_OPTIONS,
    AnswerOptions,
    Format,
    Writer,
    acceptable,
    read_options,
)
from millrace.serving.codec import OPTIONS, Limits, SignatureCodec
from millrace.serving.delimited import read_csv
from millrace.serving.features import Batch
from millrace.serving.prediction import Prediction, Predictor
from millrace.serving.routing import ENTITY, ENTITY_HEADER, Chosen
from millrace.vocabulary import MODEL_NAME_PATTERN

VERSION_HEADER: Final = "X-Millrace-Model-Version"
PREDICTION_HEADER: Final = "X-Millrace-Prediction-Id"

_NAME: Final = re.compile(MODEL_NAME_PATTERN)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
_MAX_QUERY_FIELDS: Final = 100
_MAX_QUERY_LENGTH: Final = 8_192
_ENTITY_MARK: Final = f"{ENTITY}="
_BEGINNING: Final = "/v1/models/"
_ENDING: Final = "/predict"
_VERSIONS: Final = "versions"


class Models(Protocol):
    """What the routes need of a model store."""

    def choose(self, model: str, version: int | None = None, entity: bytes | None = None) -> Chosen:
        """A version in memory; without one, what answers to that entity."""
        ...


type Heartbeats = Callable[[str, bytes], bool]
"""Whether a request to a model, with this mark, is the heartbeat's own."""


class _Asking(NamedTuple):
    """What a request brings to whichever version answers it."""

    body: bytes
    content_type: str
    query: str
    written_in: Format


class HotRoute(HotASGI):
    """Answers prediction requests.

    Args:
        store: Gives loaded models.
        predictor: Runs them.
        limits: How much one request may carry.
        heartbeats: Tells the heartbeat's requests, which are answered and neither counted nor
            captured; without it, every request counts.
    """

    def __init__(
        self,
        store: Models,
        predictor: Predictor,
        limits: Limits,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        super().__init__(predictor.clock, limits.body_bytes)
        self._store = store
        self._predictor = predictor
        self._heartbeats = heartbeats
        self._writers: WeakKeyDictionary[SignatureCodec, Writer] = WeakKeyDictionary()

    @staticmethod
    def matches(method: str, path: str) -> bool:
        """Whether a request is for this route."""
        return method == "POST" and asked(path) is not None

    def reply(self, scope: Scope, body: bytes, started: float) -> Reply:
        """See `HotASGI.reply`."""
        correlation = correlation_id(scope)
        chosen: Chosen | None = None
        counts = True
        try:
            headers = dict(scope["headers"])
            written_in = acceptable(headers.get(b"accept", b"").decode("latin-1"))
            name, version = _named(scope["path"])
            mark = headers.get(_HEARTBEAT_KEY)
            if mark is not None and self._heartbeats is not None:
                counts = not self._heartbeats(name, mark)
            encoding = headers.get(b"content-encoding", b"").decode("latin-1")
            body = bodies.inflated(body, encoding, self._most)
            query = (scope.get("query_string") or b"").decode("latin-1")
            asking = _Asking(
                body, headers.get(b"content-type", b"").decode("latin-1"), query, written_in
            )
            chosen = self._store.choose(name, version, entity_of(headers, query))
            try:
                prediction, content = self._answer(chosen, asking)
            except Exception as error:
                if chosen.instead is None:
                    raise
                failed, chosen = chosen, chosen.fallback()
                prediction, content = self._answer(chosen, asking)
                if counts:
                    self._predictor.refused(
                        error, chosen=failed, started=started, correlation_id=correlation
                    )
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            if counts and isinstance(error, MillraceError):
                self._predictor.refused(
                    error, chosen=chosen, started=started, correlation_id=correlation
                )
            return _refused(error, scope, correlation)
        tell = nothing
        if counts:
            tell = self._predictor.telling(prediction, started=started, correlation_id=correlation)
        return Reply.of(
            200,
            content,
            _TYPES[written_in],
            (
                (_VERSION_KEY, b"%d" % prediction.version),
                (_PREDICTION_KEY, prediction.prediction_id.encode()),
            ),
            tell,
        )

    def refusal(self, scope: Scope, error: Exception, started: float) -> Reply:
        """See `HotASGI.refusal`."""
        correlation = correlation_id(scope)
        if isinstance(error, MillraceError):
            self._predictor.refused(error, chosen=None, started=started, correlation_id=correlation)
        return _refused(error, scope, correlation)

    def _answer(self, chosen: Chosen, asking: "_Asking") -> tuple[Prediction, bytes]:
        """The prediction of a version, and the answer's body.

        Raises:
            MillraceError: The request does not fit the version, or the version fails.
        """
        codec = chosen.loaded.codec
        batch, given = _read(asking.body, asking.content_type, codec)
        options = DEFAULT_OPTIONS
        if given or asking.query:
            options = _options(given, asking.query)
        prediction = self._predictor.run(
            chosen,
            batch,
            None
            if chosen.shadow is None
            else lambda other: _read(asking.body, asking.content_type, other)[0],
        )
        return prediction, self._writer(codec).write(prediction, options, asking.written_in)

    def _writer(self, codec: SignatureCodec) -> Writer:
        writer = self._writers.get(codec)
        if writer is None:
            writer = self._writers[codec] = Writer(codec)
        return writer


def _refused(error: Exception, scope: Scope, correlation: str) -> Reply:
    """The answer to a request that gets no prediction."""
    if isinstance(error, RequestTooLargeError):
        error = _pointed(error, scope["path"])
    told = refusal(error, instance=scope["path"], correlation=correlation)
    return Reply.of(
        told.status,
        told.body,
        PROBLEM_MEDIA_TYPE.encode(),
        tuple((k.lower().encode(), v.encode()) for k, v in told.headers),
    )


def _read(body: bytes, content_type: str, codec: SignatureCodec) -> tuple[Batch, Mapping[str, Any]]:
    """The rows of a body, and the options it holds.

    Raises:
        UnsupportedMediaTypeError: Its type is none that is read.
        InvalidRequestError: It does not fit.
    """
    if content_type == Format.JSON:
        asked = codec.read(body)
        return asked.batch, asked.options
    came = bodies.bare_type(content_type)
    if bodies.reads_as_json(came):
        asked = codec.read(body)
        return asked.batch, asked.options
    if came == Format.CSV:
        return codec.decode_columns(read_csv(body, codec)), {}
    if came == Format.ARROW:
        # Loaded when it is needed: few callers speak Arrow.
        from millrace.serving.arrow import read_arrow

        return codec.decode_columns(read_arrow(body, codec)), {}
    raise bodies.unsupported_type(came, *Format)


def _options(given: Mapping[str, Any], query: str) -> AnswerOptions:
    """What the body and the query ask of the answer.

    Raises:
        InvalidRequestError: Names what is wrong, or is asked for in both or twice.
    """
    if not query:
        return read_options(given)
    asked: dict[str, Any] = dict(given)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError as exc:
        raise MalformedRequestError("the query has too many parameters") from exc
    for key, value in pairs:
        if key not in OPTIONS:
            continue  # what a proxy adds is none of ours
        if key in asked:
            message = "is given twice"
            raise InvalidRequestError(f"{key}: {message}", [FieldProblem(key, message)])
        asked[key] = _FROM_QUERY[key](value)
    return read_options(asked)


def entity_of(headers: Mapping[bytes, bytes], query: str = "") -> bytes | None:
    """The caller's key of a request: a header, or a parameter of the query."""
    entity = headers.get(_ENTITY_KEY)
    if entity is None and _ENTITY_MARK in query:
        # More parameters than are read are refused where their meaning is asked.
        pairs = parse_qsl(query[:_MAX_QUERY_LENGTH], keep_blank_values=True)
        entity = next((value.encode() for key, value in pairs if key == ENTITY), None)
    return entity


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


_FROM_QUERY: Final[Mapping[str, Callable[[str], Any]]] = {
    "outputs": lambda text: text.split(","),
    "coverage": _number,
    "form": str,
}


def _pointed(error: RequestTooLargeError, path: str) -> RequestTooLargeError:
    """The error with what to do about it."""
    model, _ = asked(path) or ("", None)
    return RequestTooLargeError(
        f"{error}, or score them as a batch: POST {_BEGINNING}{model}/batch, or put a file under "
        f"batch/{model}/",
        error.problems,
    )


@lru_cache(maxsize=256)
def asked(path: str) -> tuple[str, str | None] | None:
    """Model and version as a path names them, or None for another route's path."""
    if not (path.startswith(_BEGINNING) and path.endswith(_ENDING)):
        return None
    parts = path[len(_BEGINNING) : -len(_ENDING)].split("/")
    if len(parts) == 1 and parts[0]:
        return parts[0], None
    if len(parts) == 3 and parts[0] and parts[1] == _VERSIONS and parts[2]:
        return parts[0], parts[2]
    return None


@lru_cache(maxsize=256)
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


_ENTITY_KEY: Final = ENTITY_HEADER.lower().encode()
_HEARTBEAT_KEY: Final = HEARTBEAT_HEADER.lower().encode()
_VERSION_KEY: Final = VERSION_HEADER.lower().encode()
_PREDICTION_KEY: Final = PREDICTION_HEADER.lower().encode()
_TYPES: Final = {
    Format.JSON: b"application/json",
    Format.CSV: b"text/csv; charset=utf-8; header=present",
    Format.ARROW: b"application/vnd.apache.arrow.stream",
}
