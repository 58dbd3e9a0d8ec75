"""Problem details (RFC 9457): the one table of which error is answered how, without a framework.

==========================================  ======  =============================================
error                                       status  what the caller reads
==========================================  ======  =============================================
MalformedRequestError                       400     why the body cannot be decoded
UnauthenticatedError                        401     that a valid credential is expected
NotFoundError, NoChampionError              404     what does not exist
(no such route, no such method)             404/405
NotAcceptableError                          406     the formats there are
RequestTimeoutError                         408     how long a body may take
NotApproverError                            403     why the caller may not decide on this version
GoneError                                   410     since when, and what to do
ConflictError and below                     409     which state forbids it
RequestTooLargeError                        413     the limit and what to do
UnsupportedMediaTypeError                   415     the formats and encodings that are read
InvalidRequest-, Spec-, EventError          422     every wrong field, with its row
UploadRefusedError                          422     why the file is refused
AccessDeniedError                           502     nothing: our own permissions, not the caller's
RetryableError and below                    503     when to try again (``Retry-After``)
everything else                             500     nothing but the correlation id
==========================================  ======  =============================================

Errors of 500 and above say nothing of the inside: the log line with the same correlation id does.
`problems` makes FastAPI answer by it; the hot route answers by it without loading FastAPI.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson

from millrace import observability
from millrace.errors import (
    AccessDeniedError,
    ConflictError,
    FieldProblem,
    GoneError,
    InvalidEventError,
    InvalidRequestError,
    InvalidSpecError,
    MalformedRequestError,
    MillraceError,
    NotAcceptableError,
    NotApproverError,
    NotFoundError,
    RequestTimeoutError,
    RequestTooLargeError,
    RetryableError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
    UploadRefusedError,
)

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 2

# The first class that fits decides: subclasses stand before their bases.
_STATUS: Final[tuple[tuple[type[MillraceError], int], ...]] = (
    (MalformedRequestError, 400),
    (NotAcceptableError, 406),
    (RequestTimeoutError, 408),
    (RequestTooLargeError, 413),
    (UnsupportedMediaTypeError, 415),
    (InvalidRequestError, 422),
    (InvalidSpecError, 422),
    (InvalidEventError, 422),
    (UploadRefusedError, 422),
    (UnauthenticatedError, 401),
    (NotFoundError, 404),
    (NotApproverError, 403),
    (GoneError, 410),
    (ConflictError, 409),
    (AccessDeniedError, 502),
    (RetryableError, 503),
)
_CONCEALED: Final[dict[int, str]] = {
    502: "a service Millrace needs refused it; the log has the details",
    503: "a service Millrace needs is busy or unreachable; try again shortly",
}
_INTERNAL: Final = "something failed inside; the log has the details under the correlation id"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as an HTTP answer.

    Attributes:
        status: The HTTP status.
        body: Problem details as JSON.
        headers: Headers besides the content type.
    """

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def error_code(error: type[BaseException]) -> str:
    """The stable name of an error class: ``NoChampionError`` is ``no_champion``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__.removesuffix("Error")).lower()


def status_of(error: Exception) -> int:
    """The HTTP status an error is answered with."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 500


def problem_body(
    *,
    status: int,
    code: str,
    detail: str,
    instance: str,
    correlation: str,
    problems: Sequence[FieldProblem] = (),
) -> bytes:
    """Problem details as JSON, in the shape of `Problem`."""
    return orjson.dumps(
        {
            "type": f"urn:millrace:problem:{code.replace('_', '-')}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "instance": instance,
            "code": code,
            "correlation_id": correlation,
            "errors": problems,
        }
    )


def refusal(error: Exception, *, instance: str, correlation: str) -> Refusal:
    """The answer to any error; one of 500 and above is logged.

    Args:
        error: What was raised.
        instance: The path that was asked.
        correlation: The request's correlation id.
    """
    status = status_of(error)
    if status < 500:
        return Refusal(
            status,
            problem_body(
                status=status,
                code=error_code(type(error)),
                detail=str(error),
                instance=instance,
                correlation=correlation,
                problems=getattr(error, "problems", ()),
            ),
        )
    observability.logger.error(
        "request failed",
        exc_info=error,
        extra={"error": type(error).__name__, "status": status},
    )
    return Refusal(
        status,
        problem_body(
            status=status,
            code=error_code(type(error)) if isinstance(error, MillraceError) else "internal",
            detail=_CONCEALED.get(status, _INTERNAL),
            instance=instance,
            correlation=correlation,
        ),
        (("Retry-After", str(RETRY_AFTER_SECONDS)),) if status == 503 else (),
    )


def shown(text: str) -> str:
    """A caller's own word, quoted and short enough for a message."""
    return repr(text if len(text) <= 64 else text[:63] + "…")
