"""Lets programs that know no signatures and keys ask a deployment: a relay that adds them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from millrace_cli.client import ApiClient

_OWN: Final = {"connection", "content-encoding", "content-length", "host", "transfer-encoding"}


@contextmanager
def reachable(api: ApiClient) -> Iterator[str]:
    """Where anybody on this machine can ask the deployment's API as this client may.

    An open API is reached directly, so that nothing stands between a program and the gateway.
    """
    if api.target.outputs.authorizer == "NONE":
        yield api.target.outputs.api_url
        return

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def _relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = {k.lower(): v for k, v in self.headers.items() if k.lower() not in _OWN}
            encoding = self.headers.get("Content-Encoding")
            if encoding:
                sent["content-encoding"] = encoding
            answer = api.send(self.command, self.path, content=body, headers=sent)
            self.send_response_only(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in _OWN:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = _relay  # noqa: N815 - the server's names

        def log_message(self, *_: Any) -> None:
            """The tests say what went through."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="signing")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
