"""Moments as people write them."""

from datetime import UTC, datetime

from millrace.errors import FieldProblem, InvalidRequestError

EXPECTED = "expected a time in ISO 8601 such as 2026-11-01T12:00Z; without a zone it is UTC"


def parse_moment(text: str, field: str) -> datetime:
    """A moment in UTC; one without a zone is taken to be in UTC, a day for its beginning.

    Args:
        text: As ISO 8601 writes it.
        field: What the caller called it, for the error.

    Raises:
        InvalidRequestError: It is no time.
    """
    try:
        # A plus sign that nobody escaped arrives as a space.
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequestError(f"{field}: {EXPECTED}", [FieldProblem(field, EXPECTED)]) from exc


def minute(moment: datetime) -> str:
    """A moment to the minute, as short as it goes."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}Z"


def text_of(moment: datetime) -> str:
    """A moment in words, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
