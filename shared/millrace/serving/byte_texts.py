"""Binary BYTES tensors: the texts of the Open Inference Protocol, each a 32-bit length and as many bytes.

The lengths are a chain, each leading to the next, which a loop follows, slowly where it is long. Where
lengths are small, and categories' are, the NULs of their high bytes show all of them at once; what is
found that way is held against the chain itself, so that it is right whatever the bytes are.
"""

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import numpy as np
import numpy.typing as npt

from millrace.errors import InvalidRequestError, MalformedRequestError
from millrace.serving.columns import Coded
from millrace.serving.text_codes import Vocabulary, distinct

FEW: Final = 256
"""Elements up to which the chain is followed sooner than NumPy finds them."""

_LENGTH: Final = struct.Struct("<I")
_NUL: Final = b"\0"
_HIGH_BYTES: Final = 3


def read_texts(
    data: bytes, count: int, what: str, expected: Vocabulary | None = None
) -> Coded | list[str]:
    """The elements of a tensor.

    Args:
        data: Its bytes.
        count: How many elements it has to have.
        what: What it is called in an error.
        expected: Texts that the elements are likely to be among.

    Returns:
        The texts, or of many of them each distinct one once.

    Raises:
        MalformedRequestError: The lengths do not add up.
        InvalidRequestError: An element is not UTF-8.
    """
    try:
        if count <= FEW:
            return _followed(data, count, what)
        spans = _spans(data, count)
        known = None
        if spans is not None:
            known = None if expected is None else expected.coded(data, *spans)
            known = known or distinct(data, *spans)
        return known or _by_distinct(_followed(data, count, what))
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"{what}: expected BYTES in UTF-8") from exc


def element(text: str) -> bytes:
    """A text as an element."""
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _by_distinct(texts: Sequence[str]) -> Coded:
    known = {text: code for code, text in enumerate(dict.fromkeys(texts))}
    return Coded(np.array([known[text] for text in texts], dtype=np.intp), list(known))


def _followed(data: bytes, count: int, what: str) -> list[str]:
    """The elements by their chain of lengths.

    Raises:
        MalformedRequestError: The lengths do not add up.
        UnicodeDecodeError: An element is not UTF-8.
    """
    if data.isascii():
        return _chained(data, data.decode("ascii"), count, what)
    parts = _chained(data, data, count, what)
    # At once, where no element has a NUL of its own.
    texts = _NUL.join(parts).decode().split("\0")
    return texts if len(texts) == count else [part.decode() for part in parts]


def _chained[T: (str, bytes)](data: bytes, source: T, count: int, what: str) -> list[T]:
    """What of the source, in which each byte is a character, the lengths in the data span."""
    parts: list[T] = []
    position = 0
    with suppress(struct.error):  # the data ends within a length
        for _ in range(count):
            begin = position + _LENGTH.size
            position = begin + _LENGTH.unpack_from(data, position)[0]
            parts.append(source[begin:position])
    if position != len(data) or len(parts) != count:
        raise MalformedRequestError(
            f"{what}: expected {count:,} elements, each a 32-bit little-endian length and as many "
            f"bytes, in {len(data):,} bytes of binary data; the lengths do not add up"
        )
    return parts


def _spans(data: bytes, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8]] | None:
    """Where the elements begin and how long they are, when that is quick: None says nothing.

    Where lengths are below 256 and no element has three NULs in a row, runs of NULs are three high bytes
    of a length, or four bytes for each empty element.
    """
    octets = np.frombuffer(data, dtype=np.uint8)
    starts = _starts(octets == 0, count)
    if starts is None or starts[0] != 0 or len(data) < starts[-1] + 4:
        return None
    sizes = octets.take(starts)
    begins = starts + 4
    ends = begins + sizes
    if ends[-1] != len(data) or np.count_nonzero(ends[:-1] != starts[1:]):
        return None
    return begins, sizes


def _starts(zero: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.intp] | None:
    """Where the lengths of so many elements may begin, by which bytes are NUL."""
    found = np.flatnonzero(zero[1:-2] & zero[2:-1] & zero[3:])
    if len(found) == count:  # none is empty
        return found
    edges = np.flatnonzero(np.diff(zero.view(np.int8), prepend=0, append=0))
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    high = lengths == _HIGH_BYTES
    if (lengths[~high] % 4).any():
        return None
    each = np.where(high, 1, lengths // 4)
    starts = np.repeat(np.where(high, begins - 1, begins), each)
    within = np.arange(len(starts)) - np.repeat(np.cumsum(each) - each, each)
    starts += 4 * within
    return starts if len(starts) == count else None
