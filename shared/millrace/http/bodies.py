"""Request bodies: of a bounded size, in the encoding and type that the headers name."""

import zlib
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from millrace.errors import MalformedRequestError, RequestTooLargeError

_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16
_GZIP_MAGIC: Final = b"\x1f\x8b"
_LENIENT: Final = frozenset({"", "text/plain", "application/x-www-form-urlencoded"})
"""What clients send when nobody told them the type; ``curl -d`` is one."""


def media_type(request: Request) -> str:
    """The body's content type without its parameters, in lower case."""
    return _bare(request.headers.get("content-type", ""))


def is_unspecific(content_type: str) -> bool:
    """Whether a content type says nothing of the body."""
    return _bare(content_type) in _LENIENT


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def expect_media_type(request: Request, *expected: str) -> None:
    """Refuses content types that are none of those expected, nor unspecific.

    Raises:
        HTTPException: 415.
    """
    came = media_type(request)
    if came in _LENIENT or came in expected or came.endswith("+json"):
        return
    raise HTTPException(415, f"expected content type {' or '.join(expected)}, got {came!r}")


async def read_body(request: Request, most: int) -> bytes:
    """The body, decompressed.

    A REST API of API Gateway decompresses request bodies itself; elsewhere they come as they were
    sent. So a body that was sent as gzip and is none any more is taken as it is.

    Args:
        request: The request.
        most: Most bytes, before and after decompression.

    Raises:
        HTTPException: 415, for a content encoding other than gzip.
        RequestTooLargeError: The body is longer.
        MalformedRequestError: The gzip is damaged.
    """
    body = await request.body()
    if len(body) > most:
        raise _too_large(most, f"got {len(body):,}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise HTTPException(415, f"expected content encoding gzip or none, got {encoding!r}")
    if not body.startswith(_GZIP_MAGIC):
        return body
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = inflater.decompress(body, most + 1)
    except zlib.error as exc:
        raise MalformedRequestError("the gzip body is damaged") from exc
    if len(plain) > most:
        raise _too_large(most, "got more after decompression")
    if not inflater.eof:
        raise MalformedRequestError("the gzip body is truncated")
    return plain


def _too_large(most: int, came: str) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"expected a body of at most {most:,} bytes, {came}: divide it over several requests"
    )
