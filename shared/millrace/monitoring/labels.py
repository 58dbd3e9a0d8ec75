"""Ground truth: labels that people or programs send for predictions made before.

A label is asserted for one row of one prediction. Asserting the same again changes nothing; another
label corrects the former when it was observed later (or, where nobody says when, received later),
and what was asserted before is kept. So the order in which assertions arrive does not matter, and
a file or a request may be sent again.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from millrace.serving.capture import CapturedPrediction
from millrace.serving.identity import is_prediction_id, predicted_at
from millrace.signature import Signature
from millrace.spec import ColumnType, Task

MAX_ROW: Final = 999_999
MAX_HISTORY: Final = 20
"""Assertions kept of one label; the oldest go first."""
CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far ahead of ours another clock may be."""
_SHOWN: Final = 10


class Outcome(StrEnum):
    """What an assertion came to."""

    ACCEPTED = "accepted"
    """The first label of its row."""
    DUPLICATE = "duplicate"
    """The label that is known already."""
    CORRECTED = "corrected"
    """Another label than the known one, and it wins."""
    OUTDATED = "outdated"
    """Another label than the known one, observed before it: kept as history."""


@dataclass(frozen=True, slots=True, order=True)
class RowKey:
    """One row of one prediction."""

    prediction_id: str
    row: int


@dataclass(frozen=True, slots=True)
class Assertion:
    """Somebody says that this was the truth.

    Attributes:
        label: The class as the signature writes it, or the number as Python writes it.
        received_at: When Millrace heard of it.
        observed_at: When it was so, as the sender says; None when they do not.
    """

    label: str
    received_at: datetime
    observed_at: datetime | None = None

    @property
    def effective_at(self) -> datetime:
        """The time by which assertions are ordered."""
        return self.received_at if self.observed_at is None else self.observed_at


@dataclass(frozen=True, slots=True)
class Told:
    """An assertion and the row it is about."""

    key: RowKey
    assertion: Assertion


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of one row.

    Attributes:
        assertions: In the order of their time; the last is what holds.
    """

    assertions: tuple[Assertion, ...]

    @property
    def value(self) -> str:
        """The label that holds."""
        return self.assertions[-1].label

    @property
    def observed_at(self) -> datetime:
        """When it was observed, or received where nobody says."""
        return self.assertions[-1].effective_at


def merge(known: Label | None, new: Assertion) -> tuple[Outcome, Label]:
    """What is known of a row after one more assertion.

    Args:
        known: What is known so far.
        new: The assertion.

    Returns:
        What it came to, and what is known now: ``known`` itself where nothing changed.
    """
    if known is None:
        return Outcome.ACCEPTED, Label((new,))
    if any(_same(new, one, is_head=one is known.assertions[-1]) for one in known.assertions):
        return Outcome.DUPLICATE, known
    ordered = sorted((*known.assertions, new), key=_order)
    if len(ordered) > MAX_HISTORY:
        ordered = ordered[-MAX_HISTORY:]
        if new not in ordered:
            return Outcome.OUTDATED, known
    merged = Label(tuple(ordered))
    if merged.value != known.value:
        return Outcome.CORRECTED, merged
    return (Outcome.DUPLICATE if new.label == known.value else Outcome.OUTDATED), merged


def _same(new: Assertion, old: Assertion, *, is_head: bool) -> bool:
    """Whether an assertion says nothing that another did not."""
    if new.label != old.label:
        return False
    if new.observed_at is None:
        return is_head or new.received_at == old.received_at
    return new.observed_at == old.observed_at


def _order(one: Assertion) -> tuple[datetime, datetime, str]:
    return one.effective_at, one.received_at, one.label


# ── Checking what was sent ──────────────────────────────────────────────────────────────────────


class WrongLabelError(ValueError):
    """A field of an entry that cannot be taken.

    Attributes:
        field: The field.
    """

    def __init__(self, field_: str, message: str) -> None:
        super().__init__(message)
        self.field = field_


_FIELDS: Final = ("prediction_id", "row", "label", "observed_at")


class LabelReader:
    """Reads entries of requests and files against what the model predicts.

    Args:
        signature: Of the model's champion.
    """

    def __init__(self, signature: Signature) -> None:
        self.model = signature.model
        self._target_type = signature.target_type
        self._numbers = signature.task is Task.REGRESSION
        self._classes: dict[tuple[type, Any], str] = {}
        self._texts: dict[str, str] = {}
        for text in signature.classes:
            label = _in_target_type(text, signature.target_type)
            self._classes[type(label), label] = text
            self._texts[str(label).lower() if isinstance(label, bool) else str(label)] = text
            self._texts.setdefault(text, text)
        shown = [
            str(label).lower() if kind is bool else repr(label) for kind, label in self._classes
        ]
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        self._expected = (
            "expected a finite number"
            if self._numbers
            else f"expected a class of the model, as its predictions name it: "
            f"{', '.join(shown[:_SHOWN])}{more}"
        )

    def of_json(self, entry: Any, received_at: datetime) -> Told:
        """An entry of a JSON document.

        Raises:
            WrongLabelError: It cannot be taken; names the field and no value.
        """
        if not isinstance(entry, dict):
            raise WrongLabelError("", f"expected an object with {', '.join(_FIELDS)}")
        row = entry.get("row")
        if row is None:
            row = 0
        if type(row) is not int:
            raise WrongLabelError("row", "expected a whole number from 0")
        return self._told(entry, row, self._of_value(entry.get("label")), received_at)

    def of_texts(self, entry: dict[str, str | None], received_at: datetime) -> Told:
        """A line of a CSV file.

        Raises:
            WrongLabelError: It cannot be taken; names the field and no value.
        """
        text = (entry.get("row") or "0").strip()
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ROW))):
            raise WrongLabelError("row", "expected a whole number from 0")
        return self._told(entry, int(text), self._of_text(entry.get("label") or ""), received_at)

    def _told(self, entry: dict[str, Any], row: int, label: str, received_at: datetime) -> Told:
        unknown = sorted(str(name) for name in entry if name not in _FIELDS)
        if unknown:
            raise WrongLabelError("", f"expected no other fields than {', '.join(_FIELDS)}")
        prediction_id = entry.get("prediction_id")
        if not isinstance(prediction_id, str) or not is_prediction_id(prediction_id.strip()):
            raise WrongLabelError(
                "prediction_id", "expected the prediction_id of an answer: a UUID of version 7"
            )
        prediction_id = prediction_id.strip()
        if not 0 <= row <= MAX_ROW:
            raise WrongLabelError("row", f"expected a whole number from 0 to {MAX_ROW:,}")
        if predicted_at(prediction_id) > received_at + CLOCK_SKEW:
            raise WrongLabelError("prediction_id", "expected a prediction that was made already")
        observed_at = _moment(entry.get("observed_at"), received_at)
        return Told(RowKey(prediction_id, row), Assertion(label, received_at, observed_at))

    def _of_value(self, value: Any) -> str:
        if self._numbers:
            if type(value) not in (int, float):
                raise WrongLabelError("label", self._expected)
            return self._number(value)
        label = self._classes.get((type(value), value)) if value.__hash__ else None
        if label is None:
            raise WrongLabelError("label", self._expected)
        return label

    def _of_text(self, text: str) -> str:
        text = text.strip()
        if self._numbers:
            return self._number(text)
        label = self._texts.get(text.lower() if self._target_type is ColumnType.BOOLEAN else text)
        if label is None:
            raise WrongLabelError("label", self._expected)
        return label

    def _number(self, value: str | float) -> str:
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise WrongLabelError("label", self._expected)
        return repr(number)


def _in_target_type(text: str, kind: ColumnType) -> str | int | bool:
    """A class in the type in which predictions name it."""
    match kind:
        case ColumnType.INTEGER:
            return int(text)
        case ColumnType.BOOLEAN:
            return text.lower() in ("true", "1")
        case _:
            return text


def _moment(value: Any, received_at: datetime) -> datetime | None:
    if value is None or value == "":
        return None
    expected = "expected a time with its offset from UTC, such as 2026-11-21T18:20:00Z"
    if not isinstance(value, str):
        raise WrongLabelError("observed_at", expected)
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        raise WrongLabelError("observed_at", expected) from None
    if moment.utcoffset() is None:
        raise WrongLabelError("observed_at", expected)
    if moment > received_at + CLOCK_SKEW:
        raise WrongLabelError("observed_at", "expected a time that has passed")
    return moment


# ── Joining ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One row of a captured prediction, with its label where one came.

    Attributes:
        prediction: The captured prediction.
        position: Where the row is in its columns.
        row: Which row of the request it is.
        label: What is known, or None.
    """

    prediction: CapturedPrediction
    position: int
    row: int
    label: Label | None

    @property
    def inputs(self) -> dict[str, Any]:
        """What went in."""
        return {name: column[self.position] for name, column in self.prediction.inputs.items()}

    @property
    def output(self) -> Any:
        """What came out: the probabilities, or the number."""
        (column,) = self.prediction.outputs.values()
        return column[self.position]


def joined(
    predictions: Iterable[CapturedPrediction], labels: Iterable[tuple[RowKey, Label]]
) -> Iterator[LabelledRow]:
    """Every captured row with its label, in the order of the predictions.

    Args:
        predictions: Of a span of time.
        labels: Of the same span; held in memory.
    """
    known = dict(labels)
    for prediction in predictions:
        for position, row in enumerate(prediction.kept_rows):
            label = known.get(RowKey(prediction.prediction_id, row))
            yield LabelledRow(prediction, position, row, label)


# ── Counting ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Counts:
    """How many assertions came to what."""

    accepted: int = 0
    duplicate: int = 0
    corrected: int = 0
    outdated: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> "Counts":
        """Counts outcomes."""
        counts = dict.fromkeys(Outcome, 0)
        for outcome in outcomes:
            counts[outcome] += 1
        return cls(**{outcome.value: n for outcome, n in counts.items()})

    @property
    def total(self) -> int:
        """All of them."""
        return self.accepted + self.duplicate + self.corrected + self.outdated

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.accepted + other.accepted,
            self.duplicate + other.duplicate,
            self.corrected + other.corrected,
            self.outdated + other.outdated,
        )
