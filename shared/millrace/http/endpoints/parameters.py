"""Parameters that endpoints share, and pages of listings."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final

from fastapi import Header, Path, Query
from starlette.requests import Request

from millrace.errors import FieldProblem, InvalidEventError, InvalidRequestError
from millrace.http.bodies import expect_media_type
from millrace.questions.moments import parse_moment
from millrace.registry.pages import Page
from millrace.vocabulary import MODEL_NAME_PATTERN

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 100

Name = Annotated[str, Path(pattern=MODEL_NAME_PATTERN, description="The model.")]
VERSION_OR_ALIAS: Final = r"^([0-9]{1,9}|[a-z][a-z0-9_-]{0,63})$"
VersionOrAlias = Annotated[
    str,
    Path(
        pattern=VERSION_OR_ALIAS,
        description="The version's number, or an alias such as `champion`.",
        examples=["3", "champion"],
    ),
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most items of the page.")]
PageToken = Annotated[
    str | None,
    Query(max_length=4_000, description="`next_page_token` of the page before."),
]
_TIME: Final = "ISO 8601 with its zone, such as `2026-11-01T12:00Z`; without one it is UTC."
Since = Annotated[str | None, Query(max_length=40, description=f"Not before: {_TIME}")]
Until = Annotated[str | None, Query(max_length=40, description=f"Not after: {_TIME}")]
At = Annotated[str | None, Query(max_length=40, description=f"What held then: {_TIME}")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,128}$",
        description="The same key again gives the same run instead of a second training.",
    ),
]


async def json_only(request: Request) -> None:
    """Refuses a body that is not JSON."""
    expect_media_type(request, "application/json")


def moment(text: str | None, field: str) -> datetime | None:
    """A query parameter that is a time.

    Raises:
        InvalidRequestError: It is none.
    """
    return None if text is None else parse_moment(text, field)


def listed[T](listing: Callable[..., Page[T]], limit: int, token: str | None) -> Page[T]:
    """One page of a listing; a forged or foreign token is the caller's field `page_token`."""
    try:
        return listing(limit=limit, token=token)
    except InvalidEventError as exc:
        message = "expected the next_page_token of this listing's last page"
        raise InvalidRequestError(
            f"page_token: {message}", [FieldProblem("page_token", message)]
        ) from exc
