"""Binary BYTES tensors, which are read in several ways that must not differ in what they read."""

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import InvalidRequestError, MalformedRequestError
from millrace.serving.byte_texts import FEW, read_texts
from millrace.serving.codec import SignatureCodec
from millrace.serving.columns import Coded, listed
from millrace.serving.inference_request import RequestReader
from millrace.serving.packed import MAX_VOCABULARY
from millrace.serving.tensors import TensorMap
from millrace.serving.text_codes import Vocabulary
from millrace.signature import Signature
from tests.fakes.onnx_models import churn_signature
from tests.unit.serving.test_tensors import as_bytes, rows_of, tensor

WORDS = ("", "basic", "premium", "plus", "Málaga", "eight888", "nine99999", "b" * 64)
VOCABULARY = Vocabulary(WORDS)


def elements(texts: Sequence[str]) -> bytes:
    """The bytes of a tensor."""
    encoded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def told(data: bytes, count: int, expected: Vocabulary | None) -> Any:
    """The texts, or what is said of the data."""
    try:
        return list(listed(read_texts(data, count, "inputs[0]", expected)))
    except (InvalidRequestError, MalformedRequestError) as refused:
        return str(refused)


def many(texts: Sequence[str], count: int = 2 * FEW) -> list[str]:
    """So many texts."""
    return [texts[place % len(texts)] for place in range(count)]


def test_texts_of_the_vocabulary_are_its_own() -> None:
    texts = many(WORDS)

    read = read_texts(elements(texts), len(texts), "inputs[0]", VOCABULARY)

    assert isinstance(read, Coded)
    assert read.lasting
    assert read.values is VOCABULARY.texts
    assert listed(read) == texts


@pytest.mark.parametrize(
    "odd", ["basi", "basics", "basic\0", "\0", "Malaga", "nine99998", "b" * 63, "b" * 65, "c" * 255]
)
def test_a_text_that_is_only_like_one_of_the_vocabulary_is_read_as_it_is(odd: str) -> None:
    texts = [*many(WORDS), odd]

    read = read_texts(elements(texts), len(texts), "inputs[0]", VOCABULARY)

    assert isinstance(read, Coded)
    assert not read.lasting
    assert listed(read) == texts


@given(
    st.lists(st.sampled_from(WORDS) | st.text(max_size=70), min_size=1, max_size=40),
    st.sampled_from([1, FEW, FEW + 1, 3 * FEW]),
    st.lists(st.sampled_from(WORDS) | st.text(max_size=70), max_size=40, unique=True),
)
def test_a_vocabulary_changes_nothing_of_what_is_read(
    texts: list[str], count: int, words: list[str]
) -> None:
    texts = many(texts, count)

    assert told(elements(texts), count, Vocabulary(words)) == texts


@given(st.lists(st.sampled_from(WORDS), min_size=FEW + 1, max_size=FEW + 40), st.data())
def test_damaged_texts_are_refused_or_read_as_they_are(
    texts: list[str], data: st.DataObject
) -> None:
    part = bytearray(elements(texts))
    for _ in range(data.draw(st.integers(1, 3))):
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))

    read = told(bytes(part), len(texts), VOCABULARY)

    assert read == told(bytes(part), len(texts), None)
    assert isinstance(read, str) or elements(read) == bytes(part)


def test_a_text_without_bytes_of_its_own_is_no_word() -> None:
    assert Vocabulary(["\ud800", "?", "a"]).texts == ("?", "a")


def test_nearly_all_of_many_words_are_found() -> None:
    words = [f"word {number * 7919 % 100_003}" for number in range(MAX_VOCABULARY)]
    vocabulary = Vocabulary(words)

    found = [
        isinstance(read := read_texts(elements([w] * (FEW + 1)), FEW + 1, "x", vocabulary), Coded)
        and read.lasting
        for w in words
    ]

    assert sum(found) > 0.95 * len(found), "few share their place with another"


# ── Requests ────────────────────────────────────────────────────────────────────────────────────

CATEGORIES = {"plan": ("basic", "premium"), "city": ("Graz", "Wien", "basic")}


def closed() -> Signature:
    """A signature whose texts all have categories."""
    signature = churn_signature()
    features = tuple(
        replace(f, allowed=None, categories=CATEGORIES.get(f.name)) for f in signature.features
    )
    return replace(signature, features=features)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["basic", "premium", "", "Graz", "odd", " basic "]),
            st.sampled_from(["Graz", "Wien", "basic", "premium"]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_request_like_another_is_the_same_rows(pairs: list[tuple[str, str]]) -> None:
    signature = closed()
    codec, tensors, reader = SignatureCodec(signature), TensorMap(signature), RequestReader()
    count = FEW

    def body(texts: Sequence[tuple[str, str]]) -> tuple[bytes, int]:
        both = [text for place in range(count) for text in texts[place % len(texts)]]
        numbers = [41.0, 1.5, 0.0] * count
        return as_bytes(
            [
                tensor("numeric", "FP32", numbers, [count, 3]),
                tensor("categorical", "BYTES", both, [count, 2]),
            ]
        )

    first = reader.read(*body([("basic", "Graz"), ("premium", "Wien")]))
    tensors.batch(first, codec)
    assert first.form is not None
    assert first.form.vocabulary is codec.vocabulary

    known = tensors.batch(reader.read(*body(pairs)), codec)

    anew = TensorMap(signature).batch(RequestReader().read(*body(pairs)), SignatureCodec(signature))
    assert rows_of(known) == rows_of(anew)


def test_a_model_has_a_vocabulary_where_all_its_texts_have_categories() -> None:
    vocabulary = SignatureCodec(closed()).vocabulary
    assert vocabulary is not None
    assert vocabulary.texts == ("", "Graz", "Wien", "basic", "premium")

    assert SignatureCodec(churn_signature()).vocabulary is None
    many_cities = tuple(f"city {number}" for number in range(MAX_VOCABULARY))
    features = tuple(
        replace(f, categories=many_cities if f.name == "city" else f.categories)
        for f in closed().features
    )
    assert SignatureCodec(replace(closed(), features=features)).vocabulary is None
