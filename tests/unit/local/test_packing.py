"""Packages of built functions for the embedded cloud."""

import os
import zipfile
from pathlib import Path

import pytest

from millrace.errors import ConfigurationError
from millrace_cli.packing import packed_template

TEMPLATE = """\
Resources:
  TriggerFunction:
    Properties:
      CodeUri: TriggerFunction
  Machine:
    Properties:
      DefinitionUri: ../../machine.yaml
"""


@pytest.fixture
def build(tmp_path: Path) -> Path:
    folder = tmp_path / "build"
    (folder / "TriggerFunction" / "package").mkdir(parents=True)
    (folder / "TriggerFunction" / "handler.py").write_text("x = 1\n")
    (folder / "TriggerFunction" / "package" / "data.txt").write_text("y\n")
    (folder / "template.yaml").write_text(TEMPLATE)
    return folder


def _package(build: Path) -> Path:
    [package] = (build.parent / "packages").glob("*.zip")
    return package


def test_the_template_names_the_packages_and_keeps_the_rest(build: Path) -> None:
    template = packed_template(build, build.parent / "packages")

    assert template.parent == build
    expected = TEMPLATE.replace("CodeUri: TriggerFunction", f"CodeUri: {_package(build)}")
    assert template.read_text() == expected
    assert (build / "template.yaml").read_text() == TEMPLATE


def test_a_package_holds_every_file(build: Path) -> None:
    packed_template(build, build.parent / "packages")

    with zipfile.ZipFile(_package(build)) as archive:
        assert archive.namelist() == ["handler.py", "package/data.txt"]
        assert archive.read("handler.py") == b"x = 1\n"


def test_what_did_not_change_is_not_packed_again(build: Path) -> None:
    packed_template(build, build.parent / "packages")
    before = _package(build).stat().st_mtime_ns

    packed_template(build, build.parent / "packages")

    assert _package(build).stat().st_mtime_ns == before


def test_what_changed_replaces_its_package(build: Path) -> None:
    packed_template(build, build.parent / "packages")
    before = _package(build)
    (build / "TriggerFunction" / "handler.py").write_text("x = 22\n")

    packed_template(build, build.parent / "packages")

    assert _package(build) != before
    with zipfile.ZipFile(_package(build)) as archive:
        assert archive.read("handler.py") == b"x = 22\n"


def test_a_build_that_wrote_the_same_again_is_not_packed_again(build: Path) -> None:
    packed_template(build, build.parent / "packages")
    before = _package(build).stat().st_mtime_ns
    os.utime(build / "TriggerFunction" / "handler.py", (1, 1))

    packed_template(build, build.parent / "packages")

    assert _package(build).stat().st_mtime_ns == before


def test_a_missing_build_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing is built"):
        packed_template(tmp_path, tmp_path / "packages")


def test_an_unfinished_build_is_named(build: Path) -> None:
    (build / "TriggerFunction").rename(build / "elsewhere")

    with pytest.raises(ConfigurationError, match="TriggerFunction is missing"):
        packed_template(build, build.parent / "packages")
