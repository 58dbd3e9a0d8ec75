"""What registry and artifacts say of each other, and the mending of what disagrees.

`millrace doctor --registry` looks and changes nothing. With ``--mend`` it mends what can be mended
without losing anything, and every mend is an entry of the model's ledger, with who mended what:

=====================  ==============================================  ============================
what                   found when                                      mended by
=====================  ==============================================  ============================
artifact               a version's artifact is missing or another one  restoring the object's version
                                                                       that has the right digest
serving                alias, serving item, model and versions name    writing the serving item and
                       different champions                             the alias anew, as the model's
                                                                       item says
unsigned               a version has no signature by this stack's key  signing it, once its artifact
                                                                       was found to be the right one
run                    a run is open although its execution ended      closing it as failed
ledger                 an entry was edited, dropped or added           nothing: restore a backup
orphan                 an artifact that no version names               nothing: it costs little, and
                                                                       is evidence
=====================  ==============================================  ============================
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from millrace import layout
from millrace.attestation import Attestation, Sign, statement_digest
from millrace.aws.dynamodb import Check, DynamoTable, Put, Update, Write
from millrace.aws.kms import KmsKey
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.translate import translated
from millrace.errors import ArtifactSignatureError, NotFoundError
from millrace.registry import items
from millrace.registry.changes import with_fresh_reads
from millrace.registry.ledger import Ledger
from millrace.registry.records import (
    CHAMPION,
    AuditEntry,
    ModelVersion,
    RegisteredModel,
    RunOutcome,
    RunStatus,
    ServingRecord,
)
from millrace.registry.registry import Registry, open_registry
from millrace.registry.verification import FaultKind, verify
from millrace.registry.writer import text_of
from millrace_cli.console import out, print_json
from millrace_cli.imports import signer
from millrace_cli.target import Target

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

STUCK: Final = timedelta(hours=24)
"""An execution ends before: its states' timeouts add up to less."""

type Mend = Callable[[], str]
"""Mends, and says what it did."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Something that registry and artifacts do not agree on.

    Attributes:
        model: The model.
        kind: What it is, as in the module's table.
        subject: What it is about.
        found: What was found.
        mend: Mends it; None when that is a person's to do.
        advice: What to do, where it cannot be mended.
        mended: What was done.
    """

    model: str
    kind: str
    subject: str
    found: str
    mend: Mend | None = None
    advice: str = ""
    mended: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "model": self.model,
            "kind": self.kind,
            "subject": self.subject,
            "found": self.found,
            "mendable": self.mend is not None,
            "advice": self.advice,
            "mended": self.mended,
        }


class Agreement:
    """Compares registry and artifacts of one stack.

    Args:
        table: The registry's table.
        registry: The registry on it.
        s3: S3.
        bucket: The artifact bucket.
        actor: Who mends.
        clock: Gives the time, aware and in UTC.
        ids: Gives the ids of ledger entries.
        sign: Signs versions; none where they are not signed.
        attestation: Checks signatures; none where versions are not signed.
    """

    def __init__(
        self,
        table: DynamoTable,
        registry: Registry,
        s3: "S3Client",
        bucket: str,
        *,
        actor: str,
        clock: Callable[[], datetime],
        ids: Callable[[], str],
        sign: Sign | None = None,
        attestation: Attestation | None = None,
    ) -> None:
        self._table = table
        self._ledger = Ledger(table)
        self._registry = registry
        self._s3 = s3
        self._store = S3ObjectStore(s3)
        self._bucket = bucket
        self._actor = actor
        self._clock = clock
        self._ids = ids
        self._sign = sign
        self._attestation = attestation

    def look(self) -> Iterator[Disagreement]:
        """Everything that disagrees, model by model; changes nothing."""
        for model in self._models():
            versions = tuple(self._versions(model.name))
            yield from self._faults_of_ledger(model)
            yield from self._faults_of_champion(model, versions)
            for version in versions:
                yield from self._faults_of_artifacts(version)
            yield from self._stuck(model)
            yield from self._orphans(model, versions)

    def mend(self, found: Sequence[Disagreement]) -> list[Disagreement]:
        """Mends what can be mended, in the order it was found."""
        return [d if d.mend is None else replace(d, mended=d.mend()) for d in found]

    # ── Looking ─────────────────────────────────────────────────────────────────────────────────

    def _models(self) -> Iterator[RegisteredModel]:
        token = None
        while True:
            page = self._registry.list_models(limit=200, token=token)
            yield from page.items
            token = page.token
            if token is None:
                return

    def _versions(self, model: str) -> Iterator[ModelVersion]:
        token = None
        while True:
            page = self._registry.list_versions(model, limit=200, token=token)
            yield from page.items
            token = page.token
            if token is None:
                return

    def _faults_of_ledger(self, model: RegisteredModel) -> Iterator[Disagreement]:
        for fault in verify(self._table, model.name).faults:
            if fault.kind is not FaultKind.STATE:
                yield Disagreement(
                    model.name,
                    "ledger",
                    f"entry {fault.sequence}",
                    fault.message,
                    advice="restore the model from a backup (millrace restore): a ledger is not "
                    "mended, or it would prove nothing",
                )

    def _faults_of_champion(
        self, model: RegisteredModel, versions: Sequence[ModelVersion]
    ) -> Iterator[Disagreement]:
        """Alias, serving item and versions against the model, whose item each promotion writes."""
        name, number = model.name, model.champion_version
        alias = self._table.get(items.alias_key(name, CHAMPION))
        serving = self._table.get(items.serving_key(name))
        champion = next((v for v in versions if v.version == number), None)
        wrong = []
        if (None if alias is None else int(alias["version"])) != number:
            wrong.append(f"the alias champion names {alias and alias['version']}")
        if champion is None:
            if number is not None:
                yield Disagreement(
                    name,
                    "serving",
                    f"{name}@{number}",
                    "the model names a champion that is no version",
                    advice="restore the model from a backup (millrace restore)",
                )
                return
            if serving is not None:
                wrong.append(f"version {serving['version']} answers")
        else:
            right = _serving_facts(champion)
            # An item without a signature says the same as one with an empty one.
            other = sorted(k for k, v in right.items() if ((serving or {}).get(k) or "") != v)
            if serving is None:
                wrong.append("nothing answers")
            elif other:
                wrong.append(f"what answers differs in {', '.join(other)}")
        if wrong:
            yield Disagreement(
                name,
                "serving",
                f"{name}@{number}" if number else name,
                f"the model's champion is {number or 'none'}, but {' and '.join(wrong)}",
                mend=None if champion is None else lambda: self._mend_serving(model, champion),
                advice="promote a version (millrace promote)" if champion is None else "",
            )

    def _faults_of_artifacts(self, version: ModelVersion) -> Iterator[Disagreement]:
        subject = f"{version.model}@{version.version}"
        whole = True
        for what, key, digest in (
            ("model", version.model_key, version.sha256),
            ("signature", version.signature_key, version.signature_sha256),
        ):
            found = self._digest(key)
            if found == digest:
                continue
            whole = False
            right = self._version_with(key, digest)
            is_there = "is missing" if not found else f"has sha256 {found[:12]}"
            yield Disagreement(
                version.model,
                "artifact",
                f"{what} of {subject}",
                f"s3://{self._bucket}/{key} {is_there}, {digest[:12]} was registered",
                mend=None if right is None else self._restoring(version, what, key, right),
                advice=""
                if right is not None
                else "no version of the object has the right digest: import the version's bundle "
                "again, or train it anew",
            )
        if self._sign is not None and self._attestation is not None:
            try:
                self._attestation.check(version)
            except ArtifactSignatureError as exc:
                yield Disagreement(
                    version.model,
                    "unsigned",
                    subject,
                    str(exc).removeprefix(f"{subject}: "),
                    mend=(lambda: self._mend_signature(version)) if whole else None,
                    advice="" if whole else "its artifact is not the one that was registered",
                )

    def _stuck(self, model: RegisteredModel) -> Iterator[Disagreement]:
        page = self._registry.list_runs(model.name, limit=200)
        for run in page.items:
            age = self._clock() - run.started_at
            if run.outcome is None and age > STUCK:
                yield Disagreement(
                    model.name,
                    "run",
                    run.run_id,
                    f"{run.status} since {text_of(run.started_at)}",
                    mend=lambda run_id=run.run_id: self._mend_run(run_id),  # type: ignore[misc]  # bound now
                )

    def _orphans(
        self, model: RegisteredModel, versions: Sequence[ModelVersion]
    ) -> Iterator[Disagreement]:
        named = {key for v in versions for key in (v.model_key, v.signature_key, v.environment_key)}
        found = [
            key
            for key in self._store.keys(self._bucket, layout.artifacts_prefix(model.name))
            if key not in named
        ]
        if found:
            shown = ", ".join(
                key.removeprefix(layout.artifacts_prefix(model.name)) for key in found[:3]
            )
            yield Disagreement(
                model.name,
                "orphan",
                f"{len(found)} artifacts",
                f"no version names {shown}{', …' if len(found) > 3 else ''}",
                advice="of trainings that were repeated or failed; they may stay",
            )

    def _digest(self, key: str, version_id: str | None = None) -> str:
        """SHA-256 of an object's bytes; empty when it is not there."""
        try:
            body = self._store.read(self._bucket, key, version_id=version_id)
        except NotFoundError:
            return ""
        return hashlib.sha256(body).hexdigest()

    def _version_with(self, key: str, digest: str) -> str | None:
        """The object's version that has a digest, of all that the bucket keeps."""
        with translated(f"list versions of s3://{self._bucket}/{key}"):
            pages = self._s3.get_paginator("list_object_versions").paginate(
                Bucket=self._bucket, Prefix=key
            )
            kept = [
                v["VersionId"]
                for page in pages
                for v in page.get("Versions", ())
                if v["Key"] == key
            ]
        return next((v for v in kept if self._digest(key, v) == digest), None)

    # ── Mending ─────────────────────────────────────────────────────────────────────────────────

    def _restoring(self, version: ModelVersion, what: str, key: str, right: str) -> Mend:
        def restore() -> str:
            # Told first: an object that changed without an entry would be the worse disagreement.
            self._tell(
                version.model,
                f"{version.model}@{version.version}",
                f"restored its {what} from version {right} of s3://{self._bucket}/{key}",
                {"key": key, "version_id": right},
            )
            with translated(f"restore s3://{self._bucket}/{key}"):
                self._s3.copy_object(
                    Bucket=self._bucket,
                    Key=key,
                    CopySource={"Bucket": self._bucket, "Key": key, "VersionId": right},
                )
            return f"restored version {right} of the object"

        return restore

    def _mend_serving(self, model: RegisteredModel, champion: ModelVersion) -> str:
        name = model.name
        reason = f"alias and serving item name {name}@{champion.version} again"

        def change() -> str:
            now = self._clock()
            alias = self._table.get(items.alias_key(name, CHAMPION))
            serving = self._table.get(items.serving_key(name))
            entry = self._entry(name, f"{name}@{champion.version}", reason, {})
            appended = self._ledger.append(entry)
            stored = self._table.get(items.version_key(name, champion.version)) or {}
            written = ServingRecord.from_item(
                {
                    **stored,
                    "updated_at": text_of(now),
                    "capture_rate": model.capture_rate,
                    # A rollout goes on: only whom it is compared with was wrong.
                    "rollout": (serving or {}).get("rollout"),
                    # Of the entry that made it champion: this one changes no traffic by intent.
                    "sequence": stored.get("ledger_sequence", appended.entries[0].sequence),
                }
            )
            writes: list[Write] = [
                Put(
                    "serving",
                    items.serving_key(name),
                    written.to_item(),
                    {"version": None if serving is None else serving["version"]},
                ),
                Put(
                    "alias",
                    items.alias_key(name, CHAMPION),
                    {
                        **({"previous": None, "restored": False} if alias is None else alias),
                        "model": name,
                        "alias": CHAMPION,
                        "version": champion.version,
                        "run_id": champion.run_id,
                        "ledger_sequence": written.sequence,
                        "change_id": entry.entry_id,
                        "actor": self._actor,
                        "updated_at": text_of(now),
                    },
                    {"version": None if alias is None else alias["version"]},
                ),
                Check("model", items.model_key(name), {"champion_version": champion.version}),
                *appended.writes,
            ]
            self._table.transact(writes, f"mend what serves of {name}")
            return reason

        return with_fresh_reads(f"mend what serves of {name}", change)

    def _mend_signature(self, version: ModelVersion) -> str:
        sign = self._sign
        if sign is None:
            return "nothing: versions are not signed here"
        seal = sign(statement_digest(version))
        signed = {"kms_signature": seal.kms_signature, "kms_key_id": seal.kms_key_id}
        subject = f"{version.model}@{version.version}"

        def change() -> str:
            serving = self._table.get(items.serving_key(version.model))
            entry = self._entry(
                version.model, subject, "signed by hand", {"signed_by": seal.kms_key_id}
            )
            writes: list[Write] = [
                Update(
                    "version",
                    items.version_key(version.model, version.version),
                    signed,
                    {"sha256": version.sha256, "signature_sha256": version.signature_sha256},
                ),
                *self._ledger.append(entry).writes,
            ]
            if serving is not None and int(serving["version"]) == version.version:
                writes.append(
                    Update(
                        "serving",
                        items.serving_key(version.model),
                        signed,
                        {"version": version.version, "sha256": version.sha256},
                    )
                )
            self._table.transact(writes, f"sign {subject}")
            return f"signed with {seal.kms_key_id}"

        return with_fresh_reads(f"sign {subject}", change)

    def _mend_run(self, run_id: str) -> str:
        closed = self._registry.finish_run(
            run_id,
            RunOutcome.FAILED,
            error="Abandoned",
            reason="its execution ended without closing it",
            actor=self._actor,
        )
        return f"closed as {RunStatus.FAILED.value}" if closed else "it was closed meanwhile"

    def _entry(self, model: str, subject: str, reason: str, facts: dict[str, Any]) -> AuditEntry:
        return AuditEntry(
            model=model,
            at=self._clock(),
            entry_id=self._ids(),
            actor=self._actor,
            action="mended",
            subject=subject,
            reason=reason,
            facts=facts,
        )

    def _tell(self, model: str, subject: str, reason: str, facts: dict[str, Any]) -> None:
        def change() -> None:
            entry = self._entry(model, subject, reason, facts)
            self._table.transact(self._ledger.append(entry).writes, f"tell of {subject}")

        with_fresh_reads(f"tell of {subject}", change)


def _serving_facts(champion: ModelVersion) -> dict[str, Any]:
    """What the serving item must say of the champion."""
    names = (
        "version",
        "run_id",
        "model_key",
        "sha256",
        "signature_key",
        "signature_sha256",
        "kms_signature",
        "kms_key_id",
    )
    stored = items.from_version(champion)
    return {name: stored[name] for name in names}


# ── The verb ────────────────────────────────────────────────────────────────────────────────────


def compare_registry(target: Target, actor: str, mend: bool, as_json: bool) -> bool:
    """Looks, mends if that is asked for, and tells.

    Args:
        target: The deployment.
        actor: Who mends.
        mend: Whether to mend.
        as_json: Whether to tell in JSON.

    Returns:
        Whether everything agrees in the end; orphans disagree with nothing.
    """
    name, sign = target.outputs.raw["TableName"], signer(target)
    arn = target.outputs.raw.get("SigningKeyArn", "")
    agreement = Agreement(
        DynamoTable(target.dynamodb, name),
        open_registry(target.dynamodb, name, sign=sign),
        target.s3,
        target.outputs.artifact_bucket,
        actor=actor,
        clock=lambda: datetime.now(UTC),
        ids=lambda: uuid.uuid4().hex,
        sign=sign,
        attestation=Attestation(arn, KmsKey(target.kms, arn).verify) if arn else None,
    )
    found = list(agreement.look())
    if mend:
        found = agreement.mend(found)
    if as_json:
        print_json([d.as_dict() for d in found])
    else:
        for d in found:
            _tell(d, asked=mend)
        if not found:
            out.print("[green]✓[/] registry and artifacts agree")
        elif not mend and any(d.mend for d in found):
            out.print(Text("  next: millrace doctor --registry --mend", style="dim"))
    return all(d.mended or d.kind == "orphan" for d in found)


def _tell(found: Disagreement, *, asked: bool) -> None:
    mark = "[green]✓[/]" if found.mended else "[red]✗[/]"
    if found.kind == "orphan":
        mark = "[yellow]![/]"
    out.print(mark, Text(f"{found.model}: {found.subject}: {found.found}"), soft_wrap=True)
    if found.mended:
        out.print(Text(f"    mended: {found.mended}", style="dim"), soft_wrap=True)
    elif found.advice:
        out.print(Text(f"    {found.advice}", style="dim"), soft_wrap=True)
    elif not asked:
        out.print(Text("    can be mended", style="dim"))
