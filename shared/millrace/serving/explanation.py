"""What each feature contributed to an answer: additive Shapley values, measured from one row.

The typical row of the signature (medians and most frequent values; a private feature is missing) is
where every row starts from; a contribution is how far a feature's own value moved the answer,
averaged over the orders in which the features' values can be put in (Štrumbelj and Kononenko,
*Explaining prediction models and individual predictions with feature contributions*, 2014; Lundberg
and Lee, *A Unified Approach to Interpreting Model Predictions*, 2017; measured from a single row
they are Sundararajan and Najmi's *baseline Shapley*, 2020). They add up exactly: base + the sum of
a row's contributions is its answer.

What is explained is the answer's own scale: the value of a regression; of a binary classification
the probability of the second class, whatever the label; of more classes the probability of the most
probable one.

A feature that has the typical value contributes nothing, exactly. Up to ten that differ are
worked out over all their subsets; more are sampled: orders are drawn at random, each with its
reverse (antithetic sampling: Mitchell et al., *Sampling Permutations for Shapley Value Estimation*,
2022), by a seed that is a function of the row, so that a row has the same contributions in any
request. All subsets of a request go through the model together, in runs that memory bounds.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from millrace.errors import FieldProblem, InvalidRequestError, RequestTooLargeError
from millrace.serving.features import Batch
from millrace.signature import Reference, Signature
from millrace.vocabulary import ColumnType, Task

MAX_ROWS: Final = 100
"""Most rows of a request with contributions."""

MAX_CELLS: Final = 20_000_000
"""Most values put into the model for one request: wide models explain fewer rows at once."""

EXACT_FEATURES: Final = 10
"""Most differing features whose 1,024 subsets are all looked at."""

_ORDERS: Final = 64
"""Sampled orders of a row: 32 and their reverses."""

_FEWEST_ORDERS: Final = 4
_SAMPLED: Final = 2_048
"""Model rows a sampled row should cost at most; wide models draw fewer orders."""

_CELLS: Final = 2_000_000
"""Array cells of one run of the model: 8 MB of numbers, or as many references to texts."""


class Explainable(Protocol):
    """What is needed of a loaded model."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities [rows, classes], or predictions [rows] of a regression."""
        ...


@dataclass(frozen=True, slots=True)
class Contributions:
    """What moved the answers of one request.

    Attributes:
        features: The features' names, in signature order.
        base: float64 [rows]: the typical row's answer, on the scale that is explained.
        values: float64 [rows, features].
        classes: int64 [rows]: whose probability is explained; None for a regression.
    """

    features: tuple[str, ...]
    base: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64] | None

    def told(self, labels: npt.NDArray[np.object_]) -> list[dict[str, Any]]:
        """One object per row, as an answer has it.

        Args:
            labels: The class labels in the target's own type; unused for a regression.
        """
        rows = [
            {"base": base, "values": dict(zip(self.features, values, strict=True))}
            for base, values in zip(self.base.tolist(), self.values.tolist(), strict=True)
        ]
        if self.classes is None:
            return rows
        of = labels[self.classes].tolist()
        return [{"label": label, **row} for label, row in zip(of, rows, strict=True)]


def contributions(loaded: Explainable, batch: Batch) -> Contributions:
    """What each feature contributed to the answer of each row.

    Args:
        loaded: The model version.
        batch: The rows, from the version's codec.

    Raises:
        InvalidRequestError: The version has no typical row to measure from.
        RequestTooLargeError: More rows than are explained at once.
    """
    signature = loaded.signature
    if signature.reference is None:
        raise InvalidRequestError(
            f"this version of model {signature.model} has no contributions: it was trained before "
            "they were; train it again",
            [FieldProblem("outputs", "contributions are not available from this version")],
        )
    most = _most_rows(len(signature.features))
    if batch.rows > most:
        raise RequestTooLargeError(
            f"expected at most {most:,} rows with contributions, got {batch.rows:,}: divide them "
            "over several requests, or leave contributions out",
            [FieldProblem("outputs", f"contributions are given for at most {most:,} rows")],
        )
    mixer = _Mixer(signature, signature.reference, batch)
    ends = _run(loaded, mixer, [mixer.ends()])
    typical, own = ends[0], ends[1:]
    classes = _explained(signature, own)
    values = np.zeros((batch.rows, len(signature.features)))
    games = [_game(mixer, row, signature.model) for row in range(batch.rows)]
    answers = _run(loaded, mixer, [(np.full(len(g.subsets), r), g.subsets)
                                   for r, g in enumerate(games)])  # fmt: skip
    start = 0
    for row, game in enumerate(games):
        stop = start + len(game.subsets)
        column = 0 if classes is None else int(classes[row])
        between = answers[start:stop, column]
        values[row] = game.share(between, float(typical[column]), float(own[row, column]))
        start = stop
    base = np.full(batch.rows, typical[0]) if classes is None else typical[classes]
    return Contributions(tuple(f.name for f in signature.features), base, values, classes)


def _most_rows(features: int) -> int:
    dearest = max(2**EXACT_FEATURES, _orders(features) * max(1, features - 1))
    return max(1, min(MAX_ROWS, MAX_CELLS // (dearest * max(1, features))))


def _orders(players: int) -> int:
    """How many orders of so many features are drawn; even, for each comes with its reverse."""
    affordable = _SAMPLED // max(1, players - 1)
    return max(_FEWEST_ORDERS, min(_ORDERS, affordable // 2 * 2))


def _explained(signature: Signature, own: npt.NDArray[np.float64]) -> npt.NDArray[np.int64] | None:
    if signature.task is Task.REGRESSION:
        return None
    if signature.task is Task.BINARY:
        return np.full(len(own), len(signature.classes) - 1, dtype=np.int64)
    most: npt.NDArray[np.int64] = own.argmax(axis=1).astype(np.int64)
    return most


class _Mixer:
    """Puts rows together from a request's rows and the typical row."""

    def __init__(self, signature: Signature, reference: Reference, batch: Batch) -> None:
        self._numeric_places = _places(signature, text=False)
        self._text_places = _places(signature, text=True)
        self._batch = batch
        self.features = len(signature.features)
        self._numbers = np.array(
            [np.nan if v is None else v for v in reference.numeric], dtype=np.float32
        )
        self._texts = np.empty(len(reference.categorical), dtype=object)
        self._texts[:] = reference.categorical
        self.differs = np.zeros((batch.rows, self.features), dtype=np.bool_)
        """bool [rows, features]: where a row's value is not the typical one."""
        both_missing = np.isnan(batch.numeric) & np.isnan(self._numbers)
        self.differs[:, self._numeric_places] = (batch.numeric != self._numbers) & ~both_missing
        self.differs[:, self._text_places] = batch.categorical != self._texts

    def ends(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """The typical row, and then every row itself, as rows and their own features."""
        own = np.ones((self._batch.rows + 1, self.features), dtype=np.bool_)
        own[0] = False
        return np.maximum(np.arange(self._batch.rows + 1) - 1, 0), own

    def mixed(self, rows: npt.NDArray[np.intp], own: npt.NDArray[np.bool_]) -> Batch:
        """Rows that have some of their own values, and else the typical ones.

        Args:
            rows: Whose values they have, [n].
            own: Which features are their own, [n, features].
        """
        return Batch(
            rows=len(rows),
            numeric=np.where(
                own[:, self._numeric_places], self._batch.numeric[rows], self._numbers
            ),
            categorical=np.where(
                own[:, self._text_places], self._batch.categorical[rows], self._texts
            ),
        )

    def seed(self, row: int, model: str) -> int:
        """A number that is a function of the row alone, -0.0 being 0.0 and NaN the only NaN."""
        numbers = self._batch.numeric[row] + np.float32(0.0)
        numbers[np.isnan(numbers)] = np.nan
        digest = hashlib.blake2b(model.encode(), digest_size=8)
        digest.update(numbers.astype("<f4").tobytes())
        for text in self._batch.categorical[row].tolist():
            # A lone surrogate has no UTF-8; here it only has to differ from others.
            digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest())


def _places(signature: Signature, *, text: bool) -> npt.NDArray[np.intp]:
    return np.array(
        [i for i, f in enumerate(signature.features) if (f.type is ColumnType.STRING) is text],
        dtype=np.intp,
    )


@dataclass(frozen=True, slots=True)
class _Game:
    """Which subsets of a row's own values are looked at, and what they say.

    Attributes:
        players: Features that differ from the typical row.
        features: Number of features.
        subsets: bool [n, features], the empty set and the whole one left out.
        orders: The orders that were drawn, [m, players], or None when every subset is there.
    """

    players: npt.NDArray[np.intp]
    features: int
    subsets: npt.NDArray[np.bool_]
    orders: npt.NDArray[np.intp] | None

    def share(
        self, between: npt.NDArray[np.float64], typical: float, own: float
    ) -> npt.NDArray[np.float64]:
        """The contributions of all features.

        Args:
            between: The answers to `subsets`.
            typical: The answer to the typical row.
            own: The answer to the row itself.
        """
        whole = np.zeros(self.features)
        count = len(self.players)
        if not count:
            return whole
        if self.orders is not None:
            walks = np.empty((len(self.orders), count + 1))
            walks[:, 0], walks[:, -1] = typical, own
            walks[:, 1:-1] = between.reshape(len(self.orders), count - 1)
            steps = np.empty((len(self.orders), count))
            np.put_along_axis(steps, self.orders, np.diff(walks, axis=1), axis=1)
            whole[self.players] = steps.mean(axis=0)
            return whole
        answers = np.concatenate(([typical], between, [own]))
        codes = np.arange(2**count)
        sizes = np.bitwise_count(codes).astype(np.intp)
        weights = np.array(
            [factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)]
        )
        for player, feature in enumerate(self.players.tolist()):
            without = codes[(codes >> player) & 1 == 0]
            gained = answers[without | (1 << player)] - answers[without]
            whole[feature] = float(weights[sizes[without]] @ gained)
        return whole


def _game(mixer: _Mixer, row: int, model: str) -> _Game:
    players = np.flatnonzero(mixer.differs[row])
    count = len(players)
    if count <= EXACT_FEATURES:
        codes = np.arange(1, max(1, 2**count - 1))
        subsets = np.zeros((len(codes), mixer.features), dtype=np.bool_)
        subsets[:, players] = (codes[:, None] >> np.arange(count)) & 1
        return _Game(players, mixer.features, subsets, None)
    random = np.random.default_rng(mixer.seed(row, model))
    drawn = [random.permutation(count) for _ in range(_orders(count) // 2)]
    orders = np.array([order for one in drawn for order in (one, one[::-1])])
    # Row i of an order's subsets has its first i + 1 features.
    ranks = np.argsort(orders, axis=1)
    member = ranks[:, None, :] <= np.arange(count - 1)[None, :, None]
    subsets = np.zeros((len(orders) * (count - 1), mixer.features), dtype=np.bool_)
    subsets[:, players] = member.reshape(-1, count)
    return _Game(players, mixer.features, subsets, orders)


def _run(
    loaded: Explainable,
    mixer: _Mixer,
    wanted: Sequence[tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]],
) -> npt.NDArray[np.float64]:
    """The model's answers [n, outputs] to mixed rows, together, in runs that memory bounds."""
    rows = np.concatenate([r for r, _ in wanted])
    own = np.concatenate([o for _, o in wanted])
    step = max(1, _CELLS // mixer.features)
    parts = [
        loaded.run(mixer.mixed(rows[start : start + step], own[start : start + step]))
        for start in range(0, len(rows), step)
    ]
    if not parts:
        return np.empty((0, max(1, len(loaded.signature.classes))))
    answers = np.concatenate(parts).astype(np.float64)
    return answers.reshape(len(rows), -1)
