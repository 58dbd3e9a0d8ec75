"""Prediction ids tell when the prediction was made."""

import time
from uuid import UUID

import pytest

from millrace.serving.identity import (
    is_prediction_id,
    new_prediction_id,
    predicted_at,
    predicted_ms,
)


def test_a_prediction_id_is_a_uuid_of_version_7() -> None:
    made = UUID(new_prediction_id())

    assert (made.version, made.variant) == (7, "specified in RFC 4122")


def test_a_prediction_id_tells_when_it_was_made() -> None:
    before = time.time_ns() // 1_000_000

    made = new_prediction_id()

    assert before <= predicted_ms(made) <= time.time_ns() // 1_000_000
    assert predicted_at(made).timestamp() == pytest.approx(predicted_ms(made) / 1000)


def test_prediction_ids_made_at_once_differ() -> None:
    assert len({new_prediction_id() for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("017f22e2-79b0-7cc3-98c4-dc0c0c07398f", True, id="RFC 9562's example"),
        pytest.param("017F22E2-79B0-7CC3-98C4-DC0C0C07398F", False, id="capitals"),
        pytest.param("919108f7-52d1-4320-9bac-f847db4148a8", False, id="version 4"),
        pytest.param("017f22e2-79b0-7cc3-18c4-dc0c0c07398f", False, id="another variant"),
        pytest.param("017f22e279b07cc398c4dc0c0c07398f", False, id="no hyphens"),
        pytest.param("017f22e2-79b0-7cc3-98c4-dc0c0c07398f\n", False, id="a line's end"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_only_ids_of_version_7_in_lower_case_are_prediction_ids(text: str, expected: bool) -> None:
    assert is_prediction_id(text) is expected


def test_the_time_of_the_rfcs_example_is_read() -> None:
    when = predicted_at("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")

    assert when.isoformat() == "2022-02-22T19:22:22+00:00"
