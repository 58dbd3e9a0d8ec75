"""The API keys that the server lets in."""

import hashlib
from pathlib import Path
from typing import Final

from millrace.errors import ConfigurationError

MIN_KEY_LENGTH: Final = 16


def read_keys(path: Path) -> frozenset[bytes]:
    """The digests of a file's API keys, one key per line; ``#`` begins a comment.

    Raises:
        ConfigurationError: The file cannot be read, or has no key, or one that is too short.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the file of API keys {path} cannot be read: {exc}") from exc
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or min(map(len, keys)) < MIN_KEY_LENGTH:
        raise ConfigurationError(
            f"expected keys of at least {MIN_KEY_LENGTH} characters in {path}, one per line"
        )
    return frozenset(digest(key.encode()) for key in keys)


def digest(key: bytes) -> bytes:
    """What is kept of a key."""
    # Digests are looked up instead of keys: how long that takes tells nothing of a key.
    return hashlib.sha256(key).digest()
