"""Memory that a loaded model takes, over the size of its file; the cache counts on it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.serving.store import footprint
from tests.bench.conftest import Learned
from tests.bench.measure import keep

MODELS = 40
_MEASURE = """
import ctypes, sys
from pathlib import Path
from millrace.serving.codec import SignatureCodec
from millrace.serving.model import load_model
from millrace.signature import Signature
body, text = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes()
def load():
    signature = Signature.from_json(text)
    return load_model(body, sys.argv[3], "model", signature), SignatureCodec(signature)
def resident():
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
load()
before = resident()
held = [load() for _ in range(int(sys.argv[4]))]
after = resident()
held.clear()
print(after - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_per_loaded_model_over_its_file(
    learned: Learned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = learned.fit.onnx
    (tmp_path / "model").write_bytes(body)
    (tmp_path / "signature").write_text(learned.signature.to_json().decode(), encoding="utf-8")
    digest = hashlib.sha256(body).hexdigest()

    done = subprocess.run(
        [
            *(sys.executable, "-c", _MEASURE),
            *(tmp_path / "model", tmp_path / "signature", digest, str(MODELS)),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )

    taken, left = (int(number) for number in done.stdout.split())
    each = taken / MODELS
    keep(
        "memory per model",
        {"file": len(body), "memory": each, "ratio": each / len(body), "left": left / taken},
    )
    with capsys.disabled():
        print(
            f"\na loaded model takes {each / len(body):.1f} × its file of {len(body) / 1e6:.2f} MB; "
            f"{left / taken:.1%} stays when it goes"
        )
    assert each <= footprint(len(body))
    assert left < taken / 5
