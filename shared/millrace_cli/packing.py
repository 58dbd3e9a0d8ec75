"""Packs built functions once, for every deployment of them.

``sam deploy`` compresses every function each time, which on two cores is most of a local
deployment, and to other bytes each time. Here a function is packed when its files changed, and byte
for byte the same for the same files, so that nothing is uploaded or unpacked again either, and a
release is named by its bytes.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from millrace.errors import ConfigurationError

EPOCH = (1980, 1, 1, 0, 0, 0)
CODE_URI = re.compile(r"^(?P<key>\s+CodeUri:\s+)(?P<folder>\w+)\s*$", re.MULTILINE)
TEMPLATE = "template.packed.yaml"


def packed_template(build: Path, packages: Path) -> Path:
    """Packs what changed of a build, and writes its template with the packages in place.

    Args:
        build: Folder of a finished ``sam build``.
        packages: Folder for the packages, kept between deployments.

    Returns:
        The template, beside the built one since its other paths are relative.

    Raises:
        ConfigurationError: Nothing is built, or the build is not finished.
    """
    built = build / "template.yaml"
    if not built.exists():
        raise ConfigurationError(f"nothing is built in {build}: run `make build`")
    text = built.read_text()
    paths = packed_folders(build, packages, {found["folder"] for found in CODE_URI.finditer(text)})
    packed = CODE_URI.sub(lambda found: f"{found['key']}{paths[found['folder']]}", text)
    target = build / TEMPLATE
    return _write(target, packed.encode())


def packed_folders(build: Path, packages: Path, folders: Iterable[str]) -> dict[str, Path]:
    """Packs the folders of a build that changed since they were packed last.

    Args:
        build: Folder of a finished ``sam build``.
        packages: Folder for the packages, kept between deployments.
        folders: Names of the folders in the build.

    Returns:
        The package of each folder.

    Raises:
        ConfigurationError: The build is not finished.
    """
    names = sorted(folders)
    for name in names:
        if not (build / name).is_dir():
            raise ConfigurationError(f"{name} is missing in {build}: run `make build`")
    packages.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(
            zip(names, pool.map(lambda name: _packed(build / name, packages), names), strict=True)
        )


def _packed(folder: Path, packages: Path) -> Path:
    files = list(_files(folder))
    target = packages / f"{folder.name}-{_fingerprint(folder, files)}.zip"
    if target.exists():
        return target.resolve()
    partial = target.with_suffix(f".{os.getpid()}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), EPOCH)
            entry.external_attr = (0o755 if os.access(file, os.X_OK) else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes(), compresslevel=1)
    partial.replace(target)
    for old in packages.glob(f"{folder.name}-*.zip"):
        if old != target:
            old.unlink(missing_ok=True)
    return target.resolve()


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _fingerprint(folder: Path, files: list[Path]) -> str:
    """Changes when a file is added, removed or changed; a build that wrote the same again does not.

    Every build writes Millrace's own files anew, so times tell nothing, and reading is a tenth of
    packing.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as body:
            content = hashlib.file_digest(body, "sha256").hexdigest()
        name = file.relative_to(folder).as_posix()
        digest.update(f"{name}\0{content}\0{os.access(file, os.X_OK)}\n".encode())
    return digest.hexdigest()[:16]


def _write(target: Path, content: bytes) -> Path:
    partial = target.with_suffix(f".{os.getpid()}")
    partial.write_bytes(content)
    return partial.replace(target)
