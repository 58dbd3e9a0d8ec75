"""The conformance tests' small stack, on LocalStack as a process."""

from collections.abc import Iterator

import pytest

from millrace_cli import cloud
from millrace_cli.engines import LOCALSTACK
from tests.e2e.conformance.conftest import PROJECT, Stack, deploy


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """The small stack, deployed once."""
    with cloud.ephemeral(PROJECT, engine=LOCALSTACK, runtime="process") as info:
        deploy(info)
        yield Stack.of(info)
