"""What a program asks of AWS, read off the wire: a proxy before an engine that notes each request,
and can refuse it as AWS would.

Programs of any kind can be listened to that way, SAM's among them: whoever signs a request names the
service, and its protocol names the operation.
"""

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_SERVICE: Final = re.compile(r"Credential=[^/]+/\d{8}/[^/]+/(?P<service>[\w-]+)/aws4_request")
_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}
_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Asked:
    """One signed request.

    Attributes:
        service: As the signature names it.
        method: HTTP method.
        path: Path without the query.
        query: The query, also the form of a query-protocol request.
    """

    service: str
    method: str
    path: str
    query: dict[str, str] = field(hash=False)


class Wire:
    """A proxy that notes what goes through it.

    Attributes:
        endpoint: Where programs find it.
        asked: Everything asked so far.
        unsigned: Paths of requests that nobody signed.
        refuses: Says of a request why AWS would refuse it, None if it would not.
    """

    def __init__(self, upstream: str) -> None:
        self.asked: list[Asked] = []
        self.unsigned: list[str] = []
        self.refuses: Callable[[Asked], str | None] = lambda _: None
        wire, parts = self, urlsplit(upstream)
        host, port = parts.hostname or "127.0.0.1", parts.port or 80

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def _forward(self) -> None:
                body = self._body()
                signature = self.headers.get("Authorization", "")
                asked = wire.note(self.command, self.path, signature, body)
                reason = wire.refuses(asked) if asked else None
                if asked and reason:
                    self._refuse(asked, reason)
                    return
                upstream = http.client.HTTPConnection(host, port, timeout=_SECONDS)
                try:
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
                    headers["Content-Length"] = str(len(body))
                    upstream.request(self.command, self.path, body, headers)
                    answer = upstream.getresponse()
                    content = answer.read()
                finally:
                    upstream.close()
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def __getattr__(self, name: str) -> Any:
                # The server looks for do_GET and its like.
                if name.startswith("do_"):
                    return self._forward
                raise AttributeError(name)

            def _refuse(self, asked: Asked, reason: str) -> None:
                kind, content = _refusal(asked.service, reason)
                self.send_response_only(403, "Forbidden")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return b"".join(parts)

            def log_message(self, *_: object) -> None:
                """The tests say what went through; a log of it would only be in the way."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def note(self, method: str, path: str, authorization: str, body: bytes) -> Asked | None:
        """Keeps one request; None if nobody signed it."""
        parts = urlsplit(path)
        signed = _SERVICE.search(authorization)
        if signed is None:
            self.unsigned.append(parts.path)
            return None
        form = "" if signed["service"] in ("s3", "execute-api") else body.decode("utf-8", "replace")
        query = parse_qs(parts.query or form, keep_blank_values=True)
        asked = Asked(
            signed["service"],
            method,
            unquote(parts.path),
            {name: values[0] for name, values in query.items()},
        )
        self.asked.append(asked)
        return asked

    def serve(self) -> None:
        """Answers until it is closed."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stops."""
        self._server.shutdown()
        self._server.server_close()


def _refusal(service: str, reason: str) -> tuple[str, bytes]:
    """What AWS says to whoever may not."""
    error = f"<Error><Code>AccessDenied</Code><Message>{escape(reason)}</Message></Error>"
    match service:
        case "s3":
            return "application/xml", f'<?xml version="1.0"?>{error}'.encode()
        case "execute-api" | "apigateway":
            return "application/json", json.dumps({"message": reason}).encode()
    return "text/xml", f"<ErrorResponse>{error}</ErrorResponse>".encode()


@contextmanager
def listening(upstream: str) -> Iterator[Wire]:
    """A proxy before an endpoint, gone afterwards."""
    wire = Wire(upstream)
    thread = threading.Thread(target=wire.serve, name="wire")
    thread.start()
    try:
        yield wire
    finally:
        wire.close()
        thread.join(timeout=10)


# ── What IAM would be asked ─────────────────────────────────────────────────────────────────────


def rights(asked: Asked, *, region: str, account: str) -> list[tuple[str, str]]:
    """Actions and resources that AWS would authorize for a request.

    Raises:
        NotImplementedError: It is a request of which that is not known here.
    """
    match asked.service:
        case "sts" if asked.query.get("Action") == "GetCallerIdentity":
            return []  # needs no right
        case "cloudformation":
            return _of_cloudformation(asked, f"arn:aws:cloudformation:{region}:{account}:stack/")
        case "s3":
            return _of_s3(asked)
        case "execute-api":
            route = re.search(r"/live(?:/_user_request_)?(/.*)", asked.path)
            assert route, asked
            api = f"arn:aws:execute-api:{region}:{account}:api"
            return [("execute-api:Invoke", f"{api}/live/{asked.method}{route[1]}")]
        case "apigateway":
            return [(f"apigateway:{asked.method}", f"arn:aws:apigateway:{region}::{asked.path}")]
    raise NotImplementedError(f"no rights are known for {asked}")


def _of_cloudformation(asked: Asked, stacks: str) -> list[tuple[str, str]]:
    action, named = asked.query["Action"], asked.query.get("StackName", "")
    name = named.rsplit("stack/", 1)[-1].split("/")[0] or "*"
    found = [(f"cloudformation:{action}", f"{stacks}{name}/id")]
    if role := asked.query.get("RoleARN"):
        found.append(("iam:PassRole", role))
    return found


def _of_s3(asked: Asked) -> list[tuple[str, str]]:
    bucket, _, key = asked.path.lstrip("/").partition("/")
    arn = f"arn:aws:s3:::{bucket}"
    if not key:
        action = next(
            (
                action
                for mark, action in (
                    ("location", "GetBucketLocation"),
                    ("versions", "ListBucketVersions"),
                    ("uploads", "ListBucketMultipartUploads"),
                )
                if mark in asked.query
            ),
            {"GET": "ListBucket", "HEAD": "ListBucket", "PUT": "CreateBucket"}.get(asked.method),
        )
        if action is None:
            raise NotImplementedError(f"no rights are known for {asked}")
        return [(f"s3:{action}", arn)]
    version = "Version" if "versionId" in asked.query else ""
    action = {
        "GET": f"GetObject{version}",
        "HEAD": f"GetObject{version}",
        "PUT": "PutObject",
        "POST": "PutObject",  # the beginning and end of an upload in parts
        "DELETE": "AbortMultipartUpload" if "uploadId" in asked.query else f"DeleteObject{version}",
    }[asked.method]
    return [(f"s3:{action}", f"{arn}/{key}")]
