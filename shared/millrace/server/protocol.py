"""uvicorn's HTTP protocol, which sends the headers of an answer together with its body.

uvicorn writes the one and then the other, and uvloop sends at once whatever it is given: two system
calls, two packets, and a caller that wakes up twice. At one row that takes longer than the model.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


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
            joined, self._held = self._held + data, b""
            self._transport.write(joined)
        elif data:
            self._held = data
            self._loop.call_soon(self._send)

    def close(self) -> None:
        """Sends what is held and closes."""
        self._send()
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

    def _send(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)


class JoinedProtocol(HttpToolsProtocol):
    """uvicorn's own protocol on such a transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection came."""
        super().connection_made(JoinedTransport(transport, self.loop))
