"""Request bodies: of a bounded size, in the encoding and type that the headers name.

What FastAPI's endpoints use takes a request; what the hot route uses takes the header's text, so
that it loads no framework.
"""

import zlib
from typing import TYPE_CHECKING, Final

from millrace.errors import (
    MalformedRequestError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
)

if TYPE_CHECKING:
    from starlette.requests import Request

_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16
_GZIP_MAGIC: Final = b"\x1f\x8b"
_NAMED: Final = frozenset(
    {
        "application/json",
        "application/octet-stream",
        "application/vnd.apache.arrow.stream",
        "application/x-ndjson",
        "application/xml",
        "application/yaml",
        "br",
        "compress",
        "multipart/form-data",
        "text/csv",
        "text/html",
        "text/xml",
        "zstd",
    }
)
"""Types and encodings that a message says again; any other word may be a person's data."""
_LENIENT: Final = frozenset({"", "text/plain", "application/x-www-form-urlencoded"})
"""What clients send when nobody told them the type; ``curl -d`` is one."""


def media_type(request: "Request") -> str:
    """The body's content type without its parameters, in lower case."""
    return bare_type(request.headers.get("content-type", ""))


def is_unspecific(content_type: str) -> bool:
    """Whether a content type says nothing of the body."""
    return bare_type(content_type) in _LENIENT


def bare_type(content_type: str) -> str:
    """A content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def expect_media_type(request: "Request", *expected: str) -> None:
    """Refuses content types that are none of those expected, nor unspecific.

    Raises:
        UnsupportedMediaTypeError: It is another.
    """
    came = media_type(request)
    if came in expected or reads_as_json(came):
        return
    raise unsupported_type(came, *expected)


def reads_as_json(came: str) -> bool:
    """Whether a bare content type is JSON, or says nothing of the body."""
    return came == "application/json" or came in _LENIENT or came.endswith("+json")


def unsupported_type(came: str, *expected: str) -> UnsupportedMediaTypeError:
    """The error for a content type that is not read."""
    return UnsupportedMediaTypeError(
        f"expected content type {' or '.join(expected)}, got {_told(came)}"
    )


async def read_body(request: "Request", most: int) -> bytes:
    """The body, decompressed.

    Args:
        request: The request.
        most: Most bytes, before and after decompression.

    Raises:
        UnsupportedMediaTypeError: A content encoding other than gzip and deflate.
        RequestTooLargeError: The body is longer.
        MalformedRequestError: What is compressed is damaged.
    """
    return inflated(await request.body(), request.headers.get("content-encoding", "identity"), most)


def inflated(body: bytes, encoding: str, most: int) -> bytes:
    """A body as it was before its content encoding.

    A REST API of API Gateway decompresses request bodies itself; elsewhere they come as they were
    sent. So a body that was sent compressed and is it no more is taken as it is.

    Args:
        body: What came.
        encoding: The header ``Content-Encoding``.
        most: Most bytes, before and after decompression.

    Raises:
        UnsupportedMediaTypeError: A content encoding other than gzip and deflate.
        RequestTooLargeError: The body is longer.
        MalformedRequestError: What is compressed is damaged.
    """
    if len(body) > most:
        raise too_large(most, f"got {len(body):,}")
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise UnsupportedMediaTypeError(
            f"expected content encoding gzip, deflate or none, got {_told(encoding)}"
        )
    if not (body.startswith(_GZIP_MAGIC) if encoding == "gzip" else _is_zlib(body)):
        return body
    inflater = zlib.decompressobj(_GZIP_WINDOW if encoding == "gzip" else zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(body, most + 1)
    except zlib.error as exc:
        raise MalformedRequestError(f"the {encoding} body is damaged") from exc
    if len(plain) > most:
        raise too_large(most, "got more after decompression")
    if not inflater.eof:
        raise MalformedRequestError(f"the {encoding} body is truncated")
    return plain


def _is_zlib(body: bytes) -> bool:
    """Whether it begins as the zlib format does (RFC 1950), which HTTP calls deflate; no JSON does."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def too_large(most: int, came: str) -> RequestTooLargeError:
    """The error for a body that is too long."""
    return RequestTooLargeError(
        f"expected a body of at most {most:,} bytes, {came}: divide it over several requests"
    )


def _told(came: str) -> str:
    return came if came in _NAMED else "another"
