"""The verbs `backup` and `restore`: the registry's table as one file, and back.

A backup is gzipped JSON Lines: a header, one line per item in DynamoDB's own JSON (numbers keep
their digits), the artifacts that the registry counts on, each model's ledger as it was found, and a
last line with the counts and the SHA-256 of all lines before it. It is written and read as a
stream, whatever the table's size.

**Consistent.** The table is read in parallel segments while writers go on. A model whose ledger
moved meanwhile is read again, until its ledger stands still around the reading; those lines
(``again``) stand in the place of the first ones. What hangs on no ledger, such as labels, is as it
was when its segment was read.

**Restoring** writes what is missing and leaves what is equal, so that it can be repeated. A model
whose ledger here is longer than the backup's, or another one, is left alone unless ``--overwrite``
says otherwise; then it becomes exactly what the backup has. Ledger heads are written last, each on
the condition that it is still the one that was compared, and every ledger is verified at the end.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from millrace.aws.dynamodb import PK, SK, DynamoTable, Item, Key, from_item, to_item
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.translate import translated
from millrace.errors import (
    ArtifactError,
    ConcurrentWriteError,
    ConditionFailedError,
    ConflictError,
)
from millrace.registry import items
from millrace.registry.ledger import HEAD, Anchor, entry_key, head_key
from millrace.registry.verification import verify
from millrace.registry.writer import text_of
from millrace_cli.bundles import environment_of
from millrace_cli.console import JsonFlag, chosen, out, print_json, reported
from millrace_cli.exits import ExitCode

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

app = typer.Typer()

FORMAT: Final = "millrace-backup"
FORMAT_VERSION: Final = "1.0"
SEGMENTS: Final = 4
"""Parts of the table that are read at once."""
STILL: Final = 10
"""Readings of a model whose ledger moves, before giving up."""
ARTIFACTS: Final = ("models/", "specs/")

_FLEETING: Final = "IDEMPOTENCY#"
"""What is forgotten within an hour anyway, and would be wrong elsewhere."""
_MODEL: Final = "MODEL#"

type Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ledger:
    """A model's ledger, as a backup found it."""

    model: str
    sequence: int
    hash: str
    sound: bool


@dataclass(slots=True)
class Summary:
    """What a backup holds."""

    environment: str
    at: str
    items: int = 0
    again: int = 0
    artifacts: int = 0
    ledgers: list[Ledger] = field(default_factory=list)
    sha256: str = ""


@dataclass(slots=True)
class Restored:
    """What a restore did."""

    written: int = 0
    equal: int = 0
    kept: int = 0
    """Items that are different here, and hang on no ledger that was restored."""
    removed: int = 0
    models: int = 0
    missing: list[str] = field(default_factory=list)
    """Artifacts of the backup that are not in the bucket here."""
    unsound: list[str] = field(default_factory=list)


@app.command(epilog="Example: millrace backup millrace-2026-11-21.jsonl.gz")
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to write it.", dir_okay=False)],
    as_json: JsonFlag = False,
) -> None:
    """Write the whole registry into one verified file, while everything goes on.

    Needs AWS credentials that may read the table and list the artifact bucket: no role of the API
    reaches all of it. Artifacts are listed, not copied: they lie in a versioned bucket.
    """
    with reported(as_json, hint="docs/operations.md says more"):
        target = chosen(context).target()
        context.call_on_close(target.close)
        summary = write_backup(
            file,
            target.dynamodb,
            target.outputs.raw["TableName"],
            artifacts=_listed(S3ObjectStore(target.s3), target.outputs.artifact_bucket),
            environment=environment_of(target),
            now=datetime.now(UTC),
        )
        unsound = [ledger.model for ledger in summary.ledgers if not ledger.sound]
        if as_json:
            print_json({"path": str(file), "sound": not unsound, **_facts(summary)})
        else:
            out.print(
                "[green]✓[/]",
                Text(str(file), style="bold"),
                f"holds {summary.items:,} items; ledgers: {len(summary.ledgers):,}; artifacts "
                f"listed: {summary.artifacts:,}",
                soft_wrap=True,
            )
            out.print(Text(f"  sha256 of its content: {summary.sha256}", style="dim"))
            for model in unsound:
                out.print("[red]✗[/]", f"the ledger of {model} is not sound: see millrace audit")
        if unsound:
            raise typer.Exit(ExitCode.OUTCOME)


@app.command(epilog="Example: millrace --stack millrace-new restore millrace-2026-11-21.jsonl.gz")
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Also models that changed since the backup: they become exactly what it has.",
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Bring the registry back from a backup; repeating it does nothing more.

    Needs AWS credentials that may write the table. Stop trainings first: a model that changes
    while it is restored is told, and left as it was when its ledger's end is compared.
    """
    with reported(as_json, hint="docs/operations.md says more"):
        target = chosen(context).target()
        context.call_on_close(target.close)
        store, bucket = S3ObjectStore(target.s3), target.outputs.artifact_bucket
        done = restore_backup(
            file,
            target.dynamodb,
            target.outputs.raw["TableName"],
            present=frozenset(line["key"] for line in _listed(store, bucket)),
            overwrite=overwrite,
        )
        if as_json:
            print_json(
                {
                    "written": done.written,
                    "equal": done.equal,
                    "kept": done.kept,
                    "removed": done.removed,
                    "models": done.models,
                    "missing_artifacts": done.missing,
                    "unsound": done.unsound,
                }
            )
        else:
            out.print(
                f"[green]✓[/] models: {done.models:,}; {done.written:,} items written, "
                f"{done.equal:,} were there, {done.kept:,} newer ones kept, "
                f"{done.removed:,} removed"
            )
            for key in done.missing[:10]:
                out.print("[yellow]![/]", Text(f"not in the artifact bucket: {key}"))
            if len(done.missing) > 10:
                out.print(f"    and {len(done.missing) - 10} more")
            for model in done.unsound:
                out.print("[red]✗[/]", f"the ledger of {model} is not sound: see millrace audit")
        if done.unsound:
            raise typer.Exit(ExitCode.OUTCOME)


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────


def write_backup(
    path: Path,
    client: "DynamoDBClient",
    table_name: str,
    *,
    artifacts: Iterator[Line],
    environment: str,
    now: datetime,
) -> Summary:
    """Writes a backup; the file appears whole or not at all.

    Args:
        path: Where to.
        client: DynamoDB.
        table_name: The registry's table.
        artifacts: What lies in the artifact bucket.
        environment: The deployment's name.
        now: The time.

    Raises:
        ConcurrentWriteError: A model's ledger never stood still.
    """
    table = DynamoTable(client, table_name)
    summary = Summary(environment=environment, at=text_of(now))
    partial = path.with_name(f".{path.name}.part")
    try:
        # No time in gzip's header: the same content is the same file.
        with partial.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
            lines = _Lines(stream)
            lines.write(
                {
                    "format": FORMAT,
                    "format_version": FORMAT_VERSION,
                    "environment": environment,
                    "table": table_name,
                    "at": summary.at,
                }
            )
            before = _heads(table)
            for item in scanned(client, table_name):
                lines.write({"item": item})
                summary.items += 1
            after = _heads(table)
            for model in sorted(m for m in after if before.get(m) != after[m]):
                after[model], found = _standing_still(table, model)
                for stored in found:
                    lines.write({"again": to_item(stored)})
                    summary.again += 1
            for line in artifacts:
                lines.write({"artifact": line})
                summary.artifacts += 1
            for model, head in sorted(after.items()):
                sound = verify(table, model, anchors=[head] if head.sequence else []).sound
                ledger = Ledger(model, head.sequence, head.hash, sound)
                lines.write(
                    {
                        "ledger": {
                            "model": model,
                            "sequence": head.sequence,
                            "hash": head.hash,
                            "sound": sound,
                        }
                    }
                )
                summary.ledgers.append(ledger)
            summary.sha256 = lines.digest()
            lines.write({"end": _facts(summary)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return summary


def _facts(summary: Summary) -> Line:
    return {
        "items": summary.items,
        "again": summary.again,
        "artifacts": summary.artifacts,
        "ledgers": len(summary.ledgers),
        "sha256": summary.sha256,
    }


class _Lines:
    """Writes lines and keeps the digest of what was written."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def write(self, line: Line) -> None:
        body = json.dumps(line, separators=(",", ":"), sort_keys=True, default=_binary) + "\n"
        self._digest.update(body.encode())
        self._stream.write(body.encode())

    def digest(self) -> str:
        return self._digest.hexdigest()


def _binary(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is no value of DynamoDB")


def scanned(client: "DynamoDBClient", table_name: str) -> Iterator[dict[str, Any]]:
    """Every item of the table in DynamoDB's JSON, by parallel segments, a page of each at a time.

    Args:
        client: DynamoDB.
        table_name: The table.
    """
    starts: dict[int, dict[str, Any] | None] = dict.fromkeys(range(SEGMENTS))

    def page(segment: int, start: dict[str, Any] | None) -> Any:
        more: Any = {} if start is None else {"ExclusiveStartKey": start}
        with translated(f"read segment {segment} of {table_name}"):
            return client.scan(
                TableName=table_name,
                ConsistentRead=True,
                Segment=segment,
                TotalSegments=SEGMENTS,
                **more,
            )

    with ThreadPoolExecutor(SEGMENTS) as pool:
        while starts:
            asked = {s: pool.submit(page, s, start) for s, start in starts.items()}
            starts = {}
            for segment, coming in asked.items():
                answer = coming.result()
                yield from (i for i in answer["Items"] if not i[PK]["S"].startswith(_FLEETING))
                if answer.get("LastEvaluatedKey"):
                    starts[segment] = answer["LastEvaluatedKey"]


def _heads(table: DynamoTable) -> dict[str, Anchor]:
    """The end of every model's ledger."""
    found = [i["name"] for i in table.query(items.MODELS, index=True).items]
    stored = table.get_many([head_key(name) for name in found])
    heads = {key.pk.removeprefix(_MODEL): item for key, item in stored.items()}
    return {
        name: Anchor(int(heads[name]["sequence"]), heads[name]["hash"])
        if name in heads
        else Anchor(0, "")
        for name in found
    }


def _standing_still(table: DynamoTable, model: str) -> tuple[Anchor, Sequence[Item]]:
    """Everything of a model, between two looks at a ledger that did not move."""
    for _ in range(STILL):
        before = table.get(head_key(model))
        found = table.query(items.model_pk(model)).items
        if before is not None and before == table.get(head_key(model)):
            return Anchor(int(before["sequence"]), before["hash"]), found
    raise ConcurrentWriteError(f"{model} changed again and again while it was read; try again")


def _listed(store: S3ObjectStore, bucket: str) -> Iterator[Line]:
    for prefix in ARTIFACTS:
        for key in store.keys(bucket, prefix):
            yield {"key": key}


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Contents:
    """What the first reading of a backup found."""

    ledgers: dict[str, Anchor] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    again: set[tuple[str, str]] = field(default_factory=set)
    items: int = 0


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a backup, checked: count and digest are known only at the end.

    Raises:
        ArtifactError: It is no backup, cut, or changed.
    """
    digest = hashlib.sha256()
    counts = dict.fromkeys(("item", "again", "artifact", "ledger"), 0)
    ended = False
    try:
        with gzip.open(path, "rb") as stream:
            for number, body in enumerate(_bodies(stream, path), 1):
                if ended:
                    raise ArtifactError(f"{path}: line {number} comes after the end")
                line = _decoded(body, number, path)
                if number == 1:
                    _check_header(line, path)
                if "end" in line:
                    _check_end(line["end"], counts, digest.hexdigest(), path)
                    ended = True
                digest.update(body)
                for kind in counts.keys() & line.keys():
                    counts[kind] += 1
                yield line
    except (EOFError, OSError) as exc:
        raise ArtifactError(f"{path}: damaged, or no gzip: {exc}") from exc
    if not ended:
        raise ArtifactError(f"{path}: the backup is cut: its last line is missing")


def _bodies(stream: gzip.GzipFile, path: Path) -> Iterator[bytes]:
    try:
        yield from stream
    except gzip.zlib.error as exc:  # type: ignore[attr-defined]  # what gzip reads with
        raise ArtifactError(f"{path}: damaged: {exc}") from exc


def _decoded(body: bytes, number: int, path: Path) -> Line:
    try:
        line = json.loads(body)
    except ValueError as exc:
        raise ArtifactError(f"{path}: line {number} is not JSON: {exc}") from exc
    if not isinstance(line, dict):
        raise ArtifactError(f"{path}: line {number}: expected an object")
    return line


def _check_header(line: Line, path: Path) -> None:
    if line.get("format") != FORMAT:
        raise ArtifactError(f"{path}: this is no backup (millrace backup makes one)")
    came = str(line.get("format_version"))
    if came.partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
        raise ArtifactError(
            f"{path}: expected format version {FORMAT_VERSION}, got {came[:20]}: restore it with "
            "the Millrace that made it"
        )


def _check_end(end: Line, counts: Mapping[str, int], digest: str, path: Path) -> None:
    if end.get("sha256") != digest:
        raise ArtifactError(
            f"{path}: expected sha256 {end.get('sha256')} of its lines, got {digest}: it was changed"
        )
    for kind, name in (("item", "items"), ("again", "again"), ("artifact", "artifacts")):
        if end.get(name) != counts[kind]:
            raise ArtifactError(
                f"{path}: expected {end.get(name)} lines of {name}, got {counts[kind]}"
            )


def _contents(path: Path) -> _Contents:
    found = _Contents()
    for line in read_lines(path):
        if "item" in line:
            found.items += 1
        elif "again" in line:
            found.again.add(_place(line["again"]))
        elif "artifact" in line:
            found.artifacts.append(line["artifact"]["key"])
        elif "ledger" in line:
            kept = line["ledger"]
            found.ledgers[kept["model"]] = Anchor(kept["sequence"], kept["hash"])
    return found


def _place(item: Mapping[str, Any]) -> tuple[str, str]:
    return item[PK]["S"], item[SK]["S"]


def restored_items(path: Path, again: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The items of a backup as they stood at its end."""
    for line in read_lines(path):
        if "again" in line:
            yield line["again"]
        elif "item" in line and _place(line["item"]) not in again:
            yield line["item"]


# ── Restoring ───────────────────────────────────────────────────────────────────────────────────


def restore_backup(
    path: Path,
    client: "DynamoDBClient",
    table_name: str,
    *,
    present: frozenset[str],
    overwrite: bool = False,
) -> Restored:
    """Writes what is missing of a backup; idempotent.

    Nothing is written before the whole file was read and checked, and every ledger compared.

    Args:
        path: The backup.
        client: DynamoDB.
        table_name: The registry's table.
        present: Keys that are in the artifact bucket.
        overwrite: Whether models that changed since become what the backup has.

    Raises:
        ArtifactError: The file is no backup, cut, or changed.
        ConflictError: A model here is newer than the backup, or another one.
        ConcurrentWriteError: Somebody changed a model while it was restored.
    """
    table = DynamoTable(client, table_name)
    contents = _contents(path)
    newer = _newer(table, contents.ledgers, path)
    if newer and not overwrite:
        told = "; ".join(f"{model}: {why}" for model, why in sorted(newer.items()))
        raise ConflictError(
            f"nothing was restored, as the registry knows more than the backup ({told}): restore "
            "into an empty stack, or say --overwrite to lose what came since"
        )
    done = Restored(models=len(contents.ledgers))
    heads: dict[str, dict[str, Any]] = {}
    places: dict[str, set[str]] = {model: set() for model in newer}
    compared = {m: table.get(head_key(m)) for m in contents.ledgers}
    for some in batched(restored_items(path, contents.again), 100, strict=False):
        found = table.get_many([Key(*_place(i)) for i in some])
        for item in some:
            pk, sk = _place(item)
            model = pk.removeprefix(_MODEL) if pk.startswith(_MODEL) else ""
            if model in places:
                places[model].add(sk)
            here = found.get(Key(pk, sk))
            if here == from_item(item):
                done.equal += 1
            elif model in contents.ledgers and sk == HEAD:
                heads[model] = item
            elif here is not None and not model and not overwrite:
                done.kept += 1
            else:
                _put(client, table_name, item, "attribute_not_exists(PK)" if here is None else "")
                done.written += 1
    for model, kept in places.items():
        done.removed += _remove_others(client, table_name, table, model, kept)
    for model, item in heads.items():
        _put_head(client, table_name, item, compared[model], model)
        done.written += 1
    for model, head in contents.ledgers.items():
        if not verify(table, model, anchors=[head] if head.sequence else []).sound:
            done.unsound.append(model)
    done.missing = [key for key in contents.artifacts if key not in present]
    return done


def _newer(table: DynamoTable, ledgers: Mapping[str, Anchor], path: Path) -> dict[str, str]:
    """Models whose ledger here is longer than the backup's, or is another one; and why."""
    found: dict[str, str] = {}
    ends: dict[tuple[str, str], tuple[str, str]] = {}
    for model, kept in ledgers.items():
        here = table.get(head_key(model))
        if here is None:
            continue
        sequence = int(here["sequence"])
        if sequence > kept.sequence:
            found[model] = f"{sequence} entries here, {kept.sequence} in the backup"
            continue
        if (sequence, here["hash"]) != kept:
            end = entry_key(model, sequence)
            ends[end.pk, end.sk] = model, here["hash"]
    if ends:
        # The end here must be an entry of the backup: then the backup only goes on from it.
        hashes = {
            place: line["item"]["hash"]["S"]
            for line in read_lines(path)
            if "item" in line and (place := _place(line["item"])) in ends
        }
        for place, (model, digest) in ends.items():
            if hashes.get(place) != digest:
                found[model] = f"entry {int(place[1].rpartition('#')[2])} here is another one"
    return found


def _put(client: "DynamoDBClient", table: str, item: dict[str, Any], condition: str) -> None:
    pk, sk = _place(item)
    more: Any = {"ConditionExpression": condition} if condition else {}
    try:
        with translated(f"restore {pk} {sk}"):
            client.put_item(TableName=table, Item=item, **more)
    except ConditionFailedError as exc:
        raise ConcurrentWriteError(
            f"{pk} {sk} was written while it was restored: stop what writes, and restore again"
        ) from exc


def _put_head(
    client: "DynamoDBClient",
    table: str,
    item: dict[str, Any],
    compared: Item | None,
    model: str,
) -> None:
    """The end of a ledger, unless it moved since it was compared."""
    more: Any = {"ConditionExpression": "attribute_not_exists(PK)"}
    if compared is not None:
        more = {
            "ConditionExpression": "#hash = :hash",
            "ExpressionAttributeNames": {"#hash": "hash"},
            "ExpressionAttributeValues": {":hash": {"S": compared["hash"]}},
        }
    try:
        with translated(f"restore the ledger of {model}"):
            client.put_item(TableName=table, Item=item, **more)
    except ConditionFailedError as exc:
        raise ConcurrentWriteError(
            f"{model} changed while it was restored: stop what changes it, and restore again"
        ) from exc


def _remove_others(
    client: "DynamoDBClient", name: str, table: DynamoTable, model: str, kept: set[str]
) -> int:
    """Removes what a model has here and not in the backup."""
    pk = items.model_pk(model)
    others = [i[SK] for i in table.query(pk).items if i[SK] not in kept]
    for sk in others:
        with translated(f"remove {pk} {sk}"):
            client.delete_item(TableName=name, Key={PK: {"S": pk}, SK: {"S": sk}})
    return len(others)
