"""uvicorn's HTTP protocol, for applications of which most requests wait for nothing.

uvicorn makes a task for each request, which the event loop gets to in its next turn, and writes an
answer's headers and body one after the other, of which uvloop sends each at once: two system calls
and two packets, that wake the caller twice. At one row that takes longer than the model. Here

* a request that waits for nothing is answered as soon as its body is there, without a task;
* what is written in one turn of the loop is sent as one.

Everything else is uvicorn's own.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from millrace.http.service import Service


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
        self.flushed_after = False
        """Whether who writes calls `flush` afterwards, so that the loop need not."""

    def write(self, data: Any) -> None:
        """Sends bytes, or holds them for those that follow."""
        if self._held:
            joined, self._held = self._held + data, b""
            self._transport.write(joined)
        elif data:
            self._held = data
            if not self.flushed_after:
                self._loop.call_soon(self.flush)

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


class DirectProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with fewer steps for what waits for nothing."""

    _joined: JoinedTransport
    _ready: tuple[RequestResponseCycle, Any] | None = None
    """A request that is answered as soon as its body is there."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection came."""
        self._joined = JoinedTransport(transport, self.loop)
        super().connection_made(self._joined)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        if self._ready is not None:
            # The rest of its body may take long, which the application bounds.
            cycle, app = self._ready
            self._ready = None
            super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """A request is there as a whole."""
        super().on_message_complete()
        if self._ready is None:
            return
        cycle, app = self._ready
        self._ready = None
        self._joined.flushed_after = True
        try:
            cycle.run_asgi(app).send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("expected an application that never waits, and it does")
        finally:
            self._joined.flushed_after = False
            self._joined.flush()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope = cycle.scope
        if (
            app is self.app
            and cycle.more_body
            and not self.flow.write_paused
            and Service.never_waits(scope["method"], scope["path"])
        ):
            self._ready = cycle, app
        else:
            super()._start_asgi_task(cycle, app)
