"""What a signature keeps of the rows a model was fitted on."""

import numpy as np
import pytest

from millrace.errors import TrainingError
from millrace.learning import known
from millrace.learning.features import Rows
from millrace.spec import ModelSpec, Task
from tests.unit.learning.tables import COLOURS, make_table


def _seen(**sections: object) -> tuple[ModelSpec, Rows]:
    numeric = np.array([[1.0, 5.0], [2.0, np.nan], [9.0, np.nan], [4.0, np.nan]])
    codes = np.array([4, 4, 1, -1], dtype=np.int32)
    spec, table = make_table(
        Task.BINARY,
        numeric,
        np.array([0, 1, 0, 1]),
        categorical={"colour": (codes, COLOURS)},
        sections=dict(sections),
    )
    return spec, Rows.of_table(table)


def test_categories_are_those_that_were_fitted_on() -> None:
    assert known.known_categories(*_seen()) == {"colour": ("blue", "red")}


def test_the_typical_row_is_medians_and_the_most_frequent_values() -> None:
    reference = known.typical_row(*_seen())

    assert reference.numeric == (3.0, 5.0)
    assert reference.categorical == ("red",)


def test_nothing_of_a_private_feature_is_kept() -> None:
    private = {"privacy": {"never_log": ["n0", "colour"]}}

    reference = known.typical_row(*_seen(**private))

    assert known.known_categories(*_seen(**private)) == {}
    assert (reference.numeric, reference.categorical) == ((None, 5.0), ("",))


def test_too_many_categories_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MAX_CATEGORIES", 1)

    assert known.known_categories(*_seen()) == {}


@pytest.mark.parametrize(
    ("sections", "why"),
    [({}, "has 2 different values"), ({"privacy": {"never_log": ["colour"]}}, "is private")],
    ids=["many", "private"],
)
def test_refusing_what_is_unknown_needs_to_know_what_is_known(
    sections: dict[str, object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "MAX_REFUSABLE_CATEGORIES", 1)

    with pytest.raises(TrainingError, match=f"'colour' {why}"):
        known.known_categories(*_seen(serve={"unknown_categories": "refuse"}, **sections))
