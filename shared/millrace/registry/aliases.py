"""Names for versions, and tags on models and versions, in MLflow's shape.

An alias points to one version of its model; ``champion`` moves by promotion and rollback alone,
``challenger`` by rollouts. A deleted alias stays as an item that points nowhere, and so does a
deleted tag: nobody needs the right to delete from the registry.
"""

import re
from typing import Any, Final

from millrace.aws.dynamodb import Item, Key, Put, Write
from millrace.errors import ConflictError, InvalidEventError
from millrace.registry import items
from millrace.registry.records import CHALLENGER, CHAMPION, AuditEntry
from millrace.registry.serving import model_pk
from millrace.registry.tracking import MAX_TAG, check_key
from millrace.registry.versions import Versions
from millrace.registry.writer import text_of

ALIAS: Final = "ALIAS#"
VERSION_TAG: Final = "VTAG#"

_ALIAS: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_LATEST: Final = "latest"
"""MLflow keeps this name for itself."""


def model_tag_key(model: str, key: str) -> Key:
    """A tag of a registered model."""
    return Key(model_pk(model), items.TAG + key)


def version_tag_key(model: str, version: int, key: str) -> Key:
    """A tag of a version; apart from ``VERSION#``, so that listings of versions have no tags."""
    return Key(model_pk(model), f"{VERSION_TAG}{version:06d}#{key}")


class Aliases(Versions):
    """Aliases of versions, and tags."""

    def set_alias(
        self, model: str, alias: str, version: int, *, actor: str, correlation_id: str = ""
    ) -> None:
        """Points an alias to a version. Idempotent: where it points already, nothing is written.

        Raises:
            NotFoundError: There is no such model or version.
            ConflictError: The alias moves by promotions or rollouts alone.
            InvalidEventError: It is no name for an alias.
        """
        _check_alias(alias)
        self._point(model, alias, version, actor=actor, correlation_id=correlation_id)

    def delete_alias(self, model: str, alias: str, *, actor: str, correlation_id: str = "") -> None:
        """Takes an alias away. Idempotent: one that points nowhere stays so.

        Raises:
            NotFoundError: There is no such model.
            ConflictError: The alias moves by promotions or rollouts alone.
            InvalidEventError: It is no name for an alias.
        """
        _check_alias(alias)
        self._point(model, alias, None, actor=actor, correlation_id=correlation_id)

    def list_aliases(self, model: str) -> dict[str, int]:
        """A model's aliases and the versions they point to.

        Raises:
            NotFoundError: There is no such model.
        """
        meta = self.get_model(model)
        found = self._table.query(model_pk(model), prefix=ALIAS).items
        named = {str(i["alias"]): int(i["version"]) for i in found if "version" in i}
        challenger = meta.challenger_version
        return named if challenger is None else {**named, CHALLENGER: challenger}

    def set_tag(self, model: str, key: str, value: str | None, version: int | None = None) -> None:
        """Sets a tag of a model or of one of its versions; None takes it away. The latest wins.

        Raises:
            NotFoundError: There is no such model or version.
            InvalidEventError: The key or the value is none that MLflow takes.
        """
        check_key("tag", key)
        if value is not None and len(value) > MAX_TAG:
            raise InvalidEventError(
                f"tag {key}: expected at most {MAX_TAG} characters, got {len(value)}"
            )
        place = model_tag_key(model, key)
        if version is None:
            self.get_model(model)
        else:
            self.get_version(model, version)
            place = version_tag_key(model, version, key)
        # nosemgrep: registry-write-without-assumption -- the latest wins; nothing is ever unregistered
        self._table.transact([Put("tag", place, {"key": key, "value": value})], f"tag {model}")

    def tags(self, model: str, version: int | None = None) -> dict[str, str]:
        """The tags of a model or of one of its versions."""
        prefix = items.TAG if version is None else f"{VERSION_TAG}{version:06d}#"
        found = self._table.query(model_pk(model), prefix=prefix).items
        return {str(i["key"]): str(i["value"]) for i in found if "value" in i}

    def _point(
        self, model: str, alias: str, version: int | None, *, actor: str, correlation_id: str
    ) -> None:
        now, entry_id = self._clock(), self._ids()

        def change() -> None:
            self.get_model(model)
            if version is not None:
                self.get_version(model, version)
            key = items.alias_key(model, alias)
            before: Item = self._table.get(key) or {}
            pointed = before.get("version")
            if pointed == version:
                return
            after: dict[str, Any] = {
                "model": model,
                "alias": alias,
                "version": version,
                "change_id": entry_id,
                "actor": actor,
                "updated_at": text_of(now),
            }
            # The version's existence needs no condition: versions are never taken away.
            writes: list[Write] = [
                Put("alias", key, after, {"change_id": before.get("change_id")}),
                *self._audit(
                    AuditEntry(
                        model=model,
                        at=now,
                        entry_id=entry_id,
                        actor=actor,
                        action="alias_deleted" if version is None else "alias_set",
                        subject=f"alias {model}/{alias}",
                        before="" if pointed is None else f"{model}@{pointed}",
                        after="" if version is None else f"{model}@{version}",
                        correlation_id=correlation_id,
                    )
                ),
            ]
            self._table.transact(writes, f"set alias {model}@{alias}")

        self._with_fresh_reads(f"set alias {model}@{alias}", change)


def _check_alias(alias: str) -> None:
    if alias in (CHAMPION, CHALLENGER):
        way = "promotion and rollback" if alias == CHAMPION else "rollouts"
        raise ConflictError(f"alias {alias!r} moves by {way} alone")
    if not _ALIAS.fullmatch(alias) or alias == _LATEST or re.fullmatch(r"v\d+", alias):
        raise InvalidEventError(
            "alias: expected 1 to 64 small letters, digits, dashes and underscores after a letter, "
            f"and neither 'latest' nor 'v' and a number, got {len(alias)} characters"
        )
