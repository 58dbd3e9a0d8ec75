"""Filter patterns of CloudWatch Logs: which lines a subscription is sent.

Syntax: "Filter pattern syntax for metric filters, subscription filters, filter log events, and Live
Tail" in the CloudWatch Logs user guide. Of it, what templates are likely to say: nothing at all, terms
that must all be there, and comparisons of JSON selectors with a number or a text: one, or several in
parentheses of which one must hold (``||``).
"""

import json
import operator
import re
from collections.abc import Callable
from typing import Any, Final

_COMPARISON: Final = re.compile(
    r'\s*\$\.([\w.-]+)\s*(!=|<=|>=|=|<|>)\s*(?:"([^"*|]*)"|([+-]?\d+(?:\.\d+)?))\s*'
)
_BRACED: Final = re.compile(r"\{(.*)\}", re.DOTALL)
_PARENTHESISED: Final = re.compile(r"\s*\((.*)\)\s*", re.DOTALL)
_TERMS: Final = re.compile(r'(?:(?:"[^"]*"|[\w.:/]+)(?:\s+|$))*')
_TERM: Final = re.compile(r'"([^"]*)"|([\w.:/]+)')
_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class UnknownPatternError(ValueError):
    """A pattern whose syntax is not known here."""


def matches(pattern: str, message: str) -> bool:
    """Whether a line fits a pattern.

    Args:
        pattern: The filter pattern.
        message: The line.

    Raises:
        UnknownPatternError: The pattern's syntax is not known here.
    """
    pattern = pattern.strip()
    braced = _BRACED.fullmatch(pattern)
    if braced is not None:
        parts = braced.group(1).split("||")
        if len(parts) == 1:
            return _holds(parts[0], message, pattern)
        inner = [_PARENTHESISED.fullmatch(part) for part in parts]
        if not all(inner):
            raise UnknownPatternError(f"expected (…) || (…), got {pattern!r}")
        held = [_holds(one.group(1), message, pattern) for one in inner if one is not None]
        return True in held
    if _TERMS.fullmatch(pattern) is None:
        raise UnknownPatternError(f"expected terms or {{ $.path = value }}, got {pattern!r}")
    return all((quoted or bare) in message for quoted, bare in _TERM.findall(pattern))


def _holds(comparison: str, message: str, pattern: str) -> bool:
    """Whether one comparison holds for a line."""
    compared = _COMPARISON.fullmatch(comparison)
    if compared is None:
        raise UnknownPatternError(f"expected terms or {{ $.path = value }}, got {pattern!r}")
    path, operation, text, number = compared.groups()
    place = _selected(message, path.split("."))
    if text is not None:
        return isinstance(place, str) and _OPERATORS[operation](place, text)
    is_number = isinstance(place, int | float) and not isinstance(place, bool)
    return is_number and _OPERATORS[operation](place, float(number))


def _selected(message: str, path: list[str]) -> Any:
    """What a line of JSON has at a path; None when it has nothing there."""
    try:
        place: Any = json.loads(message)
    except ValueError:
        return None
    for step in path:
        if not isinstance(place, dict):
            return None
        place = place.get(step)
    return place
