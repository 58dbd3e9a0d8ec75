"""Releases: one build, packed and uploaded once, and a manifest that says what belongs to it."""

import hashlib
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.delivery.place import Place
from infra.delivery.stack import parse_template
from infra.delivery.store import ArtifactStore, sha256_of
from millrace.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    DigestMismatchError,
    InvalidRequestError,
    NotFoundError,
)
from millrace_cli.deploy import ask_git, code_version, run_tool, sam_executable
from millrace_cli.packing import packed_folders

TEMPLATE_FILE = "template.yaml"
MANIFEST_FILE = "release.json"

_PACKED = {
    "AWS::Serverless::Function": "CodeUri",
    "AWS::Serverless::LayerVersion": "ContentUri",
}
"""Properties that name a built folder."""
_FILES = {"AWS::Serverless::StateMachine": "DefinitionUri"}
"""Properties that name a file."""
_LOCATIONS = frozenset(
    {"CodeUri", "ContentUri", "DefinitionUri", "DefinitionS3Location", "TemplateURL", "Location"}
)
_VERSION = re.compile(r"[A-Za-z0-9._+-]{1,64}")

Say = Callable[[str], None]


class Artifact(BaseModel):
    """One uploaded file.

    Attributes:
        name: The resource it belongs to.
        key: Where it is in the bucket.
        sha256: Digest of its bytes.
        size: How many bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Release(BaseModel):
    """What is deployed: the same bytes on every stage.

    Attributes:
        version: ``git describe``, or what was chosen; a build of changed files carries a digest.
        commit: The commit in full, empty outside of git.
        dirty: Whether files were changed since that commit.
        created: When it was packaged.
        region: Region of its bucket, hence of every stack it may be deployed to.
        bucket: Where its artifacts are.
        template: The template with the artifacts' addresses in it.
        artifacts: Functions and the state machine's definition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    version: str = Field(pattern=rf"^{_VERSION.pattern}$")
    commit: str
    dirty: bool
    created: datetime
    region: str
    bucket: str
    template: Artifact
    artifacts: tuple[Artifact, ...]

    @property
    def size(self) -> int:
        """Bytes of all artifacts."""
        return sum(a.size for a in self.artifacts)

    def same_bytes(self, other: Self) -> bool:
        """Whether both are made of the same bytes."""
        return self.template.sha256 == other.template.sha256 and {
            (a.name, a.sha256) for a in self.artifacts
        } == {(a.name, a.sha256) for a in other.artifacts}

    def as_document(self) -> dict[str, Any]:
        """For release.json."""
        return self.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A release with its template at hand."""

    release: Release
    folder: Path

    @property
    def template(self) -> Path:
        """The template to deploy."""
        return self.folder / TEMPLATE_FILE

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that the template declares."""
        template = parse_template(self.template.read_text(encoding="utf-8"))
        declared: dict[str, Any] = template.get("Parameters", {})
        return declared


@dataclass(frozen=True, slots=True)
class Packaged:
    """What packaging did: the release, and how much of it had to be uploaded."""

    on_disk: OnDisk
    uploaded: tuple[Artifact, ...]
    reused: tuple[Artifact, ...]


def package(
    *,
    project: Path,
    build: Path,
    folder: Path,
    place: Place,
    store: ArtifactStore,
    version: str | None,
    say: Say,
    now: datetime,
) -> Packaged:
    """Packs a finished build, uploads what the bucket lacks, and writes the release.

    Args:
        project: The checkout, asked for its version.
        build: ``sam build``'s result.
        folder: Where template.yaml and release.json go.
        place: Account and region.
        store: The bucket for artifacts.
        version: A version to give instead of git's.
        say: Told what is being done.
        now: The release's time.

    Raises:
        ConfigurationError: Nothing is built.
        ConflictError: The version was packaged before, from other bytes.
        InvalidRequestError: The version cannot be one.
    """
    template_file = build / TEMPLATE_FILE
    if not template_file.exists():
        raise ConfigurationError(f"nothing is built in {build}: run `make build`")
    say("packing the built functions")
    template = parse_template(template_file.read_text(encoding="utf-8"))
    files = _local_files(template, build, project / ".millrace" / "packages")
    artifacts: list[Artifact] = []
    uploaded: list[Artifact] = []
    for name, (holder, key_name, path) in files.items():
        digest = sha256_of(path)
        key = f"artifacts/{digest}{_suffix(path)}"
        artifact = Artifact(name=name, key=key, sha256=digest, size=path.stat().st_size)
        say(f"{name}: {artifact.size / 1e6:.1f} MB")
        if store.put_file(key, path, digest):
            uploaded.append(artifact)
        artifacts.append(artifact)
        holder[key_name] = store.uri(key)
    _refuse_local_paths(template)
    say("sam package")
    content = _as_sam_sends_it(template, project, place, store)
    digest = hashlib.sha256(content).hexdigest()
    dirty = bool(ask_git(project, "status", "--porcelain"))
    named = _version(version or code_version(project), digest, dirty=dirty and not version)
    release = Release(
        version=named,
        commit=ask_git(project, "rev-parse", "HEAD"),
        dirty=dirty,
        created=now.astimezone(UTC).replace(microsecond=0),
        region=place.region,
        bucket=store.bucket,
        template=Artifact(
            name=TEMPLATE_FILE,
            key=f"releases/{named}/{TEMPLATE_FILE}",
            sha256=digest,
            size=len(content),
        ),
        artifacts=tuple(artifacts),
    )
    folder.mkdir(parents=True, exist_ok=True)
    on_disk = OnDisk(_publish(release, content, store, folder), folder)
    reused = tuple(a for a in artifacts if a not in uploaded)
    return Packaged(on_disk, tuple(uploaded), reused)


def _as_sam_sends_it(
    template: dict[str, Any], project: Path, place: Place, store: ArtifactStore
) -> bytes:
    """The template as ``sam deploy`` will hand it on, so that a plan compares like with like.

    SAM writes into every resource's metadata which one it was.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-package-") as folder:
        source, target = Path(folder) / "in.yaml", Path(folder) / "out.yaml"
        source.write_text(yaml.safe_dump(template, sort_keys=False, width=100), encoding="utf-8")
        # Settings of its own: those of samconfig.toml are for templates with local paths.
        settings = Path(folder) / "samconfig.toml"
        settings.write_text("version = 0.1\n", encoding="utf-8")
        command = [
            str(sam_executable(project)),
            "package",
            "--template-file",
            str(source),
            "--output-template-file",
            str(target),
            "--config-file",
            str(settings),
            "--s3-bucket",
            store.bucket,
            "--s3-prefix",
            "artifacts",
            "--region",
            place.region,
            "--no-progressbar",
        ]
        run_tool(command, project, place.environment(), lambda _: None)
        return target.read_bytes()


def load(folder: Path) -> OnDisk:
    """Reads a release from its folder and checks that its template is its own.

    Raises:
        NotFoundError: There is no release there.
        InvalidRequestError: The manifest is damaged.
        DigestMismatchError: The template was changed after packaging.
    """
    manifest = folder / MANIFEST_FILE
    if not manifest.exists() or not (folder / TEMPLATE_FILE).exists():
        raise NotFoundError(
            f"there is no release in {folder}: expected {MANIFEST_FILE} and {TEMPLATE_FILE}; make one "
            "(`make package`), or hand on the folder of the job that did"
        )
    release = parse_manifest(manifest.read_bytes(), str(manifest))
    found = sha256_of(folder / TEMPLATE_FILE)
    if found != release.template.sha256:
        raise DigestMismatchError(
            f"{folder / TEMPLATE_FILE} was changed after packaging: it has sha256 {found[:12]}…, the "
            f"release says {release.template.sha256[:12]}…; change the source and package again"
        )
    return OnDisk(release, folder)


def parse_manifest(body: bytes, where: str) -> Release:
    """A release manifest from JSON.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        return Release.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise InvalidRequestError(
            f"{where} is damaged: {place}: {first['msg']}; package again (`make package`)"
        ) from exc


def fetch(store: ArtifactStore, version: str, folder: Path) -> OnDisk:
    """Brings a release from the bucket.

    Raises:
        NotFoundError: The bucket has none of that version.
    """
    try:
        manifest = store.read(f"releases/{version}/{MANIFEST_FILE}")
        template = store.read(f"releases/{version}/{TEMPLATE_FILE}")
    except NotFoundError as exc:
        known = versions(store)
        raise NotFoundError(
            f"the bucket {store.bucket} has no release {version!r}; "
            + (f"it has {', '.join(known[-8:])}" if known else "it has none at all")
        ) from exc
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TEMPLATE_FILE).write_bytes(template)
    (folder / MANIFEST_FILE).write_bytes(manifest)
    return load(folder)


def versions(store: ArtifactStore) -> list[str]:
    """The versions of the releases in the bucket."""
    return [
        key.split("/")[1] for key in store.keys("releases/") if key.endswith(f"/{MANIFEST_FILE}")
    ]


def refuse_elsewhere(release: Release, place: Place, given_bucket: str | None) -> None:
    """Refuses a release that was made for another region or bucket.

    Raises:
        InvalidRequestError: It was.
    """
    if release.region != place.region:
        raise InvalidRequestError(
            f"release {release.version} was packaged for {release.region} and this deployment goes "
            f"to {place.region}: Lambda takes code only from its own region; deploy with "
            f"AWS_REGION={release.region}, or package again with AWS_REGION={place.region}"
        )
    if given_bucket and given_bucket != release.bucket:
        raise InvalidRequestError(
            f"release {release.version} is in bucket {release.bucket} and ARTIFACT_BUCKET says "
            f"{given_bucket}: leave ARTIFACT_BUCKET out, or package again into it"
        )


def verify(release: Release, store: ArtifactStore, say: Say) -> None:
    """Compares everything of a release in the bucket with its manifest.

    Raises:
        NotFoundError: Something is gone.
        DigestMismatchError: Something is other than what was built.
    """
    for artifact in (release.template, *release.artifacts):
        say(artifact.name)
        store.verify(artifact.key, artifact.sha256, artifact.name)


def _publish(release: Release, template: bytes, store: ArtifactStore, folder: Path) -> Release:
    (folder / TEMPLATE_FILE).write_bytes(template)
    key = f"releases/{release.version}/{MANIFEST_FILE}"
    if store.digest(key) is None:
        store.put_file(release.template.key, folder / TEMPLATE_FILE, release.template.sha256)
        try:
            store.put_document(key, release.as_document(), once=True)
        except AlreadyExistsError:
            release = _published(release, store, key)
    else:
        release = _published(release, store, key)
    (folder / MANIFEST_FILE).write_text(release.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return release


def _published(release: Release, store: ArtifactStore, key: str) -> Release:
    """The release of that version in the bucket, if it is this one."""
    there = parse_manifest(store.read(key), store.uri(key))
    if there.same_bytes(release):
        return there
    before = {a.name: a.sha256 for a in (there.template, *there.artifacts)}
    other = [
        a.name for a in (*release.artifacts, release.template) if before.get(a.name) != a.sha256
    ]
    raise ConflictError(
        f"release {release.version} is in the bucket already, made of other bytes "
        f"({', '.join(other)} differ): a release never changes; commit, or name this one with "
        "VERSION=…"
    )


def _local_files(
    template: dict[str, Any], build: Path, packages: Path
) -> dict[str, tuple[dict[str, Any], str, Path]]:
    """What has to be uploaded: the resource, the property that names it, and the file."""
    folders: dict[str, tuple[dict[str, Any], str, str]] = {}
    files: dict[str, tuple[dict[str, Any], str, Path]] = {}
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        kind = resource["Type"]
        if isinstance(properties.get(_PACKED.get(kind, "")), str):
            key = _PACKED[kind]
            folders[name] = (properties, key, properties[key])
        elif isinstance(properties.get(_FILES.get(kind, "")), str):
            path = (build / properties[_FILES[kind]]).resolve()
            if not path.is_file():
                raise ConfigurationError(f"{name}: {path} is missing: run `make build`")
            files[name] = (properties, _FILES[kind], path)
    packed = packed_folders(build, packages, {folder for _, _, folder in folders.values()})
    return {
        name: (holder, key, packed[folder]) for name, (holder, key, folder) in folders.items()
    } | files


def _refuse_local_paths(template: dict[str, Any]) -> None:
    """`sam deploy` would upload such a file anew with every deployment: not build once."""
    for name, resource in template["Resources"].items():
        for key, value in resource.get("Properties", {}).items():
            if key in _LOCATIONS and isinstance(value, str) and not _REMOTE.match(value):
                raise ConfigurationError(
                    f"{name}: {key} names the local file {value!r}, which packaging does not know "
                    "how to upload: teach infra/delivery/release.py"
                )


_REMOTE = re.compile(r"(s3|https?|arn)[:]")


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if path.name.endswith((".yaml", ".json")) else path.suffix


def _version(described: str, digest: str, *, dirty: bool) -> str:
    """A version that is also a key and a parameter's value."""
    named = re.sub(r"[^A-Za-z0-9._+-]", "-", described)
    if dirty:
        # Two builds of changed files are two releases.
        base = named.removesuffix("-dirty")
        named = f"{base[:48]}-dirty.{digest[:8]}"
    if not _VERSION.fullmatch(named) or named in (".", ".."):
        raise InvalidRequestError(
            f"expected a version of 1 to 64 letters, digits and . _ + -, got {described!r}"
        )
    return named
