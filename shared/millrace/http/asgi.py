"""ASGI as the hot routes use it: the whole body comes in, one reply goes out, and nothing else is waited for.

So that whoever has the body already, as a server mostly does, gets the reply by one call.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple, Self

from millrace.http import bodies

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
type Header = tuple[bytes, bytes]


def nothing() -> None:
    """Nothing is to be told of a reply."""


class Reply(NamedTuple):
    """An HTTP answer.

    Attributes:
        status: Of HTTP.
        body: Its bytes.
        headers: Names in lower case and values; ``content-length`` is among them.
        tell: Counts and captures it; for who sends the answer to call afterwards.
    """

    status: int
    body: bytes
    headers: tuple[Header, ...]
    tell: Callable[[], None] = nothing

    @classmethod
    def of(
        cls,
        status: int,
        body: bytes,
        content_type: bytes,
        headers: tuple[Header, ...] = (),
        tell: Callable[[], None] = nothing,
    ) -> Self:
        """A reply with its type and length among the headers."""
        length = b"%d" % len(body)
        own = ((b"content-type", content_type), (b"content-length", length))
        return cls(status, body, own + headers, tell)


class HotASGI(ABC):
    """An ASGI application that waits for nothing but the request's body.

    Args:
        clock: Seconds, to measure how long an answer takes.
        most: Bytes that a body may have.
    """

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self._clock = clock
        self._most = most

    @abstractmethod
    def reply(self, scope: Scope, body: bytes, started: float) -> Reply:
        """The reply to a request, whatever happens.

        Args:
            scope: ASGI's, of the request.
            body: As it came.
            started: The clock when the request came.
        """

    @abstractmethod
    def refusal(self, scope: Scope, error: Exception, started: float) -> Reply:
        """The reply to a request whose body did not come as it should.

        Args:
            scope: ASGI's, of the request.
            error: Why.
            started: The clock when the request came.
        """

    async def received(self, scope: Scope, receive: Receive) -> Reply:
        """The reply to a request whose body is still to be read."""
        started = self._clock()
        try:
            body = await _body(receive, self._most)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            return self.refusal(scope, error, started)
        return self.reply(scope, body, started)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one ASGI request."""
        await sent(await self.received(scope, receive), send)


async def sent(reply: Reply, send: Send) -> None:
    """Sends a reply, and tells of it afterwards, whatever became of the caller."""
    try:
        await send(
            {"type": "http.response.start", "status": reply.status, "headers": reply.headers}
        )
        await send({"type": "http.response.body", "body": reply.body})
    finally:
        reply.tell()


async def _body(receive: Receive, most: int) -> bytes:
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
