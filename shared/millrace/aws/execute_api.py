"""The deployment's own HTTPS API, called as its clients call it.

No SDK knows the routes, and the standard library is enough: one request, one connection, one deadline.
"""

import http.client
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from millrace.aws.credentials import CredentialSource
from millrace.aws.signing import signed_headers
from millrace.errors import ConfigurationError, ServiceUnavailableError

SERVICE: Final = "execute-api"
_MOST: Final = 1_000_000


class Answered(NamedTuple):
    """What the API answered.

    Attributes:
        status: The HTTP status.
        body: The body.
        seconds: How long it took, the connection's making included.
    """

    status: int
    body: bytes
    seconds: float


def reachable(api_url: str, endpoint_url: str | None) -> str:
    """The API's address; on an emulator the regional host name does not resolve: by path.

    Args:
        api_url: As the stack names it.
        endpoint_url: The emulator's, if there is one.
    """
    if not endpoint_url:
        return api_url.rstrip("/")
    parts = urlsplit(api_url)
    # Of MiniStack the host is AWS's, of LocalStack its own; both name the API first.
    api_id, *place = (parts.hostname or "").split(".")
    stage = parts.path.strip("/").split("/")[0]
    if not place or place[0] != SERVICE:
        return api_url.rstrip("/")
    return f"{endpoint_url.rstrip('/')}/restapis/{api_id}/{stage}/_user_request_"


class ApiCaller:
    """Calls the API.

    Args:
        url: Its address, without a route.
        region: The region in signatures.
        credentials: Who signs; None where signatures are not asked for.
        headers: What else proves who calls, such as an API key.
        timer: Seconds, to measure how long an answer takes.
    """

    def __init__(
        self,
        url: str,
        *,
        region: str,
        credentials: CredentialSource | None = None,
        headers: Mapping[str, str] | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"expected the API's address like https://host, got {url!r}")
        self._secure = parts.scheme == "https"
        self._host = parts.netloc
        self._base = parts.path.rstrip("/")
        self._region = region
        self._credentials = credentials
        self._headers = dict(headers or {})
        self._timer = timer

    def call(
        self,
        method: str,
        route: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float,
    ) -> Answered:
        """Sends one request, once.

        Args:
            method: HTTP method.
            route: Path of the route, encoded.
            body: JSON, if any.
            headers: What else to send, in lower case.
            seconds: How long each wait for the connection and for the answer may be.

        Raises:
            ServiceUnavailableError: Nothing answered in time.
        """
        path = f"{self._base}{route}"
        sent = {**self._headers, **(headers or {}), "host": self._host}
        if body:
            sent["content-type"] = "application/json"
        if self._credentials is not None:
            sent = signed_headers(
                method,
                path,
                sent,
                body,
                credentials=self._credentials(),
                region=self._region,
                service=SERVICE,
                # nosemgrep: clock-read-in-the-domain -- a signature holds for the minutes it is made in
                now=datetime.now(UTC),
            )
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, timeout=seconds)
        begun = self._timer()
        try:
            connection.request(method, path, body=body or None, headers=sent)
            response = connection.getresponse()
            return Answered(response.status, response.read(_MOST), self._timer() - begun)
        except (OSError, http.client.HTTPException) as exc:
            raise ServiceUnavailableError(
                f"{method} {route}: {str(exc) or type(exc).__name__}"
            ) from exc
        finally:
            connection.close()
