"""Texts in a buffer as codes: each element's bytes, eight at a time, as numbers that NumPy compares.

Elements are found by a hash of those numbers, and held against what is found byte by byte, so that a
hash that two texts share costs time and never a wrong text.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.serving.columns import Coded

type _Keys = list[npt.NDArray[np.uint64]]

_WIDEST: Final = 64
_MANY: Final = 4_096
_SLOT_BITS: Final = 16
_FEW_SLOT_BITS: Final = 13
_LEAST_BITS: Final = 8
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(29)
_MASKS: Final = np.array(
    [
        [(1 << 8 * min(8, max(0, size - 8 * word))) - 1 for size in range(_WIDEST + 1)]
        for word in range(_WIDEST // 8)
    ],
    dtype=np.uint64,
)
"""By word and size of an element, what of the word is the element's own."""


def distinct(
    data: bytes, begins: npt.NDArray[np.intp], sizes: npt.NDArray[np.uint8]
) -> Coded | None:
    """Each distinct element once, by a hash of their words that is checked against them.

    None where that is not quick: an element is long, or too few are alike.

    Raises:
        UnicodeDecodeError: An element is not UTF-8.
    """
    widest = int(np.maximum.reduce(sizes))
    if widest > _WIDEST:
        return None
    keys, mixed = _hashed(data, begins, sizes, _words(widest))
    bits = _SLOT_BITS if len(mixed) > _MANY else _FEW_SLOT_BITS
    slots = _slots(mixed, bits)
    numbers = np.arange(len(slots), dtype=np.int32)
    table = np.empty(1 << bits, dtype=np.int32)
    table[slots] = numbers
    first = table.take(slots)
    if not _are_alike(first, sizes, keys, sizes, keys):
        return None
    chosen = np.flatnonzero(first == numbers)
    if len(chosen) > len(first) // 2:
        return None
    code = np.empty(len(first), dtype=np.intp)
    code[chosen] = np.arange(len(chosen))
    spans = zip(begins[chosen].tolist(), (begins + sizes)[chosen].tolist(), strict=True)
    return Coded(code.take(first), [data[begin:end].decode() for begin, end in spans])


class Vocabulary:
    """Texts that come again and again, which elements are found among without a look at each other.

    Args:
        texts: The texts, each once. Those that are long, or that share their place with a later one,
            are not found.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = {text: text.encode(errors="replace") for text in texts}
        # What has no bytes of its own, a lone surrogate, is no element.
        short = {t: e for t, e in encoded.items() if len(e) <= _WIDEST and e.decode() == t}
        self.texts = tuple(short)
        data = b"".join(short.values())
        sizes = np.array([len(e) for e in short.values()], dtype=np.uint8)
        begins = np.cumsum(sizes, dtype=np.intp) - sizes
        self._words = _words(max(map(len, short.values()), default=0))
        self._sizes = sizes
        self._keys, mixed = _hashed(data, begins, sizes, self._words)
        self._bits = next(
            (
                b
                for b in range(_LEAST_BITS, _SLOT_BITS)
                if len(set(_slots(mixed, b).tolist())) == len(mixed)
            ),
            _SLOT_BITS,
        )
        self._table = np.zeros(1 << self._bits, dtype=np.intp)
        self._table[_slots(mixed, self._bits)] = np.arange(len(mixed))

    def coded(
        self, data: bytes, begins: npt.NDArray[np.intp], sizes: npt.NDArray[np.uint8]
    ) -> Coded | None:
        """Elements as codes of the texts; None when one of them is not found.

        Args:
            data: The tensor's bytes.
            begins: Where each element begins.
            sizes: Its bytes.
        """
        if not self.texts:
            return None
        keys, mixed = _hashed(data, begins, sizes, self._words)
        codes = self._table.take(_slots(mixed, self._bits))
        if not _are_alike(codes, self._sizes, self._keys, sizes, keys):
            return None
        return Coded(codes, self.texts, lasting=True)


def _words(widest: int) -> int:
    return max(1, -(-widest // 8))


def _hashed(
    data: bytes, begins: npt.NDArray[np.intp], sizes: npt.NDArray[np.uint8], words: int
) -> tuple[_Keys, npt.NDArray[np.uint64]]:
    """So many words of each element, eight bytes as a number, and a hash of them and the size."""
    padded = data + bytes(8 * words)
    # Eight bytes from any place on, as one number.
    windows = np.ndarray((len(padded) - 7,), np.dtype("<u8"), padded, strides=(1,))
    keys: _Keys = []
    mixed = sizes.astype(np.uint64)
    for word in range(words):
        key = windows[begins + 8 * word if word else begins]
        key &= _MASKS[word].take(sizes, mode="clip")
        mixed = (mixed ^ key) * _MULTIPLIER
        mixed ^= mixed >> _HALF
        keys.append(key)
    return keys, mixed


def _slots(mixed: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.int64]:
    return (mixed >> np.uint64(64 - bits)).view(np.int64)


def _are_alike(
    places: npt.NDArray[np.integer[Any]],
    sizes: npt.NDArray[np.uint8],
    keys: _Keys,
    own_sizes: npt.NDArray[np.uint8],
    own_keys: _Keys,
) -> bool:
    """Whether what stands at the places is what each element is, byte by byte."""
    return not np.count_nonzero(sizes.take(places) != own_sizes) and not any(
        np.count_nonzero(key.take(places) != own) for key, own in zip(keys, own_keys, strict=True)
    )
