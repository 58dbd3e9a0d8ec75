"""Parameters that endpoints share, and pages of listings."""

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Header, Path, Query
from starlette.requests import Request

from millrace.errors import FieldProblem, InvalidEventError, InvalidRequestError
from millrace.http.bodies import expect_media_type
from millrace.registry.pages import Page
from millrace.vocabulary import MODEL_NAME_PATTERN

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 100

Name = Annotated[str, Path(pattern=MODEL_NAME_PATTERN, description="The model.")]
VersionOrAlias = Annotated[
    str,
    Path(
        pattern=r"^([0-9]{1,9}|[a-z][a-z0-9_-]{0,63})$",
        description="The version's number, or an alias such as `champion`.",
        examples=["3", "champion"],
    ),
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most items of the page.")]
PageToken = Annotated[
    str | None,
    Query(max_length=4_000, description="`next_page_token` of the page before."),
]
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


def listed[T](listing: Callable[..., Page[T]], limit: int, token: str | None) -> Page[T]:
    """One page of a listing; a forged or foreign token is the caller's field `page_token`."""
    try:
        return listing(limit=limit, token=token)
    except InvalidEventError as exc:
        message = "expected the next_page_token of this listing's last page"
        raise InvalidRequestError(
            f"page_token: {message}", [FieldProblem("page_token", message)]
        ) from exc
