"""Pages of a listing and their opaque tokens."""

import base64
import binascii
import json
from typing import NamedTuple

from millrace.aws.dynamodb import INDEX_PK, INDEX_SK, PK, SK, Item
from millrace.errors import InvalidEventError

MAX_LIMIT = 200

_MAX_TOKEN = 8_192
_MAX_KEY = 1_024
"""DynamoDB's limit of bytes in a sort key."""


class Page[T](NamedTuple):
    """One page of a listing."""

    items: tuple[T, ...]
    token: str | None
    """Pass it back for the next page; None at the end."""


def check_limit(limit: int) -> int:
    """The limit, if it is one.

    Raises:
        InvalidEventError: It is below 1 or above `MAX_LIMIT`.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidEventError(f"limit: expected 1 to {MAX_LIMIT}, got {limit}")
    return limit


def encode_token(item: Item, *, index: bool) -> str:
    """The token for going on after an item."""
    names = (PK, SK, INDEX_PK, INDEX_SK) if index else (PK, SK)
    document = json.dumps({n: item[n] for n in names}, separators=(",", ":"))
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def decode_token(
    token: str, *, pk: str, prefix: str, index: bool, since: str = "", until: str = ""
) -> Item:
    """The key to go on from.

    Args:
        token: What `encode_token` gave, as the caller sent it.
        pk: The partition being listed: a token of another listing is refused.
        prefix: What the listing's sort keys begin with.
        index: Whether the listing reads the index.
        since: The listing's least sort key.
        until: Its greatest.

    Raises:
        InvalidEventError: The token is damaged, made up, or of another listing.
    """
    refusal = InvalidEventError("token: expected the token of this listing's last page")
    names = {PK, SK, INDEX_PK, INDEX_SK} if index else {PK, SK}
    try:
        padded = token[:_MAX_TOKEN] + "=" * (-len(token[:_MAX_TOKEN]) % 4)
        key = json.loads(base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True))
        if not isinstance(key, dict) or set(key) != names:
            raise refusal
        if not all(isinstance(v, str) and 0 < len(v.encode()) <= _MAX_KEY for v in key.values()):
            raise refusal
    except (binascii.Error, UnicodeError, ValueError, RecursionError) as exc:
        raise refusal from exc
    listed_pk, listed_sk = (key[INDEX_PK], key[INDEX_SK]) if index else (key[PK], key[SK])
    if listed_pk != pk or not listed_sk.startswith(prefix):
        raise refusal
    # DynamoDB refuses a key outside the range, too, but as a fault of ours.
    if listed_sk < since or (until and listed_sk > until):
        raise refusal
    return key
