"""A fresh stack."""

from collections.abc import Iterator

import pytest

from tests.fakes import cloud


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[cloud.Cloud]:
    """A stack of its own for each test."""
    with cloud.stack(monkeypatch) as made:
        yield made
