"""Credentials as a Lambda function is given them: in the environment, or from its container.

A function's own keys stand in the environment and outlive it. A function restored from a snapshot
(SnapStart) has none there, because they would have expired: it asks an address on its own machine,
``AWS_CONTAINER_CREDENTIALS_FULL_URI``, and asks again before what it was given expires. Nothing
else is looked at: other places (profiles, single sign-on, instance roles) are boto3's.
"""

import http.client
import json
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from millrace.errors import AccessDeniedError, ConfigurationError, ServiceUnavailableError

EARLY_SECONDS: Final = 300.0
"""Credentials are renewed this long before they expire, as AWS's own SDKs do."""
_TIMEOUT_SECONDS: Final = 2.0


class Credentials(NamedTuple):
    """What signs a request."""

    access_key: str
    secret_key: str
    token: str = ""
    expires: float = float("inf")
    """Seconds since 1970."""


class CredentialSource:
    """The function's current credentials.

    Args:
        clock: Seconds since 1970.
        environ: The environment.
    """

    def __init__(
        self, clock: Callable[[], float], environ: Mapping[str, str] | None = None
    ) -> None:
        self._clock = clock
        self._environ = os.environ if environ is None else environ
        self._lock = threading.Lock()
        self._fetched: Credentials | None = None

    def __call__(self) -> Credentials:
        """The credentials to sign with now.

        Raises:
            AccessDeniedError: There are none.
            ServiceUnavailableError: The container does not give them out, and none are left.
        """
        environ = self._environ
        if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
            return Credentials(
                environ["AWS_ACCESS_KEY_ID"],
                environ["AWS_SECRET_ACCESS_KEY"],
                environ.get("AWS_SESSION_TOKEN", ""),
            )
        address = environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
        if not address:
            raise AccessDeniedError("no AWS credentials were found in the environment")
        with self._lock:
            held = self._fetched
            if held is not None and self._clock() < held.expires - EARLY_SECONDS:
                return held
            try:
                held = self._fetched = _fetch(address, self._authorization())
            except ServiceUnavailableError:
                if held is None or self._clock() >= held.expires:
                    raise
            return held

    def forget(self) -> None:
        """Drops what was fetched: a restored snapshot's credentials are another environment's."""
        with self._lock:
            self._fetched = None

    def _authorization(self) -> str:
        path = self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        if path:
            return Path(path).read_text("utf-8").strip()
        return self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")


def _fetch(address: str, authorization: str) -> Credentials:
    parts = urlsplit(address)
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigurationError(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI: expected an http address on this machine"
        )
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS)
    try:
        headers = {"Authorization": authorization} if authorization else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as exc:
        raise ServiceUnavailableError(f"fetch AWS credentials: {exc}") from exc
    finally:
        connection.close()
    if answer.status != 200:
        raise ServiceUnavailableError(f"fetch AWS credentials: got status {answer.status}")
    try:
        found = json.loads(body)
        return Credentials(
            found["AccessKeyId"],
            found["SecretAccessKey"],
            found["Token"],
            datetime.fromisoformat(found["Expiration"]).timestamp(),
        )
    except (ValueError, KeyError, TypeError):
        # The chain is cut: what was read is a secret.
        raise ServiceUnavailableError("fetch AWS credentials: the answer is none") from None
