"""`millrace serve` as a process of its own on loopback, and what it says."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tests.until import until

_LISTENING = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
STOP_SECONDS = 30


@dataclass
class Running:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    folder: Path
    http: httpx.Client = field(init=False)
    asked: int = 0
    """Predictions that were asked for."""

    @property
    def log(self) -> str:
        """What it said on stderr."""
        return (self.folder / "stderr").read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it wrote on stdout, which is JSON and nothing else."""
        whole = (self.folder / "stdout").read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def predict(self, rows: list[dict[str, Any]], model: str = "churn") -> httpx.Response:
        """Asks on a connection of its own, so that any worker may answer."""
        self.asked += 1
        with httpx.Client(base_url=self.http.base_url, timeout=20) as http:
            return http.post(f"/v1/models/{model}/predict", json={"rows": rows})

    def expect_counted(self) -> None:
        """Waits until all that was asked is counted: what another worker counted shows a second later."""
        requests = "millrace_http_requests_total"
        until(lambda: self.metric(requests, route="predict") == self.asked)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric, summed over the labels that are not named."""
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match is None or match[1] != name:
                continue
            found = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            if labels.items() <= found.items():
                total += float(match[3])
        return total

    def listens(self) -> str | None:
        """Where it listens, once it says so; fails when it ended."""
        if self.process.poll() is not None:
            pytest.fail(f"the server ended with {self.process.returncode}: {self.log}")
        found = _LISTENING.search(self.log)
        return found[1] if found else None

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            return self.http.get("/v1/health").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """Asks it to stop, and waits; returns its exit code."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Running]:
    """Runs `millrace serve` until the end of the block.

    Args:
        folder: Keeps what it says.
        arguments: Bundles and options.
    """
    command = [str(Path(sys.executable).parent / "millrace"), "serve", "--port", "0", *arguments]
    with running(folder, command) as server:
        yield server


@contextmanager
def running(
    folder: Path, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Runs a server until the end of the block.

    Args:
        folder: Keeps what it says.
        command: What to run.
        environment: Its environment; this process's by default.
    """
    with (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, env=environment)
    assert process.stdout is not None
    # A pipe, as in a container, on which the lines of several workers could tear.
    reader = threading.Thread(target=_copy, args=(process.stdout, folder / "stdout"))
    reader.start()
    server = Running(process, folder)
    try:
        server.http = httpx.Client(base_url=until(server.listens, seconds=60), timeout=20)
        until(server.answers, seconds=60)
        yield server
        server.http.close()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)
        reader.join(STOP_SECONDS)
        process.stdout.close()


def _copy(stream: IO[bytes], path: Path) -> None:
    with path.open("wb", buffering=0) as copy:
        while part := os.read(stream.fileno(), 65_536):
            copy.write(part)
