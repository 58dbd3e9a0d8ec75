"""Numbers as people read them."""

import pytest

from millrace.evaluation.wording import bounds, interval, measured, number, signed
from millrace.messages import MetricValue


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.9124, "0.912"),
        (0.0, "0.000"),
        (-1e-15, "0.000"),
        (0.00042, "0.00042"),
        (-0.0042, "-0.0042"),
        (1.5, "1.500"),
        (12.345, "12.35"),
        (-12345.6, "-12,346"),
    ],
)
def test_number(value: float, words: str) -> None:
    assert number(value) == words


def test_signed_marks_a_gain() -> None:
    assert (signed(0.02), signed(-0.02), signed(0.0)) == ("+0.020", "-0.020", "0.000")


def test_measured_without_an_interval_is_the_value_alone() -> None:
    assert measured(MetricValue(value=0.5)) == "0.500"
    assert interval(MetricValue(value=0.5, low=0.4)) == ""


def test_bounds() -> None:
    assert bounds(0.85, None) == "≥ 0.85"
    assert bounds(None, 0.4) == "≤ 0.4"
    assert bounds(0.2, 0.4) == "between 0.2 and 0.4"
