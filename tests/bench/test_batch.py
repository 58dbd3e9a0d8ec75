"""What batch scoring costs beyond the model, and how much memory a million rows take.

Score: a chunk's bytes to scores' bytes by the function's own service, over the bare
`InferenceSession.run` on arrays that are prepared already. Memory: each step on a million rows in a
process of its own, the peak of its resident set over the file's size, and over what it has before it
reads (the libraries).
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from millrace.batch import chunks
from millrace.batch.scoring import Scorer, columns_of, score_arrays
from millrace.serving.codec import Limits, SignatureCodec
from millrace.spec import ColumnType
from tests.bench.conftest import PROJECT, Learned
from tests.bench.measure import compare, keep

ROWS = 50_000
MILLION = 1_000_000

_STEPS = """
import json, pathlib, re, sys, time
from tests.unit.batch.jobs import Job, HEADER, rows
from millrace.datasets.engine import Limits
from tests.unit.batch import jobs
from tests.fakes.folder import FolderStore
jobs.LIMITS = Limits(memory_mb=1024)
folder, step = pathlib.Path(sys.argv[1]), sys.argv[2]
job = Job(folder / "scratch", chunk_rows=50_000, store=FolderStore(folder / "objects"))
task = job.put_file("million.csv", folder / "million.csv")
def peak():
    # Not getrusage: its peak counts the process that this one was forked from.
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
before = peak()
begun = time.perf_counter()
if step == "split":
    made = job.split(task)
    assert made.rows.accepted == 1_000_000, made
elif step == "score":
    for chunk in range(20):
        job.score(task, chunk)
else:
    made = job.split(task)
    assert job.finish(task, made).rows.accepted == 1_000_000
print(json.dumps({
    "seconds": time.perf_counter() - begun,
    "before_mb": before / 1024,
    "peak_mb": peak() / 1024,
}))
"""


def test_scoring_over_the_bare_session(
    learned: Learned, capsys: pytest.CaptureFixture[str]
) -> None:
    model = learned.fit.onnx
    session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
    numeric, categorical = learned.test.features()
    times = -(-ROWS // len(numeric))
    numeric = np.tile(numeric, (times, 1))[:ROWS]
    categorical = np.tile(categorical, (times, 1))[:ROWS]
    body = chunks.pack(_arrays(learned, numeric, categorical))
    signature = learned.signature
    inputs = {"numeric": numeric, "categorical": categorical}
    inputs = {i.name: inputs[i.name] for i in session.get_inputs()}
    [output] = [o.name for o in session.get_outputs() if o.name == "probabilities"]
    scorer = Scorer(
        signature,
        SignatureCodec(signature, Limits(rows=ROWS)),
        lambda batch: session.run([output], {n: getattr(batch, n) for n in inputs})[0],
    )

    def score_it() -> bytes:
        return score_arrays(chunks.unpack(body, "a chunk"), scorer, "a chunk").to_bytes()

    measured = compare("batch score", score_it, lambda: session.run([output], inputs), rounds=7)

    capsys.readouterr()
    with capsys.disabled():
        measured.tell()
        print(f"  {ROWS / measured.subject:,.0f} rows a second, one core, 19 columns")
    keep("batch score rows", {"rows_per_second": ROWS / measured.subject})
    assert measured.ratio < 1.6


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def _arrays(learned: Learned, numeric: np.ndarray, categorical: np.ndarray) -> chunks.Arrays:
    arrays = {"row": np.arange(len(numeric), dtype=np.int64)}
    numbers, texts = 0, 0
    for position, feature in enumerate(learned.signature.features):
        if feature.type is ColumnType.STRING:
            values = [text or None for text in categorical[:, texts].tolist()]
            arrays |= chunks.encode_strings(position, values)
            texts += 1
        elif feature.type is ColumnType.BOOLEAN:
            arrays[f"b{position}"] = np.nan_to_num(numeric[:, numbers], nan=-1).astype(np.int8)
            numbers += 1
        else:
            arrays[f"n{position}"] = numeric[:, numbers].astype(np.float64)
            numbers += 1
    assert columns_of(arrays, learned.signature, "a chunk")
    return arrays


def test_memory_of_a_million_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "million.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["customer", "age", "plan", "tenure", "active", "city"])
        for i in range(MILLION):
            plan = ("basic", "premium", "")[i % 3]
            city = ("Graz", "Linz")[i % 2]
            writer.writerow([f"c{i}", 18 + i % 80, plan, f"{(i % 60) / 2}", "true", city])
    size = path.stat().st_size / 2**20
    (tmp_path / "scratch").mkdir()
    told = {}

    for step in ("split", "score", "finish"):
        done = subprocess.run(
            [sys.executable, "-c", _STEPS, str(tmp_path), step],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=PROJECT,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2_000:]
        told[step] = json.loads(done.stdout.splitlines()[-1])

    with capsys.disabled():
        print(f"\nbatch, {MILLION:,} rows, {size:.0f} MB:")
        for step, figures in told.items():
            grown = figures["peak_mb"] - figures["before_mb"]
            print(
                f"  {step}: {figures['seconds']:.1f} s, peak {figures['peak_mb']:.0f} MB, "
                f"{grown / size:.1f} × the file above what the libraries take"
            )
    keep("batch memory", {"size_mb": size, **told})
    assert told["score"]["peak_mb"] - told["score"]["before_mb"] < 2 * size
