"""What role an API key has: an item beside the registry's, and the keys the deployment made itself.

API Gateway keeps the keys, their limits and their values; here is only what it cannot know.
"""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from millrace.aws.table import Item, ItemReader, Key
from millrace.errors import ConfigurationError
from millrace.http.guard import Guard
from millrace.http.roles import Authorizer, Role, Roles, read_roles, write_roles

PREFIX: Final = "KEY#"
SORT: Final = "META"


def key_item(key: str) -> Key:
    """Where the record of an API key lies."""
    return Key(f"{PREFIX}{key}", SORT)


def key_record(*, roles: Iterable[Role], name: str, actor: str, at: datetime) -> Item:
    """The record of an API key, as stored.

    Args:
        roles: What its holder is.
        name: What it is called.
        actor: Who made it.
        at: When.
    """
    return {
        "roles": write_roles(roles),
        "name": name,
        "actor": actor,
        "created_at": at.astimezone(UTC).isoformat(),
    }


def finder(table: Callable[[], ItemReader]) -> Callable[[str], Roles]:
    """Reads the roles of a key from its record.

    Args:
        table: Opens the table, at the first key that is asked for.
    """

    def find(key: str) -> Roles:
        item = table().get(key_item(key))
        return frozenset() if item is None else read_roles(str(item.get("roles", "")).split())

    return find


def open_guard(authorizer: str, made: str, table: Callable[[], ItemReader]) -> Guard:
    """The guard of a function, from its settings.

    Args:
        authorizer: ``MILLRACE_AUTHORIZER``.
        made: ``MILLRACE_API_KEYS``: a JSON object, key id to roles, of the keys in the template.
        table: Opens the table with the other keys' records.

    Raises:
        ConfigurationError: A setting is not what the template writes.
    """
    try:
        kind = Authorizer(authorizer)
        document: Any = json.loads(made or "{}")
        keys = {str(key): read_roles(str(roles).split()) for key, roles in document.items()}
    except (ValueError, AttributeError) as exc:
        raise ConfigurationError(
            "the function's environment is wrong: MILLRACE_AUTHORIZER is IAM, API_KEY, JWT or NONE "
            "and MILLRACE_API_KEYS a JSON object of key ids and roles"
        ) from exc
    return Guard(kind, keys=keys, find=finder(table))
