"""Rows as the model takes them, and the encoder that turns them into one float32 matrix.

The encoder is ours rather than scikit-learn's `ColumnTransformer` for three reasons: the model has
two inputs of different types, which scikit-learn can only take as one object array or a data frame;
here every step computes in float32 in the same order as its ONNX operator, so both sides agree to
the bit; and skl2onnx 1.20 cannot convert a one-hot encoder that groups rare categories. A test
holds the linear models' encoding equal to `SimpleImputer`, `MissingIndicator`, `StandardScaler` and
`OneHotEncoder`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from millrace.datasets.table import Table
from millrace.errors import TrainingError
from millrace.onnx_graph import FEATURES
from millrace.signature import CATEGORICAL_INPUT, MISSING_CATEGORY, NUMERIC_INPUT
from millrace.spec import ColumnType, Role

MAX_CATEGORIES = 64
"""Most categories of one column that get a feature of their own; the others count as unseen."""

MAX_ONE_HOT_WIDTH = 512
"""Most one-hot features of all columns together; more columns get fewer categories each."""

MAX_RANKED = 200
"""Most categories of one column that are ranked: each can have a bin of its own in boosting."""

RANK_PRIOR_ROWS = 10.0
"""Rows of average leaning that every category is given when ranked."""

MIN_CATEGORY_ROWS = 5
"""Fewest rows of a category that gets a feature of its own (the most frequent always does)."""

CLIP_DEVIATIONS = 10.0
"""Scaled values are clipped here, so that an absurd number cannot carry a linear model away."""

ONNX_ML = "ai.onnx.ml"

type Floats = npt.NDArray[np.float32]
type Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Features of some rows, in signature order.

    Attributes:
        numeric: float32 [n, k], missing as NaN.
        codes: int32 [n, m] into `categories`, missing as -1.
        categories: Per categorical column its known values.
    """

    numeric: Floats
    codes: npt.NDArray[np.int32]
    categories: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.numeric)

    @classmethod
    def of_table(cls, table: Table) -> Self:
        """The features of a split.

        Raises:
            TrainingError: A number is infinite or does not fit float32.
        """
        features = [c for c in table.schema.columns if c.role is Role.FEATURE]
        numeric = [c for c in features if c.type is not ColumnType.STRING]
        strings = [c for c in features if c.type is ColumnType.STRING]
        values = np.empty((table.rows, len(numeric)), dtype=np.float32)
        for index, column in enumerate(numeric):
            with np.errstate(over="ignore"):
                values[:, index] = table.arrays[column.name]
            wrong = int(np.isinf(values[:, index]).sum())
            if wrong:
                raise TrainingError(
                    f"column {column.name!r}: expected numbers within ±3.4e38, "
                    f"got {wrong} rows beyond"
                )
        codes = np.empty((table.rows, len(strings)), dtype=np.int32)
        for index, column in enumerate(strings):
            codes[:, index] = table.arrays[column.name]
        return cls(values, codes, tuple(c.categories for c in strings))

    def take(self, index: Indices) -> "Rows":
        """Some of the rows."""
        return Rows(self.numeric[index], self.codes[index], self.categories)

    def joined(self, other: "Rows") -> "Rows":
        """These rows and those of another split of the same dataset version."""
        return Rows(
            np.concatenate((self.numeric, other.numeric)),
            np.concatenate((self.codes, other.codes)),
            self.categories,
        )

    def strings(self) -> npt.NDArray[np.object_]:
        """The ``categorical`` input: str [n, m], missing as the empty string."""
        decoded = np.empty(self.codes.shape, dtype=object)
        for index, categories in enumerate(self.categories):
            lookup = np.array([*categories, MISSING_CATEGORY], dtype=object)
            decoded[:, index] = lookup[self.codes[:, index]]
        return decoded

    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """What an ONNX session takes; an input without columns is absent."""
        named: dict[str, npt.NDArray[Any]] = {}
        if self.numeric.shape[1]:
            named[NUMERIC_INPUT] = np.ascontiguousarray(self.numeric)
        if self.codes.shape[1]:
            named[CATEGORICAL_INPUT] = self.strings()
        return named


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which steps an algorithm needs; decided by what converts to ONNX exactly.

    Attributes:
        impute: Replace missing numbers by the median and flag them; off where the algorithm
            understands NaN itself.
        scale: Centre and scale; never before trees, whose float32 thresholds it would shift.
        rank: Encode a category as its rank by the target rather than as a feature of its own. For
            trees that understand NaN: one cut then parts the categories as well as a native
            category split would, at the cost of one feature, and unlike that it converts exactly.
    """

    impute: bool
    scale: bool
    rank: bool = False


@dataclass(frozen=True, slots=True)
class Encoder:
    """Fitted encoding of rows as float32 [n, width]: numbers, flags, then categories.

    Attributes:
        numbers: How many numeric columns there are.
        medians: float32 [k], or None without imputation.
        flagged: Numeric columns that had some missing values when fitted; each gets a 0/1 feature.
        offset: float32 [k], or None without scaling.
        scale: float32 [k], or None without scaling.
        vocabulary: Per categorical column the values that are told apart. One-hot: each has a
            feature and all else encodes as zeros. Ranked: in order of rank, all else as NaN.
        ranked: Whether categories are ranked.
    """

    numbers: int
    medians: Floats | None
    flagged: tuple[int, ...]
    offset: Floats | None
    scale: Floats | None
    vocabulary: tuple[tuple[str, ...], ...]
    ranked: bool = False

    @property
    def width(self) -> int:
        """Number of features."""
        if self.ranked:
            return self.numbers + len(self.flagged) + len(self.vocabulary)
        return self.numbers + len(self.flagged) + sum(len(v) for v in self.vocabulary)

    @classmethod
    def fit(
        cls, rows: Rows, recipe: Recipe, leaning: npt.NDArray[np.float64] | None = None
    ) -> Self:
        """Learns medians, scales, vocabularies and ranks from the rows a model is fitted on.

        Args:
            rows: The rows.
            recipe: The steps.
            leaning: Per row the number categories are ranked by; needed for a ranking recipe.
        """
        medians = offset = scale = None
        flagged: tuple[int, ...] = ()
        if recipe.impute:
            missing = np.isnan(rows.numeric)
            # A column that is always missing has a flag that is always 1, and tells nothing.
            some = missing.any(axis=0) & ~missing.all(axis=0)
            flagged = tuple(int(i) for i in np.flatnonzero(some))
            medians = _medians(rows.numeric, missing)
            if recipe.scale:
                filled = np.where(missing, medians, rows.numeric).astype(np.float64)
                spread = filled.std(axis=0)
                # A constant column, or one whose spread float32 cannot invert, is only centred.
                usable = (spread > 1e-30) & (spread > 1e-7 * np.abs(filled).max(axis=0, initial=0))
                offset = filled.mean(axis=0).astype(np.float32)
                scale = np.where(usable, 1.0 / np.where(usable, spread, 1.0), 1.0).astype(
                    np.float32
                )
        return cls(
            numbers=rows.numeric.shape[1],
            medians=medians,
            flagged=flagged,
            offset=offset,
            scale=scale,
            vocabulary=_ranked(rows, leaning) if recipe.rank else _vocabularies(rows),
            ranked=recipe.rank,
        )

    def transform(self, rows: Rows) -> Floats:
        """The features of some rows; the reference the ONNX graph is compared with."""
        out = np.zeros((len(rows), self.width), dtype=np.float32)
        numeric = rows.numeric
        missing = np.isnan(numeric)
        if self.medians is not None:
            numeric = np.where(missing, self.medians, numeric)
        if self.offset is not None and self.scale is not None:
            with np.errstate(over="ignore"):
                numeric = (numeric - self.offset) * self.scale
            numeric = np.clip(numeric, np.float32(-CLIP_DEVIATIONS), np.float32(CLIP_DEVIATIONS))
        out[:, : self.numbers] = numeric
        start = self.numbers + len(self.flagged)
        out[:, self.numbers : start] = missing[:, list(self.flagged)]
        every = np.arange(len(rows))
        for index, kept in enumerate(self.vocabulary):
            slot = {value: position for position, value in enumerate(kept)}
            values = (*rows.categories[index], MISSING_CATEGORY)
            place = np.array([slot.get(value, -1) for value in values])[rows.codes[:, index]]
            if self.ranked:
                out[:, start + index] = np.where(place >= 0, place, np.nan)
                continue
            known = place >= 0
            out[every[known], start + place[known]] = 1.0
            start += len(kept)
        return out

    def onnx_nodes(self) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """The same encoding as ONNX operators from the model's inputs to `FEATURES`."""
        nodes: list[onnx.NodeProto] = []
        constants: list[onnx.TensorProto] = []
        blocks: list[str] = []
        if self.numbers:
            blocks.append(self._numbers_onnx(nodes, constants))
        if self.flagged:
            constants.append(
                numpy_helper.from_array(np.array(self.flagged, np.int64), "flagged_columns")
            )
            nodes += [
                helper.make_node(
                    "Gather",
                    [NUMERIC_INPUT, "flagged_columns"],
                    ["flagged"],
                    "gather_flagged",
                    axis=1,
                ),
                helper.make_node("IsNaN", ["flagged"], ["flags"], "flag_missing"),
                helper.make_node(
                    "Cast", ["flags"], ["flag_features"], "cast_flags", to=TensorProto.FLOAT
                ),
            ]
            blocks.append("flag_features")
        blocks += self._categories_onnx(nodes)
        nodes.append(helper.make_node("Concat", blocks, [FEATURES], "join_features", axis=1))
        return nodes, constants

    def _numbers_onnx(self, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> str:
        name = NUMERIC_INPUT
        if self.medians is not None:
            nodes.append(
                helper.make_node(
                    "Imputer",
                    [name],
                    ["imputed"],
                    "impute_median",
                    domain=ONNX_ML,
                    imputed_value_floats=self.medians.tolist(),
                    replaced_value_float=float("nan"),
                )
            )
            name = "imputed"
        if self.offset is not None and self.scale is not None:
            bounds = {"clip_low": -CLIP_DEVIATIONS, "clip_high": CLIP_DEVIATIONS}
            constants += [
                numpy_helper.from_array(np.array(value, np.float32), bound)
                for bound, value in bounds.items()
            ]
            nodes += [
                helper.make_node(
                    "Scaler",
                    [name],
                    ["scaled"],
                    "scale",
                    domain=ONNX_ML,
                    offset=self.offset.tolist(),
                    scale=self.scale.tolist(),
                ),
                helper.make_node("Clip", ["scaled", *bounds], ["clipped"], "clip"),
            ]
            name = "clipped"
        return name

    def _categories_onnx(self, nodes: list[onnx.NodeProto]) -> list[str]:
        if not self.vocabulary:
            return []
        columns = [CATEGORICAL_INPUT]
        if len(self.vocabulary) > 1:
            columns = [f"category_{index}" for index in range(len(self.vocabulary))]
            nodes.append(
                helper.make_node("Split", [CATEGORICAL_INPUT], columns, "split_categories", axis=1)
            )
        blocks = []
        for index, (column, kept) in enumerate(zip(columns, self.vocabulary, strict=True)):
            if self.ranked:
                nodes.append(
                    helper.make_node(
                        "LabelEncoder",
                        [column],
                        [f"rank_{index}"],
                        f"ranks_{index}",
                        domain=ONNX_ML,
                        keys_strings=[value.encode() for value in kept],
                        values_floats=[float(rank) for rank in range(len(kept))],
                        default_float=float("nan"),
                    )
                )
                blocks.append(f"rank_{index}")
                continue
            # [n, 1] becomes [n, 1, categories]; Flatten makes it [n, categories].
            nodes += [
                helper.make_node(
                    "OneHotEncoder",
                    [column],
                    [f"hot_{index}"],
                    f"one_hot_{index}",
                    domain=ONNX_ML,
                    zeros=1,
                    cats_strings=[value.encode() for value in kept],
                ),
                helper.make_node(
                    "Flatten",
                    [f"hot_{index}"],
                    [f"one_hot_features_{index}"],
                    f"flatten_{index}",
                    axis=1,
                ),
            ]
            blocks.append(f"one_hot_features_{index}")
        return blocks


def _medians(numeric: Floats, missing: npt.NDArray[np.bool_]) -> Floats:
    """Median of each column's known values, 0 for a column without any."""
    medians = np.zeros(numeric.shape[1], dtype=np.float32)
    for index in range(numeric.shape[1]):
        known = numeric[~missing[:, index], index]
        if known.size:
            # In float64: the mean of the two middle values may overflow float32.
            medians[index] = np.float32(np.median(known.astype(np.float64)))
    return medians


def _vocabularies(rows: Rows) -> tuple[tuple[str, ...], ...]:
    if not rows.categories:
        return ()
    most = max(2, min(MAX_CATEGORIES, MAX_ONE_HOT_WIDTH // len(rows.categories)))
    return tuple(
        _vocabulary(rows.codes[:, index], categories, most)
        for index, categories in enumerate(rows.categories)
    )


def _ranked(rows: Rows, leaning: npt.NDArray[np.float64] | None) -> tuple[tuple[str, ...], ...]:
    """The values told apart, by their mean leaning, shrunk so that a few rows rank nobody high."""
    if leaning is None:
        raise ValueError("ranking categories needs the leaning of each row")
    found = []
    usual = float(leaning.mean())
    for index, categories in enumerate(rows.categories):
        values = (*categories, MISSING_CATEGORY)
        same = np.array([value == MISSING_CATEGORY for value in values])
        codes = np.where(same[rows.codes[:, index]], len(categories), rows.codes[:, index])
        counts = np.bincount(codes, minlength=len(values))
        sums = np.bincount(codes, weights=leaning, minlength=len(values))
        means = (sums + usual * RANK_PRIOR_ROWS) / (counts + RANK_PRIOR_ROWS)
        mean = dict(zip(values, means.tolist(), strict=True))
        kept = _vocabulary(rows.codes[:, index], categories, MAX_RANKED)
        found.append(tuple(sorted(kept, key=lambda value: (mean[value], value))))
    return tuple(found)


def _vocabulary(
    codes: npt.NDArray[np.int32], categories: tuple[str, ...], most: int
) -> tuple[str, ...]:
    """The most frequent values, sorted; ties go to the alphabetically first."""
    values = (*categories, MISSING_CATEGORY)
    counted = np.bincount(np.where(codes < 0, len(categories), codes), minlength=len(values))
    counts: dict[str, int] = {}
    for value, count in zip(values, counted.tolist(), strict=True):
        counts[value] = counts.get(value, 0) + count
    ranked = sorted(_encodable(counts), key=lambda value: (-counts[value], value))
    frequent = [value for value in ranked if counts[value] >= MIN_CATEGORY_ROWS]
    return tuple(sorted((frequent or ranked[:1])[:most]))


def _encodable(values: Iterable[str]) -> list[str]:
    # ONNX strings end at NUL in some runtimes: such a value could match another one.
    return [value for value in values if "\x00" not in value]
