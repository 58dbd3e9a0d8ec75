"""The registry goes into a file and comes back: whole, once, and never over what is newer."""

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from millrace.aws.clients import client
from millrace.aws.dynamodb import Item, from_item
from millrace.errors import ArtifactError, ConcurrentWriteError, ConflictError
from millrace.registry.verification import verify
from millrace_cli import backups
from millrace_cli.backups import Restored, Summary, read_lines, restore_backup, write_backup
from tests.fakes import cases, cloud
from tests.fakes.onnx_models import crown

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def put_artifact(key: str, body: bytes) -> None:
    client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)


def everything() -> dict[tuple[str, str], Item]:
    """Every item of the table."""
    found = map(from_item, backups.scanned(client("dynamodb"), cloud.TABLE))
    return {(i["PK"], i["SK"]): i for i in found}


def change_it(stack: cloud.Cloud) -> None:
    """Something happens to the model: one more entry of its ledger."""
    cases.apply(stack.registry, cases.spec(description="changed"))


def empty_table() -> None:
    for pk, sk in everything():
        client("dynamodb").delete_item(
            TableName=cloud.TABLE, Key={"PK": {"S": pk}, "SK": {"S": sk}}
        )


def backed_up(path: Path, *artifacts: str) -> Summary:
    return write_backup(
        path,
        client("dynamodb"),
        cloud.TABLE,
        artifacts=({"key": key} for key in artifacts),
        environment="here",
        now=NOW,
    )


def restored(path: Path, **options: Any) -> Restored:
    options = {"present": frozenset(), **options}
    return restore_backup(path, client("dynamodb"), cloud.TABLE, **options)


@pytest.fixture
def path(stack: cloud.Cloud, tmp_path: Path) -> Path:
    """A backup of a model with a champion."""
    crown(stack.registry, put_artifact, 1)
    backed_up(tmp_path / "b.jsonl.gz", "models/churn/x")
    return tmp_path / "b.jsonl.gz"


def test_an_empty_stack_becomes_what_the_backup_has(path: Path) -> None:
    before = everything()
    empty_table()

    done = restored(path)

    assert everything() == before
    assert (done.written, done.equal, done.unsound) == (len(before), 0, [])
    assert done.missing == ["models/churn/x"]


def test_restoring_twice_changes_nothing(path: Path) -> None:
    before = everything()

    done = restored(path, present=frozenset({"models/churn/x"}))

    assert (done.written, done.equal, done.missing) == (0, len(before), [])
    assert everything() == before


def test_what_was_lost_or_changed_by_hand_comes_back(path: Path, stack: cloud.Cloud) -> None:
    before = everything()
    client("dynamodb").delete_item(
        TableName=cloud.TABLE, Key={"PK": {"S": "MODEL#churn"}, "SK": {"S": "AUDIT#000000000003"}}
    )
    client("dynamodb").update_item(
        TableName=cloud.TABLE,
        Key={"PK": {"S": "MODEL#churn"}, "SK": {"S": "VERSION#000001"}},
        UpdateExpression="SET sha256 = :other",
        ExpressionAttributeValues={":other": {"S": "0" * 64}},
    )

    done = restored(path)

    assert done.written == 2
    assert everything() == before
    assert verify(cloud_table(stack), "churn").sound


def cloud_table(stack: cloud.Cloud) -> Any:
    return stack.registry._table


def test_a_model_that_changed_since_is_left_alone(path: Path, stack: cloud.Cloud) -> None:
    change_it(stack)
    newer = everything()

    with pytest.raises(ConflictError, match="nothing was restored, .*churn: .* entries here"):
        restored(path)
    assert everything() == newer


def test_overwriting_makes_a_model_exactly_what_the_backup_has(
    path: Path, stack: cloud.Cloud
) -> None:
    change_it(stack)

    done = restored(path, overwrite=True)

    registry = stack.registry
    assert [s.version for s in registry.list_specs("churn").items] == [1]
    assert registry.get_model("churn").spec_version == 1
    assert verify(cloud_table(stack), "churn").sound
    assert done.removed > 0


def test_a_model_that_came_since_is_left_alone(path: Path, stack: cloud.Cloud) -> None:
    cases.apply(stack.registry, cases.spec("loans"))

    restored(path)

    assert {m.name for m in stack.registry.list_models().items} == {"churn", "loans"}


def test_a_backup_only_goes_on_from_an_older_state_of_the_same_model(
    path: Path, stack: cloud.Cloud, tmp_path: Path
) -> None:
    change_it(stack)
    later = tmp_path / "later.jsonl.gz"
    backed_up(later)
    after = everything()
    empty_table()
    restored(path)

    restored(later)

    assert everything() == after


def test_another_model_of_the_same_name_is_told(path: Path, stack: cloud.Cloud) -> None:
    empty_table()
    cases.apply(stack.registry, cases.spec(description="another"))

    with pytest.raises(ConflictError, match="churn: entry 1 here is another one"):
        restored(path)


def test_a_change_while_the_table_is_read_is_whole_in_the_backup(
    stack: cloud.Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crown(stack.registry, put_artifact, 1)
    read = backups.scanned

    def meanwhile(*given: Any) -> Iterator[dict[str, Any]]:
        found = list(read(*given))
        yield from found[: len(found) // 2]
        change_it(stack)
        yield from found[len(found) // 2 :]

    monkeypatch.setattr(backups, "scanned", meanwhile)
    summary = backed_up(tmp_path / "b")
    monkeypatch.undo()
    at_the_end = {k: v for k, v in everything().items() if k[0].startswith("MODEL#")}
    empty_table()
    restored(tmp_path / "b")

    assert summary.again > 0
    assert {k: v for k, v in everything().items() if k[0].startswith("MODEL#")} == at_the_end


def test_a_write_while_it_is_restored_is_told(
    path: Path, stack: cloud.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_table()
    write = backups._put_head

    def meanwhile(*given: Any) -> None:
        client("dynamodb").put_item(
            TableName=cloud.TABLE,
            Item={"PK": {"S": "MODEL#churn"}, "SK": {"S": "LEDGER"}, "hash": {"S": "other"}},
        )
        write(*given)

    monkeypatch.setattr(backups, "_put_head", meanwhile)

    with pytest.raises(ConcurrentWriteError, match="churn changed while it was restored"):
        restored(path)


def test_a_damaged_ledger_is_told_and_backed_up_all_the_same(
    stack: cloud.Cloud, tmp_path: Path
) -> None:
    crown(stack.registry, put_artifact, 1)
    client("dynamodb").delete_item(
        TableName=cloud.TABLE, Key={"PK": {"S": "MODEL#churn"}, "SK": {"S": "AUDIT#000000000002"}}
    )

    summary = backed_up(tmp_path / "b")

    assert [(ledger.model, ledger.sound) for ledger in summary.ledgers] == [("churn", False)]


def test_the_same_registry_gives_the_same_file(path: Path, tmp_path: Path) -> None:
    backed_up(tmp_path / "again", "models/churn/x")

    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a backup."""
    path = tmp_path_factory.mktemp("backup") / "b"
    with pytest.MonkeyPatch.context() as patched, cloud.stack(patched) as stack:
        crown(stack.registry, put_artifact, 1)
        backed_up(path)
    return path.read_bytes()


def _lines(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines(keepends=True)


def _rewrite(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(gzip.compress(b"".join(lines)))


def _changed(path: Path) -> None:
    lines = _lines(path)
    _rewrite(path, [lines[0], lines[1].replace(b"churn", b"chirp", 1), *lines[2:]])


def _dropped(path: Path) -> None:
    lines = _lines(path)
    _rewrite(path, [*lines[:1], *lines[2:]])


def _other_version(path: Path) -> None:
    lines = _lines(path)
    header = json.loads(lines[0]) | {"format_version": "2.0"}
    _rewrite(path, [json.dumps(header).encode() + b"\n", *lines[1:]])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-200]), "damaged"),
        (lambda p: p.write_bytes(b"nothing"), "damaged, or no gzip"),
        (lambda p: _rewrite(p, _lines(p)[:-1]), "the backup is cut"),
        (lambda p: _rewrite(p, [*_lines(p), b"{}\n"]), "comes after the end"),
        (lambda p: _rewrite(p, [b'{"format": "x"}\n']), "this is no backup"),
        (_changed, "expected sha256"),
        (_dropped, "expected sha256"),
        (_other_version, r"expected format version 1\.0, got 2\.0"),
    ],
    ids=["torn", "no gzip", "cut", "longer", "foreign", "changed", "dropped", "of another version"],
)
def test_a_file_that_is_not_what_was_written_is_refused(
    written: bytes, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    path = tmp_path / "b"
    path.write_bytes(written)
    damage(path)

    with pytest.raises(ArtifactError, match=told):
        list(read_lines(path))


def test_nothing_is_written_of_a_file_that_ends_badly(path: Path) -> None:
    _rewrite(path, _lines(path)[:-1])
    empty_table()

    with pytest.raises(ArtifactError, match="the backup is cut"):
        restored(path)
    assert everything() == {}
