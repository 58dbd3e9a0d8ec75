"""Plain dataclasses are made of documents, each value held to its annotation."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, TypeAdapter, ValidationError

from millrace.signature import Conformal, FeatureField, Reference, Signature
from millrace.typed import WrongValue, make
from millrace.vocabulary import Algorithm, ColumnType, Task


@dataclass(frozen=True)
class Part:
    name: str
    size: float = 1.0


@dataclass(frozen=True)
class Whole:
    kind: Literal["a", "b"]
    type: ColumnType
    count: int
    made: datetime
    parts: tuple[Part, ...] = ()
    best: Part | None = None
    whole: bool = False


GOOD: dict[str, Any] = {"kind": "a", "type": "string", "count": 3, "made": "2026-11-01T00:00:00Z"}


def test_a_document_becomes_what_it_says() -> None:
    made = make(Whole, GOOD | {"parts": [{"name": "x", "size": 2}], "best": None, "whole": True})

    assert made == Whole(
        "a", ColumnType.STRING, 3, datetime(2026, 11, 1, tzinfo=UTC), (Part("x", 2.0),), None, True
    )
    assert isinstance(made.type, ColumnType)
    assert isinstance(made.parts[0].size, float)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "c"}, "kind: expected one of a, b"),
        ({"type": 1}, "type: expected one of"),
        ({"count": True}, "count: expected a whole number"),
        ({"count": "3"}, "count: expected a whole number"),
        ({"made": "yesterday"}, "made: expected a time"),
        ({"made": 5}, "made: expected a time"),
        ({"parts": {"name": "x"}}, "parts: expected a list"),
        ({"parts": [{"name": "x"}, {"size": 1}]}, "parts.1.name: is required"),
        ({"parts": [{"name": 1}]}, "parts.0.name: expected a text"),
        ({"best": "x"}, "best: expected an object"),
        ({"best": {"name": "x", "size": "big"}}, "best.size: expected a number"),
        ({"best": {"name": "x", "size": None}}, "best.size: expected a number"),
        ({"whole": 1}, "whole: expected true or false"),
        ({"more": 1}, "more: unknown key"),
    ],
)
def test_what_is_wrong_is_named_without_its_value(change: dict[str, Any], named: str) -> None:
    with pytest.raises(WrongValue, match=f"^{named}"):
        make(Whole, GOOD | change)


def test_no_object_at_all_is_refused() -> None:
    with pytest.raises(WrongValue, match="document: expected an object"):
        make(Whole, [])


def test_numbers_come_from_text_where_everything_is_text() -> None:
    assert make(Part, {"name": "5", "size": "2.5"}, from_text=True) == Part("5", 2.5)


def test_a_float_that_dynamodb_cannot_hold_comes_back_from_text() -> None:
    assert make(Part, {"name": "x", "size": "1e-300"}) == Part("x", 1e-300)


_names = st.text(max_size=8)
_numbers = st.floats(allow_nan=False, allow_infinity=False)
_fields = st.builds(
    FeatureField,
    name=_names,
    type=st.sampled_from(ColumnType),
    nullable=st.booleans(),
    min=st.none() | _numbers,
    max=st.none() | _numbers,
    allowed=st.none() | st.lists(_names, max_size=3).map(tuple),
    private=st.booleans(),
    categories=st.none() | st.lists(_names, max_size=3).map(tuple),
)
_signatures = st.builds(
    Signature,
    model=_names,
    task=st.sampled_from(Task),
    target=_names,
    features=st.lists(_fields, max_size=4).map(tuple),
    classes=st.lists(_names, max_size=3).map(tuple),
    target_type=st.sampled_from(ColumnType),
    algorithm=st.sampled_from(Algorithm),
    onnx_opset=st.integers(1, 30),
    null_values=st.lists(_names, max_size=3).map(tuple),
    unknown_categories=st.sampled_from(["serve", "refuse"]),
    reference=st.none()
    | st.builds(
        Reference,
        numeric=st.lists(st.none() | _numbers, max_size=3).map(tuple),
        categorical=st.lists(_names, max_size=3).map(tuple),
    ),
    conformal=st.none()
    | st.builds(
        Conformal,
        method=st.sampled_from(["absolute_residual", "lac"]),
        rows=st.integers(0, 1000),
        levels=st.lists(_numbers, max_size=3).map(tuple),
        quantiles=st.lists(_numbers, max_size=3).map(tuple),
        exchangeable=st.booleans(),
    ),
)


@given(_signatures)
def test_a_signature_comes_back_as_it_was_stored(signature: Signature) -> None:
    assert Signature.from_json(signature.to_json()) == signature


@dataclass(frozen=True)
class Strict(Part):
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


_values = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), _numbers, _names, st.lists(st.integers())
)


@given(st.dictionaries(st.sampled_from(["name", "size", "other"]), _values))
def test_documents_are_judged_as_pydantic_judges_them(document: dict[str, Any]) -> None:
    if isinstance(document.get("size"), str):
        return  # a number in text is one here: that is how DynamoDB's item holds some of them
    text = json.dumps(document)
    try:
        expected = TypeAdapter(Strict).validate_json(text)
    except ValidationError:
        with pytest.raises(WrongValue):
            make(Strict, json.loads(text))
    else:
        assert make(Strict, json.loads(text)) == expected
