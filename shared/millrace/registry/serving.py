"""What the predict function reads of the registry, and nothing else.

It stands apart from `registry.registry` because a cold start imports it: neither the spec nor the
messages of the TRAINING machine come with it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from millrace.aws.table import Item, ItemReader, Key, QueryPage
from millrace.errors import ArtifactError, ConflictError, NoChampionError, NotFoundError
from millrace.typed import WrongValue, make

META: Final = "META"
MODELS: Final = "MODELS"
VERSION: Final = "VERSION#"


class VersionStatus(StrEnum):
    """States of a model version; the edges are in `registry.states`."""

    CANDIDATE = "candidate"
    """Registered, not yet evaluated."""
    VALIDATED = "validated"
    """Passed its gates; may become champion."""
    REJECTED = "rejected"
    """Failed its gates or was rejected by a person."""
    CHAMPION = "champion"
    """Answers predictions."""
    ARCHIVED = "archived"
    """Was champion once; a rollback may bring it back."""


class RolloutStrategy(StrEnum):
    """How a version takes the traffic."""

    ALL_AT_ONCE = "all-at-once"
    CANARY = "canary"
    LINEAR = "linear"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRoute:
    """What a rollout does to the traffic, on the item that predictions read.

    Attributes:
        rollout_id: The rollout; decides with the entity which version answers.
        step: Its step, from 0.
        strategy: ``shadow`` scores with the challenger and answers with the champion.
        weight: Percent, 0 to 100: entities that the challenger answers, or requests it shadows.
        version: The challenger.
        run_id: Of the challenger, as the fields below.
        model_key: Where its ONNX lies.
        sha256: Of its ONNX.
        signature_key: Where its signature lies.
        signature_sha256: Of its signature.
        kms_signature: See `ServingRecord.kms_signature`.
        kms_key_id: See `ServingRecord.kms_key_id`.
    """

    rollout_id: str
    step: int
    strategy: RolloutStrategy
    weight: float
    version: int
    run_id: str
    model_key: str
    sha256: str
    signature_key: str
    signature_sha256: str
    kms_signature: str = ""
    kms_key_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ServingRecord:
    """The one item per model that the predict function reads."""

    model: str
    version: int
    run_id: str
    model_key: str
    sha256: str
    signature_key: str
    signature_sha256: str
    updated_at: datetime
    capture_rate: float = 1.0
    """The spec's ``monitor.capture_rate``: carried here, it changes without a training."""
    kms_signature: str = ""
    """Of the version's statement (`attestation`), in base64; empty when it is not signed."""
    kms_key_id: str = ""
    """ARN of the key that signed it."""
    rollout: RolloutRoute | None = None
    """Whom a rollout sends which part of the traffic; None when the champion answers all of it."""
    sequence: int = 0
    """Of the ledger's entry that last set traffic; 0 for a version asked for by number."""

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> "ServingRecord":
        """The record of a serving item, or of a version's, which holds the same and more.

        Raises:
            ArtifactError: A field is wrong or missing.
        """
        try:
            return make(cls, item, ignore_unknown=True)
        except WrongValue as exc:
            raise ArtifactError(
                f"the registry's item of {item.get('model')}@{item.get('version')} is wrong: {exc}"
            ) from None

    def to_item(self) -> dict[str, Any]:
        """The record as it is stored."""
        moment = self.updated_at.isoformat().replace("+00:00", "Z")
        return dataclasses.asdict(self) | {"updated_at": moment}


class Offer(NamedTuple):
    """A registered model, as a listing shows it."""

    model: str
    version: int | None
    """The champion; None when the model has none."""


def model_pk(model: str) -> str:
    """Partition of everything about a model."""
    return f"MODEL#{model}"


def model_key(model: str) -> Key:
    """The registered model."""
    return Key(model_pk(model), META)


def version_key(model: str, version: int) -> Key:
    """A model version."""
    return Key(model_pk(model), f"{VERSION}{version:06d}")


def serving_key(model: str) -> Key:
    """What the predict function reads."""
    return Key(model_pk(model), "SERVING")


class ServingTable(ItemReader, Protocol):
    """What is needed of the registry's table; `aws.table.Table` and `aws.wire.WireTable` have it."""

    def query(self, pk: str, *, index: bool = False) -> QueryPage:
        """All items of one partition, in the order of their sort key."""
        ...


class ServingReader:
    """Says which version answers, from the registry's table."""

    def __init__(self, table: ServingTable) -> None:
        self._table = table

    def get_serving(self, model: str, version: int | None = None) -> ServingRecord:
        """What answers predictions: one read.

        Args:
            model: The model.
            version: A version other than the champion. It may answer if it passed its gates and
                nobody rejected it afterwards.

        Raises:
            NotFoundError: There is no such model or version.
            NoChampionError: The model has no champion.
            ConflictError: The version may not answer.
        """
        if version is not None:
            return self._version(model, version)
        item = self._table.get(serving_key(model))
        if item is None:
            self._expect_model(model)
            raise NoChampionError(f"model {model!r} has no champion yet")
        return ServingRecord.from_item(item)

    def list_serving(self) -> Sequence[Offer]:
        """Every registered model by name, with its champion."""
        page = self._table.query(MODELS, index=True)
        return tuple(Offer(i["name"], i.get("champion_version")) for i in page.items)

    def _version(self, model: str, version: int) -> ServingRecord:
        item = self._table.get(version_key(model, version)) if 0 < version < 10**6 else None
        if item is None:
            self._expect_model(model)
            raise NotFoundError(f"model {model!r} has no version {version}")
        if not _may_answer(item):
            raise ConflictError(
                f"{model}@{version} is {item['status']}: only versions that passed their gates, "
                "and were not rejected, answer predictions"
            )
        # The version is immutable; what is captured of its answers follows the current spec.
        rate = self._expect_model(model).get("capture_rate", 1.0)
        return ServingRecord.from_item(item | {"capture_rate": rate})

    def _expect_model(self, model: str) -> Item:
        item = self._table.get(model_key(model))
        if item is None:
            raise NotFoundError(f"there is no model {model!r}")
        return item


def _may_answer(version: Item) -> bool:
    status = version["status"]
    if status == VersionStatus.CHAMPION:
        return True
    return version.get("verdict") == "passed" and status != VersionStatus.REJECTED
