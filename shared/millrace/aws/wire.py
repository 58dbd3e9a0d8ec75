"""AWS over plain HTTP connections: what a cold start can afford.

boto3 takes several hundred milliseconds to read the service models of DynamoDB and S3 and to build
clients for them, of which a prediction calls one operation each. This module signs and sends these
requests itself, over connections that are kept: `WireTable` reads the registry, `WireObjects` reads
artifacts, `WireKey` has signatures verified. The first two keep the contracts of `DynamoTable` and
`S3ObjectStore`, errors included, and the same tests hold both to them. Everything else goes on using boto3.

Understood are ``AWS_REGION``, ``AWS_ENDPOINT_URL`` (also for one service), ``AWS_USE_FIPS_ENDPOINT``
and ``AWS_CA_BUNDLE``, and credentials as a Lambda function has them (`credentials`).
"""

import base64
import http.client
import os
import random
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import orjson

from millrace.attestation import ALGORITHM, Attestation
from millrace.aws.codes import error_of, is_throttle
from millrace.aws.credentials import CredentialSource
from millrace.aws.signing import signed_headers
from millrace.aws.table import Item, Key, QueryPage, from_item, get_request, query_request
from millrace.errors import ConfigurationError, NotFoundError, ServiceUnavailableError

CONNECT_SECONDS: Final = 2.0
READ_SECONDS: Final[Mapping[str, float]] = {"dynamodb": 5.0, "kms": 5.0, "s3": 20.0}
"""How long one try may wait for the next bytes of an answer."""
ATTEMPTS: Final = 3
"""Tries per request, as `aws.clients` allows boto3."""
_BACKOFF_SECONDS: Final = 0.1

_DYNAMODB: Final = "DynamoDB_20120810"
_XML_CODE: Final = re.compile(rb"<Code>([^<]{1,200})</Code>")
_XML_MESSAGE: Final = re.compile(rb"<Message>([^<]{1,1000})</Message>")
_PLAIN_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_BROKEN: Final = (OSError, http.client.HTTPException)


class Answer(NamedTuple):
    """What a service answered."""

    status: int
    body: bytes


class Wire:
    """Signed requests to one service.

    Args:
        service: Its name in signatures and addresses.
        credentials: Who asks.
        environ: Where region and endpoint are named.
        wait: Waits between tries, in seconds.
    """

    def __init__(
        self,
        service: str,
        credentials: CredentialSource,
        *,
        environ: Mapping[str, str] | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        environ = os.environ if environ is None else environ
        self.region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
        if not self.region:
            raise ConfigurationError(f"{service}: expected a region in AWS_REGION, got none")
        named = environ.get(f"AWS_ENDPOINT_URL_{service.upper()}") or environ.get(
            "AWS_ENDPOINT_URL"
        )
        self.is_custom = bool(named)
        parts = urlsplit(named or _address(service, self.region, environ))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"{service}: expected an endpoint like https://host, got {named!r}"
            )
        self.host = parts.netloc
        self._secure = parts.scheme == "https"
        self._ca_bundle = environ.get("AWS_CA_BUNDLE") or None
        self._service = service
        self._credentials = credentials
        self._wait = wait
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._idle)

    def send(
        self,
        method: str,
        path: str,
        what: str,
        *,
        host: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """The answer to a request, after up to `ATTEMPTS` tries.

        Args:
            method: HTTP method; the request must be safe to repeat.
            path: Encoded path.
            what: The operation and identifier, for errors.
            host: The host, if it is not the service's own.
            headers: What else to send, in lower case.
            body: The body.

        Raises:
            ServiceUnavailableError: It cannot be reached.
            AccessDeniedError: There are no credentials.
        """
        host = host or self.host
        for attempt in range(1, ATTEMPTS + 1):
            connection, used_before = self._connection(host)
            sent = signed_headers(
                method,
                path,
                {**(headers or {}), "host": host},
                body,
                credentials=self._credentials(),
                region=self.region,
                service=self._service,
                # nosemgrep: clock-read-in-the-domain -- a signature holds for the minutes it is made in
                now=datetime.now(UTC),
            )
            try:
                answer = self._exchange(connection, method, path, sent, body)
            except _BROKEN as exc:
                connection.close()
                if attempt == ATTEMPTS:
                    raise ServiceUnavailableError(
                        f"{what}: {str(exc) or type(exc).__name__}"
                    ) from exc
                if used_before:
                    # Kept too long, such as through a freeze: the others are no better.
                    self.disconnect()
                    continue
            else:
                self._keep(host, connection)
                if attempt == ATTEMPTS or not _is_passing(answer):
                    return answer
            self._wait(random.uniform(0, _BACKOFF_SECONDS * 2**attempt))  # noqa: S311 - jitter
        raise ServiceUnavailableError(f"{what}: no answer after {ATTEMPTS} tries")

    def disconnect(self) -> None:
        """Closes the connections that are kept; a restored snapshot's lead nowhere."""
        with self._lock:
            _close(self._idle)

    def _connection(self, host: str) -> tuple[http.client.HTTPConnection, bool]:
        """A connection, and whether it was used before."""
        with self._lock:
            idle = self._idle.get(host)
            if idle:
                return idle.pop(), True
        if self._secure:
            context = _tls(self._ca_bundle)
            return (
                http.client.HTTPSConnection(host, timeout=CONNECT_SECONDS, context=context),
                False,
            )
        return http.client.HTTPConnection(host, timeout=CONNECT_SECONDS), False

    def _keep(self, host: str, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.setdefault(host, []).append(connection)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        if connection.sock is None:
            connection.connect()
            opened: socket.socket | None = connection.sock
            if opened is not None:
                opened.settimeout(READ_SECONDS[self._service])
        connection.request(method, path, body=body or None, headers=dict(headers))
        response = connection.getresponse()
        return Answer(response.status, response.read())


class WireTable:
    """Reads the registry's table: the part of `Table` that a prediction needs.

    Args:
        wire: Requests to DynamoDB.
        name: The table.
    """

    def __init__(self, wire: Wire, name: str) -> None:
        self._wire = wire
        self._name = name

    def get(self, key: Key) -> Item | None:
        """See `Table.get`."""
        what = f"read {key.pk} {key.sk}"
        item = self._call("GetItem", get_request(self._name, key), what).get("Item")
        return None if item is None else from_item(item)

    def query(self, pk: str, *, index: bool = False) -> QueryPage:
        """See `Table.query`; always the whole partition."""
        request = query_request(self._name, pk, index=index)
        items: list[Item] = []
        while True:
            answer = self._call("Query", request, f"query {pk}")
            items += [from_item(i) for i in answer["Items"]]
            last = answer.get("LastEvaluatedKey")
            if not last:
                return QueryPage(tuple(items), None)
            request["ExclusiveStartKey"] = last

    def _call(self, operation: str, request: Mapping[str, Any], what: str) -> dict[str, Any]:
        answer = self._wire.send(
            "POST",
            "/",
            what,
            headers={
                "content-type": "application/x-amz-json-1.0",
                "x-amz-target": f"{_DYNAMODB}.{operation}",
            },
            body=orjson.dumps(request),
        )
        document = _json(answer.body)
        if answer.status == 200 and document is not None:
            return document
        code, message = _json_error(answer)
        try:
            raise error_of(code, message, answer.status, what)
        except NotFoundError as exc:
            raise ConfigurationError(f"{what}: there is no table {self._name!r}") from exc


class WireObjects:
    """Reads objects of S3.

    Args:
        wire: Requests to S3.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def read(self, bucket: str, key: str) -> bytes:
        """See `ObjectReader.read`."""
        what = f"read s3://{bucket}/{key}"
        path = "/" + quote(key, safe="/-_.~")
        # A certificate for *.s3.… covers no bucket with a dot, and local engines know no subdomains.
        if self._wire.is_custom or not _PLAIN_BUCKET.fullmatch(bucket):
            answer = self._wire.send("GET", f"/{bucket}{path}", what)
        else:
            answer = self._wire.send("GET", path, what, host=f"{bucket}.{self._wire.host}")
        if answer.status == 200:
            return answer.body
        code = _XML_CODE.search(answer.body)
        message = _XML_MESSAGE.search(answer.body)
        raise error_of(
            code[1].decode("utf-8", "replace") if code else str(answer.status),
            message[1].decode("utf-8", "replace") if message else "",
            answer.status,
            what,
        )


class WireKey:
    """Asks a key of KMS whether a signature is its own.

    Args:
        wire: Requests to KMS.
        key_arn: The key.
    """

    def __init__(self, wire: Wire, key_arn: str) -> None:
        self._wire = wire
        self._key_arn = key_arn

    def verify(self, digest: bytes, signature: bytes) -> bool:
        """Whether the key made this signature of this SHA-256 digest.

        Raises:
            RetryableError: KMS cannot be asked.
            AccessDeniedError: The caller may not use the key.
            FinalError: The key is disabled, deleted, or none for signatures.
        """
        what = f"verify a signature by {self._key_arn}"
        answer = self._wire.send(
            "POST",
            "/",
            what,
            headers={
                "content-type": "application/x-amz-json-1.1",
                "x-amz-target": "TrentService.Verify",
            },
            body=orjson.dumps(
                {
                    "KeyId": self._key_arn,
                    "Message": base64.b64encode(digest).decode(),
                    "MessageType": "DIGEST",
                    "Signature": base64.b64encode(signature).decode(),
                    "SigningAlgorithm": ALGORITHM,
                }
            ),
        )
        if answer.status == 200:
            return (_json(answer.body) or {}).get("SignatureValid") is True
        code, message = _json_error(answer)
        if code == "KMSInvalidSignatureException":
            return False
        raise error_of(code, message, answer.status, what)


def open_attestation(key_arn: str) -> Attestation | None:
    """What checks signatures with the process's own credentials.

    Args:
        key_arn: The key that is trusted; empty where versions need not be signed.
    """
    if not key_arn:
        return None
    return Attestation(key_arn, WireKey(Wire("kms", CredentialSource(time.time)), key_arn).verify)


def _close(idle: dict[str, list[http.client.HTTPConnection]]) -> None:
    while idle:
        _, connections = idle.popitem()
        for connection in connections:
            connection.close()


def _address(service: str, region: str, environ: Mapping[str, str]) -> str:
    fips = "-fips" if environ.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true" else ""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{service}{fips}.{region}.{suffix}"


@cache
def _tls(ca_bundle: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_bundle)


def _is_passing(answer: Answer) -> bool:
    """Whether another try may succeed."""
    if answer.status in (429, 500, 502, 503, 504):
        return True
    return answer.status == 400 and is_throttle(_json_error(answer)[0])


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _json_error(answer: Answer) -> tuple[str, str]:
    """Code and message of an error of a JSON service: ``com.amazonaws.dynamodb.v20120810#Code``."""
    document = _json(answer.body) or {}
    code = str(document.get("__type", "")).rpartition("#")[2] or str(answer.status)
    return code, str(document.get("message") or document.get("Message") or "")
