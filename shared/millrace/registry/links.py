"""Links of requests for approval: signed, for one request, until its deadline.

A link is what it is about and HMAC-SHA256 over that (RFC 2104), with a secret of the request's own,
which lies on the request's item alone. So no key of the deployment can leak links, a link proves
nothing about any other, and an answered request leaves its link without use.
"""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Final, NamedTuple

from millrace.errors import NotFoundError
from millrace.registry.records import Approval

MAX_LINK: Final = 400
PATH: Final = "/v1/approvals/"

_ENCODING: Final = "ascii"


class Claim(NamedTuple):
    """What a link says, before anybody believed it."""

    model: str
    version: int
    request_id: str
    expires: int


def sign(asked: Approval) -> str:
    """The link of a request, without the address before it."""
    claim = Claim(asked.model, asked.version, asked.request_id, int(asked.deadline.timestamp()))
    payload = _encode(json.dumps(claim, separators=(",", ":")).encode())
    return f"{payload}.{_signature(payload, asked.link_secret)}"


def read(link: str) -> Claim:
    """What a link claims to be about.

    Raises:
        NotFoundError: It is no link at all.
    """
    payload = link.partition(".")[0]
    try:
        model, version, request_id, expires = json.loads(_decode(payload))
        claim = Claim(str(model), int(version), str(request_id), int(expires))
    except (ValueError, TypeError) as exc:
        raise unknown_link() from exc
    if len(link) > MAX_LINK:
        raise unknown_link()
    return claim


def is_signed(link: str, asked: Approval) -> bool:
    """Whether the link was made for this version's requests; compared in constant time."""
    payload, _, signature = link.partition(".")
    made = _signature(payload, asked.link_secret)
    return bool(asked.link_secret) and hmac.compare_digest(
        signature.encode(), made.encode(_ENCODING)
    )


def is_over(claim: Claim, now: datetime) -> bool:
    """Whether the link's time is over."""
    return now.astimezone(UTC).timestamp() >= claim.expires


def unknown_link() -> NotFoundError:
    """The one answer to every link that is not ours: it tells nothing."""
    return NotFoundError("there is no such request: the link is incomplete, or not one of ours")


def _signature(payload: str, secret: str) -> str:
    return _encode(hmac.new(secret.encode(), payload.encode(), hashlib.sha256).digest())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode(_ENCODING)


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
