"""Binary BYTES tensors: the texts of the Open Inference Protocol, each a 32-bit length and as many bytes.

The lengths are a chain, each leading to the next, which a loop follows slowly. Where they are small, and
categories' are, the NULs of their high bytes show all of them at once; what is found that way is held
against the chain itself, so that it is right whatever the bytes are. There are three readers: of up to
`FEW` texts in ASCII, of more in any UTF-8, and of everything.
"""

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from millrace.errors import InvalidRequestError, MalformedRequestError
from millrace.serving.columns import Coded

FEW: Final = 512
"""Elements up to which texts are split sooner than NumPy finds them."""

_LENGTH: Final = struct.Struct("<I")
_HIGH: Final = b"\0\0\0"
_EMPTY: Final = b"\0" + _HIGH
_MARK: Final = b"\x80"
"""In place of a length of nought: no byte of ASCII."""
_HIGH_BYTES: Final = 3
_WIDEST: Final = 64
_MANY: Final = 4_096
_SLOT_BITS: Final = 16
_FEW_SLOT_BITS: Final = 13
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_MASKS: Final = np.array(
    [
        [(1 << 8 * min(8, max(0, size - 8 * word))) - 1 for size in range(_WIDEST + 1)]
        for word in range(_WIDEST // 8)
    ],
    dtype=np.uint64,
)
"""By word and size of an element, what of the word is the element's own."""


def read_texts(data: bytes, count: int, what: str) -> Coded | list[str]:
    """The elements of a tensor.

    Args:
        data: Its bytes.
        count: How many elements it has to have.
        what: What it is called in an error.

    Returns:
        The texts, or of many of them each distinct one once.

    Raises:
        MalformedRequestError: The lengths do not add up.
        InvalidRequestError: An element is not UTF-8.
    """
    if count <= FEW:
        few = _one(data) if count == 1 else _split(data, count)
        if few is not None:
            return few
        found = None
    else:
        found = _coded(data, count)
    try:
        if found is None:
            return _decoded(_parts(data, count, what))
        codes, distinct = found
        return Coded(codes, [text.decode() for text in distinct])
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"{what}: expected BYTES in UTF-8") from exc


def element(text: str) -> bytes:
    """A text as an element."""
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _decoded(parts: Sequence[bytes]) -> Coded:
    """Categories repeat: each distinct text becomes a string once."""
    known = {part: code for code, part in enumerate(dict.fromkeys(parts))}
    codes = np.array([known[part] for part in parts], dtype=np.intp)
    return Coded(codes, [part.decode() for part in known])


def _one(data: bytes) -> list[str] | None:
    """One text in ASCII, as `_split` has several."""
    size = len(data) - _LENGTH.size
    if size < 0 or not data.isascii() or _LENGTH.unpack_from(data) != (size,):
        return None
    return [data[_LENGTH.size :].decode("ascii")]


def _split(data: bytes, count: int) -> list[str] | None:
    """Texts in ASCII, none of them long: None says nothing of the data."""
    if not data.isascii():
        return None
    # An empty text is four NULs, the first of which is its length. Marked, it is like the other lengths.
    marked = data.replace(_EMPTY, _MARK + _HIGH).decode("latin-1")
    # Each part ends with the length of the next text; the first is such a length alone.
    parts = marked.split(_HIGH.decode())
    if len(parts) != count + 1 or "" in parts[:-1]:
        return None
    told = "".join([part[-1] for part in parts[:-1]]).encode("latin-1").replace(_MARK, b"\0")
    texts = [part[:-1] for part in parts[1:-1]]
    texts.append(parts[-1])
    if len(parts[0]) != 1 or list(told) != list(map(len, texts)):
        return None
    return texts


def _coded(data: bytes, count: int) -> tuple[npt.NDArray[np.intp], list[bytes]] | None:
    """Elements as codes of the distinct ones, when that is quick: None says nothing of the data.

    Where lengths are below 256 and no element has a NUL, runs of NULs are three high bytes of a length,
    or four bytes for each empty element.
    """
    octets = np.frombuffer(data, dtype=np.uint8)
    starts = _starts(octets == 0, count)
    if starts is None or starts[0] != 0 or len(data) < starts[-1] + 4:
        return None
    sizes = octets.take(starts)
    begins = starts + 4
    ends = begins + sizes
    if ends[-1] != len(data) or (ends[:-1] != starts[1:]).any():
        return None
    return _distinct(data, begins, sizes)


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


def _distinct(
    data: bytes, begins: npt.NDArray[np.intp], sizes: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.intp], list[bytes]] | None:
    """Codes of the distinct elements, by a hash of their words that is checked against them."""
    widest = int(np.maximum.reduce(sizes))
    if widest > _WIDEST:
        return None
    words = max(1, -(-widest // 8))
    # Eight bytes from any place on, as one number.
    padded = data + bytes(8 * words)
    windows = np.ndarray((len(padded) - 7,), np.dtype("<u8"), padded, strides=(1,))
    keys: list[npt.NDArray[np.uint64]] = []
    mixed = sizes.astype(np.uint64)
    for word in range(words):
        key = windows[begins + 8 * word if word else begins]
        key &= _MASKS[word].take(sizes)
        mixed = (mixed ^ key) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
        keys.append(key)
    bits = _SLOT_BITS if len(mixed) > _MANY else _FEW_SLOT_BITS
    slots = (mixed >> np.uint64(64 - bits)).view(np.int64)
    numbers = np.arange(len(slots), dtype=np.int32)
    table = np.empty(1 << bits, dtype=np.int32)
    table[slots] = numbers
    first = table.take(slots)
    if (sizes.take(first) != sizes).any() or any((k.take(first) != k).any() for k in keys):
        return None
    chosen = np.flatnonzero(first == numbers)
    if len(chosen) > len(first) // 2:
        return None
    code = np.empty(len(first), dtype=np.intp)
    code[chosen] = np.arange(len(chosen))
    spans = zip(begins[chosen].tolist(), (begins + sizes)[chosen].tolist(), strict=True)
    return code.take(first), [data[begin:end] for begin, end in spans]


def _parts(data: bytes, count: int, what: str) -> list[bytes]:
    """The elements, whatever they are.

    Raises:
        MalformedRequestError: The lengths do not add up.
    """
    parts: list[bytes] = []
    position = 0
    while position < len(data) and len(parts) <= count:
        if position + 4 > len(data):
            break
        (length,) = _LENGTH.unpack_from(data, position)
        begin, position = position + 4, position + 4 + length
        if position > len(data):
            break
        parts.append(data[begin:position])
    if position != len(data) or len(parts) != count:
        raise MalformedRequestError(
            f"{what}: expected {count:,} elements, each a 32-bit little-endian length and as many "
            f"bytes, in {len(data):,} bytes of binary data; the lengths do not add up"
        )
    return parts
