"""The built artifacts, made once for all tests that look at them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.build.artifact import ROOT
from tests.infra.isolated import Artifacts


@pytest.fixture(scope="session")
def artifacts() -> Iterator[Artifacts]:
    """Every function's artifact."""
    place = ROOT / ".millrace"
    place.mkdir(exist_ok=True)
    # Beside the dependency trees, so that files are linked and not copied.
    with tempfile.TemporaryDirectory(prefix="artifacts-", dir=place) as folder:
        yield Artifacts(Path(folder))
