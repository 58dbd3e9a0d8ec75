"""`millrace export` and `millrace serve` offline: what they refuse, and how they say so."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from millrace.errors import ConfigurationError
from millrace.server.settings import ServerSettings
from millrace_cli import serve
from millrace_cli.app import app
from millrace_cli.bundles import example_rows
from millrace_cli.exits import ExitCode
from tests.fakes.bundles import bundled
from tests.fakes.onnx_models import churn_signature

runner = CliRunner()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """The settings of the servers that would have been started."""
    settings: list[ServerSettings] = []

    def execve(_path: str, command: list[str], environment: dict[str, str]) -> None:
        assert command[1:] == ["-m", "millrace.server"]
        settings.append(ServerSettings.from_environment(environment))

    monkeypatch.setattr("millrace_cli.serve.os.execve", execve)
    return settings


def test_serve_becomes_the_server_with_its_options(
    started: list[ServerSettings], tmp_path: Path
) -> None:
    bundle = bundled(tmp_path / "churn.bundle")
    keys = tmp_path / "keys.txt"
    keys.write_text("a-key-of-some-length\n")

    done = runner.invoke(
        app,
        [
            *("serve", str(bundle), "--workers", "3", "--port", "0", "--api-key-file", str(keys)),
            *("--capture", "off", "--refresh", "1.5", "--max-body-mb", "2"),
        ],
    )

    assert done.exit_code == 0, done.output
    (settings,) = started
    assert settings.bundles == (bundle,)
    assert (settings.workers, settings.port, settings.capture) == (3, 0, "off")
    assert (settings.refresh_seconds, settings.max_body_mb) == (1.5, 2)
    assert settings.api_key_file == keys
    assert "churn@1" in done.stderr
    assert "an API key is asked for" in done.stderr


def test_options_that_are_not_given_are_the_servers_own(
    started: list[ServerSettings], tmp_path: Path
) -> None:
    bundle = bundled(tmp_path / "churn.bundle")

    assert runner.invoke(app, ["serve", str(bundle)]).exit_code == 0

    assert started == [ServerSettings(bundles=(bundle,))]


@pytest.mark.parametrize(
    ("content", "said", "code"),
    [
        (None, "there is no file", ExitCode.NOT_FOUND),
        (b"no archive", "the archive is damaged or none", ExitCode.FAILED),
    ],
    ids=["absent", "damaged"],
)
def test_serve_refuses_what_is_no_bundle(
    started: list[ServerSettings], tmp_path: Path, content: bytes | None, said: str, code: int
) -> None:
    path = tmp_path / "churn.bundle"
    if content is not None:
        path.write_bytes(content)

    done = runner.invoke(app, ["serve", str(path)])

    assert done.exit_code == code
    assert said in done.stderr
    assert started == []


def test_missing_packages_are_named_with_what_installs_them() -> None:
    needed: dict[str, Any] = {"json": "json", "no_such_module_here": "no-such-package"}

    with pytest.raises(ConfigurationError, match="no-such-package.*millrace\\[serve\\]"):
        serve.require_packages(needed)
    serve.require_packages()


def test_export_refuses_an_unknown_kind() -> None:
    done = runner.invoke(app, ["export", "churn", "--to", "cloud"])

    assert done.exit_code == ExitCode.INVALID
    assert "expected bundle or edge, got 'cloud'" in done.stderr


def test_example_rows_fit_the_signature_they_are_made_of() -> None:
    usual, absent, unseen = example_rows(churn_signature())

    assert usual == {"age": 69, "plan": "basic", "tenure": 0.5, "active": True, "city": "usual"}
    assert absent == usual | {"plan": None, "tenure": None}
    assert unseen == usual | {"plan": "never seen before", "city": "never seen before"}
