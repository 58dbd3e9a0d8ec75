"""The API called from a function, and addresses that people open."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from millrace.aws.console import page_of_object
from millrace.aws.credentials import CredentialSource
from millrace.aws.execute_api import ApiCaller, reachable
from millrace.errors import ConfigurationError, ServiceUnavailableError

URL = "https://api1.execute-api.eu-central-1.amazonaws.com/live/"
KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}


class Seen(BaseHTTPRequestHandler):
    """Answers what it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen = (self.path, dict(self.headers), body)  # type: ignore[attr-defined]
        if self.path.endswith("/silent"):
            self.server.released.wait(10)  # type: ignore[attr-defined]
            return
        self.send_response(201)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    with HTTPServer(("127.0.0.1", 0), Seen) as made:
        made.released = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.released.set()  # type: ignore[attr-defined]
        made.shutdown()
        thread.join()


def test_a_call_is_signed_by_who_makes_it_with_all_that_it_sends(server: Any) -> None:
    caller = ApiCaller(
        f"http://127.0.0.1:{server.server_port}/live/",
        region="eu-central-1",
        credentials=CredentialSource(lambda: 0.0, KEYS),
    )

    answered = caller.call("POST", "/v1/x", b"{}", headers={"x-a": "b"}, seconds=5)

    path, headers, body = server.seen
    assert (answered.status, answered.body, path, body) == (201, b"{}", "/live/v1/x", b"{}")
    assert answered.seconds > 0
    today = datetime.now(UTC).strftime("%Y%m%d")
    scope = f"Credential=AKID/{today}/eu-central-1/execute-api/aws4_request"
    assert scope in headers["authorization"]
    assert (
        "SignedHeaders=content-type;host;x-a;x-amz-content-sha256;x-amz-date;"
        in (headers["authorization"])
    )
    assert headers["x-amz-security-token"] == "t"


def test_a_key_stands_in_for_a_signature_and_silence_ends(server: Any) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    caller = ApiCaller(address, region="", headers={"x-api-key": "k"})

    with pytest.raises(ServiceUnavailableError, match="POST /silent: timed out"):
        caller.call("POST", "/silent", seconds=0.05)

    _, headers, _ = server.seen
    assert headers["x-api-key"] == "k"
    assert "authorization" not in headers


@pytest.mark.parametrize("url", ["api.example.org", "ftp://example.org"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected the API's address"):
        ApiCaller(url, region="")


def test_on_an_emulator_the_api_is_addressed_by_path() -> None:
    assert reachable(URL, None) == URL.rstrip("/")
    assert reachable(URL, "http://127.0.0.1:4566/") == (
        "http://127.0.0.1:4566/restapis/api1/live/_user_request_"
    )
    assert reachable("https://ml.example.org/", "http://127.0.0.1:4566") == "https://ml.example.org"


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        (
            {"AWS_REGION": "eu-central-1"},
            "https://eu-central-1.console.aws.amazon.com/s3/object/b"
            "?region=eu-central-1&prefix=monitor%2Fchurn%2Flatest.html",
        ),
        (
            {"AWS_REGION": "cn-north-1"},
            "https://console.amazonaws.cn/s3/object/b"
            "?region=cn-north-1&prefix=monitor%2Fchurn%2Flatest.html",
        ),
        (
            {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:4566/"},
            "http://127.0.0.1:4566/b/monitor/churn/latest.html",
        ),
    ],
    ids=["aws", "china", "emulator"],
)
def test_a_report_has_an_address_that_a_browser_opens(
    environ: dict[str, str], address: str
) -> None:
    assert page_of_object("b", "monitor/churn/latest.html", environ) == address
