"""What a transport sends at once, and when; and a server on it."""

import asyncio
import json
import re
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from millrace.http.hot_route import Message
from millrace.server.app import build
from millrace.server.protocol import JoinedTransport
from millrace.server.settings import OFF, ServerSettings
from millrace.serving import telemetry
from tests.fakes.server import Running
from tests.integration.server.conftest import ROW


class Wire(asyncio.Transport):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.ended = ""

    def write(self, data: Any) -> None:
        """Keeps what is sent at once."""
        self.sent.append(bytes(data))

    def close(self) -> None:
        """Keeps how it ended."""
        self.ended = "closed"

    def abort(self) -> None:
        """Keeps how it ended."""
        self.ended = "aborted"

    def is_closing(self) -> bool:
        """Whether it ended."""
        return bool(self.ended)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """A name it knows."""
        return {"peername": ("127.0.0.1", 1)}.get(name, default)


class Turns:
    """An event loop that turns when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def call_soon(self, call: Any) -> None:
        """Keeps a call for the next turn."""
        self.calls.append(call)

    def turn(self) -> None:
        """Makes the calls."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def joined(wire: Wire, turns: Turns) -> JoinedTransport:
    made: Any = JoinedTransport(wire, turns)  # type: ignore[arg-type]
    return made


def test_two_writes_are_sent_as_one(joined: JoinedTransport, wire: Wire, turns: Turns) -> None:
    joined.write(b"head ")
    joined.write(b"body")
    turns.turn()

    assert wire.sent == [b"head body"]


def test_a_write_alone_is_sent_when_the_loop_turns(
    joined: JoinedTransport, wire: Wire, turns: Turns
) -> None:
    joined.write(b"")
    joined.write(b"head")
    before = list(wire.sent)
    turns.turn()
    turns.turn()

    assert before == []
    assert wire.sent == [b"head"]


def test_answers_of_one_turn_keep_their_order(
    joined: JoinedTransport, wire: Wire, turns: Turns
) -> None:
    for part in (b"1", b"2", b"3", b"", b"4", b"5"):
        joined.write(part)
    turns.turn()

    assert b"".join(wire.sent) == b"12345"
    assert len(wire.sent) == 3


def test_who_flushes_needs_no_turn(joined: JoinedTransport, wire: Wire, turns: Turns) -> None:
    joined.flushed_after = True
    joined.write(b"head ")
    joined.write(b"body")
    joined.write(b"head of an answer that has none")
    joined.flush()

    assert wire.sent == [b"head body", b"head of an answer that has none"]
    assert not turns.calls


def test_closing_sends_what_is_held(joined: JoinedTransport, wire: Wire, turns: Turns) -> None:
    joined.write(b"head")
    joined.close()
    turns.turn()

    assert (wire.sent, wire.ended) == ([b"head"], "closed")
    assert joined.is_closing()


def test_aborting_does_not(joined: JoinedTransport, wire: Wire, turns: Turns) -> None:
    joined.write(b"head")
    joined.abort()
    turns.turn()

    assert (wire.sent, wire.ended) == ([], "aborted")


def test_nothing_is_sent_to_who_is_gone(joined: JoinedTransport, wire: Wire, turns: Turns) -> None:
    joined.write(b"head")
    wire.close()
    turns.turn()

    assert wire.sent == []


def test_it_knows_what_the_transport_knows(joined: JoinedTransport) -> None:
    assert joined.get_extra_info("peername") == ("127.0.0.1", 1)
    assert joined.get_extra_info("socket", "none") == "none"


BODY = json.dumps({"rows": [ROW]}).encode()


def heads(body: bytes, *more: bytes) -> bytes:
    """The head of a prediction request."""
    lines = (b"POST /v1/models/churn/predict HTTP/1.1", b"Host: h", *more)
    return b"\r\n".join((*lines, b"Content-Length: %d" % len(body), b"", b""))


def connected(server: Running) -> closing[socket.socket]:
    """A connection of its own."""
    place = ("127.0.0.1", server.http.base_url.port or 0)
    return closing(socket.create_connection(place, timeout=20))


def rest(caller: socket.socket) -> bytes:
    """All that comes until the server closes."""
    came = b""
    while part := caller.recv(65_536):
        came += part
    return came


def test_a_body_may_come_in_parts(server: Running) -> None:
    with connected(server) as caller:
        caller.sendall(heads(BODY) + BODY[:7])
        caller.setblocking(False)
        with pytest.raises(BlockingIOError):
            caller.recv(1)
        caller.settimeout(20)
        caller.sendall(BODY[7:])
        first = caller.recv(65_536)
        # The connection is as good as before.
        caller.sendall(heads(BODY, b"Connection: close") + BODY)
        second = rest(caller)

    for answer in (first, second):
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b'"prediction_id"' in answer


def test_who_asks_first_whether_to_send_a_body_is_told(server: Running) -> None:
    with connected(server) as caller:
        caller.sendall(heads(BODY, b"Expect: 100-continue", b"Connection: close"))
        told = caller.recv(65_536)
        caller.sendall(BODY)
        answer = rest(caller)

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_predictions_that_come_together_are_answered_in_turn(server: Running) -> None:
    versions = (b"1", b"999", b"1")
    paths = [b"/v1/models/churn/versions/%b/predict" % version for version in versions]
    asked = [heads(BODY).replace(b"/v1/models/churn/predict", path) + BODY for path in paths]
    last = heads(BODY, b"Connection: close") + BODY

    with connected(server) as caller:
        caller.sendall(b"".join((*asked, last)))
        came = rest(caller)

    assert re.findall(rb"HTTP/1\.1 (\d+)", came) == [b"200", b"404", b"200", b"200"]


def test_an_answer_is_sent_before_it_is_counted(shelf: Path) -> None:
    sent: list[str] = []
    server = build(ServerSettings(bundles=(shelf,), capture=OFF))
    count = server.meters.answered
    server.meters.answered = lambda *given: (sent.append("counted"), count(*given))  # type: ignore[assignment, func-returns-value]

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if len(sent) == 2:
            raise ConnectionResetError("the caller is gone")

    async def ask() -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/models/churn/predict",
            "query_string": b"",
            "headers": [],
        }
        with pytest.raises(ConnectionResetError):
            await server(scope, receive, send)

    asyncio.run(ask())
    telemetry.unobserve()

    assert sent == ["http.response.start", "http.response.body", "counted"]


def test_requests_that_come_together_are_answered_in_turn(server: Running) -> None:
    asked = b"".join(
        b"GET %b HTTP/1.1\r\nHost: h\r\n%b\r\n" % (path, more)
        for path, more in (
            (b"/v2/health/live", b""),
            (b"/v1/health", b""),
            (b"/v2/models/unknown", b"Connection: close\r\n"),
        )
    )

    with connected(server) as caller:
        caller.sendall(asked)
        came = rest(caller)

    assert came.count(b"HTTP/1.1 200 OK") == 2
    first, second, third = (came.index(b) for b in (b'"live"', b'"stage"', b"HTTP/1.1 404"))
    assert first < second < third
