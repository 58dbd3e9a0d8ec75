"""An event that is not ours is refused with the fields that are wrong, never with their values."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from millrace.decoding import decode
from millrace.errors import FieldProblem, InvalidEventError
from millrace.messages import SourceObject

SOURCE = TypeAdapter(SourceObject)


def test_a_right_event_is_the_message() -> None:
    event = {"bucket": "b", "key": "k", "version_id": "v"}

    assert decode(SOURCE, event, "a source") == SourceObject(bucket="b", key="k", version_id="v")


def test_a_wrong_event_is_refused_by_its_fields() -> None:
    with pytest.raises(
        InvalidEventError, match="expected a source: .*key: Field required"
    ) as caught:
        decode(SOURCE, {"bucket": {"name": "Ada"}, "version_id": "v"}, "a source")

    assert {p.field for p in caught.value.problems} == {"bucket", "key"}
    assert "Ada" not in str(caught.value)


@pytest.mark.parametrize("event", [None, [], "text", 3], ids=repr)
def test_what_is_no_object_is_refused(event: Any) -> None:
    with pytest.raises(InvalidEventError, match="expected a source: event: ") as caught:
        decode(SOURCE, event, "a source")

    assert [type(p) for p in caught.value.problems] == [FieldProblem]


def test_many_wrong_fields_are_counted() -> None:
    many = TypeAdapter(list[int])

    with pytest.raises(InvalidEventError, match=r"9: .*; and 15 more$") as caught:
        decode(many, ["x"] * 25, "numbers")
    assert len(caught.value.problems) == 25
