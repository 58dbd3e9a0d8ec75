"""What holds for every test: its kind by its folder, no real AWS, no network where none belongs."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
KINDS = ("unit", "integration", "infra", "e2e", "localstack", "bench")
LOOPBACK = ["127.0.0.1", "::1", "localhost"]


def _isolate_from_aws() -> None:
    """Leaves nothing in the environment by which a test could reach somebody's account.

    Done at import, before any test module builds a client or reads its settings.
    """
    for name in list(os.environ):
        if name.startswith(("AWS_", "MILLRACE_", "POWERTOOLS_")) and name != "AWS_CA_BUNDLE":
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


_isolate_from_aws()

# Machines are noisy: how long an example takes is never a verdict. On CI the same examples come
# every time, so that a failure there is one that can be repeated.
settings.register_profile(
    "millrace",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("millrace")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test with the kind its folder stands for, and says what it may reach.

    Unit tests open no socket; the others reach this machine alone. Unix sockets stay open
    (`--allow-unix-socket`): an event loop makes a pair of them to wake itself.
    """
    for item in items:
        if not item.path.is_relative_to(TESTS):
            continue
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in KINDS:
            item.add_marker(getattr(pytest.mark, folder))
        if folder == "unit":
            item.add_marker(pytest.mark.disable_socket)
        else:
            item.add_marker(pytest.mark.allow_hosts(LOOPBACK))
