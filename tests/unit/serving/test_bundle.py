"""Bundles: made the same every time, and refused when anything in them is not as it was made."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from millrace.bundle import FORMAT_VERSION, MANIFEST, Bundle, Content, Shelf, write_bundle
from millrace.errors import (
    ArtifactError,
    DigestMismatchError,
    InvalidRequestError,
    MillraceError,
    NotFoundError,
)
from millrace.signature import Signature
from tests.fakes.bundles import bundled

type Tamper = Callable[[dict[str, bytes]], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return bundled(tmp_path / "churn.bundle")


def entries_of(path: Path) -> dict[str, bytes]:
    """The files of an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, entries: dict[str, bytes], *, twice: str = "") -> None:
    """Makes an archive of files, which is a well-formed zip whatever they are."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in entries.items():
            archive.writestr(name, body)
        if twice:
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr(twice, entries[twice])


def manifest_with(path: Path, **fields: object) -> dict[str, bytes]:
    """The archive's files, with other fields in the manifest."""
    entries = entries_of(path)
    entries[MANIFEST] = json.dumps(json.loads(entries[MANIFEST]) | fields).encode()
    return entries


def test_a_bundle_gives_back_what_was_put_in(path: Path) -> None:
    bundle = Bundle.open(path)

    assert (bundle.manifest.model, bundle.manifest.version) == ("churn", 1)
    assert bundle.manifest.format_version == FORMAT_VERSION
    assert Signature.from_json(bundle.read("signature.json")).model == "churn"
    assert bundle.manifest.serving.model_key == bundle.manifest.files[0].key


def test_the_same_version_makes_the_same_bytes(tmp_path: Path) -> None:
    first = bundled(tmp_path / "a" / "churn.bundle")
    second = bundled(tmp_path / "b" / "other-name.bundle")

    assert first.read_bytes() == second.read_bytes()


def test_writing_leaves_nothing_but_the_bundle(tmp_path: Path) -> None:
    bundled(tmp_path / "churn.bundle")

    assert [p.name for p in tmp_path.iterdir()] == ["churn.bundle"]


@pytest.mark.parametrize("name", ["model.onnx", "signature.json", "spec.json"])
def test_a_changed_file_is_found_and_named(path: Path, name: str) -> None:
    entries = entries_of(path)
    changed = bytearray(entries[name])
    changed[len(changed) // 2] ^= 1
    rewrite(path, entries | {name: bytes(changed)})

    with pytest.raises(DigestMismatchError, match=f"{name}: expected sha256"):
        Bundle.open(path)


def _longer(entries: dict[str, bytes]) -> None:
    entries["model.onnx"] += b"\0"


def _shorter(entries: dict[str, bytes]) -> None:
    entries["model.onnx"] = entries["model.onnx"][:-1]


def _without_a_file(entries: dict[str, bytes]) -> None:
    del entries["spec.json"]


def _with_another_file(entries: dict[str, bytes]) -> None:
    entries["hook.py"] = b"print()"


def _without_manifest(entries: dict[str, bytes]) -> None:
    del entries[MANIFEST]


def _with_a_broken_manifest(entries: dict[str, bytes]) -> None:
    entries[MANIFEST] = entries[MANIFEST][:-9]


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_longer, "model.onnx: expected .* bytes"),
        (_shorter, "model.onnx: expected .* bytes"),
        (_without_a_file, "spec.json is missing"),
        (_with_another_file, "hook.py was added"),
        (_without_manifest, "has no manifest.json"),
        (_with_a_broken_manifest, "manifest.json is not JSON"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_an_archive_that_is_not_its_manifest_is_refused(
    path: Path, tamper: Tamper, message: str
) -> None:
    entries = entries_of(path)
    tamper(entries)
    rewrite(path, entries)

    with pytest.raises(ArtifactError, match=message):
        Bundle.open(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "zip"}, "is none of a bundle"),
        ({"format_version": "2.0"}, r"expected format version 1.x, got 2.0"),
        ({"format_version": None}, r"expected format version 1.x"),
        ({"version": 2}, "names churn@2, its serving record churn@1"),
        ({"model": "../churn"}, "model"),
        ({"files": []}, "lacks the model"),
        ({"kind": "other"}, "kind"),
    ],
    ids=lambda value: next(iter(value)) + str(*value.values()) if isinstance(value, dict) else "",
)
def test_a_manifest_that_contradicts_itself_is_refused(
    path: Path, fields: dict[str, object], message: str
) -> None:
    rewrite(path, manifest_with(path, **fields))

    with pytest.raises(ArtifactError, match=message):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.json", "a\\b", "a//b", ".hidden", MANIFEST])
def test_a_manifest_that_names_other_places_is_refused(path: Path, name: str) -> None:
    document = json.loads(entries_of(path)[MANIFEST])
    document["files"][2]["path"] = name
    rewrite(path, manifest_with(path, files=document["files"]))

    with pytest.raises(ArtifactError, match="plain relative paths|there twice"):
        Bundle.open(path)


def test_a_file_that_is_there_twice_is_refused(path: Path) -> None:
    rewrite(path, entries_of(path), twice="model.onnx")

    with pytest.raises(ArtifactError, match="model.onnx is there twice"):
        Bundle.open(path)


def test_fields_and_files_of_a_later_minor_version_are_left_alone(path: Path) -> None:
    document = json.loads(entries_of(path)[MANIFEST])
    sbom = b"{}"
    document["files"].append(
        {
            "path": "sbom.json",
            "role": "sbom",
            "size": 2,
            "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "media_type": "application/json",
        }
    )
    later = manifest_with(path, files=document["files"], format_version="1.7", signed_by="x")
    rewrite(path, later | {"sbom.json": sbom})

    assert Bundle.open(path).read("sbom.json") == sbom


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_goes_unnoticed(path: Path, tmp_path: Path, seed: int) -> None:
    whole = path.read_bytes()
    contents = entries_of(path)
    chance = random.Random(seed)
    damaged_path = tmp_path / "damaged.bundle"
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 8))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        damaged_path.write_bytes(damaged)
        try:
            bundle = Bundle.open(damaged_path)
            found = {f.path: bundle.read(f.path) for f in bundle.manifest.files}
        except MillraceError:
            continue
        # What was hit is the zip's own bookkeeping, or a text of the manifest.
        assert found.items() <= contents.items()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "churn.bundle"
    path.write_bytes(b"PK\3\4 but not really")

    with pytest.raises(ArtifactError, match="damaged or none"):
        Bundle.open(path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        Bundle.open(tmp_path)
    with pytest.raises(NotFoundError, match="there is no file"):
        Bundle.open(tmp_path / "absent.bundle")


def test_an_archive_that_unpacks_to_more_than_it_says_is_refused(path: Path) -> None:
    document = json.loads(entries_of(path)[MANIFEST])
    document["files"][2]["size"] = 10
    entries = manifest_with(path, files=document["files"]) | {"spec.json": b"0" * 10_000_000}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in entries.items():
            archive.writestr(name, body)
    path.write_bytes(packed.getvalue())

    with pytest.raises(DigestMismatchError, match="spec.json: expected 10 bytes"):
        Bundle.open(path)


def test_unsafe_paths_are_not_written(path: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(path).manifest
    with pytest.raises(ArtifactError, match="plain relative paths"):
        write_bundle(
            tmp_path / "x.bundle",
            [Content("../x", "spec", b"")],
            kind="bundle",
            serving=manifest.serving,
            task=manifest.task,
            algorithm=manifest.algorithm,
            trained_at=datetime.now(UTC),
        )


# ── The shelf ───────────────────────────────────────────────────────────────────────────────────


class Noted:
    """What a shelf said of damaged files."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, bool, str]] = []

    def __call__(self, path: Path, before: Bundle | None, error: MillraceError) -> None:
        self.lines.append((path.name, before is not None, str(error)))


def test_the_highest_version_is_champion_and_others_are_there_by_number(tmp_path: Path) -> None:
    shelf = Shelf(
        [bundled(tmp_path / "b.bundle", version=3), bundled(tmp_path / "a.bundle", version=2)],
        on_damage=Noted(),
    )
    shelf.open()

    assert shelf.models() == ("churn",)
    assert shelf.get_serving("churn").version == 3
    assert shelf.get_serving("churn", 2).version == 2
    with pytest.raises(NotFoundError, match="has no version 9"):
        shelf.get_serving("churn", 9)
    with pytest.raises(NotFoundError, match="there is no model absent"):
        shelf.get_serving("absent")


def test_objects_are_read_by_their_keys_in_the_artifact_bucket(path: Path) -> None:
    shelf = Shelf([path], on_damage=Noted())
    shelf.open()
    record = shelf.get_serving("churn")

    assert shelf.read("any", record.model_key) == entries_of(path)["model.onnx"]
    with pytest.raises(NotFoundError, match="no bundle holds"):
        shelf.read("any", "models/other")


def test_a_replaced_bundle_is_picked_up(path: Path) -> None:
    shelf = Shelf([path], on_damage=Noted())
    shelf.open()

    bundled(path, version=2)

    assert shelf.get_serving("churn").version == 2


def test_a_folder_is_followed_as_bundles_come_and_go(tmp_path: Path) -> None:
    first = bundled(tmp_path / "churn.bundle")
    shelf = Shelf([tmp_path], on_damage=Noted())
    shelf.open()

    bundled(tmp_path / "price.bundle", model="price")
    first.unlink()
    shelf.look()

    assert shelf.models() == ("price",)


def test_a_damaged_replacement_leaves_the_last_good_one_and_is_told_once(path: Path) -> None:
    noted = Noted()
    shelf = Shelf([path], on_damage=noted)
    shelf.open()
    before = shelf.get_serving("churn")

    path.write_bytes(path.read_bytes()[:-40])

    assert shelf.get_serving("churn") == before
    assert shelf.get_serving("churn") == before
    ((name, kept, error),) = noted.lines
    assert (name, kept) == ("churn.bundle", True)
    assert "damaged" in error


def test_two_bundles_of_one_version_that_differ_are_refused(tmp_path: Path) -> None:
    paths = [bundled(tmp_path / "a.bundle"), bundled(tmp_path / "b.bundle", bias=9.0)]

    with pytest.raises(ArtifactError, match="both hold churn@1, and differ"):
        Shelf(paths, on_damage=Noted()).open()


def test_a_shelf_does_not_start_without_bundles_or_with_damaged_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="found none"):
        Shelf([tmp_path], on_damage=Noted()).open()
    (tmp_path / "bad.bundle").write_bytes(b"no zip")
    with pytest.raises(ArtifactError, match="bad.bundle"):
        Shelf([tmp_path], on_damage=Noted()).open()
    with pytest.raises(NotFoundError, match="there is no file"):
        Shelf([tmp_path / "absent.bundle"], on_damage=Noted()).open()
