"""Every botocore error becomes one of ours, retryable or final."""

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
)

from millrace import errors
from millrace.aws.translate import translate, translated


def _client_error(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": "said AWS"},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "RequestId": "",
                "HostId": "",
                "HTTPHeaders": {},
                "RetryAttempts": 0,
            },
        },
        "Operation",
    )


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ThrottlingException", 400, errors.ThrottledError),
        ("SlowDown", 503, errors.ThrottledError),
        ("NoSuchKey", 404, errors.NotFoundError),
        ("PreconditionFailed", 412, errors.AlreadyExistsError),
        ("AccessDenied", 403, errors.AccessDeniedError),
        ("TransactionConflictException", 400, errors.ConcurrentWriteError),
        ("SomethingNew", 500, errors.ServiceUnavailableError),
        ("ValidationException", 400, errors.FinalError),
    ],
)
def test_a_service_error_becomes_ours(
    code: str, status: int, kind: type[errors.MillraceError]
) -> None:
    with pytest.raises(kind, match=r"read s3://b/k: said AWS"), translated("read s3://b/k"):
        raise _client_error(code, status)


def test_a_lost_connection_is_retryable_and_missing_credentials_are_final() -> None:
    assert isinstance(
        translate(EndpointConnectionError(endpoint_url="http://127.0.0.1"), "x"),
        errors.RetryableError,
    )
    assert isinstance(translate(NoCredentialsError(), "x"), errors.AccessDeniedError)
    assert isinstance(translate(NoRegionError(), "x"), errors.ConfigurationError)
