"""Every error becomes one kind of answer, and those of the inside say nothing."""

import asyncio
import inspect
from typing import Any

import orjson
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from millrace import errors
from millrace.errors import (
    AccessDeniedError,
    AlreadyDecidedError,
    AlreadyExistsError,
    ArtifactError,
    ArtifactSignatureError,
    ChampionChangedError,
    ConcurrentWriteError,
    ConditionFailedError,
    ConfigurationError,
    ConflictError,
    DigestMismatchError,
    FieldProblem,
    FinalError,
    GoneError,
    InvalidEventError,
    InvalidRequestError,
    InvalidSpecError,
    InvalidTransitionError,
    MalformedRequestError,
    MillraceError,
    NoChampionError,
    NotAcceptableError,
    NotApproverError,
    NotFoundError,
    NoViableTrialError,
    ParityError,
    ProblemsError,
    RequestTimeoutError,
    RequestTooLargeError,
    RetryableError,
    ServiceUnavailableError,
    ThrottledError,
    TrainingError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
    UploadRefusedError,
)
from millrace.http import problems
from millrace.http.problem_details import error_code, status_of
from millrace.http.problems import Problem, respond

EXPECTED: dict[type[MillraceError], tuple[int, str]] = {
    MillraceError: (500, "millrace"),
    RetryableError: (503, "retryable"),
    ThrottledError: (503, "throttled"),
    ServiceUnavailableError: (503, "service_unavailable"),
    ConcurrentWriteError: (503, "concurrent_write"),
    FinalError: (500, "final"),
    ProblemsError: (500, "problems"),
    InvalidSpecError: (422, "invalid_spec"),
    InvalidEventError: (422, "invalid_event"),
    UploadRefusedError: (422, "upload_refused"),
    UnauthenticatedError: (401, "unauthenticated"),
    TrainingError: (500, "training"),
    NoViableTrialError: (500, "no_viable_trial"),
    ParityError: (500, "parity"),
    ArtifactError: (500, "artifact"),
    DigestMismatchError: (500, "digest_mismatch"),
    NotFoundError: (404, "not_found"),
    NoChampionError: (404, "no_champion"),
    ConflictError: (409, "conflict"),
    AlreadyExistsError: (409, "already_exists"),
    ConditionFailedError: (409, "condition_failed"),
    InvalidTransitionError: (409, "invalid_transition"),
    ChampionChangedError: (409, "champion_changed"),
    ArtifactSignatureError: (500, "artifact_signature"),
    AlreadyDecidedError: (409, "already_decided"),
    GoneError: (410, "gone"),
    NotApproverError: (403, "not_approver"),
    InvalidRequestError: (422, "invalid_request"),
    MalformedRequestError: (400, "malformed_request"),
    NotAcceptableError: (406, "not_acceptable"),
    RequestTimeoutError: (408, "request_timeout"),
    RequestTooLargeError: (413, "request_too_large"),
    UnsupportedMediaTypeError: (415, "unsupported_media_type"),
    AccessDeniedError: (502, "access_denied"),
    ConfigurationError: (500, "configuration"),
}


def request(path: str = "/v1/models") -> Request:
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [],
            "query_string": b"",
            "aws.event": {"requestContext": {"requestId": "req-7"}},
        }
    )


def make(kind: type[MillraceError], message: str) -> MillraceError:
    return kind(message, code="c") if kind is UploadRefusedError else kind(message)


def test_every_error_class_has_a_known_answer() -> None:
    known = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, MillraceError)
    }

    assert known == set(EXPECTED)


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda k: k.__name__)
def test_an_error_is_answered_by_its_class(kind: type[MillraceError]) -> None:
    status, code = EXPECTED[kind]
    error = make(kind, "inside: arn:aws:s3:::secret")

    response = respond(request(), error)

    told = Problem.model_validate_json(bytes(response.body))
    assert (response.status_code, told.status, told.code) == (status, status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert (told.instance, told.correlation_id) == ("/v1/models", "req-7")
    assert ("secret" in told.detail) == (status < 500)
    assert ("retry-after" in response.headers) == (status == 503)


def test_an_unknown_error_is_internal() -> None:
    response = respond(request(), KeyError("secret"))

    assert response.status_code == status_of(KeyError()) == 500
    assert orjson.loads(response.body)["code"] == "internal"
    assert b"secret" not in bytes(response.body)


def test_fields_and_rows_are_named() -> None:
    error = InvalidRequestError("wrong", [FieldProblem("age", "expected a number", 3)])

    told = orjson.loads(respond(request(), error).body)

    assert told["errors"] == [{"field": "age", "message": "expected a number", "row": 3}]


def test_codes_are_snake_case() -> None:
    assert error_code(NoChampionError) == "no_champion"


def answer_of(app: FastAPI, path: str) -> tuple[int, dict[str, Any]]:
    """One request to an ASGI app, without a server."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("x", 80),
        "root_path": "",
    }

    async def ask() -> None:
        try:
            await app(scope, receive, send)
        except ZeroDivisionError:
            return

    asyncio.run(ask())
    return sent[0]["status"], orjson.loads(sent[1]["body"])


def test_what_an_endpoint_raises_is_a_problem_with_an_id_of_its_own() -> None:
    app = FastAPI(openapi_url=None)
    problems.install(app)

    @app.get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError("secret")

    @app.get("/busy")
    async def busy() -> None:
        raise ThrottledError("secret")

    status, told = answer_of(app, "/crash")
    assert (status, told["code"]) == (500, "internal")
    assert len(told["correlation_id"]) == 36
    assert "secret" not in str(told)
    assert answer_of(app, "/busy")[1]["code"] == "throttled"
    assert answer_of(app, "/none")[1]["code"] == "no_such_route"
