"""uvicorn's HTTP protocol, for an application that answers most requests at once.

uvicorn makes a task for each request, which the event loop gets to in its next turn; the application is
called by way of half a dozen coroutines; and an answer's headers and body are written one after the
other, of which uvloop sends each at once: two system calls and two packets, that wake the caller twice.
At one row that takes longer than the model. Here

* a request that waits for nothing is answered by one call as soon as its body is there, and by one write;
* of every other answer, what is written in one turn of the loop is sent as one;
* a connection has one timer that ends it when it rests for long, and not a new one after each answer.

Everything else is uvicorn's own, as is every request of which the body comes in parts.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from millrace.http.asgi import Reply, Scope

_MAX_URL: Final = 1_024
"""Bytes up to which a URL is remembered."""
_FAILED: Final = Reply.of(500, b"Internal Server Error", b"text/plain; charset=utf-8")


@runtime_checkable
class AnswersAtOnce(Protocol):
    """An application that answers some requests by one call."""

    def never_waits(self, method: str, path: str) -> bool:
        """Whether `answer` answers a request, its body being there."""
        ...

    def answer(self, scope: Scope, body: bytes, write: Callable[[Reply], None]) -> None:
        """Answers a request.

        Args:
            scope: ASGI's, of the request.
            body: As it came.
            write: Sends the reply.
        """
        ...


class JoinedTransport(asyncio.Transport):
    """A transport that sends two writes of one turn of the event loop as one.

    The first is held until the second, or until the loop turns: whatever was written is on its way
    before anything is waited for.

    Args:
        transport: Sends.
        loop: Turns.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: Any) -> None:
        """Sends bytes, or holds them for those that follow."""
        if self._held:
            self.write_through(data)
        elif data:
            self._held = data
            self._loop.call_soon(self.flush)

    def write_through(self, data: bytes) -> None:
        """Sends bytes now, after what is held."""
        if self._held:
            data, self._held = self._held + data, b""
        self._transport.write(data)

    def flush(self) -> None:
        """Sends what is held."""
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    def close(self) -> None:
        """Sends what is held and closes."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Closes at once; what is held is lost, as all that is not sent."""
        self._held = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Takes nothing more until told to."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Takes again what comes."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the transport knows, such as its socket."""
        return self._transport.get_extra_info(name, default)


class _Target(NamedTuple):
    """What a request line asks for."""

    method: str
    path: str
    raw_path: bytes
    query: bytes


class DirectProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with fewer steps for what waits for nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._joined: JoinedTransport
        self._answers: AnswersAtOnce | None = None
        if isinstance(self.app, AnswersAtOnce) and not self.root_path:
            self._answers = self.app
        self._direct: AnswersAtOnce | None = None
        """Answers the request that is being read as soon as its body is there."""
        self._parts: list[bytes] = []
        self._written = False
        self._heard = 0.0
        """When the connection rested last, on the event loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection came."""
        self._joined = JoinedTransport(transport, self.loop)
        super().connection_made(self._joined)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        if self._direct is not None:
            # The rest of its body may take long, which the application bounds.
            self._direct = None
            if not self._joined.is_closing():
                super().on_headers_complete()
                for part in self._parts:
                    super().on_body(part)

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        target = self._target()
        if target is None:
            super().on_headers_complete()
            return
        scope = self.scope
        scope["method"], scope["path"], scope["raw_path"], scope["query_string"] = target
        self._direct = self._answers
        self._parts = []

    def on_body(self, body: bytes) -> None:
        """A part of a body is there."""
        if self._direct is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """A request is there as a whole."""
        answers, self._direct = self._direct, None
        if answers is None:
            super().on_message_complete()
            return
        if self._joined.is_closing():
            return
        self._written = False
        try:
            answers.answer(self.scope, b"".join(self._parts), self._write)  # type: ignore[arg-type]
        except Exception:
            self.logger.exception("a request could not be answered")
            if not self._written:
                self._write(_FAILED)
            self._joined.close()
        self.server_state.total_requests += 1
        self._heard = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch(self.timeout_keep_alive)

    # ── A connection that rests ─────────────────────────────────────────────────────────────────

    def _unset_keepalive_if_required(self) -> None:
        """Somebody asks, or was answered by uvicorn: the timer stays, and finds out."""
        self._heard = self.loop.time()

    def on_response_complete(self) -> None:
        """An answer of uvicorn's is sent; it makes a timer of its own."""
        self._unwatch()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._unwatch()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """The connection may have rested for long."""
        left = self._heard + self.timeout_keep_alive - self.loop.time()
        if self._is_busy():
            left = self.timeout_keep_alive
        if left > 0:
            self._watch(left)
        else:
            super().timeout_keep_alive_handler()

    def _watch(self, seconds: float) -> None:
        if not self._joined.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                seconds, self.timeout_keep_alive_handler
            )

    def _unwatch(self) -> None:
        super()._unset_keepalive_if_required()

    # ── What is asked ───────────────────────────────────────────────────────────────────────────

    def _is_busy(self) -> bool:
        """Whether uvicorn is at work on a request of this connection."""
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]

    def _target(self) -> _Target | None:
        """What a request asks for that is answered at once; None of every other."""
        parser = self.parser
        if (
            self._answers is None
            or self.expect_100_continue
            or self.flow.write_paused
            or self._is_busy()
            or (
                self.limit_concurrency is not None
                and max(len(self.connections), len(self.tasks)) >= self.limit_concurrency
            )
            or len(self.url) > _MAX_URL
            or parser.get_http_version() != "1.1"
            or parser.should_upgrade()
        ):
            return None
        target = _parsed(parser.get_method(), self.url)
        if target is None or not self._answers.never_waits(target.method, target.path):
            return None
        return target

    def _write(self, reply: Reply) -> None:
        """Sends a reply."""
        keeps = self.parser.should_keep_alive()
        content = [STATUS_LINE[reply.status]]
        for name, value in (*self.server_state.default_headers, *reply.headers):
            content += name, b": ", value, b"\r\n"
        if not keeps:
            content.append(b"connection: close\r\n")
        content += b"\r\n", reply.body
        self._written = True
        self._joined.write_through(b"".join(content))
        if not keeps:
            self._joined.close()


@lru_cache(maxsize=256)
def _parsed(method: bytes, url: bytes) -> _Target | None:
    """A request line; None of one that says the same in other characters, or a method without a body."""
    if method not in (b"GET", b"POST") or b"%" in url:
        return None
    try:
        parsed = httptools.parse_url(url)
        path = parsed.path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError):
        return None
    return _Target(method.decode(), path, parsed.path, parsed.query or b"")
