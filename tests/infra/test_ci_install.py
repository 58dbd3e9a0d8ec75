"""Putting a pipeline where its provider looks for it."""

from pathlib import Path

import pytest

from infra.ci.install import PLACES, install, main
from millrace.errors import AlreadyExistsError
from tests.infra.pipelines import FOLDER, PROVIDERS

WANTED = {
    "github": {
        ".github/workflows/audit.yml",
        ".github/workflows/deliver.yml",
        ".github/workflows/rollback.yml",
    },
    "gitlab": {".gitlab-ci.yml"},
    "circleci": {".circleci/config.yml"},
    "jenkins": {"Jenkinsfile"},
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_pipeline_is_put_where_its_provider_looks(provider: str, tmp_path: Path) -> None:
    done = install(provider, tmp_path)

    assert {str(path) for path, changed in done if changed} == WANTED[provider]
    for path, _ in done:
        assert (tmp_path / path).read_bytes() == (FOLDER / provider / path.name).read_bytes()


def test_putting_it_in_place_again_changes_nothing(tmp_path: Path) -> None:
    install("gitlab", tmp_path)

    assert install("gitlab", tmp_path) == [(Path(".gitlab-ci.yml"), False)]


def test_a_pipeline_of_ones_own_is_not_replaced_unasked(tmp_path: Path) -> None:
    own = tmp_path / "Jenkinsfile"
    own.write_text("pipeline { agent any }")

    with pytest.raises(AlreadyExistsError, match="another Jenkinsfile.*FORCE=1"):
        install("jenkins", tmp_path)
    assert own.read_text() == "pipeline { agent any }"

    install("jenkins", tmp_path, force=True)
    assert own.read_bytes() == (FOLDER / "jenkins" / "Jenkinsfile").read_bytes()


def test_command_tells_what_it_did_and_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["circleci", "--into", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert ".circleci/config.yml: written" in said
    assert "infra/ci/README.md" in said

    (tmp_path / ".circleci" / "config.yml").write_text("version: 2.1")
    assert main(["circleci", "--into", str(tmp_path)]) == 1
    assert "FORCE=1" in capsys.readouterr().err


def test_a_provider_that_is_none_is_refused_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["travis"])

    said = capsys.readouterr().err
    assert all(provider in said for provider in PLACES)
