"""One deployment of the real template, shared by the whole session.

On an engine of this machine it is made as a person makes it: `sam deploy` of what `make build`
built. On AWS it is there already. Either way the tests know it by its `Target` alone, and say by
`@pytest.mark.needs` what they rely on. Every model has a name of its own (`named`), so that a
stack which others use is not disturbed.
"""

import csv
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest
from sklearn import datasets as tables
from typer.testing import CliRunner, Result

from millrace.errors import MillraceError
from millrace.spec import ModelSpec
from millrace_cli import cloud
from millrace_cli.app import app
from millrace_cli.client import ApiClient
from millrace_cli.deploy import BUILD_FOLDER, deploy_local
from millrace_cli.engines import ENGINES
from millrace_cli.follow import follow_run
from millrace_cli.target import DEFAULT_STACK, Target, aws_target
from millrace_cli.training import upload_file
from tests.conftest import AWS
from tests.e2e.mailbox import Mailbox
from tests.e2e.tidying import tidy
from tests.until import until

PROJECT = Path(__file__).resolve().parents[2]
RAN_ON = pytest.StashKey[str]()
LEFT_BEHIND = pytest.StashKey[list[str]]()
JUDGED = pytest.StashKey[str]()
RUNTIME = pytest.StashKey[str]()
TOLD: dict[str, pytest.StashKey[Any]] = {
    "ran on": RAN_ON,
    "left behind": LEFT_BEHIND,
    "judged": JUDGED,
}
"""What the end of a run says, whichever process knows it."""
LAST = "test_recorded_calls.py"

AnotherCloud = Callable[[], AbstractContextManager[cloud.CloudInfo]]
Client = Callable[[str], Any]
Follow = Callable[[str], dict[str, Any]]
Millrace = Callable[..., Result]
Named = Callable[[str], str]
Upload = Callable[[str, Path], dict[str, Any]]


@pytest.fixture(scope="session")
def calls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the functions' AWS calls are recorded."""
    return tmp_path_factory.mktemp("calls")


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, calls_folder: Path) -> Iterator[Target]:
    """The deployed stack."""
    option = request.config.option
    if option.engine == AWS:
        target = aws_target(stack=option.stack, region=option.region)
        try:
            _ = target.outputs
        except MillraceError as exc:
            pytest.exit(f"the stack cannot be used: {exc}", returncode=4)
        request.config.stash[RAN_ON] = f"stack {target.stack} {target.where}"
        yield target
        return
    _expect_a_build()
    engine, runtime = ENGINES[option.engine], option.runtime
    with cloud.ephemeral(PROJECT, engine=engine, runtime=runtime, calls=calls_folder) as info:
        request.config.stash[RAN_ON] = f"{info.title} ({info.why})"
        request.config.stash[RUNTIME] = info.runtime
        # Schedules are too slow to come in between: the tests call or hurry them themselves.
        slow = {"HeartbeatMinutes": "60", "CalendarSchedule": "rate(365 days)"}
        deploy_local(PROJECT, info, print, **slow)
        yield Target(kind="local", stack=DEFAULT_STACK, endpoint_url=info.endpoint, region=None)


def _expect_a_build() -> None:
    if not (PROJECT / BUILD_FOLDER / "template.yaml").exists():
        pytest.fail("nothing is built: run the e2e tests through `make test-e2e`")


@pytest.fixture(scope="session")
def another_cloud(request: pytest.FixtureRequest) -> AnotherCloud:
    """Starts the engine once more, for tests that need one to themselves (``disposable``)."""
    option = request.config.option

    def start() -> AbstractContextManager[cloud.CloudInfo]:
        _expect_a_build()
        return cloud.ephemeral(PROJECT, engine=ENGINES[option.engine], runtime=option.runtime)

    return start


@pytest.fixture(scope="session")
def recorded(request: pytest.FixtureRequest, target: Target, calls_folder: Path) -> Path:
    """Where the AWS calls of the functions that ran so far are recorded."""
    if request.config.stash.get(RUNTIME, "process") != "process":
        pytest.skip("only functions that run as processes are recorded, not those in containers")
    return calls_folder


@pytest.fixture
def partial(request: pytest.FixtureRequest) -> str | None:
    """Why this run is not the whole suite; None when it is."""
    option, session = request.config.option, request.session
    if option.keyword or option.markexpr or option.deselect or getattr(option, "lf", False):
        return "a selection was asked for"
    if any("::" in str(argument) for argument in request.config.args):
        return "single tests were named"
    there = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    left_out = there - {item.path.name for item in session.items}
    if left_out:
        return f"{', '.join(sorted(left_out))} did not run"
    if session.testsfailed:
        return f"{session.testsfailed} tests failed before"
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What judges the whole run comes after all of it."""
    items.sort(key=lambda item: item.path.name == LAST)


class Until(Protocol):
    """Looks again and again."""

    def __call__[T](
        self, look: Callable[[], T | None], *, seconds: float = 30, pause: float | None = None
    ) -> T:
        """The first thing ``look`` finds that is true; ``pause`` is for what passes quickly."""
        ...


@pytest.fixture(scope="session")
def patiently(request: pytest.FixtureRequest) -> Until:
    """`until`, with the patience that the deployment wants.

    AWS puts metrics and logs together over minutes and evaluates alarms once a minute; what is an
    emulator's second is its minute.
    """
    pace, usual = (60.0, 5.0) if request.config.option.engine == AWS else (1.0, 0.1)

    def patient[T](
        look: Callable[[], T | None], *, seconds: float = 30, pause: float | None = None
    ) -> T:
        return until(look, seconds=seconds * pace, pause=usual if pause is None else pause)

    return patient


@pytest.fixture(scope="session")
def named(request: pytest.FixtureRequest, target: Target) -> Iterator[Named]:
    """Names models so that no other run has them, and removes what the models left in the end."""
    prefix = f"e2e{uuid.uuid4().hex[:6]}"
    yield lambda name: f"{prefix}-{name}"
    stays = tidy(target, prefix)
    if target.kind == "aws":
        request.config.stash[LEFT_BEHIND] = stays


@pytest.hookimpl
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands what it has to say to the process that prints (``-n``)."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["millrace"] = {key: session.config.stash.get(of, None) for key, of in TOLD.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes what a worker has to say."""
    said = getattr(node, "workeroutput", {}).get("millrace", {})
    for key, value in said.items():
        if value is not None:
            node.config.stash[TOLD[key]] = value


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says what the tests ran on, how the recorded calls fared, and what could not be taken away."""
    if RAN_ON in config.stash:
        terminalreporter.write_line(f"the e2e tests ran on {config.stash[RAN_ON]}")
    judged = config.stash.get(JUDGED, "")
    if judged:
        terminalreporter.section("recorded calls")
        terminalreporter.write_line(judged)
    stays = config.stash.get(LEFT_BEHIND, [])
    if stays:
        terminalreporter.section("left on the stack")
        terminalreporter.write_line("\n".join(stays))


@pytest.fixture(scope="session")
def api(target: Target) -> Iterator[ApiClient]:
    """The deployment's HTTPS API, signed as its authorizer wants."""
    with closing(ApiClient(target)) as client:
        yield client


@pytest.fixture(scope="session")
def millrace(target: Target) -> Millrace:
    """Runs `millrace …` in this process; returns its result."""
    chosen = ["--target", target.kind, "--stack", target.stack, "--region", target.region]
    if target.endpoint_url:
        chosen += ["--endpoint-url", target.endpoint_url]

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*chosen, *arguments])

    return run


@pytest.fixture(scope="session")
def client(target: Target) -> Iterator[Client]:
    """boto3 clients of the deployment's cloud by service, closed at the end."""
    with ExitStack() as stack:
        yield cache(
            lambda service: stack.enter_context(
                closing(target.session.client(service, endpoint_url=target.endpoint_url))
            )
        )


@pytest.fixture(scope="session")
def mailbox(target: Target, client: Client) -> Iterator[Mailbox]:
    """A subscriber of the deployment's topic."""
    name = f"millrace-e2e-{uuid.uuid4().hex[:12]}"
    box = Mailbox.open(client("sqs"), client("sns"), target.outputs.raw["TopicArn"], name)
    with closing(box):
        yield box


@dataclass(frozen=True, slots=True)
class Sample:
    """A table that ships with scikit-learn, as a person would hold it.

    Attributes:
        header: Column names, the target last.
        rows: Values as text.
    """

    header: list[str]
    rows: list[list[str]]

    def write(self, path: Path, start: int = 0, stop: int | None = None) -> Path:
        """Writes rows ``start`` to ``stop`` as CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.header)
            writer.writerows(self.rows[start:stop])
        return path

    def feature_row(self, index: int) -> dict[str, float]:
        """The features of one row as the API takes them."""
        values = zip(self.header[:-1], self.rows[index][:-1], strict=True)
        return {name: float(value) for name, value in values}


def sample_of(name: str, features: int) -> Sample:
    """The first ``features`` columns of a bundled table, shuffled once and for all."""
    table = getattr(tables, f"load_{name}")()
    names = [str(n).replace(" ", "_").replace("/", "_") for n in table.feature_names[:features]]
    order = sorted(range(len(table.target)), key=lambda i: (i * 7919) % 1_000_003)
    rows = [
        [*(repr(float(v)) for v in table.data[i][:features]), f"{table.target[i]:g}"] for i in order
    ]
    return Sample([*names, "target"], rows)


@pytest.fixture(scope="session")
def cancer() -> Sample:
    """Breast cancer Wisconsin: 569 rows, binary."""
    return sample_of("breast_cancer", 8)


def spec_document(
    name: str, sample: Sample, task: str = "binary", **sections: Any
) -> dict[str, Any]:
    """A spec for a sample, quick to train."""
    target_type = "number" if task == "regression" else "integer"
    columns = [
        *({"name": n, "type": "number"} for n in sample.header[:-1]),
        {"name": sample.header[-1], "type": target_type, "role": "target"},
    ]
    document: dict[str, Any] = {
        "name": name,
        "task": task,
        "data": {"columns": columns, "max_quarantined": 0.1},
        "train": {"trials": 3, "folds": 2},
        "evaluate": {"bootstrap": 50},
    }
    for section, values in sections.items():
        document[section] = {**document.get(section, {}), **values}
    return document


@pytest.fixture(scope="session")
def follow(api: ApiClient) -> Follow:
    """Waits for a run's end and returns its document."""

    def _follow(run_id: str) -> dict[str, Any]:
        final: dict[str, Any] = {}
        for event in follow_run(api, run_id, deadline=240):
            if isinstance(event, dict):
                final = event
        return final

    return _follow


@pytest.fixture(scope="session")
def upload(target: Target, follow: Follow) -> Upload:
    """Uploads a file as S3 clients do and waits for the run it starts."""

    def _upload(model: str, path: Path) -> dict[str, Any]:
        _, run_id, _ = upload_file(target, model, path, path.name)
        return follow(run_id)

    return _upload


@pytest.fixture(scope="session")
def trained(
    api: ApiClient,
    upload: Upload,
    named: Named,
    cancer: Sample,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """A model with a first champion: the run that made it."""
    name = named("tumor")
    document = spec_document(
        name, cancer, evaluate={"metrics": [{"metric": "roc_auc", "min": 0.8}]}
    )
    api.put(f"/v1/specs/{name}", ModelSpec.from_document(document).model_dump(mode="json"))
    path = cancer.write(tmp_path_factory.mktemp("data") / "first.csv", stop=400)
    run = upload(name, path)
    assert run["outcome"] == "promoted", run
    return run
