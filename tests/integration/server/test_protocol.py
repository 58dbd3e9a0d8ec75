"""What a transport sends at once, and when; and a server on it."""

import asyncio
import socket
from contextlib import closing
from typing import Any

import pytest

from millrace.server.protocol import JoinedTransport
from tests.fakes.server import Running


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
        self._calls: list[Any] = []

    def call_soon(self, call: Any) -> None:
        """Keeps a call for the next turn."""
        self._calls.append(call)

    def turn(self) -> None:
        """Makes the calls."""
        calls, self._calls = self._calls, []
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


def test_requests_that_come_together_are_answered_in_turn(server: Running) -> None:
    asked = b"".join(
        b"GET %b HTTP/1.1\r\nHost: h\r\n%b\r\n" % (path, more)
        for path, more in (
            (b"/v2/health/live", b""),
            (b"/v1/health", b""),
            (b"/v2/models/unknown", b"Connection: close\r\n"),
        )
    )

    place = ("127.0.0.1", server.http.base_url.port or 0)
    with closing(socket.create_connection(place, timeout=20)) as caller:
        caller.sendall(asked)
        came = b""
        while part := caller.recv(65_536):
            came += part

    assert came.count(b"HTTP/1.1 200 OK") == 2
    first, second, third = (came.index(b) for b in (b'"live"', b'"stage"', b"HTTP/1.1 404"))
    assert first < second < third
