"""Turns botocore's errors into ours: the only importer of botocore's exceptions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from millrace.aws.codes import error_of
from millrace.aws.table import too_large
from millrace.errors import (
    AccessDeniedError,
    ConcurrentWriteError,
    ConditionFailedError,
    ConfigurationError,
    MillraceError,
    ServiceUnavailableError,
    ThrottledError,
)

_TOO_LARGE = "exceeded the maximum allowed size"
"""What DynamoDB says of an item that an update would make too large."""


def _error_code(exc: ClientError) -> str:
    """The service's error code, e.g. ``NoSuchKey``."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def translate(
    exc: ClientError | BotoCoreError, what: str, writes: Sequence[str] = ()
) -> MillraceError:
    """Our error for botocore's.

    Args:
        exc: What botocore raised.
        what: The operation and identifier, e.g. ``read s3://bucket/key``.
        writes: Of a DynamoDB transaction: what each of its writes is called, in their order.
    """
    if isinstance(exc, ClientError):
        code = _error_code(exc)
        if code == "TransactionCanceledException":
            cancelled = _cancelled(exc, what, writes)
            if cancelled is not None:
                return cancelled
        if code == "ConditionalCheckFailedException":
            return ConditionFailedError(
                f"{what}: the item is not in the assumed state", tuple(writes)
            )
        message = str(exc.response.get("Error", {}).get("Message", ""))
        if code == "ValidationException" and _TOO_LARGE in message:
            return too_large(what, "and it would be more")
        return error_of(
            code,
            message,
            int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
            what,
        )
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        return AccessDeniedError(f"{what}: no AWS credentials were found")
    if isinstance(exc, BotoConnectionError | HTTPClientError):
        return ServiceUnavailableError(f"{what}: {exc}")
    return ConfigurationError(f"{what}: {exc}")


def _cancelled(exc: ClientError, what: str, writes: Sequence[str]) -> MillraceError | None:
    """Our error for a cancelled transaction, by the reasons of its single writes."""
    codes = [str(r.get("Code", "None")) for r in exc.response.get("CancellationReasons", [])]
    if any(c in ("TransactionConflict", "DuplicateItemException") for c in codes):
        return ConcurrentWriteError(f"{what}: another write touched the same items; try again")
    if any(c in ("ThrottlingError", "ProvisionedThroughputExceeded") for c in codes):
        return ThrottledError(f"{what}: DynamoDB asked to slow down")
    reasons = exc.response.get("CancellationReasons", [])
    if any(_TOO_LARGE in str(r.get("Message", "")) for r in reasons):
        return too_large(what, "and it would be more")
    failed = tuple(w for w, c in zip(writes, codes, strict=False) if c == "ConditionalCheckFailed")
    if failed:
        return ConditionFailedError(
            f"{what}: the registry is not in the assumed state ({', '.join(failed)})", failed
        )
    return None


@contextmanager
def translated(what: str, writes: Sequence[str] = ()) -> Iterator[None]:
    """Raises our error for whatever botocore raises inside the block; arguments as `translate`."""
    try:
        yield
    except (ClientError, BotoCoreError) as exc:
        raise translate(exc, what, writes) from exc
