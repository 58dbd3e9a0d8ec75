"""Filter patterns of CloudWatch Logs: which lines a subscription is sent.

Syntax: "Filter pattern syntax for metric filters, subscription filters, filter log events, and Live
Tail" in the CloudWatch Logs user guide. Of it, what templates are likely to say: nothing at all, terms
that must all be there, and one comparison of a JSON selector with a number or a text.
"""

import json
import operator
import re
from collections.abc import Callable
from typing import Any, Final

_COMPARISON: Final = re.compile(
    r'\{\s*\$\.([\w.-]+)\s*(!=|<=|>=|=|<|>)\s*(?:"([^"*]*)"|([+-]?\d+(?:\.\d+)?))\s*\}'
)
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
    compared = _COMPARISON.fullmatch(pattern)
    if compared is not None:
        path, comparison, text, number = compared.groups()
        place = _selected(message, path.split("."))
        if text is not None:
            return isinstance(place, str) and _OPERATORS[comparison](place, text)
        is_number = isinstance(place, int | float) and not isinstance(place, bool)
        return is_number and _OPERATORS[comparison](place, float(number))
    if _TERMS.fullmatch(pattern) is None:
        raise UnknownPatternError(f"expected terms or {{ $.path = value }}, got {pattern!r}")
    return all((quoted or bare) in message for quoted, bare in _TERM.findall(pattern))


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
