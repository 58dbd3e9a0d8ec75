"""Turns botocore's errors into ours: the only importer of botocore's exceptions."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from millrace.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConcurrentWriteError,
    ConfigurationError,
    FinalError,
    MillraceError,
    NotFoundError,
    ServiceUnavailableError,
    ThrottledError,
)

_THROTTLES = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "ProvisionedThroughputExceededException",
        "SlowDown",
        "ExecutionLimitExceeded",
    }
)
_NOT_FOUND = frozenset(
    {
        "NoSuchKey",
        "NoSuchVersion",
        "NoSuchBucket",
        "404",
        "NotFound",
        "ResourceNotFoundException",
        "ExecutionDoesNotExist",
        "StateMachineDoesNotExist",
    }
)
_EXISTS = frozenset(
    {"ExecutionAlreadyExists", "PreconditionFailed", "412", "ConditionalRequestConflict"}
)
_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "403",
        "Forbidden",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "ExpiredTokenException",
    }
)
_RACES = frozenset({"TransactionConflictException", "TransactionInProgressException"})
_UNAVAILABLE = frozenset(
    {
        "InternalError",
        "InternalServerError",
        "InternalFailure",
        "ServiceUnavailable",
        "ServiceException",
        "RequestTimeout",
        "RequestTimeoutException",
        "503",
        "500",
    }
)


def error_code(exc: ClientError) -> str:
    """The service's error code, e.g. ``NoSuchKey``."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def translate(exc: ClientError | BotoCoreError, what: str) -> MillraceError:
    """Our error for botocore's.

    Args:
        exc: What botocore raised.
        what: The operation and identifier, e.g. ``read s3://bucket/key``.
    """
    if isinstance(exc, ClientError):
        code = error_code(exc)
        message = f"{what}: {exc.response.get('Error', {}).get('Message', '') or code} ({code})"
        for codes, kind in (
            (_THROTTLES, ThrottledError),
            (_NOT_FOUND, NotFoundError),
            (_EXISTS, AlreadyExistsError),
            (_DENIED, AccessDeniedError),
            (_RACES, ConcurrentWriteError),
            (_UNAVAILABLE, ServiceUnavailableError),
        ):
            if code in codes:
                return kind(message)
        status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return ServiceUnavailableError(message) if status >= 500 else FinalError(message)
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        return AccessDeniedError(f"{what}: no AWS credentials were found")
    if isinstance(exc, BotoConnectionError | HTTPClientError):
        return ServiceUnavailableError(f"{what}: {exc}")
    return ConfigurationError(f"{what}: {exc}")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises our error for whatever botocore raises inside the block."""
    try:
        yield
    except (ClientError, BotoCoreError) as exc:
        raise translate(exc, what) from exc
