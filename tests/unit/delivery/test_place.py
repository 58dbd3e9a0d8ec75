"""Credentials, regions and endpoints that are wrong: each a sentence that says what to do."""

from collections.abc import Mapping

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    ProfileNotFound,
    UnauthorizedSSOTokenError,
)

from infra.delivery.place import Place, asked
from millrace.errors import (
    AccessDeniedError,
    ConfigurationError,
    FinalError,
    ServiceUnavailableError,
)

HERE: Mapping[str, str] = {"AWS_REGION": "eu-central-1"}


def _error(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Operation")


def test_no_region_says_how_to_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)

    with pytest.raises(ConfigurationError, match="no AWS region is set: set AWS_REGION"):
        _ = Place(environment={}).region


def test_a_misspelt_region_names_the_one_that_was_meant() -> None:
    with pytest.raises(
        ConfigurationError, match=r"no region 'eu-centrl-1': did you mean eu-central-1"
    ):
        _ = Place(environment={"AWS_REGION": "eu-centrl-1"}).region


def test_no_credentials_say_how_to_get_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    with pytest.raises(AccessDeniedError, match="no AWS credentials were found: sign in"):
        _ = Place(environment=HERE).identity


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:99999", "http://127.0.0.1:0", "127.0.0.1:4566", "http://:4566", "ftp://a"],
)
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(
        ConfigurationError, match="expected an address such as http://127.0.0.1:4566"
    ):
        Place(environment={"AWS_ENDPOINT_URL": endpoint})


def test_an_endpoint_that_does_not_answer_is_named() -> None:
    place = Place(environment={**HERE, "AWS_ENDPOINT_URL": "http://127.0.0.1:4566"})

    with (
        pytest.raises(
            ServiceUnavailableError,
            match="nothing answers at AWS_ENDPOINT_URL=http://127.0.0.1:4566: start",
        ),
        asked("ask", place),
    ):
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:4566")


def test_aws_that_does_not_answer_is_told_apart() -> None:
    with (
        pytest.raises(ServiceUnavailableError, match="AWS does not answer: is the network there"),
        asked("ask", Place(environment=HERE)),
    ):
        raise EndpointConnectionError(endpoint_url="https://sts.eu-central-1.amazonaws.com")


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException"])
def test_an_expired_token_says_to_sign_in_again(code: str) -> None:
    with pytest.raises(AccessDeniedError, match="have expired: sign in again"), asked("ask"):
        raise _error(code, "The security token included in the request is expired")


def test_an_expired_sign_in_says_the_same() -> None:
    with pytest.raises(AccessDeniedError, match="have expired: sign in again"), asked("ask"):
        raise UnauthorizedSSOTokenError


def test_a_profile_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigurationError, match="profile .* could not be found"), asked("ask"):
        raise ProfileNotFound(profile="nobody")


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "UnrecognizedClientException"])
def test_unknown_keys_are_told(code: str) -> None:
    with (
        pytest.raises(AccessDeniedError, match="AWS does not know these credentials"),
        asked("ask"),
    ):
        raise _error(code, "The security token included in the request is invalid.")


def test_a_missing_permission_is_named_with_its_resource() -> None:
    message = (
        "User: arn:aws:iam::1:user/me is not authorized to perform: cloudformation:CreateChangeSet "
        "on resource: arn:aws:cloudformation:eu-central-1:1:stack/millrace/* because no policy allows"
    )

    with (
        pytest.raises(
            AccessDeniedError,
            match=r"may not cloudformation:CreateChangeSet on arn:aws:cloudformation:eu-central-1:1:stack",
        ),
        asked("plan"),
    ):
        raise _error("AccessDenied", message)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(FinalError, match="make a bucket: no such thing"), asked("make a bucket"):
        raise _error("SomethingElse", "no such thing")
