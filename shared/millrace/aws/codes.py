"""What the error codes of AWS mean to Millrace, whatever client they came through."""

from millrace.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConcurrentWriteError,
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
        "TaskDoesNotExist",
        "TaskTimedOut",
        "InvalidToken",
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
        "DependencyTimeoutException",
        "KMSInternalException",
        "KeyUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
        "503",
        "500",
    }
)


def is_throttle(code: str) -> bool:
    """Whether a service asks to slow down."""
    return code in _THROTTLES


def error_of(code: str, message: str, status: int, what: str) -> MillraceError:
    """Our error for an error of a service.

    Args:
        code: The service's error code, e.g. ``NoSuchKey``.
        message: What it says of it.
        status: The HTTP status of its answer, 0 if unknown.
        what: The operation and identifier, e.g. ``read s3://bucket/key``.
    """
    text = f"{what}: {message or code} ({code})"
    for codes, kind in (
        (_THROTTLES, ThrottledError),
        (_NOT_FOUND, NotFoundError),
        (_EXISTS, AlreadyExistsError),
        (_DENIED, AccessDeniedError),
        (_RACES, ConcurrentWriteError),
        (_UNAVAILABLE, ServiceUnavailableError),
    ):
        if code in codes:
            return kind(text)
    return ServiceUnavailableError(text) if status >= 500 else FinalError(text)
