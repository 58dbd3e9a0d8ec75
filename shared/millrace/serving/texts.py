"""What texts mean to one string feature; each different text is looked at once.

Categories repeat, within a request and from one to the next. So a feature remembers what became of
the texts it saw, and a column whose texts are all remembered costs one look into a table per value.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from millrace.serving.diagnosis import wrong_value
from millrace.signature import MISSING_CATEGORY, FeatureField

MAX_REMEMBERED: Final = 2_000
"""Texts beside the model's own vocabulary that a feature remembers."""
MAX_REMEMBERED_LENGTH: Final = 100
"""Characters of a text beyond which it is not remembered, unless it is the vocabulary's."""

_TEXTS: Final[frozenset[type]] = frozenset({str, type(None)})


class Texts:
    """The texts of one string feature.

    Args:
        feature: The feature.
        clean: Makes a text what ingest would have made of it.
    """

    def __init__(self, feature: FeatureField, clean: Callable[[str | None], str]) -> None:
        self.feature = feature
        self._clean = clean
        missing = {MISSING_CATEGORY}
        self.allowed = None if feature.allowed is None else frozenset(feature.allowed) | missing
        self.known = None if feature.categories is None else frozenset(feature.categories) | missing
        self.read: dict[str | None, str] = {}
        """Texts that raise no question, and what the model is given for them."""
        self.unchanged: set[str | None] = set()
        """Those among them that it is given as they are."""
        if feature.nullable:
            self.read[None] = MISSING_CATEGORY
        vocabulary = feature.categories or feature.allowed or ()
        for text in vocabulary:
            cleaned = self._cleaned(text)
            if cleaned is not None and not self.is_odd(cleaned):
                self._remember(text, cleaned)
        self._most = len(self.read) + MAX_REMEMBERED
        self.closed = frozenset(t for t in vocabulary if t in self.unchanged)
        """Of a feature with a vocabulary, the texts that it is given as they are and knows; else none."""

    def column(self, values: Sequence[Any]) -> tuple[Sequence[str], bool] | None:
        """A column as the model is given it, and whether some text raises a question.

        None when some value is none that the feature takes.
        """
        try:
            plain = self.plain(values)
        except TypeError:  # a value that cannot be hashed, so no text
            return None
        return self._closely(values) if plain is None else (plain, False)

    def plain(self, values: Sequence[Any]) -> Sequence[str] | None:
        """A column as the model is given it, when none of its texts raises a question."""
        if self.unchanged.issuperset(values):
            return values
        try:
            read = self.read
            return [read[value] for value in values]
        except KeyError:
            return None

    def wrong(self, value: Any) -> str | None:
        """What is wrong with one value, or None."""
        return wrong_value(self.feature, self._clean(value) if isinstance(value, str) else value)

    def one(self, text: str | None) -> tuple[str, bool]:
        """A text that is not wrong as the model is given it, and whether it raises a question."""
        cleaned = self._look_at(text)
        if cleaned is None:
            raise ValueError("expected a text that is not wrong")
        return cleaned, self.is_odd(cleaned)

    def _closely(self, values: Sequence[Any]) -> tuple[Sequence[str], bool] | None:
        if not set(map(type, values)) <= _TEXTS:
            return None
        read: dict[str | None, str] = {}
        odd = False
        for text in set(values):
            cleaned = self._look_at(text)
            if cleaned is None:
                return None
            odd = odd or self.is_odd(cleaned)
            read[text] = cleaned
        return [read[value] for value in values], odd

    def is_odd(self, cleaned: str) -> bool:
        """Whether the model was not trained on a text."""
        return (self.allowed is not None and cleaned not in self.allowed) or (
            self.known is not None and cleaned not in self.known
        )

    def outside(self, values: Iterable[str]) -> list[bool]:
        """Which of a column's values are none of the allowed ones."""
        allowed = self.allowed
        return [allowed is not None and value not in allowed for value in values]

    def unknown(self, values: Iterable[str]) -> list[bool]:
        """Which of a column's values the model was not trained on."""
        known = self.known
        return [known is not None and value not in known for value in values]

    def _look_at(self, text: str | None) -> str | None:
        """The text as the model is given it; None when it is wrong."""
        known = self.read.get(text)
        if known is not None:
            return known
        cleaned = self._cleaned(text)
        if (
            cleaned is not None
            and not self.is_odd(cleaned)
            and len(self.read) < self._most
            and len(text or "") <= MAX_REMEMBERED_LENGTH
        ):
            self._remember(text, cleaned)
        return cleaned

    def _cleaned(self, text: str | None) -> str | None:
        if text is None and not self.feature.nullable:
            return None
        cleaned = self._clean(text)
        return None if text is not None and wrong_value(self.feature, cleaned) else cleaned

    def _remember(self, text: str | None, cleaned: str) -> None:
        self.read[text] = cleaned
        if text == cleaned:
            self.unchanged.add(text)
