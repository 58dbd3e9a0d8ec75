"""The book of labels on the fake table and on moto's DynamoDB."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable, Item, Key, Put
from millrace.errors import ConcurrentWriteError, ConditionFailedError
from millrace.monitoring.labelbook import LabelBook
from millrace.monitoring.labels import Assertion, Counts, RowKey, Told
from tests.fakes import cloud
from tests.fakes.table import FakeTable

NOW = datetime(2026, 11, 21, 18, 20, tzinfo=UTC)
KEEP = timedelta(days=90)
WHOLE = (NOW - timedelta(days=5), NOW + timedelta(days=5))


@pytest.fixture(params=["fake", "dynamodb"])
def book(request: pytest.FixtureRequest) -> Iterator[LabelBook]:
    if request.param == "fake":
        yield LabelBook(FakeTable(), KEEP)
        return
    assert isinstance(request.getfixturevalue("stack"), cloud.Cloud)
    yield LabelBook(DynamoTable(client("dynamodb"), cloud.TABLE), KEEP)


def prediction(number: int, moment: datetime = NOW) -> str:
    """An id made at a moment."""
    digits = f"{int(moment.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-{number:012x}"


def told(label: str, number: int = 1, row: int = 0, minutes: int = 0, **how: Any) -> Told:
    """An assertion received so many minutes after now."""
    moment = how.pop("made", NOW)
    return Told(
        RowKey(prediction(number, moment), row),
        Assertion(label, NOW + timedelta(minutes=minutes), **how),
    )


def test_labels_come_back_by_prediction_and_row(book: LabelBook) -> None:
    counts = book.record("churn", [told("1"), told("0", row=3), told("1", number=2)])

    assert counts == Counts(accepted=3)
    found = book.of_prediction("churn", prediction(1))
    assert {row: label.value for row, label in found.items()} == {0: "1", 3: "0"}
    assert book.of_prediction("fraud", prediction(1)) == {}


def test_sent_again_they_are_duplicates_and_a_correction_keeps_the_former(book: LabelBook) -> None:
    book.record("churn", [told("1"), told("0", row=1)])

    counts = book.record("churn", [told("1", minutes=5), told("1", row=1, minutes=5)])

    assert counts == Counts(duplicate=1, corrected=1)
    label = book.of_prediction("churn", prediction(1))[1]
    assert [one.label for one in label.assertions] == ["0", "1"]
    assert label.assertions[0].received_at == NOW


def test_one_request_may_tell_of_one_row_several_times(book: LabelBook) -> None:
    earlier = NOW - timedelta(hours=1)

    counts = book.record("churn", [told("1"), told("1"), told("0", observed_at=earlier)])

    assert counts == Counts(accepted=1, duplicate=1, outdated=1)


def test_more_labels_than_one_read_carries_are_all_kept(book: LabelBook) -> None:
    many = [told(str(n % 2), number=n % 50, row=n) for n in range(230)]

    assert book.record("churn", many) == Counts(accepted=230)
    assert book.record("churn", many) == Counts(duplicate=230)
    assert len(list(book.of_span("churn", *WHOLE))) == 230


def test_a_span_gives_the_labels_of_predictions_made_in_it(book: LabelBook) -> None:
    moments = [NOW + timedelta(hours=12 * n) for n in range(-4, 5)]
    book.record("churn", [told("1", number=n, made=moment) for n, moment in enumerate(moments)])

    since, until = moments[2], moments[6]
    found = {key.prediction_id for key, _ in book.of_span("churn", since, until)}

    assert found == {prediction(n, moments[n]) for n in range(2, 6)}


def test_labels_expire_so_long_after_they_were_received(book: LabelBook) -> None:
    book.record("churn", [told("1", minutes=7)])

    (row, _) = next(iter(book.of_span("churn", *WHOLE)))
    key = Key(f"LABELS#churn#2026-11-21#{row.prediction_id[-1]}", f"{row.prediction_id}#000000")
    item = book.table.get_many([key])[key]
    assert item["expires_at"] == int((NOW + timedelta(minutes=7) + KEEP).timestamp())


class Contested(FakeTable):
    """A table on which somebody else writes between the first reads and writes."""

    def __init__(self, times: int, intruder: Told) -> None:
        super().__init__()
        self._left = times
        self._intruder = intruder

    def get_many(self, keys: Any) -> dict[Key, Item]:
        """See `Table.get_many`."""
        found = super().get_many(keys)
        if self._left:
            self._left -= 1
            other = FakeTable()
            other._items, other._lock = self._items, self._lock
            assertion = self._intruder.assertion
            moved = Assertion(assertion.label, assertion.received_at + timedelta(hours=self._left))
            LabelBook(other, KEEP).record("churn", [Told(self._intruder.key, moved)])
        return found


def test_two_writers_at_once_lose_nothing() -> None:
    book = LabelBook(Contested(1, told("0", minutes=-9)), KEEP)

    counts = book.record("churn", [told("1"), told("1", number=2)])

    assert counts == Counts(accepted=1, corrected=1)
    label = book.of_prediction("churn", prediction(1))[0]
    assert [one.label for one in label.assertions] == ["0", "1"]


def test_a_writer_who_never_gets_through_says_so() -> None:
    class Busy(FakeTable):
        def put(self, write: Put) -> None:
            """Somebody else was first, as always."""
            raise ConditionFailedError("label", (write.name,))

    book = LabelBook(Busy(), KEEP)

    with pytest.raises(ConcurrentWriteError, match="send them again"):
        book.record("churn", [told("1"), told("0", row=1), told("1", row=2)])
