"""What a transport sends at once, and when; and a server on it."""

import asyncio
import json
import re
import socket
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from millrace.http.asgi import Message, Reply
from millrace.server.app import build
from millrace.server.protocol import DirectProtocol, JoinedTransport
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


def test_a_whole_answer_is_sent_now_and_after_what_is_held(
    joined: JoinedTransport, wire: Wire, turns: Turns
) -> None:
    joined.write_through(b"first")
    joined.write(b"head ")
    joined.write_through(b"second")
    turns.turn()

    assert wire.sent == [b"first", b"head second"]


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


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(b"POST /v1/models/churn/predict HTTP/1.0", b"200", id="older_http"),
        pytest.param(b"POST /v1/models/ch%75rn/predict HTTP/1.1", b"200", id="written_otherwise"),
        pytest.param(b"POST /v1/models/churn/predict?form=rows HTTP/1.1", b"200", id="query"),
        pytest.param(b"POST /v1/models/churn/predict?form=no HTTP/1.1", b"422", id="bad_query"),
        pytest.param(b"POST /v2/models/churn/infer HTTP/1.1", b"400", id="inference"),
        pytest.param(b"PUT /v2/models/churn/infer HTTP/1.1", b"404", id="method"),
        pytest.param(b"POST /v1/models/%b/predict HTTP/1.1" % (b"m" * 2_000), b"404", id="long"),
    ],
)
def test_it_answers_whatever_way_it_takes(server: Running, line: bytes, status: bytes) -> None:
    _, _, others = heads(BODY, b"Connection: close").partition(b"\r\n")

    with connected(server) as caller:
        caller.sendall(line + b"\r\n" + others + BODY)
        answer = rest(caller)

    assert answer.split(b" ")[1] == status
    assert b"connection: close" in answer.lower()


def test_an_answer_without_a_body_has_none(server: Running) -> None:
    with connected(server) as caller:
        caller.sendall(b"HEAD /v2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = rest(caller)

    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.endswith(b"\r\n\r\n")


def test_a_body_in_chunks_is_put_together(server: Running) -> None:
    chunks = b"".join(b"1\r\n%b\r\n" % BODY[i : i + 1] for i in range(len(BODY)))
    head = heads(BODY, b"Connection: close", b"Transfer-Encoding: chunked")

    with connected(server) as caller:
        caller.sendall(re.sub(rb"Content-Length: \d+\r\n", b"", head) + chunks + b"0\r\n\r\n")
        answer = rest(caller)

    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_what_comes_after_the_last_request_is_not_answered(server: Running) -> None:
    with connected(server) as caller:
        caller.sendall(heads(BODY, b"Connection: close") + BODY + heads(BODY) + BODY)
        answer = rest(caller)

    assert answer.count(b"HTTP/1.1 ") == 1


def test_what_is_no_http_is_refused(server: Running) -> None:
    with connected(server) as caller:
        caller.sendall(heads(BODY) + BODY + b"no request at all\r\n\r\n")
        answer = rest(caller)

    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"400"]


class Task:
    """One that waits for ever."""

    def add_done_callback(self, call: Any) -> None:
        """It is never done."""


class Clock(Turns):
    """An event loop with a clock that is set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.timers: dict[int, tuple[float, Any]] = {}
        self.made = 0

    def time(self) -> float:
        """Seconds."""
        return self.now

    def call_later(self, seconds: float, call: Any) -> Any:
        """Keeps a call for later."""
        self.made += 1
        number = self.made
        self.timers[number] = (self.now + seconds, call)
        return SimpleNamespace(cancel=lambda: self.timers.pop(number, None))

    def create_task(self, work: Any) -> Task:
        """Begins nothing."""
        work.close()
        return Task()

    def pass_(self, seconds: float) -> None:
        """Lets time go by."""
        self.now += seconds
        for number, (due, call) in list(self.timers.items()):
            if due <= self.now:
                del self.timers[number]
                call()


class AtOnce:
    """An application that answers all but one path at once."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers the one, which no test waits for."""
        raise AssertionError("expected to be asked for an answer at once")

    def never_waits(self, method: str, path: str) -> bool:
        """It answers all but one."""
        return path != "/slow"

    def answer(self, scope: Any, body: bytes, write: Any) -> None:
        """Answers."""
        write(Reply.of(200, b"well", b"text/plain"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resting(wire: Wire, clock: Clock) -> DirectProtocol:
    """A connection that may rest for ten seconds."""
    config = uvicorn.Config(
        AtOnce(), http=DirectProtocol, proxy_headers=False, timeout_keep_alive=10
    )
    config.load()
    loop: Any = clock
    protocol = DirectProtocol(config, ServerState(), {}, loop)
    protocol.connection_made(wire)
    return protocol


GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"


def test_a_connection_that_rests_is_closed(
    resting: DirectProtocol, wire: Wire, clock: Clock
) -> None:
    resting.data_received(GET % b"")
    clock.pass_(9)
    before = wire.ended
    clock.pass_(2)

    assert (before, wire.ended) == ("", "closed")


def test_one_that_is_used_is_not_and_has_one_timer(
    resting: DirectProtocol, wire: Wire, clock: Clock
) -> None:
    for _ in range(50):
        resting.data_received(GET % b"")
        clock.pass_(1)

    before = wire.ended, len(clock.timers)
    clock.pass_(9)
    clock.pass_(1)

    assert (before, wire.ended) == (("", 1), "closed")
    assert clock.made <= 7


def test_one_that_waits_for_its_answer_is_not(
    resting: DirectProtocol, wire: Wire, clock: Clock
) -> None:
    resting.data_received(GET % b"")
    resting.data_received(GET % b"slow")
    for _ in range(5):
        clock.pass_(11)
    before = wire.ended
    resting.cycle.response_complete = True
    resting.on_response_complete()
    clock.pass_(11)

    assert (before, wire.ended) == ("", "closed")
    assert not clock.timers


def test_one_that_is_gone_leaves_no_timer(resting: DirectProtocol, clock: Clock) -> None:
    resting.data_received(GET % b"")
    before = len(clock.timers)
    resting.connection_lost(None)

    assert (before, len(clock.timers)) == (1, 0)


class Faulty(AtOnce):
    """One with a mistake.

    Args:
        late: Whether it is made after the answer.
    """

    def __init__(self, *, late: bool) -> None:
        self._late = late

    def answer(self, scope: Any, body: bytes, write: Any) -> None:
        """Answers, or does not."""
        if self._late:
            super().answer(scope, body, write)
        raise ZeroDivisionError("a mistake")


@pytest.mark.parametrize(("late", "status"), [(False, b"500"), (True, b"200")])
def test_a_mistake_of_the_application_ends_the_connection_and_is_told(
    wire: Wire, caplog: pytest.LogCaptureFixture, late: bool, status: bytes
) -> None:
    async def ask() -> None:
        config = uvicorn.Config(
            Faulty(late=late), http=DirectProtocol, log_config=None, proxy_headers=False
        )
        config.load()
        protocol = DirectProtocol(config=config, server_state=ServerState(), app_state={})
        protocol.connection_made(wire)
        protocol.data_received(heads(BODY) + BODY)

    asyncio.run(ask())

    assert [sent.split(b" ")[1] for sent in wire.sent] == [status]
    assert wire.ended == "closed"
    assert "ZeroDivisionError: a mistake" in caplog.text


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
