"""A real server process on loopback, on bundles of small real models."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tests.fakes.bundles import bundled
from tests.until import until

ROW: dict[str, Any] = {
    "age": 41,
    "plan": "basic",
    "tenure": 3.5,
    "active": True,
    "city": "Graz",
}
_LISTENING = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
STOP_SECONDS = 30


@dataclass
class Running:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    folder: Path
    http: httpx.Client = field(init=False)

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
        with httpx.Client(base_url=self.http.base_url, timeout=20) as http:
            return http.post(f"/v1/models/{model}/predict", json={"rows": rows})

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

    def stop(self) -> int:
        """Asks it to stop, and waits; returns its exit code."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Running]:
    """Runs `millrace serve` until the end of the block."""
    command = [str(Path(sys.executable).parent / "millrace"), "serve", "--port", "0", *arguments]
    with (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err)
    assert process.stdout is not None
    # A pipe, as in a container, on which the lines of several workers could tear.
    reader = threading.Thread(target=_copy, args=(process.stdout, folder / "stdout"))
    reader.start()
    server = Running(process, folder)
    try:

        def listening() -> str | None:
            if process.poll() is not None:
                pytest.fail(f"the server ended with {process.returncode}: {server.log}")
            found = _LISTENING.search(server.log)
            return found[1] if found else None

        address = until(listening, seconds=60)
        server.http = httpx.Client(base_url=address, timeout=20)

        def answering() -> bool:
            try:
                return server.http.get("/v1/health").status_code == 200
            except httpx.TransportError:
                return False

        until(answering, seconds=60)
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


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle of churn@1."""
    folder = tmp_path_factory.mktemp("shelf")
    bundled(folder / "churn.bundle")
    return folder


@pytest.fixture(scope="module")
def server(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers that look at the folder every 0.3 s."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, str(shelf), "--workers", "2", "--refresh", "0.3") as running:
        yield running
