"""What is counted first and written later, beside what is written at once."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from millrace.server.tallies import Count, Observations, Tallied

BOUNDS = (0.1, 0.5, 1.0)


def told(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Samples by name and bucket, without when they were made."""
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@given(
    st.lists(
        st.lists(st.floats(-2, 2) | st.sampled_from((*BOUNDS, math.inf)), max_size=8), max_size=4
    )
)
def test_many_observations_are_as_one_after_the_other(written: list[list[float]]) -> None:
    here, there = CollectorRegistry(), CollectorRegistry()
    several = Tallied("took", "Seconds.", ("model",), buckets=BOUNDS, registry=here)
    single = Histogram("took", "Seconds.", ("model",), buckets=BOUNDS, registry=there)
    waiting = Observations(several.labels("churn"))
    known = single.labels("churn")

    for values in written:
        for value in values:
            waiting.observe(value)
            known.observe(value)
        waiting.write()
        waiting.write()

    ours, theirs = told(here), told(there)
    total = ("took_sum", "")
    assert math.isclose(ours.pop(total), theirs.pop(total), abs_tol=1e-9)
    assert ours == theirs


def test_a_count_is_told_once() -> None:
    registry = CollectorRegistry()
    count = Count(Counter("asked", "Requests.", registry=registry))

    count.n += 3
    before = told(registry)
    count.write()
    count.write()
    count.n += 1
    count.write()

    assert before == {("asked_total", ""): 0}
    assert told(registry) == {("asked_total", ""): 4}
