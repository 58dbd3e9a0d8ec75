"""An OpenID Connect issuer on this machine: discovery, published keys, and tokens of its making."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE: Final = "millrace"
type PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Issuer:
    """Makes tokens and publishes the keys that they are signed with.

    Attributes:
        url: What its tokens' ``iss`` says.
        down: Whether it answers 503 to everything.
        asked: How often its keys were asked for.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.down = False
        self.asked = 0
        self.claims_issuer = url
        self._keys: dict[str, PrivateKey] = {}
        self.rotate()

    def rotate(self, *, algorithm: str = "RS256", keep: bool = False) -> str:
        """Signs with a new key from now on; the others are published no more, unless kept.

        Returns:
            The new key's id.
        """
        if not keep:
            self._keys.clear()
        self.kid = f"key-{uuid.uuid4().hex[:8]}"
        self._keys[self.kid] = new_key(algorithm)
        self.algorithm = algorithm
        return self.kid

    def token(
        self,
        scope: str = "",
        *,
        headers: dict[str, Any] | None = None,
        key: Any = None,
        algorithm: str | None = None,
        **claims: Any,
    ) -> str:
        """A token of an hour; a claim that is None is left out."""
        now = int(time.time())
        document = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "scope": scope,
        } | claims
        return jwt.encode(
            {name: value for name, value in document.items() if value is not None},
            self._keys[self.kid] if key is None else key,
            algorithm=algorithm or self.algorithm,
            headers={"kid": self.kid, **(headers or {})},
        )

    def public_key(self, kid: str) -> Any:
        """A published key, for whoever would misuse it."""
        return self._keys[kid].public_key()

    def published(self) -> dict[str, Any]:
        """Its JSON Web Key Set."""
        return {
            "keys": [
                {**published_key(key), "kid": kid, "use": "sig"} for kid, key in self._keys.items()
            ]
        }

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """What it says to a request."""
        if self.down:
            return 503, {}
        if path == "/.well-known/openid-configuration":
            return 200, {"issuer": self.claims_issuer, "jwks_uri": f"{self.url}/keys"}
        if path == "/keys":
            self.asked += 1
            return 200, self.published()
        return 404, {}


def new_key(algorithm: str = "RS256", *, bits: int = 2048) -> PrivateKey:
    """A private key for an algorithm."""
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def published_key(key: PrivateKey) -> dict[str, Any]:
    """The public half of a key, as a JSON Web Key."""
    if isinstance(key, rsa.RSAPrivateKey):
        document: dict[str, Any] = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        document = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return document


@contextmanager
def issuer() -> Iterator[Issuer]:
    """An issuer that listens on 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = made.answer(self.path)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Issuer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join(timeout=10)
