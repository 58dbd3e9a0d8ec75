"""The spec's capture rate reaches what predictions read, without a training."""

import pytest

from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable


@pytest.fixture
def registry() -> Registry:
    return Registry(FakeTable(), clock=FakeClock(), ids=counting_ids())


def test_a_new_champion_captures_as_the_current_spec_says(registry: Registry) -> None:
    cases.champion(registry, 1, cases.spec(monitor={"capture_rate": 0.25}))

    assert registry.get_serving("churn").capture_rate == 0.25


def test_a_spec_applied_later_changes_the_rate_of_the_champion_and_of_older_versions(
    registry: Registry,
) -> None:
    cases.champion(registry, 1)
    cases.champion(registry, 2)
    before = registry.get_serving("churn")

    cases.apply(registry, cases.spec(monitor={"capture_rate": 0.0}))

    after = registry.get_serving("churn")
    assert (before.capture_rate, after.capture_rate) == (1.0, 0.0)
    assert after.version == before.version == 2
    assert registry.get_serving("churn", 1).capture_rate == 0.0
