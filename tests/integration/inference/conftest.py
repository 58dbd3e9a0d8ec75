"""`millrace serve` as a process, with bundles of small models, for the public clients to ask."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from millrace.signature import Signature
from millrace.spec import Task
from tests.fakes.bundles import bundled
from tests.fakes.onnx_models import churn_signature, stored
from tests.until import until

ROWS = [
    {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"},
    {"age": 19, "plan": "premium", "tenure": 0.25, "active": False, "city": "Málaga"},
    {"age": 88, "plan": "", "tenure": 1e6, "active": True, "city": "東京"},
]
_LISTENING = re.compile(r"running on (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class Served:
    """A server and what it serves.

    Attributes:
        url: Where it answers.
        lines: The requests it captured, one JSON line each.
        signatures: Signatures of its models by name.
    """

    url: str
    lines: Path
    signatures: dict[str, Signature]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a classification of two versions and a regression."""
    folder = tmp_path_factory.mktemp("bundles")
    lines = tmp_path_factory.mktemp("lines") / "captured.jsonl"
    bundled(folder / "churn-1.bundle", version=1, bias=-1.0)
    bundled(folder / "churn-2.bundle", version=2)
    spend = stored("spend-1", name="spend", task=Task.REGRESSION)
    bundled(folder / "spend-1.bundle", model="spend", of=spend)
    command = [
        str(Path(sys.executable).with_name("millrace")),
        *("serve", str(folder), "--port", "0", "--capture", str(lines)),
        *("--max-rows", "2000", "--max-body-mb", "0.2"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=said.extend, args=(process.stdout,), daemon=True)
    reader.start()

    def listening() -> str | None:
        assert process.poll() is None, "".join(said)
        found = _LISTENING.search("".join(said))
        return found[1] if found else None

    try:
        url = until(listening)
        until(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 200)
        signatures = {"churn": churn_signature(), "spend": spend.signature}
        yield Served(url, lines, signatures)
    finally:
        process.terminate()
        process.wait(timeout=20)
        reader.join(timeout=10)
        process.stdout.close()
