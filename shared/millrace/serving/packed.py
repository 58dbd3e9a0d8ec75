"""The two packed tensors into the model's arrays at once, for the codec: the fastest way in.

All numbers are looked at together, and so are all texts: nothing is done feature by feature but to ask
whether its texts are known ones. Where anything needs a closer look it is read again as columns
(`columns`), which name what is wrong. A test holds both to the same answers.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from millrace.serving.columns import Coded
from millrace.serving.features import Batch
from millrace.serving.text_codes import Vocabulary
from millrace.serving.texts import Texts
from millrace.signature import MISSING_CATEGORY, FeatureField
from millrace.vocabulary import ColumnType

MAX_VOCABULARY: Final = 1_000
"""Categories of all features together, and the missing one, up to which they are a vocabulary."""
FEW_ROWS: Final = 4
"""Up to here Python walks the values faster than NumPy makes its arrays."""
_WHOLE: Final = (ColumnType.INTEGER, ColumnType.BOOLEAN)


class Packed(NamedTuple):
    """All features of a request, as the ONNX graph takes them.

    Attributes:
        rows: How many.
        numeric: Floating point [rows, k] in the order of `Signature.numeric`, booleans as 0 and 1,
            missing NaN; k may be 0.
        categorical: The texts row by row, rows times m of them, in the order of
            `Signature.categorical`: as codes, or as they are; None when there are none.
    """

    rows: int
    numeric: npt.NDArray[np.floating]
    categorical: Coded | Sequence[str | None] | None


class PlainNumbers:
    """Says whether all numbers of a request are such that none needs a closer look.

    Args:
        features: The numeric and boolean features.
        safe: Size up to which a number can be of interest to the contract alone.
    """

    def __init__(self, features: Sequence[FeatureField], safe: float) -> None:
        flags = [f.type is ColumnType.BOOLEAN for f in features]
        low = [-safe if f.min is None else max(f.min, -safe) for f in features]
        high = [safe if f.max is None else min(f.max, safe) for f in features]
        self._least = np.where(flags, 0.0, low)
        self._most = np.where(flags, 1.0, high)
        self._whole = np.flatnonzero([f.type in _WHOLE for f in features])
        self._required = np.array([not f.nullable for f in features], dtype=np.bool_)
        self.bounds = tuple(
            (least, most, f.type in _WHOLE, f.nullable)
            for f, least, most in zip(
                features, self._least.tolist(), self._most.tolist(), strict=True
            )
        )
        """Of each feature the least and the most, whether it is whole, and whether it may miss."""

    def hold(self, numeric: npt.NDArray[np.floating]) -> bool:
        """Whether all are within their features' bounds, and whole where they have to be.

        Args:
            numeric: [k, rows], feature by feature; NaN, which is missing, is neither.
        """
        least, most = np.fmin.reduce(numeric, axis=1), np.fmax.reduce(numeric, axis=1)
        if np.count_nonzero(least < self._least) or np.count_nonzero(most > self._most):
            return False
        return self._are_whole(numeric)

    def hold_all(self, numeric: npt.NDArray[np.floating]) -> bool:
        """The same, and that none is missing where one has to be there."""
        # The least of what has a NaN is NaN, and that is no more than anything.
        least, most = np.minimum.reduce(numeric, axis=1), np.maximum.reduce(numeric, axis=1)
        within = np.count_nonzero(least >= self._least) + np.count_nonzero(most <= self._most)
        if within == 2 * len(numeric):
            return self._are_whole(numeric)
        return not np.count_nonzero(np.isnan(least) & self._required) and self.hold(numeric)

    def _are_whole(self, numeric: npt.NDArray[np.floating]) -> bool:
        whole = numeric.take(self._whole, axis=0)
        return not np.count_nonzero(np.floor(whole) < whole)


class PackedReader:
    """Reads packed tensors of some features.

    Args:
        texts: The string features.
        plain: Tells whether the numbers of the others need a closer look.
    """

    def __init__(self, texts: Sequence[Texts], plain: PlainNumbers) -> None:
        self._plain = plain
        self._texts = tuple(texts)
        self._places = np.arange(len(self._texts))

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """All categories of the features; None where some feature has none, or they are many."""
        texts = {MISSING_CATEGORY}.union(*(t.closed for t in self._texts))
        if len(texts) > MAX_VOCABULARY or not all(t.closed for t in self._texts):
            return None
        return Vocabulary(sorted(texts))

    @cached_property
    def _taken(self) -> npt.NDArray[np.bool_]:
        """Of each feature, whether it takes each text of the vocabulary as it is."""
        words = () if self.vocabulary is None else self.vocabulary.texts
        missing = (MISSING_CATEGORY,)
        taken = [
            t.closed.union(missing if t.column(missing) == (missing, False) else ())
            for t in self._texts
        ]
        return np.array([[word in own for word in words] for own in taken])

    def read(self, packed: Packed) -> Batch | None:
        """The rows, or None when some value needs a closer look."""
        numeric, categorical, rows = packed.numeric, packed.categorical, packed.rows
        if rows <= FEW_ROWS:
            plain = all(map(self._is_plain, numeric.tolist()))
        else:
            # Each feature in one run takes a tenth of the time.
            plain = not numeric.shape[1] or self._plain.hold_all(np.ascontiguousarray(numeric.T))
        if not plain:
            return None
        numbers = numeric.astype(np.float32, order="C")
        if isinstance(categorical, Coded):
            return (
                Batch(rows, numbers, coded=categorical) if self._known(categorical, rows) else None
            )
        columns: list[Sequence[str]] = []
        for place, texts in enumerate(self._texts):
            column = texts.plain((categorical or ())[place :: len(self._texts)])
            if column is None:
                return None
            columns.append(column)
        return Batch(rows, numbers, texts=columns)

    def _is_plain(self, row: list[float]) -> bool:
        for value, (least, most, whole, nullable) in zip(row, self._plain.bounds, strict=True):
            if value != value:  # missing
                if not nullable:
                    return False
            elif not least <= value <= most or (whole and value != int(value)):
                return False
        return True

    def _known(self, coded: Coded, rows: int) -> bool:
        """Whether each feature's texts are among those that it is given as they are."""
        width, size = len(self._texts), len(coded.values)
        places = coded.codes.reshape(rows, width) + self._places * size
        if self.vocabulary is not None and coded.values is self.vocabulary.texts:
            return bool(np.logical_and.reduce(self._taken.take(places), axis=None))
        counts = np.bincount(places.reshape(-1), minlength=width * size)
        for texts, used in zip(self._texts, counts.reshape(width, size), strict=True):
            codes_used: list[int] = np.flatnonzero(used).tolist()
            if not texts.unchanged.issuperset([coded.values[code] for code in codes_used]):
                return False
        return True
