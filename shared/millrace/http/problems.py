"""Problem details in FastAPI: every error of an app becomes one, by the table in `problem_details`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from millrace.errors import (
    FieldProblem,
    InvalidRequestError,
    MalformedRequestError,
    MillraceError,
    NotFoundError,
)
from millrace.http.caller import correlation_id
from millrace.http.problem_details import (
    PROBLEM_MEDIA_TYPE,
    error_code,
    problem_body,
    refusal,
    shown,
)

_HTTP_CODES: Final[dict[int, str]] = {
    404: "no_such_route",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
}
_DESCRIPTIONS: Final[dict[int, str]] = {
    400: "The body cannot be decoded.",
    401: "The token is missing, not valid or expired (ApiAuthorizer JWT).",
    403: "The caller is not known, or none of their roles permits this route.",
    404: "There is no such thing; code `no_champion` when a model has nothing to answer with.",
    406: "No format of the answer is acceptable to the caller.",
    408: "The body did not arrive in time.",
    409: "The registry's state forbids it.",
    410: "It was valid once: the request expired, or the link was used.",
    413: "More rows or bytes than one request may carry.",
    415: "The content type or encoding is not supported.",
    422: "The request is understood and wrong; `errors` names every field.",
    429: "Too many requests, or the quota of the API key is used up; `Retry-After` says when to try "
    "again.",
    500: "Something failed inside.",
    502: "A service behind the API refused it.",
    503: "A service behind the API is busy; `Retry-After` says when to try again.",
}


class ProblemField(BaseModel):
    """One wrong place in the request."""

    model_config = ConfigDict(extra="forbid")

    field: str = Field(description="Feature, or dotted path of the field.")
    message: str = Field(description="What was expected and what came.")
    row: int | None = Field(None, description="Position in `rows` or in the columns, 0-based.")


class Problem(BaseModel):
    """An error, as RFC 9457 writes it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "type": "urn:millrace:problem:invalid-request",
                "title": "Unprocessable Content",
                "status": 422,
                "detail": "the request does not fit model churn: row 0, age: expected a number, "
                "got a string",
                "instance": "/v1/models/churn/predict",
                "code": "invalid_request",
                "correlation_id": "4b1c2f0e-6c0a-4f5e-9a55-6f2f4f1f9d0b",
                "errors": [
                    {"field": "age", "message": "expected a number, got a string", "row": 0}
                ],
            }
        },
    )

    type: str = Field(description="URN of the kind of problem.")
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What was expected and what came, for people.")
    instance: str = Field(description="The path that was asked.")
    code: str = Field(description="Stable name of the error, for programs, e.g. `no_champion`.")
    correlation_id: str = Field(description="Finds the log lines of this request.")
    errors: list[ProblemField] = Field(description="Every wrong field; empty when none is to name.")
    error: str | None = Field(
        None,
        description="`detail` once more, for clients of the Open Inference Protocol: only in answers of "
        "API Gateway itself.",
    )


def problem_response(
    request: Request,
    *,
    status: int,
    code: str,
    detail: str,
    problems: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An answer with problem details."""
    body = problem_body(
        status=status,
        code=code,
        detail=detail,
        instance=request.scope["path"],
        correlation=correlation_id(request.scope),
        problems=problems,
    )
    return Response(body, status, headers=dict(headers or {}), media_type=PROBLEM_MEDIA_TYPE)


def respond(request: Request, error: Exception) -> Response:
    """The answer to any error: every handler below ends here."""
    told = refusal(error, instance=request.scope["path"], correlation=correlation_id(request.scope))
    return Response(
        told.body, told.status, headers=dict(told.headers), media_type=PROBLEM_MEDIA_TYPE
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of the problems a route may answer with."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Makes every error of an app a problem."""
    app.add_exception_handler(MillraceError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_error)


async def _on_error(request: Request, error: Exception) -> Response:
    return respond(request, error)


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return respond(request, error)
    status = error.status_code
    detail = error.detail
    if status == 404:
        detail = f"no route {request.method} {request.url.path}"
    elif status == 405:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not possible on {request.url.path}; possible: {allowed}"
    code = _HTTP_CODES.get(status, error_code(type(error)))
    return problem_response(request, status=status, code=code, detail=detail, headers=error.headers)


async def _on_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        return respond(request, error)
    errors = error.errors()
    if all(e["loc"] and e["loc"][0] == "path" for e in errors):
        # No such name can exist: that is an absence, as for a well-formed name.
        (word,) = {str(e["loc"][-1]) for e in errors[:1]}
        value = request.path_params.get(word, "")
        return respond(request, NotFoundError(f"there is no {word} {shown(str(value))}"))
    return respond(request, request_error(errors))


def request_error(errors: Sequence[Any]) -> InvalidRequestError:
    """Our error for pydantic's, without the values that came.

    Args:
        errors: What pydantic's ``errors()`` gives.
    """
    malformed = next((e for e in errors if e["type"] == "json_invalid"), None)
    if malformed is not None:
        reason = str(malformed.get("ctx", {}).get("error", "")) or "it cannot be parsed"
        return MalformedRequestError(f"the body is not JSON: {reason}")
    problems = [
        FieldProblem(
            field=".".join(str(part) for part in _named(e)) or "body",
            message=_message(e),
        )
        for e in errors
    ]
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InvalidRequestError(f"{first.field}: {first.message}{more}", problems)


_MESSAGES: Final = {"extra_forbidden": "has an unknown key", "missing": "is required"}


def _message(error: Any) -> str:
    if error["type"] == "union_tag_invalid":
        # Pydantic's own words quote what came.
        return f"{error['ctx']['discriminator']}: expected one of {error['ctx']['expected_tags']}"
    return _MESSAGES.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")


def _named(error: Any) -> Sequence[int | str]:
    """Where an error is, without a key of the caller's own: it may be anything."""
    place = _without_source(error["loc"])
    return place[:-1] if error["type"] == "extra_forbidden" else place


def _without_source(loc: Sequence[int | str]) -> Sequence[int | str]:
    return loc[1:] if loc and loc[0] in ("body", "query", "path", "header") else loc
