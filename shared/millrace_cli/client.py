"""The HTTPS API as the command line uses it: signed as the stack asks, errors as our exceptions."""

import json
import os
from typing import TYPE_CHECKING, Any

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from millrace.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConflictError,
    FieldProblem,
    FinalError,
    InvalidRequestError,
    MillraceError,
    NotFoundError,
    ServiceUnavailableError,
)

if TYPE_CHECKING:
    from millrace_cli.target import Target

API_KEY_VARIABLE = "MILLRACE_API_KEY"
TOKEN_VARIABLE = "MILLRACE_TOKEN"  # noqa: S105 - the name of a variable
_TIMEOUT = httpx.Timeout(35.0, connect=5.0)


class ApiClient:
    """Calls the API of one deployment.

    Args:
        target: The deployment; its authorizer decides how requests are signed.
        api_key: The key of a stack that wants one; default: the environment's.
        token: The bearer token of a stack that wants one; default: the environment's.
    """

    def __init__(
        self, target: "Target", *, api_key: str | None = None, token: str | None = None
    ) -> None:
        self.target = target
        self._api_key = api_key
        self._token = token
        self._http = httpx.Client(timeout=_TIMEOUT)

    def close(self) -> None:
        """Closes its connections and the deployment's."""
        self._http.close()
        self.target.close()

    def get(self, path: str, **params: str | int | list[str] | None) -> dict[str, Any]:
        """GET, JSON answer."""
        return self._call("GET", path, params={k: v for k, v in params.items() if v is not None})

    def get_text(self, path: str, **params: str) -> str:
        """GET an answer that is no JSON."""
        answer = self.send("GET", path, params=dict(params), headers={"accept": "*/*"})
        if answer.is_success:
            return answer.text
        raise _error(answer, f"GET {path}")

    def put(self, path: str, document: Any) -> dict[str, Any]:
        """PUT a JSON document."""
        return self._call("PUT", path, document=document)

    def post(
        self, path: str, document: Any, *, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """POST a JSON document."""
        return self._call("POST", path, document=document, headers=headers)

    def post_bytes(self, path: str, content: bytes, content_type: str) -> dict[str, Any]:
        """POST a body that is no JSON; JSON answer."""
        answer = self.send("POST", path, content=content, headers={"content-type": content_type})
        if answer.is_success:
            decoded: dict[str, Any] = answer.json()
            return decoded
        raise _error(answer, f"POST {path}")

    def send(
        self,
        method: str,
        path: str,
        *,
        content: bytes = b"",
        params: dict[str, str | int | list[str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Sends bytes as JSON, signed as the stack asks; returns whatever the API answers.

        Raises:
            ServiceUnavailableError: There was no answer.
        """
        url = httpx.URL(self.target.outputs.api_url + path, params=params or None)
        sent = {"accept": "application/json", **(headers or {})}
        if content:
            sent.setdefault("content-type", "application/json")
        sent.update(self._authorization(method, str(url), content, sent))
        try:
            return self._http.request(method, url, content=content or None, headers=sent)
        except httpx.TimeoutException as exc:
            raise ServiceUnavailableError(f"{method} {url.path}: no answer in time") from exc
        except httpx.HTTPError as exc:
            raise ServiceUnavailableError(f"{method} {url}: {exc}") from exc

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str | int | list[str]] | None = None,
        document: Any = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        body = b"" if document is None else json.dumps(document).encode()
        answer = self.send(method, path, content=body, params=params, headers=headers)
        if answer.is_success:
            decoded: dict[str, Any] = answer.json()
            return decoded
        raise _error(answer, f"{method} {path}")

    def _authorization(
        self, method: str, url: str, body: bytes, headers: dict[str, str]
    ) -> dict[str, str]:
        match self.target.outputs.authorizer:
            case "NONE":
                return {}
            case "API_KEY":
                key = self._api_key or os.environ.get(API_KEY_VARIABLE)
                if not key:
                    raise ConfigurationError(
                        f"this stack wants an API key: pass --api-key or set {API_KEY_VARIABLE}; "
                        "`millrace keys create` makes one"
                    )
                return {"x-api-key": key}
            case "JWT":
                token = self._token or os.environ.get(TOKEN_VARIABLE)
                if not token:
                    issuer = self.target.outputs.raw.get("JwtIssuer", "its issuer")
                    raise ConfigurationError(
                        f"this stack wants a token of {issuer}: pass --token or set {TOKEN_VARIABLE}"
                    )
                return {"authorization": f"Bearer {token}"}
            case "IAM":
                credentials = self.target.session.get_credentials()
                if credentials is None:
                    raise AccessDeniedError(
                        "this stack wants IAM-signed calls and no AWS credentials were found"
                    )
                request = AWSRequest(method=method, url=url, data=body, headers=headers)
                SigV4Auth(
                    credentials.get_frozen_credentials(), "execute-api", self.target.region
                ).add_auth(request)
                return dict(request.headers.items())
            case other:
                raise ConfigurationError(f"the stack names an unknown authorizer {other!r}")


def _error(answer: httpx.Response, what: str) -> MillraceError:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    detail = problem.get("detail") or problem.get("title") or problem.get("message")
    message = str(detail or f"{what}: the API answered {answer.status_code}")
    problems = tuple(
        FieldProblem(
            field=str(e.get("field", "")), message=str(e.get("message", "")), row=e.get("row")
        )
        for e in problem.get("errors", ())
        if isinstance(e, dict)
    )
    match answer.status_code:
        case 400 | 413 | 415 | 422:
            return InvalidRequestError(message, problems)
        case 401 | 403:
            return AccessDeniedError(message)
        case 404:
            return NotFoundError(message)
        case 409 | 410:
            return ConflictError(message)
        case 429 | 502 | 503 | 504:
            return ServiceUnavailableError(message)
        case _:
            return FinalError(message)
