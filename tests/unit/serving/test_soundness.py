"""What a model may answer."""

import numpy as np
import pytest

from millrace.serving.soundness import FEW, is_sound

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("rows", [1, FEW, FEW + 1])
@pytest.mark.parametrize(
    ("row", "sound"),
    [
        ([0.25, 0.75], True),
        ([0.0, 1.0], True),
        ([1e-7, 1.0], True),
        ([0.3333333, 0.3333333, 0.3333333], True),
        ([NAN, 1.0], False),
        ([NAN, NAN], False),
        ([INF, -INF], False),
        ([INF, 0.0], False),
        ([0.5, 0.6], False),
        ([0.0, 0.0], False),
        ([1.5, -0.5], False),
    ],
    ids=str,
)
def test_probabilities_are_shares_of_one(row: list[float], sound: bool, rows: int) -> None:
    output = np.full((rows, len(row)), 1.0 / len(row), dtype=np.float32)
    output[-1] = row

    assert is_sound(output) is sound


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_values_of_a_regression_are_finite(value: float) -> None:
    assert is_sound(np.array([-1e30, 0.0, 3.0], dtype=np.float32))
    assert not is_sound(np.array([0.0, value], dtype=np.float32))
