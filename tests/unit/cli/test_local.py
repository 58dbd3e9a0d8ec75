"""`millrace local …` offline: what a person is told of the engines."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from millrace_cli import app as cli
from millrace_cli import cloud, deploy
from millrace_cli.app import app
from millrace_cli.engines import LOCALSTACK, MINISTACK, Engine
from millrace_cli.exits import ExitCode

runner = CliRunner()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the commands take for the checkout, whatever the developer's cloud does."""
    monkeypatch.setattr(cli, "project_root", lambda: tmp_path)
    monkeypatch.setattr(cloud, "healthy", lambda info, **_: True)
    return tmp_path


def _info(project: Path, engine: Engine, **changes: Any) -> cloud.CloudInfo:
    return cloud.CloudInfo(
        **{
            "pid": os.getpid(),
            "started": cloud._started(os.getpid()),
            "port": 4599,
            "endpoint": "http://127.0.0.1:4599",
            "folder": cloud.cloud_folder(project, engine),
            "engine": engine,
            "why": "`docker` is not on PATH",
        }
        | changes
    )


def _record(project: Path, engine: Engine, **changes: Any) -> None:
    info = _info(project, engine, **changes)
    info.folder.mkdir(parents=True)
    cloud._write_record(info)


def _json(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = runner.invoke(app, ["local", *arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_status_names_engine_and_runtime(project: Path) -> None:
    _record(project, LOCALSTACK)

    told = runner.invoke(app, ["local", "status"]).stdout
    code, found = _json("status")

    assert "LocalStack as a process (`docker` is not on PATH)" in " ".join(told.split())
    assert code == 0
    assert (found["engine"], found["runtime"]) == ("localstack", "process")
    assert found["answers"] is True


def test_status_of_the_default_engine_is_short(project: Path) -> None:
    _record(project, MINISTACK)

    told = runner.invoke(app, ["local", "status"]).stdout

    assert told.strip().endswith("MiniStack")


def test_a_cloud_that_does_not_answer_is_told_of(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "healthy", lambda info, **_: False)
    _record(project, LOCALSTACK)

    result = runner.invoke(app, ["local", "status"])

    assert result.exit_code == ExitCode.UNREACHABLE
    assert "does not answer" in result.stdout
    assert "millrace local down" in result.stdout


def test_down_says_what_became_of_the_state(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    for engine in (MINISTACK, LOCALSTACK):
        info = _info(project, engine)
        monkeypatch.setattr(cloud, "down", lambda _project, info=info: info)
        told[engine.name] = " ".join(runner.invoke(app, ["local", "down"]).stdout.split())

    assert told["ministack"] == "down, state kept"
    assert "LocalStack keeps no state: `millrace local up` deploys anew" in told["localstack"]


def test_down_without_a_cloud_says_so(project: Path) -> None:
    assert _json("down") == (0, {"stopped": False, "state_kept": False})


@pytest.mark.parametrize(
    ("engine", "told"),
    [(MINISTACK, "`millrace local reset` starts afresh"), (LOCALSTACK, "starts empty")],
    ids=["ministack", "localstack"],
)
def test_up_says_what_an_end_without_down_means(
    project: Path, engine: Engine, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _record(project, engine, started="long ago")
    monkeypatch.setattr(cloud, "up", lambda _project, **_: _info(project, engine))

    result = runner.invoke(app, ["local", "up", "--no-deploy"])

    assert told in " ".join(result.stdout.split())


def test_up_passes_engine_and_runtime_on_and_says_what_is_not_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def up(_project: Path, **wishes: Any) -> cloud.CloudInfo:
        asked.update(wishes)
        return _info(project, LOCALSTACK, runtime="docker", why="it was asked for")

    monkeypatch.setattr(cloud, "up", up)

    result = runner.invoke(
        app,
        ["local", "up", "--engine", "localstack", "--runtime", "docker", "--no-deploy"],
    )

    told = " ".join(result.stdout.split())
    assert asked == {"port": None, "engine": LOCALSTACK, "runtime": "docker"}
    assert "LocalStack in Docker (it was asked for)" in told
    assert "LocalStack keeps nothing over a stop" in told


def test_an_engine_that_nobody_knows_is_refused_with_those_there_are(project: Path) -> None:
    result = runner.invoke(app, ["local", "up", "--engine", "moto"])

    assert result.exit_code == 2
    assert "ministack" in result.output
    assert "localstack" in result.output


def test_reset_names_what_is_gone(project: Path) -> None:
    for engine in (MINISTACK, LOCALSTACK):
        cloud.cloud_folder(project, engine).mkdir(parents=True)

    assert _json("reset", "--yes") == (0, {"reset": True, "engines": ["ministack", "localstack"]})
    assert "there was nothing" in runner.invoke(app, ["local", "reset", "--yes"]).stdout


def test_a_parameter_with_a_space_reaches_sam_whole(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(deploy, "packed_template", lambda *_: project / "template.yaml")
    monkeypatch.setattr(deploy, "sam_executable", lambda _: Path("sam"))
    monkeypatch.setattr(deploy, "run_tool", lambda command, *_: commands.append(command))

    deploy.deploy_local(project, _info(project, MINISTACK), print, MonitorSchedule="rate(1 minute)")

    assert 'MonitorSchedule="rate(1 minute)"' in commands[0]
    assert 'Stage="local"' in commands[0]
