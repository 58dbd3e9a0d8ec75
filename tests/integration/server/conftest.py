"""A real server process on loopback, on bundles of small real models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.bundles import bundled, churn_baseline
from tests.fakes.server import Running, serving

ROW: dict[str, Any] = {
    "age": 41,
    "plan": "basic",
    "tenure": 3.5,
    "active": True,
    "city": "Graz",
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle of churn@1."""
    folder = tmp_path_factory.mktemp("shelf")
    bundled(folder / "churn.bundle", baseline=churn_baseline().to_bytes())
    return folder


@pytest.fixture(scope="module")
def server(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers that look at the folder every 0.3 s."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, str(shelf), "--workers", "2", "--refresh", "0.3") as running:
        yield running
