"""What unit tests share."""

from collections.abc import Iterator

import pytest

from millrace.observability import metrics


@pytest.fixture(autouse=True)
def nothing_counted_before() -> Iterator[None]:
    """What one test counted and did not publish is not in the next one's line."""
    yield
    metrics.provider.clear_metrics()
