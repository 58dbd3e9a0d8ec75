"""What came from outside as the model it should be; what is wrong is named by its field.

Values that came are never told: an event or a stored document may hold anything, and messages reach
logs.
"""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from millrace.errors import FieldProblem, InvalidEventError

_SHOWN: Final = 10


def decode[T](adapter: TypeAdapter[T], event: Any, expected: str) -> T:
    """An event as the message it should be.

    Args:
        adapter: Of the message, made once per process.
        event: What came.
        expected: What it should be, for the error's text.

    Raises:
        InvalidEventError: It is none; ``problems`` names the fields.
    """
    try:
        return adapter.validate_python(event)
    except ValidationError as exc:
        problems = wrong_fields(exc, "event")
        raise InvalidEventError(f"expected {expected}: {in_words(problems)}", problems) from None


def wrong_fields(exc: ValidationError, whole: str = "document") -> tuple[FieldProblem, ...]:
    """Pydantic's errors as ours, by dotted path; ``whole`` names what is wrong altogether."""
    return tuple(
        FieldProblem(".".join(str(part) for part in e["loc"]) or whole, e["msg"])
        for e in exc.errors(include_url=False, include_input=False, include_context=False)
    )


def in_words(problems: Sequence[FieldProblem]) -> str:
    """The first problems as one sentence."""
    told = "; ".join(f"{p.field}: {p.message}" for p in problems[:_SHOWN])
    more = len(problems) - _SHOWN
    return f"{told}; and {more} more" if more > 0 else told
