"""The bundle: one model version as one file, for serving it without the cloud that trained it.

A bundle is a zip archive. Its first entry is ``manifest.json``: what the bundle is, the model's
serving record as the registry holds it, and every other file with its size, its SHA-256 and the
key it has in the artifact bucket. So the registry's record stays true inside a bundle: whoever
reads objects by key reads the same bytes here as there.

The archive is a function of its content: entries in order, stored as they are (what a compressor
makes differs between its versions), at one fixed time, with one mode. The same version exported
twice gives the same file.

Reading trusts nothing: an archive with entries that the manifest does not name, without some that
it does, with a name twice, with a file of another size or digest, is refused, and the message
names the file. What the digests cannot show is a bundle made by somebody else altogether: compare
the digest of the whole file, which ``millrace export`` prints, or let the key of the environment
that made it tell (`public_key.attestation_by`).

``format_version`` is MAJOR.MINOR. A reader takes every minor version of its major one: later ones
may add files and fields, which it checks against their digests and otherwise leaves alone.
"""

import hashlib
import json
import os
import re
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace.decoding import in_words, wrong_fields
from millrace.errors import (
    ArtifactError,
    DigestMismatchError,
    InvalidRequestError,
    MillraceError,
    NotFoundError,
)
from millrace.registry.serving import Offer, ServingRecord
from millrace.vocabulary import MODEL_NAME_PATTERN, Algorithm, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT: Final = "millrace-bundle"
FORMAT_VERSION: Final = "1.2"
MANIFEST: Final = "manifest.json"
SUFFIX: Final = ".bundle"
MAX_MANIFEST_BYTES: Final = 1_000_000
MAX_FILE_BYTES: Final = 2 * 2**30
"""An archive whose file claims more is refused before it is read."""

_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644
_CHUNK: Final = 2**20
_SAFE_PATH: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
_ZIP_ERRORS: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)

Kind = Literal["bundle", "edge"]
"""``bundle`` for `millrace serve`; ``edge`` with examples, for a program of one's own."""

Role = Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,39}$")]
"""What a file is: ``model``, ``signature``, ``spec``, ``environment``, ``evaluation``,
``reference``, ``document``, ``example``, and since 1.1 ``record`` (the version as it is registered,
and who approved it), ``bom`` (the bill of materials), ``statement`` and ``seal`` (what KMS signed,
and its signature), since 1.2 ``baseline`` (what monitoring compares with); later versions of the
format may know more."""


class _Frozen(BaseModel):
    # Fields of a later minor version are left alone.
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class BundledFile(_Frozen):
    """One file of a bundle."""

    path: str
    role: Role
    size: int = Field(ge=0, le=MAX_FILE_BYTES)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    key: str = ""
    """Its key in the artifact bucket; empty for a file that was made for the bundle."""


class Manifest(_Frozen):
    """What a bundle says of itself."""

    format: Literal["millrace-bundle"]
    format_version: str = Field(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")
    kind: Kind
    model: str = Field(pattern=MODEL_NAME_PATTERN)
    version: int = Field(ge=1)
    task: Task
    algorithm: Algorithm
    trained_at: datetime
    serving: ServingRecord
    """The registry's record; its keys are those of `files`."""
    files: tuple[BundledFile, ...]

    def of_role(self, role: str) -> BundledFile | None:
        """The first file of a role."""
        return next((f for f in self.files if f.role == role), None)


@dataclass(frozen=True, slots=True)
class Content:
    """One file to put into a bundle.

    Attributes:
        path: Its name in the archive.
        role: What it is.
        body: Its bytes.
        key: Its key in the artifact bucket, if it has one.
    """

    path: str
    role: str
    body: bytes
    key: str = ""


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────


def default_name(model: str, version: int, kind: Kind = "bundle") -> str:
    """What an exported file is called: ``churn-3.bundle``, ``churn-3-edge.zip``."""
    return f"{model}-{version}{SUFFIX if kind == 'bundle' else '-edge.zip'}"


def write_bundle(
    path: Path,
    contents: Iterable[Content],
    *,
    kind: Kind,
    serving: ServingRecord,
    task: Task,
    algorithm: Algorithm,
    trained_at: datetime,
) -> Manifest:
    """Writes a bundle; the same arguments give the same bytes.

    The file appears whole or not at all, so that a running server never reads half of one.

    Args:
        path: Where to; an existing file is replaced.
        contents: The files, in the order they are to have.
        kind: What it is for.
        serving: The version's serving record.
        task: What the model does.
        algorithm: What it is.
        trained_at: When the version was registered.

    Raises:
        ArtifactError: A path is no plain relative path, or there twice.
    """
    files = tuple(contents)
    _refuse_unsafe([c.path for c in files], str(path))
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        kind=kind,
        model=serving.model,
        version=serving.version,
        task=task,
        algorithm=algorithm,
        trained_at=trained_at,
        serving=serving,
        files=tuple(
            BundledFile(
                path=c.path,
                role=c.role,
                size=len(c.body),
                sha256=hashlib.sha256(c.body).hexdigest(),
                key=c.key,
            )
            for c in files
        ),
    )
    document = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_entry(MANIFEST), document + "\n")
            for content in files:
                archive.writestr(_entry(content.path), content.body)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.create_system = 3
    entry.external_attr = _MODE << 16
    return entry


def _refuse_unsafe(names: Sequence[str], what: str) -> None:
    for name in names:
        if not _SAFE_PATH.match(name) or len(name) > 200:
            raise ArtifactError(f"{what}: expected plain relative paths, got {name[:200]!r}")
    twice = sorted({n for n in names if names.count(n) > 1} | ({MANIFEST} & set(names)))
    if twice:
        raise ArtifactError(f"{what}: {', '.join(twice)} is there twice")


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose every file was found to be what its manifest says.

    Attributes:
        path: The file.
        manifest: What it says of itself.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Reads a bundle and checks all of it.

        Raises:
            ArtifactError: It is no bundle, or of another format, or lacks or adds a file.
            DigestMismatchError: A file is not the one that was exported; the message names it.
            NotFoundError: There is no such file.
        """
        with _archive(path) as archive:
            manifest = _manifest(archive, path)
            _compare_names(archive, manifest, path)
            for file in manifest.files:
                _checked(archive, file, path, keep=False)
        return cls(path, manifest)

    def read_role(self, role: str) -> bytes:
        """The bytes of the file of a role.

        Raises:
            NotFoundError: The bundle has none.
            DigestMismatchError: It is not the one that was exported.
        """
        file = next((f for f in self.manifest.files if f.role == role), None)
        if file is None:
            raise NotFoundError(f"{self.path}: the bundle has no file of the role {role}")
        return self.read(file.path)

    def read(self, name: str) -> bytes:
        """The bytes of a file, checked again: the archive may have been replaced since.

        Args:
            name: Its path in the archive.

        Raises:
            NotFoundError: The bundle has no such file.
            DigestMismatchError: It is not the one that was exported.
            ArtifactError: The archive is damaged.
        """
        file = next((f for f in self.manifest.files if f.path == name), None)
        if file is None:
            raise NotFoundError(f"{self.path}: the bundle has no file {name}")
        with _archive(self.path) as archive:
            return _checked(archive, file, self.path, keep=True)


@contextmanager
def _archive(path: Path) -> "Iterator[zipfile.ZipFile]":
    """An open archive; whatever is wrong with it is an error of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as exc:
        raise NotFoundError(f"there is no file {path}") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except _ZIP_ERRORS as exc:
        raise ArtifactError(f"{path}: the archive is damaged or none: {exc}") from exc


def _manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    try:
        entry = archive.getinfo(MANIFEST)
    except KeyError as exc:
        raise ArtifactError(
            f"{path}: the archive has no {MANIFEST}, so it is no bundle (millrace export makes one)"
        ) from exc
    if entry.file_size > MAX_MANIFEST_BYTES:
        raise ArtifactError(
            f"{path}: expected a {MANIFEST} of at most {MAX_MANIFEST_BYTES:,} bytes, "
            f"got {entry.file_size:,}"
        )
    try:
        document = json.loads(archive.read(entry))
    except ValueError as exc:
        raise ArtifactError(f"{path}: {MANIFEST} is not JSON: {exc}") from exc
    _refuse_other_formats(document, path)
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as exc:
        raise ArtifactError(f"{path}: {MANIFEST}: {in_words(wrong_fields(exc))}") from None
    _refuse_unsafe([f.path for f in manifest.files], f"{path}: {MANIFEST}")
    serving = manifest.serving
    if (serving.model, serving.version) != (manifest.model, manifest.version):
        raise ArtifactError(
            f"{path}: {MANIFEST} names {manifest.model}@{manifest.version}, "
            f"its serving record {serving.model}@{serving.version}"
        )
    known = {f.key: f.sha256 for f in manifest.files if f.key}
    for key, digest, role in (
        (serving.model_key, serving.sha256, "model"),
        (serving.signature_key, serving.signature_sha256, "signature"),
    ):
        if known.get(key) != digest:
            raise ArtifactError(f"{path}: the bundle lacks the {role} that its record names")
    return manifest


def _refuse_other_formats(document: Any, path: Path) -> None:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtifactError(f"{path}: {MANIFEST} is none of a bundle of format {FORMAT}")
    came = str(document.get("format_version", "none"))
    wanted = FORMAT_VERSION.partition(".")[0]
    if came.partition(".")[0] != wanted:
        raise ArtifactError(
            f"{path}: expected format version {wanted}.x, got {came[:20]}: export it anew, or use "
            "the Millrace that made it"
        )


def _compare_names(archive: zipfile.ZipFile, manifest: Manifest, path: Path) -> None:
    names = [e.filename for e in archive.infolist()]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ArtifactError(f"{path}: {twice[0]} is there twice")
    named = {MANIFEST, *(f.path for f in manifest.files)}
    missing = sorted(named.difference(names))
    if missing:
        raise ArtifactError(f"{path}: {missing[0]} is missing, which {MANIFEST} names")
    added = sorted(set(names) - named)
    if added:
        raise ArtifactError(f"{path}: {added[0][:200]} was added: {MANIFEST} does not name it")


def _checked(archive: zipfile.ZipFile, file: BundledFile, path: Path, *, keep: bool) -> bytes:
    """Reads one file against its size and digest, never more than it claims."""
    entry = archive.NameToInfo.get(file.path)
    if entry is None:
        raise ArtifactError(f"{path}: {file.path} is missing, which {MANIFEST} names")
    if entry.file_size != file.size:
        raise DigestMismatchError(
            f"{path}: {file.path}: expected {file.size:,} bytes, got {entry.file_size:,}"
        )
    digest, parts = hashlib.sha256(), []
    try:
        with archive.open(entry) as stream:
            for part in _parts(stream, file.size):
                digest.update(part)
                if keep:
                    parts.append(part)
    except zipfile.BadZipFile as exc:
        # The checksum of the zip format itself.
        raise DigestMismatchError(f"{path}: {file.path} is damaged: {exc}") from exc
    if digest.hexdigest() != file.sha256:
        raise DigestMismatchError(
            f"{path}: {file.path}: expected sha256 {file.sha256}, got {digest.hexdigest()}"
        )
    return b"".join(parts)


def _parts(stream: IO[bytes], size: int) -> "Iterator[bytes]":
    left = size + 1  # one more than it claims: a longer file then has another digest
    while left and (part := stream.read(min(_CHUNK, left))):
        left -= len(part)
        yield part


# ── Serving ─────────────────────────────────────────────────────────────────────────────────────

type _Stamp = tuple[int, int, int]


@dataclass(slots=True)
class _Place:
    """One file of the shelf, as it was when it was looked at last."""

    stamp: _Stamp
    bundle: Bundle | None = None
    error: MillraceError | None = None


@dataclass(slots=True)
class _View:
    """What the shelf offers, by model and version."""

    versions: dict[str, dict[int, Bundle]] = field(default_factory=dict)

    def of(self, model: str) -> Mapping[int, Bundle]:
        return self.versions.get(model, {})


class Shelf:
    """Bundles on disk as the source and the objects of a `serving.store.ModelStore`.

    Of several versions of a model the highest is its champion. Files are looked at again whenever
    the store asks what to serve, and read only when they changed: a bundle that is replaced is
    picked up, one that is added to a folder too, and a removed one is no longer served. A
    replacement that is damaged leaves the last good one in its place and is told to `on_damage`.

    Args:
        paths: Bundle files, and folders of them.
        on_damage: Is told, once, of a file that cannot be served, and why.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        on_damage: Callable[[Path, Bundle | None, MillraceError], None],
    ) -> None:
        self._paths = tuple(paths)
        self._on_damage = on_damage
        self._lock = threading.Lock()
        self._places: dict[Path, _Place] = {}
        self._view = _View()

    def open(self) -> None:
        """Reads every bundle for the first time.

        Raises:
            ArtifactError: One is damaged, or two hold the same version of the same model.
            NotFoundError: One is not there.
            InvalidRequestError: There is none at all.
        """
        for path in self._paths:
            if not path.is_dir():
                Bundle.open(path)
        self.look()
        for place in self._places.values():
            if place.error is not None:
                raise place.error
        if not self._view.versions:
            folders = ", ".join(str(p) for p in self._paths)
            raise InvalidRequestError(
                f"expected at least one {SUFFIX} file, found none in {folders}: "
                "millrace export makes one"
            )

    def look(self) -> None:
        """Looks at the files again and reads those that changed."""
        with self._lock:
            found: dict[Path, _Place] = {}
            for path in self._files():
                stamp = _stamp(path)
                if stamp is not None:
                    found[path] = self._place(path, stamp)
            self._places = found
            self._view = self._arranged()

    def _files(self) -> list[Path]:
        files: list[Path] = []
        for path in self._paths:
            files += sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        return list(dict.fromkeys(files))

    def _place(self, path: Path, stamp: _Stamp) -> _Place:
        before = self._places.get(path)
        if before is not None and before.stamp == stamp:
            return before
        good = before.bundle if before else None
        try:
            return _Place(stamp, Bundle.open(path))
        except MillraceError as exc:
            self._on_damage(path, good, exc)
            return _Place(stamp, good, exc)

    def _arranged(self) -> _View:
        view = _View()
        for path, place in self._places.items():
            if place.bundle is None:
                continue
            manifest = place.bundle.manifest
            versions = view.versions.setdefault(manifest.model, {})
            twin = versions.setdefault(manifest.version, place.bundle)
            if twin is not place.bundle and twin.manifest != manifest and place.error is None:
                place.error = ArtifactError(
                    f"{path} and {twin.path} both hold {manifest.model}@{manifest.version}, "
                    "and differ"
                )
                self._on_damage(path, None, place.error)
        return view

    def models(self) -> tuple[str, ...]:
        """The models that can be served."""
        return tuple(sorted(self._view.versions))

    def bundles(self) -> tuple[Bundle, ...]:
        """Every bundle that can be served, by model and version."""
        view = self._view
        return tuple(
            view.versions[model][version]
            for model in sorted(view.versions)
            for version in sorted(view.versions[model])
        )

    def get_serving(self, model: str, version: int | None = None) -> ServingRecord:
        """See `serving.store.ServingSource`.

        Raises:
            NotFoundError: No bundle holds the model or the version.
        """
        self.look()
        versions = self._view.of(model)
        if not versions:
            raise NotFoundError(f"there is no model {model}")
        found = versions.get(max(versions) if version is None else version)
        if found is None:
            raise NotFoundError(f"model {model} has no version {version} here")
        return found.manifest.serving

    def list_serving(self) -> Sequence[Offer]:
        """Every model, by name, with its champion."""
        self.look()
        versions = self._view.versions
        return tuple(Offer(model, max(versions[model])) for model in sorted(versions))

    def read(self, bucket: str, key: str) -> bytes:  # noqa: ARG002 - there is one place here
        """The bytes that have this key in the artifact bucket.

        Raises:
            NotFoundError: No bundle has them.
            ArtifactError: The bundle was damaged since.
        """
        for bundle in self.bundles():
            for file in bundle.manifest.files:
                if file.key == key:
                    return bundle.read(file.path)
        raise NotFoundError(f"no bundle holds {key}")


def _stamp(path: Path) -> _Stamp | None:
    """What changes with a file; None when it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
