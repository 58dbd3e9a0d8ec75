"""What holds for every test with handlers on moto: their roles grant what they ask for."""

from collections.abc import Iterator

import pytest

from tests.access.watched import watch


@pytest.fixture(autouse=True)
def granted() -> Iterator[None]:
    """Fails a test in which a handler asked AWS for something that its role does not grant."""
    watching = watch()
    yield
    refused = watching.refused()
    assert not refused, "AWS would refuse:\n" + "\n".join(map(str, refused))
