"""What holds for every test: its kind by its folder, no real AWS, no network where none belongs.

And where the e2e tests run: on an engine of this machine, which they start, or (``--engine aws
--stack NAME``) on a stack that is deployed already, with the person's own credentials.
"""

import os
from pathlib import Path, PurePosixPath
from typing import Any, Final

import boto3
import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from millrace_cli.engines import AWS_CAPABILITIES, DEFAULT_ENGINE, ENGINES, Capability

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
AWS: Final = "aws"
OWN_FOLDERS: Final = {
    "ministack": TESTS / "e2e" / "conformance",
    "localstack": TESTS / "localstack",
}
"""Tests of one engine alone: whether it is what the suite takes it for."""
DELIVERING: Final = frozenset({"test_delivery.py", "test_pipelines.py"})
"""e2e tests that build and deliver as people do, on clouds of their own."""
KINDS = ("unit", "integration", "infra", "e2e", "localstack", "bench")
LOOPBACK = ["127.0.0.1", "::1", "localhost"]


def _isolate_from_aws() -> dict[str, str]:
    """Leaves nothing in the environment by which a test could reach somebody's account.

    Done at import, before any test module builds a client or reads its settings.

    Returns:
        What it took away.
    """
    person = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("AWS_", "MILLRACE_", "POWERTOOLS_")) and name != "AWS_CA_BUNDLE"
    }
    for name in person:
        del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "POWERTOOLS_TRACE_DISABLED": "true",
        "SAM_CLI_TELEMETRY": "0",
    }
    return person


_PERSON: Final = _isolate_from_aws()


def _give_back_credentials() -> None:
    """The person's own AWS settings, for a run that was told to use their stack."""
    for name in list(os.environ):
        if name.startswith("AWS_") and name != "AWS_CA_BUNDLE":
            del os.environ[name]
    kept = ("AWS_", "MILLRACE_API_KEY")
    os.environ |= {name: value for name, value in _PERSON.items() if name.startswith(kept)}


# Machines are noisy: how long an example takes is never a verdict. On CI the same examples come
# every time, so that a failure there is one that can be repeated.
settings.register_profile(
    "millrace",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("millrace")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the e2e tests run."""
    group = parser.getgroup("millrace")
    group.addoption(
        "--engine",
        choices=[*ENGINES, AWS],
        default=DEFAULT_ENGINE.name,
        help="what the e2e tests run on: an engine of this machine, or a stack on AWS",
    )
    group.addoption(
        "--runtime",
        choices=["process", "docker"],
        default=None,
        help="how the engine runs; default: by what is there",
    )
    group.addoption(
        "--examples",
        type=int,
        default=15,
        help="how many requests the comparison with scikit-learn makes for each pipeline and form",
    )
    group.addoption(
        "--fuzz",
        action="store_true",
        help="let schemathesis make more than 5,000 requests rather than a few hundred",
    )
    group.addoption(
        "--crashes",
        action="store_true",
        help="crash before and after each write call of each step, rather than at two of them",
    )
    group.addoption("--stack", default=None, help="with --engine aws: the deployed stack to use")
    group.addoption("--region", default=None, help="with --engine aws: its region")


def pytest_configure(config: pytest.Config) -> None:
    """Refuses what cannot be run, before anything is."""
    aws = config.option.engine == AWS
    for option in ("stack", "region"):
        if getattr(config.option, option) and not aws:
            raise pytest.UsageError(f"--{option} belongs to --engine aws")
    if not aws:
        return
    if config.option.runtime:
        raise pytest.UsageError("--runtime belongs to the engines of this machine, not to aws")
    if not config.option.stack:
        raise pytest.UsageError(
            "--engine aws runs on a stack that is deployed already: name it with --stack NAME"
        )
    _give_back_credentials()
    session = boto3.Session(region_name=config.option.region)
    if session.get_credentials() is None:
        raise pytest.UsageError(
            "--engine aws uses your AWS credentials and found none: "
            "set AWS_PROFILE, or run `aws configure sso`"
        )
    if not session.region_name:
        raise pytest.UsageError("no AWS region is set: pass --region, or set AWS_REGION")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the own tests of engines that this run is not about; naming the folder takes them."""
    others = (folder for name, folder in OWN_FOLDERS.items() if name != config.option.engine)
    return True if collection_path in others else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks each test with the kind its folder stands for, and says what it may reach.

    Unit tests open no socket; the others reach this machine alone, unless they were told of a stack
    on AWS. Unix sockets stay open (`--allow-unix-socket`): an event loop makes a pair of them to
    wake itself.
    """
    engine = config.option.engine
    title = "AWS" if engine == AWS else ENGINES[engine].title
    for item in items:
        if not item.path.is_relative_to(TESTS):
            continue
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in KINDS:
            item.add_marker(getattr(pytest.mark, folder))
        if folder == "unit":
            item.add_marker(pytest.mark.disable_socket)
        elif not (folder == "e2e" and engine == AWS):
            item.add_marker(pytest.mark.allow_hosts(LOOPBACK))
        lacking = needed(item) - capabilities_of(engine)
        if lacking:
            names = ", ".join(sorted(lacking))
            item.add_marker(pytest.mark.skip(reason=f"{title} is not declared to do: {names}"))


class Together(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """Which tests stay on one worker, in their order, when several run them (``-n``).

    What uses the one deployed stack shares it, and is judged by the calls made on it; an engine's own
    tests share their small stack; what delivers writes to the one build folder; what else starts
    processes shares them by file. xdist's own groups, by mark, do not survive pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        folder = path.parent.as_posix()
        if folder.startswith(("tests/unit", "tests/integration")):
            return nodeid
        if folder == "tests/e2e":
            return "delivery" if path.name in DELIVERING else "stack"
        return folder if PROJECT / folder in OWN_FOLDERS.values() else path.as_posix()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """Spreads the tests over the workers."""
    return Together(config, log)


def needed(item: pytest.Item) -> frozenset[Capability]:
    """What a test says it needs of its engine, by ``@pytest.mark.needs("...")``.

    Raises:
        pytest.UsageError: It names something that is no capability.
    """
    names = {str(name) for mark in item.iter_markers("needs") for name in mark.args}
    unknown = names - set(Capability)
    if unknown:
        raise pytest.UsageError(
            f"{item.nodeid} needs {', '.join(sorted(unknown))}; "
            f"capabilities are {', '.join(Capability)}"
        )
    return frozenset(Capability(name) for name in names)


def capabilities_of(engine: str) -> frozenset[Capability]:
    """What an engine, or AWS, is declared to do."""
    return AWS_CAPABILITIES if engine == AWS else ENGINES[engine].capabilities
