"""A load generator that costs little: keep-alive connections that send the same bytes again.

Run in a process of its own (``python -m tests.bench.load``), so that it takes nothing from whoever
starts and reads the servers; the requests come as JSON on stdin, the times go as JSON to stdout.
"""

import json
import socket
import statistics
import sys
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Load:
    """What a server took.

    Attributes:
        per_second: Requests.
        median: Seconds of one.
        p99: Seconds that one in a hundred took longer than.
        requests: How many there were.
    """

    per_second: float
    median: float
    p99: float
    requests: int


class Connection:
    """One client: sends a request, reads its answer, and again.

    Args:
        port: On loopback.
        request: The bytes to send.
    """

    def __init__(self, port: int, request: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request

    def ask(self) -> bytes:
        """One request; returns the answer's body.

        Raises:
            RuntimeError: The answer is not 200, or has no length.
        """
        self._socket.sendall(self._request)
        received = self._socket.recv(262_144)
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        if b" 200" not in head[:16]:
            raise RuntimeError(f"{head[:300]!r} {body[:500]!r}")
        place = head.lower().find(b"content-length:")
        if place < 0:
            raise RuntimeError(f"an answer without a length: {head!r}")
        length = int(head[place + 15 :].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._more()
        return body

    def _more(self) -> bytes:
        part = self._socket.recv(262_144)
        if not part:
            raise RuntimeError("the server closed the connection")
        return part

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()


def measure(port: int, request: bytes, *, clients: int, seconds: float) -> Load:
    """Asks as fast as the clients can for a while.

    Args:
        port: Where the server listens.
        request: What each client sends.
        clients: How many at once.
        seconds: How long.
    """
    times: list[float] = []
    failures: list[BaseException] = []
    begun = time.perf_counter()
    until = begun + seconds

    def work() -> None:
        mine = []
        try:
            with closing(Connection(port, request)) as connection:
                before = time.perf_counter()
                while before < until:
                    connection.ask()
                    after = time.perf_counter()
                    mine.append(after - before)
                    before = after
        except (OSError, RuntimeError) as exc:
            failures.append(exc)
        times.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    took = time.perf_counter() - begun
    cuts = statistics.quantiles(times, n=100)
    return Load(len(times) / took, statistics.median(times), cuts[98], len(times))


def main() -> None:
    """Measures what stdin asks for."""
    asked: dict[str, Any] = json.load(sys.stdin)
    load = measure(
        asked["port"],
        bytes.fromhex(asked["request"]),
        clients=asked["clients"],
        seconds=asked["seconds"],
    )
    json.dump(asdict(load), sys.stdout)


if __name__ == "__main__":
    main()
