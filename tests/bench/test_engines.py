"""Time and memory of each engine, with the real template on it.

Subject: LocalStack as a process. Reference: MiniStack, in the same rounds. Cold is the first upload
to a fresh deployment until its champion has answered; warm is a later one of another model.
"""

import statistics
import time
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pytest

from millrace_cli import cloud
from millrace_cli.client import ApiClient
from millrace_cli.deploy import deploy_local
from millrace_cli.engines import LOCALSTACK, MINISTACK, Engine
from millrace_cli.follow import follow_run
from millrace_cli.target import DEFAULT_STACK, Target
from millrace_cli.training import upload_file
from tests.bench.measure import keep
from tests.e2e.conftest import Sample, sample_of, spec_document

PROJECT = Path(__file__).resolve().parents[2]
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One life of an engine: seconds, and megabytes of its process and of the functions' processes.

    Shared pages count once in all (PSS), so that processes of one program add up to what they take.
    """

    start: float
    deploy: float
    cold: float
    warm: float
    stop: float
    idle_megabytes: float
    engine_megabytes: float
    functions_megabytes: float


@pytest.mark.timeout(3600)
def test_localstack_over_ministack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = sample_of("breast_cancer", 8)
    path = sample.write(tmp_path / "all.csv", stop=400)

    rounds = [
        (_life(LOCALSTACK, sample, path), _life(MINISTACK, sample, path)) for _ in range(ROUNDS)
    ]

    capsys.readouterr()
    figures: dict[str, object] = {}
    for field in fields(Round):
        pairs = [(getattr(s, field.name), getattr(r, field.name)) for s, r in rounds]
        ratios = sorted(subject / reference for subject, reference in pairs)
        subject, reference = (statistics.median(side) for side in zip(*pairs, strict=True))
        figures[field.name] = {"localstack": subject, "ministack": reference, "ratios": ratios}
        with capsys.disabled():
            print(
                f"\n{field.name}: LocalStack {subject:.2f}, MiniStack {reference:.2f}, ratio "
                f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]",
                end="",
            )
    keep("engines", {"rounds": [[asdict(s), asdict(r)] for s, r in rounds], **figures})
    # How long a training takes is no verdict; that functions ran as processes is.
    assert all(one.functions_megabytes > 0 for pair in rounds for one in pair)


def _life(engine: Engine, sample: Sample, path: Path) -> Round:
    begun = time.perf_counter()
    with cloud.ephemeral(PROJECT, engine=engine, runtime="process") as info:
        started = time.perf_counter()
        idle = _megabytes(info.pid)
        deploying = time.perf_counter()
        deploy_local(PROJECT, info, lambda _: None)
        deployed = time.perf_counter()
        target = Target(kind="local", stack=DEFAULT_STACK, endpoint_url=info.endpoint, region=None)
        with closing(ApiClient(target)) as api:
            cold = _to_an_answer(api, "cold", sample, path)
            warm = _to_an_answer(api, "warm", sample, path)
        own = _megabytes(info.pid)
        functions = sum(map(_megabytes, _descendants(info.pid)))
        ending = time.perf_counter()
    return Round(
        start=started - begun,
        deploy=deployed - deploying,
        cold=cold,
        warm=warm,
        stop=time.perf_counter() - ending,
        idle_megabytes=idle,
        engine_megabytes=own,
        functions_megabytes=functions,
    )


def _to_an_answer(api: ApiClient, model: str, sample: Sample, path: Path) -> float:
    """Seconds from an upload to the champion's first answer."""
    api.put(f"/v1/specs/{model}", spec_document(model, sample))
    begun = time.perf_counter()
    _, run_id, _ = upload_file(api.target, model, path, path.name)
    *_, run = follow_run(api, run_id, deadline=300, pause=lambda _: time.sleep(0.1))
    assert isinstance(run, dict)
    assert run["outcome"] == "promoted", run
    answer = api.post(f"/v1/models/{model}/predict", {"rows": [sample.feature_row(0)]})
    assert answer["version"] == run["model_version"]
    return time.perf_counter() - begun


def _descendants(pid: int) -> list[int]:
    """Every process that a process started, and those that they started."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields_after_name = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended meanwhile.
        parents[int(stat.parent.name)] = int(fields_after_name[1])

    def below(one: int) -> bool:
        parent = parents.get(one)
        return parent is not None and (parent == pid or below(parent))

    return [one for one in parents if below(one)]


def _megabytes(pid: int) -> float:
    """The proportional set size of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Pss")
