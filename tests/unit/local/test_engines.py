"""Which engine runs, on what, and what a person is told when that cannot be."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import ConfigurationError, ServiceUnavailableError
from millrace_cli import cloud, docker, hosts
from millrace_cli.engines import ENGINES, LOCALSTACK, MINISTACK, Engine

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(cloud.TOOLS_VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def _fake_docker(path: Path, script: str) -> None:
    program = path / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def _record(project: Path, engine: Engine, **changes: object) -> None:
    folder = cloud.cloud_folder(project, engine)
    folder.mkdir(parents=True)
    known = {
        "pid": os.getpid(),
        "started": cloud._started(os.getpid()),
        "port": 4599,
        "endpoint": "http://127.0.0.1:4599",
    }
    (folder / "cloud.json").write_text(json.dumps(known | changes))


def test_each_engine_has_a_folder_of_its_own(project: Path) -> None:
    folders = {cloud.cloud_folder(project, engine) for engine in ENGINES.values()}

    assert len(folders) == len(ENGINES)
    assert cloud.cloud_folder(project) == cloud.cloud_folder(project, MINISTACK)


def test_a_record_from_before_there_were_two_engines_is_ministacks(project: Path) -> None:
    _record(project, MINISTACK)

    info = cloud.status(project)

    assert info is not None
    assert (info.engine, info.runtime) == (MINISTACK, "process")


def test_whichever_engine_runs_is_found(project: Path) -> None:
    _record(project, LOCALSTACK, runtime="docker", why="it was asked for")

    info = cloud.status(project)

    assert info is not None
    assert info.title == "LocalStack in Docker"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"engine": MINISTACK}, "LocalStack as a process already runs at .*4599, not MiniStack"),
        ({"runtime": "docker"}, "LocalStack as a process already runs"),
        ({"port": 4600}, "already runs on port 4599, not 4600"),
    ],
    ids=["engine", "runtime", "port"],
)
def test_only_one_engine_runs_at_a_time(project: Path, asked: dict[str, Any], told: str) -> None:
    _record(project, LOCALSTACK)

    with pytest.raises(ConfigurationError, match=f"{told}.*millrace local down"):
        cloud.up(project, **asked)


def test_one_that_runs_and_does_not_answer_is_told_of(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _record(project, LOCALSTACK)
    (cloud.cloud_folder(project, LOCALSTACK) / "cloud.log").write_text("the last words\n")
    monkeypatch.setattr(cloud, "healthy", lambda info: False)
    monkeypatch.setattr(cloud, "ANSWER_SECONDS", 0.1)

    with pytest.raises(ServiceUnavailableError, match=r"(?s)does not answer.*down.*last words"):
        cloud.up(project)


def test_an_engine_that_was_killed_is_told_of_until_it_is_forgotten(project: Path) -> None:
    _record(project, LOCALSTACK, started="long ago")

    assert cloud.status(project) is None
    assert cloud.killed(project) == LOCALSTACK

    cloud.forget_killed(project)

    assert cloud.killed(project) is None


def test_an_engine_that_runs_is_not_forgotten(project: Path) -> None:
    _record(project, LOCALSTACK)

    cloud.forget_killed(project)

    assert cloud.status(project) is not None


def test_the_log_is_the_one_of_the_last_start(project: Path) -> None:
    for engine, when in ((MINISTACK, 1), (LOCALSTACK, 2)):
        folder = cloud.cloud_folder(project, engine)
        folder.mkdir(parents=True)
        (folder / "cloud.log").write_text(f"{engine.name}\n")
        os.utime(folder / "cloud.log", (when, when))

    assert list(cloud.logs(project)) == ["localstack"]


def test_reset_without_a_running_engine_forgets_them_all(project: Path) -> None:
    for engine in ENGINES.values():
        cloud.cloud_folder(project, engine).mkdir(parents=True)

    assert cloud.reset(project) == list(ENGINES.values())
    assert not any(cloud.cloud_folder(project, engine).exists() for engine in ENGINES.values())
    assert cloud.reset(project) == []


def test_an_engine_that_keeps_nothing_starts_empty(project: Path) -> None:
    start = _start(project, LOCALSTACK)
    left = start.folder / "root" / "left"
    left.parent.mkdir(parents=True)
    left.touch()

    hosts.prepare_folder(start)

    assert not left.exists()
    assert left.parent.is_dir()


def test_an_engine_that_keeps_state_finds_it_again(project: Path) -> None:
    start = _start(project, MINISTACK)
    kept = start.folder / "state" / "kept"
    kept.parent.mkdir(parents=True)
    kept.touch()

    hosts.prepare_folder(start)

    assert kept.exists()


def _start(
    project: Path, engine: Engine, runtime: hosts.Runtime = "process", **changes: Path
) -> hosts.Start:
    return hosts.Start(
        project=project,
        folder=cloud.cloud_folder(project, engine),
        engine=engine,
        runtime=runtime,
        port=4599,
        wait_scale=0.1,
        **changes,
    )


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_the_engine_gets_nothing_of_the_persons_aws_settings(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "prod")
    monkeypatch.setenv(cloud.TOOLS_VARIABLE, str(PROJECT / ".tools"))
    monkeypatch.setattr(hosts, "_interpreter", lambda start, tool: Path("/python"))

    environment = hosts.environment(_start(PROJECT, engine))

    assert not [name for name in environment if name.startswith("AWS_")]
    assert "127.0.0.1" in environment.get("GATEWAY_LISTEN", environment.get("BIND_HOST", ""))


def test_all_that_localstack_writes_is_below_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_interpreter", lambda start, tool: Path("/python"))
    start = _start(PROJECT, LOCALSTACK)

    environment = hosts.environment(start)

    for name in ("FILESYSTEM_ROOT", "HOME", "TMPDIR", "MILLRACE_CLOUD_SCRATCH"):
        assert Path(environment[name]).is_relative_to(start.folder)
    assert environment["OVERRIDE_IN_DOCKER"] == "0"


def test_ministack_needs_no_docker() -> None:
    assert hosts.choose_runtime(MINISTACK, None)[0] == "process"
    with pytest.raises(ConfigurationError, match="MiniStack runs as a process only"):
        hosts.choose_runtime(MINISTACK, "docker")


def test_without_docker_localstack_is_a_process_and_says_why(path: Path) -> None:
    assert hosts.choose_runtime(LOCALSTACK, None) == ("process", "`docker` is not on PATH")


def test_docker_that_is_asked_for_and_absent_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"not on PATH; .*--runtime process"):
        hosts.choose_runtime(LOCALSTACK, "docker")


def test_a_docker_command_without_an_engine_is_no_docker(path: Path) -> None:
    said = "Cannot connect to the Docker daemon at unix:///run/it. Is the docker daemon running?"
    _fake_docker(path, f'echo "{said}" >&2; exit 1')

    runtime, why = hosts.choose_runtime(LOCALSTACK, None)

    assert runtime == "process"
    assert why == "no Docker engine answers: Cannot connect to the Docker daemon at unix:///run/it"


def test_docker_without_compose_is_no_docker(path: Path) -> None:
    _fake_docker(path, '[ "$1" = info ] || { echo "unknown command" >&2; exit 1; }')

    assert docker.why_not() == "Docker has no Compose plug-in: unknown command"


def test_docker_that_hangs_is_no_docker(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_docker(path, "exec /bin/sleep 60")
    monkeypatch.setattr(docker, "ANSWER_SECONDS", 0.2)

    assert "did not answer" in (docker.why_not() or "")


def test_a_docker_that_cannot_be_run_is_no_docker(path: Path) -> None:
    (path / "docker").write_bytes(b"\x7fELF is not enough")
    (path / "docker").chmod(0o755)

    assert "does not run" in (docker.why_not() or "")


def test_where_docker_answers_it_is_taken_unless_a_process_is_asked_for(path: Path) -> None:
    _fake_docker(path, "echo 27.0")

    assert hosts.choose_runtime(LOCALSTACK, None) == ("docker", "a Docker engine answers")
    assert hosts.choose_runtime(LOCALSTACK, "docker")[0] == "docker"
    assert hosts.choose_runtime(LOCALSTACK, "process")[0] == "process"


def test_the_container_gets_its_port_and_the_engines_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")

    environment = hosts.environment(_start(PROJECT, LOCALSTACK, "docker"))

    assert environment["MILLRACE_CLOUD_PORT"] == "4599"
    assert environment["MILLRACE_DOCKER_SOCKET"] == "/run/user/1000/docker.sock"
    assert environment["DOCKER_HOST"] == "unix:///run/user/1000/docker.sock"


def test_calls_of_functions_in_containers_cannot_be_recorded(tmp_path: Path) -> None:
    start = _start(PROJECT, LOCALSTACK, "docker", calls=tmp_path)

    with pytest.raises(ConfigurationError, match="--runtime process"):
        hosts.environment(start)
