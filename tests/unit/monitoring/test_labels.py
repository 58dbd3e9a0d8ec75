"""What is known of a row after labels came, in whatever order."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.monitoring.labels import (
    MAX_HISTORY,
    Assertion,
    Counts,
    Label,
    LabelReader,
    Outcome,
    RowKey,
    WrongLabelError,
    joined,
    merge,
)
from millrace.serving.capture import of_line
from millrace.signature import Signature
from millrace.spec import Algorithm, ColumnType, Task
from tests.samples import capture_line

NOW = datetime(2026, 11, 21, 18, 20, tzinfo=UTC)
ID = "01a1ff1f-3e00-7000-8000-000000000001"
"""Made on 2026-11-21."""


def at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


def tell(*assertions: Assertion) -> tuple[list[Outcome], Label]:
    """What assertions come to, one after the other."""
    known: Label | None = None
    outcomes = []
    for assertion in assertions:
        outcome, known = merge(known, assertion)
        outcomes.append(outcome)
    assert known is not None
    return outcomes, known


def test_the_first_label_is_accepted() -> None:
    outcomes, known = tell(Assertion("1", NOW))

    assert outcomes == ["accepted"]
    assert known.value == "1"


def test_the_same_label_twice_is_one() -> None:
    outcomes, known = tell(Assertion("1", at(0)), Assertion("1", at(5)), Assertion("1", at(9)))

    assert outcomes == ["accepted", "duplicate", "duplicate"]
    assert len(known.assertions) == 1


def test_another_label_received_later_corrects_the_first_which_is_kept() -> None:
    outcomes, known = tell(Assertion("1", at(0)), Assertion("0", at(5)))

    assert outcomes == ["accepted", "corrected"]
    assert known.value == "0"
    assert [one.label for one in known.assertions] == ["1", "0"]


def test_a_label_observed_before_the_known_one_is_history() -> None:
    outcomes, known = tell(
        Assertion("1", at(0), observed_at=at(-10)), Assertion("0", at(5), observed_at=at(-20))
    )

    assert outcomes == ["accepted", "outdated"]
    assert known.value == "1"
    assert [one.label for one in known.assertions] == ["0", "1"]


def test_a_label_confirmed_later_outlives_a_correction_from_between() -> None:
    outcomes, known = tell(
        Assertion("1", at(0), observed_at=at(-30)),
        Assertion("1", at(1), observed_at=at(-10)),
        Assertion("0", at(2), observed_at=at(-20)),
    )

    assert outcomes == ["accepted", "duplicate", "outdated"]
    assert known.value == "1"


def test_the_history_of_a_label_is_bounded_and_keeps_the_newest() -> None:
    _, known = tell(*[Assertion(str(n % 2), at(n), observed_at=at(n)) for n in range(99)])

    assert len(known.assertions) == MAX_HISTORY
    assert known.observed_at == at(98)


_ASSERTIONS = st.lists(
    st.builds(
        Assertion,
        label=st.sampled_from("abc"),
        received_at=st.just(NOW),
        observed_at=st.integers(-600, 0).map(at),
    ),
    min_size=1,
    max_size=MAX_HISTORY,
)


@given(_ASSERTIONS, st.randoms(use_true_random=False))
def test_the_order_in_which_observed_labels_arrive_changes_nothing(
    assertions: list[Assertion], random: Any
) -> None:
    shuffled = assertions * 2
    random.shuffle(shuffled)

    _, known = tell(*assertions)
    _, again = tell(*shuffled)

    assert again == known
    assert known.observed_at == max(one.effective_at for one in assertions)


@given(_ASSERTIONS)
def test_telling_everything_again_is_all_duplicate(assertions: list[Assertion]) -> None:
    _, known = tell(*assertions)

    outcomes = [merge(known, one) for one in assertions]

    assert all(outcome == ("duplicate", known) for outcome in outcomes)


def test_outcomes_are_counted() -> None:
    counts = Counts.of([Outcome.ACCEPTED, Outcome.CORRECTED, Outcome.ACCEPTED]) + Counts(outdated=2)

    assert counts == Counts(accepted=2, corrected=1, outdated=2)
    assert counts.total == 5


# ── Checking ────────────────────────────────────────────────────────────────────────────────────


def reader(kind: ColumnType = ColumnType.BOOLEAN, *classes: str) -> LabelReader:
    """Of a model that predicts these classes; of a regression without any."""
    return LabelReader(
        Signature(
            model="churn",
            task=Task.BINARY if classes else Task.REGRESSION,
            target="left",
            features=(),
            classes=classes,
            target_type=kind,
            algorithm=Algorithm.LINEAR,
            onnx_opset=17,
        )
    )


BOOLEANS = reader(ColumnType.BOOLEAN, "false", "true")
INTEGERS = reader(ColumnType.INTEGER, "0", "1", "12")
STRINGS = reader(ColumnType.STRING, "basic", "premium")
NUMBERS = reader(ColumnType.NUMBER)


@pytest.mark.parametrize(
    ("of", "value", "text", "expected"),
    [
        pytest.param(BOOLEANS, True, "TRUE", "true", id="boolean"),
        pytest.param(INTEGERS, 12, "12", "12", id="integer"),
        pytest.param(STRINGS, "basic", " basic ", "basic", id="string"),
        pytest.param(NUMBERS, 0.1, "0.1", "0.1", id="number"),
        pytest.param(NUMBERS, 3, "3", "3.0", id="whole number"),
        pytest.param(NUMBERS, -1e300, "-1e300", "-1e+300", id="large number"),
    ],
)
def test_a_label_is_taken_in_the_targets_type_from_json_and_from_text(
    of: LabelReader, value: Any, text: str, expected: str
) -> None:
    by_json = of.of_json({"prediction_id": ID, "label": value}, NOW)
    by_text = of.of_texts({"prediction_id": ID, "label": text}, NOW)

    assert by_json == by_text
    assert by_json.key == RowKey(ID, 0)
    assert by_json.assertion.label == expected


@pytest.mark.parametrize(
    ("of", "value"),
    [
        pytest.param(BOOLEANS, 1, id="integer for boolean"),
        pytest.param(BOOLEANS, "true", id="text for boolean"),
        pytest.param(INTEGERS, 1.0, id="number for integer"),
        pytest.param(INTEGERS, True, id="boolean for integer"),
        pytest.param(INTEGERS, 2, id="unknown integer"),
        pytest.param(STRINGS, "canary", id="unknown string"),
        pytest.param(STRINGS, None, id="null"),
        pytest.param(STRINGS, ["basic"], id="list"),
        pytest.param(NUMBERS, "3", id="text for number"),
        pytest.param(NUMBERS, True, id="boolean for number"),
        pytest.param(NUMBERS, float("inf"), id="infinity"),
        pytest.param(NUMBERS, 10**400, id="beyond floats"),
    ],
)
def test_another_label_is_refused_with_what_was_expected(of: LabelReader, value: Any) -> None:
    with pytest.raises(WrongLabelError, match="^expected a ") as caught:
        of.of_json({"prediction_id": ID, "label": value}, NOW)

    assert caught.value.field == "label"
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "nan", "inf", "1,5", "true"])
def test_a_text_that_is_no_number_is_no_label_of_a_regression(text: str) -> None:
    with pytest.raises(WrongLabelError, match="finite number"):
        NUMBERS.of_texts({"prediction_id": ID, "label": text}, NOW)


def test_the_classes_are_named_as_predictions_name_them() -> None:
    with pytest.raises(WrongLabelError, match="name it: false, true$"):
        BOOLEANS.of_json({"prediction_id": ID, "label": "x"}, NOW)
    with pytest.raises(WrongLabelError, match="name it: 'basic', 'premium'$"):
        STRINGS.of_json({"prediction_id": ID, "label": "x"}, NOW)


WRONG_ENTRIES: list[Any] = [
    pytest.param(
        {"prediction_id": "919108f7-52d1-4320-9bac-f847db4148a8"}, "prediction_id", id="v4"
    ),
    pytest.param({"prediction_id": 5}, "prediction_id", id="an id in numbers"),
    pytest.param({"prediction_id": None}, "prediction_id", id="no id"),
    pytest.param(
        {"prediction_id": "01a2047c-8880-7000-8000-000000000001"}, "prediction_id", id="to come"
    ),
    pytest.param({"row": -1}, "row", id="a negative row"),
    pytest.param({"row": 1_000_000}, "row", id="a row too far"),
    pytest.param({"row": True}, "row", id="a boolean row"),
    pytest.param({"row": 1.0}, "row", id="a row in floats"),
    pytest.param({"observed_at": "yesterday"}, "observed_at", id="a time in words"),
    pytest.param({"observed_at": "2026-11-21T18:00:00"}, "observed_at", id="no offset"),
    pytest.param({"observed_at": 1_795_285_200}, "observed_at", id="a time in numbers"),
    pytest.param({"observed_at": "2026-11-22T18:20:00Z"}, "observed_at", id="tomorrow"),
    pytest.param({"confidence": 1}, "", id="an unknown field"),
]


@pytest.mark.parametrize(("changes", "field"), WRONG_ENTRIES)
def test_a_wrong_entry_is_refused_by_its_field(changes: dict[str, Any], field: str) -> None:
    entry = {"prediction_id": ID, "label": True} | changes

    with pytest.raises(WrongLabelError) as caught:
        BOOLEANS.of_json(entry, NOW)

    assert caught.value.field == field


@pytest.mark.parametrize("entry", [5, None, [], "text"])
def test_what_is_no_object_is_no_entry(entry: Any) -> None:
    with pytest.raises(WrongLabelError, match="expected an object"):
        BOOLEANS.of_json(entry, NOW)


def test_an_observation_keeps_its_moment_whatever_its_offset() -> None:
    told = BOOLEANS.of_json(
        {"prediction_id": ID, "label": True, "observed_at": "2026-11-21T20:00:00+02:00"}, NOW
    )

    assert told.assertion.observed_at == datetime(2026, 11, 21, 18, tzinfo=UTC)


# ── Joining ─────────────────────────────────────────────────────────────────────────────────────


def test_captured_rows_are_joined_with_their_labels() -> None:
    line = capture_line()
    line["row_count"] = 9
    line["capture"]["rows"] = [2, 7]
    prediction = of_line(line)
    label = Label((Assertion("1", NOW),))

    rows = list(joined([prediction], [(RowKey(prediction.prediction_id, 7), label)]))

    assert [(one.row, one.label) for one in rows] == [(2, None), (7, label)]
    assert rows[1].inputs == {"age": 29, "plan": None}
    assert rows[1].output == [0.4, 0.6]
